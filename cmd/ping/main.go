// Ping says what multicast does between machines, next to unicast, and what the numbers mean.
//
// Start it with -listen on one or more machines, and without on another, the prober. For each listener and each of
// IPv4 and IPv6 it sends four kinds of numbered probes: by unicast, answered by unicast; to a group that the listeners
// have joined (ASM), answered by unicast; by unicast, answered to that group; and by unicast, answered to a group that
// the prober has joined for that listener alone (source-specific multicast, SSM). To try SSM in the other direction,
// change places.
//
// Round trips are measured in the program, so they hold what two systems and two Go programs need. The time after the
// join is that from the call that joins to the first multicast: it holds a trip by unicast, is exact to the 10 ms
// between two questions, and is what a switch needs that snoops, if it did not know of the group before. It forgets a
// group some seconds after the last member has left.
//
// A listener answers a probe with one packet of the same size, to nobody but who asked, or to its own groups if the
// asker has shown that it receives at its address; in a second 500 to one address, 2000 to all, 1000 of them by
// multicast. A prober remembers 64 listeners, if they use both families. Whoever is on the link sees what is sent, and
// can lie.
package main

import (
	"errors"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/go-multicast/mcast"
	"github.com/go-multicast/mcast/internal/cli"
)

const usage = `Ping says what multicast does between machines, next to unicast, by IPv4 and IPv6, and what that means. Run it
with -listen on one or more machines, and without on another. With the addresses or names of listeners as arguments
it shows what unicast does even if multicast does not get there. It exits with 1 if something is lost. For example:

  ping -listen
  ping
  ping -iface eth0 -ttl 8 -n 100 192.168.0.7 otherhost

`

const (
	maxProbes   = 10000
	minInterval = 20 * time.Millisecond // with which one prober stays below what a listener answers
)

var (
	groups  = [families]netip.Addr{netip.MustParseAddr("239.1.2.3"), netip.MustParseAddr("ff15::1234")}
	ssms    = [families]netip.Addr{netip.MustParseAddr("232.1.2.3"), netip.MustParseAddr("ff35::8000:1234")}
	sources []netip.Addr
	named   bool // the groups were, so it is an error if one of them cannot be used
	answer  = flag.Bool("listen", false, "answer the probes of others, until Ctrl-C")
	port    = flag.Uint("port", 12350, "UDP port of the groups; the `port` after it is for unicast")
	ttl     = flag.Int("ttl", mcast.TTLSubnet, "how many `links` multicast may cross; -1 is for listeners on this machine, but while none has\n"+
		"joined a group, Linux puts its datagrams on the link with a TTL of 0")
	probes   = flag.Int("n", 10, "`how many` probes to send of each kind")
	interval = flag.Duration("interval", 200*time.Millisecond, "time between two probes of a kind")
	wait     = flag.Duration("wait", time.Second, "how long to look for listeners and, at most, to wait for the first\n"+
		"multicast after a join and for the last answers")
	iface = flag.String("iface", "", "the one `interface` to use: name, index, address, prefix or pattern\n"+
		"(default that of the default route, or the loopback if there is none)")
)

func main() {
	flag.Func("group", "multicast `addresses` for ASM, one of each family or of one, separated by a comma\n"+
		"(default 239.1.2.3,ff15::1234)", func(value string) error { named = true; return onePerFamily(&groups, value) })
	flag.Func("ssm", "multicast `addresses` for SSM, one for each of -group (default 232.1.2.3,ff35::8000:1234)",
		func(value string) error { return onePerFamily(&ssms, value) })
	flag.Func("source", "`addresses`, separated by commas, that listeners send SSM from, if they answer from others",
		cli.Addresses(&sources))
	hosts := cli.Parse("ping", usage)
	check(hosts)
	ctx := cli.Interrupt()
	fine, err := true, error(nil)
	if *answer {
		err = listen(ctx)
	} else {
		fine, err = probe(ctx, hosts)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "ping:", err)
	}
	if err != nil || !fine {
		os.Exit(1)
	}
}

// check ends the program if the command line asks for what cannot be.
func check(hosts []string) {
	for f := range families {
		if !groups[f].IsValid() {
			continue
		}
		cli.CheckGroups("group", groups[f])
		if !ssms[f].IsValid() {
			cli.Fail("no -ssm group for -group %s: want one of %v", groups[f], f)
		}
		cli.CheckGroups("ssm", ssms[f])
	}
	cli.Check(*port >= 1 && *port <= 65534, "port", "1 to 65534")
	cli.Check(*probes >= 1 && *probes <= maxProbes, "n", fmt.Sprint("1 to ", maxProbes))
	cli.Check(*interval >= minInterval, "interval", fmt.Sprint("at least ", minInterval))
	cli.Check(*wait > 0, "wait", "a time above 0")
	cli.Check(*ttl == mcast.TTLHost || *ttl >= 1 && *ttl <= 255, "ttl", "1 to 255, or -1")
	if !*answer {
		return
	}
	if len(hosts) > 0 {
		cli.Fail("unexpected argument %q: want flags only with -listen", hosts[0])
	}
	flag.Visit(func(f *flag.Flag) {
		if slices.Contains([]string{"n", "interval", "wait", "source"}, f.Name) {
			cli.Fail("flag -%s is for the prober: want it without -listen", f.Name)
		}
	})
}

func onePerFamily(to *[families]netip.Addr, value string) error {
	var list []netip.Addr
	err := cli.Addresses(&list)(value)
	*to = [families]netip.Addr{}
	for _, addr := range list {
		if to[familyOf(addr)].IsValid() {
			return fmt.Errorf("more than one address of %v", familyOf(addr))
		}
		to[familyOf(addr)] = addr
	}
	return err
}

// choose returns the interface that the user named: without a name, that of the default route, or else the loopback.
func choose() ([]mcast.Interface, error) {
	if *iface != "" {
		list, err := mcast.FindInterfaces(*iface)
		if err == nil && len(list) > 1 {
			err = fmt.Errorf("%q names %d interfaces, among them %s and %s: name one, since each is a network by itself",
				*iface, len(list), list[0].Name, list[1].Name)
		}
		return list, err
	}
	for _, network := range []string{"ip4", "ip6"} {
		ifc, err := mcast.DefaultInterface(network)
		if err == nil && ifc.Flags&net.FlagMulticast != 0 {
			return []mcast.Interface{ifc}, nil
		} else if err != nil && !errors.Is(err, mcast.ErrNoInterface) {
			return nil, err
		}
	}
	fmt.Fprintln(os.Stderr, "ping: no default route leads by an interface that can multicast, so this stays on the machine: "+
		"-iface names another")
	return mcast.FindInterfaces("127.0.0.1")
}

// openEach opens the sockets of the families that have a group. Many networks have only one of the two: unless the
// user has named groups, one that does not work is told and left out.
func openEach(open func(family) (*end, error)) (ends []*end, err error) {
	var failed []error
	for f := range families {
		if !groups[f].IsValid() {
			continue
		}
		e, err := open(f)
		if err == nil {
			ends = append(ends, e)
		} else {
			failed = append(failed, err)
		}
	}
	if len(ends) == 0 || named && len(failed) > 0 {
		for _, e := range ends {
			e.close()
		}
		return nil, errors.Join(failed...)
	}
	for _, err := range failed {
		fmt.Fprintln(os.Stderr, "ping: left out:", err)
	}
	return ends, nil
}
