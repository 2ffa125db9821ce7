package main

import (
	"net/netip"
	"testing"
	"time"
)

// known makes a session that has found one listener, with a probe of each kind under way.
func known(t *testing.T) (s *session, to *path, from func(packet) datagram) {
	t.Helper()
	s = newSession()
	e := &end{family: ip4}
	from = func(p packet) datagram {
		p.answer, p.nonce = true, s.nonce
		d := datagram{end: e, buf: p.append(nil), from: there, ttl: 64, at: time.Now()}
		switch p.kind {
		case asmFrom:
			d.group = groups[ip4]
		case ssmFrom:
			d.group = ssms[ip4]
		}
		return d
	}
	s.take(from(packet{kind: asmTo, id: 77, token: 88, path: noPath, flags: flagIP4 | flagIP6, ttl: 64, seen: 1, mttl: 3}))
	s.finding = false
	if len(s.paths) != 1 || s.paths[0].id != 77 || s.paths[0].addr != there || s.paths[0].token != 88 {
		t.Fatalf("found %+v", s.paths)
	}
	to = s.paths[0]
	for k := range to.streams {
		to.streams[k].send(0)
	}
	return s, to, from
}

func TestSessionTakes(t *testing.T) {
	s, to, from := known(t)
	for k := range kinds {
		p := packet{kind: k, id: 77, seq: 1, heard: 4, ttl: 64}
		if k == asmTo {
			p.path = noPath
		}
		s.take(from(p))
		if st := to.streams[k]; st.lost() != 0 || st.twice != 0 {
			t.Errorf("%v: %d lost, %d twice", k, st.lost(), st.twice)
		}
		s.take(from(p))
		if st := to.streams[k]; st.twice != 1 {
			t.Errorf("%v: %d twice, want 1", k, st.twice)
		}
	}
	if to.heard != 4 || s.strange != 0 || s.late != 0 {
		t.Errorf("heard %d, strange %d, late %d", to.heard, s.strange, s.late)
	}

	// It listens by IPv6 too, where it was not found.
	s.complete([]*end{{family: ip4}})
	if len(s.paths) != 1 {
		t.Error("a family that is not tried has a path")
	}
	to.flags |= flagIP6
	s.complete([]*end{{family: ip4}, {family: ip6}})
	s.complete([]*end{{family: ip4}, {family: ip6}})
	if len(s.paths) != 2 || s.paths[1].family != ip6 || s.paths[1].id != 77 || s.paths[1].addr.IsValid() {
		t.Errorf("got %+v", s.paths)
	}
	if all := s.listeners(); len(all) != 1 || len(all[0]) != 2 {
		t.Errorf("one listener is %v", all)
	}
}

// TestSessionIgnores: nothing of this counts, but as strange.
func TestSessionIgnores(t *testing.T) {
	good := packet{kind: asmFrom, id: 77, seq: 1}
	for _, test := range []struct {
		name    string
		change  func(*packet)
		spoil   func(*datagram)
		strange uint64
	}{
		{"garbage", nil, func(d *datagram) { d.buf = []byte("ack") }, 1},
		{"another run", nil, func(d *datagram) { d.buf[13]++ }, 0},
		{"our own probe", nil, func(d *datagram) { d.buf = packet{nonce: good.nonce}.append(nil) }, 0},
		{"by unicast", nil, func(d *datagram) { d.group = netip.Addr{} }, 1},
		{"by the other group", nil, func(d *datagram) { d.group = ssms[ip4] }, 1},
		{"by the other family", nil, func(d *datagram) { d.end, d.group = &end{family: ip6}, groups[ip6] }, 1},
		{"from nobody", nil, func(d *datagram) { d.from = netip.MustParseAddrPort("[::]:2222") }, 1},
		{"unicast by a group", func(p *packet) { p.kind = unicast }, func(d *datagram) { d.group = groups[ip4] }, 1},
		{"of another listener", func(p *packet) { p.id++ }, nil, 1},
		{"on a path there is not", func(p *packet) { p.path = 1 }, nil, 1},
		{"to what was not sent", func(p *packet) { p.seq = 2 }, nil, 1},
		{"to what was never sent", func(p *packet) { p.seq = 1<<32 - 1 }, nil, 1},
	} {
		s, to, from := known(t)
		good.nonce = s.nonce
		p := good
		if test.change != nil {
			test.change(&p)
		}
		d := from(p)
		if test.spoil != nil {
			test.spoil(&d)
		}
		s.take(d)
		for k := range to.streams {
			if to.streams[k].lost() != 1 {
				t.Errorf("%s: counts as %v", test.name, kind(k))
			}
		}
		if s.strange != test.strange || len(s.paths) != 1 {
			t.Errorf("%s: strange is %d, want %d, of %d paths", test.name, s.strange, test.strange, len(s.paths))
		}
		if s.take(from(good)); to.streams[asmFrom].lost() != 0 {
			t.Errorf("%s: the good one does not count either", test.name)
		}
	}
}

