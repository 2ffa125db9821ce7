// The OS border on Windows. A socket cannot be bound to a group here, so there is one OS socket for each interface and
// family, which joins all groups, and packet information tells what each datagram is. Whether the system looks at the
// interface by which a datagram came in, when it chooses sockets, is not documented: so that is checked too.
//
// golang.org/x/net has neither source filters nor packet information for Windows, and joins IPv4 groups by address.

package mcast

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"syscall"

	"github.com/go-multicast/mcast/internal/cure"
	"github.com/go-multicast/mcast/internal/wire"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/windows"
)

// Options that x/sys lacks; ws2ipdef.h. The numbers are the same for IPv4 and IPv6, except where the name has one.
const (
	ipRecvTTL             = 21 // IP_RECVTTL (IP_HOPLIMIT), IPV6_HOPLIMIT
	ipPktinfo             = 19 // IP_PKTINFO, IPV6_PKTINFO
	ipIfList              = 28 // IP_IFLIST, IPV6_IFLIST
	ipAddIfList           = 29 // IP_ADD_IFLIST, IPV6_ADD_IFLIST
	ipDelIfList           = 30 // IP_DEL_IFLIST, IPV6_DEL_IFLIST
	ipAddSourceMembership = 15
	ipBlockSource         = 17
	mcastLeaveGroup       = 42
	mcastBlockSource      = 43
	mcastJoinSourceGroup  = 45
)

// handle is what a conn is to the system.
type handle struct {
	ifAddr netip.Addr // what stands for its interface in IPv4 options
}

// errSystem is nil where sockets can be opened.
var errSystem error

// replyEarly: a socket that can send may be given unicast that another program waits for on the port, so there is
// none until it is needed.
const replyEarly = false

// leastWriteBuffer: the system's default holds the largest datagram.
const leastWriteBuffer = 0

// downLoses: it is not documented what an interface keeps of its memberships while it is down.
const downLoses = true

// hasTrafficClass6: there is no IPV6_TCLASS that can be set.
const hasTrafficClass6 = false

// openPair has p's group received on p's interface: by an OS socket of the interface that is there already, or a new
// one.
func openPair(m *merge, cfg *RxConfig, p *pair, sources []netip.Addr) ([]*conn, error) {
	c, err := m.openConn(cfg, p, sources)
	if err != nil {
		return nil, p.joinError(err)
	}
	return []*conn{c}, nil
}

func (p *pair) joinError(err error) error {
	hint := openHint(err)
	if errors.Is(err, windows.WSAEADDRNOTAVAIL) && p.link.ifc.checking(p.addr) {
		hint = cure.AddressChecked
	}
	return &OpError{Op: "join", Group: p.addr, Interface: p.link.ifc.Name, Err: err, Hint: hint}
}

func (m *merge) openConn(cfg *RxConfig, p *pair, sources []netip.Addr) (_ *conn, err error) {
	ifc := &p.link.ifc
	c := &conn{pair: p, group: p.addr, ifName: ifc.Name, ifIndex: ifc.Index, sources: sources}
	// The system filters too, where it can. Here every datagram is looked at anyway, and so the promise does not
	// depend on how well it does.
	c.screen.only, c.screen.blocked = newAddrSet(sources), p.screened

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
		return call("setsockopt SO_RCVBUF", func() error { return udp.SetReadBuffer(cfg.ReadBuffer) })
	}
	return nil
}

// onlyBy keeps datagrams of other interfaces out of the buffer, where the system can, since Windows 10 1803. Where it
// cannot they are left out when they are looked at. An interface that returns must be named again.
func (s socket) onlyBy(ifIndex int) {
	if s.setInt("IP_IFLIST", ipIfList, 1) != nil {
		return
	}
	_ = s.setInt("IP_DEL_IFLIST", ipDelIfList, ifIndex)
	if s.setInt("IP_ADD_IFLIST", ipAddIfList, ifIndex) != nil {
		_ = s.setInt("IP_IFLIST", ipIfList, 0)
	}
}

// socket is an OS socket whose options are set.
type socket struct {
	raw   syscall.RawConn
	level int
}

func socketOf(udp *net.UDPConn, v4 bool) (socket, error) {
	raw, err := udp.SyscallConn()
	if v4 {
		return socket{raw, windows.IPPROTO_IP}, err
	}
	return socket{raw, windows.IPPROTO_IPV6}, err
}

func (s socket) setInt(name string, option, value int) error {
	return call("setsockopt "+name, func() error {
		return control(s.raw, func(h windows.Handle) error { return windows.SetsockoptInt(h, s.level, option, value) })
	})
}

func (s socket) set(name string, option int32, value []byte) error {
	return call("setsockopt "+name, func() error {
		return control(s.raw, func(h windows.Handle) error {
			return windows.Setsockopt(h, int32(s.level), option, &value[0], int32(len(value)))
		})
	})
}

