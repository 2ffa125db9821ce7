// What the user of a TxSocket relies on, on Linux: that datagrams leave by the interfaces, with the TTL and the class and
// from the port that were asked for, that answers come back, and what errors say.

package mcast_test

import (
	"encoding/binary"
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
	"testing"
	"time"

	"github.com/go-multicast/mcast"
	"github.com/go-multicast/mcast/mcasttest"
	"golang.org/x/sys/unix"
)

// toWire is a configuration to send to groups by one wire.
func toWire(w *wire, groups ...netip.Addr) mcast.TxConfig {
	return mcast.TxConfig{Groups: groups, Interfaces: []mcast.Interface{w.at}}
}

// write sends by tx, which must succeed.
func write(t testing.TB, tx *mcast.TxSocket, to netip.Addr, port uint16, payload string) {
	t.Helper()
	if n, err := tx.WriteToUDPAddrPort([]byte(payload), netip.AddrPortFrom(to, port)); n != len(payload) || err != nil {
		t.Fatalf("write %q to %s: %d, %v", payload, to, n, err)
	}
}

// readTx reads what was sent to tx, and returns it with the source.
func readTx(t testing.TB, tx *mcast.TxSocket) (string, netip.AddrPort) {
	t.Helper()
	tx.SetReadDeadline(time.Now().Add(patience))
	defer tx.SetReadDeadline(time.Time{})
	buf := make([]byte, 2048)
	n, src, err := tx.ReadFromUDPAddrPort(buf)
	if err != nil {
		t.Fatal(err)
	}
	return string(buf[:n]), src
}

// onlyMarker fails the test if anything but the marker has come before it.
func onlyMarker(t testing.TB, n *naive, marker string) {
	t.Helper()
	if got := n.await(marker); !slices.Equal(got, []string{marker}) {
		t.Errorf("received %q, want only %q", got, marker)
	}
}

// Every datagram leaves by every interface, once; a zone picks one of them.
func TestTxInterfaces(t *testing.T) {
	noLeaks(t)
	wires := newWires(t, 3)
	forEachRange(t, func(t *testing.T, r contractRange) {
		port := newPort()
		// Named twice, and the third not at all.
		tx := openTx(t, mcast.TxConfig{Groups: []netip.Addr{r.group, r.group}, Interfaces: append(interfacesOf(wires[:2]), wires[0].at)})
		if got := tx.Interfaces(); len(got) != 2 || got[0].Index != wires[0].at.Index || got[1].Index != wires[1].at.Index {
			t.Errorf("interfaces %+v", got)
		}
		var at []*naive
		for _, w := range wires {
			at = append(at, newNaive(t, w.peer, r.group, port, "eth0"))
		}
		write(t, tx, r.group, port, "both")
		if r.group.Is6() {
			write(t, tx, r.group.WithZone(wires[0].Name()), port, "zone 0")
			write(t, tx, r.group.WithZone(strconv.Itoa(wires[1].at.Index)), port, "zone 1")
			for _, other := range []string{"lo", wires[2].Name(), strconv.Itoa(wires[2].at.Index), "no such", "99999"} {
				n, err := tx.WriteToUDPAddrPort([]byte("x"), netip.AddrPortFrom(r.group.WithZone(other), port))
				if n != 0 || !errors.Is(err, mcast.ErrNoInterface) || !strings.Contains(err.Error(), other) {
					t.Errorf("by zone %s: %d, %v", other, n, err)
				}
			}
		}
		write(t, tx, r.group, port, "marker")
		want := [][]string{{"both", "zone 0", "marker"}, {"both", "zone 1", "marker"}}
		for i := range want {
			if r.group.Is4() {
				want[i] = []string{"both", "marker"}
			}
			if got := at[i].await("marker"); !slices.Equal(got, want[i]) {
				t.Errorf("interface %d: %q, want %q", i, got, want[i])
			}
		}
		write(t, openTx(t, toWire(wires[2], r.group)), r.group, port, "not yours")
		onlyMarker(t, at[2], "not yours")
	})
}

// The source is the address of the interface, whatever others there are.
func TestTxSource(t *testing.T) {
	noLeaks(t)
	wires := newWires(t, 2)
	forEachRange(t, func(t *testing.T, r contractRange) {
		port := newPort()
		tx := openTx(t, mcast.TxConfig{Groups: []netip.Addr{r.group}, Interfaces: interfacesOf(wires)})
		for _, w := range wires {
			at := newNaive(t, w.peer, r.group, port, "eth0")
			write(t, tx, r.group, port, "x")
			at.SetReadDeadline(time.Now().Add(patience))
			_, src, err := at.ReadFromUDPAddrPort(make([]byte, 10))
			if err != nil {
				t.Fatal(err)
			}
			want := w.like(r.group, 1)
			if r.group.IsLinkLocalMulticast() && r.group.Is6() {
				want = w.LinkLocal
			}
			if src.Addr().WithZone("") != want {
				t.Errorf("by %s from %s, want %s", w.Name(), src, want)
			}
		}
	})
}

func TestTxTTL(t *testing.T) {
	noLeaks(t)
	w := newWires(t, 1)[0]
	forEachRange(t, func(t *testing.T, r contractRange) {
		port := newPort()
		var rx *mcast.RxSocket
		w.peer.Do(func() {
			rx = openRx(t, mcast.RxConfig{Groups: []netip.Addr{r.group}, Port: port, Interfaces: mustFind(t, "eth0"), HopLimits: true, Static: true})
		})
		arrivesWith := func(want int, what string) {
			t.Helper()
			ms := []mcast.Message{{Buf: make([]byte, 10)}}
			rx.SetReadDeadline(time.Now().Add(patience))
			if _, err := rx.ReadBatch(ms); err != nil {
				t.Fatal(err)
			}
			if ms[0].HopLimit != want {
				t.Errorf("%s: arrives with %d, want %d", what, ms[0].HopLimit, want)
			}
		}
		for _, ttl := range []int{0, 1, 2, mcast.TTLSubnet, mcast.TTLSite, mcast.TTLRegion, mcast.TTLContinent, mcast.TTLGlobal} {
			cfg := toWire(w, r.group)
			cfg.TTL = ttl
			tx := openTx(t, cfg)
			write(t, tx, r.group, port, "x")
			arrivesWith(max(ttl, 1), fmt.Sprint("TTL ", ttl))
			if _, err := tx.WriteBatch([]mcast.Message{{Buf: []byte("x"), Addr: netip.AddrPortFrom(r.group, port)}}); err != nil {
				t.Error(err)
			}
			arrivesWith(max(ttl, 1), fmt.Sprint("WriteBatch with TTL ", ttl))
			if err := tx.SetTTL(255 - ttl); err != nil {
				t.Error(err)
			}
			write(t, tx, r.group, port, "x")
			arrivesWith(max(255-ttl, 1), fmt.Sprint("SetTTL ", 255-ttl))
			for _, bad := range []int{-2, 256, 1 << 20} {
				if err := tx.SetTTL(bad); err == nil || !strings.Contains(err.Error(), strconv.Itoa(bad)) {
					t.Errorf("SetTTL(%d): %v", bad, err)
				}
			}
			write(t, tx, r.group, port, "x")
			arrivesWith(max(255-ttl, 1), "after mistakes")
		}
	})
}

