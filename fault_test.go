// What happens when the system refuses: every call that an operation makes is made to fail in turn, on every system.

package mcast

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-multicast/mcast/internal/slow"
	"github.com/go-multicast/mcast/mcasttest"
)

// errInjected is none that a system can give.
var errInjected = errors.New("refused by the test")

// failCall makes the n-th call from now on fail. The function that it returns ends that, and tells which call it was;
// none if there were fewer.
func failCall(n int) (end func() string) {
	var name string
	hook := func(call string) error {
		if n--; n == 0 {
			name = call
			return errInjected
		}
		return nil
	}
	testHookCall.Store(&hook)
	return func() string { testHookCall.Store(nil); return name }
}

// bearable reports whether an operation succeeds although a call fails.
func bearable(operation, call string) bool {
	in, ok := bestEffort[call]
	return ok && strings.HasPrefix(operation, in)
}

// resources counts what must not be left behind. The runtime's own descriptors exist once a socket has been opened, so
// one is opened before the first count.
type resources struct{ fds, goroutines int }

func count(t *testing.T) resources {
	t.Helper()
	return resources{openDescriptors(t), runtime.NumGoroutine()}
}

// wantResources waits until there are no more than before: goroutines take a moment to end.
func wantResources(t *testing.T, before resources) {
	t.Helper()
	var now resources
	for end := time.Now().Add(slow.Limit(10 * time.Second)); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if now = count(t); now.fds <= before.fds+descriptorSlack && now.goroutines <= before.goroutines {
			return
		}
	}
	buf := make([]byte, 1<<20)
	t.Fatalf("left behind: %+v, before %+v\n%s", now, before, buf[:runtime.Stack(buf, true)])
}

// withoutGC keeps the garbage collector from closing what the test should find left behind.
func withoutGC(t *testing.T) {
	before := debug.SetGCPercent(-1)
	t.Cleanup(func() { debug.SetGCPercent(before) })
}

// faultRounds is how often each failure is repeated: so often that it shows if one descriptor is left each time.
const faultRounds = descriptorSlack + 1 + descriptorSlack/2

// faultInterfaces are the interfaces of these tests: what MCAST_TEST_INTERFACE names, else the two that mcasttest makes
// on Linux, else the loopback interface.
func faultInterfaces(t *testing.T) []Interface {
	t.Helper()
	mcasttest.Require(t)
	if spec := os.Getenv("MCAST_TEST_INTERFACE"); spec != "" {
		return interfaces(t, spec)
	}
	if two, err := FindInterfaces("mc0", "mc1"); err == nil {
		return two
	}
	all, err := Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	all = slices.DeleteFunc(all, func(ifc Interface) bool { return !ifc.IsLoopback() })
	if len(all) == 0 {
		t.Skip("there is no loopback interface")
	}
	return all[:1]
}

