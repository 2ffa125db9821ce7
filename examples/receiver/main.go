// Receiver prints what is sent to multicast groups, and answers each message. Its counterpart is the example sender.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/go-multicast/mcast"
)

const ack = "ack"

const usage = `Receiver prints every message to a multicast group, and answers it with a unicast "ack".
Ctrl-C ends it, with what it counted; what was dropped, Linux alone can tell. For example:

  receiver
  receiver -group 239.1.2.3,ff15::1234 -iface 192.168.0.0/16 -source 192.168.0.7

`

var (
	groups  = []netip.Addr{netip.AddrFrom4([4]byte{239, 1, 2, 3})}
	port    = flag.Uint("port", 12345, "UDP port to receive on")
	sources []netip.Addr
	iface   = flag.String("iface", "", "`interfaces` to receive by, separated by commas: name, index, address, prefix or pattern\n"+
		"(default all but the loopback, also those that appear later)")
)

func main() {
	flag.Func("group", "multicast `addresses` to receive, separated by commas (default 239.1.2.3)", addresses(&groups))
	flag.Func("source", "receive from these `addresses` only, separated by commas", addresses(&sources))
	flag.Usage = func() { fmt.Fprint(os.Stderr, usage); flag.PrintDefaults() }
	flag.Parse()
	if flag.NArg() > 0 || *port < 1 || *port > 65535 {
		flag.Usage()
		fmt.Fprintln(os.Stderr, "\nreceiver: want a port from 1 to 65535, and flags only")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "receiver:", err)
		os.Exit(1)
	}
}

// addresses returns a function that reads a flag's value into list.
func addresses(list *[]netip.Addr) func(string) error {
	return func(value string) error {
		*list = nil
		for text := range strings.SplitSeq(value, ",") {
			addr, err := netip.ParseAddr(text)
			if err != nil {
				return err
			}
			*list = append(*list, addr)
		}
		return nil
	}
}

// run receives and answers until ctx ends.
func run(ctx context.Context) error {
	config := mcast.RxConfig{Groups: groups, Port: uint16(*port), Sources: sources, Timestamps: true, HopLimits: true}
	config.Loopback = true         // what this machine sends, too
	config.Logger = slog.Default() // tells of interfaces that come and go
	if *iface != "" {
		var err error
		if config.Interfaces, err = mcast.FindInterfaces(strings.Split(*iface, ",")...); err != nil {
			return err
		}
	}
	rx, err := mcast.OpenRx(config)
	if err != nil {
		return err
	}
	defer rx.Close()
	for _, j := range rx.Memberships() {
		if j.Joined {
			fmt.Printf("listening to %s port %d by %s\n", j.Group, *port, j.Interface)
		} else {
			fmt.Fprintln(os.Stderr, "receiver:", j.Err) // where no pair of group and interface works, OpenRx has failed
		}
	}

	names := make(map[int]string) // of the interfaces, by index
	for m, err := range rx.Messages(ctx) {
		if err != nil {
			return err
		}
		if names[m.IfIndex] == "" {
			for _, j := range rx.Memberships() {
				names[j.IfIndex] = j.Interface
			}
		}
		at := m.Time
		if at.IsZero() { // Windows does not tell
			at = time.Now()
		}
		text, source := string(m.Buf[:m.N]), m.Addr.Addr()
		fmt.Printf("%s %s to %s by %s, TTL %d, %d bytes: %.200q\n",
			at.Format("15:04:05.000"), m.Addr, m.Group, names[m.IfIndex], m.HopLimit, m.N, text)

		// One small answer to each message, so that nobody multiplies traffic with the help of this program; none to
		// another answer, nor to what is not the address of one host.
		if text == ack || source.IsMulticast() || source.IsUnspecified() || m.Addr.Port() == 0 {
			continue
		}
		if _, err := rx.WriteToUDPAddrPort([]byte(ack), m.Addr); err != nil {
			fmt.Fprintln(os.Stderr, "receiver:", err) // and go on: others may be in reach
		}
	}
	for _, j := range rx.Memberships() {
		fmt.Printf("%s by %s: %d messages, %d bytes, %d dropped\n", j.Group, j.Interface, j.Packets, j.Bytes, j.Dropped)
	}
	return nil
}
