//go:build linux

// How two ways to do one thing are compared. On a machine whose clock and neighbours vary, two measurements say
// little about each other unless they are made at the same time, so the two take turns of a fraction of a
// millisecond, and it is the ratio of neighbours in time that is looked at.

package main

import (
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"time"
)

// contender does a piece of work again and again.
type contender struct {
	// round does it once, and returns what it has cost, in the row's unit, and for how many items. What a round has
	// to prepare is not part of the cost.
	round func() (cost float64, items int, err error)
	close func()
}

// row is a comparison: this library against a peer.
type row struct {
	scenario string // for -run
	on       string // the network: lo or veth
	work     string
	against  string
	unit     string // of the cost: "ns", "µs" …
	goal     goal
	heavy    bool // a round takes many milliseconds
	open     func(*lab) (mine, peer contender, err error)
}

func (r *row) name() string  { return r.scenario + "/" + r.on }
func (r *row) title() string { return r.work + ", " + r.on }

// effort is how much measuring there is to be.
type effort struct {
	sample  time.Duration // least time of a sample, both contenders together
	row     time.Duration // time for a row, at most, if there are enough samples
	samples int           // the fewest there must be
}

var (
	full  = effort{sample: 40 * time.Millisecond, row: 2500 * time.Millisecond, samples: 5}
	quick = effort{sample: time.Millisecond, row: 0, samples: 1}
)

// errLeftOut is wrapped by the reasons why a comparison cannot be made here.
var errLeftOut = errors.New("left out")

func leftOut(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errLeftOut, fmt.Sprintf(format, args...))
}

// measure makes the comparison of a row.
func measure(l *lab, r row, e effort) (*result, error) {
	res := &result{row: r}
	mine, peer, err := r.open(l)
	if errors.Is(err, errLeftOut) {
		res.skipped = err.Error()[len(errLeftOut.Error())+2:]
		return res, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %s against %s: %w", r.name(), r.work, r.against, err)
	}
	defer mine.close()
	defer peer.close()
	if err := compare(res, mine, peer, e); err != nil {
		return nil, fmt.Errorf("%s: %s against %s: %w", r.name(), r.work, r.against, err)
	}
	return res, nil
}

// compare lets two contenders take turns until there are enough samples.
func compare(res *result, mine, peer contender, e effort) error {
	// Collecting garbage is left to the moments between samples: it would hit one contender for what another, or
	// an earlier row, has left behind.
	defer debug.SetGCPercent(debug.SetGCPercent(-1))

	if _, err := takeSample(mine, peer, e.sample/2); err != nil { // warms caches and allocates what is kept
		return err
	}
	var ratios, mines, peers []float64
	start := time.Now()
	for i := 0; ; i++ {
		if i >= e.samples && (time.Since(start) > e.row || res.heavy && time.Since(start) > e.row/2) {
			break
		}
		runtime.GC()
		first, second := mine, peer
		if i%2 == 1 {
			first, second = peer, mine
		}
		costs, err := takeSample(first, second, e.sample)
		if err != nil {
			return err
		}
		if i%2 == 1 {
			costs[0], costs[1] = costs[1], costs[0]
		}
		mines, peers = append(mines, costs[0]), append(peers, costs[1])
		ratios = append(ratios, costs[0]/costs[1])
	}
	res.ratio, res.mine, res.peer, res.samples = spreadOf(ratios), spreadOf(mines), spreadOf(peers), len(ratios)
	return nil
}

// takeSample lets two contenders take turns for a while, and returns what an item has cost each.
func takeSample(a, b contender, atLeast time.Duration) (costs [2]float64, err error) {
	var items [2]int
	for start := time.Now(); ; {
		for i, c := range []contender{a, b} {
			cost, n, err := c.round()
			if err != nil {
				return costs, err
			}
			costs[i] += cost
			items[i] += n
		}
		if time.Since(start) >= 2*atLeast && costs[0]+costs[1] > 0 {
			break
		}
	}
	for i := range costs {
		costs[i] /= float64(items[i])
	}
	return costs, nil
}
