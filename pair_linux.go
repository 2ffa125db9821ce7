// The OS sockets of a pair on Linux: socket(7), ip(7), ipv6(7); net/ipv4/igmp.c and net/ipv6/mcast.c in the kernel.

package mcast

import (
	"errors"
	"net/netip"

	"github.com/go-multicast/mcast/internal/wire"
	"golang.org/x/sys/unix"
)

// openPair opens the OS sockets of p. If the kernel takes fewer sources for a socket than there are, each socket gets a share
// of them, so that a datagram still arrives on one socket only.
func openPair(_ *merge, cfg *RxConfig, p *pair, sources []netip.Addr) (conns []*conn, err error) {
	for {
		o := pairOpening{pairSocket: p.socket(-1), cfg: cfg, sources: sources}
		err := o.open()
		if isPortTaken(err) {
			o.retry = true
			err = o.open()
		}
		if err != nil {
			for _, c := range conns {
				c.release()
			}
			return nil, err
		}
		conns = append(conns, o.c)
		if sources = sources[len(o.c.sources):]; len(sources) == 0 {
			return conns, nil
		}
	}
}

// pairOpening is a conn that is being opened.
type pairOpening struct {
	pairSocket
	cfg     *RxConfig
	sources []netip.Addr // to join, as many as the kernel takes
	retry   bool         // the second attempt: share the port also with sockets that have SO_REUSEPORT alone; see bindPort
	c       *conn
	bound   bool // to the interface
}

// open makes one attempt. All options are set before bind, so that no unwanted datagram arrives. Only the second attempt for
// IPv4 binds the interface later; an IPv4 socket receives only on the interface of its membership anyway.
func (o *pairOpening) open() error {
	o.bound = false
	o.c = &conn{pair: o.pair, group: o.addr, ifName: o.link.ifc.Name, ifIndex: o.link.ifc.Index}
	o.c.release = func() error { return nil }
	for _, step := range []func() error{o.create, o.share, o.bindDeviceEarly, o.setOptions, o.joinSources, o.blockSources, o.bind,
		o.bindDeviceLate, o.setReusePort, o.c.listen} {
		if err := step(); err != nil {
			o.c.release()
			if _, ok := err.(*OpError); !ok {
				err = o.fail(err)
			}
			return err
		}
	}
	return nil
}

func (o *pairOpening) create() error {
	err := syscallErr("socket", func() (err error) {
		o.fd, err = unix.Socket(o.domain, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		return err
	})
	if err == nil {
		fd := o.fd
		o.c.fd, o.c.release = fd, func() error { return closeFD(fd) }
	}
	return err
}

// bindsLate: to bind the interface after the address takes an IPv4 socket out of its SO_REUSEPORT group, see bindPort.
func (o *pairOpening) bindsLate() bool { return o.retry && o.addr.Is4() }

// bindDeviceEarly binds the socket to its interface. Without that, an IPv6 socket receives on every interface, since the
// kernel compares the group alone, and an IPv4 socket receives nothing in a VRF.
func (o *pairOpening) bindDeviceEarly() (err error) {
	if !o.bindsLate() {
		o.bound, err = bindDeviceFD(o.fd, o.c.ifIndex)
	}
	return err
}

func (o *pairOpening) setOptions() error {
	if o.c.checkIf = !o.bound && o.addr.Is6(); o.c.checkIf {
		if err := o.set("IPV6_RECVPKTINFO", o.level, unix.IPV6_RECVPKTINFO, 1); err != nil {
			return err
		}
	}
	if o.cfg.ReadBuffer > 0 {
		if err := syscallErr("setsockopt SO_RCVBUF", func() error {
			return setBuffer(o.fd, unix.SO_RCVBUFFORCE, unix.SO_RCVBUF, o.cfg.ReadBuffer)
		}); err != nil {
			return err
		}
	}
	if o.cfg.Timestamps {
		if err := o.set("SO_TIMESTAMPNS", unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1); err != nil {
			return err
		}
	}
	if o.cfg.HopLimits {
		name, option := "IP_RECVTTL", unix.IP_RECVTTL
		if o.addr.Is6() {
			name, option = "IPV6_RECVHOPLIMIT", unix.IPV6_RECVHOPLIMIT
		}
		if err := o.set(name, o.level, option, 1); err != nil {
			return err
		}
	}
	o.c.hasControl = o.c.checkIf || o.cfg.Timestamps || o.cfg.HopLimits
	// Linux before 5.0 does not have UDP_GRO, and Coalesce does not require it.
	o.c.coalesce = o.cfg.Coalesce && canCoalesce && o.set("UDP_GRO", unix.IPPROTO_UDP, unix.UDP_GRO, 1) == nil
	return nil
}

func (o *pairOpening) joinSources() error {
	rest, err := o.join(o.c.ifIndex, o.sources)
	o.c.sources = o.sources[:len(o.sources)-len(rest)]
	return err
}

func (o *pairOpening) blockSources() (err error) {
	c, s := o.c, o.pairSocket
	c.blocked, err = s.block(c.ifIndex, s.pair.blocked)
	if err == nil {
		c.filter.blocked = o.blockedSet // the kernel may not block all, and blocks none while the group is joined again
		c.release = func() error {
			s.unblock(c.ifIndex, s.pair.blocked[:c.blocked])
			return closeFD(s.fd)
		}
	}
	return err
}

func (o *pairOpening) bind() error {
	return bindPort(o.fd, netip.AddrPortFrom(o.addr, o.cfg.Port), o.c.ifIndex, o.retry)
}

func (o *pairOpening) bindDeviceLate() (err error) {
	if o.bindsLate() {
		o.bound, err = bindDeviceFD(o.fd, o.c.ifIndex)
	}
	if err == nil && !o.bound && o.link.ifc.vrf() != 0 && !receivesInVRF(o.fd) {
		err = errVRF
	}
	return err
}

func (o *pairOpening) setReusePort() error { return reusePort(o.fd, o.bound || o.addr.Is6()) }

// pairSocket sets options of a pair's socket.
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

// share shares the port, and refuses groups that only other sockets joined.
func (s *pairSocket) share() error {
	return syscallErr("setsockopt", func() error { return setSharedFD(s.fd, s.domain, true) })
}

// join joins the group, or as many of the sources in it as the kernel takes (limited by net.ipv4.igmp_max_msf and
// net.ipv6.mld_max_msf), and returns the rest.
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

// block excludes sources and returns how many the kernel has taken. It refuses those beyond its limit or memory. Unlike
// an include list, an exclude list cannot be divided among sockets, so the library discards the rest.
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

// unblock reverts block before the socket is closed. When a member leaves, the kernel first counts one member less and
// then, source by source, one less that excludes it. In between all remaining members seem to exclude the source, and
// its datagrams are lost: ip6_mc_del_src and ipv6_chk_mcast_addr in net/ipv6/mcast.c, ip_mc_del_src and ip_check_mc_rcu
// in net/ipv4/igmp.c.
func (s *pairSocket) unblock(index int, blocked []netip.Addr) {
	for _, source := range blocked {
		_ = unix.SetsockoptString(s.fd, s.level, unix.MCAST_UNBLOCK_SOURCE,
			string(wire.MreqLinux.GroupSourceReq(index, s.addr, source))) // it fails if the group was left
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
// member. That happens when an interface leaves its network namespace and returns, and, for IPv6, when the MTU was too
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

// stale reports whether c's socket cannot be used on its interface as it is now.
func (c *conn) stale(*Interface, map[watchAddr]bool) bool { return false }
