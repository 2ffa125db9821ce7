package mcast

import (
	"testing"
	"time"
)

func TestBackoff(t *testing.T) {
	now := time.Now()
	var b backoff
	for n, seconds := range []time.Duration{1, 2, 4, 8, 16, 32, 60, 60, 60} {
		if !b.due(now) {
			t.Errorf("not due after %d failures", n)
		}
		b.failed(now)
		wait := seconds * time.Second
		if b.left(now) != wait || b.due(now.Add(wait-backoffSlack-1)) || !b.due(now.Add(wait-backoffSlack)) {
			t.Errorf("after %d failures it is due in %v, want %v", n+1, b.left(now), wait)
		}
		now = now.Add(wait)
	}
	for _, c := range []struct{ a, b, want time.Duration }{{0, 0, 0}, {0, 5, 5}, {5, 0, 5}, {5, 7, 5}, {7, 5, 5}} {
		if got := soonest(c.a, c.b); got != c.want {
			t.Errorf("the soonest of %d and %d is %d", c.a, c.b, got)
		}
	}
}

// TestSuccessor plays lists of interfaces: what counts as the same interface, and what as its return.
func TestSuccessor(t *testing.T) {
	list := func(ifaces ...Interface) []Interface { return ifaces }
	ifc := func(name string, index int) Interface { return Interface{Name: name, Index: index} }
	gone := watchSeen(eventGone, 2)
	for _, c := range []struct {
		what   string
		now    []Interface
		gone   map[int]watchEvents
		want   Interface
		absent bool
	}{
		{"nothing happened", list(ifc("lo", 1), ifc("eth0", 2)), nil, ifc("eth0", 2), false},
		{"renamed", list(ifc("lo", 1), ifc("wan0", 2)), nil, ifc("wan0", 2), false},
		{"renamed, and another has the name", list(ifc("wan0", 2), ifc("eth0", 3)), nil, ifc("wan0", 2), false},
		{"created again", list(ifc("lo", 1), ifc("eth0", 7)), nil, ifc("eth0", 7), false},
		{"created again, as told", list(ifc("lo", 1), ifc("eth0", 7)), gone, ifc("eth0", 7), false},
		{"away and back with its index", list(ifc("eth0", 2)), gone, ifc("eth0", 2), false},
		{"the index is another's now", list(ifc("usb0", 2), ifc("eth0", 7)), gone, ifc("eth0", 7), false},
		{"only the index is back", list(ifc("usb0", 2)), gone, Interface{}, true},
		{"deleted", list(ifc("lo", 1)), gone, Interface{}, true},
		{"nothing is left", nil, nil, Interface{}, true},
	} {
		before := ifc("eth0", 2)
		now := successors([]*trackedInterface{{name: "eth0", ifc: before}}, networkChange{Interfaces: c.now, Events: c.gone})[0]
		if (now == nil) != c.absent || now != nil && (now.Name != c.want.Name || now.Index != c.want.Index) {
			t.Errorf("%s: %+v, want %v %d", c.what, now, c.want.Name, c.want.Index)
		}
	}
	alt := func(name string, index int, names ...string) Interface {
		return Interface{Name: name, Index: index, AltNames: names}
	}
	for _, c := range []struct {
		what string
		now  []Interface
		want int // 0: gone
	}{
		{"under a new name", list(alt("lo", 1), alt("eth1", 7, "other", "uplink")), 7},
		{"under an alternative name as its name", list(alt("uplink", 7)), 7},
		{"under its first name as an alternative name", list(alt("eth1", 7, "eth0")), 7},
		{"another has its first name", list(alt("eth1", 7, "uplink"), alt("eth0", 8)), 8},
		{"another has its index", list(alt("eth1", 2), alt("eth2", 7, "enp3s0")), 7},
		{"without its alternative names", list(alt("eth1", 7)), 0},
		{"with those of others", list(alt("eth1", 7, "enp4s0", "")), 0},
	} {
		lost := trackedInterface{name: "eth0", ifc: alt("eth0", 2, "enp3s0", "uplink"), gone: true}
		got := 0
		if now := successors([]*trackedInterface{&lost}, networkChange{Interfaces: c.now})[0]; now != nil {
			got = now.Index
		}
		if got != c.want {
			t.Errorf("back %s: index %d, want %d", c.what, got, c.want)
		}
	}
	// It was eth0 when the socket came to know it, was renamed since, and is gone: its first name is what counts.
	renamed := ifc("wan0", 2)
	now := successors([]*trackedInterface{{name: "eth0", ifc: renamed}}, networkChange{Interfaces: list(ifc("eth0", 9))})[0]
	if now == nil || now.Index != 9 {
		t.Errorf("back under the first name: %+v", now)
	}
}
