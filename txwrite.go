// Writes of a TxSocket: one datagram or a batch, on each interface of the socket.

package mcast

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
)

// WriteTo is like WriteToUDPAddrPort, but takes a *net.UDPAddr.
func (t *TxSocket) WriteTo(p []byte, addr net.Addr) (n int, err error) {
	dst, err := udpAddrPort(addr)
	if err != nil {
		return 0, err
	}
	return t.WriteToUDPAddrPort(p, dst)
}

// WriteToUDPAddrPort sends p on every interface of the socket to a group that the socket was opened for, and any port.
// Any other destination is ErrNotDeclared. A zone in an IPv6 address, an interface's index or name, selects one of the
// interfaces; ErrNoInterface if it is none of them. A zone in an IPv4 address is refused: to send IPv4 on one of
// several interfaces, open a TxSocket for it. WriteToUDPAddrPort blocks while a send buffer is full, and does not
// allocate.
//
// If some interfaces fail, the error names them, and n is len(p) if another one sent the datagram. A nil error means
// that the kernel accepted the datagram, not that anyone received it. A datagram carries at most 65507 bytes over IPv4
// and 65527 over IPv6. One that exceeds the MTU of a link is sent in fragments, and lost if one of them is.
//
// While no socket of the host has joined the group, Windows refuses datagrams on the loopback interface, or to a group
// of interface-local scope (ff01::/16, ff11::/16): that is no error here. On macOS 15 and later, EHOSTUNREACH may mean
// that the user has not allowed the program to use the local network.
func (t *TxSocket) WriteToUDPAddrPort(p []byte, addr netip.AddrPort) (n int, err error) {
	if !t.opened() {
		return 0, errNotOpen("write")
	}
	if t.closed.Load() {
		return 0, &OpError{Op: "write", Err: net.ErrClosed}
	}
	dst, err := t.destination(addr)
	if err != nil {
		return 0, err
	}
	matched := false
	var failed failures
	for i, l := range *t.links.Load() {
		if !l.serves(dst) {
			continue
		}
		matched = true
		if l.gone {
			failed.add(l, dst, -1, ErrNoInterface)
		} else if t.hostOnly.Load() && !l.ifc.IsLoopback() {
			n = len(p)
		} else if err := t.send(i, l, p, netip.AddrPortFrom(dst, addr.Port())); err != nil {
			failed.add(l, dst, -1, err)
		} else {
			n = len(p)
		}
	}
	if !matched {
		failed.add(nil, dst, -1, ErrNoInterface)
	}
	return n, failed.error()
}

// send sends p on the i-th link, l.
func (t *TxSocket) send(i int, l *txLink, p []byte, addr netip.AddrPort) error {
	for {
		anew, err := t.renewed(i, l, l.to.send(p, addr, l.ifc.Index))
		if anew == nil {
			return err
		}
		l = anew
	}
}

// renewed returns the link that replaced the i-th link, l, if a write failed because direct had replaced and closed its
// OS socket. nil: the write has ended with the error returned.
func (t *TxSocket) renewed(i int, l *txLink, err error) (*txLink, error) {
	if !errors.Is(err, net.ErrClosed) || t.closed.Load() {
		return nil, err
	}
	anew := (*t.links.Load())[i]
	switch {
	case anew.to == l.to:
		return nil, err
	case anew.gone:
		return nil, ErrNoInterface
	}
	return anew, nil
}

// WriteBatch sends the Buf of each message to its Addr, with as few system calls as possible, and sets its N. It has
// the effect of WriteToUDPAddrPort for each message, up to the first that no interface sends: n is the number of
// messages before that one. The error names the interfaces that failed, each with its latest failure. If n is less than
// len(ms), the error is not nil; to continue, write ms[n:] or, without that message, ms[n+1:]. Only the first call
// allocates.
//
// A large batch checks the write deadline and Close after each system call, and lets other writes run. If the deadline
// passes, or the socket is closed, n counts the messages sent before that. The error then wraps os.ErrDeadlineExceeded
// or net.ErrClosed.
//
// On Linux, consecutive messages of one size and destination, of which the last may be shorter, are much cheaper: the
// kernel takes up to 64 of them as one, and splits them on output (UDP_SEGMENT, Linux 4.18). Receivers see ordinary
// datagrams. On macOS and Windows each datagram takes one system call.
func (t *TxSocket) WriteBatch(ms []Message) (n int, err error) {
	if !t.opened() {
		return 0, errNotOpen("write")
	}
	if t.closed.Load() {
		return 0, &OpError{Op: "write", Err: net.ErrClosed}
	}
	links := *t.links.Load()
	var failed failures
	for n < len(ms) {
		run, dst, err := t.run(ms[n:])
		if err != nil {
			if op := (*OpError)(nil); errors.As(err, &op) {
				op.Err = fmt.Errorf("message %d: %w", n, op.Err)
			}
			return n, joinErrors(failed.error(), err)
		}
		for end := n + run; n < end; {
			sent, more := t.writeRun(links, dst, ms[n:end], n, &failed)
			for i := range ms[n : n+sent] {
				ms[n+i].N = len(ms[n+i].Buf)
			}
			n += sent
			if !more {
				return n, failed.error()
			}
		}
	}
	return n, failed.error()
}

// maxRun is the number of messages that are sent on one interface before the next interface sends them.
const maxRun = 1024

// run counts the messages from the first on that have its interfaces, up to maxRun or an invalid message. The error is
// about the first message.
func (t *TxSocket) run(ms []Message) (n int, first netip.Addr, err error) {
	if first, err = t.destination(ms[0].Addr); err != nil {
		return 0, first, err
	}
	for n = 1; n < min(len(ms), maxRun); n++ {
		dst, err := t.destination(ms[n].Addr)
		if err != nil || dst.Is4() != first.Is4() || dst.Zone() != first.Zone() {
			break
		}
	}
	return n, first, nil
}

