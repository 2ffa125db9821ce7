//go:build !linux || mcast_portable

// Sending on systems that have no call to send many datagrams, or where such a call is not worth it: one at a time,
// through package net.

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
	loopback bool // it sends on the loopback interface
	scoped   wire.ScopedSender
}

// newSender returns a sender for conn, which sends on ifc, or on any interface if ifc is nil.
func newSender(conn *net.UDPConn, ifc *Interface) (*sender, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	return &sender{conn: conn, raw: raw, loopback: ifc != nil && ifc.IsLoopback()}, nil
}

// send sends one datagram and waits while there is no room for it. The scope is the interface for a link-local host. It
// does not apply to a group: the socket was directed to its interface.
func (s *sender) send(p []byte, dst netip.AddrPort, scope int) error {
	ip := dst.Addr().WithZone("")
	dst = netip.AddrPortFrom(ip, dst.Port())
	var err error
	if scope != 0 && ip.Is6() && ip.IsLinkLocalUnicast() {
		// Each time, package net would look for an interface named like the zone, before it takes the zone for a
		// number.
		err = s.scoped.Send(s.raw, p, dst, scope)
	} else {
		_, err = s.conn.WriteToUDPAddrPort(p, dst)
	}
	if err == nil || isNoReceiver(err, s.loopback, ip) {
		return nil
	}
	return systemError("sendto", err)
}

// reroute is called when the MTU of the sender's interface changes, or when the sender gets another interface.
func (s *sender) reroute() {}

// sendBatch sends ms, all of the socket's family, and returns how many of them were sent.
func (s *sender) sendBatch(ms []Message, scope int) (n int, err error) {
	for n = range ms {
		dst := ms[n].Addr
		if err := s.send(ms[n].Buf, netip.AddrPortFrom(dst.Addr().Unmap(), dst.Port()), scope); err != nil {
			return n, err
		}
	}
	return len(ms), nil
}
