// Tests of the choice of interfaces, on lists made up for the purpose. What a real system's list looks like is tested in
// iface_linux_test.go and by TestInterfaces.

package mcast

import (
	"errors"
	"net"
	"net/netip"
	"path"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// ifaceTestList is a host with everything that makes the choice hard.
func ifaceTestList() []Interface {
	prefixes := func(ps ...string) (list []netip.Prefix) {
		for _, p := range ps {
			list = append(list, netip.MustParsePrefix(p))
		}
		return list
	}
	const up = net.FlagUp | net.FlagMulticast | net.FlagRunning
	return []Interface{
		{Name: "lo", Index: 1, MTU: 65536, Flags: net.FlagUp | net.FlagLoopback, IPv4: prefixes("127.0.0.1/8"), IPv6: prefixes("::1/128")},
		{Name: "eth0", Index: 2, MTU: 1500, Flags: up, IPv4: prefixes("192.168.0.248/24", "10.9.0.1/16"), IPv6: prefixes("2001:db8::1/64", "fe80::1/64")},
		{Name: "enp3s0", AltNames: []string{"uplink", "enx020000000003", "0123456789abcdef"}, Index: 3, MTU: 1500, Flags: up, IPv4: prefixes("192.168.7.2/24"), IPv6: prefixes("fe80::1/64")},
		{Name: "enp4s0", Index: 4, MTU: 1500, Flags: up},
		{Name: "{6A2F}", FriendlyName: "Ethernet 2", Index: 6, MTU: 1500, Flags: up, IPv4: prefixes("172.16.0.9/12")},
		{Name: "2", Index: 7, MTU: 1500, Flags: up, IPv4: prefixes("169.254.1.1/16"), IPv6: prefixes("fe80::7/64")}, // ip link set … name 2
		{Name: "tun*", AltNames: []string{"6", "Ethernet 2"}, Index: 8, MTU: 1280, Flags: up | net.FlagPointToPoint, IPv4: prefixes("10.9.0.1/32")},
	}
}

// ifaceTestDefaults gives the default interfaces; 0 is none.
func ifaceTestDefaults(ip4, ip6 int) func(string) (int, error) {
	return func(network string) (int, error) {
		index := map[string]int{"ip4": ip4, "ip6": ip6}[network]
		if index == 0 {
			return 0, ifaceNoDefault(network)
		}
		return index, nil
	}
}

func ifaceNames(list []Interface) string {
	var names []string
	for _, i := range list {
		names = append(names, i.Name)
	}
	return strings.Join(names, " ")
}

func TestSelectInterfaces(t *testing.T) {
	for _, test := range []struct {
		specs string // separated by |
		want  string
	}{
		// names
		{"eth0", "eth0"},
		{"Ethernet 2", "{6A2F}"},
		{"{6A2F}", "{6A2F}"},
		{"uplink", "enp3s0"},
		{"0123456789abcdef", "enp3s0"},
		{"6", "tun*"},    // an alternative name before an index, and after a friendly name
		{"2", "2"},       // a name before an index
		{"tun*", "tun*"}, // and before a pattern
		// indexes
		{"3", "enp3s0"},
		{"003", "enp3s0"},
		// addresses
		{"192.168.0.248", "eth0"},
		{"10.9.0.1", "eth0 tun*"},
		{"::ffff:192.168.0.248", "eth0"},
		{"::ffff:c0a8:f8", "eth0"},
		{"2001:db8::1", "eth0"},
		{"2001:DB8:0:0::1", "eth0"},
		{"fe80::1", "eth0 enp3s0"},
		{"fe80::1%eth0", "eth0"},
		{"fe80::1%enp3s0", "enp3s0"},
		{"fe80::1%3", "enp3s0"},
		{"fe80::1%uplink", "enp3s0"},
		{"fe80::7%2", "2"}, // a name before an index
		{"fe80::7%7", "2"},
		{"2001:db8::1%eth0", "eth0"},
		{"::1", "lo"},
		// prefixes
		{"192.168.0.0/16", "eth0 enp3s0"},
		{"192.168.99.99/16", "eth0 enp3s0"},
		{"192.168.0.248/32", "eth0"},
		{"::ffff:192.168.0.0/112", "eth0 enp3s0"},
		{"fe80::/10", "eth0 enp3s0 2"},
		{"0.0.0.0/0", "lo eth0 enp3s0 {6A2F} 2 tun*"},
		{"::/0", "lo eth0 enp3s0 2"},
		// patterns
		{"enp*", "enp3s0 enp4s0"},
		{"enp[4-9]s?", "enp4s0"},
		{"up*", "enp3s0"},
		{"enx*", "enp3s0"},
		{"Eth*", "{6A2F} tun*"},
		{"*", "lo eth0 enp3s0 enp4s0 {6A2F} 2 tun*"},
		// default: routes by eth0 and enp4s0
		{"default", "eth0 enp4s0"},
		// several
		{"enp4s0|lo", "enp4s0 lo"},
		{"lo|1|127.0.0.1|::1|127.0.0.0/8|l*", "lo"},
		{"fe80::/10|enp*|lo", "eth0 enp3s0 2 enp4s0 lo"},
	} {
		found, err := ifaceSelect(ifaceTestList(), strings.Split(test.specs, "|"), ifaceTestDefaults(2, 4))
		if got := ifaceNames(found); got != test.want || err != nil {
			t.Errorf("%s: got %q, %v, want %q", test.specs, got, err, test.want)
		}
	}
}

func TestSelectInterfacesNone(t *testing.T) {
	const list = "there is: lo (index 1) 127.0.0.1 ::1; eth0 (index 2) 192.168.0.248 10.9.0.1 2001:db8::1 fe80::1; " +
		"enp3s0 \"uplink\" \"enx020000000003\" (index 3) 192.168.7.2 fe80::1; enp4s0 (index 4); {6A2F} \"Ethernet 2\" (index 6) 172.16.0.9; " +
		"2 (index 7) 169.254.1.1 fe80::7; tun* \"6\" \"Ethernet 2\" (index 8) 10.9.0.1"
	for _, spec := range []string{
		"eth1", "ETH0", "Uplink", " eth0", "eth0 ", "ethernet 2", "eth0,lo",
		"5", "0", "-1", "+3", "4294967298", "99999999999999999999", "0x3", "1_0",
		"192.168.0.1", "192.168.0.999", "192.168.000.248", "10.9.0.1%eth0", "127.0.0.2",
		"fe80::2", "fe80::1%lo", "fe80::1%4", "fe80::1%", "fe80::1%eth1", "::ffff:10.0.0.1", "fe80:::1", "[::1]", "239.1.1.1", "::",
		"203.0.113.0/24", "ff00::/8", "::ffff:203.0.113.0/120",
		"enq*", "en?", "[l]o0", "default",
	} {
		found, err := ifaceSelect(ifaceTestList(), []string{"lo", spec}, ifaceTestDefaults(0, 0))
		if found != nil || !errors.Is(err, ErrNoInterface) {
			t.Errorf("%s: got %q, %v", spec, ifaceNames(found), err)
			continue
		}
		want := `mcast: find interface: no such interface: "` + spec + `" (` + list + `)`
		if err.Error() != want {
			t.Errorf("%s: the text is\n%s, want\n%s", spec, err, want)
		}
	}
}

func TestSelectInterfacesMistakes(t *testing.T) {
	for _, test := range []struct {
		specs []string
		text  []string // what the error has to say
		is    error
	}{
		{nil, []string{"nothing says which"}, nil},
		{[]string{}, []string{"nothing says which"}, nil},
		{[]string{"lo", ""}, []string{"empty string", "eth0"}, nil},
		{[]string{"192.168.0.0/33"}, []string{`"192.168.0.0/33" is not a prefix`, "out of range"}, nil},
		{[]string{"192.168/16"}, []string{`"192.168/16" is not a prefix`}, nil},
		{[]string{"fe80::1%eth0/64"}, []string{"is not a prefix", "zone"}, nil},
		{[]string{"/"}, []string{`"/" is not a prefix`}, nil},
		{[]string{"enp[3"}, []string{`"enp[3" is not a pattern`}, path.ErrBadPattern},
		{[]string{"zzz[]"}, []string{`"zzz[]" is not a pattern`}, path.ErrBadPattern},
	} {
		found, err := SelectInterfaces(ifaceTestList(), test.specs...)
		var op *OpError
		if found != nil || !errors.As(err, &op) || errors.Is(err, ErrNoInterface) {
			t.Errorf("%q: got %v, %v", test.specs, found, err)
			continue
		}
		if test.is != nil && !errors.Is(err, test.is) {
			t.Errorf("%q: %v is no %v", test.specs, err, test.is)
		}
		for _, text := range test.text {
			if !strings.Contains(err.Error(), text) {
				t.Errorf("%q: the text %q lacks %q", test.specs, err, text)
			}
		}
	}
	if _, err := SelectInterfaces(nil, "eth0"); !errors.Is(err, ErrNoInterface) || !strings.Contains(err.Error(), "no interface to choose from") {
		t.Errorf("with an empty list: %v", err)
	}
	if found, err := FindInterfaces(); err == nil {
		t.Errorf("FindInterfaces() found %v", found)
	}
}

func TestSelectInterfacesDefault(t *testing.T) {
	unknown := errors.New("cannot tell")
	for _, test := range []struct {
		ip4, ip6 int // -1: cannot tell
		want     string
		err      error
	}{
		{2, 2, "eth0", nil},
		{3, 2, "eth0 enp3s0", nil},
		{0, 3, "enp3s0", nil},
		{3, 0, "enp3s0", nil},
		{3, -1, "enp3s0", nil},
		{-1, 3, "enp3s0", nil},
		{3, 99, "enp3s0", nil}, // 99 is not in the list
		{99, 99, "", ErrNoInterface},
		{0, 0, "", ErrNoInterface},
		{-1, 0, "", unknown},
		{0, -1, "", unknown},
		{-1, -1, "", unknown},
	} {
		found, err := ifaceSelect(ifaceTestList(), []string{"default"}, func(network string) (int, error) {
			if network == "ip4" && test.ip4 < 0 || network == "ip6" && test.ip6 < 0 {
				return 0, unknown
			}
			return ifaceTestDefaults(test.ip4, test.ip6)(network)
		})
		if got := ifaceNames(found); got != test.want || !errors.Is(err, test.err) {
			t.Errorf("with %d and %d: got %q, %v, want %q, %v", test.ip4, test.ip6, got, err, test.want, test.err)
		}
	}
	named := []Interface{{Name: "eth0", Index: 2}, {Name: "default", Index: 5}}
	if found, err := ifaceSelect(named, []string{"default"}, ifaceTestDefaults(2, 2)); err != nil || ifaceNames(found) != "default" {
		t.Errorf("an interface named default: got %v, %v", found, err)
	}
}

// TestSelectInterfacesGUID has the other names that an interface of Windows has.
func TestSelectInterfacesGUID(t *testing.T) {
	const guid = "{6A2F40B1-5C1D-4E7B-9A3E-0C2D5B8F7E61}"
	list := append(ifaceTestList(),
		Interface{Name: "WLAN", FriendlyName: "WLAN", guid: guid, Index: 12, IPv6: []netip.Prefix{netip.MustParsePrefix("fe80::1/64")}},
		Interface{Name: "{0}", FriendlyName: "{0}", guid: "{1}", Index: 13},
		Interface{Name: "Ethernet 3", FriendlyName: "Ethernet 3", guid: "{0}", Index: 14})
	for _, test := range []struct{ spec, want string }{
		{"WLAN", "WLAN"},
		{guid, "WLAN"},
		{strings.ToLower(guid), "WLAN"},
		{strings.Trim(guid, "{}"), "WLAN"},
		{strings.ToLower(strings.Trim(guid, "{}")), "WLAN"},
		{"fe80::1%WLAN", "WLAN"},
		{"fe80::1%12", "WLAN"},
		{"fe80::1%" + guid, "WLAN"},
		{"fe80::1%" + strings.ToLower(strings.Trim(guid, "{}")), "WLAN"},
		{"{0}", "{0}"}, // a name before a GUID
		{"{1}", "{0}"},
		{"1", "{0}"}, // and a GUID before an index; real ones do not look like one
		{guid[:20], ""},
		{"{" + guid, ""},
		{"{}", ""},
		{"wlan", ""},
	} {
		found, err := SelectInterfaces(list, test.spec)
		if got := ifaceNames(found); got != test.want || (err == nil) != (test.want != "") {
			t.Errorf("%s: got %q, %v, want %q", test.spec, got, err, test.want)
		}
	}
}

// TestSelectInterfacesPure checks that the list is left alone, and that the system is asked for nothing but the default.
func TestSelectInterfacesPure(t *testing.T) {
	list := ifaceTestList()
	asked := func(string) (int, error) { t.Error("the system was asked"); return 0, ErrNoInterface }
	found, err := ifaceSelect(list, []string{"enp4s0", "3", "fe80::/10", "e*"}, asked)
	if err != nil {
		t.Fatal(err)
	}
	found[0].Name = "changed"
	if !slices.EqualFunc(list, ifaceTestList(), Interface.equal) {
		t.Errorf("the list has become %v", list)
	}
}

func TestIfaceListText(t *testing.T) {
	var many []Interface
	for n := range 1000 {
		i := Interface{Name: "eth", Index: n + 1}
		for range 100 {
			i.AltNames = append(i.AltNames, "alternative", strings.Repeat("a", 127))
			i.IPv6 = append(i.IPv6, netip.MustParsePrefix("2001:db8:aaaa:bbbb:cccc:dddd:eeee:ffff/64"))
		}
		many = append(many, i)
	}
	if s := ifaceListText(many); len(s) > 4000 || !strings.HasSuffix(s, "; and 984 more") || !strings.Contains(s, " …;") {
		t.Errorf("the text for many is %d bytes long: %s", len(s), s)
	}
}

func TestInterfaceEqual(t *testing.T) {
	base := ifaceTestList()[1]
	base.HardwareAddr = net.HardwareAddr{2, 0, 0, 0, 0, 1}
	for n, change := range []func(*Interface){
		func(i *Interface) { i.Name = "eth1" },
		func(i *Interface) { i.FriendlyName = "x" },
		func(i *Interface) { i.AltNames = []string{"uplink"} },
		func(i *Interface) { i.guid = "{6A2F40B1-5C1D-4E7B-9A3E-0C2D5B8F7E61}" },
		func(i *Interface) { i.Index++ },
		func(i *Interface) { i.Master++ },
		func(i *Interface) { i.kind = "bridge" },
		func(i *Interface) { i.masterKind = "bridge" },
		func(i *Interface) { i.MTU++ },
		func(i *Interface) { i.HardwareAddr = net.HardwareAddr{2, 0, 0, 0, 0, 2} },
		func(i *Interface) { i.Flags &^= net.FlagRunning },
		func(i *Interface) { i.IPv4 = i.IPv4[:1] },
		func(i *Interface) { i.IPv6 = nil },
	} {
		other := base
		change(&other)
		if base.equal(other) || other.equal(base) {
			t.Errorf("change %d goes unseen", n)
		}
	}
	if !base.equal(base) {
		t.Error("an interface differs from itself")
	}
}

// ifaceTestFull returns an interface all of whose fields are set.
func ifaceTestFull() Interface {
	return Interface{
		Name: "eth0", FriendlyName: "Ethernet", AltNames: []string{"uplink"}, guid: "{6A2F}", since6: 1, Index: 2,
		Master: 3, kind: "veth", masterKind: "bridge", masterName: "br0", MTU: 1500,
		HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 1}, Flags: net.FlagUp,
		IPv4: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")},
		IPv6: []netip.Prefix{netip.MustParsePrefix("2001:db8::1/64")}, tentative: groups("2001:db8::1"),
	}
}

