// The socket options of macOS. What golang.org/x/net can set is set through it, which others test on Macs. Pairs are in
// pair_darwin.go, errors in hints_darwin.go.

package mcast

import (
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// osSocket is the OS socket of a conn.
type osSocket struct {
	members members
}

// errSystem is nil on systems with sockets.
var errSystem error

// replyEarly: a socket that is bound to a group cannot send (EADDRNOTAVAIL, EOPNOTSUPP). One that can may receive
// unicast for another program on the port, so it is opened when it is needed.
const replyEarly = false

// leastWriteBuffer lets the largest datagram through. The default, net.inet.udp.maxdgram, is 9216.
const leastWriteBuffer = 65535

// downLoses: an interface that is detached and returns has its memberships only if it has the same record in the
// kernel; see watch_darwin.go.
const downLoses = true

// hasTrafficClass6: IPV6_TCLASS can be set.
const hasTrafficClass6 = true

func openSocket(family netip.Addr) (fd int, err error) {
	domain := unix.AF_INET6
	if family.Is4() {
		domain = unix.AF_INET
	}
	syscall.ForkLock.RLock() // there is no SOCK_CLOEXEC
	defer syscall.ForkLock.RUnlock()
	if fd, err = unix.Socket(domain, unix.SOCK_DGRAM, 0); err == nil {
		unix.CloseOnExec(fd)
	}
	return fd, err
}

// setShared sets what every socket of this library needs before bind.
func setShared(rc syscall.RawConn, v4, share, _ bool) error {
	return control(rc, func(fd int) error { return setSharedFD(fd, v4, share) })
}

// setSharedFD sets these options on a descriptor. The kernel passes a datagram to further sockets only from a socket
// that allows sharing. An IPv6 socket that never had a multicast option set receives every group of its port.
func setSharedFD(fd int, v4, share bool) error {
	type option struct{ level, name, value int }
	var options []option
	if share {
		options = append(options, option{unix.SOL_SOCKET, unix.SO_REUSEADDR, 1}, option{unix.SOL_SOCKET, unix.SO_REUSEPORT, 1})
	}
	if v4 {
		options = append(options, option{unix.SOL_SOCKET, unix.SO_BROADCAST, 0}) // package net sets it
	} else {
		options = append(options, option{unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1}, option{unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, 1})
	}
	for _, o := range options {
		if err := unix.SetsockoptInt(fd, o.level, o.name, o.value); err != nil {
			return err
		}
	}
	return nil
}

// sockaddr returns addr as a unix.Sockaddr. Only link-local groups have a scope.
func sockaddr(addr netip.AddrPort, ifIndex int) unix.Sockaddr {
	a := addr.Addr()
	if a.Is4() {
		return &unix.SockaddrInet4{Port: int(addr.Port()), Addr: a.As4()}
	}
	if !a.IsLinkLocalMulticast() && !a.IsInterfaceLocalMulticast() {
		ifIndex = 0
	}
	return &unix.SockaddrInet6{Port: int(addr.Port()), Addr: a.As16(), ZoneId: uint32(ifIndex)}
}

// setReceiveOptions requests control messages and sets the receive buffer.
func setReceiveOptions(udp *net.UDPConn, family netip.Addr, cfg *RxConfig) error {
	if err := syscallErr("setsockopt", func() error { return requestPktinfo(udp, family, cfg.HopLimits) }); err != nil {
		return err
	}
	if cfg.Timestamps {
		if err := syscallErr("setsockopt SO_TIMESTAMP", func() error {
			return controlUDP(udp, func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMP, 1) })
		}); err != nil {
			return err
		}
	}
	if cfg.ReadBuffer > 0 {
		return syscallErr("setsockopt SO_RCVBUF", func() error { return udp.SetReadBuffer(cfg.ReadBuffer) })
	}
	return nil
}

// requestPktinfo requests control messages with the interface and, optionally, the hop limit.
func requestPktinfo(udp *net.UDPConn, family netip.Addr, hopLimit bool) error {
	if family.Is4() {
		flags := ipv4.FlagInterface
		if hopLimit {
			flags |= ipv4.FlagTTL
		}
		return ipv4.NewPacketConn(udp).SetControlMessage(flags, true)
	}
	flags := ipv6.FlagInterface
	if hopLimit {
		flags |= ipv6.FlagHopLimit
	}
	return ipv6.NewPacketConn(udp).SetControlMessage(flags, true)
}

