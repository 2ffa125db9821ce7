// What the handler of a Logger may do: all but close its socket, also while somebody else does.

package mcast

import (
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-multicast/mcast/internal/slow"
	"github.com/go-multicast/mcast/internal/testrun"
	"github.com/go-multicast/mcast/mcasttest"
	"golang.org/x/sys/unix"
)

// loggerHost is a host with two interfaces.
func loggerHost(t *testing.T) (host *mcasttest.Host, there *mcasttest.Interface) {
	host = mcasttest.NewHost(t)
	host.NewVeth("here", netip.MustParsePrefix("10.9.8.1/24"))
	return host, host.NewVeth("there", netip.MustParsePrefix("10.9.9.1/24"))
}

// loggerTo is one whose handler calls f.
func loggerTo(f func()) *slog.Logger {
	return slog.New(slog.NewTextHandler(writerFunc(func(b []byte) (int, error) { f(); return len(b), nil }), nil))
}

func loggerRx(t *testing.T, host *mcasttest.Host, name string, l *slog.Logger) (rx *RxSocket) {
	t.Helper()
	host.Do(func() {
		ifaces, err := FindInterfaces(name)
		if err == nil {
			rx, err = OpenRx(RxConfig{Groups: groups("239.1.1.1"), Port: 5000, Interfaces: ifaces, Logger: l})
		}
		if err != nil {
			t.Fatal(err)
		}
	})
	return rx
}

func loggerTx(t *testing.T, host *mcasttest.Host, name string, l *slog.Logger) (tx *TxSocket) {
	t.Helper()
	host.Do(func() {
		ifaces, err := FindInterfaces(name)
		if err == nil {
			tx, err = OpenTx(TxConfig{Groups: groups("239.1.1.1"), Interfaces: ifaces, Logger: l})
		}
		if err != nil {
			t.Fatal(err)
		}
	})
	return tx
}

// within fails the test if f takes too long: it hangs.
func within(t *testing.T, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	select {
	case <-done:
	case <-time.After(slow.Limit(20 * time.Second)):
		t.Fatalf("%s hangs", what)
	}
}

// TestLoggerReads has the handler of a sender wait for a reply that never comes: Close interrupts it.
func TestLoggerReads(t *testing.T) {
	host, there := loggerHost(t)
	opened, reading := make(chan struct{}), make(chan struct{})
	var tx *TxSocket
	var once sync.Once
	tx = loggerTx(t, host, "there", loggerTo(func() {
		<-opened
		once.Do(func() { close(reading) })
		tx.ReadFrom(make([]byte, 10))
	}))
	close(opened)
	there.Delete()
	<-reading
	within(t, "Close", func() { tx.Close() })
}

// TestLoggerClosesAnother has the handler of a receiver close another socket while that receiver is closed, and is the last
// beside it that follows the network.
func TestLoggerClosesAnother(t *testing.T) {
	host, there := loggerHost(t)
	other := loggerTx(t, host, "here", nil)
	opened, called := make(chan struct{}), make(chan struct{})
	var rx *RxSocket
	var once sync.Once
	rx = loggerRx(t, host, "there", loggerTo(func() {
		<-opened
		once.Do(func() {
			close(called)
			testrun.AwaitParked(t, 1, "(*RxSocket).Close") // for this
			other.Close()
		})
	}))
	close(opened)
	there.Delete()
	<-called
	within(t, "Close", func() { rx.Close() })
}

// TestLoggerReportsThatItCannotFollow has the system refuse to report changes, as Android does. The handler may wait for a
// socket that joins. A lack of resources is an error instead.
func TestLoggerReportsThatItCannotFollow(t *testing.T) {
	host, _ := loggerHost(t)
	open := processWatch.open
	defer func() { processWatch.open = open }()
	processWatch.open = func() (watchSource, error) { return nil, unix.EACCES }
	entries := 0
	handler := func() {
		entries++
		within(t, "prepare", func() {
			processWatch.joining.Lock()
			defer processWatch.joining.Unlock()
		})
	}
	loggerRx(t, host, "here", loggerTo(handler)).Close()
	loggerTx(t, host, "here", loggerTo(handler)).Close()
	if entries != 2 {
		t.Errorf("%d entries, want 2", entries)
	}

	processWatch.open = func() (watchSource, error) { return nil, ifaceError("watch", unix.EMFILE) }
	host.Do(func() {
		before := count(t)
		here, err := FindInterfaces("here")
		if err != nil {
			t.Fatal(err)
		}
		_, rx := OpenRx(RxConfig{Groups: groups("239.1.1.1"), Port: 5000, Interfaces: here})
		_, tx := OpenTx(TxConfig{Groups: groups("239.1.1.1"), Interfaces: here})
		for _, err := range []error{rx, tx} {
			var op *OpError
			if !errors.As(err, &op) || !errors.Is(err, unix.EMFILE) || !strings.Contains(op.Hint, "ulimit -n") {
				t.Errorf("%v", err)
			}
		}
		wantResources(t, before)
	})
}

