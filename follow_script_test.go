// Following played by script: lists of interfaces as a watch might tell them, some of them true to what no machine of a
// test can be made to do, over sockets that are real. All memberships are on the one interface that is there, so that
// they are joined, left and received from on every system; what else is in the lists is made up. Nothing here hears of the
// network by itself: the sockets are Static, and the script calls what the watch would.

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

// script is a receiver, and a sender that nothing happens to, on the interface of these tests.
type script struct {
	*testing.T
	home   Interface
	groups []netip.Addr
	port   uint16
	rx     *RxSocket
	tx     *TxSocket
	told   strings.Builder
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
		Logger: slog.New(slog.NewTextHandler(&s.told, nil))})
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
	s.tell(networkChange{})
	s.want("without interfaces", s.groups[0].String()+" waits")
}

// tell is what the watch does with a change.
func (s *script) tell(c networkChange) (again bool) {
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
	s.told.Reset()
}

// wantTold compares what the logger was told since the last time.
func (s *script) wantTold(what string, want ...string) {
	s.Helper()
	s.rx.logger.flush()
	var got []string
	for line := range strings.Lines(s.told.String()) {
		_, text, _ := strings.Cut(line, `msg="mcast: `)
		text, _, _ = strings.Cut(text, `"`)
		got = append(got, text)
	}
	s.told.Reset()
	if !slices.Equal(got, want) {
		s.Errorf("%s: the logger was told %q, want %q", what, got, want)
	}
}

// TestScriptNamed goes through what can happen to an interface that was named.
func TestScriptNamed(t *testing.T) {
	forEachScript(t, func(t *testing.T, s *script) {
		s.open(s.home)
		joined, home := s.pair(s.home), list(s.home)
		other := s.as("usb0", s.home.Index)
		missing := joined + " not joined"
		s.tell(home)
		s.want("nothing happened", joined)
		s.wantDelivery("nothing happened")
		s.wantTold("nothing happened")

		unread := s.leaveUnread()
		if s.tell(list()) {
			t.Error("gone: it asks to be called again, although that would be of no use")
		}
		s.want("gone", missing)
		s.wantTold("gone", "interface is gone")
		if !wine.Here() {
			s.send(s.tx) // for nobody
		}
		s.tell(home)
		s.want("back", joined)
		s.wantTold("back", "joined again")
		s.wantDelivery("back", unread...)

		unread = s.leaveUnread()
		s.tell(gone(home, s.home.Index))
		s.want("away and back", joined)
		s.wantTold("away and back", "joined again")
		s.wantDelivery("away and back", unread...)

		unread = s.leaveUnread()
		s.tell(networkChange{Interfaces: home.Interfaces, Overflow: true})
		s.want("notices were lost", joined)
		s.wantTold("notices were lost")
		s.wantDelivery("notices were lost", unread...)

		// It comes back with an index at which there is nothing here, which is tried again and again.
		elsewhere := s.as(s.home.Name, 1<<20)
		elsewhere.IPv4 = slices.Clone(elsewhere.IPv4)
		for i := range elsewhere.IPv4 { // Wine goes by the address
			elsewhere.IPv4[i] = netip.MustParsePrefix("192.0.2.77/32")
		}
		for range 2 {
			if !s.tell(gone(list(elsewhere), s.home.Index)) {
				t.Error("it cannot be joined, but does not ask to be called again")
			}
			s.want("at another index", s.pair(elsewhere)+" not joined")
		}
		s.wantTold("at another index", "cannot join")
		s.tell(gone(home, elsewhere.Index))
		s.want("back from another index", joined)
		s.wantTold("back from another index", "joined again")
		s.wantDelivery("back from another index")

		// The index is another's, at once, or later.
		s.tell(gone(list(other), s.home.Index))
		s.want("the index is another's", missing)
		s.tell(list(other))
		s.want("the index is another's still", missing)
		s.tell(gone(home, s.home.Index))
		s.want("the index is its own again", joined)
		s.tell(gone(list(), s.home.Index))
		s.tell(list(other))
		s.want("the index is another's after a while", missing)
		if err := s.rx.Join(s.groups[1]); !errors.Is(err, ErrNoInterface) {
			t.Errorf("join on an interface that is gone: %v", err)
		}
		s.tell(gone(home, s.home.Index))
		s.want("the index is its own after a while", joined)
		s.wantDelivery("the index is its own after a while")
		s.forgetLog()

		// A new name is no change, unless the interface was gone.
		s.tell(list(other))
		s.want("renamed", s.pair(other))
		s.wantDelivery("renamed")
		s.wantTold("renamed")
		s.tell(home)
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
		src.tell(watchNotice{seen: watchSeen(eventGone, s.home.Index)})
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
		if !s.tell(unchanged) {
			t.Error("it does not ask to be called again")
		}
		s.want("too early", missing)
		s.tell(list(s.home, s.as("usb0", 1<<20)))
		s.want("after a change", s.pair(s.home))
		s.wantDelivery("after a change")
		if p.retry != (backoff{}) {
			t.Errorf("it is joined, and has %+v", p.retry)
		}
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
		fails := func(what string) {
			t.Helper()
			if _, err := s.tx.WriteToUDPAddrPort([]byte("lost"), netip.AddrPortFrom(s.groups[0], s.port)); !errors.Is(err, ErrNoInterface) {
				t.Errorf("%s: write: %v", what, err)
			}
		}
		fails("after ten minutes")
		s.tx.mu.Lock()
		(*s.tx.links.Load())[0].retry.next = time.Now().Add(time.Minute)
		s.tx.mu.Unlock()
		unchanged := list(s.home)
		unchanged.Unchanged = true
		if s.tx.follow(unchanged) == 0 {
			t.Error("it does not ask to be called again")
		}
		fails("too early")

		s.tx.logger.to = slog.New(slog.NewTextHandler(&s.told, nil))
		if again := s.tx.follow(list(s.home)); again != 0 {
			t.Errorf("after a change: it asks to be called again after %v", again)
		}
		s.wantDelivery("after a change")
		hook := func(string) error { return errInjected }
		testHookCall.Store(&hook)
		defer testHookCall.Store(nil)
		for range 3 {
			s.tx.follow(gone(list(s.home), s.home.Index))
		}
		s.tx.logger.flush()
		s.wantTold("three failures", "sends again", "cannot send on the interface that came back")
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
		s.tell(gone(list(renamed), twin.Index))
		s.want("the twin is gone and the other has its name", s.pair(renamed), missing)
		s.wantDelivery("the twin is gone and the other has its name")
		s.tell(list(s.home))
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

		down, deaf, addressless := self, self, self
		down.Flags &^= net.FlagUp
		deaf.Flags &^= net.FlagMulticast
		addressless.IPv4, addressless.IPv6 = nil, nil
		for _, ifc := range []Interface{s.home, down, deaf, addressless} {
			if ifc.IsLoopback() || ifc.Flags != self.Flags || ifc.IPv4 == nil && ifc.IPv6 == nil {
				s.tell(list(ifc))
				s.want(fmt.Sprintf("%+v", ifc), waits)
			}
		}
		one := self // with an address of the other family alone
		if s.groups[0].Is4() {
			one.IPv4 = nil
		} else {
			one.IPv6 = nil
		}
		s.tell(list(one))
		s.want("the other family", waits)
		s.wantTold("nothing to join on")
		s.tell(list(self))
		s.want("its first address", joined)
		s.wantTold("its first address", "joined")
		s.wantDelivery("its first address")
		s.tell(list(one))
		if runtime.GOOS == "windows" { // the OS sockets of IPv4 are bound to it
			s.tell(list(self))
		}
		s.want("without it again", joined)
		s.wantDelivery("without it again")

		// What it received is read although it is forgotten.
		unread := s.leaveUnread()
		s.tell(gone(list(), self.Index))
		s.want("gone", s.groups[0].String()+" waits")
		s.tell(list(self))
		s.want("back", joined)
		s.wantDelivery("back", unread...)

		// The index goes to another, which is joined as what it is.
		other := self
		other.Name = "usb0"
		unread = s.leaveUnread()
		s.tell(gone(list(other), self.Index))
		s.want("the index is another's", s.pair(other))
		s.wantDelivery("the index is another's", unread...)
		s.forgetLog()
		s.tell(gone(list(), self.Index))
		s.tell(list(self))
		s.wantTold("gone and back", "interface is gone", "joined")

		// Without a notice, the same index under another name is a rename.
		s.tell(list(other))
		s.want("renamed", s.pair(other))
		s.wantTold("renamed")
		s.wantDelivery("renamed")

		// To leave drops what was not read, also that of interfaces that are gone.
		s.send(s.tx)
		s.tell(gone(list(), self.Index))
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
			s.tell(list(self))
			s.send(s.tx)
			s.tell(gone(list(), self.Index))
		}
		s.rx.mu.Lock()
		n := len(s.rx.groups[0].orphans)
		s.rx.mu.Unlock()
		if n != maxOrphans {
			t.Errorf("%d OS sockets wait to be read, want %d", n, maxOrphans)
		}
		s.tell(list(self))
		s.rx.SetReadDeadline(time.Now().Add(slow.Limit(20 * time.Second)))
		for i := range maxOrphans {
			if _, _, err := s.rx.ReadFromUDPAddrPort(make([]byte, 100)); err != nil {
				t.Fatalf("datagram %d: %v", i, err)
			}
		}
		s.wantDelivery("at last")
	})
}

