// Making up the books: what the receivers say of themselves is compared with the model, and what has come with what was
// sent.

package soak

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"time"

	"github.com/go-multicast/mcast"
)

// await waits until wrong finds nothing wrong, and says what it found in the end.
func await(wrong func() string) (text string) {
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		if text = wrong(); text == "" || time.Now().After(end) {
			return text
		}
	}
}

// steady says that nothing has happened to what brings a group to a receiver by a wire since the last time.
func (l *life) steady(r *receiver, w, g int) bool {
	if !l.wires[w].ok() || l.states[w].shaky {
		return false
	}
	tx := l.txOf(g)
	return !r.wants(w, g, fromHost) || on(tx.links, w) && !tx.reopened
}

// compare says what is wrong with what a receiver says of itself; nothing: "".
func (r *receiver) compare() string {
	all := r.rx.Memberships()
	joined := make(map[[2]int]bool)
	listed := 0
	for _, m := range all {
		g := slices.Index(groups, m.Group)
		sources, is := r.groups[g]
		switch {
		case !is:
			return fmt.Sprintf("%s is listed", m.Group)
		case !same(m.Sources, sources):
			return fmt.Sprintf("%s is joined for %v, want %v", m.Group, m.Sources, sources)
		case len(sources) == 0 && !same(m.Blocked, family(r.cfg.Blocked, m.Group)):
			return fmt.Sprintf("%s is joined but for %v, want %v", m.Group, m.Blocked, family(r.cfg.Blocked, m.Group))
		case m.Joined != (m.Err == nil):
			return fmt.Sprintf("%s is joined %v with error %v", m.Group, m.Joined, m.Err)
		}
		listed++
		if !m.Joined {
			continue
		}
		w := r.wire
		if r.near() {
			if w = r.byIndex(m.IfIndex); w < 0 || !r.life.wires[w].there {
				return fmt.Sprintf("%s is joined on %d, and there is no such interface", m.Group, m.IfIndex)
			}
			if name := r.life.wires[w].veth.Name(); m.Interface != name {
				return fmt.Sprintf("%s is joined on %s, want %s", m.Group, m.Interface, name)
			}
		}
		if joined[[2]int{w, g}] {
			return fmt.Sprintf("%s is joined twice on wire %d", m.Group, w)
		}
		joined[[2]int{w, g}] = true
	}
	if want := len(r.links) * len(r.groups); r.links != nil && listed != want {
		return fmt.Sprintf("%d pairs, want %d", listed, want)
	}
	for w, x := range r.life.wires {
		if x.there && !x.whole() || !r.near() && (w != r.wire || !x.ok()) {
			continue // it depends on what the receiver has seen
		}
		for g := range groups {
			_, want := r.groups[g]
			want = want && x.there && on(r.links, w)
			if joined[[2]int{w, g}] != want {
				return fmt.Sprintf("%s on wire %d: joined %v, want %v", groups[g], w, !want, want)
			}
		}
	}
	return ""
}

// same says that two lists of addresses have the same elements.
func same(a, b []netip.Addr) bool {
	a, b = slices.Clone(a), slices.Clone(b)
	slices.SortFunc(a, netip.Addr.Compare)
	slices.SortFunc(b, netip.Addr.Compare)
	return slices.Equal(slices.Compact(a), slices.Compact(b))
}

// family returns those of all that are of the family of g.
func family(all []netip.Addr, g netip.Addr) []netip.Addr {
	return slices.DeleteFunc(slices.Clone(all), func(a netip.Addr) bool { return a.Is4() != g.Is4() })
}

// check makes up the books, and begins new ones.
func (l *life) check() {
	l.gate.Lock() // waits until everything that was sent has arrived
	defer l.gate.Unlock()
	l.hurry.Store(true)
	defer l.hurry.Store(false)
	var lost [wireCount]bool
	for w, s := range l.states {
		if l.wires[w].there {
			now := l.dropped(l.wires[w])
			if lost[w] = !s.shaky && now > s.dropped; lost[w] {
				l.counts.backlog.Add(now - s.dropped)
			}
			s.dropped = now
		}
	}
	all := l.all()
	for _, r := range all {
		r.markAll(lost)
	}
	for _, r := range all {
		if wrong := await(func() string { return r.balance(lost) }); wrong != "" {
			l.problem(r.stuck, r.name, "%s (%s): %s", r.name, ways[r.way], wrong)
		}
	}
	for _, r := range all {
		r.checkOrder()
		r.checkStrangers()
	}
	for _, s := range l.states {
		s.shaky, s.readdressed = false, false
	}
	for i := range l.txs {
		l.txs[i].reopened = false
	}
	for w, s := range l.states {
		s.shaky = !l.wires[w].ok()
		s.excused[fromPeer].Store(s.shaky)
		s.excused[fromHost].Store(s.shaky || !on(l.txs[0].links, w) || !on(l.txs[1].links, w))
	}
	l.hostSender.excused.Store(false)
	for _, r := range all {
		r.begin()
	}
}

