// Doctor says why nothing arrives: what is wrong with the groups, the interfaces and the system, and what cures it.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/go-multicast/mcast"
	"github.com/go-multicast/mcast/doctor"
	"github.com/go-multicast/mcast/internal/cli"
)

const usage = `Doctor says why multicast does not arrive on this machine. Run it while the program that should receive is
running, and while somebody is sending. It joins the groups for as long as it watches, and changes nothing. What is
wrong comes first, each with what cures it. It exits with 1 if something is wrong. For example:

  doctor -group 239.1.2.3 -port 12345
  doctor -group 232.1.2.3,ff35::1234 -port 12345 -iface eth0 -source 192.168.0.7,2001:db8::7 -watch 30s

`

var (
	groups  = []netip.Addr{netip.AddrFrom4([4]byte{239, 1, 2, 3})}
	port    = flag.Uint("port", 12345, "UDP port that should receive")
	sources []netip.Addr
	iface   = flag.String("iface", "", "`interfaces` that it should come in by, separated by commas: name, index, address, prefix or\n"+
		"pattern (default all that can, but the loopback)")
	watch   = flag.Duration("watch", 5*time.Second, "how long to watch")
	send    = flag.Bool("send", false, "send a datagram to each group, which does not leave the machine, and see whether it comes back:\nreceivers on this machine get it, too")
	buffer  = flag.Int("buffer", 0, "receive buffer, in `bytes`, that the program asks for")
	machine = flag.Bool("json", false, "print the report as JSON")
)

func main() {
	flag.Func("group", "multicast `addresses` that should arrive, separated by commas (default 239.1.2.3)", cli.Addresses(&groups))
	flag.Func("source", "`addresses` that they should come from, separated by commas, if that is known", cli.Addresses(&sources))
	cli.NoArguments(cli.Parse("doctor", usage))
	cli.CheckGroups("group", groups...)
	cli.CheckSources(sources, groups)
	cli.Check(*port >= 1 && *port <= 65535, "port", "1 to 65535")
	cli.Check(*watch > 0, "watch", "a time above 0")
	cli.Check(*buffer >= 0, "buffer", "0 or more")
	report, err := run(cli.Interrupt()) // which ends the watch, not the report
	if err != nil {
		fmt.Fprintln(os.Stderr, "doctor:", err)
		os.Exit(1)
	}
	if *machine {
		encoder := json.NewEncoder(os.Stdout)
		encoder.SetEscapeHTML(false)
		encoder.SetIndent("", "  ")
		encoder.Encode(report)
	} else {
		show(report)
	}
	if report.Worst() > doctor.Info {
		os.Exit(1)
	}
}

func run(ctx context.Context) (*doctor.Report, error) {
	cfg := doctor.Config{Groups: groups, Port: uint16(*port), Sources: sources, ReadBuffer: *buffer, Watch: *watch, SendTest: *send}
	if *iface != "" {
		var err error
		if cfg.Interfaces, err = mcast.FindInterfaces(strings.Split(*iface, ",")...); err != nil {
			return nil, err
		}
	}
	if !*machine {
		fmt.Printf("looking, and watching for %v …\n\n", *watch)
	}
	return doctor.Run(ctx, cfg)
}

// show prints the report for somebody who is tired: what is wrong, where, and what to do, the worst first.
func show(report *doctor.Report) {
	const margin = "           "
	for _, f := range report.Findings {
		about := f.Code
		if f.Group.IsValid() {
			about += ", group " + f.Group.String()
		}
		if f.Interface != "" {
			about += ", " + f.Interface
		}
		fmt.Printf("%-*s%s: %s\n", len(margin), strings.ToUpper(f.Severity.String()), about, f.Summary)
		fmt.Println(wrap("why      ", f.Detail, margin))
		if f.Fix != "" {
			fmt.Printf("%scure     %s\n", margin, f.Fix) // in one line, to be copied
		}
		fmt.Println()
	}
	for _, t := range report.Facts.Traffic {
		from := strings.Trim(fmt.Sprint(t.Sources), "[]")
		fmt.Printf("%-*s%s by %s, in %s: %d datagrams from %s\n", len(margin), "RECEIVED",
			t.Group, t.Interface, report.Facts.Watched, t.Datagrams, cmp.Or(from, "nobody"))
	}
	for _, what := range report.Facts.NotVisible {
		fmt.Printf("%-*s%s\n", len(margin), "NOT SEEN", what)
	}
	verdict := map[doctor.Severity]string{
		doctor.Info:    "Nothing is wrong on this machine.",
		doctor.Warning: "Something looks wrong: see the warnings above.",
		doctor.Error:   "Something is wrong: cure the errors above, from the top, and run this once more.",
	}
	fmt.Printf("\n%s\n", verdict[report.Worst()])
}

// wrap breaks a text into lines of a readable length, with a heading before the first.
func wrap(heading, text, margin string) string {
	const width = 110
	lines := []string{margin + heading}
	for word := range strings.FieldsSeq(text) {
		last := &lines[len(lines)-1]
		if len(*last)+len(word) >= width {
			lines = append(lines, margin+strings.Repeat(" ", len(heading)))
			last = &lines[len(lines)-1]
		}
		if !strings.HasSuffix(*last, " ") {
			*last += " "
		}
		*last += word
	}
	return strings.Join(lines, "\n")
}
