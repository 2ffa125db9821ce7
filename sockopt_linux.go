// The OS border on Linux: what a pair's socket is made of, option by option, and what its errors mean.
// socket(7), ip(7), ipv6(7); net/ipv4/igmp.c and net/ipv6/mcast.c in the kernel.

package mcast

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"syscall"
	"unsafe"

	"github.com/go-multicast/mcast/internal/cure"
	"github.com/go-multicast/mcast/internal/procudp"
	"github.com/go-multicast/mcast/internal/wire"
	"golang.org/x/sys/unix"
)

// handle is what a conn is to the system.
type handle struct {
	fd       int
	checkIf  bool // IPv6 where the kernel refused to bind the device: compare the arrival interface
	told     bool // there are control messages
	coalesce bool // the kernel may hand over runs of datagrams at once
	blocked  int  // how many of the pair's blocked sources, from the first on, the kernel keeps out
}

// errSystem is nil where sockets can be opened.
var errSystem error

// replyEarly: an OS socket belongs to the network namespace of the thread that opens it, which may be another at the
// first write; and it takes nothing from anybody, see listenReply.
const replyEarly = true

// leastWriteBuffer: the system's default holds the largest datagram.
const leastWriteBuffer = 0

// downLoses: the kernel keeps the memberships of an interface that is down, apart from their sources; see lost.
const downLoses = false

// hasTrafficClass6: IPV6_TCLASS can be set.
const hasTrafficClass6 = true

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
func tryOpenConn(cfg *RxConfig, p *pair, sources []netip.Addr, again bool) (_ *conn, rest []netip.Addr, err error) {
	c := &conn{pair: p, group: p.addr, ifName: p.link.ifc.Name, ifIndex: p.link.ifc.Index}
	s := p.socket(0)
	if err := s.call("socket", func() (err error) {
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
	bound, late := false, again && p.addr.Is4()
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
	c.told = c.checkIf || cfg.Timestamps || cfg.HopLimits
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
	c.screen.blocked = p.screened
	c.release = func() error {
		s.unblock(c.ifIndex, p.blocked[:c.blocked])
		return closeFD(s.fd)
	}
	if err := bindPort(s.fd, netip.AddrPortFrom(p.addr, cfg.Port), c.ifIndex, again); err != nil {
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

// leave drops a membership with all its sources, if there is one.
func (s *pairSocket) leave(index int) {
	if s.domain == unix.AF_INET {
		unix.SetsockoptIPMreqn(s.fd, s.level, unix.IP_DROP_MEMBERSHIP, &unix.IPMreqn{Multiaddr: s.addr.As4(), Ifindex: int32(index)})
		return
	}
	unix.SetsockoptIPv6Mreq(s.fd, s.level, unix.IPV6_LEAVE_GROUP, &unix.IPv6Mreq{Multiaddr: s.addr.As16(), Interface: uint32(index)})
}

func (s *pairSocket) call(name string, f func() error) error {
	if err := call(name, f); err != nil {
		return s.fail(err)
	}
	return nil
}

func (s *pairSocket) fail(err error) error {
	return &OpError{Op: "join", Group: s.addr, Interface: s.link.ifc.Name, Err: err, Hint: joinHint(err, s.pair)}
}

func (s *pairSocket) set(name string, level, option, value int) error {
	return s.call("setsockopt "+name, func() error { return unix.SetsockoptInt(s.fd, level, option, value) })
}

// share lets other sockets have the port, and takes nothing that others joined.
func (s *pairSocket) share() error {
	return s.call("setsockopt", func() error { return setSharedFD(s.fd, s.domain, true) })
}

// setShared sets what every socket of this library needs before bind. A second attempt to bind also shares the port with
// sockets that have SO_REUSEPORT alone.
func setShared(rc syscall.RawConn, v4, share, again bool) error {
	domain := unix.AF_INET6
	if v4 {
		domain = unix.AF_INET
	}
	return control(rc, func(fd int) error {
		if again {
			if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
				return err
			}
		}
		return setSharedFD(fd, domain, share)
	})
}

// unbalance takes a sender's socket, after a second attempt to bind, out of the group of those that have SO_REUSEPORT: the
// kernel would give it a part of the multicast that others have joined; see bindPort. Any setting of the device does, also
// that to none (sock_bindtoindex_locked in net/core/sock.c). Kernels that do not know the option balance no multicast.
func unbalance(udp *net.UDPConn, device int) error {
	rc, err := udp.SyscallConn()
	if err != nil {
		return err
	}
	return control(rc, func(fd int) error {
		if err := reusePort(fd, false); err != nil {
			return err
		}
		_, err := bindDeviceFD(fd, device)
		return err
	})
}

// setSharedFD sets these options on a descriptor. By default Linux delivers the groups that any socket of the host joined to
// every socket that is bound to their port. IP_MULTICAST_ALL (2.6.31) and IPV6_MULTICAST_ALL (4.20) end that.
func setSharedFD(fd, domain int, share bool) error {
	if share {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
			return err
		}
	}
	if domain == unix.AF_INET {
		return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_ALL, 0)
	}
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1); err != nil {
		return err
	}
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_ALL, 0); err != unix.ENOPROTOOPT {
		return err
	}
	return nil
}

