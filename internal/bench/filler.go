//go:build linux

// What is received has to be sent first, and always in the same way, so that it is the same packets that everybody
// reads: with sendmmsg through x/net, one packet for each datagram.

package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

const (
	// vlen is how many datagrams anybody moves with one call.
	vlen = 64

	// readBuffer is what every receiver asks for.
	readBuffer = 4 << 20
)

// patience is how long a datagram may take that does not have to wait for anything. Tests have less of it.
var patience = 5 * time.Second

// filler puts datagrams into the buffers of receivers.
type filler struct {
	udp     *net.UDPConn
	batch   *ipv4.PacketConn
	ms      []ipv4.Message
	witness *net.UDPConn // receives what is sent last
	byte    [1]byte
}

// newFiller makes one that sends n datagrams of a size to dsts in turn.
func newFiller(l *lab, on *network, dsts []netip.AddrPort, n, size int) (f *filler, err error) {
	f = &filler{}
	if f.udp, f.batch, err = openSender(on.tx); err != nil {
		return nil, err
	}
	last := netip.AddrPortFrom(netip.AddrFrom4([4]byte{239, 6, 6, 6}), l.port())
	if err := on.rx.do(func() error {
		f.witness, err = net.ListenMulticastUDP("udp4", netInterface(on.rx), net.UDPAddrFromAddrPort(last))
		return err
	}); err != nil {
		f.udp.Close()
		return nil, err
	}
	f.ms = messagesTo(dsts, n, size)
	f.ms = append(f.ms, ipv4.Message{Buffers: [][]byte{f.byte[:]}, Addr: net.UDPAddrFromAddrPort(last)})
	return f, nil
}

func messagesTo(dsts []netip.AddrPort, n, size int) []ipv4.Message {
	addrs := make([]net.Addr, len(dsts))
	for i, dst := range dsts {
		addrs[i] = net.UDPAddrFromAddrPort(dst)
	}
	payload := make([]byte, size)
	ms := make([]ipv4.Message, n)
	for i := range ms {
		ms[i] = ipv4.Message{Buffers: [][]byte{payload}, Addr: addrs[i%len(addrs)]}
	}
	return ms
}

// openSender opens a socket of package net that sends multicast by the interface of p.
func openSender(p place) (udp *net.UDPConn, pc *ipv4.PacketConn, err error) {
	err = p.do(func() error {
		udp, err = net.ListenUDP("udp4", &net.UDPAddr{IP: p.ifc.IPv4[0].Addr().AsSlice()})
		if err != nil {
			return err
		}
		pc = ipv4.NewPacketConn(udp)
		return pc.SetMulticastInterface(netInterface(p))
	})
	if err != nil && udp != nil {
		udp.Close()
	}
	return udp, pc, err
}

func netInterface(p place) *net.Interface {
	return &net.Interface{Index: p.ifc.Index, MTU: p.ifc.MTU, Name: p.ifc.Name, Flags: p.ifc.Flags}
}

func sendAll(pc *ipv4.PacketConn, ms []ipv4.Message) error {
	for len(ms) > 0 {
		n, err := pc.WriteBatch(ms[:min(vlen, len(ms))], 0)
		if err != nil {
			return err
		}
		ms = ms[n:]
	}
	return nil
}

// fill sends all, and waits until they have arrived.
func (f *filler) fill() error {
	f.witness.SetReadDeadline(time.Now().Add(patience))
	if err := sendAll(f.batch, f.ms); err != nil {
		return err
	}
	_, _, err := f.witness.ReadFromUDPAddrPort(f.byte[:])
	return err
}

func (f *filler) close() {
	f.udp.Close()
	f.witness.Close()
}

// room is how many datagrams of a size fit into the receive buffer that a socket is granted. The kernel charges for
// them what it has allocated, with its own bookkeeping.
func room(size int) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, readBuffer); err != nil {
		return 0, os.NewSyscallError("setsockopt", err)
	}
	granted, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF)
	charge := 768
	for charge < size+768 {
		charge *= 2
	}
	return granted / charge, os.NewSyscallError("getsockopt", err)
}

// lost makes a timeout tell what it means.
func lost(err error, got, want int) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("%d of %d datagrams arrived", got, want)
	}
	return err
}
