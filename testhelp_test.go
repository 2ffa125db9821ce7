// What the tests of the package's users share: wires to other hosts, senders and receivers that do not depend on the
// library, and the interface of the tests that run on every system.

package mcast_test

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-multicast/mcast"
	"github.com/go-multicast/mcast/internal/slow"
	"github.com/go-multicast/mcast/internal/testrun"
	"github.com/go-multicast/mcast/mcasttest"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// patience limits every wait. No test depends on how long something takes, only on that it happens.
var patience = slow.Limit(20 * time.Second)

// contractRange is a range of groups that kernels treat in its own way.
type contractRange struct {
	name         string
	group, other netip.Addr // other is another group of the range
}

// contractRanges has the site's own groups, those that no router forwards and no switch filters, IPv6's link-local groups,
// which alone are bound to an interface by their zone, and IPv6's wider ones, permanent and transient.
var contractRanges = []contractRange{
	{"239", addr("239.77.1.1"), addr("239.77.1.2")},
	{"224.0.0", addr("224.0.0.177"), addr("224.0.0.178")},
	{"ff02", addr("ff02::77:1"), addr("ff02::77:2")},
	{"ff05", addr("ff05::77:1"), addr("ff05::77:2")},
	{"ff15", addr("ff15::77:1"), addr("ff15::77:2")},
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// wire is an interface of the test's namespace, with a host at the other end of its cable.
type wire struct {
	*mcasttest.Interface
	peer *mcasttest.Host
	at   mcast.Interface // as a scan saw it
	net  byte            // of its addresses
}

// newWires returns n wires. Wire i has the addresses 10.77.i.1/24 and fd77:0:0:i::1/64. Its peer has .254 and ::fe.
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

// like returns the address on the wire that has the family of group and ends in id.
func (w *wire) like(group netip.Addr, id byte) netip.Addr {
	if group.Is4() {
		return w.addr4(id)
	}
	return w.addr6(id)
}

// station opens a sender at the other end of the wire, with the address that ends in id. With 0 the kernel chooses it.
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

// on calls f on the host. A nil host is the one of the test.
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

// station sends with package net and x/net alone. What it sends does not depend on the code under test.
type station struct {
	*net.UDPConn
	t testing.TB
}

// newStation opens a socket on the host. It is bound to src and sends multicast through the interface.
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

// newNaive joins the group on the interfaces of the host. A nil host is the one of the test.
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

// newUnicast returns a control that receives what is sent to an address.
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

// await reads until all payloads have arrived. It returns everything that it has read.
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

// arrival is what a test compares of a datagram.
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

// arrivals reads until all payloads have arrived. It returns everything that it has read. Its batch has room for more than
// any test leaves unread, so one call takes everything that is there, from every OS socket.
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

// wantArrivals reads until all of want has arrived. It fails the test unless each has arrived once and nothing else has.
// What it does not read stays for the next call. So the last of want should be markers, one for each path on which
// something unwanted could arrive.
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

// newPort returns a port that no other test of this process uses. It is below the range of ephemeral ports.
func newPort() uint16 { return uint16(20000 + ports.Add(1)%10000) }

// noLeaks fails the test if it ends with more goroutines or file descriptors than it began with. Call it before the test
// creates anything.
func noLeaks(t testing.TB) {
	t.Helper()
	mcasttest.Require(t)
	warm, err := net.ListenPacket("udp4", "127.0.0.1:0") // opens the descriptors of the runtime's poller, which stay open
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

// openFiles counts the process's file descriptors on Linux. Other systems open some for threads that the runtime starts.
func openFiles() int {
	if runtime.GOOS != "linux" {
		return 0
	}
	entries, _ := os.ReadDir("/proc/self/fd")
	return len(entries)
}

// forEachRange runs f for every range of groups.
func forEachRange(t *testing.T, f func(t *testing.T, r contractRange)) {
	for _, r := range contractRanges {
		t.Run(r.name, func(t *testing.T) { f(t, r) })
	}
}

// home returns the interface of the tests that run on every system: the one that MCAST_TEST_INTERFACE names, by default the
// loopback interface. Wine delivers no multicast to a socket that is bound to 127.0.0.1, so it needs another one.
func home(t testing.TB) mcast.Interface {
	t.Helper()
	mcasttest.Require(t)
	if spec := os.Getenv("MCAST_TEST_INTERFACE"); spec != "" {
		return mustFind(t, spec)[0]
	}
	all, err := mcast.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(all, mcast.Interface.IsLoopback)
	if i < 0 {
		t.Skip("there is no loopback interface")
	}
	return all[i]
}

// local is a test at home, with its groups and its port.
type local struct {
	*testing.T
	ifc    mcast.Interface
	groups []netip.Addr
	port   uint16
}

// forEachLocal runs f with the groups of each family that home has.
func forEachLocal(t *testing.T, f func(t *testing.T, l *local)) {
	noLeaks(t)
	ifc := home(t)
	t.Run("IPv4", func(t *testing.T) {
		if len(ifc.IPv4) == 0 {
			t.Skipf("%s has no IPv4 address", ifc.Name)
		}
		f(t, &local{t, ifc, groupsOf("239.79.1.1", "239.79.1.2", "239.79.1.3"), newPort()})
	})
	t.Run("IPv6", func(t *testing.T) {
		if len(ifc.IPv6) == 0 {
			t.Skipf("%s has no IPv6 address", ifc.Name)
		}
		f(t, &local{t, ifc, groupsOf("ff02::79:1", "ff02::79:2", "ff02::79:3"), newPort()})
	})
}

func groupsOf(texts ...string) (all []netip.Addr) {
	for _, text := range texts {
		all = append(all, addr(text))
	}
	return all
}

// rx opens a receiver of the first group. change may change its configuration.
func (l *local) rx(change func(*mcast.RxConfig)) *mcast.RxSocket {
	l.Helper()
	cfg := mcast.RxConfig{Groups: l.groups[:1], Port: l.port, Interfaces: []mcast.Interface{l.ifc}, Loopback: true}
	if change != nil {
		change(&cfg)
	}
	rx := openRx(l, cfg)
	rx.SetReadDeadline(time.Now().Add(patience))
	return rx
}

// tx opens a sender to all groups. change may change its configuration.
func (l *local) tx(change func(*mcast.TxConfig)) *mcast.TxSocket {
	l.Helper()
	cfg := mcast.TxConfig{Groups: l.groups, Interfaces: []mcast.Interface{l.ifc}, Loopback: true}
	if change != nil {
		change(&cfg)
	}
	tx := openTx(l, cfg)
	tx.SetReadDeadline(time.Now().Add(patience))
	return tx
}

func (l *local) send(tx *mcast.TxSocket, group int, payload string) {
	l.Helper()
	if n, err := tx.WriteToUDPAddrPort([]byte(payload), netip.AddrPortFrom(l.groups[group], l.port)); err != nil || n != len(payload) {
		l.Fatalf("write: %d, %v", n, err)
	}
}

// want reads the payloads, and no others. It returns the source of the last one.
func (l *local) want(rx interface {
	ReadFromUDPAddrPort([]byte) (int, netip.AddrPort, error)
}, payloads ...string) (src netip.AddrPort) {
	l.Helper()
	buf := make([]byte, 1000)
	for _, want := range payloads {
		n, from, err := rx.ReadFromUDPAddrPort(buf)
		if err != nil || string(buf[:n]) != want {
			l.Fatalf("read %q, %v; want %q", buf[:n], err, want)
		}
		src = from
	}
	return src
}

// own reports whether a is an address of home.
func (l *local) own(a netip.Addr) bool {
	prefixes := slices.Concat(l.ifc.IPv4, l.ifc.IPv6)
	return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Addr() == a.WithZone("") })
}

