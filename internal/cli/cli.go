// Package cli holds what the programs share that is not about multicast: command lines and signals.
package cli

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
)

// Parse parses the command line and returns the arguments of the program. Flags may follow arguments; "--" ends them.
// A wrong flag ends the program as Fail does. The flag -h prints the usage to standard error and exits with status 0.
func Parse(program, usage string) (args []string) {
	flags := flag.CommandLine
	flags.Init(program, flag.ContinueOnError)
	flags.SetOutput(io.Discard) // of the error, which package flag prints above the usage
	flags.Usage = func() {
		flags.SetOutput(os.Stderr)
		fmt.Fprint(os.Stderr, usage)
		flags.PrintDefaults()
	}
	for rest := os.Args[1:]; ; rest = flags.Args()[1:] {
		err := flags.Parse(rest)
		if errors.Is(err, flag.ErrHelp) {
			os.Exit(0)
		}
		if err != nil {
			exit(err)
		}
		parsed := len(rest) - flags.NArg()
		if flags.NArg() == 0 || parsed > 0 && rest[parsed-1] == "--" {
			return append(args, flags.Args()...)
		}
		args = append(args, flags.Arg(0))
	}
}

// Check ends the program as Fail does, with the name and the value of a flag and what is wanted, unless that is ok.
func Check(ok bool, name, want string) {
	if !ok {
		Fail("invalid value %q for flag -%s: want %s", flag.Lookup(name).Value, name, want)
	}
}

// CheckGroups ends the program as Fail does unless all values of a flag are multicast addresses.
func CheckGroups(name string, groups ...netip.Addr) {
	for _, group := range groups {
		if !group.IsMulticast() || group.Zone() != "" {
			Fail("invalid value %q for flag -%s: want a multicast address without a zone: 224.0.0.0/4 or ff00::/8", group, name)
		}
	}
}

// CheckSources ends the program as Fail does unless all values of the flag -source are addresses that datagrams to groups
// can come from.
func CheckSources(sources, groups []netip.Addr) {
	for _, source := range sources {
		ofFamily := func(group netip.Addr) bool { return group.Is4() == source.Is4() }
		if source.IsMulticast() || source.IsUnspecified() || source.Zone() != "" || !slices.ContainsFunc(groups, ofFamily) {
			Fail("invalid value %q for flag -source: want a host's address without a zone, of the family of a group", source)
		}
	}
}

// NoArguments ends the program as Fail does if there are arguments.
func NoArguments(args []string) {
	if len(args) > 0 {
		Fail("unexpected argument %q: want flags only", args[0])
	}
}

// Fail prints the usage and then the error, both to standard error, and ends the program with exit status 2.
func Fail(format string, args ...any) {
	flag.CommandLine.Usage()
	exit(fmt.Errorf(format, args...))
}

func exit(err error) {
	fmt.Fprintf(os.Stderr, "\n%s: %v\n", flag.CommandLine.Name(), err)
	os.Exit(2)
}

// Addresses returns a function for flag.Func that parses addresses, separated by commas, into list.
func Addresses(list *[]netip.Addr) func(string) error {
	return func(value string) error {
		*list = nil
		for text := range strings.SplitSeq(value, ",") {
			addr, err := netip.ParseAddr(text)
			if err != nil {
				return err
			}
			*list = append(*list, addr.Unmap())
		}
		return nil
	}
}

// Run calls run with the context of Interrupt. If it fails, Run prints the error and ends the program with exit status 1.
func Run(run func(context.Context) error) {
	if err := run(Interrupt()); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", flag.CommandLine.Name(), err)
		os.Exit(1)
	}
}

// Interrupt returns a context that ends with SIGINT (Ctrl-C) or SIGTERM. A second signal ends the program at once.
func Interrupt() context.Context {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	return ctx
}
