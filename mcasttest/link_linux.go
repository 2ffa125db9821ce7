// This file has the requests of rtnetlink(7) that lay out a network: links, addresses, routes, and the switch's table
// of group members. Without them the package would need the ip program. The tests of a Go module should need only Go.

package mcasttest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/go-multicast/mcast/internal/rtnl"
	"golang.org/x/sys/unix"
)

// Constants of the kernel's uapi headers that x/sys does not have.
const (
	vethInfoPeer     = 1 // linux/veth.h
	addrGenNone      = 1 // linux/if_link.h: IN6_ADDR_GEN_MODE_NONE
	mdbaMDB          = 1 // linux/if_bridge.h
	mdbaMDBEntry     = 1
	mdbaMDBEntryInfo = 1
)

// do sends a request and waits for the kernel's acknowledgment. The error names the operation: op.
func (n *netns) do(op string, typ, flags uint16, body ...[]byte) error {
	return n.ask(op, typ, flags|unix.NLM_F_ACK, nil, body...)
}

// ask sends a request and calls take for each message of the answer.
func (n *netns) ask(op string, typ, flags uint16, take func(rtnl.Message) (more bool), body ...[]byte) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.nl.Request(typ, flags, slices.Concat(body...), take); err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	return nil
}

func u8(v uint8) []byte    { return []byte{v} }
func u32(v int) []byte     { return binary.NativeEndian.AppendUint32(nil, uint32(v)) }
func u64(v uint64) []byte  { return binary.NativeEndian.AppendUint64(nil, v) }
func text(s string) []byte { return append([]byte(s), 0) }

// ifinfo returns a struct ifinfomsg. change says which of the flags it sets.
func ifinfo(index int, flags, change uint32) []byte {
	b := make([]byte, 4, unix.SizeofIfInfomsg)
	b = binary.NativeEndian.AppendUint32(b, uint32(index))
	b = binary.NativeEndian.AppendUint32(b, flags)
	return binary.NativeEndian.AppendUint32(b, change)
}

// linkEnd describes one end of a veth pair before it is made.
type linkEnd struct {
	ns    *netns
	name  string
	index int // 0: the kernel's choice
	mac   net.HardwareAddr
}

// addVeth makes a virtual cable with an end in each of two namespaces. Both ends are down. They have no IPv6 link-local
// address: those that the kernel assigns need seconds of duplicate address detection.
func addVeth(a, b linkEnd) error {
	op := fmt.Sprintf("add veth %s", a.name)
	err := a.ns.do(op, unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL,
		ifinfo(a.index, 0, 0),
		rtnl.Attr(unix.IFLA_IFNAME, text(a.name)),
		rtnl.Attr(unix.IFLA_ADDRESS, a.mac),
		rtnl.Attr(unix.IFLA_LINKINFO,
			rtnl.Attr(unix.IFLA_INFO_KIND, text("veth")),
			rtnl.Attr(unix.IFLA_INFO_DATA, rtnl.Attr(vethInfoPeer,
				ifinfo(b.index, 0, 0),
				rtnl.Attr(unix.IFLA_IFNAME, text(b.name)),
				rtnl.Attr(unix.IFLA_ADDRESS, b.mac),
				rtnl.Attr(unix.IFLA_NET_NS_FD, u32(b.ns.fd))))))
	if err != nil {
		return err
	}
	return errors.Join(a.ns.noLinkLocal(a.name), b.ns.noLinkLocal(b.name))
}

// noLinkLocal keeps the kernel from assigning a link-local address to the interface.
func (n *netns) noLinkLocal(name string) error {
	return n.setLink("set address generation of", name,
		rtnl.Attr(unix.IFLA_AF_SPEC, rtnl.Attr(unix.AF_INET6, rtnl.Attr(unix.IFLA_INET6_ADDR_GEN_MODE, u8(addrGenNone)))))
}

