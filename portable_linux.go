//go:build mcast_portable

// What the merge of the other systems needs on Linux, where it is tested.

package mcast

import (
	"errors"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// canCoalesce is false, since this merge does not split runs.
const canCoalesce = false

// listen prepares c, whose descriptor is open, for add. The runtime gets a duplicate of the descriptor.
func (c *conn) listen() error {
	fd, err := unix.FcntlInt(uintptr(c.fd), unix.F_DUPFD_CLOEXEC, 0) // for the file, which closes its own
	if err != nil {
		return os.NewSyscallError("fcntl", err)
	}
	file := os.NewFile(uintptr(fd), "mcast")
	defer file.Close()
	udp, err := fileConn(file)
	if err != nil {
		return err
	}
	c.in = newInbox(udp, c.group, c.checkIf)
	closeFD := c.release
	c.release = func() error { return errors.Join(udp.Close(), closeFD()) }
	return nil
}

// replyConn returns a conn for the reading side of a sender's socket. The socket still belongs to the sender.
func replyConn(to *sender, _ bool) (*conn, error) {
	c := &conn{schedState: schedState{in: newInbox(to.conn, netip.Addr{}, false)}}
	c.release = func() error { return to.conn.SetReadDeadline(longAgo) }
	return c, control(to.raw, func(fd int) error {
		c.fd = fd
		unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1) // for IPv6 only, for the zone
		return nil
	})
}

func isTruncation(error) bool                   { return false }
func isHarmless(error) bool                     { return false }
func isNoReceiver(error, bool, netip.Addr) bool { return false }
