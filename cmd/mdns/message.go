// The wire: what is in a datagram of multicast DNS, as far as browsing needs it, and how its text is shown.

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/net/dns/dnsmessage"
)

// maxMessage is the largest message that RFC 6762 allows, with room for the headers of IP and UDP (section 17).
const maxMessage = 9000

// flushBit, in the class of a record, says that it is all there is of its name and type (RFC 6762, section 10.2).
const flushBit = 1 << 15

// dot stands for a dot within a label. The names of instances are plain text and may have some (RFC 6763, section
// 4.1.1), but dnsmessage has names with dots between the labels, and refuses others. In UTF-8 this byte is never used.
const dot = 0xff

// question is a name and a type of records: what one asks for, and what an answer belongs to.
type question struct {
	name string // in lower case
	kind dnsmessage.Type
}

// record is one record of an answer.
type record struct {
	question
	data
	ttl   time.Duration // 0: it is no longer so
	flush bool
}

// data is what a record says. Which fields are used depends on its type.
type data struct {
	target   string // PTR, SRV: a name as it was written
	port     uint16
	priority uint16
	text     string // TXT: strings, each after a byte with its length, as they were sent
	addr     netip.Addr
}

// parse returns the records of a response that browsing has use for; of anything else, none.
func parse(b []byte) ([]record, error) {
	if len(b) > maxMessage {
		return nil, errors.New("longer than a message may be")
	}
	var p dnsmessage.Parser
	h, err := p.Start(b)
	if err != nil || !h.Response || h.OpCode != 0 || h.RCode != dnsmessage.RCodeSuccess { // RFC 6762, section 18
		return nil, err
	}
	b = slices.Clone(b)
	if err := swapDots(b); err != nil {
		return nil, err
	}
	var m dnsmessage.Message
	if err := m.Unpack(b); err != nil {
		return nil, err
	}
	var records []record
	for _, r := range slices.Concat(m.Answers, m.Additionals) {
		if r.Header.Class&^flushBit != dnsmessage.ClassINET {
			continue
		}
		d := data{}
		switch body := r.Body.(type) {
		case *dnsmessage.PTRResource:
			d.target = body.PTR.String()
		case *dnsmessage.SRVResource:
			d.target, d.port, d.priority = body.Target.String(), body.Port, body.Priority
		case *dnsmessage.TXTResource:
			d.text = joinText(body.TXT)
		case *dnsmessage.AResource:
			d.addr = netip.AddrFrom4(body.A)
		case *dnsmessage.AAAAResource:
			d.addr = netip.AddrFrom16(body.AAAA)
		default:
			continue
		}
		if d.addr.IsValid() && int(r.Header.Length) != d.addr.BitLen()/8 { // dnsmessage does not look
			return nil, errors.New("an address of a wrong length")
		}
		records = append(records, record{
			question: question{lower(r.Header.Name.String()), r.Header.Type}, data: d,
			ttl: time.Duration(r.Header.TTL) * time.Second, flush: r.Header.Class&flushBit != 0,
		})
	}
	return records, nil
}

// joinText leaves out empty strings, which mean nothing (RFC 6763, section 6.1).
func joinText(list []string) string {
	var b strings.Builder
	for _, s := range list {
		if s != "" {
			b.WriteByte(byte(len(s)))
			b.WriteString(s)
		}
	}
	return b.String()
}

func splitText(text string) (list []string) {
	for text != "" {
		n := 1 + int(text[0])
		list = append(list, text[1:n])
		text = text[n:]
	}
	return list
}

// pack is the opposite of parse, for what dnsmessage can say.
func pack(m *dnsmessage.Message) ([]byte, error) {
	b, err := m.Pack()
	if err != nil {
		return nil, err
	}
	return b, swapDots(b)
}

var errMessage = errors.New("not a message")

// swapDots exchanges dots within labels and the byte that stands for them, in the whole message: on its way in before
// dnsmessage reads it, and on its way out after dnsmessage wrote it. Names that are compressed end in names before
// them, which have been dealt with. If a label has that byte already, dnsmessage will refuse the dot.
func swapDots(msg []byte) error {
	const header = 12
	if len(msg) < header {
		return errMessage
	}
	word := func(at int) int { return int(binary.BigEndian.Uint16(msg[at:])) }
	questions, records := word(4), word(6)+word(8)+word(10)
	at, ok := header, true
	for range questions {
		if at, ok = swapName(msg, at); !ok {
			return errMessage
		}
		at += 4
	}
	for range records {
		if at, ok = swapName(msg, at); !ok || at+10 > len(msg) {
			return errMessage
		}
		kind, body := dnsmessage.Type(word(at)), at+10
		if at = body + word(at+8); at > len(msg) {
			return errMessage
		}
		switch kind {
		case dnsmessage.TypeSRV:
			_, ok = swapName(msg[:at], body+6)
		case dnsmessage.TypePTR, dnsmessage.TypeCNAME, dnsmessage.TypeNS:
			_, ok = swapName(msg[:at], body)
		}
		if !ok {
			return errMessage
		}
	}
	return nil
}

// swapName does it for the labels of a name up to a pointer, and returns where that ends.
func swapName(msg []byte, at int) (end int, ok bool) {
	for at < len(msg) {
		n := int(msg[at])
		at++
		switch {
		case n == 0:
			return at, true
		case n >= 0xc0: // the first of two bytes of a pointer
			return at + 1, at < len(msg)
		case n >= 0x40 || at+n > len(msg):
			return at, false
		}
		for i, c := range msg[at : at+n] {
			switch c {
			case '.':
				msg[at+i] = dot
			case dot:
				msg[at+i] = '.'
			}
		}
		at += n
	}
	return at, false
}

// lower is for names, in which only the case of ASCII makes no difference (RFC 6762, section 16).
func lower(s string) string {
	b := []byte(s)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}

// showName returns a name for people, without its last dot.
func showName(name string) string {
	labels := strings.Split(strings.TrimSuffix(name, "."), ".")
	for i, l := range labels {
		labels[i] = show(strings.ReplaceAll(l, string([]byte{dot}), "."), `.\`)
	}
	return strings.Join(labels, ".")
}

// show returns text from the network in a form that can do no harm to a terminal nor a table: what is not printable as
// \ and three decimal digits for each byte, and with a \ before what is special (RFC 1035, section 5.1).
func show(text, special string) string {
	var b strings.Builder
	for len(text) > 0 {
		r, n := utf8.DecodeRuneInString(text)
		switch {
		case r == utf8.RuneError && n == 1, !unicode.IsPrint(r):
			for _, c := range []byte(text[:n]) {
				fmt.Fprintf(&b, `\%03d`, c)
			}
		case strings.ContainsRune(special, r):
			b.WriteByte('\\')
			fallthrough
		default:
			b.WriteRune(r)
		}
		text = text[n:]
	}
	return b.String()
}
