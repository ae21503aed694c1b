package audience_test

import (
	"context"
	"strings"
	"testing"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/segments/query"
	"github.com/ebb-dmp/ebb/segments/query/querytest"
	"github.com/ebb-dmp/ebb/taxonomy"
)

func entry(t *testing.T, b *audience.Built, id taxonomy.AudienceID) audience.Entry {
	t.Helper()
	e, ok := b.Generation.Entry(id)
	if !ok {
		t.Fatalf("no audience %s", id)
	}
	return e
}

func TestABuildSaysWhatItSaw(t *testing.T) {
	b, w := newBench(t), world(12)
	w.At = retention.Position{taxonomy.WriterID{1}: 42}
	out := b.run(w, catalog())
	g := out.Generation
	if g.Number != 1 || g.Epoch != 0 || g.Term != 1 || g.Built != b.clock.Now() || g.Clock != w.Now || g.RuleVersion != 7 || g.Shards != 2 || !g.Position.Covers(w.At) || g.Day() != today {
		t.Errorf("%+v", g)
	}
	b.want(w, "two", 0, 2, 4, 6, 8, 10)
	b.want(w, "three", 0, 3, 6, 9)
	b.want(w, "neither", 1, 5, 7, 11)
	e := entry(t, out, "two")
	if e.Count != 6 || e.Added != 6 || e.Removed != 0 || len(e.Positive) != 1 || e.Positive[0] != column("c:p/two") || e.Over != today.Over() {
		t.Errorf("%+v", e)
	}
	if e := entry(t, out, "neither"); e.Positive != nil {
		t.Errorf("a pure not has positive columns: %v", e.Positive)
	}
}

func TestUnchangedAudiencesPointToOlderFiles(t *testing.T) {
	b, w := newBench(t), world(12)
	first := b.run(w, catalog())
	w.Facts = append(w.Facts, querytest.Fact{Visitor: 1, Day: today, Column: column("c:p/two")})
	w.Sets[index.SetProfile] = w.Sets[index.SetProfile][1:] // visitor 0 may no longer be profiled
	b.clock.Advance(taxonomy.Hour)
	next := b.run(w, audience.NewCatalog(append(catalog().All(), rule("any", `{"any":true}`))))
	if e := entry(t, next, "two"); e.Added != 1 || e.Removed != 1 || e.Blob == entry(t, first, "two").Blob {
		t.Errorf("two: %+v", e)
	}
	b.want(w, "two", 1, 2, 4, 6, 8, 10)
	last := b.run(w, audience.NewCatalog(append(catalog().All(), rule("any", `{"any":true}`))))
	for _, e := range last.Generation.Audiences {
		if old := entry(t, next, e.ID); e.Blob != old.Blob || e.SHA256 != old.SHA256 || e.Over != old.Over || e.Added+e.Removed > 0 {
			t.Errorf("%s was written again: %+v, before %+v", e.ID, e, old)
		}
	}
	if last.Generation.Number != 3 {
		t.Errorf("number %d", last.Generation.Number)
	}
}

// P5: a file that is carried over must outlive the generation that names it.
func TestAnOldFileIsWrittenAnew(t *testing.T) {
	b, w := newBench(t), world(12)
	for v := range 12 {
		for d := range taxonomy.Day(100) { // seen daily, so that nobody leaves
			w.Facts = append(w.Facts, querytest.Fact{Visitor: v, Day: today + d, Column: column("any")}, querytest.Fact{Visitor: v, Day: today + d, Column: column("c:p/all")})
		}
	}
	c := audience.NewCatalog([]audience.Versioned{rule("all", `{"trait":"c:p/all"}`)})
	blob := entry(t, b.run(w, c), "all").Blob
	written := 0
	for range 99 {
		b.clock.Advance(taxonomy.OneDay)
		w.Now += taxonomy.OneDay
		e := entry(t, b.run(w, c), "all")
		if e.Added+e.Removed > 0 {
			t.Fatalf("somebody moved: %+v", e)
		}
		if e.Over < b.clock.Now()+14*taxonomy.OneDay {
			t.Fatalf("the file ends %s, too soon after %s", e.Over, b.clock.Now())
		}
		if e.Blob != blob {
			blob = e.Blob
			written++
		}
	}
	if written != 1 {
		t.Errorf("written anew %d times in 99 days, want once", written)
	}
}

