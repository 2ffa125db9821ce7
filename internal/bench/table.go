//go:build linux

// How results are shown: as text for who measures, as Markdown for documents.

package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// result is what came of a row.
type result struct {
	row
	ratio   spread // of the library's cost to the peer's
	mine    spread // cost of a unit of work: nanoseconds, or bytes
	peer    spread
	samples int
	skipped string // why there is no figure; empty: there is one
}

// goal is what a row promises. The zero goal promises nothing: the row is there for comparison.
type goal struct {
	atMost  float64 // of the peer's cost
	atLeast float64 // times cheaper than the peer
}

func (g goal) String() string {
	switch {
	case g.atMost > 0:
		return fmt.Sprintf("≤ %.2f", g.atMost)
	case g.atLeast > 0:
		return fmt.Sprintf("≥ %g times", g.atLeast)
	}
	return "–"
}

// shown is the ratio as the goal wants it: for "times cheaper" upside down.
func (r *result) shown() spread {
	if r.goal.atLeast > 0 {
		return r.ratio.inverse()
	}
	return r.ratio
}

// verdict compares the median with the goal.
func (r *result) verdict() string {
	s := r.shown()
	switch {
	case r.skipped != "" || r.goal == goal{}:
		return ""
	case r.goal.atMost > 0 && s.median <= r.goal.atMost, r.goal.atLeast > 0 && s.median >= r.goal.atLeast:
		return "yes"
	}
	return "no"
}

func (r *result) figure() string {
	if r.skipped != "" {
		return "–"
	}
	s := r.shown()
	if r.goal.atLeast > 0 {
		return fmt.Sprintf("%.1f times (%.1f–%.1f)", s.median, s.low, s.high)
	}
	return fmt.Sprintf("%.2f (%.2f–%.2f)", s.median, s.low, s.high)
}

// textTable shows rows as they come.
type textTable struct {
	out  io.Writer
	name int // columns
	peer int
}

func newTextTable(out io.Writer, rows []row) *textTable {
	t := &textTable{out: out}
	for _, r := range rows {
		t.name = max(t.name, len([]rune(r.title())))
		t.peer = max(t.peer, len([]rune(r.against)))
	}
	fmt.Fprintf(out, "%-*s  %-*s  %-22s  %-11s  %-4s  %s\n", t.name, "work", t.peer, "against", "ratio (quartiles)", "goal", "met", "cost of a unit")
	return t
}

func (t *textTable) add(r *result) {
	cost := fmt.Sprintf("%.0f against %.0f %s, %d samples", r.mine.median, r.peer.median, r.unit, r.samples)
	if r.skipped != "" {
		cost = "left out: " + r.skipped
	}
	fmt.Fprintf(t.out, "%-*s  %-*s  %-22s  %-11s  %-4s  %s\n",
		t.name, r.title(), t.peer, r.against, r.figure(), r.goal, r.verdict(), cost)
}

// markdown shows the rows that promise something, for documents, and what nobody can go below.
func markdown(out io.Writer, machine string, results []*result) error {
	var b strings.Builder
	fmt.Fprintf(&b, "| Work | Against | Ratio (quartiles) | Goal |\n| --- | --- | --- | --- |\n")
	for _, r := range results {
		if r.goal == (goal{}) && r.scenario != "floor" || r.skipped != "" {
			continue
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", r.title(), r.against, r.figure(), r.goal)
	}
	fmt.Fprintf(&b, "\nMeasured on %s.\n", machine)
	_, err := io.WriteString(out, b.String())
	return err
}

// list shows which rows there are.
func list(out io.Writer, rows []row) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, r := range rows {
		fmt.Fprintf(w, "%s\t%s\tagainst %s\t%s\n", r.name(), r.title(), r.against, r.goal)
	}
	return w.Flush()
}
