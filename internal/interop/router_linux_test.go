// Routers of others between two networks: smcroute, where somebody has written down what goes where, and pimd, which
// speaks PIM and learns it from the members. At one end our sender, whose TTL decides, and at the other our receiver,
// whose reports the router reads.

package interop

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"testing"
	"time"

	"github.com/go-multicast/mcast"
	"github.com/go-multicast/mcast/mcasttest"
)

// newRouter connects two networks with a host that has eth0 on the first and eth1 on the second, and forwards nothing
// that goes to a group: that is for a program on it. (One of mcasttest's own would do so.) Its addresses are the
// largest, so that the switches go on to be the queriers of their networks: in the seconds after another has taken
// over, they send everything everywhere.
func newRouter(t *testing.T, networks ...*mcasttest.LAN) *mcasttest.Host {
	t.Helper()
	router := mcasttest.NewHost(t)
	for _, l := range networks {
		ifc := l.Attach(router)
		ifc.DelAddress(netip.PrefixFrom(ifc.IPv4, 24))
		ifc.AddAddress(netip.PrefixFrom(gateway(ifc.IPv4), 24))
	}
	router.Sysctl("net/ipv4/ip_forward", "1")
	router.Sysctl("net/ipv6/conf/all/forwarding", "1")
	return router
}

// gateway is the router's address on the network of an IPv4 address.
func gateway(of netip.Addr) netip.Addr {
	a := of.As4()
	a[3] = 254
	return netip.AddrFrom4(a)
}

// TestSmcroute has a static route, with a source or without.
func TestSmcroute(t *testing.T) {
	t.Parallel()
	for _, c := range routed {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			need(t, "smcrouted", "smcroutectl")
			testRouter(t, c.group, c.ssm, func(router *mcasttest.Host, source netip.Addr) {
				dir := t.TempDir()
				config, socket := filepath.Join(dir, "conf"), filepath.Join(dir, "socket")
				writeFile(t, config, "phyint eth0 enable\nphyint eth1 enable\n")
				start(t, router, exec.Command("smcrouted", "-n", "-N", "-f", config, "-P", filepath.Join(dir, "pid"), "-u", socket))
				until(t, "smcroute has its socket", func() bool { _, err := os.Stat(socket); return err == nil })

				from := []string{"eth0"}
				if c.ssm {
					from = append(from, source.String())
				}
				from = append(from, c.group.String())
				for _, order := range [][]string{
					append([]string{"join"}, from...), // or the switch does not send it to the router
					append(append([]string{"add"}, from...), "eth1"),
				} {
					start(t, router, exec.Command("smcroutectl", append([]string{"-u", socket}, order...)...)).wait()
				}
			})
		})
	}
}

// TestPimd lets pimd find out: it hears that the receiver joins, and of the sender when that sends. It is for IPv4.
func TestPimd(t *testing.T) {
	t.Parallel()
	for _, c := range routed {
		if c.group.Is6() {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			need(t, "pimd", "unshare", "mount")
			testRouter(t, c.group, c.ssm, func(router *mcasttest.Host, sender netip.Addr) {
				config := filepath.Join(t.TempDir(), "conf")
				rendezvous := gateway(sender).String()
				writeFile(t, config, "phyint eth0 enable\nphyint eth1 enable\nrp-address "+rendezvous+" 239.0.0.0/8\n")
				// It insists on a file in /run.
				const private = `mount -t tmpfs tmpfs /run && exec pimd -f -N -d -c "$0"`
				pimd := start(t, router, exec.Command("unshare", "--mount", "sh", "-c", private, config))
				if c.ssm {
					return // which does without a rendezvous point
				}
				// A rendezvous point takes it 20 seconds, and whoever has joined before would not be heard of for as long again.
				ready := regexp.MustCompile(regexp.QuoteMeta(rendezvous) + ` +\d+ +239/8`)
				until(t, "pimd has its rendezvous point", func() bool { return ready.MatchString(pimd.said.String()) })
			})
		})
	}
}

