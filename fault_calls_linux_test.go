//go:build (amd64 || arm64) && !mcast_portable

// What happens when Linux itself refuses: each system call that an operation makes is made to fail in turn, also those
// made within package net, golang.org/x/net and the runtime's poller, of which the hook that fault_test.go uses knows
// nothing. The kernel asks this process about each of them (seccomp(2), SECCOMP_RET_USER_NOTIF), so they are real ones.

package mcast

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/go-multicast/mcast/internal/testrun"
	"golang.org/x/sys/unix"

	"github.com/go-multicast/mcast/internal/slow"
)

// watchedCalls are the calls that are asked about: all that the operations make, but for those of memory and threads.
var watchedCalls = map[uint32]string{
	unix.SYS_SOCKET: "socket", unix.SYS_BIND: "bind", unix.SYS_CONNECT: "connect",
	unix.SYS_SETSOCKOPT: "setsockopt", unix.SYS_GETSOCKOPT: "getsockopt",
	unix.SYS_GETSOCKNAME: "getsockname", unix.SYS_GETPEERNAME: "getpeername",
	unix.SYS_EPOLL_CREATE1: "epoll_create1", unix.SYS_EPOLL_CTL: "epoll_ctl", unix.SYS_EPOLL_PWAIT: "epoll_pwait",
	unix.SYS_FCNTL: "fcntl", unix.SYS_DUP: "dup", unix.SYS_DUP3: "dup3", unix.SYS_CLOSE: "close",
	unix.SYS_OPENAT: "openat", unix.SYS_NEWFSTATAT: "newfstatat", unix.SYS_READ: "read", unix.SYS_READLINKAT: "readlinkat", unix.SYS_GETDENTS64: "getdents64",
	unix.SYS_SENDTO: "sendto", unix.SYS_SENDMSG: "sendmsg", unix.SYS_SENDMMSG: "sendmmsg",
	unix.SYS_RECVFROM: "recvfrom", unix.SYS_RECVMSG: "recvmsg", unix.SYS_RECVMMSG: "recvmmsg",
}

// errRefused is what they fail with. Nothing in the library knows it, so nothing treats it as a special case.
const errRefused = unix.EDOM

// watchedThread is a thread whose calls are counted, and of which one can be made to fail.
type watchedThread struct {
	work, done chan struct{}
	f          func()
	before     func(call string) // called before each of its calls; nil: nothing is
	left       atomic.Int64      // calls until the one that is to fail
	failed     atomic.Pointer[string]
}

// The structs of linux/seccomp.h.
type (
	seccompNotif struct {
		id         uint64
		pid, flags uint32
		number     int32
		arch       uint32
		ip         uint64
		args       [6]uint64
	}
	seccompAnswer struct {
		id    uint64
		value int64
		errno int32
		flags uint32
	}
)

func needSeccompAnswers(t *testing.T) {
	t.Helper()
	testrun.Since(t, 5, 19, "seccomp has no SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV")
}

// newWatchedThread starts one. It and its filter are gone when the test ends: a filter cannot be taken off a thread.
//
// While the thread waits for the answer to a call that the runtime does not know to block, the world cannot be stopped,
// and he who answers is part of the world. So there must be no garbage collection, and more than one processor.
func newWatchedThread(t *testing.T, before func(call string)) *watchedThread {
	needSeccompAnswers(t)
	t.Helper()
	withoutGC(t)
	procs := runtime.GOMAXPROCS(0)
	runtime.GOMAXPROCS(max(procs, 4))
	t.Cleanup(func() { runtime.GOMAXPROCS(procs) })

	w := &watchedThread{work: make(chan struct{}), done: make(chan struct{}), before: before}
	fds, ended := make(chan int), make(chan struct{})
	var failed error
	var run func()
	run = func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		if unix.Gettid() == unix.Getpid() {
			go run() // on another: the first thread does not end
			<-ended
			runtime.UnlockOSThread()
			return
		}
		defer close(ended)
		var fd int
		fd, failed = watchCalls()
		fds <- fd
		for range w.work {
			w.f()
			w.done <- struct{}{}
		}
	}
	go run()
	fd := <-fds
	if failed != nil {
		close(w.work)
		missing(t, fmt.Sprintf("seccomp's user notification (Linux 5.19): %v", failed))
	}
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		w.answer(t, fd)
	}()
	t.Cleanup(func() {
		close(w.work)
		<-ended
		<-answered
	})
	return w
}

