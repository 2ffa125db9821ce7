package wire

import (
	"net/netip"
	"sync"
	"syscall"
	"unsafe"
)

// ScopedSender sends to IPv6 link-local hosts on an interface given by its index. It does not allocate. (Package net first
// looks for an interface of that name, in every call.)
type ScopedSender struct {
	mu   sync.Mutex // guards the fields below
	buf  syscall.WSABuf
	to   syscall.SockaddrInet6
	sent uint32
	err  error
	do   func(fd uintptr) // allocated once
}

// Send sends one datagram. It ignores the write deadline of raw. It rarely blocks, since Windows does not keep datagrams in
// the send buffer.
func (s *ScopedSender) Send(raw syscall.RawConn, p []byte, dst netip.AddrPort, scope int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.do == nil {
		s.do = func(fd uintptr) {
			s.err = syscall.WSASendto(syscall.Handle(fd), &s.buf, 1, &s.sent, 0, &s.to, nil, nil)
		}
	}
	s.buf = syscall.WSABuf{Len: uint32(len(p)), Buf: unsafe.SliceData(p)}
	s.to = syscall.SockaddrInet6{Port: int(dst.Port()), Addr: dst.Addr().As16(), ZoneId: uint32(scope)}
	err := raw.Control(s.do)
	s.buf.Buf = nil
	if err == nil {
		err = s.err
	}
	return err
}