func TestABrokenAudienceIsEmptyAndTheOthersAreBuilt(t *testing.T) {
	b, w := newBench(t), world(12)
	b.run(w, catalog())
	out := b.run(w, audience.NewCatalog([]audience.Versioned{
		rule("two", `{"audience":"deleted"}`), rule("three", `{"trait":"c:p/three"}`),
		rule("a", `{"audience":"b"}`), rule("b", `{"audience":"a"}`),
		rule("unread", `{"trat":"c:p/three"}`), lookalike("look", "a", 3),
	}))
	for id, says := range map[taxonomy.AudienceID]string{"two": `no audience "deleted"`, "a": "leads back", "b": "leads back", "unread": "did you mean", "look": `seed "a" could not be built`} {
		if e := entry(t, out, id); e.Count != 0 || !strings.Contains(e.Fault, says) || out.Faults[id] == nil {
			t.Errorf("%s: %+v, want a fault that says %q", id, e, says)
		}
	}
	if e := entry(t, out, "two"); e.Removed != 6 {
		t.Errorf("old members are not removed: %+v", e)
	}
	b.want(w, "three", 0, 3, 6, 9)
	if len(out.Faults) != 5 {
		t.Errorf("faults %v", out.Faults)
	}
}

func TestLookalikesFollowTheirSeed(t *testing.T) {
	b, w := newBench(t), world(12)
	c := audience.NewCatalog([]audience.Versioned{
		rule("two", `{"trait":"c:p/two"}`), lookalike("like", "two", 100),
		rule("nested", `{"and":[{"audience":"like"},{"trait":"c:p/three"}]}`),
		rule("one", `{"and":[{"trait":"c:p/two"},{"trait":"c:p/three"},{"trait":"c:p/none"}]}`), lookalike("unfit", "one", 5),
	})
	w.Sets[index.SetGone] = []int{11}
	w.Sets[index.SetHoldout] = []int{9}
	out := b.run(w, c)
	b.want(w, "like", 1, 3, 5, 7) // without the held out, though the scorer gave it
	if e := entry(t, out, "like"); e.Evidence == nil || e.Evidence.AUC != 0.75 || e.Evidence.Seed != 6 || e.Positive != nil {
		t.Errorf("%+v", e)
	}
	if e := entry(t, out, "unfit"); !strings.Contains(e.Fault, "cannot be extended") {
		t.Errorf("%+v", e)
	}
	b.want(w, "nested") // there is no last generation
	b.run(w, c)
	b.want(w, "nested", 3)
	x, err := audience.NewEstimate(t.Context(), audience.Basis{View: w.View(), Catalog: c, Sources: w.Sources(),
		Members: func(ctx context.Context, id taxonomy.AudienceID) (index.Set, error) {
			gen, err := b.gens.Current(ctx)
			if err != nil {
				return nil, err
			}
			return b.gens.Load(ctx, gen, id)
		}}, query.And{Of: []query.Expr{query.Audience{ID: "like"}, query.Not{Of: query.Audience{ID: "nested"}}}})
	if err != nil || x.Count != 3 || x.AsOf != w.Now || *x.Clauses[2].Kept != 3 {
		t.Errorf("estimate %+v, %v", x, err)
	}
	before := out.Generation
	if _, err := b.build.Run(t.Context(), b.job(w, audience.NewCatalog([]audience.Versioned{rule("two", `{"trait":"c:p/two"}`), lookalike("like", "two", 666)}))); err == nil || !strings.Contains(err.Error(), "disk") {
		t.Errorf("a scorer that fails: %v", err)
	}
	if gen, err := b.gens.Current(t.Context()); err != nil || gen.Number != before.Number+1 {
		t.Errorf("after a failed build: %v, %v", gen, err)
	}
}

