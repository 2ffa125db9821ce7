// This file defines a merge, and the conns that it reads from. merge_linux.go and merge_other.go implement it.

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
	// add begins to deliver what c receives, also to a read that is blocked.
	add(c *conn) error

	// remove stops delivering c and releases its OS socket. Datagrams that c has received and no read has returned are
	// lost. A second remove does no harm.
	remove(c *conn) error

	// retire is for a c that receives no more datagrams. It lets c deliver what it has received, and then removes it.
	retire(c *conn) error

	// update runs f under the lock that guards the conns. During f, no datagram is received or delivered.
	update(f func())

	// holds reports whether c is in. It must be called within update.
	holds(c *conn) bool

	// setOwn sets the addresses of this host, and the addresses that it has lost. Datagrams that it sent from a lost
	// address may still wait in the socket. setOwn must be called within update.
	setOwn(c *conn, own, lost *addrSet)

	// readNow takes a datagram that has arrived, without waiting. n is -1 if there is none, if the deadline has passed,
	// or if read has an error to return.
	readNow(p []byte) (n int, src netip.AddrPort, err error)

	// read waits for one datagram, and takes the others that have arrived, as far as ms has room. It must not be called
	// concurrently.
	read(ms []Message) (n int, err error)

	// setReadDeadline sets the time when reads fail. It applies to a blocked read, too.
	setReadDeadline(t time.Time) error

	// close interrupts every read, waits until no read and no goroutine is left, and releases all OS sockets.
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

// set sets a new time; zero means never. The lock is held.
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
	schedState // its state in the merge
	osSocket   // how the system refers to it

	pair    *pair // nil for the sockets of a TxSocket
	group   netip.Addr
	ifName  string
	ifIndex int
	filter  sourceFilter
	sources []netip.Addr // its share of the pair's sources
	release func() error // releases its OS socket, or its part in one

	count counters
}

// readError returns the error of a failed receive on c in the form that the caller gets.
func (c *conn) readError(err error) error {
	if err == nil {
		return nil
	}
	return &OpError{Op: "read", Group: c.group, Interface: c.ifName, Err: systemError("recvmsg", err)}
}

// counters count what a conn has delivered, the datagrams of this host that it discarded, and what the kernel dropped.
// The merge's lock guards them.
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

// drops sums a counter of the kernel that wraps to 0 after 2^32-1. The sum is right if drops sees the counter at least
// once in every 2^32 drops.
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

// sourceFilter refuses in user space the sources that the kernel cannot refuse, or may not always refuse. Its zero
// value refuses nothing. Its sets are shared. They have no zones, since one interface has one zone. The merge's lock
// guards the references to the sets. The lock is not held while a set is made.
type sourceFilter struct {
	own     *addrSet   // this host's addresses on the interface, if its own datagrams are not wanted
	former  []*addrSet // lost addresses of the interface, from which unread datagrams may remain
	blocked *addrSet
	only    *addrSet // nil: all are wanted
}

// refuses reports whether n datagrams from src must be discarded. It counts them if they are this host's own. The
// merge's lock is held.
//
// An IPv4-mapped source in an IPv6 packet belongs to no host (RFC 4942, section 2.2), but Linux accepts it. It would
// look like an IPv4 source, 127.0.0.1 for example, and a reply would go there. The kernels of the BSDs and macOS drop
// it.
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

// maxZones is how many zones a zoneCache keeps at most. An interface that is created again has a new index each time.
const maxZones = 1024

// zoneCache keeps the text of each zone, which netip needs, so that the text is made once. A zone is a number, since a
// name may move to another interface.
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
