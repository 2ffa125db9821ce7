// Tests of what Linux tells about interfaces and routes: the parsers, on messages made here, and the whole, against real
// kernels' answers on hosts made for the test.

package mcast

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/go-multicast/mcast/mcasttest"
)

// ifaceIP runs lines of ip(8) on a host, all by one process. ifaceIP6 is for those about IPv6 that do not say so.
func ifaceIP(t testing.TB, h *mcasttest.Host, lines ...string) {
	t.Helper()
	ifaceCheckIP(t, ifaceTryIP(h, "-4", lines...))
}

func ifaceIP6(t testing.TB, h *mcasttest.Host, lines ...string) {
	t.Helper()
	ifaceCheckIP(t, ifaceTryIP(h, "-6", lines...))
}

func ifaceCheckIP(t testing.TB, err error) {
	t.Helper()
	if errors.Is(err, exec.ErrNotFound) && os.Getenv("MCAST_TEST_STRICT") != "1" {
		t.Skip("this test needs ip of iproute2: ", err)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func ifaceTryIP(h *mcasttest.Host, family string, lines ...string) error {
	ip := exec.Command("ip", family, "-batch", "-")
	ip.Stdin = strings.NewReader(strings.Join(lines, "\n") + "\n")
	var out strings.Builder
	ip.Stdout, ip.Stderr = &out, &out
	if err := h.Start(ip); err != nil {
		return err
	}
	if err := ip.Wait(); err != nil {
		return fmt.Errorf("ip: %w: %s", err, out.String())
	}
	return nil
}

// ifaceOpenFiles counts the descriptors of the process.
func ifaceOpenFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// The messages that the parsers read, made by hand.

func ifaceTestMessage(typ uint16, body ...[]byte) []byte {
	payload := slices.Concat(body...)
	return ifaceAppendMessage(nil, unix.NlMsghdr{Len: uint32(unix.SizeofNlMsghdr + len(payload)), Type: typ, Flags: unix.NLM_F_MULTI}, payload)
}

func ifaceTestAttr(typ uint16, value []byte) []byte {
	b := binary.NativeEndian.AppendUint16(nil, uint16(unix.SizeofRtAttr+len(value)))
	b = binary.NativeEndian.AppendUint16(b, typ)
	b = append(b, value...)
	return append(b, make([]byte, -len(b)&3)...)
}

func ifaceTestUint32(typ uint16, value uint32) []byte {
	return ifaceTestAttr(typ, binary.NativeEndian.AppendUint32(nil, value))
}

func ifaceTestIP(typ uint16, addr string) []byte {
	return ifaceTestAttr(typ, netip.MustParseAddr(addr).AsSlice())
}

// ifaceTestLink is struct ifinfomsg.
func ifaceTestLink(family byte, hardware uint16, index int, flags uint32) []byte {
	b := binary.NativeEndian.AppendUint16([]byte{family, 0}, hardware)
	b = binary.NativeEndian.AppendUint32(b, uint32(index))
	b = binary.NativeEndian.AppendUint32(b, flags)
	return append(b, 0, 0, 0, 0)
}

// ifaceTestAddr is struct ifaddrmsg.
func ifaceTestAddr(family, bits byte, index int) []byte {
	return binary.NativeEndian.AppendUint32([]byte{family, bits, 0, 0}, uint32(index))
}

// ifaceTestNexthop is struct rtnexthop, with a gateway.
func ifaceTestNexthop(flags byte, index int) []byte {
	gateway := ifaceTestIP(unix.RTA_GATEWAY, "10.0.0.1")
	b := binary.NativeEndian.AppendUint16(nil, uint16(unix.SizeofRtNexthop+len(gateway)))
	b = binary.NativeEndian.AppendUint32(append(b, flags, 0), uint32(index))
	return append(b, gateway...)
}

func TestParseLinks(t *testing.T) {
	name := func(s string) []byte { return ifaceTestAttr(unix.IFLA_IFNAME, append([]byte(s), 0)) }
	mac := ifaceTestAttr(unix.IFLA_ADDRESS, []byte{2, 0, 0, 0, 0, 7})
	const multicast = unix.IFF_UP | unix.IFF_RUNNING | unix.IFF_MULTICAST | unix.IFF_BROADCAST | unix.IFF_LOWER_UP
	for _, test := range []struct {
		name string
		in   []byte
		want []Interface
	}{
		{"nothing", nil, nil},
		{"ethernet", ifaceTestMessage(unix.RTM_NEWLINK, ifaceTestLink(0, unix.ARPHRD_ETHER, 7, multicast), name("eth0"), mac, ifaceTestUint32(unix.IFLA_MTU, 1500)),
			[]Interface{{Name: "eth0", Index: 7, MTU: 1500, HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 7},
				Flags: net.FlagUp | net.FlagRunning | net.FlagMulticast | net.FlagBroadcast}}},
		{"loopback", ifaceTestMessage(unix.RTM_NEWLINK, ifaceTestLink(0, unix.ARPHRD_LOOPBACK, 1, unix.IFF_LOOPBACK), name("lo"), ifaceTestAttr(unix.IFLA_ADDRESS, make([]byte, 6))),
			[]Interface{{Name: "lo", Index: 1, Flags: net.FlagLoopback}}},
		{"an IPv4 tunnel's address is no MAC", ifaceTestMessage(unix.RTM_NEWLINK, ifaceTestLink(0, unix.ARPHRD_SIT, 3, unix.IFF_POINTOPOINT), name("sit1"), ifaceTestAttr(unix.IFLA_ADDRESS, []byte{10, 0, 0, 1})),
			[]Interface{{Name: "sit1", Index: 3, Flags: net.FlagPointToPoint}}},
		{"nor is an IPv6 tunnel's", ifaceTestMessage(unix.RTM_NEWLINK, ifaceTestLink(0, unix.ARPHRD_TUNNEL6, 3, 0), name("ip6tnl1"), ifaceTestAttr(unix.IFLA_ADDRESS, net.IPv6loopback)),
			[]Interface{{Name: "ip6tnl1", Index: 3}}},
		{"InfiniBand has 20 bytes", ifaceTestMessage(unix.RTM_NEWLINK, ifaceTestLink(0, unix.ARPHRD_INFINIBAND, 3, 0), name("ib0"), ifaceTestAttr(unix.IFLA_ADDRESS, []byte("12345678901234567890"))),
			[]Interface{{Name: "ib0", Index: 3, HardwareAddr: net.HardwareAddr("12345678901234567890")}}},
		{"alternative names", ifaceTestMessage(unix.RTM_NEWLINK, ifaceTestLink(0, unix.ARPHRD_ETHER, 7, 0), name("eth0"),
			ifaceTestAttr(unix.IFLA_PROP_LIST|unix.NLA_F_NESTED, slices.Concat(
				ifaceTestAttr(unix.IFLA_ALT_IFNAME, []byte("uplink\x00")), name("not one"), ifaceTestAttr(unix.IFLA_ALT_IFNAME, []byte("enp3s0"))))),
			[]Interface{{Name: "eth0", AltNames: []string{"uplink", "enp3s0"}, Index: 7}}},
		{"a bridge's port", ifaceTestMessage(unix.RTM_NEWLINK, ifaceTestLink(unix.AF_BRIDGE, unix.ARPHRD_ETHER, 7, multicast), name("eth0")), nil},
		{"index 0", ifaceTestMessage(unix.RTM_NEWLINK, ifaceTestLink(0, 1, 0, 0), name("x")), nil},
		{"index -1", ifaceTestMessage(unix.RTM_NEWLINK, ifaceTestLink(0, 1, -1, 0), name("x")), nil},
		{"too short", ifaceTestMessage(unix.RTM_NEWLINK, ifaceTestLink(0, 1, 7, 0)[:15]), nil},
		{"another type", ifaceTestMessage(unix.RTM_DELLINK, ifaceTestLink(0, 1, 7, 0)), nil},
		{"an MTU of two bytes", ifaceTestMessage(unix.RTM_NEWLINK, ifaceTestLink(0, 1, 7, 0), ifaceTestAttr(unix.IFLA_MTU, []byte{1, 1})), []Interface{{Index: 7}}},
		{"an attribute too long ends them", ifaceTestMessage(unix.RTM_NEWLINK, ifaceTestLink(0, 1, 7, 0), name("a"), []byte{200, 200, 4, 0}, ifaceTestUint32(unix.IFLA_MTU, 9)), []Interface{{Name: "a", Index: 7}}},
		{"and one too short", ifaceTestMessage(unix.RTM_NEWLINK, ifaceTestLink(0, 1, 7, 0), name("a"), make([]byte, 4), ifaceTestUint32(unix.IFLA_MTU, 9)), []Interface{{Name: "a", Index: 7}}},
		{"sorted", slices.Concat(
			ifaceTestMessage(unix.RTM_NEWLINK, ifaceTestLink(0, 1, 9, 0), name("c")),
			ifaceTestMessage(unix.RTM_NEWLINK, ifaceTestLink(0, 1, 2, 0), name("longer")),
			ifaceTestMessage(unix.RTM_NEWLINK, ifaceTestLink(0, 1, 5, 0), name("b"))),
			[]Interface{{Name: "longer", Index: 2}, {Name: "b", Index: 5}, {Name: "c", Index: 9}}},
		{"a message cut short", ifaceTestMessage(unix.RTM_NEWLINK, ifaceTestLink(0, 1, 9, 0), name("c"))[:30], nil},
		{"no message", make([]byte, 64), nil},
	} {
		if got := ifaceParseLinks(test.in); !slices.EqualFunc(got, test.want, Interface.equal) {
			t.Errorf("%s: got %+v, want %+v", test.name, got, test.want)
		}
	}
}

func TestParseAddrs(t *testing.T) {
	const v4, v6 = unix.AF_INET, unix.AF_INET6
	for _, test := range []struct {
		name  string
		in    [][]byte // the payload of a message
		index int
		want  string // "" if refused
	}{
		{"IPv4", [][]byte{ifaceTestAddr(v4, 24, 7), ifaceTestIP(unix.IFA_ADDRESS, "10.0.0.1"), ifaceTestIP(unix.IFA_LOCAL, "10.0.0.1")}, 7, "10.0.0.1/24"},
		{"IPv6", [][]byte{ifaceTestAddr(v6, 64, 7), ifaceTestIP(unix.IFA_ADDRESS, "fe80::1")}, 7, "fe80::1/64"},
		{"IPv4 peer", [][]byte{ifaceTestAddr(v4, 32, 7), ifaceTestIP(unix.IFA_ADDRESS, "10.0.0.2"), ifaceTestIP(unix.IFA_LOCAL, "10.0.0.1")}, 7, "10.0.0.1/32"},
		{"IPv4 peer in the same network", [][]byte{ifaceTestAddr(v4, 24, 7), ifaceTestIP(unix.IFA_ADDRESS, "10.0.0.2"), ifaceTestIP(unix.IFA_LOCAL, "10.0.0.1")}, 7, "10.0.0.1/24"},
		{"IPv4 peer's network", [][]byte{ifaceTestAddr(v4, 24, 7), ifaceTestIP(unix.IFA_ADDRESS, "10.7.0.2"), ifaceTestIP(unix.IFA_LOCAL, "10.0.0.1")}, 7, "10.0.0.1/32"},
		{"IPv6 peer", [][]byte{ifaceTestAddr(v6, 64, 7), ifaceTestIP(unix.IFA_LOCAL, "fd00::1"), ifaceTestIP(unix.IFA_ADDRESS, "fd01::2")}, 7, "fd00::1/128"},
		{"another family", [][]byte{ifaceTestAddr(unix.AF_PHONET, 0, 7), ifaceTestAttr(unix.IFA_LOCAL, []byte{4})}, 0, ""},
		{"another family with four bytes", [][]byte{ifaceTestAddr(unix.AF_PHONET, 0, 7), ifaceTestIP(unix.IFA_LOCAL, "10.0.0.1")}, 0, ""},
		{"bytes of another family", [][]byte{ifaceTestAddr(v4, 24, 7), ifaceTestIP(unix.IFA_LOCAL, "fd00::1")}, 0, ""},
		{"a prefix too long", [][]byte{ifaceTestAddr(v4, 33, 7), ifaceTestIP(unix.IFA_LOCAL, "10.0.0.1")}, 0, ""},
		{"no address", [][]byte{ifaceTestAddr(v4, 24, 7)}, 0, ""},
		{"index 0", [][]byte{ifaceTestAddr(v4, 24, 0), ifaceTestIP(unix.IFA_LOCAL, "10.0.0.1")}, 0, ""},
		{"too short", [][]byte{{v4, 24}}, 0, ""},
	} {
		index, prefix, ok := ifaceParseAddr(slices.Concat(test.in...))
		if ok != (test.want != "") || ok && (prefix.String() != test.want || index != test.index) {
			t.Errorf("%s: got %d %v %v", test.name, index, prefix, ok)
		}
	}

	list := []Interface{{Index: 2}, {Index: 5}}
	var b []byte
	for _, index := range []int{5, 2, 9} {
		b = append(b, ifaceTestMessage(unix.RTM_NEWADDR, ifaceTestAddr(v4, 8, index), ifaceTestIP(unix.IFA_LOCAL, "10.0.0.1"))...)
		b = append(b, ifaceTestMessage(unix.RTM_NEWADDR, ifaceTestAddr(v6, 64, index), ifaceTestIP(unix.IFA_ADDRESS, "fd00::1"))...)
		b = append(b, ifaceTestMessage(unix.RTM_NEWADDR, ifaceTestAddr(v4, 32, index), ifaceTestIP(unix.IFA_LOCAL, "10.0.0.0"))...)
		b = append(b, ifaceTestMessage(unix.RTM_DELADDR, ifaceTestAddr(v4, 32, index), ifaceTestIP(unix.IFA_LOCAL, "10.0.0.3"))...)
	}
	ifaceParseAddrs(list, b)
	for _, i := range list {
		if fmt.Sprint(i.IPv4, i.IPv6) != "[10.0.0.1/8 10.0.0.0/32] [fd00::1/64]" {
			t.Errorf("interface %d has %v %v", i.Index, i.IPv4, i.IPv6)
		}
	}
}

func TestBestDefault(t *testing.T) {
	type route struct {
		bits, tos, table, kind byte
		flags                  uint32
		attrs                  [][]byte
	}
	const uni, main = unix.RTN_UNICAST, unix.RT_TABLE_MAIN
	by := func(index int, more ...[]byte) [][]byte {
		return append([][]byte{ifaceTestUint32(unix.RTA_OIF, uint32(index))}, more...)
	}
	metric := func(m uint32) []byte { return ifaceTestUint32(unix.RTA_PRIORITY, m) }
	pref := func(p byte) []byte { return ifaceTestAttr(unix.RTA_PREF, []byte{p}) }
	table := func(n uint32) []byte { return ifaceTestUint32(unix.RTA_TABLE, n) }
	multipath := func(hops ...[]byte) [][]byte {
		return [][]byte{ifaceTestAttr(unix.RTA_MULTIPATH, slices.Concat(hops...))}
	}
	for _, test := range []struct {
		name   string
		routes []route
		want   int
	}{
		{"none", nil, 0},
		{"one", []route{{0, 0, main, uni, 0, by(3)}}, 3},
		{"not to everywhere", []route{{1, 0, main, uni, 0, by(3)}, {8, 0, main, uni, 0, by(4)}}, 0},
		{"other kinds", []route{{0, 0, main, unix.RTN_UNREACHABLE, 0, by(1)}, {0, 0, main, unix.RTN_BLACKHOLE, 0, nil}, {0, 0, main, unix.RTN_LOCAL, 0, by(1)}}, 0},
		{"for a type of service", []route{{0, 16, main, uni, 0, by(3)}}, 0},
		{"another table", []route{{0, 0, 99, uni, 0, by(3)}}, 0},
		{"another table by attribute", []route{{0, 0, 252, uni, 0, by(3, table(51820))}}, 0},
		{"main table by attribute", []route{{0, 0, 252, uni, 0, by(3, table(254))}}, 3},
		{"from the cache", []route{{0, 0, main, uni, unix.RTM_F_CLONED, by(3)}}, 0},
		{"without an interface", []route{{0, 0, main, uni, 0, nil}}, 0},
		{"a negative interface", []route{{0, 0, main, uni, 0, by(-3)}}, 0},
		{"metric", []route{{0, 0, main, uni, 0, by(3, metric(200))}, {0, 0, main, uni, 0, by(4, metric(100))}, {0, 0, main, uni, 0, by(5, metric(300))}}, 4},
		{"no metric is the best", []route{{0, 0, main, uni, 0, by(3, metric(1))}, {0, 0, main, uni, 0, by(4)}}, 4},
		{"a metric beyond 31 bits", []route{{0, 0, main, uni, 0, by(3, metric(1<<31))}, {0, 0, main, uni, 0, by(4, metric(1<<31-1))}}, 4},
		{"the first of equals", []route{{0, 0, main, uni, 0, by(3, metric(5))}, {0, 0, main, uni, 0, by(4, metric(5))}}, 3},
		{"preference", []route{{0, 0, main, uni, 0, by(3, metric(1024), pref(3))}, {0, 0, main, uni, 0, by(4, metric(1024), pref(0))}, {0, 0, main, uni, 0, by(5, metric(1024), pref(1))}}, 5},
		{"no preference is medium", []route{{0, 0, main, uni, 0, by(3, pref(3))}, {0, 0, main, uni, 0, by(4)}}, 4},
		{"metric before preference", []route{{0, 0, main, uni, 0, by(3, metric(1025), pref(1))}, {0, 0, main, uni, 0, by(4, metric(1024), pref(3))}}, 4},
		{"dead", []route{{0, 0, main, uni, unix.RTNH_F_DEAD | unix.RTNH_F_LINKDOWN, by(3)}, {0, 0, main, uni, 0, by(4, metric(9))}}, 4},
		{"without carrier", []route{{0, 0, main, uni, unix.RTNH_F_LINKDOWN, by(3)}, {0, 0, main, uni, 0, by(4, metric(9))}}, 4},
		{"all without carrier", []route{{0, 0, main, uni, unix.RTNH_F_LINKDOWN, by(3, metric(9))}, {0, 0, main, uni, unix.RTNH_F_LINKDOWN, by(4)}}, 4},
		{"multipath", []route{{0, 0, main, uni, 0, multipath(ifaceTestNexthop(0, 3), ifaceTestNexthop(0, 4))}}, 3},
		{"multipath, first dead", []route{{0, 0, main, uni, 0, multipath(ifaceTestNexthop(unix.RTNH_F_DEAD, 3), ifaceTestNexthop(unix.RTNH_F_LINKDOWN, 4), ifaceTestNexthop(0, 5))}}, 5},
		{"multipath without carrier", []route{{0, 0, main, uni, 0, multipath(ifaceTestNexthop(unix.RTNH_F_LINKDOWN, 3), ifaceTestNexthop(unix.RTNH_F_LINKDOWN, 4))}, {0, 0, main, uni, 0, by(5, metric(9))}}, 5},
		{"multipath, all dead", []route{{0, 0, main, uni, 0, multipath(ifaceTestNexthop(unix.RTNH_F_DEAD, 3))}}, 0},
		{"multipath, broken", []route{{0, 0, main, uni, 0, multipath([]byte{3, 0, 0, 0, 1, 0, 0, 0})}}, 0},
		{"a nexthop object without its interface", []route{{0, 0, main, uni, 0, [][]byte{ifaceTestUint32(30 /* RTA_NH_ID */, 5)}}}, 0},
	} {
		var b []byte
		for _, r := range test.routes {
			header := binary.NativeEndian.AppendUint32([]byte{unix.AF_INET, r.bits, 0, r.tos, r.table, 0, 0, r.kind}, r.flags)
			b = append(b, ifaceTestMessage(unix.RTM_NEWROUTE, append([][]byte{header}, r.attrs...)...)...)
		}
		if got := ifaceBestDefault(b); got != test.want {
			t.Errorf("%s: got %d, want %d", test.name, got, test.want)
		}
	}
}

func TestScan(t *testing.T) {
	h := mcasttest.NewHost(t)
	h.NewVeth("eth0", netip.MustParsePrefix("192.0.2.1/24"), netip.MustParsePrefix("2001:db8::1/64"))
	ifaceIP(t, h,
		"link add br0 type bridge",
		"link add port0 type veth peer name port1",
		"link set port1 master br0",
		"link set port1 mtu 1280",
		"address add 192.0.2.9/24 dev eth0",
		"address add 10.0.0.1 peer 10.0.0.2/32 dev eth0",
		"link property add dev eth0 altname wan")
	ifaceIP6(t, h, "address add fd00::1 peer fd00::2/64 dev eth0")
	h.Do(func() {
		list, err := Interfaces()
		if err != nil {
			t.Fatal(err)
		}
		ifaceCompareWithNet(t, list)
		eth0, err := SelectInterfaces(list, "eth0")
		if err != nil {
			t.Fatal(err)
		}
		ports, err := SelectInterfaces(list, "port0", "port1", "br0")
		if err != nil {
			t.Fatal(err)
		}
		free, port, bridge := ports[0], ports[1], ports[2]
		if port.Master != bridge.Index || !port.isPort() || free.Master != 0 || free.isPort() || bridge.Master != 0 {
			t.Errorf("the port's master is %d, want %d; free %+v, bridge %+v", port.Master, bridge.Index, free, bridge)
		}
		if port.masterKind != "bridge" || port.kind != "veth" || bridge.kind != "bridge" {
			t.Errorf("the kinds are %q of %q, and %q", port.kind, port.masterKind, bridge.kind)
		}
		if names := eth0[0].AltNames; !slices.Equal(names, []string{"wan"}) {
			t.Errorf("the alternative names are %q", names)
		}
		// The secondary address of the first network comes after the primary one.
		if got := fmt.Sprint(eth0[0].IPv4); !strings.HasPrefix(got, "[192.0.2.1/24 ") {
			t.Errorf("the order of addresses is %s", got)
		}
	})

	// The one difference to package net: it would have 172.16.0.1 in the peer's network.
	ifaceIP(t, h, "address add 172.16.0.1 peer 172.31.0.2/24 dev eth0")
	h.Do(func() {
		found, err := FindInterfaces("172.16.0.1")
		if err != nil || len(found) != 1 || !slices.Contains(found[0].IPv4, netip.MustParsePrefix("172.16.0.1/32")) {
			t.Errorf("found %+v, %v", found, err)
		}
		if found, err := FindInterfaces("172.31.0.2"); err == nil {
			t.Errorf("the peer's address found %+v", found)
		}
	})
}

// TestScanMany has a host whose dumps take many datagrams, with one interface whose message alone fills one and a bit.
func TestScanMany(t *testing.T) {
	h := mcasttest.NewHost(t)
	const pairs, names = 150, 290
	var lines []string
	for n := range pairs {
		lines = append(lines, fmt.Sprintf("link add a%d type veth peer name b%d", n, n), fmt.Sprintf("address add 10.1.%d.1/24 dev a%d", n, n))
	}
	ifaceIP(t, h, lines...)
	for n := range names { // the kernel takes one at a time, but all of them fit a batch
		lines[n] = fmt.Sprintf("link property add dev a7 altname n%0120d", n)
	}
	ifaceIP(t, h, lines[:names]...)
	h.Do(func() {
		list, err := Interfaces()
		if err != nil {
			t.Fatal(err)
		}
		if list := withoutFallbacks(list); len(list) != 2*pairs+1 {
			t.Errorf("%d interfaces", len(list))
		}
		for _, i := range list {
			if n := len(i.AltNames); n != 0 && (i.Name != "a7" || n != names) {
				t.Errorf("%s has %d alternative names", i.Name, n)
			}
			if want := 1; strings.HasPrefix(i.Name, "a") && len(i.IPv4) != want {
				t.Errorf("%s has %v", i.Name, i.IPv4)
			}
		}
		if !slices.IsSortedFunc(list, func(a, b Interface) int { return a.Index - b.Index }) {
			t.Error("the list is not sorted")
		}
	})
}

// TestScanWhileChanging scans while interfaces come and go, so that dumps are interrupted. Those that stay must be in every list.
func TestScanWhileChanging(t *testing.T) {
	h := mcasttest.NewHost(t)
	var lines []string
	for n := range 60 {
		lines = append(lines, fmt.Sprintf("link add stays%d type veth peer name peer%d", n, n), fmt.Sprintf("address add 10.2.%d.1/24 dev stays%d", n, n))
	}
	ifaceIP(t, h, lines...)

	lines = nil
	for range 20 {
		lines = append(lines, "link add comes type veth peer name goes", "address add 10.3.0.1/24 dev comes", "link del comes")
	}
	done := make(chan struct{})
	var churn sync.WaitGroup
	churn.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			if err := ifaceTryIP(h, "-4", lines...); err != nil {
				t.Error(err)
				return
			}
		}
	})
	h.Do(func() {
		for range 200 {
			list, err := Interfaces()
			if errors.Is(err, errIfaceInconsistent) {
				continue // what it says is true
			}
			if err != nil {
				t.Error(err)
				break
			}
			stays := 0
			for _, i := range list {
				if strings.HasPrefix(i.Name, "stays") && len(i.IPv4) == 1 {
					stays++
				}
			}
			if stays != 60 {
				t.Errorf("only %d of 60 are in the list", stays)
				break
			}
		}
	})
	close(done)
	churn.Wait()
}