// TestSessionFlood: many answers, of as many listeners, and then as many to one probe.
func TestSessionFlood(t *testing.T) {
	s, to, from := known(t)
	s.finding = true
	const flood = 30_000
	d := from(packet{kind: asmTo, path: noPath})
	for i := range flood {
		p, _ := parse(from(packet{kind: asmTo, id: 1, path: noPath}).buf)
		p.id = uint64(i) + 1000
		d.buf = p.append(d.buf[:0])
		s.take(d)
	}
	if len(s.paths) != maxPaths || s.late != flood-maxPaths+1 {
		t.Errorf("%d listeners and %d more, want %d and %d", len(s.paths), s.late, maxPaths, flood-maxPaths+1)
	}
	d = from(packet{kind: unicast, id: 77, seq: 1})
	for range flood {
		s.take(d)
	}
	st := to.streams[unicast]
	if st.twice != flood-1 || st.lost() != 0 || len(st.trips) != 1 || cap(st.trips) > 8 {
		t.Errorf("%d twice, %d lost, %d round trips", st.twice, st.lost(), len(st.trips))
	}
}

// TestSessionNames: what the user named and what was found by multicast are one, in whatever order they answer.
func TestSessionNames(t *testing.T) {
	named := path{family: ip4, name: "host", addr: netip.MustParseAddrPort("192.0.2.99:12351")}

	// By multicast first, then by the name, which leads to another address of it.
	s, to, from := known(t)
	s.add(named)
	s.take(from(packet{kind: unicast, id: 77, path: 1}))
	if !s.paths[1].same || to.name != "host" || len(s.listeners()) != 1 {
		t.Errorf("got %+v", s.paths[1])
	}
	s.take(from(packet{kind: unicast, id: 77, path: 1, seq: 1}))
	if st := to.streams[unicast]; st.twice != 0 || st.lost() != 1 {
		t.Error("what was sent to the other address counts")
	}
	// Another listener has the name's address later.
	if s.take(from(packet{kind: unicast, id: 78, path: 1, seq: 1})); len(s.listeners()) != 1 {
		t.Errorf("got %+v", s.paths[1])
	}

	// By the name first.
	s, _, from = known(t)
	s.paths = nil
	to = s.add(named)
	s.take(from(packet{kind: unicast, id: 77, token: 5}))
	s.take(from(packet{kind: asmTo, id: 77, path: noPath, token: 6}))
	if len(s.paths) != 1 || to.id != 77 || to.token != 6 || to.source != there.Addr() {
		t.Errorf("got %+v", to)
	}

	// By the name, after its other family and that it must have this one.
	s, to, from = known(t)
	to.family = ip6
	s.complete([]*end{{family: ip4}})
	to = s.add(named)
	s.take(from(packet{kind: unicast, id: 77, token: 5, path: 2}))
	s.take(from(packet{kind: asmTo, id: 77, token: 6, path: noPath}))
	if !s.paths[1].same || to.same || to.id != 77 || to.token != 6 || len(s.listeners()) != 1 {
		t.Errorf("got %+v", to)
	}

	// By multicast, from the address that was named and whose port is closed.
	s, _, from = known(t)
	s.paths = nil
	named.addr = netip.AddrPortFrom(there.Addr(), 12351)
	to = s.add(named)
	if s.take(from(packet{kind: asmTo, id: 77, path: noPath})); len(s.paths) != 1 || to.id != 77 {
		t.Errorf("got %+v", to)
	}

	// What came by a group names nobody: it may be anybody's.
	s, _, from = known(t)
	s.paths = nil
	to = s.add(named)
	if s.take(from(packet{kind: asmFrom, id: 77})); to.id != 0 || s.strange != 1 {
		t.Errorf("got %+v", to)
	}
}