// TestScriptOwnAddresses changes the addresses by which a host's own datagrams are told.
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
		s.tell(list(none))
		if !s.rx.Memberships()[0].Joined {
			t.Skip("this system receives by an address of the interface, which cannot be made up")
		}
		if runtime.GOOS == "windows" {
			t.Skip("Windows itself keeps this host's own datagrams from the socket")
		}
		s.wantDelivery("from a foreign address")
		s.tell(list(all))
		s.send(s.tx)
		s.wantNothing("from an own address")
		s.tell(list(none))
		s.wantDelivery("from an address that is foreign again")
	})
}

// TestScriptSender has the interface of a sender come and go.
func TestScriptSender(t *testing.T) {
	forEachScript(t, func(t *testing.T, s *script) {
		s.open(s.home)
		s.tx = s.sender(s.home)
		fails := func(what string) {
			t.Helper()
			to := netip.AddrPortFrom(s.groups[0], s.port)
			if n, err := s.tx.WriteToUDPAddrPort([]byte("lost"), to); n != 0 || !errors.Is(err, ErrNoInterface) {
				t.Errorf("%s: write %d, %v", what, n, err)
			}
			if n, err := s.tx.WriteBatch([]Message{{Buf: []byte("lost"), Addr: to}}); n != 0 || !errors.Is(err, ErrNoInterface) {
				t.Errorf("%s: write batch %d, %v", what, n, err)
			}
		}
		home := list(s.home)
		s.tx.follow(home)
		s.wantDelivery("nothing happened")
		s.tx.follow(gone(list(), s.home.Index))
		fails("gone")
		s.tx.follow(list(s.as("usb0", s.home.Index)))
		fails("the index is another's")
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
