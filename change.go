// What changed in the network between two scans. The kernel's notices add what two lists of interfaces do not show, such as an
// interface that was deleted and created again. This file also decides which memberships a change may have taken. The scans
// and notices come from watch.go.

package mcast

import (
	"maps"
	"net"
	"net/netip"
	"slices"
)

// networkChange is what a follower of the network gets.
type networkChange struct {
	// Interfaces is the list now. It is shared: do not modify it.
	Interfaces []Interface

	// Events are what happened to interfaces since the last call, by index. An interface that was gone may be in the list
	// again, with the same index.
	Events map[int]watchEvents

	// Lost are the addresses that were removed from interfaces since the last call. An interface may have its address back,
	// but the sockets that were bound to it are dead. Only Windows reports them, where sockets are bound to addresses.
	Lost map[watchAddr]bool

	// Unchanged says that the list is the one of the last call and that no membership was lost since then. The follower is
	// called because it asked for a call, or because of Routes.
	Unchanged bool

	// Routes says that the default route may be another one, or none.
	Routes bool

	// Overflow says that notices were lost, so that there may be more Events.
	Overflow bool

	// joined compares the memberships of the sockets with those of the kernel. nil: the kernel was not asked.
	joined *joinedSet

	// defaults are the default routes, for all followers of one change. nil asks the system each time.
	defaults *watchDefaults
}

// loses reports whether memberships may have been lost.
func (c *networkChange) loses() bool {
	return len(c.Events)+len(c.Lost) > 0 || c.Overflow
}

// gone reports whether the interface that had this index was deleted, or left the network namespace.
func (c *networkChange) gone(index int) bool { return c.Events[index]&eventGone != 0 }

// watchDefaults are the default routes at one change. The system is asked once for each family, when the first follower needs
// the answer: with many routes that takes a while. It must not be used by two goroutines at the same time.
type watchDefaults struct {
	ask     func(network string) (index int, err error) // defaultIndex
	answers map[string]watchDefault                     // by network
}

// watchDefault is what defaultIndex returned.
type watchDefault struct {
	index int
	err   error
}

// index returns what defaultIndex returns.
func (d *watchDefaults) index(network string) (int, error) {
	if d == nil {
		return defaultIndex(network)
	}
	one, ok := d.answers[network]
	if !ok {
		one.index, one.err = d.ask(network)
		if d.answers == nil {
			d.answers = make(map[string]watchDefault)
		}
		d.answers[network] = one
	}
	return one.index, one.err
}

// watchEvents is a set of events that can take memberships from an interface. The table losses says what each of them takes.
type watchEvents uint8

const (
	eventGone watchEvents = 1 << iota // the interface was deleted, or left the network namespace
	eventMTU4                         // its MTU became too small for IPv4, or large enough again
	eventMTU6                         // the same for IPv6
	eventDown                         // it was down and is up
	eventIPv6                         // Linux started IPv6 on it, which can happen while the interface stays up
)

// watchAddr is an address of an interface.
type watchAddr struct {
	index int
	addr  netip.Addr // without a zone
}

// watchNotice is what the kernel's notices say beyond "scan again".
type watchNotice struct {
	seen     map[int]watchEvents // by index: what happened, and the states that an event begins with
	lost     map[watchAddr]bool
	routes   bool // the default route changed, or may have changed
	overflow bool // notices were lost
}

// add merges another notice into n.
func (n *watchNotice) add(o watchNotice) {
	for index, e := range o.seen {
		n.note(index, e)
	}
	if n.lost == nil && len(o.lost) > 0 {
		n.lost = make(map[watchAddr]bool, len(o.lost))
	}
	maps.Copy(n.lost, o.lost)
	n.routes = n.routes || o.routes
	n.overflow = n.overflow || o.overflow
}

// note adds events of an interface.
func (n *watchNotice) note(index int, e watchEvents) {
	if e == 0 {
		return
	}
	if n.seen == nil {
		n.seen = make(map[int]watchEvents)
	}
	n.seen[index] |= e
}

