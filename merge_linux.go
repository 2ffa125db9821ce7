//go:build !mcast_portable

// Many sockets, one read. The OS sockets of an RxSocket (or the reply side of a TxSocket) are non-blocking
// descriptors in one epoll descriptor, and that one is what Go's runtime poller watches: a blocked read parks a
// goroutine and nothing else, deadlines and Close come from the runtime, and no goroutine or copy stands between
// kernel and caller.

package mcast

import (
	"errors"
	"math"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// readBudget is how many datagrams one OS socket may deliver before another that is ready gets its turn:
	// large enough to make the change of socket cheap, small enough that a flooded group delays a quiet one by
	// tens of microseconds.
	readBudget = 64

	// fewAtFirst is how many datagrams a batch asks an OS socket for at first: what is asked for in vain has been
	// prepared in vain. If that many come, it asks for more.
	fewAtFirst = 4

	// trusted is in how many turns a socket is taken to have as many datagrams as it had when it was emptied.
	trusted = 15

	// certain is how often in a row one socket must have come after another to be tried unasked.
	certain = 2

	// lookBudget bounds how many datagrams in a row a read looks at before it releases merge.mu and asks the runtime
	// again about deadlines and Close. Neither a flood nor a batch with much room delays these. An attempt that finds
	// no datagram counts as one.
	lookBudget = 256
)

// place is where a merge keeps a conn.
type place struct {
	slot    int32 // in merge.conns
	retired bool  // to be removed as soon as it is empty
	many    int   // how many datagrams the next batch asks for
	expect  int   // datagrams in a turn
	trust   uint8 // turns for which that holds
	after   int32 // the slot whose turn came next the last time; no pointer, which would keep a removed conn
	often   uint8 // how many times in a row that was so, up to certain
	pause   bool  // the reader had to wait for it
}

// merge reads from many conns as if they were one. All methods may be called concurrently.
type merge struct {
	file *os.File // the epoll descriptor, in the runtime's poller
	raw  syscall.RawConn

	// readMu lets one reader in at a time, as the runtime's own descriptor lock would; it guards req. A blocked
	// reader holds it, and nobody but other readers waits for it.
	readMu sync.Mutex
	req    readRequest
	readFn func(fd uintptr) bool // m.tryRead, made once so that reading does not allocate

	deadline expiry

	// mu guards everything below and the life of every descriptor: no reader touches a descriptor without it, so
	// that a closed one is never read. It is held for non-blocking calls only.
	mu     sync.Mutex
	conns  []*conn // by slot; nil where free
	free   []int32 // slots
	events [64]unix.EpollEvent
	ready  []unix.EpollEvent // what is left of events
	hot    *conn             // the socket that delivers now
	turn   int               // how many datagrams it might deliver at first
	budget int               // how many datagrams it still may
	fresh  bool              // it has delivered none yet
	named  bool              // epoll has reported it
	last   *conn             // whose turn was before
	blind  int               // datagrams that were guessed at since epoll was asked
	parked bool              // the reader waits, or is about to
	waited bool              // it did since the last turn
	zones  zoneCache
	batch  *recvBatch // made by the first batch
	one    [1]Message
	owed   error // what a batch met after its first datagram, for the next read; the kernel reports it once

	coalesced *coalesced // made with the first conn that coalesces
}

// readRequest is what the reader that holds readMu wants and got.
type readRequest struct {
	buf   []byte // one datagram into buf, or,
	batch []Message
	n     int // bytes, or messages
	src   netip.AddrPort
	err   error
	again bool // there is more to do, but ask the runtime before going on
}

