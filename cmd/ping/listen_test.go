package main

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"
)

var (
	here  = netip.MustParseAddrPort("192.0.2.1:1111")
	there = netip.MustParseAddrPort("192.0.2.2:2222")
)

// arrival is a probe as it arrives at a listener.
func arrival(p packet, from netip.AddrPort, at time.Time) datagram {
	d := datagram{end: &end{}, buf: p.append(nil), from: from, ttl: 63, at: at}
	if p.kind == asmTo {
		d.group = groups[ip4]
	}
	return d
}

func TestAnswer(t *testing.T) {
	l, now := newListener(), time.Now()
	l.flags = flagIP4
	ask := func(p packet, from netip.AddrPort) (packet, bool) {
		got, ok, _ := l.answer(arrival(p, from, now))
		return got, ok
	}

	got, ok := ask(packet{kind: asmTo, nonce: 5, seq: 1, path: noPath, ttl: 1}, here)
	want := packet{answer: true, kind: asmTo, flags: flagIP4, nonce: 5, id: l.id, token: got.token, seq: 1, heard: 1,
		path: noPath, ttl: unicastTTL, seen: 63, mttl: 1}
	if !ok || got != want || got.token == 0 {
		t.Errorf("got %+v, want %+v", got, want)
	}
	token := got.token
	if got, ok := ask(packet{kind: asmTo, nonce: 5, path: noPath}, here); !ok || got.heard != 1 {
		t.Errorf("a probe that does not count was counted: %+v, %v", got, ok)
	}
	if got, ok := ask(packet{kind: unicast, nonce: 6, seq: 1}, here); !ok || got.heard != 0 || got.token == token {
		t.Errorf("another run has the state of the first: %+v, %v", got, ok)
	}
	if got, ok := ask(packet{kind: unicast, nonce: 5, seq: 1}, there); !ok || got.heard != 0 || got.token == token {
		t.Errorf("another asker has the state of the first: %+v, %v", got, ok)
	}

	// Multicast is for who has the token, from the address and for the run that it is for.
	for _, k := range []kind{asmFrom, ssmFrom} {
		probe := packet{kind: k, nonce: 5, seq: 1, token: token, path: 7}
		if got, ok := ask(probe, here); !ok || got.token != 0 || got.ttl != 1 || got.path != 7 || got.kind != k {
			t.Errorf("got %+v, %v", got, ok)
		}
		if _, ok := ask(probe, there); ok {
			t.Error("a token is good for another address")
		}
		probe.nonce++
		if _, ok := ask(probe, here); ok {
			t.Error("a token is good for another run")
		}
		probe.nonce, probe.token = 5, 0
		if _, ok := ask(probe, here); ok {
			t.Error("multicast without a token")
		}
	}
}

// A link-local asker is the same one by multicast, where the zone is an index, and by unicast, where it is a name.
func TestAnswerZones(t *testing.T) {
	l, now := newListener(), time.Now()
	index, name := netip.MustParseAddrPort("[fe80::1%2]:1111"), netip.MustParseAddrPort("[fe80::1%eth0]:1111")
	got, ok, isNew := l.answer(arrival(packet{kind: asmTo, nonce: 5, path: noPath}, index, now))
	if !ok || !isNew {
		t.Fatalf("got %+v, %v, new %v", got, ok, isNew)
	}
	if _, ok, isNew := l.answer(arrival(packet{kind: ssmFrom, nonce: 5, token: got.token}, name, now)); !ok || isNew {
		t.Errorf("the token of a group's answer by unicast: answered %v, new %v", ok, isNew)
	}
}

