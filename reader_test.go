package mcast

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"reflect"
	"runtime"
	"sync"
	"testing"
	"time"
	"weak"

	"github.com/go-multicast/mcast/internal/slow"
	"github.com/go-multicast/mcast/internal/testrun"
)

// TestScreen covers what is refused in user space: a link-local source comes with a zone, and is compared without.
func TestScreen(t *testing.T) {
	blocked := newAddrSet(append(sequence("10.1.0.1", 20), groups("fe80::b", "2001:db8::b")...))
	set := func(addrs ...string) *addrSet { return newAddrSet(groups(addrs...)) }
	for _, c := range []struct {
		filter  sourceFilter
		src     string
		refused bool
	}{
		{sourceFilter{}, "10.1.0.1", false},
		{sourceFilter{own: set("10.0.0.1", "fe80::1")}, "10.0.0.1", true},
		{sourceFilter{own: set("10.0.0.1", "fe80::1")}, "fe80::1%7", true},
		{sourceFilter{own: set("10.0.0.1", "fe80::1")}, "10.0.0.2", false},
		{sourceFilter{blocked: blocked}, "10.1.0.20", true},
		{sourceFilter{blocked: blocked}, "fe80::b%7", true},
		{sourceFilter{blocked: blocked}, "2001:db8::b", true},
		{sourceFilter{blocked: blocked}, "10.1.0.21", false},
		{sourceFilter{own: set("10.0.0.1"), blocked: blocked}, "10.0.0.1", true},
		{sourceFilter{own: set("10.0.0.1"), blocked: blocked}, "10.1.0.1", true},
		{sourceFilter{own: set("10.0.0.1"), blocked: blocked}, "10.1.1.1", false},
	} {
		one := conn{filter: c.filter}
		if got := one.refuses(netip.MustParseAddr(c.src), 1); got != c.refused {
			t.Errorf("%+v refuses %s: %v", c.filter, c.src, got)
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

// TestDrops: what the kernel counts in 32 bits adds up to 64.
func TestDrops(t *testing.T) {
	const lap = 1 << 32
	for _, c := range []struct {
		seen []uint32
		want uint64
	}{
		{nil, 0},
		{[]uint32{0, 0}, 0},
		{[]uint32{5, 5, 7}, 7},
		{[]uint32{lap - 1, lap - 1, 0}, lap},
		{[]uint32{lap - 2, 3}, lap + 3},
		{[]uint32{1 << 31, 0, 1 << 31, 0, 1 << 31, 1}, 3*lap + 1},
		{[]uint32{9, 8}, lap + 8}, // a whole lap but one
	} {
		var d drops
		for _, n := range c.seen {
			d.see(n)
		}
		if d.total != c.want {
			t.Errorf("%d add up to %d, want %d", c.seen, d.total, c.want)
		}
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
		testrun.AwaitParked(t, 4, "(*RxSocket).Messages")
		cancel()
		ended := make(chan struct{})
		go func() { loops.Wait(); close(ended) }()
		select {
		case <-ended:
		case <-time.After(slow.Limit(20 * time.Second)):
			t.Fatalf("round %d: a loop does not end with its context", round)
		}
	}
}

// wantError reads in each way that a socket has. Each must fail with want, and return nothing else.
func wantError(t *testing.T, s net.PacketConn, want error) {
	t.Helper()
	buf := make([]byte, 100)
	if n, src, err := s.ReadFrom(buf); n != 0 || src != nil || !errors.Is(err, want) {
		t.Errorf("ReadFrom returned %d, %v, %v; want 0, nil, %v", n, src, err, want)
	}
	plain := s.(interface {
		ReadFromUDPAddrPort([]byte) (int, netip.AddrPort, error)
	})
	if n, src, err := plain.ReadFromUDPAddrPort(buf); n != 0 || src != (netip.AddrPort{}) || !errors.Is(err, want) {
		t.Errorf("ReadFromUDPAddrPort returned %d, %v, %v; want zero values and %v", n, src, err, want)
	}
	rx, ok := s.(*RxSocket)
	if !ok {
		return
	}
	ms, untouched := make([]Message, 3), Message{Buf: buf}
	for i := range ms {
		ms[i] = untouched
	}
	if n, err := rx.ReadBatch(ms); n != 0 || !errors.Is(err, want) {
		t.Errorf("ReadBatch returned %d, %v; want 0, %v", n, err, want)
	}
	for i := range ms {
		if !reflect.DeepEqual(ms[i], untouched) {
			t.Errorf("ReadBatch failed, and left element %d as %+v", i, ms[i])
		}
	}
	for m, err := range rx.Messages(t.Context()) {
		if m != nil || !errors.Is(err, want) {
			t.Errorf("Messages yielded %+v, %v; want nil, %v", m, err, want)
		}
		break
	}
}

// TestErrorsReturnZeroValues: what a read discards on the way to an error is no part of what it returns.
func TestErrorsReturnZeroValues(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*RxConfig)
	}{
		{"plain", func(*RxConfig) {}},
		{"HopLimits", func(cfg *RxConfig) { cfg.HopLimits = true }},
		{"Coalesce", func(cfg *RxConfig) { cfg.Coalesce = true }},
	} {
		t.Run(c.name, func(t *testing.T) {
			forEachScript(t, func(t *testing.T, s *script) {
				cfg := RxConfig{Groups: s.groups[:1], Port: s.port, Interfaces: []Interface{s.home}, Loopback: true, Static: true}
				c.change(&cfg)
				var err error
				if s.rx, err = OpenRx(cfg); err != nil {
					t.Fatal(err)
				}
				defer s.rx.Close()
				s.tx = s.sender(s.home)
				s.wantDelivery("before")
				for _, read := range []func() (n int, src any, err error){
					func() (int, any, error) { return s.rx.ReadFrom(make([]byte, 100)) },
					func() (int, any, error) { return s.rx.ReadFromUDPAddrPort(make([]byte, 100)) },
					func() (int, any, error) {
						ms := []Message{{Buf: make([]byte, 100)}, {Buf: make([]byte, 100)}}
						n, err := s.rx.ReadBatch(ms)
						for _, m := range ms {
							if m.Addr.IsValid() || m.Group.IsValid() || m.IfIndex != 0 || m.N != 0 {
								t.Errorf("ReadBatch left %+v of a datagram that it discarded", m)
							}
						}
						return n, nil, err
					},
				} {
					wantNothingOfDiscarded(t, s, read)
				}
				for _, socket := range []net.PacketConn{s.rx, s.tx} {
					socket.SetReadDeadline(longAgo)
					wantError(t, socket, os.ErrDeadlineExceeded)
					if err := socket.Close(); err != nil {
						t.Fatal(err)
					}
					wantError(t, socket, net.ErrClosed)
				}
			})
		})
	}
}

// wantNothingOfDiscarded has a read discard a datagram and then meet its deadline. The deadline grows until the read has come
// to the datagram before it.
func wantNothingOfDiscarded(t *testing.T, s *script, read func() (int, any, error)) {
	t.Helper()
	refuse := func(blocked ...netip.Addr) {
		s.rx.m.update(func() { s.rx.groups[0].pairs[0].conns[0].filter.only = newAddrSet(blocked) })
	}
	for wait := 10 * time.Millisecond; ; wait *= 2 {
		for range 2 { // from then on the merge expects one datagram, and does not look for another
			s.send(s.tx)
			s.rx.SetReadDeadline(time.Now().Add(slow.Limit(20 * time.Second)))
			if _, _, err := s.rx.ReadFromUDPAddrPort(make([]byte, 100)); err != nil {
				t.Fatal(err)
			}
			s.wantNothing("after a single datagram")
		}
		refuse(netip.MustParseAddr("192.0.2.1"))
		s.send(s.tx)
		s.rx.SetReadDeadline(time.Now().Add(wait))
		n, src, err := read()
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("read returned %d, %v, %v", n, src, err)
		}
		if zero := src == nil || src == (netip.AddrPort{}); n != 0 || !zero {
			t.Errorf("read returned %d, %v, %v; want zero values with the error", n, src, err)
		}
		refuse()
		s.rx.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
		if _, _, err := s.rx.ReadFromUDPAddrPort(make([]byte, 100)); err != nil {
			return // it was discarded
		}
		if wait > 20*time.Second {
			t.Fatal("the read does not come to the datagram before its deadline")
		}
	}
}

