package fold

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// start is noon of a day, so that a history crosses midnights.
var start = taxonomy.Day(20_000).Start() + 12*taxonomy.Hour

// history is records in order of receipt.
type history []taxonomy.Record

// drawHistory makes records of a few visitors over about four days, close
// enough together that every rule of R8 to R11 meets its edge.
func drawHistory(t *rapid.T) history {
	var h history
	now := start
	born := map[taxonomy.EventID]taxonomy.Millis{}
	for i := range rapid.IntRange(1, 40).Draw(t, "records") {
		now += taxonomy.Millis(rapid.SampledFrom([]int{0, 1, 1000, 3600_000, 23 * 3600_000, 24*3600_000 + 1}).Draw(t, "gap"))
		v := visitorKey(rapid.IntRange(0, 4).Draw(t, "visitor"))
		r := taxonomy.Record{Received: now, Site: taxonomy.SiteID(rapid.SampledFrom([]string{"shop", "news"}).Draw(t, "site")),
			Source: "web", Space: taxonomy.SpaceCookie, Visitor: v, Returning: rapid.IntRange(0, 2).Draw(t, "returning") == 0,
			Consent: taxonomy.Consent{Day: now.Day(), Regime: taxonomy.RegimeOptIn,
				Purposes: rapid.SampledFrom([]taxonomy.Purposes{taxonomy.MayAll, taxonomy.MayStore | taxonomy.MayProfile, taxonomy.MayStore | taxonomy.MayProfile | taxonomy.MayExport}).Draw(t, "purposes")}}
		switch kind := rapid.IntRange(0, 12).Draw(t, "kind"); {
		case kind < 6:
			r.Kind = taxonomy.RecordEvent
			r.Bot = rapid.IntRange(0, 9).Draw(t, "bot") == 0
			born[taxonomy.EventID{byte(i), 1}] = now
			r.Event = &taxonomy.Event{ID: taxonomy.EventID{byte(i), 1}, Kind: taxonomy.EventTrack, Name: rapid.SampledFrom([]string{"a", "b"}).Draw(t, "name"),
				Time: now - taxonomy.Millis(rapid.IntRange(0, 24*3600_000).Draw(t, "late"))}
			switch rapid.IntRange(0, 9).Draw(t, "from") {
			case 0: // a row of a file
				r.Import, r.Returning = taxonomy.ImportRow{File: [16]byte{1}, Row: uint32(i)}, true
			case 1: // brought back by a node that was gone (R4)
				r.First = taxonomy.Ref{Writer: taxonomy.WriterID{1}, Seq: uint64(1000 + i)}
			}
		case kind < 8 && len(h) > 0: // a copy of an event first received at most 24 h before
			o := h[rapid.IntRange(max(0, len(h)-6), len(h)-1).Draw(t, "copy of")]
			if o.Kind != taxonomy.RecordEvent || now-born[o.Event.ID] > 24*taxonomy.Hour {
				continue
			}
			r.Kind, r.Event, r.Site, r.Visitor, r.Bot, r.Import = o.Kind, o.Event, o.Site, o.Visitor, o.Bot, o.Import
			r.Returning = r.Returning || !r.Import.IsZero()
		case kind == 8:
			r.Kind = taxonomy.RecordConsent
		case kind == 9:
			r.Kind, r.Returning = taxonomy.RecordAttribute, true
			r.Statement = &taxonomy.Statement{ID: taxonomy.EventID{byte(i)}, Time: now - taxonomy.Millis(rapid.IntRange(0, 2).Draw(t, "said"))*taxonomy.Hour*20,
				Trait: taxonomy.AttributeTrait("age", rapid.SampledFrom([]string{"18-24", "25-34"}).Draw(t, "value"))}
			if rapid.Bool().Draw(t, "ends") { // R16: a life of its own
				r.Statement.Until = now.Day() + taxonomy.Day(rapid.SampledFrom([]int{0, 1, 2, 88, 90}).Draw(t, "until"))
			}
		case kind == 10:
			r.Kind, r.Returning = taxonomy.RecordMatch, true
			r.Match = &taxonomy.Match{Destination: "dsp", ID: rapid.SampledFrom([]string{"p1", "p2"}).Draw(t, "id")}
			if rapid.Bool().Draw(t, "in a file") { // whatever consent stands there
				r.Import, r.Returning, r.Space = taxonomy.ImportRow{File: [16]byte{2}, Row: uint32(i)}, false, ""
			}
		case kind == 11: // what an edge heard, perhaps on the day before
			r = taxonomy.Record{Kind: taxonomy.RecordCounts, Received: now}
			for range rapid.IntRange(1, 3).Draw(t, "heard") {
				r.Heard = append(r.Heard, taxonomy.Heard{Day: now.Day() - taxonomy.Day(rapid.SampledFrom([]int{0, 0, 1, 89, 90}).Draw(t, "days ago")), Site: taxonomy.SiteID(rapid.SampledFrom([]string{"", "shop"}).Draw(t, "heard by")),
					Signal: taxonomy.Signal(rapid.IntRange(0, 9).Draw(t, "signal")), Verdict: taxonomy.Verdict(rapid.IntRange(0, 3).Draw(t, "verdict")), N: uint64(rapid.IntRange(1, 300).Draw(t, "times"))})
			}
		default:
			if rapid.IntRange(0, 3).Draw(t, "erase") != 0 {
				continue
			}
			r.Kind, r.Returning, r.Consent = taxonomy.RecordErasure, false, taxonomy.Consent{}
		}
		h = append(h, r)
	}
	return h
}

