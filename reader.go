// What RxSocket and TxSocket share: the reading half of a net.PacketConn over a merge, deadlines that a context may
// cut short, and the conversions between net's addresses and netip's.

package mcast

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// reader reads from a merge. All methods may be called concurrently.
type reader struct {
	m *merge

	mu       sync.Mutex // guards what is below and the fields of every ctxRead
	deadline time.Time
	// cut counts the reads that their context has interrupted by moving the merge's deadline into the past. Until
	// the last of them has returned, other reads that met that deadline wait.
	cut    int
	mended sync.Cond
	epoch  atomic.Uint64 // odd while cut > 0; written under mu
}

func newReader() (*reader, error) {
	m, err := newMerge()
	if err != nil {
		return nil, err
	}
	r := &reader{m: m}
	r.mended.L = &r.mu
	return r, nil
}

// ctxRead is a series of reads that ends with a context.
type ctxRead struct {
	reading bool
	done    bool // the context is
	cut     bool // and moved the deadline, because a read was under way
}

var longAgo = time.Unix(1, 0)

func (r *reader) setReadDeadline(t time.Time) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.deadline = t
	if r.cut > 0 {
		return nil // mend sets it
	}
	return r.m.setReadDeadline(t)
}

// until makes the reads of the returned series end when ctx does. stop must be called after the last of them.
func (r *reader) until(ctx context.Context) (series *ctxRead, stop func()) {
	series = new(ctxRead)
	ended := make(chan struct{})
	unregister := context.AfterFunc(ctx, func() {
		defer close(ended)
		r.mu.Lock()
		defer r.mu.Unlock()
		series.done = true
		r.mended.Broadcast() // it may wait, for others to end as it does now
		if series.reading {
			series.cut = true
			if r.cut++; r.cut == 1 {
				r.epoch.Add(1)
				r.m.setReadDeadline(longAgo)
			}
		}
	})
	return series, func() {
		if !unregister() {
			<-ended
		}
	}
}

// begin reports whether the series goes on.
func (r *reader) begin(series *ctxRead) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	series.reading = !series.done
	return series.reading
}

// end undoes what the context did to the deadline.
func (r *reader) end(series *ctxRead) {
	r.mu.Lock()
	defer r.mu.Unlock()
	series.reading = false
	if !series.cut {
		return
	}
	series.cut = false
	if r.cut--; r.cut == 0 {
		r.m.setReadDeadline(r.deadline)
		r.epoch.Add(1)
		r.mended.Broadcast()
	}
}

// spurious reports whether err, of a read that began in the given epoch, is the timeout of somebody else's context.
// It returns when reading makes sense again. To the series whose context it is it is none.
func (r *reader) spurious(err error, epoch uint64, series *ctxRead) bool {
	if !errors.Is(err, os.ErrDeadlineExceeded) || epoch%2 == 0 && epoch == r.epoch.Load() {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		switch {
		case series != nil && series.done:
			return false
		case r.cut == 0:
			return true
		}
		r.mended.Wait()
	}
}

// readFromUDPAddrPort reads one datagram. An error comes with zero values.
func (r *reader) readFromUDPAddrPort(p []byte) (int, netip.AddrPort, error) {
	for {
		epoch := r.epoch.Load()
		n, src, err := r.m.read(p)
		if err == nil {
			return n, src, nil
		}
		if !r.spurious(err, epoch, nil) {
			return 0, netip.AddrPort{}, readError(err)
		}
	}
}

func (r *reader) readFrom(p []byte) (int, net.Addr, error) {
	n, src, err := r.readFromUDPAddrPort(p)
	if err != nil {
		return 0, nil, err
	}
	return n, net.UDPAddrFromAddrPort(src), nil
}

// readBatch reads for a series, or for none if that is nil. An error comes with n 0.
func (r *reader) readBatch(ms []Message, series *ctxRead) (int, error) {
	if len(ms) == 0 {
		return 0, nil
	}
	for {
		epoch := r.epoch.Load()
		n, err := r.m.readBatch(ms)
		if err == nil {
			return n, nil
		}
		if !r.spurious(err, epoch, series) {
			return 0, readError(err)
		}
	}
}

func readError(err error) error {
	if _, ok := err.(*OpError); ok {
		return err
	}
	return &OpError{Op: "read", Err: err}
}

// conn is a membership, or the unicast of a TxSocket's OS socket, in a merge.
type conn struct {
	place    // where the merge has it
	osSocket // what the system has it by

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

// udpAddrPort is the destination of a WriteTo. One of IPv4 is in the form that can have a zone, for unmap.
func udpAddrPort(addr net.Addr) (netip.AddrPort, error) {
	udp, ok := addr.(*net.UDPAddr)
	if !ok || udp == nil {
		return netip.AddrPort{}, &OpError{Op: "write", Err: &net.AddrError{Err: "not a *net.UDPAddr", Addr: text(addr)}}
	}
	if udp.Port < 0 || udp.Port > 65535 {
		return netip.AddrPort{}, &OpError{Op: "write", Err: &net.AddrError{Err: "invalid port", Addr: text(addr)}}
	}
	ip, _ := netip.AddrFromSlice(udp.IP.To16())
	return netip.AddrPortFrom(ip.WithZone(udp.Zone), uint16(udp.Port)), nil
}

// unmap returns an address to send to in its plain form. To IPv4 a zone says nothing, so that what is meant by one cannot
// be done.
func unmap(ip netip.Addr) (netip.Addr, error) {
	if plain := ip.Unmap(); ip.Zone() == plain.Zone() {
		return plain, nil
	}
	return ip, fmt.Errorf("to %s: zone %s picks no interface, for IPv4 has no zones", ip.Unmap(), ip.Zone())
}

// errPortZero replaces the system's error, which says that some argument is invalid.
var errPortZero = errors.New("port 0 is not a destination")

func text(addr net.Addr) string {
	if addr == nil || addr == (*net.UDPAddr)(nil) {
		return "<nil>"
	}
	return addr.Network() + " " + addr.String()
}

// systemError is what the runtime or the kernel said of a read or write, without the words around it.
func systemError(name string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, net.ErrClosed):
		return net.ErrClosed
	case errors.Is(err, os.ErrDeadlineExceeded):
		return os.ErrDeadlineExceeded
	}
	if op := (*net.OpError)(nil); errors.As(err, &op) {
		err = op.Err
	}
	if path := (*os.PathError)(nil); errors.As(err, &path) {
		err = path.Err
	}
	if named := (*os.SyscallError)(nil); errors.As(err, &named) {
		return named
	}
	return os.NewSyscallError(name, err)
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
