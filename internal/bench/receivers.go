//go:build linux

// Who receives: this library, package net, x/net. Each reads a number of datagrams that have arrived already, takes
// note of where they are from and, if it is that kind of receiver, of group and interface, and says how long that
// took.

package main

import (
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"

	"github.com/go-multicast/mcast"
)

// receiver has joined groups.
type receiver interface {
	receive(n int) (time.Duration, error)
	close()
}

// opener makes a receiver of datagrams up to a size.
type opener func(p place, dsts []netip.AddrPort, size int) (receiver, error)

// noted is what a receiver learns of a datagram. It is kept so that no compiler leaves out the learning.
var noted struct {
	bytes   int
	src     netip.AddrPort
	group   netip.Addr
	ifIndex int
}

// openMine opens a receiver of this library.
func openMine(p place, dsts []netip.AddrPort, coalesce bool) (rx *mcast.RxSocket, err error) {
	err = p.do(func() error {
		rx, err = mcast.OpenRx(mcast.RxConfig{
			Groups: groupsOf(dsts), Port: dsts[0].Port(), Interfaces: []mcast.Interface{p.ifc},
			ReadBuffer: readBuffer, Static: true, Coalesce: coalesce,
		})
		return err
	})
	return rx, err
}

// mineOne calls ReadFromUDPAddrPort.
type mineOne struct {
	rx  *mcast.RxSocket
	buf []byte
}

func openMineOne(p place, dsts []netip.AddrPort, size int) (receiver, error) {
	rx, err := openMine(p, dsts, false)
	return &mineOne{rx, make([]byte, size)}, err
}

func (r *mineOne) receive(n int) (time.Duration, error) {
	r.rx.SetReadDeadline(time.Now().Add(patience))
	watch := startWatch()
	for i := range n {
		size, src, err := r.rx.ReadFromUDPAddrPort(r.buf)
		if err != nil {
			watch.stop()
			return 0, lost(err, i, n)
		}
		noted.bytes, noted.src = noted.bytes+size, src
	}
	return watch.stop(), nil
}

func (r *mineOne) close() { r.rx.Close() }

// mineBatch calls ReadBatch.
type mineBatch struct {
	rx *mcast.RxSocket
	ms []mcast.Message
}

func openMineBatch(p place, dsts []netip.AddrPort, size int) (receiver, error) {
	rx, err := openMine(p, dsts, false)
	return &mineBatch{rx, mineMessages(vlen, size)}, err
}

func openMineCoalesced(p place, dsts []netip.AddrPort, size int) (receiver, error) {
	rx, err := openMine(p, dsts, true)
	return &mineBatch{rx, mineMessages(vlen, size)}, err
}

func mineMessages(n, size int) []mcast.Message {
	ms := make([]mcast.Message, n)
	for i := range ms {
		ms[i].Buf = make([]byte, size)
	}
	return ms
}

func (r *mineBatch) receive(n int) (time.Duration, error) {
	r.rx.SetReadDeadline(time.Now().Add(patience))
	watch := startWatch()
	for got := 0; got < n; {
		k, err := r.rx.ReadBatch(r.ms)
		if err != nil {
			watch.stop()
			return 0, lost(err, got, n)
		}
		for i := range r.ms[:k] {
			m := &r.ms[i]
			noted.bytes, noted.src, noted.group, noted.ifIndex = noted.bytes+m.N, m.Addr, m.Group, m.IfIndex
		}
		got += k
	}
	return watch.stop(), nil
}

func (r *mineBatch) close() { r.rx.Close() }

// openNet opens what package net offers: one socket for one group.
func openNet(p place, dst netip.AddrPort) (udp *net.UDPConn, err error) {
	err = p.do(func() error {
		udp, err = net.ListenMulticastUDP("udp4", netInterface(p), net.UDPAddrFromAddrPort(dst))
		return err
	})
	if err == nil {
		err = udp.SetReadBuffer(readBuffer)
	}
	return udp, err
}

// netOne calls ReadFromUDPAddrPort of package net.
type netOne struct {
	udp *net.UDPConn
	buf []byte
}

func openNetOne(p place, dsts []netip.AddrPort, size int) (receiver, error) {
	udp, err := openNet(p, dsts[0])
	return &netOne{udp, make([]byte, size)}, err
}

func (r *netOne) receive(n int) (time.Duration, error) {
	r.udp.SetReadDeadline(time.Now().Add(patience))
	watch := startWatch()
	for i := range n {
		size, src, err := r.udp.ReadFromUDPAddrPort(r.buf)
		if err != nil {
			watch.stop()
			return 0, lost(err, i, n)
		}
		noted.bytes, noted.src = noted.bytes+size, src
	}
	return watch.stop(), nil
}

func (r *netOne) close() { r.udp.Close() }

// xnetBatch calls ReadBatch of x/net on one socket. Group and interface come in control messages.
type xnetBatch struct {
	udp *net.UDPConn
	pc  *ipv4.PacketConn
	ms  []ipv4.Message
	cm  ipv4.ControlMessage
	// members hold memberships, which a socket that leaves IP_MULTICAST_ALL on profits from: one alone could not
	// hold more than 20.
	members []int
}