func newMerge() (*merge, error) {
	var epfd int
	if err := syscallErr("epoll_create1", func() (err error) {
		epfd, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC)
		return err
	}); err != nil {
		return nil, err
	}
	// os.NewFile looks at the flag and hands only a non-blocking descriptor to the poller.
	if err := syscallErr("fcntl", func() error { return unix.SetNonblock(epfd, true) }); err != nil {
		unix.Close(epfd)
		return nil, err
	}
	m := &merge{file: os.NewFile(uintptr(epfd), "mcast")}
	m.readFn = m.tryRead
	var err error
	if m.raw, err = m.file.SyscallConn(); err == nil {
		err = watched(m.file)
	}
	if err != nil {
		m.file.Close()
		return nil, err
	}
	return m, nil
}

// add begins to deliver what c receives. A read that is blocked notices.
func (m *merge) add(c *conn) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if n := len(m.free); n > 0 {
		c.slot, m.free = m.free[n-1], m.free[:n-1]
	} else {
		c.slot, m.conns = int32(len(m.conns)), append(m.conns, nil)
	}
	if c.coalesce && m.coalesced == nil {
		m.coalesced = new(coalesced)
	}
	// Level-triggered: what a turn leaves in a socket is reported again, after the others that are ready, so the
	// kernel keeps the queue of sockets and keeps it fair.
	if err := m.control(unix.EPOLL_CTL_ADD, c.fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: c.slot}); err != nil {
		m.free = append(m.free, c.slot)
		return err
	}
	m.conns[c.slot] = c
	return nil
}

// remove stops delivering c and gives its descriptor back. What it had received and nobody read is lost. Removing it
// again is harmless.
func (m *merge) remove(c *conn) error {
	if m.unlist(c) {
		return c.release() // it may wait for the kernel's configuration lock, which readers should not
	}
	return nil
}

func (m *merge) unlist(c *conn) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.drop(c)
}

// retire lets c, which receives nothing more, deliver what it has received, and then removes it.
func (m *merge) retire(c *conn) error {
	m.mu.Lock()
	c.retired = c.waiting() || m.coalesced.pending() && m.coalesced.conn == c
	m.mu.Unlock()
	if c.retired {
		return nil
	}
	return m.remove(c)
}

// drop takes c out, if it is in, and keeps what it has counted. m.mu is held.
func (m *merge) drop(c *conn) bool {
	if !m.holds(c) {
		return false
	}
	if c.pair != nil {
		c.addCounters(&c.pair.past)
	}
	// Closing a descriptor takes it out of every epoll, unless a forked child holds a duplicate. It fails only after
	// close, which has done the same.
	_ = m.control(unix.EPOLL_CTL_DEL, c.fd, nil)
	if q := m.coalesced; q != nil && q.conn == c {
		q.conn, q.left = nil, nil
	}
	m.conns[c.slot] = nil
	m.free = append(m.free, c.slot)
	if m.hot == c {
		m.hot = nil
	}
	if m.last == c {
		m.last = nil
	}
	for i := range m.ready {
		if m.ready[i].Fd == c.slot {
			m.ready[i].Fd = -1
		}
	}
	return true
}

// empty ends the turn of c, which has nothing more.
func (m *merge) empty(c *conn) {
	switch {
	case m.fresh:
		if m.named {
			c.discardErrors()
		}
		if m.last != nil {
			m.last.often = 0 // it was not its turn
		}
	case c.trust > 0:
		c.trust = 0 // it had fewer than expected: see how many it has the next time
	default:
		c.expect, c.trust = min(max(m.turn-m.budget, 1), readBudget), trusted
	}
	m.hot = nil
	c.filter.former = nil // an address may be another host's by now
	if c.retired && m.drop(c) {
		c.release()
	}
}

// setOwn sets the addresses of this host, and those that it has lost. What it sent from the latter may still wait in the
// socket, which is to be found empty soon. m.mu is held.
func (m *merge) setOwn(c *conn, own, lost *addrSet) {
	if lost != nil && c.waiting() {
		excess := max(0, len(c.filter.former)+1-maxFormer)
		c.filter.former = append(slices.Delete(c.filter.former, 0, excess), lost)
		c.trust = 0
	}
	c.filter.own = own
}