// ifaceTestOverwrite overwrites the elements of all slices of an interface that a user can reach.
func ifaceTestOverwrite(i *Interface) {
	for f, v := range reflect.ValueOf(i).Elem().Fields() {
		if v.Kind() == reflect.Slice && f.IsExported() {
			v.Index(0).SetZero()
		}
	}
}

// TestInterfaceClone checks that a clone has every field and shares none of the slices.
func TestInterfaceClone(t *testing.T) {
	full := ifaceTestFull()
	for f, v := range reflect.ValueOf(full).Fields() {
		if v.IsZero() {
			t.Errorf("ifaceTestFull does not set %s", f.Name)
		}
	}
	clone := full.clone()
	if !reflect.DeepEqual(clone, full) {
		t.Errorf("the clone is %+v, want %+v", clone, full)
	}
	ifaceTestOverwrite(&clone)
	if !reflect.DeepEqual(full, ifaceTestFull()) {
		t.Errorf("the clone shares memory: %+v", full)
	}
	if none := ifaceCloneAll(nil); none != nil {
		t.Errorf("the copy of a nil list is %v", none)
	}
	if empty := (Interface{}).clone(); !reflect.DeepEqual(empty, Interface{}) {
		t.Errorf("the clone of the zero Interface is %+v", empty)
	}
}

