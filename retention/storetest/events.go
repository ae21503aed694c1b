package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
	"pgregory.net/rapid"
)

const (
	firstDay taxonomy.Day = -1 << 20
	lastDay  taxonomy.Day = 1 << 20
)

// Events tests an engine of retention.Events.
func Events(t *testing.T, open Opener[retention.Events]) {
	t.Run("RandomOperationsAnswerAsTheModelDoes", func(t *testing.T) {
		rapid.Check(t, func(t *rapid.T) { randomEvents(t, open) })
	})
	type B = *bench[retention.Events]

	statement(t, open, "EventIsReadableToTheEndOfItsNinetiethDay", func(b B) {
		day := Start.Day()
		if over := mustDay("2028-03-01").Start(); day.Over() != over {
			b.t.Fatalf("%s is over at %s, want %s", day, day.Over(), over)
		}
		put(b, eventAt(Visitor(1), day.Start(), Start, 1, 1), eventAt(Visitor(1), (day+1).Start()-1, Start, 2, 2))
		b.clock.Set(day.Over() - taxonomy.Second)
		wantVisitor(b, Visitor(1), 2)
		wantScan(b, 2)
		b.clock.Set(day.Over() - 1)
		wantVisitor(b, Visitor(1), 2)
		b.clock.Set(day.Over())
		wantVisitor(b, Visitor(1), 0)
		wantScan(b, 0)
		if got := scan(b, 2, day, day); len(got) != 0 {
			b.t.Fatalf("a scan of the day that is over gave %d events", len(got))
		}
		b.clock.Set(day.Over() + taxonomy.Second)
		b.reopen()
		wantVisitor(b, Visitor(1), 0)
	})
	statement(t, open, "LateEventGetsTheRemainingLifeOnly", func(b B) {
		late := b.clock.Now().Day().Oldest()
		put(b, eventAt(Visitor(1), late.Start()+taxonomy.Hour, b.clock.Now(), 1, 1))
		b.clock.Set((Start.Day() + 1).Start() - taxonomy.Second)
		wantVisitor(b, Visitor(1), 1)
		b.clock.Set((Start.Day() + 1).Start())
		wantVisitor(b, Visitor(1), 0)
	})
	statement(t, open, "WhatIsOverIsNotWrittenAndIsNoError", func(b B) { // R17
		over := b.clock.Now().Day().Oldest() - 1
		put(b, eventAt(Visitor(1), (over+1).Start()-1, b.clock.Now(), 1, 1), eventAt(Visitor(1), (over+1).Start(), b.clock.Now(), 2, 2))
		wantVisitor(b, Visitor(1), 1)
		b.clock.Set(over.Over() - taxonomy.Hour) // a clock that steps back brings nothing back
		wantVisitor(b, Visitor(1), 1)
	})
	statement(t, open, "CopiesWithin48HoursAreOneEvent", func(b B) { // R10
		r := b.clock.Now()
		first := eventAt(Visitor(1), r, r-48*taxonomy.Hour, 1, 9)
		put(b, eventAt(Visitor(1), r, r, 1, 1), first)
		got := wantVisitor(b, Visitor(1), 1)
		if got[0].Ref != first.Ref {
			b.t.Fatalf("got the copy of %v, want that received first, %v", got[0].Ref, first.Ref)
		}
		wantScan(b, 1)
	})
	statement(t, open, "AmongCopiesReceivedTogetherTheLeastWriterAndSeqStays", func(b B) { // R10
		r := b.clock.Now()
		x, y, z := eventAt(Visitor(1), r, r, 1, 5), eventAt(Visitor(1), r, r, 1, 4), eventAt(Visitor(1), r, r, 1, 9)
		z.Ref.Writer = writerID(1) // lower than writer 0
		put(b, x, y)
		if got := wantVisitor(b, Visitor(1), 1); got[0].Ref != y.Ref {
			b.t.Fatalf("got seq %d, want 4", got[0].Ref.Seq)
		}
		put(b, z)
		if got := wantVisitor(b, Visitor(1), 1); got[0].Ref != z.Ref {
			b.t.Fatalf("got seq %d, want 9 of the lesser writer", got[0].Ref.Seq)
		}
	})
	statement(t, open, "CopiesFurtherApartAreTwo", func(b B) { // R10
		r := b.clock.Now()
		put(b, eventAt(Visitor(1), r, r, 1, 1), eventAt(Visitor(1), r-2*taxonomy.OneDay, r-48*taxonomy.Hour-1, 1, 2))
		wantVisitor(b, Visitor(1), 2)
		wantScan(b, 2)
	})
	statement(t, open, "CopiesOfARowOfAFileAreOneHoweverFarApart", func(b B) { // R13
		r := b.clock.Now()
		day := r - 20*taxonomy.OneDay
		late, first := eventAt(Visitor(1), day, r, 1, 1), eventAt(Visitor(1), day, r-5*taxonomy.OneDay, 1, 2)
		late.Record.Import = taxonomy.ImportRow{File: [16]byte{1}, Row: 3}
		first.Record.Import = late.Record.Import
		put(b, late, first)
		if got := wantVisitor(b, Visitor(1), 1); got[0].Ref != first.Ref {
			b.t.Fatalf("got the copy of %v, want that received first, %v", got[0].Ref, first.Ref)
		}
		other := eventAt(Visitor(1), day, r-5*taxonomy.OneDay, 1, 3) // another row of that ID is another event
		other.Record.Received -= 3 * taxonomy.OneDay
		other.Record.Import = taxonomy.ImportRow{File: [16]byte{1}, Row: 4}
		put(b, other)
		wantVisitor(b, Visitor(1), 2)
		wantScan(b, 2)
	})
	statement(t, open, "OtherSitesAndVisitorsHaveNoCopies", func(b B) { // R10
		r := b.clock.Now()
		other := eventAt(Visitor(1), r, r, 1, 2)
		other.Record.Site = "news"
		put(b, eventAt(Visitor(1), r, r, 1, 1), other, eventAt(Visitor(2), r, r, 1, 3))
		wantScan(b, 3)
	})
	statement(t, open, "ACopyAcrossMidnightIsOneOnWhicheverDaysAreAsked", func(b B) { // R10
		today := b.clock.Now().Day()
		first := eventAt(Visitor(1), today.Start()-taxonomy.Second, b.clock.Now()-taxonomy.Hour, 1, 1)
		put(b, eventAt(Visitor(1), today.Start(), b.clock.Now(), 1, 2), first)
		for _, days := range [][2]taxonomy.Day{{today - 1, today}, {today - 1, today - 1}} {
			if got := visitor(b, Visitor(1), days[0], days[1]); len(got) != 1 || got[0].Ref != first.Ref {
				b.t.Fatalf("days %v: got %d events, want the first copy alone", days, len(got))
			}
			if got := scan(b, 3, days[0], days[1]); len(got) != 1 || got[0].Ref != first.Ref {
				b.t.Fatalf("days %v: a scan gave %d events, want the first copy alone", days, len(got))
			}
		}
		if got := visitor(b, Visitor(1), today, today); len(got) != 0 {
			b.t.Fatalf("today alone gave %d events; its copy was received before", len(got))
		}
		if got := scan(b, 3, today, today); len(got) != 0 {
			b.t.Fatalf("a scan of today alone gave %d events; its copy was received before", len(got))
		}
	})
	statement(t, open, "CopiesAreFoundOnDaysAsFarApartAsTheyCanBe", func(b B) { // R10, R20
		// The first is dated 24 h before its receipt and just before a midnight;
		// the second is received 48 h later and dated 5 minutes ahead.
		r := b.clock.Now().Day().Start() - 1
		b.clock.Set(r + 48*taxonomy.Hour)
		first := eventAt(Visitor(1), r-taxonomy.OneDay, r, 1, 2)
		second := eventAt(Visitor(1), r+48*taxonomy.Hour+5*taxonomy.Minute, r+48*taxonomy.Hour, 1, 1)
		if second.Day()-first.Day() != 4 {
			b.t.Fatalf("the days are %d apart", second.Day()-first.Day())
		}
		put(b, second, first)
		for _, got := range [][]retention.StoredEvent{wantVisitor(b, Visitor(1), 1), wantScan(b, 1)} {
			if got[0].Ref != first.Ref {
				b.t.Fatalf("got seq %d, want the first copy", got[0].Ref.Seq)
			}
		}
		if got := visitor(b, Visitor(1), second.Day(), lastDay); len(got) != 0 {
			b.t.Fatalf("the second copy's day gave %d events", len(got))
		}
		if got := scan(b, 2, second.Day(), lastDay); len(got) != 0 {
			b.t.Fatalf("a scan of the second copy's day gave %d events", len(got))
		}
	})
	statement(t, open, "ACopyThatIsOverHidesNothing", func(b B) { // R10, P5
		day := b.clock.Now().Day()
		put(b, eventAt(Visitor(1), (day+1).Start()-1, Start, 1, 1), eventAt(Visitor(1), (day+1).Start(), Start+1, 1, 2))
		wantVisitor(b, Visitor(1), 1)
		b.clock.Set(day.Over())
		got := wantVisitor(b, Visitor(1), 1)
		if got[0].Ref.Seq != 2 {
			b.t.Fatalf("got seq %d, want the copy that still lives", got[0].Ref.Seq)
		}
		wantScan(b, 1)
		b.check(b.got.Expire(b.ctx, day+1))
		wantVisitor(b, Visitor(1), 1)
	})
	statement(t, open, "PuttingAgainChangesNothing", func(b B) { // P10
		e := eventAt(Visitor(1), b.clock.Now(), b.clock.Now(), 1, 1)
		put(b, e, e)
		put(b, e)
		b.reopen()
		put(b, e)
		wantVisitor(b, Visitor(1), 1)
		wantScan(b, 1)
	})
	statement(t, open, "AllFieldsComeBack", func(b B) {
		now := b.clock.Now()
		rich := eventAt(Visitor(3), now-1, now, 3, 3)
		r := &rich.Record
		r.Space, r.Bot, r.First, r.Import = "own:crm", true, rich.Ref, taxonomy.ImportRow{File: [16]byte{1, 2}, Row: 77}
		r.Consent.Destinations = []taxonomy.DestinationID{}
		r.Event.Kind, r.Event.Name, r.Event.Ref = taxonomy.EventTrack, "buy\x00now", "https://ref.example"
		r.Event.Props = []taxonomy.Prop{{Key: "a", Value: "ünïcode"}, {Key: "b", Value: ""}}
		r.Event.Traits = []taxonomy.Trait{"k:color=red"}
		moved := eventAt(Visitor(3), now-2, now, 4, 4)
		moved.Record.First = taxonomy.Ref{Writer: writerID(9), Seq: 99} // not where it was read
		want := []retention.StoredEvent{rich, moved}
		put(b, want...)
		b.reopen()
		if err := diffEvents(wantVisitor(b, Visitor(3), 2), want); err != nil {
			b.t.Fatal(err)
		}
		if err := diffEvents(wantScan(b, 2), want); err != nil {
			b.t.Fatal(err)
		}
	})
	statement(t, open, "VisitorWalksByDayThenByRef", func(b B) {
		now := b.clock.Now()
		put(b, eventAt(Visitor(1), now, now, 1, 300), eventAt(Visitor(1), now-taxonomy.OneDay, now, 2, 301),
			eventAt(Visitor(1), now-1, now, 3, 4), eventAt(Visitor(0), now, now, 4, 5), eventAt(Visitor(2), now, now, 5, 6))
		var seqs []uint64
		for _, e := range wantVisitor(b, Visitor(1), 3) {
			seqs = append(seqs, e.Ref.Seq)
		}
		if !slices.Equal(seqs, []uint64{301, 4, 300}) {
			b.t.Fatalf("got seqs %v, want 301, 4, 300", seqs)
		}
		if got := visitor(b, Visitor(1), now.Day(), now.Day()); len(got) != 2 {
			b.t.Fatalf("got %d events of today, want 2", len(got))
		}
	})
	statement(t, open, "TheEngineKeepsNoReference", func(b B) {
		now := b.clock.Now()
		e := eventAt(Visitor(1), now, now, 1, 1)
		e.Record.Event.Props = []taxonomy.Prop{{Key: "k", Value: "v"}}
		want := []retention.StoredEvent{cloneEvent(&e)}
		batch := []retention.StoredEvent{e}
		put(b, batch...)
		batch[0].Record.Event.Props[0].Value, batch[0].Record.Event.URL = "changed", "changed"
		got := wantVisitor(b, Visitor(1), 1)
		got[0].Record.Event.Props[0].Value = "changed" // what Visitor gave may be kept, and is the caller's
		if err := diffEvents(wantVisitor(b, Visitor(1), 1), want); err != nil {
			b.t.Fatal(err)
		}
	})
	statement(t, open, "NoEventNoPut", func(b B) {
		now := b.clock.Now()
		good, tick, placeless := eventAt(Visitor(1), now, now, 1, 1), eventAt(Visitor(1), now, now, 2, 2), eventAt(Visitor(1), now, now, 3, 3)
		tick.Record.Kind, placeless.Ref = taxonomy.RecordTick, taxonomy.Ref{}
		for _, bad := range []retention.StoredEvent{tick, placeless} {
			if err := b.got.Put(b.ctx, []retention.StoredEvent{good, bad}); err == nil || errors.Is(err, retention.ErrUnknown) {
				b.t.Fatalf("putting what is no event gave %v, want an error that says so", err)
			}
		}
		wantVisitor(b, Visitor(1), 0)
		b.check(b.got.Put(b.ctx, nil))
	})
	statement(t, open, "EraseHidesAtOnceAndForGood", func(b B) {
		now := b.clock.Now()
		for seq := 1; seq <= 60; seq++ {
			put(b, eventAt(Visitor(seq%3), now-taxonomy.Millis(seq)*taxonomy.OneDay, now, seq, seq))
		}
		b.check(b.got.Erase(b.ctx, []taxonomy.VisitorKey{Visitor(1), Visitor(5)}))
		wantVisitor(b, Visitor(1), 0)
		wantScan(b, 40)
		b.reopen()
		wantVisitor(b, Visitor(1), 0)
		b.check(b.got.Expire(b.ctx, now.Day().Oldest()))
		wantVisitor(b, Visitor(0), 20)
		wantVisitor(b, Visitor(1), 0)
		b.check(b.got.Erase(b.ctx, []taxonomy.VisitorKey{Visitor(1)})) // again is fine
		b.check(b.got.Erase(b.ctx, nil))
		put(b, eventAt(Visitor(1), now, now, 99, 99)) // the store forbids no return: the fold does
		wantVisitor(b, Visitor(1), 1)
	})
	statement(t, open, "ExpireRemovesTheDaysBefore", func(b B) {
		now := b.clock.Now()
		day := now.Day()
		put(b, eventAt(Visitor(1), day.Start()-1, now, 1, 1), eventAt(Visitor(1), day.Start(), now, 2, 2))
		b.clock.Set((day - 1).Over())
		b.check(b.got.Expire(b.ctx, day))
		b.check(b.got.Expire(b.ctx, day))
		b.clock.Set(now) // the bytes are gone: no clock brings them back
		if got := wantVisitor(b, Visitor(1), 1); got[0].Ref.Seq != 2 {
			b.t.Fatalf("got seq %d, want that of the day that stays", got[0].Ref.Seq)
		}
	})
	statement(t, open, "PartsSplitTheVisitors", func(b B) {
		now := b.clock.Now()
		for seq := 1; seq <= 200; seq++ {
			v := taxonomy.VisitorKey{byte(seq * 37), byte(seq * 91), byte(seq), byte(seq * 7)}
			put(b, eventAt(v, now, now, seq, 2*seq), eventAt(v, now-taxonomy.OneDay, now, seq+1000, 2*seq+1))
		}
		for _, parts := range []int{1, 2, 3, 7, 64, 300} {
			if got := scan(b, parts, firstDay, lastDay); len(got) != 400 {
				b.t.Fatalf("%d parts gave %d events, want 400", parts, len(got))
			}
		}
		for _, bad := range [][2]int{{0, 0}, {-1, 2}, {2, 2}} {
			if err := b.got.Scan(b.ctx, bad[0], bad[1], firstDay, lastDay, func(*retention.StoredEvent) error { return nil }); err == nil {
				b.t.Fatalf("part %d of %d: no error", bad[0], bad[1])
			}
		}
	})
	statement(t, open, "AnErrorOfTheCallerEndsTheWalk", func(b B) {
		now := b.clock.Now()
		put(b, eventAt(Visitor(1), now, now, 1, 1), eventAt(Visitor(1), now, now, 2, 2))
		enough := errors.New("enough")
		calls := 0
		fn := func(*retention.StoredEvent) error { calls++; return enough }
		if err := b.got.Visitor(b.ctx, Visitor(1), firstDay, lastDay, fn); !errors.Is(err, enough) {
			b.t.Fatalf("visitor: got %v, want the caller's error", err)
		}
		if err := b.got.Scan(b.ctx, 0, 1, firstDay, lastDay, fn); !errors.Is(err, enough) {
			b.t.Fatalf("scan: got %v, want the caller's error", err)
		}
		if calls != 2 {
			b.t.Fatalf("fn was called %d times, want once for each walk", calls)
		}
	})
	statement(t, open, "ACancelledContextIsHonoured", func(b B) {
		now := b.clock.Now()
		put(b, eventAt(Visitor(1), now, now, 1, 1))
		ctx, cancel := context.WithCancel(b.ctx)
		cancel()
		e := eventAt(Visitor(1), now, now, 2, 2)
		fn := func(*retention.StoredEvent) error { return nil }
		for what, err := range map[string]error{
			"put":     b.got.Put(ctx, []retention.StoredEvent{e}),
			"visitor": b.got.Visitor(ctx, Visitor(1), firstDay, lastDay, fn),
			"scan":    b.got.Scan(ctx, 0, 1, firstDay, lastDay, fn),
			"erase":   b.got.Erase(ctx, []taxonomy.VisitorKey{Visitor(1)}),
			"expire":  b.got.Expire(ctx, now.Day()+1),
		} {
			if !errors.Is(err, context.Canceled) {
				b.t.Fatalf("%s: got %v, want context.Canceled", what, err)
			}
		}
		wantVisitor(b, Visitor(1), 1)
	})
	statement(t, open, "AWalkMayWriteAndReadInItsCallback", func(b B) {
		now := b.clock.Now()
		for seq := 1; seq <= 20; seq++ {
			put(b, eventAt(Visitor(seq), now, now, seq, seq))
		}
		seen := 0
		b.check(b.got.Scan(b.ctx, 0, 1, firstDay, now.Day(), func(e *retention.StoredEvent) error {
			seen++
			x := eventAt(e.Record.Visitor, now-taxonomy.OneDay, now, 500, 500+seen)
			return errors.Join(b.got.Put(b.ctx, []retention.StoredEvent{x}), b.got.Erase(b.ctx, []taxonomy.VisitorKey{Visitor(50)}),
				b.got.Visitor(b.ctx, e.Record.Visitor, firstDay, lastDay, func(*retention.StoredEvent) error { return nil }))
		}))
		if seen < 20 {
			b.t.Fatalf("the scan saw %d events, want at least the 20 put before it", seen)
		}
	})
	statement(t, open, "ManyMayCallAtOnce", func(b B) {
		now := b.clock.Now()
		var wg sync.WaitGroup
		errs := make([]error, 8)
		for g := range errs {
			wg.Go(func() {
				for i := range 10 {
					seq := g*10 + i + 1
					errs[g] = errors.Join(errs[g], b.got.Put(b.ctx, []retention.StoredEvent{eventAt(Visitor(g), now, now, seq, seq)}))
					if i == 4 && g == 0 {
						errs[g] = errors.Join(errs[g], b.got.Expire(b.ctx, now.Day().Oldest()))
					}
					if i == 6 && g == 1 {
						errs[g] = errors.Join(errs[g], b.got.Erase(b.ctx, []taxonomy.VisitorKey{Visitor(90)}))
					}
					n := 0
					err := b.got.Visitor(b.ctx, Visitor(g), firstDay, lastDay, func(*retention.StoredEvent) error { n++; return nil })
					if err == nil && n != i+1 {
						err = fmt.Errorf("after %d puts there are %d events", i+1, n)
					}
					errs[g] = errors.Join(errs[g], err)
				}
			})
		}
		wg.Wait()
		b.check(errors.Join(errs...))
		wantScan(b, 80)
	})
}

