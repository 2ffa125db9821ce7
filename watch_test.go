// The watch, with a network that the test plays and a clock that runs only while all goroutines wait (testing/synctest): what time
// decides here is decided exactly. A goroutine left behind fails such a test. watch_linux_test.go has the kernel's notices.

package mcast

import (
	"context"
	"errors"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// watchFake is a watchSource whose network the test plays.
type watchFake struct {
	notices chan watchNotice
	closed  chan struct{}

	mu     sync.Mutex
	list   []Interface
	err    error
	scans  int
	broken error // what wait returns from now on
}

func newWatchFake(indexes ...int) *watchFake {
	s := &watchFake{notices: make(chan watchNotice), closed: make(chan struct{})}
	s.set(indexes...)
	return s
}

// set makes the network have interfaces with these indexes, all with an MTU of 1500.
func (s *watchFake) set(indexes ...int) {
	var list []Interface
	for _, index := range indexes {
		list = append(list, Interface{Name: "if", Index: index, MTU: 1500})
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = list
}

// fail makes scans fail, or with nil no more.
func (s *watchFake) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

func (s *watchFake) notify(n watchNotice) { s.notices <- n }

func (s *watchFake) scanned() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.scans
}

func (s *watchFake) scan() ([]Interface, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.scans++
	select {
	case <-s.closed:
		panic("scan after close")
	default:
	}
	return slices.Clone(s.list), s.err
}

func (s *watchFake) wait() (watchNotice, error) {
	s.mu.Lock()
	broken := s.broken
	s.mu.Unlock()
	if broken != nil {
		return watchNotice{}, broken
	}
	select {
	case n := <-s.notices:
		return n, nil
	case <-s.closed:
		return watchNotice{}, net.ErrClosed
	}
}

func (s *watchFake) close() { close(s.closed) }

func (s *watchFake) isClosed() bool {
	select {
	case <-s.closed:
		return true
	default:
		return false
	}
}

// watchEvent is one call of a deliver function or follower.
type watchEvent struct {
	at      time.Duration // since the beginning
	indexes []int
	networkChange
	err error
}

func watchIndexes(list []Interface) (indexes []int) {
	for _, i := range list {
		indexes = append(indexes, i.Index)
	}
	return indexes
}

// watchRecord runs a watch in the background. Its events can be read whenever synctest.Wait has returned.
func watchRecord(src watchSource, quit chan struct{}) *[]watchEvent {
	events, start := new([]watchEvent), time.Now()
	go runWatch(src, quit, func(c networkChange, changed bool, err error) bool {
		if changed || err != nil {
			*events = append(*events, watchEvent{time.Since(start), watchIndexes(c.Interfaces), c, err})
		}
		return true
	})
	synctest.Wait()
	return events
}

// runWatch runs a loop that nothing but notices wakes.
func runWatch(src watchSource, quit chan struct{}, deliver func(networkChange, bool, error) bool) {
	loop := watchLoop{src: src, quit: quit, deliver: deliver}
	loop.run()
}

// watchSeen has the same events for all these interfaces.
func watchSeen(e watchEvents, indexes ...int) map[int]watchEvents {
	seen := make(map[int]watchEvents)
	for _, i := range indexes {
		seen[i] = e
	}
	return seen
}

// watchSleep lets time pass, and waits until everything has happened that happens in it.
func watchSleep(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// TestWatchBurst has a change every 10 ms for two seconds: too fast for the watch to see an end, so it has to look in between.
func TestWatchBurst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src, quit := newWatchFake(1), make(chan struct{})
		events := watchRecord(src, quit)
		for n := range 200 {
			time.Sleep(10 * time.Millisecond)
			src.set(1, 100+n)
			src.notify(watchNotice{})
		}
		watchSleep(watchLimit)
		last := (*events)[len(*events)-1]
		if !slices.Equal(last.indexes, []int{1, 299}) || last.at > 2*time.Second+watchQuiet {
			t.Errorf("the last is %+v", last)
		}
		if n := len(*events); n < 5 || n > 6 { // the first; four cut short; the end
			t.Errorf("%d events: %+v", n, *events)
		}
		for n, e := range (*events)[1:] {
			if gap := e.at - (*events)[n].at; gap > watchLimit+10*time.Millisecond {
				t.Errorf("nothing for %v", gap)
			}
		}
		close(quit)
	})
}

// TestWatchFlood has notices come faster than they can be read, for ever.
func TestWatchFlood(t *testing.T) {
	src, quit := newWatchFake(1), make(chan struct{})
	calls := make(chan int)
	go runWatch(src, quit, func(c networkChange, changed bool, err error) bool {
		select {
		case calls <- len(c.Events):
		case <-quit:
		}
		return true
	})
	flooded := make(chan struct{})
	go func() {
		defer close(flooded)
		for {
			select {
			case src.notices <- watchNotice{seen: watchSeen(eventGone, 1)}:
			case <-src.closed:
				return
			}
		}
	}()
	for n := range 3 {
		if gone := <-calls; n > 0 && gone != 1 {
			t.Errorf("call %d reports %d interfaces gone", n, gone)
		}
	}
	close(quit)
	<-flooded
}