// control runs f on the handle of rc.
func control(rc syscall.RawConn, f func(windows.Handle) error) (err error) {
	if cerr := rc.Control(func(fd uintptr) { err = f(windows.Handle(fd)) }); cerr != nil {
		return cerr
	}
	return err
}

// refused reports whether the system, or what passes for it, does not know an option, or not in this form.
func refused(err error) bool {
	return errors.Is(err, windows.WSAEINVAL) || errors.Is(err, windows.WSAENOPROTOOPT)
}

// byInterface calls set with what stands for an interface in IPv4 options: the index, or, where that is refused, an
// address. It returns what was taken.
func byInterface(ifc *Interface, set func(ifAddr netip.Addr) error) (ifAddr netip.Addr, err error) {
	for _, ifAddr = range append([]netip.Addr{wire.IndexAddr(ifc.Index)}, ifc.usable(netip.IPv4Unspecified())...) {
		if err = set(ifAddr); !errors.Is(err, windows.WSAEINVAL) {
			break
		}
	}
	return ifAddr, err
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
		// Wine has no source filters that could be used. The group is joined for all, then, and screened here.
		c.leave()
	}
	if err := p.joinAny(c, s); err != nil {
		return err
	}
	for _, source := range p.blocked { // for the routers' sake: they are screened anyway
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
		return call("setsockopt IPV6_JOIN_GROUP", func() error {
			return bare(ipv6.NewPacketConn(c.in.udp).JoinGroup(&net.Interface{Index: c.ifIndex}, ipAddr(p.addr)))
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

// listenReply opens a socket that sends from port and joins nothing.
func listenReply(group netip.Addr, port uint16) (*net.UDPConn, error) {
	return listenUDP(anyAddr(group.Is4(), port), true, 0)
}

// replyConn makes the reading side of a sender's socket part of a merge. The socket stays the sender's. Packet
// information keeps multicast out: if another socket of the port has joined a group, this one should not receive it,
// but it may.
func replyConn(to *sender, v4 bool) (*conn, error) {
	c := &conn{place: place{in: newInbox(to.conn, netip.Addr{}, false)}}
	c.release = func() error { return to.conn.SetReadDeadline(longAgo) }
	s, err := socketOf(to.conn, v4)
	if err != nil {
		return nil, err
	}
	return c, s.setInt("IP_PKTINFO", ipPktinfo, 1)
}

// setShared sets what a socket needs before bind. Package net allows every IPv4 socket to send to broadcast addresses.
func setShared(rc syscall.RawConn, v4, share, _ bool) error {
	return control(rc, func(h windows.Handle) (err error) {
		if v4 {
			err = windows.SetsockoptInt(h, windows.SOL_SOCKET, windows.SO_BROADCAST, 0)
		}
		if err == nil && share {
			err = windows.SetsockoptInt(h, windows.SOL_SOCKET, windows.SO_REUSEADDR, 1)
		}
		return err
	})
}

// setMulticastInterface makes a sender send its multicast by ifc.
func setMulticastInterface(to *sender, v4 bool, ifc *Interface) error {
	if !v4 {
		return ipv6.NewPacketConn(to.conn).SetMulticastInterface(&net.Interface{Index: ifc.Index})
	}
	_, err := byInterface(ifc, func(ifAddr netip.Addr) error {
		return control(to.raw, func(h windows.Handle) error {
			b := ifAddr.As4()
			return windows.Setsockopt(h, windows.IPPROTO_IP, windows.IP_MULTICAST_IF, &b[0], int32(len(b)))
		})
	})
	return err
}

// probeSource asks, without sending, which address the interface sends to group from. Where the interface as it was seen
// last has only addresses that are being checked, the system is asked for them again.
func probeSource(ifc *Interface, group netip.Addr) (source netip.Addr, err error) {
	now := *ifc
	if now.checking(group) {
		all, err := ifaceScan()
		if err != nil {
			return source, err
		}
		i := slices.IndexFunc(all, func(found Interface) bool { return found.Index == ifc.Index })
		if i < 0 {
			return source, windows.WSAENETUNREACH
		}
		now = all[i]
	}
	usable := now.usable(group)
	switch {
	case now.checking(group):
		return source, windows.WSAEADDRNOTAVAIL
	case len(usable) == 0:
		return source, windows.WSAENETUNREACH
	case group.Is4():
		return usable[0], nil
	}
	h, err := windows.Socket(windows.AF_INET6, windows.SOCK_DGRAM, windows.IPPROTO_UDP)
	if err != nil {
		return source, err
	}
	defer windows.Closesocket(h)
	if err := windows.SetsockoptInt(h, windows.IPPROTO_IPV6, windows.IPV6_MULTICAST_IF, ifc.Index); err != nil {
		return source, err
	}
	if err := windows.Connect(h, &windows.SockaddrInet6{Port: 9, ZoneId: uint32(ifc.Index), Addr: group.As16()}); err != nil {
		return source, err
	}
	local, err := windows.Getsockname(h)
	if local, ok := local.(*windows.SockaddrInet6); ok {
		source = netip.AddrFrom16(local.Addr)
	}
	return source, err
}

// isTransient tells the errors of an address that is not usable yet.
func isTransient(err error) bool { return errors.Is(err, windows.WSAEADDRNOTAVAIL) }

// isTruncation tells that a datagram was larger than the buffer, which here is an error.
func isTruncation(err error) bool { return errors.Is(err, windows.WSAEMSGSIZE) }

// isHarmless reports whether the error of a read is news of a datagram that was sent before: ICMP said that the port, the
// host or the network is unreachable, or it ran out of hops. Go turns off the first and the last (SIO_UDP_CONNRESET,
// SIO_UDP_NETRESET), where the system lets it.
func isHarmless(err error) bool {
	return errors.Is(err, windows.WSAECONNRESET) || errors.Is(err, windows.WSAENETRESET) ||
		errors.Is(err, windows.WSAEHOSTUNREACH) || errors.Is(err, windows.WSAENETUNREACH)
}

// isUnheard reports whether err is that of a datagram which does not leave the host while no socket there has joined the
// group: on the loopback interface, or of interface-local scope (ff01::/16, ff11::/16) on any interface. Other
// systems send such a datagram, and no socket receives it.
func isUnheard(err error, loopback bool, dst netip.Addr) bool {
	return errors.Is(err, windows.WSAENETUNREACH) && (loopback || dst.IsInterfaceLocalMulticast())
}

// stats returns the size of the receive buffer. Windows does not count what it dropped at a socket.
func (c *conn) stats() (readBuffer int) {
	if s, err := socketOf(c.in.udp, c.group.Is4()); err == nil {
		_ = control(s.raw, func(h windows.Handle) (err error) {
			readBuffer, err = windows.GetsockoptInt(h, windows.SOL_SOCKET, windows.SO_RCVBUF)
			return err
		})
	}
	return readBuffer
}

// openHint says what to do about an error of opening a socket, where that is known.
func openHint(err error) string {
	switch {
	case errors.Is(err, windows.WSAEACCES): // with SO_REUSEADDR a refused bind is never WSAEADDRINUSE
		return cure.PortTaken
	case errors.Is(err, windows.WSAEADDRNOTAVAIL):
		return cure.NoAddressNow
	case errors.Is(err, windows.WSAENETDOWN), errors.Is(err, windows.WSAENETUNREACH),
		errors.Is(err, windows.WSAEHOSTUNREACH):
		return cure.NoLink
	case errors.Is(err, windows.WSAEMFILE), errors.Is(err, windows.WSAENOBUFS):
		return cure.ShortOfMemory
	}
	return ""
}

// sendHint says what to do about an error of sending to dst by ifc.
func sendHint(err error, _ *Interface, dst netip.Addr) string {
	unreachable := errors.Is(err, windows.WSAENETUNREACH) || errors.Is(err, windows.WSAEHOSTUNREACH)
	switch {
	case unreachable && dst.IsMulticast():
		return cure.NoLink
	case unreachable:
		return cure.NoRoute
	case errors.Is(err, windows.WSAENETDOWN):
		return cure.NoLink
	case errors.Is(err, windows.WSAEADDRNOTAVAIL):
		return cure.NoAddressOrYet
	case errors.Is(err, windows.WSAEACCES) && !dst.IsMulticast():
		return cure.RefusedOrBroadcast
	case errors.Is(err, windows.WSAEACCES):
		return cure.Refused
	case errors.Is(err, windows.WSAEMSGSIZE):
		return cure.TooLong
	case errors.Is(err, windows.WSAENOBUFS):
		return cure.QueueFull
	}
	return ""
}

// isPortTaken: what setShared sets leaves nothing to try again with.
func isPortTaken(error) bool { return false }

// unbalance: there is no second attempt.
func unbalance(*net.UDPConn, int) error { return nil }

// bindSender: there are no VRFs.
func bindSender(syscall.RawConn, int) (bound bool, err error) { return false, nil }

// joinsWithoutIPv4: a socket for IPv4 is bound to an address of its interface.
const joinsWithoutIPv4 = false

// isExhausted reports whether the system lacks a resource, so that the operation could succeed with more of it.
func isExhausted(err error) bool {
	for _, errno := range []error{windows.WSAEMFILE, windows.WSAENOBUFS, windows.ERROR_NOT_ENOUGH_MEMORY, windows.ERROR_NO_SYSTEM_RESOURCES} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// setWriteBuffer sets the size of a sender's buffer, which the system does not limit.
func setWriteBuffer(to *sender, size int) (granted int, err error) {
	return size, to.conn.SetWriteBuffer(size)
}
