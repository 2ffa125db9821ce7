// Following the network: what a socket does by itself when interfaces come, go and come back. The watcher in
// watch.go says that something has changed; everything here compares what is with what should be.

package mcast

import (
	"cmp"
	"errors"
	"log/slog"
	"slices"
	"time"
)

// backoff says when to try again what has failed: after a second, and after each further failure in twice the time of
// before, up to a minute. The zero value is due at once.
type backoff struct {
	wait time.Duration
	next time.Time
}

const (
	backoffFirst = time.Second
	backoffLast  = time.Minute
	backoffSlack = backoffFirst / 4 // what is due within this time is tried together, for the sake of one scan
)

func (b *backoff) failed(now time.Time) {
	b.wait = min(max(2*b.wait, backoffFirst), backoffLast)
	b.next = now.Add(b.wait)
}

func (b *backoff) due(now time.Time) bool { return b.left(now) <= backoffSlack }

func (b *backoff) left(now time.Time) time.Duration { return b.next.Sub(now) }

// soonest returns the shorter of two times to wait, of which 0 is for ever.
func soonest(a, b time.Duration) time.Duration {
	if a == 0 || b == 0 {
		return max(a, b)
	}
	return min(a, b)
}

// known is an interface as a socket knows it.
type known struct {
	name string    // its first name
	ifc  Interface // as last seen
	gone bool
}

// is reports whether an interface in a scan is the one that k was: it is as long as its index lives, whatever it is
// called. It may have lost its memberships.
func (k *known) is(n *Interface, change networkChange) bool {
	if n.Index != k.ifc.Index || n.guid != k.ifc.guid {
		return false
	}
	return n.Name == k.ifc.Name || !k.gone && !change.gone(n.Index) // else the index may be another's now
}

// successor reports whether an interface in a scan shares a name with k, which is gone: its first name, or an
// alternative name that it had when it was last seen.
func (k *known) successor(n *Interface) bool {
	named := func(s string) bool { return s == n.Name || slices.Contains(n.AltNames, s) }
	return named(k.name) || slices.ContainsFunc(k.ifc.AltNames, named)
}

// successors returns what each interface is in a scan; nil: it is gone. An interface that lost its index is the one that
// has its first name now, or else the one that shares another name with it. It is never one that is another of all already,
// since everything is joined on that.
func successors(all []*known, change networkChange) []*Interface {
	now := make([]*Interface, len(all))
	taken := make(map[int]bool)
	find := func(is func(k *known, n *Interface) bool) {
		for i, k := range all {
			for j := range change.Interfaces {
				if n := &change.Interfaces[j]; now[i] == nil && !taken[n.Index] && is(k, n) {
					now[i], taken[n.Index] = n, true
				}
			}
		}
	}
	find(func(k *known, n *Interface) bool { return k.is(n, change) })
	find(func(k *known, n *Interface) bool { return n.Name == k.name })
	find(func(k *known, n *Interface) bool { return k.successor(n) })
	return now
}

