package query_test

import (
	"strconv"
	"strings"
	"testing"

	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/segments/query"
	"github.com/ebb-dmp/ebb/segments/query/querytest"
	"github.com/ebb-dmp/ebb/taxonomy"
	"pgregory.net/rapid"
)

// The third implementation: sets of visitor numbers, computed from the raw
// facts by the words of R14, R15 and R16, knowing neither planner nor operands.

type visitors map[int]bool

type naive struct {
	w         *querytest.World
	today     taxonomy.Day
	at        taxonomy.Day // the day that is looked at: today, but for AsOf
	inUse     map[taxonomy.SourceID]bool
	audiences map[taxonomy.AudienceID]query.Expr
}

func (m *naive) had(trait taxonomy.Trait, sources []taxonomy.SourceID, from, to taxonomy.Day) (events map[int]int, days map[int]map[taxonomy.Day]bool) {
	events, days = map[int]int{}, map[int]map[taxonomy.Day]bool{}
	allowed := map[taxonomy.SourceID]bool{}
	for _, s := range sources {
		allowed[s] = true
	}
	for _, f := range m.w.Facts {
		if f.Column.Trait != trait || f.Day < from || f.Day > to || f.Day <= m.today-90 || f.Day > m.at ||
			!m.inUse[f.Column.Source] || sources != nil && !allowed[f.Column.Source] {
			continue
		}
		events[f.Visitor] += max(f.N, 1)
		if days[f.Visitor] == nil {
			days[f.Visitor] = map[taxonomy.Day]bool{}
		}
		days[f.Visitor][f.Day] = true
	}
	return events, days
}

func (m *naive) any() visitors {
	out := visitors{}
	events, _ := m.had("any", nil, m.today-89, m.today)
	for v := range events {
		out[v] = true
	}
	return out
}

func (m *naive) eligible() visitors {
	out := visitors{}
	for _, v := range m.w.Sets["permit:profile"] {
		out[v] = true
	}
	bots, _ := m.had("bot", nil, m.today-89, m.today)
	for v := range bots {
		delete(out, v)
	}
	for _, s := range []string{"gone", "holdout"} {
		for _, v := range m.w.Sets[s] {
			delete(out, v)
		}
	}
	return out
}

func (m *naive) newest(prefix string) map[int]taxonomy.Trait {
	best := map[int]querytest.Statement{}
	for _, s := range m.w.Stated {
		if !strings.HasPrefix(string(s.Column.Trait), prefix+"=") || !m.inUse[s.Column.Source] || s.Day <= m.today-90 || s.Day > m.at {
			continue
		}
		old, ok := best[s.Visitor]
		if !ok || s.Day > old.Day || s.Day == old.Day && s.Column.Source <= old.Column.Source {
			best[s.Visitor] = s
		}
	}
	out := map[int]taxonomy.Trait{}
	for v, s := range best {
		// A statement may have an end of its own; what was said before it does not
		// come back (R16).
		said, end, has := strings.Cut(string(s.Column.Trait), "\x1f")
		if n, _ := strconv.Atoi(end); !has || taxonomy.Day(n) > m.at {
			out[v] = taxonomy.Trait(said)
		}
	}
	return out
}