func TestIsLoopback(t *testing.T) {
	for _, i := range ifaceTestList() {
		if i.IsLoopback() != (i.Name == "lo") {
			t.Errorf("%s: %v", i.Name, i.IsLoopback())
		}
	}
}

// TestInterfaces compares a scan with package net's, which on systems without an own scan compares little.
func TestInterfaces(t *testing.T) {
	list, err := Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	ifaceCompareWithNet(t, list)
}

// ifaceCompareWithNet compares a scan of the calling thread's network with what package net tells about it.
func ifaceCompareWithNet(t *testing.T, list []Interface) {
	t.Helper()
	links, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(links, func(a, b net.Interface) int { return a.Index - b.Index })
	if len(list) != len(links) {
		t.Fatalf("%d interfaces, package net has %d", len(list), len(links))
	}
	for n, link := range links {
		i := list[n]
		if i.guid != "" { // on Windows package net infers this flag from the type, and lists addresses that are not in use
			link.Flags = link.Flags&^net.FlagMulticast | i.Flags&net.FlagMulticast
			if i.Flags&net.FlagUp == 0 {
				continue
			}
		}
		if i.Name != link.Name || i.Index != link.Index || i.MTU != max(link.MTU, 0) || i.Flags != link.Flags ||
			i.HardwareAddr.String() != link.HardwareAddr.String() {
			t.Errorf("got %+v, package net has %+v", i, link)
		}
		addrs, err := link.Addrs()
		if err != nil {
			t.Fatal(err)
		}
		var want, got []string
		for _, addr := range addrs {
			if _, ok := addr.(*net.IPNet); ok {
				want = append(want, addr.String())
			}
		}
		for _, p := range slices.Concat(i.IPv4, i.IPv6) {
			got = append(got, p.String())
		}
		slices.Sort(want)
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("%s: got %v, package net has %v", i.Name, got, want)
		}
		for _, p := range i.IPv4 {
			if !p.Addr().Is4() {
				t.Errorf("%s: %v among its IPv4 addresses", i.Name, p)
			}
		}
		for _, p := range i.IPv6 {
			if a := p.Addr(); !a.Is6() || a.Is4In6() || a.Zone() != "" {
				t.Errorf("%s: %v among its IPv6 addresses", i.Name, p)
			}
		}
	}
}