// prepare drops the memberships that were lost or may be, for follow to renew. Linux keeps one in the socket's own list after
// the interface was away, and takes it from another socket that has joined since when it is dropped later: __ip_mc_dec_group in
// net/ipv4/igmp.c and __ipv6_dev_mc_dec in net/ipv6/mcast.c only count. So all sockets of the process do it before one of
// them joins again.
//
// After an overflow most of what may be lost is not. Where no other socket has the group, it is joined again at once, so that
// the interface is without it for the shortest time.
func (s *RxSocket) prepare(change networkChange) (dropped bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	for _, link := range s.links {
		s.eachPair(link, func(p *pair) {
			if p.err == nil && change.lost(&link.ifc, p) {
				p.leave()
				if change.Overflow && !change.gone(link.ifc.Index) && change.joined.alone(p) {
					if s.rejoin(p); p.err != nil {
						s.log(slog.LevelWarn, "cannot join", p, p.err)
					}
				}
				dropped = true
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
	for _, g := range s.groups {
		for _, p := range g.pairs {
			if p.err != nil || p.left {
				continue
			}
			for _, c := range p.conns {
				j.hold(c.ifIndex, g.addr, c.sources)
			}
		}
	}
}

// losses are what events can take from an interface that keeps its index.
//
// Linux sets the sources of memberships aside, with the report that they were left, when an interface or IPv6 on it goes
// down. It has them no more afterwards if it has disposed of that report, which it does when anything is joined or left there
// in the meantime: igmpv3_add_delrec, igmpv3_send_cr and igmpv3_del_delrec in net/ipv4/igmp.c; net/ipv6/mcast.c is alike.
var losses = [...]struct {
	event       watchEvents
	v4, v6      bool // from which family
	sourcesOnly bool // memberships of all sources stay
}{
	{event: eventGone, v4: true, v6: true},
	{event: eventMTU4, v4: true},
	{event: eventMTU6, v6: true},
	{event: eventDown, v4: true, v6: true, sourcesOnly: !downLoses},
	{event: eventIPv6, v6: true, sourcesOnly: true},
}

// lost reports whether the memberships of a pair were lost on an interface that still has its index. What the kernel says
// decides. Where it says nothing, they count as lost if an event may have taken them. An interface that was gone has lost
// them for sure; that others have the group there now changes nothing.
func (change *networkChange) lost(ifc *Interface, p *pair) bool {
	if change.gone(ifc.Index) {
		return true
	}
	if lost, known := change.joined.lost(p); known {
		return lost
	}
	events := change.Events[ifc.Index]
	if change.Overflow && !slices.ContainsFunc(change.Interfaces, func(now Interface) bool {
		return now.Index == ifc.Index && now.since6 == ifc.since6 && now.since6 != 0
	}) {
		events = ^watchEvents(0) // any
	}
	for _, l := range losses {
		family := l.v4 && p.addr.Is4() || l.v6 && p.addr.Is6()
		if events&l.event != 0 && family && (len(p.sources) > 0 || !l.sourcesOnly) {
			return true
		}
	}
	return false
}

// follow brings the table in line with the interfaces there are now. It asks to be called again if some pair cannot be
// joined though its interface is there: what is in the way may pass without a notice. After a change every pair is tried at
// once.
func (s *RxSocket) follow(change networkChange) (again time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return 0
	}
	if !change.Unchanged {
		for _, g := range s.groups {
			for _, p := range g.pairs {
				p.retry = backoff{}
			}
		}
		s.silent = backoff{}
	}
	all := make([]*known, len(s.links))
	for i, link := range s.links {
		all[i] = &link.known
	}
	for i, now := range successors(all, change) {
		s.followLink(s.links[i], now, change)
	}
	if s.all {
		s.followNew(change)
		again = s.followReplies()
	}
	if err := s.replies.moveTo(s.vrf()); err != nil {
		s.logger.log(slog.LevelWarn, "cannot reply in the VRF", Interface{}, err)
	}
	now := time.Now()
	for _, g := range s.groups {
		for _, p := range g.pairs {
			if p.err != nil && !p.link.gone && !p.link.ifc.isPort() {
				again = soonest(again, max(p.retry.left(now), 1))
			}
		}
	}
	return again
}

// followNew lets interfaces go that are gone, and joins on those that are new.
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

// maxOrphans is how many OS sockets of interfaces that are gone a group may have because nobody reads what they have
// received, if interfaces come and go for ever.
const maxOrphans = 16

// followLink looks at one interface, which is now as given; nil: it is gone. Without named interfaces, one that has become a
// port is let go as if it were.
func (s *RxSocket) followLink(link *rxLink, found *Interface, change networkChange) {
	before := link.ifc
	if found == nil || s.all && found.isPort() {
		if !link.gone {
			link.gone = true
			s.eachPair(link, func(p *pair) {
				s.retire(p)
				p.err = p.goneError()
				if found == nil {
					s.log(slog.LevelWarn, "interface is gone", p, nil)
				} else {
					s.log(slog.LevelInfo, "interface is a port now", p, nil, slog.String("master", found.masterName))
				}
			})
		}
		return
	}
	now := *found
	link.ifc, link.gone = now, false
	stale := make(map[*pair]bool) // retired before any of them joins: where pairs share an OS socket, they need a new one
	s.eachPair(link, func(p *pair) {
		if p.err == nil && (now.Index != before.Index || now.isPort() || slices.ContainsFunc(p.conns, func(c *conn) bool { return c.stale(&now, change.Lost) })) {
			stale[p] = true
			s.retire(p)
		}
	})
	s.followOwn(link, &before) // after the retired, which received what was sent from the addresses of before
	s.eachPair(link, func(p *pair) {
		was := p.err
		switch {
		case p.err != nil && !p.retry.due(time.Now()):
			return
		case p.err != nil, stale[p]:
			s.join(p)
		case p.left:
			s.rejoin(p)
		default:
			return
		}
		p.tried(time.Now())
		if p.err != nil {
			if was == nil || was.Error() != p.err.Error() {
				s.log(slog.LevelWarn, "cannot join", p, p.err)
			}
		} else if was != nil || !change.Overflow || change.joined.asked(p.addr) { // else it may not have been lost
			s.log(slog.LevelInfo, "joined again", p, nil)
		}
	})
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

// tried follows an attempt to join.
func (p *pair) tried(now time.Time) {
	if p.err == nil {
		p.retry = backoff{}
	} else {
		p.retry.failed(now)
	}
}

// rejoin renews the memberships of a pair whose interface still has its index. Its sockets stay, and what they have
// received, unless the system takes fewer sources for each socket than before: then more sockets take their place.
func (s *RxSocket) rejoin(p *pair) {
	p.left = false
	for _, c := range p.conns {
		if err := p.rejoin(c); err != nil {
			s.retire(p)
			if p.err = err; errors.Is(err, errFewerSources) {
				s.join(p)
			}
			return
		}
	}
}

// errFewerSources is the cause of a membership that cannot be renewed with the sockets it has.
var errFewerSources = errors.New("the system takes fewer sources for a socket than before")

// retire parts a pair from its sockets, which may still deliver what they have received, but receive nothing more: a
// membership can come to life again with the index of its interface, and its pair has others by then. Of those that it
// was parted from before, it is time.
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

// addPairs joins the groups that a link can have, and has not.
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

// followReplies makes replies to families possible that an interface has had since. It returns when to try again.
func (s *RxSocket) followReplies() (again time.Duration) {
	now := time.Now()
	if s.silent.wait > 0 && !s.silent.due(now) {
		return s.silent.left(now)
	}
	for _, g := range s.groups {
		if len(g.pairs) == 0 {
			continue
		}
		if err := s.replies.allow(g.addr); err != nil {
			if s.silent.wait == 0 {
				s.log(slog.LevelWarn, "cannot reply", g.pairs[0], err)
			}
			s.silent.failed(now)
			return s.silent.left(now)
		}
	}
	s.silent = backoff{}
	return 0
}

func (s *RxSocket) eachPair(link *rxLink, f func(*pair)) {
	for _, g := range s.groups {
		for _, p := range g.pairs {
			if p.link == link {
				f(p)
			}
		}
	}
}

func (s *RxSocket) log(level slog.Level, what string, p *pair, err error, more ...slog.Attr) {
	s.logger.log(level, what, p.link.ifc, err, append(more, slog.String("group", p.addr.String()))...)
}

// follow makes the sender's sockets send by the interfaces as they are now. The sockets stay, and so do their
// ports: on Unix they are bound to no interface, only directed to one.
func (t *TxSocket) follow(change networkChange) (again time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed.Load() {
		return 0
	}
	t.closeRetired() // a write that is still in one goes on in another
	links := slices.Clone(*t.links.Load())
	if !change.Unchanged {
		t.opening = nil
		for _, l := range links {
			l.retry.backoff, l.moving.backoff, l.unsourced = backoff{}, backoff{}, backoff{}
		}
		t.unrouted = backoff{}
	}
	if t.cfg.Interfaces == nil && t.asks(links, &change) {
		links = t.followDefault(links, change)
	}
	for i, now := range t.successors(links, change) {
		l := links[i]
		switch {
		case now == nil && l.gone:
			l.retry.backoff = backoff{} // there is nothing to try
			continue
		case now == nil:
			t.logger.log(slog.LevelWarn, "interface is gone", l.ifc, nil)
			links[i] = l.as(known{l.name, l.ifc, true})
			continue
		case l.gone || now.Index != l.ifc.Index || change.gone(now.Index) || l.unbound(now):
			if !l.retry.due(time.Now()) {
				links[i] = l.as(known{l.name, l.ifc, true})
				continue
			}
			anew, err := t.direct(l, now)
			if err != nil {
				if l.retry.failed(now.Index, err) {
					t.logger.log(slog.LevelWarn, "cannot send by the interface that came back", *now, err)
				}
				links[i] = l.as(known{l.name, l.ifc, true})
				continue
			}
			t.logger.log(slog.LevelInfo, "sends again", *now, nil)
			l = anew
			l.retry = txRetry{}
		}
		links[i] = l.as(known{l.name, *now, false})
	}
	for _, l := range links {
		if !l.gone {
			t.followSource(l)
		}
	}
	t.links.Store(&links)
	return t.retryIn(links)
}

// followSource looks which address a link sends from. A new IPv6 address cannot be used at once, and no notice says when it
// can. Nor does one say when there is a descriptor to ask with.
func (t *TxSocket) followSource(l *txLink) {
	err := t.setSource(l)
	switch {
	case !isExhausted(err) && (!isTransient(err) || !l.ifc.hasFamily(t.groupLike(l.v4))):
		l.unsourced = backoff{}
	case l.unsourced.due(time.Now()):
		l.unsourced.failed(time.Now())
	}
}

// retryIn returns when something that failed is to be tried again.
func (t *TxSocket) retryIn(links []*txLink) (again time.Duration) {
	now := time.Now()
	add := func(b *backoff) {
		if b.wait > 0 {
			again = soonest(again, max(b.left(now), 1))
		}
	}
	add(&t.unrouted)
	for _, l := range links {
		add(&l.retry.backoff)
		add(&l.moving.backoff)
		add(&l.unsourced)
	}
	for _, retry := range t.opening {
		add(&retry.backoff)
	}
	return again
}

// txRetry is the latest failure to direct a link to an interface, or to open one.
type txRetry struct {
	backoff
	index int // of the interface
	text  string
}

// failed reports whether the failure is another one than before, and so worth an entry in the log.
func (r *txRetry) failed(index int, err error) (news bool) {
	if r.index != index {
		r.backoff = backoff{}
	}
	r.backoff.failed(time.Now())
	news = r.index != index || r.text != err.Error()
	r.index, r.text = index, err.Error()
	return news
}

// asks reports whether to ask for the default routes: they may have changed, or something that failed is due again.
func (t *TxSocket) asks(links []*txLink, change *networkChange) bool {
	if !change.Unchanged || change.Routes {
		return true
	}
	now := time.Now()
	due := func(b *backoff) bool { return b.wait > 0 && b.due(now) }
	for _, retry := range t.opening {
		if due(&retry.backoff) {
			return true
		}
	}
	return due(&t.unrouted) || slices.ContainsFunc(links, func(l *txLink) bool { return due(&l.moving.backoff) })
}

// followDefault moves the links to the interface of the default route of their family, as soon as it can send multicast,
// and opens one for a family that has waited for such a route. A tunnel that takes the default route and does not support
// multicast is not followed. Without a default route everything stays as it is.
func (t *TxSocket) followDefault(links []*txLink, change networkChange) []*txLink {
	var unknown error
	for _, v4 := range familiesOf(t.cfg.Groups).list() {
		now, ok, err := change.defaultSender(v4)
		unknown = cmp.Or(unknown, err)
		i := slices.IndexFunc(links, func(l *txLink) bool { return l.v4 == v4 })
		switch {
		case i < 0 && ok:
			links = t.openWaiting(links, now, v4)
		case i < 0:
			delete(t.opening, v4) // there is nothing to try
		case !ok || links[i].is(&now, change):
			links[i].moving = txRetry{} // when another has all that it needs, that is a change as well
		default:
			links[i] = t.move(links[i], now)
		}
	}
	switch {
	case unknown == nil:
		t.unrouted = backoff{}
	case t.unrouted.due(time.Now()):
		if t.unrouted.wait == 0 {
			t.logger.log(slog.LevelWarn, "cannot find the default route", Interface{}, unknown)
		}
		t.unrouted.failed(time.Now())
	}
	return links
}

// openWaiting opens the link of a family that has waited for an interface.
func (t *TxSocket) openWaiting(links []*txLink, ifc Interface, v4 bool) []*txLink {
	retry := t.opening[v4]
	if retry.index == ifc.Index && !retry.due(time.Now()) {
		return links
	}
	l := newTxLink(ifc, v4)
	if err := t.open(l); err != nil {
		if retry.failed(ifc.Index, err) {
			t.logger.log(slog.LevelWarn, "cannot send by the interface of the default route", ifc, err)
		}
		if t.opening == nil {
			t.opening = make(map[bool]txRetry)
		}
		t.opening[v4] = retry
		return links
	}
	delete(t.opening, v4)
	t.logger.log(slog.LevelInfo, "sends by the default route", ifc, nil)
	return append(links, l)
}

// move returns a link that sends on another interface from now on, or if that fails the same one.
func (t *TxSocket) move(l *txLink, to Interface) *txLink {
	if l.moving.index == to.Index && !l.moving.due(time.Now()) {
		return l
	}
	anew, err := t.direct(l, &to)
	if err != nil {
		if l.moving.failed(to.Index, err) {
			t.logger.log(slog.LevelWarn, "cannot send by the interface of the default route", to, err)
		}
		return l
	}
	t.logger.log(slog.LevelInfo, "sends by the new default route", to, nil)
	anew.retry, anew.moving = txRetry{}, txRetry{}
	return anew.as(known{name: to.Name, ifc: to})
}

// defaultSender finds the interface of the default route of a family, if it can send multicast. The error is that the system
// does not say.
func (change *networkChange) defaultSender(v4 bool) (ifc Interface, ok bool, err error) {
	index, err := change.defaults.index(network(v4))
	if err != nil {
		if errors.Is(err, ErrNoInterface) {
			err = nil
		}
		return ifc, false, err
	}
	at := slices.IndexFunc(change.Interfaces, func(n Interface) bool { return n.Index == index && senderMistake(&n, v4) == nil })
	if at < 0 {
		return ifc, false, nil
	}
	return change.Interfaces[at], true, nil
}

// successors finds what has become of the interfaces of links. Those of different families may share one.
func (t *TxSocket) successors(links []*txLink, change networkChange) []*Interface {
	now := make([]*Interface, len(links))
	for _, v4 := range []bool{true, false} {
		var of []int
		var all []*known
		for i, l := range links {
			if l.v4 == v4 {
				of, all = append(of, i), append(all, &l.known)
			}
		}
		for i, n := range successors(all, change) {
			now[of[i]] = n
		}
	}
	return now
}

// tryFollow follows the network. It logs that it cannot, or that it learns of changes late: Android refuses netlink to
// applications. A lack of resources is an error.
func tryFollow(l *logger, one *watchFollower) (stop, again func(), err error) {
	if err := processWatch.add(one); isExhausted(err) {
		return nil, nil, err
	} else if err != nil {
		l.log(slog.LevelWarn, "cannot follow the network", Interface{}, err)
		return func() {}, func() {}, nil
	}
	if one.polls != nil {
		l.log(slog.LevelWarn, "follows the network by looking every few seconds", Interface{}, one.polls)
	}
	return one.stop, one.again, nil
}
