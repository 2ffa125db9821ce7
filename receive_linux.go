//go:build !mcast_portable

// How the merge of Linux receives: the system calls, and the handling of each datagram. Nothing here waits, or knows
// which socket comes next; see merge_linux.go.

package mcast

import (
	"unsafe"

	"github.com/go-multicast/mcast/internal/wire"
	"golang.org/x/sys/unix"
)

// receiver receives from any of the sockets; it does not choose which. The merge's lock guards it.
type receiver struct {
	zones zoneCache
	batch *recvBatch // made by the first batch
	runs  *coalesced // made for the first conn that coalesces
}

// received is the result of one call of a receiver.
type received struct {
	all   int  // datagrams that the kernel returned
	kept  int  // how many of these may be delivered: the first messages
	empty bool // the socket has no more datagrams
}

// prepare prepares the receiver to receive from c.
func (r *receiver) prepare(c *conn) {
	if c.coalesce && r.runs == nil {
		r.runs = new(coalesced)
	}
}

// pending reports whether datagrams of the last conn were received and not delivered yet. They are delivered first.
func (r *receiver) pending() bool { return r.runs != nil && len(r.runs.left) > 0 }

// forget discards the pending datagrams of c, and every reference to it.
func (r *receiver) forget(c *conn) {
	if q := r.runs; q != nil && q.conn == c {
		q.conn, q.left = nil, nil
	}
}

// receive receives up to len(ms) datagrams from c. Elements of ms beyond the kept ones may have exchanged their
// buffers. If it returns an error, it returns no datagrams, and the socket no longer has the error.
func (r *receiver) receive(c *conn, ms []Message) (got received, err error) {
	switch {
	case c.coalesce:
		got, err = r.receiveRuns(c, ms)
	case len(ms) == 1 && !c.hasControl: // recvfrom costs less than recvmmsg
		got, err = r.receiveOne(c, &ms[0])
	default:
		got, err = r.receiveMany(c, ms)
	}
	if err == unix.EAGAIN {
		return received{empty: true}, nil
	}
	return got, err
}

// receiveOne is receive for one datagram without control messages.
func (r *receiver) receiveOne(c *conn, msg *Message) (received, error) {
	var name rawSockaddr
	p := msg.Buf
	size, err := recvFrom(c.fd, p, &name)
	if err != nil {
		return received{}, err
	}
	src := name.addrPort(&r.zones, c.ifIndex)
	if c.refuses(src.Addr(), 1) {
		return received{all: 1}, nil
	}
	n := min(size, len(p))
	*msg = Message{Buf: p, N: n, Addr: src, Group: c.group, IfIndex: c.ifIndex, Truncated: size > n}
	c.count.add(n, size > n)
	return received{all: 1, kept: 1}, nil
}

// receiveMany is receive with recvmmsg.
func (r *receiver) receiveMany(c *conn, ms []Message) (got received, err error) {
	if r.batch == nil {
		r.batch = new(recvBatch)
	}
	b := r.batch
	ms = ms[:min(len(ms), batchSize)]
	for i := range ms {
		h := b.point(i, ms[i].Buf, unix.SizeofSockaddrInet6)
		h.Control = &b.control[i][0]
		h.SetControllen(wire.ControlSize)
		h.Flags = 0
	}
	got.all, err = mmsg(unix.SYS_RECVMMSG, c.fd, b.hdrs[:len(ms)])
	b.forget(len(ms))
	if err != nil {
		return received{}, err
	}
	got.empty = got.all < len(ms)
	for i := range ms[:got.all] {
		h := &b.hdrs[i].hdr
		src := b.names[i].addrPort(&r.zones, c.ifIndex)
		var meta wire.Metadata
		if h.Controllen > 0 {
			meta = wire.ParseControl(b.control[i][:h.Controllen])
		}
		if c.strays(&meta) || c.refuses(src.Addr(), 1) {
			continue
		}
		msg := &ms[got.kept]
		msg.Buf, ms[i].Buf = ms[i].Buf, msg.Buf
		*msg = Message{
			Buf: msg.Buf, N: int(b.hdrs[i].len), Addr: src,
			Group: c.group, IfIndex: c.ifIndex, HopLimit: meta.HopLimit, Time: meta.Time,
			Truncated: h.Flags&unix.MSG_TRUNC != 0,
		}
		c.count.add(msg.N, msg.Truncated)
		got.kept++
	}
	return got, nil
}

// strays reports whether a datagram arrived on another interface.
func (c *conn) strays(meta *wire.Metadata) bool { return c.checkIf && meta.IfIndex != c.ifIndex }

type recvBatch struct {
	msgBatch
	control [batchSize][wire.ControlSize]byte
}

// recvFrom takes one datagram and returns its whole size, which may be larger than p.
//
// It does not wait for a datagram, but the kernel may wait for p's memory: for a page of a mapped file, or for a memory
// cgroup that is at its limit. So the scheduler must know of this call, as of every call that touches the caller's
// memory. The garbage collector, and with it the whole process, would wait for a RawSyscall.
func recvFrom(fd int, p []byte, from *rawSockaddr) (int, error) {
	for {
		size := uint32(len(from))
		n, _, errno := unix.Syscall6(unix.SYS_RECVFROM, uintptr(fd),
			uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)), unix.MSG_DONTWAIT|unix.MSG_TRUNC,
			uintptr(unsafe.Pointer(from)), uintptr(unsafe.Pointer(&size)))
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

// discardErrors empties the socket's error queue. The socket stays ready while its error queue is not empty
// (datagram_poll in net/core/datagram.c). Options such as IP_RECVERR and SO_TIMESTAMPING fill the queue. The errors
// themselves have been returned by then: IP_RECVERR leaves them in the socket as well.
func (c *conn) discardErrors() {
	for {
		_, _, _, _, err := unix.Recvmsg(c.fd, nil, nil, unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
		if err != nil && err != unix.EINTR {
			return
		}
	}
}

// waiting reports whether the socket has a datagram. It leaves a pending error to the reads: a receive that only peeks
// would take the error. m.mu is held.
func (c *conn) waiting() bool {
	for {
		fds := [1]unix.PollFd{{Fd: int32(c.fd), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds[:], 0); err != unix.EINTR {
			return err == nil && fds[0].Revents&unix.POLLIN != 0
		}
	}
}

// listen prepares c, whose descriptor is open, for add.
func (c *conn) listen() error { return nil }

// replyConn returns a conn for the reading side of a sender's socket. The socket still belongs to the sender.
func replyConn(to *sender, _ bool) (*conn, error) {
	c := &conn{release: func() error { return nil }}
	return c, control(to.raw, func(fd int) error { c.fd = fd; return nil })
}