// TestScanInterrupted changes the list between two datagrams of a dump: the kernel says so, and that must be heard.
func TestScanInterrupted(t *testing.T) {
	h := mcasttest.NewHost(t)
	var lines []string
	for n := range 100 {
		lines = append(lines, fmt.Sprintf("link add a%d type veth peer name b%d", n, n))
	}
	ifaceIP(t, h, lines...)
	var c *ifaceNetlink
	var err error
	h.Do(func() { c, err = ifaceDial() })
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	for _, change := range []string{"", "link del a50"} {
		if err := c.ask(unix.RTM_GETLINK, unix.NLM_F_REQUEST|unix.NLM_F_DUMP, make([]byte, unix.SizeofIfInfomsg)); err != nil {
			t.Fatal(err)
		}
		answer := ifaceAnswer{seq: c.seq}
		datagrams := 0
		for ended := false; !ended; datagrams++ {
			n, err := c.receive()
			if err != nil {
				t.Fatal(err)
			}
			if ended, err = answer.add(c.buf[:n]); ended && (change == "") != (err == nil) || !ended && err != nil {
				t.Errorf("after %q: %v", change, err)
			}
			if datagrams == 0 && change != "" {
				ifaceIP(t, h, change)
			}
		}
		if datagrams < 3 {
			t.Errorf("the dump took only %d datagrams", datagrams)
		}
	}
}