func TestARestoreOpensANewEpochWithoutOldFiles(t *testing.T) { // R29
	b, w := newBench(t), world(12)
	first := b.run(w, catalog())
	b.epoch = 1
	out := b.run(w, catalog())
	if g := out.Generation; g.Epoch != 1 || g.Number != 1 {
		t.Errorf("%d.%d", g.Epoch, g.Number)
	}
	for _, e := range out.Generation.Audiences {
		if e.Added != e.Count || e.Blob == entry(t, first, e.ID).Blob {
			t.Errorf("%s uses what was before the restore: %+v", e.ID, e)
		}
	}
	direct, err := audience.Build(t.Context(), audience.Input{View: w.View(), Catalog: catalog(), Sources: w.Sources(),
		Epoch: 1, Number: 1, Built: b.clock.Now(), Previous: first.Generation, Members: b.gens.Members})
	if err != nil || len(direct.Changed) != 3 {
		t.Errorf("built upon another epoch: %v, %v", direct, err)
	}
	b.epoch = 0
	if _, err := b.build.Run(t.Context(), b.job(w, catalog())); err == nil {
		t.Error("a build of the old epoch was published")
	}
}

func TestDefinitionsAreCheckedWithTheirPlaces(t *testing.T) {
	c := audience.NewCatalog(append(catalog().All(), lookalike("look", "two", 5)))
	def := func(d audience.Versioned, change func(*audience.Definition)) *audience.Definition {
		if change != nil {
			change(&d.Definition)
		}
		return &d.Definition
	}
	for _, x := range []struct {
		d    *audience.Definition
		want string // fields of the faults
	}{
		{def(rule("new", `{"and":[{"audience":"two"},{"any":true}]}`), nil), ""},
		{def(lookalike("new", "three", 5), nil), ""},
		{def(rule("New", `{"and":[{"window":3}]}`), func(d *audience.Definition) { d.Title = "" }), "id title rule.and[0].window"},
		{def(rule("new", `{"not":{"audience":"none"}}`), nil), "rule.not.audience"},
		{def(rule("new", `{"not":{"audience":"new"}}`), nil), "rule.not.audience"},
		{def(rule("two", `{"audience":"neither"}`), nil), "rule.audience.not.or[0].audience"},
		{def(lookalike("two", "three", 5), nil), "kind"},
		{def(lookalike("new", "look", 5), nil), "lookalike.seed"},
		{def(lookalike("new", "none", 5), nil), "lookalike.seed"},
		{def(lookalike("new", "new", 5), nil), "lookalike.seed"},
		{def(lookalike("new", "two", 0), nil), "lookalike.size"},
		{def(lookalike("new", "two", 5), func(d *audience.Definition) { d.Lookalike.Share = 0.1 }), "lookalike.share"},
		{def(lookalike("new", "two", 0), func(d *audience.Definition) { d.Lookalike.Share = 0.6 }), "lookalike.share"},
		{def(lookalike("new", "two", 5), func(d *audience.Definition) { d.Rule = []byte("{}"); d.List = "x" }), "rule list"},
		{&audience.Definition{ID: "new", Title: "x", Kind: "guess"}, "kind"},
		{&audience.Definition{ID: "new", Title: "x", Kind: audience.KindUpload}, "list"},
		{&audience.Definition{ID: "new", Title: "x", Kind: audience.KindUpload, List: "crm"}, ""},
		{&audience.Definition{ID: "new", Title: "x", Kind: audience.KindRule}, "rule"},
	} {
		err := c.Validate(x.d)
		if got := strings.Join(fields(err), " "); got != x.want {
			t.Errorf("%+v: faults at %q, want %q: %v", x.d, got, x.want, err)
		}
	}
	if got := c.Dependents("two"); len(got) != 2 || got[0] != "look" || got[1] != "neither" {
		t.Errorf("dependents of two: %v", got)
	}
}
