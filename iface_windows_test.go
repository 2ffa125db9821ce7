// Tests of what is asked of Windows: the translation, on records made up for the purpose, and the questions, on the host
// as it is. Wine answers them too.

package mcast

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"github.com/go-multicast/mcast/internal/wine"
	"golang.org/x/sys/windows"
)

// ifaceTestAdapter is a record as Windows fills it in. The addresses are written with their prefix length, which may be
// one that does not exist, and with their state if they are not preferred.
func ifaceTestAdapter(t *testing.T, a windows.IpAdapterAddresses, guid, friendly string, addrs ...string) *windows.IpAdapterAddresses {
	t.Helper()
	var err error
	if a.AdapterName, err = windows.BytePtrFromString(guid); err != nil {
		t.Fatal(err)
	}
	if a.FriendlyName, err = windows.UTF16PtrFromString(friendly); err != nil {
		t.Fatal(err)
	}
	for _, text := range slices.Backward(addrs) {
		u := &windows.IpAdapterUnicastAddress{Next: a.FirstUnicastAddress, DadState: windows.IpDadStatePreferred}
		addr, more, _ := strings.Cut(text, "/")
		bits, state, _ := strings.Cut(more, " ")
		if _, err := fmt.Sscan(bits, &u.OnLinkPrefixLength); err != nil {
			t.Fatal(err)
		}
		for name, number := range map[string]int32{"tentative": windows.IpDadStateTentative,
			"duplicate": windows.IpDadStateDuplicate, "deprecated": windows.IpDadStateDeprecated} {
			if state == name {
				u.DadState = number
			}
		}
		raw := new(syscall.RawSockaddrAny)
		u.Address.Sockaddr = raw
		if ip := netip.MustParseAddr(addr); ip.Is4() {
			*(*windows.RawSockaddrInet4)(unsafe.Pointer(raw)) = windows.RawSockaddrInet4{Family: windows.AF_INET, Addr: ip.As4()}
			u.Address.SockaddrLength = int32(unsafe.Sizeof(windows.RawSockaddrInet4{}))
		} else {
			*(*windows.RawSockaddrInet6)(unsafe.Pointer(raw)) = windows.RawSockaddrInet6{Family: windows.AF_INET6, Addr: ip.As16(), Scope_id: 12}
			u.Address.SockaddrLength = int32(unsafe.Sizeof(windows.RawSockaddrInet6{}))
		}
		a.FirstUnicastAddress = u
	}
	return &a
}

func TestIfaceFromAdapter(t *testing.T) {
	const guid = "{6A2F40B1-5C1D-4E7B-9A3E-0C2D5B8F7E61}"
	prefixes := func(texts ...string) (list []netip.Prefix) {
		for _, s := range texts {
			list = append(list, netip.MustParsePrefix(s))
		}
		return list
	}
	const up, down = windows.IfOperStatusUp, windows.IfOperStatusDown
	const upFlags = net.FlagUp | net.FlagRunning
	for _, test := range []struct {
		name           string
		record         windows.IpAdapterAddresses
		guid, friendly string
		addrs          []string
		want           Interface
	}{
		{"Ethernet", windows.IpAdapterAddresses{
			IfIndex: 12, Ipv6IfIndex: 12, Mtu: 1500, IfType: windows.IF_TYPE_ETHERNET_CSMACD, OperStatus: up, Flags: 0x1c5,
			PhysicalAddress: [8]byte{2, 0, 0, 0, 0, 1}, PhysicalAddressLength: 6,
		}, guid, "Größe 2", []string{"fe80::1/64", "192.168.0.248/24", "2001:db8::1/64", "169.254.1.1/16"}, Interface{
			Name: "Größe 2", FriendlyName: "Größe 2", guid: guid, Index: 12, MTU: 1500, HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 1},
			Flags: upFlags | net.FlagBroadcast | net.FlagMulticast,
			IPv4:  prefixes("192.168.0.248/24", "169.254.1.1/16"), IPv6: prefixes("fe80::1/64", "2001:db8::1/64"),
		}},
		{"without a carrier", windows.IpAdapterAddresses{
			IfIndex: 3, Ipv6IfIndex: 3, Mtu: 1500, IfType: windows.IF_TYPE_IEEE80211, OperStatus: down,
		}, guid, "WLAN", []string{"fe80::1/64", "169.254.1.1/16", "10.0.0.1/8"}, Interface{
			Name: "WLAN", FriendlyName: "WLAN", guid: guid, Index: 3, MTU: 1500, Flags: net.FlagBroadcast | net.FlagMulticast,
			IPv4: prefixes("10.0.0.1/8"), IPv6: prefixes("fe80::1/64"),
		}},
		{"after wake", windows.IpAdapterAddresses{
			IfIndex: 4, Ipv6IfIndex: 4, Mtu: 1500, IfType: windows.IF_TYPE_ETHERNET_CSMACD, OperStatus: up,
		}, guid, "LAN", []string{"10.0.0.1/8 duplicate", "10.0.0.2/8 tentative", "fe80::1/64 tentative", "10.0.0.3/8 deprecated", "10.0.0.4/8"}, Interface{
			Name: "LAN", FriendlyName: "LAN", guid: guid, Index: 4, MTU: 1500, Flags: upFlags | net.FlagBroadcast | net.FlagMulticast,
			IPv4: prefixes("10.0.0.4/8", "10.0.0.3/8", "10.0.0.2/8"), IPv6: prefixes("fe80::1/64"),
			tentative: []netip.Addr{netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("fe80::1")},
		}},
		{"loopback", windows.IpAdapterAddresses{
			IfIndex: 1, Ipv6IfIndex: 1, Mtu: 1<<32 - 1, IfType: windows.IF_TYPE_SOFTWARE_LOOPBACK, OperStatus: up,
		}, guid, "lo", []string{"::1/128", "127.0.0.1/8"}, Interface{
			Name: "lo", FriendlyName: "lo", guid: guid, Index: 1, Flags: upFlags | net.FlagLoopback | net.FlagMulticast,
			IPv4: prefixes("127.0.0.1/8"), IPv6: prefixes("::1/128"),
		}},
		{"WireGuard, IPv6 only", windows.IpAdapterAddresses{
			Ipv6IfIndex: 9, Mtu: 1420, IfType: 53, OperStatus: up,
		}, guid, "wg0", []string{"fd00::1/255"}, Interface{
			Name: "wg0", FriendlyName: "wg0", guid: guid, Index: 9, MTU: 1420, Flags: upFlags | net.FlagMulticast, IPv6: prefixes("fd00::1/128"),
		}},
		{"PPP that cannot multicast", windows.IpAdapterAddresses{
			IfIndex: 20, Mtu: 1400, IfType: windows.IF_TYPE_PPP, OperStatus: up, Flags: 0x10,
		}, guid, "Modem", []string{"10.0.0.1/32"}, Interface{
			Name: "Modem", FriendlyName: "Modem", guid: guid, Index: 20, MTU: 1400, Flags: upFlags | net.FlagPointToPoint, IPv4: prefixes("10.0.0.1/32"),
		}},
		{"ATM without a name", windows.IpAdapterAddresses{
			IfIndex: 21, IfType: windows.IF_TYPE_ATM, OperStatus: windows.IfOperStatusDormant, PhysicalAddressLength: 99,
		}, guid, "", nil, Interface{
			Name: guid, guid: guid, Index: 21, HardwareAddr: make(net.HardwareAddr, 8), Flags: net.FlagBroadcast | net.FlagPointToPoint | net.FlagMulticast,
		}},
	} {
		record := ifaceTestAdapter(t, test.record, test.guid, test.friendly, test.addrs...)
		got := ifaceFromAdapter(record)
		if !got.equal(test.want) {
			t.Errorf("%s: got\n%+v, want\n%+v", test.name, got, test.want)
		}
		if test.record.PhysicalAddressLength == 0 && got.HardwareAddr != nil {
			t.Errorf("%s: the hardware address is %#v, want nil", test.name, got.HardwareAddr)
		}
		if len(got.HardwareAddr) > 0 { // a copy: the record is a buffer's
			if record.PhysicalAddress[0]++; got.HardwareAddr[0] != test.want.HardwareAddr[0] {
				t.Errorf("%s: the hardware address is not the interface's own", test.name)
			}
		}
	}
}

