// What a user relies on, tested on every system: over the loopback interface, or over the one that MCAST_TEST_INTERFACE
// names where that cannot do it (Wine gives multicast to no socket that is bound to 127.0.0.1). What takes more than
// one interface, or other hosts, is in contract_test.go.

package mcast_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-multicast/mcast"
	"github.com/go-multicast/mcast/mcasttest"
)

// home is the interface of these tests.
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

// local is a receiver and a sender at home, and what they talk about.
type local struct {
	*testing.T
	ifc    mcast.Interface
	groups []netip.Addr
	port   uint16
}

// forEachLocal runs a test for the groups of each family that home has.
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

// rx opens a receiver of the first group, unless change says otherwise.
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

// tx opens a sender to all groups.
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

// want reads the payloads, and no others.
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

func (l *local) own(a netip.Addr) bool {
	return slices.ContainsFunc(slices.Concat(l.ifc.IPv4, l.ifc.IPv6), func(p netip.Prefix) bool { return p.Addr() == a.WithZone("") })
}

func TestLocalExchange(t *testing.T) {
	forEachLocal(t, func(t *testing.T, l *local) {
		rx, tx := l.rx(func(cfg *mcast.RxConfig) { cfg.HopLimits = true }), l.tx(func(cfg *mcast.TxConfig) { cfg.TTL = 7 })
		l.send(tx, 0, "one")
		src := l.want(rx, "one")
		if !l.own(src.Addr()) || int(src.Port()) != tx.LocalAddr().(*net.UDPAddr).Port && len(tx.Interfaces()) == 1 {
			t.Errorf("it came from %v; the sender is %v on %+v", src, tx.LocalAddr(), l.ifc)
		}
		if zone := src.Addr().Zone(); src.Addr().IsLinkLocalUnicast() != (zone == fmt.Sprint(l.ifc.Index)) {
			t.Errorf("the zone of %v is %q, want the interface's index", src, zone)
		}
		l.send(tx, 0, "two")
		l.send(tx, 0, "")
		ms := []mcast.Message{{Buf: make([]byte, 10)}}
		for _, payload := range []string{"two", ""} {
			n, err := rx.ReadBatch(ms)
			m := ms[0]
			if n != 1 || err != nil || string(m.Buf[:m.N]) != payload || m.Addr != src || m.Group != l.groups[0] ||
				m.IfIndex != l.ifc.Index || m.HopLimit != 7 || m.Truncated {
				t.Errorf("%d, %v: %+v", n, err, m)
			}
		}
		all := rx.Memberships()
		if len(all) != 1 || !all[0].Joined || all[0].Packets != 3 || all[0].Bytes != 6 || all[0].ReadBuffer <= 0 || all[0].IfIndex != l.ifc.Index {
			t.Errorf("%+v", all)
		}
	})
}

// TestLocalOthers checks that nothing is read but what was joined. The controls are another socket, which reads the other
// group, and the marker, which goes the same way after what must not be read.
func TestLocalOthers(t *testing.T) {
	forEachLocal(t, func(t *testing.T, l *local) {
		rx := l.rx(nil)
		control := l.rx(func(cfg *mcast.RxConfig) { cfg.Groups = l.groups[1:2] })
		tx := l.tx(nil)
		own := slices.Concat(l.ifc.IPv4, l.ifc.IPv6)[0].Addr()
		if l.groups[0].Is6() {
			own = l.ifc.IPv6[0].Addr()
		}
		if own.IsLinkLocalUnicast() && own.Is6() {
			own = own.WithZone(fmt.Sprint(l.ifc.Index))
		}
		unicast, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(own, l.port)))
		if err != nil {
			t.Fatal(err)
		}
		defer unicast.Close()
		unicast.Write([]byte("unicast")) // refused where nobody listens for it
		l.send(tx, 1, "other")
		l.send(tx, 0, "marker")
		l.want(rx, "marker")
		l.want(control, "other")
	})
}

