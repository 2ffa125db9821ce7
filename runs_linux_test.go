//go:build !mcast_portable

// Runs of datagrams: what WriteBatch hands to the kernel at once, and what a socket that coalesces gets at once, arrives
// as if each datagram had gone by itself.

package mcast

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/go-multicast/mcast/internal/slow"
	"github.com/go-multicast/mcast/internal/testrun"
	"github.com/go-multicast/mcast/mcasttest"
	"golang.org/x/sys/unix"
)

// payload is recognisable in every byte.
func payload(n, size int) []byte {
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(n*7 + i)
	}
	if size >= 4 {
		binary.BigEndian.PutUint32(b, uint32(n))
	}
	return b
}

// runReceivers are a receiver that coalesces, one that does not, both of this package, and one of package net; each
// with a name, and with a function that reads a datagram of any size.
func runReceivers(t *testing.T, all []netip.Addr, ifc Interface, port uint16) map[string]func() ([]byte, netip.Addr, error) {
	t.Helper()
	end := time.Now().Add(slow.Limit(20 * time.Second))
	receivers := make(map[string]func() ([]byte, netip.Addr, error))
	open := func(coalesce bool) *RxSocket {
		rx, err := OpenRx(RxConfig{Groups: all, Port: port, Interfaces: []Interface{ifc}, Loopback: true, Coalesce: coalesce,
			ReadBuffer: 4 << 20, Static: true})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { rx.Close() })
		rx.SetReadDeadline(end)
		return rx
	}
	batch := func(rx *RxSocket, room int) func() ([]byte, netip.Addr, error) {
		ms := make([]Message, room)
		for i := range ms {
			ms[i].Buf = make([]byte, maxDatagram)
		}
		var left []Message
		return func() ([]byte, netip.Addr, error) {
			if len(left) == 0 {
				n, err := rx.ReadBatch(ms)
				if err != nil {
					return nil, netip.Addr{}, err
				}
				left = ms[:n]
			}
			m := left[0]
			left = left[1:]
			if m.Truncated || m.IfIndex != ifc.Index {
				return nil, netip.Addr{}, fmt.Errorf("%+v", m)
			}
			return m.Buf[:m.N], m.Group, nil
		}
	}
	receivers["plain, batches"] = batch(open(false), 64)
	receivers["coalescing, batches"] = batch(open(true), 64)
	receivers["coalescing, small batches"] = batch(open(true), 3)
	one := open(true)
	buf := make([]byte, maxDatagram)
	if len(all) == 1 { // it does not tell the group
		receivers["coalescing, one by one"] = func() ([]byte, netip.Addr, error) {
			n, _, err := one.ReadFromUDPAddrPort(buf)
			return buf[:n], all[0], err
		}
		foreign, err := net.ListenMulticastUDP("udp", &net.Interface{Index: ifc.Index}, net.UDPAddrFromAddrPort(netip.AddrPortFrom(all[0], port)))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { foreign.Close() })
		foreign.SetReadBuffer(4 << 20)
		foreign.SetReadDeadline(end)
		other := make([]byte, maxDatagram)
		receivers["package net"] = func() ([]byte, netip.Addr, error) {
			n, _, err := foreign.ReadFromUDPAddrPort(other)
			return other[:n], all[0], err
		}
	}
	return receivers
}

