// Following the network: interfaces come, go, come back with another index and change their addresses while a multicast socket
// is open, and memberships do not survive all of that. The way of a change, from the kernel to a socket:
//
//	notice    watchSource.wait, in watch_<os>.go, returns when something may have changed. Notices are incomplete, come in
//	          bursts and get lost, so they only mean "scan again". watchLoop waits for the end of a burst.
//	scan      watchSource.scan lists the interfaces.
//	compare   watchCompare (change.go) makes a networkChange of this list, the last one and the notices. joinedSet
//	          (joined.go) compares the memberships of all sockets with those that the kernel has.
//	prepare   RxSocket.prepare (follow.go) drops the memberships that were lost: in all sockets of the process, before one of
//	          them joins again. Nobody else joins or leaves meanwhile.
//	follow    RxSocket.follow and TxSocket.follow (follow.go, txfollow.go) bring a socket in line with the list.
//	retry     follow returns when it wants to be called again, for what failed. watchHub wakes the loop then.
//
// All but notice and retry run on one goroutine for each network, which watchHub starts for the first follower and ends with
// the last. WatchInterfaces has a watchLoop of its own and takes no part in the last three steps.
//
// Locks are taken in this order; no other lock is taken while one of the last line is held:
//
//	watchHub.joining        for writing: prepare; for reading: OpenRx, Join, Leave and Close, from before they take the next
//	watchFollower.mu        while prepare, holds or follow of that follower runs; stop waits for it
//	RxSocket.mu, TxSocket.mu
//	watchHub.mu, the lock of a merge, logger.mu
//
// Each watch_<os>.go defines these; where there is but one network, the latter three are in watch_one.go:
//
//	watchOpen() (watchSource, error)   opens a watch on the network of the calling thread
//	watchNamespace() watchKey          identifies that network
//	watchHere() (there func(f func(error)), err error)
//	                                   there calls f in that network, or with the reason why it cannot
//	joinedSource() func(*joinedSet, int)  asks the kernel what is joined there; nil: it cannot be asked

package mcast

import (
	"context"
	"iter"
	"slices"
	"sync"
	"time"
)

const (
	watchQuiet = 75 * time.Millisecond  // a burst of notices is over after this long without one,
	watchLimit = 500 * time.Millisecond // or this long after its first one
	watchRetry = time.Second            // after a failure
)

// WatchInterfaces returns an iterator over the interfaces of the host: the list when the loop begins, and a new list after each
// change of what [Interfaces] returns. Changes in quick succession are reported together, within about half a second.
//
// A list can be equal to the one before it. It then reports a change that lists do not show, but that takes memberships or
// sockets:
//   - an interface was deleted and created again, moved to another network namespace and back, or went down and up, quickly;
//   - Linux stopped and started IPv6 on an interface;
//   - on Windows, an address was removed and added again, or is checked for duplicates;
//   - the system lost notices, so that any of these may have happened.
//
// If a scan fails, the iterator yields its error with a nil list, and the loop goes on and retries. If the watch cannot be set
// up, its error is the only pair. The loop ends without an error when ctx is done. It leaves no goroutine and no file descriptor
// behind, however it ends. The iterator can be used many times, also at the same time. While the body of the loop runs,
// no change is lost: it is reported later.
//
// On Linux the kernel wakes the loop (rtnetlink(7)). It watches the network namespace of the thread on which it begins. The
// kernel does not report alternative names of an interface that is down: the next list has them. On Windows the system wakes
// the loop (NotifyIpInterfaceChange), but not for a new name, which can take ten seconds to appear. On macOS the kernel wakes
// the loop (a routing socket) when an interface goes up or down or changes its MTU or addresses. It does not report an
// interface that is not up, or a second IPv4 address in the subnet of the first one: they appear within about ten seconds.
// Other systems are asked every few seconds.
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
		loop := watchLoop{src: src, quit: ctx.Done(), deliver: func(c networkChange, changed bool, err error) bool {
			switch {
			case err != nil:
				return yield(nil, err)
			case changed:
				return yield(ifaceCloneAll(c.Interfaces), nil) // the original is compared with the next scan
			}
			return true
		}}
		loop.run()
	}
}

