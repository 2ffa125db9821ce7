package mcast

import (
	"net/netip"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"time"
	"weak"

	"github.com/go-multicast/mcast/internal/slow"
	"github.com/go-multicast/mcast/mcasttest"
)

// wantFreed waits until the garbage collector has freed what the pointers point to.
func wantFreed[T any](t *testing.T, all ...weak.Pointer[T]) {
	t.Helper()
	for end := time.Now().Add(slow.Limit(20 * time.Second)); ; runtime.GC() {
		kept := 0
		for _, p := range all {
			if p.Value() != nil {
				kept++
			}
		}
		if kept == 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%d of %d %T are still in memory", kept, len(all), *new(T))
		}
	}
}

// joined returns the pairs and conns that s has for a group.
func joined(s *RxSocket, group netip.Addr) (pairs []weak.Pointer[pair], conns []weak.Pointer[conn]) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.group(group).pairs {
		pairs = append(pairs, weak.Make(p))
		for _, c := range p.conns {
			conns = append(conns, weak.Make(c))
		}
	}
	return pairs, conns
}

// TestLeftGroupsAreFreed joins and leaves groups beside one that has received a datagram and is quiet since. Nothing of
// the groups that were left stays in memory while the socket is open.
func TestLeftGroupsAreFreed(t *testing.T) {
	home := scriptHome(t)
	for _, coalesce := range []bool{false, true} {
		t.Run("Coalesce "+strconv.FormatBool(coalesce), func(t *testing.T) {
			const rounds = 20
			all, port := sequence("239.80.2.1", rounds+1), scriptPort(t)
			rx, err := OpenRx(RxConfig{Groups: all[:1], Port: port, Interfaces: []Interface{home}, Loopback: true, Coalesce: coalesce, Static: true})
			if err != nil {
				t.Fatal(err)
			}
			defer rx.Close()
			tx, err := OpenTx(TxConfig{Groups: all, Interfaces: []Interface{home}, Loopback: true, Static: true})
			if err != nil {
				t.Fatal(err)
			}
			defer tx.Close()
			rx.SetReadDeadline(time.Now().Add(slow.Limit(20 * time.Second)))
			buf := make([]byte, 10)
			exchange := func(group netip.Addr) {
				t.Helper()
				if _, err := tx.WriteToUDPAddrPort(buf, netip.AddrPortFrom(group, port)); err != nil {
					t.Fatal(err)
				}
				if _, _, err := rx.ReadFromUDPAddrPort(buf); err != nil {
					t.Fatal(err)
				}
			}
			join := func(group netip.Addr) {
				t.Helper()
				if err := rx.Join(group); err != nil {
					t.Fatal(err)
				}
			}
			leave := func(group netip.Addr) {
				t.Helper()
				if err := rx.Leave(group); err != nil {
					t.Fatal(err)
				}
			}
			exchange(all[0])
			join(all[1])
			exchange(all[1])
			var pairs []weak.Pointer[pair]
			var conns []weak.Pointer[conn]
			for n := 1; n < rounds; n++ {
				join(all[n+1])
				exchange(all[n+1])
				p, c := joined(rx, all[n])
				pairs, conns = append(pairs, p...), append(conns, c...)
				leave(all[n])
			}
			wantFreed(t, pairs...)
			wantFreed(t, conns...)
			exchange(all[0])
		})
	}
}

// TestStoppedFollowersAreFreed has followers of the network come and stop after they were called, as sockets do that are
// closed, beside one that stays. The watch that they shared keeps nothing of them.
func TestStoppedFollowersAreFreed(t *testing.T) {
	mcasttest.Require(t)
	stay, err := processWatch.follow(func(networkChange) time.Duration { return 0 })
	if err != nil {
		t.Fatal(err)
	}
	defer stay()
	follow := func() weak.Pointer[watchFollower] {
		called := make(chan struct{})
		first := sync.OnceFunc(func() { close(called) })
		one := &watchFollower{follow: func(networkChange) time.Duration { first(); return 0 }}
		if err := processWatch.add(one); err != nil {
			t.Fatal(err)
		}
		defer one.stop()
		<-called
		return weak.Make(one)
	}
	var stopped []weak.Pointer[watchFollower]
	for range 5 { // the first scans may be more than there are followers
		stopped = append(stopped, follow())
	}
	wantFreed(t, stopped...)
}

// TestZonesBounded has more zones come than are kept.
func TestZonesBounded(t *testing.T) {
	var z zoneCache
	for scope := uint32(1); scope <= 3*maxZones; scope++ {
		for _, s := range []uint32{scope, 1, scope} {
			if got, want := z.zone(s), strconv.Itoa(int(s)); got != want {
				t.Fatalf("the zone of %d is %q", s, got)
			}
		}
		if len(z.all) > maxZones {
			t.Fatalf("%d zones are kept", len(z.all))
		}
	}
}
