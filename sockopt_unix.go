//go:build linux || darwin

// Socket options and errors that Linux and macOS share.

package mcast

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// control runs f on the descriptor of rc.
func control(rc syscall.RawConn, f func(fd int) error) (err error) {
	if cerr := rc.Control(func(fd uintptr) { err = f(int(fd)) }); cerr != nil {
		return cerr
	}
	return err
}

// fileConn returns a UDPConn with a duplicate of a descriptor.
func fileConn(file *os.File) (udp *net.UDPConn, err error) {
	err = syscallErr("dup", func() error {
		pc, err := net.FilePacketConn(file)
		if wrapped := (*net.OpError)(nil); errors.As(err, &wrapped) {
			return wrapped.Err // without "file file+net" and the name of the file
		}
		if err == nil {
			udp = pc.(*net.UDPConn)
		}
		return err
	})
	return udp, err
}

// joinsWithoutIPv4: an IPv4 group can be joined by the interface's index alone, before the interface has an address.
const joinsWithoutIPv4 = true

// isExhausted reports whether the system lacks a resource, so that the operation could succeed with more of it.
func isExhausted(err error) bool {
	switch errnoOf(err) {
	case unix.EMFILE, unix.ENFILE, unix.ENOMEM, unix.ENOBUFS:
		return true
	}
	return false
}

// filesHint returns the hint for a process, or a system, that has no file descriptor left.
func filesHint() string {
	const what = "each membership of a receiver needs a file descriptor, and each interface and family of a sender"
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return what + ": raise the limit (ulimit -n)"
	}
	return fmt.Sprintf("%s; the limit is %d: raise it (ulimit -n)", what, uint64(limit.Cur))
}
