// Memberships as the process holds them, compared with those that the kernel has. A membership can vanish from the kernel
// without an error, an event or a notice: it stays in the socket's own list, and the socket receives nothing.

package mcast

import (
	"net"
	"net/netip"
)

// joinedKey is a group on an interface, or with a source, that source in it.
type joinedKey struct {
	index  int
	group  netip.Addr
	source netip.Addr // the zero Addr: the group
}

// joinedCount counts the sockets that have joined a group, or want a source in it.
type joinedCount struct {
	held    int  // those of this process that follow the network
	found   int  // all of the host, as the kernel has it
	sourced bool // of a group: sockets that are not counted in held want some of its sources
	doubted bool // the kernel's answer may be about something else
}

// joinedSet is a comparison. The kernel counts; it does not say which sockets it has counted. While held <= found, to leave and
// join again would change no count. If found is less, some of the process's memberships were lost; then all of that group on
// that interface are to be left and joined again, since what one of them drops may be counted for another.
type joinedSet struct {
	up     map[int]bool // interfaces that are
	counts map[joinedKey]*joinedCount
	v4, v6 joinedAnswers
}

// joinedAnswers says which of a family's files could be read completely.
type joinedAnswers struct{ groups, sources bool }

// The kernel goes on with a list where it was by number, and so passes over an entry if another one before it was removed
// between two reads. Another program that leaves many groups can make every look pass over some, but hardly over the same ones
// in pieces of so many sizes. A piece has a page at most.
const joinedPiece = 32 << 10

var joinedOtherPieces = []int{3 << 10, 3500, 2700, 3900, 2900} // as long as something is missing

func newJoined(interfaces []Interface) *joinedSet {
	j := &joinedSet{up: make(map[int]bool, len(interfaces)), counts: make(map[joinedKey]*joinedCount)}
	for _, i := range interfaces {
		j.up[i.Index] = i.Flags&net.FlagUp != 0
	}
	return j
}

// hold counts a socket that has joined a group, for the given sources if there are any. On an interface that is down the
// kernel has set the sources aside, so that they are not looked for.
func (j *joinedSet) hold(index int, group netip.Addr, sources []netip.Addr) {
	j.count(joinedKey{index: index, group: group}).held++
	if !j.up[index] {
		return
	}
	for _, source := range sources {
		j.count(joinedKey{index, group, source}).held++
	}
}

func (j *joinedSet) count(key joinedKey) *joinedCount {
	n := j.counts[key]
	if n == nil {
		n = new(joinedCount)
		j.counts[key] = n
	}
	return n
}

// answers are those of the family of group.
func (j *joinedSet) answers(group netip.Addr) *joinedAnswers {
	if group.Is4() {
		return &j.v4
	}
	return &j.v6
}

// find takes down that the kernel counts n sockets. It may say so twice, and in several looks: the most counts. What nobody here
// has joined does not matter.
func (j *joinedSet) find(key joinedKey, n int) {
	count := j.counts[key]
	if count != nil {
		count.found = max(count.found, n)
	}
	if key.source.IsValid() && (count == nil || n > count.held) {
		if group := j.counts[joinedKey{index: key.index, group: key.group}]; group != nil {
			group.sourced = true
		}
	}
}

// misses reports whether the kernel has fewer sockets than the process.
func (j *joinedSet) misses(key joinedKey, n *joinedCount) bool {
	answers := j.answers(key.group)
	return n.found < n.held && answers.groups && (answers.sources || !key.source.IsValid())
}

// missing reports whether any membership was lost.
func (j *joinedSet) missing() bool {
	for key, n := range j.counts {
		if j.misses(key, n) {
			return true
		}
	}
	return false
}

// believeOn marks what is on other interfaces than these.
func (j *joinedSet) believeOn(interfaces []Interface) {
	there := make(map[int]bool, len(interfaces))
	for _, i := range interfaces {
		there[i.Index] = true
	}
	for key, n := range j.counts {
		n.doubted = n.doubted || !there[key.index]
	}
}

// doubt marks what is missing although it has been joined again before, but for the second time, the fourth, the eighth and so
// on: the answer may be that of another network, or of a sandbox that has none. It takes and returns how often in succession
// each was missing. What an event explains counts as the first time.
func (j *joinedSet) doubt(before map[joinedKey]int, explained func(index int) bool) (now map[joinedKey]int) {
	now = make(map[joinedKey]int)
	for key, n := range j.counts {
		if !j.misses(key, n) {
			continue
		}
		now[key] = 1
		if !explained(key.index) {
			now[key] += before[key]
		}
		n.doubted = n.doubted || now[key]&(now[key]-1) != 0
	}
	return now
}

// alone reports whether no other socket of the process has the group of a pair on its interface.
func (j *joinedSet) alone(p *pair) bool {
	if j == nil || len(p.conns) != 1 {
		return false
	}
	n := j.counts[joinedKey{index: p.conns[0].ifIndex, group: p.addr}]
	return n != nil && n.held == 1
}

// asked reports whether the kernel has answered for the family of group.
func (j *joinedSet) asked(group netip.Addr) bool { return j != nil && j.answers(group).groups }

// lost reports whether the memberships of a pair were lost, if that is known.
func (j *joinedSet) lost(p *pair) (lost, known bool) {
	if !j.asked(p.addr) || len(p.conns) == 0 {
		return false, false
	}
	sourcesKnown := j.answers(p.addr).sources
	for _, c := range p.conns {
		key := joinedKey{index: c.ifIndex, group: p.addr}
		group := j.counts[key]
		switch {
		case group == nil || group.doubted:
			return false, false
		case group.found < group.held:
			return true, true
		case len(c.sources) == 0 && group.found > group.held && (group.sourced || !sourcesKnown):
			return false, false // the others may want some sources only, and the kernel let in nothing else
		}
		for _, source := range c.sources {
			key.source = source
			n := j.counts[key]
			switch {
			case n == nil || n.doubted || !sourcesKnown:
				return false, false
			case n.found < n.held:
				return true, true
			}
		}
	}
	return false, true
}
