// The watcher for macOS: a routing socket, route(4), and a scan at intervals.
//
// The kernel reports when an interface goes up or down or gets another MTU, and when it gets or loses an address
// (bsd/net/rtsock.c in Apple's xnu). It does not report an interface that is attached and not up yet, or that is
// detached and not up any more. Nor does it report a change of carrier or MAC address. Without room for a message, it
// drops the message and does not report that either (raw_input in bsd/net/raw_usrreq.c). Hence the scan at intervals.
//
// It does not report a second IPv4 address in the subnet of a first one either. The scan at intervals finds that.
//
// An interface that is detached goes down first, and the kernel reports that. If the interface returns, the kernel
// restores its memberships only if it has the same unique id and the same index (dlil_if_acquire and ifnet_attach in
// bsd/net/dlil.c, igmp_domifreattach in bsd/netinet/igmp.c). So memberships are renewed on an interface that was down,
// and there is no eventGone. A small MTU takes no memberships away (nd6_setmtu in bsd/netinet6/nd6.c).

package mcast

import (
	"errors"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// watchAnyway is the time without a notice after which the interfaces are scanned.
const watchAnyway = 10 * time.Second

// watchRoute is a watchSource.
type watchRoute struct {
	file *os.File // a non-blocking socket, so that Go's poller waits for it and closing it ends the wait
	buf  []byte
}

var _ watchSource = (*watchRoute)(nil)

// watchOpen returns the watcher for the host's network.
func watchOpen() (watchSource, error) {
	fd, err := watchSocket()
	if err != nil {
		return nil, &OpError{Op: "watch", Err: err}
	}
	// Room for a burst. It includes messages about routes, which cannot be filtered out. The default is 8 KiB. If the
	// size is refused, the scan at intervals makes up for lost messages.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 1<<20)
	file := os.NewFile(uintptr(fd), "route")
	if err := file.SetReadDeadline(time.Time{}); err != nil { // NewFile does not report that kqueue refuses it
		file.Close()
		return nil, &OpError{Op: "watch", Err: os.NewSyscallError("kevent", err)}
	}
	return &watchRoute{file: file, buf: make([]byte, 2<<10)}, nil
}

// watchSocket returns a non-blocking routing socket for all families. No child process inherits it.
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

// wait returns after the next message that calls for a scan, or after watchAnyway.
//
// A read takes one message, and its type is sufficient. route.ParseRIB is of no use here. It skips an RTM_IFINFO
// without the interface's name, and on a socket the name is missing. It also fails on some messages about routes
// (golang.org/issue/74856).
func (w *watchRoute) wait() (watchNotice, error) {
	if err := w.file.SetReadDeadline(time.Now().Add(watchAnyway)); err != nil {
		return watchNotice{}, err // closed
	}
	for {
		n, err := w.file.Read(w.buf)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return watchNotice{routes: true}, nil // changes of the default route are not reported
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
