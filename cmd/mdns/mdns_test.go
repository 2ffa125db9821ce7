package main

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/go-multicast/mcast"
	"github.com/go-multicast/mcast/internal/slow"
	"github.com/go-multicast/mcast/mcasttest"
	"golang.org/x/net/dns/dnsmessage"
)

func TestMain(m *testing.M) { mcasttest.Main(m) }

// limit is how long anything may take. It is so long that it never decides, but for what hangs.
var limit = slow.Limit(time.Minute)

// ---- the wire ----

// resource makes a record. In names, ~ stands for a dot within a label.
func resource(name string, ttl uint32, body dnsmessage.ResourceBody) dnsmessage.Resource {
	h := dnsmessage.ResourceHeader{Name: wire(name), Class: dnsmessage.ClassINET, TTL: ttl}
	switch body.(type) {
	case *dnsmessage.PTRResource: // which others may have, too
		h.Type = dnsmessage.TypePTR
	case *dnsmessage.SRVResource:
		h.Type, h.Class = dnsmessage.TypeSRV, h.Class|flushBit
	case *dnsmessage.TXTResource:
		h.Type, h.Class = dnsmessage.TypeTXT, h.Class|flushBit
	case *dnsmessage.AResource:
		h.Type, h.Class = dnsmessage.TypeA, h.Class|flushBit
	case *dnsmessage.AAAAResource:
		h.Type, h.Class = dnsmessage.TypeAAAA, h.Class|flushBit
	}
	return dnsmessage.Resource{Header: h, Body: body}
}

func wire(name string) dnsmessage.Name {
	return dnsmessage.MustNewName(strings.ReplaceAll(name, "~", string([]byte{dot})))
}

// announced is everything there is to say about a service.
func announced(instance, kind, host string, port uint16, ttl uint32, v4, v6 netip.Addr, txt ...string) []dnsmessage.Resource {
	full := instance + "." + kind
	return []dnsmessage.Resource{
		resource(allTypes, ttl, &dnsmessage.PTRResource{PTR: wire(kind)}),
		resource(kind, ttl, &dnsmessage.PTRResource{PTR: wire(full)}),
		resource(full, ttl, &dnsmessage.SRVResource{Port: port, Target: wire(host)}),
		resource(full, ttl, &dnsmessage.TXTResource{TXT: txt}),
		resource(host, ttl, &dnsmessage.AResource{A: v4.As4()}),
		resource(host, ttl, &dnsmessage.AAAAResource{AAAA: v6.As16()}),
	}
}

var (
	somewhere4 = netip.MustParseAddr("192.0.2.1")
	somewhere6 = netip.MustParseAddr("2001:db8::1")
)

func printer(ttl uint32) []dnsmessage.Resource {
	return announced("Küche~ 1", "_ipp._tcp.local.", "Box.local.", 631, ttl, somewhere4, somewhere6, "", "a=1", "b=\x1b[2J\"\\ü")
}

var printerFound = service{Instance: `Küche\. 1`, Type: "_ipp._tcp", Host: "Box.local", Port: 631,
	Addresses: []netip.Addr{somewhere4, somewhere6}, TXT: []string{"a=1", `b=\027[2J\"\\ü`}}