// maxFormer is how many losses of addresses are kept for a socket that nobody reads, if addresses come and go for ever.
const maxFormer = 64

// waiting reports whether the socket has a datagram. It leaves a pending error to the reads, which a receive that only
// peeks would take. m.mu is held.
func (c *conn) waiting() bool {
	for {
		fds := [1]unix.PollFd{{Fd: int32(c.fd), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds[:], 0); err != unix.EINTR {
			return err == nil && fds[0].Revents&unix.POLLIN != 0
		}
	}
}

func (m *merge) control(op, fd int, event *unix.EpollEvent) error {
	return syscallErr("epoll_ctl", func() (err error) {
		if closed := m.raw.Control(func(epfd uintptr) { err = unix.EpollCtl(int(epfd), op, fd, event) }); closed != nil {
			return net.ErrClosed
		}
		return err
	})
}

// canCoalesce: readMany takes runs apart.
const canCoalesce = true

// expiry knows whether the read deadline has passed, as the runtime does, which can only be asked by a read.
type expiry struct {
	passed atomic.Bool

	mu     sync.Mutex // guards what follows, and passed being written
	at     time.Time  // zero: never
	timer  *time.Timer
	closed bool // for good: a timer would hold the memory of a merge that is closed until it fires
}

// set takes over a deadline. It reports false after close.
func (e *expiry) set(t time.Time) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return false
	}
	wait := time.Until(t)
	e.passed.Store(!t.IsZero() && wait <= 0)
	if e.timer != nil {
		e.timer.Stop()
	}
	e.at = time.Time{}
	if t.IsZero() || wait <= 0 {
		return true
	}
	e.at = time.Now().Add(wait)
	if e.timer == nil {
		e.timer = time.AfterFunc(wait, e.expire)
	} else {
		e.timer.Reset(wait)
	}
	return true
}

// close stops the timer. Later deadlines arm none.
func (e *expiry) close() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closed, e.at = true, time.Time{}
	if e.timer != nil {
		e.timer.Stop()
	}
}

func (e *expiry) expire() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.at.IsZero() && !time.Now().Before(e.at) { // else it was set anew as the timer fired
		e.passed.Store(true)
	}
}

// listen makes c, whose descriptor is open, ready to be added.
func (c *conn) listen() error { return nil }

// replyConn makes the reading side of a sender's socket part of a merge. The socket stays the sender's.
func replyConn(to *sender, _ bool) (*conn, error) {
	c := &conn{release: func() error { return nil }}
	return c, control(to.raw, func(fd int) error { c.fd = fd; return nil })
}

// holds reports whether c is in. m.mu is held.
func (m *merge) holds(c *conn) bool { return m.conns[c.slot] == c }

// update runs f while no datagram is being read.
func (m *merge) update(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f()
}

func (m *merge) setReadDeadline(t time.Time) error {
	if !m.deadline.set(t) {
		return net.ErrClosed
	}
	return closedError(m.file.SetReadDeadline(t))
}

// close interrupts every read, waits until none is inside, and gives all descriptors back.
func (m *merge) close() error {
	err := systemError("close", m.file.Close())
	m.deadline.close()
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range m.conns {
		if c != nil {
			err = errors.Join(err, c.release())
		}
	}
	m.conns, m.ready, m.hot, m.last, m.coalesced, m.owed = nil, nil, nil, nil, nil, nil
	return err
}

// closedError turns what the runtime says of a closed epoll file into the error that net's users know.
func closedError(err error) error {
	if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	return net.ErrClosed
}

// read waits for one datagram.
func (m *merge) read(p []byte) (n int, src netip.AddrPort, err error) {
	if !m.deadline.passed.Load() {
		if n, src, err := m.readKnown(p); n >= 0 {
			return n, src, err
		}
	}
	m.readMu.Lock()
	defer m.readMu.Unlock()
	m.req = readRequest{buf: p}
	err = m.wait()
	n, src = m.req.n, m.req.src
	m.req = readRequest{}
	return n, src, err
}

