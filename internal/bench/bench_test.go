//go:build linux

// That the program works: no figure decides a test, since a machine may be as slow as it likes.

package main

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// noNamespace tells why there is no network to test on; nil if there is one.
var noNamespace error

func TestMain(m *testing.M) {
	code, inside, err := enter()
	if noNamespace = err; inside || err != nil {
		code = m.Run()
	}
	os.Exit(code)
}

// testLab is made once: the namespace is new only then.
var testLab *lab

func openLab(t *testing.T) *lab {
	t.Helper()
	if noNamespace != nil {
		t.Skip(noNamespace)
	}
	if testLab == nil {
		var err error
		if testLab, err = newLab(); err != nil {
			t.Fatal(err)
		}
	}
	return testLab
}

func TestSpread(t *testing.T) {
	for _, tt := range []struct {
		values []float64
		want   spread
	}{
		{[]float64{7}, spread{7, 7, 7}},
		{[]float64{2, 1}, spread{1.25, 1.5, 1.75}},
		{[]float64{5, 1, 4, 2, 3}, spread{2, 3, 4}},
		{[]float64{1000, 1, 1, 1, 1}, spread{1, 1, 1}},
	} {
		if got := spreadOf(tt.values); got != tt.want {
			t.Errorf("%v: %v, want %v", tt.values, got, tt.want)
		}
	}
	if got := spreadOf(nil); !math.IsNaN(got.median) {
		t.Errorf("of nothing: %v", got)
	}
	if got, want := (spread{2, 4, 8}).inverse(), (spread{0.125, 0.25, 0.5}); got != want {
		t.Errorf("inverse: %v, want %v", got, want)
	}
}

func resultOf(g goal, low, median, high float64) *result {
	return &result{
		row:   row{on: "lo", work: "work", against: "peer", unit: "ns", goal: g},
		ratio: spread{low, median, high}, mine: spread{90, 100, 110}, peer: spread{190, 200, 210}, samples: 9,
	}
}

func TestVerdict(t *testing.T) {
	for _, tt := range []struct {
		goal            goal
		median          float64
		figure, verdict string
	}{
		{goal{atMost: 1.1}, 1.05, "1.05 (0.53–2.10)", "yes"},
		{goal{atMost: 1.1}, 1.2, "1.20 (0.60–2.40)", "no"},
		{goal{atLeast: 10}, 0.08, "12.5 times (6.2–25.0)", "yes"},
		{goal{atLeast: 10}, 0.2, "5.0 times (2.5–10.0)", "no"},
		{goal{}, 1, "1.00 (0.50–2.00)", ""},
	} {
		r := resultOf(tt.goal, tt.median/2, tt.median, tt.median*2)
		if r.figure() != tt.figure || r.verdict() != tt.verdict {
			t.Errorf("%v: %q, %q; want %q, %q", tt.goal, r.figure(), r.verdict(), tt.figure, tt.verdict)
		}
	}
}

func TestTables(t *testing.T) {
	missing := resultOf(goal{atMost: 1}, 1, 1, 1)
	missing.skipped = "no such thing"
	results := []*result{resultOf(goal{atMost: 1.1}, 1, 1.05, 1.1), resultOf(goal{}, 1, 1, 1), missing}

	var b bytes.Buffer
	if err := markdown(&b, "a machine", results); err != nil {
		t.Fatal(err)
	}
	want := "| Work | Against | Ratio (quartiles) | Goal |\n| --- | --- | --- | --- |\n" +
		"| work, lo | peer | 1.05 (1.00–1.10) | ≤ 1.10 |\n\nMeasured on a machine.\n"
	if b.String() != want {
		t.Errorf("Markdown:\n%s\nwant:\n%s", &b, want)
	}

	b.Reset()
	table := newTextTable(&b, []row{results[0].row})
	for _, r := range results {
		table.add(r)
	}
	for _, want := range []string{"1.05 (1.00–1.10)", "100 against 200 ns, 9 samples", "left out: no such thing"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in:\n%s", want, &b)
		}
	}
}

