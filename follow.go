// Following the network: what a socket does by itself when interfaces come, go and come back. The watcher in
// watch.go says that something has changed; everything here compares what is with what should be.

package mcast

import (
	"log/slog"
	"slices"
)

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
	return n.Name == k.ifc.Name || !k.gone && !change.Gone[n.Index] // else the index may be another's now
}

// successor reports whether an interface in a scan shares a name with k, which is gone: its first name, or an
// alternative name that it had when it was last seen.
func (k *known) successor(n *Interface) bool {
	return n.hasName(k.name) || slices.ContainsFunc(k.ifc.AltNames, n.hasName)
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

// prepare drops the memberships that may be lost, for follow to renew. Linux keeps one in the socket's own list after the
// interface was away, and takes it from whoever has joined since when it is dropped later: __ip_mc_dec_group in
// net/ipv4/igmp.c and __ipv6_dev_mc_dec in net/ipv6/mcast.c only count. So all sockets of the process do it before one of
// them joins again.
func (s *RxSocket) prepare(change networkChange) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	for _, link := range s.links {
		s.eachPair(link, func(p *pair) {
			if change.lost(&link.ifc, p.rxGroup) {
				p.leave()
			}
		})
	}
}

// lost reports whether memberships of a group may be lost on an interface that still has its index. When one goes down,
// Linux sets the sources of its memberships aside with the report that they were left. It has them no more when the
// interface comes up, if it has disposed of that report, which it does when anything is joined or left there in the
// meantime: igmpv3_add_delrec, igmpv3_send_cr and igmpv3_del_delrec in net/ipv4/igmp.c; net/ipv6/mcast.c is alike. Where
// downLoses is true, all memberships may be lost then.
func (change *networkChange) lost(ifc *Interface, g *rxGroup) bool {
	if change.Gone[ifc.Index] || change.Gone6[ifc.Index] && g.addr.Is6() || change.Up[ifc.Index] && (downLoses || len(g.sources) > 0) {
		return true
	}
	return change.Overflow && !slices.ContainsFunc(change.Interfaces, func(now Interface) bool {
		return now.Index == ifc.Index && now.since6 == ifc.since6 && now.since6 != 0
	})
}

// follow brings the table in line with the interfaces there are now. It asks to be called again in a while if some
// pair cannot be joined though its interface is there: what is in the way may pass without a notice.
func (s *RxSocket) follow(change networkChange) (again bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
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
	}
	for _, g := range s.groups {
		again = again || slices.ContainsFunc(g.pairs, func(p *pair) bool { return p.err != nil && !p.link.gone })
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
			s.links = append(s.links, &rxLink{known{name: ifc.Name, ifc: ifc}})
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
	for len(g.orphans) > maxOrphans {
		s.m.remove(g.orphans[0])
		g.orphans = g.orphans[1:]
	}
}

// maxOrphans is how many OS sockets of interfaces that are gone a group may have because nobody reads what they have
// received, if interfaces come and go for ever.
const maxOrphans = 16

// followLink looks at one interface, which is now as given; nil: it is gone.
func (s *RxSocket) followLink(link *rxLink, found *Interface, change networkChange) {
	before := link.ifc
	if found == nil {
		if !link.gone {
			link.gone = true
			s.eachPair(link, func(p *pair) {
				s.retire(p)
				p.err = p.goneError()
				s.log(slog.LevelWarn, "interface is gone", p, nil)
			})
		}
		return
	}
	now := *found
	link.ifc, link.gone = now, false
	stale := make(map[*pair]bool) // retired before any of them joins: where pairs share an OS socket, they need a new one
	s.eachPair(link, func(p *pair) {
		if p.err == nil && (now.Index != before.Index || slices.ContainsFunc(p.conns, func(c *conn) bool { return c.stale(&now, change.Lost) })) {
			stale[p] = true
			s.retire(p)
		}
	})
	s.eachPair(link, func(p *pair) {
		was := p.err
		switch {
		case p.err != nil, stale[p]:
			s.join(p)
		case p.left:
			s.rejoin(p)
		default:
			return
		}
		if p.err != nil {
			if was == nil || was.Error() != p.err.Error() {
				s.log(slog.LevelWarn, "cannot join", p, p.err)
			}
		} else if was != nil || !change.Overflow {
			s.log(slog.LevelInfo, "joined again", p, nil)
		}
	})
	own := s.own(link)
	s.m.update(func() {
		s.eachPair(link, func(p *pair) {
			for _, c := range p.conns {
				s.m.setOwn(c, own)
			}
		})
	})
}

