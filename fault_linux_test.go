// What happens when the system refuses: every call that opening and joining make is made to fail in turn.

package mcast

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/go-multicast/mcast/mcasttest"
)

var errInjected = unix.EL2HLT // an errno that none of these calls can give by itself

// failCall makes the n-th call from now on fail, and reports through the returned function which one that was.
func failCall(t *testing.T, n int) (failed func() string) {
	var name string
	hook := func(call string) error {
		if n--; n == 0 {
			name = call
			return errInjected
		}
		return nil
	}
	testHookCall.Store(&hook)
	t.Cleanup(func() { testHookCall.Store(nil) })
	return func() string { testHookCall.Store(nil); return name }
}

// resources counts what must not be left behind. The runtime's own descriptors (epoll, eventfd) exist once a socket
// has been opened, so one is opened before the first count.
type resources struct{ fds, goroutines int }

func count(t *testing.T) resources {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return resources{len(fds), runtime.NumGoroutine()}
}

// wantResources waits until there are no more than before: goroutines take a moment to end.
func wantResources(t *testing.T, before resources) {
	t.Helper()
	var now resources
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if now = count(t); now.fds <= before.fds && now.goroutines <= before.goroutines {
			return
		}
	}
	t.Fatalf("left behind: %+v, before %+v", now, before)
}

// TestEveryCallFails makes each call of each operation fail once. The operation must tell which, wrap the errno in an
// OpError, and leave nothing behind.
func TestEveryCallFails(t *testing.T) {
	both := interfaces(t, "mc0", "mc1")
	mixed := groups("239.1.1.1", "ff02::1234", "ff15::1234")
	for _, op := range []struct {
		name string
		run  func() error
	}{
		{"OpenRx", func() error {
			s, err := OpenRx(RxConfig{Groups: mixed, Port: 5000, Interfaces: both, ReadBuffer: 1 << 16, Timestamps: true, HopLimits: true})
			if err == nil {
				s.Close()
			}
			return err
		}},
		{"OpenRx with sources", func() error {
			s, err := OpenRx(RxConfig{Groups: groups("232.1.1.1", "ff35::1234"), Port: 5000, Interfaces: both,
				Sources: sequence("10.1.0.1", 25), Static: true})
			if err == nil {
				s.Close()
			}
			return err
		}},
		{"OpenRx with blocked", func() error {
			s, err := OpenRx(RxConfig{Groups: mixed, Port: 5000, Interfaces: both, Blocked: groups("10.1.0.1", "fd00::1"), Static: true})
			if err == nil {
				s.Close()
			}
			return err
		}},
		{"OpenTx", func() error {
			s, err := OpenTx(TxConfig{Groups: mixed, Interfaces: both, Port: 5001, TTL: 2, TrafficClass: 0xb8, WriteBuffer: 1 << 16})
			if err == nil {
				s.Close()
			}
			return err
		}},
	} {
		t.Run(op.name, func(t *testing.T) {
			if err := op.run(); err != nil {
				t.Fatalf("control: %v", err)
			}
			before := count(t)
			for n := 1; ; n++ {
				failed := failCall(t, n)
				err := op.run()
				call := failed()
				if call == "" {
					if n < 10 {
						t.Fatalf("only %d calls seen", n-1)
					}
					if err != nil {
						t.Fatalf("with no call failing: %v", err)
					}
					t.Logf("%d calls", n-1)
					return
				}
				var op *OpError
				if !errors.As(err, &op) || !errors.Is(err, errInjected) {
					t.Errorf("call %d, %s: error %v, want an OpError of %v", n, call, err, errInjected)
				}
				wantResources(t, before)
			}
		})
	}
}

// TestEveryCallOfJoinFails checks that a Join that fails changes nothing: the socket works as before, and the same
// Join succeeds later.
func TestEveryCallOfJoinFails(t *testing.T) {
	both := interfaces(t, "mc0", "mc1")
	for _, join := range []struct {
		group   string
		sources []netip.Addr
	}{
		{"239.1.1.2", nil},
		{"ff02::2345", nil},
		{"232.1.1.2", sequence("10.1.0.1", 25)},
		{"232.1.1.1", groups("10.1.0.9")}, // joined already for another source
	} {
		t.Run(join.group, func(t *testing.T) {
			// Without groups of IPv6 to begin with, so that Join has to open the reply socket too.
			s, err := OpenRx(RxConfig{Groups: groups("239.1.1.1"), Port: 5000, Interfaces: both, Loopback: true, Static: true})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if err := s.Join(groups("232.1.1.1")[0], groups("10.1.0.1")...); err != nil {
				t.Fatal(err)
			}
			group := netip.MustParseAddr(join.group)
			state := fmt.Sprint(s.Memberships())
			before := count(t)
			before.fds++ // the IPv6 reply socket, once opened, is kept for the next time
			for n := 1; ; n++ {
				failed := failCall(t, n)
				err := s.Join(group, join.sources...)
				call := failed()
				if call == "" {
					if err != nil || n < 2 {
						t.Fatalf("call %d: %v", n, err)
					}
					break
				}
				if !errors.Is(err, errInjected) {
					t.Errorf("call %d, %s: error %v", n, call, err)
				}
				if now := fmt.Sprint(s.Memberships()); now != state {
					t.Errorf("call %d, %s: memberships are now %s, were %s", n, call, now, state)
				}
				wantResources(t, before)
			}
			wantDelivery(t, s, both)
		})
	}
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
	s.SetReadDeadline(time.Now().Add(20 * time.Second))
	for range ifaces {
		buf := make([]byte, 16)
		if n, _, err := s.ReadFromUDPAddrPort(buf); err != nil || string(buf[:n]) != "alive" {
			t.Fatalf("read %q, %v", buf[:n], err)
		}
	}
}

