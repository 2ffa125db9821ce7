// What iface.go asks of the operating system, asked of Linux over rtnetlink(7). Package net fetches the addresses of all
// interfaces once for every interface; one dump of the links and one of the addresses tells the same, and the watcher in
// watch_linux.go needs it from a socket that stays in the network namespace it was opened in.

package mcast

import (
	"cmp"
	"errors"
	"net"
	"net/netip"
	"slices"

	"github.com/go-multicast/mcast/internal/rtnl"
	"golang.org/x/sys/unix"
)

// ifaceScan lists the interfaces of the calling thread's network namespace, sorted by index.
func ifaceScan() ([]Interface, error) {
	c, err := rtnl.Dial(unix.NETLINK_ROUTE)
	var list []Interface
	if err != nil {
		err = ifaceError("scan", err)
	} else {
		defer c.Close()
		list, err = ifaceScanWith(c)
	}
	if isRefused(err) {
		if list, err2 := ioctlScan(); err2 == nil {
			return list, nil
		}
	}
	return list, err
}

// defaultIndex returns the index of the interface of the default route, as DefaultInterface describes.
func defaultIndex(network string) (int, error) {
	if err := ifaceCheckNetwork(network); err != nil {
		return 0, err
	}
	family := byte(unix.AF_INET)
	if network == "ip6" {
		family = unix.AF_INET6
	}
	index, err := ifaceAsk(func(c *rtnl.Conn) (int, error) { return mainDefault(c, family) })
	if err == nil && index == 0 {
		index, err = ifaceAsk(func(c *rtnl.Conn) (int, error) { return farIndex(c, family) })
	}
	if isRefused(err) {
		index, err = ioctlDefault(ifaceFar(family))
	}
	if err != nil {
		return 0, ifaceError("default interface", err)
	}
	if index == 0 {
		return 0, ifaceNoDefault(network)
	}
	return index, nil
}

// ifaceAsk asks one question on a socket of its own.
func ifaceAsk(question func(c *rtnl.Conn) (index int, err error)) (index int, err error) {
	c, err := rtnl.Dial(unix.NETLINK_ROUTE)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	return question(c)
}

// mainDefault returns the interface of the best default route of the main table, and 0 if there is none. It is the last
// question on its socket: the kernel may not have finished the answer.
//
// A question for one destination (RTM_F_FIB_MATCH) is no substitute. It obeys policy rules, a more specific route can cover
// any destination, and it returns one default route of several, without regard to carrier and preference.
func mainDefault(c *rtnl.Conn, family byte) (index int, err error) {
	// With these filters the kernel sends the unicast routes of the main table only (since 4.20; an older one sends all).
	// It has no filter for the prefix length.
	body := []byte{0: family, 4: unix.RT_TABLE_MAIN, 7: unix.RTN_UNICAST, unix.SizeofRtMsg - 1: 0}
	// The IPv4 table is a trie, and a dump walks it in the order of the addresses (fib_table_dump in net/ipv4/fib_trie.c).
	// So the default routes come before the first route to an address that is not 0.0.0.0. In a dump of IPv6 they come last.
	sorted := family == unix.AF_INET && c.Strict()
	routes, err := c.Dump(unix.RTM_GETROUTE, body, func(route []byte) (keep, last bool) {
		return ifaceIsDefault(route), sorted && ifaceHasDestination(route)
	})
	if err != nil && !errors.Is(err, unix.ENOENT) { // ENOENT: there is no main table
		return 0, err
	}
	return ifaceBestDefault(routes), nil
}

// farIndex returns the interface by which the kernel would send something far away, and 0 if there is none.
func farIndex(c *rtnl.Conn, family byte) (index int, err error) {
	far := ifaceFar(family)
	body := append([]byte{0: family, 1: byte(far.BitLen()), unix.SizeofRtMsg - 1: 0}, rtnl.Attr(unix.RTA_DST, far.AsSlice())...)
	// It fails with ENETUNREACH in most cases, but each type of reject route has its own errno.
	_ = c.Request(unix.RTM_GETROUTE, 0, body, func(m rtnl.Message) bool {
		if r, ok := rtnl.ParseRoute(m.Body); ok && m.Type == unix.RTM_NEWROUTE && r.Kind == unix.RTN_UNICAST {
			index, _ = ifaceHop(r)
		}
		return true
	})
	return index, nil
}

// ifaceFar is a host far away. No packet is sent to it. It is a root server of the DNS rather than an address for documentation,
// since careful administrators have routes that reject the latter.
func ifaceFar(family byte) netip.Addr {
	if family == unix.AF_INET6 {
		return netip.MustParseAddr("2001:503:ba3e::2:30")
	}
	return netip.MustParseAddr("198.41.0.4")
}

// ifaceScanWith lists the interfaces, sorted by index.
func ifaceScanWith(c *rtnl.Conn) ([]Interface, error) {
	links, err := c.Links()
	if err != nil {
		return nil, ifaceError("scan", err)
	}
	list := ifaceFromLinks(links)
	addrs, err := c.Addrs()
	if err != nil {
		return nil, ifaceError("scan", err)
	}
	ifaceAddAddrs(list, addrs)
	return list, nil
}

