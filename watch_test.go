// Tests of the watch, with a network made up for the purpose and a clock that runs only when everybody waits
// (testing/synctest): what is decided by time in here is decided exactly. A goroutine left behind fails such a test by
// itself. The kernel's own notices are tested in watch_linux_test.go.

package mcast

import (
	"context"
	"errors"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
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

func (s *watchFake) tell(n watchNotice) { s.notices <- n }

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

func TestWatchChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src, quit := newWatchFake(1), make(chan struct{})
		events := watchRecord(src, quit)
		if len(*events) != 1 || !slices.Equal((*events)[0].indexes, []int{1}) || (*events)[0].at != 0 {
			t.Fatalf("at the beginning: %+v", *events)
		}

		src.tell(watchNotice{}) // a notice of nothing
		time.Sleep(time.Minute)
		synctest.Wait()
		if len(*events) != 1 || src.scanned() != 2 {
			t.Fatalf("after a notice of nothing: %d scans, %+v", src.scanned(), *events)
		}

		src.set(1, 2)
		src.tell(watchNotice{})
		time.Sleep(watchQuiet)
		synctest.Wait()
		if len(*events) != 2 || !slices.Equal((*events)[1].indexes, []int{1, 2}) {
			t.Fatalf("after a change: %+v", *events)
		}

		close(quit)
		synctest.Wait()
		if !src.isClosed() {
			t.Error("the source stays open")
		}
	})
}

// TestWatchBurst has a change every 10 ms for two seconds: too fast for the watch to see an end, so it has to look in between.
func TestWatchBurst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src, quit := newWatchFake(1), make(chan struct{})
		events := watchRecord(src, quit)
		for n := range 200 {
			time.Sleep(10 * time.Millisecond)
			src.set(1, 100+n)
			src.tell(watchNotice{})
		}
		time.Sleep(watchLimit)
		synctest.Wait()
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
			t.Errorf("call %d tells of %d interfaces gone", n, gone)
		}
	}
	close(quit)
	<-flooded
}

// TestWatchGone checks what the lists do not show.
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
		// Who opened a socket when it was there before, after the first scan, has lost its memberships.
		{"new after gone", []watchNotice{{seen: watchSeen(eventGone, 9)}}, []int{1, 2, 9}, true, watchSeen(eventGone, 9), false},
		{"MTU dip", []watchNotice{{seen: watchSeen(eventMTU6, 1)}}, []int{1, 2}, true, watchSeen(eventMTU6, 1), false},
		{"MTU dip of a new one", []watchNotice{{seen: watchSeen(eventMTU6, 9)}}, []int{1, 2, 9}, true, watchSeen(eventMTU6, 9), false},
		{"deep MTU dip", []watchNotice{{seen: watchSeen(eventMTU4|eventMTU6, 1)}}, []int{1, 2}, true, watchSeen(eventMTU4|eventMTU6, 1), false},
		{"MTU small as ever", []watchNotice{{seen: watchSeen(eventMTU6, 5)}}, []int{1, 2}, false, nil, false},
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
					src.tell(n)
				}
				time.Sleep(time.Second)
				synctest.Wait()
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
				// It is told once.
				src.tell(watchNotice{})
				time.Sleep(time.Second)
				synctest.Wait()
				if n := len(*events) - 1; n > len(yielded) {
					t.Errorf("told again: %+v", (*events)[1:])
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
		src.tell(watchNotice{lost: map[watchAddr]bool{one: true}})
		src.tell(watchNotice{lost: map[watchAddr]bool{two: true}})
		time.Sleep(time.Second)
		src.tell(watchNotice{})
		time.Sleep(time.Second)
		synctest.Wait()
		want := map[watchAddr]bool{one: true, two: true}
		if len(*events) != 2 || !maps.Equal((*events)[1].Lost, want) {
			t.Errorf("got %+v, want one that has lost %v", (*events)[1:], want)
		}
		close(quit)
	})
}

// TestWatchUp checks that an interface that was down is told once, when it is up, whether or not a scan saw it down.
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
			src.tell(step.notice)
			time.Sleep(time.Second)
			synctest.Wait()
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