// addBridge makes a switch that snoops IGMPv3 and MLDv2 and forwards at once: no spanning tree, no forward delay. The
// switch does not query for members until query is called.
func (n *netns) addBridge(name string, mac net.HardwareAddr) error {
	err := n.do("add bridge "+name, unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL,
		ifinfo(0, 0, 0),
		rtnl.Attr(unix.IFLA_IFNAME, text(name)),
		rtnl.Attr(unix.IFLA_ADDRESS, mac),
		rtnl.Attr(unix.IFLA_LINKINFO,
			rtnl.Attr(unix.IFLA_INFO_KIND, text("bridge")),
			rtnl.Attr(unix.IFLA_INFO_DATA,
				rtnl.Attr(unix.IFLA_BR_STP_STATE, u32(0)),
				rtnl.Attr(unix.IFLA_BR_FORWARD_DELAY, u32(0)),
				rtnl.Attr(unix.IFLA_BR_MCAST_SNOOPING, u8(1)),
				rtnl.Attr(unix.IFLA_BR_MCAST_QUERY_USE_IFADDR, u8(1)),
				rtnl.Attr(unix.IFLA_BR_MCAST_IGMP_VERSION, u8(3)),
				rtnl.Attr(unix.IFLA_BR_MCAST_MLD_VERSION, u8(2)))))
	if err != nil {
		return err
	}
	return n.noLinkLocal(name)
}

// query makes the switch its network's querier and has it query now. A bridge that starts to query first floods for the
// length of the response interval. So it does not starve members that it does not know yet. Here it may know all of
// them and should snoop from the first packet on, so the interval is zero meanwhile. Afterwards it is a tenth of a
// second, the shortest that IGMP can express: members answer as fast as they may.
func (n *netns) query(bridge string) error {
	set := func(data ...[]byte) error {
		return n.setLink("set querier of", bridge, rtnl.Attr(unix.IFLA_LINKINFO,
			rtnl.Attr(unix.IFLA_INFO_KIND, text("bridge")), rtnl.Attr(unix.IFLA_INFO_DATA, data...)))
	}
	return errors.Join(
		set(rtnl.Attr(unix.IFLA_BR_MCAST_QUERIER, u8(0)), rtnl.Attr(unix.IFLA_BR_MCAST_QUERY_RESPONSE_INTVL, u64(0))),
		set(rtnl.Attr(unix.IFLA_BR_MCAST_QUERIER, u8(1)), rtnl.Attr(unix.IFLA_BR_MCAST_QUERY_RESPONSE_INTVL, u64(10))))
}

// enslave plugs an interface into the switch. There is one station on each port. So when it leaves a group, the port
// need not wait for objections of others. A port with a multicast router is sent every group.
func (n *netns) enslave(name, bridge string, router bool) error {
	master, err := n.index(bridge)
	if err != nil {
		return err
	}
	index, err := n.index(name)
	if err != nil {
		return err
	}
	if err := n.setLink("plug in", name, rtnl.Attr(unix.IFLA_MASTER, u32(master))); err != nil {
		return err
	}
	mode := uint8(1) // learn whether there is a router
	if router {
		mode = 2 // there is a router
	}
	body := ifinfo(index, 0, 0)
	body[0] = unix.AF_BRIDGE
	return n.do("configure port "+name, unix.RTM_SETLINK, 0, body, rtnl.Attr(unix.IFLA_PROTINFO|unix.NLA_F_NESTED,
		rtnl.Attr(unix.IFLA_BRPORT_FAST_LEAVE, u8(1)),
		rtnl.Attr(unix.IFLA_BRPORT_MULTICAST_ROUTER, u8(mode))))
}

// setLink changes an interface.
func (n *netns) setLink(op, name string, attrs ...[]byte) error {
	index, err := n.index(name)
	if err != nil {
		return err
	}
	return n.do(op+" "+name, unix.RTM_NEWLINK, 0, append([][]byte{ifinfo(index, 0, 0)}, attrs...)...)
}

func (n *netns) setFlags(op, name string, flags, change uint32) error {
	index, err := n.index(name)
	if err != nil {
		return err
	}
	return n.do(op+" "+name, unix.RTM_NEWLINK, 0, ifinfo(index, flags, change))
}

