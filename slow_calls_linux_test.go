//go:build (amd64 || arm64) && !mcast_portable

package mcast

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-multicast/mcast/internal/slow"
)

const slowChild = "MCAST_TEST_SLOW_CALLS"

// TestSlowCallsStopNobody: while the kernel takes its time over a call that touches the caller's memory, as it does when a
// page of a mapped file comes from a slow disk, the garbage collector works, and with it the rest of the process.
//
// It is another process that tries, since one whose garbage collector waits can do nothing, not even fail.
func TestSlowCallsStopNobody(t *testing.T) {
	if os.Getenv(slowChild) != "" {
		makeSlowCalls(t)
		return
	}
	needSeccompAnswers(t)
	ctx, cancel := context.WithTimeout(t.Context(), slow.Limit(time.Minute))
	defer cancel()
	child := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestSlowCallsStopNobody$", "-test.v")
	child.Env = append(os.Environ(), slowChild+"=1")
	out, err := child.CombinedOutput()
	if err != nil {
		t.Fatalf("%v, %v after %s", err, ctx.Err(), out)
	}
}

// makeSlowCalls collects garbage in the middle of each call that moves datagrams.
func makeSlowCalls(t *testing.T) {
	h := openRunsOf(t, 1, false)
	slow := make(chan string, 100)
	w := newWatchedThread(t, func(call string) {
		if strings.HasPrefix(call, "recv") || strings.HasPrefix(call, "send") {
			fmt.Println("in the middle of", call)
			runtime.GC()
			slow <- call
		}
	})
	dst, buf := h.dsts[0], make([]byte, 100)
	batch := func() []Message {
		return []Message{{Buf: make([]byte, 100), Addr: dst}, {Buf: make([]byte, 100), Addr: dst}}
	}
	var src netip.AddrPort
	for _, op := range []struct {
		call string
		f    func() error
	}{
		{"sendto", func() error { return errOf(h.tx.WriteToUDPAddrPort(buf, dst)) }},
		{"recvfrom", func() (err error) { _, src, err = h.rx.ReadFromUDPAddrPort(buf); return err }},
		{"sendmmsg", func() error { return errOf(h.tx.WriteBatch(batch())) }},
		{"recvmmsg", func() error { return errOf(h.rx.ReadBatch(batch())) }},
		{"sendto", func() error { return errOf(h.rx.WriteToUDPAddrPort(buf, src)) }},
		{"recvfrom", func() error { _, _, err := h.tx.ReadFromUDPAddrPort(buf); return err }},
	} {
		var err error
		w.do(0, func() { err = op.f() })
		var calls []string
		for len(slow) > 0 {
			calls = append(calls, <-slow)
		}
		if err != nil || !slices.Contains(calls, op.call) {
			t.Errorf("want garbage to be collected in %s, got %v, error %v", op.call, calls, err)
		}
	}
}
