// Following the network: what a socket does when interfaces come, go and come back. It compares the interfaces that it tracks
// with the list of a change; watch.go says where changes come from. What both kinds of sockets share is here, and the
// receiver. The sender is in txfollow.go.

package mcast

import (
	"errors"
	"log/slog"
	"slices"
	"time"
)

// backoff says when to retry what has failed: after a second, and after each further failure in twice the time of before, up
// to a minute. The zero value is due at once.
type backoff struct {
	wait time.Duration
	next time.Time
}

const (
	backoffFirst = time.Second
	backoffLast  = time.Minute
	backoffSlack = backoffFirst / 4 // what is due within this time is tried together, with one scan
)

func (b *backoff) failed(now time.Time) {
	b.wait = min(max(2*b.wait, backoffFirst), backoffLast)
	b.next = now.Add(b.wait)
}

func (b *backoff) due(now time.Time) bool { return b.left(now) <= backoffSlack }

func (b *backoff) left(now time.Time) time.Duration { return b.next.Sub(now) }

// soonest returns the shorter of two times to wait. 0 is for ever.
func soonest(a, b time.Duration) time.Duration {
	if a == 0 || b == 0 {
		return max(a, b)
	}
	return min(a, b)
}

// lastFailure is the latest failure of something that is retried. A change of the network resets its backoff alone, so that the
// same failure is logged once.
type lastFailure struct {
	backoff
	index int // of the interface that it is about; 0: none
	text  string
}

// failed reports whether the failure differs from the one before, so that it is logged.
func (r *lastFailure) failed(index int, err error) (news bool) {
	if r.index != index {
		r.backoff = backoff{}
	}
	r.backoff.failed(time.Now())
	news = r.index != index || r.text != err.Error()
	r.index, r.text = index, err.Error()
	return news
}

// trackedInterface is an interface that a socket receives or sends on.
type trackedInterface struct {
	name string    // its first name
	ifc  Interface // as last seen
	gone bool
}

// is reports whether an interface in a list is the tracked one: it is as long as its index lives, whatever its name. It may
// have lost its memberships.
func (k *trackedInterface) is(n *Interface, change networkChange) bool {
	if n.Index != k.ifc.Index || n.guid != k.ifc.guid {
		return false
	}
	return n.Name == k.ifc.Name || !k.gone && !change.gone(n.Index) // else another interface may have the index now
}

// sharesName reports whether an interface in a list has the first name of the tracked one, which is gone, or an alternative
// name that it had when it was last seen.
func (k *trackedInterface) sharesName(n *Interface) bool {
	named := func(s string) bool { return s == n.Name || slices.Contains(n.AltNames, s) }
	return named(k.name) || slices.ContainsFunc(k.ifc.AltNames, named)
}

// successors returns what each tracked interface is in the list; nil: it is gone. An interface that lost its index is the one
// that has its first name now, or else one that shares another name with it. No two are the same interface: everything would
// be joined twice on that.
func successors(all []*trackedInterface, change networkChange) []*Interface {
	now := make([]*Interface, len(all))
	taken := make(map[int]bool)
	find := func(is func(k *trackedInterface, n *Interface) bool) {
		for i, k := range all {
			for j := range change.Interfaces {
				if n := &change.Interfaces[j]; now[i] == nil && !taken[n.Index] && is(k, n) {
					now[i], taken[n.Index] = n, true
				}
			}
		}
	}
	find(func(k *trackedInterface, n *Interface) bool { return k.is(n, change) })
	find(func(k *trackedInterface, n *Interface) bool { return n.Name == k.name })
	find((*trackedInterface).sharesName)
	return now
}

// fate is what a change means for a tracked interface.
type fate int

const (
	fateSame fate = iota // it is there as before, perhaps with other names and addresses
	fateBack             // it is there, but was gone: what was set up on it is lost
	fateLost             // it is gone
	fateAway             // it is gone, as before
)

// fate decides what a change means for k, which is now as given; nil: it is gone.
func (k *trackedInterface) fate(now *Interface, change networkChange) fate {
	switch {
	case now == nil && k.gone:
		return fateAway
	case now == nil:
		return fateLost
	case k.gone || now.Index != k.ifc.Index || change.gone(now.Index):
		return fateBack
	}
	return fateSame
}

