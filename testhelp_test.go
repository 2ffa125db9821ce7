// What the tests of this package share.

package mcast

import "net/netip"

func groups(texts ...string) (addrs []netip.Addr) {
	for _, s := range texts {
		addrs = append(addrs, netip.MustParseAddr(s))
	}
	return addrs
}

// sequence returns n addresses, counted from the first.
func sequence(first string, n int) (addrs []netip.Addr) {
	for a := netip.MustParseAddr(first); len(addrs) < n; a = a.Next() {
		addrs = append(addrs, a)
	}
	return addrs
}