// TestLocalShared checks that several sockets each get each datagram once, and that a sender which shares their port
// gets none.
func TestLocalShared(t *testing.T) {
	forEachLocal(t, func(t *testing.T, l *local) {
		tx := l.tx(func(cfg *mcast.TxConfig) { cfg.Port = l.port })
		readers := []*mcast.RxSocket{l.rx(nil), l.rx(func(cfg *mcast.RxConfig) { cfg.Groups = l.groups }), l.rx(nil)}
		for _, payload := range []string{"one", "two"} {
			l.send(tx, 0, payload)
		}
		for _, rx := range readers {
			src := l.want(rx, "one", "two")
			if src.Port() != l.port {
				t.Errorf("the source is %v, want port %d", src, l.port)
			}
			rx.Close() // or it takes the unicast below, where the port is the socket's for that, too
		}
		from := l.rx(func(cfg *mcast.RxConfig) { cfg.Port = newPort() })
		if _, err := from.WriteToUDPAddrPort([]byte("unicast"), netip.AddrPortFrom(ownAddr(l), l.port)); err != nil {
			t.Fatal(err)
		}
		l.want(tx, "unicast")
	})
}

// TestLocalOwn checks that without Loopback a receiver does not get what its host sends, but for what goes by the
// loopback interface.
func TestLocalOwn(t *testing.T) {
	forEachLocal(t, func(t *testing.T, l *local) {
		without := l.rx(func(cfg *mcast.RxConfig) { cfg.Loopback = false })
		control := l.rx(nil)
		l.send(l.tx(nil), 0, "own")
		l.want(control, "own")
		if l.ifc.IsLoopback() {
			l.want(without, "own")
			return
		}
		without.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		if n, src, err := without.ReadFromUDPAddrPort(make([]byte, 10)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("read %d bytes from %v, %v", n, src, err)
		}
	})
}

// ownAddr is an address of home to send to.
func ownAddr(l *local) netip.Addr {
	if l.groups[0].Is4() {
		return l.ifc.IPv4[0].Addr()
	}
	a := l.ifc.IPv6[0].Addr()
	if a.IsLinkLocalUnicast() {
		a = a.WithZone(fmt.Sprint(l.ifc.Index))
	}
	return a
}

func TestLocalReply(t *testing.T) {
	forEachLocal(t, func(t *testing.T, l *local) {
		rx, tx := l.rx(nil), l.tx(nil)
		for _, round := range []string{"first", "second"} {
			l.send(tx, 0, "question")
			src := l.want(rx, "question")
			if _, err := rx.WriteToUDPAddrPort([]byte(round), src); err != nil {
				t.Fatal(err)
			}
			if from := l.want(tx, round); from.Port() != l.port || !l.own(from.Addr()) {
				t.Errorf("the reply came from %v, want one of our own addresses, and port %d", from, l.port)
			}
		}
		rx.Close()
		if _, err := rx.WriteToUDPAddrPort([]byte("late"), netip.AddrPortFrom(ownAddr(l), 9)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("write after Close: %v", err)
		}
	})
}

// TestLocalReplyToMany replies to what is no single host's address, as a forged source may be. That a reply to one is
// sent, TestLocalReply shows.
func TestLocalReplyToMany(t *testing.T) {
	forEachLocal(t, func(t *testing.T, l *local) {
		rx := l.rx(nil)
		to := groupsOf("::")
		if l.groups[0].Is4() {
			// The broadcast address of the network is one more.
			p := l.ifc.IPv4[0]
			b := binary.BigEndian.Uint32(p.Addr().AsSlice()) | uint32(1<<(32-p.Bits())-1)
			to = append(groupsOf("0.0.0.0", "255.255.255.255"), netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, b))))
		}
		for _, a := range append(to, l.groups[0]) {
			var op *mcast.OpError
			if n, err := rx.WriteToUDPAddrPort([]byte("reply"), netip.AddrPortFrom(a, 9)); n != 0 || !errors.As(err, &op) || op.Op != "write" {
				t.Errorf("to %v: %d, %v", a, n, err)
			}
		}
	})
}

func TestLocalJoinLeave(t *testing.T) {
	forEachLocal(t, func(t *testing.T, l *local) {
		rx, tx := l.rx(nil), l.tx(nil)
		control := l.rx(func(cfg *mcast.RxConfig) { cfg.Groups = l.groups })
		for range 3 {
			if err := rx.Join(l.groups[1]); err != nil {
				t.Fatal(err)
			}
			l.send(tx, 1, "joined")
			l.want(rx, "joined")
			l.want(control, "joined")
			if err := rx.Leave(l.groups[1]); err != nil {
				t.Fatal(err)
			}
			l.send(tx, 1, "left")
			l.want(control, "left")
			l.send(tx, 0, "marker")
			l.want(rx, "marker")
			l.want(control, "marker")
		}
		if err := rx.Leave(l.groups[1]); !errors.Is(err, mcast.ErrNotJoined) {
			t.Errorf("leaving again: %v", err)
		}
		// All of them, and back again: where they share an OS socket, that must come and go, too.
		if err := rx.Leave(l.groups[0]); err != nil {
			t.Fatal(err)
		}
		if all := rx.Memberships(); len(all) != 0 {
			t.Errorf("left: %+v", all)
		}
		if err := rx.Join(l.groups[2]); err != nil {
			t.Fatal(err)
		}
		l.send(tx, 2, "again")
		l.want(rx, "again")
	})
}