// TestWatchGone checks what is reported although lists do not show it.
func TestWatchGone(t *testing.T) {
	small := Interface{Name: "small", Index: 5, MTU: 1000}
	for _, test := range []struct {
		name     string
		notices  []watchNotice
		now      []int
		yields   bool
		events   map[int]watchEvents
		overflow bool
	}{
		{"nothing", []watchNotice{{}}, []int{1, 2}, false, nil, false},
		{"deleted", []watchNotice{{seen: watchSeen(eventGone, 2)}}, []int{1}, true, watchSeen(eventGone, 2), false},
		{"and back", []watchNotice{{seen: watchSeen(eventGone, 2)}, {}}, []int{1, 2}, true, watchSeen(eventGone, 2), false},
		{"two, one by one", []watchNotice{{seen: watchSeen(eventGone, 2)}, {seen: watchSeen(eventGone, 1)}}, []int{1, 2}, true, watchSeen(eventGone, 1, 2), false},
		{"never seen", []watchNotice{{seen: watchSeen(eventGone, 9)}}, []int{1, 2}, false, nil, false},
		// A socket may have joined on it between the scans.
		{"new after gone", []watchNotice{{seen: watchSeen(eventGone, 9)}}, []int{1, 2, 9}, true, watchSeen(eventGone, 9), false},
		{"MTU dip", []watchNotice{{seen: watchSeen(eventMTU6, 1)}}, []int{1, 2}, true, watchSeen(eventMTU6, 1), false},
		{"MTU dip of a new one", []watchNotice{{seen: watchSeen(eventMTU6, 9)}}, []int{1, 2, 9}, true, watchSeen(eventMTU6, 9), false},
		{"deep MTU dip", []watchNotice{{seen: watchSeen(eventMTU4|eventMTU6, 1)}}, []int{1, 2}, true, watchSeen(eventMTU4|eventMTU6, 1), false},
		{"MTU still small", []watchNotice{{seen: watchSeen(eventMTU6, 5)}}, []int{1, 2}, false, nil, false},
		{"deeper MTU dip", []watchNotice{{seen: watchSeen(eventMTU4|eventMTU6, 5)}}, []int{1, 2}, true, watchSeen(eventMTU4, 5), false},
		{"IPv6 was started", []watchNotice{{seen: watchSeen(eventIPv6, 1)}}, []int{1, 2}, true, watchSeen(eventIPv6, 1), false},
		{"both", []watchNotice{{seen: watchSeen(eventMTU6, 1)}, {seen: watchSeen(eventGone, 2)}}, []int{1, 2}, true, map[int]watchEvents{1: eventMTU6, 2: eventGone}, false},
		{"two of one", []watchNotice{{seen: watchSeen(eventMTU6, 1)}, {seen: watchSeen(eventIPv6, 1)}}, []int{1, 2}, true, watchSeen(eventMTU6|eventIPv6, 1), false},
		{"overflow", []watchNotice{{overflow: true}, {}}, []int{1, 2}, true, nil, true},
		{"overflow and gone", []watchNotice{{seen: watchSeen(eventGone, 2)}, {overflow: true}}, []int{1, 2}, true, watchSeen(eventGone, 2), true},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				src, quit := newWatchFake(1, 2), make(chan struct{})
				src.list = append(src.list, small)
				events := watchRecord(src, quit)
				src.set(test.now...)
				src.mu.Lock()
				src.list = append(src.list, small)
				src.mu.Unlock()
				for _, n := range test.notices {
					src.notify(n)
				}
				watchSleep(time.Second)
				yielded := (*events)[1:]
				switch {
				case len(yielded) > 1 || (len(yielded) == 1) != test.yields:
					t.Errorf("got %+v", yielded)
				case test.yields:
					e := yielded[0]
					if !maps.Equal(e.Events, test.events) || e.Overflow != test.overflow {
						t.Errorf("got %+v", e.networkChange)
					}
				}
				// It is reported once.
				src.notify(watchNotice{})
				watchSleep(time.Second)
				if n := len(*events) - 1; n > len(yielded) {
					t.Errorf("reported again: %+v", (*events)[1:])
				}
				close(quit)
			})
		})
	}
}

// TestWatchLost checks that an address which was taken from an interface is reported once, though the lists are equal.
func TestWatchLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src, quit := newWatchFake(1, 2), make(chan struct{})
		events := watchRecord(src, quit)
		one, two := watchAddr{1, netip.MustParseAddr("192.0.2.1")}, watchAddr{2, netip.MustParseAddr("192.0.2.1")}
		src.notify(watchNotice{lost: map[watchAddr]bool{one: true}})
		src.notify(watchNotice{lost: map[watchAddr]bool{two: true}})
		time.Sleep(time.Second)
		src.notify(watchNotice{})
		watchSleep(time.Second)
		want := map[watchAddr]bool{one: true, two: true}
		if len(*events) != 2 || !maps.Equal((*events)[1].Lost, want) {
			t.Errorf("got %+v, want one that has lost %v", (*events)[1:], want)
		}
		close(quit)
	})
}

