package mcast

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestBSDNumbers compares the numbers in bsdroute.go with those of package unix.
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
	for typ, want := range map[byte]bool{
		unix.RTM_ADD: false, unix.RTM_RESOLVE: false, unix.RTM_NEWMADDR: false, unix.RTM_DELMADDR: false,
		unix.RTM_NEWADDR: true, unix.RTM_DELADDR: true, unix.RTM_IFINFO: true,
	} {
		if bsdCallsForScan([]byte{4, 0, unix.RTM_VERSION, typ}) != want {
			t.Errorf("message type %#x: not %v", typ, want)
		}
	}
}

// ifaceTestRIB is a routing table as the kernel hands it out: messages of a struct rt_msghdr and its socket addresses.
type ifaceTestRIB []byte

// add appends a route: its destination, gateway and netmask. A route without a netmask has an empty one.
func (b *ifaceTestRIB) add(flags, index int, dst, gateway, mask string) {
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
	ifaceTestZero4  = "\x10\x02\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	ifaceTestGate4  = "\x10\x02\x00\x00\xc0\xa8\x33\x01\x00\x00\x00\x00\x00\x00\x00\x00"
	ifaceTestZero6  = "\x1c\x1e\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00" + "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	ifaceTestGate6  = "\x1c\x1e\x00\x00\x00\x00\x00\x00\xfe\x80\x00\x04\x00\x00\x00\x00" + "\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00"
	ifaceTestLink   = "\x14\x12\x15\x00\x01\x05\x00\x00utun6\x00\x00\x00\x00\x00\x00\x00"
	ifaceTestNoMask = "\x00\x00\x00\x00"
	ifaceTestHalf4  = "\x05\xff\xff\xff\x80\x00\x00\x00"
	ifaceTestHalf6  = "\x09\xff\xff\xff\xff\xff\xff\xff\x80\x00\x00\x00"
)

// TestIfaceRoutes has package route parse what it is hard to find a Mac for.
func TestIfaceRoutes(t *testing.T) {
	const (
		gateway = unix.RTF_UP | unix.RTF_GATEWAY | unix.RTF_STATIC | unix.RTF_PRCLONING
		direct  = unix.RTF_UP | unix.RTF_STATIC | unix.RTF_CLONING
	)
	for _, test := range []struct {
		name     string
		fill     func(*ifaceTestRIB)
		ip4, ip6 int
	}{
		{"empty", func(*ifaceTestRIB) {}, 0, 0},
		{"the usual", func(b *ifaceTestRIB) {
			b.add(gateway, 4, ifaceTestZero4, ifaceTestGate4, ifaceTestNoMask)
			b.add(gateway|unix.RTF_IFSCOPE, 5, ifaceTestZero4, ifaceTestGate4, ifaceTestNoMask)
			b.add(gateway, 6, ifaceTestZero6, ifaceTestGate6, ifaceTestNoMask)
			b.add(gateway|unix.RTF_IFSCOPE, 7, ifaceTestZero6, ifaceTestGate6, ifaceTestNoMask)
		}, 4, 6},
		{"only scoped", func(b *ifaceTestRIB) {
			b.add(gateway|unix.RTF_IFSCOPE, 5, ifaceTestZero4, ifaceTestGate4, ifaceTestNoMask)
			b.add(gateway|unix.RTF_IFSCOPE, 7, ifaceTestZero6, ifaceTestGate6, ifaceTestNoMask)
		}, 0, 0},
		{"a VPN", func(b *ifaceTestRIB) {
			b.add(direct, 21, ifaceTestZero4, ifaceTestLink, ifaceTestNoMask)
			b.add(direct, 22, ifaceTestZero6, ifaceTestLink, ifaceTestNoMask)
		}, 21, 22},
		{"a VPN of halves", func(b *ifaceTestRIB) {
			b.add(gateway, 21, ifaceTestZero4, ifaceTestGate4, ifaceTestHalf4)
			b.add(gateway, 4, ifaceTestZero4, ifaceTestGate4, ifaceTestNoMask)
			b.add(gateway, 21, ifaceTestZero6, ifaceTestGate6, ifaceTestHalf6)
		}, 4, 0},
		{"a host", func(b *ifaceTestRIB) {
			b.add(gateway|unix.RTF_HOST, 4, ifaceTestZero4, ifaceTestGate4, "")
			b.add(gateway|unix.RTF_HOST, 4, ifaceTestZero6, ifaceTestGate6, "")
		}, 0, 0},
	} {
		var b ifaceTestRIB
		test.fill(&b)
		routes, err := ifaceRoutes(b)
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		if ip4, ip6 := bsdDefault(routes, "ip4"), bsdDefault(routes, "ip6"); ip4 != test.ip4 || ip6 != test.ip6 {
			t.Errorf("%s: got %d and %d, want %d and %d; the routes are %+v", test.name, ip4, ip6, test.ip4, test.ip6, routes)
		}
	}
}

// TestDefaultInterface compares the default interface with what route(8) says.
func TestDefaultInterface(t *testing.T) {
	for network, family := range map[string]string{"ip4": "-inet", "ip6": "-inet6"} {
		got, err := DefaultInterface(network)
		if err != nil && !errors.Is(err, ErrNoInterface) {
			t.Errorf("%s: %v", network, err)
			continue
		}
		// Without a default route it fails, or gives one that is not for everybody.
		said, _ := exec.Command("/sbin/route", "-n", "get", family, "default").CombinedOutput()
		want := ""
		if flags := ifaceTestField(said, "flags"); !strings.Contains(flags, "IFSCOPE") && !strings.Contains(flags, "REJECT") {
			want = ifaceTestField(said, "interface")
		}
		if got.Name != want {
			t.Errorf("%s: got %q, %v; route says\n%s", network, got.Name, err, said)
		}
		t.Logf("%s: %q", network, got.Name)
	}
}

// ifaceTestField returns the value in the line "name: value".
func ifaceTestField(text []byte, name string) string {
	for line := range bytes.Lines(text) {
		if f := strings.Fields(string(line)); len(f) > 1 && f[0] == name+":" {
			return strings.Join(f[1:], " ")
		}
	}
	return ""
}

// TestInterfacesLoopback checks what every Mac has.
func TestInterfacesLoopback(t *testing.T) {
	found, err := FindInterfaces("127.0.0.1")
	if err != nil || len(found) != 1 || found[0].Name != "lo0" || !found[0].IsLoopback() {
		t.Fatalf("127.0.0.1: %+v, %v", found, err)
	}
	again, err := FindInterfaces("fe80::1%lo0")
	if err != nil || !slices.EqualFunc(found, again, Interface.equal) {
		t.Errorf("fe80::1%%lo0: %+v, %v", again, err)
	}
}