// rejoin renews the memberships of a pair whose interface still has its index. Its sockets stay, and what they have
// received.
func (s *RxSocket) rejoin(p *pair) {
	p.left = false
	for _, c := range p.conns {
		if err := p.rejoin(c); err != nil {
			s.retire(p)
			p.err = err
			return
		}
	}
}

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
		if s.join(p); p.err == nil {
			s.log(slog.LevelInfo, "joined", p, nil)
		} else {
			s.log(slog.LevelWarn, "cannot join", p, p.err)
		}
	}
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

func (s *RxSocket) log(level slog.Level, what string, p *pair, err error) {
	s.logger.log(level, what, p.link.ifc, err, slog.String("group", p.addr.String()))
}

// follow makes the sender's sockets send by the interfaces as they are now. The sockets stay, and so do their
// ports: on Unix they are bound to no interface, only directed to one.
func (t *TxSocket) follow(change networkChange) (again bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed.Load() {
		return false
	}
	links := slices.Clone(*t.links.Load())
	if t.cfg.Interfaces == nil {
		links, again = t.followDefault(links, change)
	}
	for i, now := range t.successors(links, change) {
		l := links[i]
		switch {
		case now == nil && l.gone:
			continue
		case now == nil:
			t.logger.log(slog.LevelWarn, "interface is gone", l.ifc, nil)
			links[i] = l.as(known{l.name, l.ifc, true})
			continue
		case l.gone || now.Index != l.ifc.Index || change.Gone[now.Index]:
			if err := setMulticastInterface(l.to, l.v4, now); err != nil {
				t.logger.log(slog.LevelWarn, "cannot send by the interface that came back", *now, err)
				links[i] = l.as(known{l.name, l.ifc, true})
				again = true
				continue
			}
			t.logger.log(slog.LevelInfo, "sends again", *now, nil)
		}
		links[i] = l.as(known{l.name, *now, false})
	}
	for _, l := range links {
		// A new IPv6 address cannot be used at once, and no notice says when it can.
		if !l.gone && isTransient(t.setSource(l)) && l.ifc.hasFamily(t.groupLike(l.v4)) {
			again = true
		}
	}
	t.links.Store(&links)
	return again
}

// followDefault moves the links to the interface of the default route of their family, as soon as it can send multicast,
// and opens one for a family that has waited for such a route. A tunnel that takes the default route and does not support
// multicast is not followed. Without a default route everything stays as it is.
func (t *TxSocket) followDefault(links []*txLink, change networkChange) (_ []*txLink, again bool) {
	for _, v4 := range familiesOf(t.cfg.Groups).list() {
		now, ok := defaultAmong(change.Interfaces, v4)
		if !ok {
			continue // when it has all that it needs, that is a change as well
		}
		i := slices.IndexFunc(links, func(l *txLink) bool { return l.v4 == v4 })
		if i < 0 {
			l := newTxLink(now, v4)
			if err := t.open(l); err != nil {
				t.logger.log(slog.LevelWarn, "cannot send by the interface of the default route", now, err)
				again = true
				continue
			}
			t.logger.log(slog.LevelInfo, "sends by the default route", now, nil)
			links = append(links, l)
			continue
		}
		l := links[i]
		if now.Index == l.ifc.Index {
			continue
		}
		if err := setMulticastInterface(l.to, v4, &now); err != nil {
			t.logger.log(slog.LevelWarn, "cannot send by the interface of the default route", now, err)
			again = true
			continue
		}
		t.logger.log(slog.LevelInfo, "sends by the new default route", now, nil)
		links[i] = l.as(known{name: now.Name, ifc: now})
	}
	return links, again
}

// defaultAmong finds the interface of the default route of a family, if it can send multicast.
func defaultAmong(all []Interface, v4 bool) (Interface, bool) {
	index, err := defaultIndex(network(v4))
	if err != nil {
		return Interface{}, false
	}
	at := slices.IndexFunc(all, func(n Interface) bool { return n.Index == index && senderMistake(&n, v4) == nil })
	if at < 0 {
		return Interface{}, false
	}
	return all[at], true
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

// tryFollow follows the network, or logs that it cannot: Android refuses netlink to applications, which can use the library
// with interfaces that they name.
func tryFollow(l *logger, one *watchFollower) (stop, again func()) {
	if err := processWatch.add(one); err != nil {
		l.log(slog.LevelWarn, "cannot follow the network", Interface{}, err)
		return func() {}, func() {}
	}
	return one.stop, one.again
}
