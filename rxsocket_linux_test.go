// What the user of an RxSocket relies on beyond the contract, on Linux: the kernel's limits are not the socket's, groups
// come and go while it is read, what it tells of datagrams and of itself is true, and deadlines, contexts and Close do
// what they do in package net.

package mcast_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-multicast/mcast"
	"github.com/go-multicast/mcast/internal/testrun"
	"github.com/go-multicast/mcast/mcasttest"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// The two families, where a test is not about ranges.
var contractFamilies = []contractRange{contractRanges[0], contractRanges[3]}

func forEachFamily(t *testing.T, f func(t *testing.T, r contractRange)) {
	for _, r := range contractFamilies {
		name := "IPv4"
		if r.group.Is6() {
			name = "IPv6"
		}
		t.Run(name, func(t *testing.T) { f(t, r) })
	}
}

// onWire is a configuration for groups on one wire.
func onWire(w *wire, port uint16, groups ...netip.Addr) mcast.RxConfig {
	return mcast.RxConfig{Groups: groups, Port: port, Interfaces: []mcast.Interface{w.at}}
}

// groupLike returns the n-th group of a family.
func groupLike(family netip.Addr, n int) netip.Addr {
	if family.Is4() {
		return netip.AddrFrom4([4]byte{239, 78, byte(n >> 8), byte(n)})
	}
	return netip.AddrFrom16([16]byte{0: 0xff, 1: 0x05, 13: 0x78, 14: byte(n >> 8), 15: byte(n)})
}

// membership returns that of the group on the interface.
func membership(t testing.TB, rx *mcast.RxSocket, group netip.Addr, ifname string) mcast.Membership {
	t.Helper()
	for _, m := range rx.Memberships() {
		if m.Group == group && m.Interface == ifname {
			return m
		}
	}
	t.Fatalf("no membership of %s on %s in %+v", group, ifname, rx.Memberships())
	return mcast.Membership{}
}

// awaitBlocked waits until n goroutines are inside reads of sockets of this package and wait, for the kernel or, if
// others are before them, for these.
func awaitBlocked(t testing.TB, n int) {
	t.Helper()
	eventually(t, fmt.Sprint(n, " reads that are blocked"), func() bool { return testrun.Parked("(*RxSocket).", "(*TxSocket).") == n })
}

// outcome is what a read in another goroutine came to.
type outcome struct {
	payload string
	err     error
}

// readers are ways to wait for a datagram.
var readers = []struct {
	name string
	read func(rx *mcast.RxSocket) outcome
}{
	{"ReadFrom", func(rx *mcast.RxSocket) outcome {
		buf := make([]byte, 2048)
		n, _, err := rx.ReadFrom(buf)
		return outcome{string(buf[:n]), err}
	}},
	{"ReadFromUDPAddrPort", func(rx *mcast.RxSocket) outcome {
		buf := make([]byte, 2048)
		n, _, err := rx.ReadFromUDPAddrPort(buf)
		return outcome{string(buf[:n]), err}
	}},
	{"ReadBatch", func(rx *mcast.RxSocket) outcome {
		ms := []mcast.Message{{Buf: make([]byte, 2048)}}
		_, err := rx.ReadBatch(ms)
		return outcome{string(ms[0].Buf[:ms[0].N]), err}
	}},
	{"Messages", func(rx *mcast.RxSocket) outcome {
		for m, err := range rx.Messages(context.Background()) {
			if err != nil {
				return outcome{"", err}
			}
			return outcome{string(m.Buf[:m.N]), nil}
		}
		return outcome{"", errEnded}
	}},
}

// describe is a message in brief.
func describe(m *mcast.Message) string {
	if m == nil {
		return "nil"
	}
	return fmt.Sprintf("%.50q (%d bytes, truncated: %v) to %s by %d", m.Buf[:m.N], m.N, m.Truncated, m.Group, m.IfIndex)
}

// errEnded is how a loop over Messages ends.
var errEnded = errors.New("no more messages")

// start reads in another goroutine.
func start(read func() outcome) <-chan outcome {
	c := make(chan outcome, 1)
	go func() { c <- read() }()
	return c
}

func await(t testing.TB, c <-chan outcome) outcome {
	t.Helper()
	select {
	case o := <-c:
		return o
	case <-time.After(patience):
		t.Fatal("a read does not return")
		return outcome{}
	}
}

func TestRxManyGroups(t *testing.T) {
	noLeaks(t)
	const count = 100
	w := newWires(t, 1)[0]
	forEachFamily(t, func(t *testing.T, r contractRange) {
		if r.group.Is4() { // the control: one socket cannot
			n := newNaive(t, nil, r.group, newPort(), w.Name())
			var err error
			for i := 0; i < count && err == nil; i++ {
				err = ipv4.NewPacketConn(n).JoinGroup(&net.Interface{Index: w.at.Index}, &net.UDPAddr{IP: groupLike(r.group, i).AsSlice()})
			}
			if !errors.Is(err, unix.ENOBUFS) {
				t.Fatalf("one socket with %d groups: %v", count, err)
			}
		}
		port := newPort()
		var groups []netip.Addr
		for i := range count {
			groups = append(groups, groupLike(r.group, i))
		}
		rx := openRx(t, onWire(w, port, groups...))
		from := w.station(t, r.group, 0)
		var want []arrival
		for _, what := range []string{"datagram", "marker"} {
			for _, g := range groups {
				from.send(g, port, what+g.String())
				want = append(want, arrival{what + g.String(), g, w.at.Index})
			}
		}
		wantArrivals(t, rx, want...)
	})
}

// manySources is more than the kernel takes for one socket: net.ipv4.igmp_max_msf is 10, net.ipv6.mld_max_msf 64.
func manySources(r contractRange, w *wire) (sources []netip.Addr, ids []byte) {
	count := 25
	if r.group.Is6() {
		count = 80
	}
	for id := byte(20); len(sources) < count; id++ {
		sources, ids = append(sources, w.like(r.group, id)), append(ids, id)
	}
	return sources, ids
}

