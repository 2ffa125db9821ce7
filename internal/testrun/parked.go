package testrun

import (
	"bytes"
	"runtime"
	"slices"
	"testing"
	"time"
)

// AwaitParked waits until at least n goroutines wait inside one of the functions. It may be called from any goroutine, so a
// failure does not end the test.
func AwaitParked(t testing.TB, n int, functions ...string) {
	t.Helper()
	for end := time.Now().Add(Limit); Parked(functions...) < n; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Errorf("%d goroutines wait in %s, want %d", Parked(functions...), functions, n)
			return
		}
	}
}

// Parked counts the goroutines that wait for the kernel, a channel, a lock or other goroutines, and have one of the functions in
// their stack.
func Parked(functions ...string) (n int) {
	buf := make([]byte, 1<<20)
	for g := range bytes.SplitSeq(buf[:runtime.Stack(buf, true)], []byte("\n\n")) {
		state, stack, _ := bytes.Cut(g, []byte("\n"))
		has := func(text []byte, any ...string) bool {
			return slices.ContainsFunc(any, func(one string) bool { return bytes.Contains(text, []byte(one)) })
		}
		if has(stack, functions...) && has(state, "[IO wait", "[sync.", "[chan receive", "[chan send", "[select") {
			n++
		}
	}
	return n
}
