// Following, played by script: lists of interfaces, some of them true to what no test can make a machine do, for sockets that
// are real. All memberships are on the one interface that exists, so that they are joined, left and received from on every
// system. The sockets are Static, and the script calls what the watch would call.

package mcast

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-multicast/mcast/internal/slow"
	"github.com/go-multicast/mcast/internal/wine"
	"github.com/go-multicast/mcast/mcasttest"
)

func TestBackoff(t *testing.T) {
	now := time.Now()
	var b backoff
	for n, seconds := range []time.Duration{1, 2, 4, 8, 16, 32, 60, 60, 60} {
		if !b.due(now) {
			t.Errorf("not due after %d failures", n)
		}
		b.failed(now)
		wait := seconds * time.Second
		if b.left(now) != wait || b.due(now.Add(wait-backoffSlack-1)) || !b.due(now.Add(wait-backoffSlack)) {
			t.Errorf("after %d failures it is due in %v, want %v", n+1, b.left(now), wait)
		}
		now = now.Add(wait)
	}
	for _, c := range []struct{ a, b, want time.Duration }{{0, 0, 0}, {0, 5, 5}, {5, 0, 5}, {5, 7, 5}, {7, 5, 5}} {
		if got := soonest(c.a, c.b); got != c.want {
			t.Errorf("the soonest of %d and %d is %d", c.a, c.b, got)
		}
	}
}

// TestSuccessors: which interface of a list is the tracked one, by its index or by a name of the one that is gone.
func TestSuccessors(t *testing.T) {
	ifc := func(name string, index int, alt ...string) Interface {
		return Interface{Name: name, Index: index, AltNames: alt}
	}
	back := watchSeen(eventGone, 2)
	for _, c := range []struct {
		what string
		gone map[int]watchEvents
		now  []Interface
		want int // its index; 0: it is gone
		fate fate
	}{
		{"nothing happened", nil, []Interface{ifc("lo", 1), ifc("eth0", 2)}, 2, fateSame},
		{"renamed", nil, []Interface{ifc("lo", 1), ifc("wan0", 2)}, 2, fateSame},
		{"renamed, and another has the name", nil, []Interface{ifc("wan0", 2), ifc("eth0", 3)}, 2, fateSame},
		{"created again", nil, []Interface{ifc("lo", 1), ifc("eth0", 7)}, 7, fateBack},
		{"created again, with a notice", back, []Interface{ifc("lo", 1), ifc("eth0", 7)}, 7, fateBack},
		{"away and back with its index", back, []Interface{ifc("eth0", 2)}, 2, fateBack},
		{"the index is another's now", back, []Interface{ifc("usb0", 2), ifc("eth0", 7)}, 7, fateBack},
		{"only the index is back", back, []Interface{ifc("usb0", 2)}, 0, fateLost},
		{"deleted", back, []Interface{ifc("lo", 1)}, 0, fateLost},
		{"nothing is left", nil, nil, 0, fateLost},
		{"back under a new name", back, []Interface{ifc("lo", 1), ifc("eth1", 7, "other", "uplink")}, 7, fateBack},
		{"back under an alternative name as its name", back, []Interface{ifc("uplink", 7)}, 7, fateBack},
		{"back under its first name as an alternative name", back, []Interface{ifc("eth1", 7, "eth0")}, 7, fateBack},
		{"another has its first name", back, []Interface{ifc("eth1", 7, "uplink"), ifc("eth0", 8)}, 8, fateBack},
		{"another has its index", back, []Interface{ifc("eth1", 2), ifc("eth2", 7, "enp3s0")}, 7, fateBack},
		{"back without its alternative names", back, []Interface{ifc("eth1", 7)}, 0, fateLost},
		{"with the alternative names of others", back, []Interface{ifc("eth1", 7, "enp4s0", "")}, 0, fateLost},
	} {
		k := trackedInterface{name: "eth0", ifc: ifc("eth0", 2, "enp3s0", "uplink")}
		change := networkChange{Interfaces: c.now, Events: c.gone}
		now := successors([]*trackedInterface{&k}, change)[0]
		index := 0
		if now != nil {
			index = now.Index
		}
		if fate := k.fate(now, change); index != c.want || fate != c.fate {
			t.Errorf("%s: index %d and fate %d, want %d and %d", c.what, index, fate, c.want, c.fate)
		}
	}
	// It was eth0 when the socket began to track it, was renamed since, and is gone: its first name counts.
	k := trackedInterface{name: "eth0", ifc: ifc("wan0", 2), gone: true}
	change := networkChange{Interfaces: []Interface{ifc("eth0", 9)}}
	if now := successors([]*trackedInterface{&k}, change)[0]; now == nil || k.fate(now, change) != fateBack {
		t.Errorf("back under the first name: %+v", now)
	}
	if fate := k.fate(nil, networkChange{}); fate != fateAway {
		t.Errorf("still gone: fate %d", fate)
	}
}

