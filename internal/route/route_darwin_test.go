package route

import (
	"encoding/binary"
	"testing"

	"golang.org/x/sys/unix"
)

// TestBSDNumbers compares the numbers in bsd.go with those of package unix.
func TestBSDNumbers(t *testing.T) {
	for _, n := range [][2]int{
		{bsdUp, unix.RTF_UP},
		{bsdGateway, unix.RTF_GATEWAY},
		{bsdHost, unix.RTF_HOST},
		{bsdReject, unix.RTF_REJECT},
		{bsdBlackhole, unix.RTF_BLACKHOLE},
		{bsdScoped, unix.RTF_IFSCOPE},
	} {
		if n[0] != n[1] {
			t.Errorf("%#x should be %#x", n[0], n[1])
		}
	}
}

// testRIB is a routing table as the kernel hands it out: messages of a struct rt_msghdr and its socket addresses.
type testRIB []byte

// add appends a route: its destination, gateway and netmask. A route without a netmask has an empty one.
func (b *testRIB) add(flags, index int, dst, gateway, mask string) {
	const header = 92
	addrs := unix.RTA_DST | unix.RTA_GATEWAY
	if mask != "" {
		addrs |= unix.RTA_NETMASK
	}
	body := dst + gateway + mask
	var m []byte
	m = binary.NativeEndian.AppendUint16(m, uint16(header+len(body)))
	m = append(m, unix.RTM_VERSION, unix.RTM_GET)
	m = binary.NativeEndian.AppendUint16(m, uint16(index))
	m = append(m, 0, 0)
	m = binary.NativeEndian.AppendUint32(m, uint32(flags))
	m = binary.NativeEndian.AppendUint32(m, uint32(addrs))
	m = append(m, make([]byte, header-len(m))...)
	*b = append(append(*b, m...), body...)
}

// Socket addresses, padded to a multiple of four bytes, as all of them are. The IPv6 gateway is fe80::1%4, with the zone
// where the kernel has it. The kernel cuts trailing zeros off a netmask, so that nothing is left of that of a default
// route, and what comes before the netmask proper can be anything but its length.
const (
	testZero4  = "\x10\x02\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	testGate4  = "\x10\x02\x00\x00\xc0\xa8\x33\x01\x00\x00\x00\x00\x00\x00\x00\x00"
	testZero6  = "\x1c\x1e\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00" + "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	testGate6  = "\x1c\x1e\x00\x00\x00\x00\x00\x00\xfe\x80\x00\x04\x00\x00\x00\x00" + "\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00"
	testLink   = "\x14\x12\x15\x00\x01\x05\x00\x00utun6\x00\x00\x00\x00\x00\x00\x00"
	testNoMask = "\x00\x00\x00\x00"
	testHalf4  = "\x05\xff\xff\xff\x80\x00\x00\x00"
	testHalf6  = "\x09\xff\xff\xff\xff\xff\xff\xff\x80\x00\x00\x00"
)

// TestParseRoutes has package route parse what it is hard to find a Mac for.
func TestParseRoutes(t *testing.T) {
	const (
		gateway = unix.RTF_UP | unix.RTF_GATEWAY | unix.RTF_STATIC | unix.RTF_PRCLONING
		direct  = unix.RTF_UP | unix.RTF_STATIC | unix.RTF_CLONING
	)
	for _, test := range []struct {
		name     string
		fill     func(*testRIB)
		ip4, ip6 int
	}{
		{"empty", func(*testRIB) {}, 0, 0},
		{"the usual", func(b *testRIB) {
			b.add(gateway, 4, testZero4, testGate4, testNoMask)
			b.add(gateway|unix.RTF_IFSCOPE, 5, testZero4, testGate4, testNoMask)
			b.add(gateway, 6, testZero6, testGate6, testNoMask)
			b.add(gateway|unix.RTF_IFSCOPE, 7, testZero6, testGate6, testNoMask)
		}, 4, 6},
		{"only scoped", func(b *testRIB) {
			b.add(gateway|unix.RTF_IFSCOPE, 5, testZero4, testGate4, testNoMask)
			b.add(gateway|unix.RTF_IFSCOPE, 7, testZero6, testGate6, testNoMask)
		}, 0, 0},
		{"a VPN", func(b *testRIB) {
			b.add(direct, 21, testZero4, testLink, testNoMask)
			b.add(direct, 22, testZero6, testLink, testNoMask)
		}, 21, 22},
		{"a VPN of halves", func(b *testRIB) {
			b.add(gateway, 21, testZero4, testGate4, testHalf4)
			b.add(gateway, 4, testZero4, testGate4, testNoMask)
			b.add(gateway, 21, testZero6, testGate6, testHalf6)
		}, 4, 0},
		{"a host", func(b *testRIB) {
			b.add(gateway|unix.RTF_HOST, 4, testZero4, testGate4, "")
			b.add(gateway|unix.RTF_HOST, 4, testZero6, testGate6, "")
		}, 0, 0},
	} {
		var b testRIB
		test.fill(&b)
		routes, err := parseRoutes(b)
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		if ip4, ip6 := bsdDefault(routes, true), bsdDefault(routes, false); ip4 != test.ip4 || ip6 != test.ip6 {
			t.Errorf("%s: got %d and %d, want %d and %d; the routes are %+v", test.name, ip4, ip6, test.ip4, test.ip6, routes)
		}
	}
}
