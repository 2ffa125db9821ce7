// This file tests the networks: that packets go where they should, and nowhere else.

package mcasttest_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/go-multicast/mcast/mcasttest"
)

// TestSnooping checks that the switch sends a group's packets to its members only.
func TestSnooping(t *testing.T) {
	lan := mcasttest.NewLAN(t, 3)
	sender, member, other := lan.Hosts[0], lan.Hosts[1], lan.Hosts[2]
	for _, g := range groups {
		atMember, atOther := member.Interface("eth0").CountUDP(g), other.Interface("eth0").CountUDP(g)
		conn := join(t, member, "eth0", g)
		lan.WaitJoined(member, g)
		send(t, sender, "", g, 1, "one")
		from := expect(t, conn, "one")
		if from.Addr() != sender.IPv4 && from.Addr() != sender.IPv6 {
			t.Errorf("packet to %s is from %s, not from %s", g, from, sender.Name)
		}

		// The control: what goes to both shows that the counters count, and is behind what went to one.
		second := join(t, other, "eth0", g)
		lan.WaitJoined(other, g)
		send(t, sender, "", g, 1, "two")
		expect(t, conn, "two")
		expect(t, second, "two")
		if n := atMember(); n != 2 {
			t.Errorf("%s: switch sent %d packets to the member, want 2", g, n)
		}
		if n := atOther(); n != 1 {
			t.Errorf("%s: switch sent %d packets to the other host, want 1, from after it joined", g, n)
		}

		second.Close()
		lan.WaitLeft(other, g)
		send(t, sender, "", g, 1, "three")
		expect(t, conn, "three")
		if n := atOther(); n != 1 {
			t.Errorf("%s: switch sent packet %d to a host that has left", g, n)
		}
	}
}

// TestSources checks that the switch knows the members of a source-specific group, and from whom they want it.
func TestSources(t *testing.T) {
	lan := mcasttest.NewLAN(t, 3)
	wanted, unwanted, member := lan.Hosts[0], lan.Hosts[1], lan.Hosts[2]
	for _, g := range []netip.Addr{netip.MustParseAddr("232.1.2.3"), netip.MustParseAddr("ff35::1234")} {
		source := wanted.IPv4
		if g.Is6() {
			source = wanted.IPv6
		}
		count := member.Interface("eth0").CountUDP(g)
		conn := joinSource(t, member, "eth0", g, source)
		lan.WaitJoined(member, g)
		send(t, unwanted, "", g, 1, "unwanted")
		send(t, wanted, "", g, 1, "wanted")
		expect(t, conn, "wanted")
		if n := count(); n != 1 {
			t.Errorf("%s: switch sent %d packets to the member, want 1", g, n)
		}
	}
}

// TestFloodedGroups checks that WaitJoined does not wait for what no switch knows.
func TestFloodedGroups(t *testing.T) {
	lan := mcasttest.NewLAN(t, 2)
	for _, g := range []netip.Addr{netip.MustParseAddr("224.0.0.251"), netip.MustParseAddr("ff02::1")} {
		conn := join(t, lan.Hosts[1], "eth0", g)
		lan.WaitJoined(lan.Hosts[1], g)
		send(t, lan.Hosts[0], "eth0", g, 1, "to all")
		expect(t, conn, "to all")
	}
}

// TestJumbo checks that large frames pass the switch whole.
func TestJumbo(t *testing.T) {
	lan := mcasttest.NewLAN(t, 2)
	for _, h := range lan.Hosts {
		h.Interface("eth0").SetMTU(9000)
	}
	count := lan.Hosts[1].Interface("eth0").CountUDP(group4)
	conn := join(t, lan.Hosts[1], "eth0", group4)
	lan.WaitJoined(lan.Hosts[1], group4)
	large := strings.Repeat("x", 8000)
	send(t, lan.Hosts[0], "", group4, 1, large)
	expect(t, conn, large)
	if n := count(); n != 1 {
		t.Errorf("arrived in %d packets", n)
	}
}

func TestUnplug(t *testing.T) {
	lan := mcasttest.NewLAN(t, 2)
	sender, member := lan.Hosts[0], lan.Hosts[1]
	for _, g := range groups {
		conn := join(t, member, "eth0", g)
		lan.WaitJoined(member, g)
		member.Unplug()
		lan.WaitLeft(member, g)
		send(t, sender, "", g, 1, "lost")
		member.Plug()
		lan.WaitJoined(member, g) // Linux keeps the membership; the switch asks for it
		send(t, sender, "", g, 1, "found")
		expect(t, conn, "found")
		send(t, member, "", g, 1, "back at once") // its own copy
		expect(t, conn, "back at once")
	}
}