// script is a receiver, and a sender that nothing happens to, on the interface of these tests.
type script struct {
	*testing.T
	home   Interface
	groups []netip.Addr
	port   uint16
	rx     *RxSocket
	tx     *TxSocket
	log    strings.Builder
	sent   int
}

// scriptHome is the interface of these tests: the loopback interface, or what MCAST_TEST_INTERFACE names (see
// testhelp_test.go).
func scriptHome(t *testing.T) Interface {
	t.Helper()
	mcasttest.Require(t)
	all, err := Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	if spec := os.Getenv("MCAST_TEST_INTERFACE"); spec != "" {
		all, err = SelectInterfaces(all, spec)
		if err != nil {
			t.Fatal(err)
		}
		return all[0]
	}
	i := slices.IndexFunc(all, Interface.IsLoopback)
	if i < 0 {
		t.Skip("there is no loopback interface")
	}
	return all[i]
}

// forEachScript runs a script for each family that home has.
func forEachScript(t *testing.T, f func(t *testing.T, s *script)) {
	home := scriptHome(t)
	for _, family := range []struct {
		name   string
		groups []netip.Addr
		has    bool
	}{
		{"IPv4", groups("239.80.1.1", "239.80.1.2"), len(home.IPv4) > 0},
		{"IPv6", groups("ff02::80:1", "ff02::80:2"), len(home.IPv6) > 0},
	} {
		t.Run(family.name, func(t *testing.T) {
			if !family.has {
				t.Skipf("%s has no %s address", home.Name, family.name)
			}
			f(t, &script{T: t, home: home, groups: family.groups, port: scriptPort(t)})
		})
	}
}

// scriptPort is one that is free, as long as nobody else wants one.
func scriptPort(t *testing.T) uint16 {
	c, err := net.ListenUDP("udp4", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return c.LocalAddr().(*net.UDPAddr).AddrPort().Port()
}

// open opens the receiver for the first group, and a sender for all of them.
func (s *script) open(interfaces ...Interface) {
	s.Helper()
	var err error
	s.rx, err = OpenRx(RxConfig{Groups: s.groups[:1], Port: s.port, Interfaces: interfaces, Loopback: true, Static: true,
		Logger: slog.New(slog.NewTextHandler(&s.log, nil))})
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { s.rx.Close() })
	s.tx = s.sender(s.home)
}

func (s *script) sender(interfaces ...Interface) *TxSocket {
	s.Helper()
	tx, err := OpenTx(TxConfig{Groups: s.groups, Interfaces: interfaces, Loopback: true, Static: true})
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { tx.Close() })
	return tx
}

// openAll makes the receiver one on all interfaces, which are none at first.
func (s *script) openAll() {
	s.Helper()
	s.open(s.home)
	s.rx.mu.Lock()
	s.rx.all = true
	s.rx.mu.Unlock()
	s.play(networkChange{})
	s.want("without interfaces", s.groups[0].String()+" waits")
}

// play does what the watch does with a change. It reports whether the receiver wants a retry.
func (s *script) play(c networkChange) (retry bool) {
	s.rx.prepare(c)
	return s.rx.follow(c) > 0
}

