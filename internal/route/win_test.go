package route

import (
	"encoding/binary"
	"math"
	"slices"
	"testing"
)

func TestWinDefault(t *testing.T) {
	const highest = 2 * uint64(math.MaxUint32)
	for _, test := range []struct {
		name string
		rows []winRoute
		want int
	}{
		{"an empty table", nil, 0},
		{"no default route", []winRoute{{bits: 24, index: 2, up: true}, {bits: 1, index: 2, up: true}}, 0},
		{"one", []winRoute{{index: 2, up: true, metric: 25}}, 2},
		{"the lowest metric", []winRoute{{index: 2, up: true, metric: 50}, {index: 3, up: true, metric: 25}, {index: 4, up: true, metric: 35}}, 3},
		{"no metric at all", []winRoute{{index: 2, up: true, metric: 1}, {index: 3, up: true}}, 3},
		{"the highest metric there is", []winRoute{{index: 2, up: true, metric: highest}}, 2},
		{"more than 32 bits", []winRoute{{index: 2, up: true, metric: 1 << 32}, {index: 3, up: true, metric: 1}}, 3},
		{"equals", []winRoute{{index: 4, up: true, metric: 25}, {index: 3, up: true, metric: 25}, {index: 5, up: true, metric: 25}}, 3},
		{"twice by one interface", []winRoute{{index: 2, up: true, metric: 30}, {index: 3, up: true, metric: 25}, {index: 2, up: true, metric: 20}}, 2},
		{"down", []winRoute{{index: 2, metric: 1}, {index: 3, up: true, metric: 25}}, 3},
		{"only down", []winRoute{{index: 2, metric: 1}}, 0},
		{"loopback", []winRoute{{index: 1, up: true, loopback: true}, {index: 3, up: true, metric: 25}}, 3},
		{"longer prefixes are cheaper", []winRoute{{bits: 24, index: 2, up: true}, {index: 3, up: true, metric: 25}}, 3},
		{"an interface that is gone", []winRoute{{up: true, metric: 1}, {index: 3, up: true, metric: 25}}, 3},
	} {
		for range 2 { // the order does not matter
			if got := winDefault(test.rows); got != test.want {
				t.Errorf("%s: got %d, want %d", test.name, got, test.want)
			}
			slices.Reverse(test.rows)
		}
	}
}

// FuzzWinDefault compares with the plain way to say it: of those that are fit, the first in order of metric and index.
func FuzzWinDefault(f *testing.F) {
	f.Add([]byte("\x00\x00\x02\x01\x00\x00\x00\x19" + "\x00\x00\x03\x01\x00\x00\x00\x19"))
	f.Add([]byte("\x18\x00\x02\x01\x00\x00\x00\x01" + "\x00\x01\x01\x01\x00\x00\x00\x00" + "\x00\x00\x04\x00\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var rows, fit []winRoute
		for ; len(b) >= 8; b = b[8:] {
			r := winRoute{int(b[0]), b[1]&1 != 0, int(int8(b[2])), b[3]&1 != 0, uint64(binary.BigEndian.Uint32(b[4:])) << (b[3] >> 1 % 32)}
			if rows = append(rows, r); r.bits == 0 && !r.loopback && r.index > 0 && r.up {
				fit = append(fit, r)
			}
		}
		want := 0
		slices.SortFunc(fit, func(a, b winRoute) int {
			if a.metric == b.metric {
				return a.index - b.index
			}
			if a.metric < b.metric {
				return -1
			}
			return 1
		})
		if len(fit) > 0 {
			want = fit[0].index
		}
		if got := winDefault(rows); got != want {
			t.Errorf("%+v: %d, want %d", rows, got, want)
		}
	})
}
