//go:build linux

// What one goroutine does without waiting is timed by what its thread takes of a processor: a clock on the wall would
// also count what other programs take of it meanwhile. Where waiting belongs to the matter, as with latency, it is
// the clock on the wall.

package main

import (
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// stopwatch keeps the goroutine that has started it on its thread until it is stopped.
type stopwatch struct{ start time.Duration }

func startWatch() stopwatch {
	runtime.LockOSThread()
	return stopwatch{threadTime()}
}

// stop returns what the thread has taken since the start.
func (w stopwatch) stop() time.Duration {
	took := threadTime() - w.start
	runtime.UnlockOSThread()
	return took
}

func threadTime() time.Duration {
	var t unix.Timespec
	unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t)
	return time.Duration(t.Nano())
}
