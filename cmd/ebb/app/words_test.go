package app_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/ebb-dmp/ebb/cmd/ebb/app"
	"github.com/ebb-dmp/ebb/retention/defs"
	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/tagserver/api"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/onboard"
	"github.com/ebb-dmp/ebb/taxonomy/rules"
	"github.com/ebb-dmp/ebb/taxonomy/tree"
)

// A shop that anybody can count by hand: what was done, what is defined, and a model
// of what it means that shares nothing with the program.

// deed is one event of a visitor.
type deed struct {
	who   int
	at    time.Time
	topic string
}

var topics = []string{"a", "b", "c", "d", "e", "f", "g"}

// wanted is an audience: who was in a category at least so many times in so many
// days, or, with not, who was not.
type wanted struct {
	id, category string
	days, least  int
	not          bool
}

func (w wanted) text() string {
	s := fmt.Sprintf("c:t/%s in %dd %d+ times", w.category, w.days, w.least)
	if w.not {
		s = "any and not (" + s + ")"
	}
	return s
}

// words are definitions.
type words struct {
	categories []tree.Category
	// given are rules: an event of a topic is about a category; by the topic's own
	// name if byName.
	given  map[string]string
	byName bool
	wanted []wanted
}

// drawWords draws a tree in which parents stand before children, with lives, some
// of it archived, some taken over.
func drawWords(t *rapid.T, now time.Time) words {
	x := words{given: map[string]string{}, byName: rapid.Bool().Draw(t, "by name")}
	var merged []string
	for _, id := range topics {
		if len(x.categories) > 0 && rapid.IntRange(0, 3).Draw(t, id+" is merged") == 0 {
			merged = append(merged, id)
			continue
		}
		c := tree.Category{ID: id, Title: id, Life: rapid.SampledFrom([]int{0, 0, 90, 60, 30, 7, 1}).Draw(t, id+" lives")}
		for _, p := range x.categories {
			if rapid.IntRange(0, 2).Draw(t, id+" below "+p.ID) == 0 {
				c.Parents = append(c.Parents, p.ID)
			}
		}
		x.categories = append(x.categories, c)
	}
	for _, id := range merged {
		into := &x.categories[rapid.IntRange(0, len(x.categories)-1).Draw(t, id+" became")]
		into.Merged = append(into.Merged, id)
	}
	for i := len(x.categories) - 1; i >= 0; i-- {
		c := &x.categories[i]
		if rapid.IntRange(0, 3).Draw(t, c.ID+" is archived") > 0 {
			continue
		}
		c.Archived = taxonomy.Moment(taxonomy.MillisOf(now)) - taxonomy.Moment(rapid.IntRange(-1, 80).Draw(t, "days ago"))*taxonomy.Moment(taxonomy.OneDay)
		for _, below := range x.categories {
			if slices.Contains(below.Parents, c.ID) && (below.Archived == 0 || below.Archived > c.Archived) {
				c.Archived = max(c.Archived, below.Archived)
				if below.Archived == 0 {
					c.Archived = 0
					break
				}
			}
		}
	}
	for _, topic := range topics {
		if rapid.Bool().Draw(t, topic+" has a rule") {
			x.given[topic] = rapid.SampledFrom(topics).Draw(t, "of "+topic)
		}
	}
	for i := range 4 {
		x.wanted = append(x.wanted, wanted{id: fmt.Sprint("w", i), category: rapid.SampledFrom(topics).Draw(t, "category"),
			days: rapid.SampledFrom([]int{1, 7, 30, 90}).Draw(t, "days"), least: rapid.IntRange(1, 3).Draw(t, "least"), not: rapid.IntRange(0, 3).Draw(t, "not") == 0})
	}
	return x
}

// changes are the definitions as a set in the place of what is there.
func (x *words) changes(snap *defs.Snapshot) (out []defs.Change) {
	put := func(kind defs.Kind, id string, body any) {
		b, err := json.Marshal(body)
		if err != nil {
			panic(err)
		}
		doc, _ := snap.Get(kind, id)
		out = append(out, defs.Change{Kind: kind, ID: id, Body: b, Expect: doc.Version})
	}
	put(defs.Taxonomy, "t", tree.Taxonomy{ID: "t", Title: "T", Categories: x.categories})
	for _, topic := range topics {
		r := rules.Rule{ID: "rule-" + topic, When: []rules.Condition{{Field: "prop.topic", Op: "eq", Value: topic}}, Then: []string{"k:none=none"}}
		if into, ok := x.given[topic]; ok {
			r.Then = []string{"c:t/" + into}
		}
		put(defs.Rule, r.ID, r)
	}
	named := rules.Rule{ID: "by-name", Then: []string{"k:named=no"}}
	if x.byName {
		named.Then = []string{"c:t/{topic}"}
	}
	put(defs.Rule, named.ID, named)
	for _, w := range x.wanted {
		d := audience.Definition{ID: taxonomy.AudienceID(w.id), Title: w.id, Kind: audience.KindRule, RuleText: w.text(), Page: true}
		if err := d.ReadText(); err != nil {
			panic(err)
		}
		put(defs.Audience, w.id, d)
	}
	return out
}