func TestAnswer(t *testing.T) {
	const question = 7
	message := func(typ, flags uint16, seq uint32, body ...byte) []byte {
		return ifaceAppendMessage(nil, unix.NlMsghdr{Len: uint32(unix.SizeofNlMsghdr + len(body)), Type: typ, Flags: flags, Seq: seq}, body)
	}
	errno := func(e unix.Errno) []byte { return binary.NativeEndian.AppendUint32(nil, uint32(-int32(e))) }
	const multi, interrupted = unix.NLM_F_MULTI, unix.NLM_F_MULTI | unix.NLM_F_DUMP_INTR
	link := func(flags uint16) []byte { return message(unix.RTM_NEWLINK, flags, question, 1, 2, 3) }
	done := message(unix.NLMSG_DONE, multi, question, 0, 0, 0, 0)
	for _, test := range []struct {
		name  string
		in    [][]byte // datagrams
		links int
		ended bool
		err   error
	}{
		{"nothing", nil, 0, false, nil},
		{"one", [][]byte{link(0)}, 1, true, nil},
		{"several", [][]byte{slices.Concat(link(multi), link(multi)), link(multi), done}, 3, true, nil},
		{"the end with the rest", [][]byte{slices.Concat(link(multi), done)}, 1, true, nil},
		{"no end", [][]byte{slices.Concat(link(multi), link(multi))}, 2, false, nil},
		{"an end without a number", [][]byte{message(unix.NLMSG_DONE, multi, question)}, 0, true, nil},
		{"interrupted", [][]byte{link(multi), link(interrupted), link(multi), done}, 3, true, errIfaceInconsistent},
		{"interrupted at the end", [][]byte{link(multi), message(unix.NLMSG_DONE, interrupted, question, 0, 0, 0, 0)}, 1, true, errIfaceInconsistent},
		{"refused", [][]byte{message(unix.NLMSG_ERROR, 0, question, errno(unix.EPERM)...)}, 0, true, unix.EPERM},
		{"acknowledged", [][]byte{message(unix.NLMSG_ERROR, 0, question, errno(0)...)}, 0, true, nil},
		{"failed on the way", [][]byte{link(multi), message(unix.NLMSG_DONE, multi, question, errno(unix.EMSGSIZE)...)}, 1, true, unix.EMSGSIZE},
		{"answers to others", [][]byte{message(unix.RTM_NEWLINK, 0, question-1), message(unix.NLMSG_DONE, multi, 0), link(0)}, 1, true, nil},
		{"noise", [][]byte{message(unix.NLMSG_NOOP, 0, question), link(0)}, 1, true, nil},
	} {
		a := ifaceAnswer{seq: question}
		var ended bool
		var err error
		for _, datagram := range test.in {
			if ended {
				t.Errorf("%s: ended too early", test.name)
			}
			ended, err = a.add(datagram)
		}
		links := 0
		for h, b := range ifaceMessages(a.messages) {
			if h.Type != unix.RTM_NEWLINK || len(b) != 3 {
				t.Errorf("%s: the messages have %+v", test.name, h)
			}
			links++
		}
		if links != test.links || ended != test.ended || !errors.Is(err, test.err) {
			t.Errorf("%s: %d messages, ended %v, %v", test.name, links, ended, err)
		}
	}
}