// TestLocalManyGroups joins more groups than Linux allows for a socket.
func TestLocalManyGroups(t *testing.T) {
	forEachLocal(t, func(t *testing.T, l *local) {
		const many = 30
		first := l.groups[0].As16()
		l.groups = nil
		for n := range many {
			first[15] = byte(n)
			l.groups = append(l.groups, netip.AddrFrom16(first).Unmap())
		}
		skipWine(t, l.groups[0].Is4(), "lets Linux's limit of 20 groups for a socket through")
		rx, tx := l.rx(func(cfg *mcast.RxConfig) { cfg.Groups = l.groups }), l.tx(nil)
		for n := range many {
			l.send(tx, n, fmt.Sprint(n))
		}
		got := make(map[string]netip.Addr)
		for len(got) < many {
			ms := make([]mcast.Message, 7)
			for i := range ms {
				ms[i].Buf = make([]byte, 10)
			}
			n, err := rx.ReadBatch(ms)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range ms[:n] {
				got[string(m.Buf[:m.N])] = m.Group
			}
		}
		for n, g := range l.groups {
			if got[fmt.Sprint(n)] != g {
				t.Errorf("datagram %d came by group %v, want %v", n, got[fmt.Sprint(n)], g)
			}
		}
		if all := rx.Memberships(); len(all) != many || all[many-1].Packets != 1 {
			t.Errorf("%d memberships, the last %+v", len(all), all[len(all)-1])
		}
	})
}

func TestLocalSources(t *testing.T) {
	forEachLocal(t, func(t *testing.T, l *local) {
		skipWine(t, l.groups[0].Is4(), "hands IP_ADD_SOURCE_MEMBERSHIP to Linux, which has the fields in another order, and so takes a source "+
			"that is an address of this host for the interface")
		tx, probe := l.tx(nil), l.rx(nil)
		l.send(tx, 0, "probe")
		own := l.want(probe, "probe").Addr().WithZone("")
		other := addr("192.0.2.9")
		if own.Is6() {
			other = addr("2001:db8::9")
		}
		with := func(sources, blocked []netip.Addr) *mcast.RxSocket {
			return l.rx(func(cfg *mcast.RxConfig) { cfg.Groups, cfg.Sources, cfg.Blocked = l.groups, sources, blocked })
		}
		wanted := []*mcast.RxSocket{
			with([]netip.Addr{own}, nil), with([]netip.Addr{other, own}, nil), with(nil, []netip.Addr{other}),
		}
		refused := []*mcast.RxSocket{with([]netip.Addr{other}, nil), with(nil, []netip.Addr{own})}
		l.send(tx, 0, "datagram")
		for _, rx := range wanted {
			l.want(rx, "datagram")
		}
		for i, rx := range refused {
			buf := make([]byte, 100)
			rx.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
			if n, src, err := rx.ReadFromUDPAddrPort(buf); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("read %q from %v, %v", buf[:n], src, err)
			}
			rx.SetReadDeadline(time.Now().Add(patience))
			// Once the source is let in it gets what comes then, and not what was refused before.
			if err := rx.Leave(l.groups[0]); err != nil {
				t.Fatal(err)
			}
			if i == 0 {
				if err := rx.Join(l.groups[0], other); err != nil {
					t.Fatal(err)
				}
				if err := rx.Join(l.groups[0], own); err != nil {
					t.Fatal(err)
				}
				l.send(tx, 0, "let in")
				l.want(rx, "let in")
			}
		}
		m := wanted[1].Memberships()[0]
		if !slices.Equal(m.Sources, []netip.Addr{other, own}) || m.Packets != 1 {
			t.Errorf("%+v", m)
		}
	})
}