// The model.

func (x *words) category(id string) (tree.Category, bool) {
	for _, c := range x.categories {
		if c.ID == id || slices.Contains(c.Merged, id) {
			return c, true
		}
	}
	return tree.Category{}, false
}

// above is a category and all above it.
func (x *words) above(c tree.Category) []tree.Category {
	out := []tree.Category{c}
	for _, p := range c.Parents {
		up, _ := x.category(p)
		out = append(out, x.above(up)...)
	}
	return out
}

// about are the categories that an event is in.
func (x *words) about(d deed) map[string]bool {
	in := map[string]bool{}
	ids := []string{}
	if id, ok := x.given[d.topic]; ok {
		ids = append(ids, id)
	}
	if x.byName {
		ids = append(ids, d.topic)
	}
	for _, id := range ids {
		c, ok := x.category(id)
		if !ok || c.Archived != 0 && taxonomy.MillisOf(d.at) >= taxonomy.Millis(c.Archived) {
			continue
		}
		for _, up := range x.above(c) {
			in[up.ID] = true
		}
	}
	return in
}

// members are those of an audience, and until which day each is one if nothing
// more happens: 90 days after the newest event that brings it, or its life.
func (x *words) members(w wanted, deeds []deed, now time.Time) map[int]bool {
	today := taxonomy.DayOf(now)
	n, any := map[int]int{}, map[int]bool{}
	c, known := x.category(w.category)
	window := w.days
	for _, up := range x.above(c) {
		if up.Life > 0 {
			window = min(window, up.Life)
		}
	}
	for _, d := range deeds {
		age := int(today - taxonomy.DayOf(d.at))
		if age < 90 {
			any[d.who] = true
		}
		if known && age < window && x.about(d)[c.ID] {
			n[d.who]++
		}
	}
	out := map[int]bool{}
	for who := range any {
		if (n[who] >= w.least) != w.not {
			out[who] = true
		}
	}
	return out
}

func without(m map[int]bool, less map[int]bool) (n uint64) {
	for k := range m {
		if !less[k] {
			n++
		}
	}
	return n
}

// shop imports deeds into an App.
func shop(t *testing.T, a *app.App, deeds []deed) {
	t.Helper()
	err := a.Define(ctx, defs.Source, "till", taxonomy.Source{ID: "till", Title: "The till", Party: 1,
		Agreement: &taxonomy.Agreement{Uses: []string{"store", "profile", "insight", "training", "export"}}})
	if err != nil {
		t.Fatal(err)
	}
	var file strings.Builder
	file.WriteString("who,at,topic\n")
	for _, d := range deeds {
		fmt.Fprintf(&file, "v%d,%s,%s\n", d.who, d.at.Format(time.RFC3339), d.topic)
	}
	rec, err := a.Import(ctx, app.ImportRequest{Source: "till", File: strings.NewReader(file.String()), Mapping: onboard.Mapping{
		Visitor: "who", Space: "own:demo", Time: "at", Event: &onboard.EventMapping{Props: []onboard.Column{{Column: "topic"}}}}})
	if err != nil || rec.Stored != uint64(len(deeds)) {
		t.Fatalf("%+v, %v", rec, err)
	}
}

