//go:build !linux || mcast_portable

// The merge of the other systems. Their pollers accept no descriptor that stands for many: macOS refuses a kqueue in a
// kqueue, and Windows has nothing like it. A goroutine for each OS socket receives ahead into its own buffer. Reads
// take from these buffers in turn. The build tag mcast_portable selects this merge on Linux, where it is tested.

package mcast

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/go-multicast/mcast/internal/wire"
)

const (
	// inboxBytes and inboxDatagrams limit what an OS socket's goroutine receives ahead. The rest waits in the kernel's
	// buffer. So nothing is dropped here.
	inboxBytes     = 2 * maxDatagram
	inboxDatagrams = 64

	// takeBudget is how many datagrams a batch takes at most. It holds the merge's lock while it copies them.
	takeBudget = 1024

	// drainPause is how long a retired OS socket must be silent to count as empty, and drainPauses is how many times.
	// The deadline of a late goroutine may pass before the goroutine has tried to read.
	drainPause  = 10 * time.Millisecond
	drainPauses = 3
)

// schedState is the state of a conn in a merge.
type schedState struct {
	in      *inbox
	retired bool // to be removed as soon as it is empty
}

// inbox is an OS socket, with the datagrams that its goroutine has received and no read has taken yet.
type inbox struct {
	udp     *net.UDPConn
	bound   netip.Addr // the group that it is bound to; zero if control messages name the group
	checkIf bool       // deliver only datagrams whose control messages name the conn's interface

	buf     []byte        // received data; the goroutine writes beyond used, without a lock
	emptied chan struct{} // holds one signal: everything was read, or the last conn is gone

	// The merge's lock guards the fields below.
	conns map[netip.Addr]*conn // the receiving conns, by group; unicast has the zero Addr
	used  int                  // bytes of buf that queue refers to
	queue []arrival            // its array never grows
	read  int                  // how many elements of queue were read
}

// arrival is a datagram in an inbox, or an error.
type arrival struct {
	conn      *conn
	at, size  int // in buf
	src       netip.AddrPort
	meta      wire.Metadata
	truncated bool // buf itself was too small
	err       error
}

func newInbox(udp *net.UDPConn, bound netip.Addr, checkIf bool) *inbox {
	return &inbox{udp: udp, bound: bound, checkIf: checkIf, emptied: make(chan struct{}, 1), conns: make(map[netip.Addr]*conn)}
}

// merge implements merger.
type merge struct {
	wake    chan struct{}  // holds one signal: look again
	running sync.WaitGroup // the goroutines of the inboxes

	mu       sync.Mutex // guards everything below; never held while waiting
	closed   bool
	deadline deadline
	inboxes  map[*inbox]struct{}
	line     []*inbox // inboxes whose queue is not empty; the first delivers next
	zones    zoneCache
}

var _ merger = (*merge)(nil)

func newMerge() (*merge, error) {
	m := &merge{wake: make(chan struct{}, 1), inboxes: make(map[*inbox]struct{})}
	m.deadline = deadline{lock: &m.mu, wake: func() { signal(m.wake) }}
	return m, nil
}

// signal fills a channel that holds one signal.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (m *merge) add(c *conn) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return net.ErrClosed
	}
	in := c.in
	if before := in.conns[c.group]; before != nil {
		before.yield(c)
	}
	in.conns[c.group] = c
	if _, runs := m.inboxes[in]; !runs {
		m.inboxes[in] = struct{}{}
		in.buf = make([]byte, inboxBytes)
		in.queue = make([]arrival, 0, inboxDatagrams)
		m.running.Go(func() { m.receive(in) })
	}
	return nil
}

// yield gives c's place in its inbox, and the datagrams waiting there, to another conn of the same pair. The merge's
// lock is held.
func (c *conn) yield(to *conn) {
	c.addCounters(&c.pair.past)
	for i := range c.in.queue {
		if c.in.queue[i].conn == c {
			c.in.queue[i].conn = to
		}
	}
}

func (m *merge) remove(c *conn) error {
	if m.unlist(c) {
		return c.release()
	}
	return nil
}

func (m *merge) unlist(c *conn) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.drop(c)
}