// TestCompare has contenders of known cost take turns.
func TestCompare(t *testing.T) {
	var order []string
	costing := func(name string, cost float64) contender {
		return contender{round: func() (float64, int, error) {
			order = append(order, name)
			return cost * 10, 10, nil
		}}
	}
	var res result
	if err := compare(&res, costing("mine", 30), costing("peer", 20), effort{samples: 4}); err != nil {
		t.Fatal(err)
	}
	if res.ratio != (spread{1.5, 1.5, 1.5}) || res.mine.median != 30 || res.peer.median != 20 || res.samples < 4 {
		t.Errorf("got %+v", res)
	}
	if got, want := fmt.Sprint(order[:6]), "[mine peer mine peer peer mine]"; got != want {
		t.Errorf("they took turns like %v, want %v", got, want)
	}
}

func TestParse(t *testing.T) {
	o, err := parse([]string{"-run", "^send-one$", "-net", "lo", "-quick"})
	if err != nil {
		t.Fatal(err)
	}
	if timedReads && len(o.rows()) != 1 || o.effort() != quick {
		t.Errorf("%v with %v", o.rows(), o.effort())
	}
	for _, args := range [][]string{{"-run", "("}, {"-net", "("}, {"more"}} {
		if _, err := parse(args); err == nil {
			t.Errorf("%q is accepted", args)
		}
	}
	var b bytes.Buffer
	if err := list(&b, allRows()); err != nil || strings.Count(b.String(), "\n") != len(allRows()) {
		t.Errorf("list: %v\n%s", err, &b)
	}
}

// TestRows runs every comparison once. A datagram that does not arrive makes a round fail.
func TestRows(t *testing.T) {
	l := openLab(t)
	for _, r := range allRows() {
		t.Run(fmt.Sprintf("%s/%s/%s", r.name(), r.work, r.against), func(t *testing.T) {
			res, err := measure(l, r, quick)
			if err != nil {
				t.Fatal(err)
			}
			if res.skipped != "" {
				t.Skip(res.skipped)
			}
			if res.mine.median <= 0 || res.peer.median <= 0 {
				// Memory may have been freed meanwhile, and processor time is counted in ticks somewhere.
				t.Logf("costs of %v and %v", res.mine, res.peer)
			}
		})
	}
}

// TestLost has receivers wait for a datagram more than there are.
func TestLost(t *testing.T) {
	l := openLab(t)
	defer func(d time.Duration) { patience = d }(patience)
	patience = 100 * time.Millisecond
	n := l.networks["lo"]
	for name, open := range map[string]opener{
		"this library": openMineOne, "this library, batches": openMineBatch, "net": openNetOne, "x/net": openXnetBatch,
		"C": openCOne, "C, batches": openCBatch,
	} {
		t.Run(name, func(t *testing.T) {
			dsts := l.destinations(1)
			r, err := open(n.rx, dsts, 100)
			if err != nil {
				t.Skip(err)
			}
			defer r.close()
			f, err := newFiller(l, n, dsts, 3, 10)
			if err != nil {
				t.Fatal(err)
			}
			defer f.close()
			if err := f.fill(); err != nil {
				t.Fatal(err)
			}
			if _, err := r.receive(4); err == nil || err.Error() != "3 of 4 datagrams arrived" {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestDraw(t *testing.T) {
	l := openLab(t)
	o := &options{svg: filepath.Join(t.TempDir(), "scaling.svg"), quick: true, run: regexp.MustCompile("")}
	if err := o.draw(l, io.Discard); err != nil {
		t.Fatal(err)
	}
	svg, err := os.ReadFile(o.svg)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"<svg", "ReadBatch", "a goroutine for each socket", "256"} {
		if !bytes.Contains(svg, []byte(want)) {
			t.Errorf("no %q in the drawing", want)
		}
	}
}

// TestRefuses checks that nothing is laid out in a namespace that has been before.
func TestRefuses(t *testing.T) {
	openLab(t)
	if l, err := newLab(); err == nil {
		t.Errorf("a second lab in the same namespace: %v", l)
	}
}