// bindDevice binds the socket to the interface, if the kernel can.
func (s *pairSocket) bindDevice(index int) (bound bool, err error) {
	if bound, err = bindDeviceFD(s.fd, index); err != nil {
		err = s.fail(err)
	}
	return bound, err
}

// bindDeviceFD binds a socket to an interface, if the kernel can (SO_BINDTOIFINDEX is of 5.1) and may (before 5.7 it took
// CAP_NET_RAW; after, it does if the socket is bound to another).
func bindDeviceFD(fd, index int) (bound bool, err error) {
	err = call("setsockopt SO_BINDTOIFINDEX", func() error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX, index) })
	if errors.Is(err, unix.ENOPROTOOPT) || errors.Is(err, unix.EPERM) {
		return false, nil
	}
	return err == nil, err
}

// bindSender binds a sender's socket to its interface, or to the VRF of that. In a VRF a socket without a device gets no
// replies (inet_bound_dev_eq in include/net/inet_sock.h), and its unicast takes the main table.
func bindSender(raw syscall.RawConn, index int) (bound bool, err error) {
	err = control(raw, func(fd int) (err error) {
		if bound, err = bindDeviceFD(fd, index); err != nil || bound {
			return err
		}
		now, _ := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX)
		if bound = now == index; !bound && !receivesInVRF(fd) {
			return errVRF
		}
		return nil
	})
	return bound, err
}

var errVRF = errors.New("the kernel does not let the socket be bound to the interface, as its VRF requires")

// receivesInVRF reports whether a socket that could not be bound to a member of a VRF receives there: it is bound to the VRF
// already, as `ip vrf exec` does it, or the kernel does not insist.
func receivesInVRF(fd int) bool {
	bound, _ := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX)
	return bound != 0 || cure.Value("net.ipv4.udp_l3mdev_accept") == "1"
}

// ask sets what the user wants to be told, and the buffer.
func (s *pairSocket) ask(cfg *RxConfig) error {
	if cfg.ReadBuffer > 0 {
		if err := s.call("setsockopt SO_RCVBUF", func() error {
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

// setBuffer sets the size of a buffer. With CAP_NET_ADMIN the limits net.core.rmem_max and wmem_max do not hold.
func setBuffer(fd, force, option, size int) error {
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, force, size) == nil {
		return nil
	}
	return unix.SetsockoptInt(fd, unix.SOL_SOCKET, option, size)
}

// setWriteBuffer sets the size of a sender's buffer, and returns the size that the kernel granted. The kernel doubles what
// is asked for, to have room for its own bookkeeping (socket(7), SO_SNDBUF).
func setWriteBuffer(to *sender, size int) (granted int, err error) {
	err = control(to.raw, func(fd int) error {
		if err := setBuffer(fd, unix.SO_SNDBUFFORCE, unix.SO_SNDBUF, size); err != nil {
			return err
		}
		doubled, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF)
		granted = doubled / 2
		return err
	})
	return granted, err
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
		return s.call("setsockopt IP_ADD_MEMBERSHIP", func() error {
			return unix.SetsockoptIPMreqn(s.fd, s.level, unix.IP_ADD_MEMBERSHIP, &mreq)
		})
	}
	mreq := unix.IPv6Mreq{Multiaddr: s.addr.As16(), Interface: uint32(index)}
	return s.call("setsockopt IPV6_JOIN_GROUP", func() error {
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
	err := s.call("setsockopt "+name, func() error {
		return unix.SetsockoptString(s.fd, s.level, option, string(wire.MreqLinux.GroupSourceReq(index, s.addr, source)))
	})
	if e := (*OpError)(nil); errors.As(err, &e) {
		e.Source = source
	}
	return err
}

// bindPort binds a socket that has SO_REUSEADDR. A second attempt also shares the port with sockets of the same user that
// have SO_REUSEPORT alone, if both have that (inet_rcv_saddr_conflict in net/ipv4/udp.c). With reusePort after bind, it
// also shares it with those that are bound later.
//
// The sockets of one address, port and device that have SO_REUSEPORT at bind are a group, with all that have it then, and
// from Linux 6.10 on the kernel gives an IPv4 multicast datagram that fits one of them to any of them
// (udp_v4_early_demux in net/ipv4/udp.c and inet_steal_sock in include/net/inet_hashtables.h). So a first attempt does not
// have it at bind. In a second one the device of a membership of IPv4 is bound after the address: no socket of this library
// that has SO_REUSEPORT is without a device, and to bind one takes the socket out of the group of those that are
// (udp_lib_rehash in net/ipv4/udp.c).
func bindPort(fd int, at netip.AddrPort, scope int, again bool) error {
	if again {
		if err := reusePort(fd, true); err != nil {
			return err
		}
	}
	return bindCall(at, func() error { return unix.Bind(fd, sockaddr(at, scope)) })
}

func reusePort(fd int, on bool) error {
	value := 0
	if on {
		value = 1
	}
	return call("setsockopt SO_REUSEPORT", func() error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, value) })
}

// isPortTaken reports whether another socket has the port and does not share it.
func isPortTaken(err error) bool { return errors.Is(err, unix.EADDRINUSE) }

// sockaddr is addr as package unix wants it.
func sockaddr(addr netip.AddrPort, scope int) unix.Sockaddr {
	if addr.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(addr.Port()), Addr: addr.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(addr.Port()), Addr: addr.Addr().As16(), ZoneId: uint32(scope)}
}

