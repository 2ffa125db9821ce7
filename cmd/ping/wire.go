package main

// What ping sends: a packet of one size and form, small enough for every link. An answer is exactly as large as the
// probe that it answers, so that nobody multiplies traffic with a listener's help.

import (
	"encoding/binary"
	"net/netip"
)

// family is an IP version. Everything is done for one and then for the other, and nothing is mixed.
type family int

const (
	ip4 family = iota
	ip6
	families
)

func (f family) String() string { return [families]string{"IPv4", "IPv6"}[f] }

// udp is the network of package net.
func (f family) udp() string { return [families]string{"udp4", "udp6"}[f] }

func familyOf(a netip.Addr) family {
	if a.Is4() {
		return ip4
	}
	return ip6
}

// kind says which way a probe goes, and which way its answer.
type kind uint8

const (
	unicast kind = iota // there and back by unicast
	asmTo               // there by multicast, to a group that the listeners have joined; back by unicast
	asmFrom             // there by unicast; back by multicast, to that group, which the prober has joined as well
	ssmFrom             // there by unicast; back by multicast, to a group that the prober has joined for this source alone
	kinds
)

func (k kind) String() string {
	return [kinds]string{"unicast", "ASM to it", "ASM from it", "SSM from it"}[k]
}

// Flags of an answer.
const (
	flagIP4     = 1 << ip4 // the listener listens by IPv4
	flagIP6     = 1 << ip6
	flagLimited = 1 << 2 // it has left probes of this run without an answer, since there were too many
	flagsAll    = flagIP4 | flagIP6 | flagLimited
)

// noPath stands in a probe to a group, which is for all listeners.
const noPath = 0xffff

// packet is a probe or an answer. An answer repeats kind, nonce, seq and path of its probe.
type packet struct {
	answer bool
	kind   kind
	flags  uint8  // answer: see above
	nonce  uint64 // the run of a prober: what has another one is for somebody else
	id     uint64 // answer: the listener, which has drawn it by lot; never 0
	token  uint64 // answer: what a probe that asks for multicast has to show
	seq    uint32 // counts the probes of a kind and path from 1; 0 is for those that do not count
	heard  uint32 // answer: how many of the counted probes to the group have come to the listener
	path   uint16 // the listener and family that the prober means, by its own numbers
	ttl    uint8  // the TTL or hop limit that this packet was sent with
	seen   uint8  // answer: the one that the probe arrived with; 0 is unknown
	mttl   uint8  // answer: the one that the listener sends multicast with
}

// packetSize is the size of every packet.
const packetSize = 43

const magic = "mcp1" // the last character is the version

// append appends the packet's bytes to b.
func (p packet) append(b []byte) []byte {
	kind := uint8(p.kind)
	if p.answer {
		kind |= 0x80
	}
	b = append(b, magic...)
	b = append(b, kind, p.flags)
	b = binary.BigEndian.AppendUint64(b, p.nonce)
	b = binary.BigEndian.AppendUint64(b, p.id)
	b = binary.BigEndian.AppendUint64(b, p.token)
	b = binary.BigEndian.AppendUint32(b, p.seq)
	b = binary.BigEndian.AppendUint32(b, p.heard)
	b = binary.BigEndian.AppendUint16(b, p.path)
	return append(b, p.ttl, p.seen, p.mttl)
}

// parse reads a packet. It takes nothing that append would not have written, and nothing that is left to chance.
func parse(b []byte) (p packet, ok bool) {
	if len(b) != packetSize || string(b[:len(magic)]) != magic {
		return packet{}, false
	}
	p = packet{
		answer: b[4]&0x80 != 0,
		kind:   kind(b[4] &^ 0x80),
		flags:  b[5],
		nonce:  binary.BigEndian.Uint64(b[6:]),
		id:     binary.BigEndian.Uint64(b[14:]),
		token:  binary.BigEndian.Uint64(b[22:]),
		seq:    binary.BigEndian.Uint32(b[30:]),
		heard:  binary.BigEndian.Uint32(b[34:]),
		path:   binary.BigEndian.Uint16(b[38:]),
		ttl:    b[40],
		seen:   b[41],
		mttl:   b[42],
	}
	return p, p.valid()
}

// valid reports whether the fields go with each other.
func (p packet) valid() bool {
	switch {
	case p.kind >= kinds, p.flags&^flagsAll != 0, (p.kind == asmTo) != (p.path == noPath):
		return false
	case p.answer:
		return p.id != 0
	default:
		return p.flags == 0 && p.id == 0 && p.heard == 0 && p.seen == 0 && p.mttl == 0
	}
}