// watchSource is the border to the operating system.
type watchSource interface {
	// scan lists the interfaces, sorted by index.
	scan() ([]Interface, error)
	// wait blocks until something may have changed, and returns what a scan does not show. It fails after close. After
	// another failure something may have changed, too.
	wait() (watchNotice, error)
	// close makes wait return. It is called once, and not during scan.
	close()
}

// watchLoop scans at once, after every burst of notices and when its user wants it to.
type watchLoop struct {
	src  watchSource
	quit <-chan struct{} // ends the loop when it is closed

	// owed returns when to scan at the latest even without a notice; the zero Time: only after one. wake must be sent to
	// when that has become earlier. Both may be nil.
	owed func() time.Time
	wake <-chan struct{}

	// deliver is called with the result of each scan, and whether it differs from the one before. false ends the loop.
	deliver func(c networkChange, changed bool, err error) bool
}

// run returns when quit is closed or deliver returns false. It closes src.
func (w *watchLoop) run() {
	notices, done := make(chan watchNotice), make(chan struct{})
	var reader sync.WaitGroup
	reader.Go(func() { watchRead(w.src, notices, done) })
	defer func() { // also if deliver panics or ends the goroutine
		close(done)
		w.src.close()
		reader.Wait()
	}()

	var last []Interface    // the latest scan
	first := true           // there is none yet
	var pending watchNotice // since then
	var burst time.Time     // the first of these notices; zero: there are none
	scanAt := time.Now()    // zero: only when owed says so
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		w.set(timer, scanAt)
		select {
		case <-w.quit:
			return
		case <-w.wake:
			continue
		case n := <-notices:
			pending.add(n)
			if burst.IsZero() {
				burst = time.Now()
			}
			scanAt = earliest(time.Now().Add(watchQuiet), burst.Add(watchLimit))
			continue
		case <-timer.C:
		}
		select { // quit takes precedence
		case <-w.quit:
			return
		default:
		}
		now, err := w.src.scan()
		if err != nil {
			if !w.deliver(networkChange{}, false, err) || !watchPause(w.quit) {
				return
			}
			scanAt = time.Now()
			continue
		}
		c := watchCompare(last, now, pending)
		changed := first || !slices.EqualFunc(last, now, Interface.equal) || c.loses()
		last, first, pending = now, false, watchStillDown(now, pending)
		burst, scanAt = time.Time{}, time.Time{}
		if !w.deliver(c, changed, nil) {
			return
		}
	}
}

// set makes the timer fire at the next scan: at the given time, or when it is owed.
func (w *watchLoop) set(timer *time.Timer, at time.Time) {
	if w.owed != nil {
		at = earliest(at, w.owed())
	}
	if at.IsZero() {
		timer.Stop()
	} else {
		timer.Reset(time.Until(at))
	}
}

