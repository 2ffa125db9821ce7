//go:build !mcast_portable

// Errors that wait in a socket. The kernel reports each once, to the call that meets it, so that call must not lose it.

package mcast

import (
	"errors"
	"net"
	"os"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/go-multicast/mcast/internal/slow"
)

// unwritable is memory that the kernel cannot write a datagram to.
func unwritable(t *testing.T) []byte {
	t.Helper()
	p, err := unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_NONE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Munmap(p) })
	return p
}

// leaveError puts EFAULT into a socket that has two datagrams, and takes these: recvmmsg receives the first, fails at the
// second, and leaves its error to the next call.
func leaveError(t *testing.T, fd int) {
	t.Helper()
	awaitDelivered(t)
	b := new(msgBatch)
	b.point(0, make([]byte, 100), 0)
	b.point(1, unwritable(t), 0)
	if n, err := mmsg(unix.SYS_RECVMMSG, fd, b.hdrs[:2]); n != 1 || err != nil {
		t.Fatalf("recvmmsg returned %d, %v", n, err)
	}
}

func connOf(s *RxSocket, group int) (c *conn) {
	s.m.update(func() { c = s.groups[group].pairs[0].conns[0] })
	return c
}

// wantFault reads in a way that must return EFAULT, as an error of a group, and after it nothing.
func wantFault(t *testing.T, rx *RxSocket, group int) {
	t.Helper()
	ms := []Message{{Buf: make([]byte, 100)}}
	var e *OpError
	if n, err := rx.ReadBatch(ms); n != 0 || !errors.Is(err, unix.EFAULT) || !errors.As(err, &e) || e.Group != rx.cfg.Groups[group] || e.Interface != "lo" {
		t.Fatalf("read %d datagrams, error %v; want the error that the last batch met", n, err)
	}
	rx.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	if n, err := rx.ReadBatch(ms); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("read %d datagrams, error %v, after the error was returned", n, err)
	}
	rx.SetReadDeadline(time.Now().Add(slow.Limit(20 * time.Second)))
}

// TestBatchKeepsLateError: the error of one group that a batch meets after datagrams of another is returned by the next
// read, whichever that is.
func TestBatchKeepsLateError(t *testing.T) {
	h := openRunsOf(t, 2, false)
	for _, read := range []struct {
		name string
		next func() error
	}{
		{"ReadFromUDPAddrPort", func() error { _, _, err := h.rx.ReadFromUDPAddrPort(make([]byte, 100)); return err }},
		{"ReadFrom", func() error { _, _, err := h.rx.ReadFrom(make([]byte, 100)); return err }},
		{"ReadBatch", func() error { _, err := h.rx.ReadBatch([]Message{{Buf: make([]byte, 100)}}); return err }},
		{"Messages", func() (err error) {
			for _, err = range h.rx.Messages(t.Context()) {
				break
			}
			return err
		}},
	} {
		t.Run(read.name, func(t *testing.T) {
			h.write(t, 0, 1, 64)
			h.write(t, 1, 1, 64)
			ms := []Message{{Buf: make([]byte, 100)}, {Buf: unwritable(t)}, {Buf: make([]byte, 100)}}
			if n, err := h.rx.ReadBatch(ms); n != 1 || ms[0].N != 64 || err != nil {
				t.Fatalf("read %d datagrams, %v", n, err)
			}
			h.write(t, 0, 1, 64) // does not hide it
			var e *OpError
			if err := read.next(); !errors.Is(err, unix.EFAULT) || !errors.As(err, &e) || !e.Group.IsValid() || e.Group == ms[0].Group {
				t.Fatalf("the next read returned %v, want the error that the batch met", err)
			}
			if n, err := h.rx.ReadBatch(ms); n != 1 || err != nil || ms[0].Group != h.dsts[0].Addr() {
				t.Fatalf("read %d datagrams, %v, after the error", n, err)
			}
		})
	}
}

// TestErrorThatRepeats has the reads of one group fail again and again. The other group has its turn.
func TestErrorThatRepeats(t *testing.T) {
	h := openRunsOf(t, 2, false)
	h.write(t, 0, 1, 64)
	h.write(t, 1, 1, 64)
	failing := connOf(h.rx, 0)
	var fd int
	h.rx.m.update(func() { fd, failing.fd = failing.fd, -1 })
	defer h.rx.m.update(func() { failing.fd = fd })
	for reads := 1; ; reads++ {
		ms := []Message{{Buf: make([]byte, 100)}}
		_, err := h.rx.ReadBatch(ms)
		if err == nil && ms[0].Group == h.dsts[1].Addr() {
			return
		}
		if !errors.Is(err, unix.EBADF) || reads == 3 {
			t.Fatalf("read %d: %v", reads, err)
		}
	}
}

// TestCoalescedKeepsLateError: the same, where the datagrams before the error are what was left of runs.
func TestCoalescedKeepsLateError(t *testing.T) {
	h := openRuns(t, 1)
	const runs, each = groRuns, 10
	for range runs {
		h.write(t, 0, each, 64)
	}
	if n, _, err := h.rx.ReadFromUDPAddrPort(make([]byte, 100)); n != 64 || err != nil {
		t.Fatal(n, err)
	}
	if !h.rx.m.receiver.runs.more || h.rx.m.receiver.runs.datagrams() != runs*each-1 {
		t.Fatalf("%d datagrams are left of %d runs of %d", h.rx.m.receiver.runs.datagrams(), runs, each)
	}
	h.write(t, 0, 1, 64)
	h.write(t, 0, 1, 63)
	leaveError(t, connOf(h.rx, 0).fd)
	ms := make([]Message, runs*each)
	for i := range ms {
		ms[i].Buf = make([]byte, 100)
	}
	for left := runs*each - 1; left > 0; {
		n, err := h.rx.ReadBatch(ms)
		if err != nil {
			t.Fatalf("%v, before %d datagrams that came first", err, left)
		}
		left -= n
	}
	wantFault(t, h.rx, 0)
}

