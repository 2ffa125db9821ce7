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
		(*sources)[0].set(1, 2)
		(*sources)[0].tell(watchNotice{})
		time.Sleep(time.Second)
		synctest.Wait()
		if want := []string{"prepare a", "prepare b", "a", "b"}; !slices.Equal(did, want) {
			t.Errorf("it was %v, want %v", did, want)
		}
	})
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
