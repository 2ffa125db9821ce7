// This file makes network namespaces and runs functions in them. A namespace belongs to a thread, not to a goroutine. A
// thread that has entered another namespace must never run another goroutine again, so it ends.

package mcasttest

import (
	"errors"
	"os"
	"runtime"
	"sync"

	"github.com/go-multicast/mcast/internal/rtnl"
	"golang.org/x/sys/unix"
)

// netns is a network namespace: a whole network stack, with a connection to configure it.
type netns struct {
	fd int        // keeps it alive
	mu sync.Mutex // held during a request: any goroutine may send one
	nl *rtnl.Conn
}

// newNetns makes a namespace in which lo is up.
func newNetns() (*netns, error) {
	n, err := makeNetns(func() error { return os.NewSyscallError("unshare(CLONE_NEWNET)", unix.Unshare(unix.CLONE_NEWNET)) })
	if err != nil {
		return nil, err
	}
	if err := n.setLoopback(); err != nil {
		n.close()
		return nil, err
	}
	return n, nil
}

// hereNetns returns the namespace that this process runs in.
func hereNetns() (*netns, error) {
	return makeNetns(func() error { return nil })
}

// makeNetns returns a handle of the namespace that a thread is in after it has called enter.
func makeNetns(enter func() error) (n *netns, err error) {
	onThread(func() {
		if err = enter(); err != nil {
			return
		}
		fd, e := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if e != nil {
			err = &os.PathError{Op: "open", Path: "/proc/thread-self/ns/net", Err: e}
			return
		}
		nl, e := rtnl.Dial(unix.NETLINK_ROUTE)
		if e != nil {
			unix.Close(fd)
			err = e
			return
		}
		n = &netns{fd: fd, nl: nl}
	})
	return n, err
}

// close releases the namespace. The kernel destroys it, with its interfaces and the far ends of their cables, when also
// no socket in it is open any more.
func (n *netns) close() error {
	return errors.Join(n.nl.Close(), unix.Close(n.fd))
}

// run calls fn on a thread in the namespace and waits for it.
func (n *netns) run(fn func()) (err error) {
	onThread(func() {
		if err = os.NewSyscallError("setns", unix.Setns(n.fd, unix.CLONE_NEWNET)); err == nil {
			fn()
		}
	})
	return err
}

// onThread calls fn on a new thread, which ends afterwards, and waits. The process's first thread cannot end, and
// /proc/self shows it, so it must stay as it is. If the goroutine happens to run on that thread, onThread takes the
// next one.
func onThread(fn func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			onThread(fn)
			runtime.UnlockOSThread()
			return
		}
		fn() // never unlocked: the thread ends with the goroutine
	}()
	<-done
}