// prepare drops the memberships that were lost or may be, for follow to join again. After an interface was away, Linux keeps
// the membership in the socket's own list. When that is dropped later, Linux takes it from another socket that has joined
// since: __ip_mc_dec_group in net/ipv4/igmp.c and __ipv6_dev_mc_dec in net/ipv6/mcast.c only count. So all sockets of the
// process drop before one of them joins again.
//
// After an overflow most of what may be lost is not. If no other socket has the group, it is joined again at once, so that the
// interface is without it for the shortest time.
func (s *RxSocket) prepare(change networkChange) (dropped bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	for _, link := range s.links {
		s.eachPair(link, func(p *pair) {
			if p.err != nil || !change.lost(&link.ifc, p) {
				return
			}
			dropped = true
			p.leave()
			if change.Overflow && !change.gone(link.ifc.Index) && change.joined.alone(p) {
				if s.rejoin(p); p.err != nil {
					s.log(slog.LevelWarn, "cannot join", p, p.err)
				}
			}
		})
	}
	return dropped
}

// holds adds the memberships that the socket holds to j.
func (s *RxSocket) holds(j *joinedSet) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	for p := range s.pairs {
		if p.err != nil || p.left {
			continue
		}
		for _, c := range p.conns {
			j.hold(c.ifIndex, p.addr, c.sources)
		}
	}
}

// follow brings the pairs in line with the interfaces there are now. After a change it tries every pair that is not joined.
// It asks for a retry if some pair cannot be joined although its interface is there: the cause may pass without a notice.
func (s *RxSocket) follow(change networkChange) (retry time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return 0
	}
	if !change.Unchanged {
		s.silent.backoff, s.unmoved.backoff = backoff{}, backoff{}
		for p := range s.pairs {
			p.retry = backoff{}
		}
	}
	all := make([]*trackedInterface, len(s.links))
	for i, link := range s.links {
		all[i] = &link.trackedInterface
	}
	for i, now := range successors(all, change) {
		s.followLink(s.links[i], now, change)
	}
	if s.all {
		s.followNew(change)
		retry = s.followReplies()
	}
	retry = soonest(retry, s.followVRF())
	now := time.Now()
	for p := range s.pairs {
		if p.err != nil && !p.link.gone && !p.link.ifc.isPort() {
			retry = soonest(retry, max(p.retry.left(now), 1))
		}
	}
	return retry
}

// pairs yields the pairs of all groups.
func (s *RxSocket) pairs(yield func(*pair) bool) {
	for _, g := range s.groups {
		for _, p := range g.pairs {
			if !yield(p) {
				return
			}
		}
	}
}

// followNew forgets interfaces that are gone, and joins on those that are new.
func (s *RxSocket) followNew(change networkChange) {
	for _, g := range s.groups {
		s.letGo(g)
	}
	s.links = slices.DeleteFunc(s.links, func(link *rxLink) bool { return link.gone })
	for _, ifc := range change.Interfaces {
		has := slices.ContainsFunc(s.links, func(link *rxLink) bool { return link.ifc.Index == ifc.Index })
		if !has && joinsByItself(&ifc) {
			s.links = append(s.links, s.newLink(ifc))
		}
	}
	for _, link := range s.links {
		s.addPairs(link)
	}
}

// letGo forgets the pairs of a group whose interface is gone, but not what they have received.
func (s *RxSocket) letGo(g *rxGroup) {
	g.pairs = slices.DeleteFunc(g.pairs, func(p *pair) bool {
		if p.link.gone {
			g.orphans = append(g.orphans, p.retired...)
		}
		return p.link.gone
	})
	s.m.update(func() {
		g.orphans = slices.DeleteFunc(g.orphans, func(c *conn) bool { return !s.m.holds(c) })
	})
	excess := max(0, len(g.orphans)-maxOrphans)
	for _, c := range g.orphans[:excess] {
		s.m.remove(c)
	}
	g.orphans = slices.Delete(g.orphans, 0, excess)
}

// maxOrphans is how many OS sockets of interfaces that are gone a group keeps because nobody reads what they have received. It
// bounds them if interfaces come and go for ever.
const maxOrphans = 16

