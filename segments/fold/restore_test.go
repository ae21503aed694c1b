package fold

import (
	"slices"
	"testing"

	"github.com/ebb-dmp/ebb/taxonomy"
)

// P6, R29: a state that is told of erasures by their hashes drops whom they mean,
// wherever it knows them from, and whoever comes only later; it names those it
// knows, for the eraser, and leaves all others alone.
func TestARestoredStateIsToldOfErasuresByHash(t *testing.T) {
	s := story(t)
	own := func(r taxonomy.Record) taxonomy.Record { r.Space = "own:crm"; return r }
	s.say(start, event(1, start, 1, true), event(2, start, 2, true), event(3, start, 3, false),
		// 5 was 4 before (R27); 6 is an ID of the operator's own.
		event(4, start, 4, true), own(event(6, start, 6, true)))
	s.say(start+1, taxonomy.Record{Kind: taxonomy.RecordSucceeds, Received: start + 1, Site: "shop", Space: taxonomy.SpaceCookie,
		Visitor: visitorKey(5), Succeeds: visitorKey(4), Consent: full})
	s.save()
	s.f = s.open(t) // as after a restore

	hash := s.f.opt.Erasure
	list := []Erasure{
		{hash(visitorKey(1)), taxonomy.SpaceCookie, start + 10},
		{hash(visitorKey(3)), taxonomy.SpaceCookie, start + 10}, // it waits
		{hash(visitorKey(5)), taxonomy.SpaceCookie, start + 10},
		{hash(visitorKey(6)), "own:crm", start + 10},
		{hash(visitorKey(7)), "own:crm", start + 10}, // of whom the state knows nothing
	}
	known := s.f.Restore(list)
	for _, v := range []int{1, 3, 4, 5, 6} {
		if !slices.Contains(known, visitorKey(v)) {
			t.Errorf("visitor %d is not among those to erase", v)
		}
	}
	if len(known) != 5 {
		t.Errorf("%d visitors are to be erased, want 5", len(known))
	}
	if again := s.f.Restore(list); len(again) != 0 {
		t.Errorf("told again, it names %d", len(again))
	}
	if n := s.count(s.save(), "any"); n != 1 {
		t.Errorf("%d visitors have an event, want the one who was not erased", n)
	}
	s.f.Forget(known)
	if _, err := s.f.Rewrite(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, v := range []int{1, 3, 4, 5, 6} {
		if k := visitorKey(v); s.search(k[:]) != "" {
			t.Errorf("bytes of visitor %d are in %s", v, s.search(k[:]))
		}
	}
	if k := visitorKey(2); s.search(k[:]) == "" {
		t.Error("the search finds nothing at all")
	}

	// Kept across a restart, and lifted only by an opt-in (R24).
	s.f = s.open(t)
	s.say(start+20, event(1, start+20, 11, true), own(event(7, start+20, 12, true)), own(event(6, start+20, 13, true)))
	if n := s.count(s.save(), "any"); n != 1 {
		t.Errorf("%d visitors have an event after the erased ones came again", n)
	}
	s.say(start+30, own(taxonomy.Record{Kind: taxonomy.RecordOptIn, Received: start + 30, Visitor: visitorKey(7)}))
	s.say(start+40, own(event(7, start+40, 14, true)))
	if n := s.count(s.save(), "any"); n != 2 {
		t.Errorf("%d visitors have an event after one opted in", n)
	}
}
