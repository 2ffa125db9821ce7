package doctor

import "testing"

// fuzzBodies parses what only Linux has.
func fuzzBodies(t *testing.T, b []byte) {
	if _, l, ok := parseLink(b); ok && l.master != 0 && len(b) < 24 {
		t.Errorf("a master in %d bytes", len(b))
	}
	if r := parseRoute(b); len(r.hops) > len(b)/8 {
		t.Errorf("%d hops in %d bytes", len(r.hops), len(b))
	}
}