// list is the change to a list.
func list(interfaces ...Interface) networkChange { return networkChange{Interfaces: interfaces} }

// gone is a change to a list, and interfaces that were gone in between.
func gone(c networkChange, indexes ...int) networkChange {
	c.Events = watchSeen(eventGone, indexes...)
	return c
}

// as is home with another name and index, for lists: nothing can be joined on it.
func (s *script) as(name string, index int) Interface {
	ifc := s.home
	ifc.Name, ifc.Index = name, index
	return ifc
}

// self is home as it is, but for the flags that a socket on all interfaces asks for.
func (s *script) self() Interface {
	ifc := s.home
	ifc.Flags = ifc.Flags&^net.FlagLoopback | net.FlagUp | net.FlagMulticast
	return ifc
}

// want compares the memberships, each as "group name index", with " not joined" if it is not.
func (s *script) want(what string, want ...string) {
	s.Helper()
	var got []string
	for _, m := range s.rx.Memberships() {
		text := fmt.Sprintf("%s %s %d", m.Group, m.Interface, m.IfIndex)
		if m.Interface == "" && errors.Is(m.Err, ErrNoInterface) {
			text = m.Group.String() + " waits"
		}
		if m.Joined != (m.Err == nil) {
			s.Errorf("%s: joined %v, error %v", what, m.Joined, m.Err)
		}
		if !m.Joined && m.Interface != "" {
			text += " not joined"
		}
		got = append(got, text)
	}
	if !slices.Equal(got, want) {
		s.Fatalf("%s: the memberships are %q, want %q", what, got, want)
	}
}

func (s *script) pair(ifc Interface) string {
	return fmt.Sprintf("%s %s %d", s.groups[0], ifc.Name, ifc.Index)
}

// leaveUnread sends something that is not read before the next wantDelivery. Wine's OS sockets, as those of Linux without
// IP_MULTICAST_ALL, receive also what others have joined, and so would one that waits to be read to its end.
func (s *script) leaveUnread() []string {
	s.Helper()
	if wine.Here() {
		return nil
	}
	return []string{s.send(s.tx)}
}

// wantDelivery sends twice and reads what comes: all that was sent, and once.
func (s *script) wantDelivery(what string, unread ...string) {
	s.Helper()
	for wine.Here() && s.retired() {
		time.Sleep(time.Millisecond)
	}
	want := unread
	for range 2 {
		want = append(want, s.send(s.tx))
	}
	s.rx.SetReadDeadline(time.Now().Add(slow.Limit(20 * time.Second)))
	buf := make([]byte, 100)
	var got []string
	for range want {
		n, _, err := s.rx.ReadFromUDPAddrPort(buf)
		if err != nil {
			s.Fatalf("%s: after %q: %v", what, got, err)
		}
		got = append(got, string(buf[:n]))
	}
	slices.Sort(got) // of several OS sockets
	if !slices.Equal(got, want) {
		s.Fatalf("%s: read %q, want %q", what, got, want)
	}
	s.wantNothing(what)
}

// retired reports whether there are OS sockets that may still have something to deliver.
func (s *script) retired() (any bool) {
	s.rx.mu.Lock()
	defer s.rx.mu.Unlock()
	s.rx.m.update(func() {
		for _, g := range s.rx.groups {
			all := g.orphans
			for _, p := range g.pairs {
				all = slices.Concat(all, p.retired)
			}
			any = any || slices.ContainsFunc(all, s.rx.m.holds)
		}
	})
	return any
}

// wantNothing reads what should not be there. That it comes too late can hide a failure, and cause none.
func (s *script) wantNothing(what string) {
	s.Helper()
	s.rx.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
	buf := make([]byte, 100)
	if n, _, err := s.rx.ReadFromUDPAddrPort(buf); !errors.Is(err, os.ErrDeadlineExceeded) {
		s.Fatalf("%s: read %q, %v", what, buf[:n], err)
	}
}

