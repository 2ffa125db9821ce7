// This file speaks rtnetlink (RFC 3549, rtnetlink(7)): encoding, decoding and the exchange with the kernel. The
// package would otherwise need the ip program, and the tests of a Go module should need nothing but Go.

package mcasttest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// netlink is a connection to the kernel's network configuration. It belongs to the namespace of the thread that
// opened it, for good, so any goroutine can configure that namespace through it.
type netlink struct {
	mu  sync.Mutex
	fd  int
	seq uint32
	buf []byte
}

// dialNetlink connects to the namespace of the calling thread.
func dialNetlink() (*netlink, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, os.NewSyscallError("socket(AF_NETLINK)", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("bind(AF_NETLINK)", err)
	}
	// The kernel then explains its refusals in words. Without it there are only numbers: no harm.
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_EXT_ACK, 1)
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1)
	return &netlink{fd: fd, buf: make([]byte, 64<<10)}, nil
}

func (c *netlink) close() error { return unix.Close(c.fd) }

// do sends a request and waits for the kernel's acknowledgement. op tells in the error what was tried.
func (c *netlink) do(op string, typ, flags uint16, body ...[]byte) error {
	_, err := c.exchange(op, typ, flags|unix.NLM_F_ACK, body...)
	return err
}

// exchange sends a request and returns the messages the kernel answers with, until its acknowledgement or, for a
// dump, the last part.
func (c *netlink) exchange(op string, typ, flags uint16, body ...[]byte) ([]message, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seq++
	request := message{typ: typ, flags: flags | unix.NLM_F_REQUEST, seq: c.seq, body: bytes.Join(body, nil)}
	answers, err := c.roundTrip(request)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", op, err)
	}
	return answers, nil
}

func (c *netlink) roundTrip(request message) ([]message, error) {
	kernel := &unix.SockaddrNetlink{Family: unix.AF_NETLINK}
	if err := retry(func() error { return unix.Sendto(c.fd, request.encode(), 0, kernel) }); err != nil {
		return nil, os.NewSyscallError("sendto", err)
	}
	var answers []message
	for {
		var n int
		err := retry(func() (err error) { n, _, err = unix.Recvfrom(c.fd, c.buf, unix.MSG_TRUNC); return err })
		switch {
		case err != nil:
			return nil, os.NewSyscallError("recvfrom", err)
		case n > len(c.buf):
			return nil, fmt.Errorf("answer of %d bytes is too long", n)
		}
		messages, err := parseMessages(bytes.Clone(c.buf[:n]))
		if err != nil {
			return nil, err
		}
		for _, m := range messages {
			switch {
			case m.seq != request.seq: // the rest of an earlier exchange that failed
			case m.typ == unix.NLMSG_ERROR || m.typ == unix.NLMSG_DONE:
				return answers, m.err()
			default:
				answers = append(answers, m)
			}
		}
	}
}

// retry repeats a system call that a signal, such as the Go scheduler's, interrupted.
func retry(call func() error) error {
	for {
		if err := call(); err != unix.EINTR {
			return err
		}
	}
}

// message is a netlink message: struct nlmsghdr and what follows it.
type message struct {
	typ, flags uint16
	seq        uint32
	body       []byte
}

func (m message) encode() []byte {
	b := make([]byte, 0, unix.SizeofNlMsghdr+len(m.body))
	b = binary.NativeEndian.AppendUint32(b, uint32(unix.SizeofNlMsghdr+len(m.body)))
	b = binary.NativeEndian.AppendUint16(b, m.typ)
	b = binary.NativeEndian.AppendUint16(b, m.flags)
	b = binary.NativeEndian.AppendUint32(b, m.seq)
	b = binary.NativeEndian.AppendUint32(b, 0) // port: the kernel fills it in
	return append(b, m.body...)
}

