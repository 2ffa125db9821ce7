// The OS border on Linux: what a pair's socket is made of, option by option, and what its errors mean.
// socket(7), ip(7), ipv6(7); net/ipv4/igmp.c and net/ipv6/mcast.c in the kernel.

package mcast

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// osSocket is what a conn is to the system.
type osSocket struct {
	fd         int
	checkIf    bool // IPv6 where the kernel refused to bind the device: compare the arrival interface
	hasControl bool // there are control messages
	coalesce   bool // the kernel may hand over runs of datagrams at once
	blocked    int  // how many of the pair's blocked sources, from the first on, the kernel keeps out
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

// setShared sets what every socket of this library needs before bind. A second attempt to bind also shares the port with
// sockets that have SO_REUSEPORT alone.
func setShared(rc syscall.RawConn, v4, share, retry bool) error {
	domain := unix.AF_INET6
	if v4 {
		domain = unix.AF_INET
	}
	return control(rc, func(fd int) error {
		if retry {
			if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
				return err
			}
		}
		return setSharedFD(fd, domain, share)
	})
}

// leaveReusePortGroup takes a sender's socket, after a second attempt to bind, out of the group of those that have SO_REUSEPORT: the
// kernel would give it a part of the multicast that others have joined; see bindPort. Any setting of the device does, also
// that to none (sock_bindtoindex_locked in net/core/sock.c). Kernels that do not know the option balance no multicast.
func leaveReusePortGroup(udp *net.UDPConn, device int) error {
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

// bindDeviceFD binds a socket to an interface, if the kernel can (SO_BINDTOIFINDEX is of 5.1) and may (before 5.7 it took
// CAP_NET_RAW; after, it does if the socket is bound to another).
func bindDeviceFD(fd, index int) (bound bool, err error) {
	err = syscallErr("setsockopt SO_BINDTOIFINDEX", func() error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX, index) })
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
	return bound != 0 || sysctl("net.ipv4.udp_l3mdev_accept") == "1"
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
func bindPort(fd int, at netip.AddrPort, scope int, retry bool) error {
	if retry {
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
	return syscallErr("setsockopt SO_REUSEPORT", func() error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, value) })
}

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
	if err := syscallErr("socket", func() (err error) {
		fd, err = unix.Socket(domain, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		return err
	}); err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), "mcast reply")
	defer file.Close()
	if err := syscallErr("setsockopt", func() error { return setSharedFD(fd, domain, true) }); err != nil {
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
