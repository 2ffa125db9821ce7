// The kernel's notices.

package rtnl

import (
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Listener is a socket that receives notices of rtnetlink(7), from the network namespace of the thread that opened it.
type Listener struct {
	file    *os.File // a non-blocking socket: Go's poller waits for it, and Close ends Receive
	raw     syscall.RawConn
	buf     []byte
	overrun bool // notices were lost, and Receive has not seen the buffer empty since; for Receive only
}

// Listen opens a socket that receives the notices of groups, a set of unix.RTMGRP_*. It also receives the notices of
// the groups in filtered, if the kernel accepts the filter, a program of classic BPF. Some sandboxes accept no filter.
func Listen(groups, filtered uint32, filter []unix.SockFilter) (*Listener, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	// Room for a burst: a notice of a link takes some 2 KiB. The kernel grants net.core.rmem_max at most.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 1<<20)
	program := &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, program) == nil {
		groups |= filtered
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("bind", err)
	}
	l := &Listener{file: os.NewFile(uintptr(fd), "rtnetlink"), buf: make([]byte, 32<<10)}
	// NewFile does not report that the poller cannot wait for the file, for lack of memory or because of the limit
	// fs.epoll.max_user_watches. SetReadDeadline does (os.ErrNoDeadline).
	err = os.NewSyscallError("epoll_ctl", l.file.SetReadDeadline(time.Time{}))
	if err == nil {
		l.raw, err = l.file.SyscallConn()
	}
	if err != nil {
		l.file.Close()
		return nil, err
	}
	return l, nil
}

// Close closes the socket. A blocked Receive returns an error.
func (l *Listener) Close() error { return l.file.Close() }

// SyscallConn returns the socket, for options.
func (l *Listener) SyscallConn() syscall.RawConn { return l.raw }

// Receive waits for notices, and returns them for [Messages]. They are valid until the next call. Only one goroutine
// may call it at a time. If lost is true, notices may be missing before or after these.
//
// When the kernel has lost a notice for lack of room, it returns ENOBUFS once. From then on it drops all others
// silently until the buffer has been read empty (netlink_overrun and netlink_rcv_wake in net/netlink/af_netlink.c). So
// more may be missing until then, and Receive reports a loss once more when it has read the buffer empty.
func (l *Listener) Receive() (notices []byte, lost bool, err error) {
	for {
		var n int
		var from unix.Sockaddr
		var readErr error
		err := l.raw.Read(func(fd uintptr) bool {
			readErr = retry(func() (err error) {
				n, from, err = unix.Recvfrom(int(fd), l.buf, unix.MSG_TRUNC) // MSG_TRUNC: n is the true length
				return err
			})
			return readErr != unix.EAGAIN || l.overrun
		})
		switch {
		case err != nil:
			return nil, false, err // closed
		case readErr == unix.EAGAIN:
			l.overrun = false
			return nil, true, nil
		case readErr == unix.ENOBUFS:
			l.overrun = true
		case readErr != nil:
			return nil, false, os.NewSyscallError("recvfrom", readErr)
		case !fromKernel(from):
		case n > len(l.buf):
			return nil, true, nil
		default:
			return l.buf[:n], l.overrun, nil
		}
	}
}