// earliest returns the earlier of two times. The zero Time is never.
func earliest(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// watchPause waits after a failure, so that one that stays makes no busy loop. It reports false when quit is closed.
func watchPause(quit <-chan struct{}) bool {
	select {
	case <-quit:
		return false
	case <-time.After(watchRetry):
		return true
	}
}

// watchRead passes on the notices of src, until done is closed and src after it. If the loop is slow, notices pile up in the
// system. When the system discards some, src reports that.
func watchRead(src watchSource, notices chan<- watchNotice, done <-chan struct{}) {
	for {
		n, err := src.wait()
		if err != nil {
			n.overflow = true
			if !watchPause(done) {
				return
			}
		}
		select {
		case <-done:
			return
		case notices <- n:
		}
	}
}

// processWatch serves the sockets of the whole process: a hundred sockets need no hundred watches. Without a follower it has
// neither a goroutine nor a descriptor.
var processWatch = watchHub{open: watchOpen, defaults: defaultIndex, joined: joinedSource()}

// watchHub lets any number of followers share one watch for each network.
type watchHub struct {
	open     func() (watchSource, error)
	defaults func(network string) (index int, err error) // defaultIndex
	joined   func(j *joinedSet, piece int)               // asks the kernel what is joined in the calling thread's network; nil: it cannot be asked

	// joining is held for writing while the followers of a network prepare. It is held for reading while a socket joins,
	// from before it follows the network or takes its lock, and while a socket leaves or closes, which it does before it
	// stops to follow.
	joining sync.RWMutex

	mu     sync.Mutex // guards what follows, the followers of each watch and what they are owed
	shared map[watchKey]*watchShared
}

// watchShared is the watch of one network. Its followers join and leave while it runs.
type watchShared struct {
	watchSource // scan also takes down the audience
	hub         *watchHub
	followers   []*watchFollower

	// What follows is for the watch's goroutine only.
	audience []*watchFollower  // those that followed when the latest scan began
	checkAt  time.Time         // when to ask the kernel what is joined, at the latest
	missed   map[joinedKey]int // how often in succession the kernel did not have a membership when it was asked

	wake chan struct{} // holds one: a follower is owed a call
	quit chan struct{} // closed: there is no follower anymore
	done chan struct{} // closed: the watch's goroutine is gone
}

// watchFollower is a socket that follows the network.
type watchFollower struct {
	// prepare, if not nil, is called when memberships may have been lost: for all followers, also those that came after the
	// scan, before follow is called for any of them, and while nobody joins. It reports whether it has dropped memberships,
	// which follow is to join again.
	prepare func(networkChange) (dropped bool)

	// holds, if not nil, adds the memberships that the follower holds to the set.
	holds func(*joinedSet)

	// follow returns after which time it is to be called again even if nothing changes; 0: never.
	follow func(networkChange) (retry time.Duration)

	// routes says that follow needs the default routes. It is called after those that do not, which need not wait for the
	// system's answer.
	routes bool

	polls error  // why the system does not notify, so that follow is called some seconds late; nil: it does
	stop  func() // set by add: ends it
	retry func() // set by add: has follow called again after backoffFirst at the latest

	// owed is when follow must be called even if nothing changes; the zero Time: not at all. It is owedFirst until the first
	// call. It is guarded by the hub's lock.
	owed time.Time

	mu      sync.Mutex // held while prepare, holds or follow runs
	stopped bool
}

// owedFirst is always due: it is earlier than the time of any clock.
var owedFirst = time.Time{}.Add(1)

// follow is add for a function that has nothing to prepare.
func (h *watchHub) follow(f func(networkChange) (retry time.Duration)) (stop func(), err error) {
	one := &watchFollower{follow: f}
	if err := h.add(one); err != nil {
		return nil, err
	}
	return one.stop, nil
}

// add has follow called with the interfaces of the calling thread's network soon, and again after every change, until stop,
// which add sets, is called. It is also called when it, or retry, which add sets too, has asked for that. Calls do not
// overlap. They come from a goroutine that all followers of the network share, so they must be quick and must not run code of
// the user. It runs in that network, so that they can open sockets there.
//
// When stop returns, the follower is not being called and will not be again. If it was the last one of this network, the shared
// goroutine and its descriptors are gone. Therefore the follower must not call stop, and stop must not be called with a lock
// held that the follower takes. Calling stop again does nothing.
//
// To miss nothing, follow first, and open afterwards what depends on the interfaces, with a lock held that the follower takes.
func (h *watchHub) add(one *watchFollower) error {
	key := watchNamespace()
	h.mu.Lock()
	defer h.mu.Unlock()
	w := h.shared[key]
	if w == nil {
		var err error
		if w, err = h.start(); err != nil {
			return err
		}
		if h.shared == nil {
			h.shared = make(map[watchKey]*watchShared)
		}
		h.shared[key] = w
	}
	one.stop = sync.OnceFunc(func() { h.remove(key, w, one) })
	one.retry = func() { w.owe(one, backoffFirst) }
	if p, ok := w.watchSource.(interface{ polls() error }); ok {
		one.polls = p.polls()
	}
	one.owed = owedFirst
	w.followers = append(w.followers, one)
	w.signal()
	return nil
}

// start starts the watch of the calling thread's network.
func (h *watchHub) start() (*watchShared, error) {
	src, err := h.open()
	if err != nil {
		return nil, err
	}
	there, err := watchHere()
	if err != nil {
		src.close()
		return nil, err
	}
	w := &watchShared{
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
				loop := watchLoop{src: w, quit: w.quit, wake: w.wake, owed: w.owed, deliver: w.deliver}
				loop.run()
			}
		})
	}()
	if err := <-entered; err != nil {
		src.close()
		return nil, err
	}
	return w, nil
}

