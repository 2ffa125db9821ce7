// What a system tells of a datagram beside its bytes: control messages, which Linux, macOS and Windows each write in
// their own way. Reading them takes no system call, so that is here, and all three ways are tested everywhere. The numbers
// of Linux are in control_linux.go.

package mcast

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
	"time"
)

// metadata is what control messages tell of a datagram. What they do not tell is zero.
type metadata struct {
	group    netip.Addr // where it was sent to: a group, or an address of this host
	ifIndex  int        // the interface it came in by
	hopLimit int
	time     time.Time
	segment  int // bytes of each of the datagrams that it is made of
}

// controlSize holds every control message that is ever asked for: a timestamp, a hop limit and the packet
// information of IPv6, with room for a system with larger alignment.
const controlSize = 128

// controlFormat is how a system writes control messages. Each has a header of its length (with the header, without
// padding), level and type, and begins where its length field is aligned: see cmsg(3), and WSACMSGHDR in ws2def.h.
type controlFormat struct {
	word  int // bytes of the length field
	kinds []controlKind
}

// controlKind is a control message that this library asks for.
type controlKind struct {
	level, kind int32
	what        controlData
}

// controlData is what a control message has in it, and how.
type controlData int

const (
	hopLimit       controlData = iota // an int or, where that is all there is, a byte
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
	// ws2ipdef.h; that the TTL comes as IP_TTL was seen under Wine, and IP_HOPLIMIT is what the documentation of
	// IP_HOPLIMIT says.
	controlWindows = controlFormat{wordSize, []controlKind{
		{0, 19, pktinfoWindows}, // IP_PKTINFO
		{0, 21, hopLimit},       // IP_HOPLIMIT
		{0, 4, hopLimit},        // IP_TTL
		{41, 19, pktinfo6},      // IPV6_PKTINFO
		{41, 21, hopLimit},      // IPV6_HOPLIMIT
	}}
)

// parseControl reads the control messages that this library asks for and passes over all others. What is cut short
// tells nothing.
func parseControl(b []byte, f *controlFormat) (m metadata) {
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

// read takes what the data of a control message tells, if they are all there.
func (m *metadata) read(what controlData, data []byte) {
	u32 := func(at int) uint32 { return binary.NativeEndian.Uint32(data[at:]) }
	u64 := func(at int) uint64 { return binary.NativeEndian.Uint64(data[at:]) }
	switch n := len(data); {
	case what == hopLimit && n >= 4:
		m.hopLimit = int(int32(u32(0)))
	case what == hopLimit && n > 0:
		m.hopLimit = int(data[0])
	case what == segment && n >= 4:
		m.segment = int(int32(u32(0)))
	case what == pktinfo4 && n >= 12:
		m.ifIndex, m.group = int(u32(0)), netip.AddrFrom4([4]byte(data[8:]))
	case what == pktinfoWindows && n >= 8:
		m.group, m.ifIndex = netip.AddrFrom4([4]byte(data)), int(u32(4))
	case what == pktinfo6 && n >= 20:
		m.group, m.ifIndex = netip.AddrFrom16([16]byte(data)), int(u32(16))
	case what == timespec && n >= 16:
		m.time = time.Unix(int64(u64(0)), int64(u64(8)))
	case what == timespec && n >= 8: // nothing was received before 1970, so that the sign may serve until 2106
		m.time = time.Unix(int64(u32(0)), int64(u32(4)))
	case what == timeval && n >= 12:
		m.time = time.Unix(int64(u64(0)), 1000*int64(int32(u32(8))))
	}
}