func (m *naive) eval(e query.Expr) visitors {
	out := visitors{}
	switch e := e.(type) {
	case query.And:
		out = m.eval(e.Of[0])
		for _, k := range e.Of[1:] {
			ks := m.eval(k)
			for v := range out {
				if !ks[v] {
					delete(out, v)
				}
			}
		}
	case query.Or:
		for _, k := range e.Of {
			for v := range m.eval(k) {
				out[v] = true
			}
		}
	case query.Not:
		out = m.any()
		for v := range m.eval(e.Of) {
			delete(out, v)
		}
	case query.Any:
		return m.any()
	case query.Trait:
		return m.trait(e)
	case query.Sequence:
		return m.sequence(e)
	case query.AsOf:
		then := *m
		if then.at -= taxonomy.Day(e.Ago); e.Day != 0 {
			then.at = min(m.at, e.Day)
		}
		if then.at <= m.today-90 {
			return out
		}
		return then.eval(e.Of)
	case query.Attribute:
		for v, t := range m.newest("a:" + e.Key) {
			if r := e.Range; r != nil {
				x, err := strconv.ParseFloat(strings.TrimPrefix(string(t), "a:"+e.Key+"="), 64)
				low := !r.Low.Set || x > r.Low.Value || x == r.Low.Value && !r.Low.Open
				high := !r.High.Set || x < r.High.Value || x == r.High.Value && !r.High.Open
				if err == nil && low && high {
					out[v] = true
				}
				continue
			}
			for _, x := range e.In {
				if string(t) == "a:"+e.Key+"="+x {
					out[v] = true
				}
			}
		}
	case query.List:
		for v, t := range m.newest("l:" + string(e.List)) {
			if string(t) == "l:"+string(e.List)+"=in" {
				out[v] = true
			}
		}
	case query.Audience:
		if rule := m.audiences[e.ID]; rule != nil {
			return m.eval(rule)
		}
		for _, v := range m.w.Sets["audience:"+string(e.ID)] {
			out[v] = true
		}
	}
	return out
}

// sequence tries every way through the days, from the first step on.
func (m *naive) sequence(s query.Sequence) visitors {
	from, to := s.Window.From, s.Window.To
	if s.Window.Days > 0 {
		from, to = m.at-taxonomy.Day(s.Window.Days)+1, m.at
	}
	steps := make([]map[int]map[taxonomy.Day]bool, len(s.Steps))
	for i, st := range s.Steps {
		_, steps[i] = m.had(st.Trait, st.Sources, from, to)
	}
	var goes func(v, step int, last taxonomy.Day) bool
	goes = func(v, step int, last taxonomy.Day) bool {
		if step == len(steps) {
			return true
		}
		for d := range steps[step][v] {
			if step == 0 || d > last && int(d-last) <= s.Steps[step].Within {
				if goes(v, step+1, d) {
					return true
				}
			}
		}
		return false
	}
	out := visitors{}
	for v := range steps[0] {
		if goes(v, 0, 0) {
			out[v] = true
		}
	}
	return out
}

func (m *naive) trait(t query.Trait) visitors {
	out := visitors{}
	from, to := t.Window.From, t.Window.To
	if t.Window.Days > 0 {
		from, to = m.at-taxonomy.Day(t.Window.Days)+1, m.at
	}
	events, days := m.had(t.Trait, t.Sources, from, to)
	n := func(v int) int {
		if t.Unit == index.DistinctDays {
			return len(days[v])
		}
		return events[v]
	}
	candidates := visitors{}
	for v := range events {
		candidates[v] = true
	}
	if t.Min == 0 {
		for v := range events {
			delete(candidates, v)
		}
		candidates = m.any()
	}
	_, everyDay := m.had(t.Trait, t.Sources, m.today-89, m.today)
	for v := range candidates {
		if n(v) < t.Min || t.Max > 0 && n(v) > t.Max {
			continue
		}
		if t.LastSeen != nil {
			age := taxonomy.Day(1000)
			for d := range everyDay[v] {
				age = min(age, m.at-d)
			}
			if int(age) < t.LastSeen.Min || int(age) > t.LastSeen.Max {
				continue
			}
		}
		out[v] = true
	}
	return out
}

// What random worlds and rules are made of.
var (
	sources   = []taxonomy.SourceID{"bought", "shop", "withdrawn"}
	traits    = []taxonomy.Trait{"any", "c:p/a", "c:p/b", "k:size=l"}
	attrs     = []taxonomy.Trait{"a:age=18-24", "a:age=25-34", "a:sex=f", "a:age=18", "a:age=30.5", "a:age=-2"}
	lists     = []taxonomy.Trait{"l:crm=in", "l:crm=out"}
	endOfDays = taxonomy.Day(20820)
)