func TestScanLeavesNothing(t *testing.T) {
	mcasttest.Require(t)
	before := ifaceOpenFiles(t)
	for range 100 {
		if _, err := Interfaces(); err != nil {
			t.Fatal(err)
		}
		if _, err := DefaultInterface("ip4"); err != nil && !errors.Is(err, ErrNoInterface) {
			t.Fatal(err)
		}
	}
	if after := ifaceOpenFiles(t); after > before {
		t.Errorf("%d descriptors have become %d", before, after)
	}
}

// withoutFallbacks returns the list without the tunnels that Linux puts into each new namespace once their modules are
// loaded (net.core.fb_tunnels_only_for_init_net).
func withoutFallbacks(list []Interface) []Interface {
	fallbacks := []string{"tunl0", "gre0", "gretap0", "erspan0", "ip_vti0", "sit0", "ip6tnl0", "ip6gre0", "ip6_vti0"}
	return slices.DeleteFunc(slices.Clone(list), func(i Interface) bool { return slices.Contains(fallbacks, i.Name) })
}

// TestScanNamespace checks that a socket keeps asking about the namespace it was opened in.
func TestScanNamespace(t *testing.T) {
	h := mcasttest.NewHost(t)
	h.NewVeth("only", netip.MustParsePrefix("192.0.2.1/24"))
	var c *ifaceNetlink
	var err error
	h.Do(func() { c, err = ifaceDial() })
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	for range 3 { // more than one question by the same socket
		list, err := c.scan()
		if err != nil || ifaceNames(withoutFallbacks(list)) != "lo only" {
			t.Errorf("got %v, %v", list, err)
		}
	}
	if list, err := FindInterfaces("only"); err == nil {
		t.Errorf("the test's own namespace has %v", list)
	}
}