// answers is what R8 says must not depend on the order of folding.
type answers struct {
	Facts    map[fact]int
	Newest   map[taxonomy.VisitorKey]string // the attribute as of the last day
	Consent  map[taxonomy.VisitorKey]taxonomy.Consent
	Matches  map[taxonomy.VisitorKey]string
	Events   map[taxonomy.VisitorKey][]taxonomy.EventID
	Received map[taxonomy.SiteID]uint64
	Heard    map[heardKey]uint64
}

func newAnswers() answers {
	return answers{map[fact]int{}, map[taxonomy.VisitorKey]string{}, map[taxonomy.VisitorKey]taxonomy.Consent{},
		map[taxonomy.VisitorKey]string{}, map[taxonomy.VisitorKey][]taxonomy.EventID{}, map[taxonomy.SiteID]uint64{}, map[heardKey]uint64{}}
}

// naive answers by the words of the rules, from the whole history at once.
func naive(h history, rules Classifier) answers {
	a := newAnswers()
	erased := map[taxonomy.VisitorKey]bool{}
	first := map[taxonomy.VisitorKey]taxonomy.Millis{} // earliest returning receipt
	for _, r := range h {
		if r.Kind == taxonomy.RecordErasure {
			erased[r.Visitor] = true
		}
		if at, ok := first[r.Visitor]; r.Returning && (!ok || r.Received < at) {
			first[r.Visitor] = r.Received
		}
		if r.Kind == taxonomy.RecordEvent {
			a.Received[r.Site]++
		}
		for _, x := range r.Heard {
			if x.Day > h.end().Day()-90 {
				a.Heard[heardKey{x.Day, x.Site, x.Signal, x.Verdict}] += x.N
			}
		}
	}
	counts := func(r *taxonomy.Record) bool { // R11
		at, ok := first[r.Visitor]
		return ok && at <= r.Received+24*taxonomy.Hour && !erased[r.Visitor]
	}
	type eventKey struct {
		site taxonomy.SiteID
		v    taxonomy.VisitorKey
		id   taxonomy.EventID
	}
	once := map[eventKey]bool{}
	consentAt := map[taxonomy.VisitorKey]taxonomy.Millis{}
	said := map[taxonomy.VisitorKey]*taxonomy.Statement{}
	claims := map[claimKey]taxonomy.Millis{}
	for i := range h {
		r := &h[i]
		if r.Kind == taxonomy.RecordErasure || !counts(r) {
			continue
		}
		if at := consentAt[r.Visitor]; r.Kind == taxonomy.RecordMatch && !r.Import.IsZero() {
			// A file says nothing of what a visitor allows.
		} else if r.Received > at {
			consentAt[r.Visitor], a.Consent[r.Visitor] = r.Received, r.Consent
		} else if r.Received == at {
			a.Consent[r.Visitor] = a.Consent[r.Visitor].Meet(r.Consent)
		}
		switch r.Kind {
		case taxonomy.RecordEvent:
			k := eventKey{r.Site, r.Visitor, r.Event.ID}
			if once[k] {
				continue
			}
			once[k] = true
			a.Events[r.Visitor] = append(a.Events[r.Visitor], r.Event.ID)
			traits := rules.Classify("", r.Event, []taxonomy.Trait{taxonomy.TraitAny})
			if r.Bot {
				traits = append(traits, taxonomy.TraitBot)
			}
			for _, tr := range traits {
				a.Facts[fact{r.Visitor, taxonomy.Column{Source: r.Source, Trait: tr}, r.Event.Time.Day()}]++
			}
		case taxonomy.RecordAttribute:
			if s := said[r.Visitor]; s == nil || s.Time < r.Statement.Time || s.Time == r.Statement.Time && bytes.Compare(s.ID[:], r.Statement.ID[:]) < 0 {
				said[r.Visitor] = r.Statement
			}
		case taxonomy.RecordMatch:
			k := claimKey{r.Match.Destination, r.Visitor, r.Match.ID}
			claims[k] = max(claims[k], r.Received)
		}
	}
	for v, s := range said {
		tr, day := s.Trait, s.Time.Day()
		if s.Until != 0 && s.Until < day+90 {
			tr = tr.Ending(max(s.Until, day))
		}
		a.Newest[v] = string(tr)
	}
	for k, at := range claims { // a pair is a match if no claim of either is newer
		best := true
		for o, t := range claims {
			best = best && !(o.visitor == k.visitor && newer(t, o.id, at, k.id)) && !(o.id == k.id && newer(t, string(o.visitor[:]), at, string(k.visitor[:])))
		}
		if best {
			a.Matches[k.visitor] = k.id
		}
	}
	for _, ids := range a.Events {
		slices.SortFunc(ids, func(x, y taxonomy.EventID) int { return bytes.Compare(x[:], y[:]) })
	}
	return a
}

