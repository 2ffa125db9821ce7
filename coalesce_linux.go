//go:build !mcast_portable

// Runs of datagrams that the kernel returns at once (UDP_GRO, since Linux 5.0; net/ipv4/udp_offload.c). The datagrams
// of a run have one source and one size, except that the last may be smaller, and follow each other in one buffer. They
// are delivered one by one.

package mcast

import (
	"net/netip"

	"github.com/go-multicast/mcast/internal/wire"
	"golang.org/x/sys/unix"
)

// canCoalesce is true, since the code here splits the kernel's runs into datagrams.
const canCoalesce = true

// groRuns is how many runs one recvmmsg takes at most. Each needs room for 64 KiB.
const groRuns = 8

// coalesced holds runs that were received from one conn and not delivered yet.
type coalesced struct {
	msgBatch
	control [groRuns][wire.ControlSize]byte
	bufs    [groRuns][maxDatagram + 1]byte

	conn *conn // the conn of the runs
	left []run // not delivered; a part of the first may be
	runs [groRuns]run
	more bool // the kernel filled all runs, and may have more
}

// run is the rest of one run that is not delivered yet.
type run struct {
	data    []byte
	segment int // bytes of every datagram except the last
	src     netip.AddrPort
	meta    wire.Metadata
}

// datagrams returns how many datagrams are left.
func (q *coalesced) datagrams() (n int) {
	for i := range q.left {
		n += q.left[i].datagrams()
	}
	return n
}

func (r *run) datagrams() int { return max(1, (len(r.data)+r.segment-1)/r.segment) }

// receive takes runs from c, and discards the ones that c refuses.
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

// next delivers the next datagram.
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
