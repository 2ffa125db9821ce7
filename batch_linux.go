//go:build !mcast_portable

// The system calls that move datagrams. They use this library's own buffers: package unix allocates an address for
// every datagram, and x/net a message. Nothing here blocks. The runtime's poller waits: in merge_linux.go for reads,
// and in sender for writes.

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

// rawSockaddr is a struct sockaddr_in or sockaddr_in6 in the format of the kernel.
type rawSockaddr [unix.SizeofSockaddrInet6]byte

// setAddrPort stores addr for a socket of the given family and returns the length. The scope is the index of the
// interface. The kernel uses it for link-local destinations.
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

// addrPort returns the address that the kernel stored, with its zone as a number. index is the interface that the
// socket receives on, or 0. In a VRF the kernel stores the VRF as the zone (vrf_ip6_rcv in drivers/net/vrf.c), which
// cannot be used for a reply.
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

// mmsg calls recvmmsg or sendmmsg and returns how many datagrams it moved. The kernel returns an error only if it moved
// none. After the first datagram, recvmmsg leaves the error in the socket for the next call, and sendmmsg drops it
// (do_recvmmsg and __sys_sendmmsg in net/socket.c).
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

// msgBatch is the memory that one recvmmsg or sendmmsg points to.
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

	// mu admits one writer at a time, as the runtime's own descriptor lock would. It guards the fields below. A writer
	// that waits for room holds mu, and only other writers wait for it. Deadlines and Close interrupt that writer, and
	// then the next one.
	mu    sync.Mutex
	req   sendRequest
	oneFn func(fd uintptr) bool // made once, so that writing does not allocate
	anyFn func(fd uintptr) bool
	batch *sendBatch // made by the first batch

	// segment is the largest size of datagrams that are sent as runs. The kernel takes a run at once, and splits it on
	// the way out or never (UDP_SEGMENT, since Linux 4.18). segment shrinks when a run is refused, and is largest again
	// at the retry. So after a smaller MTU has passed, runs stay slow for about as long again, and a minute at most.
	// Where a run can never be sent, that costs one refused call a minute.
	segment, largest int
	retry            backoff
	rerouted         atomic.Bool // retry at once
}

// sendRequest is the request of the writer that holds mu, and its result.
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

// sendBatch sends ms, all of the socket's family, and returns how many of them were sent.
func (s *sender) sendBatch(ms []Message, scope int) (n int, err error) {
	for n < len(ms) && err == nil {
		var sent int
		sent, err = s.sendSome(ms[n:], scope)
		n += sent
	}
	return n, systemError("sendmmsg", err)
}

// sendSome sends the first of ms with one system call. Before each call the runtime checks the deadline and Close,
// which it can do only while no call is under way. Other writers get their turn then, too.
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

// trySendBatch makes one system call. It begins with the first datagram that was not sent, so that the kernel reports
// the error of that datagram.
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
	// runDatagrams is the largest number of datagrams in a run: UDP_MAX_SEGMENTS before Linux 6.9.
	runDatagrams = 64
	// runBytes is the largest size of a run: 65535 with the headers of IPv6.
	runBytes = 65535 - 40 - 8
	// sendIovs is the largest number of datagrams that one sendmmsg takes.
	sendIovs = 1024
)

// sendBatch is the memory that one sendmmsg points to. It has a header for each run, which may be a single datagram.
type sendBatch struct {
	hdrs    [batchSize]mmsghdr
	names   [batchSize]rawSockaddr
	control [batchSize]segmentControl
	sizes   [batchSize]int // datagrams in each run
	iovs    [sendIovs]unix.Iovec
}

// segmentControl is a control message with the size of the datagrams of a run.
type segmentControl struct {
	unix.Cmsghdr
	size uint16
	_    [6]byte
}

// fill points to as many of ms as fit. It makes runs: datagrams of one size, up to segment, to one destination. The
// last datagram of a run may be smaller. The payloads are not copied.
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

// runLength returns how many of ms, counted from the first, can be sent as one run.
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

// refused reports whether err means that the first run of the batch must be sent in smaller parts, and reduces segment.
// The kernel returns EMSGSIZE, or before 6.10 EINVAL, if the datagrams are larger than the route's MTU. It returns EIO
// if the device or IPsec cannot split runs (udp_send_skb in net/ipv4/udp.c). The kernel sends a whole run or nothing of
// it.
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
	if s.segment == s.largest { // else the same failure continues with smaller datagrams
		s.runsFailed(time.Now())
	}
	s.segment = segment
	return true
}

// runsFailed sets when runs of any size are retried. A failure long after the last retry is a new one.
func (s *sender) runsFailed(now time.Time) {
	if now.Sub(s.retry.next) > backoffLast {
		s.retry = backoff{}
	}
	s.retry.failed(now)
}

// retryRuns allows runs of any size again, once the retry is due.
func (s *sender) retryRuns(now time.Time) {
	if s.rerouted.Swap(false) {
		s.retry = backoff{}
	}
	if s.retry.due(now) {
		s.segment = s.largest
	}
}

// reroute is called when the MTU of the sender's interface changes, or when the sender gets another interface. It does
// not wait for writers.
func (s *sender) reroute() { s.rerouted.Store(true) }

// firstSegment returns the initial segment of a sender. It is 0 on an old kernel, which would send a run as one
// datagram.
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
