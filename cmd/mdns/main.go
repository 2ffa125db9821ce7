// Mdns shows the services of the link, as multicast DNS (RFC 6762, RFC 6763) announces them: printers, shares, players.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/go-multicast/mcast"
	"github.com/go-multicast/mcast/internal/cli"
)

const usage = `Mdns asks the link for services, by multicast DNS, and prints those that answer: of one type, or of all that there
are. It shares the port with the system's own responder, and finds what this machine announces, too. What is not plain
text in a name is shown as in \. for a dot and \009 for a tab. It exits with 1 if there is no service. For example:

  mdns
  mdns -iface eth0 -service _http._tcp -timeout 2s

`

var (
	iface = flag.String("iface", "", "`interfaces` to ask by, separated by commas: name, index, address, prefix or pattern\n"+
		"(default all that can, but the loopback)")
	wanted  = flag.String("service", "", "`type` of the services, such as _http._tcp (default all types)")
	timeout = flag.Duration("timeout", 5*time.Second, "how long to listen for answers; Ctrl-C ends it earlier")
	machine = flag.Bool("json", false, "print the services as JSON")
)

func main() {
	cli.NoArguments(cli.Parse("mdns", usage))
	cli.Check(*timeout > 0, "timeout", "a time above 0")
	typical := regexp.MustCompile(`^(_[[:alnum:]-]{1,62}\._(tcp|udp))?$`).MatchString
	cli.Check(typical(*wanted), "service", "a type such as _http._tcp")
	cli.Run(run)
}

// run browses until the time is over or ctx is, and prints what was found.
func run(ctx context.Context) error {
	c, err := open(*iface, *wanted)
	if err != nil {
		return err
	}
	defer c.close()
	ctx, cancel := context.WithTimeout(ctx, *timeout)
	defer cancel()
	if err := c.browse(ctx); err != nil {
		return err
	}

	found := c.services()
	if *machine {
		encoder := json.NewEncoder(os.Stdout)
		encoder.SetEscapeHTML(false)
		encoder.SetIndent("", "  ")
		if err := encoder.Encode(found); err != nil {
			return err
		}
	} else if len(found) > 0 {
		table(found)
	}
	for _, l := range c.links {
		if l.full {
			fmt.Fprintf(os.Stderr, "mdns: there is more on %s than fits into %d MiB; some is missing\n", l.name, maxSize>>20)
		}
	}
	if len(found) == 0 {
		return errors.New("no services: does a firewall stop UDP port 5353, or is it another interface (-iface)?")
	}
	return nil
}

// port is that of multicast DNS. Who asks from another one is taken for a simple resolver and answered by unicast
// (RFC 6762, section 6.7), which an RxSocket does not receive.
const port = 5353

var (
	group4 = netip.MustParseAddr("224.0.0.251")
	group6 = netip.MustParseAddr("ff02::fb")
)

// client browses by several interfaces.
type client struct {
	rx    *mcast.RxSocket
	links []*link
}

// link is an interface that is browsed by: each has its own services, and so its own questions and known answers.
type link struct {
	name   string
	index  int
	groups []netip.Addr
	tx     *mcast.TxSocket
	*browser
}