// TestWatchUp checks that an interface that was down is reported once, when it is up, whether or not a scan saw it down.
func TestWatchUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src, quit := newWatchFake(1, 2), make(chan struct{})
		events := watchRecord(src, quit)
		set := func(flags net.Flags) {
			src.set(1, 2)
			src.mu.Lock()
			src.list[1].Flags = flags
			src.mu.Unlock()
		}
		for i, step := range []struct {
			flags  net.Flags
			notice watchNotice
			up     map[int]watchEvents
		}{
			{0, watchNotice{seen: watchSeen(eventDown, 2, 9)}, nil},
			{net.FlagUp, watchNotice{}, watchSeen(eventDown, 2)},
			{net.FlagUp | net.FlagRunning, watchNotice{}, nil},
			{net.FlagUp | net.FlagRunning, watchNotice{seen: watchSeen(eventDown, 2)}, watchSeen(eventDown, 2)},
			{net.FlagUp, watchNotice{}, nil},
			{0, watchNotice{}, nil}, // a system that is polled has no notices
			{net.FlagUp, watchNotice{}, watchSeen(eventDown, 2)},
		} {
			before := len(*events)
			set(step.flags)
			src.notify(step.notice)
			watchSleep(time.Second)
			var up watchNotice
			for _, e := range (*events)[before:] {
				up.add(watchNotice{seen: e.Events})
			}
			if !maps.Equal(up.seen, step.up) {
				t.Errorf("step %d: %v have come up, want %v", i, up.seen, step.up)
			}
		}
		close(quit)
	})
}

// TestWatchScanFails checks that an error is reported, that the scan is retried without a notice, and that no notice is lost.
func TestWatchScanFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src, quit := newWatchFake(1), make(chan struct{})
		events := watchRecord(src, quit)
		broken := errors.New("broken")
		src.fail(broken)
		src.notify(watchNotice{seen: watchSeen(eventGone, 1)})
		watchSleep(watchQuiet + watchRetry)
		if len(*events) != 3 || (*events)[1].err != broken || (*events)[2].err != broken || (*events)[2].Interfaces != nil {
			t.Fatalf("got %+v", *events)
		}
		src.fail(nil)
		watchSleep(watchRetry)
		if len(*events) != 4 || (*events)[3].err != nil || !maps.Equal((*events)[3].Events, watchSeen(eventGone, 1)) {
			t.Fatalf("got %+v", *events)
		}
		watchSleep(time.Hour)
		if len(*events) != 4 {
			t.Fatalf("got %+v", *events)
		}
		close(quit)
	})
}

// TestWatchWaitFails checks that a failure of wait causes no busy loop, and that changes are still found.
func TestWatchWaitFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src, quit := newWatchFake(1), make(chan struct{})
		src.broken = errors.New("broken")
		events := watchRecord(src, quit)
		src.set(1, 2)
		watchSleep(10*watchRetry + watchRetry/2)
		if n := len(*events); n != 11 || !(*events)[1].Overflow || len((*events)[1].indexes) != 2 {
			t.Errorf("%d events: %+v", n, *events)
		}
		close(quit)
	})
}

func TestWatchIterate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sources []*watchFake
		open := func() (watchSource, error) {
			sources = append(sources, newWatchFake(1))
			return sources[len(sources)-1], nil
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		watch := watchIterate(ctx, open)

		for list, err := range watch { // left by break
			if err != nil || len(list) != 1 {
				t.Errorf("got %v, %v", list, err)
			}
			break
		}
		if len(sources) != 1 || !sources[0].isClosed() {
			t.Error("break left the source open")
		}

		n := 0
		for list, err := range watch { // left by the context, while waiting
			n++
			switch src := sources[1]; n {
			case 1:
				list[0].Name = "the list is mine" // must not look like a change
				src.notify(watchNotice{})
				time.AfterFunc(time.Second, func() {
					src.fail(errors.New("broken"))
					src.notify(watchNotice{})
				})
			case 2:
				if err == nil || list != nil {
					t.Errorf("got %v, %v", list, err)
				}
				src.fail(nil)
				src.set(1, 2)
			case 3:
				if err != nil || len(list) != 2 || list[0].Name != "if" {
					t.Errorf("got %v, %v", list, err)
				}
				src.notify(watchNotice{})
				time.AfterFunc(time.Minute, cancel)
			default:
				t.Errorf("got %v, %v", list, err)
			}
		}
		if n != 3 || !sources[1].isClosed() {
			t.Errorf("%d rounds, closed %v", n, sources[1].isClosed())
		}

		for list, err := range watch { // not begun
			t.Errorf("got %v, %v after the end", list, err)
		}
		if len(sources) != 2 {
			t.Error("a source was opened after the end")
		}

		ctx, cancel = context.WithCancel(t.Context())
		defer cancel()
		n = 0
		for range watchIterate(ctx, open) { // left by the context, in the body
			n++
			sources[2].set(1, 2)
			sources[2].notify(watchNotice{})
			time.Sleep(time.Minute)
			cancel()
		}
		if n != 1 || !sources[2].isClosed() {
			t.Errorf("%d rounds, closed %v", n, sources[2].isClosed())
		}

		func() {
			defer func() { recover() }()
			for range watchIterate(t.Context(), open) {
				panic("in the body")
			}
		}()
		if !sources[3].isClosed() {
			t.Error("a panic left the source open")
		}

		broken := errors.New("broken")
		n = 0
		for list, err := range watchIterate(t.Context(), func() (watchSource, error) { return nil, broken }) {
			n++
			if list != nil || err != broken {
				t.Errorf("got %v, %v", list, err)
			}
		}
		if n != 1 {
			t.Errorf("%d rounds", n)
		}
	})
}

