// The chains and rules of nftables, as the kernel reports them over netlink (include/uapi/linux/netfilter/nf_tables.h).
// This file reads whether a rule drops, what it has counted and where it jumps to. It reads neither what the rule
// compares nor the elements of sets.

package doctor

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/go-multicast/mcast/internal/rtnl"
	"golang.org/x/sys/unix"
)

type (
	tableKey struct {
		family byte
		name   string
	}
	chainKey struct {
		table tableKey
		name  string
	}
	// chain is a chain that a datagram may pass.
	chain struct {
		chainKey
		base     *chain // the base chain that leads to it; a base chain has itself
		drops    []drop
		anywhere bool // a verdict map of its rules may lead to every chain of the table
	}
	// drop is a rule, or the policy of a base chain, that drops packets or may do so.
	drop struct {
		handle  uint64 // of the rule; 0: the policy
		counts  bool
		packets uint64 // dropped so far, if it counts them
	}
)

// ruleset is what incoming datagrams pass in a network namespace.
type ruleset struct {
	devices []string // that datagrams arrive on
	dormant map[tableKey]bool
	chains  map[chainKey]*chain // the chains of way; nil: a base chain that is on another way
	way     []*chain            // in the order in which they were found
	room    int                 // bytes that it may still keep; negative: something was left out
	version uint16              // low bits of the generation of the rules
	partial string              // why it is not complete, or empty
}

func newRuleset(devices []string, room int) *ruleset {
	return &ruleset{devices: devices, dormant: make(map[tableKey]bool), chains: make(map[chainKey]*chain), room: room}
}

// The memory that entries take, with the growth of slices and maps.
const (
	chainBytes = 300 // besides its names
	dropBytes  = 48
)

// enter adds a chain to the way.
func (r *ruleset) enter(key chainKey, base *chain) *chain {
	c, known := r.chains[key]
	if !known {
		c = &chain{chainKey: key, base: base}
		r.room -= chainBytes + len(key.table.name) + len(key.name)
		r.chains[key] = c
		r.way = append(r.way, c)
	}
	return c
}

func (r *ruleset) addDrop(c *chain, d drop) {
	r.room -= dropBytes
	c.drops = append(c.drops, d)
}

// readTable records a table (NFT_MSG_NEWTABLE) if it is dormant.
func (r *ruleset) readTable(family byte, body []byte) {
	if big32(rtnl.Find(body, unix.NFTA_TABLE_FLAGS))&unix.NFT_TABLE_F_DORMANT != 0 {
		r.room -= chainBytes
		r.dormant[tableKey{family, text(body, unix.NFTA_TABLE_NAME)}] = true
	}
}

// readBase records a chain (NFT_MSG_NEWCHAIN) if the kernel calls it for incoming datagrams.
func (r *ruleset) readBase(family byte, body []byte) {
	const devs = 4 // NFTA_HOOK_DEVS
	hook := rtnl.Find(body, unix.NFTA_CHAIN_HOOK)
	if hook == nil {
		return
	}
	key := chainKey{tableKey{family, text(body, unix.NFTA_CHAIN_TABLE)}, text(body, unix.NFTA_CHAIN_NAME)}
	here := slices.Contains(r.devices, text(hook, unix.NFTA_HOOK_DEV))
	for _, name := range rtnl.Attrs(rtnl.Find(hook, devs)) {
		here = here || slices.Contains(r.devices, unix.ByteSliceToString(name))
	}
	ingress, called := called(family, big32(rtnl.Find(hook, unix.NFTA_HOOK_HOOKNUM)))
	if !called || ingress && !here || r.dormant[key.table] {
		r.chains[key] = nil
		return
	}
	c := r.enter(key, nil)
	c.base = c
	if policy := rtnl.Find(body, unix.NFTA_CHAIN_POLICY); policy != nil && big32(policy) == verdictDrop {
		counters := rtnl.Find(body, unix.NFTA_CHAIN_COUNTERS) // iptables has them
		r.addDrop(c, drop{counts: counters != nil, packets: big64(rtnl.Find(counters, unix.NFTA_COUNTER_PACKETS))})
	}
}

// called reports whether the kernel calls the chains of a hook for incoming datagrams. ingress reports whether it does
// so for some devices only.
func called(family byte, hook uint32) (ingress, called bool) {
	const inetIngress = 5 // NF_INET_INGRESS
	switch family {
	case unix.NFPROTO_NETDEV:
		return true, hook == unix.NF_NETDEV_INGRESS
	case unix.NFPROTO_INET, unix.NFPROTO_IPV4, unix.NFPROTO_IPV6:
		ingress = hook == inetIngress
		return ingress, ingress || hook == unix.NF_INET_PRE_ROUTING || hook == unix.NF_INET_LOCAL_IN
	}
	return false, false
}