// open opens the sockets: one to receive by all interfaces in both families, and one to send with for each interface.
func open(specs, service string) (*client, error) {
	list, err := mcast.Interfaces()
	if err != nil {
		return nil, err
	}
	// Static, because this is over in seconds. Loopback, because services of this machine are services of the link.
	config := mcast.RxConfig{Port: port, Static: true, Loopback: true}
	if specs != "" {
		list, err = mcast.SelectInterfaces(list, strings.Split(specs, ",")...)
		if err != nil {
			return nil, err
		}
		config.Interfaces = list
	} else {
		const can = net.FlagUp | net.FlagMulticast
		list = slices.DeleteFunc(list, func(i mcast.Interface) bool { return i.Flags&can != can || i.IsLoopback() })
	}
	// A family may be missing on this machine. On interfaces that were named, a group needs it on each.
	v4, v6 := 0, 0
	for _, ifc := range list {
		v4 += min(len(ifc.IPv4), 1)
		v6 += min(len(ifc.IPv6), 1)
	}
	if v4 == len(list) || v4 > 0 && specs == "" {
		config.Groups = append(config.Groups, group4)
	}
	if v6 == len(list) || v6 > 0 && specs == "" {
		config.Groups = append(config.Groups, group6)
	}
	if len(config.Groups) == 0 { // OpenRx tells what is missing where
		config.Groups = []netip.Addr{group4, group6}
	}

	c := &client{}
	if c.rx, err = mcast.OpenRx(config); err != nil {
		return nil, err
	}
	if err := c.openLinks(list, service, specs != ""); err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

// openLinks opens what sends the questions, wherever answers can be received. Of interfaces that nobody named, one that
// cannot send is only reported as long as another can.
func (c *client) openLinks(list []mcast.Interface, service string, named bool) (failed error) {
	for _, ifc := range list {
		l := &link{name: ifc.Name, index: ifc.Index, browser: newBrowser(service, time.Now())}
		for _, m := range c.rx.Memberships() {
			if m.IfIndex == ifc.Index && m.Joined {
				l.groups = append(l.groups, m.Group)
			}
		}
		if len(l.groups) == 0 {
			continue
		}
		// The TTL of 255 is for old programs, which take anything else for a message from another link.
		var err error
		l.tx, err = mcast.OpenTx(mcast.TxConfig{Groups: l.groups, Interfaces: []mcast.Interface{ifc}, Port: port,
			TTL: mcast.TTLGlobal, Loopback: true, Static: true})
		switch {
		case err == nil:
			c.links = append(c.links, l)
		case named:
			return err
		default:
			fmt.Fprintln(os.Stderr, "mdns:", err)
			failed = err
		}
	}
	if len(c.links) > 0 {
		return nil
	}
	return failed
}

func (c *client) close() {
	c.rx.Close()
	for _, l := range c.links {
		l.tx.Close()
	}
}

// browse asks and listens until ctx ends.
func (c *client) browse(ctx context.Context) error {
	c.rx.SetReadDeadline(c.ask())
	for m, err := range c.rx.Messages(ctx) {
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded): // time to ask
		case err != nil:
			return err
		default:
			c.take(m)
		}
		c.rx.SetReadDeadline(c.ask())
	}
	return nil
}

// take remembers what a datagram says. That it comes from this link needs no other test than that it was sent to the
// group, which it was, or it would not be here; not even its source has to fit (RFC 6762, section 11). But who answers
// from another port is no responder (section 6).
func (c *client) take(m *mcast.Message) {
	at := slices.IndexFunc(c.links, func(l *link) bool { return l.index == m.IfIndex })
	if at < 0 || m.Addr.Port() != port {
		return
	}
	records, err := parse(m.Buf[:m.N])
	if err != nil {
		return // anybody may send anything
	}
	c.links[at].take(records, time.Now())
}

// ask sends the questions that are due, and returns when the next ones are.
func (c *client) ask() (next time.Time) {
	for _, l := range c.links {
		for _, packet := range l.ask(time.Now()) {
			for _, group := range l.groups {
				if _, err := l.tx.WriteToUDPAddrPort(packet, netip.AddrPortFrom(group, port)); err != nil {
					fmt.Fprintln(os.Stderr, "mdns:", err) // and go on: other interfaces may work
				}
			}
		}
		if at := l.next(); next.IsZero() || at.Before(next) {
			next = at
		}
	}
	return next
}

// services returns what is there now, by interface, type and name.
func (c *client) services() []service {
	all := []service{} // JSON has [] for none
	for _, l := range c.links {
		for _, s := range l.services(time.Now()) {
			s.Interface = l.name
			for i, a := range s.Addresses {
				if a.Is6() && a.IsLinkLocalUnicast() {
					s.Addresses[i] = a.WithZone(l.name)
				}
			}
			all = append(all, s)
		}
	}
	slices.SortStableFunc(all, func(a, b service) int {
		return cmp.Or(cmp.Compare(a.Interface, b.Interface), cmp.Compare(a.Type, b.Type), cmp.Compare(a.Instance, b.Instance))
	})
	return all
}

// table prints the services, with their addresses and texts one below the other.
func table(list []service) {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	defer w.Flush()
	fmt.Fprintln(w, "INTERFACE\tTYPE\tINSTANCE\tHOST\tPORT\tADDRESSES\tTXT")
	for _, s := range list {
		known := []string{cmp.Or(s.Host, "?"), "?"} // nobody has said yet where it is
		if s.Host != "" {
			known[1] = fmt.Sprint(s.Port)
		}
		first := []string{s.Interface, s.Type, s.Instance, known[0], known[1]}
		for i := range max(1, len(s.Addresses), len(s.TXT)) {
			address, text := "", ""
			if i < len(s.Addresses) {
				address = s.Addresses[i].String()
			}
			if i < len(s.TXT) {
				text = `"` + s.TXT[i] + `"`
			}
			fmt.Fprintf(w, "%s\t%s\t%s\n", strings.Join(first, "\t"), address, text)
			clear(first)
		}
	}
}
