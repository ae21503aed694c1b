package rules

import (
	"fmt"
	"testing"

	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/tree"
)

// publisher makes n rules as a publisher has them: some by host and path, some
// by event name, some by a property, some by a price band.
func publisher(tb testing.TB, n int) (*tree.Forest, []Rule) {
	x := tree.Taxonomy{ID: "t", Title: "T", Categories: []tree.Category{{ID: "root", Title: "root"}}}
	for i := range 200 {
		p := "root"
		if i >= 20 {
			p = fmt.Sprint("c", i/10)
		}
		x.Categories = append(x.Categories, tree.Category{ID: fmt.Sprint("c", i), Title: "c", Parents: []string{p}})
	}
	f, err := tree.New(x)
	if err != nil {
		tb.Fatal(err)
	}
	var rules []Rule
	for i := range n {
		r := Rule{ID: fmt.Sprint("r", i), Then: []string{fmt.Sprint("c:t/c", i%200)}}
		switch i % 10 {
		case 0:
			r.When = []Condition{{Field: "name", Op: "eq", Value: fmt.Sprint("event", i)}}
		case 1:
			r.When = []Condition{{Field: "kind", Op: "eq", Value: "conversion"}, {Field: "prop.sku", Op: "in", Values: []string{fmt.Sprint("a", i), fmt.Sprint("b", i)}}}
		case 2:
			lo, hi := float64(i), float64(i+10)
			r.When = []Condition{{Field: "prop.price", Op: "range", Min: &lo, Max: &hi}}
		case 3:
			r.When = []Condition{{Field: "host", Op: "suffix", Value: fmt.Sprintf("site%d.com", i)}}
		default:
			r.When = []Condition{{Field: "host", Op: "eq", Value: fmt.Sprintf("www%d.com", i%50)}, {Field: "path", Op: "prefix", Value: fmt.Sprintf("/section%d/", i)}}
		}
		rules = append(rules, r)
	}
	return f, rules
}

func benchEvents(n int) []*taxonomy.Event {
	var es []*taxonomy.Event
	for i := range 64 {
		k := i * n / 64
		es = append(es,
			&taxonomy.Event{Kind: taxonomy.EventPage, URL: fmt.Sprintf("https://www%d.com/section%d/article-%d", k%50, k, i), Ref: "https://www.google.com",
				Props: props("lang", "en", "price", fmt.Sprint(k))},
			&taxonomy.Event{Kind: taxonomy.EventConversion, Name: fmt.Sprint("event", k-k%10), URL: fmt.Sprintf("https://m.site%d.com/", k-k%10+3),
				Props: props("price", "12.50", "sku", fmt.Sprint("a", k-k%10+1), "x", "y")})
	}
	return es
}

func BenchmarkClassify(b *testing.B) {
	for _, n := range []int{100, 10_000} {
		f, rules := publisher(b, n)
		c, err := Compile(1, f, rules)
		if err != nil {
			b.Fatal(err)
		}
		var ps []*parsed
		for i := range rules {
			p, err := parse(&rules[i], f)
			if err != nil {
				b.Fatal(err)
			}
			ps = append(ps, p)
		}
		es := benchEvents(n)
		var one float64 // ns an event, for the ratio
		b.Run(fmt.Sprint(n, "/one-by-one"), func(b *testing.B) {
			i, hits := 0, 0
			for b.Loop() {
				e := es[i%len(es)]
				i++
				v := look(e)
			next:
				for _, p := range ps {
					for j := range p.conds {
						if !p.conds[j].holds(&v, e) {
							continue next
						}
					}
					hits++
				}
			}
			one = float64(b.Elapsed().Nanoseconds()) / float64(b.N)
		})
		b.Run(fmt.Sprint(n, "/classify"), func(b *testing.B) {
			dst := make([]taxonomy.Trait, 0, 64)
			i := 0
			b.ReportAllocs()
			for b.Loop() {
				dst = c.Classify("shop", es[i%len(es)], dst[:0])
				i++
			}
			b.ReportMetric(one*float64(b.N)/float64(b.Elapsed().Nanoseconds()), "times-faster")
		})
	}
}

func TestClassifyDoesNotAllocate(t *testing.T) {
	f, rules := publisher(t, 1000)
	rules = append(rules, Rule{ID: "k", Then: []string{"k:a=b", "c:t/{sku}"}})
	c, err := Compile(1, f, rules)
	if err != nil {
		t.Fatal(err)
	}
	es := benchEvents(1000)
	es[0].Traits = []taxonomy.Trait{"c:t/c199", "k:x=y"}
	dst := make([]taxonomy.Trait, 0, 64)
	most := 0
	if n := testing.AllocsPerRun(20, func() {
		for _, e := range es {
			dst = c.Classify("shop", e, dst[:0])
			most = max(most, len(dst))
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if most < 4 {
		t.Errorf("at most %d traits: the events are about nothing", most)
	}
}