func TestDefaultInterface(t *testing.T) {
	any4, any6 := netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")
	h := mcasttest.NewHost(t)
	// The kernel tells itself of a carrier a moment later, so an answer may be right only then.
	expect := func(what, want4, want6 string) {
		t.Helper()
		for patience := time.Now().Add(watchPatience); ; time.Sleep(time.Millisecond) {
			var got4, got6 Interface
			var err4, err6 error
			h.Do(func() {
				got4, err4 = DefaultInterface("ip4")
				got6, err6 = DefaultInterface("ip6")
			})
			for _, err := range []error{err4, err6} {
				if err != nil && !errors.Is(err, ErrNoInterface) {
					t.Fatalf("%s: %v", what, err)
				}
			}
			if got4.Name == want4 && got6.Name == want6 {
				return
			}
			if time.Now().After(patience) {
				t.Fatalf("%s: the default is %q and %q, want %q and %q (%v, %v)", what, got4.Name, got6.Name, want4, want6, err4, err6)
			}
		}
	}
	expect("without interfaces", "", "")
	a := h.NewVeth("a", netip.MustParsePrefix("10.0.1.1/24"), netip.MustParsePrefix("fd00:0:0:1::1/64"))
	b := h.NewVeth("b", netip.MustParsePrefix("10.0.2.1/24"), netip.MustParsePrefix("fd00:0:0:2::1/64"))
	expect("without routes", "", "")
	gateway := netip.MustParseAddr
	a.AddRoute(any4, gateway("10.0.1.254"), 200)
	expect("with one of IPv4", "a", "")
	a.AddRoute(any6, gateway("fd00:0:0:1::fe"), 200)
	expect("with one of each", "a", "a")
	b.AddRoute(any4, gateway("10.0.2.254"), 300)
	b.AddRoute(any6, gateway("fd00:0:0:2::fe"), 100)
	expect("with two of each", "a", "b")
	h.Do(func() {
		found, err := FindInterfaces("default")
		if err != nil || ifaceNames(found) != "a b" {
			t.Errorf("default is %v, %v", found, err)
		}
	})
	a.Unplug()
	expect("with a unplugged", "b", "b")
	b.Unplug()
	expect("with both unplugged", "a", "b")
	a.Plug()
	expect("with a plugged in", "a", "a")
	b.Plug()
	a.Down()
	expect("with a down", "b", "b")
	b.Delete()
	expect("with b deleted", "", "")
	a.Up()
	expect("with a up", "a", "a")

	both := func(line string) {
		ifaceIP(t, h, line)
		ifaceIP6(t, h, line)
	}
	flush := func(table string) {
		ifaceIP(t, h, "route flush root 0/0 table "+table)
		ifaceIP6(t, h, "route flush root ::/0 table "+table)
	}
	flush("main")
	ifaceIP(t, h, "route add 10.0.1.0/24 dev a",
		"route add default metric 10 nexthop via 10.0.1.254 dev a nexthop via 10.0.1.253 dev a",
		"route add blackhole default metric 5")
	ifaceIP6(t, h, "route add unreachable default metric 5", "route add default dev a metric 10 pref low")
	expect("multipath, and reject routes", "a", "a")

	b.Create()
	flush("main")
	ifaceIP(t, h, "nexthop add id 7 dev a", "route add default nhid 7")
	ifaceIP6(t, h, "nexthop add id 8 dev a", "route add default nhid 8")
	expect("nexthop objects", "a", "a")
	h.Sysctl("net/ipv4/nexthop_compat_mode", "0") // no RTA_OIF
	expect("nexthop objects as such", "a", "a")

	both("nexthop flush")
	ifaceIP(t, h, "route add default dev a")
	ifaceIP6(t, h, "route add default from fd99::/64 dev b metric 5", "route add default dev a metric 6")
	expect("one for some sources only", "a", "a")
	flush("main")
	ifaceIP(t, h, "route add default dev a")
	ifaceIP6(t, h, "route add default dev b metric 5 expires 1", "route add default dev a metric 6")
	expect("one that expires", "a", "a") // before the kernel removes it, in its own time
	flush("main")
	both("route add default dev b table 99")
	expect("a table nobody uses", "", "")
	both("rule add pref 100 table 99")
	expect("a table in use", "b", "b")
	both("route add default dev a metric 5000")
	expect("that and the main table", "a", "a")
	flush("main")
	flush("99")
	both("route add unreachable default table 99")
	expect("a table that rejects", "", "")
	flush("99")
	both("route add local default dev lo table 99")
	expect("a table that keeps all to itself", "", "")
	flush("99")
	ifaceIP(t, h, "route add 0.0.0.0/1 dev b", "route add 128.0.0.0/1 dev b")
	ifaceIP6(t, h, "route add 2000::/3 dev b")
	expect("everything but a default route", "b", "b")
}