// send sends to the first group.
func (s *script) send(tx *TxSocket) (text string) {
	s.Helper()
	s.sent++
	text = fmt.Sprintf("datagram %03d", s.sent)
	if _, err := tx.WriteToUDPAddrPort([]byte(text), netip.AddrPortFrom(s.groups[0], s.port)); err != nil {
		s.Fatal(err)
	}
	return text
}

// forgetLog discards what was logged.
func (s *script) forgetLog() {
	s.rx.logger.flush()
	s.log.Reset()
}

// wantLog compares what was logged since the last time.
func (s *script) wantLog(what string, want ...string) {
	s.Helper()
	s.rx.logger.flush()
	var got []string
	for line := range strings.Lines(s.log.String()) {
		_, text, _ := strings.Cut(line, `msg="mcast: `)
		text, _, _ = strings.Cut(text, `"`)
		got = append(got, text)
	}
	s.log.Reset()
	if !slices.Equal(got, want) {
		s.Errorf("%s: logged %q, want %q", what, got, want)
	}
}

// wantWriteError writes to a sender whose interface is gone.
func (s *script) wantWriteError(what string) {
	s.Helper()
	to := netip.AddrPortFrom(s.groups[0], s.port)
	if n, err := s.tx.WriteToUDPAddrPort([]byte("lost"), to); n != 0 || !errors.Is(err, ErrNoInterface) {
		s.Errorf("%s: write %d, %v", what, n, err)
	}
	if n, err := s.tx.WriteBatch([]Message{{Buf: []byte("lost"), Addr: to}}); n != 0 || !errors.Is(err, ErrNoInterface) {
		s.Errorf("%s: write batch %d, %v", what, n, err)
	}
}

// TestScriptNamed goes through what can happen to an interface that was named.
func TestScriptNamed(t *testing.T) {
	forEachScript(t, func(t *testing.T, s *script) {
		s.open(s.home)
		joined, home := s.pair(s.home), list(s.home)
		other := s.as("usb0", s.home.Index)
		missing := joined + " not joined"
		s.play(home)
		s.want("nothing happened", joined)
		s.wantDelivery("nothing happened")
		s.wantLog("nothing happened")

		unread := s.leaveUnread()
		if s.play(list()) {
			t.Error("gone: it asks for a retry, although that would be of no use")
		}
		s.want("gone", missing)
		s.wantLog("gone", "interface is gone")
		if !wine.Here() {
			s.send(s.tx) // for nobody
		}
		s.play(home)
		s.want("back", joined)
		s.wantLog("back", "joined again")
		s.wantDelivery("back", unread...)

		unread = s.leaveUnread()
		s.play(gone(home, s.home.Index))
		s.want("away and back", joined)
		s.wantLog("away and back", "joined again")
		s.wantDelivery("away and back", unread...)

		unread = s.leaveUnread()
		s.play(networkChange{Interfaces: home.Interfaces, Overflow: true})
		s.want("notices were lost", joined)
		s.wantLog("notices were lost")
		s.wantDelivery("notices were lost", unread...)

		// It comes back with an index at which there is nothing here, where it is tried again and again.
		elsewhere := s.as(s.home.Name, 1<<20)
		elsewhere.IPv4 = slices.Clone(elsewhere.IPv4)
		for i := range elsewhere.IPv4 { // Wine goes by the address
			elsewhere.IPv4[i] = netip.MustParsePrefix("192.0.2.77/32")
		}
		for range 2 {
			if !s.play(gone(list(elsewhere), s.home.Index)) {
				t.Error("it cannot be joined, but does not ask for a retry")
			}
			s.want("at another index", s.pair(elsewhere)+" not joined")
		}
		s.wantLog("at another index", "cannot join")
		s.play(gone(home, elsewhere.Index))
		s.want("back from another index", joined)
		s.wantLog("back from another index", "joined again")
		s.wantDelivery("back from another index")

		// The index is another's, at once, or later.
		s.play(gone(list(other), s.home.Index))
		s.want("the index is another's", missing)
		s.play(list(other))
		s.want("the index is another's still", missing)
		s.play(gone(home, s.home.Index))
		s.want("the index is its own again", joined)
		s.play(gone(list(), s.home.Index))
		s.play(list(other))
		s.want("the index is another's after a while", missing)
		if err := s.rx.Join(s.groups[1]); !errors.Is(err, ErrNoInterface) {
			t.Errorf("join on an interface that is gone: %v", err)
		}
		s.play(gone(home, s.home.Index))
		s.want("the index is its own after a while", joined)
		s.wantDelivery("the index is its own after a while")
		s.forgetLog()

		// A new name is no change, unless the interface was gone.
		s.play(list(other))
		s.want("renamed", s.pair(other))
		s.wantDelivery("renamed")
		s.wantLog("renamed")
		s.play(home)
		s.wantDelivery("renamed back")
	})
}

