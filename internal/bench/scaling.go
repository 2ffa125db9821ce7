//go:build linux

// What a datagram costs with more and more pairs, drawn.

package main

import (
	"bytes"
	"errors"
	"fmt"
	"image/color"
	"io"
	"os"
	"strconv"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// line is the cost of a datagram for some numbers of pairs, as a ratio to what package net takes for one socket.
type line struct {
	name   string
	color  color.Color
	way    way
	pairs  []float64
	ratios []spread
}

var scalingPairs = []int{1, 4, 16, 64, 256, 1000, 4000}

// draw measures the lines and writes them to the file.
func (o *options) draw(l *lab, out io.Writer) error {
	pairs := scalingPairs
	if o.quick {
		pairs = pairs[:3]
	}
	lines := []*line{
		{name: "a goroutine for each socket", color: color.RGBA{0xd5, 0x5e, 0x00, 0xff}, way: byGoroutines},
		{name: "mcast, ReadFromUDPAddrPort", color: color.RGBA{0x00, 0x72, 0xb2, 0xff}, way: mineOneByOne},
		{name: "mcast, ReadBatch", color: color.RGBA{0x00, 0x9e, 0x73, 0xff}, way: mineInBatches},
	}
	fmt.Fprintf(out, "%s\n%-28s  %5s  processor time of a datagram, against net.UDPConn with one socket\n", machine(), "", "pairs")
	for _, line := range lines {
		for _, n := range pairs {
			res, err := measure(l, row{
				scenario: "scaling", on: "lo", work: fmt.Sprintf("%s, %d pairs", line.name, n), against: "net.UDPConn", unit: "ns",
				open: func(l *lab) (a, b contender, err error) {
					if a, err = line.way(l, l.networks["lo"], n); err != nil {
						return a, b, err
					}
					if b, err = byNet(l, l.networks["lo"], n); err != nil {
						a.close()
					}
					return a, b, err
				},
			}, o.effort())
			if errors.Is(err, errLeftOut) || err == nil && res.skipped != "" {
				fmt.Fprintf(out, "%-28s  %5d  left out: %s\n", line.name, n, res.skipped)
				continue
			}
			if err != nil {
				return err
			}
			line.pairs, line.ratios = append(line.pairs, float64(n)), append(line.ratios, res.ratio)
			fmt.Fprintf(out, "%-28s  %5d  %s\n", line.name, n, res.figure())
		}
	}
	svg, err := scalingPlot(lines)
	if err != nil {
		return err
	}
	return os.WriteFile(o.svg, svg, 0o666)
}

// scalingPlot draws lines with their quartiles.
func scalingPlot(lines []*line) ([]byte, error) {
	p := plot.New()
	p.Title.Text = "Cost of a received datagram"
	p.X.Label.Text = "pairs of interface and group"
	p.Y.Label.Text = "processor time, net.UDPConn with one socket = 1"
	p.X.Scale = plot.LogScale{}
	var ticks plot.ConstantTicks
	for _, n := range scalingPairs {
		ticks = append(ticks, plot.Tick{Value: float64(n), Label: strconv.Itoa(n)})
	}
	p.X.Tick.Marker = ticks
	p.X.Min, p.X.Max = 1, float64(scalingPairs[len(scalingPairs)-1])
	p.Y.Min = 0
	p.Legend.Top, p.Legend.Left = true, true
	p.Add(plotter.NewGrid())
	top := 1.0
	for _, l := range lines {
		points := quartiles{x: l.pairs, y: l.ratios}
		if len(points.x) == 0 {
			continue
		}
		for _, r := range l.ratios {
			top = max(top, r.high)
		}
		drawn, marks, err := plotter.NewLinePoints(points)
		if err != nil {
			return nil, err
		}
		bars, err := plotter.NewYErrorBars(points)
		if err != nil {
			return nil, err
		}
		drawn.Color, drawn.Width = l.color, vg.Points(1.5)
		marks.Color, marks.Shape = l.color, draw.CircleGlyph{}
		bars.Color = l.color
		p.Add(drawn, marks, bars)
		p.Legend.Add(l.name, drawn, marks)
	}
	p.Y.Max = top * 1.3 // room for the legend
	canvas := vgsvg.New(18*vg.Centimeter, 11*vg.Centimeter)
	p.Draw(draw.New(canvas))
	var b bytes.Buffer
	_, err := canvas.WriteTo(&b)
	return b.Bytes(), err
}

// quartiles are points with what plotter needs to draw their spread.
type quartiles struct {
	x []float64
	y []spread
}

func (q quartiles) Len() int                { return len(q.x) }
func (q quartiles) XY(i int) (x, y float64) { return q.x[i], q.y[i].median }
func (q quartiles) YError(i int) (low, high float64) {
	return q.y[i].median - q.y[i].low, q.y[i].high - q.y[i].median
}
