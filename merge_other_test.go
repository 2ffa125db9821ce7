//go:build !linux || mcast_portable

// The merge by itself, over sockets of package net: what goes in is unicast over the loopback interface, and nothing but
// the merge stands between it and a read.

package mcast

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-multicast/mcast/internal/slow"
	"github.com/go-multicast/mcast/internal/testrun"
	"github.com/go-multicast/mcast/internal/wire"
)

var mergePatience = slow.Limit(20 * time.Second)

// mergeTest is a merge, and what sends to its sockets.
type mergeTest struct {
	*testing.T
	*merge
	reader     *reader
	from       *net.UDPConn
	goroutines int // before there was a merge
}

func newMergeTest(t *testing.T) *mergeTest {
	t.Helper()
	from, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	if err := from.SetWriteBuffer(1 << 17); err != nil { // for the largest datagram; macOS has less
		t.Fatal(err)
	}
	mt := &mergeTest{T: t, from: from, goroutines: runtime.NumGoroutine()}
	if mt.reader, err = newReader(); err != nil {
		t.Fatal(err)
	}
	mt.merge = mt.reader.m
	t.Cleanup(func() {
		if err := mt.close(); err != nil {
			t.Errorf("close: %v", err)
		}
		from.Close()
		mt.wantGoroutines(0)
	})
	mt.setReadDeadline(time.Now().Add(mergePatience))
	return mt
}

// wantGoroutines waits until the merge has that many.
func (t *mergeTest) wantGoroutines(n int) {
	t.Helper()
	t.until("the goroutines have ended", func() bool { return runtime.NumGoroutine() <= t.goroutines+n })
}

func (t *mergeTest) until(what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(mergePatience); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			buf := make([]byte, 1<<20)
			t.Fatalf("not within the limit: %s\n%s", what, buf[:runtime.Stack(buf, true)])
		}
	}
}

// inlet is an OS socket of a merge with a conn that gets all that arrives there.
type inlet struct {
	*conn
	to       netip.AddrPort
	released atomic.Int32
}

var inletGroup = netip.MustParseAddr("239.79.9.9")

func (t *mergeTest) inlet() *inlet {
	t.Helper()
	udp, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	return t.inletOf(udp)
}

func (t *mergeTest) inletOf(udp *net.UDPConn) *inlet {
	t.Helper()
	i := &inlet{
		conn: &conn{schedState: schedState{in: newInbox(udp, inletGroup, false)}, group: inletGroup, ifName: "lo"},
		to:   udp.LocalAddr().(*net.UDPAddr).AddrPort(),
	}
	i.release = func() error {
		i.released.Add(1)
		udp.Close()
		return nil
	}
	if err := t.add(i.conn); err != nil {
		t.Fatal(err)
	}
	return i
}

func (t *mergeTest) send(to *inlet, payloads ...string) {
	t.Helper()
	for _, p := range payloads {
		if _, err := t.from.WriteToUDPAddrPort([]byte(p), to.to); err != nil {
			t.Fatal(err)
		}
	}
}

func (t *mergeTest) has(i *inlet) (ok bool) {
	t.update(func() { ok = t.holds(i.conn) })
	return ok
}

// taken waits until the goroutine of an inbox has received n datagrams that are not read yet.
func (t *mergeTest) taken(i *inlet, n int) {
	t.Helper()
	t.until(fmt.Sprint(n, " are received"), func() bool { return t.queued(i) == n })
}

// queued is how many datagrams an inbox has that were not read.
func (t *mergeTest) queued(i *inlet) (n int) {
	t.update(func() { n = len(i.in.queue) - i.in.read })
	return n
}

// fill sends until the goroutine of an inbox waits for room, and some more that waits in the kernel. It returns all.
func (t *mergeTest) flood(i *inlet) (payloads []string) {
	t.Helper()
	for n := range inboxDatagrams + 30 {
		payloads = append(payloads, fmt.Sprint(n))
	}
	t.send(i, payloads...)
	t.until("the inbox is full", func() bool { return t.queued(i) == inboxDatagrams })
	return payloads
}

