// Waiting for lo. A datagram to this host itself is mostly in the socket when the call that sends it returns, but not
// always.

package mcast

import (
	"encoding/binary"
	"os"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/go-multicast/mcast/internal/slow"
)

// awaitDelivered waits until the kernel has given to the sockets what this process has sent over lo. Each processor has a
// queue for that, in order. Under load the kernel leaves the queue to ksoftirqd (enqueue_to_backlog and process_backlog in
// net/core/dev.c). So a datagram that was sent on each processor, and has come back, comes after all others.
func awaitDelivered(t testing.TB) {
	t.Helper()
	if err := echoOnAll(); err != nil {
		t.Fatal(err)
	}
}

func echoOnAll() error {
	fd, err := echoSocket()
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var all unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		return os.NewSyscallError("sched_getaffinity", err)
	}
	defer unix.SchedSetaffinity(0, &all)
	for cpu := range 1024 { // as many as a CPUSet has
		if !all.IsSet(cpu) {
			continue
		}
		var one unix.CPUSet
		one.Set(cpu)
		if err := unix.SchedSetaffinity(0, &one); err != nil {
			return os.NewSyscallError("sched_setaffinity", err)
		}
		if err := echoOnce(fd, uint32(cpu)); err != nil {
			return err
		}
	}
	return nil
}

// onOneProcessor calls f on one processor. Datagrams of a sender that moves from one to another can overtake each other.
func onOneProcessor(t testing.TB, f func()) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var all, one unix.CPUSet
	must(t, 0, unix.SchedGetaffinity(0, &all))
	for cpu := range 1024 {
		if all.IsSet(cpu) {
			one.Set(cpu)
			break
		}
	}
	must(t, 0, unix.SchedSetaffinity(0, &one))
	defer unix.SchedSetaffinity(0, &all)
	f()
}

// echoSocket opens a socket that sends to itself. Its reads fail with EAGAIN after a second.
func echoSocket() (fd int, err error) {
	if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	var self unix.Sockaddr
	err = unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}})
	if err == nil {
		self, err = unix.Getsockname(fd)
	}
	if err == nil {
		err = unix.Connect(fd, self)
	}
	if err == nil {
		second := unix.NsecToTimeval(int64(time.Second))
		err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &second)
	}
	if err != nil {
		unix.Close(fd)
		return -1, os.NewSyscallError("echo", err)
	}
	return fd, nil
}

// echoOnce sends a number and receives it. It sends again what was dropped because the queue was full.
func echoOnce(fd int, number uint32) error {
	sent, received := binary.NativeEndian.AppendUint32(nil, number), make([]byte, 8)
	err := error(unix.EAGAIN)
	for end := time.Now().Add(slow.Limit(20 * time.Second)); err != nil && time.Now().Before(end); {
		if _, err = unix.Write(fd, sent); err != nil {
			continue
		}
		for err == nil || err == unix.EINTR {
			var n int
			if n, err = unix.Read(fd, received); err == nil && n == len(sent) && binary.NativeEndian.Uint32(received) == number {
				return nil
			}
		}
	}
	return os.NewSyscallError("echo", err)
}
