// Receiver prints what is sent to multicast groups and can answer it. Its counterpart is the example sender.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/go-multicast/mcast"
	"github.com/go-multicast/mcast/internal/cli"
)

const ack = "ack"

const usage = `Receiver prints every message that is sent to a multicast group. With -answer it answers each with a unicast "ack".
Ctrl-C or SIGTERM ends it with a summary: for each group on each interface what it has read, and on Linux what the kernel
has dropped because the receive buffer was full. For example:

  receiver
  receiver -group 239.1.2.3,ff15::1234 -iface 192.168.0.0/16 -source 192.168.0.7

`

var (
	groups   = []netip.Addr{netip.AddrFrom4([4]byte{239, 1, 2, 3})}
	port     = flag.Uint("port", 12345, "UDP port to receive on")
	sources  []netip.Addr
	answer   = flag.Bool("answer", false, `answer each message with "ack", by unicast to the sender`)
	loopback = flag.Bool("loopback", true, "receive what this machine sends too; the sender must set it as well")
	iface    = flag.String("iface", "", "`interfaces` to receive on, separated by commas: name, index, address, prefix or pattern\n"+
		"(default all but the loopback interface, also those that appear later)")
)

func main() {
	flag.Func("group", "multicast `addresses` to receive, separated by commas (default 239.1.2.3)", cli.Addresses(&groups))
	flag.Func("source", "receive from these `addresses` only, separated by commas", cli.Addresses(&sources))
	cli.NoArguments(cli.Parse("receiver", usage))
	cli.CheckGroups("group", groups...)
	cli.CheckSources(sources, groups)
	cli.Check(*port >= 1 && *port <= 65535, "port", "1 to 65535")
	cli.Run(run)
}

// run receives until ctx ends.
func run(ctx context.Context) error {
	config := mcast.RxConfig{Groups: groups, Port: uint16(*port), Sources: sources, Loopback: *loopback}
	config.Timestamps, config.HopLimits = true, true
	config.Logger = slog.Default() // reports interfaces that come and go
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
			fmt.Printf("receiving %s port %d on %s\n", j.Group, *port, j.Interface)
		} else {
			fmt.Fprintln(os.Stderr, "receiver:", j.Err) // another membership works, or OpenRx would have failed
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
		if at.IsZero() { // as on Windows
			at = time.Now()
		}
		fmt.Printf("%s %s to %s on %s, TTL %d, %d bytes: %.200q\n",
			at.Format("15:04:05.000"), m.Addr, m.Group, names[m.IfIndex], m.HopLimit, m.N, m.Buf[:m.N])
		if *answer {
			reply(rx, m)
		}
	}
	for _, j := range rx.Memberships() {
		fmt.Printf("%s on %s: %d packets, %d bytes, %d dropped\n", j.Group, j.Interface, j.Packets, j.Bytes, j.Dropped)
	}
	return nil
}

// reply answers a message. Each gets one small answer, so that nobody can multiply traffic with this program. Another
// answer gets none, and neither does a source that is not the address of one host.
func reply(rx *mcast.RxSocket, m *mcast.Message) {
	source := m.Addr.Addr()
	if string(m.Buf[:m.N]) == ack || source.IsMulticast() || source.IsUnspecified() || m.Addr.Port() == 0 {
		return
	}
	if _, err := rx.WriteToUDPAddrPort([]byte(ack), m.Addr); err != nil {
		fmt.Fprintln(os.Stderr, "receiver:", err) // other senders may be in reach
	}
}
