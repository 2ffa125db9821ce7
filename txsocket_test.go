// The promises of TxSocket, in the order of its documentation, on every system: over one interface.

package mcast_test

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"testing"

	"github.com/go-multicast/mcast"
)

func TestTxLocalSource(t *testing.T) {
	forEachLocal(t, func(t *testing.T, l *local) {
		rx, tx := l.rx(nil), l.tx(nil)
		l.send(tx, 0, "one")
		src := l.want(rx, "one")
		if !l.own(src.Addr()) || int(src.Port()) != tx.LocalAddr().(*net.UDPAddr).Port || len(tx.Interfaces()) != 1 {
			t.Errorf("it came from %v; the sender is %v on %+v", src, tx.LocalAddr(), l.ifc)
		}
	})
}

func TestTxLocalTTL(t *testing.T) {
	forEachLocal(t, func(t *testing.T, l *local) {
		rx, tx := l.rx(func(cfg *mcast.RxConfig) { cfg.HopLimits = true }), l.tx(func(cfg *mcast.TxConfig) { cfg.TTL = 7 })
		arrivesWith := func(ttl int) {
			t.Helper()
			l.send(tx, 0, "datagram")
			ms := []mcast.Message{{Buf: make([]byte, 10)}}
			if _, err := rx.ReadBatch(ms); err != nil || ms[0].HopLimit != ttl {
				t.Errorf("%+v, %v; want a hop limit of %d", ms[0], err, ttl)
			}
		}
		arrivesWith(7)
		if err := tx.SetTTL(9); err != nil {
			t.Fatal(err)
		}
		arrivesWith(9)
	})
}

// Receivers share the port of a sender: each receives each datagram once, and the sender receives none. Unicast to the
// port is the sender's.
func TestTxLocalSharesPortWithReceivers(t *testing.T) {
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
			rx.Close() // otherwise the system may give it the unicast below (Windows, and macOS)
		}
		from := l.rx(func(cfg *mcast.RxConfig) { cfg.Port = newPort() })
		if _, err := from.WriteToUDPAddrPort([]byte("unicast"), netip.AddrPortFrom(l.ownAddr(), l.port)); err != nil {
			t.Fatal(err)
		}
		l.want(tx, "unicast")
	})
}

func TestTxLocalLargestDatagram(t *testing.T) {
	forEachLocal(t, func(t *testing.T, l *local) {
		rx, tx := l.rx(nil), l.tx(nil)
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

// WriteBatch sends up to the first message that it cannot send.
func TestTxLocalWriteBatch(t *testing.T) {
	forEachLocal(t, func(t *testing.T, l *local) {
		rx := l.rx(func(cfg *mcast.RxConfig) { cfg.Groups = l.groups[:2] })
		tx := l.tx(func(cfg *mcast.TxConfig) { cfg.Groups = l.groups[:2] })
		batch := make([]mcast.Message, 4)
		for i, group := range []int{0, 1, 2, 0} { // the third is not declared
			batch[i] = mcast.Message{Buf: []byte{'0' + byte(i)}, Addr: netip.AddrPortFrom(l.groups[group], l.port)}
		}
		var e *mcast.OpError
		n, err := tx.WriteBatch(batch)
		if n != 2 || batch[0].N != 1 || batch[1].N != 1 || !errors.Is(err, mcast.ErrNotDeclared) || !errors.As(err, &e) ||
			e.Group != l.groups[2] {
			t.Errorf("%d, %v: %+v", n, err, batch)
		}
		if n, err := tx.WriteBatch(batch[3:]); n != 1 || err != nil {
			t.Errorf("the rest: %d, %v", n, err)
		}
		got := make(map[string]netip.Addr) // datagrams of different groups may change their order
		ms := []mcast.Message{{Buf: make([]byte, 10)}}
		for range 3 {
			if _, err := rx.ReadBatch(ms); err != nil {
				t.Fatal(err)
			}
			got[string(ms[0].Buf[:ms[0].N])] = ms[0].Group
		}
		if got["0"] != l.groups[0] || got["1"] != l.groups[1] || got["3"] != l.groups[0] {
			t.Errorf("received %v", got)
		}
	})
}

func TestTxLocalDoesNotAllocate(t *testing.T) {
	forEachLocal(t, func(t *testing.T, l *local) {
		// A socket that follows the network allocates when the network changes.
		rx := l.rx(func(cfg *mcast.RxConfig) { cfg.Static = true })
		tx := l.tx(func(cfg *mcast.TxConfig) { cfg.Static = true })
		dst, buf := netip.AddrPortFrom(l.groups[0], l.port), make([]byte, 100)
		if n := testing.AllocsPerRun(100, func() {
			tx.WriteToUDPAddrPort(buf, dst)
			_, src, _ := rx.ReadFromUDPAddrPort(buf)
			rx.WriteToUDPAddrPort(buf, src)
			tx.ReadFromUDPAddrPort(buf)
		}); n != 0 {
			t.Errorf("%v allocations", n)
		}
	})
}

func TestTxLocalDeadlineEndsReads(t *testing.T) {
	forEachLocal(t, func(t *testing.T, l *local) {
		rx, tx := l.rx(nil), l.tx(nil)
		deadlineEndsRead(t, tx)
		l.send(tx, 0, "after")
		l.want(rx, "after")
	})
}

func TestTxLocalCloseEndsReads(t *testing.T) {
	forEachLocal(t, func(t *testing.T, l *local) {
		for range 5 {
			tx := l.tx(nil)
			closeEndsReads(t, tx)
			if _, err := tx.WriteToUDPAddrPort([]byte("late"), netip.AddrPortFrom(l.groups[0], l.port)); !errors.Is(err, net.ErrClosed) {
				t.Errorf("write after Close: %v", err)
			}
		}
	})
}
