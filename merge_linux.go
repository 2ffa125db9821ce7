//go:build !mcast_portable

// The merge of Linux reads from many OS sockets as if they were one, and decides whose turn it is to deliver. The
// sockets are in one epoll set, whose descriptor is in the runtime's poller. So a blocked read parks only a goroutine,
// and deadlines and Close come from the runtime. batch_linux.go and coalesce_linux.go receive.

package mcast

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// readBudget is how many datagrams an OS socket delivers in one turn. It is large enough to make a change of socket
	// cheap. It is small enough that a flooded group delays a quiet one by tens of microseconds.
	readBudget = 64

	// fewAtFirst is how many datagrams a batch first asks an OS socket for. Preparing for more is wasted if the socket
	// has fewer. If that many arrive, the batch asks for more.
	fewAtFirst = 4

	// trusted is how many turns end after a known number of datagrams: as many as the OS socket had when it was last
	// found empty.
	trusted = 15

	// lookBudget is how many datagrams a read handles before it releases merge.mu and asks the runtime about the
	// deadline and Close. Thus neither a flood nor a large batch delays these. A system call that finds no datagram
	// counts as one.
	lookBudget = 256
)

// schedState is the state of a conn in a merge.
type schedState struct {
	slot    int32 // in merge.conns; epoll reports it
	retired bool  // to be removed as soon as it is empty
	burst   int   // datagrams in its last turn
	trust   uint8 // turns left that end after burst datagrams, without a system call to find the socket empty
}

// merge implements merger. epoll is level-triggered. If a socket still has datagrams after its turn, the kernel puts it
// behind the other ready sockets and reports it again (ep_send_events in fs/eventpoll.c). So a turn may end at any
// point, and no socket is forgotten.
type merge struct {
	file *os.File // the epoll descriptor, in the runtime's poller
	raw  syscall.RawConn

	req    readRequest           // of the only reader in read
	readFn func(fd uintptr) bool // m.tryRead, made once so that reading does not allocate

	// mu guards everything below and the life of every descriptor. A reader uses descriptors only while it holds mu, so
	// it never reads from a closed one. mu is held for non-blocking calls only.
	mu       sync.Mutex
	closed   bool
	deadline deadline
	conns    []*conn // by slot; nil where free. The last is never nil.
	free     int     // how many of conns are nil
	events   [64]unix.EpollEvent
	ready    []unix.EpollEvent // the events whose sockets still wait for their turn
	hot      *conn             // the socket whose turn it is; nil between turns
	turn     int               // the length of its turn, in datagrams
	left     int               // how many of them it may still deliver; negative if the kernel returned more
	failed   bool              // epoll reported an error of the hot socket
	ask      bool              // the only socket was found empty: ask epoll before the next attempt
	receiver receiver
	owed     error // of a batch, after its first datagram: for the next read, since the kernel reports it once
}

var _ merger = (*merge)(nil)

// readRequest is the request of a reader, and its result.
type readRequest struct {
	ms    []Message
	n     int // how many of ms are filled
	err   error
	again bool // there is more to do, but ask the runtime first
}

func newMerge() (*merge, error) {
	var epfd int
	if err := syscallErr("epoll_create1", func() (err error) {
		epfd, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC)
		return err
	}); err != nil {
		return nil, err
	}
	// os.NewFile gives a descriptor to the poller only if it is non-blocking.
	if err := syscallErr("fcntl", func() error { return unix.SetNonblock(epfd, true) }); err != nil {
		unix.Close(epfd)
		return nil, err
	}
	m := &merge{file: os.NewFile(uintptr(epfd), "mcast")}
	m.readFn = m.tryRead
	m.deadline.lock = &m.mu
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

func (m *merge) add(c *conn) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	slot := len(m.conns)
	if m.free > 0 {
		slot = slices.Index(m.conns, nil)
	}
	if err := m.control(unix.EPOLL_CTL_ADD, c.fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(slot)}); err != nil {
		return err
	}
	if slot == len(m.conns) {
		m.conns = append(m.conns, nil)
		m.free++
	}
	m.free--
	c.slot, m.conns[slot] = int32(slot), c
	m.receiver.prepare(c)
	return nil
}