// TestLoggerBlocks has the handler of a receiver block for good. Another receiver and a sender follow their interface all
// the same, and so does that receiver itself.
func TestLoggerBlocks(t *testing.T) {
	host := mcasttest.NewHost(t)
	here := host.NewVeth("here", netip.MustParsePrefix("10.9.8.1/24"))
	there := host.NewVeth("there", netip.MustParsePrefix("10.9.9.1/24"))
	release, blocked := make(chan struct{}), make(chan struct{})
	var once sync.Once
	var entries atomic.Int64
	slowRx := loggerRx(t, host, "there", loggerTo(func() {
		once.Do(func() { close(blocked) })
		<-release
		entries.Add(1)
	}))
	defer slowRx.Close()
	free := sync.OnceFunc(func() { close(release) })
	defer free() // before Close, which waits for the handler
	rx, tx := loggerRx(t, host, "here", nil), loggerTx(t, host, "here", nil)
	defer rx.Close()
	defer tx.Close()

	there.Delete()
	within(t, "the handler", func() { <-blocked })
	here.Delete()
	here.Create()
	there.Create()
	joined := func(rx *RxSocket, i *mcasttest.Interface) bool {
		m := rx.Memberships()[0]
		return m.Joined && m.IfIndex == i.Index()
	}
	end := time.Now().Add(slow.Limit(20 * time.Second))
	for !joined(rx, here) || tx.Interfaces()[0].Index != here.Index() || !joined(slowRx, there) {
		if time.Now().After(end) {
			t.Fatalf("%+v on index %d, %+v on index %d", rx.Memberships(), here.Index(), slowRx.Memberships(), there.Index())
		}
		time.Sleep(time.Millisecond)
	}
	if n := entries.Load(); n != 0 {
		t.Errorf("%d entries were handled meanwhile", n)
	}
	free()
	slowRx.Close()
	if n := entries.Load(); n != 2 { // gone, and joined again
		t.Errorf("%d entries, want 2", n)
	}
}

// A receiver that is opened on a link that is down logs it, and so does one whose groups cannot be joined everywhere.
func TestLoggerReportsWhatOpeningPassesOver(t *testing.T) {
	host, there := loggerHost(t)
	there.Down()
	var text strings.Builder
	open := func(specs ...string) string {
		text.Reset()
		host.Do(func() {
			cfg := RxConfig{Groups: groups("239.1.1.1", "ff02::1234"), Port: 5000, Static: true, Logger: slog.New(slog.NewTextHandler(&text, nil))}
			if specs != nil {
				cfg.Groups = cfg.Groups[:1]
				var err error
				if cfg.Interfaces, err = FindInterfaces(specs...); err != nil {
					t.Fatal(err)
				}
			}
			rx, err := OpenRx(cfg)
			if err != nil {
				t.Fatal(err)
			}
			rx.Close()
		})
		return text.String()
	}
	if log := open("there"); !strings.Contains(log, "interface is down") || !strings.Contains(log, "interface=there") {
		t.Errorf("a link that is down: %q", log)
	}
	if log := open("here"); log != "" {
		t.Errorf("a link that is up: %q", log)
	}
	host.Sysctl("net/ipv6/conf/here/disable_ipv6", "1")
	if log := open(); !strings.Contains(log, "waits for an interface") || !strings.Contains(log, "ff02::1234") {
		t.Errorf("without IPv6: %q", log)
	}
}

// What opening returns as an error is not logged as well.
func TestLoggerLeavesOutWhatOpeningReturns(t *testing.T) {
	host, _ := loggerHost(t)
	var text strings.Builder
	host.Do(func() {
		foreign, err := net.ListenPacket("udp4", ":5000") // without SO_REUSEADDR
		if err != nil {
			t.Fatal(err)
		}
		defer foreign.Close()
		rx, err := OpenRx(RxConfig{Groups: groups("239.1.1.1"), Port: 5000, Logger: slog.New(slog.NewTextHandler(&text, nil))})
		if err == nil {
			rx.Close()
			t.Fatal("a port that is taken could be had")
		}
		if text.Len() > 0 {
			t.Errorf("error %v, and logged %q", err, &text)
		}
	})
}
