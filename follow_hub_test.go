// What followers of one network share: one retry, and one preparation before any of them acts.

package mcast

import (
	"slices"
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
		stop, err := hub.follow(func(networkChange) bool { calls.Add(1); return true })
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

// TestFollowAsks has a follower ask by itself, without a change.
func TestFollowAsks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub, _ := watchTestHub()
		calls, others := 0, 0
		one := &watchFollower{f: func(networkChange) bool { calls++; return false }}
		if err := hub.add(one); err != nil {
			t.Fatal(err)
		}
		stopOther := watchFollow(t, hub, func(networkChange) { others++ })
		synctest.Wait()
		one.again()
		one.again()
		time.Sleep(10 * watchRetry)
		synctest.Wait()
		if calls != 2 || others != 1 {
			t.Errorf("%d calls of the one who asked, want 2, and %d of the other, want 1", calls, others)
		}
		one.stop()
		stopOther()
		one.again() // harmless
	})
}

// TestFollowPrepares checks that all followers prepare for a change before one of them acts.
func TestFollowPrepares(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub, sources := watchTestHub()
		var did []string
		for _, name := range []string{"a", "b"} {
			one := &watchFollower{
				prepare: func(networkChange) { did = append(did, "prepare "+name) },
				f:       func(networkChange) bool { did = append(did, name); return false },
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
			{watchNotice{gone: watchSet(1)}, []string{"prepare a", "prepare b", "a", "b"}},
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
				prepare: func(networkChange) { did = append(did, "prepare "+name, may()) },
				f:       func(networkChange) bool { did = append(did, name, may()); return false },
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
		src.tell(watchNotice{gone: watchSet(1)})
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
