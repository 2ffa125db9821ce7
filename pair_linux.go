// The OS sockets of a pair on Linux: socket(7), ip(7), ipv6(7); net/ipv4/igmp.c and net/ipv6/mcast.c in the kernel.

package mcast

import (
	"errors"
	"net/netip"

	"github.com/go-multicast/mcast/internal/wire"
	"golang.org/x/sys/unix"
)

// openPair opens what receives p's group on p's interface: one socket, or, where there are more sources than the
// kernel takes for one, as many as it needs, each with a share of them, so that every datagram still has one
// socket to go to.
func openPair(_ *merge, cfg *RxConfig, p *pair, sources []netip.Addr) (conns []*conn, err error) {
	for {
		c, rest, err := openConn(cfg, p, sources)
		if err != nil {
			for _, c := range conns {
				c.release()
			}
			return nil, err
		}
		conns = append(conns, c)
		if sources = rest; len(sources) == 0 {
			return conns, nil
		}
	}
}

// openConn opens one socket for p with as many of the sources as it takes, and returns those that are left.
func openConn(cfg *RxConfig, p *pair, sources []netip.Addr) (c *conn, rest []netip.Addr, err error) {
	c, rest, err = tryOpenConn(cfg, p, sources, false)
	if isPortTaken(err) {
		c, rest, err = tryOpenConn(cfg, p, sources, true)
	}
	return c, rest, err
}

