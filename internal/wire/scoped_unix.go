//go:build darwin || linux

package wire

import (
	"net/netip"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// ScopedSender sends to IPv6 link-local hosts on an interface given by its index. It does not allocate. (Package net first
// looks for an interface of that name, in every call.)
type ScopedSender struct {
	mu  sync.Mutex // guards the fields below; held while a write waits for buffer space
	p   []byte
	to  unix.SockaddrInet6
	err error
	try func(fd uintptr) bool // allocated once
}

// Send sends one datagram. It blocks until the send buffer has room or the write deadline of raw passes.
func (s *ScopedSender) Send(raw syscall.RawConn, p []byte, dst netip.AddrPort, scope int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.try == nil {
		s.try = func(fd uintptr) bool {
			for s.err = unix.EINTR; s.err == unix.EINTR; {
				s.err = unix.Sendto(int(fd), s.p, 0, &s.to)
			}
			return s.err != unix.EAGAIN
		}
	}
	s.p = p
	s.to = unix.SockaddrInet6{Port: int(dst.Port()), Addr: dst.Addr().As16(), ZoneId: uint32(scope)}
	err := raw.Write(s.try)
	s.p = nil
	if err == nil {
		err = s.err
	}
	return err
}
