//go:build darwin || mcast_portable

// Sending to a link-local host by the number of its interface, which package net does by name.

package mcast

import (
	"net/netip"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// scopedSender sends to link-local hosts without allocating.
type scopedSender struct {
	mu  sync.Mutex // guards what follows; held while a write waits for room, and then only other writes wait for it
	p   []byte
	to  unix.SockaddrInet6
	err error
	try func(fd uintptr) bool // made once
}

func (s *scopedSender) send(raw syscall.RawConn, p []byte, dst netip.AddrPort, scope int) error {
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
