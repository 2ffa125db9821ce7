// Package rtnl speaks netlink(7), in particular rtnetlink(7). It encodes and decodes messages, sends requests to the
// kernel and receives its notices. It decides nothing.
//
// The parsers are pure functions over bytes. They skip what they do not know. Malformed bytes end a parse; they never
// cause a panic.
package rtnl

import (
	"encoding/binary"
	"iter"
	"slices"

	"golang.org/x/sys/unix"
)

// Message is a netlink message: struct nlmsghdr, without length and port, and what follows it.
type Message struct {
	Type  uint16
	Flags uint16
	Seq   uint32 // number of the request that it answers
	Body  []byte
}

// AppendTo appends the encoded message, padded to the alignment of the next one.
func (m Message) AppendTo(b []byte) []byte {
	b = binary.NativeEndian.AppendUint32(b, uint32(unix.SizeofNlMsghdr+len(m.Body)))
	b = binary.NativeEndian.AppendUint16(b, m.Type)
	b = binary.NativeEndian.AppendUint16(b, m.Flags)
	b = binary.NativeEndian.AppendUint32(b, m.Seq)
	b = binary.NativeEndian.AppendUint32(b, 0) // port: the kernel fills it in
	b = append(b, m.Body...)
	return append(b, make([]byte, -len(b)&3)...)
}

// Messages iterates over encoded messages. It ends at the first malformed one. The bodies are parts of b.
func Messages(b []byte) iter.Seq[Message] {
	return func(yield func(Message) bool) {
		for len(b) >= unix.SizeofNlMsghdr {
			size := binary.NativeEndian.Uint32(b)
			if size < unix.SizeofNlMsghdr || uint64(size) > uint64(len(b)) {
				return
			}
			m := Message{
				Type:  binary.NativeEndian.Uint16(b[4:]),
				Flags: binary.NativeEndian.Uint16(b[6:]),
				Seq:   binary.NativeEndian.Uint32(b[8:]),
				Body:  b[unix.SizeofNlMsghdr:size],
			}
			if !yield(m) {
				return
			}
			b = b[align(int(size), len(b)):]
		}
	}
}

// Attr encodes an attribute. The value of a nested attribute is the encoded attributes in it.
func Attr(typ uint16, value ...[]byte) []byte {
	b := slices.Concat(append([][]byte{make([]byte, unix.SizeofNlAttr)}, value...)...)
	binary.NativeEndian.PutUint16(b, uint16(len(b)))
	binary.NativeEndian.PutUint16(b[2:], typ)
	return append(b, make([]byte, -len(b)&3)...)
}

// Attrs iterates over encoded attributes. It yields their types, without the flags in them, and their values, which are
// parts of b. It ends at the first malformed one.
func Attrs(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= unix.SizeofNlAttr {
			size, typ := int(binary.NativeEndian.Uint16(b)), binary.NativeEndian.Uint16(b[2:])
			if size < unix.SizeofNlAttr || size > len(b) {
				return
			}
			if !yield(typ&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER), b[unix.SizeofNlAttr:size]) {
				return
			}
			b = b[align(size, len(b)):]
		}
	}
}

// Find returns the value of the first attribute of a type, or nil if there is none.
func Find(b []byte, typ uint16) []byte {
	for t, value := range Attrs(b) {
		if t == typ {
			return value
		}
	}
	return nil
}

// Uint32 returns the value of an attribute of 4 bytes, and 0 for any other.
func Uint32(value []byte) uint32 {
	if len(value) != 4 {
		return 0
	}
	return binary.NativeEndian.Uint32(value)
}

// align returns where the next message or attribute begins: at a multiple of 4, or at the end.
func align(n, end int) int { return min((n+3)&^3, end) }