// tryOpenConn makes one attempt. A second one also shares the port with sockets that have SO_REUSEPORT alone; see bindPort.
// Everything is set before bind, so that no datagram slips in that should not, but for the device of IPv4 in a second
// attempt: a socket of IPv4 receives only what arrives on the interface of its membership anyway.
func tryOpenConn(cfg *RxConfig, p *pair, sources []netip.Addr, retry bool) (_ *conn, rest []netip.Addr, err error) {
	c := &conn{pair: p, group: p.addr, ifName: p.link.ifc.Name, ifIndex: p.link.ifc.Index}
	s := p.socket(0)
	if err := s.syscallErr("socket", func() (err error) {
		s.fd, err = unix.Socket(s.domain, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		return err
	}); err != nil {
		return nil, nil, err
	}
	c.fd, c.release = s.fd, func() error { return closeFD(s.fd) }
	defer func() {
		if err != nil {
			c.release()
		}
	}()

	if err := s.share(); err != nil {
		return nil, nil, err
	}
	// The kernel checks an IPv6 membership by group alone, so only the device keeps other interfaces out. An IPv4 socket
	// receives nothing in a VRF without it, and keeps its port to itself, see bindPort.
	bound, late := false, retry && p.addr.Is4()
	if !late {
		if bound, err = s.bindDevice(c.ifIndex); err != nil {
			return nil, nil, err
		}
	}
	if c.checkIf = !bound && s.domain == unix.AF_INET6; c.checkIf {
		if err := s.set("IPV6_RECVPKTINFO", s.level, unix.IPV6_RECVPKTINFO, 1); err != nil {
			return nil, nil, err
		}
	}
	if err := s.ask(cfg); err != nil {
		return nil, nil, err
	}
	c.hasControl = c.checkIf || cfg.Timestamps || cfg.HopLimits
	// Before 5.0 the kernel does not know it. It is a permission, so that is no error.
	c.coalesce = cfg.Coalesce && canCoalesce && s.set("UDP_GRO", unix.IPPROTO_UDP, unix.UDP_GRO, 1) == nil
	if rest, err = s.join(c.ifIndex, sources); err != nil {
		return nil, nil, err
	}
	c.sources = sources[:len(sources)-len(rest)]
	if c.blocked, err = s.block(c.ifIndex, p.blocked); err != nil {
		return nil, nil, err
	}
	// The kernel does not keep out all of them, and none while it is joined again.
	c.filter.blocked = p.blockedSet
	c.release = func() error {
		s.unblock(c.ifIndex, p.blocked[:c.blocked])
		return closeFD(s.fd)
	}
	if err := bindPort(s.fd, netip.AddrPortFrom(p.addr, cfg.Port), c.ifIndex, retry); err != nil {
		return nil, nil, s.fail(err)
	}
	if late {
		if bound, err = s.bindDevice(c.ifIndex); err != nil {
			return nil, nil, err
		}
	}
	if !bound && p.link.ifc.vrf() != 0 && !receivesInVRF(s.fd) {
		return nil, nil, &OpError{Op: "join", Group: p.addr, Interface: c.ifName, Err: errVRF, Hint: openHint(errVRF)}
	}
	if err := reusePort(s.fd, bound || p.addr.Is6()); err != nil {
		return nil, nil, s.fail(err)
	}
	if err := c.listen(); err != nil {
		return nil, nil, s.fail(err)
	}
	return c, rest, nil
}

// pairSocket is a socket that is being opened for a pair. Its methods return an *OpError that names it.
type pairSocket struct {
	*pair
	fd, domain, level int
}

func (p *pair) socket(fd int) pairSocket {
	if p.addr.Is4() {
		return pairSocket{p, fd, unix.AF_INET, unix.IPPROTO_IP}
	}
	return pairSocket{p, fd, unix.AF_INET6, unix.IPPROTO_IPV6}
}

func (s *pairSocket) syscallErr(name string, f func() error) error {
	if err := syscallErr(name, f); err != nil {
		return s.fail(err)
	}
	return nil
}

func (s *pairSocket) fail(err error) error {
	return &OpError{Op: "join", Group: s.addr, Interface: s.link.ifc.Name, Err: err, Hint: joinHint(err, s.pair)}
}

func (s *pairSocket) set(name string, level, option, value int) error {
	return s.syscallErr("setsockopt "+name, func() error { return unix.SetsockoptInt(s.fd, level, option, value) })
}

// share lets other sockets have the port, and takes nothing that others joined.
func (s *pairSocket) share() error {
	return s.syscallErr("setsockopt", func() error { return setSharedFD(s.fd, s.domain, true) })
}

// bindDevice binds the socket to the interface, if the kernel can.
func (s *pairSocket) bindDevice(index int) (bound bool, err error) {
	if bound, err = bindDeviceFD(s.fd, index); err != nil {
		err = s.fail(err)
	}
	return bound, err
}

// ask sets what the user wants to be told, and the buffer.
func (s *pairSocket) ask(cfg *RxConfig) error {
	if cfg.ReadBuffer > 0 {
		if err := s.syscallErr("setsockopt SO_RCVBUF", func() error {
			return setBuffer(s.fd, unix.SO_RCVBUFFORCE, unix.SO_RCVBUF, cfg.ReadBuffer)
		}); err != nil {
			return err
		}
	}
	if cfg.Timestamps {
		if err := s.set("SO_TIMESTAMPNS", unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1); err != nil {
			return err
		}
	}
	if cfg.HopLimits {
		name, option := "IP_RECVTTL", unix.IP_RECVTTL
		if s.domain == unix.AF_INET6 {
			name, option = "IPV6_RECVHOPLIMIT", unix.IPV6_RECVHOPLIMIT
		}
		return s.set(name, s.level, option, 1)
	}
	return nil
}

// join joins the group, or as many of the sources in it as the kernel takes (net.ipv4.igmp_max_msf and
// net.ipv6.mld_max_msf bound them), and returns the rest.
func (s *pairSocket) join(index int, sources []netip.Addr) (rest []netip.Addr, err error) {
	if len(sources) == 0 {
		return nil, s.joinAny(index)
	}
	for i, source := range sources {
		err := s.sourceOption("MCAST_JOIN_SOURCE_GROUP", unix.MCAST_JOIN_SOURCE_GROUP, index, source)
		if i > 0 && errors.Is(err, unix.ENOBUFS) {
			return sources[i:], nil
		}
		if err != nil {
			return nil, err
		}
	}
	return nil, nil
}

func (s *pairSocket) joinAny(index int) error {
	if s.domain == unix.AF_INET {
		mreq := unix.IPMreqn{Multiaddr: s.addr.As4(), Ifindex: int32(index)}
		return s.syscallErr("setsockopt IP_ADD_MEMBERSHIP", func() error {
			return unix.SetsockoptIPMreqn(s.fd, s.level, unix.IP_ADD_MEMBERSHIP, &mreq)
		})
	}
	mreq := unix.IPv6Mreq{Multiaddr: s.addr.As16(), Interface: uint32(index)}
	return s.syscallErr("setsockopt IPV6_JOIN_GROUP", func() error {
		return unix.SetsockoptIPv6Mreq(s.fd, s.level, unix.IPV6_JOIN_GROUP, &mreq)
	})
}

// block excludes sources and returns how many the kernel has taken. It refuses those beyond its limit or its memory. An
// exclude list cannot be shared among sockets as an include list can, so the rest are discarded when they are read.
func (s *pairSocket) block(index int, blocked []netip.Addr) (taken int, err error) {
	for i, source := range blocked {
		err := s.sourceOption("MCAST_BLOCK_SOURCE", unix.MCAST_BLOCK_SOURCE, index, source)
		if errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.ENOMEM) {
			return i, nil
		}
		if err != nil {
			return i, err
		}
	}
	return len(blocked), nil
}

