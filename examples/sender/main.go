// Sender sends one message to a multicast group and prints the answers. Its counterpart is the example receiver.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/go-multicast/mcast"
	"github.com/go-multicast/mcast/internal/cli"
)

const usage = `Sender sends one message to a multicast group and prints each answer that comes back by unicast. The example receiver
answers if it runs with -answer. Sender ends when no answer has come for the time of -wait, when there were enough, or
after ten times -wait, because anybody can answer forever. Ctrl-C or SIGTERM ends it earlier. The exit status is 1 if no
answer came in time. For example:

  sender hello
  sender -group ff15::1234 -iface 192.168.0.0/16 -ttl 4 -wait 5s "hello, everybody"

`

var (
	group = netip.AddrFrom4([4]byte{239, 1, 2, 3})
	port  = flag.Uint("port", 12345, "UDP port to send to")
	ttl   = flag.Int("ttl", mcast.TTLSubnet, "how many `links` the message may cross; -1 is for receivers on this machine, but while none\n"+
		"has joined the group, Linux puts the message on the link with a TTL of 0: to be sure, add -iface 127.0.0.1")
	wait     = flag.Duration("wait", 2*time.Second, "how long to wait for one more answer")
	most     = flag.Int("answers", 1000, "how many `answers` are enough")
	loopback = flag.Bool("loopback", true, "send to receivers on this machine too; they must set it as well")
	iface    = flag.String("iface", "", "`interfaces` to send on, separated by commas: name, index, address, prefix or pattern\n"+
		"(default that of the default route)")
)

func main() {
	flag.TextVar(&group, "group", group, "multicast `address` to send to, IPv4 or IPv6")
	args := cli.Parse("sender", usage)
	cli.CheckGroups("group", group)
	cli.Check(*port >= 1 && *port <= 65535, "port", "1 to 65535")
	cli.Check(*ttl == mcast.TTLHost || *ttl >= 1 && *ttl <= 255, "ttl", "1 to 255, or -1")
	cli.Check(*ttl != mcast.TTLHost || *loopback, "ttl", "1 to 255 with -loopback=false")
	cli.Check(*wait > 0, "wait", "a time above 0")
	cli.Check(*most >= 1, "answers", "1 or more")
	if len(args) == 0 {
		cli.Fail("no message: want one as the argument")
	}
	cli.Run(func(ctx context.Context) error { return run(ctx, strings.Join(args, " ")) })
}

// run sends the message and waits for answers until no more come, there are enough, or ctx ends.
func run(ctx context.Context, message string) error {
	config := mcast.TxConfig{Groups: []netip.Addr{group}, TTL: *ttl, Loopback: *loopback}
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
		fmt.Printf("sent %d bytes to %s on %s\n", len(message), to, ifc.Name)
	}

	context.AfterFunc(ctx, func() { tx.Close() }) // ends the read
	buf := make([]byte, 1500)
	answers := 0
	for last := sent.Add(10 * *wait); answers < *most; answers++ {
		deadline := time.Now().Add(*wait)
		if deadline.After(last) {
			deadline = last
		}
		tx.SetReadDeadline(deadline)
		n, from, err := tx.ReadFromUDPAddrPort(buf)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded) && answers == 0:
			return fmt.Errorf("no answer in %s: does a receiver with -answer run, and is it within reach (-iface, -ttl)?", *wait)
		case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, net.ErrClosed):
			fmt.Printf("answers: %d\n", answers)
			return nil
		case err != nil:
			return err
		}
		fmt.Printf("%s answers %.200q after %s\n", from, buf[:n], time.Since(sent).Round(time.Microsecond))
	}
	fmt.Printf("answers: %d, which is enough\n", answers)
	return nil
}
