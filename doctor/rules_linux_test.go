// The readers of nftables' messages by themselves. What they make of real rules is tested in firewall_linux_test.go.

package doctor

import (
	"encoding/binary"
	"slices"
	"testing"

	"github.com/go-multicast/mcast/internal/rtnl"
	"golang.org/x/sys/unix"
)

// readMessages takes in netlink messages as readAll does.
func readMessages(b []byte, room int) *ruleset {
	const header = 4
	r := newRuleset([]string{"eth0"}, room)
	for m := range rtnl.Messages(b) {
		if len(m.Body) < header {
			continue
		}
		family, body := m.Body[0], m.Body[header:]
		switch m.Type & 0xff {
		case unix.NFT_MSG_NEWTABLE:
			r.readTable(family, body)
		case unix.NFT_MSG_NEWCHAIN:
			r.readBase(family, body)
			for _, c := range r.way {
				if c.anywhere {
					r.readOther(c, family, body)
				}
			}
		case unix.NFT_MSG_NEWRULE:
			key := chainKey{tableKey{family, text(body, unix.NFTA_RULE_TABLE)}, text(body, unix.NFTA_RULE_CHAIN)}
			if c := r.chains[key]; c != nil {
				r.readRule(c, body)
			}
		}
	}
	return r
}

// Any bytes end in a result whose size is bounded. The corpus is of Linux 6.18 on a little-endian machine.
func FuzzRules(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte) {
		const room = 1 << 20
		r := readMessages(b, room)
		size := 0
		for _, c := range r.way {
			size += chainBytes + len(c.table.name) + len(c.name) + dropBytes*len(c.drops)
			if c.base == nil || c.base.base != c.base || r.chains[c.chainKey] != c || r.chains[c.base.chainKey] != c.base {
				t.Errorf("chain %s has no base chain", c)
			}
		}
		if size > room-r.room {
			t.Errorf("it keeps %d bytes and counts %d", size, room-r.room)
		}
		for _, v4 := range []bool{true, false} {
			_, unknown := r.since(r, v4)
			for _, p := range unknown {
				_ = p.String()
			}
		}
	})
}

// What a kernel may lack, so that no rule can be made with it.
func TestRuleEffects(t *testing.T) {
	expression := func(name string, attributes ...[]byte) []byte {
		return rtnl.Attr(unix.NFTA_LIST_ELEM, slices.Concat(rtnl.Attr(unix.NFTA_EXPR_NAME, []byte(name)),
			rtnl.Attr(unix.NFTA_EXPR_DATA, slices.Concat(attributes...))))
	}
	target := func(name string) []byte {
		return expression("target", rtnl.Attr(unix.NFTA_TARGET_NAME, []byte(name+"\x00")))
	}
	counter := expression("counter", rtnl.Attr(unix.NFTA_COUNTER_PACKETS, binary.BigEndian.AppendUint64(nil, 7)))
	sure, may := []drop{{handle: 0, counts: true, packets: 7}}, []drop{{packets: 7}}
	for name, test := range map[string]struct {
		last []byte
		want []drop
	}{
		"queue":      {expression("queue"), may},
		"NFQUEUE":    {target("NFQUEUE"), may},
		"fwd":        {expression("fwd"), sure},
		"REJECT":     {target("REJECT"), sure},
		"MARK":       {target("MARK"), nil},
		"set lookup": {expression("lookup", rtnl.Attr(unix.NFTA_LOOKUP_SET, []byte("ports\x00"))), nil},
	} {
		c := &chain{}
		newRuleset(nil, 1<<20).readRule(c, rtnl.Attr(unix.NFTA_RULE_EXPRESSIONS, slices.Concat(counter, test.last)))
		if !slices.Equal(c.drops, test.want) {
			t.Errorf("%s: %+v, want %+v", name, c.drops, test.want)
		}
	}
}