// TestWatchYieldsCopies overwrites what a list refers to. The next scan finds no change, so the loop must not report one.
func TestWatchYieldsCopies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := newWatchFake()
		src.list = []Interface{ifaceTestFull()}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		yielded := 0
		for list, err := range watchIterate(ctx, func() (watchSource, error) { return src, nil }) {
			if err != nil || len(list) != 1 || !list[0].equal(ifaceTestFull()) {
				t.Errorf("got %+v, %v", list, err)
			}
			yielded++
			ifaceTestOverwrite(&list[0])
			src.mu.Lock()
			src.list = []Interface{ifaceTestFull()} // a real scan makes a new list as well
			src.mu.Unlock()
			src.notify(watchNotice{})
			time.AfterFunc(time.Minute, cancel)
		}
		if yielded != 1 {
			t.Errorf("%d lists, want 1", yielded)
		}
	})
}

// watchTestHub is a hub of sources that the test plays.
func watchTestHub() (hub *watchHub, sources *[]*watchFake) {
	sources = new([]*watchFake)
	return &watchHub{open: func() (watchSource, error) {
		*sources = append(*sources, newWatchFake(1))
		return (*sources)[len(*sources)-1], nil
	}}, sources
}

// watchOnce makes a follower of a function that does not ask for a retry.
func watchOnce(f func(networkChange)) func(networkChange) (retry time.Duration) {
	return func(c networkChange) time.Duration { f(c); return 0 }
}

func watchFollow(t *testing.T, h *watchHub, f func(networkChange)) (stop func()) {
	t.Helper()
	stop, err := h.follow(watchOnce(f))
	if err != nil {
		t.Fatal(err)
	}
	return stop
}

func TestFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub, sources := watchTestHub()
		var a, b []networkChange
		stopA := watchFollow(t, hub, func(c networkChange) { a = append(a, c) })
		synctest.Wait()
		if len(a) != 1 || len(a[0].Interfaces) != 1 {
			t.Fatalf("the first follower got %+v", a)
		}
		src := (*sources)[0]

		stopB := watchFollow(t, hub, func(c networkChange) { b = append(b, c) })
		synctest.Wait()
		if len(a) != 1 || len(b) != 1 || len(*sources) != 1 {
			t.Fatalf("with a second follower: %+v, %+v, %d sources", a, b, len(*sources))
		}

		src.set(1, 2)
		src.notify(watchNotice{})
		watchSleep(time.Second)
		if len(a) != 2 || len(b) != 2 || len(a[1].Interfaces) != 2 || len(b[1].Interfaces) != 2 {
			t.Fatalf("after a change: %+v, %+v", a, b)
		}

		// All are called for a change that the newcomer's own scan finds.
		src.set(1, 2, 3)
		c := 0
		stopC := watchFollow(t, hub, func(networkChange) { c++ })
		synctest.Wait()
		if len(a) != 3 || len(b) != 3 || c != 1 {
			t.Fatalf("%d, %d and %d calls", len(a), len(b), c)
		}
		stopC()

		stopA()
		src.set(1)
		src.notify(watchNotice{})
		watchSleep(time.Second)
		if len(a) != 3 || len(b) != 4 || c != 1 || src.isClosed() {
			t.Fatalf("after stop: %d, %d and %d calls, closed %v", len(a), len(b), c, src.isClosed())
		}
		stopB()
		if !src.isClosed() || len(hub.shared) != 0 {
			t.Error("the last stop left the watch running")
		}
		stopB()
		stopA()

		stopA = watchFollow(t, hub, func(c networkChange) { a = append(a, c) })
		synctest.Wait()
		if len(*sources) != 2 || len(a) != 4 {
			t.Errorf("the watch did not start again: %d sources, %d calls", len(*sources), len(a))
		}
		stopA()
	})
}

