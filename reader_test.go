package mcast

import (
	"context"
	"net/netip"
	"sync"
	"testing"
	"time"
)

// TestScreen covers what is refused in user space: a link-local source comes with a zone, and is compared without.
func TestScreen(t *testing.T) {
	blocked := append(sequence("10.1.0.1", 20), groups("fe80::b", "2001:db8::b")...)
	for _, c := range []struct {
		screen  screen
		src     string
		refused bool
	}{
		{screen{}, "10.1.0.1", false},
		{screen{own: groups("10.0.0.1", "fe80::1")}, "10.0.0.1", true},
		{screen{own: groups("10.0.0.1", "fe80::1")}, "fe80::1%7", true},
		{screen{own: groups("10.0.0.1", "fe80::1")}, "10.0.0.2", false},
		{screen{blocked: blocked}, "10.1.0.20", true},
		{screen{blocked: blocked}, "fe80::b%7", true},
		{screen{blocked: blocked}, "2001:db8::b", true},
		{screen{blocked: blocked}, "10.1.0.21", false},
		{screen{own: groups("10.0.0.1"), blocked: blocked}, "10.0.0.1", true},
		{screen{own: groups("10.0.0.1"), blocked: blocked}, "10.1.0.1", true},
		{screen{own: groups("10.0.0.1"), blocked: blocked}, "10.1.1.1", false},
	} {
		one := conn{screen: c.screen}
		if got := one.refuses(netip.MustParseAddr(c.src), 1); got != c.refused {
			t.Errorf("%+v refuses %s: %v", c.screen, c.src, got)
		}
	}
}

func TestCounters(t *testing.T) {
	var c counters
	c.add(10, false)
	c.add(0, false)
	c.add(5, true)
	if want := (counters{packets: 3, bytes: 15, truncated: 1}); c != want {
		t.Errorf("%+v, want %+v", c, want)
	}
}

// TestMessagesShareContext ends several loops over one socket with the context that they share: each of them is interrupted,
// and interrupts the others, and none may take its own interruption for another's.
func TestMessagesShareContext(t *testing.T) {
	rx, err := OpenRx(RxConfig{Groups: groups("239.80.1.1"), Port: scriptPort(t), Interfaces: []Interface{scriptHome(t)}, Static: true})
	if err != nil {
		t.Fatal(err)
	}
	defer rx.Close()
	for round := range 300 {
		ctx, cancel := context.WithCancel(t.Context())
		var loops sync.WaitGroup
		for range 4 {
			loops.Go(func() {
				for range rx.Messages(ctx) {
				}
			})
		}
		time.Sleep(time.Millisecond) // as a rule they wait by then
		cancel()
		ended := make(chan struct{})
		go func() { loops.Wait(); close(ended) }()
		select {
		case <-ended:
		case <-time.After(20 * time.Second):
			t.Fatalf("round %d: a loop does not end with its context", round)
		}
	}
}
