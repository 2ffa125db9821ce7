// The OS sockets of pairs on Windows. A socket cannot be bound to a group, so the pairs of an interface and family share
// one, and packet information says which pair a datagram is for.

package mcast

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"

	"github.com/go-multicast/mcast/internal/wire"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/windows"
)

// openPair has p's group received on p's interface: by an OS socket of the interface that is there already, or a new
// one.
func openPair(m *merge, cfg *RxConfig, p *pair, sources []netip.Addr) ([]*conn, error) {
	c, err := m.openConn(cfg, p, sources)
	if err != nil {
		return nil, p.joinError(err)
	}
	return []*conn{c}, nil
}

func (m *merge) openConn(cfg *RxConfig, p *pair, sources []netip.Addr) (_ *conn, err error) {
	ifc := &p.link.ifc
	c := &conn{pair: p, group: p.addr, ifName: ifc.Name, ifIndex: ifc.Index, sources: sources}
	// The system filters too, where it can. Here every datagram is looked at anyway, and so the promise does not
	// depend on how well it does.
	c.filter.only, c.filter.blocked = newAddrSet(sources), p.blockedSet

	all := listenAt(ifc, p.addr, cfg.Port)
	for _, at := range all {
		if c.in = m.inboxAt(at, c); c.in != nil {
			break
		}
	}
	if c.in == nil {
		if c.in, err = openInbox(cfg, ifc, all); err != nil {
			return nil, err
		}
	}
	c.release = func() error {
		c.leave()
		return m.closeUnused(c.in)
	}
	if err := p.joinOn(c); err != nil {
		c.release()
		return nil, err
	}
	return c, nil
}

// listenAt returns what the OS socket of an interface can be bound to, the best first. For IPv4 it is an address of the
// interface, by which the system gives it the multicast of that interface. For IPv6, where an interface has several
// addresses that come and go, it is the wildcard.
func listenAt(ifc *Interface, family netip.Addr, port uint16) (all []netip.AddrPort) {
	if family.Is6() {
		return []netip.AddrPort{netip.AddrPortFrom(netip.IPv6Unspecified(), port)}
	}
	for _, addr := range ifc.usable(family) {
		all = append(all, netip.AddrPortFrom(addr, port))
	}
	return all
}

// openInbox opens an OS socket that is bound to the first of some addresses that the system accepts. It refuses one that
// the interface has lost, or that turned out to be another host's, since the interface was looked at.
func openInbox(cfg *RxConfig, ifc *Interface, all []netip.AddrPort) (*inbox, error) {
	err := os.NewSyscallError("bind", windows.WSAEADDRNOTAVAIL)
	for _, at := range all {
		var udp *net.UDPConn
		if udp, err = listenUDP(at, true, 0); errors.Is(err, windows.WSAEADDRNOTAVAIL) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if err := configureRx(udp, cfg, ifc, at.Addr().Is4()); err != nil {
			udp.Close()
			return nil, err
		}
		return newInbox(udp, netip.Addr{}, true), nil
	}
	return nil, err
}

// inboxAt finds an OS socket of the same interface that c can share; there it takes the place of one that is retired. For
// more sources of a group that it has, there must be another.
func (m *merge) inboxAt(at netip.AddrPort, c *conn) (found *inbox) {
	m.update(func() {
		for in := range m.inboxes {
			for _, other := range in.conns {
				had := in.conns[c.group]
				if other.ifIndex == c.ifIndex && !other.retired && in.localAddr() == at && (had == nil || had.retired) {
					found = in
				}
			}
		}
	})
	return found
}

func (in *inbox) localAddr() netip.AddrPort {
	at := in.udp.LocalAddr().(*net.UDPAddr).AddrPort()
	return netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
}

// closeUnused closes an OS socket that receives for nobody anymore.
func (m *merge) closeUnused(in *inbox) (err error) {
	unused := false
	m.update(func() { unused = len(in.conns) == 0 })
	if unused {
		err = in.udp.Close()
	}
	if errors.Is(err, net.ErrClosed) { // by another that was the last
		return nil
	}
	return err
}