// TestInterfacesSpecs finds every interface of the host in all the ways there are.
func TestInterfacesSpecs(t *testing.T) {
	list, err := Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for n, i := range list {
		if n > 0 && list[n-1].Index >= i.Index {
			t.Errorf("%s comes after %s", i.Name, list[n-1].Name)
		}
		bare := strings.Trim(i.guid, "{}")
		specs := []string{i.Name, i.FriendlyName, i.guid, bare, strings.ToLower(i.guid), strings.ToUpper(bare), fmt.Sprint(i.Index)}
		for _, p := range slices.Concat(i.IPv4, i.IPv6) {
			specs = append(specs, p.String(), p.Addr().String())
		}
		for _, p := range i.IPv6 {
			for _, zone := range []string{i.Name, i.guid, bare, fmt.Sprint(i.Index)} {
				specs = append(specs, p.Addr().WithZone(zone).String())
			}
		}
		for _, spec := range specs {
			found, err := FindInterfaces(spec)
			if err != nil || !slices.ContainsFunc(found, i.equal) {
				t.Errorf("%s: got %q, %v, want %s", spec, ifaceNames(found), err, i.Name)
			}
		}
		if known, err := net.InterfaceByName(i.Name); err != nil || known.Index != i.Index {
			t.Errorf("package net takes %s for %+v, %v", i.Name, known, err)
		}
	}
	if !slices.ContainsFunc(list, Interface.IsLoopback) {
		t.Error("there is no loopback interface")
	}
}

// TestDefaultInterface compares the choice from the table with what Windows itself would take for something far away,
// which differs only where a route other than the default one leads there. Wine takes any default route, and knows none
// of IPv6.
func TestDefaultInterface(t *testing.T) {
	for network, far := range map[string]windows.Sockaddr{
		"ip4": &windows.SockaddrInet4{Addr: netip.MustParseAddr("198.41.0.4").As4()},
		"ip6": &windows.SockaddrInet6{Addr: netip.MustParseAddr("2001:503:ba3e::2:30").As16()},
	} {
		var want uint32
		if err := windows.GetBestInterfaceEx(far, &want); err != nil {
			t.Logf("%s: Windows has none: %v", network, err)
			want = 0
		}
		i, err := DefaultInterface(network)
		switch {
		case want == 0 && !errors.Is(err, ErrNoInterface):
			t.Errorf("%s: got %+v, %v, want none", network, i, err)
		case want != 0 && (err != nil || i.Index != int(want) && !wine.Here() || i.Flags&net.FlagUp == 0):
			t.Errorf("%s: got %+v, %v, want index %d", network, i, err, want)
		}
		t.Logf("%s: %s, %v", network, i.Name, err)
	}
}