func TestAnswerRefused(t *testing.T) {
	l, now := newListener(), time.Now()
	probe := packet{kind: unicast, nonce: 5, seq: 1}
	toAll := packet{kind: asmTo, nonce: 5, seq: 1, path: noPath}
	reply := packet{answer: true, kind: unicast, nonce: 5, id: 1}
	byGroup := func(d datagram) datagram { d.group = groups[ip4]; return d }
	byUnicast := func(d datagram) datagram { d.group = netip.Addr{}; return d }
	garbage := arrival(probe, here, now)
	garbage.buf = garbage.buf[1:]
	for name, d := range map[string]datagram{
		"garbage":               garbage,
		"an answer":             arrival(reply, here, now),
		"unicast to a group":    byGroup(arrival(probe, here, now)),
		"for all, by unicast":   byUnicast(arrival(toAll, here, now)),
		"from a group":          arrival(probe, netip.MustParseAddrPort("239.1.1.1:1111"), now),
		"from a group, IPv6":    arrival(probe, netip.MustParseAddrPort("[ff15::1]:1111"), now),
		"from nobody":           arrival(probe, netip.MustParseAddrPort("0.0.0.0:1111"), now),
		"from port 0":           arrival(probe, netip.MustParseAddrPort("192.0.2.1:0"), now),
		"from nothing whatever": arrival(probe, netip.AddrPort{}, now),
	} {
		before := l.strange
		if got, ok, _ := l.answer(d); ok {
			t.Errorf("%s: answered by %+v", name, got)
		}
		if l.strange != before+1 {
			t.Errorf("%s: not counted", name)
		}
	}
	if _, ok, _ := l.answer(arrival(probe, here, now)); !ok {
		t.Error("a good probe gets no answer")
	}
	strange := l.strange
	other := byGroup(arrival(packet{answer: true, kind: asmFrom, id: 9}, there, now))
	if _, ok, _ := l.answer(other); ok || l.strange != strange {
		t.Error("another listener's multicast is answered, or a cause for complaint")
	}
}

// TestAnswerLimits floods a listener within one moment, and then a second later.
func TestAnswerLimits(t *testing.T) {
	l, now := newListener(), time.Now()
	flood := func(p packet, from netip.AddrPort, n int) (answers int) {
		for range n {
			if got, ok, _ := l.answer(arrival(p, from, now)); ok {
				answers++
				if answers == 1 && got.flags&flagLimited != 0 {
					t.Error("limited before the limit")
				}
			}
		}
		return answers
	}
	probe := packet{kind: unicast, nonce: 5, seq: 1}
	if got := flood(probe, here, 10*perAsker); got != perAsker {
		t.Errorf("%d answers to one asker, want %d", got, perAsker)
	}
	if got := flood(probe, there, 1); got != 1 {
		t.Error("one asker's flood silences another")
	}
	now = now.Add(time.Second / 10)
	got, ok, _ := l.answer(arrival(probe, here, now))
	if !ok || got.flags&flagLimited == 0 {
		t.Errorf("got %+v, %v, want an answer that says what was left out", got, ok)
	}
	if got := flood(packet{kind: unicast, nonce: 6}, here, perAsker); got != perAsker/10-1 {
		t.Errorf("%d more answers in the next tenth of a second: another run is another asker", got)
	}

	// Many askers, or one who takes on many addresses. They share a limit, and do not take more memory.
	now = now.Add(time.Hour)
	answers := 0
	for i := range 5_000 {
		from := netip.AddrPortFrom(netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, 0x0a000000+uint32(i)))), 9)
		if _, ok, _ := l.answer(arrival(packet{kind: unicast, nonce: uint64(i)}, from, now)); ok {
			answers++
		}
	}
	if answers != perSecond || len(l.askers) != maxAskers {
		t.Errorf("%d answers to many askers, of whom %d are remembered, want %d and %d",
			answers, len(l.askers), perSecond, maxAskers)
	}
	for i := range 1000 {
		flood(packet{kind: unicast, nonce: uint64(i)}, here, 1)
	}
	if got := len(l.askers[here.Addr()].runs); got != maxRuns {
		t.Errorf("%d runs of one asker are remembered, want %d", got, maxRuns)
	}

	// Multicast has a limit of its own.
	now = now.Add(time.Hour)
	answers = 0
	for i := range 2 * perMulticast / perAsker {
		from := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 9, 9, byte(i)}), 9)
		answers += flood(packet{kind: asmFrom, nonce: 5, token: l.token(from.Addr(), 5)}, from, perAsker)
	}
	if answers != perMulticast {
		t.Errorf("%d answers by multicast, want %d", answers, perMulticast)
	}
}
