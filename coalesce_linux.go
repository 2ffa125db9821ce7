//go:build !mcast_portable

// Runs of datagrams that the kernel hands over at once: of one source and one size, but for the last, one after the
// other in one buffer (UDP_GRO, since Linux 5.0; net/ipv4/udp_offload.c). They are delivered one by one all the same.

package mcast

import (
	"net/netip"

	"github.com/go-multicast/mcast/internal/wire"
	"golang.org/x/sys/unix"
)

// canCoalesce: the kernel's runs are taken apart here.
const canCoalesce = true

// groRuns is how many runs one recvmmsg takes at most. Each needs room for 64 KiB.
const groRuns = 8

// coalesced are runs that were received from one conn and are not delivered yet.
type coalesced struct {
	msgBatch
	control [groRuns][wire.ControlSize]byte
	bufs    [groRuns][maxDatagram + 1]byte

	conn *conn // whose they are
	left []run // the first of them may be delivered in part
	runs [groRuns]run
	more bool // there were as many as there was room for
}

// run is one of them, as far as it is not delivered.
type run struct {
	data    []byte
	segment int // bytes of every datagram but the last
	src     netip.AddrPort
	meta    wire.Metadata
}

// datagrams counts what is left.
func (q *coalesced) datagrams() (n int) {
	for i := range q.left {
		n += q.left[i].datagrams()
	}
	return n
}

func (r *run) datagrams() int { return max(1, (len(r.data)+r.segment-1)/r.segment) }

// receive takes runs from c, and leaves out those that c refuses.
func (q *coalesced) receive(c *conn, zones *zoneCache) (refused int, err error) {
	for i := range groRuns {
		h := q.point(i, q.bufs[i][:], unix.SizeofSockaddrInet6)
		h.Control = &q.control[i][0]
		h.SetControllen(wire.ControlSize)
	}
	got, err := mmsg(unix.SYS_RECVMMSG, c.fd, q.hdrs[:groRuns])
	q.more = got == groRuns
	q.conn, q.left = c, q.runs[:0]
	for i := range got {
		meta := wire.ParseControl(q.control[i][:q.hdrs[i].hdr.Controllen])
		src := q.names[i].addrPort(zones, c.ifIndex)
		data := q.bufs[i][:q.hdrs[i].len]
		if meta.Segment <= 0 { // a single datagram
			meta.Segment = max(1, len(data))
		}
		r := run{data, meta.Segment, src, meta}
		if c.strays(&meta) || c.refuses(src.Addr(), r.datagrams()) {
			refused++
			continue
		}
		q.left = append(q.left, r)
	}
	return refused, err
}

// next delivers the datagram whose turn it is.
func (q *coalesced) next(msg *Message) {
	c, r := q.conn, &q.left[0]
	size := min(r.segment, len(r.data))
	n := copy(msg.Buf, r.data[:size])
	*msg = Message{
		Buf: msg.Buf, N: n, Addr: r.src,
		Group: c.group, IfIndex: c.ifIndex, HopLimit: r.meta.HopLimit, Time: r.meta.Time,
		Truncated: n < size,
	}
	c.count.add(n, msg.Truncated)
	if r.data = r.data[size:]; len(r.data) == 0 {
		q.left = q.left[1:]
	}
}

// receiveRuns is receive for a conn that coalesces. It makes a system call only when nothing is left of the last one.
func (r *receiver) receiveRuns(c *conn, ms []Message) (got received, err error) {
	q := r.runs
	if len(q.left) == 0 {
		if got.all, err = q.receive(c, &r.zones); err != nil {
			return received{}, err
		}
	}
	for got.kept < len(ms) && len(q.left) > 0 {
		q.next(&ms[got.kept])
		got.kept++
	}
	got.all += got.kept
	got.empty = len(q.left) == 0 && !q.more
	return got, nil
}