// TTLHost: receivers on this host have it, and no other host.
func TestTxTTLHost(t *testing.T) {
	noLeaks(t)
	w := newWires(t, 1)[0]
	forEachRange(t, func(t *testing.T, r contractRange) {
		port := newPort()
		rxCfg := onWire(w, port, r.group)
		rxCfg.Loopback = true
		rx := openRx(t, rxCfg)
		far := newNaive(t, w.peer, r.group, port, "eth0")
		cfg := toWire(w, r.group)
		cfg.TTL, cfg.Loopback = mcast.TTLHost, true
		tx := openTx(t, cfg)
		write(t, tx, r.group, port, "host")
		if err := tx.SetTTL(1); err != nil {
			t.Fatal(err)
		}
		write(t, tx, r.group, port, "link")
		if err := tx.SetTTL(mcast.TTLHost); err != nil {
			t.Fatal(err)
		}
		write(t, tx, r.group, port, "host again")
		if err := tx.SetTTL(2); err != nil {
			t.Fatal(err)
		}
		write(t, tx, r.group, port, "marker")
		wantArrivals(t, rx, arrival{"host", r.group, w.at.Index}, arrival{"link", r.group, w.at.Index},
			arrival{"host again", r.group, w.at.Index}, arrival{"marker", r.group, w.at.Index})
		if got := far.await("marker"); !slices.Equal(got, []string{"link", "marker"}) {
			t.Errorf("the other host received %q", got)
		}
	})
}

// TTLHost without Loopback is for nobody on a network interface. (Linux would put on the link what nobody here has joined.)
func TestTxTTLHostAlone(t *testing.T) {
	noLeaks(t)
	w := newWires(t, 1)[0]
	lo := mustFind(t, "lo")[0]
	forEachRange(t, func(t *testing.T, r contractRange) {
		port := newPort()
		far := newNaive(t, w.peer, r.group, port, "eth0")
		near := openRx(t, mcast.RxConfig{Groups: []netip.Addr{r.group}, Port: port, Interfaces: []mcast.Interface{lo}})
		for _, ttl := range []int{mcast.TTLHost, 1} { // at first, and later
			tx := openTx(t, mcast.TxConfig{Groups: []netip.Addr{r.group}, Interfaces: []mcast.Interface{w.at, lo}, TTL: ttl})
			if err := tx.SetTTL(mcast.TTLHost); err != nil {
				t.Fatal(err)
			}
			write(t, tx, r.group, port, "one")
			ms := []mcast.Message{{Buf: []byte("batch"), Addr: netip.AddrPortFrom(r.group, port)}}
			if n, err := tx.WriteBatch(ms); n != 1 || err != nil || ms[0].N != 5 {
				t.Errorf("WriteBatch: %d, %v, %+v", n, err, ms)
			}
			if err := tx.SetTTL(1); err != nil {
				t.Fatal(err)
			}
			write(t, tx, r.group, port, "marker")
			onlyMarker(t, far, "marker")
			wantArrivals(t, near, arrival{"one", r.group, lo.Index}, arrival{"batch", r.group, lo.Index}, arrival{"marker", r.group, lo.Index})
		}
	})
}

func TestTxTrafficClass(t *testing.T) {
	noLeaks(t)
	w := newWires(t, 1)[0]
	forEachFamily(t, func(t *testing.T, r contractRange) {
		port := newPort()
		at := newNaive(t, w.peer, r.group, port, "eth0")
		raw, err := at.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		if cerr := raw.Control(func(fd uintptr) {
			if r.group.Is4() {
				err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_RECVTOS, 1)
			} else {
				err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVTCLASS, 1)
			}
		}); cerr != nil || err != nil {
			t.Fatal(cerr, err)
		}
		for _, class := range []int{0, 1, 46 << 2, 34<<2 | 2, 0xb8, 255} {
			cfg := toWire(w, r.group)
			cfg.TrafficClass = class
			write(t, openTx(t, cfg), r.group, port, "x")
			at.SetReadDeadline(time.Now().Add(patience))
			oob := make([]byte, 128)
			_, n, _, _, err := at.ReadMsgUDPAddrPort(make([]byte, 10), oob)
			if err != nil {
				t.Fatal(err)
			}
			msgs, err := unix.ParseSocketControlMessage(oob[:n])
			if err != nil || len(msgs) != 1 {
				t.Fatalf("control messages %v, %v", msgs, err)
			}
			got := int(msgs[0].Data[0])
			if r.group.Is6() {
				got = int(binary.NativeEndian.Uint32(msgs[0].Data))
			}
			if got != class {
				t.Errorf("arrives with class %#x, want %#x", got, class)
			}
		}
	})
}

// Answers come to the socket, by whichever interface they do, and nothing else does: no multicast.
func TestTxReplies(t *testing.T) {
	noLeaks(t)
	wires := newWires(t, 2)
	forEachRange(t, func(t *testing.T, r contractRange) {
		for _, own := range []uint16{0, newPort()} {
			port := newPort()
			tx := openTx(t, mcast.TxConfig{Groups: []netip.Addr{r.group}, Interfaces: interfacesOf(wires), Port: own})
			local := tx.LocalAddr().(*net.UDPAddr)
			if own != 0 && local.Port != int(own) || local.Port == 0 || local.IP.To4() == nil != r.group.Is6() {
				t.Errorf("local address %v", local)
			}
			for _, w := range wires {
				at := newNaive(t, w.peer, r.group, port, "eth0")
				write(t, tx, r.group, port, "question")
				at.SetReadDeadline(time.Now().Add(patience))
				_, src, err := at.ReadFromUDPAddrPort(make([]byte, 10))
				if err != nil {
					t.Fatal(err)
				}
				if own != 0 && src.Port() != own {
					t.Errorf("question from %s, want port %d", src, own)
				}
				// A member of the group on the sender's own port, so that multicast to it is on this host.
				member := newNaive(t, nil, r.group, src.Port()+1, w.Name())
				w.station(t, r.group, 0).send(r.group, src.Port(), "multicast")
				w.station(t, r.group, 0).send(r.group, src.Port()+1, "multicast")
				member.await("multicast")
				if _, err := at.WriteToUDPAddrPort([]byte("answer"), src); err != nil {
					t.Fatal(err)
				}
				answer, from := readTx(t, tx)
				if answer != "answer" || from.Port() != port {
					t.Errorf("read %q from %s, want from port %d", answer, from, port)
				}
				if zone := from.Addr().Zone(); from.Addr().IsLinkLocalUnicast() && zone != strconv.Itoa(w.at.Index) {
					t.Errorf("answer from %s, want the zone %d", from, w.at.Index)
				}
				at.Close()
			}
			tx.Close()
		}
	})
}

// A sender and a receiver on one host can have the same port, whichever comes first: multicast is for the one, and
// what comes back is for the other.
func TestTxSharedPort(t *testing.T) {
	noLeaks(t)
	w := newWires(t, 1)[0]
	for _, first := range []string{"sender", "receiver"} {
		t.Run(first+" first", func(t *testing.T) {
			forEachRange(t, func(t *testing.T, r contractRange) {
				port := newPort()
				cfg := toWire(w, r.group)
				cfg.Port = port
				var rx *mcast.RxSocket
				var tx *mcast.TxSocket
				if first == "sender" {
					tx = openTx(t, cfg)
					rx = openRx(t, onWire(w, port, r.group))
				} else {
					rx = openRx(t, onWire(w, port, r.group))
					tx = openTx(t, cfg)
				}
				at := newNaive(t, w.peer, r.group, port, "eth0")
				write(t, tx, r.group, port, "question")
				at.SetReadDeadline(time.Now().Add(patience))
				_, src, err := at.ReadFromUDPAddrPort(make([]byte, 10))
				if err != nil || src.Port() != port {
					t.Fatalf("question from %s, %v, want port %d", src, err, port)
				}
				from := w.station(t, r.group, 0)
				from.send(r.group, port, "multicast")
				if _, err := from.WriteToUDPAddrPort([]byte("unicast"), src); err != nil {
					t.Fatal(err)
				}
				from.send(r.group, port, "marker")
				wantArrivals(t, rx, arrival{"multicast", r.group, w.at.Index}, arrival{"marker", r.group, w.at.Index})
				if got, _ := readTx(t, tx); got != "unicast" {
					t.Errorf("the sender reads %q", got)
				}
			})
		})
	}
}

