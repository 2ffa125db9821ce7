//go:build !mcast_portable

// The system calls that move datagrams, with buffers of our own: package unix allocates an address for every
// datagram, and x/net a message. Nothing here blocks: the runtime's poller waits, in merge_linux.go for reads and
// in sender for writes.

package mcast

import (
	"encoding/binary"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// batchSize is how many datagrams one recvmmsg or sendmmsg moves at most.
const batchSize = 64

// mmsghdr is struct mmsghdr of recvmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	len uint32
}

// rawSockaddr is a struct sockaddr_in or sockaddr_in6, as the kernel reads and writes it.
type rawSockaddr [unix.SizeofSockaddrInet6]byte

// setAddrPort stores addr for a socket of the given family and returns the length. The scope is the interface's
// index, which the kernel heeds for link-local destinations.
func (s *rawSockaddr) setAddrPort(addr netip.AddrPort, scope int) uint32 {
	*s = rawSockaddr{}
	binary.BigEndian.PutUint16(s[2:], addr.Port())
	if ip := addr.Addr(); ip.Is4() {
		binary.NativeEndian.PutUint16(s[0:], unix.AF_INET)
		a := ip.As4()
		copy(s[4:], a[:])
		return unix.SizeofSockaddrInet4
	}
	binary.NativeEndian.PutUint16(s[0:], unix.AF_INET6)
	a := addr.Addr().As16()
	copy(s[8:], a[:])
	binary.NativeEndian.PutUint32(s[24:], uint32(scope))
	return unix.SizeofSockaddrInet6
}

// addrPort is the address the kernel stored, with its zone as a number. index is the interface that the socket receives on, or
// 0: in a VRF the kernel gives the VRF for the zone (vrf_ip6_rcv in drivers/net/vrf.c), which is of no use for a reply.
func (s *rawSockaddr) addrPort(zones *zoneCache, index int) netip.AddrPort {
	port := binary.BigEndian.Uint16(s[2:])
	switch binary.NativeEndian.Uint16(s[0:]) {
	case unix.AF_INET:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(s[4:8])), port)
	case unix.AF_INET6:
		ip := netip.AddrFrom16([16]byte(s[8:24]))
		if scope := binary.NativeEndian.Uint32(s[24:]); scope != 0 {
			if index != 0 {
				scope = uint32(index)
			}
			ip = ip.WithZone(zones.zone(scope))
		}
		return netip.AddrPortFrom(ip, port)
	}
	return netip.AddrPort{}
}

// sendTo sends one datagram.
func sendTo(fd int, p []byte, to *rawSockaddr, size uint32) error {
	for {
		_, _, errno := unix.Syscall6(unix.SYS_SENDTO, uintptr(fd),
			uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL,
			uintptr(unsafe.Pointer(to)), uintptr(size))
		switch errno {
		case 0:
			return nil
		case unix.EINTR:
		default:
			return errno
		}
	}
}