// read takes the same answers from a fold and its stores.
func read(t *rapid.T, w *world, f *Fold, v *View) answers {
	a := newAnswers()
	for fa, n := range contents(v) {
		if _, statement := fa.col.Trait.Statement(); !statement {
			a.Facts[fa] = n
		}
	}
	var ages []taxonomy.Column
	if err := v.Columns(v.Clock().Day().Oldest(), v.Clock().Day(), func(c taxonomy.Column, _ uint64) {
		if key, ok := c.Trait.Statement(); ok && key == "a:age" {
			ages = append(ages, c)
		}
	}); err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		k := visitorKey(i)
		shard, o, ok := v.Ordinal(k)
		if !ok {
			continue
		}
		if _, alive := v.Key(shard, o); !alive {
			continue
		}
		if c, ok := v.Consent(shard, o); ok && !c.Equal(taxonomy.Consent{}) {
			a.Consent[k] = c
		}
		if id, _, ok := v.MatchID("dsp", shard, o); ok {
			a.Matches[k] = id
		}
		for _, c := range ages {
			var words index.Words
			op := &index.Operand{Kind: index.OpNewest, Columns: []taxonomy.Column{c}, All: ages, AsOf: v.Clock().Day()}
			if _, err := v.Leaf(shard, 0, op, &words); err != nil {
				t.Fatal(err)
			}
			if words[o/64]&(1<<(o%64)) != 0 {
				a.Newest[k] += string(c.Trait)
			}
		}
		err := w.model.Events().Visitor(context.Background(), k, 0, 1<<30, func(e *retention.StoredEvent) error {
			a.Events[k] = append(a.Events[k], e.Record.Event.ID)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		slices.SortFunc(a.Events[k], func(x, y taxonomy.EventID) int { return bytes.Compare(x[:], y[:]) })
	}
	for _, x := range f.Heard() {
		a.Heard[heardKey{x.Day, x.Site, x.Signal, x.Verdict}] = x.N
	}
	for site, ta := range f.Tallies() {
		a.Received[site] = ta.Received
		sum := ta.Stored + ta.Duplicate + ta.Waiting
		for _, n := range ta.Rejected {
			sum += n
		}
		for _, n := range ta.Dropped {
			sum += n
		}
		if sum != ta.Received {
			t.Fatalf("P2: site %s received %d, but %+v", site, ta.Received, ta)
		}
	}
	return a
}

// R8, R6, P10: any interleaving of writers, any split into polls, any repeat and
// any crash between two writes of a checkpoint give what the rules say of the
// whole history.
func TestFoldGivesTheSameInAnyOrderWithAnyCrash(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := drawHistory(t)
		n := rapid.IntRange(1, 3).Draw(t, "writers")
		log := newLagLog(n)
		for i := 0; i < len(h); {
			size := min(len(h)-i, rapid.IntRange(1, 3).Draw(t, "frame"))
			log.append(log.order[rapid.IntRange(0, n-1).Draw(t, "writer")], h[i+size-1].Received, h[i:i+size]...)
			i += size
		}
		last := h.end()
		for _, w := range log.order {
			log.append(w, last, taxonomy.Record{Kind: taxonomy.RecordTick, Received: last})
		}
		w := newWorld(log, start)
		w.clock.Set(last)
		tb := t
		f := w.open(tb)
		for range rapid.IntRange(0, 30).Draw(t, "steps") {
			switch rapid.IntRange(0, 5).Draw(t, "step") {
			case 0, 1:
				lw := log.writers[log.order[rapid.IntRange(0, n-1).Draw(t, "whose")]]
				lw.visible = min(len(lw.frames), lw.visible+rapid.IntRange(1, 5).Draw(t, "more"))
			case 2, 3:
				if _, err := f.Poll(context.Background()); err != nil {
					t.Fatal(err)
				}
			case 4:
				if _, err := f.Checkpoint(context.Background()); err != nil {
					t.Fatal(err)
				}
			case 5: // the power goes at a write of a checkpoint
				w.fail = rapid.IntRange(0, 8).Draw(t, "writes left")
				_, err := f.Checkpoint(context.Background())
				if err != nil && !errors.Is(err, errPower) {
					t.Fatal(err)
				}
				w.fail = -1
				if rapid.Bool().Draw(t, "and we with it") {
					f = w.open(tb)
				}
			}
		}
		log.showAll()
		drainAll(tb, f)
		v := checkpoint(tb, f)
		want := naive(h, byName{})
		if got := read(t, w, f, v); !cmp.Equal(want, got) {
			t.Fatalf("differs from the naive model (-want +got):\n%s", cmp.Diff(want, got))
		}
		f = w.open(tb) // and once more from the files alone
		if got := read(t, w, f, f.View()); !cmp.Equal(want, got) {
			t.Fatalf("after a restart (-want +got):\n%s", cmp.Diff(want, got))
		}
	})
}

func (h history) end() taxonomy.Millis {
	if len(h) == 0 {
		return start
	}
	return h[len(h)-1].Received
}
