// The log of a socket. A slog.Handler is code of the user: it may block, and it may use sockets. So each socket runs its handler
// on a goroutine of its own, with no lock held.

package mcast

import (
	"context"
	"log/slog"
	"runtime"
	"slices"
	"sync"
	"time"
)

// logLimit is how many entries of a socket may wait for the handler.
const logLimit = 256

// logger passes entries to a slog.Logger, in order. It has a goroutine only while there are entries.
type logger struct {
	to *slog.Logger // nil: entries are discarded

	mu      sync.Mutex // guards what is below
	queue   []slog.Record
	dropped int  // how many entries had no room in the queue
	running bool // there is a goroutine
	closed  bool

	goroutine sync.WaitGroup
}

// log adds an entry about an interface, or with the zero Interface about none. It does not block and does not run the
// handler, so the caller may hold any lock. It does nothing after close.
func (l *logger) log(level slog.Level, what string, ifc Interface, err error, more ...slog.Attr) {
	if l.to == nil {
		return
	}
	var caller [1]uintptr // for slog.HandlerOptions.AddSource
	runtime.Callers(2, caller[:])
	r := slog.NewRecord(time.Now(), level, "mcast: "+what, caller[0])
	r.AddAttrs(more...)
	if ifc.Index > 0 {
		r.AddAttrs(slog.String("interface", ifc.Name), slog.Int("index", ifc.Index))
	}
	if err != nil {
		r.AddAttrs(slog.Any("error", err))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	if len(l.queue) == logLimit {
		l.queue = slices.Delete(l.queue, 0, 1)
		l.dropped++
	}
	l.queue = append(l.queue, r)
	if !l.running {
		l.running = true
		l.goroutine.Go(l.run)
	}
}

// run passes entries on until there are none.
func (l *logger) run() {
	ctx, handler := context.Background(), l.to.Handler()
	for {
		r, ok := l.next()
		if !ok {
			return
		}
		if handler.Enabled(ctx, r.Level) {
			_ = handler.Handle(ctx, r) // as slog.Logger does
		}
	}
}

// next removes the next entry from the queue. If there is none, the goroutine must end.
func (l *logger) next() (r slog.Record, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.dropped > 0:
		r = slog.NewRecord(time.Now(), slog.LevelWarn, "mcast: log entries dropped", 0)
		r.AddAttrs(slog.Int("count", l.dropped))
		l.dropped = 0
	case len(l.queue) > 0:
		r = l.queue[0]
		l.queue = slices.Delete(l.queue, 0, 1)
	default:
		l.running = false
		return r, false
	}
	return r, true
}

// close waits until the handler has returned from every entry.
func (l *logger) close() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.goroutine.Wait()
}
