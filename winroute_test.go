package mcast

import (
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
