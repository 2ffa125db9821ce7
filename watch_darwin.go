// The ear on macOS's network: a routing socket, route(4), and a look now and then.
//
// The kernel tells when an interface goes up or down or gets another MTU, and when it gets or loses an address
// (bsd/net/rtsock.c in Apple's xnu). It says nothing when an interface is attached that is not up yet, or detached that is
// not up any more, nor when carrier or MAC address change; and where there is no room for a message, it drops it and keeps
// silent about that too (raw_input in bsd/net/raw_usrreq.c). Hence the look now and then.
//
// It says nothing either of a second IPv4 address in the subnet of a first one. That shows at the look now and then.
//
// An interface that is detached goes down first, of which there is a notice. If it comes back, the kernel takes up its
// memberships only if it has the same unique id and the same index (dlil_if_acquire and ifnet_attach in bsd/net/dlil.c,
// igmp_domifreattach in bsd/netinet/igmp.c). So memberships are renewed on an interface that was down, and there is
// no eventGone. A small MTU takes no memberships away (nd6_setmtu in bsd/netinet6/nd6.c).

package mcast

import (
	"errors"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// watchAnyway is after how long without a notice the interfaces are looked at all the same.
const watchAnyway = 10 * time.Second

// watchRoute is a watchSource.
type watchRoute struct {
	file *os.File // a non-blocking socket, so that Go's poller waits for it and closing it ends the wait
	buf  []byte
}

var _ watchSource = (*watchRoute)(nil)

// watchOpen returns the ear on the host's network.
func watchOpen() (watchSource, error) {
	fd, err := watchSocket()
	if err != nil {
		return nil, &OpError{Op: "watch", Err: err}
	}
	// Room for a burst, also of messages about routes, which cannot be declined: the default is 8 KiB. If it is refused, the
	// look now and then makes up for what is lost.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 1<<20)
	file := os.NewFile(uintptr(fd), "route")
	if err := file.SetReadDeadline(time.Time{}); err != nil { // NewFile tells nobody that kqueue refuses it
		file.Close()
		return nil, &OpError{Op: "watch", Err: os.NewSyscallError("kevent", err)}
	}
	return &watchRoute{file: file, buf: make([]byte, 2<<10)}, nil
}

// watchSocket returns a routing socket for all families, which does not block and which no child process inherits.
func watchSocket() (fd int, err error) {
	syscall.ForkLock.RLock() // macOS cannot make a socket that is closed on exec from the beginning
	fd, err = unix.Socket(unix.AF_ROUTE, unix.SOCK_RAW, unix.AF_UNSPEC)
	if err == nil {
		unix.CloseOnExec(fd)
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return -1, os.NewSyscallError("setnonblock", err)
	}
	return fd, nil
}

func (w *watchRoute) scan() ([]Interface, error) { return ifaceScan() }

func (w *watchRoute) close() { w.file.Close() }

// wait returns after the next message that calls for a scan, or when it is time for one anyway.
//
// A read takes one message. Its type says enough, and route.ParseRIB is of no use here: it passes over an RTM_IFINFO that
// lacks the interface's name, as it does on a socket, and fails on some messages about routes (golang.org/issue/74856).
func (w *watchRoute) wait() (watchNotice, error) {
	if err := w.file.SetReadDeadline(time.Now().Add(watchAnyway)); err != nil {
		return watchNotice{}, err // closed
	}
	for {
		n, err := w.file.Read(w.buf)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return watchNotice{routes: true}, nil // it is not told
		case err != nil:
			return watchNotice{}, err
		case bsdCallsForScan(w.buf[:n]):
			notice := watchNotice{routes: true} // changes of the default route are not reported
			if index, down := bsdDown(w.buf[:n]); down {
				notice.note(index, eventDown)
			}
			return notice, nil
		}
	}
}