// numbered are a receiver's memberships by wire and group.
func (r *receiver) numbered() map[[2]int]mcast.Membership {
	all := make(map[[2]int]mcast.Membership)
	for _, m := range r.rx.Memberships() {
		w := r.wire
		if r.near() {
			w = r.byIndex(m.IfIndex)
		}
		all[[2]int{w, slices.Index(groups, m.Group)}] = m
	}
	return all
}

// account is what there is to say of a pair since its books were begun.
type account struct {
	sent, own, missing, dropped uint64 // own: of this host, which reach the socket and are refused
}

func (r *receiver) account(w, g int, m mcast.Membership) (a account) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := &r.pairs[w][g]
	for from := range senderCount {
		all := span{p.from[from], r.sequence(w, g, from).next.Load()}
		switch {
		case r.wants(w, g, from):
			a.sent += all.end - all.first
			a.missing += all.end - all.first - p.tracks[from].count(all)
		case r.reaches(w, g, from):
			a.own += all.end - all.first
		}
	}
	a.dropped = m.Dropped - p.before.Dropped
	return a
}

// balance says what is yet to come; nothing: "". What is wrong for good it reports.
func (r *receiver) balance(lost [wireCount]bool) (open string) {
	all := r.numbered()
	for w := range wireCount {
		for g := range groups {
			p := &r.pairs[w][g]
			if !p.must || p.done {
				continue
			}
			if lost[w] {
				p.done = true // what is missing is missing to everybody
				r.counts.voided.Add(1)
				continue
			}
			m := all[[2]int{w, g}]
			a := r.account(w, g, m)
			r.mu.Lock()
			unread := m.Packets-p.before.Packets != p.read-p.readBefore
			r.mu.Unlock()
			switch {
			case !m.Joined:
				open = fmt.Sprintf("%s on wire %d is not joined: %v", groups[g], w, m.Err)
			case a.missing > a.dropped:
				open = fmt.Sprintf("%s on wire %d: of %d sent, %d are missing, and the kernel says it dropped %d:%s",
					groups[g], w, a.sent, a.missing, a.dropped, r.missing(w, g))
			case p.exact && a.dropped > a.missing+a.own:
				open = fmt.Sprintf("%s on wire %d: of %d sent, %d are missing, and the kernel says it dropped %d",
					groups[g], w, a.sent, a.missing, a.dropped)
			case p.counted && unread:
				open = fmt.Sprintf("%s on wire %d: Packets has grown by %d, and %d were read",
					groups[g], w, m.Packets-p.before.Packets, p.read-p.readBefore)
			default:
				p.done = true
				r.counts.checked.Add(a.sent)
				r.counts.dropped.Add(a.dropped)
				continue
			}
			r.stuck = w
		}
	}
	return open
}

// missing lists what has not come.
func (r *receiver) missing(w, g int) (text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := &r.pairs[w][g]
	for from := range senderCount {
		if r.wants(w, g, from) {
			end := r.sequence(w, g, from).next.Load()
			text += fmt.Sprintf(" from the %s [%d, %d):%s;", [...]string{"peer", "host"}[from], p.from[from], end,
				p.tracks[from].list(span{p.from[from], end}, false))
		}
	}
	return text
}

// runDatagrams is how many datagrams the kernel takes as one when they were sent as a run.
const runDatagrams = 64

// markAll makes up the books of a receiver that has the kernel hand over runs. A run that is dropped counts as one, so
// what is yet to come cannot be told from what was lost. But when a later datagram has come, nothing is.
func (r *receiver) markAll(lost [wireCount]bool) {
	if !r.cfg.Coalesce {
		return
	}
	all := r.numbered()
	for w := range wireCount {
		for g := range groups {
			p := &r.pairs[w][g]
			if !p.must || lost[w] || all[[2]int{w, g}].Dropped == p.before.Dropped ||
				!r.wants(w, g, fromPeer) && !r.wants(w, g, fromHost) {
				continue
			}
			if wrong := r.mark(w, g); wrong != "" {
				r.problem(w, r.name, "%s (%s, Coalesce): %s on wire %d: %s", r.name, ways[r.way], groups[g], w, wrong)
			}
			p.done = true
		}
	}
}

func (r *receiver) mark(w, g int) (wrong string) {
	from, s := fromPeer, r.peers[w]
	if !r.wants(w, g, fromPeer) {
		from, s = fromHost, r.hostSender
	}
	p := &r.pairs[w][g]
	var a account
	if wrong := await(func() string {
		before := r.numbered()[[2]int{w, g}].Dropped
		serial := s.pinned(g)
		return await(func() string {
			m := r.numbered()[[2]int{w, g}]
			r.mu.Lock()
			has := p.tracks[from].has(serial)
			r.mu.Unlock()
			if !has && m.Dropped == before {
				return "the datagram at the end is missing"
			}
			a = r.account(w, g, m)
			return ""
		})
	}); wrong != "" {
		return wrong
	}
	if p.exact && a.dropped > a.missing+a.own || a.missing > a.dropped*runDatagrams {
		return fmt.Sprintf("of %d sent, %d are missing, and the kernel says it dropped %d, or as many runs",
			a.sent, a.missing, a.dropped)
	}
	r.counts.checked.Add(a.sent)
	r.counts.dropped.Add(a.missing)
	return ""
}

