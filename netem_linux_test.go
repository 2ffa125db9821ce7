// A network that loses, reorders, duplicates and corrupts packets (tc-netem(8)). The receiver delivers what the network
// brings it, and nothing of what is damaged.

package mcast_test

import (
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-multicast/mcast"
	"github.com/go-multicast/mcast/internal/slow"
	"github.com/go-multicast/mcast/mcasttest"
)

// netem has a host's eth0 do so to what it sends from now on. What it holds already is not lost.
func netem(t *testing.T, h *mcasttest.Host, words ...string) {
	t.Helper()
	// What is not named stays as it was, but for loss, delay and duplication (netem_change in net/sched/sch_netem.c).
	words = append([]string{"tc", "qdisc", "replace", "dev", "eth0", "root", "netem", "limit", "1000000", "corrupt", "0%"}, words...)
	run(t, h, "", words...)
}

// needNetem skips the test on kernels without it.
func needNetem(t *testing.T, h *mcasttest.Host) {
	t.Helper()
	var out []byte
	var err error
	h.Do(func() {
		out, err = exec.Command("tc", "qdisc", "replace", "dev", "lo", "root", "netem").CombinedOutput()
	})
	switch {
	case errors.Is(err, exec.ErrNotFound):
		unavailable(t, err.Error())
	case strings.Contains(string(out), "kind is unknown"):
		notHere(t, "a kernel with netem (CONFIG_NET_SCH_NETEM)")
	case err != nil:
		t.Fatalf("tc: %v: %s", err, out)
	}
}

// networkFault is what a network does, and how that shows in what is received of count datagrams.
type networkFault struct {
	name    string
	words   string // of tc-netem(8)
	damages bool
	shows   func(r received, count int) bool
}

// received is what came of a stream.
type received struct {
	delivered, distinct int
	overtaken           int // came after one that was sent later: some do when the sender changes its processor
}

var networkFaults = []networkFault{
	{"none", "loss 0%", false, func(r received, count int) bool { return r.distinct == count && r.delivered == count }},
	{"loss", "loss 20%", false, func(r received, count int) bool { return r.distinct < count }},
	{"reordering", "delay 5ms reorder 30%", false, func(r received, count int) bool { return r.distinct == count && r.overtaken > count/10 }},
	{"duplication", "duplicate 20%", false, func(r received, count int) bool { return r.distinct == count && r.delivered > count }},
	{"corruption", "corrupt 20%", true, func(r received, count int) bool { return r.distinct < count && r.delivered == r.distinct }},
	{"everything", "delay 2ms 1ms reorder 30% loss 5% duplicate 5% corrupt 5%", true, func(r received, count int) bool { return r.overtaken > count/10 }},
}

// TestNetworkFaults has a network do to a stream what networks do. The kernel's count of the packets that arrive is the
// control: each of them is delivered once. So one that the network duplicates is delivered twice, as by any UDP socket.
// What the network corrupts fails its checksum and is not delivered. Everything that is delivered is whole.
func TestNetworkFaults(t *testing.T) {
	noLeaks(t)
	w := newWires(t, 1)[0]
	needNetem(t, w.peer)
	for _, fault := range networkFaults {
		for _, coalesce := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, Coalesce %v", fault.name, coalesce), func(t *testing.T) {
				forEachFamily(t, func(t *testing.T, r contractRange) {
					cfg := onWire(w, newPort(), r.group)
					cfg.Coalesce, cfg.ReadBuffer = coalesce, 1<<20
					fault.test(t, w, cfg)
				})
			})
		}
	}
}

func (fault *networkFault) test(t *testing.T, w *wire, cfg mcast.RxConfig) {
	const count = 2000
	group, last := cfg.Groups[0], strconv.Itoa(count-1)
	rx := openRx(t, cfg)
	arrived, got := w.CountUDP(group), collect(rx)
	netem(t, w.peer, strings.Fields(fault.words)...)
	s := w.station(t, group, 0)
	for n := range count - 1 {
		s.send(group, cfg.Port, numbered(n))
		if n%50 == 0 {
			time.Sleep(slow.Limit(time.Millisecond)) // so that the receiver keeps up
		}
	}
	netem(t, w.peer, "loss", "0%")
	s.send(group, cfg.Port, numbered(count-1))
	dropped := func() int { return int(membership(t, rx, group, w.Name()).Dropped) }
	eventually(t, "it is received", func() bool {
		all := got()
		if !slices.ContainsFunc(all, func(p string) bool { return strings.HasPrefix(p, last) }) {
			return false
		}
		return fault.damages || len(all)+dropped() == int(arrived())
	})
	var r received
	all, highest := got(), -1
	times := make(map[string]int)
	for _, p := range all {
		var n int
		if fmt.Sscanf(p, "%d", &n); p != numbered(n) || n >= count {
			t.Fatalf("nobody sent %q", p)
		}
		if times[p]++; n < highest {
			r.overtaken++
		}
		highest = max(highest, n)
	}
	r.delivered, r.distinct = len(all), len(times)
	packets := int(arrived())
	t.Logf("%d sent, %d arrived, %d dropped: %+v", count, packets, dropped(), r)
	if !fault.shows(r, count) || r.delivered > packets {
		t.Errorf("of %d, %d arrived: %+v", count, packets, r)
	}
}

// numbered is a datagram that differs from all others, and has a size of its own.
func numbered(n int) string {
	return fmt.Sprintf("%d %s", n, strings.Repeat(strconv.Itoa(n%10), n%1000))
}

// collect reads until the socket is closed. It returns a function that returns everything so far.
func collect(rx *mcast.RxSocket) (got func() []string) {
	var mu sync.Mutex
	var all []string
	go func() {
		ms := make([]mcast.Message, 64)
		for i := range ms {
			ms[i].Buf = make([]byte, 2000)
		}
		for {
			n, err := rx.ReadBatch(ms)
			if err != nil {
				return
			}
			mu.Lock()
			for _, m := range ms[:n] {
				all = append(all, string(m.Buf[:m.N]))
			}
			mu.Unlock()
		}
	}()
	return func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(all)
	}
}
