// Sender sends one message to a multicast group and prints who answers. Its counterpart is the example receiver.
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

const usage = `Sender sends one message to a multicast group, and prints each answer that comes back by unicast.
It ends when none came for a while, when there were enough, or when it has waited ten times as long, since anybody can
answer for ever. The exit code is 1 if there was none at all. For example:

  sender hello
  sender -group ff15::1234 -iface 192.168.0.0/16 -ttl 4 -wait 5s "hello, everybody"

`

var (
	group = netip.AddrFrom4([4]byte{239, 1, 2, 3})
	port  = flag.Uint("port", 12345, "UDP port to send to")
	ttl   = flag.Int("ttl", mcast.TTLSubnet, "how many `links` the message may cross; -1 keeps it on this machine")
	wait  = flag.Duration("wait", 2*time.Second, "how long to wait for one more answer")
	most  = flag.Int("answers", 1000, "how many `answers` are enough")
	iface = flag.String("iface", "", "`interfaces` to send by, separated by commas: name, index, address, prefix or pattern\n"+
		"(default that of the default route)")
)

func main() {
	flag.TextVar(&group, "group", group, "multicast `address` to send to, IPv4 or IPv6")
	flag.Usage = func() { fmt.Fprint(os.Stderr, usage); flag.PrintDefaults() }
	flag.Parse()
	if flag.NArg() == 0 || *port < 1 || *port > 65535 || *wait <= 0 || *most < 1 {
		flag.Usage()
		fmt.Fprintln(os.Stderr, "\nsender: want a message, a port from 1 to 65535, and a wait and answers above 0")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, strings.Join(flag.Args(), " ")); err != nil {
		fmt.Fprintln(os.Stderr, "sender:", err)
		os.Exit(1)
	}
}

// run sends the message and waits for answers until none come any more, there are enough, or ctx ends.
func run(ctx context.Context, message string) error {
	// Loopback, so that receivers on this machine have the message as well.
	config := mcast.TxConfig{Groups: []netip.Addr{group}, TTL: *ttl, Loopback: true}
	if *iface != "" {
		var err error
		if config.Interfaces, err = mcast.FindInterfaces(strings.Split(*iface, ",")...); err != nil {
			return err
		}
	}
	tx, err := mcast.OpenTx(config)
	if err != nil {
		return err
	}
	defer tx.Close()

	to := netip.AddrPortFrom(group, uint16(*port))
	sent := time.Now()
	if _, err := tx.WriteToUDPAddrPort([]byte(message), to); err != nil {
		return err
	}
	for _, ifc := range tx.Interfaces() {
		fmt.Printf("sent %d bytes to %s by %s\n", len(message), to, ifc.Name)
	}

	context.AfterFunc(ctx, func() { tx.Close() }) // so that Ctrl-C ends the read
	buf := make([]byte, 1500)
	last := time.Now().Add(10 * *wait)
	for answers := 0; ; answers++ {
		if answers == *most {
			fmt.Printf("answers: %d, and that is enough\n", answers)
			return nil
		}
		deadline := time.Now().Add(*wait)
		if deadline.After(last) {
			deadline = last
		}
		tx.SetReadDeadline(deadline)
		n, from, err := tx.ReadFromUDPAddrPort(buf)
		switch {
		case errors.Is(err, net.ErrClosed):
			return nil
		case errors.Is(err, os.ErrDeadlineExceeded) && answers == 0:
			return fmt.Errorf("no answer in %s: does a receiver listen to %s, and is it in reach (-iface, -ttl)?", *wait, to)
		case errors.Is(err, os.ErrDeadlineExceeded):
			fmt.Printf("answers: %d\n", answers)
			return nil
		case err != nil:
			return err
		}
		fmt.Printf("%s answers %.200q after %s\n", from, buf[:n], time.Since(sent).Round(time.Microsecond))
	}
}
