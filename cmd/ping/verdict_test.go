package main

import (
	"strings"
	"testing"
)

// numbers makes streams of ten probes each, of which so many were answered; -1: none was sent.
func numbers(uni, back, asm, ssm int) *[kinds]stream {
	var streams [kinds]stream
	for k, n := range [kinds]int{unicast: uni, asmTo: back, asmFrom: asm, ssmFrom: ssm} {
		s := &streams[k]
		s.hops = -1
		for i := range 10 {
			if n >= 0 {
				s.send(0)
				if i < n {
					s.receive(uint32(i+1), 1)
				}
			}
		}
	}
	return &streams
}

// TestMeaning goes through what can happen, and looks for what only the right sentence says.
func TestMeaning(t *testing.T) {
	with := func(s *[kinds]stream, change func(*facts)) facts {
		f := facts{streams: s, found: true, heard: len(s[asmTo].trips), ttl: 1, mttl: 1}
		if change != nil {
			change(&f)
		}
		return f
	}
	far := func(hops, ttl, mttl int) func(*facts) {
		return func(f *facts) { f.streams[unicast].hops, f.ttl, f.mttl = hops, ttl, mttl }
	}
	for _, test := range []struct {
		name  string
		facts facts
		want  string
	}{
		{"all", with(numbers(10, 10, 10, 10), nil), "everything arrives"},
		{"all, far", with(numbers(10, 10, 10, 10), far(3, 8, 8)), "everything arrives"},
		{"too early", with(numbers(-1, -1, -1, -1), nil), "nothing was counted"},
		{"nothing", with(numbers(0, 0, -1, -1), func(f *facts) { f.found = false }), "a firewall, there or here"},
		{"silent", with(numbers(0, 0, 0, 0), nil), "it has ended"},
		{"other family only", with(numbers(-1, 0, -1, -1), func(f *facts) { f.family = ip6 }), "give its IPv6 address"},
		{"limited", with(numbers(9, 10, 10, 10), func(f *facts) { f.limited = true }), "longer -interval"},
		{"limited, none lost", with(numbers(10, 10, 10, 10), func(f *facts) { f.limited = true }), "everything arrives"},
		{"no unicast", with(numbers(0, 10, 0, 0), nil), "stops UDP to port 12351"},

		{"too late", with(numbers(9, 9, -1, -1), nil), "a longer -wait"},

		{"no multicast", with(numbers(10, 0, 0, 0), nil), "A switch that snoops needs a querier"},
		{"no multicast, some unicast", with(numbers(3, 0, 0, 0), nil), "A switch that snoops needs a querier"},
		{"no multicast, unknown way", with(numbers(10, 0, 0, 0), far(-1, 1, 1)), "A switch that snoops needs a querier"},
		{"no multicast, far", with(numbers(10, 0, 0, 0), far(2, 8, 8)), "the 2 routers in between do not route it"},
		{"no multicast, TTL", with(numbers(10, 0, 0, 0), far(1, 1, 1)), "a way with 1 router: start both ends with -ttl 2"},
		{"no multicast, one TTL", with(numbers(10, 0, 0, 0), far(1, 8, 1)), "Routers need PIM"},
		{"not there", with(numbers(10, 0, 10, 10), nil), "Run there"},
		{"not there, ASM", with(numbers(10, 0, 10, 0), nil), "Run there"},
		{"not there, TTL", with(numbers(10, 0, 10, 10), far(2, 2, 8)), "use -ttl 3 or more here"},
		{"not back", with(numbers(10, 10, 0, 0), nil), "Run here"},
		{"not back, TTL", with(numbers(10, 10, 0, 0), far(2, 8, 2)), "start the listener with -ttl 3"},
		{"answers only", with(numbers(10, 0, 10, 10), func(f *facts) { f.heard = 10 }), "a stateful firewall here"},
		{"answers and back", with(numbers(10, 0, 0, 0), func(f *facts) { f.heard = 4 }), "a firewall here lets in only"},
		{"no SSM", with(numbers(10, 10, 10, 0), nil), "IGMPv3"},
		{"no SSM, IPv6", with(numbers(10, 10, 10, 0), func(f *facts) { f.family = ip6 }), "MLDv2"},
		{"no ASM back", with(numbers(10, 10, 0, 10), nil), "rendezvous point"},

		{"some of all", with(numbers(9, 8, 7, 6), nil), "unicast loses some as well"},
		{"some unicast", with(numbers(9, 10, 10, 10), nil), "unicast loses some as well"},
		{"some there", with(numbers(10, 9, 10, 10), nil), "multicast loses some"},
		{"some ASM", with(numbers(10, 10, 9, 10), nil), "multicast loses some"},
		{"some SSM", with(numbers(10, 10, 10, 1), nil), "multicast loses some"},
	} {
		got := meaning(test.facts)
		ends := strings.HasSuffix(got, ".") || strings.HasSuffix(got, ": go run ./examples/doctor -group "+list(groups)+" -port 12350")
		if !strings.Contains(got, test.want) || !ends {
			t.Errorf("%s: want %q in %q", test.name, test.want, got)
		}
	}
}

func TestRemarks(t *testing.T) {
	for _, test := range []struct {
		change func(*[kinds]stream)
		want   string
	}{
		{func(s *[kinds]stream) {}, ""},
		{func(s *[kinds]stream) { s[ssmFrom].twice = 1 }, "Multicast comes more than once"},
		{func(s *[kinds]stream) { s[asmTo].twice, s[unicast].twice = 1, 1 }, "unicast too"},
		{func(s *[kinds]stream) { s[asmFrom].reordered = 1 }, "The order changes"},
		{func(s *[kinds]stream) { s[unicast].reordered = 1 }, "The order changes"},
	} {
		s := numbers(10, 10, 10, 10)
		test.change(s)
		got := remarks(facts{streams: s})
		if (test.want == "") != (got == "") || !strings.Contains(got, test.want) {
			t.Errorf("want %q in %q", test.want, got)
		}
	}
}

func TestConclude(t *testing.T) {
	if got := conclude(nil, nil); !strings.HasPrefix(got, "nobody answers") {
		t.Error(got)
	}
	if got := conclude([]string{"a", "b"}, []string{"fine.", "fine."}); got != "fine." {
		t.Error(got)
	}
	if got := conclude([]string{"a", "b", "c"}, []string{"fine.", "bad.", "fine."}); got != "\n- a, c: fine.\n- b: bad." {
		t.Error(got)
	}
}
