package mcast

import (
	"encoding/binary"
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
		for network, want := range map[string]int{"ip4": test.ip4, "ip6": test.ip6} {
			if got := bsdDefault(test.routes, network); got != want {
				t.Errorf("%s, %s: got %d, want %d", test.name, network, got, want)
			}
		}
	}
}

func TestBSDCallsForScan(t *testing.T) {
	for typ, want := range map[byte]bool{
		0x01: false, // RTM_ADD
		0x02: false, // RTM_DELETE
		0x03: false, // RTM_CHANGE
		0x04: false, // RTM_GET
		0x05: false, // RTM_LOSING
		0x06: false, // RTM_REDIRECT
		0x07: false, // RTM_MISS
		0x0b: false, // RTM_RESOLVE
		0x0c: true,  // RTM_NEWADDR
		0x0d: true,  // RTM_DELADDR
		0x0e: true,  // RTM_IFINFO
		0x0f: false, // RTM_NEWMADDR
		0x10: false, // RTM_DELMADDR
		0x12: true,  // RTM_IFINFO2
		0x00: true,  // what is not known
		0x11: true,
		0xff: true,
	} {
		if got := bsdCallsForScan([]byte{92, 0, 5, typ, 0, 0, 0, 0}); got != want {
			t.Errorf("type %#x: %v", typ, got)
		}
		if !bsdCallsForScan([]byte{92, 0, 6, typ, 0, 0, 0, 0}) {
			t.Errorf("type %#x of another version needs no scan", typ)
		}
	}
	for _, short := range []string{"", "\x04", "\x04\x00\x05"} {
		if !bsdCallsForScan([]byte(short)) {
			t.Errorf("%q needs no scan", short)
		}
	}
	// A kernel's own: a group was left (golang.org/issue/44740).
	const left = "\x32\x00\x05\x10\x30\x00\x00\x00\x00\x00\x00\x00\x04\x00\x00\x00\x14\x12\x04\x00\x06\x03\x06\x00en0" +
		"\xac\x87\xa3\x19\x7f\x82\x00\x00\x00\x0e\x12\x00\x00\x00\x00\x06\x00\x91\xe0\xf0\x01\x00\x00"
	if bsdCallsForScan([]byte(left)) {
		t.Error("a group that is left calls for a scan")
	}
}

// TestBSDDown reads messages of interfaces (struct if_msghdr). Only one that says so has an interface down.
func TestBSDDown(t *testing.T) {
	message := func(version, typ byte, flags uint32, index uint16) []byte {
		b := []byte{112, 0, version, typ, 0, 0, 0, 0}
		b = binary.NativeEndian.AppendUint32(b, flags)
		b = binary.NativeEndian.AppendUint16(b, index)
		return append(b, make([]byte, 98)...)
	}
	const up, running = 0x1, 0x40
	for _, test := range []struct {
		name    string
		message []byte
		index   int
		down    bool
	}{
		{"down", message(5, 0xe, running, 4), 4, true},
		{"down, with the highest index", message(5, 0xe, 0, 0xffff), 0xffff, true},
		{"up", message(5, 0xe, up|running, 4), 4, false},
		{"another version", message(6, 0xe, 0, 4), 0, false},
		{"an address", message(5, 0xc, 0, 4), 0, false},
		{"cut short", message(5, 0xe, 0, 4)[:13], 0, false},
		{"nothing", nil, 0, false},
	} {
		if index, down := bsdDown(test.message); index != test.index || down != test.down {
			t.Errorf("%s: %d, %v", test.name, index, down)
		}
	}
}
