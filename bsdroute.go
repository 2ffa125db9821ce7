// What macOS tells of routes and interfaces, in its routing table and on a routing socket (route(4)), judged without the
// system: iface_darwin.go and watch_darwin.go ask, and what they make of the answers is here, where it is tested on every
// system. The numbers are those of bsd/net/route.h in Apple's xnu.

package mcast

import (
	"encoding/binary"
	"net/netip"
)

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

// isDefault reports whether an ordinary packet to nowhere in particular takes this route.
//
// A scoped route is none of those, even if it leads everywhere: each interface that has a router gets one, and only
// sockets bound to that interface use it. One route at most is left for each family, and that is the kernel's notion of the
// default, too (rt_primary_default in bsd/net/route.c). A zero mask is what makes it lead everywhere: VPNs are fond of a
// pair of routes to 0.0.0.0/1 and 128.0.0.0/1.
func (r bsdRoute) isDefault() bool {
	const not = bsdHost | bsdReject | bsdBlackhole | bsdScoped
	return r.flags&bsdUp != 0 && r.flags&not == 0 && r.index > 0 &&
		r.dst.IsUnspecified() && (!r.mask.IsValid() || r.mask.IsUnspecified())
}

// bsdDefault returns the index of the interface of the default route of "ip4" or "ip6", or 0 if there is none. A route by a
// gateway is preferred to one that just leads into an interface, which is how a VPN may have it.
func bsdDefault(routes []bsdRoute, network string) int {
	direct := 0
	for _, r := range routes {
		switch {
		case !r.isDefault() || r.dst.Is4() != (network == "ip4"):
		case r.flags&bsdGateway != 0:
			return r.index
		case direct == 0:
			direct = r.index
		}
	}
	return direct
}

// bsdCallsForScan reports whether a message of a routing socket may be about what a list of interfaces shows. Routes are
// not in it, and there can be thousands of messages about them; nor are the groups that are joined, by this library among
// others. What is not understood calls for a scan.
func bsdCallsForScan(message []byte) bool {
	const (
		version  = 5    // RTM_VERSION
		add      = 0x1  // RTM_ADD, the first of those about routes,
		resolve  = 0xb  // RTM_RESOLVE, and the last
		newMAddr = 0xf  // RTM_NEWMADDR
		delMAddr = 0x10 // RTM_DELMADDR
	)
	if len(message) < 4 || message[2] != version { // all types begin with a length of 2 bytes, the version and the type
		return true
	}
	typ := message[3]
	return (typ < add || typ > resolve) && typ != newMAddr && typ != delMAddr
}

// bsdDown returns the index of the interface that a message of a routing socket reports to be down: one of type
// RTM_IFINFO, whose struct if_msghdr (bsd/net/if.h) lacks IFF_UP.
func bsdDown(message []byte) (index int, down bool) {
	const (
		version = 5   // RTM_VERSION
		ifInfo  = 0xe // RTM_IFINFO
		up      = 0x1 // IFF_UP
	)
	if len(message) < 14 || message[2] != version || message[3] != ifInfo {
		return 0, false
	}
	index = int(binary.NativeEndian.Uint16(message[12:]))
	return index, binary.NativeEndian.Uint32(message[8:])&up == 0
}
