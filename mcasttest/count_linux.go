// This file counts the packets that reach a host, without reading them. It uses the kernel's statistics of a packet
// socket, which also count what no longer fits into the socket's buffer.

package mcasttest

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// counter counts the UDP packets to one destination that arrive on one interface.
type counter struct {
	fd    int
	total uint64
}

func (n *netns) newCounter(name string, dst netip.Addr) (c *counter, err error) {
	index, err := n.index(name)
	if err != nil {
		return nil, err
	}
	runErr := n.run(func() { c, err = openCounter(index, dst) })
	if err == nil {
		err = runErr
	}
	return c, err
}

func openCounter(index int, dst netip.Addr) (*counter, error) {
	// Protocol 0 receives nothing. Packets arrive only after bind, when the filter is in place.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket(AF_PACKET)", err)
	}
	filter := udpTo(dst, unix.ETH_P_IP, 9, 16)
	if dst.Is6() {
		filter = udpTo(dst, unix.ETH_P_IPV6, 6, 24)
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &program); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("setsockopt(SO_ATTACH_FILTER)", err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("setsockopt(PACKET_IGNORE_OUTGOING)", err)
	}
	// A socket for one protocol would receive a packet after IP does, and a receiver could be faster than the count
	// (__netif_receive_skb_core in net/core/dev.c).
	bigEndian := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ALL))
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: bigEndian, Ifindex: index}); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("bind(AF_PACKET)", err)
	}
	return &counter{fd: fd}, nil
}

// udpTo is a filter (classic BPF) for IP packets that carry UDP to the address. etherType is the EtherType of IP. The
// offsets are those of the protocol and the destination in the IP header.
func udpTo(dst netip.Addr, etherType, protocol, destination uint32) []unix.SockFilter {
	type equal struct{ load, offset, value uint32 }
	const skbProtocol = 0xfffff000 // SKF_AD_OFF + SKF_AD_PROTOCOL
	tests := []equal{{unix.BPF_H, skbProtocol, etherType}, {unix.BPF_B, protocol, unix.IPPROTO_UDP}}
	for ip := dst.AsSlice(); len(ip) > 0; ip = ip[4:] {
		tests = append(tests, equal{unix.BPF_W, destination, binary.BigEndian.Uint32(ip)})
		destination += 4
	}
	var filter []unix.SockFilter
	for i, t := range tests {
		toReject := uint8(2*(len(tests)-i-1) + 1)
		filter = append(filter,
			unix.SockFilter{Code: uint16(unix.BPF_LD | unix.BPF_ABS | t.load), K: t.offset},
			unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: t.value, Jf: toReject})
	}
	return append(filter,
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 1}, // count it, keep one byte
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 0})
}

// read returns how many packets there were since the counter was made.
func (c *counter) read() (uint64, error) {
	stats, err := unix.GetsockoptTpacketStats(c.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS) // also resets them
	if err != nil {
		return 0, fmt.Errorf("read packet statistics: %w", err)
	}
	c.total += uint64(stats.Packets)
	return c.total, nil
}

func (c *counter) close() error { return unix.Close(c.fd) }