// configureRx sets the options of a receiving socket.
func configureRx(udp *net.UDPConn, cfg *RxConfig, ifc *Interface, v4 bool) error {
	s, err := socketOf(udp, v4)
	if err != nil {
		return err
	}
	if err := s.setInt("IP_PKTINFO", ipPktinfo, 1); err != nil {
		return err
	}
	if cfg.HopLimits {
		if err := s.setInt("IP_RECVTTL", ipRecvTTL, 1); err != nil {
			return err
		}
	}
	// It is the receiver that decides about its own host's datagrams.
	loop := 0
	if cfg.Loopback || ifc.IsLoopback() {
		loop = 1
	}
	if err := s.setInt("IP_MULTICAST_LOOP", windows.IP_MULTICAST_LOOP, loop); err != nil {
		return err
	}
	s.onlyBy(ifc.Index)
	if cfg.ReadBuffer > 0 {
		return syscallErr("setsockopt SO_RCVBUF", func() error { return udp.SetReadBuffer(cfg.ReadBuffer) })
	}
	return nil
}

// joinOn joins p's group with c's OS socket.
func (p *pair) joinOn(c *conn) error {
	s, err := socketOf(c.in.udp, p.addr.Is4())
	if err != nil {
		return err
	}
	if len(c.sources) > 0 {
		if err := p.joinSources(c, s); !refused(err) {
			return err
		}
		// Wine has no source filters that could be used. The group is joined for all, then, and blockedSet here.
		c.leave()
	}
	if err := p.joinAny(c, s); err != nil {
		return err
	}
	for _, source := range p.blocked { // for the routers' sake: they are blockedSet anyway
		if p.addr.Is6() {
			_ = s.set("MCAST_BLOCK_SOURCE", mcastBlockSource, wire.MreqWindows.GroupSourceReq(c.ifIndex, p.addr, source))
		} else {
			_ = s.set("IP_BLOCK_SOURCE", ipBlockSource, wire.MreqSource4(p.addr, source, c.ifAddr))
		}
	}
	return nil
}

func (p *pair) joinAny(c *conn, s socket) (err error) {
	if p.addr.Is6() {
		return syscallErr("setsockopt IPV6_JOIN_GROUP", func() error {
			return withoutName(ipv6.NewPacketConn(c.in.udp).JoinGroup(&net.Interface{Index: c.ifIndex}, ipAddr(p.addr)))
		})
	}
	c.ifAddr, err = byInterface(&p.link.ifc, func(ifAddr netip.Addr) error {
		return s.set("IP_ADD_MEMBERSHIP", windows.IP_ADD_MEMBERSHIP, wire.Mreq4(p.addr, ifAddr))
	})
	return err
}

// joinSources joins the group for c's sources alone.
func (p *pair) joinSources(c *conn, s socket) (err error) {
	for _, source := range c.sources {
		if p.addr.Is6() {
			err = s.set("MCAST_JOIN_SOURCE_GROUP", mcastJoinSourceGroup, wire.MreqWindows.GroupSourceReq(c.ifIndex, p.addr, source))
		} else {
			c.ifAddr, err = byInterface(&p.link.ifc, func(ifAddr netip.Addr) error {
				return s.set("IP_ADD_SOURCE_MEMBERSHIP", ipAddSourceMembership, wire.MreqSource4(p.addr, source, ifAddr))
			})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// leave drops c's membership with all its sources, if there is one.
func (c *conn) leave() {
	if c.group.Is6() {
		if s, err := socketOf(c.in.udp, false); err == nil && len(c.sources) > 0 { // it was joined by an option of this kind
			_ = s.set("MCAST_LEAVE_GROUP", mcastLeaveGroup, wire.MreqWindows.GroupReq(c.ifIndex, c.group))
		}
		_ = ipv6.NewPacketConn(c.in.udp).LeaveGroup(&net.Interface{Index: c.ifIndex}, ipAddr(c.group))
		return
	}
	if s, err := socketOf(c.in.udp, true); err == nil && c.ifAddr.IsValid() {
		_ = s.set("IP_DROP_MEMBERSHIP", windows.IP_DROP_MEMBERSHIP, wire.Mreq4(c.group, c.ifAddr))
	}
}

// rejoin renews the membership of c, which the system has dropped, or may have.
func (p *pair) rejoin(c *conn) error {
	c.leave()
	if s, err := socketOf(c.in.udp, p.addr.Is4()); err == nil {
		s.onlyBy(c.ifIndex)
	}
	if err := p.joinOn(c); err != nil {
		return p.joinError(err)
	}
	return nil
}

// stale reports whether c's OS socket is of no use on its interface as it is now: it is bound to an address that the
// interface does not have any more, or has lost in between and has again, or is checking anew.
func (c *conn) stale(now *Interface, lost map[watchAddr]bool) bool {
	at := c.in.localAddr().Addr()
	return !at.IsUnspecified() && (lost[watchAddr{now.Index, at}] || !slices.Contains(now.usable(at), at))
}
