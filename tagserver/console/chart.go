package console

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/ebb-dmp/ebb/segments/audience"
)

// Charts are drawn here as numbers and printed by templates as SVG: they take
// the page's colours, work without script, and every one stands beside the
// table of what it shows.

// bar is a row of parts of a whole.
type bar struct {
	Label string // for who cannot see it
	Parts []barPart
}

type barPart struct {
	Class string // stored, duplicate, rejected, dropped, queued
	Name  string
	N     uint64
	X, W  string
}

// barWide is the width of a bar in its own units; what is there at all has at
// least barLeast of it, so that one refused event among millions is seen.
const (
	barWide  = 1000.0
	barLeast = 6.0
)

// newBar lays out the parts; X and W are filled in.
func newBar(parts ...barPart) bar {
	var sum, some float64
	for _, p := range parts {
		sum += float64(p.N)
		if p.N > 0 {
			some++
		}
	}
	b := bar{Parts: parts}
	var says []string
	x := 0.0
	for i := range b.Parts {
		p := &b.Parts[i]
		w := 0.0
		if p.N > 0 {
			w = barLeast + (barWide-barLeast*some)*float64(p.N)/sum
			says = append(says, number(p.N)+" "+p.Name)
		}
		p.X, p.W = coordinate(x), coordinate(w)
		x += w
	}
	b.Label = strings.Join(says, ", ")
	return b
}

func coordinate(v float64) string { return strconv.FormatFloat(v, 'f', 1, 64) }

// spark is the course of a number.
type spark struct {
	Label        string
	Line         string // points of a polyline
	Area         string // points of a polygon
	LastX, LastY string
}

const sparkWide, sparkHigh, sparkRim = 112.0, 28.0, 3.0

// newSpark draws counts, the oldest first. Those below the floor are drawn as
// nothing, so that the line says no more than the numbers do. The height is the
// range of the numbers, but at least a tenth of the greatest: noise does not
// look like a course.
func newSpark(counts []uint64) *spark { return newLine(counts, "generations") }

// newLine draws counts of what a label calls so.
func newLine(counts []uint64, of string) *spark {
	if len(counts) < 2 {
		return nil
	}
	vs := make([]float64, len(counts))
	for i, n := range counts {
		if n >= audience.ShownFloor {
			vs[i] = float64(n)
		}
	}
	low, high := slices.Min(vs), slices.Max(vs)
	if least := high / 10; high-low < least {
		mid := (high + low) / 2
		low, high = mid-least/2, mid+least/2
	}
	if high == low {
		high = low + 1
	}
	s := &spark{Label: fmt.Sprintf("%d %s: from %s to %s", len(counts), of, shown(counts[0]), shown(counts[len(counts)-1]))}
	var line strings.Builder
	for i, v := range vs {
		x := sparkRim + (sparkWide-2*sparkRim)*float64(i)/float64(len(vs)-1)
		y := sparkHigh - sparkRim - (sparkHigh-2*sparkRim)*(v-low)/(high-low)
		s.LastX, s.LastY = coordinate(x), coordinate(y)
		if i > 0 {
			line.WriteByte(' ')
		}
		line.WriteString(s.LastX + "," + s.LastY)
	}
	s.Line = line.String()
	s.Area = coordinate(sparkRim) + "," + coordinate(sparkHigh) + " " + s.Line + " " + s.LastX + "," + coordinate(sparkHigh)
	return s
}

// gauge is how much of a bound is used, or where an interval lies: X and W of
// 100 units.
type gauge struct{ X, W, Mark string }

// ageGauge shows an age against its bound.
func ageGauge(age, bound int) gauge {
	if bound <= 0 {
		bound = 1
	}
	w := min(100, max(0, 100*float64(age)/float64(bound)))
	return gauge{"0", coordinate(w), coordinate(w)}
}

// aucGauge shows an area under the curve and its interval from 0.5, chance, to 1.
func aucGauge(low, at, high float64) gauge {
	pos := func(v float64) float64 { return min(100, max(0, 200*(v-0.5))) }
	return gauge{coordinate(pos(low)), coordinate(max(1, pos(high)-pos(low))), coordinate(pos(at))}
}

// shareGauge shows a part of one.
func shareGauge(v float64) gauge {
	w := min(100, max(0, 100*v))
	return gauge{"0", coordinate(w), coordinate(w)}
}