// drop removes c, if m holds it, and keeps its counts. m.mu is held.
func (m *merge) drop(c *conn) bool {
	if !m.holds(c) {
		return false
	}
	in := c.in
	if c.pair != nil {
		c.addCounters(&c.pair.past)
	}
	delete(in.conns, c.group)
	for i := range in.queue {
		if a := &in.queue[i]; a.conn == c {
			a.conn = nil
			if a.err != nil { // the error belongs to the OS socket
				a.conn = in.any()
			}
		}
	}
	in.skip()
	m.line = slices.DeleteFunc(m.line, func(in *inbox) bool { return len(in.queue) == 0 })
	if len(in.conns) == 0 {
		delete(m.inboxes, in)
		return true
	}
	in.drain()
	return true
}

// skip passes over arrivals that no conn takes anymore, and frees the buffer when none is left. The merge's lock is
// held.
func (in *inbox) skip() {
	for in.read < len(in.queue) && in.queue[in.read].conn == nil {
		in.read++
	}
	if in.read == len(in.queue) {
		in.queue, in.read, in.used = in.queue[:0], 0, 0
		signal(in.emptied)
	}
}

func (m *merge) retire(c *conn) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	c.retired = true
	return c.in.drain()
}

// drain wakes the goroutine if it expects no more datagrams. The merge's lock is held.
func (in *inbox) drain() error {
	if !in.draining() {
		return nil
	}
	return in.udp.SetReadDeadline(longAgo)
}

// draining reports whether no more datagrams are expected, since all conns are retired. The merge's lock is held.
func (in *inbox) draining() bool {
	for _, c := range in.conns {
		if !c.retired {
			return false
		}
	}
	return true
}

func (m *merge) holds(c *conn) bool { return c.in.conns[c.group] == c }

func (m *merge) update(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f()
}

// setOwn need not keep the lost addresses: datagrams are compared with the addresses on receipt.
func (m *merge) setOwn(c *conn, own, _ *addrSet) { c.filter.own = own }

func (m *merge) close() error {
	var conns []*conn
	m.update(func() {
		m.closed = true
		m.deadline.set(time.Time{})
		for in := range m.inboxes {
			conns = append(conns, m.dropAll(in)...)
		}
	})
	signal(m.wake)
	err := releaseAll(conns)
	m.running.Wait()
	return err
}

// dropAll removes all conns of an inbox and returns them. m.mu is held.
func (m *merge) dropAll(in *inbox) (conns []*conn) {
	for _, c := range in.conns {
		conns = append(conns, c)
		m.drop(c)
	}
	return conns
}

func releaseAll(conns []*conn) (err error) {
	for _, c := range conns {
		err = errors.Join(err, c.release())
	}
	return err
}

func (m *merge) setReadDeadline(t time.Time) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return net.ErrClosed
	}
	m.deadline.set(t)
	return nil
}

func (m *merge) readNow(p []byte) (n int, src netip.AddrPort, err error) {
	one := [1]Message{{Buf: p}}
	if n, err := m.take(one[:]); n == 0 || err != nil {
		return -1, src, nil // read returns the error
	}
	return one[0].N, one[0].Addr, nil
}

func (m *merge) read(ms []Message) (int, error) {
	for {
		if n, err := m.take(ms); n > 0 || err != nil {
			return n, err
		}
		<-m.wake
	}
}

// take fills ms with the datagrams that have arrived: one from each inbox, in rounds. So a flooded inbox delays a quiet
// one by one datagram.
func (m *merge) take(ms []Message) (n int, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.closed:
		return 0, net.ErrClosed
	case m.deadline.passed:
		return 0, os.ErrDeadlineExceeded
	}
	for n < min(len(ms), takeBudget) && len(m.line) > 0 && err == nil {
		in := m.line[0]
		a := &in.queue[in.read]
		switch {
		case a.err == nil:
			m.fill(&ms[n], in, a)
			n++
		case n > 0: // the caller has the datagrams, and the next read returns the error
			return n, nil
		default:
			err = a.conn.readError(a.err)
		}
		a.conn = nil
		m.line = slices.Delete(m.line, 0, 1)
		if in.skip(); len(in.queue) > 0 {
			m.line = append(m.line, in)
		}
	}
	return n, err
}

