// A clock that is set while deadlines run. Linux has no namespace of the wall clock (time_namespaces(7)), so the test is for
// a machine whose clock matters to nobody else.

package mcast_test

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/go-multicast/mcast"
	"golang.org/x/sys/unix"
)

// TestClockSet sets the clock by a day, ahead and back, while reads wait with a deadline and while sockets follow the
// network. Deadlines are what they were: an hour is not over, and an instant is over soon.
func TestClockSet(t *testing.T) {
	noLeaks(t)
	set := settableClock(t)
	for _, by := range []time.Duration{24 * time.Hour, -24 * time.Hour} {
		t.Run(by.String(), func(t *testing.T) { testClockSet(t, func(off bool) { set(off, by) }) })
	}
}

func testClockSet(t *testing.T, set func(off bool)) {
	w := newWires(t, 1)[0]
	cfg := onWire(w, newPort(), contractFamilies[0].group)
	cfg.Loopback = true
	rx := openRx(t, cfg)
	tx := openTx(t, mcast.TxConfig{Groups: cfg.Groups, Interfaces: cfg.Interfaces, Loopback: true})
	read := func(socket net.PacketConn) func() outcome {
		return func() outcome {
			b := make([]byte, 10)
			n, _, err := socket.ReadFrom(b)
			return outcome{string(b[:n]), err}
		}
	}
	write := func(payload string) {
		if _, err := tx.WriteToUDPAddrPort([]byte(payload), netip.AddrPortFrom(cfg.Groups[0], cfg.Port)); err != nil {
			t.Error(err)
		}
	}

	// An hour. The first read waits when the clock is set, the second begins after it.
	set(false)
	rx.SetDeadline(time.Now().Add(time.Hour))
	tx.SetDeadline(time.Now().Add(time.Hour))
	first := start(read(rx))
	awaitBlocked(t, 1)
	set(true)
	write("first")
	if o := await(t, first); o != (outcome{"first", nil}) {
		t.Errorf("a read that waits: %+v", o)
	}
	write("second")
	if o := read(rx)(); o != (outcome{"second", nil}) {
		t.Errorf("a read that begins: %+v", o)
	}

	// An instant.
	for name, socket := range map[string]net.PacketConn{"rx": rx, "tx": tx} {
		const wait = 50 * time.Millisecond
		set(false)
		begin := time.Now()
		socket.SetReadDeadline(begin.Add(wait))
		set(true)
		o := await(t, start(read(socket)))
		if took := time.Since(begin); !errors.Is(o.err, os.ErrDeadlineExceeded) || took < wait {
			t.Errorf("%s: %+v after %v, want a timeout after %v", name, o, took, wait)
		}
	}

	// Following, which waits until a burst of changes is over.
	set(false)
	rx.SetReadDeadline(time.Time{})
	third := start(read(rx))
	w.Travel()
	set(true)
	for end := time.Now().Add(patience); len(third) == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("nothing comes by an interface that was away: %+v", rx.Memberships())
		}
		tx.WriteToUDPAddrPort([]byte("third"), netip.AddrPortFrom(cfg.Groups[0], cfg.Port)) // until that can be done
	}
	if o := <-third; o != (outcome{"third", nil}) {
		t.Errorf("a read by an interface that was away: %+v", o)
	}
}

// settableClock returns a function that sets the machine's clock off by so much, or back. It is back when the test ends.
func settableClock(t *testing.T) (set func(off bool, by time.Duration)) {
	t.Helper()
	if os.Getenv("MCAST_TEST_CLOCK") != "1" {
		notHere(t, "a clock that may be set (MCAST_TEST_CLOCK=1, for a virtual machine)")
	}
	begin := time.Now()
	set = func(off bool, by time.Duration) {
		t.Helper()
		now := begin.Round(0).Add(time.Since(begin)) // of the wall clock, by the monotonic one
		if off {
			now = now.Add(by)
		}
		to := unix.NsecToTimespec(now.UnixNano())
		if err := unix.ClockSettime(unix.CLOCK_REALTIME, &to); err != nil {
			t.Fatal(os.NewSyscallError("clock_settime", err))
		}
	}
	t.Cleanup(func() { set(false, 0) })
	now := time.Now()
	set(true, time.Hour)
	then := time.Now()
	if then.Sub(now) > time.Hour/2 || then.Round(0).Sub(now.Round(0)) < time.Hour/2 {
		t.Fatalf("an hour ahead of %v it was %v", now, then)
	}
	return set
}