// followLink follows one interface, which is now as given; nil: it is gone. Without named interfaces, one that has become a
// port is treated as gone.
func (s *RxSocket) followLink(link *rxLink, now *Interface, change networkChange) {
	port := ""
	if now != nil && s.all && now.isPort() {
		now, port = nil, now.masterName
	}
	switch link.fate(now, change) {
	case fateAway:
		return
	case fateLost:
		s.lose(link, port)
		return
	}
	before := link.ifc
	link.ifc, link.gone = *now, false
	steps := make(map[*pair]pairStep)
	s.eachPair(link, func(p *pair) { steps[p] = p.next(&before, change.Lost, time.Now()) })
	s.eachPair(link, func(p *pair) { // before any of them joins: pairs that share an OS socket need a new one together
		if steps[p] == pairReopen {
			s.retire(p)
		}
	})
	s.followOwn(link, &before) // after the retired, which received what was sent from the addresses of before
	s.eachPair(link, func(p *pair) {
		if steps[p] != pairKeep {
			s.carryOut(p, steps[p], &change)
		}
	})
}

// lose marks an interface as gone, or as a port of the named master.
func (s *RxSocket) lose(link *rxLink, master string) {
	link.gone = true
	s.eachPair(link, func(p *pair) {
		s.retire(p)
		p.err = p.goneError()
		if master == "" {
			s.log(slog.LevelWarn, "interface is gone", p, nil)
		} else {
			s.log(slog.LevelInfo, "interface is a port now", p, nil, slog.String("master", master))
		}
	})
}

// pairStep is what follow does with a pair whose interface is there.
type pairStep int

const (
	pairKeep   pairStep = iota
	pairRejoin          // the membership was dropped; its OS sockets are good
	pairReopen          // its OS sockets are of no use anymore
	pairJoin            // it is not joined, and it is time to try again
)

// next decides what to do with a pair. Its link has the interface as it is now.
func (p *pair) next(before *Interface, lost map[watchAddr]bool, now time.Time) pairStep {
	ifc := &p.link.ifc
	switch {
	case p.err != nil && p.retry.due(now):
		return pairJoin
	case p.err != nil:
		return pairKeep
	case ifc.Index != before.Index || ifc.isPort() || slices.ContainsFunc(p.conns, func(c *conn) bool { return c.stale(ifc, lost) }):
		return pairReopen
	case p.left:
		return pairRejoin
	}
	return pairKeep
}

// carryOut does what next has decided. A pair to reopen is retired already.
func (s *RxSocket) carryOut(p *pair, step pairStep, change *networkChange) {
	was := p.err
	if step == pairRejoin {
		s.rejoin(p)
	} else {
		s.join(p)
	}
	p.tried(time.Now())
	switch {
	case p.err != nil && (was == nil || was.Error() != p.err.Error()):
		s.log(slog.LevelWarn, "cannot join", p, p.err)
	case p.err == nil && (was != nil || !change.Overflow || change.joined.asked(p.addr)): // else it may not have been lost
		s.log(slog.LevelInfo, "joined again", p, nil)
	}
}

// followOwn has the OS sockets of link discard what this host sends from the addresses that the interface has now. A reader
// waits neither for the comparison nor for all sockets at once.
func (s *RxSocket) followOwn(link *rxLink, before *Interface) {
	had, has := s.own(before), s.own(&link.ifc)
	if slices.Equal(had, has) {
		return
	}
	link.own = newAddrSet(has)
	lost := newAddrSet(slices.DeleteFunc(had, link.own.has))
	var conns []*conn
	s.eachPair(link, func(p *pair) { conns = append(conns, p.conns...) })
	for some := range slices.Chunk(conns, 64) {
		s.m.update(func() {
			for _, c := range some {
				s.m.setOwn(c, link.own, lost)
			}
		})
	}
}

// tried sets the next retry after an attempt to join.
func (p *pair) tried(now time.Time) {
	if p.err == nil {
		p.retry = backoff{}
	} else {
		p.retry.failed(now)
	}
}

