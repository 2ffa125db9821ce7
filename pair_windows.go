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

// openPair adds p's group to an OS socket of p's interface: one that is open, or a new one.
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
	// The system filters too, if it can. The library checks every datagram anyway.
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

// listenAt returns the addresses to bind an interface's OS socket to, the best first. For IPv4 they are those of the
// interface, so that the system delivers the multicast of that interface. For IPv6, where addresses come and go, it is
// the wildcard.
func listenAt(ifc *Interface, family netip.Addr, port uint16) (all []netip.AddrPort) {
	if family.Is6() {
		return []netip.AddrPort{netip.AddrPortFrom(netip.IPv6Unspecified(), port)}
	}
	for _, addr := range ifc.usable(family) {
		all = append(all, netip.AddrPortFrom(addr, port))
	}
	return all
}

// openInbox opens an OS socket that is bound to the first address that the system accepts. It refuses an address that
// the interface has lost, or that another host has.
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

// inboxAt finds an OS socket of the same interface that c can share, possibly in the place of a retired conn. More
// sources of a group need another OS socket.
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

// closeUnused closes an OS socket without conns.
func (m *merge) closeUnused(in *inbox) (err error) {
	unused := false
	m.update(func() { unused = len(in.conns) == 0 })
	if unused {
		err = in.udp.Close()
	}
	if errors.Is(err, net.ErrClosed) { // closed by another goroutine
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
	// On Windows the receiver decides about its own host's datagrams.
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
		// Wine has no usable source filters. The group is joined for all sources, and the library filters.
		c.leave()
	}
	if err := p.joinAny(c, s); err != nil {
		return err
	}
	for _, source := range p.blocked { // for routers; the library filters anyway
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

// joinSources joins the group for c's sources.
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

// stale reports whether c's OS socket cannot be used on its interface as it is now: it is bound to an address that the
// interface has lost, had lost in between, or checks again.
func (c *conn) stale(now *Interface, lost map[watchAddr]bool) bool {
	at := c.in.localAddr().Addr()
	return !at.IsUnspecified() && (lost[watchAddr{now.Index, at}] || !slices.Contains(now.usable(at), at))
}
