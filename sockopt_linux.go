// The socket options of Linux: socket(7), ip(7), ipv6(7). Pairs are in pair_linux.go, errors in hints_linux.go.

package mcast

import (
	"net"
	"net/netip"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// osSocket is the OS socket of a conn.
type osSocket struct {
	fd         int
	checkIf    bool // IPv6, not bound to the device: compare the arrival interface
	hasControl bool // control messages are requested
	coalesce   bool // the kernel may deliver runs of datagrams at once
	blocked    int  // the kernel blocks this many of the pair's blocked sources, from the first on
}

// errSystem is nil on systems with sockets.
var errSystem error

// replyEarly: an OS socket belongs to the network namespace of the thread that opens it, so it is opened with the
// first. It receives nothing; see listenReply.
const replyEarly = true

// leastWriteBuffer: the system's default holds the largest datagram.
const leastWriteBuffer = 0

// downLoses: the kernel keeps the memberships of an interface that is down, except for their sources; see losses.
const downLoses = false

// hasTrafficClass6: IPV6_TCLASS can be set.
const hasTrafficClass6 = true

// setShared sets what every socket of this library needs before bind. With retry, the port is also shared with sockets
// that have SO_REUSEPORT alone.
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

// setSharedFD sets these options on a descriptor. By default Linux delivers the groups that any socket of the host
// joined to every socket that is bound to their port. IP_MULTICAST_ALL (2.6.31) and IPV6_MULTICAST_ALL (4.20) end that.
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

// setBuffer sets the size of a buffer. With CAP_NET_ADMIN net.core.rmem_max and wmem_max do not limit it.
func setBuffer(fd, force, option, size int) error {
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, force, size) == nil {
		return nil
	}
	return unix.SetsockoptInt(fd, unix.SOL_SOCKET, option, size)
}

// setWriteBuffer sets the size of a sender's buffer, and returns the size that the kernel granted. The kernel doubles
// the size for its own bookkeeping (socket(7), SO_SNDBUF).
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

func closeFD(fd int) error { return os.NewSyscallError("close", unix.Close(fd)) }

// listenReply opens a socket that sends from port and receives nothing. It is bound to a multicast address that no
// group can have (RFC 1112, section 4; RFC 4291, section 2.7). So it takes neither unicast nor multicast of other
// sockets on the port, and its address is free.
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

// setMulticastInterface makes a sender send its multicast on ifc. On the loopback interface the source must be given
// too, otherwise the kernel takes the address of another interface, or 0.0.0.0 (ip_route_output_key, scope link).
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

// probeSource asks, without sending, for the address that the interface sends to group from. The kernel returns
// EADDRNOTAVAIL during duplicate address detection.
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

// stats updates the drops of c, and returns the size of the receive buffer. SO_MEMINFO (4.12) reports drops at any
// time, SO_RXQ_OVFL only with the next datagram.
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