// TestFollowScanFails checks that a follower gets its first call once that is possible.
func TestFollowScanFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub, sources := watchTestHub()
		open := hub.open
		hub.open = func() (watchSource, error) {
			src, err := open()
			src.(*watchFake).fail(errors.New("broken"))
			return src, err
		}
		calls := 0
		stop := watchFollow(t, hub, func(c networkChange) { calls++ })
		watchSleep(10 * watchRetry)
		if calls != 0 {
			t.Error("called without a list")
		}
		(*sources)[0].fail(nil)
		watchSleep(10 * watchRetry)
		if calls != 1 {
			t.Errorf("%d calls", calls)
		}
		stop()

		broken := errors.New("broken")
		hub.open = func() (watchSource, error) { return nil, broken }
		if stop, err := hub.follow(watchOnce(func(networkChange) {})); err != broken || stop != nil || len(hub.shared) != 0 {
			t.Errorf("without a source: %v", err)
		}
	})
}

// TestFollowStopWaits checks that stop waits for its own function, and for no other.
func TestFollowStopWaits(t *testing.T) {
	hub, sources := watchTestHub()
	running, release := make(chan struct{}), make(chan struct{})
	finished := false
	stopSlow := watchFollow(t, hub, func(networkChange) {
		close(running)
		<-release
		time.Sleep(10 * time.Millisecond) // time for stop to return too early
		finished = true
	})
	<-running
	called := false
	stopQuick := watchFollow(t, hub, func(networkChange) { called = true })
	stopQuick() // would hang if it waited for the slow one
	if called {
		t.Error("a stopped follower was called")
	}
	close(release)
	stopSlow()
	if !finished {
		t.Error("stop did not wait for its function")
	}
	if !(*sources)[0].isClosed() {
		t.Error("the source stays open")
	}
}

// TestFollowStopOther stops a follower when it is about to be called.
func TestFollowStopOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub, sources := watchTestHub()
		var stopSecond func()
		stop := watchFollow(t, hub, func(c networkChange) {
			if len(c.Interfaces) == 2 {
				stopSecond()
			}
		})
		calls := 0
		stopSecond = watchFollow(t, hub, func(networkChange) { calls++ })
		synctest.Wait()
		(*sources)[0].set(1, 2)
		(*sources)[0].notify(watchNotice{})
		watchSleep(time.Second)
		if calls != 1 {
			t.Errorf("%d calls", calls)
		}
		stop()
	})
}

// TestFollowConcurrent adds and stops followers from many goroutines.
func TestFollowConcurrent(t *testing.T) {
	var mu sync.Mutex
	open := 0
	hub := &watchHub{open: func() (watchSource, error) {
		src := newWatchFake(1)
		mu.Lock()
		defer mu.Unlock()
		if open++; open > 1 {
			t.Error("two watches of one network")
		}
		return watchCounted{src, func() {
			mu.Lock()
			defer mu.Unlock()
			open--
		}}, nil
	}}
	hold := watchFollow(t, hub, func(networkChange) {}) // else one watch may end while the next begins
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 100 {
				called := make(chan struct{})
				var inside sync.Mutex
				calls := 0
				stop, err := hub.follow(watchOnce(func(networkChange) {
					if !inside.TryLock() {
						t.Error("calls overlap")
						return
					}
					defer inside.Unlock()
					if calls++; calls == 1 {
						close(called)
					}
				}))
				if err != nil {
					t.Error(err)
					return
				}
				<-called
				stop()
				before := calls // no race: nothing runs after stop
				stop()
				if calls != before {
					t.Error("called after stop")
				}
			}
		})
	}
	all.Wait()
	hold()
	if open != 0 || len(hub.shared) != 0 {
		t.Errorf("%d watches are left", open)
	}
}

// watchCounted is a source that reports when it is closed.
type watchCounted struct {
	*watchFake
	onClose func()
}

func (s watchCounted) close() {
	s.watchFake.close()
	s.onClose()
}

// TestFollowRetriesOnce has changes come while a follower asks for a retry each time. It is retried once a second, however
// many changes there were.
func TestFollowRetriesOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub, sources := watchTestHub()
		var calls atomic.Int64
		stop, err := hub.follow(func(networkChange) time.Duration { calls.Add(1); return watchRetry })
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		for n := range 50 {
			(*sources)[0].set(1, 2+n)
			(*sources)[0].notify(watchNotice{})
			time.Sleep(2 * watchQuiet)
		}
		synctest.Wait()
		before := calls.Load()
		watchSleep(10 * watchRetry)
		if n := calls.Load() - before; n < 9 || n > 11 {
			t.Errorf("%d calls in ten seconds, after %d before", n, before)
		}
		stop()
	})
}

