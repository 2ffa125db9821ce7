// The unicast side of an RxSocket: datagrams that it sends from its port, through an OS socket of its own for each family.

package mcast

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// WriteTo is like WriteToUDPAddrPort, but takes a *net.UDPAddr.
func (s *RxSocket) WriteTo(p []byte, addr net.Addr) (n int, err error) {
	dst, err := udpAddrPort(addr)
	if err != nil {
		return 0, err
	}
	return s.WriteToUDPAddrPort(p, dst)
}

// WriteToUDPAddrPort sends a unicast datagram, such as a reply, from the socket's port. The system's routes choose the
// source address. On Linux these are the routes of a VRF if all interfaces of the socket belong to it, otherwise those
// of the main table. To reply in several VRFs, open a socket for each. WriteToUDPAddrPort blocks while the send buffer
// is full.
//
// The zone of a link-local destination may be an interface's index or name. Datagrams from a read have an index. With a
// name, each call looks the interface up, because a name can pass to another interface: that allocates, and on Linux
// happens in the network namespace of the calling thread. Otherwise the method does not allocate.
//
// Answers to the datagram are not received: an RxSocket receives multicast only. Sending to a group fails with
// ErrNotDeclared; use a TxSocket. So do 255.255.255.255 and the unspecified address, which a datagram may have as its
// source and which systems treat as the loopback address. The system refuses to send to the broadcast address of a
// network (EACCES).
//
// Replies use a second OS socket. Linux opens it with the first, and it receives nothing. macOS and Windows open it at
// the first write of a family. From then on the system may deliver unicast on the port to it, which is not read: a
// program that also waits for unicast there should reply from its own socket.
func (s *RxSocket) WriteToUDPAddrPort(p []byte, addr netip.AddrPort) (n int, err error) {
	if !s.opened() {
		return 0, errNotOpen("write")
	}
	ip, err := unmap(addr.Addr())
	if err != nil {
		return 0, &OpError{Op: "write", Err: err}
	}
	addr = netip.AddrPortFrom(ip, addr.Port())
	fail := func(err error, hint string) error {
		e := &OpError{Op: "write", Err: fmt.Errorf("to %s: %w", addr, err), Hint: hint}
		if ip.IsMulticast() {
			e.Group = ip
		}
		return e
	}
	switch {
	case ip.IsMulticast():
		return 0, fail(notDeclared("a multicast group"), "a TxSocket sends to groups")
	case !ip.IsValid(), ip.IsUnspecified(), ip == broadcast:
		return 0, fail(notDeclared("not the address of a single host"), "an RxSocket sends to single hosts only")
	case addr.Port() == 0:
		return 0, fail(errPortZero, "")
	}
	to, err := s.replies.sender(ip)
	if err != nil {
		return 0, fail(err, openHint(err))
	}
	scope, err := zoneIndex(ip.Zone())
	for err == nil {
		err = to.send(p, addr, scope)
		anew := s.replies.of(ip).to.Load()
		if !errors.Is(err, net.ErrClosed) || anew == to {
			break
		}
		to, err = anew, nil // moveTo replaced and closed it
	}
	switch {
	case err == nil:
		return len(p), nil
	case scope != 0 && mayBeGone(err) && to.lacks(scope):
		return 0, fail(goneError(err), hintScanAgain)
	}
	return 0, fail(err, sendHint(err, &Interface{}, ip))
}

var broadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// zoneIndex returns the index of the interface that a zone names.
func zoneIndex(zone string) (int, error) {
	if zone == "" {
		return 0, nil
	}
	if n, err := strconv.ParseUint(zone, 10, 31); err == nil && n > 0 {
		return int(n), nil
	}
	all, err := Interfaces() // net.InterfaceByName does not know alternative names
	if err != nil {
		return 0, fmt.Errorf("zone %s: %w", zone, err)
	}
	i := slices.IndexFunc(all, func(ifc Interface) bool { return ifc.hasName(zone) })
	if i < 0 {
		return 0, fmt.Errorf("zone %s: %w", zone, ErrNoInterface)
	}
	return all[i].Index, nil
}

