// The receivers, and the book that each keeps: what may come to it, what must, and what did. It is kept in the numbers
// of the streams and not in time, so that it does not matter how long anything takes.

package soak

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/bits"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-multicast/mcast"
)

// span is a part of a stream: the numbers from first to before end.
type span struct{ first, end uint64 }

const forever = math.MaxUint64

// track is what a receiver knows of a stream.
type track struct {
	base  uint64   // the number of the first of bits, a multiple of 64
	bits  []uint64 // what has come
	floor uint64   // nothing below may come anymore

	may      []span // what may have come
	last     uint64 // the latest to come
	disorder []span // numbers one of which came after a higher one: what came, and the higher one
}

// add takes down that a datagram has come, and says what is wrong with it.
func (k *track) add(serial uint64) error {
	if serial < k.floor {
		return fmt.Errorf("%d has come late or twice: all below %d were done with", serial, k.floor)
	}
	i := int((serial - k.base) / 64)
	for len(k.bits) <= i {
		k.bits = append(k.bits, 0)
	}
	bit := uint64(1) << (serial % 64)
	if k.bits[i]&bit != 0 {
		return fmt.Errorf("%d has come twice", serial)
	}
	k.bits[i] |= bit
	if serial < k.last && len(k.disorder) < 10 {
		k.disorder = append(k.disorder, span{serial, k.last})
	}
	k.last = serial
	return nil
}

func (k *track) has(serial uint64) bool {
	i := (serial - k.base) / 64
	return serial >= k.base && i < uint64(len(k.bits)) && k.bits[i]>>(serial%64)&1 != 0
}

// count is how many of a span have come.
func (k *track) count(s span) (n uint64) {
	for at := s.first; at < s.end; {
		i := (at - k.base) / 64
		if i >= uint64(len(k.bits)) {
			break
		}
		word := k.bits[i] >> (at % 64)
		if left := s.end - at; left < 64 {
			word &= 1<<left - 1
		}
		n += uint64(bits.OnesCount64(word))
		at += 64 - at%64
	}
	return n
}

// list names those of a span that have come, or have not.
func (k *track) list(s span, come bool) (text string) {
	for at, n := s.first, 0; at < s.end; at++ {
		if k.has(at) != come {
			continue
		}
		first := at
		for at+1 < s.end && k.has(at+1) == come {
			at++
		}
		if text += fmt.Sprintf(" %d-%d", first, at); n == 20 {
			return text + " …"
		}
		n++
	}
	return text
}

// unexpected returns what has come and may not have.
func (k *track) unexpected(end uint64) (s span, found bool) {
	at := k.floor
	for _, may := range k.may { // in order, without overlap
		if gap := (span{at, min(may.first, end)}); gap.first < gap.end && k.count(gap) > 0 {
			return gap, true
		}
		at = max(at, may.end)
	}
	gap := span{at, max(at, uint64(len(k.bits))*64+k.base)}
	return gap, k.count(gap) > 0
}

// open lets datagrams come from a number on.
func (k *track) open(first uint64) {
	for n := len(k.may); n > 0 && k.may[n-1].end >= first; n-- { // it touches this one
		first = min(first, k.may[n-1].first)
		k.may = k.may[:n-1]
	}
	k.may = append(k.may, span{first, forever})
}

// shut ends that.
func (k *track) shut(end uint64) {
	if n := len(k.may); n > 0 && k.may[n-1].end == forever {
		k.may[n-1].end = end
	}
}

// forget gives up what is known of numbers below floor, which must not come anymore.
func (k *track) forget(floor uint64) {
	k.floor = floor
	if n := min((floor-k.base)/64, uint64(len(k.bits))); n > 0 {
		k.bits = k.bits[:copy(k.bits, k.bits[n:])]
		k.base += n * 64
	}
	if len(k.bits) == 0 {
		k.base = floor &^ 63
	}
	k.may = slices.DeleteFunc(k.may, func(s span) bool { return s.end <= floor })
	k.disorder = nil
}

// pair is a group on a wire.
type pair struct {
	tracks [senderCount]track
	read   uint64 // datagrams

	// The books that are kept now were begun with these numbers, when the membership was as before, and readBefore
	// datagrams were read.
	start      [senderCount]uint64
	before     mcast.Membership
	readBefore uint64

	must    bool                // what is sent must be read, or be counted as dropped,
	from    [senderCount]uint64 // from here on
	exact   bool                // nothing else is counted as dropped
	counted bool                // nor as read
	done    bool                // these books are made up
}

// The ways to read.
const (
	byBatch = iota
	bySingle
	byRange
	byConn
	bySlow
	byCrowd
	wayCount
)

var ways = [wayCount]string{"batches", "single reads", "Messages", "ReadFrom", "slow batches", "a crowd"}

