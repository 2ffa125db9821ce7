// What a merge is, and what it reads from. merge_linux.go and merge_other.go implement it.

package mcast

import (
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"
)

// merger reads from many conns as if they were one. Its methods may be called concurrently.
type merger interface {
	// add begins to deliver what c receives. A read that is blocked notices.
	add(c *conn) error

	// remove stops delivering c and gives its OS socket back. What it had received and nobody read is lost. Removing it again
	// is harmless.
	remove(c *conn) error

	// retire lets c, which receives nothing more, deliver what it has received, and then removes it.
	retire(c *conn) error

	// update runs f under the lock that guards the conns. No datagram is received or delivered meanwhile.
	update(f func())

	// holds reports whether c is in. It must be called within update.
	holds(c *conn) bool

	// setOwn sets the addresses of this host, and those that it has lost. What it sent from the latter may still wait in the
	// socket. It must be called within update.
	setOwn(c *conn, own, lost *addrSet)

	// readNow takes a datagram that is there, without waiting. n is -1 if it finds none, or the deadline has passed, or read
	// has an error to return.
	readNow(p []byte) (n int, src netip.AddrPort, err error)

	// read waits for one datagram and takes what else is there, as far as ms has room. It must not be called concurrently.
	read(ms []Message) (n int, err error)

	// setReadDeadline sets when reads fail, also one that is blocked.
	setReadDeadline(t time.Time) error

	// close interrupts every read, waits until none is inside and no goroutine is left, and gives all OS sockets back.
	close() error
}

// deadline knows whether a time has passed.
type deadline struct {
	lock   sync.Locker // guards what follows
	passed bool
	wake   func() // called when it passes, with the lock held; may be nil
	at     time.Time
	timer  *time.Timer
}

// set takes over a new time; zero: never. The lock is held.
func (d *deadline) set(t time.Time) {
	d.at, d.passed = time.Time{}, false
	if d.timer != nil {
		d.timer.Stop()
	}
	if t.IsZero() {
		return
	}
	now := time.Now()
	wait := t.Sub(now)
	d.at = now.Add(wait) // by the monotonic clock
	switch {
	case wait <= 0:
		d.pass()
	case d.timer == nil:
		d.timer = time.AfterFunc(wait, d.expire)
	default:
		d.timer.Reset(wait)
	}
}

func (d *deadline) pass() {
	d.passed = true
	if d.wake != nil {
		d.wake()
	}
}

func (d *deadline) expire() {
	d.lock.Lock()
	defer d.lock.Unlock()
	if !d.at.IsZero() && !time.Now().Before(d.at) { // else another time was set as the timer fired
		d.pass()
	}
}

// conn is a membership, or the unicast of a TxSocket's OS socket, in a merge.
type conn struct {
	schedState // what the merge knows of it
	osSocket   // what the system has it by

	pair    *pair // nil for the sockets of a TxSocket
	group   netip.Addr
	ifName  string
	ifIndex int
	filter  sourceFilter
	sources []netip.Addr // its share of the pair's
	release func() error // gives its OS socket back, or its part in one

	count counters
}

// readError is a failed receive on c as the caller sees it.
func (c *conn) readError(err error) error {
	if err == nil {
		return nil
	}
	return &OpError{Op: "read", Group: c.group, Interface: c.ifName, Err: systemError("recvmsg", err)}
}

// counters are what a conn has delivered, the datagrams of this host that it discarded, and what the kernel dropped. They
// are guarded by the merge's lock.
type counters struct {
	packets, bytes, truncated, own uint64
	dropped                        drops
}

func (c *counters) add(n int, truncated bool) {
	c.packets++
	c.bytes += uint64(n)
	if truncated {
		c.truncated++
	}
}

// drops adds up a counter of the kernel that begins again at 0 after 2^32-1. It is right if it sees each 2^32 drops at least
// once.
type drops struct {
	last  uint32
	total uint64
}

func (d *drops) see(counter uint32) {
	d.total += uint64(counter - d.last)
	d.last = counter
}

// addCounters adds what c has counted to m.
func (c *conn) addCounters(m *Membership) {
	m.ReadBuffer = c.stats()
	m.Packets += c.count.packets
	m.Bytes += c.count.bytes
	m.Truncated += c.count.truncated
	m.Own += c.count.own
	m.Dropped += c.count.dropped.total
}

// sourceFilter refuses in user space what the kernel cannot be made to refuse, or may not always. Its zero value refuses nothing.
// Its sets are shared and without zones: one interface, one zone. The merge's lock guards which they are, and is not held
// while one is made.
type sourceFilter struct {
	own     *addrSet   // this host's addresses on the interface, if its own datagrams are not wanted
	former  []*addrSet // addresses that the interface has lost since something was received that may not have been read yet
	blocked *addrSet
	only    *addrSet // nil: all are wanted
}

// refuses reports whether n datagrams from src must not be delivered, and counts them if they are this host's own. The
// merge's lock is held.
//
// An IPv4-mapped source in an IPv6 packet belongs to no host (RFC 4942, section 2.2), but Linux lets it in. It would pass
// for an IPv4 source, 127.0.0.1 for example, and a reply would go there. The kernels of the BSDs and macOS drop it.
func (c *conn) refuses(src netip.Addr, n int) bool {
	s := &c.filter
	if src.Is4In6() {
		return true
	}
	if s.own == nil && len(s.former) == 0 && s.blocked == nil && s.only == nil {
		return false
	}
	src = src.WithZone("")
	if s.own.has(src) || slices.ContainsFunc(s.former, func(lost *addrSet) bool { return lost.has(src) }) {
		c.count.own += uint64(n)
		return true
	}
	return s.blocked.has(src) || s.only != nil && !s.only.has(src)
}

// maxZones is how many zones a zoneCache keeps. Interfaces that come and go have a new index each time.
const maxZones = 1024

// zoneCache keeps the text of the zones met, which netip wants, so that it is made once: numbers, because names
// may change hands.
type zoneCache struct {
	last uint32
	text string
	all  map[uint32]string
}

func (z *zoneCache) zone(scope uint32) string {
	if scope == z.last {
		return z.text
	}
	text, ok := z.all[scope]
	if !ok {
		if z.all == nil {
			z.all = make(map[uint32]string)
		}
		if len(z.all) == maxZones {
			clear(z.all)
		}
		text = strconv.FormatUint(uint64(scope), 10)
		z.all[scope] = text
	}
	z.last, z.text = scope, text
	return text
}