// replies are the OS sockets that an RxSocket writes with, one for each family that it has or had groups of.
type replies struct {
	port   uint16
	v4, v6 reply

	mu       sync.Mutex // guards the fields below, the groups of v4 and v6, and the options of their sockets
	vrf      int        // of all interfaces of the RxSocket; 0: none, or several
	retired  []*sender  // of the former VRF, for writes in progress
	deadline time.Time
	closed   bool
}

type reply struct {
	to    atomic.Pointer[sender] // nil if it is not open
	group netip.Addr             // one of its family; invalid if there was none
}

// vrf returns the VRF that all interfaces of the socket belong to, or 0. While no interface is there, it is the former
// one.
func (s *RxSocket) vrf() (vrf int) {
	known := false
	for _, link := range s.links {
		if link.gone {
			continue
		}
		if known && link.ifc.vrf() != vrf {
			return 0
		}
		known, vrf = true, link.ifc.vrf()
	}
	if !known {
		return s.replies.vrf
	}
	return vrf
}

func (r *replies) of(a netip.Addr) *reply {
	if a.Is4() {
		return &r.v4
	}
	return &r.v6
}

// allow enables replies to the family of group.
func (r *replies) allow(group netip.Addr) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	family := r.of(group)
	if family.group.IsValid() {
		return nil
	}
	if replyEarly {
		if err := r.open(family, group); err != nil {
			return err
		}
	}
	family.group = group
	return nil
}

// open opens the OS socket of a family. r.mu is held.
func (r *replies) open(family *reply, group netip.Addr) error {
	conn, err := listenReply(group, r.port)
	if err != nil {
		return err
	}
	to, err := newSender(conn, nil)
	if err == nil {
		err = conn.SetWriteDeadline(r.deadline)
	}
	if err == nil && r.vrf != 0 {
		_, err = bindSender(to.raw, r.vrf)
	}
	if err != nil {
		conn.Close()
		return err
	}
	family.to.Store(to)
	return nil
}

// moveTo makes replies use the routes of a VRF, 0: of the main table. It replaces the OS sockets that are open.
func (r *replies) moveTo(vrf int) (err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed || r.vrf == vrf {
		return nil
	}
	before := r.vrf
	r.vrf = vrf
	for _, old := range r.retired {
		old.conn.Close()
	}
	r.retired = nil
	for _, family := range []*reply{&r.v4, &r.v6} {
		old := family.to.Load()
		if old == nil {
			continue
		}
		if err := r.open(family, family.group); err != nil {
			r.vrf = before
			return err
		}
		r.retired = append(r.retired, old)
	}
	return nil
}

// sender returns the sender for writes to dst.
func (r *replies) sender(dst netip.Addr) (*sender, error) {
	family := r.of(dst)
	if to := family.to.Load(); to != nil {
		return to, nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.closed:
		return nil, net.ErrClosed
	case !family.group.IsValid():
		return nil, fmt.Errorf("no group of the socket is %s", familyName(dst))
	}
	if family.to.Load() == nil {
		if err := r.open(family, family.group); err != nil {
			return nil, err
		}
	}
	return family.to.Load(), nil
}

func (r *replies) setDeadline(t time.Time) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return net.ErrClosed
	}
	r.deadline = t
	return r.each(func(conn *net.UDPConn) error { return conn.SetWriteDeadline(t) })
}

func (r *replies) close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	return r.each((*net.UDPConn).Close)
}

// each calls f for every open OS socket, including retired ones, and returns the first error.
func (r *replies) each(f func(*net.UDPConn) error) (err error) {
	for _, old := range r.retired {
		err = cmp.Or(err, f(old.conn))
	}
	for _, family := range []*reply{&r.v4, &r.v6} {
		if to := family.to.Load(); to != nil {
			err = cmp.Or(err, f(to.conn))
		}
	}
	return err
}
