package insight_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/segments/insight"
	"github.com/ebb-dmp/ebb/segments/query"
	"github.com/ebb-dmp/ebb/segments/query/querytest"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/tree"
)

// crowd is a view of day files as the fold writes them, in one shard, of visitors who
// permit everything.
type crowd struct {
	*querytest.View // of nobody: position and clock
	visitors        int
	days            index.Days
}

func (c *crowd) Shards() int    { return 1 }
func (c *crowd) Blocks(int) int { return (c.visitors + index.BlockSize - 1) / index.BlockSize }
func (c *crowd) Columns(from, to taxonomy.Day, fn func(taxonomy.Column, uint64)) error {
	all := map[taxonomy.Column]uint64{}
	c.days.AddColumns(from, to, all)
	for _, k := range index.SortedColumns(all) {
		fn(k, all[k])
	}
	return nil
}
func (c *crowd) Leaf(_, block int, op *index.Operand, dst *index.Words) (int, error) {
	if op.Kind != index.OpSet {
		return c.days.Leaf(block, op, dst), nil
	}
	clear(dst[:])
	n := 0
	if op.Set == index.SetProfile || op.Set == index.SetInsight {
		for n = range min(index.BlockSize, c.visitors-block*index.BlockSize) {
			dst[n/64] |= 1 << (n % 64)
		}
		n++
	}
	return n, nil
}

// newCrowd has visitors with about ten facts each, in categories of Zipf's sizes, and
// a forest of these.
func newCrowd(b *testing.B, visitors, categories int) (*crowd, *tree.Forest, []taxonomy.Trait) {
	r := rand.New(rand.NewPCG(7, 8))
	t := tree.Taxonomy{ID: "p", Title: "P"}
	traits := make([]taxonomy.Trait, categories)
	var weights float64
	for i := range traits {
		k := fmt.Sprintf("k%03d", i)
		t.Categories = append(t.Categories, tree.Category{ID: k, Title: k})
		traits[i] = taxonomy.CategoryTrait("p", k)
		weights += 1 / float64(i+2)
	}
	c := &crowd{visitors: visitors, days: index.Days{}, View: (&querytest.World{Now: today.Start() + 5*taxonomy.Hour}).View()}
	for day := today.Oldest(); day <= today; day++ {
		w := index.NewBuilder(0, day)
		seen := make([]bool, visitors)
		for i, trait := range traits {
			each := weights * float64(i+2) * 90 / 10 // visitors from one with the category to the next
			var had []uint32
			for at := r.Float64() * 2 * each; at < float64(visitors); at += r.Float64() * 2 * each {
				had = append(had, uint32(at))
				seen[uint32(at)] = true
			}
			if len(had) > 0 {
				w.Add(taxonomy.Column{Source: "shop", Trait: trait}, had)
			}
		}
		var some []uint32
		for v, is := range seen {
			if is {
				some = append(some, uint32(v))
			}
		}
		w.Add(taxonomy.Column{Source: "shop", Trait: taxonomy.TraitAny}, some)
		l, err := w.Build()
		if err != nil {
			b.Fatal(err)
		}
		c.days[day] = []*index.Layer{l}
	}
	f, err := tree.New(t)
	if err != nil {
		b.Fatal(err)
	}
	return c, f, traits
}