// readKnown takes a datagram from a socket that is known to have one, without asking the runtime, which is there to wait
// and to know about deadlines; n is -1 if it finds none.
func (m *merge) readKnown(p []byte) (n int, src netip.AddrPort, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.settle(); err != nil {
		return 0, src, err
	}
	for range lookBudget {
		c := m.known(false)
		if c == nil {
			break
		}
		n, src, ok, err := m.readOne(c, p)
		switch {
		case err == unix.EAGAIN:
			m.empty(c)
		case ok || err != nil:
			return n, src, c.readError(err)
		}
	}
	return -1, src, nil
}

// readBatch waits for one datagram and takes what else is there, as far as ms has room.
func (m *merge) readBatch(ms []Message) (n int, err error) {
	m.readMu.Lock()
	defer m.readMu.Unlock()
	m.req = readRequest{batch: ms}
	err = m.wait()
	n = m.req.n
	m.req = readRequest{}
	return n, err
}

func (m *merge) wait() error {
	for {
		m.req.again = false
		err := m.raw.Read(m.readFn)
		switch {
		case err != nil && m.req.n > 0: // the caller gets the datagrams, and the next read asks the runtime itself
			return nil
		case err != nil:
			return closedError(err)
		case !m.req.again:
			return m.req.err
		}
		runtime.Gosched() // lets the timer of a deadline fire, and other goroutines take m.mu
	}
}

// settle returns the error that is owed, once. m.mu is held.
func (m *merge) settle() error {
	if m.owed == nil {
		return nil
	}
	err := m.owed
	m.owed = nil
	return err
}

// fail ends a read with err. A batch that has datagrams returns these, and the next read returns err. m.mu is held.
func (m *merge) fail(err error) {
	if m.req.n > 0 {
		m.owed = err
	} else {
		m.req.err = err
	}
}

// tryRead serves m.req without blocking; false asks the runtime to wait until the epoll descriptor is ready.
func (m *merge) tryRead(epfd uintptr) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := &m.req
	if r.err = m.settle(); r.err != nil {
		return true
	}
	if m.parked {
		m.parked, m.waited = false, true
		m.known(true)
	}
	had, looked := r.n, 0
	for looked < lookBudget {
		c, err := m.next(int(epfd))
		if c == nil {
			m.fail(err)
			m.parked = err == nil && r.n == 0
			return !m.parked
		}
		if r.batch == nil {
			var ok bool
			var err error
			r.n, r.src, ok, err = m.readOne(c, r.buf)
			looked++
			if err == unix.EAGAIN {
				m.empty(c)
				continue
			}
			if ok || err != nil {
				r.err = c.readError(err)
				return true
			}
			continue
		}
		room := r.batch[r.n:]
		room = room[:min(len(room), m.budget, batchSize, max(c.many, c.expect, fewAtFirst))] // with less, it is empty
		got, kept, err := m.readMany(c, room)
		r.n += kept
		looked += max(got, 1)
		if err != nil && err != unix.EAGAIN {
			m.fail(c.readError(err))
			return true
		}
		if r.n == len(r.batch) {
			return true
		}
		if c.many = 4 * got; got < len(room) && !(c.coalesce && m.coalesced.more) {
			m.empty(c)
		}
	}
	// A flood of unwanted datagrams must not hold back those that the batch has.
	r.again = r.n == 0 || 2*(r.n-had) >= looked
	return true
}

// next says which socket to read from; nil: none has anything.
func (m *merge) next(epfd int) (*conn, error) {
	for {
		if c := m.known(false); c != nil {
			return c, nil
		}
		n, err := epollWait(epfd, m.events[:])
		if n == 0 || err != nil {
			return nil, err
		}
		m.ready, m.blind = m.events[:n], 0
	}
}

