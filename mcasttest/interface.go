// This file is about interfaces that a test can unplug, delete and bring back. The package keeps the settings of
// an interface while it is away, since the kernel forgets them all.

package mcasttest

import (
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
)

// Interface is a network interface: the near end of a virtual Ethernet cable. Its methods return when the change is
// made and visible. A method that fails ends the test. The methods need no privileges within the namespace of [Main].
//
// The methods may be called from any goroutine, but if they fail they call testing.TB's Fatal.
type Interface struct {
	IPv4, IPv6 netip.Addr // the first address of each family, if there is one
	LinkLocal  netip.Addr // IPv6, without zone

	t      testing.TB
	ns     *netns
	host   *Host      // nil in the namespace of the test
	other  *Interface // the far end of the cable
	bridge string     // for a port of a switch: the name of the switch
	router bool       // for a port of a switch: a multicast router is at the other end
	unique bool       // no other interface has its index, in any namespace

	mu     sync.Mutex
	name   string
	mac    net.HardwareAddr
	mtu    int // 0: the default
	addrs  []netip.Prefix
	routes []route
	down   bool // administratively
}

// NewVeth adds an interface to the namespace of the test, up and with a carrier. It has the given addresses and an IPv6
// link-local one. It has no default route, so nothing is sent through it unless it is named. It is deleted when the
// test ends. NewVeth calls [Require]. On systems other than Linux it skips the test.
//
// A host is at the other end of the cable, see [Interface.Peer].
//
// Its index is never that of a host's eth0. This matters because Go's net package caches for a minute which IPv6 zone
// has which index, for all namespaces together.
func NewVeth(t testing.TB, name string, addresses ...netip.Prefix) *Interface {
	t.Helper()
	requireNamespace(t)
	here, err := hereNetns()
	check(t, err)
	t.Cleanup(func() { here.close() })
	i := newVeth(t, here, name, addresses)
	check(t, i.create())
	t.Cleanup(func() { // the far end's namespace would delete it as well, but later
		if err := i.remove(); err != nil && !isGone(err) {
			t.Errorf("mcasttest: %v", err)
		}
	})
	return i
}

var veths atomic.Uint32

// newVeth returns the description of an interface with a host at the other end of its cable.
func newVeth(t testing.TB, ns *netns, name string, addresses []netip.Prefix) *Interface {
	t.Helper()
	serial := uint16(veths.Add(1))
	peer := newHost(t, name+"-peer")
	far := &Interface{t: t, ns: peer.ns, host: peer, name: "eth0"}
	for _, a := range addresses {
		if g, ok := gateway(a); ok {
			far.setAddresses(netip.PrefixFrom(g, a.Bits()))
		}
	}
	far.setLinkLocal(linkLocal(vethLinks, serial, gatewayID))
	peer.add(far)

	i := &Interface{t: t, ns: ns, name: name, unique: true}
	i.setAddresses(addresses...)
	i.setLinkLocal(linkLocal(vethLinks, serial, 1))
	return i.connect(far)
}

// Peer returns the host at the other end of the cable of [NewVeth] and [Host.NewVeth]. In each IPv4 and IPv6 subnet of
// the interface that has room for it, the host has the address that ends in 254 or fe. For other interfaces Peer
// returns nil.
func (i *Interface) Peer() *Host { return i.other.host }

// Name returns the interface's present name.
func (i *Interface) Name() string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.name
}

// Index returns the interface's present index. A deleted interface that is created again has a new one.
func (i *Interface) Index() int {
	i.t.Helper()
	i.mu.Lock()
	defer i.mu.Unlock()
	index, err := i.ns.index(i.name)
	check(i.t, err)
	return index
}

// Down sets the interface down, as "ip link set down" does. The kernel forgets its IPv6 addresses and its routes.
func (i *Interface) Down() { i.t.Helper(); check(i.t, i.shut()) }

// Up sets the interface up again and restores what Down removed. If the cable is plugged in, Up returns when the
// interface has a carrier.
func (i *Interface) Up() { i.t.Helper(); check(i.t, i.start()) }

// Unplug removes the carrier, as pulling the cable does. Addresses and routes stay.
func (i *Interface) Unplug() { i.t.Helper(); check(i.t, i.other.shut()) }

// Plug plugs the cable in again and returns when there is a carrier.
func (i *Interface) Plug() { i.t.Helper(); check(i.t, i.other.start()) }

// Delete removes the interface from the system, as pulling out a USB adapter does.
func (i *Interface) Delete() { i.t.Helper(); check(i.t, i.remove()) }

// Create brings a deleted interface back under its last name, with its addresses, its routes and the same hardware
// address. It has a new index and the default MTU. It is up and plugged in.
func (i *Interface) Create() { i.t.Helper(); check(i.t, i.create()) }

// Travel moves the interface to another network namespace and back. As a rule it keeps its index, but the kernel has
// dropped all memberships on it. Sockets that are open on it notice nothing. Its addresses and routes are restored.
func (i *Interface) Travel() { i.t.Helper(); check(i.t, i.travel()) }

