//go:build linux

// What is said of many samples of one thing. A machine that does other things, too, disturbs some of them by a lot:
// a median and quartiles do not mind.

package main

import (
	"math"
	"slices"
)

// spread is where the middle half of some values is.
type spread struct{ low, median, high float64 }

// spreadOf returns the quartiles of values, which it sorts.
func spreadOf(values []float64) spread {
	slices.Sort(values)
	return spread{quantile(values, 0.25), quantile(values, 0.5), quantile(values, 0.75)}
}

// quantile interpolates between the two values next to a place in sorted. Without values it is NaN.
func quantile(sorted []float64, q float64) float64 {
	if len(sorted) == 0 {
		return math.NaN()
	}
	at := q * float64(len(sorted)-1)
	i := min(int(at), len(sorted)-1)
	j := min(i+1, len(sorted)-1)
	return sorted[i] + (at-float64(i))*(sorted[j]-sorted[i])
}

// inverse is the spread of 1/x.
func (s spread) inverse() spread { return spread{1 / s.high, 1 / s.median, 1 / s.low} }