// writeRun sends the first messages of a run on each of its interfaces: all of them, or those up to the first message that
// no interface sends. n is the number of messages before that one. more reports that it sent them all. first is the index of
// the run in its batch.
func (t *TxSocket) writeRun(links []*txLink, dst netip.Addr, ms []Message, first int, failed *failures) (n int, more bool) {
	matched := false
	for i, l := range links {
		if !l.serves(dst) {
			continue
		}
		matched = true
		switch {
		case l.gone:
			failed.add(l, dst, first, ErrNoInterface)
		case t.hostOnly.Load() && !l.ifc.IsLoopback():
			n = len(ms)
		default:
			n, ms = t.writeLink(i, l, ms, n, first, failed)
		}
	}
	if !matched {
		failed.add(nil, dst, first, ErrNoInterface)
	}
	return n, n == len(ms)
}

// writeLink sends ms on the i-th link, l. Other links have sent the first sent messages. It returns how many messages have
// been sent now, and the messages for the links that follow: they end with the first one that this link and those before
// could not send.
func (t *TxSocket) writeLink(i int, l *txLink, ms []Message, sent, first int, failed *failures) (int, []Message) {
	for at := 0; at < len(ms); at++ {
		n, err := l.to.sendBatch(ms[at:], l.ifc.Index)
		at += n
		anew, err := t.renewed(i, l, err)
		switch {
		case anew != nil:
			l = anew
			at-- // it was not sent
			continue
		case err == nil:
			return len(ms), ms
		}
		failed.add(l, ms[at].Addr.Addr().Unmap(), first+at, err)
		if at >= sent {
			return at, ms[:at+1]
		}
		if hasEnded(err) { // each of the messages that follow would fail, too
			break
		}
	}
	return sent, ms
}

// hasEnded reports whether a write failed because of its deadline or Close.
func hasEnded(err error) bool {
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, net.ErrClosed)
}

// failures are the latest failure of each interface. So they include the failures of the message that no interface
// sent.
type failures []failure

type failure struct {
	link *txLink // nil if the datagram has no interface to leave on
	dst  netip.Addr
	err  error
	at   int // of the message in a batch; -1: there is no batch
}

func (f *failures) add(l *txLink, dst netip.Addr, at int, err error) {
	one := failure{l, dst, err, at}
	if i := slices.IndexFunc(*f, func(old failure) bool { return old.link == l }); i >= 0 {
		(*f)[i] = one
	} else {
		*f = append(*f, one)
	}
}

// error returns nil if there are no failures, and only one error if the socket is closed.
func (f failures) error() (all error) {
	for _, one := range f {
		err := one.error()
		if errors.Is(err, net.ErrClosed) {
			return err
		}
		all = joinErrors(all, err)
	}
	return all
}

func (f *failure) error() error {
	group := f.dst.WithZone("")
	e := &OpError{Op: "write", Group: group, Err: f.err}
	switch {
	case f.link == nil && f.dst.Zone() == "": // only without named interfaces
		e.Err = noInterface("no default route leads to an interface that can send " + familyName(group) + " multicast")
		e.Hint = "the socket waits for one, unless TxConfig.Static is set; or name interfaces in TxConfig.Interfaces"
	case f.link == nil:
		e.Interface, e.Hint = f.dst.Zone(), "the zone is none of the socket's interfaces"
	case f.link.gone: // another interface may have its index, so nothing was tried
		e.Interface, e.Hint = f.link.ifc.Name, hintGone
	case mayBeGone(f.err) && f.link.to.lacks(f.link.ifc.Index): // following has not seen it yet, or the socket is Static
		e.Interface, e.Err, e.Hint = f.link.ifc.Name, goneError(f.err), hintGone
	default:
		e.Interface, e.Hint = f.link.ifc.Name, sendHint(f.err, &f.link.ifc, group)
	}
	if f.at >= 0 && !errors.Is(e.Err, net.ErrClosed) {
		e.Err = fmt.Errorf("message %d: %w", f.at, e.Err)
	}
	return e
}

// destination returns the unmapped address to send to, if it is one of the groups.
func (t *TxSocket) destination(addr netip.AddrPort) (netip.Addr, error) {
	dst, err := unmap(addr.Addr())
	if err != nil {
		return dst, &OpError{Op: "write", Err: err, Hint: "open a TxSocket for the interface"}
	}
	group := dst.WithZone("")
	switch _, declared := t.groups[group]; {
	case declared && addr.Port() != 0:
		return dst, nil
	case declared:
		return dst, &OpError{Op: "write", Group: group, Err: errPortZero}
	case group.IsMulticast():
		return dst, &OpError{Op: "write", Group: group, Err: ErrNotDeclared, Hint: "name it in TxConfig.Groups"}
	}
	return dst, &OpError{Op: "write", Err: notDeclared(fmt.Sprintf("to %s: not a multicast address", dst)), Hint: "a TxSocket sends to groups only"}
}

// serves reports whether a datagram to dst is sent on l.
func (l *txLink) serves(dst netip.Addr) bool {
	if l.v4 != dst.Is4() {
		return false
	}
	zone := dst.Zone()
	return zone == "" || zone == l.zone || l.ifc.hasName(zone)
}

// joinErrors keeps a single error as it is.
func joinErrors(a, b error) error {
	if a == nil {
		return b
	}
	return errors.Join(a, b)
}