// remove is the stop function of a follower.
func (h *watchHub) remove(key watchKey, w *watchShared, one *watchFollower) {
	one.mu.Lock() // waits for this follower's functions, and for no other's
	one.stopped = true
	one.mu.Unlock()

	h.mu.Lock()
	w.followers = slices.DeleteFunc(w.followers, func(f *watchFollower) bool { return f == one })
	last := len(w.followers) == 0
	if last {
		delete(h.shared, key) // a follower that comes now starts a watch of its own
		close(w.quit)
	}
	h.mu.Unlock()
	if last {
		<-w.done
	}
}

// signal wakes the loop.
func (w *watchShared) signal() {
	select {
	case w.wake <- struct{}{}:
	default: // it is about to wake
	}
}

// owe has a follower called again after a while, or earlier.
func (w *watchShared) owe(one *watchFollower, wait time.Duration) {
	w.hub.mu.Lock()
	defer w.hub.mu.Unlock()
	one.owed = earliest(one.owed, time.Now().Add(wait))
	w.signal()
}

// owed returns when the first follower is owed a call, or the next check is due.
func (w *watchShared) owed() (at time.Time) {
	w.hub.mu.Lock()
	defer w.hub.mu.Unlock()
	for _, one := range w.followers {
		at = earliest(at, one.owed)
		if one.holds != nil && w.hub.joined != nil {
			at = earliest(at, w.checkAt)
		}
	}
	return at
}

// scan lists the interfaces for those who follow now. A follower that comes during the scan may know more than its result.
func (w *watchShared) scan() ([]Interface, error) {
	w.audience = w.all()
	return w.watchSource.scan()
}

// all returns the followers.
func (w *watchShared) all() []*watchFollower {
	w.hub.mu.Lock()
	defer w.hub.mu.Unlock()
	return slices.Clone(w.followers)
}

// deliver calls the followers that are owed a call or have dropped memberships, and if something changed, all.
func (w *watchShared) deliver(c networkChange, changed bool, err error) bool {
	if err != nil {
		return true // the loop scans again
	}
	dropped := w.prepare(&c, changed)
	c.defaults = &watchDefaults{ask: w.hub.defaults} // not kept for the next scan: not every change of a route is reported
	for _, one := range w.callees(changed || c.Routes, dropped) {
		c.Unchanged = !changed && !one.first
		one.run(func() {
			if wait := one.follow(c); wait > 0 {
				w.owe(one.watchFollower, wait)
			}
		})
	}
	return true
}

// watchCallee is a follower that is about to be called.
type watchCallee struct {
	*watchFollower
	first bool // it was not called before
}

// callees returns the followers to call, in this order: all, or those that are owed a call or have dropped memberships. They
// are owed nothing after that.
func (w *watchShared) callees(all bool, dropped map[*watchFollower]bool) (callees []watchCallee) {
	w.hub.mu.Lock()
	defer w.hub.mu.Unlock()
	soon := time.Now().Add(backoffSlack)
	for _, routes := range []bool{false, true} {
		for _, one := range w.audience {
			due := !one.owed.IsZero() && !one.owed.After(soon)
			if one.routes == routes && (all || due || dropped[one]) {
				callees = append(callees, watchCallee{one, one.owed.Equal(owedFirst)})
				one.owed = time.Time{}
			}
		}
	}
	w.audience = nil // it would keep sockets from being freed that are closed before the next scan
	return callees
}

// watchCheck is how often the kernel is asked what is joined although nothing changed.
const watchCheck = time.Minute

// prepare has the followers drop the memberships that were lost, and returns those that did. It takes the joining lock only if
// something is missing, and then looks again: what is missing at the first look may have been left in that moment.
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
		if one.prepare == nil {
			continue
		}
		one.run(func() { dropped[one] = one.prepare(*c) })
		if dropped[one] && c.joined.missing() {
			w.checkAt = time.Now().Add(backoffFirst) // to see whether it has helped
		}
	}
	return dropped
}

// compare asks the followers what they hold, and the kernel what is joined: in pieces of the first size, and in pieces of each
// other size as long as something is missing.
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

// run calls f, unless the follower was stopped.
func (one *watchFollower) run(f func()) {
	one.mu.Lock()
	defer one.mu.Unlock()
	if !one.stopped {
		f()
	}
}
