// Ifaces shows the network interfaces as a multicast programmer sees them, and what changes about them.
package main

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/go-multicast/mcast"
	"github.com/go-multicast/mcast/internal/cli"
)

const usage = `Ifaces shows the network interfaces, or those that its arguments name: by name, by index, by an address,
by a prefix, by a pattern, or as the default. For example:

  ifaces
  ifaces -watch default 192.168.0.0/16 127.0.0.1

`

func main() {
	watch := flag.Bool("watch", false, "go on and print what changes, until Ctrl-C")
	specs := cli.Parse("ifaces", usage)
	if len(specs) == 0 {
		specs = []string{"*"}
	}
	cli.Run(func(ctx context.Context) error { return run(ctx, *watch, specs) })
}

// run prints the table and, if that is wanted, the changes until ctx ends.
func run(ctx context.Context, watch bool, specs []string) error {
	list, err := mcast.FindInterfaces(specs...)
	if err != nil {
		return err
	}
	before := describe(list)
	table(before)
	if !watch {
		return nil
	}
	for all, err := range mcast.WatchInterfaces(ctx) {
		if err != nil {
			return err
		}
		now := make(map[int][]string)
		for _, spec := range specs {
			list, _ := mcast.SelectInterfaces(all, spec) // an error says that there is none at present
			maps.Copy(now, describe(list))
		}
		report(before, now)
		before = now
	}
	return nil
}

var columns = []string{"NAME", "FLAGS", "MTU", "MAC", "DEFAULT", "ADDRESSES"}

// describe returns the columns of the interfaces by index.
func describe(list []mcast.Interface) map[int][]string {
	defaults := make(map[int]string)
	for _, network := range []string{"ip4", "ip6"} {
		if ifc, err := mcast.DefaultInterface(network); err == nil { // else there is none
			defaults[ifc.Index] += network + " "
		}
	}
	rows := make(map[int][]string)
	for _, ifc := range list {
		name := ifc.Name
		if ifc.FriendlyName != "" && ifc.FriendlyName != name {
			name += " " + ifc.FriendlyName
		}
		addresses := strings.Trim(fmt.Sprint(slices.Concat(ifc.IPv4, ifc.IPv6)), "[]")
		rows[ifc.Index] = []string{name, ifc.Flags.String(), strconv.Itoa(ifc.MTU), ifc.HardwareAddr.String(),
			strings.TrimSpace(defaults[ifc.Index]), strings.ReplaceAll(addresses, " ", ", ")}
	}
	return rows
}

// table prints the interfaces, with their addresses one below the other.
func table(rows map[int][]string) {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	defer w.Flush()
	fmt.Fprintln(w, "INDEX\t"+strings.Join(columns, "\t"))
	for _, index := range slices.Sorted(maps.Keys(rows)) {
		fmt.Fprintf(w, "%d\t%s\n", index, strings.ReplaceAll(strings.Join(rows[index], "\t"), ", ", "\n\t\t\t\t\t\t"))
	}
}

// report prints what differs between two states.
func report(before, now map[int][]string) {
	either := maps.Clone(before)
	maps.Copy(either, now)
	for _, index := range slices.Sorted(maps.Keys(either)) {
		at, was, is := time.Now().Format("15:04:05.000"), before[index], now[index]
		switch {
		case was == nil:
			fmt.Println(at, "added", index, strings.Join(is, " "))
		case is == nil:
			fmt.Println(at, "gone", index, was[0])
		default:
			for i, column := range columns {
				if was[i] != is[i] {
					fmt.Printf("%s changed %d %s: %s %q, was %q\n", at, index, is[0], column, is[i], was[i])
				}
			}
		}
	}
}