// readBatch reads up to n datagrams of up to 10 bytes.
func (t *mergeTest) readBatch(n int) (payloads []string, err error) {
	ms := make([]Message, n)
	for i := range ms {
		ms[i].Buf = make([]byte, 10)
	}
	n, err = t.reader.readBatch(ms, nil)
	for _, m := range ms[:n] {
		payloads = append(payloads, string(m.Buf[:m.N]))
	}
	return payloads, err
}

func (t *mergeTest) want(payloads ...string) {
	t.Helper()
	buf := make([]byte, maxDatagram)
	for i, want := range payloads {
		n, src, err := t.reader.readFromUDPAddrPort(buf)
		if err != nil || string(buf[:n]) != want || src != t.from.LocalAddr().(*net.UDPAddr).AddrPort() {
			t.Fatalf("number %d: read %.20q from %v, %v; want %.20q", i, buf[:n], src, err, want)
		}
	}
}

// wantNothing checks that there is nothing to be read now.
func (t *mergeTest) wantNothing() {
	t.Helper()
	t.setReadDeadline(time.Now().Add(20 * time.Millisecond))
	if got, err := t.readBatch(1); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("read %q, %v; want nothing", got, err)
	}
	t.setReadDeadline(time.Now().Add(mergePatience))
}

// wantGone waits until a conn was removed, once, and its goroutine has ended.
func (t *mergeTest) wantGone(i *inlet, left int) {
	t.Helper()
	t.until("it is removed", func() bool { return i.released.Load() > 0 })
	t.wantGoroutines(left)
	if n := i.released.Load(); n != 1 {
		t.Errorf("released %d times", n)
	}
	t.update(func() {
		if _, ok := t.inboxes[i.in]; ok || t.holds(i.conn) {
			t.Error("it is still there")
		}
	})
}

// TestMergeDeliversInOrder sends more than an inbox holds. Its memory is bounded, the rest waits in the kernel, and everything
// arrives once and in order.
func TestMergeDeliversInOrder(t *testing.T) {
	for _, size := range []int{0, 1, 1000, 8000, 65507} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			mt := newMergeTest(t)
			in := mt.inlet()
			// What an inbox holds, and a bit less than the smallest default buffer of a system, 64 KiB on Windows.
			var payloads []string
			for i := range min(inboxDatagrams, max(inboxBytes/2/(size+1), 2)) + min(100, 48<<10/(size+1)) {
				payloads = append(payloads, string(bytes.Repeat([]byte{byte('a' + i%26)}, size)))
				mt.send(in, payloads[i])
				mt.until("it is received, or the inbox is full", func() (ok bool) {
					mt.update(func() {
						ok = len(in.in.queue) == i+1 || in.in.used+maxDatagram > inboxBytes || len(in.in.queue) == inboxDatagrams
					})
					return ok
				})
			}
			mt.update(func() {
				if len(in.in.buf) != inboxBytes || cap(in.in.queue) != inboxDatagrams {
					t.Errorf("room for %d bytes and %d datagrams", len(in.in.buf), cap(in.in.queue))
				}
			})
			mt.want(payloads...)
			mt.wantNothing()
		})
	}
}

// TestMergeScreen has sources refused. They are not delivered and take no room.
func TestMergeScreen(t *testing.T) {
	mt := newMergeTest(t)
	in := mt.inlet()
	blocked := []netip.Addr{mt.from.LocalAddr().(*net.UDPAddr).AddrPort().Addr()}
	mt.update(func() { in.filter.blocked = newAddrSet(blocked) })
	mt.send(in, slices.Repeat([]string{"refused"}, 2*inboxDatagrams)...)
	mt.wantNothing()
	mt.update(func() { in.filter.blocked = nil })
	mt.send(in, "wanted")
	mt.want("wanted")
}

// TestMergeFair reads a datagram of a quiet socket beside flooded ones: each gets its turn.
func TestMergeFair(t *testing.T) {
	mt := newMergeTest(t)
	loud := []*inlet{mt.inlet(), mt.inlet(), mt.inlet()}
	quiet := mt.inlet()
	for _, in := range loud {
		mt.flood(in)
	}
	for _, size := range []int{1, len(loud) + 1, 1} {
		mt.send(quiet, "quiet")
		mt.taken(quiet, 1)
		var got []string
		for len(got) < len(loud)+1 {
			more, err := mt.readBatch(size)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, more...)
		}
		slices.Sort(got)
		if !slices.Contains(got, "quiet") || len(slices.Compact(got)) > 2 { // each of the loud gave the same
			t.Errorf("batches of %d: the first are %q; want one of each socket", size, got)
		}
	}
}

