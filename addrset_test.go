package mcast

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
)

// TestAddrSet compares sets of all sizes with the lists that they were made of, which may change then.
func TestAddrSet(t *testing.T) {
	for _, first := range []string{"10.0.0.1", "fd00::1"} {
		for n := range 3 * fewAddrs {
			all := sequence(first, n)
			others := sequence(strangerLike(first), 3)
			changed := slices.Concat(all, all) // each twice
			s := newAddrSet(changed)
			clear(changed)
			if (s == nil) != (n == 0) {
				t.Errorf("the set of %d addresses is nil: %v", n, s == nil)
			}
			for _, a := range all {
				if !s.has(a) {
					t.Errorf("%s is not in the set of %d addresses", a, n)
				}
			}
			for _, a := range append(others, netip.Addr{}) {
				if s.has(a) {
					t.Errorf("%s is in the set of %d addresses from %s on", a, n, first)
				}
			}
		}
	}
}

// strangerLike returns an address of the family of first which no short sequence from there has.
func strangerLike(first string) string {
	if netip.MustParseAddr(first).Is4() {
		return "10.200.0.1"
	}
	return "fd00:1::1"
}

// BenchmarkScreen is what a datagram of another host costs a socket that discards those of this host. It must not depend on
// how many addresses there are.
func BenchmarkScreen(b *testing.B) {
	for _, n := range []int{1, 4, fewAddrs, 200, 2000} {
		c := conn{filter: sourceFilter{own: newAddrSet(sequence("10.0.0.1", n))}}
		src := netip.MustParseAddr("10.200.0.1")
		b.Run(fmt.Sprintf("own=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if c.refuses(src, 1) {
					b.Fatal("refused")
				}
			}
		})
	}
}
