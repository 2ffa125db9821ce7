// Which interfaces are examined, and what is wrong with them by themselves: what every system reports through package
// mcast. What Linux shows in addition is in facts_linux.go.

package doctor

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/go-multicast/mcast"
)

// choose decides which interfaces to examine. Interfaces that the user named may have changed since the user scanned
// them.
func (c *checkup) choose(s *system) {
	c.named = c.Interfaces != nil
	if c.named {
		c.choseNamed()
	} else {
		c.chooseUsable(s)
	}
	for _, i := range c.ifaces {
		c.Report.Facts.Interfaces = append(c.Report.Facts.Interfaces, i.Name)
	}
}

func (c *checkup) choseNamed() {
	for _, want := range c.Interfaces {
		now := slices.IndexFunc(c.all, func(i mcast.Interface) bool { return i.Name == want.Name })
		if now < 0 { // renamed, or made by hand without a name
			now = slices.IndexFunc(c.all, func(i mcast.Interface) bool { return i.Index == want.Index })
		}
		if now < 0 {
			c.add(Finding{Code: InterfaceDown, Severity: Error, Interface: want.Name,
				Summary: "there is no such interface",
				Detail: fmt.Sprintf("A scan found none of that name, nor one with the index %d. It was removed, or is in "+
					"another network namespace.", want.Index),
				Fix: fixOtherInterface})
			continue
		}
		if i := c.all[now]; !slices.ContainsFunc(c.ifaces, func(j mcast.Interface) bool { return j.Index == i.Index }) {
			c.ifaces = append(c.ifaces, i)
		}
	}
}

func (c *checkup) chooseUsable(s *system) {
	var others []mcast.Interface
	for _, i := range c.all {
		switch {
		case i.IsLoopback() || s.master(i.Index) != "":
		case i.Flags&net.FlagUp != 0 && hasCarrier(i) && i.Flags&net.FlagMulticast != 0 && c.hasAddress(i):
			c.ifaces = append(c.ifaces, i)
		case s.fallback(i): // nobody intends to use it
		default:
			others = append(others, i)
		}
	}
	if len(c.ifaces) == 0 {
		c.ifaces = others
		return
	}
	// A cable may have fallen out while another interface works. But bridges of containers often have no carrier.
	for _, i := range others {
		if i.Flags&net.FlagUp != 0 && !hasCarrier(i) && c.hasAddress(i) {
			c.add(noCarrier(i, Info))
		}
	}
}

// hasAddress reports whether the interface has an address of the family of some group.
func (c *checkup) hasAddress(i mcast.Interface) bool {
	return slices.ContainsFunc(c.Groups, func(g netip.Addr) bool { return hasFamily(i, g.Is4()) })
}

func hasFamily(i mcast.Interface, v4 bool) bool {
	if v4 {
		return len(i.IPv4) > 0
	}
	return len(i.IPv6) > 0
}

// usable reports whether the interface can receive the group at all. Other findings report what else is wrong.
func usable(i mcast.Interface, g netip.Addr) bool {
	return i.Flags&net.FlagUp != 0 && hasFamily(i, g.Is4())
}