// manyRoutes gives a host n routes of a family to places far apart, all by the same interface.
func manyRoutes(t testing.TB, h *mcasttest.Host, v4 bool, n int) {
	t.Helper()
	ip, lines := ifaceIP6, make([]string, n)
	if v4 {
		ip = ifaceIP
	}
	for i := range lines {
		if v4 {
			lines[i] = fmt.Sprintf("route add %d.%d.%d.0/24 dev far", 1+i/62500, i/250%250, i%250)
		} else {
			lines[i] = fmt.Sprintf("route add 2001:%x:%x::/48 dev far", i/250, 1+i%250)
		}
	}
	ip(t, h, lines...)
}

// TestDefaultInterfaceManyRoutes looks for default routes among thousands of others. For IPv4 it does not read them all.
func TestDefaultInterfaceManyRoutes(t *testing.T) {
	h := mcasttest.NewHost(t)
	for n, name := range []string{"near", "far"} {
		h.NewVeth(name, netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(n)<<6 | 1}), 26),
			netip.PrefixFrom(netip.AddrFrom16([16]byte{0: 0xfd, 7: byte(n), 15: 1}), 64))
	}
	// All of these begin where the default routes do.
	ifaceIP(t, h, "route add 0.0.0.0/1 dev far", "route add 128.0.0.0/1 dev far", "route add 0.0.0.0/8 dev far", "route add 0.0.0.0/32 dev far")
	ifaceIP6(t, h, "route add ::/1 dev far", "route add ::/8 dev far")
	const routes = 3000
	for _, family := range []struct {
		network string
		number  byte
		ip      func(testing.TB, *mcasttest.Host, ...string)
	}{
		{"ip4", unix.AF_INET, ifaceIP},
		{"ip6", unix.AF_INET6, ifaceIP6},
	} {
		manyRoutes(t, h, family.number == unix.AF_INET, routes)
		for _, step := range []struct {
			what, line, want string
			notFar           bool
		}{
			{"no default route", "rule list", "far", false},
			{"one", "route add default dev far metric 30", "far", true},
			{"a better one", "route add default dev near metric 20", "near", true},
			{"a worse one", "route add default dev far metric 40", "near", true},
		} {
			family.ip(t, h, step.line)
			h.Do(func() {
				got, err := DefaultInterface(family.network)
				if err != nil || got.Name != step.want {
					t.Errorf("%s, %s: %q, %v; want %q", family.network, step.what, got.Name, err, step.want)
				}
				c, err := ifaceDial()
				if err != nil {
					t.Fatal(err)
				}
				defer c.close()
				index, err := c.mainDefault(family.number)
				if err != nil || (index == got.Index) != step.notFar {
					t.Errorf("%s, %s: the main table has %d, %v", family.network, step.what, index, err)
				}
				_, _, left := unix.Recvfrom(c.fd, nil, unix.MSG_PEEK|unix.MSG_DONTWAIT)
				if sorted := family.number == unix.AF_INET && c.strict; sorted != (left == nil) {
					t.Errorf("%s, %s: to read on: %v", family.network, step.what, left)
				}
			})
		}
	}
}

