// What iface.go asks of Linux, over rtnetlink(7). Package net fetches the addresses of all interfaces once for every
// interface. Here one dump of the links and one of the addresses return the same. The watcher in watch_linux.go needs
// them from a socket that stays in the network namespace it was opened in.

package mcast

import (
	"cmp"
	"errors"
	"net"
	"slices"

	"github.com/go-multicast/mcast/internal/route"
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

// ifaceDefaultRoute is route.Default, also for a process that may not use rtnetlink.
func ifaceDefaultRoute(v4 bool) (index int, err error) {
	index, err = route.Default(v4)
	if isRefused(err) {
		return ioctlDefault(route.Far(v4))
	}
	return index, err
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

// ifaceError returns the error of a request to the kernel.
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

// ifaceFromLinks returns the interfaces of links, without addresses, sorted by index.
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

// ifaceAt finds an index in a list that is sorted by index.
func ifaceAt(list []Interface, index int) (at int, ok bool) {
	return slices.BinarySearchFunc(list, index, func(i Interface, index int) int { return cmp.Compare(i.Index, index) })
}

// ifaceIsTunnelEnd reports whether a link-layer address is the IP address of a tunnel's end. Tunnels give the kernel
// that address as their link-layer address. Package net makes the same exception.
func ifaceIsTunnelEnd(hardware uint16, addr []byte) bool {
	switch hardware {
	case unix.ARPHRD_TUNNEL, unix.ARPHRD_SIT, unix.ARPHRD_IPGRE:
		return len(addr) == 4
	case unix.ARPHRD_TUNNEL6, unix.ARPHRD_IP6GRE:
		return len(addr) == 16
	}
	return false
}

// ifaceFlags converts the kernel's flags to the flags of package net.
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

// ifaceAddAddrs adds addresses to a list that is sorted by index. An interface that is missing from the list was
// created after it.
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

// indexIsFree reports whether no interface has the index, in the network namespace of the calling thread.
func indexIsFree(index int) bool {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	return indexIsFreeFD(fd, index)
}

// lacks reports whether no interface has the index, in the network namespace of the socket.
func (to *sender) lacks(index int) (lacks bool) {
	_ = control(to.raw, func(fd int) error { lacks = indexIsFreeFD(fd, index); return nil }) // false if the socket is closed
	return lacks
}

// indexIsFreeFD uses SIOCGIFNAME of netdevice(7), which needs neither netlink nor privilege.
func indexIsFreeFD(fd, index int) bool {
	var r unix.Ifreq
	r.SetUint32(uint32(index))
	return unix.IoctlIfreq(fd, unix.SIOCGIFNAME, &r) == unix.ENODEV
}
