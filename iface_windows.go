// What iface.go asks of Windows, through the IP helper library. Package net makes the same call once for the list, and
// once more for the addresses of every interface. Here one call returns all of it.

package mcast

import (
	"cmp"
	"net"
	"net/netip"
	"slices"

	"github.com/go-multicast/mcast/internal/route"
	"github.com/go-multicast/mcast/internal/wire"
	"golang.org/x/sys/windows"
)

// ifaceScan lists the interfaces, sorted by index.
func ifaceScan() ([]Interface, error) {
	adapters, err := route.Adapters()
	if err != nil {
		return nil, opError("scan", err)
	}
	list := make([]Interface, 0, len(adapters))
	for _, a := range adapters {
		if i := ifaceFromAdapter(a); i.Index > 0 { // 0: neither IPv4 nor IPv6 is bound to it
			list = append(list, i)
		}
	}
	slices.SortStableFunc(list, func(a, b Interface) int { return cmp.Compare(a.Index, b.Index) })
	return list, nil
}

// ifaceFromAdapter returns the interface for an adapter of Windows.
//
// Its name is the friendly one, as in package net, although the GUID is steadier. There are three reasons. A name is
// also the zone of an address to dial, which package net has to understand. People read it in errors and logs. An
// interface that software creates anew, as VPNs do, often keeps its name and not its GUID.
func ifaceFromAdapter(a *windows.IpAdapterAddresses) Interface {
	guid, friendly := windows.BytePtrToString(a.AdapterName), windows.UTF16PtrToString(a.FriendlyName)
	i := Interface{
		Name:         cmp.Or(friendly, guid),
		FriendlyName: friendly,
		guid:         guid,
		Index:        route.AdapterIndex(a),
		Flags:        ifaceFlags(a),
	}
	if a.Mtu < 1<<31 { // loopback has no limit, and its value is 1<<32 - 1
		i.MTU = int(a.Mtu)
	}
	if n := min(int(a.PhysicalAddressLength), len(a.PhysicalAddress)); n > 0 {
		i.HardwareAddr = net.HardwareAddr(slices.Clone(a.PhysicalAddress[:n]))
	}
	var v4, v6 []wire.WinAddr
	for u := a.FirstUnicastAddress; u != nil; u = u.Next {
		addr, ok := netip.AddrFromSlice(u.Address.IP())
		if !ok {
			continue // neither IPv4 nor IPv6
		}
		// Windows gives an interface without a carrier an address of this range (RFC 3927) and lists it, but does not
		// use it. Binding to it and joining on it fail with WSAEADDRNOTAVAIL.
		if addr.Is4() && addr.IsLinkLocalUnicast() && i.Flags&net.FlagUp == 0 {
			continue
		}
		// 255 means no prefix at all on Windows.
		one := wire.WinAddr{Prefix: netip.PrefixFrom(addr, min(int(u.OnLinkPrefixLength), addr.BitLen())), State: u.DadState}
		if addr.Is4() {
			v4 = append(v4, one)
		} else {
			v6 = append(v6, one)
		}
	}
	var tentative4, tentative6 []netip.Addr
	i.IPv4, tentative4 = wire.WinUsable(v4)
	i.IPv6, tentative6 = wire.WinUsable(v6)
	i.tentative = slices.Concat(tentative4, tentative6)
	return i
}

// ifaceFlags returns the flags of package net, except for multicast. Package net infers multicast from the type, and
// does not know the type of WireGuard.
func ifaceFlags(a *windows.IpAdapterAddresses) (f net.Flags) {
	const noMulticast = 0x10 // IP_ADAPTER_NO_MULTICAST in iptypes.h
	if a.OperStatus == windows.IfOperStatusUp {
		f |= net.FlagUp | net.FlagRunning // Windows does not distinguish an interface that is down from one without a carrier
	}
	if a.Flags&noMulticast == 0 {
		f |= net.FlagMulticast
	}
	switch a.IfType {
	case windows.IF_TYPE_ETHERNET_CSMACD, windows.IF_TYPE_ISO88025_TOKENRING, windows.IF_TYPE_IEEE80211, windows.IF_TYPE_IEEE1394:
		f |= net.FlagBroadcast
	case windows.IF_TYPE_PPP, windows.IF_TYPE_TUNNEL:
		f |= net.FlagPointToPoint
	case windows.IF_TYPE_ATM:
		f |= net.FlagBroadcast | net.FlagPointToPoint
	case windows.IF_TYPE_SOFTWARE_LOOPBACK:
		f |= net.FlagLoopback
	}
	return f
}
