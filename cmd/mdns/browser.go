// What is known of a link, what has still to be asked, and when. There is no network in here, and no clock.

package main

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

const (
	// maxSize bounds the memory for what others say, in bytes: a link has some hundred services at most, of less than
	// 2 KiB each. A flood of made-up ones can push nothing out; what comes after it is missing.
	maxSize = 4 << 20

	// overhead is what a record takes beside its text, and the questions that it leads to.
	overhead = 1 << 10

	// maxPacket is how large a question may get, to fit into one packet everywhere.
	maxPacket = 1200

	// maxKnown bounds how many answers are told with a question, so that a flood is not answered with one.
	maxKnown = 500

	// rest is how long to be silent after a question, whatever there is still to ask.
	rest = 100 * time.Millisecond

	// grace is how long a record stays that is taken back or replaced: somebody else may have the same, and say so
	// (RFC 6762, sections 10.1 and 10.2).
	grace = time.Second
)

// allTypes is what has the types of all services (RFC 6763, section 9).
const allTypes = "_services._dns-sd._udp.local."

// browser finds the services of a link. What is in its memory is what the services wanted lead to: their types, the
// instances of these, and where they are. All else that is said on the link is passed over.
type browser struct {
	service string // in lower case; empty: all
	asked   map[question]*schedule
	cache   map[question][]*entry // of what is asked for, and nothing else
	size    int                   // of the cache, in bytes
	full    bool                  // something did not fit

	soon  time.Time // when new questions will be asked, together
	quiet time.Time // nothing is asked before
}

// schedule is when a question is asked: soon, a second after that, then two, four and so on (RFC 6762, section 5.2).
type schedule struct {
	next time.Time
	step time.Duration
}

// entry is a record that was heard.
type entry struct {
	data
	ttl            time.Duration
	heard, expires time.Time
	refresh        time.Time // when to ask again before it expires; zero: not at all
}

// service is one that was found, in text that is fit to be printed.
type service struct {
	Interface string       `json:"interface"`
	Instance  string       `json:"instance"`
	Type      string       `json:"type"`
	Host      string       `json:"host"` // empty, with port 0: nobody has said
	Port      uint16       `json:"port"`
	Addresses []netip.Addr `json:"addresses"`
	TXT       []string     `json:"txt"`
}

// newBrowser takes a type such as _http._tcp, or "" for all.
func newBrowser(service string, now time.Time) *browser {
	if service != "" {
		service = lower(service) + ".local."
	}
	b := &browser{service: service, asked: make(map[question]*schedule), cache: make(map[question][]*entry)}
	b.plan(now)
	return b
}

// take remembers those records that are asked for.
func (b *browser) take(records []record, now time.Time) {
	// Answers lead to other questions, and what answers those is often in the same message, in any order.
	for more := true; more; {
		more = false
		var others []record
		for _, r := range records {
			if b.asked[r.question] == nil {
				others = append(others, r)
			} else if b.add(r, now) {
				more = true
			}
		}
		if records = others; more {
			b.plan(now)
		}
	}
}

// add remembers a record that is asked for, or that it is no longer so, and reports whether it is a new one.
func (b *browser) add(r record, now time.Time) (isNew bool) {
	if r.kind == dnsmessage.TypePTR && !leadsOn(r) {
		return false
	}
	list := b.cache[r.question]
	if r.flush {
		for _, e := range list {
			if e.data != r.data && now.Sub(e.heard) > grace {
				e.end(now.Add(grace))
			}
		}
	}
	at := slices.IndexFunc(list, func(e *entry) bool { return e.data == r.data })
	switch {
	case at >= 0 && r.ttl == 0:
		list[at].end(now.Add(grace))
		return false
	case at >= 0:
		*list[at] = newEntry(r, now)
		return false
	case r.ttl == 0:
		return false
	case b.size+r.size() > maxSize:
		b.full = true
		return false
	}
	e := newEntry(r, now)
	b.cache[r.question] = append(list, &e)
	b.size += r.size()
	return true
}