// watchCalls has the kernel ask, by the descriptor returned, about the calls of this thread. Once a question was
// received, a signal does not make the kernel ask again, or the runtime's would confuse the count.
func watchCalls() (fd int, err error) {
	filter := []unix.SockFilter{{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0}} // the number of the call
	n := len(watchedCalls)
	for number := range watchedCalls {
		n--
		filter = append(filter, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: number, Jt: uint8(n + 1)})
	}
	filter = append(filter, unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_USER_NOTIF})
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if _, err := unix.PrctlRetInt(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return 0, os.NewSyscallError("prctl", err)
	}
	const flags = unix.SECCOMP_FILTER_FLAG_NEW_LISTENER | unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
	r, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&program)))
	if errno != 0 {
		return 0, os.NewSyscallError("seccomp", errno)
	}
	return int(r), nil
}

// answer answers the kernel until the thread is gone.
func (w *watchedThread) answer(t *testing.T, fd int) {
	defer unix.Close(fd)
	ioctl := func(request uintptr, arg unsafe.Pointer) unix.Errno {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(arg))
		return errno
	}
	for {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		_, err := unix.Poll(poll, -1)
		switch {
		case poll[0].Revents&unix.POLLHUP != 0:
			return // the thread is gone
		case err != nil || poll[0].Revents&unix.POLLIN == 0:
			continue
		}
		var q seccompNotif
		switch errno := ioctl(unix.SECCOMP_IOCTL_NOTIF_RECV, unsafe.Pointer(&q)); errno {
		case 0:
		case unix.EINTR, unix.ENOENT: // a signal came first
			continue
		default:
			t.Errorf("the kernel's question: %v", errno)
			return
		}
		a := seccompAnswer{id: q.id, flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE}
		name := watchedCalls[uint32(q.number)]
		if w.before != nil {
			w.before(name)
		}
		if w.left.Add(-1) == 0 {
			w.failed.Store(&name)
			a.errno, a.flags = -int32(errRefused), 0
			if name == "close" { // fails, but does what it should: the descriptor is gone in any case (close(2))
				unix.Close(int(q.args[0]))
			}
		}
		if errno := ioctl(unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(&a)); errno != 0 {
			t.Errorf("the answer: %v", errno)
			return
		}
	}
}

// do runs f on the thread, and makes its n-th call fail; with 0, none. It returns which call that was.
func (w *watchedThread) do(n int, f func()) (call string) {
	w.failed.Store(nil)
	w.left.Store(int64(n))
	w.f = f
	w.work <- struct{}{}
	<-w.done
	w.left.Store(0)
	if name := w.failed.Load(); name != nil {
		return *name
	}
	return ""
}

// realAttempt is an operation that must not leave anything behind, nor anything half done, when a call of it fails.
type realAttempt struct {
	kept  int // descriptors that may be left for the next time: Join's to reply with
	do    func() error
	works func()       // checks that all is there that the operation should have brought
	again func() error // what to do after an error; nil: the same again
	end   func()
}

