// What the addresses of the groups alone show. The numbers are those of RFC 5771 and its registry for IPv4, and of RFC
// 4291 and RFC 4607 for IPv6.

package doctor

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/go-multicast/mcast"
)

func (c *checkup) checkGroups() {
	for _, g := range c.Groups {
		if f, ok := reserved(g); ok {
			c.add(f)
		}
		c.checkScope(g)
		c.checkSSM(g)
	}
	c.checkMACs()
}

func in(a netip.Addr, prefixes ...string) bool {
	return slices.ContainsFunc(prefixes, func(p string) bool { return netip.MustParsePrefix(p).Contains(a) })
}

// reserved returns a finding if the group is not to be used.
func reserved(g netip.Addr) (Finding, bool) {
	f := Finding{Code: ReservedGroup, Severity: Info, Group: g, Fix: "take a group of 239.255.0.0/16 for one site, " +
		"or of 232.0.0.0/8 with its sources (RFC 5771)"}
	scope := byte(0)
	if g.Is6() {
		scope = g.As16()[1] & 0x0f
		f.Fix = "take a group whose fourth hexadecimal digit is its scope, such as ff12::1234 (link) or ff15::1234 (site)"
	}
	switch {
	case g == netip.AddrFrom4([4]byte{224, 0, 0, 0}):
		f.Severity = Error
		f.Summary = "224.0.0.0 is the base address of all groups and never assigned to one"
		f.Detail = "RFC 1112, section 4, guarantees that it is not assigned to any group. This is so by the address " +
			"alone; nothing was measured."
	case g.Is6() && scope == 0:
		f.Severity = Error
		f.Summary = "the group has the scope 0, which is reserved: hosts drop such packets"
		f.Detail = "RFC 4291, section 2.7, demands that nobody sends to it, and that whoever receives such a packet " +
			"drops it silently. This is so by the address alone; nothing was measured."
	case g.Is6() && scope == 0xf:
		f.Summary = "the group has the scope F, which is reserved"
		f.Detail = "RFC 4291, section 2.7, has it treated like the global scope E. This is so by the address alone."
	case g == netip.AddrFrom4([4]byte{224, 0, 0, 1}) || g == netip.IPv6LinkLocalAllNodes():
		f.Summary = "the group is that of all hosts, and every host of the link gets what is sent to it"
		f.Detail = "Switches send it everywhere, and every system has joined it by itself. This is so by the address alone."
	case g.Is4() && in(g, "225.0.0.0/8", "226.0.0.0/7", "228.0.0.0/6", "235.0.0.0/8", "236.0.0.0/7", "238.0.0.0/8"):
		f.Summary = "the group is of a range that IANA has reserved and given to nobody"
		f.Detail = "It works like any other, but some routers filter it, and its use may change. This is so by the " +
			"address alone (RFC 5771, sections 10 and 11)."
	case g.Is4() && in(g, "232.0.0.0/24"):
		f.Summary = "the group is of the part of the source-specific range that IANA keeps for itself"
		f.Detail = "RFC 4607, section 9. This is so by the address alone."
		f.Fix = "take a group from 232.0.1.0 to 232.255.255.255"
	default:
		return Finding{}, false
	}
	return f, true
}

// checkScope finds groups that do not leave the link, or not even the machine.
func (c *checkup) checkScope(g netip.Addr) {
	f := Finding{Code: LinkScope, Severity: Info, Group: g}
	switch {
	case g.IsInterfaceLocalMulticast():
		f.Severity = Warning
		f.Summary = "the group does not leave the machine that sends to it"
		f.Detail = "The scope in its fourth hexadecimal digit is 1, interface-local (RFC 4291, section 2.7): what " +
			"others send to it never gets here."
		f.Fix = "take a group of a wider scope, such as ff12::1234 (link) or ff15::1234 (site)"
	case g.IsLinkLocalMulticast():
		f.Summary = "the group does not leave the link: no router forwards it, whatever the TTL"
		f.Detail = "It is of 224.0.0.0/24 or of IPv6's link-local scope. Nothing is wrong with that as long as all " +
			"senders are on the same link."
		var far []netip.Addr
		for _, s := range c.sources(g) {
			if !slices.ContainsFunc(c.ifaces, func(i mcast.Interface) bool { return onLink(i, s) }) {
				far = append(far, s)
			}
		}
		if len(far) > 0 {
			f.Severity = Warning
			f.Summary = fmt.Sprintf("the group does not leave the link, but its source %s is of another network", list(far))
			f.Detail = "The group is of 224.0.0.0/24 or of IPv6's link-local scope, which no router forwards, whatever " +
				"the TTL. None of the prefixes of the examined interfaces contains the source."
			f.Fix = "take a group that routers forward, such as 239.255.1.2 or ff15::1234, and a TTL above 1"
		}
	default:
		return
	}
	c.add(f)
}

