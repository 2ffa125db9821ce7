// The sender follows the network: its OS sockets send on the interfaces as they are now, and without named interfaces on that
// of the default route. What it shares with the receiver is in follow.go.

package mcast

import (
	"cmp"
	"errors"
	"log/slog"
	"slices"
	"time"
)

// follow makes the sender's OS sockets send on the interfaces as they are now. They stay, and so do their ports: on Unix they
// are bound to no interface, only directed to one.
func (t *TxSocket) follow(change networkChange) (retry time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed.Load() {
		return 0
	}
	t.closeRetired() // a write that is still in one goes on in another
	links := slices.Clone(*t.links.Load())
	if !change.Unchanged {
		for v4, retry := range t.opening {
			retry.backoff = backoff{}
			t.opening[v4] = retry
		}
		for _, l := range links {
			l.retry.backoff, l.moving.backoff, l.unsourced = backoff{}, backoff{}, backoff{}
		}
		t.unrouted.backoff = backoff{}
	}
	if t.cfg.Interfaces == nil && t.asksRoutes(links, &change) {
		links = t.followDefault(links, change)
	}
	for i, now := range t.successors(links, change) {
		links[i] = t.followLink(links[i], now, change)
	}
	for _, l := range links {
		if !l.gone {
			t.followSource(l)
		}
	}
	t.links.Store(&links)
	return t.retryIn(links)
}

// followLink returns a link with its interface as it is now; nil: it is gone.
func (t *TxSocket) followLink(l *txLink, now *Interface, change networkChange) *txLink {
	gone := trackedInterface{l.name, l.ifc, true}
	switch l.fate(now, change) {
	case fateAway:
		l.retry.backoff = backoff{} // there is nothing to try
		return l
	case fateLost:
		t.logger.log(slog.LevelWarn, "interface is gone", l.ifc, nil)
		return l.as(gone)
	case fateSame:
		if !l.unbound(now) {
			return l.as(trackedInterface{l.name, *now, false})
		}
	}
	if !l.retry.due(time.Now()) {
		return l.as(gone)
	}
	anew, err := t.direct(l, now)
	if err != nil {
		if l.retry.failed(now.Index, err) {
			t.logger.log(slog.LevelWarn, "cannot send on the interface that came back", *now, err)
		}
		return l.as(gone)
	}
	t.logger.log(slog.LevelInfo, "sends again", *now, nil)
	anew.retry = lastFailure{}
	return anew.as(trackedInterface{l.name, *now, false})
}

// followSource finds the address that a link sends from. A new IPv6 address cannot be used at once, and no notice says when it
// can. Nor does a notice say when there is a descriptor for the question.
func (t *TxSocket) followSource(l *txLink) {
	err := t.setSource(l)
	switch {
	case !isExhausted(err) && (!isTransient(err) || !l.ifc.hasFamily(t.groupLike(l.v4))):
		l.unsourced = backoff{}
	case l.unsourced.due(time.Now()):
		l.unsourced.failed(time.Now())
	}
}

// retryIn returns when to retry what has failed.
func (t *TxSocket) retryIn(links []*txLink) (retry time.Duration) {
	now := time.Now()
	add := func(b *backoff) {
		if b.wait > 0 {
			retry = soonest(retry, max(b.left(now), 1))
		}
	}
	add(&t.unrouted.backoff)
	for _, l := range links {
		add(&l.retry.backoff)
		add(&l.moving.backoff)
		add(&l.unsourced)
	}
	for _, opening := range t.opening {
		add(&opening.backoff)
	}
	return retry
}

// asksRoutes reports whether to ask for the default routes: they may have changed, or a retry is due.
func (t *TxSocket) asksRoutes(links []*txLink, change *networkChange) bool {
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
	return due(&t.unrouted.backoff) || slices.ContainsFunc(links, func(l *txLink) bool { return due(&l.moving.backoff) })
}

// followDefault moves the links to the interface of the default route of their family, as soon as it can send multicast,
// and opens one for a family that waited for such a route. It does not follow the route to an interface that does not support
// multicast, such as a tunnel. Without a default route everything stays as it is.
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
			links[i].moving = lastFailure{} // when another has all that it needs, that is a change as well
		default:
			links[i] = t.move(links[i], now)
		}
	}
	switch {
	case unknown == nil:
		t.unrouted = lastFailure{}
	case t.unrouted.due(time.Now()) && t.unrouted.failed(0, unknown):
		t.logger.log(slog.LevelWarn, "cannot find the default route", Interface{}, unknown)
	}
	return links
}

// openWaiting opens the link of a family that waited for an interface.
func (t *TxSocket) openWaiting(links []*txLink, ifc Interface, v4 bool) []*txLink {
	retry := t.opening[v4]
	if retry.index == ifc.Index && !retry.due(time.Now()) {
		return links
	}
	l := newTxLink(ifc, v4)
	if err := t.open(l); err != nil {
		if retry.failed(ifc.Index, err) {
			t.logger.log(slog.LevelWarn, "cannot send on the interface of the default route", ifc, err)
		}
		if t.opening == nil {
			t.opening = make(map[bool]lastFailure)
		}
		t.opening[v4] = retry
		return links
	}
	delete(t.opening, v4)
	t.logger.log(slog.LevelInfo, "sends on the interface of the default route", ifc, nil)
	return append(links, l)
}

// move returns a link that sends on another interface. If that fails, it returns the same link.
func (t *TxSocket) move(l *txLink, to Interface) *txLink {
	if l.moving.index == to.Index && !l.moving.due(time.Now()) {
		return l
	}
	anew, err := t.direct(l, &to)
	if err != nil {
		if l.moving.failed(to.Index, err) {
			t.logger.log(slog.LevelWarn, "cannot send on the interface of the default route", to, err)
		}
		return l
	}
	t.logger.log(slog.LevelInfo, "sends on the interface of the new default route", to, nil)
	anew.retry, anew.moving = lastFailure{}, lastFailure{}
	return anew.as(trackedInterface{name: to.Name, ifc: to})
}

// defaultSender finds the interface of the default route of a family, if it can send multicast. The error is that of the
// question to the system.
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

// successors returns what the interface of each link is now. Links of different families may share one.
func (t *TxSocket) successors(links []*txLink, change networkChange) []*Interface {
	now := make([]*Interface, len(links))
	for _, v4 := range []bool{true, false} {
		var of []int
		var all []*trackedInterface
		for i, l := range links {
			if l.v4 == v4 {
				of, all = append(of, i), append(all, &l.trackedInterface)
			}
		}
		for i, n := range successors(all, change) {
			now[of[i]] = n
		}
	}
	return now
}
