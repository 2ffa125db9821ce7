//go:build !mcast_portable

package mcast

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/go-multicast/mcast/internal/slow"
)

// queue opens a receiver that has n datagrams waiting. An ordinary user has room for about 550 of them where
// net.core.rmem_max is 212992, the default of many kernels, and for 409 on s390x, whose cache lines are longer.
func queue(t *testing.T, n int) (*RxSocket, []Message) {
	t.Helper()
	h := openRunsOf(t, 1, false)
	ms := make([]Message, 2*n)
	for i := range ms {
		ms[i].Buf = make([]byte, 10)
	}
	out := make([]Message, n)
	for i := range out {
		out[i] = Message{Buf: payload(i, 8+i%2), Addr: h.dsts[0]}
	}
	if k, err := h.tx.WriteBatch(out); k != n || err != nil {
		t.Fatal(k, err)
	}
	if d := h.rx.Memberships()[0].Dropped; d != 0 {
		t.Fatalf("%d datagrams of %d were dropped", d, n)
	}
	return h.rx, ms
}

// TestReadBatchTakesAll reads more datagrams than one look at the deadline is for.
func TestReadBatchTakesAll(t *testing.T) {
	const n = lookBudget + lookBudget/2
	rx, ms := queue(t, n)
	if k, err := rx.ReadBatch(ms); k != n || err != nil {
		t.Errorf("read %d of %d: %v", k, n, err)
	}
}

// TestReadBatchEnds has a deadline pass, and the socket be closed, while a batch has taken some of the datagrams that wait.
func TestReadBatchEnds(t *testing.T) {
	const n = lookBudget + lookBudget/2
	for _, tt := range []struct {
		name string
		end  func(rx *RxSocket) (wait func())
		want error
	}{
		{"deadline", func(rx *RxSocket) func() { rx.SetReadDeadline(longAgo); return func() {} }, os.ErrDeadlineExceeded},
		{"Close", func(rx *RxSocket) func() {
			closed := make(chan error)
			go func() { closed <- rx.Close() }() // waits for the read
			for rx.m.file.SetDeadline(longAgo) == nil {
				time.Sleep(time.Millisecond)
			}
			return func() {
				if err := <-closed; err != nil {
					t.Error(err)
				}
			}
		}, net.ErrClosed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			rx, ms := queue(t, n)
			wait := func() {}
			try, calls := rx.m.readFn, 0
			rx.m.readFn = func(fd uintptr) bool {
				done := try(fd)
				if calls++; calls == 1 {
					wait = tt.end(rx)
				}
				return done
			}
			k, err := rx.ReadBatch(ms)
			if k < lookBudget || k > lookBudget+batchSize || err != nil {
				t.Errorf("read %d of %d: %v; want about %d", k, n, err, lookBudget)
			}
			wait()
			if k, err := rx.ReadBatch(ms); k != 0 || !errors.Is(err, tt.want) {
				t.Errorf("then read %d: %v; want %v", k, err, tt.want)
			}
			if tt.want == net.ErrClosed {
				return
			}
			rx.SetReadDeadline(time.Now().Add(slow.Limit(20 * time.Second)))
			if rest, err := rx.ReadBatch(ms); rest != n-k || err != nil {
				t.Errorf("then read %d: %v; want the rest of %d", rest, err, n-k)
			}
		})
	}
}

// TestReadBatchUnwanted has a batch take one datagram from among many that it refuses. They do not hold it back.
func TestReadBatchUnwanted(t *testing.T) {
	h := openRunsOf(t, 2, false)
	screen := func(blocked ...netip.Addr) {
		h.rx.m.update(func() { h.rx.groups[0].pairs[0].conns[0].filter.blocked = newAddrSet(blocked) })
	}
	screen(netip.MustParseAddr("127.0.0.1"))
	defer screen()
	h.write(t, 1, 1, 10)
	for range 8 {
		h.write(t, 0, 64, 8)
	}
	ms := make([]Message, 1000)
	for i := range ms {
		ms[i].Buf = make([]byte, 10)
	}
	try, calls := h.rx.m.readFn, 0
	h.rx.m.readFn = func(fd uintptr) bool { calls++; return try(fd) }
	if k, err := h.rx.ReadBatch(ms); k != 1 || err != nil || calls != 1 {
		t.Errorf("read %d in %d rounds: %v; want 1 in 1", k, calls, err)
	}
}

// TestWriteBatchLooksAgain has a deadline pass during the first system call of a batch. The second one is not made.
func TestWriteBatchLooksAgain(t *testing.T) {
	h := openRuns(t, 2)
	ms := make([]Message, 10*batchSize)
	for i := range ms {
		ms[i] = Message{Buf: payload(i, 8), Addr: h.dsts[i%2]} // no runs
	}
	to := (*h.tx.links.Load())[0].to
	try := to.anyFn
	to.anyFn = func(fd uintptr) bool {
		done := try(fd)
		h.tx.SetWriteDeadline(longAgo)
		return done
	}
	n, err := h.tx.WriteBatch(ms)
	if n != batchSize || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("wrote %d: %v; want %d, and that the deadline has passed", n, err, batchSize)
	}
	to.anyFn = try
	h.tx.SetWriteDeadline(time.Time{})
	if k, err := h.tx.WriteBatch(ms[n:]); n+k != len(ms) || err != nil {
		t.Errorf("then wrote %d: %v; want the rest", k, err)
	}
}

// BenchmarkDeadline shows how late a deadline ends a batch that is in the middle of its work.
func BenchmarkDeadline(b *testing.B) {
	const ahead = 5 * time.Millisecond
	late := func(b *testing.B, set func(time.Time) error, batch func() error) {
		var sum, most time.Duration
		for b.Loop() {
			at := time.Now().Add(ahead)
			if err := set(at); err != nil {
				b.Fatal(err)
			}
			for err := error(nil); err == nil; {
				err = batch()
			}
			d := time.Since(at)
			sum, most = sum+d, max(most, d)
		}
		b.ReportMetric(float64(sum.Microseconds())/float64(b.N), "µs-late")
		b.ReportMetric(float64(most.Microseconds()), "µs-latest")
	}
	b.Run("WriteBatch", func(b *testing.B) {
		h := openHotPath(b, "239.1.1.1", 2)
		ms := h.messages(1<<17, 1000)
		late(b, h.tx.SetWriteDeadline, func() error { return errOf(h.tx.WriteBatch(ms)) })
	})
	b.Run("ReadBatch", func(b *testing.B) {
		h := openHotPath(b, "239.1.1.1", 16)
		out, in := h.messages(1024, 1000), h.messages(1<<17, 1000)
		for i := range out {
			out[i].Addr = netip.AddrPortFrom(h.dsts[i/64].Addr(), h.dsts[0].Port())
		}
		flooded := make(chan error, 1)
		go func() {
			for {
				if _, err := h.tx.WriteBatch(out); err != nil {
					flooded <- err
					return
				}
			}
		}()
		late(b, h.rx.SetReadDeadline, func() error { return errOf(h.rx.ReadBatch(in)) })
		h.tx.SetWriteDeadline(longAgo)
		<-flooded
	})
}