// watchCompare makes a change of two scans and the notices between them. It includes interfaces that only the second scan has:
// a socket may have joined on one of them between the scans.
func watchCompare(before, now []Interface, n watchNotice) networkChange {
	c := networkChange{Interfaces: now, Lost: n.lost, Routes: n.routes, Overflow: n.overflow}
	was, is := watchStates(before), watchStates(now)
	for _, i := range slices.Concat(before, now) {
		seen, was := n.seen[i.Index], was[i.Index]
		is, there := is[i.Index]
		happened := seen & (eventGone | eventIPv6)
		happened |= (seen | was | is) &^ (was & is) & (eventMTU4 | eventMTU6)
		if there {
			happened |= (seen | was) &^ is & eventDown
		}
		if happened != 0 {
			if c.Events == nil {
				c.Events = make(map[int]watchEvents)
			}
			c.Events[i.Index] = happened
		}
	}
	return c
}

// watchStates returns the state of each interface in a list.
func watchStates(list []Interface) map[int]watchEvents {
	states := make(map[int]watchEvents, len(list))
	for _, i := range list {
		states[i.Index] = watchState(&i)
	}
	return states
}

// watchState returns those states of an interface that an event begins with.
func watchState(i *Interface) (state watchEvents) {
	if i.Flags&net.FlagUp == 0 {
		state |= eventDown
	}
	if i.MTU > 0 && i.MTU < watchLeastMTU4 {
		state |= eventMTU4
	}
	if i.MTU > 0 && i.MTU < watchLeastMTU6 {
		state |= eventMTU6
	}
	return state
}

// The least MTU of IPv4 (RFC 791, section 3.2) and IPv6 (RFC 8200, section 5). An interface with a smaller MTU loses the family
// and all its memberships on Linux: inetdev_event in net/ipv4/devinet.c, addrconf_notify in net/ipv6/addrconf.c.
const (
	watchLeastMTU4 = 68
	watchLeastMTU6 = 1280
)

// watchStillDown returns the part of a notice about interfaces that are down now. Its event comes when they are up again.
func watchStillDown(now []Interface, n watchNotice) (down watchNotice) {
	for _, i := range now {
		down.note(i.Index, n.seen[i.Index]&watchState(&i)&eventDown)
	}
	return down
}

// losses are what events take from an interface that keeps its index.
//
// When an interface or IPv6 on it goes down, Linux sets the sources of its memberships aside, together with the report that
// they were left. If anything is joined or left there before it is up again, Linux discards both: igmpv3_add_delrec,
// igmpv3_send_cr and igmpv3_del_delrec in net/ipv4/igmp.c, and the same in net/ipv6/mcast.c.
var losses = [...]struct {
	event       watchEvents
	v4, v6      bool // from which family
	sourcesOnly bool // memberships without sources stay
}{
	{event: eventGone, v4: true, v6: true},
	{event: eventMTU4, v4: true},
	{event: eventMTU6, v6: true},
	{event: eventDown, v4: true, v6: true, sourcesOnly: !downLoses},
	{event: eventIPv6, v6: true, sourcesOnly: true},
}

// lost reports whether a pair lost its membership on an interface that still has its index. The kernel's answer decides.
// Without one, the membership counts as lost if an event may have taken it. An interface that was gone has lost all its
// memberships, even if other sockets have joined the group there since.
func (c *networkChange) lost(ifc *Interface, p *pair) bool {
	if c.gone(ifc.Index) {
		return true
	}
	if lost, answered := c.joined.lost(p); answered {
		return lost
	}
	events := c.Events[ifc.Index]
	if c.Overflow && !c.hasAge(ifc) {
		events = ^watchEvents(0) // any
	}
	for _, l := range losses {
		family := l.v4 && p.addr.Is4() || l.v6 && p.addr.Is6()
		if events&l.event != 0 && family && (len(p.sources) > 0 || !l.sourcesOnly) {
			return true
		}
	}
	return false
}

// hasAge reports whether IPv6 on the interface is as old as at the scan before, so that lost notices were not about it.
func (c *networkChange) hasAge(ifc *Interface) bool {
	return slices.ContainsFunc(c.Interfaces, func(now Interface) bool {
		return now.Index == ifc.Index && now.since6 == ifc.since6 && now.since6 != 0
	})
}
