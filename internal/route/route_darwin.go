package route

import (
	"net/netip"

	"golang.org/x/net/route"
	"golang.org/x/sys/unix"
)

func defaultRoute(v4 bool) (index int, err error) {
	family := unix.AF_INET6
	if v4 {
		family = unix.AF_INET
	}
	table, err := route.FetchRIB(family, route.RIBTypeRoute, 0)
	if err != nil {
		return 0, err
	}
	routes, err := parseRoutes(table)
	if err != nil {
		return 0, err
	}
	return bsdDefault(routes, v4), nil
}

// parseRoutes parses a routing table.
func parseRoutes(table []byte) ([]bsdRoute, error) {
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
				dst:   routeAddr(m.Addrs, unix.RTAX_DST),
				mask:  routeAddr(m.Addrs, unix.RTAX_NETMASK),
			})
		}
	}
	return routes, nil
}

// routeAddr returns one of the addresses of a route, without its zone, or an invalid one if the route has none.
func routeAddr(addrs []route.Addr, i int) netip.Addr {
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