// BenchmarkDefaultInterface is what a look for the default route costs on a host with many others.
func BenchmarkDefaultInterface(b *testing.B) {
	for _, network := range []string{"ip4", "ip6"} {
		for _, routes := range []int{0, 100000} {
			b.Run(fmt.Sprintf("%s/routes=%d", network, routes), func(b *testing.B) {
				h := mcasttest.NewHost(b)
				h.NewVeth("far", netip.MustParsePrefix("192.0.2.1/24"), netip.MustParsePrefix("fd99::1/64"))
				ifaceIP(b, h, "route add default dev far metric 7")
				ifaceIP6(b, h, "route add default dev far metric 7")
				manyRoutes(b, h, network == "ip4", routes)
				h.Do(func() {
					b.ReportAllocs()
					for b.Loop() {
						if _, err := defaultIndex(network); err != nil {
							b.Fatal(err)
						}
					}
				})
			})
		}
	}
}

// TestDefaultInterfaceBare asks in a namespace as the kernel makes it, which does not even have a main table.
func TestDefaultInterfaceBare(t *testing.T) {
	h := mcasttest.NewHost(t)
	h.Do(func() { // on a thread that is thrown away
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Fatal(err)
		}
		for _, network := range []string{"ip4", "ip6"} {
			if i, err := DefaultInterface(network); !errors.Is(err, ErrNoInterface) {
				t.Errorf("%s leads to %v, %v", network, i, err)
			}
		}
		if list, err := Interfaces(); err != nil || ifaceNames(withoutFallbacks(list)) != "lo" || list[0].IPv4 != nil {
			t.Errorf("got %+v, %v", list, err)
		}
	})
}

// TestDefaultInterfaceMain checks the namespace in which the tests of this module run.
func TestDefaultInterfaceMain(t *testing.T) {
	mcasttest.Require(t)
	for _, network := range []string{"ip4", "ip6"} {
		if i, err := DefaultInterface(network); err != nil || i.Name != "mc0" || len(i.IPv4) == 0 || len(i.IPv6) == 0 {
			t.Errorf("%s leads to %+v, %v", network, i, err)
		}
	}
}

// What a kernel answered (Linux 6.18, amd64): the addresses, and the default routes, of a host with lo, br0 and the veths w
// (index 3) and v (index 4), on which v has peers and is the way of several default routes.
const (
	ifaceRecordedAddrs = "" +
		"TAAAABQAAgABAAAArGYc9AIIgP4BAAAACAABAH8AAAEIAAIAfwAAAQcAAwBsbwAACAAIAIAAAAAUAAYA//////////8umAQALpgEAEwAAAAUAAIA" +
		"AQAAAKxmHPQCGIAABAAAAAgAAQAKAAABCAACAAoAAAEGAAMAdgAAAAgACACAAAAAFAAGAP//////////LpgEAC6YBABMAAAAFAACAAEAAACsZhz0" +
		"AhiAAAQAAAAIAAEArB8AAggAAgCsEAABBgADAHYAAAAIAAgAgAAAABQABgD//////////y+YBAAvmAQAUAAAABQAAgABAAAArGYc9AqAgP4BAAAA" +
		"FAABAAAAAAAAAAAAAAAAAAAAAAEUAAYA//////////8umAQALpgEAAgACACAAAAABQALAAEAAABQAAAAFAACAAEAAACsZhz0CkDA/QMAAAAUAAEA" +
		"/oAAAAAAAADIx1L//lHIFxQABgD//////////y+YBAAvmAQACAAIAMAAAAAFAAsAAwAAAFwAAAAUAAIAAQAAAKxmHPQKQIIABAAAABQAAgD9AAAA" +
		"AAAAAAAAAAAAAAABFAABAP0BAAAAAAAAAAAAAAAAAAIUAAYA//////////8vmAQAL5gEAAgACACCAAAAUAAAABQAAgABAAAArGYc9ApAwP0EAAAA" +
		"FAABAP6AAAAAAAAAkDQd//44kIYUAAYA//////////8vmAQAL5gEAAgACADAAAAABQALAAMAAAA="
	ifaceRecordedRoutes = "" +
		"UAAAABgAIgACAAAArGYc9AIAAAD+AwABAAAAAAgADwD+AAAACAAGAAcAAAAkAAkAEAAAAAQAAAAIAAUACgAAAhAAAAAEAAAACAAFAAoAAAM0AAAA" +
		"GAAiAAIAAACsZhz0AgAAAP4D/QEAAAAACAAPAP4AAAAIAAYACQAAAAgABAAEAAAAPAAAABgAIgACAAAArGYc9AIAAAD+AwABAAAAAAgADwD+AAAA" +
		"CAAGACwAAAAIAB4ABwAAAAgABAAEAAAALAAAABgAIgACAAAArGYc9AIAAAD+AwAHAAAAAAgADwD+AAAACAAGAGMAAABgAAAAGAAiAAIAAACsZhz0" +
		"CgAAAP4DAAEAAAAACAAPAP4AAAAIAAYAAwAAAAgABAAEAAAAJAAMAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAABQAUAAEAAAA="
)

func TestRecordedDumps(t *testing.T) {
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		t.Skip("recorded on a little-endian machine")
	}
	addrs, err := base64.StdEncoding.DecodeString(ifaceRecordedAddrs)
	if err != nil {
		t.Fatal(err)
	}
	list := []Interface{{Index: 1}, {Index: 2}, {Index: 3}, {Index: 4}}
	ifaceParseAddrs(list, addrs)
	for n, want := range []string{
		"[127.0.0.1/8] [::1/128]",
		"[] []",
		"[] [fe80::c8c7:52ff:fe51:c817/64]",
		"[10.0.0.1/24 172.16.0.1/32] [fd00::1/128 fe80::9034:1dff:fe38:9086/64]",
	} {
		if got := fmt.Sprint(list[n].IPv4, list[n].IPv6); got != want {
			t.Errorf("interface %d has %s, want %s", list[n].Index, got, want)
		}
	}
	routes, err := base64.StdEncoding.DecodeString(ifaceRecordedRoutes)
	if err != nil {
		t.Fatal(err)
	}
	var got []ifaceRoute
	for _, b := range ifaceMessages(routes) {
		r, _ := ifaceParseRoute(b)
		got = append(got, r)
	}
	want := []ifaceRoute{
		{kind: unix.RTN_UNICAST, table: unix.RT_TABLE_MAIN, index: 4, metric: 7, rank: 1}, // multipath
		{kind: unix.RTN_UNICAST, table: unix.RT_TABLE_MAIN, index: 4, metric: 9, rank: 1},
		{kind: unix.RTN_UNICAST, table: unix.RT_TABLE_MAIN, index: 4, metric: 44, rank: 1}, // a nexthop object
		{kind: unix.RTN_UNREACHABLE, table: unix.RT_TABLE_MAIN, metric: 99, rank: 1},
		{kind: unix.RTN_UNICAST, table: unix.RT_TABLE_MAIN, index: 4, metric: 3}, // IPv6, with high preference
	}
	if !slices.Equal(got, want) {
		t.Errorf("the routes are %+v, want %+v", got, want)
	}
}

