// What iface.go asks of the operating system, asked of macOS: the default route, from the routing table. The interfaces
// themselves are in iface_net.go.

package mcast

import (
	"net/netip"

	"golang.org/x/net/route"
	"golang.org/x/sys/unix"
)

// defaultIndex returns the index of the interface of the default route, as DefaultInterface describes.
func defaultIndex(network string) (int, error) {
	if err := ifaceCheckNetwork(network); err != nil {
		return 0, err
	}
	family := unix.AF_INET
	if network == "ip6" {
		family = unix.AF_INET6
	}
	table, err := route.FetchRIB(family, route.RIBTypeRoute, 0)
	if err != nil {
		return 0, &OpError{Op: "default interface", Err: err}
	}
	routes, err := ifaceRoutes(table)
	if err != nil {
		return 0, &OpError{Op: "default interface", Err: err}
	}
	if index := bsdDefault(routes, network); index != 0 {
		return index, nil
	}
	return 0, ifaceNoDefault(network)
}

// ifaceRoutes parses a routing table.
func ifaceRoutes(table []byte) ([]bsdRoute, error) {
	messages, err := route.ParseRIB(route.RIBTypeRoute, table)
	if err != nil {
		return nil, err
	}
	var routes []bsdRoute
	for _, m := range messages {
		if m, ok := m.(*route.RouteMessage); ok {
			routes = append(routes, bsdRoute{
				flags: m.Flags,
				index: m.Index,
				dst:   ifaceRouteAddr(m.Addrs, unix.RTAX_DST),
				mask:  ifaceRouteAddr(m.Addrs, unix.RTAX_NETMASK),
			})
		}
	}
	return routes, nil
}

// ifaceRouteAddr returns one of the addresses of a route, without its zone, or an invalid one if the route has none.
func ifaceRouteAddr(addrs []route.Addr, i int) netip.Addr {
	if i >= len(addrs) {
		return netip.Addr{}
	}
	switch a := addrs[i].(type) {
	case *route.Inet4Addr:
		return netip.AddrFrom4(a.IP)
	case *route.Inet6Addr:
		return netip.AddrFrom16(a.IP)
	}
	return netip.Addr{}
}
