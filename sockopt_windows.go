// The socket options of Windows. golang.org/x/net has neither source filters nor packet information for Windows, and joins IPv4
// groups by address. Pairs are in pair_windows.go, errors in hints_windows.go.

package mcast

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"syscall"

	"github.com/go-multicast/mcast/internal/wire"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/windows"
)

// Options that x/sys lacks (ws2ipdef.h). The numbers are the same for IPv4 and IPv6, except where the name has one.
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

// osSocket is the OS socket of a conn.
type osSocket struct {
	ifAddr netip.Addr // the value for its interface in IPv4 options
}

// errSystem is nil on systems with sockets.
var errSystem error

// replyEarly: a socket that can send may receive unicast for another program on the port, so it is opened when it is
// needed.
const replyEarly = false

// leastWriteBuffer: the system's default holds the largest datagram.
const leastWriteBuffer = 0

// downLoses: Windows does not document which memberships an interface keeps while it is down.
const downLoses = true

// hasTrafficClass6: there is no IPV6_TCLASS that can be set.
const hasTrafficClass6 = false

// onlyBy keeps datagrams of other interfaces out of the buffer, if the system can (Windows 10 1803). Otherwise the
// library discards them. It must be set again for an interface that returns.
func (s socket) onlyBy(ifIndex int) {
	if s.setInt("IP_IFLIST", ipIfList, 1) != nil {
		return
	}
	_ = s.setInt("IP_DEL_IFLIST", ipDelIfList, ifIndex)
	if s.setInt("IP_ADD_IFLIST", ipAddIfList, ifIndex) != nil {
		_ = s.setInt("IP_IFLIST", ipIfList, 0)
	}
}

// socket sets options.
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
	return syscallErr("setsockopt "+name, func() error {
		return control(s.raw, func(h windows.Handle) error { return windows.SetsockoptInt(h, s.level, option, value) })
	})
}

func (s socket) set(name string, option int32, value []byte) error {
	return syscallErr("setsockopt "+name, func() error {
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

// refused reports whether the system does not have an option, or not in this form.
func refused(err error) bool {
	return errors.Is(err, windows.WSAEINVAL) || errors.Is(err, windows.WSAENOPROTOOPT)
}

// byInterface calls set with the value for an interface in IPv4 options: its index, or, if that is refused, an address.
// It returns the value that was accepted.
func byInterface(ifc *Interface, set func(ifAddr netip.Addr) error) (ifAddr netip.Addr, err error) {
	for _, ifAddr = range append([]netip.Addr{wire.IndexAddr(ifc.Index)}, ifc.usable(netip.IPv4Unspecified())...) {
		if err = set(ifAddr); !errors.Is(err, windows.WSAEINVAL) {
			break
		}
	}
	return ifAddr, err
}

// listenReply opens a socket that sends from port and joins nothing.
func listenReply(group netip.Addr, port uint16) (*net.UDPConn, error) {
	return listenUDP(anyAddr(group.Is4(), port), true, 0)
}

// replyConn returns a conn for the replies on a sender's socket. The socket stays the sender's. Packet information
// marks multicast: if another socket of the port has joined a group, this one may receive it.
func replyConn(to *sender, v4 bool) (*conn, error) {
	c := &conn{schedState: schedState{in: newInbox(to.conn, netip.Addr{}, false)}}
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

// setMulticastInterface makes a sender send its multicast on ifc.
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

// probeSource asks, without sending, for the address that the interface sends to group from. If all addresses were
// being checked at the last scan, it scans again.
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

// stats returns the size of the receive buffer. Windows does not count drops per socket.
func (c *conn) stats() (readBuffer int) {
	if s, err := socketOf(c.in.udp, c.group.Is4()); err == nil {
		_ = control(s.raw, func(h windows.Handle) (err error) {
			readBuffer, err = windows.GetsockoptInt(h, windows.SOL_SOCKET, windows.SO_RCVBUF)
			return err
		})
	}
	return readBuffer
}

// leaveReusePortGroup: there is no second attempt.
func leaveReusePortGroup(*net.UDPConn, int) error { return nil }

// bindSender: there are no VRFs.
func bindSender(syscall.RawConn, int) (bound bool, err error) { return false, nil }

// joinsWithoutIPv4: a socket for IPv4 is bound to an address of its interface.
const joinsWithoutIPv4 = false

// setWriteBuffer sets the size of a sender's buffer, which the system does not limit.
func setWriteBuffer(to *sender, size int) (granted int, err error) {
	return size, to.conn.SetWriteBuffer(size)
}

// ipv6Off: that IPv6 is off is seen from the addresses alone.
func ipv6Off(string) (hint string) { return "" }