// TestEveryRealCallFails makes each system call of each operation fail. Then either the operation must tell of it in an
// OpError that wraps the system's, leave nothing behind and succeed the next time; or it has done all that it should.
func TestEveryRealCallFails(t *testing.T) {
	two := interfaces(t, "mc0", "mc1")
	both, more := groups("239.1.1.1", "ff15::1234"), groups("239.1.1.2", "ff15::1235")
	moved := networkChange{Interfaces: two[1:]} // mc0 is another interface now
	moved.Interfaces[0].Name = "mc0"
	two = interfaces(t, "mc0", "mc1")

	tx, err := OpenTx(TxConfig{Groups: slices.Concat(both, more), Interfaces: two, Loopback: true, Static: true})
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Close()
	config := func(change func(*RxConfig)) RxConfig {
		cfg := RxConfig{Groups: both, Port: faultPort, Interfaces: two[:1], Loopback: true, Static: true}
		change(&cfg)
		return cfg
	}
	plain := func(*RxConfig) {}
	open := func(t *testing.T, change func(*RxConfig)) *RxSocket {
		t.Helper()
		s, err := OpenRx(config(change))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	openSender := func(t *testing.T, cfg TxConfig) *TxSocket {
		t.Helper()
		s, err := OpenTx(cfg)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	receives := func(t *testing.T, s *RxSocket) { t.Helper(); wantEachBy(t, tx, s) }

	opening := func(change func(*RxConfig)) func(*testing.T) realAttempt {
		return func(t *testing.T) realAttempt {
			var s *RxSocket
			logged := false
			cfg := config(change)
			cfg.Logger = slog.New(slog.NewTextHandler(writerFunc(func(b []byte) (int, error) {
				logged = logged || strings.Contains(string(b), "cannot follow")
				return len(b), nil
			}), nil))
			return realAttempt{
				do: func() (err error) { s, err = OpenRx(cfg); return err },
				works: func() {
					receives(t, s)
					s.logger.flush()
					processWatch.mu.Lock()
					defer processWatch.mu.Unlock()
					if follows := len(processWatch.shared) == 1; !cfg.Static && follows == logged {
						t.Errorf("it follows the network: %v, and logs that it cannot: %v", follows, logged)
					}
				},
				end: func() { s.Close() },
			}
		}
	}
	openingSender := func(cfg TxConfig) func(*testing.T) realAttempt {
		return func(t *testing.T) realAttempt {
			var s *TxSocket
			rx := open(t, func(cfg *RxConfig) { cfg.Interfaces = two })
			return realAttempt{
				do:    func() (err error) { s, err = OpenTx(cfg); return err },
				works: func() { wantEachBy(t, s, rx) },
				end:   func() { s.Close(); rx.Close() },
			}
		}
	}
	receiver := func(change func(*RxConfig), do func(*RxSocket) error, works func(*testing.T, *RxSocket)) func(*testing.T) realAttempt {
		return func(t *testing.T) realAttempt {
			s := open(t, change)
			return realAttempt{
				kept:  1,
				do:    func() error { return do(s) },
				works: func() { works(t, s) },
				end:   func() { s.Close() },
			}
		}
	}
	reading := func(change func(*RxConfig), read func(*RxSocket) error) func(*testing.T) realAttempt {
		return func(t *testing.T) realAttempt {
			s := open(t, change)
			s.SetReadDeadline(time.Now().Add(slow.Limit(20 * time.Second)))
			send(t, tx, both[0], "early")
			return realAttempt{
				do: func() error { return read(s) },
				works: func() {
					var owed error // of a call that came after the batch had its datagram: the next read would return it
					s.m.update(func() { owed = s.m.settle() })
					if owed != nil && !errors.Is(owed, errRefused) {
						t.Errorf("the next read would return %v", owed)
					}
					receives(t, s)
				},
				end: func() { s.Close() },
			}
		}
	}
	sender := func(do func(*TxSocket) error, works func(*testing.T, *TxSocket)) func(*testing.T) realAttempt {
		return func(t *testing.T) realAttempt {
			s := openSender(t, TxConfig{Groups: both, Interfaces: two[:1], Loopback: true, Static: true})
			return realAttempt{
				do: func() error { return do(s) },
				works: func() {
					if works != nil {
						works(t, s)
					}
				},
				end: func() { s.Close() },
			}
		}
	}
	asking := func(do func() error) func(*testing.T) realAttempt {
		return func(*testing.T) realAttempt { return realAttempt{do: do, works: func() {}, end: func() {}} }
	}

	for _, op := range []struct {
		name    string
		prepare func(t *testing.T) realAttempt
	}{
		{"OpenRx", opening(func(cfg *RxConfig) { cfg.Static = false })},
		{"OpenRx with everything", opening(func(cfg *RxConfig) {
			cfg.Interfaces, cfg.Coalesce, cfg.Timestamps, cfg.HopLimits, cfg.ReadBuffer = two, true, true, true, 1<<16
		})},
		{"OpenRx everywhere", opening(func(cfg *RxConfig) { cfg.Interfaces = nil })},
		{"OpenRx with sources", opening(func(cfg *RxConfig) {
			cfg.Groups, cfg.Sources = both[:1], append(sequence("10.1.0.1", 11), ownAddrs(two[0])[0])
		})},
		{"OpenRx with blocked", opening(func(cfg *RxConfig) { cfg.Blocked = groups("10.1.0.1", "fd00::1") })},
		{"Join", receiver(plain, func(s *RxSocket) error { return s.Join(more[0]) }, func(t *testing.T, s *RxSocket) {
			s.cfg.Groups = append(slices.Clip(both), more[0])
			receives(t, s)
		})},
		{"Join the other family", receiver(func(cfg *RxConfig) { cfg.Groups = both[:1] },
			func(s *RxSocket) error { return s.Join(both[1]) }, func(t *testing.T, s *RxSocket) {
				s.cfg.Groups = both
				receives(t, s)
			})},
		{"Join more sources", receiver(func(cfg *RxConfig) { cfg.Groups, cfg.Sources = both[:1], groups("10.1.0.1") },
			func(s *RxSocket) error {
				return s.Join(both[0], append(sequence("10.1.0.2", 11), ownAddrs(two[0])[0])...)
			}, receives)},
		{"Leave", func(t *testing.T) realAttempt {
			s := open(t, func(cfg *RxConfig) { cfg.Groups = slices.Concat(both, more) })
			left := func() {
				s.cfg.Groups = append(slices.Clip(both), more[1])
				send(t, tx, more[0], "left")
				receives(t, s)
			}
			return realAttempt{
				do:    func() error { return s.Leave(more[0]) },
				works: left,
				again: func() error { // it has left all the same
					if err := s.Leave(more[0]); !errors.Is(err, ErrNotJoined) {
						return fmt.Errorf("the second Leave: %v", err)
					}
					return nil
				},
				end: func() { s.Close() },
			}
		}},
		{"rejoin", receiver(plain, func(s *RxSocket) error {
			change := networkChange{Interfaces: two, Events: watchSeen(eventGone, two[0].Index)}
			s.prepare(change)
			return tryAgain(s.follow(change))
		}, receives)},
		{"join under a new index", receiver(plain, func(s *RxSocket) error { return tryAgain(s.follow(moved)) }, receives)},
		{"Close", func(t *testing.T) realAttempt {
			s := open(t, func(cfg *RxConfig) { cfg.Static = false })
			return realAttempt{do: s.Close, works: func() {
				if _, _, err := s.ReadFromUDPAddrPort(nil); !errors.Is(err, net.ErrClosed) {
					t.Errorf("a read after Close: %v", err)
				}
			}, end: func() {}}
		}},
		{"read", reading(func(cfg *RxConfig) { cfg.Groups = both[:1] }, func(s *RxSocket) error {
			_, _, err := s.ReadFromUDPAddrPort(nil)
			return err
		})},
		{"ReadBatch", reading(func(cfg *RxConfig) { cfg.Groups, cfg.HopLimits = both[:1], true }, func(s *RxSocket) error {
			_, err := s.ReadBatch(make([]Message, 2))
			return err
		})},
		{"reply", receiver(plain, func(s *RxSocket) error {
			_, err := s.WriteToUDPAddrPort([]byte("reply"), netip.AddrPortFrom(ownAddrs(two[0])[0], 9))
			return err
		}, receives)},
		{"OpenTx", openingSender(TxConfig{Groups: both, Interfaces: two, Port: faultPort + 1, TTL: 2, Loopback: true,
			TrafficClass: 0xb8, WriteBuffer: 1 << 16})},
		{"OpenTx by default", openingSender(TxConfig{Groups: both, Loopback: true, Static: true})},
		{"a sender's follow", sender(func(s *TxSocket) error { return tryAgain(s.follow(moved)) }, func(t *testing.T, s *TxSocket) {
			rx := open(t, func(cfg *RxConfig) { cfg.Interfaces = two[1:] })
			defer rx.Close()
			wantEachBy(t, s, rx)
		})},
		{"SetTTL", sender(func(s *TxSocket) error { return s.SetTTL(3) }, nil)},
		{"write", sender(func(s *TxSocket) error {
			_, err := s.WriteToUDPAddrPort([]byte("text"), netip.AddrPortFrom(both[0], faultPort))
			return err
		}, nil)},
		{"WriteBatch", sender(func(s *TxSocket) error {
			ms := slices.Repeat([]Message{{Buf: []byte("text"), Addr: netip.AddrPortFrom(both[0], faultPort)}}, 5)
			n, err := s.WriteBatch(ms)
			if (n == len(ms)) != (err == nil) {
				return fmt.Errorf("%d of %d were sent: %v", n, len(ms), err)
			}
			return err
		}, nil)},
		{"a sender's read", sender(func(s *TxSocket) error {
			s.SetReadDeadline(longAgo)
			if _, _, err := s.ReadFromUDPAddrPort(nil); !errors.Is(err, os.ErrDeadlineExceeded) {
				return err
			}
			return nil
		}, nil)},
		{"a sender's Close", sender((*TxSocket).Close, nil)},
		{"Interfaces", asking(func() error { _, err := Interfaces(); return err })},
		{"DefaultInterface", asking(func() error {
			_, err4 := DefaultInterface("ip4")
			_, err6 := DefaultInterface("ip6")
			return cmp.Or(err4, err6)
		})},
		{"WatchInterfaces", asking(func() error {
			for _, err := range WatchInterfaces(context.Background()) {
				return err
			}
			return errors.New("ended")
		})},
	} {
		t.Run(op.name, func(t *testing.T) { everyRealCallFails(t, op.prepare) })
	}
}

func everyRealCallFails(t *testing.T, prepare func(t *testing.T) realAttempt) {
	w := newWatchedThread(t, nil)
	var seen []string
	for n := 1; ; n++ {
		before := count(t)
		op := prepare(t)
		prepared := count(t)
		prepared.fds += op.kept
		var err error
		call := w.do(n, func() { err = op.do() })
		var failure *OpError
		switch {
		case err == nil || err == errAgain:
		case call == "":
			t.Fatalf("with no call failing: %v", err)
		case !errors.As(err, &failure) || !errors.Is(err, errRefused) && !swallowed(err):
			t.Errorf("call %d, %s: error %v, want an OpError of %v", n, call, err, errRefused)
		}
		if err != nil {
			wantResources(t, prepared)
			again := op.do
			if op.again != nil {
				again = op.again
			}
			if err := again(); err != nil {
				t.Errorf("the next time: %v", err)
			}
		}
		op.works()
		op.end()
		wantResources(t, before)
		if t.Failed() {
			t.Fatalf("at call %d, %s, whose error was %v; before it %v", n, call, err, seen)
		}
		if call == "" {
			t.Logf("%d calls: %v", len(seen), seen)
			if len(seen) == 0 {
				t.Error("none was seen")
			}
			return
		}
		seen = append(seen, call)
	}
}

// swallowed reports whether an error is what the runtime or package net says in the place of the system's: that it
// cannot watch a descriptor, and that a socket, of which it could not ask the address, is of no known kind.
func swallowed(err error) bool {
	return errors.Is(err, os.ErrNoDeadline) || errors.Is(err, unix.EPROTONOSUPPORT)
}

// errAgain says that a follower asks to be called again.
var errAgain = errors.New("to be tried again")

func tryAgain(again time.Duration) error {
	if again > 0 {
		return errAgain
	}
	return nil
}

func send(t *testing.T, tx *TxSocket, group netip.Addr, text string) {
	t.Helper()
	if _, err := tx.WriteToUDPAddrPort([]byte(text), netip.AddrPortFrom(group, faultPort)); err != nil {
		t.Fatal(err)
	}
}

// wantEachBy sends twice to each group of a receiver, which must have it once by each pair of group and interface that
// is joined and sent by. What came more often would be there before the last.
func wantEachBy(t *testing.T, tx *TxSocket, rx *RxSocket) {
	t.Helper()
	for _, text := range []string{"first", "last"} {
		for _, g := range rx.cfg.Groups {
			send(t, tx, g, text)
		}
	}
	type arrival struct {
		text    string
		group   netip.Addr
		ifIndex int
	}
	got := make(map[arrival]bool)
	rx.SetReadDeadline(time.Now().Add(slow.Limit(20 * time.Second)))
	ms := []Message{{Buf: make([]byte, 10)}}
	want := 0
	for _, m := range rx.Memberships() {
		if m.Joined && slices.ContainsFunc(tx.Interfaces(), func(ifc Interface) bool { return ifc.Index == m.IfIndex }) {
			want += 2
		} else if !m.Joined && !errors.Is(m.Err, errRefused) {
			t.Fatalf("%+v", m)
		}
	}
	for len(got) < want || want == 0 {
		if _, err := rx.ReadBatch(ms); err != nil {
			t.Fatalf("%v, after %d of %d", err, len(got), want)
		}
		a := arrival{string(ms[0].Buf[:ms[0].N]), ms[0].Group, ms[0].IfIndex}
		if got[a] {
			t.Fatalf("%+v came twice", a)
		}
		got[a] = true
	}
}