// exchangeRuns writes the messages in one batch, and wants every receiver to get those of each group in their order.
func exchangeRuns(t *testing.T, ifc Interface, all []netip.Addr, sizes func(n int) (size, group int), count int,
	prepare ...func(*TxSocket)) {
	t.Helper()
	const port = 5000
	receivers := runReceivers(t, all, ifc, port)
	tx, err := OpenTx(TxConfig{Groups: all, Interfaces: []Interface{ifc}, Loopback: true, Static: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tx.Close() })
	for _, f := range prepare {
		f(tx)
	}
	var ms []Message
	want := make(map[netip.Addr][][]byte)
	for n := range count {
		size, group := sizes(n)
		p := payload(n, size)
		ms = append(ms, Message{Buf: p, Addr: netip.AddrPortFrom(all[group], port)})
		want[all[group]] = append(want[all[group]], p)
	}
	onOneProcessor(t, func() {
		if n, err := tx.WriteBatch(ms); n != count || err != nil {
			t.Fatalf("wrote %d of %d: %v", n, count, err)
		}
	})
	for i, m := range ms {
		if m.N != len(m.Buf) {
			t.Errorf("message %d: N is %d, want %d", i, m.N, len(m.Buf))
		}
	}
	for name, read := range receivers {
		left := make(map[netip.Addr][][]byte)
		for g, all := range want {
			left[g] = all
		}
		for n := range count {
			got, group, err := read()
			if err != nil {
				t.Fatalf("%s: datagram %d: %v", name, n, err)
			}
			if len(left[group]) == 0 || !bytes.Equal(got, left[group][0]) {
				t.Fatalf("%s: datagram %d, to %s: %d bytes, not the next that was sent, or not whole", name, n, group, len(got))
			}
			left[group] = left[group][1:]
		}
	}
}

func TestRuns(t *testing.T) {
	mcasttest.Require(t)
	for _, name := range []string{"lo", "mc0"} {
		ifc := interfaces(t, name)[0]
		for family, all := range map[string][]netip.Addr{"IPv4": sequence("239.1.1.1", 3), "IPv6": sequence("ff15::1234", 3)} {
			for _, c := range []struct {
				name   string
				groups int
				count  int
				sizes  func(n int) (size, group int)
			}{
				{"of one size", 1, 200, func(n int) (int, int) { return 64, 0 }},
				{"of 1200 bytes", 1, 200, func(n int) (int, int) { return 1200, 0 }},
				{"the last is shorter", 1, 100, func(n int) (int, int) { return 100 - n%10/9*60, 0 }},
				{"the next is longer", 1, 100, func(n int) (int, int) { return 100 + n%10/9*60, 0 }},
				{"empty ones", 1, 30, func(n int) (int, int) { return n % 3 * 50, 0 }},
				{"larger than the MTU", 1, 30, func(n int) (int, int) { return 4000, 0 }},
				{"some larger than the MTU", 1, 60, func(n int) (int, int) { return 200 + n/20*1800, 0 }},
				{"the largest", 1, 5, func(n int) (int, int) { return 65507, 0 }},
				{"of three groups in turn", 3, 150, func(n int) (int, int) { return 64, n % 3 }},
				{"of three groups in runs", 3, 300, func(n int) (int, int) { return 64, n / 7 % 3 }},
				{"of random sizes", 3, 500, func(n int) (int, int) { return []int{64, 64, 64, 65, 1000}[rand.N(5)], n / 20 % 3 }},
			} {
				t.Run(name+"/"+family+"/"+c.name, func(t *testing.T) { exchangeRuns(t, ifc, all[:c.groups], c.sizes, c.count) })
			}
		}
	}
}

// TestRunsRefused has the kernel refuse runs: it takes none apart without a checksum.
func TestRunsRefused(t *testing.T) {
	ifc := interfaces(t, "mc0")[0]
	var to *sender
	exchangeRuns(t, ifc, sequence("239.1.1.1", 1), func(int) (int, int) { return 64, 0 }, 200, func(tx *TxSocket) {
		to = (*tx.links.Load())[0].to
		if err := control(to.raw, func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_NO_CHECK, 1) }); err != nil {
			t.Fatal(err)
		}
	})
	if to.segment != 63 {
		t.Errorf("runs of datagrams up to %d bytes are still tried, want 63", to.segment)
	}
	// What can be provoked on no system at hand, for want of a device or of IPsec.
	to.batch.sizes[0] = 2
	if !to.refused(unix.EIO) || to.segment != 0 {
		t.Errorf("after EIO, runs of datagrams up to %d bytes are tried", to.segment)
	}
	to.batch.sizes[0] = 1
	if to.refused(unix.EIO) {
		t.Error("an error of a single datagram is taken for one of a run")
	}
}

// runCalls counts the system calls of a sender's batches.
type runCalls struct{ runs, single, refused int }