// newEntry has the record asked for again after 80 % of its time, a little later or earlier than others do.
func newEntry(r record, now time.Time) entry {
	return entry{data: r.data, ttl: r.ttl, heard: now, expires: now.Add(r.ttl),
		refresh: now.Add(r.ttl/100*80 + rand.N(r.ttl/100*2+1))}
}

// end has the record expire at a time, if it does not earlier.
func (e *entry) end(at time.Time) {
	e.refresh = time.Time{}
	if at.Before(e.expires) {
		e.expires = at
	}
}

func (d *data) size() int { return overhead + len(d.target) + len(d.text) }

// leadsOn reports whether the name that a PTR record has is one of a type, or of an instance of the type.
func leadsOn(r record) bool {
	first, others, _ := strings.Cut(lower(r.target), ".")
	if r.name != allTypes {
		return first != "" && others == r.name
	}
	return len(first) > 1 && first[0] == '_' && (others == "_tcp.local." || others == "_udp.local.")
}

// plan forgets what has expired, and derives from the rest what is to be asked for.
func (b *browser) plan(now time.Time) {
	wanted := make(map[question]bool)
	// want returns the answers that there are.
	want := func(name string, kind dnsmessage.Type) []*entry {
		q := question{lower(name), kind}
		if wanted[q] {
			return nil // somebody else was led there, too
		}
		wanted[q] = true
		if b.asked[q] == nil {
			b.asked[q] = &schedule{next: b.delay(now)}
		}
		valid := b.cache[q][:0]
		for _, e := range b.cache[q] {
			if now.Before(e.expires) {
				valid = append(valid, e)
			} else {
				b.size -= e.size()
			}
		}
		clear(b.cache[q][len(valid):])
		if b.cache[q] = valid; len(valid) == 0 {
			delete(b.cache, q)
		}
		return valid
	}
	browse := func(name string) {
		for _, instance := range want(name, dnsmessage.TypePTR) {
			want(instance.target, dnsmessage.TypeTXT)
			for _, at := range want(instance.target, dnsmessage.TypeSRV) {
				if !strings.HasSuffix(lower(at.target), ".local.") {
					continue // other names are not for multicast (RFC 6762, section 3)
				}
				want(at.target, dnsmessage.TypeA)
				want(at.target, dnsmessage.TypeAAAA)
			}
		}
	}
	if b.service != "" {
		browse(b.service)
	} else {
		for _, kind := range want(allTypes, dnsmessage.TypePTR) {
			browse(kind.target)
		}
	}
	for q := range b.asked {
		if wanted[q] {
			continue
		}
		for _, e := range b.cache[q] {
			b.size -= e.size()
		}
		delete(b.asked, q)
		delete(b.cache, q)
	}
}

// delay returns when to ask a new question: after 20 to 120 ms, since what led to it has led others, too; and together
// with those that are new as well (RFC 6762, section 5.2).
func (b *browser) delay(now time.Time) time.Time {
	const least = 20 * time.Millisecond
	if b.soon.Before(now.Add(least)) {
		b.soon = now.Add(least + rand.N(100*time.Millisecond))
	}
	return b.soon
}

// due returns when a question is to be asked, or looked at again because an answer expires. One for a type may have more
// answers at any time. All others are over with one, until that is about to expire.
func (b *browser) due(q question) (at time.Time) {
	answers := b.cache[q]
	if len(answers) == 0 || q.kind == dnsmessage.TypePTR {
		at = b.asked[q].next
	}
	for _, e := range answers {
		next := e.expires
		if !e.refresh.IsZero() && e.refresh.Before(next) {
			next = e.refresh
		}
		if at.IsZero() || next.Before(at) {
			at = next
		}
	}
	return at
}

// next returns when there may be something to ask.
func (b *browser) next() (next time.Time) {
	for q := range b.asked {
		if at := b.due(q); next.IsZero() || at.Before(next) {
			next = at
		}
	}
	if next.Before(b.quiet) {
		next = b.quiet
	}
	return next
}

