// Communicator lets the machines of a network talk: each sends lines to multicast groups and prints those that arrive.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/go-multicast/mcast"
	"github.com/go-multicast/mcast/internal/cli"
)

const usage = `Communicator sends a line to an IPv4 and an IPv6 multicast group once a round, and prints all that they receive. Run
it on several machines of a network, or in several windows of one, and they see each other. For example:

  communicator
  communicator -group ff15::1234 -iface 192.168.0.0/16 -n 5

`

var (
	groups   = []netip.Addr{netip.MustParseAddr("239.1.2.3"), netip.MustParseAddr("ff15::1234")}
	group    netip.Addr // of -group, instead of groups
	port     = flag.Uint("port", 12345, "UDP port")
	ttl      = flag.Int("ttl", mcast.TTLSubnet, "how many `links` a line may cross; -1 keeps it on this machine")
	rounds   = flag.Int("n", 0, "how many `rounds` to run; 0 goes on until Ctrl-C")
	interval = flag.Duration("interval", time.Second, "length of a round")
	iface    = flag.String("iface", "", "`interfaces` to talk on, separated by commas: name, index, address, prefix or pattern\n"+
		"(default that of the default route, or the loopback interface if there is none)")
)

func main() {
	flag.TextVar(&group, "group", group, "multicast `address` to talk on (default 239.1.2.3 and ff15::1234, or the one that is routable)")
	cli.NoArguments(cli.Parse("communicator", usage))
	if group.IsValid() {
		groups = []netip.Addr{group}
	}
	cli.CheckGroups("group", groups...)
	cli.Check(*port >= 1 && *port <= 65535, "port", "1 to 65535")
	cli.Check(*ttl == mcast.TTLHost || *ttl >= 1 && *ttl <= 255, "ttl", "1 to 255, or -1")
	cli.Check(*rounds >= 0, "n", "0 or more")
	cli.Check(*interval > 0, "interval", "a time above 0")
	cli.Run(run)
}

// run talks until the rounds are over or ctx ends.
func run(ctx context.Context) error {
	ifaces, err := choose()
	if err != nil {
		return err
	}
	if !group.IsValid() {
		groups = usable(ifaces)
	}
	rx, err := mcast.OpenRx(mcast.RxConfig{Groups: groups, Port: uint16(*port), Interfaces: ifaces, Loopback: true})
	if err != nil {
		return err
	}
	defer rx.Close()
	tx, err := mcast.OpenTx(mcast.TxConfig{Groups: groups, Interfaces: ifaces, TTL: *ttl, Loopback: true})
	if err != nil {
		return err
	}
	defer tx.Close()
	host, _ := os.Hostname()
	me := fmt.Sprintf("%s, process %d", host, os.Getpid())
	for _, ifc := range tx.Interfaces() {
		fmt.Printf("%s, talks to %v port %d on %s; Ctrl-C ends\n", me, groups, *port, ifc.Name)
	}
	for round := 1; ctx.Err() == nil; round++ {
		line, missing := fmt.Sprintf("%s, round %d", me, round), 0 // missing counts lines that have not come back
		for _, group := range groups {
			if _, err := tx.WriteToUDPAddrPort([]byte(line), netip.AddrPortFrom(group, uint16(*port))); err != nil {
				fmt.Fprintln(os.Stderr, "communicator:", err) // the other family may work, and this one later
				continue
			}
			missing += len(ifaces)
		}
		wait, last := *interval, round == *rounds
		if last {
			wait = 5 * time.Second // at most: until the line has come back from each group on each interface
		}
		rx.SetReadDeadline(time.Now().Add(wait))
		for m, err := range rx.Messages(ctx) {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break // time for the next round
			} else if err != nil {
				return err
			}
			fmt.Printf("%s %s to %s: %q\n", time.Now().Format("15:04:05.000"), m.Addr, m.Group, m.Buf[:m.N])
			if last && string(m.Buf[:m.N]) == line {
				if missing--; missing == 0 {
					return nil
				}
			}
		}
		if last && ctx.Err() == nil {
			return errors.New("the last line did not come back from each group: does a firewall drop it, or is the interface down?")
		}
	}
	return nil
}

// choose returns the interfaces that the user named, or else that of the default route, or else the loopback interface.
func choose() ([]mcast.Interface, error) {
	if *iface != "" {
		return mcast.FindInterfaces(strings.Split(*iface, ",")...)
	}
	for _, group := range groups {
		network := "ip4"
		if group.Is6() {
			network = "ip6"
		}
		ifc, err := mcast.DefaultInterface(network)
		if err == nil && ifc.Flags&net.FlagMulticast != 0 {
			return []mcast.Interface{ifc}, nil
		} else if err != nil && !errors.Is(err, mcast.ErrNoInterface) {
			return nil, err
		}
	}
	fmt.Println("No default route leads to an interface that supports multicast, so this stays on the machine (see -iface)")
	return mcast.FindInterfaces("127.0.0.1")
}

// usable returns the groups whose family has a routable address on every interface, or else the IPv4 group.
func usable(ifaces []mcast.Interface) []netip.Addr {
	v4, v6 := true, true
	routable := func(p netip.Prefix) bool { return p.Addr().IsGlobalUnicast() }
	for _, ifc := range ifaces {
		v4 = v4 && slices.ContainsFunc(ifc.IPv4, routable)
		v6 = v6 && slices.ContainsFunc(ifc.IPv6, routable)
	}
	switch {
	case !v6:
		fmt.Println("IPv4 alone: the interface has no routable IPv6 address")
		return groups[:1]
	case !v4:
		fmt.Println("IPv6 alone: the interface has no routable IPv4 address")
		return groups[1:]
	}
	return groups
}