func (n *netns) setUp(name string) error {
	return n.setFlags("set up", name, unix.IFF_UP, unix.IFF_UP)
}

func (n *netns) setDown(name string) error {
	return n.setFlags("set down", name, 0, unix.IFF_UP)
}

func (n *netns) setMTU(name string, mtu int) error {
	return n.setLink("set MTU of", name, rtnl.Attr(unix.IFLA_MTU, u32(mtu)))
}

func (n *netns) rename(name, to string) error {
	return n.setLink("rename", name, rtnl.Attr(unix.IFLA_IFNAME, text(to)))
}

func (n *netns) delLink(name string) error {
	index, err := n.index(name)
	if err != nil {
		return err
	}
	return n.do("delete "+name, unix.RTM_DELLINK, 0, ifinfo(index, 0, 0))
}

// move moves an interface to another namespace, where it is down and has no address.
func (n *netns) move(name string, to *netns) error {
	if err := n.setLink("move", name, rtnl.Attr(unix.IFLA_NET_NS_FD, u32(to.fd))); err != nil {
		return err
	}
	return to.noLinkLocal(name)
}

// index returns the index of the interface with the name.
func (n *netns) index(name string) (int, error) {
	index, _, err := n.link(name)
	return index, err
}

// link returns the index and flags of the interface with the name.
func (n *netns) link(name string) (index int, flags uint32, err error) {
	var l rtnl.Link
	err = n.ask("find interface "+name, unix.RTM_GETLINK, 0, func(m rtnl.Message) bool {
		l, _ = rtnl.ParseLink(m.Body)
		return true
	}, ifinfo(0, 0, 0), rtnl.Attr(unix.IFLA_IFNAME, text(name)))
	return l.Index, l.Flags, err
}

// waitRunning waits until an interface that is up and has a carrier is reported as running. The kernel notices the
// carrier a moment later, and only then does IPv6 have its multicast route.
func (n *netns) waitRunning(name string) error {
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		_, flags, err := n.link(name)
		switch {
		case err != nil:
			return err
		case flags&unix.IFF_RUNNING != 0:
			return nil
		case time.Now().After(end):
			return fmt.Errorf("interface %s has no carrier after %v", name, patience)
		}
	}
}

// setLoopback sets lo up with what multicast over it needs. IPv6 needs a route, of type local: with any other the
// packets vanish. Its metric is above those of the interfaces' own ff00::/8, so it serves only programs that name lo.
// IPv4 works without a route for programs that name lo. The IPv4 route is for programs that name no interface, on a
// host with no other network. Its metric keeps it below every other.
func (n *netns) setLoopback() error {
	const flags = unix.IFF_UP | unix.IFF_MULTICAST
	return errors.Join(
		n.setFlags("set up", "lo", flags, flags),
		n.addRoute("lo", route{dst: multicast4, metric: loopbackMetric}),
		n.addRoute("lo", route{dst: netip.MustParsePrefix("ff00::/8"), metric: loopbackMetric, local: true}))
}