// Rename gives the interface another name. Kernels before 6.2 need it down for that, so there it is down for a moment.
func (i *Interface) Rename(name string) {
	i.t.Helper()
	err := i.rename(name)
	if isBusy(err) {
		i.Down()
		check(i.t, i.rename(name))
		i.Up()
		return
	}
	check(i.t, err)
}

// SetMTU sets the largest packet that the interface sends, in bytes without the Ethernet header. Below 1280 the
// interface loses IPv6 and its IPv6 addresses. They return with an MTU that allows IPv6.
func (i *Interface) SetMTU(bytes int) {
	i.t.Helper()
	i.mu.Lock()
	err := i.ns.setMTU(i.name, bytes)
	i.mtu = bytes
	i.mu.Unlock()
	check(i.t, err)
	check(i.t, i.restore())
}

// minMTU6 is the smallest MTU that IPv6 works with (RFC 8200, section 5).
const minMTU6 = 1280

// AddAddress adds an address, which is usable at once.
func (i *Interface) AddAddress(p netip.Prefix) {
	i.t.Helper()
	i.mu.Lock()
	defer i.mu.Unlock()
	check(i.t, i.ns.addAddress(i.name, p))
	i.addrs = append(i.addrs, p)
}

// DelAddress removes an address.
func (i *Interface) DelAddress(p netip.Prefix) {
	i.t.Helper()
	i.mu.Lock()
	defer i.mu.Unlock()
	check(i.t, i.ns.delAddress(i.name, p))
	i.addrs = slices.DeleteFunc(i.addrs, func(q netip.Prefix) bool { return p == q })
}

// AddRoute adds a route to the main table, through a gateway, or on-link if gateway is the zero Addr. Of routes to the
// same destination, the one with the smallest metric counts. The package documentation lists the routes that exist.
func (i *Interface) AddRoute(dst netip.Prefix, gateway netip.Addr, metric int) {
	i.t.Helper()
	i.mu.Lock()
	defer i.mu.Unlock()
	r := route{dst: dst, gateway: gateway, metric: metric}
	check(i.t, i.ns.addRoute(i.name, r))
	i.routes = append(i.routes, r)
}

// DelRoute removes a route that AddRoute added or that the interface had.
func (i *Interface) DelRoute(dst netip.Prefix, gateway netip.Addr, metric int) {
	i.t.Helper()
	i.mu.Lock()
	defer i.mu.Unlock()
	r := route{dst: dst, gateway: gateway, metric: metric}
	check(i.t, i.ns.delRoute(i.name, r))
	i.routes = slices.DeleteFunc(i.routes, func(s route) bool { return r == s })
}

// CountUDP counts the packets with UDP for dst that arrive on the interface, from now on and until the test ends. It
// counts what a switch forwarded to the interface, whether or not a socket wants it. A packet is counted before a
// socket receives it. Of a fragmented IPv4 datagram each fragment counts, of a fragmented IPv6 datagram none. The count
// ends if the interface is deleted.
func (i *Interface) CountUDP(dst netip.Addr) (count func() uint64) {
	i.t.Helper()
	i.mu.Lock()
	defer i.mu.Unlock()
	c, err := i.ns.newCounter(i.name, dst)
	check(i.t, err)
	i.t.Cleanup(func() { c.close() })
	return func() uint64 {
		i.t.Helper()
		total, err := c.read()
		check(i.t, err)
		return total
	}
}

// connect connects two interfaces with the cable.
func (i *Interface) connect(far *Interface) *Interface {
	i.other, far.other = far, i
	return i
}

// create makes both ends of the cable and sets them up.
func (i *Interface) create() error {
	ends := []*Interface{i, i.other}
	if err := i.addPair(); err != nil {
		return err
	}
	if port := i.other; port.bridge != "" {
		if err := port.ns.setMTU(port.name, switchMTU); err != nil {
			return err
		}
		if err := port.ns.enslave(port.name, port.bridge, port.router); err != nil {
			return err
		}
	}
	for _, end := range ends {
		end.forgetMTU()
		if err := end.setDown(false); err != nil {
			return err
		}
	}
	for _, end := range ends {
		if err := end.restore(); err != nil {
			return err
		}
	}
	return nil
}

// indexes allocates interface indexes that are used nowhere else. Without it, an interface gets the first free number
// of its namespace. One end of each cable has such an index. If both had the same, the kernel would not see
// that it is a cable. It would take up to a second to notice a carrier (linkwatch_urgent_event).
var indexes atomic.Uint32

func (i *Interface) addPair() error {
	for {
		err := addVeth(i.end(), i.other.end())
		if taken := isBusy(err) && (i.unique || i.other.unique); !taken { // the index is taken by another process
			return err
		}
	}
}

func (i *Interface) end() linkEnd {
	i.mu.Lock()
	defer i.mu.Unlock()
	e := linkEnd{ns: i.ns, name: i.name, mac: i.mac}
	if i.unique {
		e.index = 1000 + int(indexes.Add(1))
	}
	return e
}