func genWorld(t *rapid.T) (*querytest.World, taxonomy.Day) {
	today := endOfDays - taxonomy.Day(rapid.IntRange(0, 400).Draw(t, "today"))
	w := &querytest.World{
		Shards: rapid.IntRange(1, 3).Draw(t, "shards"),
		Stride: rapid.SampledFrom([]uint32{1, 40000}).Draw(t, "stride"),
		Now:    today.Start() + taxonomy.Millis(rapid.IntRange(0, int(taxonomy.OneDay)-1).Draw(t, "time")),
		Sets:   map[string][]int{},
	}
	visitor := rapid.IntRange(0, 7)
	// Days crowd at the edges: the oldest that is kept, the ones beyond, today.
	day := rapid.OneOf(rapid.SampledFrom([]int{-2, -1, 0, 1, 2, 6, 7, 29, 30, 88, 89, 90, 91}), rapid.IntRange(-2, 95))
	n := rapid.OneOf(rapid.IntRange(1, 3), rapid.SampledFrom([]int{1, 127, 128, 253, 254, 255, 256, 300}))
	column := rapid.Custom(func(t *rapid.T) taxonomy.Column {
		return taxonomy.Column{Source: rapid.SampledFrom(sources).Draw(t, "source"), Trait: rapid.SampledFrom(append([]taxonomy.Trait{"any"}, traits...)).Draw(t, "trait")}
	})
	for range rapid.IntRange(0, 40).Draw(t, "facts") {
		w.Facts = append(w.Facts, querytest.Fact{Visitor: visitor.Draw(t, "v"), Day: today - taxonomy.Day(day.Draw(t, "age")), Column: column.Draw(t, "column"), N: n.Draw(t, "n")})
	}
	for range rapid.IntRange(0, 1).Draw(t, "bots") {
		w.Facts = append(w.Facts, querytest.Fact{Visitor: visitor.Draw(t, "v"), Day: today - taxonomy.Day(day.Draw(t, "age")), Column: taxonomy.Column{Source: rapid.SampledFrom(sources).Draw(t, "source"), Trait: "bot"}})
	}
	for range rapid.IntRange(0, 12).Draw(t, "statements") {
		w.Stated = append(w.Stated, querytest.Statement{Visitor: visitor.Draw(t, "v"), Day: today - taxonomy.Day(day.Draw(t, "age")),
			Column: taxonomy.Column{Source: rapid.SampledFrom(sources).Draw(t, "source"), Trait: rapid.SampledFrom(append(attrs, lists...)).Draw(t, "trait")}})
		if s := &w.Stated[len(w.Stated)-1]; rapid.IntRange(0, 2).Draw(t, "ends") == 0 {
			s.Column.Trait = s.Column.Trait.Ending(today + taxonomy.Day(rapid.SampledFrom([]int{-40, -7, -1, 0, 1, 2, 50}).Draw(t, "until")))
		}
	}
	w.Sets["permit:profile"] = rapid.SliceOfNDistinct(visitor, 0, 8, rapid.ID).Draw(t, "profile")
	if rapid.Bool().Draw(t, "all") {
		w.Sets["permit:profile"] = []int{0, 1, 2, 3, 4, 5, 6, 7}
	}
	w.Sets["audience:look"] = rapid.SliceOfNDistinct(visitor, 0, 4, rapid.ID).Draw(t, "look")
	if rapid.IntRange(0, 4).Draw(t, "some") == 0 {
		w.Sets["gone"] = []int{visitor.Draw(t, "v")}
		w.Sets["holdout"] = []int{visitor.Draw(t, "v")}
	}
	return w, today
}

