//go:build !mcast_portable

package mcast_test

import (
	"slices"
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