func put(b *bench[retention.Events], events ...retention.StoredEvent) {
	b.t.Helper()
	b.check(b.got.Put(b.ctx, events))
}

func visitor(b *bench[retention.Events], v taxonomy.VisitorKey, from, to taxonomy.Day) (got []retention.StoredEvent) {
	b.t.Helper()
	b.check(b.got.Visitor(b.ctx, v, from, to, func(e *retention.StoredEvent) error {
		got = append(got, *e) // kept, as Visitor allows
		return nil
	}))
	return got
}

func wantVisitor(b *bench[retention.Events], v taxonomy.VisitorKey, n int) []retention.StoredEvent {
	b.t.Helper()
	got := visitor(b, v, firstDay, lastDay)
	if len(got) != n {
		b.t.Fatalf("got %d events of the visitor at %s, want %d", len(got), b.clock.Now(), n)
	}
	return got
}

// scan returns the events of all parts, by day, visitor and ref, having checked
// what a scan promises of its parts.
func scan(b *bench[retention.Events], parts int, from, to taxonomy.Day) (got []retention.StoredEvent) {
	b.t.Helper()
	in := map[taxonomy.VisitorKey]int{}
	for part := range parts {
		last := firstDay
		b.check(b.got.Scan(b.ctx, part, parts, from, to, func(e *retention.StoredEvent) error {
			if e.Day() < last {
				return fmt.Errorf("part %d goes back from %s to %s", part, last, e.Day())
			}
			last = e.Day()
			if p, ok := in[e.Record.Visitor]; ok && p != part {
				return fmt.Errorf("a visitor is in parts %d and %d", p, part)
			}
			in[e.Record.Visitor] = part
			got = append(got, cloneEvent(e))
			return nil
		}))
	}
	slices.SortFunc(got, compareEvents)
	return got
}

