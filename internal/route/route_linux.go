package route

import (
	"errors"
	"net/netip"
	"slices"

	"github.com/go-multicast/mcast/internal/rtnl"
	"golang.org/x/sys/unix"
)

func defaultRoute(v4 bool) (index int, err error) {
	for _, ask := range []func(*rtnl.Conn, bool) (int, error){mainDefault, farIndex} {
		c, err := rtnl.Dial(unix.NETLINK_ROUTE) // each asks on a socket of its own
		if err != nil {
			return 0, err
		}
		index, err := ask(c, v4)
		c.Close()
		if err != nil || index != 0 {
			return index, err
		}
	}
	return 0, nil
}

func family(v4 bool) byte {
	if v4 {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// mainDefault returns the interface of the best default route of the main table, or 0 if there is none. It must be the
// last request on its socket, since part of the answer may stay there.
//
// A request for one destination (RTM_F_FIB_MATCH) is no substitute. It obeys policy rules, and a more specific route
// can cover any destination. It returns one default route of several, without regard to carrier and preference.
func mainDefault(c *rtnl.Conn, v4 bool) (index int, err error) {
	// With these filters the kernel sends only the unicast routes of the main table (since 4.20; an older one sends
	// all). It has no filter for the prefix length.
	body := []byte{0: family(v4), 4: unix.RT_TABLE_MAIN, 7: unix.RTN_UNICAST, unix.SizeofRtMsg - 1: 0}
	// The IPv4 table is a trie, and a dump walks it in the order of the addresses (fib_table_dump in net/ipv4/fib_trie.c).
	// So the default routes come before the first route to an address that is not 0.0.0.0. In a dump of IPv6 they come last.
	sorted := v4 && c.Strict()
	routes, err := c.Dump(unix.RTM_GETROUTE, body, func(route []byte) (keep, last bool) {
		return isDefault(route), sorted && hasDestination(route)
	})
	if err != nil && !errors.Is(err, unix.ENOENT) { // ENOENT: there is no main table
		return 0, err
	}
	return bestDefault(routes), nil
}

// farIndex returns the interface through which the kernel would send to a host far away, or 0 if there is none.
func farIndex(c *rtnl.Conn, v4 bool) (index int, err error) {
	far := Far(v4)
	body := append([]byte{0: family(v4), 1: byte(far.BitLen()), unix.SizeofRtMsg - 1: 0}, rtnl.Attr(unix.RTA_DST, far.AsSlice())...)
	// It fails with ENETUNREACH in most cases, but each type of reject route has its own errno.
	_ = c.Request(unix.RTM_GETROUTE, 0, body, func(m rtnl.Message) bool {
		if r, ok := rtnl.ParseRoute(m.Body); ok && m.Type == unix.RTM_NEWROUTE && r.Kind == unix.RTN_UNICAST {
			index, _ = aliveHop(r)
		}
		return true
	})
	return index, nil
}

// Far returns the address of a host far away. No packet is sent to it. It is a root server of the DNS, not an address
// for documentation: careful administrators have routes that reject the latter.
func Far(v4 bool) netip.Addr {
	if v4 {
		return netip.MustParseAddr("198.41.0.4")
	}
	return netip.MustParseAddr("2001:503:ba3e::2:30")
}

// isDefault reports whether the payload of RTM_NEWROUTE is about a route to everywhere.
func isDefault(b []byte) bool { return len(b) >= unix.SizeofRtMsg && b[1] == 0 }

// hasDestination reports whether the payload of RTM_NEWROUTE is about a route to addresses that do not begin with
// 0.0.0.0 (or ::), as those of 0.0.0.0/0 and 0.0.0.0/1 do.
func hasDestination(b []byte) bool {
	return len(b) >= unix.SizeofRtMsg &&
		slices.ContainsFunc(rtnl.Find(b[unix.SizeofRtMsg:], unix.RTA_DST), func(x byte) bool { return x != 0 })
}

// bestDefault returns the interface of the best default route in the messages of an RTM_GETROUTE dump, or 0 if there is
// none. The kernel compares metrics first, unless the sysctl ignore_routes_with_linkdown is set. Here carrier is
// compared first, since the caller cannot use a link without carrier.
func bestDefault(b []byte) (best int) {
	var order [3]uint32 // of the best
	for m := range rtnl.Messages(b) {
		r, ok := rtnl.ParseRoute(m.Body)
		if !ok || m.Type != unix.RTM_NEWROUTE || r.DstBits != 0 || r.SrcBits != 0 || r.TOS != 0 ||
			r.Kind != unix.RTN_UNICAST || r.Table != unix.RT_TABLE_MAIN || r.Cloned || r.Expired {
			continue
		}
		index, noCarrier := aliveHop(r)
		if o := [3]uint32{noCarrier, r.Metric, uint32(r.Rank)}; index > 0 && (best == 0 || slices.Compare(o[:], order[:]) < 0) {
			best, order = index, o
		}
	}
	return best
}

// aliveHop returns the interface of the first next hop that is alive, or 0. It prefers one with carrier. noCarrier is 1
// if the interface lacks carrier.
func aliveHop(r rtnl.Route) (index int, noCarrier uint32) {
	for _, h := range r.Hops {
		switch {
		case h.Flags&unix.RTNH_F_DEAD != 0:
		case h.Flags&unix.RTNH_F_LINKDOWN == 0:
			return h.Index, 0
		case index == 0:
			index, noCarrier = h.Index, 1
		}
	}
	return index, noCarrier
}