// fill copies a datagram into a message.
func (m *merge) fill(msg *Message, in *inbox, a *arrival) {
	c := a.conn
	n := copy(msg.Buf, in.buf[a.at:a.at+a.size])
	src := a.src
	if index := max(a.meta.IfIndex, c.ifIndex); src.Addr().Zone() != "" && index != 0 {
		src = netip.AddrPortFrom(src.Addr().WithZone(m.zones.zone(uint32(index))), src.Port())
	}
	*msg = Message{
		Buf: msg.Buf, N: n, Addr: src,
		Group: c.group, IfIndex: c.ifIndex, HopLimit: a.meta.HopLimit, Time: a.meta.Time,
		Truncated: n < a.size || a.truncated,
	}
	c.count.add(n, msg.Truncated)
}

// receive is the goroutine of an inbox. It ends when no conn is left.
func (m *merge) receive(in *inbox) {
	control := make([]byte, wire.ControlSize)
	silent := 0 // attempts in a row that received nothing while draining
	for {
		at, draining, ok := m.room(in)
		if !ok {
			return
		}
		if draining {
			in.udp.SetReadDeadline(time.Now().Add(drainPause))
		}
		size, controlLen, _, src, err := in.udp.ReadMsgUDPAddrPort(in.buf[at:at+maxDatagram], control)
		a := arrival{at: at, size: size, src: src}
		switch {
		case err == nil || isTruncation(err):
			a.meta, a.truncated = wire.ParseControl(control[:controlLen]), err != nil
		case isHarmless(err):
			continue
		case draining: // it is empty, or its interface is gone
			if silent++; silent == drainPauses {
				m.finish(in)
				silent = 0
			}
			continue
		case errors.Is(err, os.ErrDeadlineExceeded): // set by drain, now or before another conn was added
			in.udp.SetReadDeadline(time.Time{})
			continue
		default:
			a.size, a.err = 0, err
		}
		silent = 0
		m.deliver(in, &a)
	}
}

// room waits until an inbox has room for a datagram, and returns its offset. ok is false when no conn is left.
func (m *merge) room(in *inbox) (at int, draining, ok bool) {
	for {
		m.mu.Lock()
		at, ok = in.used, len(in.conns) > 0
		full := at+maxDatagram > len(in.buf) || len(in.queue) == cap(in.queue)
		draining = in.draining()
		m.mu.Unlock()
		if !ok || !full {
			return at, draining, ok
		}
		<-in.emptied
	}
}

// deliver queues an arrival for the reads, unless it must be discarded.
func (m *merge) deliver(in *inbox, a *arrival) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case a.err != nil:
		if in.draining() { // also if no conn is left
			return
		}
		a.conn = in.any()
		in.used = len(in.buf) // one error at a time
	default:
		if a.conn = in.find(&a.meta); a.conn == nil {
			in.countUnknown(&a.meta)
			return
		}
		if a.conn.refuses(a.src.Addr(), 1) {
			return
		}
		in.used = a.at + a.size
	}
	if len(in.queue) == 0 {
		m.line = append(m.line, in)
	}
	in.queue = append(in.queue, *a)
	signal(m.wake)
}

// any returns one of the conns, or nil if there is none. The merge's lock is held.
func (in *inbox) any() *conn {
	for _, c := range in.conns {
		return c
	}
	return nil
}

// find returns the conn that a datagram is for, or nil.
func (in *inbox) find(meta *wire.Metadata) *conn {
	key := in.bound
	if !key.IsValid() && meta.Group.IsMulticast() {
		key = meta.Group
	}
	c := in.conns[key]
	if c != nil && in.checkIf && c.ifIndex != meta.IfIndex {
		return nil
	}
	return c
}

// countUnknown counts a datagram that is discarded because its control messages are missing. Windows omits them when
// memory is short. If the OS socket has only one conn, the datagram was for that conn. For a socket that is bound to a
// group the reason is another; see openConn in sockopt_darwin.go. The merge's lock is held.
func (in *inbox) countUnknown(meta *wire.Metadata) {
	if !in.checkIf || in.bound.IsValid() || meta.Group.IsValid() || len(in.conns) != 1 {
		return
	}
	for _, c := range in.conns {
		c.count.dropped.total++
	}
}

// finish removes the conns of an inbox that has received everything, as soon as all of it was read.
func (m *merge) finish(in *inbox) {
	for {
		var conns []*conn
		unread := false
		m.update(func() {
			if unread = len(in.queue) > 0; !unread && in.draining() {
				conns = m.dropAll(in)
			}
		})
		if !unread {
			releaseAll(conns)
			return
		}
		<-in.emptied
	}
}
