// What iface.go asks of the operating system, asked of Windows' IP helper library. Package net asks the same question
// once for the list and once more for the addresses of every interface; one answer tells all.

package mcast

import (
	"cmp"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"unsafe"

	"github.com/go-multicast/mcast/internal/wire"
	"golang.org/x/sys/windows"
)

// ifaceScan lists the interfaces, sorted by index.
func ifaceScan() ([]Interface, error) {
	adapters, err := ifaceAdapters()
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

// defaultIndex returns the index of the interface of the default route, as DefaultInterface describes.
//
// It reads the table rather than ask GetBestInterfaceEx where something far away would be sent: a VPN that diverts unicast
// traffic by routes to 0.0.0.0/1 and 128.0.0.0/1 would be the answer then, although the default gateway is where it was.
func defaultIndex(network string) (int, error) {
	if err := ifaceCheckNetwork(network); err != nil {
		return 0, err
	}
	family := uint16(windows.AF_INET)
	if network == "ip6" {
		family = windows.AF_INET6
	}
	adapters, err := ifaceAdapters()
	if err != nil {
		return 0, opError("default interface", err)
	}
	var table *windows.MibIpForwardTable2
	err = windows.GetIpForwardTable2(family, &table)
	if errors.Is(err, windows.ERROR_NOT_FOUND) || errors.Is(err, windows.ERROR_NOT_SUPPORTED) { // no route; not even the family
		return 0, ifaceNoDefault(network)
	}
	if err != nil {
		return 0, opError("default interface", os.NewSyscallError("GetIpForwardTable2", err))
	}
	defer windows.FreeMibTable(unsafe.Pointer(table))

	var routes []winRoute
	for _, r := range ifaceForwardRows(table) {
		// By LUID: an index may have been given to another interface meanwhile.
		at := slices.IndexFunc(adapters, func(a *windows.IpAdapterAddresses) bool { return a.Luid == r.InterfaceLuid })
		if at >= 0 { // else it was made since the adapters were listed
			routes = append(routes, ifaceFromRow(&r, family, adapters[at]))
		}
	}
	if index := winDefault(routes); index != 0 {
		return index, nil
	}
	return 0, ifaceNoDefault(network)
}

// ifaceForwardRows returns the rows of a table, as long as it is not freed. They begin at an offset of 8 on every
// architecture, as the C type demands; windows.MibIpForwardTable2 has them at 4 on 386, where Go aligns 64 bits to 4 bytes.
func ifaceForwardRows(table *windows.MibIpForwardTable2) []windows.MibIpForwardRow2 {
	return unsafe.Slice((*windows.MibIpForwardRow2)(unsafe.Add(unsafe.Pointer(table), 8)), table.NumEntries)
}

// ifaceFromRow takes from a route, and from the adapter it leads to, what the choice needs. The metric of the interface is
// the adapter's, and not asked of GetIpInterfaceEntry: that would be a call for every row, with a structure that
// golang.org/x/sys lays out wrongly on 386.
func ifaceFromRow(r *windows.MibIpForwardRow2, family uint16, a *windows.IpAdapterAddresses) winRoute {
	metric := a.Ipv4Metric
	if family == windows.AF_INET6 {
		metric = a.Ipv6Metric
	}
	return winRoute{
		bits:     int(r.DestinationPrefix.PrefixLength),
		loopback: r.Loopback != 0,
		index:    ifaceAdapterIndex(a),
		up:       a.OperStatus == windows.IfOperStatusUp,
		metric:   uint64(r.Metric) + uint64(metric),
	}
}

// ifaceAdapters asks for all interfaces that IPv4 or IPv6 is bound to.
func ifaceAdapters() (list []*windows.IpAdapterAddresses, err error) {
	const flags = windows.GAA_FLAG_SKIP_ANYCAST | windows.GAA_FLAG_SKIP_MULTICAST | windows.GAA_FLAG_SKIP_DNS_SERVER
	size := uint32(15000) // what its documentation recommends, since the call is slow and should not have to be repeated
	for range 10 {
		buf := make([]byte, size)
		first := (*windows.IpAdapterAddresses)(unsafe.Pointer(&buf[0]))
		err = windows.GetAdaptersAddresses(windows.AF_UNSPEC, flags, 0, first, &size)
		switch {
		case err == nil:
			for a := first; a != nil; a = a.Next { // all pointers in there lead into buf, and keep it
				list = append(list, a)
			}
			return list, nil
		case errors.Is(err, windows.ERROR_NO_DATA):
			return nil, nil // there is none
		case !errors.Is(err, windows.ERROR_BUFFER_OVERFLOW):
			return nil, os.NewSyscallError("GetAdaptersAddresses", err)
		}
		size += 4 << 10 // for what comes in between: size is now what it would have taken
	}
	return nil, os.NewSyscallError("GetAdaptersAddresses", err)
}

// ifaceAdapterIndex returns the index of an adapter. It has one for each protocol that is bound to it. They are the same,
// unless IPv4 is not bound, which makes the first of them 0.
func ifaceAdapterIndex(a *windows.IpAdapterAddresses) int {
	return int(cmp.Or(a.IfIndex, a.Ipv6IfIndex))
}

// ifaceFromAdapter makes an interface of what Windows tells about one.
//
// Its name is the friendly one, as in package net, though the GUID would be the steadier one: a name is also the zone of an
// address to dial, which package net has to understand, it is what stands in errors and logs for people to read, and
// an interface that software creates anew, as VPNs do, often keeps its name and not its GUID.
func ifaceFromAdapter(a *windows.IpAdapterAddresses) Interface {
	guid, friendly := windows.BytePtrToString(a.AdapterName), windows.UTF16PtrToString(a.FriendlyName)
	i := Interface{
		Name:         cmp.Or(friendly, guid),
		FriendlyName: friendly,
		guid:         guid,
		Index:        ifaceAdapterIndex(a),
		Flags:        ifaceFlags(a),
	}
	if a.Mtu < 1<<31 { // loopback has no limit and says 1<<32 - 1
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
		// Windows gives an interface without a carrier an address of this range (RFC 3927) and shows it, but does not
		// use it: binding to it and joining by it fail with WSAEADDRNOTAVAIL.
		if addr.Is4() && addr.IsLinkLocalUnicast() && i.Flags&net.FlagUp == 0 {
			continue
		}
		// 255 is Windows' word for no prefix at all.
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

// ifaceFlags are the flags of package net, but for multicast, which package net infers from the type: WireGuard's is
// not among those it knows.
func ifaceFlags(a *windows.IpAdapterAddresses) (f net.Flags) {
	const noMulticast = 0x10 // IP_ADAPTER_NO_MULTICAST in iptypes.h
	if a.OperStatus == windows.IfOperStatusUp {
		f |= net.FlagUp | net.FlagRunning // Windows does not tell an interface that is down from one without a carrier
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
