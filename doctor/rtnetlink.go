// The attributes of rtnetlink(7) messages, read by pure functions, as far as Linux's findings need them. Bytes that are
// no attributes end a parse, and never make it panic.

package doctor

import (
	"encoding/binary"
	"iter"
	"maps"
)

// eachAttribute returns the attributes of a message, with the flags of the type taken off.
func eachAttribute(b []byte) iter.Seq2[uint16, []byte] {
	const header, flags = 4, 0xc000 // NLA_F_NESTED, NLA_F_NET_BYTEORDER
	return func(yield func(uint16, []byte) bool) {
		for rest := b; len(rest) >= header; {
			size := int(binary.NativeEndian.Uint16(rest))
			typ := binary.NativeEndian.Uint16(rest[2:]) &^ flags
			if size < header || size > len(rest) || !yield(typ, rest[header:size]) {
				break
			}
			rest = rest[min(len(rest), (size+3)&^3):]
		}
	}
}

// attributes returns the attributes of a message by type. Of several of a type the last counts.
func attributes(b []byte) map[uint16][]byte {
	return maps.Collect(eachAttribute(b))
}

// nextHops returns the interfaces of the next hops in an RTA_MULTIPATH attribute: each has a length, flags, and an
// index.
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
