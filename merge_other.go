//go:build !linux || mcast_portable

// Many sockets, one read, where the runtime's poller cannot be given a descriptor that stands for many (kqueue in
// kqueue is refused, and Windows has nothing like it): a goroutine for each OS socket receives ahead into a buffer of
// its own, and a read takes from these in turn. The build tag mcast_portable has Linux do the same, so that it can be
// tested there.

package mcast

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/go-multicast/mcast/internal/wire"
)

const (
	// inboxBytes and inboxDatagrams bound what an OS socket's goroutine receives ahead. What goes beyond waits in
	// the kernel's buffer, which is there for that; so nothing is dropped that the kernel has delivered.
	inboxBytes     = 2 * maxDatagram
	inboxDatagrams = 64

	// takeBudget is how many datagrams a batch takes at most: it holds the merge's lock while it copies them.
	takeBudget = 1024

	// drainPause is how long an OS socket that receives nothing more must be silent to count as empty, and drainPauses
	// is how often: a goroutine that comes late may find its deadline passed before it has looked.
	drainPause  = 10 * time.Millisecond
	drainPauses = 2
)

// place is where a merge keeps a conn.
type place struct {
	in      *inbox
	retired bool // to be removed as soon as it is empty
}

// inbox is an OS socket, with what its goroutine has received and nobody has read yet.
type inbox struct {
	udp   *net.UDPConn
	bound netip.Addr // the group it is bound to; zero: only control messages tell where its datagrams were sent
	told  bool       // they tell the interface, too, and those that do not are from before they were asked to

	buf     []byte        // what has been received; the goroutine writes beyond used, without a lock
	emptied chan struct{} // holds one: everything was read, or there is nobody to receive for anymore

	// What follows is guarded by the merge's lock.
	conns map[netip.Addr]*conn // whom it receives for: by group, or by the zero Addr for unicast
	used  int                  // of buf, by queue
	queue []arrival            // its array never grows
	read  int                  // how many of them have been
	next  *inbox               // in the line of those that have something
	lined bool
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

func newInbox(udp *net.UDPConn, bound netip.Addr, told bool) *inbox {
	return &inbox{udp: udp, bound: bound, told: told, emptied: make(chan struct{}, 1), conns: make(map[netip.Addr]*conn)}
}

// merge reads from many conns as if they were one. All methods may be called concurrently.
type merge struct {
	// readMu lets one reader in at a time; it guards one. A blocked reader holds it, and nobody but other readers
	// waits for it.
	readMu sync.Mutex
	one    [1]Message

	wake    chan struct{}  // holds one: look again
	running sync.WaitGroup // the goroutines of the inboxes

	mu          sync.Mutex // guards everything below; never held while waiting
	closed      bool
	inboxes     map[*inbox]struct{}
	first, last *inbox // the line of those that have something
	zones       zoneCache
	expired     bool // the read deadline has passed
	timer       *time.Timer
}

func newMerge() (*merge, error) {
	return &merge{wake: make(chan struct{}, 1), inboxes: make(map[*inbox]struct{})}, nil
}

// signal fills a channel that holds one.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// add begins to deliver what c receives. A read that is blocked notices.
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

// remove stops delivering c and gives its OS socket back. What it had received and nobody read is lost. Removing it
// again is harmless.
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
	if len(in.conns) == 0 {
		delete(m.inboxes, in)
		m.unline(in)
	} else if in.draining() { // only what is retired was left with it
		in.udp.SetReadDeadline(longAgo) // so that the goroutine notices
	}
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

// retire lets c, which receives nothing more, deliver what it has received, and then removes it.
func (m *merge) retire(c *conn) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	c.retired = true
	if !c.in.draining() {
		return nil
	}
	return c.in.udp.SetReadDeadline(longAgo) // so that the goroutine notices
}

// draining reports whether nothing more is expected. The merge's lock is held.
func (in *inbox) draining() bool {
	for _, c := range in.conns {
		if !c.retired {
			return false
		}
	}
	return true
}

// holds reports whether c is in. m.mu is held.
func (m *merge) holds(c *conn) bool { return c.in.conns[c.group] == c }

// update runs f while no datagram is being read.
func (m *merge) update(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f()
}

// setOwn sets the addresses of this host. What waits to be read was compared with those of before when it was received. m.mu
// is held.
func (m *merge) setOwn(c *conn, own, _ *addrSet) { c.filter.own = own }

// close interrupts every read, gives all OS sockets back, and waits until no goroutine is left.
func (m *merge) close() error {
	var conns []*conn
	m.update(func() {
		m.closed = true
		for in := range m.inboxes {
			for _, c := range in.conns {
				conns = append(conns, c)
				m.drop(c)
			}
		}
		if m.timer != nil {
			m.timer.Stop()
		}
	})
	signal(m.wake)
	var err error
	for _, c := range conns {
		err = errors.Join(err, c.release())
	}
	m.running.Wait()
	return err
}

// setReadDeadline sets when reads fail, also one that is blocked.
func (m *merge) setReadDeadline(t time.Time) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return net.ErrClosed
	}
	if m.timer != nil {
		m.timer.Stop()
		m.timer = nil
	}
	m.expired = false
	if t.IsZero() {
		return nil
	}
	if wait := time.Until(t); wait > 0 {
		var timer *time.Timer
		timer = time.AfterFunc(wait, func() {
			m.mu.Lock()
			defer m.mu.Unlock()
			if m.timer == timer { // else there is another deadline now
				m.expired = true
				signal(m.wake)
			}
		})
		m.timer = timer
		return nil
	}
	m.expired = true
	signal(m.wake)
	return nil
}