// ifaceTestDumps are the answers of real kernels: of the one the test runs on, and some that were recorded (Linux 6.18,
// amd64).
func ifaceTestDumps(t testing.TB) (dumps [][]byte) {
	t.Helper()
	c, err := ifaceDial()
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	for _, question := range []struct {
		typ  uint16
		body int
	}{{unix.RTM_GETLINK, unix.SizeofIfInfomsg}, {unix.RTM_GETADDR, unix.SizeofIfAddrmsg}, {unix.RTM_GETROUTE, unix.SizeofRtMsg}} {
		dump, err := c.dump(question.typ, make([]byte, question.body), nil)
		if err != nil {
			t.Fatal(err)
		}
		dumps = append(dumps, slices.Clone(dump))
	}
	for _, recorded := range []string{ifaceRecordedAddrs, ifaceRecordedRoutes} {
		dump, err := base64.StdEncoding.DecodeString(recorded)
		if err != nil {
			t.Fatal(err)
		}
		dumps = append(dumps, dump)
	}
	return dumps
}

// FuzzNetlink has every parser read anything, and what they take for true must make sense.
func FuzzNetlink(f *testing.F) {
	for _, dump := range ifaceTestDumps(f) {
		f.Add(dump)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		compareWithSyscall(t, b)
		list := ifaceParseLinks(b)
		ifaceParseAddrs(list, b)
		last := 0
		for _, i := range list {
			if i.Index < last || i.Index <= 0 {
				t.Errorf("index %d after %d", i.Index, last)
			}
			last = i.Index
			for _, p := range i.IPv4 {
				if !p.IsValid() || !p.Addr().Is4() {
					t.Errorf("%v in IPv4", p)
				}
			}
			for _, p := range i.IPv6 {
				if !p.IsValid() || !p.Addr().Is6() || p.Addr().Zone() != "" {
					t.Errorf("%v in IPv6", p)
				}
			}
		}
		if index := ifaceBestDefault(b); index < 0 {
			t.Errorf("the default interface is %d", index)
		}
		notice := watchParse(b)
		for index, e := range notice.seen {
			if index <= 0 || e == 0 {
				t.Errorf("events %b of interface %d", e, index)
			}
		}
		if index, ok := ifaceParseLink6(b); ok && index <= 0 {
			t.Errorf("IPv6 was started on interface %d", index)
		}
		answer := ifaceAnswer{}
		_, _ = answer.add(b)
		// Each of them again, as the payload of a message of its own.
		_, _ = ifaceParseLink(b)
		_, _, _ = ifaceParseAddr(b)
		_, _ = ifaceParseRoute(b)
		_, _ = ifaceFirstNexthop(b)
	})
}

// unlessPanics makes an error of a panic: package syscall does, at the end of what is not padded as the kernel pads it.
func unlessPanics[T any](parse func() (T, error)) (v T, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return parse()
}

// compareWithSyscall has package syscall read the same. It refuses more, but what it reads is read here.
func compareWithSyscall(t *testing.T, b []byte) {
	theirs, err := unlessPanics(func() ([]syscall.NetlinkMessage, error) { return syscall.ParseNetlinkMessage(b) })
	if err != nil {
		return
	}
	var ours []syscall.NetlinkMessage
	for h, payload := range ifaceMessages(b) {
		ours = append(ours, syscall.NetlinkMessage{Header: syscall.NlMsghdr(h), Data: payload})
	}
	if len(ours) != len(theirs) {
		t.Fatalf("%d messages, package syscall reads %d", len(ours), len(theirs))
	}
	for i, m := range theirs {
		if ours[i].Header != m.Header || !bytes.Equal(ours[i].Data, m.Data) {
			t.Fatalf("message %d is %+v, package syscall reads %+v", i, ours[i], m)
		}
		header := map[uint16]int{unix.RTM_NEWLINK: unix.SizeofIfInfomsg, unix.RTM_NEWADDR: unix.SizeofIfAddrmsg, unix.RTM_NEWROUTE: unix.SizeofRtMsg}
		size, ok := header[m.Header.Type]
		attributes, err := unlessPanics(func() ([]syscall.NetlinkRouteAttr, error) { return syscall.ParseNetlinkRouteAttr(&m) })
		if !ok || err != nil {
			continue
		}
		n := 0
		for typ, value := range ifaceAttrs(m.Data[size:]) {
			a := attributes[n]
			if n++; typ != a.Attr.Type&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER) || !bytes.Equal(value, a.Value) {
				t.Fatalf("attribute %d of message %d is %d: %x, package syscall reads %+v", n, i, typ, value, a)
			}
		}
		if n != len(attributes) {
			t.Fatalf("%d attributes in message %d, package syscall reads %d", n, i, len(attributes))
		}
	}
}

// TestManyAddressesWithoutNetlink lists as many addresses through netdevice(7) as through rtnetlink(7).
func TestManyAddressesWithoutNetlink(t *testing.T) {
	host := mcasttest.NewHost(t)
	host.NewVeth("there", netip.MustParsePrefix("10.9.9.1/24"))
	var lines []string
	for i := range 1100 {
		lines = append(lines, fmt.Sprintf("address add 10.8.%d.%d/16 dev there", i/250, i%250+1))
	}
	ifaceIP(t, host, lines...)
	host.NewVeth("late", netip.MustParsePrefix("10.7.9.1/24"))
	host.Do(func() {
		want, err := ifaceScan()
		if err != nil {
			t.Fatal(err)
		}
		got, err := ioctlScan()
		if err != nil || len(got) != len(want) {
			t.Fatalf("%d interfaces, %v, want %d", len(got), err, len(want))
		}
		for i, g := range got {
			if g.Name != want[i].Name || !slices.Equal(g.IPv4, want[i].IPv4) {
				t.Errorf("%s has %d IPv4 addresses, want %s with %d", g.Name, len(g.IPv4), want[i].Name, len(want[i].IPv4))
			}
		}
	})
}
