// What a firewall of nftables makes of a packet. These functions follow it through the chains as nft_do_chain in the
// kernel's net/netfilter/nf_tables_core.c does, as far as they understand the expressions of the rules: those of
// ordinary rule sets. Of all others they say that they cannot tell, so that what they say is sure.

package doctor

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"slices"

	"golang.org/x/sys/unix"
)

// octets are bytes of a packet, of which those that are not known are -1.
type octets []int16

func unknown(n int) octets { return slices.Repeat(octets{-1}, n) }

func known(b ...byte) octets {
	o := make(octets, len(b))
	for i := range b {
		o[i] = int16(b[i])
	}
	return o
}

func (o octets) set(at int, b ...byte) { copy(o[at:], known(b...)) }

// bytes are the octets if all of them are known.
func (o octets) bytes() (b []byte, ok bool) {
	for _, x := range o {
		if x < 0 {
			return nil, false
		}
		b = append(b, byte(x))
	}
	return b, true
}

// packet is what is known of one that passes a hook.
type packet struct {
	v4        bool
	ifName    string // by which it comes in, or goes out
	ifIndex   int
	ethernet  bool
	out       bool
	protocol  byte
	network   octets
	transport octets
	untracked bool // the connection tracking passes it by
}

// certainty is whether a condition holds.
type certainty int

const (
	no certainty = iota
	maybe
	yes
)

func is(b bool) certainty {
	if b {
		return yes
	}
	return no
}

// outcome is a set of what may become of a packet.
type outcome uint8

const (
	accepts outcome = 1 << iota
	drops
	passes  // to the next rule
	returns // to the chain that has called this one, or to the policy

	anything = accepts | drops | passes
)

// walk is the way of a packet through a base chain.
type walk struct {
	*rules
	p       packet
	state   uint32 // of its connection
	regs    octets
	steps   int
	dropped place // where it was dropped last
	doubt   place // the first rule of which it is not known whether it applies, or what it does
}

// States of connections (include/uapi/linux/netfilter/nf_conntrack_common.h: NF_CT_STATE_BIT). A datagram to a group
// stays new, since no answer comes from a group.
const (
	stateNew       = 1 << 3
	stateUntracked = 1 << 6
)

// fate follows the packet through a base chain.
func (r *rules) fate(p packet, base *chain) (all outcome, dropped place, doubt place) {
	states := []uint32{stateNew}
	if p.untracked {
		states = []uint32{stateUntracked}
	} else if r.notrack {
		states = append(states, stateUntracked)
	}
	for _, state := range states {
		w := walk{rules: r, p: p, state: state, regs: unknown(64)}
		o := w.chain(base, 0)
		if o&returns != 0 {
			o &^= returns
			if base.drops {
				o |= drops
				w.dropped = place{base.key, 0}
			} else {
				o |= accepts
			}
		}
		all, dropped, doubt = all|o, w.dropped, cmp.Or(doubt, w.doubt)
	}
	return all, dropped, doubt
}

// onWay returns the base chains that the packet passes on this machine.
func (r *rules) onWay(p packet) (way []*chain) {
	for _, c := range r.chains {
		family := c.key.table.family
		ip := family == unix.NFPROTO_INET || family == unix.NFPROTO_IPV4 && p.v4 || family == unix.NFPROTO_IPV6 && !p.v4
		device := slices.Contains(c.devices, p.ifName)
		here := false
		switch {
		case !c.base || r.dormant[c.key.table]:
		case p.out:
			here = ip && (c.hook == unix.NF_INET_LOCAL_OUT || c.hook == unix.NF_INET_POST_ROUTING) ||
				family == unix.NFPROTO_NETDEV && c.hook == unix.NF_NETDEV_EGRESS && device
		default:
			here = ip && (c.hook == unix.NF_INET_PRE_ROUTING || c.hook == unix.NF_INET_LOCAL_IN) ||
				family == unix.NFPROTO_INET && c.hook == nftInetIngress && device ||
				family == unix.NFPROTO_NETDEV && c.hook == unix.NF_NETDEV_INGRESS && device
		}
		if here {
			way = append(way, c)
		}
	}
	slices.SortFunc(way, func(a, b *chain) int { return cmp.Compare(a.key.words(), b.key.words()) })
	return way
}

// Limits of a walk: that of jumps is the kernel's, that of rules is for rule sets whose chains call each other a lot.
const (
	maxJumps = 16
	maxSteps = 100_000
)

