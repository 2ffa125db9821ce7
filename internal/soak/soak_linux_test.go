// A test of many lives. Each begins with a network at rest, and what happens in it is up to its seed.

package soak

import (
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-multicast/mcast"
	"github.com/go-multicast/mcast/mcasttest"
)

var (
	length  = flag.Duration("soak.time", 3*time.Second, "how long to go on")
	seed    = flag.Uint64("soak.seed", 0, "the `seed` of the first life; 0: a random one. The next one's is one more")
	verbose = flag.Bool("soak.log", false, "show what happens")
)

func TestMain(m *testing.M) { mcasttest.Main(m) }

func TestSoak(t *testing.T) {
	mcasttest.Require(t)
	first := *seed
	for first == 0 {
		first = uint64(rand.Uint32())
	}
	n := newNetwork(t)
	n.life(first, time.Second, new(counts)) // so that all there is for good is there
	before := n.settled()
	start, lives := time.Now(), 0
	total := new(counts)
	t.Cleanup(func() { total.print(before, n, first, lives, time.Since(start)) })
	for s := first; lives == 0 || time.Since(start) < *length; s++ {
		lives++
		n.life(s, min(lifeLength, max(*length-time.Since(start), time.Second)), total)
		var now resources
		if wrong := await(func() string {
			now = n.resources()
			if err := before.same(now); err != nil {
				return err.Error()
			}
			return ""
		}); wrong != "" {
			t.Fatalf("after the life of seed %d: %s", s, wrong)
		}
		if *verbose {
			fmt.Printf("seed %d is over: %d bytes, %d descriptors, %d goroutines\n",
				s, now.heap, now.descriptors, now.goroutines)
		}
	}
}

const lifeLength = 15 * time.Second

// counts are the figures.
type counts struct {
	sent, unsent, received atomic.Uint64
	checked                atomic.Uint64 // datagrams that had to come
	dropped                atomic.Uint64 // of those, by the kernel for want of buffer
	backlog, voided        atomic.Uint64 // packets dropped before they had a socket, and the books void for it
	books                  int
	operations             map[string]int
}

func (c *counts) print(before resources, n *network, first uint64, lives int, took time.Duration) {
	now := n.resources()
	say := func(format string, args ...any) { fmt.Printf("soak: "+format+"\n", args...) }
	sum := 0
	var kinds []string
	for _, kind := range slices.Sorted(maps.Keys(c.operations)) {
		kinds = append(kinds, fmt.Sprintf("%s %d", kind, c.operations[kind]))
		sum += c.operations[kind]
	}
	say("%d lives in %v, the first of seed %d; books made up %d times", lives, took.Round(time.Second), first, c.books)
	say("datagrams: %d sent, %d read, %d had to be; %d writes failed",
		c.sent.Load(), c.received.Load(), c.checked.Load(), c.unsent.Load())
	say("losses that the kernel told: %d of the %d for want of buffer; %d packets for want of a processor, %d books void",
		c.dropped.Load(), c.checked.Load(), c.backlog.Load(), c.voided.Load())
	say("operations: %d (%s)", sum, strings.Join(kinds, ", "))
	say("memory in use: %d KiB at first, %d KiB at last; the process had %s at most",
		before.heap>>10, now.heap>>10, peak())
	say("descriptors: %d at first, %d at last; goroutines: %d, %d",
		before.descriptors, now.descriptors, before.goroutines, now.goroutines)
}

