// The choice of a default route on macOS (route(4)). It needs no system call, and is tested on every system. The
// numbers are from bsd/net/route.h in Apple's xnu.

package route

import "net/netip"

// Flags of a route.
const (
	bsdUp        = 0x1
	bsdGateway   = 0x2
	bsdHost      = 0x4
	bsdReject    = 0x8
	bsdBlackhole = 0x1000
	bsdScoped    = 0x1000000 // RTF_IFSCOPE
)

// bsdRoute is a route of the table.
type bsdRoute struct {
	flags int
	index int        // of the interface
	dst   netip.Addr // without a zone
	mask  netip.Addr // invalid if there is none
}

// isDefault reports whether this is the route of an ordinary packet that no other route matches.
//
// A scoped route is not a default route, even if it leads everywhere. Each interface that has a router gets one, and
// only sockets bound to that interface use it. This leaves at most one route for each family. It is also the kernel's
// own default (rt_primary_default in bsd/net/route.c). A zero mask makes a route lead everywhere: VPNs often have a
// pair of routes to 0.0.0.0/1 and 128.0.0.0/1.
func (r bsdRoute) isDefault() bool {
	const not = bsdHost | bsdReject | bsdBlackhole | bsdScoped
	return r.flags&bsdUp != 0 && r.flags&not == 0 && r.index > 0 &&
		r.dst.IsUnspecified() && (!r.mask.IsValid() || r.mask.IsUnspecified())
}

// bsdDefault returns the index of the interface of the default route of IPv4 or IPv6, or 0 if there is none. It prefers
// a route through a gateway to one that leads directly into an interface, as a VPN's may.
func bsdDefault(routes []bsdRoute, v4 bool) int {
	direct := 0
	for _, r := range routes {
		switch {
		case !r.isDefault() || r.dst.Is4() != v4:
		case r.flags&bsdGateway != 0:
			return r.index
		case direct == 0:
			direct = r.index
		}
	}
	return direct
}