func wantScan(b *bench[retention.Events], n int) []retention.StoredEvent {
	b.t.Helper()
	got := scan(b, 2, firstDay, lastDay)
	if len(got) != n {
		b.t.Fatalf("a scan gave %d events at %s, want %d", len(got), b.clock.Now(), n)
	}
	return got
}

// randomEvents does the same random things to the engine and to the model.
func randomEvents(t *rapid.T, open Opener[retention.Events]) {
	b := open.open(t)
	defer b.close()
	var seq uint64
	want := b.want.Events()
	var put []retention.StoredEvent // what can be put again
	both := func(do func(retention.Events) error) {
		t.Helper()
		if err := sameErr(do(b.got), do(want)); err != nil {
			t.Fatal(err)
		}
	}
	check := func(t *rapid.T) {
		t.Helper()
		from := b.clock.Now().Day() - taxonomy.Day(rapid.IntRange(-1, 95).Draw(t, "from"))
		to := from + taxonomy.Day(rapid.IntRange(0, 95).Draw(t, "days"))
		v := Visitor(rapid.IntRange(0, 5).Draw(t, "visitor"))
		var w []retention.StoredEvent
		b.check(want.Visitor(b.ctx, v, from, to, func(e *retention.StoredEvent) error { w = append(w, *e); return nil }))
		if err := diffEvents(visitor(b, v, from, to), w); err != nil {
			t.Fatalf("visitor %x, %s to %s at %s: %v", v[14:], from, to, b.clock.Now(), err)
		}
		w = nil
		b.check(want.Scan(b.ctx, 0, 1, from, to, func(e *retention.StoredEvent) error { w = append(w, *e); return nil }))
		if err := diffEvents(scan(b, rapid.IntRange(1, 5).Draw(t, "parts"), from, to), w); err != nil {
			t.Fatalf("scan %s to %s at %s: %v", from, to, b.clock.Now(), err)
		}
	}
	for range rapid.IntRange(1, 12).Draw(t, "steps") {
		switch rapid.SampledFrom([]string{"put", "put", "put", "again", "erase", "expire", "time", "reopen", "read"}).Draw(t, "op") {
		case "put":
			var batch []retention.StoredEvent
			for range rapid.IntRange(1, 12).Draw(t, "n") {
				batch = append(batch, drawEvent(t, b.clock.Now(), &seq))
			}
			put = append(put, batch...)
			both(func(e retention.Events) error { return e.Put(b.ctx, batch) })
		case "again":
			if len(put) > 0 {
				i := rapid.IntRange(0, len(put)-1).Draw(t, "which")
				both(func(e retention.Events) error { return e.Put(b.ctx, put[i:min(i+3, len(put))]) })
			}
		case "erase":
			vs := []taxonomy.VisitorKey{Visitor(rapid.IntRange(0, 6).Draw(t, "erased"))}
			both(func(e retention.Events) error { return e.Erase(b.ctx, vs) })
		case "expire":
			before := b.clock.Now().Day().Oldest() - taxonomy.Day(rapid.IntRange(0, 2).Draw(t, "earlier"))
			both(func(e retention.Events) error { return e.Expire(b.ctx, before) })
		case "time":
			b.clock.Advance(taxonomy.Millis(rapid.OneOf(rapid.Int64Range(0, int64(taxonomy.Hour)), rapid.Int64Range(0, int64(40*taxonomy.OneDay))).Draw(t, "ms")))
		case "reopen":
			b.reopen()
		case "read":
			check(t)
		}
	}
	check(t)
	// And the whole of it, whatever was drawn.
	var w []retention.StoredEvent
	b.check(want.Scan(b.ctx, 0, 1, firstDay, lastDay, func(e *retention.StoredEvent) error { w = append(w, *e); return nil }))
	if err := diffEvents(scan(b, 3, firstDay, lastDay), w); err != nil {
		t.Fatal(err)
	}
}