// mmsg calls recvmmsg or sendmmsg and returns how many datagrams it moved. The kernel returns an error only if it moved none.
// After the first datagram, recvmmsg leaves the error in the socket for the next call, and sendmmsg drops it (do_recvmmsg
// and __sys_sendmmsg in net/socket.c).
func mmsg(trap uintptr, fd int, hdrs []mmsghdr) (int, error) {
	for {
		n, _, errno := unix.Syscall6(trap, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(hdrs))),
			uintptr(len(hdrs)), unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

// msgBatch is what one recvmmsg or sendmmsg points to.
type msgBatch struct {
	hdrs  [batchSize]mmsghdr
	iovs  [batchSize]unix.Iovec
	names [batchSize]rawSockaddr
}

// point makes entry i refer to p and to its address.
func (b *msgBatch) point(i int, p []byte, nameLen uint32) *unix.Msghdr {
	b.iovs[i].Base = unsafe.SliceData(p)
	b.iovs[i].SetLen(len(p))
	h := &b.hdrs[i].hdr
	h.Name = &b.names[i][0]
	h.Namelen = nameLen
	h.Iov = &b.iovs[i]
	h.SetIovlen(1)
	return h
}

// forget drops the references to the caller's memory.
func (b *msgBatch) forget(n int) { clear(b.iovs[:n]) }

// sender writes to one OS socket without allocating. Its methods may be called concurrently.
type sender struct {
	conn *net.UDPConn
	raw  syscall.RawConn

	// mu lets one writer in at a time, as the runtime's own descriptor lock would; it guards what is below. A
	// writer that waits for room holds it, and nobody but other writers waits for it: deadlines and Close
	// interrupt the one, and so the next.
	mu    sync.Mutex
	req   sendRequest
	oneFn func(fd uintptr) bool // made once, so that writing does not allocate
	anyFn func(fd uintptr) bool
	batch *sendBatch // made by the first batch

	// segment is the largest size of datagrams that the kernel is given a run of at once, to be taken apart on the
	// way out or never (UDP_SEGMENT, since Linux 4.18). It shrinks when a run is refused, and is largest again when
	// that is retried. So after a smaller MTU has passed, runs are slow for about as long again, and a minute at most. Where
	// a run can never go out, that costs one refused call a minute.
	segment, largest int
	retry            backoff
	rerouted         atomic.Bool // retry at once
}

// sendRequest is what the writer that holds mu wants and got.
type sendRequest struct {
	buf   []byte
	to    rawSockaddr
	size  uint32
	batch []Message
	scope int
	n     int // messages of batch that were sent
	err   error
}

func newSender(conn *net.UDPConn, _ *Interface) (*sender, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	s := &sender{conn: conn, raw: raw}
	s.oneFn, s.anyFn = s.trySend, s.trySendBatch
	return s, nil
}

// send sends one datagram and waits while there is no room for it.
func (s *sender) send(p []byte, dst netip.AddrPort, scope int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.req.buf = p
	s.req.size = s.req.to.setAddrPort(dst, scope)
	err := s.raw.Write(s.oneFn)
	if err == nil {
		err = s.req.err
	}
	s.req = sendRequest{}
	return systemError("sendto", err)
}

func (s *sender) trySend(fd uintptr) bool {
	r := &s.req
	r.err = sendTo(int(fd), r.buf, &r.to, r.size)
	return r.err != unix.EAGAIN
}

// sendBatch sends ms, all of the socket's family, and returns how many of them went out.
func (s *sender) sendBatch(ms []Message, scope int) (n int, err error) {
	for n < len(ms) && err == nil {
		var sent int
		sent, err = s.sendSome(ms[n:], scope)
		n += sent
	}
	return n, systemError("sendmmsg", err)
}

// sendSome sends the first of ms with one system call. Before each one the runtime looks at the deadline and at Close, which
// it can do only when no call is under way, and other writers get their turn.
func (s *sender) sendSome(ms []Message, scope int) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.batch == nil {
		s.batch = new(sendBatch)
		s.largest = firstSegment(s.raw)
		s.segment = s.largest
	}
	if s.segment < s.largest {
		s.retryRuns(time.Now())
	}
	s.req.batch, s.req.scope = ms, scope
	err := s.raw.Write(s.anyFn)
	if err == nil {
		err = s.req.err
	}
	n := s.req.n
	s.req = sendRequest{}
	return n, err
}

// trySendBatch makes one system call. It begins with the first datagram that did not go out, so that the kernel reports the
// error of that one.
func (s *sender) trySendBatch(fd uintptr) bool {
	r, b := &s.req, s.batch
	runs, iovs := b.fill(r.batch, r.scope, s.segment)
	sent, err := mmsg(unix.SYS_SENDMMSG, int(fd), b.hdrs[:runs])
	clear(b.iovs[:iovs])
	switch {
	case err == unix.EAGAIN:
		return false
	case err != nil && !s.refused(err): // else the next call sends smaller parts
		r.err = err
	case err == nil:
		for _, run := range b.sizes[:sent] {
			r.n += run
		}
	}
	return true
}

const (
	// runDatagrams is how many datagrams a run has at most: UDP_MAX_SEGMENTS before Linux 6.9.
	runDatagrams = 64
	// runBytes is how large a run may be: 65535 with the headers of IPv6.
	runBytes = 65535 - 40 - 8
	// sendIovs is how many datagrams one sendmmsg takes at most.
	sendIovs = 1024
)

