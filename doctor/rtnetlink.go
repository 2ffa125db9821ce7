// The attributes of rtnetlink(7) messages, read by pure functions, as far as Linux's findings need them. Bytes that are
// no attributes end a parse, and never make it panic.

package doctor

import "encoding/binary"

// attributes returns the attributes of a message by type, with the flags of the type taken off. Of several of a type
// the last counts.
func attributes(b []byte) map[uint16][]byte {
	const header, flags = 4, 0xc000 // NLA_F_NESTED, NLA_F_NET_BYTEORDER
	all := make(map[uint16][]byte)
	for len(b) >= header {
		size := int(binary.NativeEndian.Uint16(b))
		if size < header || size > len(b) {
			break
		}
		all[binary.NativeEndian.Uint16(b[2:])&^flags] = b[header:size]
		b = b[min(len(b), (size+3)&^3):]
	}
	return all
}

// nextHops returns the interfaces of the next hops in an RTA_MULTIPATH attribute: each has a length, flags, and an index.
func nextHops(b []byte) (indexes []int) {
	const header = 8 // struct rtnexthop
	for len(b) >= header {
		size := int(binary.NativeEndian.Uint16(b))
		if size < header || size > len(b) {
			break
		}
		indexes = append(indexes, int(binary.NativeEndian.Uint32(b[4:])))
		b = b[min(len(b), (size+3)&^3):]
	}
	return indexes
}