// receiver is a receiver on this host, or at the far end of a wire.
type receiver struct {
	*life
	name string
	wire int // of a far end; else -1
	cfg  mcast.RxConfig
	way  int

	links  map[int]*link          // the named interfaces, by wire; nil: all
	groups map[int]([]netip.Addr) // what is joined, for which sources; none: all

	stuck int // the wire whose books do not balance

	rx      *mcast.RxSocket
	readers sync.WaitGroup
	closing atomic.Bool
	poked   atomic.Bool // a read deadline passes

	mu    sync.Mutex // guards what follows
	pairs [wireCount][groupCount]pair
}

// link is an interface that was named: the socket takes the one that has the first name when its own is gone.
type link struct {
	first    string
	attached bool
}

// on reports whether a socket with these links has a wire's interface.
func on(links map[int]*link, w int) bool {
	return links == nil || links[w] != nil && links[w].attached
}

// tells says that the way to read tells of the interface. Without, nobody knows by which a datagram of this host came
// to the loud group of IPv4, since while an interface has no address, it sends with another's.
func (r *receiver) tells() bool { return r.way != bySingle && r.way != byConn }

// near says that the receiver is on this host.
func (r *receiver) near() bool { return r.wire < 0 }

// wants says whether the receiver takes what a sender sends to a group on a wire, if it has joined there.
func (r *receiver) wants(w, g, from int) bool {
	sources, joined := r.groups[g]
	switch {
	case !joined || !r.near() && (from == fromPeer || w != r.wire):
		return false
	case !r.near():
		return true
	case from == fromHost:
		return r.cfg.Loopback && loud(g) && len(sources) == 0
	case len(sources) > 0:
		return slices.Contains(sources, r.life.wires[w].source(groups[g]))
	}
	return !slices.Contains(r.cfg.Blocked, r.life.wires[w].source(groups[g]))
}

// reaches says whether what a sender sends to a group on a wire reaches the receiver's socket, whether or not it is
// wanted: the kernel may refuse to block a source, and then the library does.
func (r *receiver) reaches(w, g, from int) bool {
	switch {
	case r.wants(w, g, from):
		return true
	case !r.near() || len(r.groups[g]) > 0:
		return false
	case from == fromPeer:
		_, joined := r.groups[g]
		return joined && r.wasFew
	}
	return loud(g)
}

// each calls f for the streams of a group at the receiver.
func (r *receiver) each(g int, f func(w, from int, k *track, seq *sequence)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for w := range wireCount {
		if !r.near() && w != r.wire {
			continue
		}
		for from := range senderCount {
			f(w, from, &r.pairs[w][g].tracks[from], r.sequence(w, g, from))
		}
	}
}

// allow lets what is sent to a group come: what it wants, and while something happens to an interface, all.
func (r *receiver) allow(g int) {
	r.each(g, func(w, from int, k *track, seq *sequence) {
		s := r.states[w]
		shaky := s.shaky && (r.links == nil || r.links[w] != nil) || s.readdressed && from == fromHost
		if _, joined := r.groups[g]; joined && (on(r.links, w) && r.wants(w, g, from) || shaky) {
			k.open(seq.arrived.Load())
		}
	})
}

// refuse ends that for what it does not want.
func (r *receiver) refuse(g int) {
	r.each(g, func(w, from int, k *track, seq *sequence) {
		if !on(r.links, w) || !r.wants(w, g, from) {
			k.shut(seq.next.Load())
		}
	})
}

// demand makes what is sent to a group a must where that is joined for sure.
func (r *receiver) demand(g int) {
	r.each(g, func(w, from int, k *track, seq *sequence) {
		p := &r.pairs[w][g]
		_, joined := r.groups[g]
		p.must = joined && on(r.links, w) && r.steady(r, w, g)
		p.exact, p.counted, p.before = false, false, mcast.Membership{}
		p.from[from] = seq.next.Load()
	})
}

// release ends that on a wire.
func (r *receiver) release(w int, groups ...int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, g := range groups {
		r.pairs[w][g].must = false
	}
}

// open opens the socket and reads from it.
func (r *receiver) open() (err error) {
	for g := range r.groups {
		r.allow(g)
	}
	host := r.host
	if !r.near() {
		host = r.life.wires[r.wire].peer
	}
	host.Do(func() { r.rx, err = mcast.OpenRx(r.cfg) })
	if err != nil {
		return err
	}
	for g := range r.groups {
		r.demand(g)
	}
	switch r.way {
	case byCrowd:
		r.readers.Go(r.readBatches)
		r.readers.Go(r.readBatches)
		r.readers.Go(r.readRange)
	case bySingle:
		r.readers.Go(r.readSingle)
	case byRange:
		r.readers.Go(r.readRange)
	case byConn:
		r.readers.Go(r.readConn)
	default:
		r.readers.Go(r.readBatches)
	}
	return nil
}

