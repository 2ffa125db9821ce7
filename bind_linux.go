// What a socket is bound to on Linux: its port, shared or not, its interface, and the VRF of that.

package mcast

import (
	"errors"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// bindPort binds a socket that has SO_REUSEADDR. The second attempt, retry, also shares the port with sockets of the
// same user that have SO_REUSEPORT alone, if both have it (inet_rcv_saddr_conflict in net/ipv4/udp.c). reusePort after
// bind also shares it with those that are bound later.
//
// Sockets of one address, port and device that have SO_REUSEPORT at bind are a group. From Linux 6.10 on, the kernel
// gives an IPv4 multicast datagram for one of them to any of them (udp_v4_early_demux in net/ipv4/udp.c and
// inet_steal_sock in include/net/inet_hashtables.h). So the first attempt does not set it at bind. In the second
// attempt an IPv4 membership binds the device after the address: that takes the socket out of the group (udp_lib_rehash
// in net/ipv4/udp.c).
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

// leaveReusePortGroup takes the socket of a sender that was bound in a second attempt out of its SO_REUSEPORT group.
// Otherwise the kernel would give it a part of the multicast of other members; see bindPort. Setting the device does
// that, also to none (sock_bindtoindex_locked in net/core/sock.c). Kernels without that option do not balance
// multicast.
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

// bindDeviceFD binds a socket to an interface, if the kernel has SO_BINDTOIFINDEX (5.1) and permits it. Before 5.7 that
// requires CAP_NET_RAW; later only if the socket is bound to another interface.
func bindDeviceFD(fd, index int) (bound bool, err error) {
	err = syscallErr("setsockopt SO_BINDTOIFINDEX", func() error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX, index) })
	if errors.Is(err, unix.ENOPROTOOPT) || errors.Is(err, unix.EPERM) {
		return false, nil
	}
	return err == nil, err
}

// bindSender binds a sender's socket to its interface, or to the VRF of that. In a VRF a socket without a device
// receives no replies (inet_bound_dev_eq in include/net/inet_sock.h), and its unicast uses the main table.
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

// receivesInVRF reports whether a socket that could not be bound to a member of a VRF receives there: `ip vrf exec`
// bound it to the VRF, or the kernel does not require that.
func receivesInVRF(fd int) bool {
	bound, _ := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX)
	return bound != 0 || sysctl("net.ipv4.udp_l3mdev_accept") == "1"
}

// sockaddr returns addr as a unix.Sockaddr.
func sockaddr(addr netip.AddrPort, scope int) unix.Sockaddr {
	if addr.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(addr.Port()), Addr: addr.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(addr.Port()), Addr: addr.Addr().As16(), ZoneId: uint32(scope)}
}