func TestTxDefaultInterface(t *testing.T) {
	noLeaks(t)
	forEachRange(t, func(t *testing.T, r contractRange) {
		port := newPort()
		rx := openRx(t, mcast.RxConfig{Groups: []netip.Addr{r.group}, Port: port, Loopback: true})
		tx := openTx(t, mcast.TxConfig{Groups: []netip.Addr{r.group}, Loopback: true})
		if got := tx.Interfaces(); len(got) != 1 || got[0].Name != "mc0" {
			t.Errorf("interfaces %+v", got)
		}
		write(t, tx, r.group, port, "datagram")
		write(t, tx, r.group, port, "marker")
		mc0 := mustFind(t, "mc0")[0].Index
		wantArrivals(t, rx, arrival{"datagram", r.group, mc0}, arrival{"marker", r.group, mc0})
	})
}

// A batch of everything at once: families, groups, ports, sizes, more than one system call takes.
// A default route that leads into a tunnel which carries no multicast is no answer to which interface to send by.
func TestTxDefaultTunnel(t *testing.T) {
	noLeaks(t)
	host := mcasttest.NewHost(t)
	tun := host.NewVeth("tun", netip.MustParsePrefix("10.9.0.1/24"), netip.MustParsePrefix("fd99::1/64"))
	tun.AddRoute(netip.MustParsePrefix("0.0.0.0/0"), tun.Peer().IPv4, 0)
	tun.AddRoute(netip.MustParsePrefix("::/0"), tun.Peer().IPv6, 0)
	host.Do(func() {
		for _, multicast := range []string{"on", "off"} {
			run(t, nil, "", "ip", "link", "set", "tun", "multicast", multicast)
			for _, r := range contractFamilies {
				tx, err := mcast.OpenTx(mcast.TxConfig{Groups: []netip.Addr{r.group}})
				if err == nil {
					tx.Close()
				}
				if multicast == "on" && err != nil {
					t.Errorf("%s: %v", r.group, err)
				}
				if multicast == "off" {
					hinted(t, err, mcast.ErrNoInterface, "TxConfig.Interfaces")
				}
				tx, err = mcast.OpenTx(mcast.TxConfig{Groups: []netip.Addr{r.group}, Interfaces: mustFind(t, "tun")})
				if err != nil { // who names it, may
					t.Fatal(err)
				}
				tx.Close()
			}
		}
	})
}

func TestTxWriteBatch(t *testing.T) {
	noLeaks(t)
	wires := newWires(t, 2)
	port := newPort()
	var groups []netip.Addr
	for _, r := range contractRanges {
		groups = append(groups, r.group, r.other)
	}
	tx := openTx(t, mcast.TxConfig{Groups: groups, Interfaces: interfacesOf(wires), Loopback: true})
	rx := openRx(t, mcast.RxConfig{Groups: groups, Port: port, Interfaces: interfacesOf(wires), Loopback: true, ReadBuffer: 1 << 20})
	other := openRx(t, mcast.RxConfig{Groups: groups, Port: port + 1, Interfaces: interfacesOf(wires), Loopback: true})

	var ms []mcast.Message
	var want, wantOther []arrival
	add := func(group netip.Addr, to *[]arrival, port uint16, payload string) {
		m := mcast.Message{Buf: []byte(payload), Addr: netip.AddrPortFrom(group, port), N: 777}
		on := wires
		switch len(ms) % 7 {
		case 5: // as IPv6 writes it
			m.Addr = netip.AddrPortFrom(netip.AddrFrom16(group.As16()), port)
		case 6:
			if group.Is6() {
				m.Addr = netip.AddrPortFrom(group.WithZone(wires[1].Name()), port)
				on = wires[1:]
			}
		}
		ms = append(ms, m)
		for _, w := range on {
			*to = append(*to, arrival{payload, group, w.at.Index})
		}
	}
	for i := range 300 {
		payload := fmt.Sprint(i, " ", strings.Repeat("x", i*7%1800))
		if i%5 == 4 {
			add(groups[i*3%len(groups)], &wantOther, port+1, payload)
		} else {
			add(groups[i/3%len(groups)], &want, port, payload)
		}
	}
	for _, g := range groups {
		add(g, &want, port, "marker "+g.String())
		add(g, &wantOther, port+1, "marker "+g.String())
	}
	n, err := tx.WriteBatch(ms)
	if n != len(ms) || err != nil {
		t.Fatalf("%d of %d, %v", n, len(ms), err)
	}
	for i, m := range ms {
		if m.N != len(m.Buf) {
			t.Errorf("message %d: N is %d, want %d", i, m.N, len(m.Buf))
		}
	}
	// Payloads alone do not tell when all has come: each comes by two interfaces.
	collect := func(rx *mcast.RxSocket, want []arrival) {
		t.Helper()
		var got []arrival
		rx.SetReadDeadline(time.Now().Add(patience))
		batch := make([]mcast.Message, 64)
		for i := range batch {
			batch[i].Buf = make([]byte, 2048)
		}
		for len(got) < len(want) {
			n, err := rx.ReadBatch(batch)
			if err != nil {
				t.Fatalf("%v after %d of %d", err, len(got), len(want))
			}
			for _, m := range batch[:n] {
				got = append(got, arrival{string(m.Buf[:m.N]), m.Group, m.IfIndex})
			}
		}
		compareArrivals(t, got, want)
	}
	collect(rx, want)
	collect(other, wantOther)

	if n, err := tx.WriteBatch(nil); n != 0 || err != nil {
		t.Errorf("of nothing: %d, %v", n, err)
	}
}

// A batch ends at what cannot be sent; what is before that has left, and what is after it has not.
func TestTxWriteBatchMistake(t *testing.T) {
	noLeaks(t)
	w := newWires(t, 1)[0]
	forEachRange(t, func(t *testing.T, r contractRange) {
		for _, tt := range []struct {
			name string
			bad  mcast.Message
			is   error
		}{
			{"undeclared", mcast.Message{Addr: netip.AddrPortFrom(r.other, 9)}, mcast.ErrNotDeclared},
			{"unicast", mcast.Message{Addr: netip.AddrPortFrom(w.like(r.group, 254), 9)}, mcast.ErrNotDeclared},
			{"nothing", mcast.Message{}, mcast.ErrNotDeclared},
			{"no family", mcast.Message{Addr: netip.AddrPortFrom(addr("ff02::999"), 9)}, mcast.ErrNotDeclared},
			{"too long", mcast.Message{Addr: netip.AddrPortFrom(r.group, 9), Buf: make([]byte, 70000)}, unix.EMSGSIZE},
		} {
			for _, before := range []int{0, 1, 3, 100} {
				port := newPort()
				tx := openTx(t, toWire(w, r.group))
				at := newNaive(t, w.peer, r.group, port, "eth0")
				var ms []mcast.Message
				var want []string
				for i := range before {
					want = append(want, strconv.Itoa(i))
					ms = append(ms, mcast.Message{Addr: netip.AddrPortFrom(r.group, port), Buf: []byte(want[i])})
				}
				ms = append(ms, tt.bad)
				for range 3 {
					ms = append(ms, mcast.Message{Addr: netip.AddrPortFrom(r.group, port), Buf: []byte("after"), N: -1})
				}
				n, err := tx.WriteBatch(ms)
				var op *mcast.OpError
				if n != before || !errors.Is(err, tt.is) || !errors.As(err, &op) || op.Op != "write" {
					t.Errorf("%s after %d: %d, %v", tt.name, before, n, err)
				}
				for i, m := range ms[:n] {
					if m.N != len(m.Buf) {
						t.Errorf("message %d: N is %d", i, m.N)
					}
				}
				write(t, tx, r.group, port, "marker")
				if got := at.await("marker"); !slices.Equal(got, append(want, "marker")) {
					t.Errorf("%s after %d: received %q", tt.name, before, got)
				}
				at.Close()
				tx.Close()
			}
		}
	})
}