func response(t testing.TB, answers ...dnsmessage.Resource) []byte {
	t.Helper()
	m := dnsmessage.Message{Header: dnsmessage.Header{Response: true, Authoritative: true}}
	// The question and the last record are of no use to a browser, and may be there.
	m.Questions = []dnsmessage.Question{{Name: wire("a~b.local."), Type: dnsmessage.TypeALL, Class: dnsmessage.ClassINET}}
	m.Answers = append(m.Answers, answers...)
	m.Additionals = append(m.Additionals, dnsmessage.Resource{
		Header: dnsmessage.ResourceHeader{Name: wire("box.local."), Type: 47, Class: dnsmessage.ClassINET | flushBit, TTL: 120},
		Body:   &dnsmessage.UnknownResource{Type: 47, Data: []byte{0xc0, 12, 0, 4, '.', 0xff, 0, 8}},
	})
	b, err := pack(&m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func mustParse(t testing.TB, b []byte) []record {
	t.Helper()
	records, err := parse(b)
	if err != nil {
		t.Fatalf("%v: %q", err, b)
	}
	return records
}

func TestParse(t *testing.T) {
	raw := response(t, printer(4500)...)
	if !bytes.Contains(raw, []byte("\x09Küche. 1\xc0")) {
		t.Fatalf("the dot is not within the label: %q", raw)
	}
	instance := "küche\xff 1._ipp._tcp.local."
	full := strings.Replace(instance, "k", "K", 1)
	const ttl = 75 * time.Minute
	want := []record{
		{question: question{allTypes, dnsmessage.TypePTR}, data: data{target: "_ipp._tcp.local."}, ttl: ttl},
		{question: question{"_ipp._tcp.local.", dnsmessage.TypePTR}, data: data{target: full}, ttl: ttl},
		{question: question{instance, dnsmessage.TypeSRV}, data: data{target: "Box.local.", port: 631}, ttl: ttl, flush: true},
		{question: question{instance, dnsmessage.TypeTXT}, data: data{text: "\x03a=1\x0ab=\x1b[2J\"\\ü"}, ttl: ttl, flush: true},
		{question: question{"box.local.", dnsmessage.TypeA}, data: data{addr: somewhere4}, ttl: ttl, flush: true},
		{question: question{"box.local.", dnsmessage.TypeAAAA}, data: data{addr: somewhere6}, ttl: ttl, flush: true},
	}
	if got := mustParse(t, raw); !slices.Equal(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}

	other := resource("box.local.", 1, &dnsmessage.AResource{})
	other.Header.Class = dnsmessage.ClassCHAOS
	if got := mustParse(t, response(t, other)); len(got) != 0 {
		t.Errorf("another class: %+v", got)
	}
	for name, change := range map[string]func(b []byte){
		"a query":        func(b []byte) { b[2] &^= 0x80 },
		"another opcode": func(b []byte) { b[2] |= 0x08 },
		"an error code":  func(b []byte) { b[3] |= 3 },
	} {
		b := slices.Clone(raw)
		if change(b); len(mustParse(t, b)) != 0 {
			t.Errorf("%s has records", name)
		}
	}
}

// TestParseCompressed is a response as responders write it, with the target of SRV compressed (RFC 6762, section 18.14).
func TestParseCompressed(t *testing.T) {
	b := []byte("\x00\x00\x84\x00\x00\x00\x00\x02\x00\x00\x00\x00" +
		"\x05_http\x04_tcp\x05local\x00\x00\x0c\x00\x01\x00\x00\x11\x94\x00\x06\x03a.b\xc0\x0c" +
		"\xc0\x28\x00\x21\x80\x01\x00\x00\x00\x78\x00\x0a\x00\x00\x00\x00\x1f\x90\x01h\xc0\x17")
	want := []record{
		{question: question{"_http._tcp.local.", dnsmessage.TypePTR}, data: data{target: "a\xffb._http._tcp.local."}, ttl: 4500 * time.Second},
		{question: question{"a\xffb._http._tcp.local.", dnsmessage.TypeSRV}, data: data{target: "h.local.", port: 8080}, ttl: 2 * time.Minute, flush: true},
	}
	if got := mustParse(t, b); !slices.Equal(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestParseRefuses(t *testing.T) {
	const header = "\x00\x00\x84\x00\x00\x00\x00\x01\x00\x00\x00\x00"
	const rest = "\x00\x01\x00\x01\x00\x00\x00\x78\x00\x04\x0a\x00\x00\x01"
	if got := mustParse(t, []byte(header+"\x01h\x05local\x00"+rest)); len(got) != 1 { // the control
		t.Errorf("%+v", got)
	}
	for name, message := range map[string]string{
		"nothing":               "",
		"a header cut short":    header[:11],
		"no record":             header,
		"a pointer to itself":   header + "\xc0\x0c" + rest,
		"pointers in a circle":  header + "\x01h\xc0\x10\xc0\x0c" + rest,
		"a pointer beyond":      header + "\xff\xff" + rest,
		"half a pointer":        header + "\x01h\xc0",
		"a reserved length":     header + "\x40h\x00" + rest,
		"a label cut short":     header + "\x3fh",
		"the byte for a dot":    header + "\x02h\xff\x05local\x00" + rest,
		"data cut short":        header + "\x01h\x05local\x00" + rest[:13],
		"a long name":           header + strings.Repeat("\x3f"+strings.Repeat("x", 63), 5) + "\x00" + rest,
		"a short address":       header + "\x01h\x05local\x00\x00\x01\x00\x01\x00\x00\x00\x78\x00\x03\x0a\x00\x00\x01",
		"a short SRV":           header + "\x01h\x05local\x00\x00\x21\x00\x01\x00\x00\x00\x78\x00\x04\x0a\x00\x00\x01",
		"a TXT that overflows":  header + "\x01h\x05local\x00\x00\x10\x00\x01\x00\x00\x00\x78\x00\x02\x05a\x00\x00\x00\x00",
		"huge counts":           "\x00\x00\x84\x00\xff\xff\xff\xff\xff\xff\xff\xff" + strings.Repeat("\x00", 2000),
		"more than can be sent": header + "\x01h\x05local\x00" + rest + strings.Repeat("\x00", maxMessage),
	} {
		if got, err := parse([]byte(message)); err == nil {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestShow(t *testing.T) {
	for text, want := range map[string]string{
		"Küche 1":             "Küche 1",
		"a.b\\c":              `a\.b\\c`,
		"\x1b[31m\t\r\n\x7f":  `\027[31m\009\013\010\127`,
		"\u009b31m\u202e\xff": `\194\15531m\226\128\174\255`,
		"\ufffd":              "\ufffd",
	} {
		if got := show(text, `.\`); got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
	if got := showName("a\xffb.c\nd.local."); got != `a\.b.c\010d.local` {
		t.Errorf("got %s", got)
	}
}

// FuzzParse has a browser believe what it is told: that may make no sense, but nothing else may happen.
func FuzzParse(f *testing.F) {
	f.Add(response(f, printer(4500)...))
	f.Add(response(f, printer(0)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		twice := slices.Clone(b)
		swapDots(twice)
		if swapDots(twice); !bytes.Equal(twice, b) {
			t.Fatalf("dots swapped twice: %q", twice)
		}
		records, err := parse(b)
		if err != nil {
			return
		}
		all, now := newBrowser("", start), start
		for range 3 {
			all.take(records, now)
			for _, s := range all.services(now) {
				checkText(t, append(s.TXT, s.Instance, s.Type, s.Host)...)
			}
			for _, packet := range all.ask(all.next()) {
				checkQuery(t, packet)
			}
			now = now.Add(10 * time.Second)
		}
		if all.size > maxSize {
			t.Errorf("%d bytes", all.size)
		}
	})
}

func checkText(t *testing.T, texts ...string) {
	t.Helper()
	for _, s := range texts {
		if !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("not to be printed: %q", s)
		}
	}
}

// checkQuery returns a packet that a browser wants to send, in the form that dnsmessage can read.
func checkQuery(t *testing.T, packet []byte) (m dnsmessage.Message) {
	t.Helper()
	b := slices.Clone(packet)
	if err := swapDots(b); err != nil {
		t.Fatalf("%v: %q", err, packet)
	}
	if err := m.Unpack(b); err != nil {
		t.Fatalf("%v: %q", err, packet)
	}
	if m.Response || m.ID != 0 || len(packet) > maxPacket+12 {
		t.Fatalf("not a query for one packet: %q", packet)
	}
	return m
}

// ---- the memory and the plan ----

// start is when all begins, for a browser.
var start = time.Unix(1e9, 0)

// told has a browser hear something after a time, and returns what it then knows.
func told(t *testing.T, b *browser, after time.Duration, answers ...dnsmessage.Resource) []service {
	t.Helper()
	b.take(mustParse(t, response(t, answers...)), start.Add(after))
	return b.services(start.Add(after))
}

// asks runs a browser from one time to another, and returns what it asks, and when.
func asks(t *testing.T, b *browser, from, to time.Duration) (asked []string, queries []dnsmessage.Message) {
	t.Helper()
	for now := start.Add(from); now.Before(start.Add(to)); now = b.next() {
		for _, packet := range b.ask(now) {
			m := checkQuery(t, packet)
			for _, q := range m.Questions {
				// To the second, from the first question on.
				at := now.Sub(start) / time.Second
				asked = append(asked, fmt.Sprintf("%d %s %s", at, q.Type.String()[4:], showName(q.Name.String())))
			}
			queries = append(queries, m)
		}
	}
	return asked, queries
}

// TestSchedule follows a browser through what it asks: ever more seldom, and nothing that is known.
func TestSchedule(t *testing.T) {
	for range 100 {
		if first := newBrowser("", start).next().Sub(start); first < 20*time.Millisecond || first > 120*time.Millisecond {
			t.Errorf("the first question after %v", first)
		}
	}
	b := newBrowser("_IPP._tcp", start)
	asked, queries := asks(t, b, 0, 8*time.Second)
	want := []string{"0 PTR _ipp._tcp.local", "1 PTR _ipp._tcp.local", "3 PTR _ipp._tcp.local", "7 PTR _ipp._tcp.local"}
	if !slices.Equal(asked, want) {
		t.Errorf("asked %q, want %q", asked, want)
	}
	for _, m := range queries {
		if len(m.Answers) != 0 || m.Questions[0].Class != dnsmessage.ClassINET {
			t.Errorf("nothing is known, and unicast answers are not wanted: %v", m)
		}
	}

	// One after the other: each answer leads to the next question, and what nobody asked is nothing.
	all := printer(4500)
	for i, step := range []struct {
		answer int
		asked  []string
	}{
		{4, nil},
		{1, []string{`SRV küche\. 1._ipp._tcp.local`, `TXT küche\. 1._ipp._tcp.local`}},
		{3, []string{`SRV küche\. 1._ipp._tcp.local`}},
		{2, []string{"A box.local", "AAAA box.local"}},
		{4, []string{"AAAA box.local"}},
		{5, nil},
	} {
		at := time.Duration(8+i) * time.Second
		told(t, b, at, all[step.answer])
		asked, _ := asks(t, b, at, at+time.Second)
		for i := range asked {
			_, asked[i], _ = strings.Cut(asked[i], " ")
		}
		if slices.Sort(asked); !slices.Equal(asked, step.asked) {
			t.Errorf("after answer %d: asked %q, want %q", step.answer, asked, step.asked)
		}
	}
	if found := b.services(start.Add(14 * time.Second)); len(found) != 1 || !reflect.DeepEqual(found[0], printerFound) {
		t.Errorf("found %+v, want %+v", found, printerFound)
	}

	// The type is asked for again, with what is known, as long as that is less than half over.
	asked, queries = asks(t, b, 14*time.Second, 3500*time.Second)
	if want := []string{"15", "31", "63", "127", "255", "511", "1023", "2047"}; len(asked) != len(want) {
		t.Errorf("asked %q, want it at %v", asked, want)
	}
	for _, m := range queries {
		if len(m.Answers) != 1 || m.Answers[0].Header.Class != dnsmessage.ClassINET {
			t.Fatalf("one known answer, which flushes nothing, is missing: %v", m)
		}
		if ttl := m.Answers[0].Header.TTL; ttl <= 2250 || ttl >= 4500 {
			t.Errorf("the known answer is good for %d s", ttl)
		}
		if name := m.Answers[0].Body.(*dnsmessage.PTRResource).PTR.String(); name != "Küche\xff 1._ipp._tcp.local." {
			t.Errorf("the known answer is %q", name)
		}
	}

	// Before it is forgotten it is asked for four times, and not known. What it led to goes with it.
	asked, queries = asks(t, b, 3500*time.Second, 4600*time.Second)
	counts := make(map[string]int)
	for _, a := range asked {
		_, what, _ := strings.Cut(a, " ")
		counts[what]++
	}
	for _, what := range []string{"PTR _ipp._tcp.local", `SRV küche\. 1._ipp._tcp.local`, `TXT küche\. 1._ipp._tcp.local`, "A box.local", "AAAA box.local"} {
		if n := counts[what]; n < 4 || n > 6 {
			t.Errorf("asked %d times for %s before it expired: %q", n, what, asked)
		}
	}
	for _, m := range queries {
		if len(m.Answers) != 0 {
			t.Errorf("known though it is about to expire: %v", m)
		}
	}
	if len(b.cache) != 0 || len(b.asked) != 1 || b.size != 0 {
		t.Errorf("remembers %v, %d bytes, and asks %v", b.cache, b.size, b.asked)
	}
}

func TestGoodbye(t *testing.T) {
	b := newBrowser("", start)
	other := announced("Other", "_ipp._tcp.local.", "other.local.", 9, 4500, somewhere4, somewhere6)
	if found := told(t, b, 0, slices.Concat(printer(4500), other)...); len(found) != 2 {
		t.Fatalf("found %+v", found)
	}
	told(t, b, 10*time.Second, printer(0)[1:4]...)
	if found := b.services(start.Add(10900 * time.Millisecond)); len(found) != 2 {
		t.Errorf("found %+v: somebody may still object", found)
	}
	if found := b.services(start.Add(11 * time.Second)); len(found) != 1 || found[0].Instance != "Other" {
		t.Errorf("found %+v", found)
	}
	if found := told(t, b, 20*time.Second, printer(0)...); len(found) != 1 { // takes nothing that was not there, but the type
		t.Errorf("found %+v", found)
	}
	// Who objects is heard.
	told(t, b, 20500*time.Millisecond, other[0])
	if found := b.services(start.Add(30 * time.Second)); len(found) != 1 {
		t.Errorf("found %+v", found)
	}
}

// TestFlush replaces what is said by one alone, and keeps what many may say.
func TestFlush(t *testing.T) {
	b := newBrowser("", start)
	told(t, b, 0, printer(4500)...)
	elsewhere := netip.MustParseAddr("192.0.2.99")
	second := announced("Küche~ 1", "_ipp._tcp.local.", "box.local.", 632, 4500, elsewhere, somewhere6, "a=2")
	found := told(t, b, 10*time.Second, append(second, announced("Other", "_ipp._tcp.local.", "box.local.", 9, 4500, elsewhere, somewhere6)...)...)
	if len(found) != 2 {
		t.Errorf("found %+v", found)
	}
	found = b.services(start.Add(11 * time.Second))
	at := slices.IndexFunc(found, func(s service) bool { return s.Instance == printerFound.Instance })
	want := printerFound
	want.Host, want.Port, want.Addresses, want.TXT = "box.local", 632, []netip.Addr{elsewhere, somewhere6}, []string{"a=2"}
	if len(found) != 2 || !reflect.DeepEqual(found[at], want) {
		t.Errorf("found %+v, want %+v", found, want)
	}

	// Two addresses that come within a second are two addresses.
	told(t, b, 20*time.Second, printer(4500)[4])
	told(t, b, 20500*time.Millisecond, second[4])
	for _, s := range b.services(start.Add(time.Minute)) {
		if want := []netip.Addr{somewhere4, elsewhere, somewhere6}; !slices.Equal(s.Addresses, want) {
			t.Errorf("found %v, want %v", s.Addresses, want)
		}
	}
}

// TestWrongNames sends records that lead somewhere else than to a service.
func TestWrongNames(t *testing.T) {
	ptr := func(name, to string) dnsmessage.Resource {
		return resource(name, 4500, &dnsmessage.PTRResource{PTR: wire(to)})
	}
	b := newBrowser("", start)
	found := told(t, b, 0, append(printer(4500),
		ptr(allTypes, "."), ptr(allTypes, "local."), ptr(allTypes, "_tcp.local."), ptr(allTypes, "ipp._tcp.local."), ptr(allTypes, "_._tcp.local."),
		ptr(allTypes, "_ipp._tcp.example.com."), ptr(allTypes, "a._ipp._tcp.local."), ptr(allTypes, allTypes+"local."),
		ptr("_ipp._tcp.local.", "."), ptr("_ipp._tcp.local.", "_ipp._tcp.local."), ptr("_ipp._tcp.local.", "a.b._ipp._tcp.local."),
		ptr("_ipp._tcp.local.", "a._http._tcp.local."), ptr("_ipp._tcp.local.", "a._ipp._tcp.example.com."))...)
	if len(found) != 1 || !reflect.DeepEqual(found[0], printerFound) || len(b.cache) != 6 {
		t.Errorf("found %+v, remembers %v", found, b.cache)
	}

	// A host with another name is not asked for by multicast.
	found = told(t, b, 0, resource("Küche~ 1._ipp._tcp.local.", 4500, &dnsmessage.SRVResource{Port: 1, Target: wire("example.com.")}))
	if asked, _ := asks(t, b, 0, 10*time.Second); strings.Contains(fmt.Sprint(asked), "example") {
		t.Errorf("asked %q", asked)
	}
	if len(found) != 1 {
		t.Errorf("found %+v", found)
	}
}

// TestFlood makes up services without end: memory and questions have a bound, and what was known stays.
func TestFlood(t *testing.T) {
	b := newBrowser("", start)
	told(t, b, 0, printer(4500)...)
	long := make([]string, 30)
	for i := range long {
		long[i] = strings.Repeat("x", 255)
	}
	for i := range 3000 {
		made := announced(fmt.Sprintf("%d", i), fmt.Sprintf("_%d._udp.local.", i%100), fmt.Sprintf("%d.local.", i), 1, 4500,
			somewhere4, somewhere6, long...)
		if i%2 == 0 {
			made = made[:2] // leaves questions open
		}
		b.take(mustParse(t, response(t, made...)), start.Add(time.Duration(i)*time.Millisecond))
	}
	end := start.Add(3 * time.Second)
	if !b.full || b.size > maxSize || b.size < maxSize-maxMessage {
		t.Errorf("full is %v at %d bytes", b.full, b.size)
	}
	size := 0
	for _, entries := range b.cache {
		for _, e := range entries {
			size += e.size()
		}
	}
	if size != b.size || len(b.asked) > 4*maxSize/overhead {
		t.Errorf("%d bytes, counted as %d, and %d questions", size, b.size, len(b.asked))
	}
	if found := b.services(end); !slices.ContainsFunc(found, func(s service) bool { return reflect.DeepEqual(s, printerFound) }) {
		t.Error("the real service is missing")
	}
	_, queries := asks(t, b, 3*time.Second, 5*time.Second)
	questions := 0
	for _, m := range queries {
		questions += min(len(m.Questions), 1) // others have the rest of what is known
	}
	if want := int(2 * time.Second / rest); questions < want/2 || questions > want {
		t.Errorf("asked %d times in 2 s, want %d", questions, want)
	}
}

// TestManyKnown has more known answers than a packet can hold: all but the last say that there are more.
func TestManyKnown(t *testing.T) {
	const n = 100
	b := newBrowser("_ipp._tcp", start)
	for i := range n {
		name := fmt.Sprintf("~%s%03d._ipp._tcp.local.", strings.Repeat("x", 40), i)
		told(t, b, 0, resource("_ipp._tcp.local.", 4500, &dnsmessage.PTRResource{PTR: wire(name)}))
	}
	b.asked = map[question]*schedule{{"_ipp._tcp.local.", dnsmessage.TypePTR}: {next: start}} // and what is new comes later
	packets := b.ask(start.Add(time.Millisecond))
	known := make(map[string]bool)
	for i, packet := range packets {
		m := checkQuery(t, packet)
		if m.Truncated != (i < len(packets)-1) || (len(m.Questions) > 0) != (i == 0) {
			t.Errorf("packet %d of %d: %v", i+1, len(packets), m.Header)
		}
		for _, a := range m.Answers {
			known[a.Body.(*dnsmessage.PTRResource).PTR.String()] = true
		}
	}
	if len(packets) < 3 || len(known) != n {
		t.Errorf("%d known answers in %d packets", len(known), len(packets))
	}
}

// ---- the network ----

// responder is a small one, in its own way: it says what has to do with an IPv6 address by IPv6 only, and all else by
// IPv4, so that a browser needs both.
type responder struct {
	t   *testing.T
	tx  *mcast.TxSocket
	all bool // tell everything with each answer

	mu      sync.Mutex
	records []dnsmessage.Resource
	asked   map[question]int // how often, unless it had the answer with it
}

func respond(t *testing.T, host *mcasttest.Host, all bool, records ...dnsmessage.Resource) *responder {
	t.Helper()
	r := &responder{t: t, records: records, all: all, asked: make(map[question]int)}
	groups := []netip.Addr{group4, group6}
	var rx *mcast.RxSocket
	host.Do(func() {
		var err error
		if rx, err = mcast.OpenRx(mcast.RxConfig{Groups: groups, Port: port}); err != nil {
			t.Fatal(err)
		}
		if r.tx, err = mcast.OpenTx(mcast.TxConfig{Groups: groups, Port: port, TTL: 255}); err != nil {
			t.Fatal(err)
		}
	})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for m, err := range rx.Messages(context.Background()) {
			if err != nil {
				t.Error(err)
				return
			}
			r.take(m)
		}
	}()
	t.Cleanup(func() {
		rx.Close()
		<-done
		r.tx.Close()
	})
	return r
}

func (r *responder) take(m *mcast.Message) {
	if m.Addr.Port() != port || m.Buf[2]&0x80 != 0 {
		return
	}
	query := checkQuery(r.t, m.Buf[:m.N])
	var answers []dnsmessage.Resource
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, q := range query.Questions {
		for _, a := range r.records {
			same := lower(a.Header.Name.String()) == lower(q.Name.String()) && a.Header.Type == q.Type
			if !same || (a.Header.Type == dnsmessage.TypeAAAA) != m.Group.Is6() || slices.ContainsFunc(query.Answers, isKnown(a)) {
				continue
			}
			answers = append(answers, a)
			r.asked[question{lower(q.Name.String()), q.Type}]++
		}
	}
	if len(answers) > 0 {
		if r.all {
			answers = append(answers, r.records...)
		}
		r.say(m.Group, answers...)
	}
}

func isKnown(a dnsmessage.Resource) func(dnsmessage.Resource) bool {
	return func(k dnsmessage.Resource) bool {
		return k.Header.Name == a.Header.Name && k.Header.Type == a.Header.Type && reflect.DeepEqual(k.Body, a.Body)
	}
}

func (r *responder) say(group netip.Addr, answers ...dnsmessage.Resource) {
	if _, err := r.tx.WriteToUDPAddrPort(response(r.t, answers...), netip.AddrPortFrom(group, port)); err != nil {
		r.t.Error(err)
	}
}

// forget has it answer no more.
func (r *responder) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.records = nil
}

func (r *responder) count(name string, kind dnsmessage.Type) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.asked[question{name, kind}]
}

func openOn(t *testing.T, host *mcasttest.Host, specs, service string) (c *client) {
	t.Helper()
	host.Do(func() {
		var err error
		if c, err = open(specs, service); err != nil {
			t.Fatal(err)
		}
	})
	t.Cleanup(c.close)
	return c
}

// browseUntil browses until what is found is as wanted.
func browseUntil(t *testing.T, c *client, wanted func([]service) bool) []service {
	t.Helper()
	for end := time.Now().Add(limit); ; {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
		err := c.browse(ctx)
		cancel()
		found := c.services()
		if wanted(found) {
			return found
		}
		if err != nil || time.Now().After(end) {
			t.Fatalf("found %+v, %v", found, err)
		}
	}
}

func TestLAN(t *testing.T) {
	lan := mcasttest.NewLAN(t, 3)
	here, first, second := lan.Hosts[0], lan.Hosts[1], lan.Hosts[2]
	one := announced("Küche~ 1", "_ipp._tcp.local.", "one.local.", 631, 4500, first.IPv4, first.LinkLocal, "a=1")
	two := announced("Tür", "_http._tcp.local.", "two.local.", 80, 4500, second.IPv4, second.IPv6, "b=2")
	talkative := respond(t, first, true, one...)
	terse := respond(t, second, false, two...)
	c := openOn(t, here, "", "")
	for _, host := range lan.Hosts {
		lan.WaitJoined(host, group6)
	}
	want := []service{
		{"eth0", "Tür", "_http._tcp", "two.local", 80, []netip.Addr{second.IPv4, second.IPv6}, []string{"b=2"}},
		{"eth0", `Küche\. 1`, "_ipp._tcp", "one.local", 631, []netip.Addr{first.IPv4, first.LinkLocal.WithZone("eth0")}, []string{"a=1"}},
	}
	all := func(found []service) bool { return reflect.DeepEqual(found, want) }
	browseUntil(t, c, all)

	// Nothing that is known is asked for again. The control is the service that comes now, and is found.
	for _, kind := range []dnsmessage.Type{dnsmessage.TypeSRV, dnsmessage.TypeTXT} {
		if n := terse.count("tür._http._tcp.local.", kind); n != 1 {
			t.Errorf("%d questions for %v, want 1", n, kind)
		}
	}
	third := respond(t, second, true, announced("Late", "_late._tcp.local.", "two.local.", 81, 4500, second.IPv4, second.IPv6)...)
	browseUntil(t, c, func(found []service) bool { return len(found) == 3 && found[2].Port == 81 })
	if n := third.count(allTypes, dnsmessage.TypePTR); n == 0 {
		t.Error("the control was not found by a question")
	}
	if n := terse.count(allTypes, dnsmessage.TypePTR); n != 1 {
		t.Errorf("the type was asked for %d times, want 1: it was known", n)
	}

	// A goodbye removes one, and no other.
	talkative.forget()
	goodbye := announced("Küche~ 1", "_ipp._tcp.local.", "one.local.", 631, 0, first.IPv4, first.LinkLocal, "a=1")
	talkative.say(group4, goodbye[1])
	found := browseUntil(t, c, func(found []service) bool { return len(found) == 2 })
	if !reflect.DeepEqual(found[0], want[0]) {
		t.Errorf("found %+v, want %+v", found, want[0])
	}

	// Whoever wants one type gets no other.
	c = openOn(t, here, "eth0", "_HTTP._tcp")
	browseUntil(t, c, func(found []service) bool { return reflect.DeepEqual(found, want[:1]) })
}

// TestInterfaces has two services of the same name, on two networks.
func TestInterfaces(t *testing.T) {
	left, right := mcasttest.NewLAN(t, 2), mcasttest.NewLAN(t, 1)
	here := left.Hosts[0]
	right.Attach(here)
	var want []service
	for i, host := range []*mcasttest.Host{left.Hosts[1], right.Hosts[0]} {
		port := uint16(8000 + i)
		respond(t, host, true, announced("Same", "_http._tcp.local.", "same.local.", port, 4500, host.IPv4, host.IPv6, host.Name)...)
		want = append(want, service{fmt.Sprintf("eth%d", i), "Same", "_http._tcp", "same.local", port, []netip.Addr{host.IPv4, host.IPv6}, []string{host.Name}})
	}
	for specs, want := range map[string][]service{"": want, "eth0,eth1": want, "eth1": want[1:]} {
		c := openOn(t, here, specs, "")
		if specs != "eth1" {
			left.WaitJoined(here, group6)
		}
		right.WaitJoined(here, group6)
		browseUntil(t, c, func(found []service) bool { return reflect.DeepEqual(found, want) })
	}
}

// TestOneFamily browses where there is no other.
func TestOneFamily(t *testing.T) {
	for _, address := range []string{"10.9.0.1/24", "fd09::1/64"} {
		here := mcasttest.NewHost(t)
		veth := here.NewVeth("eth0", netip.MustParsePrefix(address))
		if veth.IPv4.IsValid() {
			here.Sysctl("net/ipv6/conf/eth0/disable_ipv6", "1")
		}
		for _, specs := range []string{"", "eth0"} {
			c := openOn(t, here, specs, "")
			if joined := c.rx.Memberships(); len(joined) != 1 || joined[0].Group.Is4() != veth.IPv4.IsValid() || !joined[0].Joined {
				t.Errorf("with %s joined %+v", address, joined)
			}
			ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
			if err := c.browse(ctx); err != nil {
				t.Error(err)
			}
			cancel()
		}
	}
	mcasttest.NewHost(t).Do(func() {
		if c, err := open("", ""); err == nil {
			t.Errorf("a host with lo alone has %v", c.links)
			c.close()
		}
	})
}

// TestStrangers tells the browser of services in ways that are not those of a responder. The last is.
func TestStrangers(t *testing.T) {
	lan := mcasttest.NewLAN(t, 2)
	here, there := lan.Hosts[0], lan.Hosts[1]
	c := openOn(t, here, "", "")
	lan.WaitJoined(here, group6)
	r := respond(t, there, false)
	var simple *mcast.TxSocket
	var unicast *mcast.RxSocket
	there.Do(func() {
		var err error
		if simple, err = mcast.OpenTx(mcast.TxConfig{Groups: []netip.Addr{group4}}); err != nil {
			t.Fatal(err)
		}
		if unicast, err = mcast.OpenRx(mcast.RxConfig{Groups: []netip.Addr{group4}, Port: port}); err != nil {
			t.Fatal(err)
		}
	})
	defer simple.Close()
	defer unicast.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := c.browse(ctx); err != nil { // it knows now what it wants
		t.Fatal(err)
	}
	about := func(name string) []byte {
		return response(t, announced(name, "_http._tcp.local.", "there.local.", 80, 4500, there.IPv4, there.IPv6)...)
	}
	if _, err := simple.WriteToUDPAddrPort(about("another port"), netip.AddrPortFrom(group4, port)); err != nil {
		t.Fatal(err)
	}
	if _, err := unicast.WriteToUDPAddrPort(about("unicast"), netip.AddrPortFrom(here.IPv4, port)); err != nil {
		t.Fatal(err)
	}
	for _, hostile := range []string{"", "\x00", strings.Repeat("\xc0", 9001), "\x00\x00\x84\x00\xff\xff\xff\xff\xff\xff\xff\xff"} {
		if _, err := r.tx.WriteToUDPAddrPort([]byte(hostile), netip.AddrPortFrom(group4, port)); err != nil {
			t.Fatal(err)
		}
	}
	r.say(group4, announced("responder", "_http._tcp.local.", "there.local.", 80, 4500, there.IPv4, there.IPv6)...)
	found := browseUntil(t, c, func(found []service) bool { return len(found) > 0 })
	if len(found) != 1 || found[0].Instance != "responder" {
		t.Errorf("found %+v", found)
	}
}
