// The rules of nftables, as the kernel tells them over netlink (include/uapi/linux/netfilter/nf_tables.h), read by pure
// functions. What is made of them is in verdict_linux.go.

package doctor

import (
	"encoding/binary"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// rules are the rule sets of a network namespace, as far as they were read.
type rules struct {
	dormant map[tableKey]bool
	chains  map[chainKey]*chain
	sets    map[chainKey]*ruleSet
	counted map[place]uint64 // packets, of rules that count them
	notrack bool             // some rule has the connection tracking pass packets by
	nat     bool             // some rule changes destinations
}

type (
	tableKey struct {
		family byte
		name   string
	}
	chainKey struct { // of sets, too
		table tableKey
		name  string
	}
	chain struct {
		key     chainKey
		base    bool
		hook    uint32
		devices []string // of the hooks that have some
		drops   bool     // its policy
		rules   []rule
	}
	rule struct {
		handle      uint64
		expressions []expression
	}
	expression struct {
		name string
		all  map[uint16][]byte
	}
	ruleSet struct {
		flags    uint32
		elements []element
	}
	element struct {
		key  []byte
		end  bool // of an interval, which it is not part of
		data map[uint16][]byte
	}
)

func newRules() *rules {
	return &rules{dormant: make(map[tableKey]bool), chains: make(map[chainKey]*chain), sets: make(map[chainKey]*ruleSet),
		counted: make(map[place]uint64)}
}

// Attributes and flags that x/sys lacks (include/uapi/linux/netfilter/nf_tables.h).
const (
	nftaHookDevs    = 4
	nftSetConcat    = 0x80
	nftaSetElemExpr = 11 // NFTA_SET_ELEM_EXPRESSIONS
	nftInetIngress  = 5  // NF_INET_INGRESS
	setElemCatchAll = 0x2
)

func big32(b []byte) uint32 {
	if len(b) < 4 {
		return 0
	}
	return binary.BigEndian.Uint32(b)
}

func big64(b []byte) uint64 {
	if len(b) < 8 {
		return 0
	}
	return binary.BigEndian.Uint64(b)
}

// read takes in a message of nftables: its type without that of the subsystem, and its body. Tables, chains, rules and
// sets come in this order.
func (r *rules) read(typ uint16, body []byte) {
	const header = 4 // struct nfgenmsg
	if len(body) < header {
		return
	}
	all := attributes(body[header:])
	text := func(typ uint16) string { return unix.ByteSliceToString(all[typ]) }
	table := tableKey{body[0], text(1)} // in all of them the table is the first
	switch typ {
	case unix.NFT_MSG_NEWTABLE:
		r.dormant[table] = big32(all[unix.NFTA_TABLE_FLAGS])&unix.NFT_TABLE_F_DORMANT != 0
	case unix.NFT_MSG_NEWCHAIN:
		c := &chain{key: chainKey{table, text(unix.NFTA_CHAIN_NAME)}}
		if at, ok := all[unix.NFTA_CHAIN_HOOK]; ok {
			hook := attributes(at)
			c.base, c.hook = true, big32(hook[unix.NFTA_HOOK_HOOKNUM])
			c.drops = big32(all[unix.NFTA_CHAIN_POLICY]) == 0 && all[unix.NFTA_CHAIN_POLICY] != nil // NF_DROP
			if name := unix.ByteSliceToString(hook[unix.NFTA_HOOK_DEV]); name != "" {
				c.devices = append(c.devices, name)
			}
			for _, name := range eachAttribute(hook[nftaHookDevs]) {
				c.devices = append(c.devices, unix.ByteSliceToString(name))
			}
		}
		r.chains[c.key] = c
	case unix.NFT_MSG_NEWRULE:
		if c := r.chains[chainKey{table, text(unix.NFTA_RULE_CHAIN)}]; c != nil {
			c.rules = append(c.rules, r.parseRule(c.key, all))
		}
	case unix.NFT_MSG_NEWSET:
		r.sets[chainKey{table, text(unix.NFTA_SET_NAME)}] = &ruleSet{flags: big32(all[unix.NFTA_SET_FLAGS])}
	case unix.NFT_MSG_NEWSETELEM:
		if s := r.sets[chainKey{table, text(unix.NFTA_SET_ELEM_LIST_SET)}]; s != nil {
			for _, b := range eachAttribute(all[unix.NFTA_SET_ELEM_LIST_ELEMENTS]) {
				s.add(attributes(b))
			}
		}
	}
}

func (r *rules) parseRule(in chainKey, all map[uint16][]byte) (parsed rule) {
	parsed.handle = big64(all[unix.NFTA_RULE_HANDLE])
	for _, b := range eachAttribute(all[unix.NFTA_RULE_EXPRESSIONS]) {
		e := attributes(b)
		x := expression{unix.ByteSliceToString(e[unix.NFTA_EXPR_NAME]), attributes(e[unix.NFTA_EXPR_DATA])}
		parsed.expressions = append(parsed.expressions, x)
		switch {
		case x.name == "counter":
			r.counted[place{in, parsed.handle}] = big64(x.all[unix.NFTA_COUNTER_PACKETS])
		case x.name == "notrack", x.name == "target" && slices.Contains([]string{"CT", "NOTRACK"}, x.extension()):
			r.notrack = true
		case slices.Contains([]string{"nat", "redir"}, x.name),
			x.name == "target" && slices.Contains([]string{"DNAT", "REDIRECT", "NETMAP"}, x.extension()):
			r.nat = true
		}
	}
	return parsed
}

// extension is the name of the extension of iptables that a "match" or "target" has.
func (x expression) extension() string { return unix.ByteSliceToString(x.all[unix.NFTA_MATCH_NAME]) }

func (s *ruleSet) add(all map[uint16][]byte) {
	flags := big32(all[unix.NFTA_SET_ELEM_FLAGS])
	e := element{key: attributes(all[unix.NFTA_SET_ELEM_KEY])[unix.NFTA_DATA_VALUE],
		end: flags&unix.NFT_SET_ELEM_INTERVAL_END != 0, data: attributes(all[unix.NFTA_SET_ELEM_DATA])}
	if flags&setElemCatchAll != 0 || all[unix.NFTA_SET_ELEM_EXPR] != nil || all[nftaSetElemExpr] != nil {
		s.flags |= unix.NFT_SET_EVAL // its elements may be of no avail
	}
	s.elements = append(s.elements, e)
}

// place is a rule, or the policy of a base chain if its handle is 0.
type place struct {
	chain  chainKey
	handle uint64
}

var families = map[byte]string{unix.NFPROTO_INET: "inet", unix.NFPROTO_IPV4: "ip", unix.NFPROTO_IPV6: "ip6",
	unix.NFPROTO_NETDEV: "netdev"}

// words are those that nft takes.
func (k chainKey) words() string { return families[k.table.family] + " " + k.table.name + " " + k.name }

func (p place) String() string {
	if p.handle == 0 {
		return "the policy of chain " + p.chain.words()
	}
	return fmt.Sprintf("the rule with handle %d of chain %s", p.handle, p.chain.words())
}