func closeFD(fd int) error { return os.NewSyscallError("close", unix.Close(fd)) }

// listenReply opens a socket that sends from port and receives nothing. It is bound to a multicast address that no group
// can have (RFC 1112, section 4; RFC 4291, section 2.7), so it takes no unicast from the program that listens on the port,
// no multicast, and does not share its address with another program.
func listenReply(group netip.Addr, port uint16) (*net.UDPConn, error) {
	domain, at := unix.AF_INET, netip.AddrFrom4([4]byte{224})
	if group.Is6() {
		domain, at = unix.AF_INET6, netip.AddrFrom16([16]byte{0xff, 0x0e})
	}
	var fd int
	if err := call("socket", func() (err error) {
		fd, err = unix.Socket(domain, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		return err
	}); err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), "mcast reply")
	defer file.Close()
	if err := call("setsockopt", func() error { return setSharedFD(fd, domain, true) }); err != nil {
		return nil, err
	}
	err := bindPort(fd, netip.AddrPortFrom(at, port), 0, false)
	if isPortTaken(err) {
		err = bindPort(fd, netip.AddrPortFrom(at, port), 0, true)
	}
	if err == nil {
		err = reusePort(fd, true)
	}
	if err != nil {
		return nil, err
	}
	return fileConn(file)
}

// setMulticastInterface makes a sender send its multicast by ifc. On the loopback interface the source must be given
// too, or the kernel takes the address of another interface, or 0.0.0.0 (ip_route_output_key, scope link).
func setMulticastInterface(to *sender, v4 bool, ifc *Interface) error {
	return control(to.raw, func(fd int) error { return setMulticastInterfaceFD(fd, v4, ifc) })
}

func setMulticastInterfaceFD(fd int, v4 bool, ifc *Interface) error {
	if !v4 {
		return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_IF, ifc.Index)
	}
	mreq := unix.IPMreqn{Ifindex: int32(ifc.Index)}
	if ifc.IsLoopback() && len(ifc.IPv4) > 0 {
		mreq.Address = ifc.IPv4[0].Addr().As4()
	}
	return unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_IF, &mreq)
}

// probeSource asks, without sending, which address the interface sends to group from. The kernel answers EADDRNOTAVAIL
// while duplicate-address detection is going on.
func probeSource(ifc *Interface, group netip.Addr) (source netip.Addr, err error) {
	domain := unix.AF_INET6
	if group.Is4() {
		domain = unix.AF_INET
	}
	fd, err := unix.Socket(domain, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return source, err
	}
	defer closeFD(fd)
	if err := setMulticastInterfaceFD(fd, group.Is4(), ifc); err != nil {
		return source, err
	}
	if err := unix.Connect(fd, sockaddr(netip.AddrPortFrom(group, 9), ifc.Index)); err != nil {
		return source, err
	}
	return localAddr(fd)
}