// chain follows the packet through a chain, as far as it goes in it.
func (w *walk) chain(c *chain, jumps int) (all outcome) {
	if c == nil || jumps > maxJumps {
		return accepts | drops
	}
	for _, r := range c.rules {
		if w.steps++; w.steps > maxSteps {
			return accepts | drops
		}
		o := w.rule(r, place{c.key, r.handle}, jumps)
		all |= o &^ passes
		if o&passes == 0 {
			return all
		}
	}
	return all | returns
}

func (w *walk) rule(r rule, at place, jumps int) outcome {
	var otherwise outcome // passes, if it is not sure that the rule applies
	for _, x := range r.expressions {
		holds, o := w.expression(x, at, jumps)
		if holds == no {
			return passes
		}
		if holds == maybe {
			otherwise = passes
		}
		if holds == maybe || o == anything {
			w.doubt = cmp.Or(w.doubt, at)
		}
		if o != 0 {
			return o | otherwise
		}
	}
	return passes
}

// verdict is what becomes of a packet by NFTA_DATA_VERDICT.
func (w *walk) verdict(data map[uint16][]byte, at place, jumps int) outcome {
	v := attributes(data[unix.NFTA_DATA_VERDICT])
	target := w.chains[chainKey{at.chain.table, unix.ByteSliceToString(v[unix.NFTA_VERDICT_CHAIN])}]
	switch code := int32(big32(v[unix.NFTA_VERDICT_CODE])); code {
	case 0: // NF_DROP
		w.dropped = at
		return drops
	case 1: // NF_ACCEPT
		return accepts
	case unix.NFT_CONTINUE, unix.NFT_BREAK:
		return passes
	case unix.NFT_RETURN:
		return returns
	case unix.NFT_GOTO:
		return w.chain(target, jumps+1)
	case unix.NFT_JUMP:
		o := w.chain(target, jumps+1)
		if o&returns != 0 {
			o = o&^returns | passes
		}
		return o
	}
	return anything // NF_QUEUE, which asks a program
}

// expression tells whether the rule goes on after the expression and, if it ends the rule, what becomes of the packet.
func (w *walk) expression(x expression, at place, jumps int) (certainty, outcome) {
	switch x.name {
	case "counter", "log", "last", "notrack":
		return yes, 0
	case "limit", "connlimit", "quota", "dynset":
		return maybe, 0
	case "meta":
		return w.load(x.all, unix.NFTA_META_DREG, w.meta(big32(x.all[unix.NFTA_META_KEY]))), 0
	case "payload":
		if x.all[unix.NFTA_PAYLOAD_SREG] != nil { // which writes into the packet
			return yes, anything
		}
		return w.load(x.all, unix.NFTA_PAYLOAD_DREG, w.payload(x.all)), 0
	case "ct":
		data := unknown(16)
		switch key := big32(x.all[unix.NFTA_CT_KEY]); {
		case key == unix.NFT_CT_STATE:
			data = known(binary.NativeEndian.AppendUint32(nil, w.state)...)
		case key == unix.NFT_CT_STATUS && !w.nat: // firewalld asks for dnat
			data = known(0, 0, 0, 0)
		}
		return w.load(x.all, unix.NFTA_CT_DREG, data), 0
	case "fib":
		data := unknown(16)
		if big32(x.all[unix.NFTA_FIB_RESULT]) == unix.NFT_FIB_RESULT_ADDRTYPE &&
			big32(x.all[unix.NFTA_FIB_FLAGS])&unix.NFTA_FIB_F_DADDR != 0 {
			data = known(binary.NativeEndian.AppendUint32(nil, unix.RTN_MULTICAST)...)
		}
		return w.load(x.all, unix.NFTA_FIB_DREG, data), 0
	case "immediate":
		data := attributes(x.all[unix.NFTA_IMMEDIATE_DATA])
		if big32(x.all[unix.NFTA_IMMEDIATE_DREG]) == unix.NFT_REG_VERDICT {
			return yes, w.verdict(data, at, jumps)
		}
		return w.load(x.all, unix.NFTA_IMMEDIATE_DREG, known(data[unix.NFTA_DATA_VALUE]...)), 0
	case "bitwise":
		return w.bitwise(x.all), 0
	case "cmp":
		data := attributes(x.all[unix.NFTA_CMP_DATA])[unix.NFTA_DATA_VALUE]
		have := w.register(x.all[unix.NFTA_CMP_SREG], len(data))
		return compare(big32(x.all[unix.NFTA_CMP_OP]), have, data), 0
	case "range":
		from := attributes(x.all[unix.NFTA_RANGE_FROM_DATA])[unix.NFTA_DATA_VALUE]
		to := attributes(x.all[unix.NFTA_RANGE_TO_DATA])[unix.NFTA_DATA_VALUE]
		have, ok := w.register(x.all[unix.NFTA_RANGE_SREG], len(from)).bytes()
		if !ok {
			return maybe, 0
		}
		in := bytes.Compare(from, have) <= 0 && bytes.Compare(have, to) <= 0
		return is(in == (big32(x.all[unix.NFTA_RANGE_OP]) == unix.NFT_RANGE_EQ)), 0
	case "lookup":
		return w.lookup(x.all, at, jumps)
	case "reject":
		w.dropped = at
		return yes, drops
	case "match":
		return w.match(x), 0
	case "target":
		switch x.extension() {
		case "REJECT":
			w.dropped = at
			return yes, drops
		case "LOG", "NFLOG", "MARK", "CONNMARK", "TRACE", "CT", "NOTRACK":
			return yes, passes
		}
	}
	return yes, anything
}

