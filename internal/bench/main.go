//go:build linux

// Bench compares this library with package net, with golang.org/x/net and with C, on the same work.
//
//	go run . [flags]
//
// What is compared takes turns in one process, and the figures are ratios: the median of many, with their quartiles.
// They say how this library does, whatever the machine; the costs beside them say little elsewhere. All traffic is
// on a loopback interface and a veth pair in network namespaces of the program's own. It takes the program ip, and
// either root or a system that gives namespaces to every user.
//
//	go run . -run send                  rows whose scenario has "send" in its name; -list shows all
//	go run . -md                        the rows as a Markdown table
//	go run . -svg scaling.svg           the cost of a datagram from 1 to 4000 pairs, drawn
//	go run -tags mcast_portable . -run merge     the library with the merge of macOS and Windows
//
// Without cgo the comparisons with C are left out.
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"regexp"
	"runtime/pprof"
	"slices"
	"time"
)

// options are what the flags say.
type options struct {
	run, on    *regexp.Regexp
	list, md   bool
	svg        string
	quick      bool
	row        time.Duration
	cpuProfile string
}

func main() {
	o, err := parse(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(2)
	}
	if o.list {
		list(os.Stdout, o.rows())
		return
	}
	code, inside, err := enter()
	if inside {
		err = o.measure(os.Stdout)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		code = 1
	}
	os.Exit(code)
}

func parse(args []string) (*options, error) {
	o := &options{}
	flags := flag.NewFlagSet("bench", flag.ExitOnError)
	run := flags.String("run", "", "only rows whose scenario matches this `expression`")
	on := flags.String("net", "", "only rows on a network, lo or veth, that matches this `expression`")
	flags.BoolVar(&o.list, "list", false, "show what there is to measure")
	flags.BoolVar(&o.md, "md", false, "print a Markdown table")
	flags.StringVar(&o.svg, "svg", "", "draw how the cost of a datagram grows with the pairs into this `file`, and measure nothing else")
	flags.BoolVar(&o.quick, "quick", false, "measure hardly anything, to see that all works")
	flags.DurationVar(&o.row, "time", full.row, "how long to measure each row")
	flags.StringVar(&o.cpuProfile, "cpuprofile", "", "write a profile of the processor time to this `file`")
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	if flags.NArg() > 0 {
		return nil, fmt.Errorf("what is %q?", flags.Args())
	}
	var err error
	if o.run, err = regexp.Compile(*run); err != nil {
		return nil, err
	}
	o.on, err = regexp.Compile(*on)
	return o, err
}

func (o *options) effort() effort {
	if o.quick {
		return quick
	}
	e := full
	e.row = o.row
	return e
}

// rows are those that the flags have not ruled out.
func (o *options) rows() []row {
	return slices.DeleteFunc(allRows(), func(r row) bool { return !o.run.MatchString(r.scenario) || !o.on.MatchString(r.on) })
}

func allRows() []row {
	merged := slices.Concat(latencyRows("lo"), mergeRows("lo"), lifeRows("lo"), latencyRows("veth"))
	if !timedReads {
		return merged
	}
	return slices.Concat(
		receiveRows("lo"), coalesceRows("lo"), sendRows("lo"), merged,
		receiveRows("veth"), coalesceRows("veth"), sendRows("veth"),
	)
}

// measure does what the flags say, and writes what came of it to out.
func (o *options) measure(out io.Writer) error {
	l, err := newLab()
	if err != nil {
		return err
	}
	if o.cpuProfile != "" {
		file, err := os.Create(o.cpuProfile)
		if err != nil {
			return err
		}
		defer file.Close()
		if err := pprof.StartCPUProfile(file); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	if o.svg != "" {
		return o.draw(l, out)
	}
	rows := o.rows()
	var results []*result
	var table *textTable
	if !o.md {
		fmt.Fprintln(out, machine())
		table = newTextTable(out, rows)
	}
	for _, r := range rows {
		res, err := measure(l, r, o.effort())
		if err != nil {
			return err
		}
		results = append(results, res)
		if table != nil {
			table.add(res)
		}
	}
	if o.md {
		return markdown(out, machine(), results)
	}
	return nil
}
