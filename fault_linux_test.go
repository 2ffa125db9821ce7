// What happens when Linux refuses what it alone is asked. The rest is in fault_test.go.

package mcast

import (
	"errors"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/go-multicast/mcast/internal/slow"
	"github.com/go-multicast/mcast/mcasttest"
)

// bestEffort are the calls that may fail, each with the beginning of the name of the operations that it may fail in.
var bestEffort = map[string]string{
	"epoll_ctl": "Leave", // closing takes a descriptor out, too
}

// descriptorSlack: there are exactly as many as before.
const descriptorSlack = 0

func openDescriptors(t *testing.T) int {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(fds)
}

// missing skips a test for want of what CI has.
func missing(t *testing.T, what string) {
	t.Helper()
	if os.Getenv("MCAST_TEST_STRICT") == "1" {
		t.Fatal(what)
	}
	t.Skip(what)
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
			s.SetReadDeadline(time.Now().Add(slow.Limit(20 * time.Second)))
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

// TestOneOfSeveralInterfaces has one of two interfaces fail, wherever that can happen. The error names it.
func TestOneOfSeveralInterfaces(t *testing.T) {
	two := twoInterfaces(t)
	for name, attempt := range map[string]func(t *testing.T, fail func(call string, nth int)) error{
		"OpenTx": func(t *testing.T, fail func(string, int)) error {
			fail("setsockopt IP_MULTICAST_IF", 2)
			tx, err := OpenTx(TxConfig{Groups: groups("239.1.1.1"), Interfaces: two})
			if err == nil {
				tx.Close()
			}
			return err
		},
		"OpenRx": func(t *testing.T, fail func(string, int)) error {
			fail("bind", 2)
			rx, err := OpenRx(RxConfig{Groups: groups("239.1.1.1"), Port: 5000, Interfaces: two})
			if err == nil {
				rx.Close()
			}
			return err
		},
		"SetTTL": func(t *testing.T, fail func(string, int)) error {
			tx, err := OpenTx(TxConfig{Groups: groups("239.1.1.1"), Interfaces: two})
			if err != nil {
				t.Fatal(err)
			}
			defer tx.Close()
			fail("setsockopt IP_MULTICAST_TTL", 2)
			return tx.SetTTL(3)
		},
	} {
		t.Run(name, func(t *testing.T) {
			err := attempt(t, failNth)
			testHookCall.Store(nil)
			var op *OpError
			if !errors.As(err, &op) || !errors.Is(err, errInjected) || op.Interface != two[1].Name {
				t.Errorf("%v: want an error that names %s", err, two[1].Name)
			}
		})
	}
}

// failNth makes the n-th call of a name fail.
func failNth(call string, n int) {
	hook := func(made string) error {
		if made == call {
			if n--; n == 0 {
				return errInjected
			}
		}
		return nil
	}
	testHookCall.Store(&hook)
}

// twoInterfaces returns the interfaces that mcasttest makes.
func twoInterfaces(t *testing.T) []Interface {
	t.Helper()
	mcasttest.Require(t)
	two, err := FindInterfaces("mc0", "mc1")
	if err != nil {
		t.Fatal(err)
	}
	return two
}