func someReceived(t *mergeTest, in *inlet) []string {
	t.Helper()
	t.send(in, "a", "b")
	t.taken(in, 2)
	return []string{"a", "b"}
}

// TestMergeRetire retires an OS socket. What it has received is delivered, whenever it is read, and then it is removed.
func TestMergeRetire(t *testing.T) {
	for _, tt := range []struct {
		name string
		send func(mt *mergeTest, in *inlet) []string
		gone bool
	}{
		{"nothing", func(*mergeTest, *inlet) []string { return nil }, false},
		{"some", someReceived, false},
		{"some, from an interface that is gone", someReceived, true},
		{"more than an inbox holds", (*mergeTest).flood, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			mt := newMergeTest(t)
			other := mt.inlet()
			for _, end := range []string{"read at once", "read late", "removed"} {
				in := mt.inlet()
				payloads := tt.send(mt, in)
				mt.retire(in.conn)
				if tt.gone {
					in.in.udp.Close()
				}
				if end != "read at once" {
					time.Sleep(2 * drainPauses * drainPause)
					if n := in.released.Load(); len(payloads) > 0 && n != 0 {
						t.Fatalf("%s: removed before it was read", end)
					}
				}
				if end == "removed" {
					mt.remove(in.conn)
				} else {
					mt.want(payloads...)
				}
				mt.wantGone(in, 1)
				mt.remove(in.conn) // again, which is harmless
				mt.wantNothing()
			}
			mt.send(other, "other")
			mt.want("other")
		})
	}
}

// TestMergeRetiredAlone takes the last conn that is not retired from an OS socket: the others go when it is empty.
func TestMergeRetiredAlone(t *testing.T) {
	mt := newMergeTest(t)
	in := mt.inlet()
	second := &conn{schedState: schedState{in: in.in}, group: groups("239.79.9.10")[0], release: func() error { return nil }}
	if err := mt.add(second); err != nil {
		t.Fatal(err)
	}
	mt.retire(in.conn)
	testrun.AwaitParked(t, 1, "(*merge).receive")
	if in.released.Load() != 0 {
		t.Error("the OS socket of another conn was given back")
	}
	mt.remove(second)
	mt.until("the retired one is removed", func() bool { return in.released.Load() > 0 })
}

// TestMergeRetiredReturns adds a conn to an OS socket all of whose conns are retired. It goes on receiving.
func TestMergeRetiredReturns(t *testing.T) {
	mt := newMergeTest(t)
	in := mt.inlet()
	mt.send(in, "unread") // so that it is not removed
	mt.taken(in, 1)
	mt.retire(in.conn)
	again := &conn{schedState: schedState{in: in.in}, group: groups("239.79.9.10")[0], release: func() error { return nil }}
	if err := mt.add(again); err != nil {
		t.Fatal(err)
	}
	mt.want("unread")
	time.Sleep(2 * drainPauses * drainPause)
	mt.send(in, "more")
	mt.want("more")
	if in.released.Load() != 0 {
		t.Error("the OS socket was given back")
	}
}

// TestMergeRemove removes conns that have something unread, in the middle of others. Nothing of them is delivered or kept.
func TestMergeRemove(t *testing.T) {
	mt := newMergeTest(t)
	a, b, c := mt.inlet(), mt.inlet(), mt.inlet()
	for _, in := range []*inlet{a, b, c} {
		mt.send(in, fmt.Sprint(in.to))
		mt.taken(in, 1)
	}
	mt.remove(b.conn)
	mt.wantGone(b, 2)
	mt.want(fmt.Sprint(a.to), fmt.Sprint(c.to))
	mt.flood(a) // its goroutine waits for room
	mt.remove(a.conn)
	mt.wantGone(a, 1)
	mt.send(c, "c")
	mt.want("c")
	mt.remove(c.conn)
	mt.wantGone(c, 0)
	mt.update(func() {
		if len(mt.line) != 0 || slices.ContainsFunc(mt.line[:cap(mt.line)], func(in *inbox) bool { return in != nil }) {
			t.Errorf("an inbox is kept: %v", mt.line[:cap(mt.line)])
		}
	})
	d := mt.inlet()
	mt.send(d, "d")
	mt.want("d")
}

