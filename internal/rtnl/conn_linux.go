// Requests to the kernel, and its answers.

package rtnl

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Conn is a socket for requests. It belongs to the network namespace of the thread that opened it, whichever thread
// uses it later. Only one goroutine may use it at a time.
type Conn struct {
	fd     int
	strict bool
	seq    uint32
	buf    []byte // one datagram of an answer
	reply  []byte // what Dump returns
}

// Dial opens a socket of a netlink family, such as unix.NETLINK_ROUTE. It does not bind the socket: the kernel does so
// itself, and Android refuses a bind.
func Dial(family int) (*Conn, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, family)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	// If this is refused (before Linux 4.20), dumps have more messages than the request asked for.
	strict := unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1) == nil
	// Ask for an explanation with each error. Without it there are only numbers.
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_EXT_ACK, 1)
	// The kernel fills datagrams of up to 32 KiB if it sees that much room (netlink_recvmsg in net/netlink/af_netlink.c).
	return &Conn{fd: fd, strict: strict, buf: make([]byte, 32<<10)}, nil
}

// Close closes the socket.
func (c *Conn) Close() error { return unix.Close(c.fd) }

// Strict reports whether the kernel obeys the filters in requests for dumps.
func (c *Conn) Strict() bool { return c.strict }

// Error is an error that the kernel answered with.
type Error struct {
	Errno syscall.Errno
	Text  string // the kernel's explanation, or empty
}

func (e *Error) Error() string {
	if e.Text != "" {
		return fmt.Sprintf("netlink: %v (%s)", e.Errno, e.Text)
	}
	return "netlink: " + e.Errno.Error()
}

// Unwrap returns e.Errno.
func (e *Error) Unwrap() error { return e.Errno }

// ErrChanged is the error of a dump that the kernel reports to be inconsistent.
var ErrChanged = errors.New("the kernel's list kept changing while it was read")

// Request sends a request and calls take for each message of the answer. The message is valid only during the call.
// With the flag NLM_F_ACK there may be no message; with NLM_F_DUMP there may be many. A nil take drops them.
//
// If take returns false, Request returns at once. The rest of a dump stays in the socket. The socket can then only be
// closed.
//
// An error of the kernel is an *Error. An inconsistent dump ends with ErrChanged.
func (c *Conn) Request(typ, flags uint16, body []byte, take func(Message) (more bool)) error {
	if err := c.send(typ, flags, body); err != nil {
		return err
	}
	a := answer{seq: c.seq, take: take}
	for {
		n, err := c.receive()
		if err != nil {
			return os.NewSyscallError("recvfrom", err)
		}
		if ended, err := a.add(c.buf[:n]); ended || err != nil {
			return err
		}
	}
}

// Dump requests all objects of one kind, and returns the messages of the answer for [Messages]. They are valid until
// the next request. It repeats an inconsistent dump, since such a dump can lack an object that existed all the time.
// After 20 attempts it returns ErrChanged.
//
// A sift that is not nil reports which messages to keep. The first message that it reports as the last one ends the
// dump, and is not kept. The rest of the dump stays in the socket. The socket can then only be closed.
func (c *Conn) Dump(typ uint16, body []byte, sift func(body []byte) (keep, last bool)) ([]byte, error) {
	for try := range 20 {
		messages, changed := c.reply[:0], false
		err := c.Request(typ, unix.NLM_F_DUMP, body, func(m Message) bool {
			changed = changed || m.Flags&unix.NLM_F_DUMP_INTR != 0
			keep, last := true, false
			if sift != nil {
				keep, last = sift(m.Body)
			}
			if last && !changed {
				return false
			}
			if keep {
				messages = m.AppendTo(messages)
			}
			return true
		})
		c.reply = messages
		if err != ErrChanged {
			return messages, err
		}
		time.Sleep(time.Duration(try) * time.Millisecond)
	}
	return nil, ErrChanged
}

// send sends a request.
func (c *Conn) send(typ, flags uint16, body []byte) error {
	c.seq++
	request := Message{Type: typ, Flags: flags | unix.NLM_F_REQUEST, Seq: c.seq, Body: body}.AppendTo(nil)
	return os.NewSyscallError("sendto", retry(func() error {
		return unix.Sendto(c.fd, request, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	}))
}

// receive reads one datagram from the kernel into c.buf. The message of one interface can be larger than 32 KiB, so it
// asks for the length first. A truncated datagram could lack the end of the answer.
func (c *Conn) receive() (n int, err error) {
	for {
		if err := retry(func() (err error) {
			n, _, err = unix.Recvfrom(c.fd, nil, unix.MSG_PEEK|unix.MSG_TRUNC)
			return err
		}); err != nil {
			return 0, err
		}
		if n > len(c.buf) {
			c.buf = make([]byte, n)
		}
		var from unix.Sockaddr
		if err := retry(func() (err error) {
			n, from, err = unix.Recvfrom(c.fd, c.buf, 0)
			return err
		}); err != nil {
			return 0, err
		}
		if fromKernel(from) {
			return n, nil
		}
	}
}

// fromKernel reports whether the kernel sent a message. Any process with CAP_NET_ADMIN can send one too.
func fromKernel(from unix.Sockaddr) bool {
	sender, ok := from.(*unix.SockaddrNetlink)
	return ok && sender.Pid == 0
}

// retry repeats a system call that a signal interrupted.
func retry(call func() error) error {
	for {
		if err := call(); err != unix.EINTR {
			return err
		}
	}
}

// answer reads the datagrams of an answer.
type answer struct {
	seq     uint32 // of the request
	take    func(Message) (more bool)
	changed bool // the list changed while it was dumped
}

// add reads the next datagram. It reports whether the answer is complete.
func (a *answer) add(datagram []byte) (ended bool, err error) {
	for m := range Messages(datagram) {
		if m.Seq != a.seq { // part of an earlier answer
			continue
		}
		a.changed = a.changed || m.Flags&unix.NLM_F_DUMP_INTR != 0
		switch m.Type {
		case unix.NLMSG_NOOP:
			continue
		case unix.NLMSG_ERROR, unix.NLMSG_DONE:
			err := m.err()
			if err == nil && a.changed {
				err = ErrChanged
			}
			return true, err
		}
		if a.take != nil && !a.take(m) || m.Flags&unix.NLM_F_MULTI == 0 {
			return true, nil
		}
	}
	return false, nil
}

// err returns the error in an NLMSG_ERROR or NLMSG_DONE message. It returns nil for success, which both also report.
func (m Message) err() error {
	errno := -int32(Uint32(m.Body[:min(4, len(m.Body))]))
	if errno <= 0 {
		return nil
	}
	return &Error{Errno: syscall.Errno(errno), Text: m.explanation()}
}

// explanation returns the text of an extended acknowledgement. It follows the request. The kernel omits the body of the
// request if it sets NLM_F_CAPPED.
func (m Message) explanation() string {
	const header = 4 + unix.SizeofNlMsghdr // errno and the header of the request
	if m.Flags&unix.NLM_F_ACK_TLVS == 0 || m.Type != unix.NLMSG_ERROR || len(m.Body) < header {
		return ""
	}
	skip := uint64(header)
	if m.Flags&unix.NLM_F_CAPPED == 0 {
		skip = 4 + (uint64(binary.NativeEndian.Uint32(m.Body[4:]))+3)&^3
	}
	if skip > uint64(len(m.Body)) {
		return ""
	}
	return unix.ByteSliceToString(Find(m.Body[skip:], unix.NLMSGERR_ATTR_MSG))
}