var routed = []struct {
	name  string
	group netip.Addr
	ssm   bool
}{
	{"IPv4", netip.MustParseAddr("239.1.2.3"), false},
	{"IPv6", netip.MustParseAddr("ff15::1234"), false},
	{"SSM4", netip.MustParseAddr("232.1.2.3"), true},
	{"SSM6", netip.MustParseAddr("ff35::8000:1234"), true},
}

func writeFile(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// testRouter starts a program on the router and sends through it. Datagrams with a TTL of 1 stop there, as a receiver
// on the sender's network proves that they were sent; those with 2 arrive with 1. With a source, another host of its
// network sends to the group as well, to the same receiver there.
func testRouter(t *testing.T, group netip.Addr, ssm bool, route func(router *mcasttest.Host, source netip.Addr)) {
	const port = 5000
	near, far := mcasttest.NewLAN(t, 3), mcasttest.NewLAN(t, 2)
	router := newRouter(t, near, far)
	sender, stranger, neighbor := near.Hosts[0], near.Hosts[1], near.Hosts[2]
	receiver, bystander := far.Hosts[0], far.Hosts[1]
	from := address(sender, group)
	cfg := mcast.RxConfig{Groups: []netip.Addr{group}, Port: port, HopLimits: true}
	route(router, from)

	open := func(h *mcasttest.Host, ttl int) *mcast.TxSocket {
		return openTx(t, h, mcast.TxConfig{Groups: []netip.Addr{group}, TTL: ttl})
	}
	unwanted := bystander.Interface("eth0").CountUDP(group)
	all := cfg
	if ssm {
		cfg.Sources = []netip.Addr{from}
	}
	rx := openRx(t, receiver, cfg)
	far.WaitJoined(receiver, group)
	waitHeard(t, open(sender, 2), rxReader{rx}, group, port)
	control := openRx(t, neighbor, all)
	near.WaitJoined(neighbor, group)

	write(t, open(sender, 1), group, port, payloads("near")...)
	want(t, control, group, from, payloads("near")...)
	if ssm {
		write(t, open(stranger, 2), group, port, payloads("strange")...)
		want(t, control, group, address(stranger, group), payloads("strange")...)
	}
	// pimd makes its route anew at each report of a member, and what passes meanwhile is lost. Then all is sent again.
	for try := 1; ; try++ {
		far := append(payloads(fmt.Sprint("far ", try)), "hops")
		write(t, open(sender, 2), group, port, far...)
		if wantHops(t, control, group, from, patience, 2, far) != len(far) {
			t.Fatal("a host of the sender's network lacks datagrams")
		}
		n := wantHops(t, rx, group, from, 400*tick, 1, far)
		if n == len(far) {
			break
		}
		if try == 10 {
			t.Fatalf("%d of %d datagrams arrived at the last try", n, len(far))
		}
	}
	if n := unwanted(); n != 0 {
		t.Errorf("%d datagrams came to a host that is no member", n)
	}
}

// wantHops reads datagrams, of which some of the given ones may be missing, until the last or for as long as given, and
// returns how many came.
func wantHops(t *testing.T, rx *mcast.RxSocket, group, source netip.Addr, wait time.Duration, hops int, payloads []string) (n int) {
	t.Helper()
	rx.SetReadDeadline(time.Now().Add(wait))
	ms := []mcast.Message{{Buf: make([]byte, 65536)}}
	for rest := payloads; len(rest) > 0; n++ {
		if _, err := rx.ReadBatch(ms); errors.Is(err, os.ErrDeadlineExceeded) {
			return n
		} else if err != nil {
			t.Fatal(err)
		}
		m := ms[0]
		got := string(m.Buf[:m.N])
		if m.Group != group || m.Addr.Addr().WithZone("") != source || m.HopLimit != hops {
			t.Errorf("%s from %s to %s with a hop limit of %d, want %s to %s with %d", brief([]string{got}), m.Addr, m.Group, m.HopLimit, source, group, hops)
		}
		at := slices.Index(rest, got)
		if at < 0 {
			t.Fatalf("%s came, which is none of the rest, or came before", brief([]string{got}))
		}
		rest = rest[at+1:]
	}
	return n
}
