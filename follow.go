// Following the network: what a socket does by itself when interfaces come, go and come back. The watcher in
// watch.go says that something has changed; everything here compares what is with what should be.

package mcast

import (
	"context"
	"log/slog"
	"slices"
)

// successor finds in a scan what has become of an interface. It is the same as before if its index still has its
// name, or has a new name while nobody has the old one; otherwise it is whoever has the name now.
func successor(ifc *Interface, now []Interface) (_ Interface, ok bool) {
	byName := slices.IndexFunc(now, func(n Interface) bool { return n.Name == ifc.Name })
	if byName < 0 {
		byName = slices.IndexFunc(now, func(n Interface) bool { return n.Index == ifc.Index })
	}
	if byName < 0 {
		return Interface{}, false
	}
	return now[byName], true
}

// follow brings the table in line with the interfaces there are now.
func (s *RxSocket) follow(change networkChange) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	for _, link := range s.links {
		s.followLink(link, change)
	}
	if !s.all {
		return
	}
	s.links = slices.DeleteFunc(s.links, func(link *rxLink) bool {
		if link.gone {
			s.forget(link)
		}
		return link.gone
	})
	for _, ifc := range change.Interfaces {
		known := slices.ContainsFunc(s.links, func(link *rxLink) bool { return link.ifc.Index == ifc.Index })
		if !known && joinsByItself(&ifc) {
			link := &rxLink{ifc: ifc}
			s.links = append(s.links, link)
			s.addPairs(link)
		}
	}
}

// followLink looks at one interface.
func (s *RxSocket) followLink(link *rxLink, change networkChange) {
	before := link.ifc
	now, ok := successor(&before, change.Interfaces)
	if !ok {
		if !link.gone {
			link.gone = true
			s.eachPair(link, func(p *pair) {
				s.leave(p)
				p.err = &OpError{Op: "join", Group: p.addr, Interface: before.Name, Err: ErrNoInterface, Hint: "it will be joined again when it is back"}
				s.log(slog.LevelWarn, "interface is gone", p, p.err)
			})
		}
		return
	}
	link.ifc, link.gone = now, false
	// The kernel drops the memberships of an interface that leaves, even if it comes back with its index, while
	// the sockets think that they have them: only new sockets help.
	again := now.Index != before.Index || change.Gone[now.Index]
	s.eachPair(link, func(p *pair) {
		if again || p.addr.Is6() && change.Gone6[now.Index] {
			s.leave(p)
		} else if p.err == nil {
			return
		}
		was := p.err
		if s.join(p); p.err == nil {
			s.log(slog.LevelInfo, "joined again", p, nil)
		} else if was == nil || was.Error() != p.err.Error() {
			s.log(slog.LevelWarn, "cannot join", p, p.err)
		}
	})
	s.m.update(func() {
		s.eachPair(link, func(p *pair) {
			for _, c := range p.conns {
				c.screen.own = s.own(link)
			}
		})
	})
	if s.all {
		s.addPairs(link)
	}
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

// forget leaves the groups on a link for good.
func (s *RxSocket) forget(link *rxLink) {
	for _, g := range s.groups {
		g.pairs = slices.DeleteFunc(g.pairs, func(p *pair) bool {
			if p.link == link {
				s.leave(p)
			}
			return p.link == link
		})
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
	logChange(s.cfg.Logger, level, what, p.link.ifc, err, slog.String("group", p.addr.String()))
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
func (t *TxSocket) follow(change networkChange) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return
	}
	links := slices.Clone(*t.links.Load())
	for i, l := range links {
		now, ok := successor(&l.ifc, change.Interfaces)
		if !ok || now.Index == l.ifc.Index && !change.Gone[now.Index] {
			continue
		}
		err := setMulticastInterface(l.to.raw, l.v4, &now)
		if err != nil {
			logChange(t.cfg.Logger, slog.LevelWarn, "cannot send by the interface that came back", now, err)
			continue
		}
		links[i] = &txLink{ifc: now, v4: l.v4, to: l.to}
		logChange(t.cfg.Logger, slog.LevelInfo, "sends again", now, nil)
	}
	t.links.Store(&links)
}

// tryFollow follows the network, if the system lets it: Android refuses netlink to apps, which can use the
// library all the same with interfaces they name.
func tryFollow(l *slog.Logger, f func(networkChange)) (stop func()) {
	stop, err := followNetwork(f)
	if err != nil {
		logChange(l, slog.LevelWarn, "cannot follow the network", Interface{}, err)
		return func() {}
	}
	return stop
}
