package mcast

import "testing"

// TestSuccessor plays lists of interfaces: what counts as the same interface, and what as its return.
func TestSuccessor(t *testing.T) {
	list := func(ifaces ...Interface) []Interface { return ifaces }
	ifc := func(name string, index int) Interface { return Interface{Name: name, Index: index} }
	gone := map[int]bool{2: true}
	for _, c := range []struct {
		what   string
		now    []Interface
		gone   map[int]bool
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
		now := successors([]*known{{name: "eth0", ifc: before}}, networkChange{Interfaces: c.now, Gone: c.gone})[0]
		if (now == nil) != c.absent || now != nil && (now.Name != c.want.Name || now.Index != c.want.Index) {
			t.Errorf("%s: %+v, want %v %d", c.what, now, c.want.Name, c.want.Index)
		}
	}
	// It was eth0 when the socket came to know it, was renamed since, and is gone: its first name is what counts.
	renamed := ifc("wan0", 2)
	now := successors([]*known{{name: "eth0", ifc: renamed}}, networkChange{Interfaces: list(ifc("eth0", 9))})[0]
	if now == nil || now.Index != 9 {
		t.Errorf("back under the first name: %+v", now)
	}
}