// TestRetiredKeepsError: what a socket has received is delivered although an error waits before it when its interface goes.
func TestRetiredKeepsError(t *testing.T) {
	forEachScript(t, func(t *testing.T, s *script) {
		s.open(s.home)
		s.send(s.tx)
		s.send(s.tx)
		leaveError(t, connOf(s.rx, 0).fd)
		unread := s.send(s.tx)
		awaitDelivered(t)
		s.play(list()) // the interface is gone
		s.rx.SetReadDeadline(time.Now().Add(slow.Limit(20 * time.Second)))
		buf := make([]byte, 100)
		if n, _, err := s.rx.ReadFromUDPAddrPort(buf); n != 0 || !errors.Is(err, unix.EFAULT) {
			t.Fatalf("read %q, %v; want the error", buf[:n], err)
		}
		if n, _, err := s.rx.ReadFromUDPAddrPort(buf); string(buf[:n]) != unread || err != nil {
			t.Fatalf("read %q, %v; want %q", buf[:n], err, unread)
		}
		s.wantNothing("after what was unread")
	})
}

// TestWriteBatchReturnsLateError: sendmmsg forgets the error of a datagram that is not the first, and the batch returns it
// all the same.
func TestWriteBatchReturnsLateError(t *testing.T) {
	h := openRunsOf(t, 1, false)
	faulty := unsafe.Slice(&unwritable(t)[0], 50) // the kernel cannot read it either
	ms := []Message{{Buf: make([]byte, 64)}, {Buf: make([]byte, 32)}, {Buf: faulty}, {Buf: make([]byte, 16)}}
	for i := range ms {
		ms[i].Addr = h.dsts[0]
	}
	if n, err := h.tx.WriteBatch(ms); n != 2 || !errors.Is(err, unix.EFAULT) {
		t.Errorf("wrote %d, %v; want 2 and EFAULT", n, err)
	}
	if n, err := h.tx.WriteBatch(ms[3:]); n != 1 || err != nil {
		t.Errorf("wrote %d, %v, after the error", n, err)
	}
	for _, want := range []int{64, 32, 16} {
		if n, _, err := h.rx.ReadFromUDPAddrPort(make([]byte, 100)); n != want || err != nil {
			t.Errorf("read %d bytes, %v; want %d", n, err, want)
		}
	}
}

// TestReadsWaitBesideErrorQueue: an error queue, which socket options such as IP_RECVERR and SO_TIMESTAMPING fill, keeps the socket ready
// for as long as nobody reads it (EPOLLERR, see datagram_poll in net/core/datagram.c). Reads wait all the same, and end.
func TestReadsWaitBesideErrorQueue(t *testing.T) {
	tx, err := OpenTx(TxConfig{Groups: groups("239.1.1.1"), Interfaces: interfaces(t, "lo"), Static: true})
	must(t, tx, err)
	defer tx.Close()
	lo := unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}
	fd := must2(unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0))
	must(t, fd, unix.Bind(fd, &lo))
	closed, err := unix.Getsockname(fd)
	must(t, closed, err)
	must(t, fd, unix.Close(fd))
	refuse := func(times int) {
		t.Helper()
		must(t, tx, control((*tx.links.Load())[0].to.raw, func(fd int) error {
			must(t, fd, unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_RECVERR, 1))
			for range times {
				for unix.Sendto(fd, []byte("to nobody"), 0, closed) == unix.ECONNREFUSED { // that of the one before
				}
			}
			return nil
		}))
	}
	buf := make([]byte, 100)
	for _, times := range []int{1, 3, 200} {
		refuse(times)
		tx.SetReadDeadline(time.Now().Add(slow.Limit(20 * time.Second)))
		if n, _, err := tx.ReadFromUDPAddrPort(buf); !errors.Is(err, unix.ECONNREFUSED) {
			t.Fatalf("read %q, %v; want the error of what was sent", buf[:n], err)
		}
		tx.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		if n, _, err := tx.ReadFromUDPAddrPort(buf); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("read %q, %v; want nothing", buf[:n], err)
		}
	}
	refuse(1)
	tx.SetReadDeadline(time.Now().Add(slow.Limit(20 * time.Second)))
	if _, _, err := tx.ReadFromUDPAddrPort(buf); !errors.Is(err, unix.ECONNREFUSED) {
		t.Fatalf("read returned %v", err)
	}
	to := tx.LocalAddr().(*net.UDPAddr).Port
	from, err := net.DialUDP("udp4", nil, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: to})
	must(t, from, err)
	defer from.Close()
	must(t, 0, errOf(from.Write([]byte("reply"))))
	if n, _, err := tx.ReadFromUDPAddrPort(buf); err != nil || string(buf[:n]) != "reply" {
		t.Fatalf("read %q, %v; want the reply", buf[:n], err)
	}
}