func genWindow(today taxonomy.Day) *rapid.Generator[query.Window] {
	return rapid.Custom(func(t *rapid.T) query.Window {
		if rapid.Bool().Draw(t, "relative") {
			return query.LastDays(rapid.OneOf(rapid.SampledFrom([]int{1, 2, 7, 30, 89, 90}), rapid.IntRange(1, 90)).Draw(t, "days"))
		}
		from := today - taxonomy.Day(rapid.OneOf(rapid.SampledFrom([]int{-1, 0, 1, 88, 89, 90, 91}), rapid.IntRange(-3, 100)).Draw(t, "from"))
		return query.Window{From: from, To: from + taxonomy.Day(rapid.IntRange(0, 89).Draw(t, "length"))}
	})
}

func genTrait(t *rapid.T, today taxonomy.Day) query.Trait {
	x := query.Had(rapid.SampledFrom(traits).Draw(t, "trait"))
	x.Window = genWindow(today).Draw(t, "window")
	bound := rapid.OneOf(rapid.IntRange(1, 4), rapid.SampledFrom([]int{1, 2, 127, 128, 129, 252, 253, 254}))
	x.Min = bound.Draw(t, "min")
	switch rapid.IntRange(0, 3).Draw(t, "bounds") {
	case 0:
		x.Max = max(x.Min, bound.Draw(t, "max"))
	case 1:
		x.Min, x.Max = 0, bound.Draw(t, "max")
	case 2:
		x.Min = rapid.SampledFrom([]int{1, 255}).Draw(t, "min")
	}
	x.Unit = rapid.SampledFrom([]index.Unit{index.Events, index.DistinctDays}).Draw(t, "unit")
	if s := rapid.SampledFrom([][]taxonomy.SourceID{nil, nil, {"shop"}, {"bought", "withdrawn"}, {"withdrawn"}}).Draw(t, "sources"); s != nil {
		x.Sources = s
	}
	if rapid.IntRange(0, 3).Draw(t, "recency") == 0 {
		lo := rapid.SampledFrom([]int{0, 1, 2, 6, 7, 30, 88, 89}).Draw(t, "last seen")
		x.LastSeen = &query.Recency{Min: lo, Max: rapid.IntRange(lo, 89).Draw(t, "to")}
	}
	return x
}

func genSequence(t *rapid.T, today taxonomy.Day) query.Sequence {
	s := query.Sequence{Window: genWindow(today).Draw(t, "window")}
	for i := range rapid.IntRange(2, 4).Draw(t, "steps") {
		st := query.Step{Trait: rapid.SampledFrom(traits).Draw(t, "step"), Sources: rapid.SampledFrom([][]taxonomy.SourceID{nil, nil, {"shop"}}).Draw(t, "sources")}
		if i > 0 {
			st.Within = rapid.OneOf(rapid.SampledFrom([]int{1, 2, 3, 4, 7, 8, 30, 89}), rapid.IntRange(1, 89)).Draw(t, "within")
		}
		s.Steps = append(s.Steps, st)
	}
	return s
}

func genRange(t *rapid.T) *query.Range {
	bound := func(v float64) query.Bound {
		return query.Bound{Set: true, Value: v, Open: rapid.Bool().Draw(t, "open")}
	}
	lo := rapid.SampledFrom([]float64{-2.5, -2, 0, 18, 30.5}).Draw(t, "low")
	switch rapid.IntRange(0, 2).Draw(t, "bounds") {
	case 0:
		return &query.Range{Low: bound(lo)}
	case 1:
		return &query.Range{High: bound(lo)}
	}
	return &query.Range{Low: bound(lo), High: bound(lo + rapid.SampledFrom([]float64{0.5, 1, 100}).Draw(t, "width"))}
}