// peak is the most memory that the process has had.
func peak() string {
	text, _ := os.ReadFile("/proc/self/status")
	for _, line := range strings.Split(string(text), "\n") {
		if value, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}

func descriptors(t *testing.T) int {
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

// life is what happens between one rest of the network and the next.
type life struct {
	*network
	seed   uint64
	rng    *rand.Rand
	counts *counts
	serial int  // of the latest receiver
	wasFew bool // the kernel took few sources for a while, and memberships of then may be there still

	gate  sync.RWMutex // held for reading by who sends; closed while the books are made up
	hurry atomic.Bool  // slow receivers are not

	peers      [wireCount]*sender
	hostSender *sender
	peerSeqs   [wireCount][groupCount]sequence
	hostSeqs   [groupCount]sequence
	states     [wireCount]*wireState
	txs        [2]txState // of this host's sockets: the second is the loud one
	receivers  []*receiver
	far        [wireCount]*receiver

	mu       sync.Mutex // guards what follows, and counts.operations
	log      []happening
	now      int // the first of log since the books before these were begun
	next     int // since these were
	problems []happening
}

// wireState is what a life knows of a wire.
type wireState struct {
	shaky       bool // something has happened to it since the books were begun, or it does not work
	readdressed bool
	dropped     uint64                   // when the books were begun
	excused     [senderCount]atomic.Bool // from sending by it
}

type txState struct {
	links    map[int]*link
	reopened bool // since the books were begun
}

// happening is a line of the log, with what it is about: -1 and "" for what is about more.
type happening struct {
	wire     int
	receiver string
	text     string
}

func (l *life) txOf(g int) *txState {
	if loud(g) {
		return &l.txs[1]
	}
	return &l.txs[0]
}

// sequence is the stream of a sender to a group on a wire.
func (l *life) sequence(w, g, from int) *sequence {
	if from == fromHost {
		return &l.hostSeqs[g]
	}
	return &l.peerSeqs[w][g]
}

// all are the receivers on this host and at the far ends.
func (l *life) all() []*receiver { return append(slices.Clone(l.receivers), l.far[:]...) }

// record takes down what is about to happen.
func (l *life) record(kind string, wire int, receiver, format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.counts.operations[kind]++
	h := happening{wire, receiver, fmt.Sprintf(format, args...)}
	if *verbose {
		fmt.Println(h.text)
	}
	l.log = append(l.log, h)
}

// problem takes down what is wrong.
func (l *life) problem(wire int, receiver, format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.problems) < 20 {
		l.problems = append(l.problems, happening{wire, receiver, fmt.Sprintf(format, args...)})
	}
}

// judge ends the test if something was wrong.
func (l *life) judge() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.problems) == 0 {
		return
	}
	const lines = 40
	for _, p := range l.problems[:min(len(l.problems), 5)] {
		var about []string
		for i, h := range l.log {
			if h.wire >= 0 && h.wire == p.wire || h.receiver != "" && h.receiver == p.receiver || i >= l.now {
				about = append(about, h.text)
			}
		}
		l.t.Errorf("%s\nwhat happened to it of late:\n  %s", p.text, strings.Join(about[max(0, len(about)-lines):], "\n  "))
	}
	l.t.Fatalf("%d problems", len(l.problems))
}

func (l *life) newReceiver(name string, wire int) *receiver {
	r := &receiver{life: l, name: name, wire: wire, groups: make(map[int][]netip.Addr)}
	for g := range groups {
		r.each(g, func(w, from int, k *track, seq *sequence) {
			p := &r.pairs[w][g]
			p.start[from] = seq.arrived.Load()
			k.forget(p.start[from])
		})
	}
	return r
}

// life plays one for about as long as said.
func (n *network) life(seed uint64, length time.Duration, c *counts) {
	l := &life{network: n, seed: seed, rng: rand.New(rand.NewPCG(seed, 0)), counts: c}
	if c.operations == nil {
		c.operations = make(map[string]int)
	}
	defer func() {
		if n.t.Failed() {
			n.t.Logf("play it again: -soak.seed=%d", seed)
		}
	}()
	l.begin()
	done := make(chan struct{})
	var senders sync.WaitGroup
	for _, s := range append(l.peers[:], l.hostSender) {
		senders.Go(func() { s.run(done) })
	}
	defer senders.Wait()
	stop := sync.OnceFunc(func() { close(done) })
	defer stop()
	for end := time.Now().Add(length); time.Now().Before(end); {
		l.time()
	}
	stop()
	senders.Wait()
	l.end()
}