// TestMergeError has a socket fail for good. Each read returns the error once, after the datagrams before it, and other sockets
// have their turn.
func TestMergeError(t *testing.T) {
	mt := newMergeTest(t)
	in, other := mt.inlet(), mt.inlet()
	mt.send(in, "a", "b")
	mt.taken(in, 2)
	in.in.udp.Close()
	mt.taken(in, 3)
	time.Sleep(20 * time.Millisecond)
	mt.taken(in, 3) // not more
	if got, err := mt.readBatch(5); !slices.Equal(got, []string{"a", "b"}) || err != nil {
		t.Fatalf("%q, %v", got, err)
	}
	for range 3 {
		var e *OpError
		if got, err := mt.readBatch(5); len(got) != 0 || !errors.As(err, &e) || e.Op != "read" || e.Group != inletGroup || e.Interface != "lo" {
			t.Fatalf("%q, %v", got, err)
		}
		mt.taken(in, 1)
	}
	mt.send(other, "other")
	mt.taken(other, 1)
	if _, err := mt.readBatch(1); err == nil {
		t.Error("no error")
	}
	mt.want("other")
	mt.remove(in.conn)
	mt.wantGone(in, 1)
}

// TestMergeErrorOfShared removes conns of an OS socket that has failed: as long as one is left, a read returns the error.
func TestMergeErrorOfShared(t *testing.T) {
	mt := newMergeTest(t)
	in := mt.inlet()
	var left atomic.Int32
	release := in.release
	in.release = func() error {
		if left.Add(-1) == 0 {
			return release()
		}
		return nil
	}
	left.Store(4)
	for _, g := range sequence("239.79.9.10", 3) {
		if err := mt.add(&conn{schedState: schedState{in: in.in}, group: g, release: in.release}); err != nil {
			t.Fatal(err)
		}
	}
	failed := errors.New("failed")
	mt.deliver(in.in, &arrival{err: failed})
	for range 3 {
		var of *conn
		mt.update(func() { of = in.in.queue[in.in.read].conn })
		mt.remove(of)
	}
	if _, err := mt.readBatch(1); !errors.Is(err, failed) {
		t.Errorf("a read returns %v, want %v", err, failed)
	}
	mt.wantNothing()
}

// TestMergePassingError has a socket told once that nobody heard what it sent. It goes on receiving.
func TestMergePassingError(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("package net turns these errors off")
	}
	peer, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	at := peer.LocalAddr().(*net.UDPAddr)
	peer.Close()
	mt := newMergeTest(t)
	udp, err := net.DialUDP("udp4", nil, at)
	if err != nil {
		t.Fatal(err)
	}
	in := mt.inletOf(udp)
	udp.Write([]byte("is anybody there?"))
	mt.setReadDeadline(time.Now().Add(100 * time.Millisecond))
	_, err = mt.readBatch(1)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Skip("this system does not tell")
	}
	if e := (*OpError)(nil); !errors.As(err, &e) {
		t.Errorf("%v, want an OpError", err)
	}
	mt.wantNothing()
	if peer, err = net.ListenUDP("udp4", at); err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	if _, err := peer.WriteToUDPAddrPort([]byte("I am"), in.to); err != nil {
		t.Fatal(err)
	}
	if got, err := mt.readBatch(1); !slices.Equal(got, []string{"I am"}) || err != nil {
		t.Errorf("read %q, %v", got, err)
	}
}