func genAsOf(t *rapid.T, today taxonomy.Day, of query.Expr) query.AsOf {
	ago := rapid.SampledFrom([]int{1, 2, 7, 30, 88, 89}).Draw(t, "ago")
	if rapid.Bool().Draw(t, "day") {
		return query.AsOf{Day: today - taxonomy.Day(rapid.SampledFrom([]int{ago, 0, -3, 90, 95}).Draw(t, "then")), Of: of}
	}
	return query.AsOf{Ago: ago, Of: of}
}

func genExpr(t *rapid.T, today taxonomy.Day, depth int, nested bool) query.Expr {
	top := 11
	if depth == 0 {
		top = 6
	}
	list := func() []query.Expr {
		of := make([]query.Expr, rapid.IntRange(1, 3).Draw(t, "parts"))
		for i := range of {
			of[i] = genExpr(t, today, depth-1, nested)
		}
		return of
	}
	switch rapid.IntRange(0, top).Draw(t, "kind") {
	case 2:
		return query.Any{}
	case 3:
		key := rapid.SampledFrom([]string{"age", "sex", "colour"}).Draw(t, "key")
		if rapid.Bool().Draw(t, "compared") {
			return query.Attribute{Key: key, Range: genRange(t)}
		}
		return query.Attribute{Key: key, In: rapid.SampledFrom([][]string{{"18-24"}, {"18-24", "25-34"}, {"f"}}).Draw(t, "in")}
	case 4:
		return query.List{List: rapid.SampledFrom([]taxonomy.ListID{"crm", "none"}).Draw(t, "list")}
	case 5:
		if nested {
			return query.Audience{ID: rapid.SampledFrom([]taxonomy.AudienceID{"look", "rule"}).Draw(t, "audience")}
		}
	case 6:
		return genSequence(t, today)
	case 7, 8:
		return query.And{Of: list()}
	case 9:
		return query.Or{Of: list()}
	case 10:
		return query.Not{Of: genExpr(t, today, depth-1, nested)}
	case 11:
		return genAsOf(t, today, genExpr(t, today, depth-1, false))
	}
	return genTrait(t, today)
}

// genCase draws a world with some rules over it, and everything to ask them.
func genCase(t *rapid.T) (*querytest.World, *naive, *query.IndexResolver, *querytest.View, []query.Expr) {
	w, today := genWorld(t)
	audiences := map[taxonomy.AudienceID]query.Expr{"look": nil, "rule": genExpr(t, today, 2, false)}
	var rules []query.Expr
	for range rapid.IntRange(1, 4).Draw(t, "rules") {
		rules = append(rules, genExpr(t, today, 3, true))
	}
	m := &naive{w: w, today: today, at: today, inUse: map[taxonomy.SourceID]bool{"shop": true, "bought": true}, audiences: audiences}
	v := w.View()
	r, err := query.NewIndexResolver(v, today, []taxonomy.SourceID{"shop", "bought"}, func(id taxonomy.AudienceID) (query.Expr, bool) {
		e, ok := audiences[id]
		return e, ok
	})
	if err != nil {
		t.Fatal(err)
	}
	return w, m, r, v, rules
}