func TestLocalSizes(t *testing.T) {
	forEachLocal(t, func(t *testing.T, l *local) {
		rx, tx := l.rx(nil), l.tx(nil)
		l.send(tx, 0, "0123456789")
		l.send(tx, 0, "0123456789")
		l.send(tx, 0, "after")
		buf := make([]byte, 4)
		if n, src, err := rx.ReadFromUDPAddrPort(buf); err != nil || string(buf[:n]) != "0123" || !l.own(src.Addr()) {
			t.Errorf("read %q from %v, %v", buf[:n], src, err)
		}
		ms := []mcast.Message{{Buf: buf}}
		if _, err := rx.ReadBatch(ms); err != nil || ms[0].N != 4 || !ms[0].Truncated || !l.own(ms[0].Addr.Addr()) {
			t.Errorf("%+v, %v", ms[0], err)
		}
		l.want(rx, "after")
		if m := rx.Memberships()[0]; m.Truncated != 2 || m.Packets != 3 {
			t.Errorf("%+v", m)
		}

		most := 65507
		if l.groups[0].Is6() {
			most = 65527
		}
		large := bytes.Repeat([]byte("0123456789abcdef"), most/16+1)[:most]
		dst := netip.AddrPortFrom(l.groups[0], l.port)
		if n, err := tx.WriteToUDPAddrPort(large, dst); n != most || err != nil {
			t.Fatalf("wrote %d, %v", n, err)
		}
		got := make([]byte, most+1)
		if n, _, err := rx.ReadFromUDPAddrPort(got); err != nil || !bytes.Equal(got[:n], large) {
			t.Errorf("read %d bytes, %v", n, err)
		}
		n, err := tx.WriteToUDPAddrPort(append(large, 0), dst)
		var e *mcast.OpError
		if n != 0 || !errors.As(err, &e) || e.Interface != l.ifc.Name || e.Group != l.groups[0] {
			t.Errorf("a datagram that is too large: %d, %v", n, err)
		}
	})
}

func TestLocalDeadline(t *testing.T) {
	forEachLocal(t, func(t *testing.T, l *local) {
		rx, tx := l.rx(nil), l.tx(nil)
		for name, s := range map[string]net.PacketConn{"RxSocket": rx, "TxSocket": tx} {
			s.SetReadDeadline(time.Time{})
			done := make(chan error)
			go func() {
				_, _, err := s.ReadFrom(make([]byte, 10))
				done <- err
			}()
			select {
			case err := <-done:
				t.Errorf("%s: a read without a deadline returned: %v", name, err)
			case <-time.After(20 * time.Millisecond): // it may not block yet, and must notice all the same
				s.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
				var ne net.Error
				if err := <-done; !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &ne) || !ne.Timeout() {
					t.Errorf("%s: %v", name, err)
				}
			}
			if _, _, err := s.ReadFrom(make([]byte, 10)); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%s: a second read: %v", name, err)
			}
			s.SetReadDeadline(time.Now().Add(patience))
		}
		l.send(tx, 0, "after")
		l.want(rx, "after")
	})
}

func TestLocalClose(t *testing.T) {
	forEachLocal(t, func(t *testing.T, l *local) {
		for range 5 {
			rx, tx := l.rx(nil), l.tx(nil)
			for name, s := range map[string]net.PacketConn{"RxSocket": rx, "TxSocket": tx} {
				s.SetReadDeadline(time.Time{})
				const readers = 3
				done := make(chan error, readers)
				for range readers {
					go func() {
						_, _, err := s.ReadFrom(make([]byte, 10))
						done <- err
					}()
				}
				time.Sleep(time.Millisecond) // so that some block, as a rule
				if err := s.Close(); err != nil {
					t.Errorf("%s: Close: %v", name, err)
				}
				for range readers {
					if err := <-done; !errors.Is(err, net.ErrClosed) {
						t.Errorf("%s: a read that was blocked: %v", name, err)
					}
				}
				if err := s.Close(); err != nil {
					t.Errorf("%s: Close again: %v", name, err)
				}
				if err := s.SetReadDeadline(time.Now()); !errors.Is(err, net.ErrClosed) {
					t.Errorf("%s: SetReadDeadline after Close: %v", name, err)
				}
			}
			if _, err := tx.WriteToUDPAddrPort([]byte("late"), netip.AddrPortFrom(l.groups[0], l.port)); !errors.Is(err, net.ErrClosed) {
				t.Errorf("write after Close: %v", err)
			}
			if err := rx.Join(l.groups[1]); !errors.Is(err, net.ErrClosed) {
				t.Errorf("Join after Close: %v", err)
			}
		}
	})
}

