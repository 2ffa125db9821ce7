// The comparison of the memberships that the process holds with those that the kernel has. A membership can vanish from the
// kernel without an error or a notice: it stays in the socket's own list, and the socket receives nothing. joined_linux.go
// reads the kernel's lists.

package mcast

import (
	"net"
	"net/netip"
)

// joinedKey is a group on an interface, or a source of that group.
type joinedKey struct {
	index  int
	group  netip.Addr
	source netip.Addr // the zero Addr: the group
}

// joinedCount counts the sockets that have joined a group, or a source of it.
type joinedCount struct {
	held    int  // those of this process that follow the network
	found   int  // all of the host, as the kernel counts them
	sourced bool // of a group: sockets that are not counted in held have joined it for some sources
	doubted bool // the kernel's answer may be about another network
}

// joinedSet is a comparison. The kernel counts sockets; it does not say which ones. While held <= found, leaving and joining
// again would change no count. If found is less, some memberships of the process were lost. Then all of that group on that
// interface must be left and joined again, because what one of them drops may be counted for another.
type joinedSet struct {
	up     map[int]bool // by index: the interface is up
	counts map[joinedKey]*joinedCount
	v4, v6 joinedAnswers
}

// joinedAnswers says which files of a family were read completely.
type joinedAnswers struct{ groups, sources bool }

// Between two reads of a file the kernel keeps its place by number. So it skips an entry if one before it was removed meanwhile.
// Another program that leaves many groups can make each look skip some, but hardly the same ones in pieces of several sizes. The
// kernel returns one page at most for each read.
const joinedPiece = 32 << 10

var joinedOtherPieces = []int{3 << 10, 3500, 2700, 3900, 2900} // as long as something is missing

func newJoined(interfaces []Interface) *joinedSet {
	j := &joinedSet{up: make(map[int]bool, len(interfaces)), counts: make(map[joinedKey]*joinedCount)}
	for _, i := range interfaces {
		j.up[i.Index] = i.Flags&net.FlagUp != 0
	}
	return j
}

// hold counts a socket that has joined a group, for the given sources if there are any. Sources do not count on an interface
// that is down: the kernel does not list them.
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

// find records that the kernel counts n sockets. The largest number counts if there are several. What the process does not hold
// is ignored.
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

// believeOn doubts the answers about other interfaces than these.
func (j *joinedSet) believeOn(interfaces []Interface) {
	there := make(map[int]bool, len(interfaces))
	for _, i := range interfaces {
		there[i.Index] = true
	}
	for key, n := range j.counts {
		n.doubted = n.doubted || !there[key.index]
	}
}

// doubt doubts the answer about what is missing again although it was joined again, except for the second time, the fourth,
// the eighth and so on: it may be that of another network, or of a sandbox that has none. It takes and returns how often in
// succession each was missing. An event that explains the loss begins the count anew.
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

// alone reports whether no other socket of the process has joined the group of a pair on its interface.
func (j *joinedSet) alone(p *pair) bool {
	if j == nil || len(p.conns) != 1 {
		return false
	}
	n := j.counts[joinedKey{index: p.conns[0].ifIndex, group: p.addr}]
	return n != nil && n.held == 1
}

// asked reports whether the kernel has answered for the family of group.
func (j *joinedSet) asked(group netip.Addr) bool { return j != nil && j.answers(group).groups }

// lost reports whether the membership of a pair was lost. answered is false if the kernel does not say.
func (j *joinedSet) lost(p *pair) (lost, answered bool) {
	if !j.asked(p.addr) || len(p.conns) == 0 {
		return false, false
	}
	sources := j.answers(p.addr).sources
	for _, c := range p.conns {
		key := joinedKey{index: c.ifIndex, group: p.addr}
		group := j.counts[key]
		switch {
		case group == nil || group.doubted:
			return false, false
		case group.found < group.held:
			return true, true
		case len(c.sources) == 0 && group.found > group.held && (group.sourced || !sources):
			return false, false // the others may have joined it for some sources only
		}
		for _, source := range c.sources {
			key.source = source
			n := j.counts[key]
			switch {
			case n == nil || n.doubted || !sources:
				return false, false
			case n.found < n.held:
				return true, true
			}
		}
	}
	return false, true
}