// failedBy names the interfaces of the errors that err consists of, in their order.
func failedBy(err error) (names []string) {
	switch e := err.(type) {
	case *mcast.OpError:
		names = []string{e.Interface}
	case interface{ Unwrap() []error }:
		for _, one := range e.Unwrap() {
			names = append(names, failedBy(one)...)
		}
	}
	return names
}

// refuse makes the kernel refuse with EPERM to send to the group by the wire, as a firewall does. An IPsec policy
// (ip-xfrm(8)) takes no other program than ip.
func (w *wire) refuse(t *testing.T, group netip.Addr) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_XFRM)
	if err != nil {
		unavailable(t, fmt.Sprintf("IPsec policies (CONFIG_XFRM_USER): %v", err))
	}
	unix.Close(fd)
	run(t, nil, "", "ip", "xfrm", "policy", "add", "src", netip.PrefixFrom(unspecified(group), 0).String(),
		"dst", netip.PrefixFrom(group, group.BitLen()).String(), "dev", w.Name(), "dir", "out", "action", "block")
	t.Cleanup(func() { run(t, nil, "", "ip", "xfrm", "policy", "flush") })
}

// The kernel refuses some of the groups on some of the interfaces. WriteBatch does what as many calls of
// WriteToUDPAddrPort do, up to the first datagram that no interface sends.
func TestTxWriteBatchSome(t *testing.T) {
	noLeaks(t)
	forEachFamily(t, func(t *testing.T, r contractRange) {
		wires := newWires(t, 2)
		const free = 'f'
		groups := map[rune]netip.Addr{free: groupLike(r.group, 1), '0': groupLike(r.group, 2), '1': groupLike(r.group, 3), 'n': groupLike(r.group, 4)}
		for i, w := range wires { // '0' and '1' are what that wire refuses, 'n' what neither takes
			for _, g := range []netip.Addr{groups['0'+rune(i)], groups['n']} {
				w.refuse(t, g)
			}
		}
		port := newPort()
		all := slices.Collect(maps.Values(groups))
		tx := openTx(t, mcast.TxConfig{Groups: all, Interfaces: interfacesOf(wires)})
		var rxs []*mcast.RxSocket
		for _, w := range wires {
			w.peer.Do(func() {
				rxs = append(rxs, openRx(t, mcast.RxConfig{Groups: all, Port: port, Interfaces: mustFind(t, "eth0")}))
			})
		}
		try := func(text string, n int, arrive [2]string, failed ...int) {
			t.Helper()
			var ms []mcast.Message
			for i, c := range text {
				ms = append(ms, mcast.Message{Buf: []byte{byte('a' + i)}, Addr: netip.AddrPortFrom(groups[c], port), N: -1})
			}
			got, err := tx.WriteBatch(ms)
			var names []string
			for _, i := range failed {
				names = append(names, wires[i].Name())
			}
			if by := failedBy(err); got != n || !slices.Equal(by, names) {
				t.Errorf("%s: %d, %v; want %d, and %v to fail", text, got, err, n, names)
			}
			for i, m := range ms {
				if want := i < n; want != (m.N == 1) {
					t.Errorf("%s: N of message %d is %d, %d were sent", text, i, m.N, n)
				}
			}
			tx.WriteToUDPAddrPort([]byte("."), netip.AddrPortFrom(groups[free], port))
			for i, want := range arrive {
				if want == "" {
					continue
				}
				rxs[i].SetReadDeadline(time.Now().Add(patience))
				var came []byte
				for buf := make([]byte, 10); len(came) < len(want) || !slices.Contains(came, '.'); {
					n, _, err := rxs[i].ReadFrom(buf)
					if err != nil {
						t.Fatalf("%s: %v after %q", text, err, came)
					}
					came = append(came, buf[:n]...)
				}
				if slices.Sort(came); string(came) != want { // groups have buffers of their own, in no order
					t.Errorf("%s: by wire %d came %q, want %q", text, i, came, want)
				}
			}
		}
		try("fff", 3, [2]string{".abc", ".abc"})
		try("f0f", 3, [2]string{".ac", ".abc"}, 0)
		try("f1f", 3, [2]string{".abc", ".ac"}, 1)
		try("f01f0f", 6, [2]string{".acdf", ".abdef"}, 0, 1)
		try("0000f", 5, [2]string{".e", ".abcde"}, 0)
		try("1111f", 5, [2]string{".abcde", ".e"}, 1)
		try("1n", 1, [2]string{".a", "."}, 0, 1)
		try("fnf", 1, [2]string{".a", ".a"}, 0, 1)
		try("n", 0, [2]string{".", "."}, 0, 1)

		wires[0].Delete()
		for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
			_, err := tx.WriteToUDPAddrPort([]byte("-"), netip.AddrPortFrom(groups['1'], port))
			if errors.Is(err, mcast.ErrNoInterface) {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("the interface is gone: %v", err)
			}
		}
		try("f0f", 3, [2]string{"", ".abc"}, 0)
		try("f1f", 1, [2]string{"", ".a"}, 0, 1)
		tx.Close()
		_, err := tx.WriteToUDPAddrPort([]byte("x"), netip.AddrPortFrom(groups[free], port))
		_, batch := tx.WriteBatch([]mcast.Message{{Buf: []byte("x"), Addr: netip.AddrPortFrom(groups[free], port)}})
		for _, err := range []error{err, batch} {
			if !errors.Is(err, net.ErrClosed) {
				t.Errorf("after Close: %v", err)
			}
		}
	})
}

// slow lets a wire carry so many bits a second, of which the sender feels little if the kernel's queue has room, and all if
// its send buffer has none.
func (w *wire) slow(t *testing.T, rate string) {
	t.Helper()
	run(t, nil, "", "tc", "qdisc", "replace", "dev", w.Name(), "root", "tbf", "rate", rate, "burst", "3000", "limit", "1000000")
}

// What is sent waits for room in the send buffer, in a batch and one by one, and all of it arrives. The kernel may deliver it in
// another order, since each processor has its own queue between the ends of a veth.
func TestTxWaits(t *testing.T) {
	noLeaks(t)
	w := newWires(t, 1)[0]
	w.slow(t, "4mbit")
	forEachFamily(t, func(t *testing.T, r contractRange) {
		port := newPort()
		cfg := toWire(w, r.group)
		cfg.WriteBuffer = 1
		tx := openTx(t, cfg)
		var rx *mcast.RxSocket
		w.peer.Do(func() {
			rx = openRx(t, mcast.RxConfig{Groups: []netip.Addr{r.group}, Port: port, Interfaces: mustFind(t, "eth0"), ReadBuffer: 1 << 20})
		})
		const each = 50
		var ms []mcast.Message
		for i := range each { // of growing size, so that each is a datagram to the kernel, too
			ms = append(ms, mcast.Message{Buf: []byte(strings.Repeat("x", 500+i)), Addr: netip.AddrPortFrom(r.group, port)})
		}
		for range 2 {
			if n, err := tx.WriteBatch(ms); n != len(ms) || err != nil {
				t.Fatal(n, err)
			}
			for _, m := range ms {
				write(t, tx, r.group, port, string(m.Buf))
			}
		}
		rx.SetReadDeadline(time.Now().Add(patience))
		arrived := make([]int, each)
		for range 4 * each {
			n, _, err := rx.ReadFrom(make([]byte, 1000))
			if err != nil || n < 500 || n >= 500+each {
				t.Fatalf("read %d bytes: %v; arrived until then: %v", n, err, arrived)
			}
			arrived[n-500]++
		}
		for i, times := range arrived {
			if times != 4 {
				t.Errorf("datagram %d arrived %d times, want 4", i, times)
			}
		}
	})
}