// onLink reports whether a host with the address can be a neighbor on the interface.
func onLink(i mcast.Interface, a netip.Addr) bool {
	contains := func(p netip.Prefix) bool { return p.Contains(a) }
	return a.IsLinkLocalUnicast() || slices.ContainsFunc(i.IPv4, contains) || slices.ContainsFunc(i.IPv6, contains)
}

// sourceSpecific reports whether a group is in the range that RFC 4607 reserves for source-specific multicast.
func sourceSpecific(g netip.Addr) bool {
	if g.Is4() {
		return in(g, "232.0.0.0/8")
	}
	b := g.As16()
	return b[1]&0xf0 == 0x30 && b[2] == 0 && b[3] == 0 // ff3x::/32
}

func (c *checkup) checkSSM(g netip.Addr) {
	sources := c.sources(g)
	switch {
	case sourceSpecific(g) && len(sources) == 0:
		c.add(Finding{Code: SSMRange, Severity: Warning, Group: g,
			Summary: "the group is of the source-specific range, but no source is named",
			Detail: "Routers, and some switches, give nothing of 232.0.0.0/8 and ff3x::/32 to a host that names no source " +
				"(RFC 4607, sections 4.1 and 4.2). " +
				"The range was seen from the address; the configuration has no source of its family.",
			Fix: "name the sources (mcast.RxConfig.Sources), or take a group outside of 232.0.0.0/8 and ff3x::/32"})
	case !sourceSpecific(g) && len(sources) > 0:
		c.add(Finding{Code: SSMRange, Severity: Info, Group: g,
			Summary: "sources are named for a group that is not of the source-specific range",
			Detail: "That works on the host and with IGMPv3 and MLDv2 snooping. But routers build the tree of such a " +
				"group for all its sources, by way of a rendezvous point. " +
				"The range was seen from the address (RFC 4607: 232.0.0.0/8 and ff3x::/32).",
			Fix: "nothing, unless routers are in between: then take a group of 232.0.0.0/8 or ff3x::/32"})
	}
}

// ethernet returns the Ethernet address of a group (RFC 1112, section 6.4; RFC 2464, section 7).
func ethernet(g netip.Addr) net.HardwareAddr {
	b := g.AsSlice()
	if g.Is4() {
		return net.HardwareAddr{0x01, 0x00, 0x5e, b[1] & 0x7f, b[2], b[3]}
	}
	return append(net.HardwareAddr{0x33, 0x33}, b[12:]...)
}

// checkMACs finds groups that have the same Ethernet address. The host does distinguish them, so the collision only
// adds cost. But a switch that knows groups by Ethernet address sends all of them to each member.
func (c *checkup) checkMACs() {
	for i, g := range c.Groups {
		mac := ethernet(g)
		var same []netip.Addr
		for _, h := range c.Groups[i+1:] {
			if bytes.Equal(mac, ethernet(h)) {
				same = append(same, h)
			}
		}
		f := Finding{Code: MACCollision, Severity: Info, Group: g}
		switch {
		case len(same) > 0:
			f.Summary = fmt.Sprintf("it shares its Ethernet address %s with %s", mac, list(same))
			f.Detail = "IPv4 maps 32 groups to each Ethernet address, IPv6 all those with the same last 32 bits. Network " +
				"cards, and switches that go by Ethernet address, deliver them together; the host sorts them. This was computed."
			f.Fix = "let the groups differ in the last 23 bits (IPv4) or 32 bits (IPv6)"
		case g.Is4() && !g.IsLinkLocalMulticast() && bytes.HasPrefix(mac, net.HardwareAddr{0x01, 0x00, 0x5e, 0, 0}):
			f.Summary = fmt.Sprintf("it shares its Ethernet address %s with 224.0.0.%d, which switches send to everyone",
				mac, mac[5])
			f.Detail = "Switches that go by Ethernet address cannot confine groups of the form 224-239.0.0.x and " +
				"224-239.128.0.x (RFC 4541, section 2.1.2): all hosts of the network get their traffic. This was computed."
			f.Fix = "take a group whose second and third numbers are not 0 (or 128) and 0"
		default:
			continue
		}
		c.add(f)
	}
}