// attempts makes every call to the system fail, and counts them, while minutes pass in which a follower of home's network is
// called. The first call comes with the notice that home was away and is back.
func (s *script) attempts(minutes int, prepare func(networkChange) bool, follow func(networkChange) time.Duration) int {
	at := make(map[time.Time]bool) // an attempt may make several calls, and takes no time
	hook := func(string) error { at[time.Now()] = true; return errInjected }
	defer testHookCall.Store(nil)
	synctest.Test(s.T, func(t *testing.T) {
		src := newWatchFake()
		src.list = []Interface{s.home}
		hub := &watchHub{open: func() (watchSource, error) { return src, nil }}
		one := &watchFollower{prepare: prepare, follow: follow}
		if err := hub.add(one); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		testHookCall.Store(&hook)
		src.notify(watchNotice{seen: watchSeen(eventGone, s.home.Index)})
		time.Sleep(watchQuiet + time.Duration(minutes)*time.Minute)
		synctest.Wait()
		one.stop()
	})
	return len(at)
}

// TestScriptBackoff has a membership that cannot be joined for ten minutes: it is tried 0, 1, 3, 7, 15, 31, 63 and 123 s
// after the change, and then every minute. The next change joins it at once.
func TestScriptBackoff(t *testing.T) {
	forEachScript(t, func(t *testing.T, s *script) {
		s.open(s.home)
		s.rx.logger.to = nil // its goroutine is not for the bubble
		missing := s.pair(s.home) + " not joined"
		if n := s.attempts(10, s.rx.prepare, s.rx.follow); n != 15 {
			t.Errorf("%d attempts in ten minutes, want 15", n)
		}
		s.want("after ten minutes", missing)
		s.rx.mu.Lock()
		p := s.rx.groups[0].pairs[0]
		p.retry.next = time.Now().Add(time.Minute) // the bubble's clock was another
		s.rx.mu.Unlock()
		unchanged := list(s.home)
		unchanged.Unchanged = true
		if !s.play(unchanged) {
			t.Error("it does not ask for a retry")
		}
		s.want("too early", missing)
		s.play(list(s.home, s.as("usb0", 1<<20)))
		s.want("after a change", s.pair(s.home))
		s.wantDelivery("after a change")
	})
}

// TestScriptSenderBackoff is TestScriptBackoff for a sender that cannot be directed to its interface. The log has it once.
func TestScriptSenderBackoff(t *testing.T) {
	forEachScript(t, func(t *testing.T, s *script) {
		s.open(s.home)
		s.tx = s.sender(s.home)
		if n := s.attempts(10, nil, s.tx.follow); n != 15 {
			t.Errorf("%d attempts in ten minutes, want 15", n)
		}
		s.wantWriteError("after ten minutes")
		s.tx.mu.Lock()
		(*s.tx.links.Load())[0].retry.next = time.Now().Add(time.Minute)
		s.tx.mu.Unlock()
		unchanged := list(s.home)
		unchanged.Unchanged = true
		if s.tx.follow(unchanged) == 0 {
			t.Error("it does not ask for a retry")
		}
		s.wantWriteError("too early")

		s.tx.logger.to = slog.New(slog.NewTextHandler(&s.log, nil))
		if retry := s.tx.follow(list(s.home)); retry != 0 {
			t.Errorf("after a change: it asks for a retry in %v", retry)
		}
		s.wantDelivery("after a change")
		hook := func(string) error { return errInjected }
		testHookCall.Store(&hook)
		defer testHookCall.Store(nil)
		for range 3 {
			s.tx.follow(gone(list(s.home), s.home.Index))
		}
		s.tx.logger.flush()
		s.wantLog("three failures", "sends again", "cannot send on the interface that came back")
	})
}

