// This file is about local networks: hosts on a switch that forwards the packets of a group only to its members, as the
// switches of offices and studios do.

package mcasttest

import (
	"fmt"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"
)

// LAN is a network of hosts on one switch. The switch snoops IGMPv3 and MLDv2 and is the network's querier. So a packet
// to a group reaches only the ports behind which the group has members. As in every such switch, the link-local groups
// of IPv4 (224.0.0.0/24) and ff02::1 reach all ports. Packets may have up to 9216 bytes, if the MTU of both hosts
// allows it.
//
// Host i (from 1) of network l has the addresses 10.l.0.i/24, fd00:0:0:l::i/64 and fe80::10:l:i/64, with l and i in
// hexadecimal in the IPv6 addresses. Its default gateway is 10.l.0.254 and fd00:0:0:l::fe, which exists if there is a
// [Router].
type LAN struct {
	Hosts []*Host

	t       testing.TB
	ns      *netns // the switch
	number  uint8
	ports   []*Interface // the hosts' ends of the cables
	hosts   uint8
	routers uint8
}

const (
	bridgeName = "br0"
	bridgeID   = 250 // of the switch itself, which needs an address to query from
	maxHosts   = 240
	switchMTU  = 9216 // jumbo frames pass; whether a host takes them depends on its own MTU
)

var lans atomic.Uint32

// NewLAN makes a network with n hosts, at most 240, each with an interface eth0 on it. It calls [Require]. On systems
// other than Linux it skips the test.
func NewLAN(t testing.TB, n int) *LAN {
	t.Helper()
	requireNamespace(t)
	ns, err := newNetns()
	check(t, err)
	t.Cleanup(func() { ns.close() })
	// Networks that a router may join have different numbers. No test needs more than 250 of them at once.
	l := &LAN{t: t, ns: ns, number: uint8((lans.Add(1)-1)%250 + 1)}
	own := linkLocal(lanLinks, uint16(l.number), bridgeID)
	need(t, ns.addBridge(bridgeName, hardwareAddr(own)))
	check(t, ns.setUp(bridgeName))
	for _, p := range append(l.addresses(bridgeID)[:1], netip.PrefixFrom(own, 64)) {
		check(t, ns.addAddress(bridgeName, p))
	}
	for i := range n {
		h := newHost(t, fmt.Sprintf("lan%d-host%d", l.number, i+1))
		l.Attach(h)
		l.Hosts = append(l.Hosts, h)
	}
	return l
}

// Attach gives a host of another network, or of none, an interface on this one: the next of eth0, eth1 and so on. The
// metric of its default route is 100 above that of the previous interface. LAN.Hosts does not list the host.
func (l *LAN) Attach(h *Host) *Interface {
	l.t.Helper()
	if l.hosts == maxHosts {
		l.t.Fatalf("mcasttest: more than %d hosts on a network", maxHosts)
	}
	l.hosts++
	i := l.newInterface(h, l.hosts)
	i.addDefaultRoutes(firstMetric + len(h.interfaces)*(secondMetric-firstMetric))
	l.plugIn(h, i)
	return i
}

// newInterface returns the description of an interface of the host, with the switch's port at the other end.
func (l *LAN) newInterface(h *Host, id uint8) *Interface {
	i := &Interface{t: l.t, ns: h.ns, host: h, name: fmt.Sprintf("eth%d", len(h.interfaces))}
	i.setAddresses(l.addresses(id)...)
	i.setLinkLocal(linkLocal(lanLinks, uint16(l.number), uint16(id)))
	port := &Interface{t: l.t, ns: l.ns, name: fmt.Sprintf("port%d", id), bridge: bridgeName, unique: true}
	port.mac = hardwareAddr(linkLocal(lanLinks, uint16(l.number), uint16(id)|0x100))
	return i.connect(port)
}

func (l *LAN) plugIn(h *Host, i *Interface) {
	l.t.Helper()
	check(l.t, i.create())
	check(l.t, l.ns.query(bridgeName))
	h.add(i)
	l.ports = append(l.ports, i)
}

func (l *LAN) addresses(id uint8) []netip.Prefix {
	return []netip.Prefix{
		netip.PrefixFrom(netip.AddrFrom4([4]byte{10, l.number, 0, id}), 24),
		netip.PrefixFrom(netip.AddrFrom16([16]byte{0: 0xfd, 7: l.number, 15: id}), 64),
	}
}

// WaitJoined waits until the switch knows that the host, which may be on several networks, is a member of the group.
// From then on, packets to the group reach the host. That is some milliseconds after a socket has joined. If it takes
// ten seconds, the test ends. Groups that the switch sends everywhere need no waiting.
func (l *LAN) WaitJoined(h *Host, group netip.Addr) { l.t.Helper(); l.waitMember(h, group, true) }

// WaitLeft waits until the switch knows that the host is no longer a member of the group.
func (l *LAN) WaitLeft(h *Host, group netip.Addr) { l.t.Helper(); l.waitMember(h, group, false) }

func (l *LAN) waitMember(h *Host, group netip.Addr, want bool) {
	l.t.Helper()
	if group = group.WithZone(""); flooded(group) {
		return
	}
	port := l.port(h)
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		is, err := l.ns.member(port, group)
		check(l.t, err)
		if is == want {
			return
		}
		if time.Now().After(end) {
			l.t.Fatalf("mcasttest: %s is member of %s for the switch: %v, after %v", h.Name, group, is, patience)
		}
	}
}

// port returns the name of the port that the host is plugged into.
func (l *LAN) port(h *Host) string {
	l.t.Helper()
	for _, i := range l.ports {
		if i.host == h {
			return i.other.name
		}
	}
	l.t.Fatalf("mcasttest: %s is not on network %d", h.Name, l.number)
	return ""
}

// flooded reports whether a switch sends the group to all ports (RFC 4541, sections 2.1.2 and 3).
func flooded(group netip.Addr) bool {
	return group.Is4() && group.IsLinkLocalMulticast() || group == netip.IPv6LinkLocalAllNodes()
}
