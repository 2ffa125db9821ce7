// The reading half of RxSocket and TxSocket: a net.PacketConn over a merge, with reads that a context may end. It also
// converts between the addresses of package net and of netip.

package mcast

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"
)

// reader reads from a merge. All methods may be called concurrently.
type reader struct {
	m    *merge
	slot chan struct{} // holds one element: for the read that may wait in m
	one  [1]Message    // the message of that read

	mu       sync.Mutex // guards the fields below
	deadline time.Time
	series   *ctxRead // the series of the read in m; nil if there is no read, or it has no context
	cut      bool     // the context has ended and replaced the deadline of m
}

func newReader() (*reader, error) {
	m, err := newMerge()
	if err != nil {
		return nil, err
	}
	return &reader{m: m, slot: make(chan struct{}, 1)}, nil
}

var longAgo = time.Unix(1, 0)

func (r *reader) setReadDeadline(t time.Time) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.deadline = t
	if r.cut {
		return nil // leave sets the deadline
	}
	return r.m.setReadDeadline(t)
}

// ctxRead is a series of reads that ends with a context.
type ctxRead struct{ ctx context.Context }

// until makes the reads of the returned series end when ctx does. stop must be called after the last of them.
func (r *reader) until(ctx context.Context) (series *ctxRead, stop func()) {
	series = &ctxRead{ctx}
	ended := make(chan struct{})
	unregister := context.AfterFunc(ctx, func() {
		defer close(ended)
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.series == series {
			r.cut = true
			r.m.setReadDeadline(longAgo)
		}
	})
	return series, func() {
		if !unregister() {
			<-ended
		}
	}
}

// enter waits until no other read is in m. A series waits no longer than its context.
func (r *reader) enter(series *ctxRead) error {
	if series == nil {
		r.slot <- struct{}{}
		return nil
	}
	select {
	case r.slot <- struct{}{}:
	case <-series.ctx.Done():
		return series.ctx.Err()
	}
	r.mu.Lock()
	r.series = series
	r.mu.Unlock()
	if err := series.ctx.Err(); err != nil { // it may have ended before r.series was set
		r.leave(series)
		return err
	}
	return nil
}

// leave admits the next read. It restores the deadline if the context of this read replaced it.
func (r *reader) leave(series *ctxRead) {
	if series != nil {
		r.mu.Lock()
		r.series = nil
		if r.cut {
			r.cut = false
			r.m.setReadDeadline(r.deadline)
		}
		r.mu.Unlock()
	}
	<-r.slot
}

// readFromUDPAddrPort reads one datagram. With an error it returns zero values.
func (r *reader) readFromUDPAddrPort(p []byte) (n int, src netip.AddrPort, err error) {
	if n, src, err = r.m.readNow(p); n < 0 {
		n, src, err = r.waitOne(p)
	}
	if err != nil {
		return 0, netip.AddrPort{}, readError(err)
	}
	return n, src, nil
}

func (r *reader) waitOne(p []byte) (int, netip.AddrPort, error) {
	r.enter(nil)
	defer r.leave(nil)
	r.one[0].Buf = p
	_, err := r.m.read(r.one[:])
	got := r.one[0]
	r.one[0] = Message{}
	return got.N, got.Addr, err
}

func (r *reader) readFrom(p []byte) (int, net.Addr, error) {
	n, src, err := r.readFromUDPAddrPort(p)
	if err != nil {
		return 0, nil, err
	}
	return n, net.UDPAddrFromAddrPort(src), nil
}

// readBatch reads for a series, or for none if series is nil. With an error n is 0.
func (r *reader) readBatch(ms []Message, series *ctxRead) (int, error) {
	if len(ms) == 0 {
		return 0, nil
	}
	if err := r.enter(series); err != nil {
		return 0, readError(err)
	}
	defer r.leave(series)
	n, err := r.m.read(ms)
	if err != nil {
		return 0, readError(err)
	}
	return n, nil
}

func readError(err error) error {
	if _, ok := err.(*OpError); ok {
		return err
	}
	return &OpError{Op: "read", Err: err}
}

// udpAddrPort returns the destination of a WriteTo. An IPv4 address is in the form that can have a zone, for unmap.
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

// unmap returns an address to send to in its plain form. IPv4 has no zones, so an IPv4 address with a zone is an error.
func unmap(ip netip.Addr) (netip.Addr, error) {
	if plain := ip.Unmap(); ip.Zone() == plain.Zone() {
		return plain, nil
	}
	return ip, fmt.Errorf("to %s: zone %s picks no interface, for IPv4 has no zones", ip.Unmap(), ip.Zone())
}

// errPortZero replaces the error of the system, which only reports an invalid argument.
var errPortZero = errors.New("port 0 is not a destination")

func text(addr net.Addr) string {
	if addr == nil || addr == (*net.UDPAddr)(nil) {
		return "<nil>"
	}
	return addr.Network() + " " + addr.String()
}

// systemError returns the error of the runtime or the kernel for a read or write, without the errors that wrap it.
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