// readOther records a chain (NFT_MSG_NEWCHAIN) if the verdict maps of the chain from may lead to it.
func (r *ruleset) readOther(from *chain, family byte, body []byte) {
	table := tableKey{family, text(body, unix.NFTA_CHAIN_TABLE)}
	if table == from.table && rtnl.Find(body, unix.NFTA_CHAIN_HOOK) == nil {
		r.enter(chainKey{table, text(body, unix.NFTA_CHAIN_NAME)}, from.base)
	}
}

// readRule records a rule of the chain (NFT_MSG_NEWRULE). Its counter counts what it drops if no condition follows the
// counter.
func (r *ruleset) readRule(c *chain, body []byte) {
	d := drop{handle: big64(rtnl.Find(body, unix.NFTA_RULE_HANDLE))}
	for _, b := range rtnl.Attrs(rtnl.Find(body, unix.NFTA_RULE_EXPRESSIONS)) {
		name, data := text(b, unix.NFTA_EXPR_NAME), rtnl.Find(b, unix.NFTA_EXPR_DATA)
		switch e := r.effect(c, name, data); {
		case name == "counter":
			d.counts, d.packets = true, big64(rtnl.Find(data, unix.NFTA_COUNTER_PACKETS))
		case e == asks:
			d.counts = false
		case e == drops || e == mayDrop:
			d.counts = d.counts && e == drops
			r.addDrop(c, d)
			return
		}
	}
}

// What an expression does in a rule, as far as it matters here.
const (
	nothing = iota
	asks    // the rule continues only if the packet matches
	mayDrop
	drops
)

const verdictDrop = 0 // NF_DROP

// effect returns what an expression does in a rule of the chain, and follows its jump.
func (r *ruleset) effect(c *chain, name string, data []byte) int {
	switch name {
	case "counter", "log", "last":
		return nothing
	case "reject", "fwd":
		return drops
	case "queue": // to a program
		return mayDrop
	case "target": // of iptables
		return map[string]int{"REJECT": drops, "NFQUEUE": mayDrop}[text(data, unix.NFTA_TARGET_NAME)]
	case "lookup":
		if to := rtnl.Find(data, unix.NFTA_LOOKUP_DREG); to != nil && big32(to) == unix.NFT_REG_VERDICT {
			c.anywhere = true
			return mayDrop
		}
	case "immediate":
		verdict := rtnl.Find(rtnl.Find(data, unix.NFTA_IMMEDIATE_DATA), unix.NFTA_DATA_VERDICT)
		if verdict == nil {
			return nothing
		}
		switch int32(big32(rtnl.Find(verdict, unix.NFTA_VERDICT_CODE))) {
		case verdictDrop:
			return drops
		case unix.NFT_JUMP, unix.NFT_GOTO:
			r.enter(chainKey{c.table, text(verdict, unix.NFTA_VERDICT_CHAIN)}, c.base)
		}
		return nothing
	}
	return asks
}

// place is the position of a drop.
type place struct {
	chain  *chain
	handle uint64
	by     uint64 // packets that it dropped during the watch, if known
}

// since compares the counters of a family's drops with those of an earlier reading. unknown are the drops without a
// counter, and the drops that the earlier reading does not have.
func (r *ruleset) since(earlier *ruleset, v4 bool) (rose, unknown []place) {
	for _, c := range r.way {
		if !c.table.has(v4) {
			continue
		}
		before := make(map[uint64]uint64)
		if e := earlier.chains[c.chainKey]; e != nil {
			for _, d := range e.drops {
				if d.counts {
					before[d.handle] = d.packets
				}
			}
		}
		for _, d := range c.drops {
			if was, ok := before[d.handle]; !ok || !d.counts {
				unknown = append(unknown, place{c, d.handle, 0})
			} else if d.packets > was {
				rose = append(rose, place{c, d.handle, d.packets - was})
			}
		}
	}
	return rose, unknown
}

// has reports whether the table is for datagrams of the family.
func (t tableKey) has(v4 bool) bool {
	return v4 && t.family != unix.NFPROTO_IPV6 || !v4 && t.family != unix.NFPROTO_IPV4
}

var families = map[byte]string{unix.NFPROTO_INET: "inet", unix.NFPROTO_IPV4: "ip", unix.NFPROTO_IPV6: "ip6",
	unix.NFPROTO_NETDEV: "netdev"}

// String returns the words that nft accepts.
func (k chainKey) String() string {
	return families[k.table.family] + " " + k.table.name + " " + k.name
}

func (p place) String() string {
	text := fmt.Sprintf("the rule with handle %d of chain %s", p.handle, p.chain)
	if p.handle == 0 {
		text = "the policy of chain " + p.chain.String()
	}
	if p.by > 0 {
		text += fmt.Sprintf(" (by %d)", p.by)
	}
	return text
}

// text returns the first attribute of a type as a string.
func text(b []byte, typ uint16) string { return unix.ByteSliceToString(rtnl.Find(b, typ)) }

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