// A write that waits for its send buffer ends when the socket is closed or the deadline passes. The error says so,
// although other datagrams of the batch were refused before.
func TestTxWaitEnds(t *testing.T) {
	noLeaks(t)
	wires := newWires(t, 2)
	all := []netip.Addr{addr("239.1.2.3"), addr("239.1.2.4"), addr("239.1.2.5")}
	for i, w := range wires {
		w.slow(t, "8kbit")
		w.refuse(t, all[i])
	}
	for _, tt := range []struct {
		name string
		do   func(*mcast.TxSocket)
		is   error
	}{
		{"closed", func(tx *mcast.TxSocket) { tx.Close() }, net.ErrClosed},
		{"deadline", func(tx *mcast.TxSocket) { tx.SetWriteDeadline(time.Now()) }, os.ErrDeadlineExceeded},
	} {
		port := newPort()
		arrived := newNaive(t, wires[0].peer, all[2], port, "eth0")
		tx := openTx(t, mcast.TxConfig{Groups: all, Interfaces: interfacesOf(wires), WriteBuffer: 1})
		var ms []mcast.Message
		for i := range 100 { // each of the interfaces refuses one of the first two
			ms = append(ms, mcast.Message{Buf: []byte(strings.Repeat("x", 1000+i)), Addr: netip.AddrPortFrom(all[min(i, 2)], port)})
		}
		written := start(func() outcome {
			n, err := tx.WriteBatch(ms)
			return outcome{strconv.Itoa(n), err}
		})
		arrived.await(string(ms[2].Buf)) // when it arrives, both have been refused
		tt.do(tx)
		if o := await(t, written); !errors.Is(o.err, tt.is) || o.payload == "100" {
			t.Errorf("%s: WriteBatch: %s, %v", tt.name, o.payload, o.err)
		}
		for _, w := range wires { // what waits in the queue would keep the next from its turn
			run(t, nil, "", "tc", "qdisc", "del", "dev", w.Name(), "root")
			w.slow(t, "8kbit")
		}
	}
}

func TestTxWriteMistakes(t *testing.T) {
	noLeaks(t)
	w := newWires(t, 1)[0]
	v4, v6 := contractFamilies[0], contractFamilies[1]
	tx := openTx(t, toWire(w, v4.group))
	for _, to := range []netip.Addr{v4.other, v6.group, w.addr4(254), w.addr6(254), addr("127.0.0.1"), addr("224.0.0.1"), {}} {
		n, err := tx.WriteToUDPAddrPort([]byte("x"), netip.AddrPortFrom(to, 9))
		var op *mcast.OpError
		if n != 0 || !errors.Is(err, mcast.ErrNotDeclared) || !errors.As(err, &op) || op.Op != "write" || !strings.Contains(err.Error(), to.String()) {
			t.Errorf("to %s: %d, %v", to, n, err)
		}
	}
	for _, to := range []net.Addr{nil, (*net.UDPAddr)(nil), &net.UDPAddr{}, &net.UnixAddr{Name: "x"}, &net.IPAddr{IP: v4.group.AsSlice()},
		&net.UDPAddr{IP: v4.group.AsSlice(), Port: 9 + 1<<16}, &net.UDPAddr{IP: v4.group.AsSlice(), Port: 9 - 1<<16}} {
		if n, err := tx.WriteTo([]byte("x"), to); n != 0 || err == nil {
			t.Errorf("to %v: %d, %v", to, n, err)
		}
	}
	// As package net writes an IPv4 address in 16 bytes, it is still that.
	if n, err := tx.WriteTo([]byte("x"), &net.UDPAddr{IP: net.ParseIP(v4.group.String()), Port: 9}); n != 1 || err != nil {
		t.Errorf("to a net.IP: %d, %v", n, err)
	}
	if n, err := tx.WriteToUDPAddrPort([]byte("x"), netip.AddrPortFrom(netip.AddrFrom16(v4.group.As16()), 9)); n != 1 || err != nil {
		t.Errorf("to IPv4 in IPv6: %d, %v", n, err)
	}
	// Its zone, which may well be meant, picks no interface, and nobody has port 0.
	for _, name := range []string{w.Name(), strconv.Itoa(w.at.Index), "nonsense"} {
		mapped := netip.AddrPortFrom(netip.AddrFrom16(v4.group.As16()).WithZone(name), 9)
		_, plain := tx.WriteToUDPAddrPort([]byte("x"), mapped)
		_, batch := tx.WriteBatch([]mcast.Message{{Buf: []byte("x"), Addr: mapped}})
		_, short := tx.WriteTo([]byte("x"), &net.UDPAddr{IP: net.IP(v4.group.AsSlice()), Port: 9, Zone: name})
		_, long := tx.WriteTo([]byte("x"), &net.UDPAddr{IP: net.ParseIP(v4.group.String()), Port: 9, Zone: name})
		for _, err := range []error{plain, batch, short, long} {
			var op *mcast.OpError
			if !errors.As(err, &op) || !strings.Contains(err.Error(), v4.group.String()+": zone "+name) {
				t.Errorf("to IPv4 with a zone: %v", err)
			}
		}
	}
	_, plain := tx.WriteToUDPAddrPort([]byte("x"), netip.AddrPortFrom(v4.group, 0))
	_, batch := tx.WriteBatch([]mcast.Message{{Buf: []byte("x"), Addr: netip.AddrPortFrom(v4.group, 0)}})
	for text, err := range map[string]error{": port 0": plain, ": message 0: port 0": batch} {
		if err == nil || !strings.Contains(err.Error(), v4.group.String()+text) {
			t.Errorf("to port 0: %v", err)
		}
	}
	_, err := tx.WriteToUDPAddrPort(make([]byte, 65508), netip.AddrPortFrom(v4.group, 9))
	if !errors.Is(err, unix.EMSGSIZE) || !strings.Contains(err.Error(), "65507") {
		t.Errorf("too long: %v", err)
	}
}

// From nothing to as much as there can be.
func TestTxSizes(t *testing.T) {
	noLeaks(t)
	w := newWires(t, 1)[0]
	lo := mustFind(t, "lo")[0]
	forEachFamily(t, func(t *testing.T, r contractRange) {
		port := newPort()
		largest := 65507
		if r.group.Is6() {
			largest = 65527
		}
		tx := openTx(t, mcast.TxConfig{Groups: []netip.Addr{r.group}, Interfaces: []mcast.Interface{w.at, lo}})
		far := newNaive(t, w.peer, r.group, port, "eth0")
		near := openRx(t, mcast.RxConfig{Groups: []netip.Addr{r.group}, Port: port, Interfaces: []mcast.Interface{lo}})
		text := strings.Repeat("0123456789abcdef", 4096)
		for _, size := range []int{0, 1, 1472, 1473, 9000, largest} {
			for _, how := range []string{"WriteTo", "WriteBatch"} {
				if how == "WriteTo" {
					write(t, tx, r.group, port, text[:size])
				} else if n, err := tx.WriteBatch([]mcast.Message{{Buf: []byte(text[:size]), Addr: netip.AddrPortFrom(r.group, port)}}); n != 1 || err != nil {
					t.Fatal(n, err)
				}
				if got := far.await(text[:size]); len(got) != 1 {
					t.Errorf("%d bytes: the other host has %d datagrams", size, len(got))
				}
				buf := make([]byte, 70000)
				near.SetReadDeadline(time.Now().Add(patience))
				if n, _, err := near.ReadFrom(buf); err != nil || string(buf[:n]) != text[:size] {
					t.Errorf("%d bytes: this host has %d, %v", size, n, err)
				}
			}
		}
	})
}

