package index

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/RoaringBitmap/roaring/v2"
	"pgregory.net/rapid"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
)

const today = taxonomy.Day(20_100)

var (
	tennis = taxonomy.Column{Source: "web", Trait: "c:t/tennis"}
	golf   = taxonomy.Column{Source: "crm", Trait: "c:t/golf"}
	young  = taxonomy.Column{Source: "web", Trait: "a:age=18-24"}
	old    = taxonomy.Column{Source: "web", Trait: "a:age=65+"}
	young2 = taxonomy.Column{Source: "crm", Trait: "a:age=18-24"}
)

// obs is one thing that happened: the naive model is a list of them.
type obs struct {
	col     taxonomy.Column
	day     taxonomy.Day
	ordinal uint32
	n       int // events; 1 for a statement
}

// drawLayers draws what each of a few layers of a few days saw.
func drawLayers(t *rapid.T) (days []taxonomy.Day, layers [][]obs) {
	for range rapid.IntRange(1, 6).Draw(t, "layers") {
		day := today - taxonomy.Day(rapid.SampledFrom([]int{0, 1, 2, 88, 89, 90}).Draw(t, "day"))
		var l []obs
		said := map[[2]any]bool{}
		for range rapid.IntRange(1, 40).Draw(t, "events") {
			o := obs{day: day,
				col:     rapid.SampledFrom([]taxonomy.Column{tennis, golf, young, old, young2}).Draw(t, "column"),
				ordinal: rapid.SampledFrom([]uint32{0, 1, 2, 63, 64, 65535, 65536, 65537, 200_000}).Draw(t, "ordinal"),
				n:       rapid.SampledFrom([]int{1, 1, 2, 3, 200, 254, 300}).Draw(t, "n"),
			}
			if key, ok := o.col.Trait.Statement(); ok {
				if said[[2]any{o.ordinal, string(o.col.Source) + key}] {
					continue // a layer has one statement of a key
				}
				said[[2]any{o.ordinal, string(o.col.Source) + key}] = true
				o.n = 1
			}
			l = append(l, o)
		}
		days, layers = append(days, day), append(layers, l)
	}
	return days, layers
}

func build(t rapid.TB, day taxonomy.Day, seen []obs) *Layer {
	t.Helper()
	events := map[taxonomy.Column][]uint32{}
	for _, o := range seen {
		for range o.n {
			events[o.col] = append(events[o.col], o.ordinal)
		}
	}
	b := NewBuilder(3, day)
	for c, e := range events {
		rand.Shuffle(len(e), func(i, j int) { e[i], e[j] = e[j], e[i] })
		b.Add(c, e)
	}
	l, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// R14, R16: a leaf from any layers, merged or not, says what a walk over the raw
// observations says.
func TestLeafSaysWhatTheObservationsSay(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		dayOf, layers := drawLayers(t)
		d := Days{}
		for i := range layers {
			if l := build(t, dayOf[i], layers[i]); l != nil {
				d[dayOf[i]] = append(d[dayOf[i]], l)
			}
		}
		if rapid.Bool().Draw(t, "merge") {
			for day, ls := range d {
				if n := len(ls); n > 1 {
					from := rapid.IntRange(0, n-2).Draw(t, "from")
					m, err := Merge(ls[from:from+2], nil)
					if err != nil {
						t.Fatal(err)
					}
					d[day] = slices.Concat(ls[:from], []*Layer{m}, ls[from+2:])
				}
			}
		}
		from := today - taxonomy.Day(rapid.IntRange(0, 95).Draw(t, "window"))
		count := Operand{Kind: OpCount, Columns: []taxonomy.Column{golf, tennis}, From: from, To: today,
			Unit: Unit(rapid.IntRange(0, 1).Draw(t, "unit")), Min: uint8(rapid.SampledFrom([]int{1, 2, 3, 200, 255}).Draw(t, "min"))}
		newest := Operand{Kind: OpNewest, Columns: []taxonomy.Column{young, young2}, All: []taxonomy.Column{young, young2, old}, AsOf: today}
		for block := range 4 {
			check := func(op Operand, want func(uint32) bool) {
				var w Words
				n := d.Leaf(block, &op, &w)
				total := 0
				for i := range uint32(BlockSize) {
					has := w[i/64]&(1<<(i%64)) != 0
					if has {
						total++
					}
					if o := uint32(block)<<16 | i; (has || i < 70 || i > 65530) && has != want(o) {
						t.Fatalf("%s: ordinal %d: leaf says %v", op.Key(), o, has)
					}
				}
				if total != n {
					t.Fatalf("%s: leaf counted %d, has %d", op.Key(), n, total)
				}
			}
			check(count, func(o uint32) bool {
				sum, days := 0, map[taxonomy.Day]bool{}
				for _, l := range layers {
					for _, x := range l {
						if x.ordinal == o && (x.col == golf || x.col == tennis) && x.day >= from {
							sum += x.n
							days[x.day] = true
						}
					}
				}
				if count.Unit == DistinctDays {
					sum = len(days)
				}
				return min(sum, 255) >= int(count.Min)
			})
			check(newest, func(o uint32) bool {
				for day := today; day >= today.Oldest(); day-- {
					for _, source := range []taxonomy.SourceID{"crm", "web"} {
						for i := len(layers) - 1; i >= 0; i-- {
							for _, x := range layers[i] {
								if _, ok := x.col.Trait.Statement(); ok && x.day == day && x.ordinal == o && x.col.Source == source {
									return x.col.Trait == young.Trait
								}
							}
						}
					}
				}
				return false
			})
			var ages [BlockSize]uint8
			d.Newest(block, []taxonomy.Column{golf, tennis}, from, today, &ages)
			for _, low := range []uint32{0, 1, 2, 63, 64, 65535, 3392} {
				o := uint32(block)<<16 | low
				want := uint8(0)
				for _, l := range layers {
					for _, x := range l {
						if age := uint8(today-x.day) + 1; x.ordinal == o && (x.col == golf || x.col == tennis) && x.day >= from && (want == 0 || age < want) {
							want = age
						}
					}
				}
				if ages[low] != want {
					t.Fatalf("newest day of %d: got %d want %d", o, ages[low], want)
				}
			}
		}
	})
}