// ask returns the packets to send now: the questions that are due, as far as they fit into one packet, and the answers
// to them that are known, which are not to be repeated (RFC 6762, section 7.1).
func (b *browser) ask(now time.Time) (packets [][]byte) {
	if now.Before(b.quiet) {
		return nil
	}
	b.plan(now)
	var m dnsmessage.Message
	var known []dnsmessage.Resource
	room := maxPacket
	for q, s := range b.asked {
		if b.due(q).After(now) {
			continue
		}
		name, err := dnsmessage.NewName(q.name)
		if err != nil {
			continue // cannot be: it came from a message
		}
		if room -= len(q.name) + 6; room < 0 {
			break // the others come next
		}
		m.Questions = append(m.Questions, dnsmessage.Question{Name: name, Type: q.kind, Class: dnsmessage.ClassINET})
		if !s.next.After(now) {
			s.step = max(time.Second, 2*s.step)
			s.next = now.Add(s.step)
		}
		for _, e := range b.cache[q] {
			// At 80, 85, 90 and 95 % of its time.
			if !e.refresh.IsZero() && !e.refresh.After(now) {
				e.refresh = e.refresh.Add(max(e.ttl/20, time.Millisecond))
			}
			left := e.expires.Sub(now)
			if q.kind != dnsmessage.TypePTR || left <= e.ttl/2 || len(known) == maxKnown {
				continue
			}
			target, err := dnsmessage.NewName(e.target)
			if err != nil {
				continue
			}
			h := dnsmessage.ResourceHeader{Name: name, Class: dnsmessage.ClassINET, TTL: uint32(left / time.Second)}
			known = append(known, dnsmessage.Resource{Header: h, Body: &dnsmessage.PTRResource{PTR: target}})
		}
	}
	if len(m.Questions) == 0 {
		return nil
	}
	b.quiet = now.Add(rest)
	for {
		for len(known) > 0 {
			body := known[0].Body.(*dnsmessage.PTRResource)
			if room -= int(known[0].Header.Name.Length) + int(body.PTR.Length) + 12; room < 0 {
				break
			}
			m.Answers, known = append(m.Answers, known[0]), known[1:]
		}
		m.Truncated = len(known) > 0 // the rest comes in packets of their own (section 7.2)
		if packet, err := pack(&m); err == nil {
			packets = append(packets, packet)
		}
		if !m.Truncated {
			return packets
		}
		m, room = dnsmessage.Message{}, maxPacket
	}
}

// services returns what is there.
func (b *browser) services(now time.Time) (list []service) {
	b.plan(now)
	seen := make(map[string]bool)
	for q, answers := range b.cache {
		if q.kind != dnsmessage.TypePTR || q.name == allTypes {
			continue
		}
		for _, e := range answers {
			instance := lower(e.target)
			if !seen[instance] {
				seen[instance] = true
				list = append(list, b.describe(e.target))
			}
		}
	}
	return list
}

func (b *browser) describe(instance string) service {
	label, kind, _ := strings.Cut(instance, ".")
	instance = lower(instance)
	s := service{Instance: showName(label), Type: showName(strings.TrimSuffix(lower(kind), "local.")),
		Addresses: []netip.Addr{}, TXT: []string{}} // JSON has [] for none
	if e := b.best(question{instance, dnsmessage.TypeTXT}); e != nil {
		for _, text := range splitText(e.text) {
			s.TXT = append(s.TXT, show(text, `"\`))
		}
	}
	at := b.best(question{instance, dnsmessage.TypeSRV})
	if at == nil {
		return s
	}
	s.Host, s.Port = showName(at.target), at.port
	for _, kind := range []dnsmessage.Type{dnsmessage.TypeA, dnsmessage.TypeAAAA} {
		for _, e := range b.cache[question{lower(at.target), kind}] {
			s.Addresses = append(s.Addresses, e.addr)
		}
	}
	slices.SortFunc(s.Addresses, netip.Addr.Compare)
	return s
}

// best returns the first choice, and of those the latest: one that it replaces stays for a moment. nil: there is none.
func (b *browser) best(q question) (best *entry) {
	for _, e := range b.cache[q] {
		if best == nil || e.priority < best.priority || e.priority == best.priority && e.heard.After(best.heard) {
			best = e
		}
	}
	return best
}