// slot is where a register begins: those of 16 bytes, and those of 4, are the same memory.
func slot(b []byte) (at int, ok bool) {
	switch reg := big32(b); {
	case reg >= unix.NFT_REG_1 && reg <= unix.NFT_REG_4:
		return int(reg-unix.NFT_REG_1) * unix.NFT_REG_SIZE, true
	case reg >= unix.NFT_REG32_00 && reg <= unix.NFT_REG32_15:
		return int(reg-unix.NFT_REG32_00) * unix.NFT_REG32_SIZE, true
	}
	return 0, false
}

// register is what n bytes of the registers hold.
func (w *walk) register(reg []byte, n int) octets {
	at, ok := slot(reg)
	if !ok || at+n > len(w.regs) {
		return unknown(n)
	}
	return w.regs[at : at+n]
}

// load sets a register, which the kernel fills up to whole words. What loads nothing, but sets a mark and the like,
// changes no outcome that is told.
func (w *walk) load(all map[uint16][]byte, reg uint16, data octets) certainty {
	if at, ok := slot(all[reg]); ok {
		for len(data)%unix.NFT_REG32_SIZE != 0 {
			data = append(data, 0)
		}
		copy(w.regs[at:], data)
	}
	return yes
}

func (w *walk) meta(key uint32) octets {
	switch key {
	case unix.NFT_META_PROTOCOL:
		if w.p.v4 {
			return known(0x08, 0x00)
		}
		return known(0x86, 0xdd)
	case unix.NFT_META_NFPROTO:
		if w.p.v4 {
			return known(unix.NFPROTO_IPV4)
		}
		return known(unix.NFPROTO_IPV6)
	case unix.NFT_META_L4PROTO:
		return known(w.p.protocol)
	case unix.NFT_META_PKTTYPE:
		if w.p.ethernet && !w.p.out {
			return known(unix.PACKET_MULTICAST)
		}
	case unix.NFT_META_IIF, unix.NFT_META_OIF:
		if w.p.out == (key == unix.NFT_META_OIF) {
			return known(binary.NativeEndian.AppendUint32(nil, uint32(w.p.ifIndex))...)
		}
	case unix.NFT_META_IIFNAME, unix.NFT_META_OIFNAME:
		if w.p.out == (key == unix.NFT_META_OIFNAME) {
			name := make(octets, unix.IFNAMSIZ)
			name.set(0, []byte(w.p.ifName)...)
			return name
		}
	}
	return unknown(unix.NFT_REG_SIZE)
}

func (w *walk) payload(all map[uint16][]byte) octets {
	header := octets(nil)
	switch big32(all[unix.NFTA_PAYLOAD_BASE]) {
	case unix.NFT_PAYLOAD_NETWORK_HEADER:
		header = w.p.network
	case unix.NFT_PAYLOAD_TRANSPORT_HEADER:
		header = w.p.transport
	}
	data := unknown(int(min(big32(all[unix.NFTA_PAYLOAD_LEN]), uint32(len(w.regs)))))
	if at := big32(all[unix.NFTA_PAYLOAD_OFFSET]); uint64(at) < uint64(len(header)) {
		copy(data, header[at:])
	}
	return data
}

func (w *walk) bitwise(all map[uint16][]byte) certainty {
	mask := attributes(all[unix.NFTA_BITWISE_MASK])[unix.NFTA_DATA_VALUE]
	xor := attributes(all[unix.NFTA_BITWISE_XOR])[unix.NFTA_DATA_VALUE]
	have := slices.Clone(w.register(all[unix.NFTA_BITWISE_SREG], int(min(big32(all[unix.NFTA_BITWISE_LEN]), 64))))
	for i := range have {
		switch {
		case len(mask) != len(have) || len(xor) != len(have): // a shift, or one of newer kernels
			have[i] = -1
		case mask[i] == 0:
			have[i] = int16(xor[i])
		case have[i] >= 0:
			have[i] = int16(byte(have[i])&mask[i] ^ xor[i])
		}
	}
	return w.load(all, unix.NFTA_BITWISE_DREG, have)
}

