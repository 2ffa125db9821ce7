// What is logged of a failure that lasts while the network changes.

package mcast

import (
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-multicast/mcast/mcasttest"
	"golang.org/x/sys/unix"
)

// countingLog counts the entries with a message.
type countingLog struct {
	message string
	mu      sync.Mutex
	n       int
	other   strings.Builder // entries with another one
}

func (c *countingLog) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if strings.Contains(string(b), `msg="mcast: `+c.message+`"`) {
		c.n++
	} else {
		c.other.Write(b)
	}
	return len(b), nil
}

// TestFollowLogsFailureOnce checks that a failure which lasts is logged once, however often the network changes: again when
// its cause changes, and again when it comes back.
func TestFollowLogsFailureOnce(t *testing.T) {
	v4, v6 := groups("239.1.1.1"), groups("ff15::1234")
	for _, test := range []struct {
		message string
		open    func(t *testing.T, there []Interface, logger *slog.Logger) (s interface{ Close() error }, l *logger, follow func(networkChange) time.Duration)
		to      func(there *Interface, vrf int) // how the network changes
		fail    func(errno error, change *networkChange) (hook func(call string) error)
		final   bool // what succeeds once does not fail again
	}{
		{"cannot reply in the VRF", func(t *testing.T, there []Interface, to *slog.Logger) (interface{ Close() error }, *logger, func(networkChange) time.Duration) {
			rx, err := OpenRx(RxConfig{Groups: v4, Port: 5000, Interfaces: there, Static: true, Logger: to})
			must(t, rx, err)
			return rx, &rx.logger, rx.follow
		}, inVRF, failBind, false},
		{"cannot reply", func(t *testing.T, there []Interface, to *slog.Logger) (interface{ Close() error }, *logger, func(networkChange) time.Duration) {
			rx, err := OpenRx(RxConfig{Groups: append(v4, v6...), Port: 5000, Static: true, Logger: to})
			must(t, rx, err)
			return rx, &rx.logger, rx.follow
		}, withIPv6, failBind, true},
		{"cannot send on the interface of the default route", openTxForLog, withIPv6, func(errno error, change *networkChange) func(string) error {
			change.defaults = &watchDefaults{ask: func(string) (int, error) { return change.Interfaces[0].Index, nil }}
			return failBind(errno, change)
		}, false},
		{"cannot find the default route", openTxForLog, withIPv6, func(errno error, change *networkChange) func(string) error {
			change.defaults = &watchDefaults{ask: func(string) (int, error) { return 0, errno }}
			return nil
		}, false},
	} {
		if !replyEarly && strings.HasPrefix(test.message, "cannot reply") {
			continue // the first reply opens the socket, and returns the error
		}
		t.Run(test.message, func(t *testing.T) {
			host := mcasttest.NewHost(t)
			veth := host.NewVeth("there", netip.MustParsePrefix("10.9.9.1/24"))
			host.Sysctl("net/ipv6/conf/there/disable_ipv6", "1")
			veth.AddRoute(netip.MustParsePrefix("0.0.0.0/0"), veth.Peer().IPv4, 100)
			log := &countingLog{message: test.message}
			host.Do(func() {
				there := interfaces(t, "there")
				s, logger, follow := test.open(t, there, slog.New(slog.NewTextHandler(log, nil)))
				defer s.Close()
				want := 0
				for _, step := range []struct {
					what  string
					errno error
					news  int
				}{
					{"the first failure", unix.EACCES, 1},
					{"after a change", unix.EACCES, 0},
					{"after another", unix.EACCES, 0},
					{"another cause", unix.EMFILE, 1},
					{"after a change", unix.EMFILE, 0},
					{"nothing to do", nil, 0},
					{"it comes back", unix.EMFILE, 1},
				} {
					if test.final && step.what == "it comes back" {
						break
					}
					change := networkChange{Interfaces: ifaceCloneAll(there)}
					change.defaults = &watchDefaults{ask: func(string) (int, error) { return 0, ErrNoInterface }}
					if step.errno != nil {
						test.to(&change.Interfaces[0], 4242)
						if hook := test.fail(step.errno, &change); hook != nil {
							testHookCall.Store(&hook)
						}
					}
					if again := follow(change); step.errno != nil && again == 0 {
						t.Errorf("%s: it does not ask to be called again", step.what)
					}
					testHookCall.Store(nil)
					want += step.news
					logger.goroutine.Wait()
					if log.n != want {
						t.Fatalf("%s: %d entries, want %d; others:\n%s", step.what, log.n, want, &log.other)
					}
				}
			})
		})
	}
}

func openTxForLog(t *testing.T, there []Interface, to *slog.Logger) (interface{ Close() error }, *logger, func(networkChange) time.Duration) {
	tx, err := OpenTx(TxConfig{Groups: groups("239.1.1.1", "ff15::1234"), Static: true, Logger: to})
	must(t, tx, err)
	return tx, &tx.logger, tx.follow
}

func inVRF(there *Interface, vrf int) {
	there.Master, there.masterKind, there.masterName = vrf, kindVRF, "v7"
}

func withIPv6(there *Interface, _ int) {
	there.IPv6 = []netip.Prefix{netip.MustParsePrefix("fd99::1/64")}
}

func failBind(errno error, _ *networkChange) func(call string) error {
	return func(call string) error {
		if call == "bind" {
			return errno
		}
		return nil
	}
}