func family(a netip.Addr) uint8 {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

func (n *netns) changeAddress(op string, typ, flags uint16, name string, p netip.Prefix) error {
	index, err := n.index(name)
	if err != nil {
		return err
	}
	scope := uint8(unix.RT_SCOPE_UNIVERSE)
	if p.Addr().IsLinkLocalUnicast() {
		scope = unix.RT_SCOPE_LINK
	}
	body := []byte{family(p.Addr()), uint8(p.Bits()), unix.IFA_F_NODAD | unix.IFA_F_PERMANENT, scope}
	body = binary.NativeEndian.AppendUint32(body, uint32(index))
	ip := p.Addr().AsSlice()
	return n.do(fmt.Sprintf("%s %s on %s", op, p, name), typ, flags, body,
		rtnl.Attr(unix.IFA_LOCAL, ip), rtnl.Attr(unix.IFA_ADDRESS, ip))
}

// addAddress gives the interface an address that is usable at once. An address that exists already is not an error.
func (n *netns) addAddress(name string, p netip.Prefix) error {
	return n.changeAddress("add address", unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, name, p)
}

func (n *netns) delAddress(name string, p netip.Prefix) error {
	return n.changeAddress("delete address", unix.RTM_DELADDR, 0, name, p)
}

func (n *netns) changeRoute(op string, typ, flags uint16, name string, r route) error {
	index, err := n.index(name)
	if err != nil {
		return err
	}
	table, scope, kind := uint8(unix.RT_TABLE_MAIN), uint8(unix.RT_SCOPE_UNIVERSE), uint8(unix.RTN_UNICAST)
	switch {
	case r.local:
		table, kind = unix.RT_TABLE_LOCAL, unix.RTN_LOCAL
	case !r.gateway.IsValid() && r.dst.Addr().Is4():
		scope = unix.RT_SCOPE_LINK
	}
	body := [][]byte{
		{family(r.dst.Addr()), uint8(r.dst.Bits()), 0, 0, table, unix.RTPROT_STATIC, scope, kind, 0, 0, 0, 0},
		rtnl.Attr(unix.RTA_DST, r.dst.Masked().Addr().AsSlice()),
		rtnl.Attr(unix.RTA_OIF, u32(index)),
		rtnl.Attr(unix.RTA_PRIORITY, u32(r.metric)),
	}
	if r.gateway.IsValid() {
		body = append(body, rtnl.Attr(unix.RTA_GATEWAY, r.gateway.AsSlice()))
	}
	return n.do(fmt.Sprintf("%s %s on %s", op, r.dst, name), typ, flags, body...)
}

// addRoute adds a route. A route that exists already is not an error.
func (n *netns) addRoute(name string, r route) error {
	err := n.changeRoute("add route", unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_APPEND, name, r)
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	return err
}

func (n *netns) delRoute(name string, r route) error {
	return n.changeRoute("delete route", unix.RTM_DELROUTE, 0, name, r)
}

// member reports whether the switch knows that the group has a member behind the port.
func (n *netns) member(port string, group netip.Addr) (bool, error) {
	index, err := n.index(port)
	if isGone(err) {
		return false, nil // the port is gone, with the host's interface
	} else if err != nil {
		return false, err
	}
	body := []byte{unix.AF_BRIDGE, 0, 0, 0, 0, 0, 0, 0} // struct br_port_msg
	known := false
	err = n.ask("read members", unix.RTM_GETMDB, unix.NLM_F_DUMP, func(m rtnl.Message) bool {
		known = known || slices.Contains(parseMembers(m.Body), member{index, group})
		return true
	}, body)
	if errors.Is(err, rtnl.ErrChanged) {
		err = nil // the caller polls
	}
	return known, err
}

// member is an entry of a switch's table: the port with this index leads to a member of the group.
type member struct {
	index int
	group netip.Addr
}

// parseMembers reads the body of an RTM_NEWMDB message.
func parseMembers(body []byte) (members []member) {
	if len(body) < 8 {
		return nil
	}
	values := [][]byte{body[8:]}
	for _, typ := range []uint16{mdbaMDB, mdbaMDBEntry, mdbaMDBEntryInfo} {
		var inner [][]byte
		for _, b := range values {
			for t, v := range rtnl.Attrs(b) {
				if t == typ {
					inner = append(inner, v)
				}
			}
		}
		values = inner
	}
	for _, v := range values { // struct br_mdb_entry: ifindex, state, flags, vid, address, protocol
		if len(v) < 28 {
			continue
		}
		m := member{index: int(binary.NativeEndian.Uint32(v))}
		switch binary.BigEndian.Uint16(v[24:]) {
		case unix.ETH_P_IP:
			m.group = netip.AddrFrom4([4]byte(v[8:12]))
		case unix.ETH_P_IPV6:
			m.group = netip.AddrFrom16([16]byte(v[8:24]))
		default:
			continue
		}
		members = append(members, m)
	}
	return members
}

// isBusy reports whether an interface's index is taken, or the interface is up and the change needs it down.
func isBusy(err error) bool { return errors.Is(err, unix.EBUSY) }

// isGone reports whether there is no such interface.
func isGone(err error) bool { return errors.Is(err, unix.ENODEV) }
