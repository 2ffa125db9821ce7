//go:build !mcast_portable

package mcast_test

import (
	"net/netip"
	"slices"
	"strconv"
	"testing"
	"time"
)

// TestRxFairnessCount counts how many datagrams of a flooded group come before one of a quiet group.
func TestRxFairnessCount(t *testing.T) {
	noLeaks(t)
	w := newWires(t, 1)[0]
	for _, tt := range fairReads {
		t.Run(tt.name, func(t *testing.T) {
			forEachRange(t, func(t *testing.T, r contractRange) {
				const flood, soon, enough = 10000, 200, 400
				port := newPort()
				cfg := onWire(w, port, r.group, r.other)
				cfg.ReadBuffer = 8 << 20
				rx := openRx(t, cfg)
				from := w.station(t, r.group, 0)
				for range flood {
					from.send(r.group, port, "flood")
				}
				if queued := flood - int(membership(t, rx, r.group, w.Name()).Dropped); queued < enough {
					t.Fatalf("there is room for %d datagrams: not enough for this test, which needs %d", queued, enough)
				}
				rx.SetReadDeadline(time.Now().Add(patience))
				for round := range 2 {
					from.send(r.other, port, "quiet")
					for n, found := 0, false; !found; {
						payloads, err := tt.read(rx)
						if err != nil {
							t.Fatal(err)
						}
						found = slices.Contains(payloads, "quiet")
						if n += len(payloads); n > soon && !found {
							t.Fatalf("round %d: not among the first %d datagrams", round, n)
						}
					}
				}
			})
		})
	}
}

// TestRxExchange reads each datagram as soon as it was sent, in orders that repeat and change. Nothing is lost or late, and a
// group beside them has its turn.
func TestRxExchange(t *testing.T) {
	noLeaks(t)
	w := newWires(t, 1)[0]
	forEachRange(t, func(t *testing.T, r contractRange) {
		const soon = 150 // datagrams: two turns, and some
		port := newPort()
		third := r.other.Next()
		rx := openRx(t, onWire(w, port, r.group, r.other, third))
		rx.SetReadDeadline(time.Now().Add(patience))
		from := w.station(t, r.group, 0)
		buf := make([]byte, 100)
		read := func() string {
			t.Helper()
			n, _, err := rx.ReadFromUDPAddrPort(buf)
			if err != nil {
				t.Fatal(err)
			}
			return string(buf[:n])
		}
		exchange := func(groups ...netip.Addr) {
			t.Helper()
			for i := range 100 {
				want := strconv.Itoa(i)
				from.send(groups[i%len(groups)], port, want)
				if got := read(); got != want {
					t.Fatalf("got %q, want %q", got, want)
				}
			}
		}
		exchange(r.group)
		exchange(r.group, r.other)
		exchange(r.other, r.other, r.group)
		exchange(third, r.other, r.group)
		exchange(r.group, r.other)

		from.send(third, port, "third")
		for i, found := 0, false; !found; i++ {
			if i > soon {
				t.Fatalf("not among the first %d datagrams", soon)
			}
			from.send([]netip.Addr{r.group, r.other}[i%2], port, "exchange")
			found = read() == "third"
		}
	})
}
