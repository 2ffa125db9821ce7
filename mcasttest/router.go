// This file is about routers between local networks. Only there does a TTL matter.

package mcasttest

import "testing"

// Router connects two networks. It forwards unicast, for which it is the hosts' default gateway. It forwards multicast
// whose TTL or hop limit is above 1 on arrival and whose group is not link-local. The switch of the other network then
// sends it to the members there. Router uses no multicast routing protocol, and needs none: its switch ports are set to
// get every group.
type Router struct {
	*Host // with an interface eth0 on the first network and eth1 on the second
}

// NewRouter puts a router between two networks. If one has a router already, that one stays its hosts' default gateway.
// The new router then forwards only multicast from there, and unicast through routes that the test adds.
func NewRouter(t testing.TB, a, b *LAN) *Router {
	t.Helper()
	requireNamespace(t)
	if a.number == b.number {
		t.Fatal("mcasttest: a router needs two different networks")
	}
	r := &Router{newHost(t, "router")}
	for _, l := range []*LAN{a, b} {
		i := l.newInterface(r.Host, gatewayID-l.routers)
		i.other.router = true
		l.plugIn(r.Host, i)
		l.routers++
	}
	r.Sysctl("net/ipv4/ip_forward", "1")
	r.Sysctl("net/ipv6/conf/all/forwarding", "1")
	stop, err := r.ns.startForwarding("eth0", "eth1")
	need(t, err)
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Errorf("mcasttest: stop the router: %v", err)
		}
	})
	return r
}