// countRunCalls counts from now on. Between batches the caller may read and reset the counts.
func countRunCalls(to *sender) *runCalls {
	c, try := &runCalls{}, to.anyFn
	to.anyFn = func(fd uintptr) bool {
		done := try(fd)
		switch {
		case !done: // it waits for room
		case to.req.n == 0 && to.req.err == nil:
			c.refused++
		case to.batch.sizes[0] > 1:
			c.runs++
		default:
			c.single++
		}
		return done
	}
	return c
}

// TestRunsAfterSmallMTU sends batches before, during and after a smaller MTU of the interface. During it the sender makes a
// refused call now and then, not one for each batch. After it the batches are runs again: soon, and at once if the sender
// follows the network.
func TestRunsAfterSmallMTU(t *testing.T) {
	for _, static := range []bool{true, false} {
		t.Run(fmt.Sprint("Static ", static), func(t *testing.T) {
			group := groups("239.1.1.1")
			h := mcasttest.NewHost(t)
			veth := h.NewVeth("there", netip.MustParsePrefix("10.9.9.1/24"))
			var tx *TxSocket
			h.Do(func() {
				var err error
				if tx, err = OpenTx(TxConfig{Groups: group, Interfaces: interfaces(t, "there"), Static: static}); err != nil {
					t.Fatal(err)
				}
			})
			defer tx.Close()
			to := (*tx.links.Load())[0].to
			calls := countRunCalls(to)
			ms := slices.Repeat([]Message{{Buf: make([]byte, 600), Addr: netip.AddrPortFrom(group[0], 5000)}}, sendIovs)
			write := func() runCalls {
				t.Helper()
				*calls = runCalls{}
				if n, err := tx.WriteBatch(ms); n != len(ms) || err != nil {
					t.Fatalf("wrote %d of %d: %v", n, len(ms), err)
				}
				return *calls
			}
			if c := write(); c.runs == 0 || c.single+c.refused > 0 {
				t.Fatalf("before: %+v, want runs alone", c)
			}

			veth.SetMTU(576)
			const batches = 200
			start, refused := time.Now(), 0
			for range batches {
				c := write()
				if c.runs > 0 || c.single == 0 {
					t.Fatalf("during the smaller MTU: %+v, want single datagrams alone", c)
				}
				refused += c.refused
			}
			// The first, one after the notice of the MTU, and one for each pause.
			if most := 2 + int(time.Since(start)/(backoffFirst-backoffSlack)); refused < 1 || refused > most {
				t.Errorf("%d calls were refused in %d batches, want at most %d", refused, batches, most)
			}
			if !static { // so that time alone does not have it tried again
				until := func(is func() bool) {
					t.Helper()
					for end := time.Now().Add(slow.Limit(20 * time.Second)); !is(); time.Sleep(time.Millisecond) {
						if time.Now().After(end) {
							t.Fatal("the change of the MTU was not noticed")
						}
					}
				}
				until(func() bool { return (*tx.links.Load())[0].ifc.MTU == 576 })
				write()
				to.mu.Lock()
				to.retry.next = time.Now().Add(time.Hour)
				to.mu.Unlock()
			}
			veth.SetMTU(1500)
			end := time.Now().Add(slow.Limit(20 * time.Second))
			for c := write(); c.runs == 0 || c.single > 0; c = write() {
				if time.Now().After(end) {
					t.Fatalf("after the smaller MTU: %+v, want runs", c)
				}
			}
			if c := write(); c.runs == 0 || c.single+c.refused > 0 {
				t.Fatalf("and then: %+v, want runs alone", c)
			}
		})
	}
}

// TestRunsRetried has runs fail for an hour in which a batch is sent every ten milliseconds, and again much later.
func TestRunsRetried(t *testing.T) {
	s := &sender{segment: runBytes, largest: runBytes}
	now, retries := time.Now(), 0
	for end := now.Add(time.Hour); now.Before(end); now = now.Add(10 * time.Millisecond) {
		if s.segment < s.largest {
			s.retryRuns(now)
		}
		if s.segment == s.largest {
			retries++
			s.runsFailed(now)
			s.segment = 0
		}
	}
	if retries < 60 || retries > 70 {
		t.Errorf("runs were tried %d times in an hour, want once a minute", retries)
	}
	s.runsFailed(now.Add(time.Hour))
	if s.retry.wait != backoffFirst {
		t.Errorf("a new failure is retried after %v, want %v", s.retry.wait, backoffFirst)
	}
}