// R14, R15, R16: blocks, one visitor and the naive model give the same.
func TestBlocksVisitorAndNaiveModelAgree(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w, m, r, v, rules := genCase(t)
		p := query.NewPlan(m.today, r)
		for i, e := range rules {
			if n, err := p.Add(e); err != nil || n != i {
				t.Fatalf("add %s: %d, %v", query.Print(e), n, err)
			}
		}
		res, err := p.Run(t.Context(), v, query.RunOptions{Workers: rapid.IntRange(1, 3).Draw(t, "workers")})
		if err != nil {
			t.Fatal(err)
		}
		counts, err := p.Run(t.Context(), v, query.RunOptions{Workers: 1, CountsOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		eligible := m.eligible()
		if res.Eligible != uint64(len(eligible)) {
			t.Fatalf("eligible: %d, want %d", res.Eligible, len(eligible))
		}
		for i, e := range rules {
			want := m.eval(e)
			n := uint64(0)
			for visitor := range 8 {
				one, err := query.EvalVisitor(e, r, v.Facts(visitor), m.today)
				if err != nil {
					t.Fatal(err)
				}
				if one != want[visitor] {
					t.Fatalf("%s: visitor %d alone: %t, naive model: %t", query.Print(e), visitor, one, want[visitor])
				}
				may := query.Eligible(r, v.Facts(visitor), m.today)
				if may != eligible[visitor] {
					t.Fatalf("visitor %d eligible: %t, naive model: %t", visitor, may, eligible[visitor])
				}
				in := false
				if shard, ordinal, ok := v.Place(visitor); ok {
					in = res.Sets[i].Contains(shard, ordinal)
				}
				if in != (one && may) {
					t.Fatalf("%s: visitor %d in blocks: %t, alone: %t", query.Print(e), visitor, in, one && may)
				}
				if in {
					n++
				}
			}
			if res.Counts[i] != n || res.Sets[i].Count() != n || counts.Counts[i] != n {
				t.Fatalf("%s: counts %d and %d, set %d, want %d", query.Print(e), res.Counts[i], counts.Counts[i], res.Sets[i].Count(), n)
			}
		}
		files, err := p.Run(t.Context(), dayFiles(t, w, v), query.RunOptions{Workers: 1})
		if err != nil {
			t.Fatal(err)
		}
		for i, e := range rules {
			for s := range files.Sets[i] {
				if !files.Sets[i][s].Equals(res.Sets[i][s]) {
					t.Fatalf("%s: over day files %v, over facts %v", query.Print(e), v.Visitors(files.Sets[i]), v.Visitors(res.Sets[i]))
				}
			}
		}
		for key, blocks := range v.Asked() {
			for at, n := range blocks {
				if n > 3 { // three runs
					t.Fatalf("%s read %d times in block %v by three runs", key, n, at)
				}
			}
		}
	})
}

func TestExplainCountsEveryPart(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		_, m, r, v, rules := genCase(t)
		e := rules[0]
		x, err := query.Explain(t.Context(), v, m.today, r, e, query.RunOptions{Workers: 2})
		if err != nil {
			t.Fatal(err)
		}
		eligible := m.eligible()
		within := func(s visitors) (n uint64) {
			for v := range s {
				if eligible[v] {
					n++
				}
			}
			return n
		}
		if x.Count != within(m.eval(e)) {
			t.Fatalf("count %d, want %d", x.Count, within(m.eval(e)))
		}
		got := map[string]query.Clause{}
		for _, c := range x.Clauses {
			got[c.Path] = c
		}
		var check func(path string, e query.Expr)
		check = func(path string, e query.Expr) {
			dot := path
			if dot == "" {
				dot = "."
			}
			c, ok := got[dot]
			if !ok || c.Count != within(m.eval(e)) {
				t.Fatalf("clause %s: %d (%t), want %d", dot, c.Count, ok, within(m.eval(e)))
			}
			of := func(key string, of []query.Expr) {
				for i, k := range of {
					at := strings.TrimPrefix(path+"."+key, ".") + "[" + string(rune('0'+i)) + "]"
					check(at, k)
					if kept := got[at].Kept; key == "or" && kept != nil || key == "and" && *kept != within(m.eval(query.And{Of: of[:i+1]})) {
						t.Fatalf("kept up to %s: %v", at, kept)
					}
				}
			}
			switch e := e.(type) {
			case query.And:
				of("and", e.Of)
			case query.Or:
				of("or", e.Of)
			case query.Not:
				check(strings.TrimPrefix(path+".not", "."), e.Of)
			}
		}
		check("", e)
		if (x.Count == 0) != (len(x.WhyEmpty) > 0) {
			t.Fatalf("%s: count %d, but reasons %v", query.Print(e), x.Count, x.WhyEmpty)
		}
	})
}