func TestTxDeadlineAndClose(t *testing.T) {
	noLeaks(t)
	w := newWires(t, 1)[0]
	groups := []netip.Addr{contractFamilies[0].group, contractFamilies[1].group}
	port := newPort()
	cfg := toWire(w, groups...)
	cfg.Port = port
	tx := openTx(t, cfg)
	read := func() outcome {
		buf := make([]byte, 100)
		n, _, err := tx.ReadFrom(buf)
		return outcome{string(buf[:n]), err}
	}
	tx.SetReadDeadline(time.Unix(1, 0))
	if o := read(); !errors.Is(o.err, os.ErrDeadlineExceeded) {
		t.Errorf("read %q, %v", o.payload, o.err)
	}
	tx.SetReadDeadline(time.Time{})
	got := start(read)
	awaitBlocked(t, 1)
	tx.SetReadDeadline(time.Now())
	if o := await(t, got); !errors.Is(o.err, os.ErrDeadlineExceeded) {
		t.Errorf("read %q, %v", o.payload, o.err)
	}
	tx.SetReadDeadline(time.Time{})
	for _, g := range groups { // one reader for both families
		got = start(read)
		awaitBlocked(t, 1)
		w.station(t, g, 0).send(w.like(g, 1), port, "unicast")
		if o := await(t, got); o.payload != "unicast" || o.err != nil {
			t.Errorf("read %q, %v", o.payload, o.err)
		}
	}

	writes := func() (errs []error) {
		for _, g := range groups {
			_, err := tx.WriteToUDPAddrPort([]byte("x"), netip.AddrPortFrom(g, 9))
			_, batch := tx.WriteBatch([]mcast.Message{{Buf: []byte("x"), Addr: netip.AddrPortFrom(g, 9)}})
			errs = append(errs, err, batch)
		}
		return errs
	}
	tx.SetWriteDeadline(time.Unix(1, 0))
	for _, err := range writes() {
		var ne net.Error
		if !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &ne) || !ne.Timeout() {
			t.Errorf("write: %v", err)
		}
	}
	tx.SetDeadline(time.Time{})
	for _, err := range writes() {
		if err != nil {
			t.Errorf("write: %v", err)
		}
	}

	reads := []<-chan outcome{start(read), start(read)}
	awaitBlocked(t, 2)
	if err := tx.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	closed := func(what string, err error) {
		t.Helper()
		var op *mcast.OpError
		if !errors.Is(err, net.ErrClosed) || !errors.As(err, &op) {
			t.Errorf("%s: %v, want an OpError of net.ErrClosed", what, err)
		}
	}
	for _, c := range reads {
		closed("blocked read", await(t, c).err)
	}
	closed("read", read().err)
	for _, err := range writes() {
		closed("write", err)
	}
	closed("SetDeadline", tx.SetDeadline(time.Now()))
	closed("SetReadDeadline", tx.SetReadDeadline(time.Now()))
	closed("SetWriteDeadline", tx.SetWriteDeadline(time.Now()))
	closed("SetTTL", tx.SetTTL(1))
	if n := len(failedBy(tx.SetTTL(1))); n != 1 {
		t.Errorf("SetTTL: the error is told %d times", n)
	}
	if err := tx.Close(); err != nil {
		t.Errorf("Close again: %v", err)
	}
	if n := len(tx.Interfaces()); n != 1 {
		t.Errorf("%d interfaces", n)
	}
	if tx.LocalAddr() == nil {
		t.Error("no local address")
	}
}

