// Following the network: what a socket does by itself when interfaces come, go and come back. The watcher in
// watch.go says that something has changed; everything here compares what is with what should be.

package mcast

import (
	"context"
	"log/slog"
	"slices"
)

// successor finds in a scan what has become of an interface that had the given name at first: it is the same as long as
// its index lives, whatever it is called, and otherwise whoever has the name now. The same interface may have lost its
// memberships.
func successor(ifc *Interface, name string, change networkChange) (_ Interface, ok bool) {
	byName := func(n Interface) bool { return n.Name == name }
	same := func(n Interface) bool { return n.Index == ifc.Index }
	if change.Gone[ifc.Index] { // the index may be another's now
		same = func(n Interface) bool { return n.Index == ifc.Index && n.Name == ifc.Name }
	}
	for _, is := range []func(Interface) bool{same, byName} {
		if i := slices.IndexFunc(change.Interfaces, is); i >= 0 {
			return change.Interfaces[i], true
		}
	}
	return Interface{}, false
}

// follow brings the table in line with the interfaces there are now. It asks to be called again in a while if some
// pair cannot be joined though its interface is there: what is in the way may pass without a notice.
func (s *RxSocket) follow(change networkChange) (again bool) {
	again, news := s.catchUp(change)
	for _, tell := range news {
		tell()
	}
	return again
}

// catchUp is follow, but for telling the logger.
func (s *RxSocket) catchUp(change networkChange) (again bool, news []func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false, nil
	}
	for _, link := range s.links {
		s.followLink(link, change)
	}
	if s.all {
		s.followNew(change)
	}
	for _, g := range s.groups {
		again = again || slices.ContainsFunc(g.pairs, func(p *pair) bool { return p.err != nil && !p.link.gone })
	}
	news, s.news = s.news, nil
	return again, news
}

// followNew lets interfaces go that are gone, and joins on those that are new.
func (s *RxSocket) followNew(change networkChange) {
	for _, g := range s.groups {
		g.pairs = slices.DeleteFunc(g.pairs, func(p *pair) bool { return p.link.gone })
	}
	s.links = slices.DeleteFunc(s.links, func(link *rxLink) bool { return link.gone })
	for _, ifc := range change.Interfaces {
		known := slices.ContainsFunc(s.links, func(link *rxLink) bool { return link.ifc.Index == ifc.Index })
		if !known && joinsByItself(&ifc) {
			s.links = append(s.links, &rxLink{name: ifc.Name, ifc: ifc})
		}
	}
	for _, link := range s.links {
		s.addPairs(link)
	}
}

// followLink looks at one interface.
func (s *RxSocket) followLink(link *rxLink, change networkChange) {
	before := link.ifc
	now, ok := successor(&before, link.name, change)
	if !ok {
		if !link.gone {
			link.gone = true
			s.eachPair(link, func(p *pair) {
				s.retire(p)
				p.err = &OpError{Op: "join", Group: p.addr, Interface: before.Name, Err: ErrNoInterface, Hint: "the interface is gone"}
				s.log(slog.LevelWarn, "interface is gone", p, nil)
			})
		}
		return
	}
	link.ifc, link.gone = now, false
	s.eachPair(link, func(p *pair) {
		was := p.err
		switch {
		case p.err != nil:
			s.join(p)
		case now.Index != before.Index, slices.ContainsFunc(p.conns, func(c *conn) bool { return c.stale(&now) }):
			s.retire(p)
			s.join(p)
		case change.Gone[now.Index], change.Gone6[now.Index] && p.addr.Is6(), change.Overflow:
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
				c.screen.own = own
			}
		})
	})
}

// rejoin renews the memberships of a pair whose interface still has its index. Its sockets stay, and what they have
// received.
func (s *RxSocket) rejoin(p *pair) {
	for _, c := range p.conns {
		if err := p.rejoin(c); err != nil {
			s.retire(p)
			p.err = err
			return
		}
	}
}

// retire parts a pair from its sockets, which may still deliver what they have received. Of those that it was parted
// from before, it is time.
func (s *RxSocket) retire(p *pair) {
	for _, c := range p.retired {
		s.m.remove(c)
	}
	for _, c := range p.conns {
		s.m.retire(c)
	}
	p.retired, p.conns = p.conns, nil
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
	ifc := p.link.ifc
	s.news = append(s.news, func() {
		logChange(s.cfg.Logger, level, what, ifc, err, slog.String("group", p.addr.String()))
	})
}

// logChange tells the user's logger, if there is one, of what a socket did by itself.
func logChange(l *slog.Logger, level slog.Level, what string, ifc Interface, err error, more ...slog.Attr) {
	if l == nil {
		return
	}
	attrs := append(more, slog.String("interface", ifc.Name), slog.Int("index", ifc.Index))
	if err != nil {
		attrs = append(attrs, slog.Any("error", err))
	}
	l.LogAttrs(context.Background(), level, "mcast: "+what, attrs...)
}

// follow makes the sender's sockets send by the interfaces as they are now. The sockets stay, and so do their
// ports: on Unix they are bound to no interface, only directed to one.
func (t *TxSocket) follow(change networkChange) (again bool) {
	again, news := t.catchUp(change)
	for _, tell := range news {
		tell()
	}
	return again
}

// catchUp is follow, but for telling the logger.
func (t *TxSocket) catchUp(change networkChange) (again bool, news []func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return false, nil
	}
	tell := func(level slog.Level, what string, ifc Interface, err error) {
		news = append(news, func() { logChange(t.cfg.Logger, level, what, ifc, err) })
	}
	links := slices.Clone(*t.links.Load())
	for i, l := range links {
		now, ok := successor(&l.ifc, l.name, change)
		if !ok {
			continue
		}
		if now.Index != l.ifc.Index || change.Gone[now.Index] {
			if err := setMulticastInterface(l.to, l.v4, &now); err != nil {
				tell(slog.LevelWarn, "cannot send by the interface that came back", now, err)
				again = true
				continue
			}
			tell(slog.LevelInfo, "sends again", now, nil)
		}
		links[i] = newTxLink(l.name, now, l.v4, l.to)
	}
	t.links.Store(&links)
	return again, news
}

// tryFollow follows the network, if the system lets it: Android refuses netlink to apps, which can use the
// library all the same with interfaces they name.
func tryFollow(l *slog.Logger, f func(networkChange) (again bool)) (stop func()) {
	stop, err := followNetwork(f)
	if err != nil {
		logChange(l, slog.LevelWarn, "cannot follow the network", Interface{}, err)
		return func() {}
	}
	return stop
}