// known says which socket to read from without asking epoll: the one at work while its turn lasts, then the others that
// were reported, then the one that came next the last times, as in an exchange by one group, or where many groups are
// sent to in turn.
//
// To find a socket empty takes a system call in vain, while the next epoll_wait tells of many sockets at once which are
// not. So a turn brings as many datagrams as there were when the socket was emptied, and only now and then as many as
// there are; and where the reader had to wait the last time, nothing is guessed until it has.
func (m *merge) known(woken bool) *conn {
	if m.coalesced.pending() { // to the end, before another is received
		m.hot = m.coalesced.conn
		m.budget = max(m.budget, m.coalesced.datagrams())
	}
	if m.hot != nil && m.budget > 0 {
		return m.hot
	}
	m.hot = nil
	for len(m.ready) > 0 {
		slot := m.ready[0].Fd
		m.ready = m.ready[1:]
		if slot < 0 {
			continue
		}
		m.begin(m.conns[slot])
		m.named = true
		return m.hot
	}
	l, most := m.last, max(readBudget, len(m.conns)) // or others might wait for ever
	if l == nil || l.often < certain || l.pause && !woken || m.blind >= most {
		return nil
	}
	if next := m.conns[l.after]; next != nil { // another conn may have the slot by now: that guess costs one call
		m.begin(next)
		m.blind += min(m.budget, readBudget)
		return m.hot
	}
	return nil
}

// begin gives c its turn.
func (m *merge) begin(c *conn) {
	m.hot, m.fresh, m.named, m.budget = c, true, false, readBudget
	switch {
	case c.retired: // to the end, and beyond, since it must be found empty
		m.budget = math.MaxInt
	case c.trust > 0:
		c.trust--
		m.budget = c.expect
	}
	m.turn = m.budget
}

// delivers is called for the first datagram of a turn.
func (m *merge) delivers(c *conn) {
	if l := m.last; l != nil {
		if l.after != c.slot {
			l.after, l.often = c.slot, 0
		}
		l.often, l.pause = min(l.often+1, certain), m.waited
	}
	m.last, m.fresh, m.waited = c, false, false
}

// epollWait takes what is ready and never waits. The scheduler need not know of it, since it writes to the merge's own
// memory only. See recvFrom.
func epollWait(epfd int, events []unix.EpollEvent) (int, error) {
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(epfd),
			uintptr(unsafe.Pointer(unsafe.SliceData(events))), uintptr(len(events)), 0, 0, 0)
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		default:
			return 0, os.NewSyscallError("epoll_pwait", errno)
		}
	}
}

// readOne takes one datagram from c into p. It reports false for one that must not be delivered.
func (m *merge) readOne(c *conn, p []byte) (n int, src netip.AddrPort, ok bool, err error) {
	if !c.hasControl && !c.coalesce {
		size, src, ok, err := m.readPlain(c, p)
		return min(size, len(p)), src, ok, err
	}
	m.one[0] = Message{Buf: p}
	_, kept, err := m.readMany(c, m.one[:])
	n, src = m.one[0].N, m.one[0].Addr
	m.one[0] = Message{}
	return n, src, kept == 1, err
}

// readPlain takes one datagram, of which no control messages tell, from c, and returns its whole size.
func (m *merge) readPlain(c *conn, p []byte) (size int, src netip.AddrPort, ok bool, err error) {
	var name rawSockaddr
	if size, err = recvFrom(c.fd, p, &name); err != nil {
		return 0, src, false, err
	}
	m.budget--
	if m.fresh {
		m.delivers(c)
	}
	src = name.addrPort(&m.zones, c.ifIndex)
	if c.refuses(src.Addr(), 1) {
		return 0, netip.AddrPort{}, false, nil // a read that ends without a datagram must not name this source
	}
	c.count.add(min(size, len(p)), size > len(p))
	return size, src, true, nil
}