// TestFollowRetryTimes has followers that want to be called at times of their own. Each is, and no scan is made without need.
func TestFollowRetryTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub, sources := watchTestHub()
		var stops []func()
		start := time.Now()
		var mu sync.Mutex
		calls := make([][]time.Duration, 3)
		callsOf := func(i int) []time.Duration {
			mu.Lock()
			defer mu.Unlock()
			return slices.Clone(calls[i])
		}
		for i, wait := range []time.Duration{7 * time.Second, 20 * time.Second, 0} {
			stop, err := hub.follow(func(c networkChange) time.Duration {
				mu.Lock()
				defer mu.Unlock()
				if first := len(calls[i]) == 0; c.Unchanged == first {
					t.Errorf("follower %d, call %d: unchanged: %v", i, len(calls[i]), c.Unchanged)
				}
				calls[i] = append(calls[i], time.Since(start))
				return wait
			})
			if err != nil {
				t.Fatal(err)
			}
			stops = append(stops, stop)
			synctest.Wait()
		}
		src := (*sources)[0]
		scans := src.scanned()
		watchSleep(time.Minute + time.Millisecond)
		seconds := func(all ...time.Duration) (d []time.Duration) {
			for _, n := range all {
				d = append(d, n*time.Second)
			}
			return d
		}
		for i, want := range [][]time.Duration{seconds(0, 7, 14, 21, 28, 35, 42, 49, 56), seconds(0, 20, 40, 60), seconds(0)} {
			if got := callsOf(i); !slices.Equal(got, want) {
				t.Errorf("follower %d was called at %v, want %v", i, got, want)
			}
		}
		if n := src.scanned() - scans; n != 8+3 {
			t.Errorf("%d scans, want 11", n)
		}
		stops[0]()
		time.Sleep(time.Minute)
		if n, others := len(callsOf(0)), len(callsOf(1)); n != 9 || others != 4+3 {
			t.Errorf("after the first has stopped: %d calls of it and %d of the other, want 9 and 7", n, others)
		}
		stops[1]()
		scans = src.scanned()
		time.Sleep(time.Hour)
		if n := src.scanned() - scans; n > 2 { // one for each that has stopped
			t.Errorf("%d scans when no follower wants one", n)
		}
		stops[2]()
	})
}

// TestFollowUnchanged checks that a follower can distinguish a change from a retry and a call about routes.
func TestFollowUnchanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub, sources := watchTestHub()
		var mu sync.Mutex
		var unchanged []bool
		stop, err := hub.follow(func(c networkChange) time.Duration {
			mu.Lock()
			defer mu.Unlock()
			unchanged = append(unchanged, c.Unchanged)
			return time.Minute
		})
		if err != nil {
			t.Fatal(err)
		}
		defer stop()
		src := (*sources)[0]
		for _, step := range []struct {
			what   string
			do     func()
			wanted []bool
		}{
			{"the first call", func() {}, []bool{false}},
			{"a call that it asked for", func() { time.Sleep(time.Minute) }, []bool{true}},
			{"routes", func() { src.notify(watchNotice{routes: true}) }, []bool{true}},
			{"a notice of nothing", func() { src.notify(watchNotice{}) }, nil},
			{"another list", func() { src.set(1, 2); src.notify(watchNotice{}) }, []bool{false}},
			{"lost memberships", func() { src.notify(watchNotice{seen: watchSeen(eventGone, 1)}) }, []bool{false}},
			{"lost notices", func() { src.notify(watchNotice{overflow: true}) }, []bool{false}},
			{"another follower", func() { defer watchFollow(t, hub, func(networkChange) {})(); synctest.Wait() }, nil},
			{"a call after all this", func() { time.Sleep(time.Minute) }, []bool{true}},
		} {
			step.do()
			watchSleep(time.Second)
			mu.Lock()
			if !slices.Equal(unchanged, step.wanted) {
				t.Errorf("%s: unchanged: %v, want %v", step.what, unchanged, step.wanted)
			}
			unchanged = nil
			mu.Unlock()
		}
	})
}

// TestFollowAsks has a follower ask for a retry while it is not called.
func TestFollowAsks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub, _ := watchTestHub()
		calls, others := 0, 0
		one := &watchFollower{follow: func(networkChange) time.Duration { calls++; return 0 }}
		if err := hub.add(one); err != nil {
			t.Fatal(err)
		}
		stopOther := watchFollow(t, hub, func(networkChange) { others++ })
		synctest.Wait()
		one.retry()
		one.retry()
		watchSleep(10 * watchRetry)
		if calls != 2 || others != 1 {
			t.Errorf("%d calls of the one that asked, want 2, and %d of the other, want 1", calls, others)
		}
		one.stop()
		stopOther()
		one.retry() // harmless
	})
}

// TestFollowPrepares checks that all followers prepare for a change before one of them follows it, also one that comes after the
// scan. It follows with the next scan. Nobody can join while they prepare. Without losses nobody prepares.
func TestFollowPrepares(t *testing.T) {
	for name, notice := range map[string]watchNotice{"gone": {seen: watchSeen(eventGone, 1)}, "overflow": {overflow: true}, "no loss": {}} {
		t.Run(name, func(t *testing.T) { testFollowPrepares(t, notice) })
	}
}