// listenReply opens a socket that sends from port and joins nothing.
func listenReply(group netip.Addr, port uint16) (*net.UDPConn, error) {
	udp, err := listenUDP(anyAddr(group.Is4(), port), true, 0)
	if err != nil {
		return nil, err
	}
	if err := syscallErr("setsockopt SO_SNDBUF", func() error { return udp.SetWriteBuffer(leastWriteBuffer) }); err != nil {
		udp.Close()
		return nil, err
	}
	return udp, nil
}

// replyConn returns a conn for the replies on a sender's socket. The socket stays the sender's.
func replyConn(to *sender, v4 bool) (*conn, error) {
	c := &conn{schedState: schedState{in: newInbox(to.conn, netip.Addr{}, false)}}
	c.release = func() error { return to.conn.SetReadDeadline(longAgo) }
	// Packet information has the zone, and marks datagrams to 224.0.0.1, which need no membership.
	return c, syscallErr("setsockopt", func() error { return requestPktinfo(to.conn, anyAddr(v4, 0).Addr(), false) })
}

func controlUDP(udp *net.UDPConn, f func(fd int) error) error {
	raw, err := udp.SyscallConn()
	if err != nil {
		return err
	}
	return control(raw, f)
}

// setMulticastInterface makes a sender send its multicast on ifc.
func setMulticastInterface(to *sender, v4 bool, ifc *Interface) error {
	if v4 {
		return withoutName(ipv4.NewPacketConn(to.conn).SetMulticastInterface(&net.Interface{Index: ifc.Index}))
	}
	return controlUDP(to.conn, func(fd int) error { return setInterface6(fd, ifc.Index) })
}

// setInterface6 makes a socket send its IPv6 multicast on an interface. IPV6_MULTICAST_IF alone holds for groups of
// interface-local and link-local scope. For wider scopes the kernel looks up a route, and finds that of the interface
// only if IPV6_BOUND_IF scopes the lookup (selectroute in bsd/netinet6/in6_src.c). IPV6_BOUND_IF needs no privilege,
// can be changed, and does not restrict what the socket receives.
func setInterface6(fd, index int) error {
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_IF, index); err != nil {
		return err
	}
	return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_BOUND_IF, index)
}

// probeSource asks, without sending, for the address that the interface sends to group from. For IPv4 that is its first
// one (ip_output). For IPv6, in6_selectsrc returns EADDRNOTAVAIL while every address is in duplicate address detection.
// That is rare: the kernel uses a new address during the detection (Optimistic DAD, RFC 4429), unless
// net.inet6.icmp6.nd6_optimistic_dad is 0.
func probeSource(ifc *Interface, group netip.Addr) (source netip.Addr, err error) {
	if group.Is4() {
		if len(ifc.IPv4) == 0 {
			return source, unix.ENETUNREACH
		}
		return ifc.IPv4[0].Addr(), nil
	}
	fd, err := probeSocket(ifc)
	if err != nil {
		return source, err
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, sockaddr(netip.AddrPortFrom(group, 9), ifc.Index)); err != nil {
		return source, err
	}
	local, err := unix.Getsockname(fd)
	if local, ok := local.(*unix.SockaddrInet6); ok {
		source = netip.AddrFrom16(local.Addr)
	}
	return source, err
}

// probeSocket opens an IPv6 socket that sends as a sender on ifc does.
func probeSocket(ifc *Interface) (fd int, err error) {
	if fd, err = openSocket(netip.IPv6Unspecified()); err != nil {
		return -1, err
	}
	if err := setInterface6(fd, ifc.Index); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// stats returns the size of the receive buffer. The kernel counts drops for all sockets together.
func (c *conn) stats() (readBuffer int) {
	_ = controlUDP(c.in.udp, func(fd int) (err error) {
		readBuffer, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF)
		return err
	})
	return readBuffer
}

// leaveReusePortGroup: there is no second attempt.
func leaveReusePortGroup(*net.UDPConn, int) error { return nil }

// bindSender: there are no VRFs.
func bindSender(syscall.RawConn, int) (bound bool, err error) { return false, nil }

// setWriteBuffer sets the size of a sender's buffer. What the kernel does not grant it refuses.
func setWriteBuffer(to *sender, size int) (granted int, err error) {
	return size, to.conn.SetWriteBuffer(size)
}

// ipv6Off: that IPv6 is off is seen from the addresses alone.
func ipv6Off(string) (hint string) { return "" }