// TestMergeDeadline has deadlines pass before a read, during one, and not at all because they are replaced.
func TestMergeDeadline(t *testing.T) {
	mt := newMergeTest(t)
	in := mt.inlet()
	const soon = 20 * time.Millisecond
	for name, at := range map[string]func() time.Time{
		"past":              func() time.Time { return longAgo },
		"soon":              func() time.Time { return time.Now().Add(soon) },
		"soon by the clock": func() time.Time { return time.Now().Round(0).Add(soon) },
	} {
		mt.setReadDeadline(time.Time{})
		done := make(chan error)
		go func() { _, err := mt.readBatch(1); done <- err }()
		testrun.AwaitParked(t, 1, "(*mergeTest).readBatch")
		mt.setReadDeadline(at())
		if err := <-done; !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: %v", name, err)
		}
		mt.send(in, name)
		mt.taken(in, 1)
		if got, err := mt.readBatch(1); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: after the deadline a read returns %q, %v", name, got, err)
		}
		mt.setReadDeadline(time.Now().Add(mergePatience))
		mt.want(name)
	}
	for name, later := range map[string]time.Time{"cleared": {}, "extended": time.Now().Add(mergePatience)} {
		mt.setReadDeadline(time.Now().Add(soon))
		done := make(chan error)
		go func() { _, err := mt.readBatch(1); done <- err }()
		mt.setReadDeadline(later)
		time.Sleep(2 * soon)
		mt.send(in, name)
		if err := <-done; err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestMergeClose closes while goroutines wait for room, for datagrams and for what is retired to be read, and while reads are
// blocked. Every OS socket is given back once, every read ends, and no goroutine is left.
func TestMergeClose(t *testing.T) {
	for _, inlets := range []int{0, 1, 5} {
		mt := newMergeTest(t)
		mt.setReadDeadline(time.Time{})
		const readers = 4
		done := make(chan error, readers)
		for range readers {
			go func() {
				for {
					if _, err := mt.readBatch(3); err != nil {
						done <- err
						return
					}
				}
			}()
		}
		var all []*inlet
		for i := range inlets {
			in := mt.inlet()
			for n := range 3 * inboxDatagrams {
				mt.send(in, fmt.Sprint(n))
			}
			if i%2 == 0 {
				mt.retire(in.conn)
			}
			all = append(all, in, mt.inlet())
		}
		if err := mt.close(); err != nil {
			t.Error(err)
		}
		for i, in := range all {
			if n := in.released.Load(); n != 1 {
				t.Errorf("inlet %d was released %d times", i, n)
			}
		}
		for range readers {
			select {
			case err := <-done:
				if !errors.Is(err, net.ErrClosed) {
					t.Errorf("a blocked read returns %v", err)
				}
			case <-time.After(mergePatience):
				t.Fatal("a read is still blocked")
			}
		}
		if err := mt.setReadDeadline(time.Now().Add(time.Hour)); err != net.ErrClosed {
			t.Errorf("setReadDeadline: %v", err)
		}
		late := &conn{schedState: schedState{in: newInbox(mt.from, inletGroup, false)}, group: inletGroup}
		if err := mt.add(late); err != net.ErrClosed {
			t.Errorf("add: %v", err)
		}
		if err := mt.remove(late); err != nil {
			t.Errorf("remove: %v", err)
		}
		mt.wantGoroutines(0)
	}
}

// TestMergeCloseWaits closes while a goroutine gives an OS socket back.
func TestMergeCloseWaits(t *testing.T) {
	mt := newMergeTest(t)
	in := mt.inlet()
	release := in.release
	releasing, let := make(chan struct{}), make(chan struct{})
	in.release = func() error {
		close(releasing)
		<-let
		return release()
	}
	mt.retire(in.conn)
	<-releasing
	closed := make(chan error)
	go func() { closed <- mt.close() }()
	select {
	case <-closed:
		t.Error("close has not waited")
		close(let)
	case <-time.After(20 * time.Millisecond):
		close(let)
		if err := <-closed; err != nil {
			t.Error(err)
		}
	}
}

// TestMergeReaders has several reads go on at the same time: one of them receives each datagram.
func TestMergeReaders(t *testing.T) {
	mt := newMergeTest(t)
	mt.setReadDeadline(time.Time{})
	const readers, each = 8, 100
	inlets := []*inlet{mt.inlet(), mt.inlet(), mt.inlet()}
	var reading sync.WaitGroup
	var mu sync.Mutex
	got := make(map[string]int)
	for i := range readers {
		reading.Go(func() {
			for {
				payloads, err := mt.readBatch(1 + i%3)
				if err != nil {
					if !errors.Is(err, os.ErrDeadlineExceeded) {
						t.Error(err)
					}
					return
				}
				mu.Lock()
				for _, p := range payloads {
					got[p]++
				}
				mu.Unlock()
			}
		})
	}
	for n := range each {
		for i, in := range inlets {
			mt.send(in, fmt.Sprintf("%d to %d", n, i))
		}
	}
	mt.until("all are read", func() bool { mu.Lock(); defer mu.Unlock(); return len(got) == each*len(inlets) })
	mt.setReadDeadline(longAgo)
	reading.Wait()
	for text, n := range got {
		if n != 1 {
			t.Errorf("%q was read %d times", text, n)
		}
	}
}

// TestMergeShared has two conns on one OS socket, of which one is retired, and comes back: another takes its place,
// with what was received meanwhile.
func TestMergeShared(t *testing.T) {
	mt := newMergeTest(t)
	in := mt.inlet()
	in.pair = new(pair)
	second := &conn{schedState: schedState{in: in.in}, group: groups("239.79.9.10")[0], release: func() error { return nil }}
	if err := mt.add(second); err != nil {
		t.Fatal(err)
	}
	mt.send(in, "read")
	mt.want("read")
	mt.send(in, "a", "b")
	mt.taken(in, 2)
	mt.retire(in.conn)
	time.Sleep(2 * drainPauses * drainPause)
	if !mt.has(in) {
		t.Error("removed, although somebody else has the OS socket, too")
	}
	again := &conn{schedState: schedState{in: in.in}, group: in.group, pair: in.pair, release: in.release}
	if err := mt.add(again); err != nil {
		t.Fatal(err)
	}
	mt.send(in, "c")
	mt.want("a", "b", "c")
	if err := mt.remove(in.conn); err != nil || in.released.Load() != 0 || mt.has(in) {
		t.Errorf("the first is there, or released: %v", err)
	}
	mt.remove(second)
	mt.send(in, "d")
	mt.want("d")
	mt.remove(again)
	if n := in.pair.past.Packets; n != 5 {
		t.Errorf("%d packets counted", n)
	}
	mt.wantGone(in, 0)
}

// TestMergeSharedRemove removes conns of an OS socket whose datagrams are first in the queue, and another stays.
func TestMergeSharedRemove(t *testing.T) {
	mt := newMergeTest(t)
	udp, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	in := newInbox(udp, netip.Addr{}, false)
	all := groups("239.79.9.10", "239.79.9.11", "239.79.9.12")
	var conns []*conn
	for i, g := range all {
		c := &conn{schedState: schedState{in: in}, group: g, release: func() error { return nil }}
		if i == 0 { // the last to go, in close
			c.release = udp.Close
		}
		if err := mt.add(c); err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
	}
	arrive := func(groups ...netip.Addr) {
		for _, g := range groups { // as the goroutine would say, if it had been told
			mt.deliver(in, &arrival{meta: wire.Metadata{Group: g}})
		}
	}
	want := func(groups ...netip.Addr) {
		t.Helper()
		for _, g := range groups {
			ms := make([]Message, 1)
			if n, err := mt.reader.readBatch(ms, nil); n != 1 || err != nil || ms[0].Group != g {
				t.Fatalf("%d, %v: %+v, want %v", n, err, ms, g)
			}
		}
	}
	arrive(all[2])
	mt.remove(conns[2]) // which leaves nothing
	mt.wantNothing()
	arrive(all[1], all[1], all[0], all[1], all[0])
	mt.remove(conns[1])
	want(all[0], all[0])
	arrive(all[1], all[0], all[1])
	want(all[0])
	mt.wantNothing()
	mt.update(func() {
		if len(in.queue) != 0 || in.used != 0 {
			t.Errorf("%d datagrams, %d bytes are left", len(in.queue), in.used)
		}
	})
}

// TestMergeFind covers whom a datagram is for.
func TestMergeFind(t *testing.T) {
	a, b, other := groups("239.1.1.1")[0], groups("ff02::1")[0], groups("239.1.1.9")[0]
	unicast := groups("192.0.2.1")[0]
	bound := newInbox(nil, a, false)
	boundTold := newInbox(nil, a, true)
	shared := newInbox(nil, netip.Addr{}, true)
	replies := newInbox(nil, netip.Addr{}, false)
	conns := func(in *inbox, groups ...netip.Addr) {
		for _, g := range groups {
			in.conns[g] = &conn{group: g, ifIndex: 7}
		}
	}
	conns(bound, a)
	conns(boundTold, a)
	conns(shared, a, b)
	conns(replies, netip.Addr{})
	for _, c := range []struct {
		name  string
		in    *inbox
		group netip.Addr
		index int
		found bool
	}{
		{"bound", bound, netip.Addr{}, 0, true},
		{"bound, told the interface", boundTold, a, 7, true},
		{"bound, told another", boundTold, a, 8, false},
		{"bound, told nothing", boundTold, netip.Addr{}, 0, false},
		{"shared", shared, a, 7, true},
		{"shared, IPv6", shared, b, 7, true},
		{"shared, by another interface", shared, a, 8, false},
		{"shared, a group that nobody joined", shared, other, 7, false},
		{"shared, unicast", shared, unicast, 7, false},
		{"shared, told nothing", shared, netip.Addr{}, 0, false},
		{"replies", replies, netip.Addr{}, 0, true},
		{"replies, told where they went", replies, unicast, 3, true},
		{"replies, multicast", replies, a, 3, false},
	} {
		if got := c.in.find(&wire.Metadata{Group: c.group, IfIndex: c.index}); (got != nil) != c.found {
			t.Errorf("%s: found %v", c.name, got)
		}
	}
}

// TestMergeCountsUnknown has datagrams arrive without control messages, as on Windows when memory is short. They are
// discarded, and counted as dropped where only one membership can be meant.
func TestMergeCountsUnknown(t *testing.T) {
	mt := newMergeTest(t)
	udp, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	in := newInbox(udp, netip.Addr{}, true)
	all := groups("239.79.9.10", "239.79.9.11")
	var conns []*conn
	for i, g := range all {
		c := &conn{schedState: schedState{in: in}, group: g, ifIndex: 7, pair: new(pair), release: func() error { return nil }}
		if i == 0 { // the last to go
			c.release = udp.Close
		}
		if err := mt.add(c); err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
	}
	want := func(when string, dropped ...uint64) {
		t.Helper()
		mt.update(func() {
			for i, c := range conns {
				if c.count.dropped.total != dropped[i] {
					t.Errorf("%s: %s: %d dropped, want %d", when, c.group, c.count.dropped, dropped[i])
				}
			}
		})
	}
	mt.deliver(in, &arrival{})
	want("of two", 0, 0)
	mt.remove(conns[1])
	mt.deliver(in, &arrival{})
	mt.deliver(in, &arrival{})
	want("of one", 2, 0)
	for _, meta := range []wire.Metadata{{Group: all[1], IfIndex: 7}, {Group: all[0], IfIndex: 8}, {Group: netip.MustParseAddr("127.0.0.1"), IfIndex: 7}} {
		mt.deliver(in, &arrival{meta: meta})
	}
	want("of what was not joined", 2, 0)
	mt.wantNothing()
	mt.remove(conns[0])
	if n := conns[0].pair.past.Dropped; n != 2 {
		t.Errorf("the membership reports %d", n)
	}

	early := mt.inlet()
	early.in.checkIf = true
	mt.deliver(early.in, &arrival{}) // from before the option was set
	replies := newInbox(nil, netip.Addr{}, false)
	replies.countUnknown(&wire.Metadata{})
	mt.update(func() {
		if early.count.dropped.total != 0 {
			t.Errorf("%d dropped of a socket that is bound to the group", early.count.dropped)
		}
	})
}

// TestMergeFill covers what is made of a datagram.
func TestMergeFill(t *testing.T) {
	m, err := newMerge()
	if err != nil {
		t.Fatal(err)
	}
	in := &inbox{buf: []byte("0123456789")}
	at := time.Unix(1, 2)
	for _, c := range []struct {
		a         arrival
		connIndex int
		size      int
		want      Message
	}{
		{arrival{conn: &conn{group: inletGroup, ifIndex: 3}, at: 2, size: 4, src: netip.MustParseAddrPort("192.0.2.1:9"),
			meta: wire.Metadata{HopLimit: 5, Time: at, IfIndex: 3}}, 3, 10,
			Message{N: 4, Addr: netip.MustParseAddrPort("192.0.2.1:9"), Group: inletGroup, IfIndex: 3, HopLimit: 5, Time: at}},
		{arrival{conn: &conn{group: inletGroup, ifIndex: 3}, at: 2, size: 4, src: netip.MustParseAddrPort("[fe80::1%eth0]:9")}, 3, 3,
			Message{N: 3, Addr: netip.MustParseAddrPort("[fe80::1%3]:9"), Group: inletGroup, IfIndex: 3, Truncated: true}},
		{arrival{conn: &conn{}, size: 1, src: netip.MustParseAddrPort("[fe80::1%eth0]:9"), meta: wire.Metadata{IfIndex: 12}, truncated: true}, 0, 1,
			Message{N: 1, Addr: netip.MustParseAddrPort("[fe80::1%12]:9"), Truncated: true}},
	} {
		got := Message{Buf: make([]byte, c.size)}
		m.fill(&got, in, &c.a)
		if text := string(got.Buf[:got.N]); text != "0123456789"[c.a.at:c.a.at+got.N] {
			t.Errorf("%+v: %q", c.a, text)
		}
		got.Buf = nil
		if fmt.Sprint(got) != fmt.Sprint(c.want) {
			t.Errorf("%+v, want %+v", got, c.want)
		}
	}
}

// TestMergeRandom lets everything happen at once. One socket stays throughout: it loses nothing, in no other order.
func TestMergeRandom(t *testing.T) {
	mt := newMergeTest(t)
	stays := mt.inlet()
	var all sync.WaitGroup
	var stop atomic.Bool
	var sent, got atomic.Int64
	for range 2 { // sockets that come and go
		all.Go(func() {
			for !stop.Load() {
				in := mt.inlet()
				for range rand.IntN(3 * inboxDatagrams) {
					mt.from.WriteToUDPAddrPort([]byte("other"), in.to)
				}
				time.Sleep(time.Duration(rand.IntN(3)) * time.Millisecond)
				if rand.IntN(2) == 0 {
					mt.retire(in.conn)
					time.Sleep(time.Duration(rand.IntN(3)) * time.Millisecond)
				}
				mt.remove(in.conn)
				mt.until("it is removed", func() bool { return in.released.Load() > 0 })
				if n := in.released.Load(); n != 1 {
					t.Errorf("released %d times", n)
				}
			}
		})
	}
	all.Go(func() {
		for !stop.Load() {
			for _, at := range []time.Time{longAgo, {}, time.Now().Add(time.Millisecond), time.Now().Add(time.Hour)} {
				mt.setReadDeadline(at)
				time.Sleep(time.Duration(rand.IntN(300)) * time.Microsecond)
			}
		}
	})
	all.Go(func() {
		for !stop.Load() {
			if sent.Load() < got.Load()+inboxDatagrams { // so that the kernel drops none
				mt.from.WriteToUDPAddrPort(fmt.Appendf(nil, "%d", sent.Add(1)), stays.to)
			} else {
				time.Sleep(time.Microsecond)
			}
		}
	})
	var order sync.Mutex // of the datagrams that stays gets
	for range 3 {
		all.Go(func() {
			ms := make([]Message, 5)
			for !stop.Load() || got.Load() < sent.Load() {
				for i := range ms {
					ms[i] = Message{Buf: make([]byte, 20)}
				}
				order.Lock()
				n, err := mt.reader.readBatch(ms, nil)
				for _, m := range ms[:n] {
					text := string(m.Buf[:m.N])
					if text != "other" && text != fmt.Sprint(got.Add(1)) {
						t.Errorf("read %s instead of %d", text, got.Load())
					}
				}
				order.Unlock()
				if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Error(err)
				}
			}
		})
	}
	time.Sleep(time.Second)
	stop.Store(true)
	ended := make(chan struct{})
	go func() { all.Wait(); close(ended) }()
	for last := false; !last; { // reads may be blocked, and the one who moved the deadline is gone
		mt.setReadDeadline(time.Now().Add(10 * time.Millisecond))
		select {
		case <-ended:
			last = true
		case <-time.After(20 * time.Millisecond):
		}
	}
	t.Logf("%d datagrams, of which %d were counted", sent.Load(), stays.count.packets)
	if sent.Load() < 100 {
		t.Errorf("only %d datagrams", sent.Load())
	}
}
