package fold

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// above is byName's tree: everything of t is below t/root.
func above(t taxonomy.Trait) []taxonomy.Trait {
	if t == "c:t/root" {
		return nil
	}
	return []taxonomy.Trait{"c:t/root"}
}

func chooses(v int, at taxonomy.Millis, off ...taxonomy.Trait) taxonomy.Record {
	return taxonomy.Record{Kind: taxonomy.RecordChoice, Received: at, Site: "shop", Source: "web", Space: taxonomy.SpaceCookie,
		Visitor: visitorKey(v), Returning: true, Off: off}
}

func named(r taxonomy.Record, name string) taxonomy.Record {
	e := *r.Event
	e.Name = name
	r.Event = &e
	return r
}

func (s *one) age(v *View, visitor int, columns ...string) uint8 {
	s.t.Helper()
	shard, o, ok := v.Ordinal(visitorKey(visitor))
	if !ok {
		return 0
	}
	var cols []taxonomy.Column
	for _, c := range columns {
		cols = append(cols, taxonomy.Column{Source: "web", Trait: taxonomy.Trait(c)})
	}
	day := v.Clock().Day()
	var dst [index.BlockSize]uint8
	if err := v.Newest(shard, int(o/index.BlockSize), cols, day.Oldest(), day, &dst); err != nil {
		s.t.Fatal(err)
	}
	return dst[o%index.BlockSize]
}

// A page hears of a choice at once: everything of the visitor may be another
// (R33). A view that was made before it stays as it was.
func TestAPageHearsOfAChoiceAtOnce(t *testing.T) {
	s := story(t)
	s.say(start, event(1, start, 1, true))
	seen := func() int {
		_, facts, _ := s.f.Touched(visitorKey(1))
		return facts.Count(taxonomy.Column{Source: "web", Trait: "c:t/a"}, start.Day())
	}
	before := s.save()
	s.f.Built(before)
	if _, _, ok := s.f.Touched(visitorKey(1)); ok || seen() != 1 {
		t.Errorf("before the choice: touched %v, %d events", ok, seen())
	}
	s.say(start+1000, chooses(1, start+1000, "c:t/a"))
	if cols, _, ok := s.f.Touched(visitorKey(1)); !ok || cols != nil || seen() != 0 {
		t.Errorf("after it: touched %v, columns %v, %d events", ok, cols, seen())
	}
	if s.count(before, "c:t/a") != 1 {
		t.Error("a view has changed")
	}
	s.f.Built(s.save())
	if _, _, ok := s.f.Touched(visitorKey(1)); ok {
		t.Error("touched, though the generation was built with the choice")
	}
}

// What a visitor switches off nobody reads of it any more, by whatever way: what
// was there before and what comes; what is below it; after a restart; until it is
// switched on again. Others, and other categories, are as they were.
func TestAChoiceHoldsForWhatWasAndWhatComes(t *testing.T) {
	s := story(t)
	s.hook = func(o *Options) { o.Above = above }
	s.f = s.open(t)
	at := start
	step := func(rs ...taxonomy.Record) *View {
		at += taxonomy.Minute
		for i := range rs {
			rs[i].Received = at
		}
		s.say(at, rs...)
		return s.save()
	}
	expect := func(when string, v *View, a, b, root int) {
		t.Helper()
		if ga, gb, gr := s.count(v, "c:t/a"), s.count(v, "c:t/b"), s.count(v, "c:t/root"); ga != a || gb != b || gr != root {
			t.Errorf("%s: a has %d, b %d, root %d; want %d, %d, %d", when, ga, gb, gr, a, b, root)
		}
	}
	expect("at first", step(named(event(1, start, 1, true), "a"), named(event(1, start, 2, true), "b"), event(2, start, 1, true)), 2, 1, 2)
	v := step(chooses(1, 0, "c:t/a"))
	expect("a off", v, 1, 1, 2)
	if g, m := s.age(v, 1, "c:t/a"), s.age(v, 1, "c:t/a", "c:t/b"); g != 0 || m != 1 || s.age(v, 2, "c:t/a") != 1 {
		t.Errorf("newest: of a %d, of a and b %d", g, m)
	}
	expect("more of it", step(named(event(1, start, 3, true), "a")), 1, 1, 2)
	v = step(chooses(1, 0, "c:t/root"))
	expect("all of the tree off, by its root", v, 1, 0, 1)
	if s.age(v, 1, "c:t/b") != 0 {
		t.Error("b is below what is off, and is read")
	}
	s.f = s.open(t) // R6
	expect("after a restart", s.f.View(), 1, 0, 1)
	if off := s.f.Off(visitorKey(1)); !slices.Equal(off, []taxonomy.Trait{"c:t/root"}) {
		t.Errorf("after a restart %v is off", off)
	}
	rewritten, err := s.f.Rewrite(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	expect("after every file was written anew", rewritten, 1, 0, 1)
	late := chooses(1, start+1, "c:t/b")
	s.say(at+1, late) // an older choice that comes later changes nothing
	expect("an older choice", s.save(), 1, 0, 1)
	expect("on again", step(chooses(1, 0)), 2, 1, 2)
	// A new ID's choice is the old one's too (R27), and an erasure ends it.
	step(taxonomy.Record{Kind: taxonomy.RecordSucceeds, Visitor: visitorKey(3), Succeeds: visitorKey(1), Space: taxonomy.SpaceCookie, Consent: full})
	expect("by the ID that followed", step(event(3, start, 9, true), chooses(3, 0, "c:t/b")), 3, 0, 3)
	step(taxonomy.Record{Kind: taxonomy.RecordErasure, Visitor: visitorKey(3), Space: taxonomy.SpaceCookie})
	s.f.Forget([]taxonomy.VisitorKey{visitorKey(3), visitorKey(1)})
	if len(s.f.state.choices.m) != 0 {
		t.Error("an erased visitor's choice is kept")
	}
}

// R8: the order in which choices and events are folded does not matter.
func TestTheNewestChoiceHoldsInAnyOrder(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var rs []taxonomy.Record
		newest, want := taxonomy.Millis(-1), []taxonomy.Trait(nil)
		for range rapid.IntRange(1, 8).Draw(rt, "choices") {
			at := start + taxonomy.Millis(rapid.IntRange(0, 4).Draw(rt, "at"))
			off := rapid.SliceOfDistinct(rapid.SampledFrom([]taxonomy.Trait{"c:t/a", "c:t/b", "c:t/root"}), func(t taxonomy.Trait) taxonomy.Trait { return t }).Draw(rt, "off")
			slices.Sort(off)
			rs = append(rs, chooses(1, at, off...))
			switch {
			case at > newest:
				newest, want = at, off
			case at == newest:
				want = append(slices.Clone(want), off...)
				slices.Sort(want)
				want = slices.Compact(want)
			}
		}
		rs = rapid.Permutation(rs).Draw(rt, "order")
		s := story(t)
		s.say(start+10, rs...)
		if got := s.f.Off(visitorKey(1)); !slices.Equal(got, want) {
			rt.Fatalf("%v is off, want %v", got, want)
		}
	})
}