// err returns the error that an NLMSG_ERROR or NLMSG_DONE message carries, with the kernel's explanation if it
// gave one, or nil: both are how the kernel says that all went well, too.
func (m message) err() error {
	if len(m.body) < 4 {
		return nil
	}
	code := int32(binary.NativeEndian.Uint32(m.body))
	if code == 0 {
		return nil
	}
	errno := unix.Errno(-code)
	if text := m.explanation(); text != "" {
		return fmt.Errorf("%w (%s)", errno, text)
	}
	return errno
}

// explanation returns the text of an extended acknowledgement. It follows the request's header, and the request's
// body as well unless the kernel says it left that out.
func (m message) explanation() string {
	if m.flags&unix.NLM_F_ACK_TLVS == 0 || m.typ != unix.NLMSG_ERROR || len(m.body) < 4+unix.SizeofNlMsghdr {
		return ""
	}
	skip := 4 + unix.SizeofNlMsghdr
	if m.flags&unix.NLM_F_CAPPED == 0 {
		skip = 4 + align(int(binary.NativeEndian.Uint32(m.body[4:])))
	}
	if skip < 0 || skip > len(m.body) {
		return ""
	}
	attrs, err := parseAttributes(m.body[skip:])
	if err != nil {
		return ""
	}
	return attrs.text(unix.NLMSGERR_ATTR_MSG)
}

// parseMessages splits what one read of a netlink socket returned.
func parseMessages(b []byte) ([]message, error) {
	var messages []message
	for len(b) > 0 {
		if len(b) < unix.SizeofNlMsghdr {
			return nil, errShort
		}
		size := binary.NativeEndian.Uint32(b)
		if size < unix.SizeofNlMsghdr || uint64(size) > uint64(len(b)) {
			return nil, errShort
		}
		messages = append(messages, message{
			typ:   binary.NativeEndian.Uint16(b[4:]),
			flags: binary.NativeEndian.Uint16(b[6:]),
			seq:   binary.NativeEndian.Uint32(b[8:]),
			body:  b[unix.SizeofNlMsghdr:size],
		})
		b = b[min(align(int(size)), len(b)):]
	}
	return messages, nil
}

var errShort = errors.New("malformed netlink message")

// attribute is a netlink attribute: a struct nlattr and what follows it.
type attribute struct {
	typ  uint16
	data []byte
}

type attributes []attribute

// parseAttributes splits what follows the fixed part of a message, or what a nested attribute holds.
func parseAttributes(b []byte) (attributes, error) {
	var attrs attributes
	for len(b) > 0 {
		if len(b) < unix.SizeofNlAttr {
			return nil, errShort
		}
		size := int(binary.NativeEndian.Uint16(b))
		if size < unix.SizeofNlAttr || size > len(b) {
			return nil, errShort
		}
		const flags = unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER
		attrs = append(attrs, attribute{binary.NativeEndian.Uint16(b[2:]) &^ flags, b[unix.SizeofNlAttr:size]})
		b = b[min(align(size), len(b)):]
	}
	return attrs, nil
}

// text returns the first attribute of the type as a string, without the terminating zero.
func (as attributes) text(typ uint16) string {
	for _, a := range as {
		if a.typ == typ {
			return string(bytes.TrimRight(a.data, "\x00"))
		}
	}
	return ""
}

// attr encodes an attribute. Nesting is nothing but attributes as its parts.
func attr(typ uint16, parts ...[]byte) []byte {
	data := bytes.Join(parts, nil)
	b := make([]byte, 0, unix.SizeofNlAttr+align(len(data)))
	b = binary.NativeEndian.AppendUint16(b, uint16(unix.SizeofNlAttr+len(data)))
	b = binary.NativeEndian.AppendUint16(b, typ)
	b = append(b, data...)
	return append(b, make([]byte, align(len(data))-len(data))...)
}

func u8(v uint8) []byte    { return []byte{v} }
func u32(v int) []byte     { return binary.NativeEndian.AppendUint32(nil, uint32(v)) }
func u64(v uint64) []byte  { return binary.NativeEndian.AppendUint64(nil, v) }
func text(s string) []byte { return append([]byte(s), 0) }

// align rounds up to the four bytes that netlink aligns messages and attributes to.
func align(n int) int { return (n + 3) &^ 3 }
