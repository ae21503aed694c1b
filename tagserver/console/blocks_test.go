package console

import (
	"net/url"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/segments/query"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// drawExpr draws any expression that the language has.
func drawExpr(t *rapid.T, depth int) query.Expr {
	kinds := []string{"any", "trait", "trait", "attribute", "list", "audience", "sequence", "compared"}
	if depth > 0 {
		kinds = append(kinds, "and", "or", "not", "and", "or", "as of")
	}
	slug := rapid.StringMatching(`[a-z][a-z0-9-]{0,8}[a-z0-9]`)
	switch rapid.SampledFrom(kinds).Draw(t, "kind") {
	case "and":
		return query.And{Of: drawSome(t, depth)}
	case "or":
		return query.Or{Of: drawSome(t, depth)}
	case "not":
		return query.Not{Of: drawExpr(t, depth-1)}
	case "trait":
		x := query.Had(taxonomy.Trait("c:" + slug.Draw(t, "taxonomy") + "/" + slug.Draw(t, "category")))
		if rapid.Bool().Draw(t, "key") {
			x.Trait = "k:brand=Ben & Jerry's, \"ice\" (500 g)"
		}
		x.Min = rapid.IntRange(0, 255).Draw(t, "min")
		x.Max = rapid.SampledFrom([]int{0, 254, max(1, min(254, x.Min))}).Draw(t, "max")
		if x.Max > 0 && x.Max < x.Min {
			x.Max = 0
		}
		if x.Min == 0 && x.Max == 0 {
			x.Max = 3
		}
		x.Unit = rapid.SampledFrom([]index.Unit{index.Events, index.DistinctDays}).Draw(t, "unit")
		if rapid.Bool().Draw(t, "range") {
			from := taxonomy.Day(rapid.IntRange(20000, 21000).Draw(t, "from"))
			x.Window = query.Window{From: from, To: from + taxonomy.Day(rapid.IntRange(0, 89).Draw(t, "long"))}
		} else {
			x.Window = query.LastDays(rapid.IntRange(1, 90).Draw(t, "days"))
		}
		if rapid.Bool().Draw(t, "seen") {
			lo := rapid.IntRange(0, 89).Draw(t, "lo")
			x.LastSeen = &query.Recency{Min: lo, Max: rapid.IntRange(lo, 89).Draw(t, "hi")}
		}
		if rapid.Bool().Draw(t, "sources") {
			x.Sources = []taxonomy.SourceID{"crm", "web"}
		}
		return x
	case "sequence":
		return query.Sequence{Steps: []query.Step{{Trait: "c:a/b"}, {Trait: "k:x=y z", Within: 7, Sources: []taxonomy.SourceID{"web"}}}, Window: query.LastDays(30)}
	case "compared":
		return query.Attribute{Key: "age", Range: &query.Range{Low: query.Bound{Set: true, Value: 18}}}
	case "as of":
		return query.AsOf{Ago: 30, Of: drawExpr(t, depth-1)}
	case "attribute":
		return query.Attribute{Key: "age group", In: []string{" x", "18-24", "a or b", "ü, \"q\""}}
	case "list":
		return query.List{List: taxonomy.ListID(slug.Draw(t, "list"))}
	case "audience":
		return query.Audience{ID: taxonomy.AudienceID(slug.Draw(t, "audience"))}
	}
	return query.Any{}
}

func drawSome(t *rapid.T, depth int) (of []query.Expr) {
	for range rapid.IntRange(1, 3).Draw(t, "parts") {
		of = append(of, drawExpr(t, depth-1))
	}
	return of
}

// Text, blocks and the form that holds them say the same rule, whichever is changed.
func TestBlocksAndTextSayTheSame(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e := drawExpr(t, 4)
		if err := query.Check(e); err != nil {
			t.Fatalf("drew what is no rule: %v", err)
		}
		form := url.Values{}
		blockOf(e).encode(form)
		back := readBlocks(form)
		if got := back.expr(); !reflect.DeepEqual(got, e) {
			t.Fatalf("%s became %v with %v", query.Text(e), got, form)
		}
		// Through the draft: a new text makes new blocks, a changed block a new text.
		d := draft{Text: query.Text(e), Root: newTraitBlock()}
		if d.settle(""); d.Expr == nil || query.Text(d.Root.expr()) != query.Text(e) {
			t.Fatalf("the text %s gave blocks %v", query.Text(e), d.Root)
		}
		other := drawExpr(t, 2)
		d.Root = blockOf(other)
		if d.settle(""); d.Text != d.Was || d.Text != query.Text(other) {
			t.Fatalf("the blocks %s gave the text %s", query.Text(other), d.Text)
		}
	})
}

