// What names a membership to a system: the structures of setsockopt that x/net and x/sys have not got, or not for
// every system. Filling them in takes no system call, so all are here, and tested everywhere.

package mcast

import (
	"encoding/binary"
	"net/netip"
)

// mreqLayout is how a system lays out struct group_source_req of RFC 3678: an interface index, and two struct
// sockaddr_storage. Struct group_req has but the first.
type mreqLayout struct {
	align int // of a sockaddr_storage
	inet6 uint16
}

var (
	mreqLinux   = mreqLayout{align: wordSize, inet6: 10}
	mreqWindows = mreqLayout{align: 8, inet6: 23} // also where a word is 4 bytes: __declspec(align(8))
)

// storage is the size of a struct sockaddr_storage.
const storage = 128

// groupReq fills in a struct group_req.
func (l mreqLayout) groupReq(ifIndex int, group netip.Addr) []byte {
	b := make([]byte, l.align+storage)
	binary.NativeEndian.PutUint32(b, uint32(ifIndex))
	l.putAddr(b[l.align:], group)
	return b
}

// groupSourceReq fills in a struct group_source_req.
func (l mreqLayout) groupSourceReq(ifIndex int, group, source netip.Addr) []byte {
	b := append(l.groupReq(ifIndex, group), make([]byte, storage)...)
	l.putAddr(b[l.align+storage:], source)
	return b
}

// putAddr fills in a struct sockaddr_in or sockaddr_in6 without a port.
func (l mreqLayout) putAddr(b []byte, a netip.Addr) {
	const inet = 2 // everywhere
	if a.Is4() {
		binary.NativeEndian.PutUint16(b, inet)
		copy(b[4:], a.AsSlice())
		return
	}
	binary.NativeEndian.PutUint16(b, l.inet6)
	copy(b[8:], a.AsSlice())
}

// indexAddr is an interface's index in the place of its IPv4 address, which Windows and macOS take for IPv4: 0.x.x.x,
// in network order. It has room for 24 bits.
func indexAddr(ifIndex int) netip.Addr {
	return netip.AddrFrom4([4]byte{0, byte(ifIndex >> 16), byte(ifIndex >> 8), byte(ifIndex)})
}

// mreq4 fills in a struct ip_mreq: group and interface.
func mreq4(group, ifc netip.Addr) []byte {
	return append(group.AsSlice(), ifc.AsSlice()...)
}

// mreqSource4 fills in a struct ip_mreq_source as Windows, macOS and BSD have it: group, source, interface. (Linux
// has the interface second.)
func mreqSource4(group, source, ifc netip.Addr) []byte {
	return append(append(group.AsSlice(), source.AsSlice()...), ifc.AsSlice()...)
}
