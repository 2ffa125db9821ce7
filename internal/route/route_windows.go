package route

import (
	"cmp"
	"errors"
	"os"
	"slices"
	"unsafe"

	"golang.org/x/sys/windows"
)

// defaultRoute reads the table. It does not ask GetBestInterfaceEx where to send to a host far away: the answer would
// be a VPN that diverts unicast traffic by routes to 0.0.0.0/1 and 128.0.0.0/1, although the default gateway has not
// changed.
func defaultRoute(v4 bool) (index int, err error) {
	family := uint16(windows.AF_INET6)
	if v4 {
		family = windows.AF_INET
	}
	adapters, err := Adapters()
	if err != nil {
		return 0, err
	}
	var table *windows.MibIpForwardTable2
	err = windows.GetIpForwardTable2(family, &table)
	if errors.Is(err, windows.ERROR_NOT_FOUND) || errors.Is(err, windows.ERROR_NOT_SUPPORTED) { // no route, or no such family
		return 0, nil
	}
	if err != nil {
		return 0, os.NewSyscallError("GetIpForwardTable2", err)
	}
	defer windows.FreeMibTable(unsafe.Pointer(table))

	var routes []winRoute
	for _, r := range forwardRows(table) {
		// By LUID: another interface may have the index by now.
		at := slices.IndexFunc(adapters, func(a *windows.IpAdapterAddresses) bool { return a.Luid == r.InterfaceLuid })
		if at >= 0 { // else the interface was created after the adapters were listed
			routes = append(routes, fromRow(&r, family, adapters[at]))
		}
	}
	return winDefault(routes), nil
}

// forwardRows returns the rows of a table. They are valid until the table is freed. They begin at an offset of 8 on
// every architecture, as the C type demands. windows.MibIpForwardTable2 has them at 4 on 386, where Go aligns 64 bits
// to 4 bytes.
func forwardRows(table *windows.MibIpForwardTable2) []windows.MibIpForwardRow2 {
	return unsafe.Slice((*windows.MibIpForwardRow2)(unsafe.Add(unsafe.Pointer(table), 8)), table.NumEntries)
}

// fromRow extracts from a route, and from the adapter it leads to, what the choice needs. The metric of the interface
// is the adapter's. GetIpInterfaceEntry has it too, but needs a call for every row, with a structure that
// golang.org/x/sys lays out wrongly on 386.
func fromRow(r *windows.MibIpForwardRow2, family uint16, a *windows.IpAdapterAddresses) winRoute {
	metric := a.Ipv4Metric
	if family == windows.AF_INET6 {
		metric = a.Ipv6Metric
	}
	return winRoute{
		bits:     int(r.DestinationPrefix.PrefixLength),
		loopback: r.Loopback != 0,
		index:    AdapterIndex(a),
		up:       a.OperStatus == windows.IfOperStatusUp,
		metric:   uint64(r.Metric) + uint64(metric),
	}
}

// Adapters lists all interfaces that IPv4 or IPv6 is bound to.
func Adapters() (list []*windows.IpAdapterAddresses, err error) {
	const flags = windows.GAA_FLAG_SKIP_ANYCAST | windows.GAA_FLAG_SKIP_MULTICAST | windows.GAA_FLAG_SKIP_DNS_SERVER
	size := uint32(15000) // as its documentation recommends: the call is slow, and repeating it should be rare
	for range 10 {
		buf := make([]byte, size)
		first := (*windows.IpAdapterAddresses)(unsafe.Pointer(&buf[0]))
		err = windows.GetAdaptersAddresses(windows.AF_UNSPEC, flags, 0, first, &size)
		switch {
		case err == nil:
			for a := first; a != nil; a = a.Next { // all pointers in the list point into buf, and keep it alive
				list = append(list, a)
			}
			return list, nil
		case errors.Is(err, windows.ERROR_NO_DATA):
			return nil, nil // there is no adapter
		case !errors.Is(err, windows.ERROR_BUFFER_OVERFLOW):
			return nil, os.NewSyscallError("GetAdaptersAddresses", err)
		}
		size += 4 << 10 // size is now what this call needed; the rest is for adapters added in between
	}
	return nil, os.NewSyscallError("GetAdaptersAddresses", err)
}

// AdapterIndex returns the index of an adapter. An adapter has an index for each protocol that is bound to it. They are
// the same, unless IPv4 is not bound, which makes the first of them 0.
func AdapterIndex(a *windows.IpAdapterAddresses) int {
	return int(cmp.Or(a.IfIndex, a.Ipv6IfIndex))
}
