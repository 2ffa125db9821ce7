// What followers of one network share: one retry, and one preparation before any of them acts.

package mcast

import (
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestFollowAgainOnce has changes come while followers ask to be called again: they are, once a second, however many
// changes there were.
func TestFollowAgainOnce(t *testing.T) {
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
			(*sources)[0].tell(watchNotice{})
			time.Sleep(2 * watchQuiet)
		}
		synctest.Wait()
		before := calls.Load()
		time.Sleep(10 * watchRetry)
		synctest.Wait()
		if n := calls.Load() - before; n < 9 || n > 11 {
			t.Errorf("%d calls in ten seconds, after %d before", n, before)
		}
		stop()
	})
}

// TestFollowAlarm has followers that want to be called again at times of their own: each is, and no scan is for nobody.
func TestFollowAlarm(t *testing.T) {
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
		time.Sleep(time.Minute + time.Millisecond)
		synctest.Wait()
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
			t.Errorf("%d scans when nobody asks any more", n)
		}
		stops[2]()
	})
}

// TestFollowAlarmShared has a hundred followers that want to be called at about the same time.
func TestFollowAlarmShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub, sources := watchTestHub()
		var calls atomic.Int64
		for range 100 {
			stop, err := hub.follow(func(networkChange) time.Duration { calls.Add(1); return 10 * time.Second })
			if err != nil {
				t.Fatal(err)
			}
			defer stop()
			time.Sleep(2 * time.Millisecond)
		}
		src := (*sources)[0]
		scans, before := src.scanned(), calls.Load()
		time.Sleep(time.Minute)
		synctest.Wait()
		if n, c := src.scanned()-scans, calls.Load()-before; c < 500 || c > 600 || n > 6 {
			t.Errorf("%d calls and %d scans in a minute, want 5 or 6 for each of a hundred, and at most 6", c, n)
		}
	})
}

// TestFollowUnchanged checks that a follower can distinguish a change from a call that it asked for, or one about routes.
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
			{"routes", func() { src.tell(watchNotice{routes: true}) }, []bool{true}},
			{"a notice of nothing", func() { src.tell(watchNotice{}) }, nil},
			{"another list", func() { src.set(1, 2); src.tell(watchNotice{}) }, []bool{false}},
			{"lost memberships", func() { src.tell(watchNotice{seen: watchSeen(eventGone, 1)}) }, []bool{false}},
			{"lost notices", func() { src.tell(watchNotice{overflow: true}) }, []bool{false}},
			{"another follower", func() { defer watchFollow(t, hub, func(networkChange) {})(); synctest.Wait() }, nil},
			{"a call after all this", func() { time.Sleep(time.Minute) }, []bool{true}},
		} {
			step.do()
			time.Sleep(time.Second)
			synctest.Wait()
			mu.Lock()
			if !slices.Equal(unchanged, step.wanted) {
				t.Errorf("%s: unchanged: %v, want %v", step.what, unchanged, step.wanted)
			}
			unchanged = nil
			mu.Unlock()
		}
	})
}

// TestFollowAsks has a follower ask by itself, without a change.
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
		time.Sleep(10 * watchRetry)
		synctest.Wait()
		if calls != 2 || others != 1 {
			t.Errorf("%d calls of the one who asked, want 2, and %d of the other, want 1", calls, others)
		}
		one.stop()
		stopOther()
		one.retry() // harmless
	})
}

// TestFollowPrepares checks that all followers prepare for a change before one of them acts.
func TestFollowPrepares(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub, sources := watchTestHub()
		var did []string
		for _, name := range []string{"a", "b"} {
			one := &watchFollower{
				prepare: func(networkChange) bool { did = append(did, "prepare "+name); return true },
				follow:  func(networkChange) time.Duration { did = append(did, name); return 0 },
			}
			if err := hub.add(one); err != nil {
				t.Fatal(err)
			}
			defer one.stop()
			synctest.Wait()
		}
		did = nil
		for _, test := range []struct {
			notice watchNotice
			want   []string
		}{
			{watchNotice{seen: watchSeen(eventGone, 1)}, []string{"prepare a", "prepare b", "a", "b"}},
			{watchNotice{overflow: true}, []string{"prepare a", "prepare b", "a", "b"}},
			{watchNotice{}, []string{"a", "b"}}, // there is nothing to prepare for
		} {
			did = nil
			(*sources)[0].set(1, 2+len(test.want))
			(*sources)[0].tell(test.notice)
			time.Sleep(time.Second)
			synctest.Wait()
			if !slices.Equal(did, test.want) {
				t.Errorf("%+v: it was %v, want %v", test.notice, did, test.want)
			}
		}
	})
}

// TestFollowPreparesLate has a follower come after the scan that the others are told of. It prepares with them, and acts
// when it is told of a scan itself. Nobody may join while they prepare, and anybody when they act.
func TestFollowPreparesLate(t *testing.T) {
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
		src.tell(watchNotice{seen: watchSeen(eventGone, 1)})
		time.Sleep(time.Second)
		synctest.Wait()
		want := []string{
			"prepare early", "nobody joins", "prepare late", "nobody joins",
			"early", "anybody joins", "late", "anybody joins",
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

// TestFollowRoutes checks who is told of a default route: followers, and not the loops over WatchInterfaces.
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
			s.tell(watchNotice{routes: true})
			s.tell(watchNotice{})
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if routes != 1 || len(*events) != 1 {
			t.Errorf("it was told %d times, want once, and %d lists were yielded, want the first alone", routes, len(*events))
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
			(*sources)[0].tell(notice)
			time.Sleep(time.Second)
			synctest.Wait()
			if want := []string{"needs none", "ask ip4", "ask ip6"}; !slices.Equal(did, want) || calls != 50 {
				t.Errorf("%+v: %q with %d calls, want %q with 50", notice, did, calls, want)
			}
		}
		did = nil
		(*sources)[0].tell(watchNotice{})
		time.Sleep(time.Second)
		synctest.Wait()
		if did != nil {
			t.Errorf("nothing changed: %q", did)
		}
	})
}