// unblock takes back what block has excluded, for a socket that is about to be closed and read no more. When a member
// leaves, the kernel first counts one member less and then, source by source, one that excludes it less. In between all
// who are left seem to exclude it, and a datagram of that source is lost to them: ip6_mc_del_src and
// ipv6_chk_mcast_addr in net/ipv6/mcast.c, ip_mc_del_src and ip_check_mc_rcu in net/ipv4/igmp.c.
func (s *pairSocket) unblock(index int, blocked []netip.Addr) {
	for _, source := range blocked {
		_ = unix.SetsockoptString(s.fd, s.level, unix.MCAST_UNBLOCK_SOURCE,
			string(wire.MreqLinux.GroupSourceReq(index, s.addr, source))) // there is nothing to take back if it has left
	}
}

func (s *pairSocket) sourceOption(name string, option, index int, source netip.Addr) error {
	err := s.syscallErr("setsockopt "+name, func() error {
		return unix.SetsockoptString(s.fd, s.level, option, string(wire.MreqLinux.GroupSourceReq(index, s.addr, source)))
	})
	if e := (*OpError)(nil); errors.As(err, &e) {
		e.Source = source
	}
	return err
}

// leave drops a membership with all its sources, if there is one.
func (s *pairSocket) leave(index int) {
	if s.domain == unix.AF_INET {
		unix.SetsockoptIPMreqn(s.fd, s.level, unix.IP_DROP_MEMBERSHIP, &unix.IPMreqn{Multiaddr: s.addr.As4(), Ifindex: int32(index)})
		return
	}
	unix.SetsockoptIPv6Mreq(s.fd, s.level, unix.IPV6_LEAVE_GROUP, &unix.IPv6Mreq{Multiaddr: s.addr.As16(), Interface: uint32(index)})
}

// rejoin renews the membership of c, which the kernel has dropped, or may have, while it still counts the socket as a
// member: it does so when an interface leaves its network namespace and returns, and, for IPv6, when the MTU was too
// small for a while.
func (p *pair) rejoin(c *conn) error {
	s := p.socket(c.fd)
	s.leave(c.ifIndex)
	rest, err := s.join(c.ifIndex, c.sources)
	if err == nil && len(rest) > 0 {
		err = &OpError{Op: "join", Group: p.addr, Source: rest[0], Interface: p.link.ifc.Name, Err: errFewerSources}
	}
	if err == nil {
		c.blocked, err = s.block(c.ifIndex, p.blocked)
	}
	return err
}

// leave drops c's membership with all its sources, if there is one.
func (c *conn) leave() {
	s := c.pair.socket(c.fd)
	s.leave(c.ifIndex)
}

// stale reports whether c's socket is of no use on its interface as it is now.
func (c *conn) stale(*Interface, map[watchAddr]bool) bool { return false }
