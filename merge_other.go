//go:build !linux || mcast_portable

// The merge of systems whose poller takes no descriptor that stands for many (macOS refuses kqueue in kqueue, and Windows has
// nothing like it). A goroutine for each OS socket receives ahead into a buffer of its own, and reads take from these in turn.
// The build tag mcast_portable selects it on Linux, where it is tested.

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
	// inboxBytes and inboxDatagrams bound what an OS socket's goroutine receives ahead. More than that waits in the kernel's
	// buffer. So nothing is dropped here.
	inboxBytes     = 2 * maxDatagram
	inboxDatagrams = 64

	// takeBudget is how many datagrams a batch takes at most: it holds the merge's lock while it copies them.
	takeBudget = 1024

	// drainPause is how long an OS socket that receives nothing more must be silent to count as empty, and drainPauses
	// is how often: the deadline of a goroutine that runs late may pass before it has looked.
	drainPause  = 10 * time.Millisecond
	drainPauses = 3
)

// schedState is what a merge knows of a conn.
type schedState struct {
	in      *inbox
	retired bool // to be removed as soon as it is empty
}

// inbox is an OS socket, with the datagrams that its goroutine has received and nobody has read yet.
type inbox struct {
	udp     *net.UDPConn
	bound   netip.Addr // the group that it is bound to; zero: control messages name the group
	checkIf bool       // deliver only datagrams whose control messages name the conn's interface

	buf     []byte        // what was received; the goroutine writes beyond used, without a lock
	emptied chan struct{} // holds one: everything was read, or the last conn is gone

	// What follows is guarded by the merge's lock.
	conns map[netip.Addr]*conn // whom it receives for: by group, or by the zero Addr for unicast
	used  int                  // bytes of buf that queue refers to
	queue []arrival            // its array never grows
	read  int                  // how many of queue were read
}

// arrival is a datagram in an inbox, or an error.
type arrival struct {
	conn      *conn
	at, size  int // in buf
	src       netip.AddrPort
	meta      wire.Metadata
	truncated bool // buf was too small already
	err       error
}

func newInbox(udp *net.UDPConn, bound netip.Addr, checkIf bool) *inbox {
	return &inbox{udp: udp, bound: bound, checkIf: checkIf, emptied: make(chan struct{}, 1), conns: make(map[netip.Addr]*conn)}
}

// merge implements merger.
type merge struct {
	wake    chan struct{}  // holds one: look again
	running sync.WaitGroup // the goroutines of the inboxes

	mu       sync.Mutex // guards everything below; never held while waiting
	closed   bool
	deadline deadline
	inboxes  map[*inbox]struct{}
	line     []*inbox // those whose queue is not empty, the next one to deliver first
	zones    zoneCache
}

var _ merger = (*merge)(nil)

func newMerge() (*merge, error) {
	m := &merge{wake: make(chan struct{}, 1), inboxes: make(map[*inbox]struct{})}
	m.deadline = deadline{lock: &m.mu, wake: func() { signal(m.wake) }}
	return m, nil
}

// signal fills a channel that holds one.
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

// yield leaves c's place in its inbox, and what waits there, to another conn of the same pair. The merge's lock is held.
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

// drop takes c out, if it is in, and keeps what it has counted. m.mu is held.
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
			if a.err != nil { // it is the OS socket's
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

// skip passes over what nobody is there for anymore, and makes room when nothing is left. The merge's lock is held.
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

// drain wakes the goroutine if nothing more is expected. The merge's lock is held.
func (in *inbox) drain() error {
	if !in.draining() {
		return nil
	}
	return in.udp.SetReadDeadline(longAgo)
}

// draining reports whether nothing more is expected, since all conns are retired. The merge's lock is held.
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

// setOwn needs not remember what is lost: datagrams are compared with the addresses when they are received.
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

// dropAll takes all conns of an inbox out, and returns them. m.mu is held.
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

// take fills ms with what is there: one datagram from each inbox, again and again, so that a flooded one delays a
// quiet one by a datagram.
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
		size, told, _, src, err := in.udp.ReadMsgUDPAddrPort(in.buf[at:at+maxDatagram], control)
		a := arrival{at: at, size: size, src: src}
		switch {
		case err == nil || isTruncation(err):
			a.meta, a.truncated = wire.ParseControl(control[:told]), err != nil
		case isHarmless(err):
			continue
		case draining: // it is empty, or its interface is gone
			if silent++; silent == drainPauses {
				m.finish(in)
				silent = 0
			}
			continue
		case errors.Is(err, os.ErrDeadlineExceeded): // drain's, of this time or of one that another conn has ended
			in.udp.SetReadDeadline(time.Time{})
			continue
		default:
			a.size, a.err = 0, err
		}
		silent = 0
		m.deliver(in, &a)
	}
}

// room waits until an inbox has room for a datagram, and returns where. ok is false when no conn is left.
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

// deliver puts what was received where a read finds it, if it is to be delivered.
func (m *merge) deliver(in *inbox, a *arrival) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case a.err != nil:
		if in.draining() { // as it is if no conn is left
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

// any returns one of the conns; nil if there is none. The merge's lock is held.
func (in *inbox) any() *conn {
	for _, c := range in.conns {
		return c
	}
	return nil
}

// find says whom a datagram is for; nil: for nobody here.
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

// countUnknown counts a datagram that is discarded because its control messages are missing. Windows leaves them out when
// memory is short. If the OS socket has just one conn, the datagram was for that one. A socket that is bound to a group has
// another reason; see openConn in sockopt_darwin.go. The merge's lock is held.
func (in *inbox) countUnknown(meta *wire.Metadata) {
	if !in.checkIf || in.bound.IsValid() || meta.Group.IsValid() || len(in.conns) != 1 {
		return
	}
	for _, c := range in.conns {
		c.count.dropped.total++
	}
}

// finish removes the conns of an inbox that has received everything, as soon as that was read.
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