func (i *Interface) travel() error {
	away, err := newNetns()
	if err != nil {
		return err
	}
	defer away.close()
	name := i.Name()
	if err := i.ns.move(name, away); err != nil {
		return err
	}
	if err := away.move(name, i.ns); err != nil {
		return err
	}
	if i.isDown() {
		return nil
	}
	return i.start()
}

// setDown changes the administrative state and remembers it.
func (i *Interface) setDown(down bool) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.down = down
	if down {
		return i.ns.setDown(i.name)
	}
	return i.ns.setUp(i.name)
}

// forgetMTU is called when an interface is created: it then has the default MTU.
func (i *Interface) forgetMTU() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.mtu = 0
}

func (i *Interface) isDown() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.down
}

func (i *Interface) shut() error { return i.setDown(true) }

// start sets one end up. It restores that end, and also the other if they now have a carrier.
func (i *Interface) start() error {
	if err := i.setDown(false); err != nil {
		return err
	}
	if i.other.isDown() {
		return i.restore()
	}
	if err := i.restore(); err != nil {
		return err
	}
	return i.other.restore()
}

// restore gives the interface, if it is up, those of its addresses and routes that the kernel does not have. If there
// is a carrier, it first waits until the interface is running.
func (i *Interface) restore() error {
	farDown := i.other.isDown()
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.down {
		return nil
	}
	if !farDown {
		if err := i.ns.waitRunning(i.name); err != nil {
			return err
		}
	}
	usable := func(a netip.Addr) bool { return a.Is4() || i.mtu == 0 || i.mtu >= minMTU6 }
	for _, p := range i.addrs {
		if !usable(p.Addr()) {
			continue
		}
		if err := i.ns.addAddress(i.name, p); err != nil {
			return err
		}
	}
	for _, r := range i.routes {
		if !usable(r.dst.Addr()) {
			continue
		}
		if err := i.ns.addRoute(i.name, r); err != nil {
			return err
		}
	}
	return nil
}

func (i *Interface) remove() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.ns.delLink(i.name)
}

func (i *Interface) rename(name string) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if err := i.ns.rename(i.name, name); err != nil {
		return err
	}
	i.name = name
	return nil
}

// setAddresses adds addresses to an interface that is not created yet.
func (i *Interface) setAddresses(addresses ...netip.Prefix) {
	i.addrs = append(i.addrs, addresses...)
	for _, p := range addresses {
		switch a := p.Addr(); {
		case a.Is4() && !i.IPv4.IsValid():
			i.IPv4 = a
		case a.Is6() && !a.IsLinkLocalUnicast() && !i.IPv6.IsValid():
			i.IPv6 = a
		}
	}
}

// setLinkLocal gives an interface that is not created yet its link-local address, and the Ethernet address that
// matches.
func (i *Interface) setLinkLocal(a netip.Addr) {
	i.LinkLocal, i.mac = a, hardwareAddr(a)
	i.addrs = append(i.addrs, netip.PrefixFrom(a, 64))
}

// addDefaultRoutes makes the interface the way to all other networks and to all multicast groups. The IPv4 groups need
// their own route, or the route of lo would lead them away from the default.
func (i *Interface) addDefaultRoutes(metric int) {
	for _, p := range i.addrs {
		g, ok := gateway(p)
		switch {
		case !ok || g.IsLinkLocalUnicast():
		case g.Is4():
			i.routes = append(i.routes, route{anywhere4, g, metric, false}, route{multicast4, netip.Addr{}, metric, false})
		default:
			i.routes = append(i.routes, route{anywhere6, g, metric, false})
		}
	}
}

// gatewayID is the last byte of the address at the other end: a router, or the peer of a veth.
const gatewayID = 254

// gateway returns the address in the subnet that ends in gatewayID, if it exists and is not the interface's own.
func gateway(p netip.Prefix) (netip.Addr, bool) {
	b := p.Addr().AsSlice()
	b[len(b)-1] = gatewayID
	g, _ := netip.AddrFromSlice(b)
	return g, p.Contains(g) && g != p.Addr() && p.Bits() <= p.Addr().BitLen()-8
}

// Link-local addresses have the form fe80::kind:network:id, so each shows whose it is.
const (
	lanLinks  = 0x10
	mcLinks   = 0x88
	vethLinks = 0x99
)

func linkLocal(kind uint8, network, id uint16) netip.Addr {
	return netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 11: kind,
		12: byte(network >> 8), 13: byte(network), 14: byte(id >> 8), 15: byte(id)})
}

// hardwareAddr returns the interface's Ethernet address. It is derived from the link-local one; usually it is the other
// way around. So it stays the same when the interface is created again, and other hosts have no stale neighbor entry.
func hardwareAddr(linkLocal netip.Addr) net.HardwareAddr {
	b := linkLocal.As16()
	return append(net.HardwareAddr{0x02}, b[11:]...)
}