// read waits for one datagram.
func (m *merge) read(p []byte) (n int, src netip.AddrPort, err error) {
	m.readMu.Lock()
	defer m.readMu.Unlock()
	m.one[0] = Message{Buf: p}
	_, err = m.wait(m.one[:])
	n, src = m.one[0].N, m.one[0].Addr
	m.one[0] = Message{}
	return n, src, err
}

// readBatch waits for one datagram and takes what else is there, as far as ms has room.
func (m *merge) readBatch(ms []Message) (n int, err error) {
	m.readMu.Lock()
	defer m.readMu.Unlock()
	return m.wait(ms)
}

func (m *merge) wait(ms []Message) (int, error) {
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
	case m.expired:
		return 0, os.ErrDeadlineExceeded
	}
	for n < min(len(ms), takeBudget) {
		in := m.shift()
		if in == nil {
			break
		}
		a := &in.queue[in.read]
		if a.err != nil && n > 0 { // the caller has the datagrams, and meets the error next time
			m.line(in)
			break
		}
		if a.err != nil {
			err = a.conn.readError(a.err)
		} else {
			m.fill(&ms[n], in, a)
			n++
		}
		a.conn = nil
		if in.skip(); len(in.queue) > 0 {
			m.line(in)
		}
		if err != nil {
			return 0, err
		}
	}
	return n, nil
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

// line puts an inbox that has something at the end of the line, unless it is in it. m.mu is held.
func (m *merge) line(in *inbox) {
	if in.lined {
		return
	}
	in.lined = true
	if m.first == nil {
		m.first = in
	} else {
		m.last.next = in
	}
	m.last = in
}

// unline takes an inbox out of the line, if it is in it. m.mu is held.
func (m *merge) unline(in *inbox) {
	if !in.lined {
		return
	}
	in.lined = false
	var before *inbox
	for at := &m.first; *at != in; at = &(*at).next {
		before = *at
	}
	if before == nil {
		m.first = in.next
	} else {
		before.next = in.next
	}
	if m.last == in {
		m.last = before
	}
	in.next = nil
}

// shift takes the first inbox that has something out of the line. m.mu is held.
func (m *merge) shift() *inbox {
	for m.first != nil {
		in := m.first
		if m.first, in.next, in.lined = in.next, nil, false; m.first == nil {
			m.last = nil // or an inbox would live on after its last conn
		}
		if len(in.queue) > 0 { // what it had may be gone with a conn
			return in
		}
	}
	return nil
}

// receive is the goroutine of an inbox. It ends when nobody is left to receive for.
func (m *merge) receive(in *inbox) {
	control := make([]byte, wire.ControlSize)
	silent := 0 // pauses, one after the other, in which nothing came
	for {
		at, draining, ok := m.room(in)
		if !ok {
			return
		}
		if draining {
			in.udp.SetReadDeadline(time.Now().Add(drainPause))
		}
		size, told, _, src, err := in.udp.ReadMsgUDPAddrPort(in.buf[at:at+maxDatagram], control)
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			silent = 0
		}
		a := arrival{at: at, size: size, src: src}
		switch {
		case err == nil:
			a.meta = wire.ParseControl(control[:told])
		case isTruncation(err):
			a.meta, a.truncated = wire.ParseControl(control[:told]), true
		case errors.Is(err, os.ErrDeadlineExceeded):
			if silent++; draining && silent > drainPauses {
				m.finish(in)
			}
			continue
		case isHarmless(err):
			continue
		case m.abandoned(in): // its interface is gone, and nothing more is to be had
			m.finish(in)
			continue
		default:
			a.size, a.err = 0, err
		}
		m.deliver(in, &a)
	}
}

// room waits until an inbox has room for a datagram, and says where. It reports false when there is nobody to receive
// for.
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
	if a.err != nil {
		a.conn = in.any()
		in.used = len(in.buf) // one error at a time
	} else {
		if a.conn = in.find(&a.meta); a.conn == nil {
			in.countUnknown(&a.meta)
			return
		}
		if a.conn.refuses(a.src.Addr(), 1) {
			return
		}
		in.used = a.at + a.size
	}
	if a.conn == nil {
		return
	}
	in.queue = append(in.queue, *a)
	m.line(in)
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
	if c != nil && in.told && c.ifIndex != meta.IfIndex {
		return nil
	}
	return c
}

// countUnknown counts a datagram that is discarded because its control messages are missing. Windows leaves them out when
// memory is short. If the OS socket has just one conn, the datagram was for that one. A socket that is bound to a group has
// another reason; see openConn in sockopt_darwin.go. The merge's lock is held.
func (in *inbox) countUnknown(meta *wire.Metadata) {
	if !in.told || in.bound.IsValid() || meta.Group.IsValid() || len(in.conns) != 1 {
		return
	}
	for _, c := range in.conns {
		c.count.dropped.total++
	}
}

// abandoned reports whether nobody wants what is yet to come.
func (m *merge) abandoned(in *inbox) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return in.draining()
}

// finish removes the conns of an inbox that has received all it ever will, as soon as that has been read.
func (m *merge) finish(in *inbox) {
	for {
		m.mu.Lock()
		var conns []*conn
		unread := len(in.queue) > 0
		if !unread {
			for _, c := range in.conns {
				m.drop(c)
				conns = append(conns, c)
			}
		}
		m.mu.Unlock()
		if !unread {
			for _, c := range conns {
				c.release()
			}
			return
		}
		<-in.emptied
	}
}
