// The reading half that RxSocket and TxSocket share: a net.PacketConn over a merge, whose reads a context may end, and the
// conversions between the addresses of package net and those of netip.

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
	slot chan struct{} // holds one: the read that may wait in m
	one  [1]Message    // of that read

	mu       sync.Mutex // guards what follows
	deadline time.Time
	series   *ctxRead // of the read that is in m; nil if none, or without a context
	cut      bool     // its context has ended and set another deadline of m
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
		return nil // leave sets it
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
	if err := series.ctx.Err(); err != nil { // it may have ended before it could find the series in m
		r.leave(series)
		return err
	}
	return nil
}

// leave lets the next read in. It finds the deadline as it was set, whatever the context of this one did.
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

// readFromUDPAddrPort reads one datagram. An error comes with zero values.
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

// readBatch reads for a series, or for none if that is nil. An error comes with n 0.
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