// R18, R14, R31: whatever the tree, its lives, what is archived and what was taken
// over: a plan's numbers are those of the generation that is built once the plan is
// applied and everything is folded again; both are those of a model that had the
// words from the start; and pages and partners are told the same.
func TestAPlanIsWhatComesOfIt(t *testing.T) {
	now := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	a := open(t, &now)
	var deeds []deed
	for i := range 400 { // spread by numbers that have nothing in common
		deeds = append(deeds, deed{i * 7 % 60, now.Add(-time.Duration(i*31%89)*24*time.Hour - time.Duration(i%11)*time.Hour), topics[i*i*13%97%len(topics)]})
	}
	shop(t, a, deeds)
	if err := a.Define(ctx, defs.Destination, "dsp", delivery.Destination{ID: "dsp", Title: "A DSP", Floor: 1, KeyHash: delivery.HashKey("ebbp_x"),
		Audiences: []taxonomy.AudienceID{"w0", "w1", "w2", "w3"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Build(ctx); err != nil { // with the checkpoint of what was imported
		t.Fatal(err)
	}
	was := words{}
	plans := 0
	sets := rapid.Custom(func(t *rapid.T) words { return drawWords(t, now) })
	// One installation goes through all sets, so a failure cannot be made smaller:
	// fewer than rapid's hundred, and others each time.
	base := rand.IntN(1 << 30)
	for n := range 25 {
		is := sets.Example(base + n)
		snap := a.Definitions()
		changes := is.changes(snap)
		plan, err := a.Preview(ctx, snap.With(changes, taxonomy.MillisOf(now)))
		if err != nil {
			t.Fatal(err)
		}
		all, err := a.Operations(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range all { // a plan that had to count is told of, and changed nothing
			if o.Kind == api.KindPlan && o.State == api.OperationDone && o.Read == uint64(len(deeds)) && o.Progress == 1 {
				plans++
			}
			if o.Kind == api.KindPlan && a.ResumeOperation(ctx, o.ID) == nil {
				t.Fatalf("%s is resumed", o.ID)
			}
		}
		if err := a.Apply(ctx, fmt.Sprint("set ", n), changes); err != nil {
			t.Fatal(err)
		}
		old := was
		was = is // also if it fails: what is defined stays
		built, err := a.Build(ctx)
		if err != nil {
			t.Fatal(err)
		}
		told := map[string]api.AudienceReach{}
		for _, x := range plan.Audiences {
			told[string(x.ID)] = x
		}
		held := map[string]api.AudienceReach{}
		for _, d := range plan.Destinations {
			for _, x := range d.Audiences {
				held[string(x.ID)] = x
			}
		}
		pages := map[int][]taxonomy.AudienceID{}
		for _, w := range is.wanted {
			want := is.members(w, deeds, now)
			e, _ := built.Generation.Entry(taxonomy.AudienceID(w.id))
			if e.Count != uint64(len(want)) || e.Fault != "" {
				t.Fatalf("%+v is %d, want %d; %s\n%+v (seed %d)", w, e.Count, len(want), e.Fault, is, base+n)
			}
			var before map[int]bool
			for _, o := range old.wanted {
				if o.id == w.id {
					before = old.members(o, deeds, now)
				}
			}
			x := api.AudienceReach{ID: taxonomy.AudienceID(w.id), Was: before != nil, Is: true,
				Difference: api.Difference{Before: uint64(len(before)), After: uint64(len(want)), Added: without(want, before), Removed: without(before, want)}}
			if !cmp.Equal(x, told[w.id]) {
				t.Fatalf("the plan (-want +got): %s\n%+v", cmp.Diff(x, told[w.id]), is)
			}
			// R31: who ages out tomorrow is held until then, and so is held.
			if got := held[w.id]; got.After != uint64(len(want)) {
				t.Fatalf("the destination would hold %d of %s, want %d", got.After, w.id, len(want))
			}
			for who := range want {
				pages[who] = append(pages[who], taxonomy.AudienceID(w.id))
			}
		}
		for who := range 60 {
			got, err := a.Page("own:demo", fmt.Sprint("v", who))
			if err != nil || !slices.Equal(got, pages[who]) {
				t.Fatalf("the page of %d is told %v, want %v; %v", who, got, pages[who], err)
			}
		}
	}
	if plans == 0 {
		t.Error("no plan that counted was told of")
	}
	stopped, stop := context.WithCancel(ctx)
	stop()
	is := drawnAgain(was)
	snap := a.Definitions()
	if _, err := a.Preview(stopped, snap.With(is.changes(snap), taxonomy.MillisOf(now))); !errors.Is(err, context.Canceled) {
		t.Errorf("a plan whose caller is gone: %v", err)
	}
}

// drawnAgain is words with one rule more, so that there is something to count.
func drawnAgain(x words) words {
	x.given = maps.Clone(x.given)
	if _, ok := x.given["a"]; ok {
		delete(x.given, "a")
	} else {
		x.given["a"] = "a"
	}
	return x
}