// TestClosedSocketIsFreed: no deadline keeps the memory of a socket that is closed until it passes.
func TestClosedSocketIsFreed(t *testing.T) {
	home := scriptHome(t)
	group, port := groups("239.80.1.1"), scriptPort(t)
	late := time.Now().Add(time.Hour)
	type deadlined interface {
		net.PacketConn
		ReadFromUDPAddrPort([]byte) (int, netip.AddrPort, error)
	}
	for _, kind := range []struct {
		name string
		open func() (deadlined, *reader, error)
	}{
		{"RxSocket", func() (deadlined, *reader, error) {
			s, err := OpenRx(RxConfig{Groups: group, Port: port, Interfaces: []Interface{home}, Loopback: true, Static: true})
			if err != nil {
				return nil, nil, err
			}
			_, err = s.WriteToUDPAddrPort([]byte("opens what replies are sent with"), netip.AddrPortFrom(home.IPv4[0].Addr(), port))
			return s, s.reader, err
		}},
		{"TxSocket", func() (deadlined, *reader, error) {
			s, err := OpenTx(TxConfig{Groups: group, Interfaces: []Interface{home}, Static: true})
			if err != nil {
				return nil, nil, err
			}
			return s, s.reader, nil
		}},
	} {
		for _, use := range []struct {
			name string
			f    func(s deadlined, r *reader) error // ends with Close
		}{
			{"no deadline", func(s deadlined, _ *reader) error { return s.Close() }},
			{"deadlines before Close", func(s deadlined, _ *reader) error {
				return errors.Join(s.SetDeadline(late), s.SetReadDeadline(late), s.SetWriteDeadline(late), s.Close())
			}},
			{"deadlines after Close", func(s deadlined, _ *reader) error {
				if err := s.Close(); err != nil {
					return err
				}
				for _, set := range []func(time.Time) error{s.SetDeadline, s.SetReadDeadline, s.SetWriteDeadline} {
					if err := set(late); !errors.Is(err, net.ErrClosed) {
						return fmt.Errorf("after Close, setting a deadline returns %v", err)
					}
				}
				return nil
			}},
			{"deadline while it is closed", func(s deadlined, _ *reader) error {
				ended := make(chan error, 1)
				go func() { ended <- s.Close() }()
				for s.SetReadDeadline(late) == nil {
				}
				return <-ended
			}},
			{"a read that its context ended, and that returns after Close", func(s deadlined, r *reader) error {
				if err := s.SetReadDeadline(late); err != nil {
					return err
				}
				ctx, cancel := context.WithCancel(context.Background())
				defer cancel()
				series, stop := r.until(ctx)
				if err := r.enter(series); err != nil {
					return err
				}
				cancel()
				for cut := false; !cut; runtime.Gosched() {
					r.mu.Lock()
					cut = r.cut
					r.mu.Unlock()
				}
				err := s.Close()
				r.leave(series)
				stop()
				return err
			}},
		} {
			t.Run(kind.name+"/"+use.name, func(t *testing.T) {
				closed := func() weak.Pointer[merge] {
					s, r, err := kind.open()
					if err != nil {
						t.Fatal(err)
					}
					s.SetReadDeadline(longAgo)
					s.ReadFromUDPAddrPort(nil) // has replies received
					s.SetReadDeadline(time.Time{})
					if err := use.f(s, r); err != nil {
						t.Fatal(err)
					}
					return weak.Make(r.m)
				}()
				for end := time.Now().Add(slow.Limit(20 * time.Second)); closed.Value() != nil; runtime.GC() {
					if time.Now().After(end) {
						t.Fatal("its memory is not freed")
					}
				}
			})
		}
	}
}
