// Package wire has the byte layouts that Linux, macOS and Windows exchange with sockets: control messages, membership
// requests and addresses. Each layout is tested on every system. Only ScopedSender makes system calls.
package wire

// Control messages (cmsg(3), WSACMSGHDR in ws2def.h). The numbers of Linux are in control_linux.go, since some differ by
// processor.

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
	"time"
)

// Metadata is what the control messages of a datagram say. A field without a message is zero.
type Metadata struct {
	Group    netip.Addr // destination: a group, or an address of this host
	IfIndex  int        // the interface it arrived on
	HopLimit int
	Time     time.Time
	Segment  int // size in bytes of each datagram in a run (UDP_GRO)
}

// ControlSize is the size of a buffer for all control messages of a datagram that this library requests: a timestamp, a
// hop limit and the packet information of IPv6.
const ControlSize = 128

// controlFormat is how a system writes control messages. Each has a header with its length (including the header, without
// padding), level and type. It begins where its length field is aligned.
type controlFormat struct {
	word  int // bytes of the length field
	kinds []controlKind
}

// controlKind is a control message that this library requests.
type controlKind struct {
	level, kind int32
	what        controlData
}

// controlData is the layout of the data of a control message.
type controlData int

const (
	hopLimit       controlData = iota // an int or, if there is only one byte, a byte
	pktinfo4                          // struct in_pktinfo of Unix: interface, local address, destination
	pktinfoWindows                    // struct in_pktinfo of Windows: destination, interface
	pktinfo6                          // struct in6_pktinfo: destination, interface (RFC 3542, section 6.1)
	timespec                          // two longs, of 32 or 64 bits
	timeval                           // struct timeval of macOS: 64 bits of seconds, 32 of microseconds
	segment                           // an int
)

const wordSize = bits.UintSize / 8

var (
	// bsd/netinet/in.h, bsd/netinet6/in6.h and bsd/sys/socket.h of xnu
	controlDarwin = controlFormat{4, []controlKind{
		{0, 26, pktinfo4},      // IP_PKTINFO
		{0, 24, hopLimit},      // IP_RECVTTL, of one byte
		{41, 47, hopLimit},     // IPV6_HOPLIMIT
		{41, 46, pktinfo6},     // IPV6_PKTINFO
		{0xffff, 0x2, timeval}, // SOL_SOCKET, SCM_TIMESTAMP
	}}
	// ws2ipdef.h. Wine sends the TTL as IP_TTL; Windows documents IP_HOPLIMIT.
	controlWindows = controlFormat{wordSize, []controlKind{
		{0, 19, pktinfoWindows}, // IP_PKTINFO
		{0, 21, hopLimit},       // IP_HOPLIMIT
		{0, 4, hopLimit},        // IP_TTL
		{41, 19, pktinfo6},      // IPV6_PKTINFO
		{41, 21, hopLimit},      // IPV6_HOPLIMIT
	}}
)

// ParseControl reads the control messages that this system wrote. It skips messages that this library does not request
// and messages that are cut short.
func ParseControl(b []byte) Metadata { return parseControl(b, &controlHere) }

func parseControl(b []byte, f *controlFormat) (m Metadata) {
	header := f.word + 8
	for len(b) >= header {
		size := uint64(binary.NativeEndian.Uint32(b))
		if f.word == 8 {
			size = binary.NativeEndian.Uint64(b)
		}
		if size < uint64(header) || size > uint64(len(b)) {
			return m
		}
		level := int32(binary.NativeEndian.Uint32(b[f.word:]))
		kind := int32(binary.NativeEndian.Uint32(b[f.word+4:]))
		for _, k := range f.kinds {
			if k.level == level && k.kind == kind {
				m.read(k.what, b[header:size])
			}
		}
		padded := (int(size) + f.word - 1) &^ (f.word - 1)
		b = b[min(padded, len(b)):]
	}
	return m
}

// read stores the data of a control message, unless it is cut short.
func (m *Metadata) read(what controlData, data []byte) {
	u32 := func(at int) uint32 { return binary.NativeEndian.Uint32(data[at:]) }
	u64 := func(at int) uint64 { return binary.NativeEndian.Uint64(data[at:]) }
	switch n := len(data); {
	case what == hopLimit && n >= 4:
		m.HopLimit = int(int32(u32(0)))
	case what == hopLimit && n > 0:
		m.HopLimit = int(data[0])
	case what == segment && n >= 4:
		m.Segment = int(int32(u32(0)))
	case what == pktinfo4 && n >= 12:
		m.IfIndex, m.Group = int(u32(0)), netip.AddrFrom4([4]byte(data[8:]))
	case what == pktinfoWindows && n >= 8:
		m.Group, m.IfIndex = netip.AddrFrom4([4]byte(data)), int(u32(4))
	case what == pktinfo6 && n >= 20:
		m.Group, m.IfIndex = netip.AddrFrom16([16]byte(data)), int(u32(16))
	case what == timespec && n >= 16:
		m.Time = time.Unix(int64(u64(0)), int64(u64(8)))
	case what == timespec && n >= 8: // read as unsigned, 32 bits of seconds last until 2106
		m.Time = time.Unix(int64(u32(0)), int64(u32(4)))
	case what == timeval && n >= 12:
		m.Time = time.Unix(int64(u64(0)), 1000*int64(int32(u32(8))))
	}
}