// rejoin renews the memberships of a pair whose interface still has its index. Its sockets stay, and what they have received.
// If the system takes fewer sources for each socket than before, more sockets replace them.
func (s *RxSocket) rejoin(p *pair) {
	p.left = false
	for _, c := range p.conns {
		if err := p.rejoin(c); err != nil {
			s.retire(p)
			if p.err = p.link.ifc.withGone(err); errors.Is(err, errFewerSources) {
				s.join(p)
			}
			return
		}
	}
}

// errFewerSources is the cause of a membership that cannot be renewed with the sockets it has.
var errFewerSources = errors.New("the system takes fewer sources for a socket than before")

// retire takes the sockets from a pair. They may still deliver what they have received, but receive nothing more: a
// membership can come to life again with the index of its interface, and by then the pair has other sockets. Those that were
// retired before are closed.
func (s *RxSocket) retire(p *pair) {
	for _, c := range p.retired {
		s.m.remove(c)
	}
	p.leave()
	for _, c := range p.conns {
		s.m.retire(c)
	}
	p.retired, p.conns, p.left = p.conns, nil, false
}

// leave drops the memberships of a pair, and keeps its sockets.
func (p *pair) leave() {
	for _, c := range p.conns {
		c.leave()
	}
	p.left = true
}

// addPairs joins the groups that link can have, and has not.
func (s *RxSocket) addPairs(link *rxLink) {
	for _, g := range s.groups {
		if !link.ifc.hasFamily(g.addr) || slices.ContainsFunc(g.pairs, func(p *pair) bool { return p.link == link }) {
			continue
		}
		p := &pair{rxGroup: g, link: link}
		g.pairs = append(g.pairs, p)
		s.join(p)
		p.tried(time.Now())
		if p.err == nil {
			s.log(slog.LevelInfo, "joined", p, nil)
		} else {
			s.log(slog.LevelWarn, "cannot join", p, p.err)
		}
	}
}

// followReplies makes replies possible to families that an interface got later. It returns when to retry.
func (s *RxSocket) followReplies() (retry time.Duration) {
	now := time.Now()
	if !s.silent.due(now) {
		return s.silent.left(now)
	}
	for _, g := range s.groups {
		if len(g.pairs) == 0 {
			continue
		}
		if err := s.replies.allow(g.addr); err != nil {
			if s.silent.failed(0, err) {
				s.log(slog.LevelWarn, "cannot reply", g.pairs[0], err)
			}
			return s.silent.left(now)
		}
	}
	s.silent = lastFailure{}
	return 0
}

// followVRF makes replies leave through the VRF that all interfaces of the socket belong to now. It returns when to retry.
func (s *RxSocket) followVRF() (retry time.Duration) {
	now := time.Now()
	if !s.unmoved.due(now) {
		return s.unmoved.left(now)
	}
	vrf := s.vrf()
	err := s.replies.moveTo(vrf)
	if err == nil {
		s.unmoved = lastFailure{}
		return 0
	}
	if s.unmoved.failed(vrf, err) {
		s.logger.log(slog.LevelWarn, "cannot reply in the VRF", Interface{}, &OpError{Op: "open", Err: err, Hint: openHint(err)})
	}
	return s.unmoved.left(now)
}

// eachPair calls f for the pairs of all groups on link.
func (s *RxSocket) eachPair(link *rxLink, f func(*pair)) {
	for p := range s.pairs {
		if p.link == link {
			f(p)
		}
	}
}

func (s *RxSocket) log(level slog.Level, what string, p *pair, err error, more ...slog.Attr) {
	s.logger.log(level, what, p.link.ifc, err, append(more, slog.String("group", p.addr.String()))...)
}

// tryFollow follows the network. It logs if that is impossible, as on Android, which refuses netlink to applications, or if
// changes are found late. A lack of resources is an error.
func tryFollow(l *logger, one *watchFollower) (stop, retry func(), err error) {
	if err := processWatch.add(one); isExhausted(err) {
		return nil, nil, err
	} else if err != nil {
		l.log(slog.LevelWarn, "cannot follow the network", Interface{}, err)
		return func() {}, func() {}, nil
	}
	if one.polls != nil {
		l.log(slog.LevelWarn, "follows the network by looking every few seconds", Interface{}, one.polls)
	}
	return one.stop, one.retry, nil
}