func TestLocalMessages(t *testing.T) {
	forEachLocal(t, func(t *testing.T, l *local) {
		rx, tx := l.rx(nil), l.tx(nil)
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		l.send(tx, 0, "0")
		n := 0
		for m, err := range rx.Messages(ctx) {
			if err != nil || string(m.Buf[:m.N]) != fmt.Sprint(n) || m.Group != l.groups[0] {
				t.Fatalf("message %d: %+v, %v", n, m, err)
			}
			if n++; n == 3 {
				time.AfterFunc(10*time.Millisecond, cancel)
				continue
			}
			l.send(tx, 0, fmt.Sprint(n))
		}
		if n != 3 {
			t.Errorf("%d messages", n)
		}
		l.send(tx, 0, "after")
		l.want(rx, "after")
	})
}

// TestLocalFlood reads a quiet group while others are flooded from several goroutines.
func TestLocalFlood(t *testing.T) {
	forEachLocal(t, func(t *testing.T, l *local) {
		rx, quiet := l.rx(func(cfg *mcast.RxConfig) { cfg.Groups = l.groups }), l.tx(nil)
		var flooding sync.WaitGroup
		defer flooding.Wait()
		stop, end := context.WithCancel(context.Background())
		defer end()
		for _, group := range l.groups[1:] {
			tx := l.tx(nil)
			flooding.Go(func() {
				for stop.Err() == nil {
					tx.WriteToUDPAddrPort([]byte("flood"), netip.AddrPortFrom(group, l.port))
				}
			})
		}
		buf := make([]byte, 100)
		for n := range 20 {
			// On a system where the groups of an interface share a buffer, it may be full.
			want, tries := fmt.Sprint(n), 0
			for got := ""; got != want; tries++ {
				if tries%1000 == 0 {
					l.send(quiet, 0, want)
				}
				k, _, err := rx.ReadFromUDPAddrPort(buf)
				if err != nil {
					t.Fatalf("round %d: %v", n, err)
				}
				got = string(buf[:k])
			}
		}
	})
}

// TestLocalAgain opens and closes many sockets on one port.
func TestLocalAgain(t *testing.T) {
	forEachLocal(t, func(t *testing.T, l *local) {
		for n := range 50 {
			rx, tx := l.rx(nil), l.tx(nil)
			l.send(tx, 0, fmt.Sprint(n))
			l.want(rx, fmt.Sprint(n))
			if err := cmp.Or(rx.Close(), tx.Close()); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// TestLocalTaken checks what is said when another program has the port for itself.
func TestLocalTaken(t *testing.T) {
	forEachLocal(t, func(t *testing.T, l *local) {
		other, err := net.ListenUDP(network(l.groups[0]), &net.UDPAddr{Port: int(l.port)})
		if err != nil {
			t.Fatal(err)
		}
		defer other.Close()
		rx, err := mcast.OpenRx(mcast.RxConfig{Groups: l.groups, Port: l.port, Interfaces: []mcast.Interface{l.ifc}})
		if err == nil {
			rx.Close()
			t.Skip("this system has room for an address beside a wildcard that does not share")
		}
		var e *mcast.OpError
		if !errors.As(err, &e) || !strings.Contains(e.Hint, "program") {
			t.Errorf("%v, want an OpError whose hint tells of the other program", err)
		}
	})
}

func TestLocalNoAllocations(t *testing.T) {
	forEachLocal(t, func(t *testing.T, l *local) {
		// What follows the network allocates when it looks at it.
		rx := l.rx(func(cfg *mcast.RxConfig) { cfg.Static = true })
		tx := l.tx(func(cfg *mcast.TxConfig) { cfg.Static = true })
		dst, buf := netip.AddrPortFrom(l.groups[0], l.port), make([]byte, 100)
		ms := []mcast.Message{{Buf: make([]byte, 100)}}
		if n := testing.AllocsPerRun(100, func() {
			tx.WriteToUDPAddrPort(buf, dst)
			_, src, _ := rx.ReadFromUDPAddrPort(buf)
			rx.WriteToUDPAddrPort(buf, src)
			tx.ReadFromUDPAddrPort(buf)
			tx.WriteToUDPAddrPort(buf, dst)
			rx.ReadBatch(ms)
		}); n != 0 {
			t.Errorf("%v allocations", n)
		}
	})
}
