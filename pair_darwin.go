// The OS socket of a pair on macOS: as on Linux it is bound to the group, but the kernel has other rules. See udp_input in
// bsd/netinet/udp_usrreq.c, udp6_input in bsd/netinet6/udp6_usrreq.c and in_mcast.c beside them (xnu).

package mcast

import (
	"errors"
	"net"
	"net/netip"
	"os"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// openPair opens what receives p's group on p's interface.
func openPair(_ *merge, cfg *RxConfig, p *pair, sources []netip.Addr) ([]*conn, error) {
	c, err := openConn(cfg, p, sources)
	if err != nil {
		return nil, &OpError{Op: "join", Group: p.addr, Interface: p.link.ifc.Name, Err: err, Hint: joinHint(err, p)}
	}
	return []*conn{c}, nil
}

func openConn(cfg *RxConfig, p *pair, sources []netip.Addr) (*conn, error) {
	c := &conn{pair: p, group: p.addr, ifName: p.link.ifc.Name, ifIndex: p.link.ifc.Index, sources: sources}
	udp, err := listenGroup(netip.AddrPortFrom(p.addr, cfg.Port), c.ifIndex)
	if err != nil {
		return nil, err
	}
	c.release, c.members = udp.Close, membersOf(udp, p.addr)
	// The interface is checked too: the kernel gives datagrams to 224.0.0.1 to every socket of their port. A datagram that
	// arrived before the options below were set has no interface and is refused.
	c.in = newInbox(udp, c.group, true)
	// The kernel delivers sources that were blocked: imo_multi_filter compares the wrong modes. It is only asked to block
	// them for the sake of routers.
	c.filter.only, c.filter.blocked = newAddrSet(sources), p.blockedSet // the former in case the kernel delivers others
	if err := setReceiveOptions(udp, p.addr, cfg); err != nil {
		udp.Close()
		return nil, err
	}
	if err := p.joinOn(c); err != nil {
		udp.Close()
		return nil, err
	}
	return c, nil
}

// listenGroup opens a socket that is bound to a group. Nothing arrives on it before it joins: for IPv4 the kernel
// gives datagrams to members alone, and for IPv6 too as soon as a multicast option was set.
func listenGroup(group netip.AddrPort, ifIndex int) (*net.UDPConn, error) {
	var fd int
	if err := syscallErr("socket", func() (err error) { fd, err = openSocket(group.Addr()); return err }); err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), "mcast")
	defer file.Close()
	if err := syscallErr("setsockopt", func() error { return setSharedFD(fd, group.Addr().Is4(), true) }); err != nil {
		return nil, err
	}
	if err := syscallErr("bind", func() error { return unix.Bind(fd, sockaddr(group, ifIndex)) }); err != nil {
		return nil, err
	}
	return fileConn(file)
}

// members is what ipv4.PacketConn and ipv6.PacketConn have in common.
type members interface {
	JoinGroup(*net.Interface, net.Addr) error
	LeaveGroup(*net.Interface, net.Addr) error
	JoinSourceSpecificGroup(ifi *net.Interface, group, source net.Addr) error
	ExcludeSourceSpecificGroup(ifi *net.Interface, group, source net.Addr) error
}

func membersOf(udp *net.UDPConn, family netip.Addr) members {
	if family.Is4() {
		return ipv4.NewPacketConn(udp)
	}
	return ipv6.NewPacketConn(udp)
}

// joinOn joins p's group for c's sources, or for all.
func (p *pair) joinOn(c *conn) error {
	m, ifi, group := c.members, &net.Interface{Index: c.ifIndex}, ipAddr(p.addr)
	if len(c.sources) == 0 {
		if err := joinCall("setsockopt MCAST_JOIN_GROUP", func() error { return m.JoinGroup(ifi, group) }); err != nil {
			return err
		}
	}
	for _, source := range c.sources {
		if err := joinCall("setsockopt MCAST_JOIN_SOURCE_GROUP", func() error { return m.JoinSourceSpecificGroup(ifi, group, ipAddr(source)) }); err != nil {
			return err
		}
	}
	for _, source := range p.blocked {
		_ = m.ExcludeSourceSpecificGroup(ifi, group, ipAddr(source)) // the filter discards them anyway
	}
	return nil
}

// joinCall retries if memory was short: the kernel sometimes reports that without reason, as the JDK found
// (mcast_join_leave in src/java.base/unix/native/libnet).
func joinCall(name string, f func() error) (err error) {
	for range 3 {
		if err = syscallErr(name, func() error { return withoutName(f()) }); !errors.Is(err, unix.ENOMEM) {
			break
		}
	}
	return err
}

// leave drops c's membership, which may have gone with the interface.
func (c *conn) leave() { _ = c.members.LeaveGroup(&net.Interface{Index: c.ifIndex}, ipAddr(c.group)) }

// rejoin renews the membership of c, which the kernel has dropped, or may have.
func (p *pair) rejoin(c *conn) error {
	c.leave()
	if err := p.joinOn(c); err != nil {
		return &OpError{Op: "join", Group: p.addr, Interface: p.link.ifc.Name, Err: err, Hint: joinHint(err, p)}
	}
	return nil
}

// stale reports whether c's socket cannot be used on its interface as it is now.
func (c *conn) stale(*Interface, map[watchAddr]bool) bool { return false }