// same tells whether octets are these bytes. One that is known to differ settles it.
func same(have octets, data []byte) certainty {
	c := is(len(have) == len(data))
	for i := range min(len(have), len(data)) {
		switch {
		case have[i] < 0:
			c = min(c, maybe)
		case have[i] != int16(data[i]):
			return no
		}
	}
	return c
}

func compare(op uint32, have octets, data []byte) certainty {
	switch op {
	case unix.NFT_CMP_EQ:
		return same(have, data)
	case unix.NFT_CMP_NEQ:
		return yes - same(have, data)
	}
	b, ok := have.bytes()
	if !ok {
		return maybe
	}
	order := bytes.Compare(b, data)
	switch op {
	case unix.NFT_CMP_LT:
		return is(order < 0)
	case unix.NFT_CMP_LTE:
		return is(order <= 0)
	case unix.NFT_CMP_GT:
		return is(order > 0)
	case unix.NFT_CMP_GTE:
		return is(order >= 0)
	}
	return maybe
}

// lookup looks a register up in a set or, if there is a register for the result, in a map.
func (w *walk) lookup(all map[uint16][]byte, at place, jumps int) (certainty, outcome) {
	s := w.sets[chainKey{at.chain.table, unix.ByteSliceToString(all[unix.NFTA_LOOKUP_SET])}]
	result, isMap := all[unix.NFTA_LOOKUP_DREG]
	verdicts := isMap && big32(result) == unix.NFT_REG_VERDICT
	found, in := s.find(func(n int) octets { return w.register(all[unix.NFTA_LOOKUP_SREG], n) })
	if big32(all[unix.NFTA_LOOKUP_FLAGS])&unix.NFT_LOOKUP_F_INV != 0 {
		in = yes - in
	}
	switch {
	case in == no:
		return no, 0
	case verdicts && in == maybe:
		return maybe, anything
	case verdicts:
		return yes, w.verdict(found.data, at, jumps)
	case isMap:
		w.load(all, unix.NFTA_LOOKUP_DREG, unknown(len(w.regs)))
	}
	return in, 0
}

// find looks for the element of a set that the register is in, which it is asked for with the length of a key.
func (s *ruleSet) find(register func(n int) octets) (found element, in certainty) {
	switch {
	case s == nil || s.flags&(unix.NFT_SET_EVAL|unix.NFT_SET_TIMEOUT) != 0,
		s.flags&unix.NFT_SET_INTERVAL != 0 && s.flags&nftSetConcat != 0:
		return found, maybe // of nothing known, of what comes and goes, or of ranges in each of several fields
	case s.flags&unix.NFT_SET_INTERVAL != 0:
		for _, e := range s.elements {
			b, ok := register(len(e.key)).bytes()
			if !ok {
				return found, maybe
			}
			below := bytes.Compare(e.key, found.key)
			if bytes.Compare(e.key, b) <= 0 && (found.key == nil || below > 0 || below == 0 && !e.end) {
				found = e // the last that begins at or before it
			}
		}
		return found, is(found.key != nil && !found.end)
	}
	for _, e := range s.elements {
		if c := same(register(len(e.key)), e.key); c > in {
			found, in = e, c
		}
	}
	return found, in
}

// match tells whether a packet fits to what an extension of iptables asks.
func (w *walk) match(x expression) certainty {
	info := x.all[unix.NFTA_MATCH_INFO]
	u16 := func(at int) uint16 { return binary.NativeEndian.Uint16(info[at:]) }
	switch x.extension() {
	case "comment":
		return yes
	case "conntrack": // struct xt_conntrack_mtinfo3
		const flags, inverted, states, end, state = 146, 148, 150, 154, 1 // XT_CONNTRACK_STATE
		if big32(x.all[unix.NFTA_MATCH_REV]) < 2 || len(info) < end || u16(flags) != state {
			return maybe
		}
		bit := uint16(stateNew)
		if w.state == stateUntracked {
			bit = 1 << 8 // XT_CONNTRACK_STATE_UNTRACKED
		}
		return is(u16(states)&bit != 0 == (u16(inverted)&state == 0))
	}
	return maybe
}