// TestRunsCounted has a batch fail in its middle: what it says went out did, and nothing else.
func TestRunsCounted(t *testing.T) {
	ifc := interfaces(t, "lo")[0]
	group := sequence("239.1.1.1", 1)
	read := runReceivers(t, group, ifc, 5000)["coalescing, batches"]
	tx, err := OpenTx(TxConfig{Groups: group, Interfaces: []Interface{ifc}, Static: true})
	must(t, tx, err)
	defer tx.Close()
	dst := netip.AddrPortFrom(group[0], 5000)
	for _, bad := range []int{0, 1, 5, 63, 64, 65, 100} {
		var ms []Message
		for n := range 150 {
			ms = append(ms, Message{Buf: payload(n, 64), Addr: dst})
		}
		ms[bad].Buf = make([]byte, 65508)
		n, err := tx.WriteBatch(ms)
		if n != bad || !errors.Is(err, unix.EMSGSIZE) {
			t.Fatalf("%d is too large: wrote %d, %v", bad, n, err)
		}
		if n, err := tx.WriteBatch(ms[bad+1:]); n != 149-bad || err != nil {
			t.Fatalf("after %d: wrote %d, %v", bad, n, err)
		}
		for n := range ms {
			if n == bad {
				continue
			}
			if got, _, err := read(); err != nil || !bytes.Equal(got, ms[n].Buf) {
				t.Fatalf("%d is too large: datagram %d: %x, %v", bad, n, got, err)
			}
		}
	}
}

// TestCoalescedDropped sends a run to a socket that has no room: it counts once.
func TestCoalescedDropped(t *testing.T) {
	testrun.Since(t, 5, 11, loDivides)
	ifc := interfaces(t, "lo")[0]
	group := sequence("239.1.1.1", 1)
	rx, err := OpenRx(RxConfig{Groups: group, Port: 5000, Interfaces: []Interface{ifc}, Coalesce: true, ReadBuffer: 1, Static: true})
	must(t, rx, err)
	defer rx.Close()
	tx, err := OpenTx(TxConfig{Groups: group, Interfaces: []Interface{ifc}, Static: true})
	must(t, tx, err)
	defer tx.Close()
	full := Message{Buf: make([]byte, 65507), Addr: netip.AddrPortFrom(group[0], 5000)}
	run := slices.Repeat([]Message{{Buf: make([]byte, 100), Addr: full.Addr}}, 10)
	for _, batch := range [][]Message{{full}, run} {
		if n, err := tx.WriteBatch(batch); n != len(batch) || err != nil {
			t.Fatal(n, err)
		}
	}
	for end := time.Now().Add(slow.Limit(20 * time.Second)); rx.Memberships()[0].Dropped != 1; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("a run of 10 was dropped, and it says %+v", rx.Memberships()[0])
		}
	}
}

// TestCoalescedTruncated reads a run into buffers that are too small: each datagram loses its own end.
func TestCoalescedTruncated(t *testing.T) {
	h := openRuns(t, 1)
	const count = 40
	h.write(t, 0, count, 100)
	ms := []Message{{Buf: make([]byte, 10)}, {Buf: make([]byte, 100)}}
	for n := 0; n < count; {
		k := must2(h.rx.ReadBatch(ms))
		for i, m := range ms[:k] {
			want := payload(n, 100)
			if m.Truncated != (i == 0) || !bytes.Equal(m.Buf[:m.N], want[:len(m.Buf)]) {
				t.Fatalf("datagram %d: %+v", n, m)
			}
			n++
		}
	}
	if m := h.rx.Memberships()[0]; m.Packets != count || m.Truncated == 0 || m.Truncated == count {
		t.Errorf("%+v", m)
	}
}

// runsPath is a sender, and a receiver that may coalesce.
type runsPath struct {
	rx   *RxSocket
	tx   *TxSocket
	dsts []netip.AddrPort
}