func testFollowPrepares(t *testing.T, notice watchNotice) {
	synctest.Test(t, func(t *testing.T) {
		var did []string
		var between func()
		src := newWatchFake(1)
		hub := &watchHub{open: func() (watchSource, error) {
			return watchBetween{src, func() {
				if between != nil {
					between()
					between = nil
				}
			}}, nil
		}}
		follow := func(name string) (stop func()) {
			may := func() string {
				if !hub.joining.TryRLock() {
					return "nobody joins"
				}
				hub.joining.RUnlock()
				return "anybody joins"
			}
			one := &watchFollower{
				prepare: func(networkChange) bool { did = append(did, "prepare "+name, may()); return true },
				follow:  func(networkChange) time.Duration { did = append(did, name, may()); return 0 },
			}
			if err := hub.add(one); err != nil {
				t.Fatal(err)
			}
			return one.stop
		}
		defer follow("early")()
		synctest.Wait()
		did = nil
		var stop func()
		between = func() { stop = follow("late") }
		src.set(1, 2)
		src.notify(notice)
		watchSleep(time.Second)
		want := []string{
			"prepare early", "nobody joins", "prepare late", "nobody joins",
			"early", "anybody joins", "late", "anybody joins",
		}
		if !notice.overflow && notice.seen == nil {
			want = want[4:]
		}
		if !slices.Equal(did, want) {
			t.Errorf("it was %q, want %q", did, want)
		}
		stop()
	})
}

// watchBetween is a source that does something after each scan.
type watchBetween struct {
	watchSource
	after func()
}

func (w watchBetween) scan() ([]Interface, error) {
	defer w.after()
	return w.watchSource.scan()
}

// TestFollowRoutes checks that followers are called for a default route, and that WatchInterfaces yields no list for it.
func TestFollowRoutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub, sources := watchTestHub()
		routes := 0
		stop := watchFollow(t, hub, func(c networkChange) {
			if c.Routes {
				routes++
			}
		})
		src, quit := newWatchFake(1), make(chan struct{})
		events := watchRecord(src, quit)
		synctest.Wait()
		for _, s := range []*watchFake{(*sources)[0], src} {
			s.notify(watchNotice{routes: true})
			s.notify(watchNotice{})
		}
		watchSleep(time.Second)
		if routes != 1 || len(*events) != 1 {
			t.Errorf("it was called %d times, want once, and %d lists were yielded, want the first alone", routes, len(*events))
		}
		close(quit)
		stop()
	})
}

// TestFollowDefaultAskedOnce has fifty followers that need the default routes, and one that does not. The system is asked
// once per family and change, and the one that does not need them is called before that, although it came last.
func TestFollowDefaultAskedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub, sources := watchTestHub()
		var did []string
		hub.defaults = func(network string) (int, error) {
			did = append(did, "ask "+network)
			if network == "ip6" {
				return 0, ErrNoInterface
			}
			return 7, nil
		}
		calls := 0
		for range 50 {
			one := &watchFollower{routes: true, follow: func(c networkChange) time.Duration {
				calls++
				if index, err := c.defaults.index("ip4"); index != 7 || err != nil {
					t.Errorf("IPv4: %d, %v", index, err)
				}
				if _, err := c.defaults.index("ip6"); err != ErrNoInterface {
					t.Errorf("IPv6: %v", err)
				}
				return 0
			}}
			if err := hub.add(one); err != nil {
				t.Fatal(err)
			}
			defer one.stop()
		}
		defer watchFollow(t, hub, func(networkChange) { did = append(did, "needs none") })()
		synctest.Wait()
		for n, notice := range []watchNotice{{}, {routes: true}, {seen: watchSeen(eventGone, 1)}} {
			did, calls = nil, 0
			if n == 0 {
				(*sources)[0].set(1, 2)
			}
			(*sources)[0].notify(notice)
			watchSleep(time.Second)
			if want := []string{"needs none", "ask ip4", "ask ip6"}; !slices.Equal(did, want) || calls != 50 {
				t.Errorf("%+v: %q with %d calls, want %q with 50", notice, did, calls, want)
			}
		}
		did = nil
		(*sources)[0].notify(watchNotice{})
		watchSleep(time.Second)
		if did != nil {
			t.Errorf("nothing changed: %q", did)
		}
	})
}