func TestRecreate(t *testing.T) {
	lan := mcasttest.NewLAN(t, 2)
	sender, member := lan.Hosts[0], lan.Hosts[1]
	eth0 := member.Interface("eth0")
	for _, g := range groups {
		stale := join(t, member, "eth0", g)
		lan.WaitJoined(member, g)
		index := eth0.Index()
		member.DeleteInterface()
		lan.WaitLeft(member, g)
		member.CreateInterface()
		if eth0.Index() == index {
			t.Errorf("index is %d as before", index)
		}
		stale.Close()
		conn := join(t, member, "eth0", g)
		lan.WaitJoined(member, g)
		send(t, sender, "", g, 1, "again")
		expect(t, conn, "again")
		send(t, member, "", g, 1, "by the default route")
		if from := expect(t, conn, "by the default route").Addr(); from != member.IPv4 && from != member.IPv6 {
			t.Errorf("its own packets come from %v", from)
		}
	}
}

func TestRouter(t *testing.T) {
	a, b := mcasttest.NewLAN(t, 1), mcasttest.NewLAN(t, 2)
	mcasttest.NewRouter(t, a, b)
	sender, member, other := a.Hosts[0], b.Hosts[0], b.Hosts[1]
	for _, g := range groups {
		conn := join(t, member, "eth0", g)
		b.WaitJoined(member, g)
		atMember, atOther := member.Interface("eth0").CountUDP(g), other.Interface("eth0").CountUDP(g)
		send(t, sender, "", g, 1, "one hop")
		send(t, sender, "", g, 2, "two hops")
		expect(t, conn, "two hops")
		if m, o := atMember(), atOther(); m != 1 || o != 0 {
			t.Errorf("%s: %d packets reached the member and %d the other host, want 1 and 0", g, m, o)
		}
	}
}

// TestRouterUnicast checks that a router takes unicast both ways, and that hosts have it for their gateway.
func TestRouterUnicast(t *testing.T) {
	a, b := mcasttest.NewLAN(t, 1), mcasttest.NewLAN(t, 1)
	mcasttest.NewRouter(t, a, b)
	from, to := a.Hosts[0], b.Hosts[0]
	for _, g := range groups { // only for the family
		conn := join(t, to, "eth0", g) // bound to the wildcard, so it receives unicast, too
		addr := to.IPv4
		if g.Is6() {
			addr = to.IPv6
		}
		send(t, from, "", addr, 1, "question")
		source := expect(t, conn, "question")
		back := join(t, from, "eth0", g)
		send(t, to, "", source.Addr(), 1, "answer")
		expect(t, back, "answer")
	}
}

// TestRouterChain checks that multicast passes two routers, and takes three hops.
func TestRouterChain(t *testing.T) {
	a, b, c := mcasttest.NewLAN(t, 1), mcasttest.NewLAN(t, 0), mcasttest.NewLAN(t, 1)
	mcasttest.NewRouter(t, a, b)
	mcasttest.NewRouter(t, b, c)
	for _, g := range groups {
		conn := join(t, c.Hosts[0], "eth0", g)
		c.WaitJoined(c.Hosts[0], g)
		for ttl := 1; ttl <= 3; ttl++ {
			send(t, a.Hosts[0], "", g, ttl, fmt.Sprint(ttl))
		}
		expect(t, conn, "3")
	}
}

func TestAttach(t *testing.T) {
	a, b := mcasttest.NewLAN(t, 2), mcasttest.NewLAN(t, 1)
	both := a.Hosts[0]
	eth1 := b.Attach(both)
	if name := eth1.Name(); name != "eth1" || both.Interface("eth1") != eth1 {
		t.Fatalf("second interface is %s", name)
	}
	for _, g := range groups {
		atA, atB := join(t, a.Hosts[1], "eth0", g), join(t, b.Hosts[0], "eth0", g)
		a.WaitJoined(a.Hosts[1], g)
		b.WaitJoined(b.Hosts[0], g)
		send(t, both, "", g, 1, "by default")
		expect(t, atA, "by default")
		send(t, both, "eth1", g, 1, "by eth1")
		if from := expect(t, atB, "by eth1").Addr(); from != eth1.IPv4 && from != eth1.IPv6 {
			t.Errorf("packet by eth1 is from %s, want %s or %s", from, eth1.IPv4, eth1.IPv6)
		}
		conn := join(t, both, "eth1", g)
		b.WaitJoined(both, g)
		send(t, b.Hosts[0], "", g, 1, "to eth1")
		expect(t, conn, "to eth1")
	}
}
