package route

import (
	"net/netip"
	"testing"
)

// bsdTestRoute is a route as netstat -rn shows it: destination, flags, interface.
func bsdTestRoute(dst, flags string, index int) bsdRoute {
	r := bsdRoute{index: index}
	for _, f := range flags {
		r.flags |= map[rune]int{
			'U': 0x1, 'G': 0x2, 'H': 0x4, 'R': 0x8, 'B': 0x1000, 'I': 0x1000000,
			'S': 0x800, 'C': 0x100, 'c': 0x10000, 'W': 0x20000, 'L': 0x400, 'g': 0x40000000, 'i': 0x4000000, // no matter
		}[f]
	}
	if p, err := netip.ParsePrefix(dst); err == nil {
		r.dst = p.Addr()
		ones := make([]byte, p.Addr().BitLen()/8)
		for bit := range p.Bits() {
			ones[bit/8] |= 0x80 >> (bit % 8)
		}
		r.mask, _ = netip.AddrFromSlice(ones)
	} else if dst != "" {
		r.dst = netip.MustParseAddr(dst)
	}
	return r
}

func TestBSDDefault(t *testing.T) {
	route := bsdTestRoute
	for _, test := range []struct {
		name     string
		routes   []bsdRoute
		ip4, ip6 int
	}{
		{"empty", nil, 0, 0},
		{"the usual", []bsdRoute{
			route("0.0.0.0/0", "UGScg", 4),
			route("127.0.0.0/8", "UCS", 1),
			route("127.0.0.1", "UH", 1),
			route("192.168.51.0/24", "UCS", 4),
			route("::/0", "UGcg", 5),
			route("::1", "UHL", 1),
			route("fe80::/64", "UCI", 5),
		}, 4, 5},
		{"two, one scoped", []bsdRoute{
			route("0.0.0.0/0", "UGScIg", 5),
			route("0.0.0.0/0", "UGScg", 4),
			route("0.0.0.0/0", "UGScIg", 6),
			route("::/0", "UGcg", 7),
			route("::/0", "UGcIg", 5),
		}, 4, 7},
		{"only scoped", []bsdRoute{
			route("0.0.0.0/0", "UGScIg", 4),
			route("::/0", "UGcIg", 15),
			route("::/0", "UGcIg", 16),
		}, 0, 0},
		{"a VPN that leads by itself", []bsdRoute{
			route("0.0.0.0/0", "UCSg", 21),
			route("0.0.0.0/0", "UGScIg", 4),
			route("::/0", "UCSg", 21),
		}, 21, 21},
		{"a VPN beside a gateway", []bsdRoute{
			route("0.0.0.0/0", "UCSg", 21),
			route("0.0.0.0/0", "UGScg", 4),
			route("::/0", "UGcg", 5),
			route("::/0", "UCSg", 21),
		}, 4, 5},
		{"two VPNs", []bsdRoute{
			route("0.0.0.0/0", "UCSg", 21),
			route("0.0.0.0/0", "UCSg", 22),
		}, 21, 0},
		{"a VPN of two halves", []bsdRoute{
			route("0.0.0.0/1", "UGSc", 21),
			route("0.0.0.0/0", "UGScg", 4),
			route("128.0.0.0/1", "UGSc", 21),
			route("::/1", "UGSc", 21),
			route("8000::/1", "UGSc", 21),
		}, 4, 0},
		{"rejected", []bsdRoute{
			route("0.0.0.0/0", "UGRS", 1),
			route("::/0", "UGRS", 1),
		}, 0, 0},
		{"discarded", []bsdRoute{
			route("0.0.0.0/0", "UGSB", 1),
			route("::/0", "UGSB", 1),
		}, 0, 0},
		{"down", []bsdRoute{
			route("0.0.0.0/0", "GSc", 4),
			route("::/0", "GSc", 4),
		}, 0, 0},
		{"without a mask", []bsdRoute{
			route("0.0.0.0", "UGSc", 4),
			route("::", "UGSc", 5),
		}, 4, 5},
		{"to a host", []bsdRoute{
			route("0.0.0.0", "UGHS", 4),
			route("::", "UGHS", 5),
			route("0.0.0.0/0", "UGHS", 4),
		}, 0, 0},
		{"to hosts and nets by a gateway", []bsdRoute{
			route("17.253.1.1", "UGHWi", 4),
			route("10.0.0.0/8", "UGSc", 4),
			route("2001:db8::/32", "UGSc", 4),
		}, 0, 0},
		{"one family each", []bsdRoute{
			route("::/0", "UGcg", 5),
		}, 0, 5},
		{"without a destination", []bsdRoute{route("", "UGSc", 4)}, 0, 0},
		{"without an interface", []bsdRoute{
			route("0.0.0.0/0", "UGScg", 0),
			route("0.0.0.0/0", "UCSg", 21),
			route("::/0", "UCSg", 0),
		}, 21, 0},
	} {
		for v4, want := range map[bool]int{true: test.ip4, false: test.ip6} {
			if got := bsdDefault(test.routes, v4); got != want {
				t.Errorf("%s, IPv4 %v: got %d, want %d", test.name, v4, got, want)
			}
		}
	}
}