// close closes it and looks for the last time at what has come.
func (r *receiver) close() {
	r.closing.Store(true)
	if err := r.rx.Close(); err != nil {
		r.problem(-1, r.name, "%s: close: %v", r.name, err)
	}
	r.readers.Wait()
	if again := r.rx.Memberships(); again != nil {
		r.problem(-1, r.name, "%s: it is closed and has memberships", r.name)
	}
	r.checkStrangers()
}

// poke has reads fail for a moment.
func (r *receiver) poke() error {
	r.poked.Store(true)
	err := r.rx.SetReadDeadline(time.Unix(1, 0))
	time.Sleep(time.Millisecond)
	return errors.Join(err, r.rx.SetReadDeadline(time.Time{}))
}

func (r *receiver) readBatches() {
	const most = 32
	ms := make([]mcast.Message, most)
	for i := range ms {
		ms[i].Buf = make([]byte, 2*maxSize)
	}
	for more := true; more; {
		few := ms
		if r.way == bySlow {
			few = ms[:4]
		}
		n, err := r.rx.ReadBatch(few)
		for i := range few[:n] {
			r.take(&few[i])
		}
		if err != nil || n == 0 {
			more = r.goOn(err)
		}
		if r.way == bySlow && !r.hurry.Load() {
			time.Sleep(2 * time.Millisecond)
		}
	}
}

func (r *receiver) readSingle() {
	buf := make([]byte, 2*maxSize)
	for {
		n, src, err := r.rx.ReadFromUDPAddrPort(buf)
		if err == nil {
			r.take(&mcast.Message{Buf: buf, N: n, Addr: src})
		} else if !r.goOn(err) {
			return
		}
	}
}

func (r *receiver) readConn() {
	buf := make([]byte, 2*maxSize)
	for {
		n, addr, err := r.rx.ReadFrom(buf)
		if err == nil {
			src := addr.(*net.UDPAddr).AddrPort()
			r.take(&mcast.Message{Buf: buf, N: n, Addr: netip.AddrPortFrom(src.Addr().Unmap(), src.Port())})
		} else if !r.goOn(err) {
			return
		}
	}
}

func (r *receiver) readRange() {
	for m, err := range r.rx.Messages(context.Background()) {
		if err == nil {
			r.take(m)
		} else if !r.goOn(err) {
			return
		}
	}
	if !r.closing.Load() {
		r.problem(-1, r.name, "%s: Messages ended", r.name)
	}
}

// goOn looks at an error of reading, and says whether to read on.
func (r *receiver) goOn(err error) bool {
	switch {
	case errors.Is(err, net.ErrClosed):
		if !r.closing.Load() {
			r.problem(-1, r.name, "%s: read: %v", r.name, err)
		}
		return false
	case errors.Is(err, os.ErrDeadlineExceeded) && r.poked.Load():
		runtime.Gosched()
		return true
	}
	r.problem(-1, r.name, "%s: read: %v", r.name, err)
	return false
}

// take enters a datagram. What a read does not tell is the zero value in m.
func (r *receiver) take(m *mcast.Message) {
	from, wire, g, serial, err := parse(m.Buf[:m.N])
	if err != nil || m.Truncated {
		r.problem(-1, r.name, "%s: truncated %v: %v", r.name, m.Truncated, err)
		return
	}
	w := r.wire
	switch {
	case !r.near():
	case from == fromHost && m.IfIndex != 0: // an interface without an address of IPv4 borrows another's
		w = r.byIndex(m.IfIndex)
	default:
		w = r.bySource(m.Addr.Addr())
	}
	switch {
	case w < 0 || from >= senderCount || g >= groupCount || from == fromPeer && wire != w:
		r.problem(w, r.name, "%s: sender %d of wire %d is said to be %s", r.name, from, wire, m.Addr)
		return
	case m.Group.IsValid() && m.Group != groups[g], r.near() && m.IfIndex != 0 && r.byIndex(m.IfIndex) != w:
		r.problem(w, r.name, "%s: a datagram to %s on wire %d is said to be to %s by %d",
			r.name, groups[g], w, m.Group, m.IfIndex)
		return
	case m.Group.IsValid() && (r.cfg.HopLimits != (m.HopLimit == 1) || r.cfg.Timestamps != !m.Time.IsZero()):
		r.problem(w, r.name, "%s: hop limit %d, time %v", r.name, m.HopLimit, m.Time)
		return
	}
	r.counts.received.Add(1)
	r.mu.Lock()
	p := &r.pairs[w][g]
	p.read++
	err = p.tracks[from].add(serial)
	r.mu.Unlock()
	if err != nil {
		r.problem(w, r.name, "%s: %s: %v", r.name, streamName(w, g, from), err)
	}
}

func streamName(w, g, from int) string {
	return fmt.Sprintf("%s on wire %d from its %s", groups[g], w, [...]string{"peer", "host"}[from])
}
