package mcast

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// loggerFake is a handler that a test holds up.
type loggerFake struct {
	slog.Handler
	level   slog.Level
	hold    chan struct{} // nil: it does not block
	handled []string
	records []slog.Record
}

func (h *loggerFake) Enabled(_ context.Context, l slog.Level) bool { return l >= h.level }

func (h *loggerFake) Handle(_ context.Context, r slog.Record) error {
	if h.hold != nil {
		<-h.hold
	}
	text := strings.TrimPrefix(r.Message, "mcast: ")
	r.Attrs(func(a slog.Attr) bool { text += " " + a.String(); return true })
	h.handled, h.records = append(h.handled, text), append(h.records, r)
	return errors.New("ignored")
}

// TestLoggerEntries checks what is in an entry, and that its time is that of the event.
func TestLoggerEntries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &loggerFake{hold: make(chan struct{}), level: slog.LevelInfo}
		l := logger{to: slog.New(h)}
		begin := time.Now()
		l.log(slog.LevelWarn, "about none", Interface{}, errors.New("broken"))
		l.log(slog.LevelDebug, "not enabled", Interface{}, nil)
		l.log(slog.LevelInfo, "about one", Interface{Name: "eth0", Index: 2}, nil, slog.String("group", "239.1.1.1"))
		time.Sleep(time.Hour)
		close(h.hold)
		l.close()
		want := []string{"about none error=broken", "about one group=239.1.1.1 interface=eth0 index=2"}
		if !slices.Equal(h.handled, want) {
			t.Fatalf("handled %q, want %q", h.handled, want)
		}
		for _, r := range h.records {
			frame, _ := runtime.CallersFrames([]uintptr{r.PC}).Next()
			if !r.Time.Equal(begin) || !strings.Contains(frame.Function, "TestLoggerEntries") {
				t.Errorf("%s: logged at %v by %s", r.Message, r.Time.Sub(begin), frame.Function)
			}
		}
		l.log(slog.LevelWarn, "after close", Interface{}, nil)
		synctest.Wait()
		if len(h.handled) != len(want) {
			t.Errorf("handled after close: %q", h.handled[len(want):])
		}
	})
}

// TestLoggerBounded logs more than there is room for while the handler blocks. The oldest are dropped, and their number is
// logged in their place. The end of the bubble fails the test if a goroutine is left while there are no entries.
func TestLoggerBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &loggerFake{hold: make(chan struct{})}
		l := logger{to: slog.New(h)}
		const more = 10
		var want []string
		for n := range 1 + more + logLimit {
			l.log(slog.LevelInfo, fmt.Sprint(n), Interface{}, nil)
			synctest.Wait() // the first is in the handler
			switch {
			case n == more:
				want = append(want, fmt.Sprintf("log entries dropped count=%d", more))
			case n == 0 || n > more:
				want = append(want, fmt.Sprint(n))
			}
		}
		close(h.hold)
		synctest.Wait()
		if !slices.Equal(h.handled, want) {
			t.Errorf("handled %q, want %q", h.handled, want)
		}
		h.handled = nil
		l.log(slog.LevelInfo, "again", Interface{}, nil)
		synctest.Wait()
		if !slices.Equal(h.handled, []string{"again"}) {
			t.Errorf("handled %q after a pause", h.handled)
		}
	})
}

// TestLoggerClose checks that close waits for the handler, and delivers what is logged by then.
func TestLoggerClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &loggerFake{hold: make(chan struct{})}
		l := logger{to: slog.New(h)}
		for n := range 3 {
			l.log(slog.LevelInfo, fmt.Sprint(n), Interface{}, nil)
		}
		closed := false
		go func() {
			l.close()
			closed = true
		}()
		synctest.Wait()
		h.hold <- struct{}{}
		synctest.Wait()
		if closed {
			t.Error("close did not wait")
		}
		close(h.hold)
		synctest.Wait()
		if !closed || len(h.handled) != 3 {
			t.Errorf("closed: %v, handled %q", closed, h.handled)
		}
	})
}

// TestLoggerNone checks that a socket without a Logger takes entries.
func TestLoggerNone(t *testing.T) {
	var l logger
	l.log(slog.LevelInfo, "nothing", Interface{}, nil)
	l.close()
}

// flush waits until the handler has returned from every entry so far.
func (l *logger) flush() {
	idle := func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return !l.running
	}
	for !idle() {
		time.Sleep(100 * time.Microsecond)
	}
}