// loDivides says why a run does not arrive in one piece before Linux 5.11, which no device that receives lets pass undivided
// (8eea1ca82be9, "gso: limit udp gso to egress-only virtual devices").
const loDivides = "the loopback interface divides runs"

// openRuns opens a path on which the receiver gets runs in one piece.
func openRuns(t *testing.T, n int) *runsPath {
	t.Helper()
	testrun.Since(t, 5, 11, loDivides)
	return openRunsOf(t, n, true)
}

func openRunsOf(t *testing.T, n int, coalesce bool) *runsPath {
	t.Helper()
	lo := interfaces(t, "lo")
	h := &runsPath{}
	all := sequence("239.1.1.1", n)
	for _, g := range all {
		h.dsts = append(h.dsts, netip.AddrPortFrom(g, 5000))
	}
	var err error
	h.rx, err = OpenRx(RxConfig{Groups: all, Port: 5000, Interfaces: lo, Coalesce: coalesce, Static: true, ReadBuffer: 1 << 20})
	must(t, h.rx, err)
	t.Cleanup(func() { h.rx.Close() })
	h.tx, err = OpenTx(TxConfig{Groups: all, Interfaces: lo, Static: true})
	must(t, h.tx, err)
	t.Cleanup(func() { h.tx.Close() })
	h.rx.SetReadDeadline(time.Now().Add(slow.Limit(20 * time.Second)))
	return h
}

// write sends count numbered datagrams to a group in one batch, and returns when they are in the socket.
func (h *runsPath) write(t *testing.T, group, count, size int) {
	t.Helper()
	var ms []Message
	for n := range count {
		ms = append(ms, Message{Buf: payload(n, size), Addr: h.dsts[group]})
	}
	if n, err := h.tx.WriteBatch(ms); n != count || err != nil {
		t.Fatalf("wrote %d, %v", n, err)
	}
	awaitDelivered(t)
}

// TestCoalescedLeave leaves a group of which a part was read: the rest is gone, and other groups are not.
func TestCoalescedLeave(t *testing.T) {
	h := openRuns(t, 2)
	h.write(t, 0, 60, 64)
	buf := make([]byte, 100)
	if n, _, err := h.rx.ReadFromUDPAddrPort(buf); n != 64 || err != nil {
		t.Fatal(n, err)
	}
	if n := h.rx.m.receiver.runs.datagrams(); n != 59 { // which shows that they do go, and come, at once
		t.Fatalf("%d datagrams are left of a run of 60", n)
	}
	h.write(t, 1, 2, 10)
	if err := h.rx.Leave(h.dsts[0].Addr()); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if n, _, err := h.rx.ReadFromUDPAddrPort(buf); n != 10 || err != nil {
			t.Fatalf("read %d bytes, %v", n, err)
		}
	}
	if err := h.rx.Join(h.dsts[0].Addr()); err != nil {
		t.Fatal(err)
	}
	h.write(t, 0, 1, 20)
	if n, _, err := h.rx.ReadFromUDPAddrPort(buf); n != 20 || err != nil {
		t.Fatalf("joined again: read %d bytes, %v", n, err)
	}
}

// TestCoalescedClose closes a socket that has received a run of which a part was read: the rest is gone, and nothing is
// read from its descriptors, which may be another's by then.
func TestCoalescedClose(t *testing.T) {
	h := openRuns(t, 1)
	h.write(t, 0, 60, 64)
	buf := make([]byte, 100)
	if n, _, err := h.rx.ReadFromUDPAddrPort(buf); n != 64 || err != nil {
		t.Fatal(n, err)
	}
	if n := h.rx.m.receiver.runs.datagrams(); n != 59 {
		t.Fatalf("%d datagrams are left of a run of 60", n)
	}
	if err := h.rx.Close(); err != nil {
		t.Fatal(err)
	}
	for range 60 {
		if n, _, err := h.rx.ReadFromUDPAddrPort(buf); n != 0 || !errors.Is(err, net.ErrClosed) {
			t.Fatalf("closed: read %d bytes, %v", n, err)
		}
	}
}