// BenchmarkProfile counts the profile of an audience of about 100,000 among 1 M
// visitors by 300 categories, and the same pairs by an estimate each, and compares
// first the counts. Estimates are asked for one category in ten. -short takes a tenth
// of the visitors.
func BenchmarkProfile(b *testing.B) {
	visitors := 1_000_000
	if testing.Short() {
		visitors /= 10
	}
	c, f, traits := newCrowd(b, visitors, 300)
	def := func(id, text string) audience.Versioned {
		d := audience.Definition{ID: taxonomy.AudienceID(id), Title: id, Kind: audience.KindRule, RuleText: text}
		if err := d.ReadText(); err != nil {
			b.Fatal(err)
		}
		return audience.Versioned{Version: 1, Definition: d}
	}
	defs := []audience.Versioned{def("some", "(c:p/k010 or c:p/k040 in 60d) and not c:p/k000 in 30d")}
	basis := audience.Basis{View: c, Catalog: audience.NewCatalog(defs), Sources: []taxonomy.SourceID{"shop"}, Workers: 1}
	estimate := func(of ...query.Expr) uint64 {
		e := of[0]
		if len(of) > 1 {
			e = query.And{Of: of}
		}
		x, err := audience.NewEstimate(b.Context(), basis, e)
		if err != nil {
			b.Fatal(err)
		}
		return x.Count
	}
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	const every = 10
	for b.Loop() {
		begin := time.Now()
		p, err := insight.NewProfile(b.Context(), basis, f, insight.ProfileQuery{Audience: "some"})
		if err != nil {
			b.Fatal(err)
		}
		counted := time.Now()
		p.Tell(audience.ShownFloor)
		told := time.Now()
		for i := 0; i < len(traits); i += every {
			had := query.Had(traits[i])
			if k := p.Categories[i]; k.Trait != traits[i] || k.Base != estimate(had) || k.Members != estimate(query.Audience{ID: "some"}, had) {
				b.Fatalf("%+v is not what estimates say", k)
			}
		}
		apart := time.Since(told) * every
		b.ReportMetric(ms(told.Sub(begin)), "profile-ms")
		b.ReportMetric(ms(told.Sub(counted)), "guard-ms")
		b.ReportMetric(ms(apart), "estimates-ms")
		b.ReportMetric(float64(apart)/float64(told.Sub(begin)), "ratio")
		b.ReportMetric(float64(p.Members), "members")
	}
}

// BenchmarkOverlap counts ten audiences over the same visitors, and each pair by an
// estimate.
func BenchmarkOverlap(b *testing.B) {
	visitors := 1_000_000
	if testing.Short() {
		visitors /= 10
	}
	c, _, _ := newCrowd(b, visitors, 100)
	var defs []audience.Versioned
	q := insight.OverlapQuery{}
	for i := range insight.MaxGroups {
		id := taxonomy.AudienceID(fmt.Sprint("a", i))
		d := audience.Definition{ID: id, Title: "A", Kind: audience.KindRule, RuleText: fmt.Sprintf("c:p/k%03d or c:p/k%03d in 30d", i, 40+i)}
		if err := d.ReadText(); err != nil {
			b.Fatal(err)
		}
		defs, q.Of = append(defs, audience.Versioned{Version: 1, Definition: d}), append(q.Of, insight.Group{Audience: id})
	}
	basis := audience.Basis{View: c, Catalog: audience.NewCatalog(defs), Sources: []taxonomy.SourceID{"shop"}, Workers: 1}
	for b.Loop() {
		begin := time.Now()
		o, err := insight.NewOverlap(b.Context(), basis, q)
		if err != nil {
			b.Fatal(err)
		}
		o.Tell(audience.ShownFloor)
		together := time.Since(begin)
		begin = time.Now()
		for i := range q.Of {
			for j := range i {
				x, err := audience.NewEstimate(b.Context(), basis, query.And{Of: []query.Expr{query.Audience{ID: q.Of[i].Audience}, query.Audience{ID: q.Of[j].Audience}}})
				if err != nil {
					b.Fatal(err)
				}
				if x.Count != o.Together(insight.Of(i, j)) {
					b.Fatalf("%s and %s: %d, an estimate says %d", q.Of[i], q.Of[j], o.Together(insight.Of(i, j)), x.Count)
				}
			}
		}
		b.ReportMetric(float64(together.Microseconds())/1000, "overlap-ms")
		b.ReportMetric(float64(time.Since(begin))/float64(together), "ratio")
	}
}