// R17: what roaring writes we read, and any roaring library reads what a layer
// holds.
func TestPortableReadsWhatRoaringWrites(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := roaring.New()
		for range rapid.IntRange(0, 5).Draw(t, "parts") {
			from := rapid.Uint32Range(0, 300_000).Draw(t, "from")
			switch rapid.IntRange(0, 2).Draw(t, "shape") {
			case 0:
				b.AddRange(uint64(from), uint64(from)+rapid.Uint64Range(1, 70_000).Draw(t, "length"))
			case 1:
				r := rand.New(rand.NewPCG(uint64(from), 1))
				for range 6000 {
					b.Add(from + r.Uint32N(65536))
				}
			case 2:
				b.Add(from)
			}
		}
		if rapid.Bool().Draw(t, "runs") {
			b.RunOptimize()
		}
		raw, err := b.ToBytes()
		if err != nil {
			t.Fatal(err)
		}
		p, err := parsePortable(raw)
		if err != nil {
			t.Fatal(err)
		}
		for block := range 8 {
			var w Words
			if c := p.block(block); c != nil {
				p.or(c, &w)
			}
			want := roaring.New()
			want.AddRange(uint64(block)<<16, uint64(block+1)<<16)
			want.And(b)
			got := roaring.New()
			w.each(func(v uint16) { got.Add(uint32(block)<<16 | uint32(v)) })
			if !got.Equals(want) {
				t.Fatalf("block %d: got %d visitors, want %d", block, got.GetCardinality(), want.GetCardinality())
			}
			if c := p.block(block); c != nil {
				for range 20 {
					v := uint16(rapid.Uint32Range(0, 65535).Draw(t, "v"))
					if p.contains(c, v) != b.Contains(uint32(block)<<16|uint32(v)) {
						t.Fatalf("contains %d differs", v)
					}
				}
			}
		}
	})
}

// A flipped bit anywhere in a layer is found.
func TestFlippedBitInALayerIsFound(t *testing.T) {
	l := build(t, today, []obs{{tennis, today, 5, 3}, {golf, today, 70_000, 1}, {young, today, 9, 1}})
	for i := range l.Bytes() {
		b := bytes.Clone(l.Bytes())
		b[i] ^= 1 << (i % 8)
		if _, err := OpenLayer(b); !errors.Is(err, retention.ErrCorrupt) {
			t.Fatalf("bit flipped in byte %d: %v", i, err)
		}
	}
	for n := range l.Bytes() {
		if _, err := OpenLayer(l.Bytes()[:n]); !errors.Is(err, retention.ErrCorrupt) {
			t.Fatalf("cut to %d bytes: %v", n, err)
		}
	}
}

func FuzzOpenLayer(f *testing.F) {
	l := build(f, today, []obs{{tennis, today, 5, 3}, {golf, today, 70_000, 1}})
	f.Add(l.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		// The checksum stops most, so the parsers behind it are asked directly.
		_, _ = OpenLayer(b)
		_, _ = parseMulti(b)
		if p, err := parsePortable(b); err == nil {
			for i := range p.blocks {
				var w Words
				p.or(&p.blocks[i], &w)
			}
		}
	})
}

// R6: who is dropped from a merge is in no column of it.
func TestMergeDropsWhoIsGone(t *testing.T) {
	a := build(t, today, []obs{{tennis, today, 5, 3}, {tennis, today, 6, 1}})
	b := build(t, today, []obs{{tennis, today, 5, 1}, {young, today, 5, 1}})
	m, err := Merge([]*Layer{a, b}, roaring.BitmapOf(5))
	if err != nil {
		t.Fatal(err)
	}
	d := Days{today: {m}}
	if n := d.Events(5, tennis, today); n != 0 {
		t.Errorf("the dropped visitor still has %d events", n)
	}
	if n := d.Events(6, tennis, today); n != 1 {
		t.Errorf("another visitor has %d events, want 1", n)
	}
	if got := m.ColumnNames(); len(got) != 1 {
		t.Errorf("columns left: %v, want the one with visitors", got)
	}
}