// begin opens what a life begins with.
func (l *life) begin() {
	cpus, err := processors()
	if err != nil {
		l.t.Fatal(err)
	}
	for w, x := range l.wires {
		l.states[w] = &wireState{dropped: l.dropped(x)}
		s := l.newSender(fromPeer, w, &l.peerSeqs[w], cpus[w%len(cpus)], 48, 6*time.Millisecond)
		l.peers[w] = s
		tx, err := openTx(x.peer, mcast.TxConfig{Groups: groups}, "eth0")
		if err != nil {
			l.t.Fatal(err)
		}
		s.plain.Store(tx)
		x.peer.Do(func() { err = s.openEcho() })
		if err != nil {
			l.t.Fatal(err)
		}
	}
	l.hostSender = l.newSender(fromHost, -1, &l.hostSeqs, cpus[wireCount%len(cpus)], 16, 12*time.Millisecond)
	l.host.Do(func() { err = l.hostSender.openEcho() })
	if err != nil {
		l.t.Fatal(err)
	}
	for which := range l.txs {
		l.openSender(which)
	}
	for w, x := range l.wires {
		r := l.newReceiver(fmt.Sprintf("the peer of wire %d", w), w)
		r.cfg = mcast.RxConfig{Groups: groups, Port: port, ReadBuffer: 1 << 20, Coalesce: w%2 == 1}
		r.way = w % bySlow
		r.links = map[int]*link{w: {"eth0", true}}
		for g := range groups {
			r.groups[g] = nil
		}
		x.peer.Do(func() { r.cfg.Interfaces, err = mcast.FindInterfaces("eth0") })
		if err == nil {
			err = r.open()
		}
		if err != nil {
			l.t.Fatal(err)
		}
		l.far[w] = r
	}
	for range fewest {
		l.openOne()
	}
	l.check()
	l.judge()
}

// time is one of many: some things happen while all else goes on, and then the books are made up.
func (l *life) time() {
	const changing, working = 2, 3 // wires: at most that many change, at least that many work
	var wires []*wire
	for range l.rng.IntN(changing + 1) {
		x := l.wires[l.rng.IntN(wireCount)]
		resting := 0
		for w, y := range l.wires {
			if w != x.n && y.ok() {
				resting++
			}
		}
		if !slices.Contains(wires, x) && (!x.ok() || resting > working) {
			wires = append(wires, x)
		}
	}
	sockets := 1 + l.rng.IntN(8)
	told := []*settler{l.told}
	for len(wires) > 0 || sockets > 0 {
		if n := l.rng.IntN(len(wires) + sockets); n < len(wires) {
			x := wires[n]
			wires = slices.Delete(wires, n, n+1)
			l.changeWire(x)
			told = append(told, x.told)
		} else {
			sockets--
			l.changeSocket()
		}
		time.Sleep(time.Duration(l.rng.IntN(10)) * time.Millisecond)
		l.judge()
	}
	if len(told) > 1 {
		settle(told)
	}
	for _, r := range l.all() {
		if wrong := await(r.compare); wrong != "" {
			l.problem(-1, r.name, "%s: %s; it says %+v", r.name, wrong, r.rx.Memberships())
		}
	}
	l.judge()
	l.check()
	l.judge()
	l.mu.Lock()
	l.counts.books++
	l.now, l.next = l.next, len(l.log)
	l.mu.Unlock()
}

// end closes everything and brings the network to rest.
func (l *life) end() {
	for _, r := range l.all() {
		r.close()
	}
	for _, s := range append(l.peers[:], l.hostSender) {
		if err := s.close(); err != nil {
			l.problem(s.wire, "", "close sender %d: %v", s.wire, err)
		}
	}
	for _, x := range l.wires {
		l.restore(x)
	}
	l.setFew(false)
	l.judge()
}