// ifaceError is the error of asking the kernel.
func ifaceError(op string, err error) error {
	e := &OpError{Op: op, Err: err}
	if errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) {
		e.Hint = filesHint()
	}
	if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) {
		e.Hint = "Android and some sandboxes do not let a program list the interfaces; build the list from what the system's own API tells"
	}
	return e
}

// ifaceFromLinks makes interfaces, without addresses, sorted by index.
func ifaceFromLinks(links []rtnl.Link) []Interface {
	list := make([]Interface, 0, len(links))
	for _, l := range links {
		i := Interface{
			Name: l.Name, AltNames: l.AltNames, Index: l.Index, Master: l.Master, MTU: l.MTU, Flags: ifaceFlags(l.Flags),
			kind: l.Kind, masterKind: l.MasterKind, since6: l.Since6,
		}
		if !ifaceIsTunnelEnd(l.Type, l.Addr) && slices.ContainsFunc(l.Addr, func(x byte) bool { return x != 0 }) {
			i.HardwareAddr = slices.Clone(l.Addr)
		}
		list = append(list, i)
	}
	slices.SortStableFunc(list, func(a, b Interface) int { return cmp.Compare(a.Index, b.Index) })
	for n := range list {
		if at, ok := ifaceAt(list, list[n].Master); ok {
			list[n].masterName = list[at].Name
		}
	}
	return list
}

// ifaceAt finds an index in a list that is sorted by it.
func ifaceAt(list []Interface, index int) (at int, ok bool) {
	return slices.BinarySearchFunc(list, index, func(i Interface, index int) int { return cmp.Compare(i.Index, index) })
}

// ifaceIsTunnelEnd reports whether a link-layer address is the IP address of a tunnel's end, which is what tunnels give
// the kernel for one. Package net makes the same exception.
func ifaceIsTunnelEnd(hardware uint16, addr []byte) bool {
	switch hardware {
	case unix.ARPHRD_TUNNEL, unix.ARPHRD_SIT, unix.ARPHRD_IPGRE:
		return len(addr) == 4
	case unix.ARPHRD_TUNNEL6, unix.ARPHRD_IP6GRE:
		return len(addr) == 16
	}
	return false
}

// ifaceFlags are the kernel's flags in package net's numbers.
func ifaceFlags(kernel uint32) (f net.Flags) {
	for _, x := range [...]struct {
		kernel uint32
		net    net.Flags
	}{
		{unix.IFF_UP, net.FlagUp},
		{unix.IFF_RUNNING, net.FlagRunning},
		{unix.IFF_BROADCAST, net.FlagBroadcast},
		{unix.IFF_LOOPBACK, net.FlagLoopback},
		{unix.IFF_POINTOPOINT, net.FlagPointToPoint},
		{unix.IFF_MULTICAST, net.FlagMulticast},
	} {
		if kernel&x.kernel != 0 {
			f |= x.net
		}
	}
	return f
}

// ifaceAddAddrs adds addresses to a list that is sorted by index. An interface that is not in the list was made since.
func ifaceAddAddrs(list []Interface, addrs []rtnl.Addr) {
	for _, a := range addrs {
		at, ok := ifaceAt(list, a.Index)
		switch {
		case !ok:
		case a.Prefix.Addr().Is4():
			list[at].IPv4 = append(list[at].IPv4, a.Prefix)
		default:
			list[at].IPv6 = append(list[at].IPv6, a.Prefix)
		}
	}
}

// ifaceIsDefault reports whether the payload of RTM_NEWROUTE is about a route to everywhere.
func ifaceIsDefault(b []byte) bool { return len(b) >= unix.SizeofRtMsg && b[1] == 0 }

// ifaceHasDestination reports whether the payload of RTM_NEWROUTE is about a route to addresses that do not begin with
// 0.0.0.0 (or ::), as those of 0.0.0.0/0 and 0.0.0.0/1 do.
func ifaceHasDestination(b []byte) bool {
	return len(b) >= unix.SizeofRtMsg &&
		slices.ContainsFunc(rtnl.Find(b[unix.SizeofRtMsg:], unix.RTA_DST), func(x byte) bool { return x != 0 })
}

// ifaceBestDefault returns the interface of the best default route in the messages of an RTM_GETROUTE dump, and 0 if
// there is none. The kernel goes by metric first, unless the sysctl ignore_routes_with_linkdown is set; a link without
// carrier is no use to anyone who asks here.
func ifaceBestDefault(b []byte) (best int) {
	var order [3]uint32 // of the best
	for m := range rtnl.Messages(b) {
		r, ok := rtnl.ParseRoute(m.Body)
		if !ok || m.Type != unix.RTM_NEWROUTE || r.DstBits != 0 || r.SrcBits != 0 || r.TOS != 0 ||
			r.Kind != unix.RTN_UNICAST || r.Table != unix.RT_TABLE_MAIN || r.Cloned || r.Expired {
			continue
		}
		index, noCarrier := ifaceHop(r)
		if o := [3]uint32{noCarrier, r.Metric, uint32(r.Rank)}; index > 0 && (best == 0 || slices.Compare(o[:], order[:]) < 0) {
			best, order = index, o
		}
	}
	return best
}

// ifaceHop returns the interface of the first next hop that is alive, one with carrier if there is one; 0: none is.
// noCarrier is 1 if it lacks one.
func ifaceHop(r rtnl.Route) (index int, noCarrier uint32) {
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