// ownAddr returns an address of home that a datagram can be sent to.
func (l *local) ownAddr() netip.Addr {
	if l.groups[0].Is4() {
		return l.ifc.IPv4[0].Addr()
	}
	a := l.ifc.IPv6[0].Addr()
	if a.IsLinkLocalUnicast() {
		a = a.WithZone(strconv.Itoa(l.ifc.Index))
	}
	return a
}

// deadlineEndsRead fails the test unless a deadline ends a read that is blocked and all later ones.
func deadlineEndsRead(t testing.TB, s net.PacketConn) {
	t.Helper()
	s.SetReadDeadline(time.Time{})
	done := make(chan error)
	go func() {
		_, _, err := s.ReadFrom(make([]byte, 10))
		done <- err
	}()
	select {
	case err := <-done:
		t.Errorf("a read without a deadline returned: %v", err)
	case <-time.After(20 * time.Millisecond): // the read may not block yet: the deadline must end it in any case
		s.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
		var ne net.Error
		if err := <-done; !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &ne) || !ne.Timeout() {
			t.Error(err)
		}
	}
	if _, _, err := s.ReadFrom(make([]byte, 10)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a second read: %v", err)
	}
	s.SetReadDeadline(time.Now().Add(patience))
}

// closeEndsReads closes s. It fails the test unless that ends all reads that are blocked and s is closed afterwards.
func closeEndsReads(t testing.TB, s net.PacketConn) {
	t.Helper()
	s.SetReadDeadline(time.Time{})
	const readers = 3
	done := make(chan error, readers)
	for range readers {
		go func() {
			_, _, err := s.ReadFrom(make([]byte, 10))
			done <- err
		}()
	}
	testrun.AwaitParked(t, readers, "Socket).ReadFrom")
	if err := s.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	for range readers {
		if err := <-done; !errors.Is(err, net.ErrClosed) {
			t.Errorf("a read that was blocked: %v", err)
		}
	}
	if err := s.Close(); err != nil {
		t.Errorf("Close again: %v", err)
	}
	if err := s.SetReadDeadline(time.Now()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("SetReadDeadline after Close: %v", err)
	}
}
