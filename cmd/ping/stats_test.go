package main

import (
	"testing"
	"time"
)

func TestStream(t *testing.T) {
	const ms = time.Millisecond
	s := stream{hops: -1, joined: 2 * ms}
	if _, _, _, ok := s.roundTrip(); ok || s.lost() != 0 || s.answered() {
		t.Error("something has come before anything was sent")
	}
	for i := range 6 {
		if seq := s.send(time.Duration(10*i) * ms); seq != uint32(i+1) {
			t.Fatalf("probe %d is number %d", i+1, seq)
		}
	}
	if s.receive(7, 50*ms) || s.answered() {
		t.Error("an answer to what was never sent is counted")
	}
	for _, r := range []struct {
		seq uint32
		at  time.Duration
	}{
		{0, 5 * ms}, // does not count, but is the first
		{1, 6 * ms},
		{3, 21 * ms},
		{2, 30 * ms}, // late
		{3, 31 * ms}, // twice, and late: it counts as the one
		{6, 52 * ms},
		{5, 53 * ms}, // late
		{1, 60 * ms}, // twice
	} {
		if !s.receive(r.seq, r.at) {
			t.Errorf("answer %d is refused", r.seq)
		}
	}
	if s.lost() != 1 || s.twice != 2 || s.reordered != 2 {
		t.Errorf("%d lost, %d twice, %d reordered, want 1, 2, 2", s.lost(), s.twice, s.reordered)
	}
	// The round trips are 6, 1, 20, 2, 13.
	if low, median, high, ok := s.roundTrip(); !ok || low != 1*ms || median != 6*ms || high != 20*ms {
		t.Errorf("round trips %v, %v, %v", low, median, high)
	}
	s.receive(4, 40*ms) // 10
	if _, median, _, _ := s.roundTrip(); median != 8*ms || s.lost() != 0 {
		t.Errorf("median %v of an even number, %d lost", median, s.lost())
	}
	if d, ok := s.afterJoin(); !ok || d != 3*ms {
		t.Errorf("%v after the join, %v", d, ok)
	}
	if s.joined = 0; true {
		if _, ok := s.afterJoin(); ok {
			t.Error("nothing is joined")
		}
	}
}

func TestStreamHops(t *testing.T) {
	for _, test := range []struct{ sent, arrived, want int }{
		{64, 64, 0},
		{64, 62, 2},
		{255, 1, 254},
		{64, 0, -1},  // unknown
		{64, 65, -1}, // a lie
		{0, 0, -1},
	} {
		s := stream{hops: -1}
		if s.hop(test.sent, test.arrived); s.hops != test.want {
			t.Errorf("from %d to %d: %d hops, want %d", test.sent, test.arrived, s.hops, test.want)
		}
	}
	s := stream{hops: -1}
	for _, arrived := range []int{63, 61, 0, 62} {
		s.hop(64, arrived)
	}
	if s.hops != 3 {
		t.Errorf("%d hops, want the most", s.hops)
	}
}