func openXnetBatch(p place, dsts []netip.AddrPort, size int) (receiver, error) {
	r := &xnetBatch{}
	fd, err := openPlain(p, dsts, true, &r.members)
	if err != nil {
		return nil, err
	}
	if r.udp, err = netConn(fd); err != nil {
		return nil, err
	}
	r.pc = ipv4.NewPacketConn(r.udp)
	r.ms = make([]ipv4.Message, vlen)
	for i := range r.ms {
		r.ms[i] = ipv4.Message{Buffers: [][]byte{make([]byte, size)}, OOB: ipv4.NewControlMessage(ipv4.FlagDst | ipv4.FlagInterface)}
	}
	return r, nil
}

func (r *xnetBatch) receive(n int) (time.Duration, error) {
	r.udp.SetReadDeadline(time.Now().Add(patience))
	watch := startWatch()
	for got := 0; got < n; {
		k, err := r.pc.ReadBatch(r.ms, 0)
		if err != nil {
			watch.stop()
			return 0, lost(err, got, n)
		}
		for i := range r.ms[:k] {
			m := &r.ms[i]
			if err := r.cm.Parse(m.OOB[:m.NN]); err != nil {
				watch.stop()
				return 0, err
			}
			group, _ := netip.AddrFromSlice(r.cm.Dst)
			noted.bytes, noted.src, noted.group, noted.ifIndex = noted.bytes+m.N, m.Addr.(*net.UDPAddr).AddrPort(), group, r.cm.IfIndex
		}
		got += k
	}
	return watch.stop(), nil
}

func (r *xnetBatch) close() {
	r.udp.Close()
	closeAll(r.members)
}

// netConn makes a descriptor one of package net.
func netConn(fd int) (*net.UDPConn, error) {
	file := os.NewFile(uintptr(fd), "socket")
	defer file.Close()
	pc, err := net.FilePacketConn(file)
	if err != nil {
		return nil, err
	}
	return pc.(*net.UDPConn), nil
}

// openPlain opens one socket for all of dsts, as a program would without this library: bound to the port, with the
// destination of each datagram told in a control message if wanted.
func openPlain(p place, dsts []netip.AddrPort, pktinfo bool, members *[]int) (fd int, err error) {
	err = p.do(func() error {
		if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); err != nil {
			return os.NewSyscallError("socket", err)
		}
		set := func(level, option, value int) {
			if err == nil {
				err = os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, level, option, value))
			}
		}
		set(unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
		set(unix.SOL_SOCKET, unix.SO_RCVBUF, readBuffer)
		if pktinfo {
			set(unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
		}
		if err == nil {
			err = os.NewSyscallError("bind", unix.Bind(fd, &unix.SockaddrInet4{Port: int(dsts[0].Port())}))
		}
		const limit = 20 // net.ipv4.igmp_max_memberships, as it is if nobody has changed it
		for i, dst := range dsts {
			if err != nil {
				break
			}
			if i%limit == 0 {
				var member int
				if member, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
					return os.NewSyscallError("socket", err)
				}
				*members = append(*members, member)
			}
			err = os.NewSyscallError("setsockopt", unix.SetsockoptIPMreqn((*members)[len(*members)-1], unix.IPPROTO_IP,
				unix.IP_ADD_MEMBERSHIP, &unix.IPMreqn{Multiaddr: dst.Addr().As4(), Ifindex: int32(p.ifc.Index)}))
		}
		return err
	})
	return fd, err
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

// receiving makes a contender of a receiver: what counts is reading, not sending. Only the number of datagrams that
// a socket has room for waits in it.
func receiving(l *lab, on *network, pairs, depth, size int, open opener) (c contender, err error) {
	most, err := room(size)
	if err != nil {
		return c, err
	}
	if n := descriptors(); pairs > n*9/10 {
		return c, leftOut("%d pairs take as many descriptors, and there may be %d", pairs, n)
	}
	n := max(min(pairs*depth, most), 1)
	dsts := l.destinations(pairs)
	r, err := open(on.rx, dsts, size)
	if err != nil {
		return c, err
	}
	f, err := newFiller(l, on, dsts, n, size)
	if err != nil {
		r.close()
		return c, err
	}
	return contender{
		round: func() (float64, int, error) {
			if err := f.fill(); err != nil {
				return 0, 0, err
			}
			took, err := r.receive(n)
			return float64(took), n, err
		},
		close: func() { f.close(); r.close() },
	}, nil
}

// bindGroup opens a socket of package net that is bound to its group, as one for each group needs to be.
func bindGroup(p place, dst netip.AddrPort) (*net.UDPConn, error) {
	var fd int
	err := p.do(func() (err error) {
		fd, err = rawPair(p, dst)
		return err
	})
	if err != nil {
		return nil, err
	}
	return netConn(fd)
}