// TestWatchScanFails checks that an error is told, that it is tried again without a notice, and that nothing is forgotten.
func TestWatchScanFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src, quit := newWatchFake(1), make(chan struct{})
		events := watchRecord(src, quit)
		broken := errors.New("broken")
		src.fail(broken)
		src.tell(watchNotice{seen: watchSeen(eventGone, 1)})
		time.Sleep(watchQuiet + watchRetry)
		synctest.Wait()
		if len(*events) != 3 || (*events)[1].err != broken || (*events)[2].err != broken || (*events)[2].Interfaces != nil {
			t.Fatalf("got %+v", *events)
		}
		src.fail(nil)
		time.Sleep(watchRetry)
		synctest.Wait()
		if len(*events) != 4 || (*events)[3].err != nil || !maps.Equal((*events)[3].Events, watchSeen(eventGone, 1)) {
			t.Fatalf("got %+v", *events)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if len(*events) != 4 {
			t.Fatalf("got %+v", *events)
		}
		close(quit)
	})
}

// TestWatchWaitFails checks that an ear gone deaf is not listened to in a busy loop, and does not blind the watch.
func TestWatchWaitFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src, quit := newWatchFake(1), make(chan struct{})
		src.broken = errors.New("broken")
		events := watchRecord(src, quit)
		src.set(1, 2)
		time.Sleep(10*watchRetry + watchRetry/2)
		synctest.Wait()
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
				src.tell(watchNotice{})
				time.AfterFunc(time.Second, func() {
					src.fail(errors.New("broken"))
					src.tell(watchNotice{})
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
				src.tell(watchNotice{})
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
			sources[2].tell(watchNotice{})
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
			src.tell(watchNotice{})
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

// watchOnce makes a follower of a function that does not ask to be called again.
func watchOnce(f func(networkChange)) func(networkChange) (again time.Duration) {
	return func(c networkChange) time.Duration { f(c); return 0 }
}

// TestFollowAgain has a follower ask to be called again, although nothing changes, until it is content.
func TestFollowAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub, _ := watchTestHub()
		calls, others := 0, 0
		stopOther := watchFollow(t, hub, func(networkChange) { others++ })
		stop, err := hub.follow(func(networkChange) time.Duration {
			if calls++; calls < 4 {
				return watchRetry
			}
			return 0
		})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * watchRetry)
		synctest.Wait()
		if calls != 4 || others != 1 {
			t.Errorf("%d calls, want 4; %d of one who did not ask, want 1", calls, others)
		}
		stop()
		stopOther()
	})
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
		src.tell(watchNotice{})
		time.Sleep(time.Second)
		synctest.Wait()
		if len(a) != 2 || len(b) != 2 || len(a[1].Interfaces) != 2 || len(b[1].Interfaces) != 2 {
			t.Fatalf("after a change: %+v, %+v", a, b)
		}

		// A change that the newcomer's own scan finds is told to all.
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
		src.tell(watchNotice{})
		time.Sleep(time.Second)
		synctest.Wait()
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
		time.Sleep(10 * watchRetry)
		synctest.Wait()
		if calls != 0 {
			t.Error("called without a list")
		}
		(*sources)[0].fail(nil)
		time.Sleep(10 * watchRetry)
		synctest.Wait()
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

// TestFollowStopWaits checks whom stop waits for: its own function, and no other.
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

// TestFollowLateComer checks that a follower is not told of a scan that began before it came.
func TestFollowLateComer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub, sources := watchTestHub()
		var late []networkChange
		var stopLate func()
		early := 0
		stop := watchFollow(t, hub, func(c networkChange) { // runs between that scan and the delivery to others
			if early++; early == 1 {
				(*sources)[0].set(1, 2)
				stopLate, _ = hub.follow(watchOnce(func(c networkChange) { late = append(late, c) }))
			}
		})
		synctest.Wait()
		if early != 2 || len(late) != 1 || len(late[0].Interfaces) != 2 {
			t.Errorf("%d early calls; late: %+v", early, late)
		}
		stopLate()
		stop()
	})
}

// TestFollowStopOther stops a follower when it is about to be told of a change.
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
		(*sources)[0].tell(watchNotice{})
		time.Sleep(time.Second)
		synctest.Wait()
		if calls != 1 {
			t.Errorf("%d calls", calls)
		}
		stop()
	})
}

// TestFollowConcurrent lets followers come and go from everywhere at once.
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

// watchCounted is a source that tells when it is closed.
type watchCounted struct {
	*watchFake
	onClose func()
}

func (s watchCounted) close() {
	s.watchFake.close()
	s.onClose()
}