func interfaces(t *testing.T, specs ...string) []Interface {
	t.Helper()
	mcasttest.Require(t)
	found, err := FindInterfaces(specs...)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// groupsOn are those of the groups whose family all the interfaces have.
func groupsOn(ifaces []Interface, texts ...string) []netip.Addr {
	return slices.DeleteFunc(groups(texts...), func(g netip.Addr) bool {
		return slices.ContainsFunc(ifaces, func(ifc Interface) bool { return !ifc.hasFamily(g) })
	})
}

// faultPort is the port of these tests: the same again and again, so that a socket that was left open is in the way.
const faultPort = 29500

// operation is what must not leave anything behind when it fails.
type operation struct {
	name  string
	least int // how many calls it makes at least
	// prepare makes what the operation is done to, and returns it with what ends it all.
	prepare func(t *testing.T) (do func() error, end func())
}

// opening is an operation that opens a socket.
func opening[S io.Closer](open func() (S, error)) func(*testing.T) (func() error, func()) {
	return func(t *testing.T) (func() error, func()) {
		var opened []S
		do := func() error {
			s, err := open()
			if err == nil {
				opened = append(opened, s)
			}
			return err
		}
		return do, func() {
			for _, s := range opened {
				if err := s.Close(); err != nil {
					t.Error(err)
				}
			}
		}
	}
}

// TestEveryCallFails makes each call of each operation fail. The operation must tell of it in an OpError that wraps the
// system's, leave nothing behind, and succeed later.
func TestEveryCallFails(t *testing.T) {
	ifaces := faultInterfaces(t)
	mixed := groupsOn(ifaces, "239.1.1.1", "ff02::1234", "ff15::1234")
	class := 0
	if hasTrafficClass6 {
		class = 0xb8
	}
	replyLeast := 2 // to bind, and to set what comes before
	if replyEarly {
		replyLeast = 0
	}
	open := func(t *testing.T) *RxSocket {
		t.Helper()
		s, err := OpenRx(RxConfig{Groups: mixed, Port: faultPort, Interfaces: ifaces, Static: true})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	for _, op := range []operation{
		{"OpenRx", 10, opening(func() (*RxSocket, error) {
			return OpenRx(RxConfig{Groups: mixed, Port: faultPort, Interfaces: ifaces, ReadBuffer: 1 << 16, Timestamps: true, HopLimits: true})
		})},
		{"OpenRx with sources", 10, opening(func() (*RxSocket, error) {
			return OpenRx(RxConfig{Groups: groupsOn(ifaces, "232.1.1.1", "ff35::1234"), Port: faultPort, Interfaces: ifaces,
				Sources: sequence("10.1.0.1", 25), Static: true})
		})},
		{"OpenRx with blocked", 10, opening(func() (*RxSocket, error) {
			return OpenRx(RxConfig{Groups: mixed, Port: faultPort, Interfaces: ifaces, Static: true,
				Blocked: groupsOn(ifaces, "10.1.0.1", "fd00::1")})
		})},
		{"OpenTx", 10, opening(func() (*TxSocket, error) {
			return OpenTx(TxConfig{Groups: mixed, Interfaces: ifaces, Port: faultPort, TTL: 2, TrafficClass: class, WriteBuffer: 1 << 16})
		})},
		{"Leave", 0, func(t *testing.T) (func() error, func()) {
			s := open(t)
			do := func() error {
				var failed error
				for _, g := range mixed {
					failed = cmp.Or(failed, s.Leave(g))
				}
				if left := s.Memberships(); len(left) > 0 {
					t.Errorf("left all, and there are %v", left)
				}
				return failed
			}
			return do, func() { s.Close() }
		}},
		{"first reply", replyLeast, func(t *testing.T) (func() error, func()) {
			s := open(t)
			do := func() error {
				var failed error
				for _, own := range ownAddrs(ifaces[0]) {
					_, err := s.WriteToUDPAddrPort([]byte("reply"), netip.AddrPortFrom(own, 9))
					failed = cmp.Or(failed, err)
				}
				return failed
			}
			return do, func() {
				if err := do(); err != nil {
					t.Errorf("the next reply: %v", err)
				}
				s.Close()
			}
		}},
		{"SetTTL", 1, func(t *testing.T) (func() error, func()) {
			s, err := OpenTx(TxConfig{Groups: mixed, Interfaces: ifaces, Static: true})
			if err != nil {
				t.Fatal(err)
			}
			do := func() error { return s.SetTTL(3) }
			return do, func() {
				if err := do(); err != nil {
					t.Errorf("the next SetTTL: %v", err)
				}
				s.Close()
			}
		}},
	} {
		t.Run(op.name, func(t *testing.T) { everyCallFails(t, op) })
	}
}

func everyCallFails(t *testing.T, op operation) {
	withoutGC(t)
	do, end := op.prepare(t)
	if err := do(); err != nil {
		t.Fatalf("control: %v", err)
	}
	end()
	for n := 1; ; n++ {
		before := count(t)
		var call string
		for range faultRounds {
			do, end := op.prepare(t)
			failed := failCall(n)
			err := do()
			call = failed()
			end()
			var failure *OpError
			switch {
			case call == "":
				if err != nil {
					t.Fatalf("with no call failing: %v", err)
				}
			case bearable(op.name, call):
				if err != nil {
					t.Errorf("call %d, %s: error %v, although that is bearable", n, call, err)
				}
			case !errors.As(err, &failure) || !errors.Is(err, errInjected):
				t.Errorf("call %d, %s: error %v, want an OpError of %v", n, call, err, errInjected)
			}
		}
		wantResources(t, before)
		if call == "" {
			if n <= op.least {
				t.Errorf("only %d calls seen, want %d", n-1, op.least)
			}
			t.Logf("%d calls", n-1)
			return
		}
	}
}

// ownAddrs is an address of each family of an interface, to send to.
func ownAddrs(ifc Interface) (own []netip.Addr) {
	if len(ifc.IPv4) > 0 {
		own = append(own, ifc.IPv4[0].Addr())
	}
	if len(ifc.IPv6) > 0 {
		a := ifc.IPv6[0].Addr()
		if a.IsLinkLocalUnicast() {
			a = a.WithZone(fmt.Sprint(ifc.Index))
		}
		own = append(own, a)
	}
	return own
}

// TestEveryCallOfJoinFails checks that a Join that fails changes nothing: the socket works as before, and the same
// Join succeeds later.
func TestEveryCallOfJoinFails(t *testing.T) {
	withoutGC(t)
	ifaces := faultInterfaces(t)
	for _, join := range []struct {
		group   string
		sources []netip.Addr
	}{
		{"239.1.1.2", nil},
		{"ff02::2345", nil},
		{"232.1.1.2", sequence("10.1.0.1", 25)},
		{"232.1.1.1", groups("10.1.0.9")}, // joined already for another source
	} {
		t.Run(fmt.Sprintf("%s from %d sources", join.group, len(join.sources)), func(t *testing.T) {
			group := netip.MustParseAddr(join.group)
			if len(groupsOn(ifaces, join.group)) == 0 || len(groupsOn(ifaces, "239.1.1.1")) == 0 {
				t.Skip("the interface lacks a family")
			}
			for n, last := 1, false; !last; n++ {
				last = everyCallOfJoinFails(t, ifaces, group, join.sources, n)
			}
		})
	}
}

// everyCallOfJoinFails makes the n-th one fail, and reports whether there was none.
func everyCallOfJoinFails(t *testing.T, ifaces []Interface, group netip.Addr, sources []netip.Addr, n int) (last bool) {
	// Without groups of IPv6 to begin with, so that Join has to open the reply socket too, where it is early.
	s, err := OpenRx(RxConfig{Groups: groups("239.1.1.1"), Port: faultPort, Interfaces: ifaces, Loopback: true, Static: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Join(groups("232.1.1.1")[0], groups("10.1.0.1")...); err != nil {
		t.Fatal(err)
	}
	state := fmt.Sprint(s.Memberships())
	before := count(t)
	before.fds++ // the IPv6 reply socket, once opened, is kept for the next time
	for range faultRounds {
		failed := failCall(n)
		err := s.Join(group, sources...)
		call := failed()
		if call == "" || bearable("Join", call) {
			if err != nil || n < 2 {
				t.Errorf("call %d, %s: %v", n, call, err)
			}
			wantDelivery(t, s, ifaces)
			return call == ""
		}
		if !errors.Is(err, errInjected) {
			t.Errorf("call %d, %s: error %v", n, call, err)
		}
		if now := fmt.Sprint(s.Memberships()); now != state {
			t.Errorf("call %d, %s: memberships are now %s, were %s", n, call, now, state)
		}
	}
	wantResources(t, before)
	if err := s.Join(group, sources...); err != nil {
		t.Errorf("after the %d-th call: %v", n, err)
	}
	wantDelivery(t, s, ifaces)
	return false
}

// wantDelivery sends to the first group by each interface and reads it.
func wantDelivery(t *testing.T, s *RxSocket, ifaces []Interface) {
	t.Helper()
	tx, err := OpenTx(TxConfig{Groups: s.cfg.Groups[:1], Interfaces: ifaces, Loopback: true, Static: true})
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Close()
	if _, err := tx.WriteToUDPAddrPort([]byte("alive"), netip.AddrPortFrom(s.cfg.Groups[0], s.cfg.Port)); err != nil {
		t.Fatal(err)
	}
	s.SetReadDeadline(time.Now().Add(slow.Limit(20 * time.Second)))
	for range ifaces {
		buf := make([]byte, 16)
		if n, _, err := s.ReadFromUDPAddrPort(buf); err != nil || string(buf[:n]) != "alive" {
			t.Fatalf("read %q, %v", buf[:n], err)
		}
	}
}

// TestEveryCallOfRejoinFails has an interface lose its memberships, and makes each call of joining again fail. The next
// attempt must succeed, and each datagram then be received once, whatever is left of the first.
func TestEveryCallOfRejoinFails(t *testing.T) {
	withoutGC(t)
	ifc := faultInterfaces(t)[0]
	for _, texts := range [][]string{{"239.1.1.1", "239.1.1.2"}, {"ff02::1234", "ff02::1235"}} {
		t.Run(texts[0], func(t *testing.T) {
			both := groupsOn([]Interface{ifc}, texts...)
			if len(both) == 0 {
				t.Skip("the interface lacks the family")
			}
			tx, err := OpenTx(TxConfig{Groups: both, Interfaces: []Interface{ifc}, Loopback: true, Static: true})
			if err != nil {
				t.Fatal(err)
			}
			defer tx.Close()
			before := count(t)
			for n := 1; ; n++ {
				s, err := OpenRx(RxConfig{Groups: both, Port: faultPort, Interfaces: []Interface{ifc}, Loopback: true, Static: true})
				if err != nil {
					t.Fatal(err)
				}
				failed := failCall(n)
				change := networkChange{Interfaces: []Interface{ifc}, Events: watchSeen(eventGone, ifc.Index)}
				s.prepare(change)
				again := s.follow(change) > 0
				call := failed()
				if wrong := call != "" && !bearable("rejoin", call); again != wrong && (wrong || call == "") {
					t.Errorf("call %d, %s: to be tried again: %v", n, call, again)
				}
				s.follow(networkChange{Interfaces: []Interface{ifc}})
				for _, m := range s.Memberships() {
					if !m.Joined {
						t.Errorf("call %d, %s: %+v", n, call, m)
					}
				}
				wantEachOnce(t, tx, s)
				s.Close()
				wantResources(t, before)
				if call == "" {
					break
				}
			}
		})
	}
}

// wantEachOnce sends some datagrams to each group of a socket and reads them, and no more.
func wantEachOnce(t *testing.T, tx *TxSocket, s *RxSocket) {
	t.Helper()
	missing := make(map[string]bool)
	for i := range 5 {
		for _, g := range s.cfg.Groups {
			text := fmt.Sprintf("%d to %s", i, g)
			missing[text] = true
			if _, err := tx.WriteToUDPAddrPort([]byte(text), netip.AddrPortFrom(g, s.cfg.Port)); err != nil {
				t.Fatal(err)
			}
		}
	}
	buf := make([]byte, 100)
	s.SetReadDeadline(time.Now().Add(slow.Limit(20 * time.Second)))
	for len(missing) > 0 {
		n, _, err := s.ReadFromUDPAddrPort(buf)
		if err != nil || !missing[string(buf[:n])] {
			t.Fatalf("read %q, %v; %d are missing", buf[:n], err, len(missing))
		}
		delete(missing, string(buf[:n]))
	}
	s.SetReadDeadline(time.Now().Add(30 * time.Millisecond))
	if n, _, err := s.ReadFromUDPAddrPort(buf); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("read one more, %q, %v", buf[:n], err)
	}
}

// TestJoinMistakes checks that an open socket refuses the same mistakes, and stays as it is.
func TestJoinMistakes(t *testing.T) {
	ifaces := faultInterfaces(t)
	if len(groupsOn(ifaces, "239.1.1.1")) == 0 {
		t.Skip("the interface has no IPv4 address")
	}
	s, err := OpenRx(RxConfig{Groups: groups("239.1.1.1"), Port: faultPort, Interfaces: ifaces, Static: true, Loopback: true, Blocked: groups("192.0.2.9")})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Join(groups("232.1.1.1")[0], groups("192.0.2.1")...); err != nil {
		t.Fatal(err)
	}
	join := func(group netip.Addr, sources ...netip.Addr) func() error {
		return func() error { return s.Join(group, sources...) }
	}
	checkMistakes(t, []mistakeCase{
		{"unicast", join(groups("192.0.2.7")[0]), ErrNotMulticast, []string{"join 192.0.2.7"}},
		{"zero", join(netip.Addr{}), ErrNotMulticast, []string{"zero"}},
		{"source of the other family", join(groups("239.1.1.2")[0], groups("2001:db8::1")...), nil, []string{"join 239.1.1.2 from 2001:db8::1", "family"}},
		{"a source that is blocked", join(groups("239.1.1.2")[0], groups("192.0.2.2", "192.0.2.9")...), nil, []string{"join 239.1.1.2 from 192.0.2.9", "Blocked"}},
		{"narrow a group", join(groups("239.1.1.1")[0], groups("192.0.2.1")...), nil, []string{"all sources", "Leave"}},
		{"widen a group", join(groups("232.1.1.1")[0]), nil, []string{"192.0.2.1", "Leave"}},
		{"leave the unknown", func() error { return s.Leave(groups("239.1.1.9")[0]) }, ErrNotJoined, []string{"leave 239.1.1.9"}},
		{"leave the zero address", func() error { return s.Leave(netip.Addr{}) }, ErrNotJoined, nil},
	})
	if n := len(s.Memberships()); n != 2*len(ifaces) {
		t.Errorf("%d memberships, want %d", n, 2*len(ifaces))
	}
	wantDelivery(t, s, ifaces)
}