func (c *checkup) checkInterfaces() {
	for _, i := range c.ifaces {
		if i.Flags&net.FlagUp == 0 {
			c.add(Finding{Code: InterfaceDown, Severity: Error, Interface: i.Name,
				Summary: "the interface is down",
				Detail:  fmt.Sprintf("A scan shows its flags as %s. It neither sends nor receives.", i.Flags),
				Fix:     fixInterfaceDown(i.Name)})
			continue // it may get what else it lacks when it is up
		}
		if !hasCarrier(i) {
			c.add(noCarrier(i, Error))
			continue // without a carrier there are no addresses by DHCP, nor by IPv6 itself
		}
		if i.Flags&net.FlagMulticast == 0 && !i.IsLoopback() {
			c.add(Finding{Code: NoMulticastFlag, Severity: Warning, Interface: i.Name,
				Summary: "the interface says that it cannot multicast",
				Detail: fmt.Sprintf("A scan shows its flags as %s. Receivers that name no interface pass it by, "+
					"and some tunnels without the flag carry no multicast.", i.Flags),
				Fix: fixNoMulticastFlag(i.Name)})
		}
		for _, v4 := range []bool{true, false} {
			if c.hasFamily(v4) && !hasFamily(i, v4) && (c.named || !c.someHas(v4)) {
				c.add(Finding{Code: NoAddress, Severity: Error, Interface: i.Name,
					Summary: fmt.Sprintf("the interface has no %s address, but a group is %[1]s", familyName(v4)),
					Detail: "A scan shows none. Without an address of the family nothing is sent from it, and this module does " +
						"not join on it.",
					Fix: fixNoAddress(i.Name, v4)})
			}
		}
	}
	if len(c.ifaces) == 0 && !c.named {
		c.add(Finding{Code: InterfaceDown, Severity: Error,
			Summary: "the machine has no network interface but the loopback",
			Detail:  "A scan found no other one, or only ports of bridges.",
			Fix:     fixAnyInterface})
	}
}

// checkFlags runs after the watch: an interface on which multicast arrived carries it, whatever its flags say.
func (c *checkup) checkFlags() {
	for n := range c.Report.Findings {
		f := &c.Report.Findings[n]
		came := func(t Traffic) bool { return t.Interface == f.Interface && t.Datagrams > 0 }
		if f.Code == NoMulticastFlag && slices.ContainsFunc(c.Report.Facts.Traffic, came) {
			f.Severity = Info
		}
	}
}

// someHas reports whether an examined interface that is up has an address of the family.
func (c *checkup) someHas(v4 bool) bool {
	has := func(i mcast.Interface) bool { return i.Flags&net.FlagUp != 0 && hasFamily(i, v4) }
	return slices.ContainsFunc(c.ifaces, has)
}

func noCarrier(i mcast.Interface, s Severity) Finding {
	return Finding{Code: NoCarrier, Severity: s, Interface: i.Name,
		Summary: "the interface is up but has no carrier",
		Detail: fmt.Sprintf("A scan shows its flags as %s, without \"running\": there is no cable, nothing at its "+
			"other end, or no Wi-Fi network that it belongs to.", i.Flags),
		Fix: fixNoCarrier(i.Name)}
}

// checkDefaults examines the defaults for programs that name no interface: senders, and IPv4 joins of other libraries.
// It runs after the watch, since they make no difference to a receiver that receives.
func (c *checkup) checkDefaults() {
	for _, v4 := range []bool{true, false} {
		if !c.hasFamily(v4) {
			continue
		}
		network := map[bool]string{true: "ip4", false: "ip6"}[v4]
		if _, err := mcast.DefaultInterface(network); !errors.Is(err, mcast.ErrNoInterface) {
			continue // there is one, or the system does not report it
		}
		f := Finding{Code: NoDefaultRoute, Severity: Warning,
			Summary: fmt.Sprintf("there is no default route for %s", familyName(v4)),
			Detail: "mcast.DefaultInterface found none in the system's routes. Who sends without naming an interface fails, " +
				"and so do IPv4 joins without one in other libraries. Receivers of this module do without.",
			Fix: fixNoDefaultRoute(c.anyName(), v4)}
		if c.named || !c.someSilent(v4) {
			f.Severity = Info // no program depends on it, or it found another way
		}
		c.add(f)
	}
}

// anyName returns a name for commands that are about any interface: one that can multicast, and if possible is up.
func (c *checkup) anyName() string {
	name, up := "eth0", false
	for _, i := range c.ifaces {
		isUp := i.Flags&net.FlagUp != 0
		if i.Flags&net.FlagMulticast != 0 && (name == "eth0" || isUp && !up) {
			name, up = i.Name, isUp
		}
	}
	return name
}

func names(all []mcast.Interface) string {
	var s []string
	for _, i := range all {
		s = append(s, i.Name)
	}
	return list(s)
}