// TestCoalescedFairness reads a quiet group while another, of which there is much at once, is flooded.
func TestCoalescedFairness(t *testing.T) {
	h := openRuns(t, 2)
	for range 20 {
		h.write(t, 0, 64, 64)
	}
	h.write(t, 1, 1, 10)
	ms := make([]Message, 7)
	for i := range ms {
		ms[i].Buf = make([]byte, 100)
	}
	for n := 0; ; {
		k := must2(h.rx.ReadBatch(ms))
		if slices.ContainsFunc(ms[:k], func(m Message) bool { return m.N == 10 }) {
			return
		}
		// A turn is as much as one system call received.
		if n += k; n > groRuns*runDatagrams {
			t.Fatalf("not among the first %d", n)
		}
	}
}

// TestCoalescedRefused has the library refuse whole runs, as it does when the kernel cannot.
func TestCoalescedRefused(t *testing.T) {
	h := openRuns(t, 1)
	screen := func(blocked ...netip.Addr) {
		h.rx.m.update(func() { h.rx.groups[0].pairs[0].conns[0].filter.blocked = newAddrSet(blocked) })
	}
	screen(netip.MustParseAddr("127.0.0.1"))
	h.write(t, 0, 1000, 64) // more than lookBudget
	h.rx.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	buf := make([]byte, 100)
	if n, _, err := h.rx.ReadFromUDPAddrPort(buf); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("read %d bytes, %v", n, err)
	}
	screen()
	h.write(t, 0, 1, 10)
	h.rx.SetReadDeadline(time.Now().Add(slow.Limit(20 * time.Second)))
	if n, _, err := h.rx.ReadFromUDPAddrPort(buf); n != 10 || err != nil {
		t.Fatalf("read %d bytes, %v", n, err)
	}
}

// TestRunsWithoutAllocations pins it for both ends.
func TestRunsWithoutAllocations(t *testing.T) {
	h := openRuns(t, 2)
	var out, in []Message
	for n := range 200 {
		out = append(out, Message{Buf: payload(n, 64), Addr: h.dsts[n/50%2]})
		in = append(in, Message{Buf: make([]byte, 64)})
	}
	if n := testing.AllocsPerRun(50, func() {
		must(t, 0, errOf(h.tx.WriteBatch(out)))
		for left := len(out); left > 0; {
			left -= must2(h.rx.ReadBatch(in[:left]))
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// FuzzRun takes a run apart as the kernel may hand it over, whatever it says of the size of its datagrams: they are all of
// it, in order, each but the last of that size, and as many as were promised.
func FuzzRun(f *testing.F) {
	f.Add([]byte("aaaabbbbcc"), 4, 100)
	f.Add([]byte("aaaabbbbcccc"), 4, 2)
	f.Add([]byte(""), 0, 1)
	f.Add([]byte("a"), 1<<31-1, 0)
	f.Fuzz(func(t *testing.T, data []byte, segment, room int) {
		if room < 0 || room > 1<<16 || segment < 1 || len(data) > maxDatagram {
			return // receive takes care that it is at least 1
		}
		q := &coalesced{conn: &conn{}}
		q.left = append(q.runs[:0], run{data: data, segment: segment}, run{data: []byte("next"), segment: 4})
		promised := q.datagrams()
		var all []byte
		delivered := 0
		for len(q.left) > 0 {
			m := Message{Buf: make([]byte, room)}
			size := min(segment, len(data)-delivered*min(segment, len(data)))
			if len(q.left) == 1 {
				size = 4
			}
			q.next(&m)
			if m.N != min(size, room) || m.Truncated != (size > room) {
				t.Fatalf("datagram %d: %d bytes, truncated: %v; want %d, with room for %d", delivered, m.N, m.Truncated, size, room)
			}
			all = append(all, m.Buf[:m.N]...)
			delivered++
		}
		if delivered != promised || q.conn.count.packets != uint64(delivered) || room >= segment && room >= 4 && string(all) != string(data)+"next" {
			t.Errorf("%d datagrams of %d, %q", delivered, promised, all)
		}
	})
}
