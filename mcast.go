package mcast

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// Scopes for TxConfig.TTL: how far a datagram may travel. For IPv4 they are the customary thresholds of multicast
// routers. For IPv6 the group address itself names the scope (RFC 4291, section 2.7), and the hop limit only bounds the
// number of routers. TTLHost stays on the machine; TxConfig.TTL documents how reliably.
const (
	TTLHost      = -1
	TTLSubnet    = 1
	TTLSite      = 32
	TTLRegion    = 64
	TTLContinent = 128
	TTLGlobal    = 255
)

// The kinds of errors, for errors.Is. They are wrapped in an *OpError. errors.Is also finds net.ErrClosed after Close,
// os.ErrDeadlineExceeded after a deadline, errors.ErrUnsupported where the system cannot do what was asked, and the
// errno of a refused system call. An operation on an interface that was deleted wraps ErrNoInterface and the errno.
var (
	ErrNotMulticast = errors.New("not a multicast address")
	ErrNotDeclared  = errors.New("not one of the groups the socket was opened for")
	ErrNoInterface  = errors.New("no such interface")
	ErrNotJoined    = errors.New("group is not joined")
)

// kindError is one of the errors above for errors.Is, with a text of its own.
type kindError struct {
	kind error
	text string
}

func (e *kindError) Error() string { return e.text }

func (e *kindError) Is(target error) bool { return target == e.kind }

func noInterface(text string) error { return &kindError{ErrNoInterface, text} }

func notDeclared(text string) error { return &kindError{ErrNotDeclared, text} }

// Message is one datagram of ReadBatch, WriteBatch and Messages. A read fills every field except Buf. A write takes Buf
// and Addr and fills N.
type Message struct {
	Buf       []byte         // read: room to read into; write: the payload
	N         int            // bytes of Buf that were read or written
	Addr      netip.AddrPort // read: the sender; write: the destination
	Group     netip.Addr     // read: the group the datagram was sent to, without a zone
	IfIndex   int            // read: the index of the interface it arrived on; Memberships has its name
	HopLimit  int            // read: TTL or hop limit on arrival, if RxConfig.HopLimits; else 0
	Time      time.Time      // read: when the kernel received it, if RxConfig.Timestamps; else, and on Windows, zero
	Truncated bool           // read: Buf was too small, and the rest of the datagram is lost
}

// OpError is the error of every operation of this package. It has the operation, the group, the source and the
// interface, each empty where it plays no part. It has the cause and, where it is known, the cure. It implements
// net.Error.
type OpError struct {
	Op        string // "open", "join", "leave", "read", "write", "scan", …
	Group     netip.Addr
	Source    netip.Addr
	Interface string
	Err       error  // the cause: an errno in an *os.SyscallError, or one of the errors above; never nil
	Hint      string // the cure, or empty
}

func (e *OpError) Error() string {
	if e == nil {
		return "<nil>"
	}
	var b strings.Builder
	b.WriteString("mcast: ")
	b.WriteString(e.Op)
	if e.Group.IsValid() {
		fmt.Fprintf(&b, " %s", e.Group)
	}
	if e.Source.IsValid() {
		fmt.Fprintf(&b, " from %s", e.Source)
	}
	if e.Interface != "" {
		fmt.Fprintf(&b, " on %s", e.Interface)
	}
	fmt.Fprintf(&b, ": %v", e.Err)
	if e.Hint != "" {
		fmt.Fprintf(&b, " (%s)", e.Hint)
	}
	return b.String()
}

// Unwrap returns the cause.
func (e *OpError) Unwrap() error {
	if e == nil {
		return nil
	}
	return e.Err
}

// Timeout reports whether the operation ended because a deadline passed.
func (e *OpError) Timeout() bool {
	var t interface{ Timeout() bool }
	return e != nil && errors.As(e.Err, &t) && t.Timeout()
}

// Temporary is part of net.Error and deprecated there: it reports what Timeout does.
func (e *OpError) Temporary() bool { return e.Timeout() }

var _ net.Error = (*OpError)(nil)

// errNotOpen is the error of a method of a nil or zero socket. It is the errno that package net returns there.
func errNotOpen(op string) error {
	return &OpError{Op: op, Err: syscall.EINVAL, Hint: "open the socket first"}
}

// opError wraps a cause for which only the operation is known; nil stays nil.
func opError(op string, err error) error {
	if err == nil {
		return nil
	}
	return &OpError{Op: op, Err: err}
}

// syscallErr makes one system call that opens, changes or closes a socket, and names the call in its error. Reads and
// writes do not use it: they are the hot paths.
func syscallErr(name string, f func() error) error {
	if hook := testHookCall.Load(); hook != nil {
		if err := (*hook)(name); err != nil {
			return os.NewSyscallError(name, err)
		}
	}
	err := f()
	if named := (*os.SyscallError)(nil); err == nil || errors.As(err, &named) {
		return err
	}
	return os.NewSyscallError(name, err)
}

// bindCall is syscallErr for a bind. Its error names the address and the port.
func bindCall(at netip.AddrPort, f func() error) error {
	if err := syscallErr("bind", f); err != nil {
		return &bindError{at, systemError("bind", err)}
	}
	return nil
}

// bindError is the error of a bind that was refused.
type bindError struct {
	at  netip.AddrPort
	err error
}

func (e *bindError) Error() string {
	cause := e.err
	if named, ok := cause.(*os.SyscallError); ok && named.Syscall == "bind" {
		cause = named.Err
	}
	return fmt.Sprintf("bind to %s: %v", e.at, cause)
}

func (e *bindError) Unwrap() error { return e.err }

// testHookCall, if set, is called before each of these calls and may make it fail, as in package net's tests.
var testHookCall atomic.Pointer[func(name string) error]