func (m *merge) remove(c *conn) error {
	if m.unlist(c) {
		return c.release() // outside mu: it may wait for the kernel's configuration lock, and readers should not wait for that
	}
	return nil
}

func (m *merge) unlist(c *conn) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.drop(c)
}

func (m *merge) retire(c *conn) error {
	m.mu.Lock()
	c.retired = m.mayDeliver(c)
	m.mu.Unlock()
	if c.retired {
		return nil
	}
	return m.remove(c)
}

// mayDeliver reports whether c has anything left to deliver. m.mu is held.
func (m *merge) mayDeliver(c *conn) bool { return m.hot == c && m.receiver.pending() || c.waiting() }

// drop removes c, if m holds it, and keeps its counts. m.mu is held.
func (m *merge) drop(c *conn) bool {
	if !m.holds(c) {
		return false
	}
	if c.pair != nil {
		c.addCounters(&c.pair.past)
	}
	// Closing a descriptor removes it from every epoll set, unless a forked child holds a duplicate. This call fails
	// only after close, which has removed it too.
	_ = m.control(unix.EPOLL_CTL_DEL, c.fd, nil)
	m.receiver.forget(c)
	m.conns[c.slot] = nil // its event may be left in ready; it then applies to the next conn in the slot, which does no harm
	m.free++
	for n := len(m.conns); n > 0 && m.conns[n-1] == nil; n-- {
		m.conns = m.conns[:n-1]
		m.free--
	}
	if m.hot == c {
		m.hot = nil
	}
	return true
}

// at returns the conn in a slot, or nil. m.mu is held.
func (m *merge) at(slot int32) *conn {
	if int(slot) < len(m.conns) {
		return m.conns[slot]
	}
	return nil
}

func (m *merge) holds(c *conn) bool { return m.at(c.slot) == c }

func (m *merge) setOwn(c *conn, own, lost *addrSet) {
	if lost != nil && c.waiting() {
		excess := max(0, len(c.filter.former)+1-maxFormer)
		c.filter.former = append(slices.Delete(c.filter.former, 0, excess), lost)
		c.trust = 0 // the next turn lasts until the socket is empty and has nothing left from the lost addresses
	}
	c.filter.own = own
}

// maxFormer is how many sets of lost addresses are kept for a socket while no read empties it.
const maxFormer = 64

func (m *merge) control(op, fd int, event *unix.EpollEvent) error {
	return syscallErr("epoll_ctl", func() (err error) {
		if closed := m.raw.Control(func(epfd uintptr) { err = unix.EpollCtl(int(epfd), op, fd, event) }); closed != nil {
			return net.ErrClosed
		}
		return err
	})
}

func (m *merge) update(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f()
}

func (m *merge) setReadDeadline(t time.Time) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return net.ErrClosed
	}
	m.deadline.set(t)
	return closedError(m.file.SetReadDeadline(t))
}

func (m *merge) close() error {
	err := systemError("close", m.file.Close()) // waits until no reader is inside
	var conns []*conn
	m.update(func() {
		m.closed = true
		m.deadline.set(time.Time{})
		conns = m.conns
		m.conns, m.free, m.ready, m.hot, m.owed, m.receiver = nil, 0, nil, nil, nil, receiver{}
	})
	for _, c := range conns {
		if c != nil {
			err = errors.Join(err, c.release()) // see remove
		}
	}
	return err
}

// closedError replaces the runtime's error for a closed epoll file with net.ErrClosed, which users of package net know.
func closedError(err error) error {
	if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	return net.ErrClosed
}

func (m *merge) readNow(p []byte) (n int, src netip.AddrPort, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.deadline.passed || m.owed != nil {
		return -1, src, nil
	}
	one := [1]Message{{Buf: p}}
	for range lookBudget {
		c := m.current()
		if c == nil {
			break
		}
		if got, err := m.receive(c, one[:]); got.kept > 0 || err != nil {
			return one[0].N, one[0].Addr, err
		}
	}
	return -1, src, nil
}