// Whatever is clicked, in whatever order, the blocks stay a rule once every field is
// filled, and nothing panics.
func TestButtonsLeaveARule(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := blockOf(drawExpr(t, 3))
		for range rapid.IntRange(1, 12).Draw(t, "clicks") {
			n := rapid.IntRange(0, len(b.number())-1).Draw(t, "at")
			do := rapid.SampledFrom([]string{"add", "or", "not", "remove"}).Draw(t, "do")
			var ok bool
			if b, ok = b.change(do + ":" + strings.TrimSpace(number(n))); !ok {
				t.Fatalf("%s of %d is not known", do, n)
			}
			for _, k := range b.number() {
				k.Faults = nil
				if k.Kind == "trait" && k.Trait == "" {
					k.Trait = "c:a/b"
				}
				if !k.Leaf() && len(k.Of) == 0 {
					t.Fatalf("%s of %d left an empty %s", do, n, k.Kind)
				}
			}
			if len(b.number()) < 100 && depthOf(b) < query.MaxDepth && b.expr() == nil {
				t.Fatalf("%s of %d left no rule", do, n)
			}
		}
	})
}

func depthOf(b *block) int {
	d := 0
	for _, k := range b.Of {
		d = max(d, depthOf(k))
	}
	return d + 1
}

// What is wrong stands at its field, and what was typed stays.
func TestFaultsOfBlocksStandAtTheirFields(t *testing.T) {
	for field, b := range map[string]*block{
		"trait":    {Kind: "trait", Trait: "grocery"},
		"window":   {Kind: "trait", Trait: "c:a/b", Window: "91d"},
		"min":      {Kind: "trait", Trait: "c:a/b", Min: "often"},
		"max":      {Kind: "trait", Trait: "c:a/b", Min: "5", Max: "3"},
		"lastmax":  {Kind: "trait", Trait: "c:a/b", LastMin: "9", LastMax: "3"},
		"sources":  {Kind: "trait", Trait: "c:a/b", Sources: "No Slug"},
		"key":      {Kind: "attribute", In: "x"},
		"in":       {Kind: "attribute", Key: "age"},
		"list":     {Kind: "list", List: "a b"},
		"audience": {Kind: "audience"},
	} {
		root := &block{Kind: "and", Of: []*block{{Kind: "any"}, {Kind: "not", Of: []*block{{Kind: "or", Of: []*block{b}}}}}}
		if root.expr() != nil {
			t.Errorf("%s: it is taken as a rule", field)
		}
		if b.Fault(field) == "" || len(b.Faults) != 1 {
			t.Errorf("%s: faults %v", field, b.Faults)
		}
	}
}

// When both sides were changed, one of them counts, and what the other said is told.
func TestNothingTypedIsLost(t *testing.T) {
	start := func() draft {
		d := draft{Text: "c:a/b in 30d", Root: newTraitBlock()}
		d.settle("")
		return d
	}
	d := start()
	d.Text, d.Root = "c:a/c and", blockOf(query.List{List: "crm"})
	d.settle("")
	if len(d.Faults) == 0 || d.Text != "c:a/c and" || d.Root.List != "crm" || d.Expr != nil {
		t.Errorf("a faulty text: %+v", d)
	}
	if d.settle("blocks"); d.Text != "in list crm" || !strings.Contains(d.Note, "c:a/c and") {
		t.Errorf("blocks instead of a faulty text: %+v", d)
	}
	d = start()
	d.Text, d.Root = "c:a/c", blockOf(query.List{List: "crm"})
	if d.settle(""); d.Root.Trait != "c:a/c" || !strings.Contains(d.Note, "in list crm") {
		t.Errorf("both changed: %+v", d)
	}
	d = start()
	d.Text = "  c:a/b   IN 30d "
	if d.settle(""); d.Text != "  c:a/b   IN 30d " || d.Note != "" {
		t.Errorf("the text is written anew without need: %+v", d)
	}
}

// encode writes blocks as a form holds them.
func (b *block) encode(v url.Values) {
	for _, b := range b.number() {
		set := func(field, s string) { v.Set(field+"."+strconv.Itoa(b.N), s) }
		set("kind", b.Kind)
		set("up", strconv.Itoa(b.Up))
		switch b.Kind {
		case "trait":
			for f, s := range map[string]string{"trait": b.Trait, "sources": b.Sources, "window": b.Window, "min": b.Min, "max": b.Max, "unit": b.Unit, "lastmin": b.LastMin, "lastmax": b.LastMax} {
				set(f, s)
			}
		case "attribute":
			set("key", b.Key)
			set("in", b.In)
		case "list":
			set("list", b.List)
		case "audience":
			set("audience", b.Audience)
		case "text":
			set("text", b.Text)
		}
	}
}