// refusedByOneSocket is the control of manySources.
func refusedByOneSocket(t *testing.T, group netip.Addr, sources []netip.Addr, w *wire) {
	t.Helper()
	pc, err := net.ListenPacket(network(group), ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	ifi := &net.Interface{Index: w.at.Index}
	g := &net.UDPAddr{IP: group.AsSlice()}
	for _, s := range sources {
		if group.Is4() {
			err = ipv4.NewPacketConn(pc).JoinSourceSpecificGroup(ifi, g, &net.UDPAddr{IP: s.AsSlice()})
		} else {
			err = ipv6.NewPacketConn(pc).JoinSourceSpecificGroup(ifi, g, &net.UDPAddr{IP: s.AsSlice()})
		}
		if errors.Is(err, unix.ENOBUFS) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Fatalf("one socket takes %d sources: they are not many", len(sources))
}

func TestRxManySources(t *testing.T) {
	noLeaks(t)
	w := newWires(t, 1)[0]
	const unwanted = 11
	forEachFamily(t, func(t *testing.T, r contractRange) {
		port := newPort()
		sources, ids := manySources(r, w)
		refusedByOneSocket(t, r.group, sources, w)
		cfg := onWire(w, port, r.group)
		cfg.Sources = sources
		rx := openRx(t, cfg)
		control := newNaive(t, nil, r.group, port, w.Name())
		w.station(t, r.group, unwanted).send(r.group, port, "unwanted")
		control.await("unwanted")
		var want []arrival
		for _, what := range []string{"datagram", "marker"} {
			for _, id := range ids {
				a := arrival{fmt.Sprint(what, id), r.group, w.at.Index}
				w.station(t, r.group, id).send(r.group, port, a.Payload)
				want = append(want, a)
			}
		}
		wantArrivals(t, rx, want...)

		// However many OS sockets it takes, it is one membership.
		ms := rx.Memberships()
		if len(ms) != 1 || !slices.Equal(ms[0].Sources, sources) || int(ms[0].Packets) != len(want) || !ms[0].Joined {
			t.Errorf("memberships %+v", ms)
		}
	})
}

func TestRxManyBlocked(t *testing.T) {
	noLeaks(t)
	w := newWires(t, 1)[0]
	forEachFamily(t, func(t *testing.T, r contractRange) {
		port := newPort()
		blocked, ids := manySources(r, w)
		cfg := onWire(w, port, r.group)
		cfg.Blocked = blocked
		rx := openRx(t, cfg)
		control := newNaive(t, nil, r.group, port, w.Name())
		for _, id := range ids {
			w.station(t, r.group, id).send(r.group, port, fmt.Sprint("blocked", id))
			control.await(fmt.Sprint("blocked", id))
		}
		from := w.station(t, r.group, 11)
		from.send(r.group, port, "datagram")
		from.send(r.group, port, "marker")
		wantArrivals(t, rx, arrival{"datagram", r.group, w.at.Index}, arrival{"marker", r.group, w.at.Index})
		if m := membership(t, rx, r.group, w.Name()); m.Packets != 2 || m.Dropped != 0 || !slices.Equal(m.Blocked, blocked) {
			t.Errorf("membership %+v", m)
		}
	})
}

func TestRxJoinWhileReading(t *testing.T) {
	noLeaks(t)
	w := newWires(t, 1)[0]
	for _, reader := range readers {
		t.Run(reader.name, func(t *testing.T) {
			forEachRange(t, func(t *testing.T, r contractRange) {
				port := newPort()
				rx := openRx(t, onWire(w, port, r.group))
				got := start(func() outcome { return reader.read(rx) })
				awaitBlocked(t, 1)
				if err := rx.Join(r.other); err != nil {
					t.Fatal(err)
				}
				w.station(t, r.group, 0).send(r.other, port, "new")
				if o := await(t, got); o.payload != "new" || o.err != nil {
					t.Errorf("read %q, %v", o.payload, o.err)
				}
			})
		})
	}
}

// A read that is blocked outlives the groups it began with.
func TestRxLeaveWhileReading(t *testing.T) {
	noLeaks(t)
	w := newWires(t, 1)[0]
	forEachRange(t, func(t *testing.T, r contractRange) {
		port := newPort()
		rx := openRx(t, onWire(w, port, r.group))
		got := start(func() outcome { return readers[0].read(rx) })
		awaitBlocked(t, 1)
		if err := rx.Leave(r.group); err != nil {
			t.Fatal(err)
		}
		if ms := rx.Memberships(); len(ms) != 0 {
			t.Errorf("memberships %+v", ms)
		}
		control := newNaive(t, nil, r.group, port, w.Name())
		from := w.station(t, r.group, 0)
		from.send(r.group, port, "left")
		control.await("left")
		if err := rx.Join(r.other); err != nil {
			t.Fatal(err)
		}
		from.send(r.other, port, "new")
		if o := await(t, got); o.payload != "new" || o.err != nil {
			t.Errorf("read %q, %v", o.payload, o.err)
		}
	})
}

func TestRxLeave(t *testing.T) {
	noLeaks(t)
	w := newWires(t, 1)[0]
	forEachRange(t, func(t *testing.T, r contractRange) {
		port := newPort()
		rx := openRx(t, onWire(w, port, r.group, r.other))
		control := newNaive(t, nil, r.group, port, w.Name())
		from := w.station(t, r.group, 0)
		marker := func(text string) arrival {
			t.Helper()
			from.send(r.other, port, text)
			return arrival{text, r.other, w.at.Index}
		}

		from.send(r.group, port, "queued")
		control.await("queued")
		if err := rx.Leave(r.group); err != nil {
			t.Fatal(err)
		}
		from.send(r.group, port, "left")
		control.await("left")
		wantArrivals(t, rx, marker("first"))

		if err := rx.Leave(r.group); !errors.Is(err, mcast.ErrNotJoined) {
			t.Errorf("leaving again: %v", err)
		}
		if err := rx.Leave(groupLike(r.group, 1)); !errors.Is(err, mcast.ErrNotJoined) {
			t.Errorf("leaving what was never joined: %v", err)
		}
		if err := rx.Leave(netip.Addr{}); !errors.Is(err, mcast.ErrNotJoined) {
			t.Errorf("leaving nothing: %v", err)
		}

		if err := rx.Join(r.group); err != nil {
			t.Fatal(err)
		}
		from.send(r.group, port, "joined again")
		wantArrivals(t, rx, arrival{"joined again", r.group, w.at.Index}, marker("second"))
	})
}

// A group may be left while a batch of it is half read: the rest is not delivered.
func TestRxLeaveHalfRead(t *testing.T) {
	noLeaks(t)
	w := newWires(t, 1)[0]
	forEachFamily(t, func(t *testing.T, r contractRange) {
		port := newPort()
		rx := openRx(t, onWire(w, port, r.group, r.other))
		control := newNaive(t, nil, r.group, port, w.Name())
		from := w.station(t, r.group, 0)
		for i := range 10 {
			from.send(r.group, port, strconv.Itoa(i))
			control.await(strconv.Itoa(i))
		}
		for i := range 3 {
			if o := readers[i].read(rx); o.payload != strconv.Itoa(i) || o.err != nil {
				t.Errorf("read %q, %v", o.payload, o.err)
			}
		}
		if err := rx.Leave(r.group); err != nil {
			t.Fatal(err)
		}
		from.send(r.other, port, "marker")
		wantArrivals(t, rx, arrival{"marker", r.other, w.at.Index})
	})
}

func TestRxJoinAgain(t *testing.T) {
	noLeaks(t)
	wires := newWires(t, 2)
	forEachRange(t, func(t *testing.T, r contractRange) {
		port := newPort()
		source := func(id byte) netip.Addr { return wires[0].like(r.group, id) }
		send := func(id byte, group netip.Addr, payload string) {
			t.Helper()
			wires[0].station(t, r.group, id).send(group, port, payload)
		}
		at := wires[0].at.Index
		rx := openRx(t, mcast.RxConfig{Groups: []netip.Addr{r.group}, Port: port, Interfaces: interfacesOf(wires)})
		control := newNaive(t, nil, r.other, port, wires[0].Name())

		// Twice is as good as once.
		if err := rx.Join(r.group); err != nil {
			t.Errorf("joining again: %v", err)
		}
		send(11, r.group, "once")
		wantArrivals(t, rx, arrival{"once", r.group, at})

		// Sources add up.
		for _, id := range []byte{11, 12, 11} {
			if err := rx.Join(r.other, source(id)); err != nil {
				t.Fatalf("joining for %s: %v", source(id), err)
			}
		}
		if m := membership(t, rx, r.other, wires[1].Name()); !slices.Equal(m.Sources, []netip.Addr{source(11), source(12)}) {
			t.Errorf("membership %+v", m)
		}
		send(13, r.other, "unwanted")
		control.await("unwanted")
		send(11, r.other, "first")
		send(12, r.other, "second")
		send(11, r.other, "first marker")
		send(12, r.other, "second marker")
		wantArrivals(t, rx, arrival{"first", r.other, at}, arrival{"second", r.other, at},
			arrival{"first marker", r.other, at}, arrival{"second marker", r.other, at})

		// But what was closed to some is not opened to all by the way, nor the other way round.
		for _, err := range []error{rx.Join(r.other), rx.Join(r.group, source(11))} {
			var op *mcast.OpError
			if !errors.As(err, &op) || op.Op != "join" || !strings.Contains(err.Error(), "Leave it first") {
				t.Errorf("another kind of join: %v", err)
			}
		}
		send(13, r.other, "still unwanted")
		control.await("still unwanted")
		send(13, r.group, "still wanted")
		send(11, r.other, "last 1")
		send(12, r.other, "last 2")
		wantArrivals(t, rx, arrival{"still wanted", r.group, at}, arrival{"last 1", r.other, at}, arrival{"last 2", r.other, at})

		// Leaving ends that.
		if err := rx.Leave(r.other); err != nil {
			t.Fatal(err)
		}
		if err := rx.Join(r.other); err != nil {
			t.Fatal(err)
		}
		send(13, r.other, "welcome")
		wantArrivals(t, rx, arrival{"welcome", r.other, at})
	})
}

// A group of a family that the socket did not have comes, with answers, while it runs.
func TestRxJoinOtherFamily(t *testing.T) {
	noLeaks(t)
	w := newWires(t, 1)[0]
	for i, r := range contractFamilies {
		t.Run(network(r.group), func(t *testing.T) {
			other := contractFamilies[1-i].group
			port := newPort()
			rx := openRx(t, onWire(w, port, r.group))
			from := w.station(t, other, 0)
			to := netip.AddrPortFrom(w.peer.IPv4, 9)
			if other.Is6() {
				to = netip.AddrPortFrom(w.peer.IPv6, 9)
			}
			if _, err := rx.WriteToUDPAddrPort([]byte("x"), to); err == nil {
				t.Error("an answer in a family that the socket does not have")
			}
			if err := rx.Join(other); err != nil {
				t.Fatal(err)
			}
			from.send(other, port, "datagram")
			wantArrivals(t, rx, arrival{"datagram", other, w.at.Index})
			if _, err := rx.WriteToUDPAddrPort([]byte("x"), to); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestRxWriteTo(t *testing.T) {
	noLeaks(t)
	wires := newWires(t, 2)
	forEachRange(t, func(t *testing.T, r contractRange) {
		port := newPort()
		rx := openRx(t, mcast.RxConfig{Groups: []netip.Addr{r.group}, Port: port, Interfaces: interfacesOf(wires)})
		for _, w := range wires { // link-local addresses alone do not say by which interface to go
			from := w.station(t, r.group, 0)
			from.send(r.group, port, "question")
			buf := make([]byte, 100)
			rx.SetReadDeadline(time.Now().Add(patience))
			n, peer, err := rx.ReadFrom(buf)
			if err != nil || string(buf[:n]) != "question" {
				t.Fatalf("%q, %v", buf[:n], err)
			}
			if n, err := rx.WriteTo([]byte("answer"), peer); n != len("answer") || err != nil {
				t.Fatalf("WriteTo %s: %d, %v", peer, n, err)
			}
			from.SetReadDeadline(time.Now().Add(patience))
			n, src, err := from.ReadFromUDPAddrPort(buf)
			if err != nil || string(buf[:n]) != "answer" {
				t.Fatalf("%q, %v", buf[:n], err)
			}
			self := w.like(r.group, 1)
			if peer.(*net.UDPAddr).IP.IsLinkLocalUnicast() {
				self = w.LinkLocal
			}
			if src.Addr().WithZone("") != self || src.Port() != port {
				t.Errorf("answer from %s, want %s with port %d", src, self, port)
			}
		}

		// Groups are not for it, nor is what is no address.
		for _, to := range []netip.Addr{r.group, r.other} {
			n, err := rx.WriteToUDPAddrPort([]byte("x"), netip.AddrPortFrom(to, port))
			var op *mcast.OpError
			if n != 0 || !errors.Is(err, mcast.ErrNotDeclared) || !errors.As(err, &op) || op.Op != "write" || op.Group != to {
				t.Errorf("WriteTo %s: %d, %v", to, n, err)
			}
		}
		for _, to := range []net.Addr{nil, (*net.UDPAddr)(nil), &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 9}, &net.UDPAddr{}} {
			if n, err := rx.WriteTo([]byte("x"), to); n != 0 || err == nil {
				t.Errorf("WriteTo %v: %d, %v", to, n, err)
			}
		}
		for _, tt := range []struct {
			to   net.UDPAddr
			is   error
			says string
		}{
			{net.UDPAddr{IP: unspecified(r.group).AsSlice(), Port: 9}, mcast.ErrNotDeclared, "single hosts"},
			{net.UDPAddr{IP: net.IPv4bcast, Port: 9}, mcast.ErrNotDeclared, "single hosts"},
			{net.UDPAddr{IP: wires[0].addr4(254).AsSlice(), Port: 9, Zone: wires[0].Name()}, nil, "IPv4 has no zones"},
			{net.UDPAddr{IP: wires[0].like(r.group, 254).AsSlice()}, nil, "to " + netip.AddrPortFrom(wires[0].like(r.group, 254), 0).String() + ": port 0"},
			{net.UDPAddr{IP: wires[0].like(r.group, 254).AsSlice(), Port: 9 + 1<<16}, nil, "port"},
			{net.UDPAddr{IP: wires[0].peer.LinkLocal.AsSlice(), Port: 9, Zone: strconv.FormatUint(uint64(wires[0].at.Index)+1<<32, 10)}, nil, ""},
			{net.UDPAddr{IP: wires[0].peer.LinkLocal.AsSlice(), Port: 9, Zone: "0"}, nil, ""},
		} {
			n, err := rx.WriteTo([]byte("x"), &tt.to)
			var op *mcast.OpError
			if n != 0 || !errors.As(err, &op) || tt.is != nil && !errors.Is(err, tt.is) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("WriteTo %v: %d, %v", &tt.to, n, err)
			}
		}
	})
}

// What an interface that is gone has brought is delivered whole, however it is read, and whatever of it is refused.
func TestRxGoneKeeps(t *testing.T) {
	noLeaks(t)
	forEachFamily(t, func(t *testing.T, r contractRange) {
		for _, coalesce := range []bool{false, true} {
			for _, size := range []int{1, 64, 512} {
				w := newWires(t, 1)[0]
				port := newPort()
				cfg := onWire(w, port, r.group)
				cfg.Coalesce, cfg.ReadBuffer = coalesce, 1<<20
				for id := range byte(70) { // more than the kernel takes (igmp_max_msf, mld_max_msf)
					cfg.Blocked = append(cfg.Blocked, w.like(r.group, 20+id))
				}
				rx := openRx(t, cfg)
				control := newNaive(t, nil, r.group, port, w.Name())
				control.SetReadBuffer(1 << 20)
				bad, good := w.station(t, r.group, 89), w.station(t, r.group, 200)
				const refused, wanted = 24, 250
				for range refused {
					bad.send(r.group, port, "refused")
				}
				missing := make(map[string]bool, wanted)
				for i := range wanted {
					missing[strconv.Itoa(i)] = true
					good.send(r.group, port, strconv.Itoa(i))
				}
				control.await(slices.Collect(maps.Keys(missing))...) // all, since each processor has a queue of its own
				w.Delete()
				for end := time.Now().Add(patience); rx.Memberships()[0].Joined; time.Sleep(time.Millisecond) {
					if time.Now().After(end) {
						t.Fatal("it does not notice")
					}
				}
				rx.SetReadDeadline(time.Now().Add(patience))
				ms := make([]mcast.Message, size)
				for i := range ms {
					ms[i].Buf = make([]byte, 20)
				}
				for len(missing) > 0 {
					n, err := rx.ReadBatch(ms)
					if err != nil {
						t.Fatalf("coalesce %v, batches of %d: %v; missing %v", coalesce, size, err, missing)
					}
					for _, m := range ms[:n] {
						if got := string(m.Buf[:m.N]); !missing[got] {
							t.Fatalf("coalesce %v, batches of %d: read %q once more than wanted", coalesce, size, got)
						} else {
							delete(missing, got)
						}
					}
				}
				rx.Close()
				control.Close()
			}
		}
	})
}

// A Join that fails leaves nothing behind.
func TestRxJoinFailsWhole(t *testing.T) {
	noLeaks(t)
	w := newWires(t, 1)[0]
	cfg := onWire(w, newPort(), contractFamilies[0].group)
	cfg.Interfaces[0].IPv6, cfg.Static = nil, true
	rx := openRx(t, cfg)
	before := openFiles()
	if err := rx.Join(contractFamilies[1].group); !errors.Is(err, mcast.ErrNoInterface) {
		t.Errorf("Join: %v", err)
	}
	if now := openFiles(); now != before {
		t.Errorf("%d descriptors, were %d", now, before)
	}
	if _, err := rx.WriteToUDPAddrPort([]byte("x"), netip.AddrPortFrom(w.peer.IPv6, 9)); err == nil {
		t.Error("replies to a family that no group is of")
	}
}

func TestRxMetadata(t *testing.T) {
	noLeaks(t)
	w := newWires(t, 1)[0]
	forEachRange(t, func(t *testing.T, r contractRange) {
		for _, asked := range []bool{true, false} {
			port := newPort()
			cfg := onWire(w, port, r.group)
			cfg.HopLimits, cfg.Timestamps = asked, asked
			rx := openRx(t, cfg)
			from := w.station(t, r.group, 0)
			for _, ttl := range []int{1, 2, 64, 255} {
				var err error
				if r.group.Is4() {
					err = ipv4.NewPacketConn(from).SetMulticastTTL(ttl)
				} else {
					err = ipv6.NewPacketConn(from).SetMulticastHopLimit(ttl)
				}
				if err != nil {
					t.Fatal(err)
				}
				before := time.Now()
				from.send(r.group, port, "datagram")
				ms := []mcast.Message{{Buf: make([]byte, 100), HopLimit: 77, Time: time.Unix(77, 0), Truncated: true}}
				rx.SetReadDeadline(time.Now().Add(patience))
				if _, err := rx.ReadBatch(ms); err != nil {
					t.Fatal(err)
				}
				m := ms[0]
				if want := from.LocalAddr().(*net.UDPAddr).Port; int(m.Addr.Port()) != want || string(m.Buf[:m.N]) != "datagram" || m.Truncated {
					t.Errorf("message %s from %s, want one from port %d", describe(&m), m.Addr, want)
				}
				if zone := m.Addr.Addr().Zone(); m.Addr.Addr().IsLinkLocalUnicast() && zone != strconv.Itoa(w.at.Index) {
					t.Errorf("from %s: want the zone %d", m.Addr, w.at.Index)
				}
				if !asked {
					if m.HopLimit != 0 || !m.Time.IsZero() {
						t.Errorf("nobody asked for hop limit %d and time %v", m.HopLimit, m.Time)
					}
					continue
				}
				if m.HopLimit != ttl {
					t.Errorf("hop limit %d, sent with %d", m.HopLimit, ttl)
				}
				// The clock may be set meanwhile, but hardly by much.
				if m.Time.Before(before.Add(-time.Second)) || m.Time.After(time.Now().Add(time.Second)) {
					t.Errorf("time %v, sent after %v", m.Time, before)
				}
			}
		}
	})
}

func TestRxShortBuffer(t *testing.T) {
	noLeaks(t)
	w := newWires(t, 1)[0]
	forEachFamily(t, func(t *testing.T, r contractRange) {
		port := newPort()
		rx := openRx(t, onWire(w, port, r.group))
		from := w.station(t, r.group, 0)
		rx.SetReadDeadline(time.Now().Add(patience))
		var want mcast.Membership
		for _, tt := range []struct {
			payload, read string
			size          int
		}{
			{"0123456789", "01234", 5},
			{"0123456789", "0123456789", 10},
			{"0123456789", "0123456789", 11},
			{"0123456789", "", 0},
			{"", "", 0},
			{"", "", 10},
			{"x", "", 0},
			{strings.Repeat("x", 5000), "xx", 2}, // in fragments
		} {
			for _, how := range []string{"ReadFrom", "ReadFromUDPAddrPort", "ReadBatch", "ReadBatch of two"} {
				from.send(r.group, port, tt.payload)
				truncated := len(tt.payload) > len(tt.read)
				want.Packets++
				want.Bytes += uint64(len(tt.read))
				if truncated {
					want.Truncated++
				}
				buf := make([]byte, tt.size, tt.size+8) // what is beyond the length is not to be written
				beyond := buf[tt.size : tt.size+8]
				var n int
				var err error
				switch how {
				case "ReadFrom":
					n, _, err = rx.ReadFrom(buf)
				case "ReadFromUDPAddrPort":
					n, _, err = rx.ReadFromUDPAddrPort(buf)
				default:
					ms := []mcast.Message{{Buf: buf}, {Buf: make([]byte, 100)}}
					if how == "ReadBatch" {
						ms = ms[:1]
					}
					var count int
					if count, err = rx.ReadBatch(ms); count != 1 {
						t.Errorf("%s: %d messages", how, count)
					}
					n, buf = ms[0].N, ms[0].Buf
					if ms[0].Truncated != truncated || len(buf) != tt.size {
						t.Errorf("%s: truncated is %v, the buffer has %d bytes, want %v and %d", how, ms[0].Truncated, len(buf), truncated, tt.size)
					}
				}
				if err != nil || string(buf[:n]) != tt.read {
					t.Fatalf("%s of %d bytes into %d: %q, %v, want %q", how, len(tt.payload), tt.size, buf[:n], err, tt.read)
				}
				if !bytes.Equal(beyond, make([]byte, 8)) {
					t.Errorf("%s wrote beyond the buffer: %q", how, beyond)
				}
			}
		}
		m := membership(t, rx, r.group, w.Name())
		if m.Packets != want.Packets || m.Bytes != want.Bytes || m.Truncated != want.Truncated || m.Dropped != 0 {
			t.Errorf("counted %+v, want %+v", m, want)
		}
		if n, err := rx.ReadBatch(nil); n != 0 || err != nil {
			t.Errorf("ReadBatch(nil): %d, %v", n, err)
		}
	})
}

// The largest datagrams there are come through whole, by veth in some fifty fragments.
func TestRxLargest(t *testing.T) {
	noLeaks(t)
	w := newWires(t, 1)[0]
	lo := mustFind(t, "lo")[0]
	forEachFamily(t, func(t *testing.T, r contractRange) {
		size := 65507
		if r.group.Is6() {
			size = 65527
		}
		payload := strings.Repeat("0123456789abcdef", 4096)[:size]
		port := newPort()
		rx := openRx(t, mcast.RxConfig{Groups: []netip.Addr{r.group}, Port: port, Interfaces: []mcast.Interface{w.at, lo}})
		for _, s := range []*station{w.station(t, r.group, 0), newStation(t, nil, "lo", unspecified(r.group))} {
			for _, reader := range []string{"ReadBatch", "ReadFrom", "Messages"} {
				s.send(r.group, port, payload)
				rx.SetReadDeadline(time.Now().Add(patience))
				var got []byte
				switch reader {
				case "ReadBatch":
					ms := []mcast.Message{{Buf: make([]byte, size)}}
					if _, err := rx.ReadBatch(ms); err != nil || ms[0].Truncated {
						t.Fatalf("%v; truncated: %v", err, ms[0].Truncated)
					}
					got = ms[0].Buf[:ms[0].N]
				case "ReadFrom":
					got = make([]byte, size)
					n, _, err := rx.ReadFrom(got)
					if err != nil {
						t.Fatal(err)
					}
					got = got[:n]
				case "Messages":
					for m, err := range rx.Messages(t.Context()) {
						if err != nil || m.Truncated {
							t.Fatalf("%v; %v", err, describe(m))
						}
						got = m.Buf[:m.N]
						break
					}
				}
				if string(got) != payload {
					t.Errorf("%s: %d bytes of %d came, or others", reader, len(got), size)
				}
			}
		}
	})
}

// Every pair counts its own.
func TestRxCounters(t *testing.T) {
	noLeaks(t)
	wires := newWires(t, 2)
	port := newPort()
	var groups []netip.Addr
	for _, r := range contractRanges {
		groups = append(groups, r.group)
	}
	rx := openRx(t, mcast.RxConfig{Groups: groups, Port: port, Interfaces: interfacesOf(wires), ReadBuffer: 100000})
	size := 0
	for _, g := range groups {
		for _, w := range wires {
			from := w.station(t, g, 0)
			size++
			for range size { // each pair another number of another size
				from.send(g, port, strings.Repeat("x", size))
				rx.SetReadDeadline(time.Now().Add(patience))
				if n, _, err := rx.ReadFrom(make([]byte, 2048)); n != size || err != nil {
					t.Fatalf("%d, %v, want %d", n, err, size)
				}
			}
		}
	}
	ms := rx.Memberships()
	if len(ms) != size {
		t.Fatalf("%d memberships, want %d", len(ms), size)
	}
	for i, m := range ms {
		n := uint64(i + 1)
		want := mcast.Membership{Group: groups[i/2], Interface: wires[i%2].Name(), IfIndex: wires[i%2].at.Index, Joined: true,
			Packets: n, Bytes: n * n, ReadBuffer: 100000}
		if fmt.Sprintf("%+v", m) != fmt.Sprintf("%+v", want) {
			t.Errorf("got  %+v\nwant %+v", m, want)
		}
	}
}

// What a pair has no room for is counted, to the last datagram, and costs no other pair anything.
func TestRxDropped(t *testing.T) {
	noLeaks(t)
	w := newWires(t, 1)[0]
	forEachRange(t, func(t *testing.T, r contractRange) {
		const flood, quiet = 2000, 5
		port := newPort()
		cfg := onWire(w, port, r.group, r.other)
		cfg.ReadBuffer = 8192
		rx := openRx(t, cfg)
		from := w.station(t, r.group, 0)
		var markers []string
		for i := range flood {
			from.send(r.group, port, "flood")
			if i%(flood/quiet) == 0 {
				markers = append(markers, fmt.Sprint("quiet", i))
				from.send(r.other, port, markers[len(markers)-1])
			}
		}
		got := 0
		for _, a := range arrivals(t, rx, markers...) {
			if a.Group == r.group {
				got++
			}
		}
		// Other CPUs may still be busy with the flood's end.
		eventually(t, "as many read and dropped as were sent", func() bool {
			dropped := int(membership(t, rx, r.group, w.Name()).Dropped)
			if got+dropped < flood {
				rx.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
				if readers[0].read(rx).err == nil {
					got++
				}
			}
			return got+dropped >= flood
		})
		m, other := membership(t, rx, r.group, w.Name()), membership(t, rx, r.other, w.Name())
		if int(m.Dropped) != flood-got || int(m.Packets) != got || got == 0 || m.Dropped == 0 {
			t.Errorf("sent %d, read %d, counted %+v", flood, got, m)
		}
		if other.Dropped != 0 || other.Packets != quiet {
			t.Errorf("the quiet one: %+v", other)
		}
		// What was dropped stays counted when there is room again, and when the group was left it is forgotten.
		from.send(r.group, port, "marker")
		wantArrivals(t, rx, arrival{"marker", r.group, w.at.Index})
		if again := membership(t, rx, r.group, w.Name()); again.Dropped != m.Dropped || again.Packets != m.Packets+1 {
			t.Errorf("before %+v, then %+v", m, again)
		}
	})
}

// A flooded pair does not starve a quiet one: not if its queue is full when the quiet one's datagram comes, and not
// if its turn has begun.
// fairReads are ways to read the payloads that are there.
var fairReads = []struct {
	name string
	read func(rx *mcast.RxSocket) (payloads []string, err error)
}{
	{"ReadFrom", func(rx *mcast.RxSocket) ([]string, error) {
		o := readers[0].read(rx)
		return []string{o.payload}, o.err
	}},
	{"ReadBatch", func(rx *mcast.RxSocket) (payloads []string, err error) {
		ms := make([]mcast.Message, 7)
		for i := range ms {
			ms[i].Buf = make([]byte, 100)
		}
		n, err := rx.ReadBatch(ms)
		for _, m := range ms[:n] {
			payloads = append(payloads, string(m.Buf[:m.N]))
		}
		return payloads, err
	}},
}

// TestRxFairness reads a quiet group while another is flooded, faster than it can be read, for as long as it takes.
func TestRxFairness(t *testing.T) {
	noLeaks(t)
	w := newWires(t, 1)[0]
	for _, tt := range fairReads {
		t.Run(tt.name, func(t *testing.T) {
			forEachRange(t, func(t *testing.T, r contractRange) {
				port := newPort()
				rx := openRx(t, onWire(w, port, r.group, r.other))
				flood, quiet := w.station(t, r.group, 0), w.station(t, r.group, 0)
				stop := make(chan struct{})
				var flooding sync.WaitGroup
				flooding.Go(func() {
					for {
						select {
						case <-stop:
							return
						default:
							flood.send(r.group, port, "flood")
						}
					}
				})
				defer flooding.Wait()
				defer close(stop)
				rx.SetReadDeadline(time.Now().Add(patience))
				for round := range 20 {
					quiet.send(r.other, port, "quiet")
					for n, found := 0, false; !found; {
						payloads, err := tt.read(rx)
						if err != nil {
							t.Fatalf("round %d, after %d datagrams: %v", round, n, err)
						}
						n += len(payloads)
						found = slices.Contains(payloads, "quiet")
					}
				}
			})
		})
	}
}

func TestRxDeadline(t *testing.T) {
	noLeaks(t)
	w := newWires(t, 1)[0]
	timeout := func(t *testing.T, o outcome) {
		t.Helper()
		var ne net.Error
		var op *mcast.OpError
		if !errors.Is(o.err, os.ErrDeadlineExceeded) || !errors.As(o.err, &ne) || !ne.Timeout() || !errors.As(o.err, &op) || op.Op != "read" {
			t.Errorf("read %q, %v, want a timeout", o.payload, o.err)
		}
	}
	for _, reader := range readers {
		t.Run(reader.name, func(t *testing.T) {
			port := newPort()
			rx := openRx(t, onWire(w, port, contractRanges[0].group, contractRanges[3].group))
			from := w.station(t, contractRanges[0].group, 0)
			read := func() outcome { return reader.read(rx) }

			for _, set := range []func(time.Time) error{rx.SetReadDeadline, rx.SetDeadline} {
				// One that has passed.
				if err := set(time.Now().Add(-time.Hour)); err != nil {
					t.Fatal(err)
				}
				timeout(t, read())
				timeout(t, read())

				// One that comes while a read is blocked, set before, or by another goroutine meanwhile.
				set(time.Now().Add(20 * time.Millisecond))
				timeout(t, read())
				set(time.Now().Add(time.Hour))
				got := start(read)
				awaitBlocked(t, 1)
				set(time.Now())
				timeout(t, await(t, got))

				// None any more.
				set(time.Time{})
				got = start(read)
				awaitBlocked(t, 1)
				from.send(contractRanges[0].group, port, "datagram")
				if o := await(t, got); o.payload != "datagram" || o.err != nil {
					t.Errorf("read %q, %v", o.payload, o.err)
				}
			}

			// Nothing is lost: what has come stays until it is read.
			from.send(contractRanges[0].group, port, "kept")
			rx.SetReadDeadline(time.Unix(1, 0))
			timeout(t, read())
			rx.SetReadDeadline(time.Now().Add(patience))
			if o := read(); o.payload != "kept" || o.err != nil {
				t.Errorf("read %q, %v", o.payload, o.err)
			}

			// Writes have one of their own.
			to := netip.AddrPortFrom(w.peer.IPv4, 9)
			rx.SetWriteDeadline(time.Unix(1, 0))
			if _, err := rx.WriteToUDPAddrPort([]byte("x"), to); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("write: %v", err)
			}
			from.send(contractRanges[0].group, port, "datagram")
			if o := read(); o.payload != "datagram" || o.err != nil {
				t.Errorf("read %q, %v", o.payload, o.err)
			}
			rx.SetWriteDeadline(time.Time{})
			if _, err := rx.WriteToUDPAddrPort([]byte("x"), to); err != nil {
				t.Errorf("write: %v", err)
			}
		})
	}
}

// A write deadline holds for a family that came later, too.
func TestRxWriteDeadlineOtherFamily(t *testing.T) {
	noLeaks(t)
	w := newWires(t, 1)[0]
	rx := openRx(t, onWire(w, newPort(), contractFamilies[0].group))
	rx.SetWriteDeadline(time.Unix(1, 0))
	if err := rx.Join(contractFamilies[1].group); err != nil {
		t.Fatal(err)
	}
	if _, err := rx.WriteToUDPAddrPort([]byte("x"), netip.AddrPortFrom(w.peer.IPv6, 9)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("write: %v", err)
	}
}

func TestRxClose(t *testing.T) {
	noLeaks(t)
	w := newWires(t, 1)[0]
	for _, reader := range readers {
		t.Run(reader.name, func(t *testing.T) {
			const several = 3
			group := contractRanges[0].group
			rx := openRx(t, onWire(w, newPort(), group, contractRanges[2].group))
			var got []<-chan outcome
			for range several {
				got = append(got, start(func() outcome { return reader.read(rx) }))
			}
			awaitBlocked(t, several)
			if err := rx.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
			closed := func(what string, err error) {
				t.Helper()
				var op *mcast.OpError
				if !errors.Is(err, net.ErrClosed) || !errors.As(err, &op) {
					t.Errorf("%s: %v, want an OpError of net.ErrClosed", what, err)
				}
			}
			ended := func(what string, err error) {
				t.Helper()
				if reader.name != "Messages" {
					closed(what, err)
				} else if err != errEnded {
					t.Errorf("%s: %v", what, err)
				}
			}
			for _, c := range got {
				ended("blocked read", await(t, c).err)
			}
			ended("read", reader.read(rx).err)
			if err := rx.Close(); err != nil {
				t.Errorf("Close again: %v", err)
			}
			_, err := rx.WriteTo([]byte("x"), &net.UDPAddr{IP: net.IPv4(10, 77, 0, 254), Port: 9})
			closed("WriteTo", err)
			closed("Join", rx.Join(contractRanges[1].group))
			closed("Leave", rx.Leave(group))
			closed("SetDeadline", rx.SetDeadline(time.Now()))
			closed("SetReadDeadline", rx.SetReadDeadline(time.Now()))
			closed("SetWriteDeadline", rx.SetWriteDeadline(time.Now()))
			if ms := rx.Memberships(); ms != nil {
				t.Errorf("memberships %+v", ms)
			}
			if rx.LocalAddr() == nil {
				t.Error("no local address")
			}
		})
	}
}

// A context ends its own loop, and no other read.
func TestRxMessagesContext(t *testing.T) {
	noLeaks(t)
	w := newWires(t, 1)[0]
	group := contractRanges[3].group
	for _, deadline := range []time.Duration{0, time.Hour} {
		t.Run(deadline.String(), func(t *testing.T) {
			port := newPort()
			rx := openRx(t, onWire(w, port, group))
			from := w.station(t, group, 0)
			if deadline > 0 {
				rx.SetReadDeadline(time.Now().Add(deadline))
			}
			for i := range 40 {
				other := readers[i%len(readers)]
				ctx, cancel := context.WithCancel(t.Context())
				loop := func() outcome {
					for m, err := range rx.Messages(ctx) {
						return outcome{describe(m), err}
					}
					return outcome{"", errEnded}
				}
				read := func() outcome { return other.read(rx) }
				// Either may be the one that waits for the kernel, the others wait for that.
				var looping, reading <-chan outcome
				if i%8 < 4 {
					looping = start(loop)
					awaitBlocked(t, 1)
					reading = start(read)
				} else {
					reading = start(read)
					awaitBlocked(t, 1)
					looping = start(loop)
				}
				awaitBlocked(t, 2)
				cancel()
				if o := await(t, looping); o.err != errEnded {
					t.Fatalf("round %d: the loop got %q, %v", i, o.payload, o.err)
				}
				awaitBlocked(t, 1)
				from.send(group, port, strconv.Itoa(i))
				if o := await(t, reading); o.payload != strconv.Itoa(i) || o.err != nil {
					t.Fatalf("round %d: %s: %q, %v", i, other.name, o.payload, o.err)
				}
			}
			// The user's deadline is in force as before.
			got := start(func() outcome { return readers[0].read(rx) })
			awaitBlocked(t, 1)
			rx.SetReadDeadline(time.Now())
			if o := await(t, got); !errors.Is(o.err, os.ErrDeadlineExceeded) {
				t.Errorf("after the deadline: %q, %v", o.payload, o.err)
			}

			// So is one that was set before the context ended, and had still to come then. (If this machine is so slow
			// that it had not, this is no proof, but no failure either.)
			rx.SetReadDeadline(time.Time{})
			ctx, cancel := context.WithCancel(t.Context())
			looping := start(func() outcome {
				for m, err := range rx.Messages(ctx) {
					return outcome{describe(m), err}
				}
				return outcome{"", errEnded}
			})
			got = start(func() outcome { return readers[0].read(rx) })
			awaitBlocked(t, 2)
			rx.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
			cancel()
			if o := await(t, looping); o.err != errEnded && !errors.Is(o.err, os.ErrDeadlineExceeded) {
				t.Errorf("the loop: %q, %v", o.payload, o.err)
			}
			if o := await(t, got); !errors.Is(o.err, os.ErrDeadlineExceeded) {
				t.Errorf("after the deadline: %q, %v", o.payload, o.err)
			}
		})
	}
}

func TestRxMessages(t *testing.T) {
	noLeaks(t)
	w := newWires(t, 1)[0]
	r := contractRanges[2]
	port := newPort()
	rx := openRx(t, onWire(w, port, r.group))
	from := w.station(t, r.group, 0)

	rx.SetReadDeadline(time.Now().Add(patience))

	// A context that has ended already takes nothing, however often.
	ended, end := context.WithCancel(t.Context())
	end()
	from.send(r.group, port, "kept")
	for range 100 {
		for m, err := range rx.Messages(ended) {
			t.Fatalf("after the context: %v, %v", describe(m), err)
		}
	}
	for m, err := range rx.Messages(t.Context()) {
		if err != nil || string(m.Buf[:m.N]) != "kept" || m.Group != r.group || m.IfIndex != w.at.Index {
			t.Errorf("%v, %v", describe(m), err)
		}
		break
	}

	// Errors are for the body, which may go on.
	rx.SetReadDeadline(time.Unix(1, 0))
	timeouts := 0
	ctx, cancel := context.WithCancel(t.Context())
	for m, err := range rx.Messages(ctx) {
		switch {
		case err == nil && string(m.Buf[:m.N]) == "go on" && timeouts == 3:
			cancel() // in the body: the loop ends
		case m == nil && errors.Is(err, os.ErrDeadlineExceeded) && timeouts < 3:
			if timeouts++; timeouts == 3 {
				rx.SetReadDeadline(time.Now().Add(patience))
				from.send(r.group, port, "go on")
			}
		default:
			t.Fatalf("%v, %v after %d timeouts", describe(m), err, timeouts)
		}
	}

	// One context ends, another loop goes on.
	rx.SetReadDeadline(time.Time{})
	ctx, cancel = context.WithCancel(t.Context())
	first := start(func() outcome {
		for m, err := range rx.Messages(ctx) {
			return outcome{describe(m), err}
		}
		return outcome{"", errEnded}
	})
	second := start(func() outcome { return readers[3].read(rx) })
	awaitBlocked(t, 2)
	cancel()
	if o := await(t, first); o.err != errEnded {
		t.Errorf("%q, %v", o.payload, o.err)
	}
	from.send(r.group, port, "second")
	if o := await(t, second); o.payload != "second" || o.err != nil {
		t.Errorf("%q, %v", o.payload, o.err)
	}
}

// Eight readers of all kinds share the datagrams: each goes to one of them.
func TestRxManyReaders(t *testing.T) {
	noLeaks(t)
	const total, window = 20000, 100 // never more under way than fit into a buffer
	wires := newWires(t, 2)
	port := newPort()
	var groups []netip.Addr
	for _, r := range contractRanges {
		groups = append(groups, r.group)
	}
	rx := openRx(t, mcast.RxConfig{Groups: groups, Port: port, Interfaces: interfacesOf(wires)})
	var seen [total]atomic.Int32
	var read atomic.Int32
	note := func(payload []byte) {
		i, err := strconv.Atoi(string(payload))
		if err != nil || i < 0 || i >= total {
			t.Errorf("%q: %v", payload, err)
			return
		}
		seen[i].Add(1)
		read.Add(1)
	}
	var running sync.WaitGroup
	for i := range 8 {
		running.Go(func() {
			for {
				switch i % 4 {
				case 0:
					for m, err := range rx.Messages(context.Background()) {
						if err != nil {
							t.Error(err)
							return
						}
						note(m.Buf[:m.N])
					}
					return
				case 1, 2:
					ms := make([]mcast.Message, 1+10*(i%4))
					for i := range ms {
						ms[i].Buf = make([]byte, 100)
					}
					n, err := rx.ReadBatch(ms)
					for _, m := range ms[:n] {
						note(m.Buf[:m.N])
					}
					if err != nil {
						return
					}
				default:
					buf := make([]byte, 100)
					n, _, err := rx.ReadFromUDPAddrPort(buf)
					if err != nil {
						return
					}
					note(buf[:n])
				}
			}
		})
	}
	var from [2][2]*station
	for i, w := range wires {
		from[i] = [2]*station{w.station(t, groups[0], 0), w.station(t, groups[2], 0)}
	}
	for i := range total {
		group := groups[i%len(groups)]
		family := 0
		if group.Is6() {
			family = 1
		}
		from[i%2][family].send(group, port, strconv.Itoa(i))
		if (i+1)%window == 0 {
			eventually(t, fmt.Sprintf("%d datagrams read, now %d", i+1, read.Load()), func() bool { return int(read.Load()) > i })
		}
	}
	rx.Close()
	running.Wait()
	for i := range seen {
		if n := seen[i].Load(); n != 1 {
			t.Errorf("datagram %d was read %d times", i, n)
		}
	}
	if t.Failed() {
		t.Logf("%+v", rx.Memberships())
	}
}

// Everything at once, for the race detector; in the end also Close.
func TestRxEverythingAtOnce(t *testing.T) {
	noLeaks(t)
	const rounds = 150
	wires := newWires(t, 2)
	port := newPort()
	rx := openRx(t, mcast.RxConfig{Groups: []netip.Addr{contractRanges[0].group, contractRanges[3].group}, Port: port, Interfaces: interfacesOf(wires)})
	var readers, others sync.WaitGroup
	until := func(f func() error) func() {
		return func() {
			for {
				switch err := f(); {
				case err == nil || errors.Is(err, os.ErrDeadlineExceeded):
				case errors.Is(err, net.ErrClosed):
					return
				default:
					t.Error(err)
					return
				}
			}
		}
	}
	readers.Go(until(func() error { _, _, err := rx.ReadFrom(make([]byte, 100)); return err }))
	readers.Go(until(func() error {
		ms := make([]mcast.Message, 5)
		for i := range ms {
			ms[i].Buf = make([]byte, 100)
		}
		_, err := rx.ReadBatch(ms)
		for _, m := range ms {
			_ = m.Buf[:m.N]
		}
		return err
	}))
	readers.Go(until(func() error {
		ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
		defer cancel()
		for m, err := range rx.Messages(ctx) {
			if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
				return err
			}
			_ = m
		}
		return rx.SetWriteDeadline(time.Time{}) // which tells whether it is closed
	}))
	times := func(f func(i int) error) func() {
		return func() {
			for i := range rounds {
				if err := f(i); err != nil && !errors.Is(err, mcast.ErrNotJoined) {
					t.Error(err)
				}
			}
		}
	}
	for _, r := range contractRanges {
		others.Go(times(func(int) error { return rx.Join(r.other) }))
		others.Go(times(func(int) error { return rx.Leave(r.other) }))
		others.Go(times(func(i int) error { return rx.Join(r.group) }))
	}
	others.Go(times(func(int) error { rx.Memberships(); rx.LocalAddr(); return nil }))
	others.Go(times(func(i int) error { return rx.SetDeadline(time.Now().Add(time.Duration(i%3-1) * time.Hour)) }))
	others.Go(times(func(i int) error {
		_, err := rx.WriteTo([]byte("x"), &net.UDPAddr{IP: wires[0].peer.IPv4.AsSlice(), Port: 9})
		if errors.Is(err, os.ErrDeadlineExceeded) {
			err = nil
		}
		return err
	}))
	for _, w := range wires {
		for _, r := range contractRanges {
			from := w.station(t, r.group, 0)
			others.Go(times(func(int) error {
				_, err := from.WriteToUDPAddrPort([]byte("x"), netip.AddrPortFrom(r.group, port))
				return errors.Join(err, func() error {
					_, err := from.WriteToUDPAddrPort([]byte("x"), netip.AddrPortFrom(r.other, port))
					return err
				}())
			}))
		}
	}
	others.Wait()

	// It is still whole.
	rx.SetDeadline(time.Time{})
	for _, m := range rx.Memberships() {
		if !m.Joined {
			t.Errorf("%+v", m)
		}
	}
	for _, r := range contractRanges {
		others.Go(func() { rx.Join(r.other) })
		others.Go(func() { rx.Memberships() })
		others.Go(func() { rx.Leave(r.group) })
		others.Go(func() { rx.Close() })
	}
	others.Wait()
	readers.Wait()
}

// Any server that takes a net.PacketConn can have an RxSocket.
func TestRxPacketConn(t *testing.T) {
	noLeaks(t)
	w := newWires(t, 1)[0]
	forEachRange(t, func(t *testing.T, r contractRange) {
		port := newPort()
		rx := openRx(t, onWire(w, port, r.group))
		local, ok := rx.LocalAddr().(*net.UDPAddr)
		if !ok || local.AddrPort() != netip.AddrPortFrom(r.group, port) || local.Network() != "udp" {
			t.Errorf("local address %v", rx.LocalAddr())
		}
		served := make(chan error, 1)
		go func() { served <- echo(rx) }()
		from := w.station(t, r.group, 0)
		for i := range 3 {
			question := fmt.Sprint("hello ", i)
			from.send(r.group, port, question)
			buf := make([]byte, 100)
			from.SetReadDeadline(time.Now().Add(patience))
			n, src, err := from.ReadFromUDPAddrPort(buf)
			if err != nil || string(buf[:n]) != question || src.Port() != port {
				t.Errorf("%q from %s, %v", buf[:n], src, err)
			}
		}
		rx.Close()
		if err := <-served; !errors.Is(err, net.ErrClosed) {
			t.Errorf("the server ended with %v", err)
		}
	})
}

// echo is a server that knows nothing of multicast.
func echo(pc net.PacketConn) error {
	buf := make([]byte, 1500)
	for {
		n, addr, err := pc.ReadFrom(buf)
		if err != nil {
			return err
		}
		if _, err := pc.WriteTo(buf[:n], addr); err != nil {
			return err
		}
	}
}

// Without a list of interfaces it joins on all of them, but not on lo.
func TestRxDefaultInterfaces(t *testing.T) {
	noLeaks(t)
	forEachRange(t, func(t *testing.T, r contractRange) {
		port := newPort()
		rx := openRx(t, mcast.RxConfig{Groups: []netip.Addr{r.group}, Port: port, Loopback: true})
		control := newNaive(t, nil, r.group, port, "lo")
		var names []string
		for _, m := range rx.Memberships() {
			if !m.Joined || m.Err != nil {
				t.Errorf("%+v", m)
			}
			names = append(names, m.Interface)
		}
		if !slices.Equal(names, []string{"mc0", "mc1"}) {
			t.Errorf("joined on %q", names)
		}
		newStation(t, nil, "lo", unspecified(r.group)).send(r.group, port, "lo")
		control.await("lo")
		var want []arrival
		for _, name := range names {
			newStation(t, nil, name, unspecified(r.group)).send(r.group, port, name)
			want = append(want, arrival{name, r.group, mustFind(t, name)[0].Index})
		}
		wantArrivals(t, rx, want...)
	})
}

// A group that cannot be joined because the system lacks a resource is an error that says what to do, with named interfaces and without.
func TestRxCannotJoin(t *testing.T) {
	noLeaks(t)
	h := mcasttest.NewHost(t)
	h.NewVeth("a", netip.MustParsePrefix("10.76.0.1/24"))
	h.Sysctl("net/ipv4/igmp_max_memberships", "0")
	v4, v6 := contractFamilies[0].group, contractFamilies[1].group
	h.Do(func() { // Static, because a socket that follows the network tries again elsewhere than on the host
		refused := func(what string, err error) {
			t.Helper()
			var op *mcast.OpError
			if !errors.As(err, &op) || op.Op != "join" || op.Interface != "a" || op.Group != v4 || !errors.Is(err, unix.ENOBUFS) ||
				!strings.Contains(op.Hint, "net.ipv4.igmp_max_memberships is 0") {
				t.Errorf("%s: %v", what, err)
			}
		}
		for _, named := range [][]mcast.Interface{nil, mustFind(t, "a")} {
			_, err := mcast.OpenRx(mcast.RxConfig{Groups: []netip.Addr{v4}, Port: newPort(), Interfaces: named, Static: true})
			refused("one group", err)
			// A lack of resources is an error, however many others could be joined.
			_, err = mcast.OpenRx(mcast.RxConfig{Groups: []netip.Addr{v6, v4}, Port: newPort(), Interfaces: named, Static: true})
			refused("two groups", err)
			// Nothing remains of a group that comes later and cannot be joined.
			rx := openRx(t, mcast.RxConfig{Groups: []netip.Addr{v6}, Port: newPort(), Interfaces: named, Static: true})
			refused("join", rx.Join(v4))
			if m := membership(t, rx, v6, "a"); !m.Joined || m.Err != nil || len(rx.Memberships()) != 1 {
				t.Errorf("%+v", rx.Memberships())
			}
		}

		// An interface that was there when it was looked for.
		gone := mustFind(t, "a")
		gone[0].Index = 4242
		for _, group := range []netip.Addr{v4, v6} {
			_, err := mcast.OpenRx(mcast.RxConfig{Groups: []netip.Addr{group}, Port: newPort(), Interfaces: gone, Static: true})
			var op *mcast.OpError
			if !errors.As(err, &op) || op.Interface != "a" || op.Group != group || !strings.Contains(op.Hint, "4242") {
				t.Errorf("an interface that is gone: %v", err)
			}
		}
	})
}

// An interface that is down can be joined on and is received from when it is up.
func TestRxInterfaceDown(t *testing.T) {
	noLeaks(t)
	w := newWires(t, 1)[0]
	forEachRange(t, func(t *testing.T, r contractRange) {
		port := newPort()
		w.Down()
		rx := openRx(t, onWire(w, port, r.group)) // with the addresses it had, as a scan before has them
		if m := membership(t, rx, r.group, w.Name()); !m.Joined {
			t.Errorf("%+v", m)
		}
		w.Up()
		w.station(t, r.group, 0).send(r.group, port, "up again")
		wantArrivals(t, rx, arrival{"up again", r.group, w.at.Index})
	})
}

// awaitJoined waits until the group is joined on the interface as it is now.
func awaitJoined(t *testing.T, rx *mcast.RxSocket, group netip.Addr, i *mcasttest.Interface) {
	t.Helper()
	name, index := i.Name(), i.Index()
	eventually(t, fmt.Sprintf("%s is joined on %s with index %d", group, name, index), func() bool {
		return slices.ContainsFunc(rx.Memberships(), func(m mcast.Membership) bool {
			return m.Group == group && m.Interface == name && m.IfIndex == index && m.Joined && m.Err == nil
		})
	})
}

func TestRxFollow(t *testing.T) {
	noLeaks(t)
	wires := newWires(t, 2)
	port := newPort()
	var groups []netip.Addr
	for _, r := range contractRanges {
		groups = append(groups, r.group)
	}
	cfg := mcast.RxConfig{Groups: groups, Port: port, Interfaces: interfacesOf(wires)}
	rx := openRx(t, cfg)
	cfg.Static = true
	static := openRx(t, cfg)
	w := wires[0]
	old := w.at.Index
	round := func(what string) {
		t.Helper()
		var want []arrival
		for _, w := range wires {
			for _, g := range groups {
				payload := fmt.Sprint(what, w.net, g)
				w.station(t, g, 0).send(g, port, payload)
				want = append(want, arrival{payload, g, w.Index()})
			}
		}
		wantArrivals(t, rx, want...)
	}
	round("before")

	w.Delete()
	eventually(t, "the memberships of the interface that is gone", func() bool {
		for _, g := range groups {
			if m := membership(t, rx, g, w.Name()); m.Joined || !errors.Is(m.Err, mcast.ErrNoInterface) {
				return false
			}
		}
		return true
	})
	// A read that was blocked meanwhile receives what comes afterwards.
	got := start(func() outcome { return readers[0].read(rx) })
	awaitBlocked(t, 1)
	w.Create()
	for _, g := range groups {
		awaitJoined(t, rx, g, w.Interface)
	}
	w.station(t, groups[2], 0).send(groups[2], port, "back")
	if o := await(t, got); o.payload != "back" || o.err != nil {
		t.Errorf("read %q, %v", o.payload, o.err)
	}
	round("after")
	if m := membership(t, rx, groups[2], w.Name()); m.Packets != 3 || m.IfIndex == old {
		t.Errorf("it counts on: %+v", m)
	}
	if m := membership(t, static, groups[2], w.Name()); m.IfIndex != old {
		t.Errorf("the static one follows: %+v", m)
	}

	// Nor does it matter if it is back before anybody could see that it was gone.
	w.Delete()
	w.Create()
	for _, g := range groups {
		awaitJoined(t, rx, g, w.Interface)
	}
	round("at last")
}

// With nil Interfaces, those that come are joined, and those that go are forgotten.
func TestRxFollowNew(t *testing.T) {
	noLeaks(t)
	port := newPort()
	var groups []netip.Addr
	for _, r := range contractRanges {
		groups = append(groups, r.group)
	}
	rx := openRx(t, mcast.RxConfig{Groups: groups, Port: port})
	w := newWires(t, 1)[0]
	var want []arrival
	for _, what := range []string{"datagram", "marker"} {
		for _, g := range groups {
			awaitJoined(t, rx, g, w.Interface)
			a := arrival{what + g.String(), g, w.at.Index}
			w.station(t, g, 0).send(g, port, a.Payload)
			want = append(want, a)
		}
	}
	wantArrivals(t, rx, want...)
	// So is a group that comes still later.
	if err := rx.Join(contractRanges[3].other); err != nil {
		t.Fatal(err)
	}
	w.station(t, groups[3], 0).send(contractRanges[3].other, port, "late")
	wantArrivals(t, rx, arrival{"late", contractRanges[3].other, w.at.Index})

	w.Delete()
	eventually(t, "the interface is forgotten", func() bool {
		return !slices.ContainsFunc(rx.Memberships(), func(m mcast.Membership) bool { return m.Interface == w.Name() })
	})
	w.Create() // for the cleanup
}

// eventually waits until the condition holds.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !condition(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// Cameras and sensors are found before they have an address: a named interface without an IPv4 address receives.
func TestRxReceivesWithoutIPv4Address(t *testing.T) {
	noLeaks(t)
	h := mcasttest.NewHost(t)
	far := h.NewVeth("a").Peer()
	far.Interface("eth0").AddAddress(netip.MustParsePrefix("10.76.0.2/24"))
	for _, name := range []string{"all", "a"} { // what the kernel filters: there is no route to the source
		h.Sysctl("net/ipv4/conf/"+name+"/rp_filter", "0")
	}
	group, port := contractFamilies[0].group, newPort()
	h.Do(func() {
		ifaces := mustFind(t, "a")
		if len(ifaces[0].IPv4) > 0 {
			t.Fatalf("%+v", ifaces[0])
		}
		rx := openRx(t, mcast.RxConfig{Groups: []netip.Addr{group}, Port: port, Interfaces: ifaces})
		other := openRx(t, mcast.RxConfig{Groups: []netip.Addr{contractFamilies[0].other}, Port: port, Interfaces: ifaces})
		send := newStation(t, far, "eth0", addr("10.76.0.2"))
		send.send(group, port, "here I am")
		send.send(contractFamilies[0].other, port, "control")
		wantArrivals(t, rx, arrival{"here I am", group, ifaces[0].Index})
		wantArrivals(t, other, arrival{"control", contractFamilies[0].other, ifaces[0].Index})

		_, err := mcast.OpenTx(mcast.TxConfig{Groups: []netip.Addr{group}, Interfaces: ifaces})
		hinted(t, err, mcast.ErrNoInterface, "address")
	})
}

// waiting reports whether the group waits for an interface.
func waiting(rx *mcast.RxSocket, group netip.Addr) bool {
	return slices.ContainsFunc(rx.Memberships(), func(m mcast.Membership) bool {
		return m.Group == group && !m.Joined && m.Interface == "" && m.IfIndex == 0 && errors.Is(m.Err, mcast.ErrNoInterface)
	})
}

// On a host of one family, groups of the other wait for an address, and are received as soon as there is one.
func TestRxWaitsForFamily(t *testing.T) {
	forEachFamily(t, func(t *testing.T, r contractRange) {
		noLeaks(t)
		h := mcasttest.NewHost(t)
		a := h.NewVeth("a", netip.MustParsePrefix("10.76.0.1/24"), netip.MustParsePrefix("fd76::1/64"))
		h.Do(func() { withoutFamily(t, "a", r.group) })
		others := contractFamilies[0]
		if r.group.Is4() {
			others = contractFamilies[1]
		}
		port := newPort()
		var rx, static *mcast.RxSocket
		h.Do(func() {
			groups := []netip.Addr{r.group, others.group}
			rx = openRx(t, mcast.RxConfig{Groups: groups, Port: port})
			static = openRx(t, mcast.RxConfig{Groups: groups, Port: port, Static: true})
			if err := rx.Join(r.other); err != nil {
				t.Errorf("Join: %v", err)
			}
			if err := static.Join(r.other); !errors.Is(err, mcast.ErrNoInterface) {
				t.Errorf("Join of a socket that follows nothing: %v", err)
			}
			_, err := mcast.OpenRx(mcast.RxConfig{Groups: []netip.Addr{r.group}, Port: port})
			hinted(t, err, mcast.ErrNoInterface, "loopback")
		})
		for _, s := range []*mcast.RxSocket{rx, static} {
			if !waiting(s, r.group) || !membership(t, s, others.group, "a").Joined {
				t.Errorf("%+v", s.Memberships())
			}
		}
		if !waiting(rx, r.other) || len(rx.Memberships()) != 3 || len(static.Memberships()) != 2 {
			t.Errorf("%+v", rx.Memberships())
		}

		h.Do(func() { withFamily(t, "a", r.group) })
		awaitJoined(t, rx, r.group, a)
		awaitJoined(t, rx, r.other, a)
		if waiting(rx, r.group) || len(rx.Memberships()) != 3 {
			t.Errorf("%+v", rx.Memberships())
		}
		from := newStation(t, a.Peer(), "eth0", unspecified(r.group))
		from.send(r.group, port, "one")
		from.send(r.other, port, "two")
		wantArrivals(t, rx, arrival{"one", r.group, a.Index()}, arrival{"two", r.other, a.Index()})
	})
}

// withoutFamily takes all addresses of the group's family from an interface of the calling thread's host.
func withoutFamily(t *testing.T, name string, group netip.Addr) {
	t.Helper()
	if group.Is6() {
		run(t, nil, "", "sh", "-c", "echo 1 >/proc/sys/net/ipv6/conf/"+name+"/disable_ipv6")
		return
	}
	run(t, nil, "", "ip", "-4", "address", "flush", "dev", name)
}

// withFamily gives it some.
func withFamily(t *testing.T, name string, group netip.Addr) {
	t.Helper()
	if group.Is6() {
		run(t, nil, "", "sh", "-c", "echo 0 >/proc/sys/net/ipv6/conf/"+name+"/disable_ipv6")
		run(t, nil, "", "ip", "address", "add", "fd76::1/64", "dev", name, "nodad")
		return
	}
	run(t, nil, "", "ip", "address", "add", "10.76.0.1/24", "dev", name)
}

// Datagrams of this host that are discarded because Loopback is off are counted, each of a run.
func TestRxCountsOwn(t *testing.T) {
	noLeaks(t)
	w := newWires(t, 1)[0]
	forEachFamily(t, func(t *testing.T, r contractRange) {
		for _, coalesce := range []bool{false, true} {
			port := newPort()
			cfg := onWire(w, port, r.group)
			cfg.Coalesce = coalesce
			rx := openRx(t, cfg)
			tx := openTx(t, mcast.TxConfig{Groups: []netip.Addr{r.group}, Interfaces: []mcast.Interface{w.at}, Loopback: true})
			ms := make([]mcast.Message, 10)
			for i := range ms {
				ms[i] = mcast.Message{Buf: []byte("own"), Addr: netip.AddrPortFrom(r.group, port)}
			}
			if _, err := tx.WriteBatch(ms); err != nil {
				t.Fatal(err)
			}
			w.station(t, r.group, 0).send(r.group, port, "marker")
			wantArrivals(t, rx, arrival{"marker", r.group, w.at.Index})
			if m := membership(t, rx, r.group, w.Name()); m.Own != 10 || m.Packets != 1 || m.Dropped != 0 {
				t.Errorf("Coalesce %v: %+v", coalesce, m)
			}
		}
	})
}