func (m *merge) read(ms []Message) (int, error) {
	defer func() { m.req = readRequest{} }()
	m.req.ms = ms
	for {
		m.req.again = false
		err := m.raw.Read(m.readFn)
		switch {
		case err != nil && m.req.n > 0: // the caller gets the datagrams, and the next read asks the runtime itself
			return m.req.n, nil
		case err != nil:
			return 0, closedError(err)
		case !m.req.again:
			return m.req.n, m.req.err
		}
		runtime.Gosched() // lets the timer of a deadline fire, and other goroutines take m.mu
	}
}

// settle returns the error that is owed, once. m.mu is held.
func (m *merge) settle() (err error) {
	err, m.owed = m.owed, nil
	return err
}

// fail ends a read with err. A batch that has datagrams returns them, and the next read returns err. m.mu is held.
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
	had, looked := r.n, 0
	for looked < lookBudget {
		c, err := m.next(int(epfd))
		if c == nil {
			m.fail(err)
			return err != nil || r.n > 0
		}
		got, err := m.receive(c, r.ms[r.n:])
		r.n += got.kept
		looked += max(got.all, 1)
		if err != nil {
			m.fail(err)
			return true
		}
		if r.n == len(r.ms) {
			return true
		}
	}
	// While unwanted datagrams flood in, return the ones that the batch has.
	r.again = r.n == 0 || 2*(r.n-had) >= looked
	return true
}

// next returns the socket to receive from, or nil if no socket has a datagram.
func (m *merge) next(epfd int) (*conn, error) {
	for {
		if c := m.current(); c != nil {
			return c, nil
		}
		n, err := epollWait(epfd, m.events[:])
		m.ready, m.ask = m.events[:n], false
		if n == 0 {
			return nil, err
		}
	}
}

// current returns the socket to receive from, if it is known without a call of epoll. The socket whose turn it is comes
// first, then the others that epoll has reported. If the merge has only one socket, current returns it without epoll:
// the receive call itself reports whether a datagram has arrived.
func (m *merge) current() *conn {
	if c := m.hot; c != nil {
		if m.left > 0 || m.receiver.pending() {
			return c
		}
		c.burst = m.turn
		m.endTurn(c)
	}
	for len(m.ready) > 0 {
		e := m.ready[0]
		m.ready = m.ready[1:]
		if c := m.at(e.Fd); c != nil {
			m.begin(c, e.Events&unix.EPOLLERR != 0)
			return c
		}
	}
	if len(m.conns) == 1 && !m.ask {
		m.begin(m.conns[0], false)
	}
	return m.hot
}

// begin gives c its turn. Finding a socket empty takes a system call, while one epoll_wait reports many sockets that
// have datagrams. So most turns are as long as the one in which c was last found empty.
func (m *merge) begin(c *conn, failed bool) {
	m.hot, m.turn, m.failed = c, readBudget, failed
	if c.trust > 0 && len(m.conns) > 1 {
		c.trust--
		m.turn = c.burst
	}
	m.left = m.turn
}

// receive fills ms from c, whose turn it is.
func (m *merge) receive(c *conn, ms []Message) (received, error) {
	if !c.coalesce {
		most := max(fewAtFirst, 2*c.burst, 4*(m.turn-m.left))
		if m.turn == 1 { // recvfrom costs less than recvmmsg
			most = 1
		}
		ms = ms[:min(len(ms), most)]
	}
	got, err := m.receiver.receive(c, ms)
	m.left -= got.all
	switch {
	case got.empty:
		m.empty(c)
	case err != nil: // one that repeats must not hold up the other sockets
		m.endTurn(c)
	}
	return got, c.readError(err)
}

// empty ends the turn of c, which has no more datagrams.
func (m *merge) empty(c *conn) {
	if taken := m.turn - m.left; taken > 0 {
		c.burst, c.trust = min(taken, readBudget), 0
		if taken <= fewAtFirst {
			c.trust = trusted
		}
	}
	if m.failed {
		c.discardErrors()
	}
	c.filter.former = nil // a lost address may belong to another host by now
	m.ask = true
	m.endTurn(c)
}

// endTurn ends the turn. It removes c if c is retired and has no more datagrams.
func (m *merge) endTurn(c *conn) {
	m.hot = nil
	if c.retired && !c.waiting() && m.drop(c) {
		c.release()
	}
}

// epollWait takes the ready events and never waits. It need not inform the Go scheduler, since it writes only to the
// merge's own memory. See recvFrom.
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
