// Following the network: interfaces come, go, come back with another index and change their addresses while a multicast
// socket lives, and memberships do not survive all of that. What the systems tell about changes is incomplete, comes in
// bursts and gets lost, so it is taken as a hint to look again: scan, compare, and report what differs.
//
// The portable part is here. Each watch_<os>.go defines:
//
//	watchOpen() (watchSource, error)   the ear on the network of the calling thread
//	watchNamespace() watchKey          which network that is
//	watchHere() (there func(f func(error)), err error)
//	                                   there calls f in that network, or with why it cannot
//	joinedSource() func(*joinedSet, int)  asks the kernel what is joined there; nil: it does not say
//
// Where there is but one network, the latter three are in watch_one.go.

package mcast

import (
	"context"
	"iter"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

const (
	watchQuiet = 75 * time.Millisecond  // a burst of notices is over after this long without one,
	watchLimit = 500 * time.Millisecond // but is not waited for longer than this
	watchRetry = time.Second            // after a failure
)

// WatchInterfaces returns an iterator over the states of the host's interfaces: as they are when the loop begins, and then
// anew after every change of what [Interfaces] returns. Changes that come in quick succession are reported together,
// within about half a second.
//
// A list can repeat the one before it. It then stands for a change that lists do not show, but that takes memberships or
// sockets:
//   - an interface was deleted and made anew, moved to another network namespace and back, or went down and up, quickly;
//   - Linux stopped and started IPv6 on an interface;
//   - on Windows, an address went and came back, or is checked for duplicates;
//   - the system lost notices, so that any of these may have happened.
//
// A scan that fails is yielded as an error with a nil list; the loop goes on and tries again. If the watch cannot be set up,
// its error is the only pair. The loop ends, without an error, when ctx does, and it leaves no goroutine and no file
// descriptor behind however it ends. The iterator can be used many times, also at the same time. The loop's body may take
// its time: nothing is lost, only reported later.
//
// On Linux the loop is woken by the kernel (rtnetlink), and watches the network namespace of the thread it begins on. The
// kernel does not notify of alternative names of an interface that is down: the next list has them. On Windows the system wakes it (NotifyIpInterfaceChange), but not for a new name, which may take ten seconds to be seen. On
// macOS the loop is woken by the kernel (a routing socket) when an interface goes up or down or changes its MTU or addresses;
// what the kernel does not report, such as an interface that is not up or a second IPv4 address in the subnet of a first
// one, shows within some ten seconds. Other systems are asked every few seconds.
//
// Each list is a copy with slices of its own. The caller may keep and modify it.
func WatchInterfaces(ctx context.Context) iter.Seq2[[]Interface, error] {
	if ctx == nil {
		ctx = context.Background()
	}
	return watchIterate(ctx, watchOpen)
}

// watchIterate is WatchInterfaces with any source.
func watchIterate(ctx context.Context, open func() (watchSource, error)) iter.Seq2[[]Interface, error] {
	return func(yield func([]Interface, error) bool) {
		if ctx.Err() != nil {
			return
		}
		src, err := open()
		if err != nil {
			yield(nil, err)
			return
		}
		watchRun(src, ctx.Done(), nil, func(c networkChange, changed bool, err error) bool {
			switch {
			case err != nil:
				return yield(nil, err)
			case changed:
				return yield(ifaceCloneAll(c.Interfaces), nil) // the original is compared with the next scan
			}
			return true
		})
	}
}

// networkChange is what a follower of the network gets to know.
type networkChange struct {
	// Interfaces is the list now. It is shared: do not modify it.
	Interfaces []Interface

	// Events are what happened to interfaces, by their index, since the last call. An interface that is gone may be in the
	// list again, under the same index.
	Events map[int]watchEvents

	// Lost are the addresses that were taken from interfaces since the last call. An interface may have one again;
	// sockets that are bound to it are of no use nevertheless. Only Windows reports them, where sockets are bound so.
	Lost map[watchAddr]bool

	// Unchanged says that the list is the one of the last call, and that no memberships were lost since: the follower is
	// called because it asked for that, or because of Routes.
	Unchanged bool

	// Routes says that there may be another default route, or none.
	Routes bool

	// Overflow says that notices were lost, so that there may be more Events.
	Overflow bool

	// joined is what the sockets hold and what the kernel says of it; nil: nobody was asked.
	joined *joinedSet

	// defaults are the default routes, for all followers of one change. nil asks the system each time.
	defaults *watchDefaults
}

// watchDefaults are the default routes at one change. The system is asked for those of a family when the first follower
// needs them, and once: with many routes that takes a while. They are for one goroutine at a time.
type watchDefaults struct {
	ask   func(network string) (index int, err error) // defaultIndex
	known map[string]watchDefault                     // by network
}

// watchDefault is what defaultIndex returned.
type watchDefault struct {
	index int
	err   error
}

// index is defaultIndex.
func (d *watchDefaults) index(network string) (int, error) {
	if d == nil {
		return defaultIndex(network)
	}
	one, ok := d.known[network]
	if !ok {
		one.index, one.err = d.ask(network)
		if d.known == nil {
			d.known = make(map[string]watchDefault)
		}
		d.known[network] = one
	}
	return one.index, one.err
}

// loses reports whether memberships may have been lost.
func (c *networkChange) loses() bool {
	return len(c.Events)+len(c.Lost) > 0 || c.Overflow
}

// gone reports whether the interface that had this index was deleted, or left the network namespace.
func (c *networkChange) gone(index int) bool { return c.Events[index]&eventGone != 0 }

// watchEvents is a set of events that can take memberships from an interface. What each of them takes is in losses.
type watchEvents uint8

const (
	eventGone watchEvents = 1 << iota // the interface was deleted, or left the network namespace
	eventMTU4                         // its MTU was too small for IPv4 and is not now, or the other way round
	eventMTU6                         // the same for IPv6
	eventDown                         // it was down and is up
	eventIPv6                         // Linux started IPv6 on it, which it stops and starts also on an interface that stays up
)

// watchAddr is an address of an interface.
type watchAddr struct {
	index int
	addr  netip.Addr // without a zone
}

// processWatch serves the sockets of the whole process: a hundred sockets need no hundred watches. It holds nothing as
// long as nobody follows.
var processWatch = watchHub{open: watchOpen, defaults: defaultIndex, joined: joinedSource()}

// watchSource is the border to the operating system.
type watchSource interface {
	// scan lists the interfaces, sorted by index.
	scan() ([]Interface, error)
	// wait blocks until something may have changed, and tells what the list itself will not. It fails after close, and
	// when it fails otherwise, something may have changed too.
	wait() (watchNotice, error)
	// close makes wait return. It is called once, and not during scan.
	close()
}

// watchNotice is what notices tell beyond "look again".
type watchNotice struct {
	seen     map[int]watchEvents // what happened to interfaces, and those states of theirs that an event begins with
	lost     map[watchAddr]bool
	routes   bool // a default route changed, or nobody here would know
	overflow bool // there were more notices
}

// add merges another notice into n.
func (n *watchNotice) add(o watchNotice) {
	for index, e := range o.seen {
		n.note(index, e)
	}
	n.lost = watchUnion(n.lost, o.lost)
	n.routes = n.routes || o.routes
	n.overflow = n.overflow || o.overflow
}

// note adds events of an interface.
func (n *watchNotice) note(index int, e watchEvents) {
	if e == 0 {
		return
	}
	if n.seen == nil {
		n.seen = make(map[int]watchEvents)
	}
	n.seen[index] |= e
}

// watchUnion adds the elements of b to a, which it makes if need be.
func watchUnion[K comparable](a, b map[K]bool) map[K]bool {
	if a == nil && len(b) > 0 {
		a = make(map[K]bool, len(b))
	}
	maps.Copy(a, b)
	return a
}

// watchRun scans at once, after every burst of notices and whenever wake is sent to, and delivers what it finds, saying
// whether it differs from what came before. It returns when quit is closed or deliver returns false, and closes src.
func watchRun(src watchSource, quit, wake <-chan struct{}, deliver func(c networkChange, changed bool, err error) bool) {
	notices, done := make(chan watchNotice), make(chan struct{})
	var reader sync.WaitGroup
	reader.Go(func() { watchRead(src, notices, done) })
	defer func() { // also if deliver panics or ends the goroutine
		close(done)
		src.close()
		reader.Wait()
	}()

	var known []Interface   // the last scan
	first := true           // there is none yet
	var pending watchNotice // since the last scan
	var latest time.Time    // for the next scan, in a burst
	due := time.NewTimer(0)
	defer due.Stop()
	for {
		select {
		case <-quit:
			return
		case n := <-notices:
			pending.add(n)
			if latest.IsZero() {
				latest = time.Now().Add(watchLimit)
			}
			due.Reset(min(watchQuiet, time.Until(latest)))
			continue
		case <-wake:
		case <-due.C:
		}
		select { // quit comes before all else
		case <-quit:
			return
		default:
		}
		due.Stop()
		latest = time.Time{}
		now, err := src.scan()
		if err != nil {
			if !deliver(networkChange{}, false, err) {
				return
			}
			due.Reset(watchRetry)
			continue
		}
		c := watchCompare(known, now, pending)
		changed := first || !slices.EqualFunc(known, now, Interface.equal) || c.loses()
		known, first, pending = now, false, watchStillDown(now, pending)
		if !deliver(c, changed, nil) {
			return
		}
	}
}

// watchCompare makes a change of two scans and the notices in between. A follower that came in between
// may know of an interface that only the second scan has, and have joined on it before its MTU fell for a moment.
func watchCompare(before, now []Interface, n watchNotice) networkChange {
	c := networkChange{Interfaces: now, Lost: n.lost, Routes: n.routes, Overflow: n.overflow}
	was, is := watchStates(before), watchStates(now)
	for _, i := range slices.Concat(before, now) {
		seen, was := n.seen[i.Index], was[i.Index]
		is, there := is[i.Index]
		happened := seen & (eventGone | eventIPv6)
		happened |= (seen | was | is) &^ (was & is) & (eventMTU4 | eventMTU6)
		if there {
			happened |= (seen | was) &^ is & eventDown
		}
		if happened != 0 {
			if c.Events == nil {
				c.Events = make(map[int]watchEvents)
			}
			c.Events[i.Index] = happened
		}
	}
	return c
}

// watchStates returns the state of each interface in a list.
func watchStates(list []Interface) map[int]watchEvents {
	states := make(map[int]watchEvents, len(list))
	for _, i := range list {
		states[i.Index] = watchState(&i)
	}
	return states
}

// watchState returns those states of an interface that an event begins with.
func watchState(i *Interface) (state watchEvents) {
	if i.Flags&net.FlagUp == 0 {
		state |= eventDown
	}
	if i.MTU > 0 && i.MTU < watchLeastMTU4 {
		state |= eventMTU4
	}
	if i.MTU > 0 && i.MTU < watchLeastMTU6 {
		state |= eventMTU6
	}
	return state
}

// The least MTU of IPv4 (RFC 791, section 3.2) and IPv6 (RFC 8200, section 5). Linux takes a family with all its memberships
// from an interface whose MTU is less: inetdev_event in net/ipv4/devinet.c, addrconf_notify in net/ipv6/addrconf.c.
const (
	watchLeastMTU4 = 68
	watchLeastMTU6 = 1280
)

// watchStillDown returns that part of a notice which is about interfaces that are down now.
func watchStillDown(now []Interface, n watchNotice) (down watchNotice) {
	for _, i := range now {
		down.note(i.Index, n.seen[i.Index]&watchState(&i)&eventDown)
	}
	return down
}

// watchRead passes on what src tells, until done is closed and src after it. If the reader of notices is slow, they pile up
// in the system, and when that loses some, it says so.
func watchRead(src watchSource, notices chan<- watchNotice, done <-chan struct{}) {
	for {
		n, err := src.wait()
		if err != nil {
			n.overflow = true
			select {
			case <-done:
				return
			case <-time.After(watchRetry): // an error that stays must not make a busy loop
			}
		}
		select {
		case <-done:
			return
		case notices <- n:
		}
	}
}

// watchHub lets any number of followers share one watch for each network.
type watchHub struct {
	open     func() (watchSource, error)
	defaults func(network string) (index int, err error) // defaultIndex
	joined   func(j *joinedSet, piece int)               // asks the kernel what is joined in the calling thread's network; nil: it cannot be asked

	// joining is held for writing while the followers of a network prepare; for reading by who joins, from before it follows
	// or locks what its prepare needs; and by who leaves or closes its sockets, which it does while it still follows.
	joining sync.RWMutex

	mu     sync.Mutex // guards what follows, and the followers of each watch
	shared map[watchKey]*watchShared
}

// watchShared is the watch of one network: a source that takes down, before it scans, for whom it does.
type watchShared struct {
	watchSource
	hub       *watchHub
	followers []*watchFollower

	// What follows is for the watch's goroutine only.
	audience []*watchFollower  // of the latest scan
	checkAt  time.Time         // when to ask the kernel what is joined, at the latest
	missed   map[joinedKey]int // how often in succession the kernel did not have a membership when it was asked

	alarm   *time.Timer // calls call at alarmAt; nil before it is first needed; both are guarded by the hub's lock
	alarmAt time.Time   // when the first follower is to be called again; zero: none asked for that

	wake chan struct{} // holds one: there is a new follower, or one that asked to be called again
	quit chan struct{} // closed: there is none anymore
	done chan struct{} // closed: the watch's goroutine is gone
}

// watchFollower is one who follows.
type watchFollower struct {
	// prepare, if there is one, is called when memberships may have been lost: for all who follow by then, also those who
	// came so late that f will be called for another scan, before f is for any of them, and while nobody joins. It reports
	// whether it has dropped memberships, for f to join again.
	prepare func(networkChange) (dropped bool)

	// holds, if there is one, adds the memberships that the follower holds to the set.
	holds func(*joinedSet)

	// f returns after which time it is to be called again even if nothing changes; 0: never.
	f      func(networkChange) (again time.Duration)
	routes bool // f needs the default route. It is called after the followers that do not: they need not wait for the answer
	called bool // for the watch's goroutine only

	polls error     // why the system does not notify, so that f is called some seconds late; nil: it does
	stop  func()    // ends it
	again func()    // has f called again after backoffFirst at the latest
	due   time.Time // when f is to be called again; zero: after a change only; guarded by the hub's lock

	mu      sync.Mutex // held while f runs
	stopped bool
}

// follow is add, for who has nothing to prepare.
func (h *watchHub) follow(f func(networkChange) (again time.Duration)) (stop func(), err error) {
	one := &watchFollower{f: f}
	if err := h.add(one); err != nil {
		return nil, err
	}
	return one.stop, nil
}

// add has the follower called with the interfaces of the calling thread's network soon, and again after every change, until
// its function stop, which add sets, is called. It is also called when f, or its function again, which add sets too, has
// asked for that. Calls do not overlap. They come from a goroutine that all followers of the network share, so they must be
// quick and must not run code of the user; it runs in that network too, so that they can open sockets there.
//
// When stop returns, the follower is not being called and will not be again, and if it was the last one of this network,
// the shared goroutine and its descriptors are gone. Therefore the follower must not call stop, and stop must not be called
// with a lock held for which it waits. Calling stop again does nothing.
//
// To miss nothing, follow first, and open afterwards what depends on the interfaces, with a lock held that the follower
// takes.
func (h *watchHub) add(one *watchFollower) error {
	key := watchNamespace()
	h.mu.Lock()
	defer h.mu.Unlock()
	w := h.shared[key]
	if w == nil {
		src, err := h.open()
		if err != nil {
			return err
		}
		there, err := watchHere()
		if err != nil {
			src.close()
			return err
		}
		w = &watchShared{
			watchSource: src,
			hub:         h,
			wake:        make(chan struct{}, 1),
			quit:        make(chan struct{}),
			done:        make(chan struct{}),
		}
		entered := make(chan error, 1)
		go func() {
			defer close(w.done)
			there(func(err error) {
				if entered <- err; err == nil {
					watchRun(w, w.quit, w.wake, w.deliver)
				}
			})
		}()
		if err := <-entered; err != nil {
			src.close()
			return err
		}
		if h.shared == nil {
			h.shared = make(map[watchKey]*watchShared)
		}
		h.shared[key] = w
	}
	one.stop = sync.OnceFunc(func() { h.unfollow(key, w, one) })
	one.again = func() { w.ask(one, backoffFirst) }
	if p, ok := w.watchSource.(interface{ polls() error }); ok {
		one.polls = p.polls()
	}
	w.followers = append(w.followers, one)
	w.call()
	return nil
}

// unfollow is the stop function of a follower.
func (h *watchHub) unfollow(key watchKey, w *watchShared, one *watchFollower) {
	one.mu.Lock() // waits for this f, and for no other; it follows until then, so that no follower that f stops is the last
	one.stopped = true
	one.mu.Unlock()

	h.mu.Lock()
	w.followers = slices.DeleteFunc(w.followers, func(f *watchFollower) bool { return f == one })
	last := len(w.followers) == 0
	if last {
		delete(h.shared, key) // a follower that comes now starts a watch of its own
		close(w.quit)
		if w.alarm != nil {
			w.alarm.Stop()
		}
	}
	h.mu.Unlock()
	if last {
		<-w.done
	}
}

// call has those called that wait for it.
func (w *watchShared) call() {
	select {
	case w.wake <- struct{}{}:
	default: // it is about to happen
	}
}

// scan lists the interfaces for those who follow now. One who comes while it runs may know more than it will tell.
func (w *watchShared) scan() ([]Interface, error) {
	w.hub.mu.Lock()
	w.audience = slices.Clone(w.followers)
	w.hub.mu.Unlock()
	return w.watchSource.scan()
}

// deliver calls the followers that wait for their first call, asked for another one or have dropped memberships, and if
// something changed, all.
func (w *watchShared) deliver(c networkChange, changed bool, err error) bool {
	if err != nil {
		return true // it will be tried again
	}
	dropped := w.prepare(&c, changed)
	c.defaults = &watchDefaults{ask: w.hub.defaults} // not kept for the next scan: not every change of a route is reported
	for _, one := range w.callees(changed || c.Routes, dropped) {
		c.Unchanged = !changed && one.called
		one.called = true
		one.run(func() {
			if wait := one.f(c); wait > 0 {
				w.ask(one, wait)
			}
		})
	}
	w.setAlarm()
	return true
}

// callees returns the followers to call, in this order: all, or those that wait or have dropped memberships. What they asked for
// is forgotten, since f asks anew.
func (w *watchShared) callees(all bool, dropped map[*watchFollower]bool) []*watchFollower {
	w.hub.mu.Lock()
	defer w.hub.mu.Unlock()
	audience := w.audience
	w.audience = nil // until the next scan: it would keep the sockets that stop following before that
	soon := time.Now().Add(backoffSlack)
	callees := slices.DeleteFunc(audience, func(one *watchFollower) bool {
		if !all && one.called && !dropped[one] && (one.due.IsZero() || one.due.After(soon)) {
			return true
		}
		one.due = time.Time{}
		return false
	})
	slices.SortStableFunc(callees, func(a, b *watchFollower) int {
		switch {
		case a.routes == b.routes:
			return 0
		case b.routes:
			return -1
		}
		return 1
	})
	return callees
}

// ask has a follower called again in a while, or earlier.
func (w *watchShared) ask(one *watchFollower, wait time.Duration) {
	w.hub.mu.Lock()
	defer w.hub.mu.Unlock()
	if at := time.Now().Add(wait); one.due.IsZero() || at.Before(one.due) {
		one.due = at
	}
	if w.alarmAt.IsZero() || one.due.Before(w.alarmAt) {
		w.alarmFor(one.due)
	}
}

// setAlarm sets the alarm for the follower that is to be called first, or for the next check.
func (w *watchShared) setAlarm() {
	w.hub.mu.Lock()
	defer w.hub.mu.Unlock()
	var first time.Time
	if w.hub.joined != nil && slices.ContainsFunc(w.followers, func(one *watchFollower) bool { return one.holds != nil }) {
		first = w.checkAt
	}
	for _, one := range w.followers {
		if !one.due.IsZero() && (first.IsZero() || one.due.Before(first)) {
			first = one.due
		}
	}
	w.alarmFor(first)
}

// alarmFor sets the alarm, or with the zero time none. The hub's lock is held.
func (w *watchShared) alarmFor(at time.Time) {
	w.alarmAt = at
	switch {
	case w.alarm == nil && !at.IsZero():
		w.alarm = time.AfterFunc(time.Until(at), w.call)
	case w.alarm != nil && !at.IsZero():
		w.alarm.Reset(time.Until(at))
	case w.alarm != nil:
		w.alarm.Stop()
	}
}

// watchCheck is how often the kernel is asked what is joined although nothing changed.
const watchCheck = time.Minute

// prepare has the followers drop the memberships that were lost, and returns those that did. Who joins and leaves is held
// up only if something is missing: what is missing at a first look may have been left meanwhile.
func (w *watchShared) prepare(c *networkChange, changed bool) (dropped map[*watchFollower]bool) {
	if !changed && time.Now().Before(w.checkAt) {
		return nil
	}
	w.checkAt = time.Now().Add(watchCheck)
	if !c.loses() && (w.hub.joined == nil || !w.compare(c.Interfaces, joinedPiece).missing()) {
		w.missed = nil
		return nil
	}
	w.hub.joining.Lock()
	defer w.hub.joining.Unlock()
	c.joined = w.compare(c.Interfaces, joinedOtherPieces...)
	if c.joined.missing() { // with an interface that is gone since the scan, for example
		now, _ := w.watchSource.scan() // none if it fails
		c.joined.believeOn(now)
	}
	w.missed = c.joined.doubt(w.missed, func(index int) bool { return c.Overflow || c.Events[index] != 0 })
	dropped = make(map[*watchFollower]bool)
	for _, one := range w.all() {
		if one.prepare != nil {
			one.run(func() { dropped[one] = one.prepare(*c) })
			if dropped[one] && c.joined.missing() {
				w.checkAt = time.Now().Add(backoffFirst) // to see whether it has helped
			}
		}
	}
	return dropped
}

// compare asks the followers what they hold, and the kernel what is joined: in pieces of the first size, and while something is
// missing, of each of the others.
func (w *watchShared) compare(interfaces []Interface, pieces ...int) *joinedSet {
	j := newJoined(interfaces)
	for _, one := range w.all() {
		if one.holds != nil {
			one.run(func() { one.holds(j) })
		}
	}
	if len(j.counts) == 0 || w.hub.joined == nil {
		return j
	}
	for _, piece := range pieces {
		if w.hub.joined(j, piece); !j.missing() {
			break
		}
	}
	return j
}

// all returns who follows now.
func (w *watchShared) all() []*watchFollower {
	w.hub.mu.Lock()
	defer w.hub.mu.Unlock()
	return slices.Clone(w.followers)
}

// run calls f, unless the follower was stopped.
func (one *watchFollower) run(f func()) {
	one.mu.Lock()
	defer one.mu.Unlock()
	if !one.stopped {
		f()
	}
}
