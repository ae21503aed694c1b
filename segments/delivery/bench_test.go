package delivery_test

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/RoaringBitmap/roaring/v2"
	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/retention/storetest"
	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/segments/delivery/format/tsv"
	"github.com/ebb-dmp/ebb/segments/delivery/transport/pull"
	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// crowd is a view of n visitors in one shard who may all be sent.
type crowd struct {
	n      int
	now    taxonomy.Millis
	oneDay bool // all copies end on one day
	// matches: each has an ID of the partner's.
	matches bool
}

func (c *crowd) Shards() int                  { return 1 }
func (c *crowd) Blocks(int) int               { return (c.n + index.BlockSize - 1) / index.BlockSize }
func (c *crowd) Position() retention.Position { return nil }
func (c *crowd) Clock() taxonomy.Millis       { return c.now }
func (c *crowd) RuleVersion() uint32          { return 1 }
func (c *crowd) Leaf(_, _ int, op *index.Operand, dst *index.Words) (int, error) {
	*dst = index.Words{}
	if op.Set == index.SetAllow+string(dsp) || c.matches && op.Set == index.SetMatched+string(dsp) {
		for i := range dst {
			dst[i] = ^uint64(0)
		}
	}
	return 0, nil
}
func (c *crowd) Newest(_, block int, _ []taxonomy.Column, from, to taxonomy.Day, dst *[index.BlockSize]uint8) error {
	for i := range dst {
		dst[i] = uint8(2 + (i*7919+block)%80)
	}
	return nil
}
func (c *crowd) Columns(_, _ taxonomy.Day, fn func(taxonomy.Column, uint64)) error {
	fn(colAny, 1)
	return nil
}
func (c *crowd) Key(_ int, o uint32) (k taxonomy.VisitorKey, ok bool) {
	binary.BigEndian.PutUint64(k[:], uint64(o)*0x9e3779b97f4a7c15)
	binary.BigEndian.PutUint64(k[8:], uint64(o)*0xc2b2ae3d27d4eb4f)
	return k, true
}
func (c *crowd) Ordinal(taxonomy.VisitorKey) (int, uint32, bool) { return 0, 0, false }
func (c *crowd) Consent(_ int, o uint32) (taxonomy.Consent, bool) {
	day := c.now.Day()
	if !c.oneDay {
		day -= taxonomy.Day(o % 25)
	}
	return taxonomy.Consent{Day: day, Purposes: taxonomy.MayAll}, true
}
func (c *crowd) MatchID(_ taxonomy.DestinationID, _ int, o uint32) (string, taxonomy.Day, bool) {
	return strconv.FormatUint(uint64(o+1)*0x1000000007, 10), c.now.Day(), c.matches
}

// BenchmarkRun delivers a full of a million rows, then a delta of one in fifty,
// and prints how much of the full is spent on more than encoding its rows.
func BenchmarkRun(b *testing.B) {
	const n = 1_000_000
	all := roaring.New()
	all.AddRange(0, n)
	most := all.Clone()
	for i := uint32(0); i < n; i += 50 {
		most.Remove(i)
	}
	var full, delta, encode time.Duration
	for b.Loop() {
		c := &crowd{n: n, now: storetest.Start}
		m := storetest.NewModel(func() taxonomy.Millis { return c.now })
		d, err := delivery.New(delivery.Options{
			Keyed: m.Keyed(), Blobs: m.Blobs(),
			Pseudonym: func(_ taxonomy.DestinationID, _ uint32, k taxonomy.VisitorKey) string {
				return hex.EncodeToString(k[:])
			},
			View:    func(context.Context) (audience.View, error) { return c, nil },
			Formats: map[string]delivery.Format{"tsv": tsv.Format{}}, Transports: map[string]delivery.Transport{"pull": pull.Transport{}},
			Now: func() taxonomy.Millis { return c.now }, Rand: rand.NewChaCha8([32]byte{}),
		})
		if err != nil {
			b.Fatal(err)
		}
		dest := delivery.Destination{ID: dsp, Floor: 1, Audiences: []taxonomy.AudienceID{"cars"}}
		run := func(gen uint64, who *roaring.Bitmap) (delivery.Delivery, time.Duration) {
			src := delivery.Source{
				Generation: &audience.Generation{Number: gen, Clock: c.now, Shards: 1, Audiences: []audience.Entry{{ID: "cars", Positive: []taxonomy.Column{colCar}}}},
				View:       c,
				Members:    func(context.Context, audience.Entry) (index.Set, error) { return index.Set{who}, nil },
			}
			start := time.Now()
			done, err := d.Run(context.Background(), dest, src)
			if err != nil {
				b.Fatal(err)
			}
			return done, time.Since(start)
		}
		done, took := run(1, most)
		full += took
		if done.Rows != most.GetCardinality() {
			b.Fatalf("%+v", done)
		}
		if done, took = run(2, all); done.Adds != n/50 {
			b.Fatalf("%+v", done)
		}
		delta += took

		ids := make([]string, 0, n)
		for it := most.Iterator(); it.HasNext(); {
			k, _ := c.Key(0, it.Next())
			ids = append(ids, hex.EncodeToString(k[:]))
		}
		slices.Sort(ids)
		start := time.Now()
		e := tsv.Format{}.New(delivery.FileInfo{IDs: delivery.ByPseudonym})
		var out []byte
		for chunk := range slices.Chunk(ids, 4096) {
			out, _ = e.Append(out[:0], delivery.Run{Audience: "cars", Minutes: 4000}, chunk)
		}
		encode += time.Since(start)
	}
	b.ReportMetric(float64(full)/float64(encode), "full/encoding")
	b.ReportMetric(float64(full)/float64(delta), "full/delta")
	b.ReportMetric(float64(b.N*n)/full.Seconds()/1e6, "full-Mrows/s")
}