// TestJoinedAnswers: what counts as lost, as there, and as not known.
func TestJoinedAnswers(t *testing.T) {
	group, source, other := netip.MustParseAddr("232.1.1.1"), netip.MustParseAddr("10.1.1.1"), netip.MustParseAddr("10.1.1.2")
	const lost, there, unknown = "lost", "there", "unknown"
	for _, test := range []struct {
		name         string
		held         [][]netip.Addr // the sources of each socket
		users        int
		found        map[netip.Addr]int
		noSources    bool
		open, source string // a socket of all sources, and one that wants source
	}{
		{"all are there", [][]netip.Addr{nil, {source}}, 2, map[netip.Addr]int{source: 1}, false, there, there},
		{"others, too", [][]netip.Addr{nil, {source}}, 5, map[netip.Addr]int{source: 1}, false, there, there},
		{"one less", [][]netip.Addr{nil, {source}}, 1, map[netip.Addr]int{source: 1}, false, lost, lost},
		{"none", [][]netip.Addr{nil, {source}}, 0, nil, false, lost, lost},
		{"the source is not", [][]netip.Addr{nil, {source}}, 2, nil, false, there, lost},
		{"a source of two sockets is there once", [][]netip.Addr{nil, {source}, {source}}, 3, map[netip.Addr]int{source: 1}, false, there, lost},
		{"others want a source", [][]netip.Addr{nil, {source}}, 3, map[netip.Addr]int{source: 1, other: 1}, false, unknown, there},
		{"others want the source", [][]netip.Addr{nil, {source}}, 3, map[netip.Addr]int{source: 2}, false, unknown, there},
		{"sources unknown", [][]netip.Addr{nil, {source}}, 2, nil, true, there, unknown},
		{"sources unknown, and others", [][]netip.Addr{nil, {source}}, 3, nil, true, unknown, unknown},
	} {
		j := newJoined([]Interface{{Index: 7, Flags: net.FlagUp}})
		for _, sources := range test.held {
			j.hold(7, group, sources)
		}
		j.v4 = joinedAnswers{groups: true, sources: !test.noSources}
		j.hold(8, group, nil)
		j.find(joinedKey{index: 7, group: group}, test.users)
		j.find(joinedKey{index: 8, group: group}, 1)
		for source, n := range test.found {
			j.find(joinedKey{7, group, source}, n)
		}
		says := func(sources ...netip.Addr) string {
			p := &pair{rxGroup: &rxGroup{addr: group}, conns: []*conn{{ifIndex: 7, sources: sources}}}
			switch gone, known := j.lost(p); {
			case !known:
				return unknown
			case gone:
				return lost
			}
			return there
		}
		if open, with := says(), says(source); open != test.open || with != test.source {
			t.Errorf("%s: of all sources %s, want %s; of one %s, want %s", test.name, open, test.open, with, test.source)
		}
		j.believeOn([]Interface{{Index: 8}})
		if open, with := says(), says(source); open != unknown || with != unknown {
			t.Errorf("%s, on an interface that is gone: of all sources %s, of one %s", test.name, open, with)
		}
	}
}

// TestFollowChecks has the kernel lose memberships without a notice. They are found missing within a minute, if the second
// look confirms it. If joining again does not help, it is retried less and less often.
func TestFollowChecks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub, _ := watchTestHub()
		key := joinedKey{index: 1, group: netip.MustParseAddr("239.1.1.1")}
		found, again := 1, 1 // what the kernel has, at a first look and at the next
		looks, dropped, called := 0, 0, 0
		var mu sync.Mutex // guards these
		hub.joined = func(j *joinedSet, piece int) {
			mu.Lock()
			defer mu.Unlock()
			looks++
			j.v4.groups = true
			n := found
			if piece != joinedPiece {
				n = again
				if hub.joining.TryRLock() {
					t.Error("others may join and leave at the second look")
				}
			}
			j.find(key, n)
		}
		one := &watchFollower{
			holds: func(j *joinedSet) { j.hold(key.index, key.group, nil) },
			prepare: func(c networkChange) bool {
				p := &pair{rxGroup: &rxGroup{addr: key.group}, conns: []*conn{{ifIndex: 1}}}
				if !c.lost(&c.Interfaces[0], p) {
					return false
				}
				mu.Lock()
				defer mu.Unlock()
				dropped++
				return true
			},
			follow: func(networkChange) time.Duration {
				mu.Lock()
				defer mu.Unlock()
				called++
				return 0
			},
		}
		if err := hub.add(one); err != nil {
			t.Fatal(err)
		}
		defer one.stop()
		set := func(first, then int) {
			mu.Lock()
			defer mu.Unlock()
			found, again = first, then
		}
		wait := func(d time.Duration) (n [3]int) {
			mu.Lock()
			looks, dropped, called = 0, 0, 0
			mu.Unlock()
			watchSleep(d)
			mu.Lock()
			defer mu.Unlock()
			return [...]int{looks, dropped, called}
		}
		wait(time.Second)
		all := 1 + len(joinedOtherPieces) // looks if something is missing in each
		for _, step := range []struct {
			name        string
			first, then int
			wait        time.Duration
			want        [3]int // looks, dropped, called
		}{
			{"nothing is missing", 1, 1, 10 * watchCheck, [3]int{10, 0, 0}},
			{"not missing at the second look", 0, 1, 10 * watchCheck, [3]int{20, 0, 0}},
			// A second after a drop it looks again. It drops at the first, second, fourth and eighth time.
			{"missing", 0, 0, watchCheck + 5*time.Second, [3]int{3 * all, 2, 2}},
			{"missing for ever", 0, 0, 10 * watchCheck, [3]int{12 * all, 2, 2}},
			{"there again", 1, 1, watchCheck, [3]int{1, 0, 0}},
			{"missing again", 0, 0, watchCheck + 5*time.Second, [3]int{3 * all, 2, 2}},
		} {
			set(step.first, step.then)
			if got := wait(step.wait); got != step.want {
				t.Errorf("%s: %v looks, drops and calls, want %v", step.name, got, step.want)
			}
		}
	})
}
