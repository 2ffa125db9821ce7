//go:build !mcast_portable

package mcast

import (
	"net/netip"
	"testing"
)

// FuzzSockaddr checks that what is stored for the kernel is what is read of it.
func FuzzSockaddr(f *testing.F) {
	f.Add([]byte{239, 1, 2, 3}, uint16(5000), uint32(0))
	f.Add(make([]byte, 16), uint16(1), uint32(7))
	f.Fuzz(func(t *testing.T, ip []byte, port uint16, scope uint32) {
		var raw rawSockaddr
		copy(raw[:], ip)
		var zones zoneCache
		raw.addrPort(&zones, 0) // whatever it is, no panic

		a, ok := netip.AddrFromSlice(ip)
		if !ok || scope > 1<<30 {
			return
		}
		raw.setAddrPort(netip.AddrPortFrom(a, port), int(scope))
		want := netip.AddrPortFrom(a, port)
		if a.Is6() && scope != 0 {
			want = netip.AddrPortFrom(a.WithZone(zones.zone(scope)), port)
		}
		if got := raw.addrPort(&zones, 0); got != want {
			t.Errorf("%v with scope %d comes back as %v", want, scope, got)
		}
	})
}