func TestDefaultInterfaceNetwork(t *testing.T) {
	for _, network := range []string{"", "ip", "udp4", "IP4", "ip46"} {
		_, err := DefaultInterface(network)
		var unknown net.UnknownNetworkError
		if !errors.As(err, &unknown) || string(unknown) != network {
			t.Errorf("%q: %v", network, err)
		}
	}
}

func FuzzSelectInterfaces(f *testing.F) {
	for _, spec := range []string{"eth0", "2", "fe80::1%eth0", "::ffff:1.2.3.4", "10.0.0.0/8", "enp[0-9]*", "default", "", "%", "a/b", "\\"} {
		f.Add(spec)
	}
	list := ifaceTestList()
	f.Fuzz(func(t *testing.T, spec string) {
		found, err := ifaceSelect(list, []string{spec}, ifaceTestDefaults(2, 0))
		if (err == nil) != (len(found) > 0) {
			t.Errorf("got %v, %v", found, err)
		}
		if again, _ := ifaceSelect(list, []string{spec, spec}, ifaceTestDefaults(2, 0)); ifaceNames(again) != ifaceNames(found) {
			t.Errorf("once %v, twice %v", found, again)
		}
	})
}

func BenchmarkInterfaces(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Interfaces(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkNetInterfaces is what the same costs with package net.
func BenchmarkNetInterfaces(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		links, err := net.Interfaces()
		if err != nil {
			b.Fatal(err)
		}
		for _, link := range links {
			if _, err := link.Addrs(); err != nil {
				b.Fatal(err)
			}
		}
	}
}