// Many writers, SetTTL and readers at once: every datagram arrives once.
func TestTxManyWriters(t *testing.T) {
	noLeaks(t)
	const writers, each = 8, 20
	wires := newWires(t, 2)
	port := newPort()
	var groups []netip.Addr
	for _, r := range contractRanges {
		groups = append(groups, r.group)
	}
	rx := openRx(t, mcast.RxConfig{Groups: groups, Port: port, Interfaces: interfacesOf(wires), Loopback: true})
	tx := openTx(t, mcast.TxConfig{Groups: groups, Interfaces: interfacesOf(wires), Loopback: true})
	var want []arrival
	for i := range writers * each {
		for _, w := range wires {
			for _, g := range groups {
				want = append(want, arrival{fmt.Sprint(i), g, w.at.Index})
			}
		}
	}
	// What is on its way has to fit into the kernel's queues (net.core.netdev_max_backlog), however busy it is.
	onTheWay, failed := make(chan struct{}, 20), make(chan struct{})
	got := make(chan []arrival)
	go func() {
		var all []arrival
		defer func() { got <- all }()
		rx.SetReadDeadline(time.Now().Add(patience))
		ms := make([]mcast.Message, 64)
		for i := range ms {
			ms[i].Buf = make([]byte, 100)
		}
		for len(all) < len(want) {
			n, err := rx.ReadBatch(ms)
			if err != nil {
				t.Error(err)
				close(failed)
				return
			}
			for _, m := range ms[:n] {
				all = append(all, arrival{string(m.Buf[:m.N]), m.Group, m.IfIndex})
				if len(all)%(len(groups)*len(wires)) == 0 {
					<-onTheWay
				}
			}
		}
	}()
	var running sync.WaitGroup
	for w := range writers {
		running.Go(func() {
			for i := range each {
				select {
				case onTheWay <- struct{}{}:
				case <-failed:
					return
				}
				payload := []byte(strconv.Itoa(w*each + i))
				if w%2 == 0 {
					ms := make([]mcast.Message, len(groups))
					for j, g := range groups {
						ms[j] = mcast.Message{Buf: payload, Addr: netip.AddrPortFrom(g, port)}
					}
					if n, err := tx.WriteBatch(ms); n != len(ms) || err != nil {
						t.Error(n, err)
					}
					continue
				}
				for _, g := range groups {
					if _, err := tx.WriteToUDPAddrPort(payload, netip.AddrPortFrom(g, port)); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	running.Go(func() {
		for i := range 100 {
			if err := errors.Join(tx.SetTTL(i%255+1), tx.SetWriteDeadline(time.Now().Add(time.Hour))); err != nil {
				t.Error(err)
			}
			tx.Interfaces()
			tx.LocalAddr()
		}
	})
	running.Wait()
	compareArrivals(t, <-got, want)
}

// bareNetwork calls f where there is nothing but lo, which is up and has no route for multicast: as on a machine
// without a network, and unlike on the hosts of mcasttest.
func bareNetwork(t *testing.T, f func()) {
	t.Helper()
	mcasttest.NewHost(t).Do(func() { // on a thread of its own, which nobody uses afterwards
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Fatal(err)
		}
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		lo, err := unix.NewIfreq("lo")
		if err != nil {
			t.Fatal(err)
		}
		lo.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
		if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo); err != nil {
			t.Fatal(err)
		}
		f()
	})
}

// IPv4 by lo needs no route, and has the source that belongs to lo. IPv6 needs one, and the error says which.
func TestTxLoopbackWithoutRoutes(t *testing.T) {
	noLeaks(t)
	bareNetwork(t, func() {
		lo := mustFind(t, "lo")
		forEachRangeHere(t, func(r contractRange) {
			port := newPort()
			rx := openRx(t, mcast.RxConfig{Groups: []netip.Addr{r.group}, Port: port, Interfaces: lo})
			tx := openTx(t, mcast.TxConfig{Groups: []netip.Addr{r.group}, Interfaces: lo})
			if r.group.Is4() {
				write(t, tx, r.group, port, "x")
				rx.SetReadDeadline(time.Now().Add(patience))
				_, src, err := rx.ReadFromUDPAddrPort(make([]byte, 10))
				if err != nil || src.Addr() != addr("127.0.0.1") {
					t.Errorf("%s: from %s, %v", r.name, src, err)
				}
				return
			}
			n, err := tx.WriteToUDPAddrPort([]byte("x"), netip.AddrPortFrom(r.group, port))
			var op *mcast.OpError
			if n != 0 || !errors.Is(err, unix.ENETUNREACH) || !errors.As(err, &op) || op.Interface != "lo" || op.Group != r.group ||
				!strings.Contains(op.Hint, "ip -6 route add local ff00::/8 dev lo") {
				t.Errorf("%s: %d, %v", r.name, n, err)
			}
			_, err = tx.WriteBatch([]mcast.Message{{Buf: []byte("x"), Addr: netip.AddrPortFrom(r.group, port)}})
			if !errors.As(err, &op) || !strings.Contains(op.Hint, "ip -6 route add local ff00::/8 dev lo") {
				t.Errorf("%s: WriteBatch: %v", r.name, err)
			}
		})
		// There is no other interface.
		for _, r := range contractFamilies {
			if _, err := mcast.OpenTx(mcast.TxConfig{Groups: []netip.Addr{r.group}}); !errors.Is(err, mcast.ErrNoInterface) {
				t.Errorf("the default interface: %v", err)
			}
			if _, err := mcast.OpenRx(mcast.RxConfig{Groups: []netip.Addr{r.group}, Port: newPort()}); !errors.Is(err, mcast.ErrNoInterface) {
				t.Errorf("the default interfaces: %v", err)
			}
		}
	})
}

// forEachRangeHere does without subtests, which would run elsewhere than on the host.
func forEachRangeHere(t *testing.T, f func(r contractRange)) {
	t.Helper()
	for _, r := range contractRanges {
		f(r)
	}
}

// The same with the routes that a host of mcasttest has, where the source is ::1.
func TestTxLoopbackSource(t *testing.T) {
	noLeaks(t)
	lo := mustFind(t, "lo")
	forEachRange(t, func(t *testing.T, r contractRange) {
		port := newPort()
		rx := openRx(t, mcast.RxConfig{Groups: []netip.Addr{r.group}, Port: port, Interfaces: lo})
		write(t, openTx(t, mcast.TxConfig{Groups: []netip.Addr{r.group}, Interfaces: lo}), r.group, port, "x")
		rx.SetReadDeadline(time.Now().Add(patience))
		_, src, err := rx.ReadFromUDPAddrPort(make([]byte, 10))
		want := addr("127.0.0.1")
		if r.group.Is6() {
			want = addr("::1")
		}
		if err != nil || src.Addr().WithZone("") != want {
			t.Errorf("from %s, %v, want %s", src, err, want)
		}
	})
}

// By an interface that is down nothing can be sent, and the error says so; when it is up again, everything can.
func TestTxInterfaceDown(t *testing.T) {
	noLeaks(t)
	wires := newWires(t, 2)
	forEachRange(t, func(t *testing.T, r contractRange) {
		w, other := wires[0], wires[1]
		port := newPort()
		tx := openTx(t, mcast.TxConfig{Groups: []netip.Addr{r.group}, Interfaces: interfacesOf(wires)})
		at, atOther := newNaive(t, w.peer, r.group, port, "eth0"), newNaive(t, other.peer, r.group, port, "eth0")
		w.Down()
		n, err := tx.WriteToUDPAddrPort([]byte("down"), netip.AddrPortFrom(r.group, port))
		var op *mcast.OpError
		if n != len("down") || !errors.As(err, &op) || op.Interface != w.Name() || op.Group != r.group || op.Hint == "" {
			t.Errorf("one of two is down: %d, %v", n, err)
		}
		n, err = tx.WriteBatch([]mcast.Message{{Buf: []byte("batch"), Addr: netip.AddrPortFrom(r.group, port)}})
		if n != 1 || !errors.As(err, &op) || op.Interface != w.Name() {
			t.Errorf("WriteBatch, one of two is down: %d, %v", n, err)
		}
		w.Up()
		write(t, tx, r.group, port, "marker")
		onlyMarker(t, at, "marker")
		if got := atOther.await("marker"); !slices.Equal(got, []string{"down", "batch", "marker"}) {
			t.Errorf("by the other: %q", got)
		}
	})
}

// While IPv6 checks whether anybody else has the new address, OpenTx waits, and what is sent then is sent.
func TestTxDuplicateAddressDetection(t *testing.T) {
	noLeaks(t)
	w := mcasttest.NewVeth(t, "dad0")
	own := netip.PrefixFrom(w.LinkLocal, 64)
	port := newPort()
	group := contractRanges[2].group
	at := newNaive(t, w.Peer(), group, port, "eth0")
	w.DelAddress(own)
	// The kernel gives the interface an address now, and checks it for a second or two.
	if err := os.WriteFile("/proc/sys/net/ipv6/conf/dad0/addr_gen_mode", []byte("0"), 0); err != nil {
		t.Fatal(err)
	}
	var found []mcast.Interface
	eventually(t, "an address", func() bool {
		found = mustFind(t, "dad0")
		return len(found[0].IPv6) > 0
	})
	// The control: a socket of package net cannot send yet.
	early, err := net.Dial("udp6", netip.AddrPortFrom(group.WithZone(strconv.Itoa(w.Index())), port).String())
	if !errors.Is(err, unix.EADDRNOTAVAIL) {
		t.Fatalf("the address is usable at once: %v", err)
	}
	if early != nil {
		early.Close()
	}
	tx := openTx(t, mcast.TxConfig{Groups: []netip.Addr{group}, Interfaces: found})
	write(t, tx, group, port, "x")
	onlyMarker(t, at, "x")
}

// An interface that is deleted and created again is sent by again, from the same port.
func TestTxFollow(t *testing.T) {
	noLeaks(t)
	wires := newWires(t, 2)
	w := wires[0]
	var groups []netip.Addr
	for _, r := range contractRanges {
		groups = append(groups, r.group)
	}
	own := newPort()
	tx := openTx(t, mcast.TxConfig{Groups: groups, Interfaces: interfacesOf(wires), Port: own})
	static := openTx(t, mcast.TxConfig{Groups: groups, Interfaces: interfacesOf(wires), Static: true})
	round := func() {
		t.Helper()
		for _, g := range groups {
			port := newPort()
			var at []*naive
			for _, w := range wires {
				at = append(at, newNaive(t, w.peer, g, port, "eth0"))
			}
			write(t, tx, g, port, "x")
			for _, n := range at {
				n.SetReadDeadline(time.Now().Add(patience))
				if _, src, err := n.ReadFromUDPAddrPort(make([]byte, 10)); err != nil || src.Port() != own {
					t.Errorf("%s: from %s, %v, want port %d", g, src, err, own)
				}
				n.Close()
			}
		}
	}
	round()
	w.Delete()
	for _, g := range groups {
		_, err := tx.WriteToUDPAddrPort([]byte("x"), netip.AddrPortFrom(g, 9))
		var op *mcast.OpError
		if !errors.As(err, &op) || op.Interface != w.Name() || op.Hint == "" {
			t.Errorf("%s by an interface that is gone: %v", g, err)
		}
	}
	for range 2 {
		w.Create()
		eventually(t, "it sends by the new interface", func() bool {
			return slices.ContainsFunc(tx.Interfaces(), func(i mcast.Interface) bool { return i.Index == w.Index() })
		})
		round()
		w.Delete() // the second time it is back at once
	}
	w.Create()
	if slices.ContainsFunc(static.Interfaces(), func(i mcast.Interface) bool { return i.Index == w.Index() }) {
		t.Error("the static one follows")
	}
}

// Any client that takes a net.PacketConn can have a TxSocket.
func TestTxPacketConn(t *testing.T) {
	noLeaks(t)
	w := newWires(t, 1)[0]
	forEachRange(t, func(t *testing.T, r contractRange) {
		port := newPort()
		rx := openRx(t, onWire(w, port, r.group))
		served := make(chan error, 1)
		go func() { served <- echo(rx) }()
		w.peer.Do(func() {
			tx := openTx(t, mcast.TxConfig{Groups: []netip.Addr{r.group}, Interfaces: mustFind(t, "eth0"), Static: true})
			if answer, err := ask(tx, &net.UDPAddr{IP: r.group.AsSlice(), Port: int(port)}, "hello"); answer != "hello" || err != nil {
				t.Errorf("%q, %v", answer, err)
			}
		})
		rx.Close()
		<-served
	})
}

// ask is a client that knows nothing of multicast.
func ask(pc net.PacketConn, to net.Addr, question string) (answer string, err error) {
	if err := pc.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	if _, err := pc.WriteTo([]byte(question), to); err != nil {
		return "", err
	}
	buf := make([]byte, 1500)
	n, _, err := pc.ReadFrom(buf)
	return string(buf[:n]), err
}

// Without named interfaces, a family that has no default route waits for one. The other is sent.
func TestTxWaitsForFamily(t *testing.T) {
	forEachFamily(t, func(t *testing.T, r contractRange) {
		noLeaks(t)
		h := mcasttest.NewHost(t)
		a := h.NewVeth("a", netip.MustParsePrefix("10.76.0.1/24"), netip.MustParsePrefix("fd76::1/64"))
		others, gateway := contractFamilies[0], map[bool]string{true: "10.76.0.9", false: "fd76::9"}
		if r.group.Is4() {
			others = contractFamilies[1]
		}
		route := func(family netip.Addr) {
			flag := "-6"
			if family.Is4() {
				flag = "-4"
			}
			run(t, nil, "", "ip", flag, "route", "add", "default", "via", gateway[family.Is4()], "dev", "a")
		}
		port := newPort()
		there, others6 := newNaive(t, a.Peer(), r.group, port, "eth0"), newNaive(t, a.Peer(), others.group, port, "eth0")
		var tx, static *mcast.TxSocket
		h.Do(func() {
			groups := []netip.Addr{r.group, others.group}
			_, err := mcast.OpenTx(mcast.TxConfig{Groups: groups})
			hinted(t, err, mcast.ErrNoInterface, "TxConfig.Interfaces")
			if text := err.Error(); !strings.HasPrefix(text, "mcast: open: there is no default route for ip") {
				t.Errorf("without a default route: %s", text)
			}
			route(others.group)
			tx = openTx(t, mcast.TxConfig{Groups: groups, TTL: 3})
			static = openTx(t, mcast.TxConfig{Groups: groups, Static: true})
		})
		write(t, tx, others.group, port, "at once")
		onlyMarker(t, others6, "at once")
		for _, s := range []*mcast.TxSocket{tx, static} {
			n, err := s.WriteToUDPAddrPort([]byte("too early"), netip.AddrPortFrom(r.group, port))
			hinted(t, err, mcast.ErrNoInterface, "waits")
			batch, err := s.WriteBatch([]mcast.Message{{Buf: []byte("too early"), Addr: netip.AddrPortFrom(r.group, port)}})
			hinted(t, err, mcast.ErrNoInterface, "waits")
			if n+batch != 0 || len(s.Interfaces()) != 1 {
				t.Errorf("%d and %d sent on %v", n, batch, s.Interfaces())
			}
		}

		// What was set meanwhile holds for the family that waits, replies to it are read.
		if err := tx.SetTTL(5); err != nil {
			t.Error(err)
		}
		replies := start(func() outcome { payload, _ := readTx(t, tx); return outcome{payload, nil} })
		h.Do(func() { route(r.group) })
		eventually(t, "the family is sent", func() bool {
			_, err := tx.WriteToUDPAddrPort([]byte("later"), netip.AddrPortFrom(r.group, port))
			return err == nil
		})
		buf := make([]byte, 100)
		there.SetReadDeadline(time.Now().Add(patience))
		n, src, err := there.ReadFromUDPAddrPort(buf)
		if err != nil || string(buf[:n]) != "later" {
			t.Fatalf("%q, %v", buf[:n], err)
		}
		if _, err := there.WriteToUDPAddrPort([]byte("reply"), src); err != nil {
			t.Fatal(err)
		}
		if got := await(t, replies); got.payload != "reply" {
			t.Errorf("%+v", got)
		}
	})
}

// LocalAddr is the source that receivers see.
func TestTxLocalAddr(t *testing.T) {
	noLeaks(t)
	wires := newWires(t, 2)
	forEachRange(t, func(t *testing.T, r contractRange) {
		for _, on := range [][]mcast.Interface{interfacesOf(wires), {wires[1].at, wires[0].at}, mustFind(t, "lo")} {
			port := newPort()
			rx := openRx(t, mcast.RxConfig{Groups: []netip.Addr{r.group}, Port: port, Interfaces: on[:1], Loopback: true})
			tx := openTx(t, mcast.TxConfig{Groups: []netip.Addr{r.group}, Interfaces: on, Loopback: true})
			write(t, tx, r.group, port, "who am I?")
			rx.SetReadDeadline(time.Now().Add(patience))
			_, src, err := rx.ReadFrom(make([]byte, 100))
			if err != nil || src.String() != tx.LocalAddr().String() {
				t.Errorf("%s: LocalAddr is %v, and receivers see %v, %v", on[0].Name, tx.LocalAddr(), src, err)
			}
		}
	})
}

// LocalAddr follows the address of the interface.
func TestTxLocalAddrFollows(t *testing.T) {
	noLeaks(t)
	h := mcasttest.NewHost(t)
	a := h.NewVeth("a", netip.MustParsePrefix("10.76.0.1/24"))
	h.Do(func() {
		tx := openTx(t, mcast.TxConfig{Groups: []netip.Addr{contractFamilies[0].group}, Interfaces: mustFind(t, "a")})
		is := func(ip string) func() bool {
			return func() bool { return tx.LocalAddr().(*net.UDPAddr).IP.String() == ip }
		}
		eventually(t, "the first address", is("10.76.0.1"))
		a.DelAddress(netip.MustParsePrefix("10.76.0.1/24"))
		a.AddAddress(netip.MustParsePrefix("10.76.0.7/24"))
		eventually(t, "the second address", is("10.76.0.7"))
	})
}

// An error of a batch says which message it is about.
func TestTxWriteBatchNamesTheMessage(t *testing.T) {
	noLeaks(t)
	w := newWires(t, 1)[0]
	forEachFamily(t, func(t *testing.T, r contractRange) {
		tx := openTx(t, toWire(w, r.group))
		good := mcast.Message{Buf: []byte("x"), Addr: netip.AddrPortFrom(r.group, newPort())}
		for name, bad := range map[string]mcast.Message{
			"no port":         {Buf: good.Buf, Addr: netip.AddrPortFrom(r.group, 0)},
			"undeclared":      {Buf: good.Buf, Addr: netip.AddrPortFrom(r.other, 9)},
			"zero":            {},
			"too long":        {Buf: make([]byte, 65536), Addr: good.Addr},
			"IPv4 and a zone": {Buf: good.Buf, Addr: netip.AddrPortFrom(addr("::ffff:239.1.1.1%9"), 9)},
		} {
			n, err := tx.WriteBatch([]mcast.Message{good, good, bad, good})
			var op *mcast.OpError
			if n != 2 || !errors.As(err, &op) || !strings.Contains(op.Error(), ": message 2: ") {
				t.Errorf("%s: %d, %v", name, n, err)
			}
		}
	})
}