// TestJoinMistakes checks that an open socket refuses the same mistakes, and stays as it is.
func TestJoinMistakes(t *testing.T) {
	both := interfaces(t, "mc0", "mc1")
	s, err := OpenRx(RxConfig{Groups: groups("239.1.1.1"), Port: 5000, Interfaces: both, Static: true, Loopback: true})
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
		{"source of the other family", join(groups("239.1.1.2")[0], groups("2001:db8::1")...), nil, []string{"2001:db8::1"}},
		{"narrow a group", join(groups("239.1.1.1")[0], groups("192.0.2.1")...), nil, []string{"all sources", "Leave"}},
		{"widen a group", join(groups("232.1.1.1")[0]), nil, []string{"192.0.2.1", "Leave"}},
		{"leave the unknown", func() error { return s.Leave(groups("239.1.1.9")[0]) }, ErrNotJoined, []string{"leave 239.1.1.9"}},
		{"leave the zero address", func() error { return s.Leave(netip.Addr{}) }, ErrNotJoined, nil},
	})
	if n := len(s.Memberships()); n != 4 {
		t.Errorf("%d memberships, want 4", n)
	}
	wantDelivery(t, s, both)
}

// TestNoSuchInterfaces covers what only the system can tell: that no interface fits.
func TestNoSuchInterfaces(t *testing.T) {
	host := mcasttest.NewHost(t) // has lo alone
	host.Do(func() {
		for name, open := range map[string]func() error{
			"OpenRx": func() error { _, err := OpenRx(RxConfig{Groups: groups("239.1.1.1"), Port: 5000}); return err },
			"OpenTx": func() error { _, err := OpenTx(TxConfig{Groups: groups("ff05::1")}); return err },
		} {
			before := count(t)
			if err := open(); !errors.Is(err, ErrNoInterface) || !strings.Contains(err.Error(), "(") {
				t.Errorf("%s: %v, want ErrNoInterface with a hint", name, err)
			} else {
				t.Log(err)
			}
			wantResources(t, before)
		}
	})
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

// TestWithoutBindToDevice has the kernel refuse to bind sockets to a device, as it does before 5.7 to ordinary users and
// before 5.1 to all. IPv6 groups of wider scope than the link then come by every interface, and must be refused here.
func TestWithoutBindToDevice(t *testing.T) {
	both := interfaces(t, "mc0", "mc1")
	for _, errno := range []error{unix.EPERM, unix.ENOPROTOOPT} {
		hook := func(call string) error {
			if strings.HasSuffix(call, "SO_BINDTOIFINDEX") {
				return errno
			}
			return nil
		}
		testHookCall.Store(&hook)
		t.Cleanup(func() { testHookCall.Store(nil) })
		group := groups("ff15::1234")
		open := func(i Interface) *RxSocket {
			s, err := OpenRx(RxConfig{Groups: group, Port: 5000, Interfaces: []Interface{i}, Loopback: true, Static: true})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { s.Close() })
			s.SetReadDeadline(time.Now().Add(20 * time.Second))
			return s
		}
		rx, other := open(both[0]), open(both[1])
		tx, err := OpenTx(TxConfig{Groups: group, Interfaces: both, Loopback: true, Static: true})
		if err != nil {
			t.Fatal(err)
		}
		defer tx.Close()
		send := func(text string, by Interface) {
			to := netip.AddrPortFrom(group[0].WithZone(by.Name), 5000)
			if _, err := tx.WriteToUDPAddrPort([]byte(text), to); err != nil {
				t.Fatal(err)
			}
		}
		buf := make([]byte, 16)
		for _, read := range map[string]func() (int, error){
			"ReadFromUDPAddrPort": func() (int, error) { n, _, err := rx.ReadFromUDPAddrPort(buf); return n, err },
			"ReadBatch": func() (int, error) {
				ms := []Message{{Buf: buf}, {Buf: make([]byte, 16)}}
				n, err := rx.ReadBatch(ms)
				if n != 1 || ms[0].IfIndex != both[0].Index {
					t.Errorf("%d messages, the first by %d", n, ms[0].IfIndex)
				}
				return copy(buf, ms[0].Buf[:ms[0].N]), err
			},
		} {
			send("unwanted", both[1])
			send("wanted", both[0])
			if n, err := read(); err != nil || string(buf[:n]) != "wanted" {
				t.Errorf("%v: read %q, %v", errno, buf[:n], err)
			}
			// The control: the unwanted one was on its way.
			if n, _, err := other.ReadFromUDPAddrPort(buf); err != nil || string(buf[:n]) != "unwanted" {
				t.Errorf("%v: the other read %q, %v", errno, buf[:n], err)
			}
		}
		rx.Close()
		other.Close()
	}
}
