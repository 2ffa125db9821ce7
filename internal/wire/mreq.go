// Membership requests: the structures for setsockopt that x/net and x/sys lack on some system.

package wire

import (
	"encoding/binary"
	"net/netip"
)

// MreqLayout is how a system lays out struct group_source_req of RFC 3678: an interface index, and two struct
// sockaddr_storage. Struct group_req has only the first address.
type MreqLayout struct {
	align int // of a sockaddr_storage
	inet6 uint16
}

var (
	MreqLinux   = MreqLayout{align: wordSize, inet6: 10}
	MreqWindows = MreqLayout{align: 8, inet6: 23} // also with a word of 4 bytes: __declspec(align(8))
)

// storage is the size of a struct sockaddr_storage.
const storage = 128

// GroupReq returns a struct group_req.
func (l MreqLayout) GroupReq(ifIndex int, group netip.Addr) []byte {
	b := make([]byte, l.align+storage)
	binary.NativeEndian.PutUint32(b, uint32(ifIndex))
	l.putAddr(b[l.align:], group)
	return b
}

// GroupSourceReq returns a struct group_source_req.
func (l MreqLayout) GroupSourceReq(ifIndex int, group, source netip.Addr) []byte {
	b := append(l.GroupReq(ifIndex, group), make([]byte, storage)...)
	l.putAddr(b[l.align+storage:], source)
	return b
}

// putAddr fills in a struct sockaddr_in or sockaddr_in6 without a port.
func (l MreqLayout) putAddr(b []byte, a netip.Addr) {
	const inet = 2 // everywhere
	if a.Is4() {
		binary.NativeEndian.PutUint16(b, inet)
		copy(b[4:], a.AsSlice())
		return
	}
	binary.NativeEndian.PutUint16(b, l.inet6)
	copy(b[8:], a.AsSlice())
}

// IndexAddr returns the address 0.x.x.x that stands for an interface's index in IPv4 requests of Windows and macOS. It has
// room for 24 bits.
func IndexAddr(ifIndex int) netip.Addr {
	return netip.AddrFrom4([4]byte{0, byte(ifIndex >> 16), byte(ifIndex >> 8), byte(ifIndex)})
}

// Mreq4 returns a struct ip_mreq: group and interface.
func Mreq4(group, ifc netip.Addr) []byte {
	return append(group.AsSlice(), ifc.AsSlice()...)
}

// MreqSource4 returns a struct ip_mreq_source as Windows, macOS and BSD have it: group, source, interface. (Linux
// has the interface second.)
func MreqSource4(group, source, ifc netip.Addr) []byte {
	return append(append(group.AsSlice(), source.AsSlice()...), ifc.AsSlice()...)
}
