// The entry of all tests, and the addresses of those inside the package.

package mcast

import (
	"net/netip"
	"testing"

	"github.com/go-multicast/mcast/mcasttest"
)

func TestMain(m *testing.M) { mcasttest.Main(m) }

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
