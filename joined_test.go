package mcast

import (
	"net"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestJoinedAnswers: what counts as lost, as there, and as not known.
func TestJoinedAnswers(t *testing.T) {
	group, source, other := netip.MustParseAddr("232.1.1.1"), netip.MustParseAddr("10.1.1.1"), netip.MustParseAddr("10.1.1.2")
	const lost, there, unknown = "lost", "there", "unknown"
	for _, test := range []struct {
		name         string
		held         [][]netip.Addr // the sources of each socket
		users        int
		found        map[netip.Addr]int
		noSources    bool
		open, source string // a socket of all sources, and one that wants source
	}{
		{"all are there", [][]netip.Addr{nil, {source}}, 2, map[netip.Addr]int{source: 1}, false, there, there},
		{"others, too", [][]netip.Addr{nil, {source}}, 5, map[netip.Addr]int{source: 1}, false, there, there},
		{"one less", [][]netip.Addr{nil, {source}}, 1, map[netip.Addr]int{source: 1}, false, lost, lost},
		{"none", [][]netip.Addr{nil, {source}}, 0, nil, false, lost, lost},
		{"the source is not", [][]netip.Addr{nil, {source}}, 2, nil, false, there, lost},
		{"a source of two sockets is there once", [][]netip.Addr{nil, {source}, {source}}, 3, map[netip.Addr]int{source: 1}, false, there, lost},
		{"others want a source", [][]netip.Addr{nil, {source}}, 3, map[netip.Addr]int{source: 1, other: 1}, false, unknown, there},
		{"others want the source", [][]netip.Addr{nil, {source}}, 3, map[netip.Addr]int{source: 2}, false, unknown, there},
		{"no word of sources", [][]netip.Addr{nil, {source}}, 2, nil, true, there, unknown},
		{"no word of sources, and others", [][]netip.Addr{nil, {source}}, 3, nil, true, unknown, unknown},
	} {
		j := newJoined([]Interface{{Index: 7, Flags: net.FlagUp}})
		for _, sources := range test.held {
			j.hold(7, group, sources)
		}
		j.v4 = joinedAnswers{groups: true, sources: !test.noSources}
		j.hold(8, group, nil)
		j.find(joinedKey{index: 7, group: group}, test.users)
		j.find(joinedKey{index: 8, group: group}, 1)
		for source, n := range test.found {
			j.find(joinedKey{7, group, source}, n)
		}
		says := func(sources ...netip.Addr) string {
			p := &pair{rxGroup: &rxGroup{addr: group}, conns: []*conn{{ifIndex: 7, sources: sources}}}
			switch gone, known := j.lost(p); {
			case !known:
				return unknown
			case gone:
				return lost
			}
			return there
		}
		if open, with := says(), says(source); open != test.open || with != test.source {
			t.Errorf("%s: of all sources %s, want %s; of one %s, want %s", test.name, open, test.open, with, test.source)
		}
		j.believeOn([]Interface{{Index: 8}})
		if open, with := says(), says(source); open != unknown || with != unknown {
			t.Errorf("%s, on an interface that is gone: of all sources %s, of one %s", test.name, open, with)
		}
	}
}

// TestFollowChecks has the kernel lose memberships without a notice. They are missed within a minute, once the second look
// confirms it, and where joining again does not help, it is tried less and less often.
func TestFollowChecks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub, _ := watchTestHub()
		key := joinedKey{index: 1, group: netip.MustParseAddr("239.1.1.1")}
		found, again := 1, 1 // what the kernel has, at a first look and at the next
		looks, dropped, called := 0, 0, 0
		var mu sync.Mutex // guards these
		hub.joined = func(j *joinedSet, piece int) {
			mu.Lock()
			defer mu.Unlock()
			looks++
			j.v4.groups = true
			n := found
			if piece != joinedPiece {
				n = again
				if hub.joining.TryRLock() {
					t.Error("others may join and leave at the second look")
				}
			}
			j.find(key, n)
		}
		one := &watchFollower{
			holds: func(j *joinedSet) { j.hold(key.index, key.group, nil) },
			prepare: func(c networkChange) bool {
				p := &pair{rxGroup: &rxGroup{addr: key.group}, conns: []*conn{{ifIndex: 1}}}
				if !c.lost(&c.Interfaces[0], p) {
					return false
				}
				mu.Lock()
				defer mu.Unlock()
				dropped++
				return true
			},
			follow: func(networkChange) time.Duration {
				mu.Lock()
				defer mu.Unlock()
				called++
				return 0
			},
		}
		if err := hub.add(one); err != nil {
			t.Fatal(err)
		}
		defer one.stop()
		set := func(first, then int) {
			mu.Lock()
			defer mu.Unlock()
			found, again = first, then
		}
		wait := func(d time.Duration) (n [3]int) {
			mu.Lock()
			looks, dropped, called = 0, 0, 0
			mu.Unlock()
			time.Sleep(d)
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			return [...]int{looks, dropped, called}
		}
		wait(time.Second)
		all := 1 + len(joinedOtherPieces) // looks if something is missing in each
		for _, step := range []struct {
			name        string
			first, then int
			wait        time.Duration
			want        [3]int // looks, dropped, called
		}{
			{"nothing is missing", 1, 1, 10 * watchCheck, [3]int{10, 0, 0}},
			{"not missing at the second look", 0, 1, 10 * watchCheck, [3]int{20, 0, 0}},
			// A second after a drop it looks again. It drops at the first, second, fourth and eighth time.
			{"missing", 0, 0, watchCheck + 5*time.Second, [3]int{3 * all, 2, 2}},
			{"missing for ever", 0, 0, 10 * watchCheck, [3]int{12 * all, 2, 2}},
			{"there again", 1, 1, watchCheck, [3]int{1, 0, 0}},
			{"missing again", 0, 0, watchCheck + 5*time.Second, [3]int{3 * all, 2, 2}},
		} {
			set(step.first, step.then)
			if got := wait(step.wait); got != step.want {
				t.Errorf("%s: %v looks, drops and calls, want %v", step.name, got, step.want)
			}
		}
	})
}