// isTransient tells the errors of an address that is not usable yet.
func isTransient(err error) bool { return errors.Is(err, unix.EADDRNOTAVAIL) }

// stats takes what the kernel dropped at c into c's counters, and returns the size of the receive buffer. SO_MEMINFO (4.12)
// has the counter at any time, and SO_RXQ_OVFL only with the next datagram.
func (c *conn) stats() (readBuffer int) {
	const words = 9 // SK_MEMINFO_VARS
	var info [words]uint32
	size := uint32(unsafe.Sizeof(info))
	if _, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(c.fd), unix.SOL_SOCKET, unix.SO_MEMINFO,
		uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0); errno == 0 {
		c.count.dropped.see(info[8]) // SK_MEMINFO_DROPS
		return int(info[1]) / 2      // SK_MEMINFO_RCVBUF, doubled as SO_RCVBUF is
	}
	doubled, _ := unix.GetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_RCVBUF)
	return doubled / 2
}

// joinHint says what to do about an error of opening a pair's socket, where that is known.
func joinHint(err error, p *pair) string {
	switch {
	case errors.Is(err, unix.ENOBUFS), errors.Is(err, unix.ENOMEM):
		// A pair's socket has one group, so that only a limit of 0 is in its way. A limit of sources is in nobody's: the
		// first is always taken, and the others go to more sockets. What is left is the memory for options, for want of
		// which the kernel says the same.
		if p.addr.Is4() && cure.Value(cure.Memberships) == "0" {
			return cure.Limit(cure.Memberships)
		}
		return cure.Limit(cure.OptionMemory)
	case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE):
		return cure.Files()
	case errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return cure.NoIndex(p.link.ifc.Index)
	case errors.Is(err, unix.EINVAL) && p.addr.Is6() && p.link.ifc.MTU < 1280:
		return cure.MTU(p.link.ifc.MTU)
	}
	return openHint(err)
}

// openHint says what to do about an error of opening a sender's socket, where that is known.
func openHint(err error) string {
	switch {
	case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE):
		return cure.Files()
	case errors.Is(err, unix.ENOBUFS), errors.Is(err, unix.ENOMEM):
		return cure.Limit(cure.OptionMemory)
	case isPortTaken(err):
		return portTaken(err)
	case errors.Is(err, unix.EACCES):
		return cure.PortPrivileged
	case errors.Is(err, unix.EPERM):
		return cure.NotAllowed
	case errors.Is(err, errVRF):
		return cure.UnboundInVRF
	case errors.Is(err, unix.EADDRNOTAVAIL), errors.Is(err, unix.ENODEV):
		return cure.ScanAgain
	case errors.Is(err, unix.ENETUNREACH), errors.Is(err, unix.EHOSTUNREACH):
		return cure.NoLink
	case errors.Is(err, unix.ENOSPC), errors.Is(err, os.ErrNoDeadline): // of epoll_ctl; the latter see watched
		return cure.Limit(cure.Watches)
	}
	return ""
}

// portTaken says who holds the port of a bind that was refused, and what to do about it.
func portTaken(err error) string {
	var at *bindError
	if !errors.As(err, &at) {
		return ""
	}
	holders := slices.DeleteFunc(procudp.Sockets(), func(s procudp.Socket) bool { return !s.Takes(at.at.Addr(), at.at.Port()) })
	me := strconv.Itoa(os.Getuid())
	others := slices.ContainsFunc(holders, func(s procudp.Socket) bool { return s.UID != me })
	return cure.PortTaken(procudp.Describe(holders), others)
}

// sendHint says what to do about an error of sending to dst by ifc.
func sendHint(err error, ifc *Interface, dst netip.Addr) string {
	unreachable := errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EHOSTUNREACH)
	switch {
	case unreachable && !dst.IsMulticast():
		return cure.NoRoute(dst)
	case unreachable && dst.Is6() && ifc.IsLoopback():
		return cure.NoLoRoute(ifc.Name)
	case unreachable:
		return cure.NoLink
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return cure.NoAddressYet
	case errors.Is(err, unix.EPERM):
		return cure.Refused
	case errors.Is(err, unix.EACCES):
		return cure.Broadcast
	case errors.Is(err, unix.EMSGSIZE):
		return cure.TooLong
	case errors.Is(err, unix.ENODEV):
		return cure.Gone
	case errors.Is(err, unix.ENOBUFS), errors.Is(err, unix.ENOMEM):
		return cure.QueueFull
	}
	return ""
}