// TestScriptNoTwins has one interface take the name of another that is gone: what is joined on it must not be joined twice.
func TestScriptNoTwins(t *testing.T) {
	forEachScript(t, func(t *testing.T, s *script) {
		s.open(s.home)
		twin := s.as("twin", 1<<20)
		twin.IPv4 = []netip.Prefix{netip.MustParsePrefix("192.0.2.77/32")}
		s.rx.mu.Lock()
		link := &rxLink{trackedInterface: trackedInterface{name: "twin", ifc: twin}}
		p := &pair{rxGroup: s.rx.groups[0], link: link}
		s.rx.links = append(s.rx.links, link)
		p.rxGroup.pairs = append(p.rxGroup.pairs, p)
		s.rx.join(p)
		s.rx.mu.Unlock()
		joined, missing := s.pair(s.home), s.pair(twin)+" not joined"
		s.want("two", joined, missing)
		// The one with the name of the other is still itself.
		renamed := s.home
		renamed.Name = "twin"
		s.play(gone(list(renamed), twin.Index))
		s.want("the twin is gone and the other has its name", s.pair(renamed), missing)
		s.wantDelivery("the twin is gone and the other has its name")
		s.play(list(s.home))
		s.want("the first name again", joined, missing)
		s.wantDelivery("the first name again")
	})
}

// TestScriptAll has interfaces come and go under a receiver on all of them.
func TestScriptAll(t *testing.T) {
	forEachScript(t, func(t *testing.T, s *script) {
		s.openAll()
		s.forgetLog()
		self := s.self()
		joined := s.pair(self)
		waits := s.groups[0].String() + " waits"

		down, noMulticast, addressless := self, self, self
		down.Flags &^= net.FlagUp
		noMulticast.Flags &^= net.FlagMulticast
		addressless.IPv4, addressless.IPv6 = nil, nil
		for _, ifc := range []Interface{s.home, down, noMulticast, addressless} {
			if ifc.IsLoopback() || ifc.Flags != self.Flags || ifc.IPv4 == nil && ifc.IPv6 == nil {
				s.play(list(ifc))
				s.want(fmt.Sprintf("%+v", ifc), waits)
			}
		}
		one := self // with an address of the other family alone
		if s.groups[0].Is4() {
			one.IPv4 = nil
		} else {
			one.IPv6 = nil
		}
		s.play(list(one))
		s.want("the other family", waits)
		s.wantLog("nothing to join on")
		s.play(list(self))
		s.want("its first address", joined)
		s.wantLog("its first address", "joined")
		s.wantDelivery("its first address")
		s.play(list(one))
		if runtime.GOOS == "windows" { // the OS sockets of IPv4 are bound to it
			s.play(list(self))
		}
		s.want("without it again", joined)
		s.wantDelivery("without it again")

		// What it received is read although it is forgotten.
		unread := s.leaveUnread()
		s.play(gone(list(), self.Index))
		s.want("gone", s.groups[0].String()+" waits")
		s.play(list(self))
		s.want("back", joined)
		s.wantDelivery("back", unread...)

		// The index goes to another, which is joined as what it is.
		other := self
		other.Name = "usb0"
		unread = s.leaveUnread()
		s.play(gone(list(other), self.Index))
		s.want("the index is another's", s.pair(other))
		s.wantDelivery("the index is another's", unread...)
		s.forgetLog()
		s.play(gone(list(), self.Index))
		s.play(list(self))
		s.wantLog("gone and back", "interface is gone", "joined")

		// Without a notice, the same index under another name is a rename.
		s.play(list(other))
		s.want("renamed", s.pair(other))
		s.wantLog("renamed")
		s.wantDelivery("renamed")

		// To leave drops what was not read, also that of interfaces that are gone.
		s.send(s.tx)
		s.play(gone(list(), self.Index))
		if err := s.rx.Leave(s.groups[0]); err != nil {
			t.Fatal(err)
		}
		s.wantNothing("after Leave")
	})
}

