//go:build !linux || mcast_portable

// Sending where nothing sends many datagrams at once, or where that is not worth it: one at a time, through package
// net.

package mcast

import (
	"net"
	"net/netip"
	"syscall"

	"github.com/go-multicast/mcast/internal/wire"
)

// sender writes to one OS socket without allocating. Its methods may be called concurrently.
type sender struct {
	conn     *net.UDPConn
	raw      syscall.RawConn
	loopback bool // it sends by the loopback interface
	scoped   wire.ScopedSender
}

// newSender makes a sender of conn, which sends by ifc; nil: by any interface.
func newSender(conn *net.UDPConn, ifc *Interface) (*sender, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	return &sender{conn: conn, raw: raw, loopback: ifc != nil && ifc.IsLoopback()}, nil
}

// send sends one datagram and waits while there is no room for it. The scope is the interface to a link-local host.
// To a group it plays no part: the socket was directed to its interface.
func (s *sender) send(p []byte, dst netip.AddrPort, scope int) error {
	ip := dst.Addr().WithZone("")
	dst = netip.AddrPortFrom(ip, dst.Port())
	var err error
	if scope != 0 && ip.Is6() && ip.IsLinkLocalUnicast() {
		// Package net would look for an interface of the zone's name, each time, before it takes it for a number.
		err = s.scoped.Send(s.raw, p, dst, scope)
	} else {
		_, err = s.conn.WriteToUDPAddrPort(p, dst)
	}
	if err == nil || isNoReceiver(err, s.loopback, ip) {
		return nil
	}
	return systemError("sendto", err)
}

// reroute is called when the sender's interface has another MTU, or is another one.
func (s *sender) reroute() {}

// sendBatch sends ms, all of the socket's family, and returns how many of them went out.
func (s *sender) sendBatch(ms []Message, scope int) (n int, err error) {
	for n = range ms {
		dst := ms[n].Addr
		if err := s.send(ms[n].Buf, netip.AddrPortFrom(dst.Addr().Unmap(), dst.Port()), scope); err != nil {
			return n, err
		}
	}
	return len(ms), nil
}
