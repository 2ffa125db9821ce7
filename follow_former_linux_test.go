//go:build !mcast_portable

package mcast

import (
	"net/netip"
	"testing"
)

// TestFollowFormerShared takes an address from the interface while some sockets have a datagram. They share one set of what
// was lost, and a socket that nobody reads keeps a bounded number of such sets.
func TestFollowFormerShared(t *testing.T) {
	f := openFollowed(t, func(c *RxConfig) { c.Groups = groups("239.1.1.1", "239.1.1.2", "239.1.1.3") })
	deaf := openDeaf(f)
	for _, g := range f.rx.cfg.Groups[:2] {
		must(t, 0, errOf(f.tx.WriteToUDPAddrPort([]byte("own"), netip.AddrPortFrom(g, 5000))))
	}
	f.veth.DelAddress(netip.MustParsePrefix("10.9.9.1/24"))
	f.await("an address is lost", func() bool {
		deaf.mu.Lock()
		defer deaf.mu.Unlock()
		return len(deaf.links[0].ifc.IPv4) == 0
	})
	deaf.mu.Lock()
	defer deaf.mu.Unlock()
	var conns []*conn
	deaf.eachPair(deaf.links[0], func(p *pair) { conns = append(conns, p.conns...) })
	deaf.m.update(func() {
		first, second, idle := conns[0].filter.former, conns[1].filter.former, conns[2].filter.former
		if len(first) != 1 || len(second) != 1 || first[0] != second[0] || !first[0].has(netip.MustParseAddr("10.9.9.1")) {
			t.Errorf("lost: %v and %v, want one set", first, second)
		}
		if len(idle) != 0 {
			t.Errorf("a socket without a datagram keeps %v", idle)
		}
	})
	link := deaf.links[0]
	for i := range 10 * maxFormer {
		before := link.ifc
		link.ifc.IPv4 = []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), 24)}
		deaf.followOwn(link, &before)
	}
	deaf.m.update(func() {
		former := conns[0].filter.former
		if len(former) != maxFormer || cap(former) > 4*maxFormer || !former[maxFormer-1].has(netip.AddrFrom4([4]byte{10, 1, 2, 126})) {
			t.Errorf("%d sets are kept in room for %d, the last is %v", len(former), cap(former), former[len(former)-1])
		}
	})
}
