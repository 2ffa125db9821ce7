package main

// What became of the numbered probes of one kind to one listener: pure counting, without a socket.

import (
	"slices"
	"time"
)

// stream is one kind of probe on one path. Its memory is bounded by the number of probes that were sent, whatever
// comes back.
type stream struct {
	sent      []time.Duration // when each probe was sent, since the start: number 1 first
	came      []bool          // which have been answered
	trips     []time.Duration // round trips, of the first answer to each
	top       uint32          // the highest number that was answered
	twice     int             // answers to what had been answered
	reordered int             // answers that came after one to a later probe (RFC 4737, section 3)
	hops      int             // the most routers that a datagram has passed; -1 is unknown
	joined    time.Duration   // when the group was joined; 0 if none is
	first     time.Duration   // when the first answer came, counted or not; 0 if none has
}

// send notes a probe and returns its number.
func (s *stream) send(at time.Duration) uint32 {
	s.sent = append(s.sent, at)
	s.came = append(s.came, false)
	return uint32(len(s.sent))
}

// receive notes an answer, and reports whether there was such a probe.
func (s *stream) receive(seq uint32, at time.Duration) bool {
	if seq > uint32(len(s.sent)) {
		return false
	}
	if s.first == 0 {
		s.first = at
	}
	if seq == 0 {
		return true
	}
	i := seq - 1
	if s.came[i] {
		s.twice++
		return true
	}
	s.came[i] = true
	s.trips = append(s.trips, at-s.sent[i])
	if seq < s.top {
		s.reordered++
	}
	s.top = max(s.top, seq)
	return true
}

// hop notes how many routers a datagram has passed that was sent with one TTL and arrived with another.
func (s *stream) hop(sent, arrived int) {
	if arrived > 0 && arrived <= sent {
		s.hops = max(s.hops, sent-arrived)
	}
}

func (s *stream) lost() int { return len(s.sent) - len(s.trips) }

// answered says whether anything has come, counted or not.
func (s *stream) answered() bool { return s.first > 0 }

// roundTrip returns the shortest, the median and the longest round trip, if there was one.
func (s *stream) roundTrip() (low, median, high time.Duration, ok bool) {
	if len(s.trips) == 0 {
		return 0, 0, 0, false
	}
	sorted := slices.Sorted(slices.Values(s.trips))
	n := len(sorted)
	return sorted[0], (sorted[(n-1)/2] + sorted[n/2]) / 2, sorted[n-1], true
}

// afterJoin returns how long after the join the first answer came.
func (s *stream) afterJoin() (d time.Duration, ok bool) {
	return s.first - s.joined, s.joined > 0 && s.answered()
}