// sendBatch is what one sendmmsg points to: a header for each run, which may be a single datagram.
type sendBatch struct {
	hdrs    [batchSize]mmsghdr
	names   [batchSize]rawSockaddr
	control [batchSize]segmentControl
	sizes   [batchSize]int // datagrams in each run
	iovs    [sendIovs]unix.Iovec
}

// segmentControl is a control message that says how large the datagrams of a run are.
type segmentControl struct {
	unix.Cmsghdr
	size uint16
	_    [6]byte
}

// fill points to as many of ms as there is room for: runs of datagrams of one size, up to segment, to one
// destination, of which the last may be smaller. The payloads stay where they are.
func (b *sendBatch) fill(ms []Message, scope, segment int) (runs, iovs int) {
	for len(ms) > 0 && runs < len(b.hdrs) && iovs < len(b.iovs) {
		n := runLength(ms[:min(len(ms), runDatagrams, len(b.iovs)-iovs)], segment)
		for i, m := range ms[:n] {
			b.iovs[iovs+i].Base = unsafe.SliceData(m.Buf)
			b.iovs[iovs+i].SetLen(len(m.Buf))
		}
		dst := ms[0].Addr
		h := &b.hdrs[runs].hdr
		h.Name = &b.names[runs][0]
		h.Namelen = b.names[runs].setAddrPort(netip.AddrPortFrom(dst.Addr().Unmap(), dst.Port()), scope)
		h.Iov = &b.iovs[iovs]
		h.SetIovlen(n)
		h.Control = nil
		h.SetControllen(0)
		if n > 1 {
			c := &b.control[runs]
			c.Level, c.Type, c.size = unix.IPPROTO_UDP, unix.UDP_SEGMENT, uint16(len(ms[0].Buf))
			c.SetLen(unix.CmsgLen(2))
			h.Control = (*byte)(unsafe.Pointer(c))
			h.SetControllen(unix.CmsgSpace(2))
		}
		b.sizes[runs] = n
		runs++
		iovs += n
		ms = ms[n:]
	}
	return runs, iovs
}

// runLength is how many of ms, counted from the first, can go out as one run.
func runLength(ms []Message, segment int) (n int) {
	size, total := len(ms[0].Buf), 0
	if size == 0 || size > segment {
		return 1
	}
	for n < len(ms) {
		next := len(ms[n].Buf)
		if total += next; next == 0 || next > size || total > runBytes || ms[n].Addr != ms[0].Addr {
			break
		}
		n++
		if next < size {
			break
		}
	}
	return max(n, 1)
}

// refused reports whether err tells that the first run of the batch must go out in smaller parts, which it takes down.
// The kernel says EMSGSIZE, or before 6.10 EINVAL, of datagrams that are larger than the route's MTU, and EIO where the
// device or IPsec cannot take runs apart (udp_send_skb in net/ipv4/udp.c). A run goes out as a whole or not at all.
func (s *sender) refused(err error) bool {
	if s.batch.sizes[0] == 1 {
		return false
	}
	segment := 0
	switch err {
	case unix.EMSGSIZE, unix.EINVAL:
		segment = int(s.batch.control[0].size) - 1
	case unix.EIO:
	default:
		return false
	}
	if s.segment == s.largest { // else it is the same failure as before, of smaller datagrams
		s.runsFailed(time.Now())
	}
	s.segment = segment
	return true
}

// runsFailed sets when runs of any size are tried again. A failure long after the last retry is a new one.
func (s *sender) runsFailed(now time.Time) {
	if now.Sub(s.retry.next) > backoffLast {
		s.retry = backoff{}
	}
	s.retry.failed(now)
}

// retryRuns lets runs of any size be tried again, if it is time for that.
func (s *sender) retryRuns(now time.Time) {
	if s.rerouted.Swap(false) {
		s.retry = backoff{}
	}
	if s.retry.due(now) {
		s.segment = s.largest
	}
}

// reroute is called when the sender's interface has another MTU, or is another one. It does not wait for writers.
func (s *sender) reroute() { s.rerouted.Store(true) }

// firstSegment is what the segment of a sender begins with: an old kernel would send a run as one datagram.
func firstSegment(raw syscall.RawConn) int {
	known := control(raw, func(fd int) error {
		_, err := unix.GetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_SEGMENT)
		return err
	})
	if known != nil {
		return 0
	}
	return runBytes
}
