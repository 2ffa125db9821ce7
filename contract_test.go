// The delivery contract, proved on real kernels: each datagram sent to a joined group and port, that arrived on a joined
// interface from an allowed source, exactly once, and nothing else.
//
// That something is not delivered is decided without waiting for it. Each such test has a control, a socket of package
// net alone on the same port, which does receive what the RxSocket must not: when the control has read it, it was on
// the wire and this host has handed it out. Only then a marker follows, which the RxSocket wants, by every path it
// wants; nothing else may have come before the markers did.

package mcast_test

import (
	"bufio"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-multicast/mcast"
	"github.com/go-multicast/mcast/mcasttest"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// patience bounds every wait. No test depends on how long anything takes, only that it happens.
const patience = 20 * time.Second

// contractRange is a range of groups that kernels treat in a way of their own.
type contractRange struct {
	name         string
	group, other netip.Addr // other is another group of the range
}

// contractRanges: the site's own; those that no router forwards and no switch filters; IPv6's link-local ones, which are
// the only ones that bind to an interface by their zone; and the wider ones, known to the world and transient.
var contractRanges = []contractRange{
	{"239", addr("239.77.1.1"), addr("239.77.1.2")},
	{"224.0.0", addr("224.0.0.177"), addr("224.0.0.178")},
	{"ff02", addr("ff02::77:1"), addr("ff02::77:2")},
	{"ff05", addr("ff05::77:1"), addr("ff05::77:2")},
	{"ff15", addr("ff15::77:1"), addr("ff15::77:2")},
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// wire is an interface of the test's namespace, and the host at the other end of its cable.
type wire struct {
	*mcasttest.Interface
	peer *mcasttest.Host
	at   mcast.Interface // as a scan saw it
	net  byte            // of its addresses
}

// newWires makes n of them. They have the addresses 10.77.i.1/24 and fd77:0:0:i::1/64, and their peers .254 and ::fe.
func newWires(t testing.TB, n int) (wires []*wire) {
	t.Helper()
	for i := range n {
		w := &wire{net: byte(i)}
		w.Interface = mcasttest.NewVeth(t, "wire"+strconv.Itoa(i), netip.PrefixFrom(w.addr4(1), 24), netip.PrefixFrom(w.addr6(1), 64))
		w.peer = w.Peer()
		w.scan(t)
		wires = append(wires, w)
	}
	return wires
}

func (w *wire) scan(t testing.TB) { t.Helper(); w.at = mustFind(t, w.Name())[0] }

func (w *wire) addr4(id byte) netip.Addr { return netip.AddrFrom4([4]byte{10, 77, w.net, id}) }
func (w *wire) addr6(id byte) netip.Addr {
	return netip.AddrFrom16([16]byte{0: 0xfd, 1: 0x77, 7: w.net, 15: id})
}

// like is the address on the wire, of the family of group, that ends in id.
func (w *wire) like(group netip.Addr, id byte) netip.Addr {
	if group.Is4() {
		return w.addr4(id)
	}
	return w.addr6(id)
}

// station is a sender at the other end of the wire, with the address that ends in id; with 0 the kernel chooses.
func (w *wire) station(t testing.TB, family netip.Addr, id byte) *station {
	t.Helper()
	if id == 0 {
		return newStation(t, w.peer, "eth0", unspecified(family))
	}
	src := w.like(family, id)
	bits := 24
	if src.Is6() {
		bits = 64
	}
	w.peer.Interface("eth0").AddAddress(netip.PrefixFrom(src, bits))
	return newStation(t, w.peer, "eth0", src)
}

func mustFind(t testing.TB, specs ...string) []mcast.Interface {
	t.Helper()
	found, err := mcast.FindInterfaces(specs...)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func interfacesOf(wires []*wire) (all []mcast.Interface) {
	for _, w := range wires {
		all = append(all, w.at)
	}
	return all
}

// on calls f on the host, or here if that is nil.
func on(h *mcasttest.Host, f func()) {
	if h == nil {
		f()
		return
	}
	h.Do(f)
}

func network(family netip.Addr) string {
	if family.Is4() {
		return "udp4"
	}
	return "udp6"
}

func unspecified(family netip.Addr) netip.Addr {
	if family.Is4() {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

// station sends with package net and x/net alone, so that what it sends does not depend on the code under test.
type station struct {
	*net.UDPConn
	t testing.TB
}

// newStation opens a socket on the host that is bound to src and sends multicast by the interface.
func newStation(t testing.TB, h *mcasttest.Host, ifname string, src netip.Addr) *station {
	t.Helper()
	s := &station{t: t}
	on(h, func() {
		ifi, err := net.InterfaceByName(ifname)
		if err != nil {
			t.Fatal(err)
		}
		if src.IsLinkLocalUnicast() && src.Is6() {
			src = src.WithZone(strconv.Itoa(ifi.Index))
		}
		if s.UDPConn, err = net.ListenUDP(network(src), net.UDPAddrFromAddrPort(netip.AddrPortFrom(src, 0))); err != nil {
			t.Fatal(err)
		}
		if src.Is4() {
			err = ipv4.NewPacketConn(s).SetMulticastInterface(ifi)
		} else {
			err = ipv6.NewPacketConn(s).SetMulticastInterface(ifi)
		}
		if err != nil {
			t.Fatal(err)
		}
	})
	t.Cleanup(func() { s.Close() })
	return s
}

func (s *station) send(to netip.Addr, port uint16, payload string) {
	s.t.Helper()
	if _, err := s.WriteToUDPAddrPort([]byte(payload), netip.AddrPortFrom(to, port)); err != nil {
		s.t.Fatal(err)
	}
}

// naive is a control: it receives multicast as programs without this library do.
type naive struct {
	*net.UDPConn
	t testing.TB
}

// newNaive joins the group on the interfaces of the host; here if that is nil.
func newNaive(t testing.TB, h *mcasttest.Host, group netip.Addr, port uint16, ifnames ...string) *naive {
	t.Helper()
	n := &naive{t: t}
	on(h, func() {
		for i, name := range ifnames {
			ifi, err := net.InterfaceByName(name)
			if err != nil {
				t.Fatal(err)
			}
			to := &net.UDPAddr{IP: group.AsSlice(), Port: int(port)}
			switch {
			case i == 0:
				n.UDPConn, err = net.ListenMulticastUDP(network(group), ifi, to)
			case group.Is4():
				err = ipv4.NewPacketConn(n).JoinGroup(ifi, to)
			default:
				err = ipv6.NewPacketConn(n).JoinGroup(ifi, to)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	})
	t.Cleanup(func() { n.Close() })
	return n
}

// newUnicast is a control of another kind: it receives what is sent to an address.
func newUnicast(t testing.TB, h *mcasttest.Host, at netip.Addr, port uint16) *naive {
	t.Helper()
	n := &naive{t: t}
	on(h, func() {
		var err error
		if n.UDPConn, err = net.ListenUDP(network(at), net.UDPAddrFromAddrPort(netip.AddrPortFrom(at, port))); err != nil {
			t.Fatal(err)
		}
	})
	t.Cleanup(func() { n.Close() })
	return n
}

// await reads until all of the payloads have come, and returns everything that has.
func (n *naive) await(payloads ...string) (all []string) {
	n.t.Helper()
	n.SetReadDeadline(time.Now().Add(patience))
	buf := make([]byte, 65536)
	for missing := slices.Clone(payloads); len(missing) > 0; {
		size, _, err := n.ReadFromUDPAddrPort(buf)
		if err != nil {
			n.t.Fatalf("control: %v; missing %q, after %q", err, missing, all)
		}
		all = append(all, string(buf[:size]))
		missing = slices.DeleteFunc(missing, func(p string) bool { return p == string(buf[:size]) })
	}
	return all
}

// arrival is what a test wants to know of a datagram.
type arrival struct {
	Payload string
	Group   netip.Addr
	IfIndex int
}

func (a arrival) String() string { return fmt.Sprintf("%q to %s by %d", a.Payload, a.Group, a.IfIndex) }

func openRx(t testing.TB, cfg mcast.RxConfig) *mcast.RxSocket {
	t.Helper()
	rx, err := mcast.OpenRx(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { rx.Close() })
	return rx
}

func openTx(t testing.TB, cfg mcast.TxConfig) *mcast.TxSocket {
	t.Helper()
	tx, err := mcast.OpenTx(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tx.Close() })
	return tx
}

// arrivals reads until all of the payloads have come, and returns everything that has. A batch has room for more than
// any test leaves unread, and so takes everything that is there, from whichever OS socket it comes.
func arrivals(t testing.TB, rx *mcast.RxSocket, until ...string) (all []arrival) {
	t.Helper()
	rx.SetReadDeadline(time.Now().Add(patience))
	defer rx.SetReadDeadline(time.Time{})
	ms := make([]mcast.Message, 256)
	for i := range ms {
		ms[i].Buf = make([]byte, 2048)
	}
	for missing := slices.Clone(until); len(missing) > 0; {
		n, err := rx.ReadBatch(ms)
		if err != nil {
			t.Fatalf("%v; missing %q, after %v", err, missing, all)
		}
		for _, m := range ms[:n] {
			payload := string(m.Buf[:m.N])
			all = append(all, arrival{payload, m.Group, m.IfIndex})
			missing = slices.DeleteFunc(missing, func(p string) bool { return p == payload })
		}
	}
	return all
}

// wantArrivals reads until everything wanted has come: that, once, and nothing else. What it does not read stays for the
// next call, so the last wanted should be markers, one for every way that something could come.
func wantArrivals(t testing.TB, rx *mcast.RxSocket, want ...arrival) {
	t.Helper()
	var until []string
	for _, w := range want {
		until = append(until, w.Payload)
	}
	compareArrivals(t, arrivals(t, rx, until...), want)
}

func compareArrivals(t testing.TB, got, want []arrival) {
	t.Helper()
	order := func(a, b arrival) int {
		return cmp.Or(cmp.Compare(a.Payload, b.Payload), a.Group.Compare(b.Group), cmp.Compare(a.IfIndex, b.IfIndex))
	}
	got, want = slices.Clone(got), slices.Clone(want)
	slices.SortFunc(got, order)
	slices.SortFunc(want, order)
	if !slices.Equal(got, want) {
		t.Errorf("received %d, want %d:\n got %v\nwant %v", len(got), len(want), got, want)
	}
}

var ports atomic.Uint32

// newPort returns a port that no other test of this process uses. It is below those that the system gives away.
func newPort() uint16 { return uint16(20000 + ports.Add(1)%10000) }

// noLeaks fails the test if it ends with more goroutines or file descriptors than it began with. It must be called
// before anything else is made for the test.
func noLeaks(t testing.TB) {
	t.Helper()
	mcasttest.Require(t)
	warm, err := net.ListenPacket("udp4", "127.0.0.1:0") // the runtime's poller has descriptors, which stay
	if err != nil {
		t.Fatal(err)
	}
	warm.Close()
	goroutines, files := runtime.NumGoroutine(), openFiles()
	t.Cleanup(func() {
		end := time.Now().Add(patience)
		for runtime.NumGoroutine() > goroutines || openFiles() > files {
			if time.Now().After(end) {
				buf := make([]byte, 1<<20)
				t.Errorf("%d goroutines, were %d; %d descriptors, were %d\n%s", runtime.NumGoroutine(), goroutines, openFiles(), files,
					buf[:runtime.Stack(buf, true)])
				return
			}
			time.Sleep(time.Millisecond)
		}
	})
}

// openFiles counts the process's file descriptors on Linux. (Elsewhere threads have some, and come by themselves.)
func openFiles() int {
	if runtime.GOOS != "linux" {
		return 0
	}
	entries, _ := os.ReadDir("/proc/self/fd")
	return len(entries)
}

// forEachRange runs a case of the contract for every range of groups.
func forEachRange(t *testing.T, f func(t *testing.T, r contractRange)) {
	for _, r := range contractRanges {
		t.Run(r.name, func(t *testing.T) { f(t, r) })
	}
}

func TestContractTwoInterfaces(t *testing.T) {
	noLeaks(t)
	wires := newWires(t, 2)
	forEachRange(t, func(t *testing.T, r contractRange) {
		port := newPort()
		control := newNaive(t, nil, r.group, port, wires[0].Name(), wires[1].Name())
		both := openRx(t, mcast.RxConfig{Groups: []netip.Addr{r.group}, Port: port, Interfaces: interfacesOf(wires)})
		var single []*mcast.RxSocket
		for _, w := range wires {
			single = append(single, openRx(t, mcast.RxConfig{Groups: []netip.Addr{r.group}, Port: port, Interfaces: []mcast.Interface{w.at}}))
		}

		var all []arrival
		own := make([][]arrival, len(wires))
		for _, what := range []string{"datagram", "marker"} {
			for i, w := range wires {
				a := arrival{fmt.Sprint(what, i), r.group, w.at.Index}
				w.station(t, r.group, 0).send(r.group, port, a.Payload)
				control.await(a.Payload)
				all, own[i] = append(all, a), append(own[i], a)
			}
		}
		wantArrivals(t, both, all...)
		for i, rx := range single {
			wantArrivals(t, rx, own[i]...)
		}
	})
}

func TestContractOtherGroup(t *testing.T) {
	noLeaks(t)
	w := newWires(t, 1)[0]
	forEachRange(t, func(t *testing.T, r contractRange) {
		port := newPort()
		rx := openRx(t, mcast.RxConfig{Groups: []netip.Addr{r.group}, Port: port, Interfaces: []mcast.Interface{w.at}})
		other := openRx(t, mcast.RxConfig{Groups: []netip.Addr{r.other}, Port: port, Interfaces: []mcast.Interface{w.at}})
		// It has joined one group and gets both: that is what happens without the library.
		control := newNaive(t, nil, r.group, port, w.Name())
		from := w.station(t, r.group, 0)

		from.send(r.other, port, "other")
		control.await("other")
		from.send(r.group, port, "marker")
		from.send(r.other, port, "marker")
		wantArrivals(t, rx, arrival{"marker", r.group, w.at.Index})
		wantArrivals(t, other, arrival{"other", r.other, w.at.Index}, arrival{"marker", r.other, w.at.Index})
	})
}

func TestContractUnicast(t *testing.T) {
	noLeaks(t)
	w := newWires(t, 1)[0]
	forEachRange(t, func(t *testing.T, r contractRange) {
		port := newPort()
		rx := openRx(t, mcast.RxConfig{Groups: []netip.Addr{r.group}, Port: port, Interfaces: []mcast.Interface{w.at}})
		from := w.station(t, r.group, 0)
		self, wayTo := w.like(r.group, 1), w.like(r.group, 1)
		if r.group.IsLinkLocalMulticast() && r.group.Is6() {
			self, wayTo = w.LinkLocal.WithZone(strconv.Itoa(w.at.Index)), w.LinkLocal.WithZone(strconv.Itoa(w.peer.Interface("eth0").Index()))
		}
		control := newUnicast(t, nil, self, port)

		from.send(wayTo, port, "unicast")
		control.await("unicast")
		from.send(r.group, port, "marker")
		wantArrivals(t, rx, arrival{"marker", r.group, w.at.Index})
	})
}

// A process that binds the port to everything, as most do, changes nothing, nor does the receiver take its unicast.
func TestContractForeignWildcard(t *testing.T) {
	noLeaks(t)
	wires := newWires(t, 2)
	forEachRange(t, func(t *testing.T, r contractRange) {
		port := newPort()
		before := newNaive(t, nil, r.other, port, wires[0].Name(), wires[1].Name())
		rx := openRx(t, mcast.RxConfig{Groups: []netip.Addr{r.group}, Port: port, Interfaces: []mcast.Interface{wires[0].at}})
		control := newNaive(t, nil, r.group, port, wires[0].Name(), wires[1].Name())

		from, elsewhere := wires[0].station(t, r.group, 0), wires[1].station(t, r.group, 0)
		from.send(r.other, port, "other group")
		elsewhere.send(r.group, port, "other interface")
		elsewhere.send(r.other, port, "other group and interface")
		from.send(wires[0].like(r.group, 1), port, "unicast") // to the newest of the sockets
		control.await("other group", "other interface", "other group and interface", "unicast")
		before.await("other group", "other interface", "other group and interface")
		from.send(r.group, port, "marker")
		wantArrivals(t, rx, arrival{"marker", r.group, wires[0].at.Index})
	})
}

func TestContractSources(t *testing.T) {
	noLeaks(t)
	w := newWires(t, 1)[0]
	const wanted, alsoWanted, unwanted = 11, 12, 13
	for _, tt := range []struct {
		name     string
		restrict func(cfg *mcast.RxConfig, family netip.Addr)
	}{
		{"Sources", func(cfg *mcast.RxConfig, family netip.Addr) {
			cfg.Sources = []netip.Addr{w.like(family, wanted), w.like(family, alsoWanted), w.like(family, wanted)}
		}},
		{"Blocked", func(cfg *mcast.RxConfig, family netip.Addr) {
			cfg.Blocked = []netip.Addr{w.like(family, unwanted), w.like(family, unwanted), w.like(family, 14)}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			forEachRange(t, func(t *testing.T, r contractRange) {
				port := newPort()
				cfg := mcast.RxConfig{Groups: []netip.Addr{r.group}, Port: port, Interfaces: []mcast.Interface{w.at}}
				tt.restrict(&cfg, r.group)
				rx := openRx(t, cfg)
				control := newNaive(t, nil, r.group, port, w.Name())

				w.station(t, r.group, unwanted).send(r.group, port, "unwanted")
				control.await("unwanted")
				w.station(t, r.group, wanted).send(r.group, port, "wanted")
				w.station(t, r.group, alsoWanted).send(r.group, port, "also wanted")
				wantArrivals(t, rx, arrival{"wanted", r.group, w.at.Index}, arrival{"also wanted", r.group, w.at.Index})
			})
		})
	}
}

// Sources and Blocked are per family: those of the one leave the groups of the other as they are.
func TestContractSourcesMixedFamilies(t *testing.T) {
	noLeaks(t)
	w := newWires(t, 1)[0]
	v4, v6 := contractRanges[0].group, contractRanges[3].group
	const one, two = 11, 12
	for _, tt := range []struct {
		name     string
		restrict func(cfg *mcast.RxConfig)
		want     []arrival // of the four datagrams
	}{
		{"IPv4 source", func(cfg *mcast.RxConfig) { cfg.Sources = []netip.Addr{w.addr4(one)} },
			[]arrival{{"one", v4, w.at.Index}, {"one", v6, w.at.Index}, {"two", v6, w.at.Index}}},
		{"IPv6 source", func(cfg *mcast.RxConfig) { cfg.Sources = []netip.Addr{w.addr6(one)} },
			[]arrival{{"one", v4, w.at.Index}, {"two", v4, w.at.Index}, {"one", v6, w.at.Index}}},
		{"sources of both", func(cfg *mcast.RxConfig) { cfg.Sources = []netip.Addr{w.addr6(one), w.addr4(two)} },
			[]arrival{{"two", v4, w.at.Index}, {"one", v6, w.at.Index}}},
		{"both blocked", func(cfg *mcast.RxConfig) { cfg.Blocked = []netip.Addr{w.addr6(one), w.addr4(two)} },
			[]arrival{{"one", v4, w.at.Index}, {"two", v6, w.at.Index}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			port := newPort()
			cfg := mcast.RxConfig{Groups: []netip.Addr{v4, v6}, Port: port, Interfaces: []mcast.Interface{w.at}}
			tt.restrict(&cfg)
			rx := openRx(t, cfg)
			want := slices.Clone(tt.want)
			for _, group := range []netip.Addr{v4, v6} {
				control := newNaive(t, nil, group, port, w.Name())
				for id, payload := range map[byte]string{one: "one", two: "two"} {
					w.station(t, group, id).send(group, port, payload)
				}
				control.await("one", "two")
				for id, payload := range map[byte]string{one: "one", two: "two"} { // one of them arrives
					marker := "marker " + network(group) + payload
					w.station(t, group, id).send(group, port, marker)
					if slices.Contains(tt.want, arrival{payload, group, w.at.Index}) {
						want = append(want, arrival{marker, group, w.at.Index})
					}
				}
			}
			wantArrivals(t, rx, want...)
		})
	}
}

// Sockets of one process that restrict the sources differently do not get in each other's way, nor in that of one that
// takes all. Their filters are the kernel's, which joins them for the host.
func TestContractSourcesTogether(t *testing.T) {
	noLeaks(t)
	wires := newWires(t, 2)
	forEachRange(t, func(t *testing.T, r contractRange) {
		port := newPort()
		open := func(restrict func(cfg *mcast.RxConfig)) *mcast.RxSocket {
			cfg := mcast.RxConfig{Groups: []netip.Addr{r.group}, Port: port, Interfaces: interfacesOf(wires)}
			restrict(&cfg)
			return openRx(t, cfg)
		}
		var first, second, blocked []netip.Addr
		for _, w := range wires {
			first, second, blocked = append(first, w.like(r.group, 11)), append(second, w.like(r.group, 12)), append(blocked, w.like(r.group, 11))
		}
		all := open(func(*mcast.RxConfig) {})
		onlyFirst := open(func(cfg *mcast.RxConfig) { cfg.Sources = first })
		onlySecond := open(func(cfg *mcast.RxConfig) { cfg.Sources = second })
		notFirst := open(func(cfg *mcast.RxConfig) { cfg.Blocked = blocked })
		// The second source of one interface, and the first of the other: a filter must not spill over to the other.
		crossed := open(func(cfg *mcast.RxConfig) { cfg.Sources = []netip.Addr{second[0], first[1]} })

		var from1, from2, cross []arrival
		for _, what := range []string{"datagram", "marker"} {
			for i, w := range wires {
				a1, a2 := arrival{fmt.Sprint(what, i, "/1"), r.group, w.at.Index}, arrival{fmt.Sprint(what, i, "/2"), r.group, w.at.Index}
				w.station(t, r.group, 11).send(r.group, port, a1.Payload)
				w.station(t, r.group, 12).send(r.group, port, a2.Payload)
				from1, from2 = append(from1, a1), append(from2, a2)
				cross = append(cross, [][]arrival{{a2}, {a1}}[i]...)
			}
		}
		wantArrivals(t, all, slices.Concat(from1, from2)...) // the control, too
		wantArrivals(t, onlyFirst, from1...)
		wantArrivals(t, onlySecond, from2...)
		wantArrivals(t, notFirst, from2...)
		wantArrivals(t, crossed, cross...)
	})
}

func TestContractSeveralSockets(t *testing.T) {
	noLeaks(t)
	w := newWires(t, 1)[0]
	forEachRange(t, func(t *testing.T, r contractRange) {
		port := newPort()
		var sockets []*mcast.RxSocket
		for range 3 {
			sockets = append(sockets, openRx(t, mcast.RxConfig{Groups: []netip.Addr{r.group}, Port: port, Interfaces: []mcast.Interface{w.at}}))
		}
		from := w.station(t, r.group, 0)
		from.send(r.group, port, "datagram")
		from.send(r.group, port, "marker")
		for _, rx := range sockets {
			wantArrivals(t, rx, arrival{"datagram", r.group, w.at.Index}, arrival{"marker", r.group, w.at.Index})
		}
		// One that goes takes nothing from the others.
		sockets[0].Close()
		from.send(r.group, port, "last")
		for _, rx := range sockets[1:] {
			wantArrivals(t, rx, arrival{"last", r.group, w.at.Index})
		}
	})
}

func TestContractDuplicates(t *testing.T) {
	noLeaks(t)
	wires := newWires(t, 2)
	forEachRange(t, func(t *testing.T, r contractRange) {
		port := newPort()
		groups := []netip.Addr{r.group, r.other, r.group}
		if r.group.Is4() { // once more, as IPv6 writes it
			groups = append(groups, netip.AddrFrom16(r.group.As16()))
		}
		rx := openRx(t, mcast.RxConfig{Groups: groups, Port: port, Interfaces: append(interfacesOf(wires), interfacesOf(wires)...)})
		if n := len(rx.Memberships()); n != 4 {
			t.Errorf("%d pairs of 2 groups and 2 interfaces: %+v", n, rx.Memberships())
		}
		var want []arrival
		for _, what := range []string{"datagram", "marker"} {
			for i, w := range wires {
				for _, group := range []netip.Addr{r.group, r.other} {
					a := arrival{fmt.Sprint(what, i, group), group, w.at.Index}
					w.station(t, r.group, 0).send(group, port, a.Payload)
					want = append(want, a)
				}
			}
		}
		wantArrivals(t, rx, want...)
	})
}

func TestContractMixedFamilies(t *testing.T) {
	noLeaks(t)
	wires := newWires(t, 2)
	port := newPort()
	var groups []netip.Addr
	for _, r := range contractRanges {
		groups = append(groups, r.group)
	}
	rx := openRx(t, mcast.RxConfig{Groups: groups, Port: port, Interfaces: interfacesOf(wires)})
	var want []arrival
	for _, what := range []string{"datagram", "marker"} {
		for i, w := range wires {
			for _, r := range contractRanges {
				from := w.station(t, r.group, 0)
				if what == "datagram" { // one of the unwanted of each family
					control := newNaive(t, nil, r.other, port, w.Name())
					from.send(r.other, port, "other")
					control.await("other")
				}
				a := arrival{fmt.Sprint(what, i, r.group), r.group, w.at.Index}
				from.send(r.group, port, a.Payload)
				want = append(want, a)
			}
		}
	}
	wantArrivals(t, rx, want...)
}

// What a host sends itself: it takes Loopback on both ends to see it.
func TestContractLoopback(t *testing.T) {
	noLeaks(t)
	w := newWires(t, 1)[0]
	for _, tt := range []struct{ tx, rx bool }{{true, true}, {true, false}, {false, true}, {false, false}} {
		t.Run(fmt.Sprintf("tx=%v,rx=%v", tt.tx, tt.rx), func(t *testing.T) {
			forEachRange(t, func(t *testing.T, r contractRange) {
				port := newPort()
				cfg := mcast.RxConfig{Groups: []netip.Addr{r.group}, Port: port, Interfaces: []mcast.Interface{w.at}, Loopback: tt.rx}
				rx := openRx(t, cfg)
				tx := openTx(t, mcast.TxConfig{Groups: []netip.Addr{r.group}, Interfaces: []mcast.Interface{w.at}, Loopback: tt.tx})
				sent := newNaive(t, w.peer, r.group, port, "eth0")
				looped := newNaive(t, nil, r.group, port, w.Name())

				if _, err := tx.WriteToUDPAddrPort([]byte("own"), netip.AddrPortFrom(r.group, port)); err != nil {
					t.Fatal(err)
				}
				sent.await("own") // in any case
				if tt.tx {
					looped.await("own")
				}
				w.station(t, r.group, 0).send(r.group, port, "marker")
				want := []arrival{{"marker", r.group, w.at.Index}}
				if tt.tx && tt.rx {
					want = append(want, arrival{"own", r.group, w.at.Index})
				}
				wantArrivals(t, rx, want...)
			})
		})
	}
}

// Traffic over the loopback interface is always seen.
func TestContractLoopbackInterface(t *testing.T) {
	noLeaks(t)
	lo := mustFind(t, "lo")
	w := newWires(t, 1)[0]
	for _, loopback := range []bool{true, false} {
		t.Run(strconv.FormatBool(loopback), func(t *testing.T) {
			forEachRange(t, func(t *testing.T, r contractRange) {
				port := newPort()
				rx := openRx(t, mcast.RxConfig{Groups: []netip.Addr{r.group}, Port: port, Interfaces: lo, Loopback: loopback})
				tx := openTx(t, mcast.TxConfig{Groups: []netip.Addr{r.group}, Interfaces: lo, Loopback: loopback})
				// What comes in by another interface stays out.
				control := newNaive(t, nil, r.group, port, w.Name())
				w.station(t, r.group, 0).send(r.group, port, "other interface")
				control.await("other interface")

				for _, payload := range []string{"datagram", "marker"} {
					if _, err := tx.WriteToUDPAddrPort([]byte(payload), netip.AddrPortFrom(r.group, port)); err != nil {
						t.Fatal(err)
					}
				}
				wantArrivals(t, rx, arrival{"datagram", r.group, lo[0].Index}, arrival{"marker", r.group, lo[0].Index})
			})
		})
	}
}

// contractChild is, in the environment of a child process, what it shall receive, as JSON.
const contractChild = "MCAST_CONTRACT_CHILD"

type contractOrder struct {
	Group     netip.Addr
	Port      uint16
	Interface string
	Until     string // the last payload
}

// contractReceive is what the child process does: it tells when it listens, and then what it got.
func contractReceive(t *testing.T, order string) {
	var o contractOrder
	if err := json.Unmarshal([]byte(order), &o); err != nil {
		t.Fatal(err)
	}
	rx := openRx(t, mcast.RxConfig{Groups: []netip.Addr{o.Group}, Port: o.Port, Interfaces: mustFind(t, o.Interface)})
	fmt.Println("listening")
	json.NewEncoder(os.Stdout).Encode(arrivals(t, rx, o.Until))
}

func TestContractSecondProcess(t *testing.T) {
	if order := os.Getenv(contractChild); order != "" {
		contractReceive(t, order)
		return
	}
	noLeaks(t)
	wires := newWires(t, 2)
	forEachRange(t, func(t *testing.T, r contractRange) {
		port := newPort()
		order, err := json.Marshal(contractOrder{r.group, port, wires[0].Name(), "marker"})
		if err != nil {
			t.Fatal(err)
		}
		child := exec.Command(os.Args[0], "-test.run=^TestContractSecondProcess$", "-test.count=1", "-test.timeout="+(2*patience).String())
		child.Env = append(os.Environ(), contractChild+"="+string(order),
			"GORACE=atexit_sleep_ms=0 "+os.Getenv("GORACE")) // which sleeps for a second otherwise
		child.Stderr = os.Stderr
		pipe, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { child.Process.Kill(); child.Wait() })
		said := bufio.NewScanner(pipe)
		if !said.Scan() || said.Text() != "listening" {
			rest, _ := io.ReadAll(pipe)
			t.Fatalf("the child says %q %s, %v", said.Text(), rest, said.Err())
		}

		// This one is on both interfaces, and so is the control: the other process must not get the other's.
		rx := openRx(t, mcast.RxConfig{Groups: []netip.Addr{r.group}, Port: port, Interfaces: interfacesOf(wires)})
		control := newNaive(t, nil, r.other, port, wires[0].Name())
		from, elsewhere := wires[0].station(t, r.group, 0), wires[1].station(t, r.group, 0)
		from.send(r.other, port, "other group")
		elsewhere.send(r.group, port, "other interface")
		control.await("other group", "other interface")
		from.send(r.group, port, "datagram")
		from.send(r.group, port, "marker")

		want := []arrival{{"datagram", r.group, wires[0].at.Index}, {"marker", r.group, wires[0].at.Index}}
		wantArrivals(t, rx, append(want, arrival{"other interface", r.group, wires[1].at.Index})...)
		if !said.Scan() {
			t.Fatalf("the child says no more: %v", said.Err())
		}
		var got []arrival
		if err := json.Unmarshal(said.Bytes(), &got); err != nil {
			t.Fatalf("the child says %q: %v", said.Text(), err)
		}
		compareArrivals(t, got, want)
		for said.Scan() { // to the end, as Wait wants it
		}
		if err := child.Wait(); err != nil {
			t.Error(err)
		}
	})
}

// contractReader is an RxSocket of the random test, with what it wants.
type contractReader struct {
	*mcast.RxSocket
	groups []netip.Addr
	wires  []*wire
	port   uint16
}

func (r *contractReader) wants(group netip.Addr, w *wire, port uint16) bool {
	return port == r.port && slices.Contains(r.groups, group) && slices.Contains(r.wires, w)
}

// TestContractRandom sends what comes to its mind, and each of several sockets, which differ in all they can, must
// receive what it wants of that. The datagrams come in rounds that fit into a receive buffer, each with markers at
// its end; every other round is read by ReadFrom, datagram by datagram.
func TestContractRandom(t *testing.T) {
	noLeaks(t)
	const rounds, perRound = 20, 100
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))

	wires := newWires(t, 3)
	var groups []netip.Addr
	for _, r := range contractRanges {
		groups = append(groups, r.group, r.other)
	}
	portA, portB := newPort(), newPort()
	readers := []*contractReader{
		{groups: groups, wires: wires, port: portA},
		{groups: []netip.Addr{groups[0], groups[2], groups[4], groups[6], groups[8]}, wires: wires[:1], port: portA},
		{groups: []netip.Addr{groups[1], groups[2], groups[5], groups[6], groups[9]}, wires: wires[1:], port: portA},
		{groups: []netip.Addr{groups[0], groups[4]}, wires: []*wire{wires[0], wires[2]}, port: portB},
		{groups: []netip.Addr{groups[7]}, wires: wires[2:], port: portB},
	}
	for i, r := range readers {
		r.RxSocket = openRx(t, mcast.RxConfig{Groups: r.groups, Port: r.port, Interfaces: interfacesOf(r.wires),
			Coalesce: i%2 == 1, HopLimits: i == 2})
	}
	stations := map[*wire][2]*station{}
	for _, w := range wires {
		stations[w] = [2]*station{w.station(t, w.IPv4, 0), w.station(t, w.IPv6, 0)}
	}
	send := func(w *wire, to netip.Addr, port uint16, payload string) {
		i := 0
		if to.Is6() {
			i = 1
		}
		stations[w][i].send(to, port, payload)
	}

	for round := range rounds {
		want := make([][]arrival, len(readers))
		note := func(w *wire, group netip.Addr, port uint16, payload string) {
			for i, r := range readers {
				if r.wants(group, w, port) {
					want[i] = append(want[i], arrival{payload, group, w.at.Index})
				}
			}
		}
		for i := range perRound {
			w := wires[random.IntN(len(wires))]
			group := groups[random.IntN(len(groups))]
			port := []uint16{portA, portB}[random.IntN(2)]
			payload := fmt.Sprintf("%d.%d", round, i)
			if random.IntN(5) == 0 {
				send(w, w.like(group, 1), port, payload+" unicast")
				continue
			}
			send(w, group, port, payload)
			note(w, group, port, payload)
		}
		for _, w := range wires {
			for _, group := range groups {
				for _, port := range []uint16{portA, portB} {
					payload := fmt.Sprintf("%d marker %s %s %d", round, w.Name(), group, port)
					send(w, group, port, payload)
					note(w, group, port, payload)
				}
			}
		}
		for i, r := range readers {
			if round%2 == 0 {
				wantArrivals(t, r.RxSocket, want[i]...)
				continue
			}
			var got []arrival // without what ReadFrom does not tell
			r.SetReadDeadline(time.Now().Add(patience))
			buf := make([]byte, 2048)
			for range want[i] {
				n, _, err := r.ReadFrom(buf)
				if err != nil {
					t.Fatalf("%v after %d of %d", err, len(got), len(want[i]))
				}
				got = append(got, arrival{Payload: string(buf[:n])})
			}
			for j := range want[i] {
				want[i][j] = arrival{Payload: want[i][j].Payload}
			}
			compareArrivals(t, got, want[i]) // one too many is one that is missing here, or else in the next round
		}
		if t.Failed() {
			t.Fatalf("in round %d with seed %d", round, seed)
		}
	}
}

// Closed is closed: a socket that was read by nobody gives nothing any more, and its port is free for others.
func TestContractAfterClose(t *testing.T) {
	noLeaks(t)
	w := newWires(t, 1)[0]
	forEachRange(t, func(t *testing.T, r contractRange) {
		port := newPort()
		rx := openRx(t, mcast.RxConfig{Groups: []netip.Addr{r.group}, Port: port, Interfaces: []mcast.Interface{w.at}})
		control := newNaive(t, nil, r.group, port, w.Name())
		w.station(t, r.group, 0).send(r.group, port, "datagram")
		control.await("datagram")
		if err := rx.Close(); err != nil {
			t.Error(err)
		}
		if n, err := rx.ReadBatch(make([]mcast.Message, 1)); n != 0 || !errors.Is(err, net.ErrClosed) {
			t.Errorf("ReadBatch after Close: %d, %v", n, err)
		}
		control.Close()
		// A socket that does not share its port can have it now.
		newUnicast(t, nil, unspecified(r.group), port)
	})
}
