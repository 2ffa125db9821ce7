// Tests of what Linux tells about interfaces and routes: the parsers, on messages made here, and the whole, against real
// kernels' answers on hosts made for the test.

package mcast

import (
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
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/go-multicast/mcast/internal/rtnl"
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

// The messages that are read, made by hand.

func ifaceTestMessage(typ uint16, body ...[]byte) []byte {
	return rtnl.Message{Type: typ, Flags: unix.NLM_F_MULTI, Body: slices.Concat(body...)}.AppendTo(nil)
}

func ifaceTestUint32(typ uint16, value uint32) []byte {
	return rtnl.Attr(typ, binary.NativeEndian.AppendUint32(nil, value))
}

// ifaceTestLink is struct ifinfomsg.
func ifaceTestLink(family byte, hardware uint16, index int, flags uint32) []byte {
	b := binary.NativeEndian.AppendUint16([]byte{family, 0}, hardware)
	b = binary.NativeEndian.AppendUint32(b, uint32(index))
	b = binary.NativeEndian.AppendUint32(b, flags)
	return append(b, 0, 0, 0, 0)
}

func TestFromLinks(t *testing.T) {
	const multicast = unix.IFF_UP | unix.IFF_RUNNING | unix.IFF_MULTICAST | unix.IFF_BROADCAST | unix.IFF_LOWER_UP
	for _, test := range []struct {
		name string
		in   []rtnl.Link
		want []Interface
	}{
		{"nothing", nil, nil},
		{"ethernet", []rtnl.Link{{Type: unix.ARPHRD_ETHER, Flags: multicast, Index: 7, Name: "eth0", AltNames: []string{"uplink"}, MTU: 1500,
			Addr: []byte{2, 0, 0, 0, 0, 7}}},
			[]Interface{{Name: "eth0", AltNames: []string{"uplink"}, Index: 7, MTU: 1500, HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 7},
				Flags: net.FlagUp | net.FlagRunning | net.FlagMulticast | net.FlagBroadcast}}},
		{"loopback", []rtnl.Link{{Type: unix.ARPHRD_LOOPBACK, Flags: unix.IFF_LOOPBACK, Index: 1, Name: "lo", Addr: make([]byte, 6)}},
			[]Interface{{Name: "lo", Index: 1, Flags: net.FlagLoopback}}},
		{"an IPv4 tunnel's address is no MAC", []rtnl.Link{{Type: unix.ARPHRD_SIT, Flags: unix.IFF_POINTOPOINT, Index: 3, Addr: []byte{10, 0, 0, 1}}},
			[]Interface{{Index: 3, Flags: net.FlagPointToPoint}}},
		{"nor is an IPv6 tunnel's", []rtnl.Link{{Type: unix.ARPHRD_TUNNEL6, Index: 3, Addr: net.IPv6loopback}}, []Interface{{Index: 3}}},
		{"InfiniBand has 20 bytes", []rtnl.Link{{Type: unix.ARPHRD_INFINIBAND, Index: 3, Addr: []byte("12345678901234567890")}},
			[]Interface{{Index: 3, HardwareAddr: net.HardwareAddr("12345678901234567890")}}},
		{"sorted, with masters", []rtnl.Link{{Index: 9, Name: "c", Master: 5, MasterKind: "bridge"}, {Index: 2, Name: "longer"}, {Index: 5, Name: "b", Kind: "bridge"}},
			[]Interface{{Name: "longer", Index: 2}, {Name: "b", Index: 5, kind: "bridge"}, {Name: "c", Index: 9, Master: 5, masterKind: "bridge", masterName: "b"}}},
	} {
		if got := ifaceFromLinks(test.in); !slices.EqualFunc(got, test.want, Interface.equal) {
			t.Errorf("%s: got %+v, want %+v", test.name, got, test.want)
		}
	}
}

func TestAddAddrs(t *testing.T) {
	list := []Interface{{Index: 2}, {Index: 5}}
	var addrs []rtnl.Addr
	for _, index := range []int{5, 2, 9} {
		for _, p := range []string{"10.0.0.1/8", "fd00::1/64", "10.0.0.0/32"} {
			addrs = append(addrs, rtnl.Addr{Index: index, Prefix: netip.MustParsePrefix(p)})
		}
	}
	ifaceAddAddrs(list, addrs)
	for _, i := range list {
		if fmt.Sprint(i.IPv4, i.IPv6) != "[10.0.0.1/8 10.0.0.0/32] [fd00::1/64]" {
			t.Errorf("interface %d has %v %v", i.Index, i.IPv4, i.IPv6)
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
			if errors.Is(err, rtnl.ErrChanged) {
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
	var c *rtnl.Conn
	var err error
	h.Do(func() { c, err = rtnl.Dial(unix.NETLINK_ROUTE) })
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for range 3 { // more than one question by the same socket
		list, err := ifaceScanWith(c)
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