// checkOrder looks at whether datagrams of a steady stream came in order, where one goroutine reads.
func (r *receiver) checkOrder() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for w := range r.pairs {
		for g := range r.pairs[w] {
			p := &r.pairs[w][g]
			for from := range p.tracks {
				for _, s := range p.tracks[from].disorder {
					if r.way != byCrowd && p.must && s.first >= p.from[from] {
						r.problem(w, r.name, "%s (%s): %s: %d came after %d",
							r.name, ways[r.way], streamName(w, g, from), s.first, s.end)
					}
				}
			}
		}
	}
}

// checkStrangers looks for datagrams that should not have come.
func (r *receiver) checkStrangers() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for w := range r.pairs {
		for g := range r.pairs[w] {
			for from := range senderCount {
				k := &r.pairs[w][g].tracks[from]
				if s, found := k.unexpected(r.sequence(w, g, from).next.Load()); found {
					r.problem(w, r.name, "%s (%s): %s: of [%d, %d) these should not have come:%s; what might: %v",
						r.name, ways[r.way], streamName(w, g, from), s.first, s.end, k.list(s, true), k.may)
				}
			}
		}
	}
}

// begin begins new books: all that is joined is known by now, and nothing is under way.
func (r *receiver) begin() {
	for g := range groups {
		r.refuse(g)
		r.allow(g)
	}
	all := r.numbered()
	r.mu.Lock()
	defer r.mu.Unlock()
	for w := range r.pairs {
		for g := range r.pairs[w] {
			p := &r.pairs[w][g]
			for from := range senderCount {
				next := r.sequence(w, g, from).next.Load()
				p.tracks[from].forget(p.start[from]) // not next: something may still be in a socket that is gone
				p.start[from], p.from[from] = next, next
			}
			m, joined := all[[2]int{w, g}]
			own := r.reaches(w, g, fromHost) && !r.wants(w, g, fromHost)
			p.counted = p.must && p.exact && p.done && !own // then nothing was on its way from the socket to p.read
			p.must = joined && m.Joined && on(r.links, w) && r.steady(r, w, g)
			p.exact, p.done = true, false
			p.before, p.readBefore = m, p.read
		}
	}
}

// resources are what a life must give back.
type resources struct {
	descriptors, goroutines int
	heap                    uint64 // bytes that are in use
	tables                  []string
}

func (n *network) resources() (r resources) {
	r.descriptors = descriptors(n.t)
	r.goroutines = runtime.NumGoroutine()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	r.heap = m.HeapAlloc
	r.tables = n.tables()
	return r
}

// settled are the resources when the markers of all hosts are where they belong.
func (n *network) settled() (r resources) {
	all := []*settler{n.told}
	for _, w := range n.wires {
		all = append(all, w.told)
	}
	settle(all)
	group := markerGroup.As4()
	if wrong := await(func() string {
		r = n.resources()
		for i := range all {
			line := fmt.Sprintf("host %d: igmp: marker %08X", i, binary.NativeEndian.Uint32(group[:]))
			if !slices.Contains(r.tables, line) {
				return line + " is missing"
			}
		}
		return ""
	}); wrong != "" {
		n.t.Fatal(wrong)
	}
	return r
}

// memorySlack is how much more memory may be in use than at the beginning, in bytes. What is lost again and again will
// exceed it.
const memorySlack = 4 << 20

// same says what there is that was not there before.
func (r resources) same(now resources) error {
	var wrong error
	if now.descriptors > r.descriptors {
		wrong = errors.Join(wrong, fmt.Errorf("%d descriptors, before %d", now.descriptors, r.descriptors))
	}
	if now.goroutines > r.goroutines {
		stacks := make([]byte, 1<<20)
		wrong = errors.Join(wrong, fmt.Errorf("%d goroutines, before %d:\n%s",
			now.goroutines, r.goroutines, stacks[:runtime.Stack(stacks, true)]))
	}
	if now.heap > r.heap+memorySlack {
		wrong = errors.Join(wrong, fmt.Errorf("%d bytes, before %d", now.heap, r.heap))
	}
	for _, line := range now.tables {
		if !slices.Contains(r.tables, line) {
			wrong = errors.Join(wrong, fmt.Errorf("left behind: %s", line))
		}
	}
	for _, line := range r.tables {
		if !slices.Contains(now.tables, line) {
			wrong = errors.Join(wrong, fmt.Errorf("gone: %s", line))
		}
	}
	return wrong
}