// TestScriptUnread has interfaces come and go while nobody reads: what waits to be read is bounded.
func TestScriptUnread(t *testing.T) {
	if wine.Here() {
		t.Skip("Wine's OS sockets receive what others have joined, so that each of them gets everything")
	}
	forEachScript(t, func(t *testing.T, s *script) {
		s.openAll()
		self := s.self()
		for range 3 * maxOrphans {
			s.play(list(self))
			s.send(s.tx)
			s.play(gone(list(), self.Index))
		}
		s.rx.mu.Lock()
		n := len(s.rx.groups[0].orphans)
		s.rx.mu.Unlock()
		if n != maxOrphans {
			t.Errorf("%d OS sockets wait to be read, want %d", n, maxOrphans)
		}
		s.play(list(self))
		s.rx.SetReadDeadline(time.Now().Add(slow.Limit(20 * time.Second)))
		for i := range maxOrphans {
			if _, _, err := s.rx.ReadFromUDPAddrPort(make([]byte, 100)); err != nil {
				t.Fatalf("datagram %d: %v", i, err)
			}
		}
		s.wantDelivery("at last")
	})
}

// TestScriptOwnAddresses changes the addresses by which a socket recognises this host's own datagrams.
func TestScriptOwnAddresses(t *testing.T) {
	forEachScript(t, func(t *testing.T, s *script) {
		s.openAll()
		s.rx.mu.Lock()
		s.rx.cfg.Loopback = false
		s.rx.mu.Unlock()
		all, none := s.self(), s.self()
		other := netip.MustParsePrefix("192.0.2.77/32")
		if s.groups[0].Is6() {
			other = netip.MustParsePrefix("2001:db8::77/128")
			none.IPv6 = []netip.Prefix{other}
		} else {
			none.IPv4 = []netip.Prefix{other}
		}
		s.play(list(none))
		if !s.rx.Memberships()[0].Joined {
			t.Skip("this system receives by an address of the interface, which cannot be made up")
		}
		if runtime.GOOS == "windows" {
			t.Skip("Windows itself keeps this host's own datagrams from the socket")
		}
		s.wantDelivery("from a foreign address")
		s.play(list(all))
		s.send(s.tx)
		s.wantNothing("from an own address")
		s.play(list(none))
		s.wantDelivery("from an address that is foreign again")
	})
}

// TestScriptSender has the interface of a sender come and go.
func TestScriptSender(t *testing.T) {
	forEachScript(t, func(t *testing.T, s *script) {
		s.open(s.home)
		s.tx = s.sender(s.home)
		home := list(s.home)
		s.tx.follow(home)
		s.wantDelivery("nothing happened")
		s.tx.follow(gone(list(), s.home.Index))
		s.wantWriteError("gone")
		s.tx.follow(list(s.as("usb0", s.home.Index)))
		s.wantWriteError("the index is another's")
		s.tx.follow(home)
		s.wantDelivery("back")
		s.tx.follow(gone(home, s.home.Index))
		s.wantDelivery("away and back")
		s.tx.follow(networkChange{Interfaces: home.Interfaces, Overflow: true})
		s.wantDelivery("notices were lost")
		s.tx.follow(list(s.as("usb0", s.home.Index)))
		s.wantDelivery("renamed")
		if name := s.tx.Interfaces()[0].Name; name != "usb0" {
			t.Errorf("renamed: its name is %s", name)
		}
		s.tx.follow(home)
		s.wantDelivery("renamed back")
	})
}
