// Communicator lets the machines of a network talk: each sends lines to a multicast group, and prints all that arrive.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/go-multicast/mcast"
)

const usage = `Communicator sends a line to a multicast group once a round, and prints all that the group receives.
Run it on several machines of a network, or in several windows of one, and they see each other. For example:

  communicator
  communicator -group ff15::1234 -iface 192.168.0.0/16 -n 5

`

var (
	group    = netip.AddrFrom4([4]byte{239, 1, 2, 3})
	port     = flag.Uint("port", 12345, "UDP port")
	ttl      = flag.Int("ttl", mcast.TTLSubnet, "how many `links` a line may cross; -1 keeps it on this machine")
	rounds   = flag.Int("n", 0, "how many `rounds` to run; 0 goes on until Ctrl-C")
	interval = flag.Duration("interval", time.Second, "length of a round")
	iface    = flag.String("iface", "", "`interfaces` to talk by, separated by commas: name, index, address, prefix or pattern\n"+
		"(default that of the default route, or the loopback if there is none)")
)

func main() {
	flag.TextVar(&group, "group", group, "multicast `address` to talk on, IPv4 or IPv6")
	flag.Usage = func() { fmt.Fprint(os.Stderr, usage); flag.PrintDefaults() }
	flag.Parse()
	if flag.NArg() > 0 || *port < 1 || *port > 65535 || *rounds < 0 || *interval <= 0 {
		flag.Usage()
		fmt.Fprintln(os.Stderr, "\ncommunicator: want a port from 1 to 65535, rounds from 0, an interval above 0, flags only")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "communicator:", err)
		os.Exit(1)
	}
}

// run talks until the rounds are over or ctx is.
func run(ctx context.Context) error {
	ifaces, err := choose()
	if err != nil {
		return err
	}
	to := netip.AddrPortFrom(group, uint16(*port))
	rx, err := mcast.OpenRx(mcast.RxConfig{Groups: []netip.Addr{group}, Port: to.Port(), Interfaces: ifaces, Loopback: true})
	if err != nil {
		return err
	}
	defer rx.Close()
	tx, err := mcast.OpenTx(mcast.TxConfig{Groups: []netip.Addr{group}, Interfaces: ifaces, TTL: *ttl, Loopback: true})
	if err != nil {
		return err
	}
	defer tx.Close()

	host, _ := os.Hostname()
	me := fmt.Sprintf("%s, process %d", host, os.Getpid())
	for _, ifc := range tx.Interfaces() {
		fmt.Printf("%s, talks to %s by %s; Ctrl-C ends\n", me, to, ifc.Name)
	}
	for round := 1; ctx.Err() == nil; round++ {
		line := fmt.Sprintf("%s, round %d", me, round)
		if _, err := tx.WriteToUDPAddrPort([]byte(line), to); err != nil {
			return err
		}
		wait, last, missing := *interval, round == *rounds, len(ifaces)
		if last {
			wait = 5 * time.Second // at most: until the line has come back by every interface
		}
		rx.SetReadDeadline(time.Now().Add(wait))
		for m, err := range rx.Messages(ctx) {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break // time for the next round
			} else if err != nil {
				return err
			}
			fmt.Printf("%s %s: %q\n", time.Now().Format("15:04:05.000"), m.Addr, m.Buf[:m.N])
			if last && string(m.Buf[:m.N]) == line {
				if missing--; missing == 0 {
					return nil
				}
			}
		}
		if last && ctx.Err() == nil {
			return errors.New("the last line did not come back: did a firewall stop it, or the interface go down?")
		}
	}
	return nil
}

// choose returns the interfaces that the user named: without a name, that of the default route, or else the loopback.
func choose() ([]mcast.Interface, error) {
	if *iface != "" {
		return mcast.FindInterfaces(strings.Split(*iface, ",")...)
	}
	network, loopback := "ip4", "127.0.0.1"
	if group.Is6() {
		network, loopback = "ip6", "::1"
	}
	ifc, err := mcast.DefaultInterface(network)
	if err == nil && ifc.Flags&net.FlagMulticast != 0 {
		return []mcast.Interface{ifc}, nil
	}
	if err != nil && !errors.Is(err, mcast.ErrNoInterface) {
		return nil, err
	}
	fmt.Println("No default route leads by an interface that can multicast, so this stays on the machine: -iface names another.")
	return mcast.FindInterfaces(loopback)
}
