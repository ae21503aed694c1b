package fold

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"testing"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/taxonomy"
)

var full = taxonomy.Consent{Day: start.Day(), Regime: taxonomy.RegimeOptIn, Purposes: taxonomy.MayAll}

func event(v int, at taxonomy.Millis, id byte, returning bool) taxonomy.Record {
	return taxonomy.Record{Kind: taxonomy.RecordEvent, Received: at, Site: "shop", Source: "web", Space: taxonomy.SpaceCookie,
		Visitor: visitorKey(v), Returning: returning, Consent: full,
		Event: &taxonomy.Event{ID: taxonomy.EventID{id, byte(v)}, Time: at, Kind: taxonomy.EventTrack, Name: "a"}}
}

// one is a world with one writer, for tests that tell a story.
type one struct {
	*world
	t   testing.TB
	lag *lagLog
	f   *Fold
	at  taxonomy.Millis
}

func story(t testing.TB) *one {
	l := newLagLog(1)
	s := &one{world: newWorld(l, start), t: t, lag: l, at: start}
	s.f = s.open(t)
	return s
}

// say appends records at a time and folds them.
func (s *one) say(at taxonomy.Millis, records ...taxonomy.Record) {
	s.t.Helper()
	s.at = max(s.at, at)
	s.clock.Set(s.at)
	s.lag.append(s.lag.order[0], at, records...)
	s.lag.showAll()
	drainAll(s.t, s.f)
}

func (s *one) tick(at taxonomy.Millis) {
	s.t.Helper()
	s.say(at, taxonomy.Record{Kind: taxonomy.RecordTick, Received: at})
}

func (s *one) save() *View { s.t.Helper(); return checkpoint(s.t, s.f) }

func (s *one) tally() Tally { return s.f.Tallies()["shop"] }

func (s *one) count(v *View, c string) (n int) {
	s.t.Helper()
	day := v.Clock().Day()
	op := &index.Operand{Kind: index.OpCount, Columns: []taxonomy.Column{{Source: "web", Trait: taxonomy.Trait(c)}}, From: day.Oldest(), To: day, Min: 1}
	for shard := range v.Shards() {
		for block := range v.Blocks(shard) {
			var w, gone index.Words
			if _, err := v.Leaf(shard, block, op, &w); err != nil {
				s.t.Fatal(err)
			}
			if _, err := v.Leaf(shard, block, &index.Operand{Kind: index.OpSet, Set: index.SetGone}, &gone); err != nil {
				s.t.Fatal(err)
			}
			for i := range w {
				w[i] &^= gone[i]
			}
			n += w.Count()
		}
	}
	return n
}

// R11: what waits is dropped when its day is over, and counted as such; P2 holds
// before and after.
func TestNotAdoptedIsDroppedAfterADay(t *testing.T) {
	s := story(t)
	s.say(start, event(1, start, 1, false))
	if got := s.tally(); got.Waiting != 1 || got.Received != 1 {
		t.Fatalf("while it waits: %+v", got)
	}
	s.tick(start + 24*taxonomy.Hour)
	if got := s.tally(); got.Waiting != 1 {
		t.Fatalf("24 h later to the millisecond it still waits: %+v", got)
	}
	s.tick(start + 24*taxonomy.Hour + 2*taxonomy.Minute)
	if got := s.tally(); got.Waiting != 0 || got.Dropped[taxonomy.ReasonNotAdopted] != 1 {
		t.Fatalf("after its day: %+v", got)
	}
	// What comes with its cookie now does not bring it back.
	s.say(s.at, event(1, s.at, 2, true))
	if n := s.count(s.save(), "any"); n != 1 || s.tally().Stored != 1 {
		t.Fatalf("%d visitors, %+v", n, s.tally())
	}
}

// R11: the waiting table is bounded, and the site that is over its share loses
// its own oldest.
func TestAFloodOfProvisionalVisitorsCostsTheFloodingSite(t *testing.T) {
	l := newLagLog(1)
	s := &one{world: newWorld(l, start), t: t, lag: l, at: start}
	s.cfg.WaitingBytes = 20_000
	s.f = s.open(t)
	calm := event(1, start, 1, false)
	calm.Site = "calm"
	s.say(start, calm)
	for i := range 200 {
		s.say(start, event(i%250, start, byte(i), false))
	}
	if got := s.f.Tallies()["calm"]; got.Waiting != 1 {
		t.Errorf("the calm site lost its event: %+v", got)
	}
	got := s.tally()
	if got.Dropped[taxonomy.ReasonProvisionalFull] == 0 || got.Waiting+got.Dropped[taxonomy.ReasonProvisionalFull] != got.Received {
		t.Errorf("the flooding site: %+v", got)
	}
	if s.f.state.waiting.bytes > 20_000 {
		t.Errorf("the table holds %d bytes, its bound is 20000", s.f.state.waiting.bytes)
	}
}

// R9: the order in which a record is asked. An erased key is dropped though it
// comes with its cookie and was seen before; one that returns adopts itself
// before it waits; a copy is a copy although its visitor is not adopted.
func TestARecordIsAskedInOrder(t *testing.T) {
	s := story(t)
	s.say(start, event(1, start, 1, true)) // returning: adopted at once, so it does not wait
	if got := s.tally(); got.Stored != 1 || got.Waiting != 0 {
		t.Fatalf("a returning visitor's first event: %+v", got)
	}
	s.say(start, event(2, start, 2, false), event(2, start, 2, false))
	if got := s.tally(); got.Waiting != 1 || got.Duplicate != 1 {
		t.Fatalf("a copy of what waits: %+v", got)
	}
	s.say(start+1, taxonomy.Record{Kind: taxonomy.RecordErasure, Received: start + 1, Space: taxonomy.SpaceCookie, Visitor: visitorKey(1)})
	s.say(start+2, event(1, start+2, 1, true)) // erased, returning and a copy
	if got := s.tally(); got.Dropped[taxonomy.ReasonErased] != 1 || got.Duplicate != 1 {
		t.Fatalf("an erased visitor's copy: %+v", got)
	}
}

// R13: a repeated row of an import is a duplicate, also after a restart, and a
// rejected row is counted once.
func TestARepeatedImportChangesNothing(t *testing.T) {
	s := story(t)
	row := func(n uint32) taxonomy.Record {
		r := event(int(n), start, byte(n), true)
		r.Import = taxonomy.ImportRow{File: [16]byte{7}, Row: n}
		return r
	}
	bad := taxonomy.Record{Kind: taxonomy.RecordCounts, Received: start, Visitor: visitorKey(0), Import: taxonomy.ImportRow{File: [16]byte{7}, Row: 9000},
		Counts: []taxonomy.Count{{Site: "shop", Outcome: taxonomy.Rejected, Reason: taxonomy.ReasonTooOld, N: 1}}}
	for range 2 {
		s.say(start, row(1), row(2), bad)
		s.save()
		s.f = s.open(t)
	}
	got := s.tally()
	if got.Received != 6 || got.Stored != 2 || got.Rejected[taxonomy.ReasonTooOld] != 1 || got.Duplicate != 3 {
		t.Fatalf("after the file was given twice: %+v", got)
	}
}

// R10: a copy within 48 h is a duplicate, one beyond is another event, and a
// restart forgets neither.
func TestDuplicatesAreRememberedFor48Hours(t *testing.T) {
	for _, c := range []struct {
		apart taxonomy.Millis
		dup   uint64
	}{{0, 1}, {duplicateWindow, 1}, {duplicateWindow + 1, 0}} {
		s := story(t)
		s.say(start, event(1, start, 1, true))
		s.save()
		s.f = s.open(t)
		s.say(start+c.apart, event(1, start+c.apart, 1, true))
		if got := s.tally(); got.Duplicate != c.dup {
			t.Errorf("%d ms apart: %+v", c.apart, got)
		}
	}
}

// R23–R26: an erased visitor is in no answer at once, is not brought back by what
// was still on its way, and leaves no byte of its key behind the nightly pass.
func TestEraseSurvivesAQueuedEvent(t *testing.T) {
	s := story(t)
	var erased []Erased
	s.hook = func(o *Options) {
		o.OnErased = func(_ context.Context, e []Erased) error { erased = append(erased, e...); return nil }
	}
	s.f = s.open(t)
	s.say(start, event(1, start, 1, true), event(2, start, 2, true), event(3, start, 9, false))
	s.save()
	k := visitorKey(1)
	s.say(start+1, taxonomy.Record{Kind: taxonomy.RecordErasure, Received: start + 1, Space: taxonomy.SpaceCookie, Visitor: k},
		taxonomy.Record{Kind: taxonomy.RecordErasure, Received: start + 1, Space: taxonomy.SpaceCookie, Visitor: visitorKey(3)})
	s.say(start+2, event(1, start-1, 3, true), event(1, start+2, 4, true))
	v := s.save()
	if n := s.count(v, "any"); n != 1 {
		t.Errorf("%d visitors have an event, want the other one only", n)
	}
	shard, o, ok := v.Ordinal(k)
	if !ok {
		t.Fatal("the eraser cannot find whom to erase")
	}
	if _, ok := v.Key(shard, o); ok {
		t.Error("the view still names the erased visitor")
	}
	if !s.f.Erased(k, start+2) || s.f.Erased(visitorKey(2), start+2) {
		t.Error("Erased is wrong")
	}
	if got := s.tally(); got.Dropped[taxonomy.ReasonErased] != 3 {
		t.Errorf("tally: %+v", got)
	}
	if len(erased) != 2 || erased[0].Visitor != k {
		t.Errorf("the eraser was told %v", erased)
	}
	s.f.Forget([]taxonomy.VisitorKey{k, visitorKey(3)})
	v, err := s.f.Rewrite(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if _, _, ok := v.Ordinal(k); ok {
		t.Error("forgotten, and still found")
	}
	for _, name := range [][16]byte{k, visitorKey(3)} {
		if where := s.search(name[:]); where != "" {
			t.Errorf("bytes of an erased key are in %s", where)
		}
	}
	if other := visitorKey(2); s.search(other[:]) == "" {
		t.Error("the search finds nothing at all")
	}
	s.f = s.open(t)
	s.say(start+3, event(1, start+3, 5, true))
	if n := s.count(s.save(), "any"); n != 1 {
		t.Errorf("after a restart %d visitors have an event", n)
	}
}

// search looks for bytes in every blob.
func (s *one) search(what []byte) string {
	blobs, err := s.model.Blobs().List(context.Background(), "fold")
	if err != nil {
		s.t.Fatal(err)
	}
	for _, b := range blobs {
		r, err := s.model.Blobs().Open(context.Background(), b.Name)
		if err != nil {
			s.t.Fatal(err)
		}
		all, err := io.ReadAll(io.NewSectionReader(r, 0, b.Bytes))
		r.Close()
		if err != nil {
			s.t.Fatal(err)
		}
		if bytes.Contains(all, what) {
			return b.Name
		}
	}
	return ""
}

// R27: erasing the new ID erases the one it succeeded, whichever record the fold
// meets first.
func TestErasureReachesTheIDBefore(t *testing.T) {
	erase := taxonomy.Record{Kind: taxonomy.RecordErasure, Received: start + 2, Space: taxonomy.SpaceCookie, Visitor: visitorKey(2)}
	follows := taxonomy.Record{Kind: taxonomy.RecordSucceeds, Received: start + 1, Site: "shop", Space: taxonomy.SpaceCookie,
		Visitor: visitorKey(2), Succeeds: visitorKey(1), Consent: full}
	for _, order := range [][]taxonomy.Record{{follows, erase}, {erase, follows}} {
		s := story(t)
		s.say(start, event(1, start, 1, true))
		s.say(start+2, order...)
		if n := s.count(s.save(), "any"); n != 0 {
			t.Errorf("%d visitors are left, want none", n)
		}
	}
}

// R24: in a space of the operator's own IDs an authenticated opt-in lifts an
// erasure; what lay before it stays gone.
func TestAnOptInLiftsAnErasureOfOwnIDs(t *testing.T) {
	s := story(t)
	own := func(r taxonomy.Record) taxonomy.Record { r.Space = "own:crm"; return r }
	s.say(start, own(event(1, start, 1, true)))
	s.say(start+10, own(taxonomy.Record{Kind: taxonomy.RecordErasure, Received: start + 10, Visitor: visitorKey(1)}))
	s.say(start+20, own(event(1, start+20, 2, true)))
	if n := s.count(s.save(), "any"); n != 0 {
		t.Fatalf("erased, and %d visitors", n)
	}
	s.say(start+30, own(taxonomy.Record{Kind: taxonomy.RecordOptIn, Received: start + 30, Visitor: visitorKey(1)}))
	s.say(start+40, own(event(1, start+40, 3, true)), own(event(1, start+5, 4, true)))
	v := s.save()
	if n := s.count(v, "any"); n != 1 {
		t.Fatalf("opted in again, and %d visitors", n)
	}
	if got := contents(v)[fact{visitorKey(1), taxonomy.Column{Source: "web", Trait: "any"}, start.Day()}]; got != 1 {
		t.Errorf("%d events since the opt-in, want 1", got)
	}
}

// P5, R6: a visitor is known to the end of the 90th day of its newest event and
// no longer; its ordinal is not used again.
func TestAVisitorEndsWithItsNewestDay(t *testing.T) {
	s := story(t)
	s.say(start, event(1, start, 1, true))
	last := start.Day().Over()
	s.tick(last - 1)
	if n := s.count(s.save(), "any"); n != 1 {
		t.Fatalf("in the last millisecond of its life: %d", n)
	}
	s.tick(last)
	v := s.save()
	if n := s.count(v, "any"); n != 0 {
		t.Errorf("in the first millisecond after: %d", n)
	}
	if _, _, ok := v.Ordinal(visitorKey(1)); ok {
		t.Error("the key is still known")
	}
	k := visitorKey(1)
	if where := s.search(k[:]); where != "" {
		if _, err := s.f.Rewrite(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	if where := s.search(k[:]); where != "" {
		t.Errorf("the key is still in %s", where)
	}
	s.say(last, event(1, last, 2, true))
	v = s.save()
	if sh, o, ok := v.Ordinal(k); !ok || o == 0 {
		t.Errorf("it came back as ordinal %d of shard %d (%v); 0 was used", o, sh, ok)
	}
}

// R17: a late event gets what is left of its day's life; one whose life is over
// counts as stored and writes nothing.
func TestALateEventKeepsItsDay(t *testing.T) {
	s := story(t)
	s.tick(start)
	imported := func(n uint32, day taxonomy.Day) taxonomy.Record {
		r := event(int(n), start, byte(n), true)
		r.Event.Time, r.Import = day.Start(), taxonomy.ImportRow{File: [16]byte{1}, Row: n}
		return r
	}
	s.say(start, imported(1, start.Day().Oldest()), imported(2, start.Day().Oldest()-1))
	v := s.save()
	if n := s.count(v, "any"); n != 1 {
		t.Errorf("%d visitors, want the one whose day lives", n)
	}
	if got := s.tally(); got.Stored != 2 {
		t.Errorf("tally %+v", got)
	}
	s.tick((start.Day() + 1).Start())
	if n := s.count(s.save(), "any"); n != 0 {
		t.Errorf("the day after: %d visitors", n)
	}
}

// R2: a frame that was lost counts as received and dropped, and the fold goes on.
func TestALostFrameIsCountedAndPassed(t *testing.T) {
	s := story(t)
	s.say(start, event(1, start, 1, true))
	w := s.lag.writers[s.lag.order[0]]
	w.frames = append(w.frames, retention.Frame{Writer: s.lag.order[0], First: 2, N: 3, Time: start, Lost: true,
		Counts: []retention.SiteCount{{Site: "shop", N: 3}}, Bytes: 10})
	s.say(start, event(2, start, 2, true))
	if got := s.tally(); got.Received != 5 || got.Stored != 2 || got.Dropped[taxonomy.ReasonCorrupt] != 3 {
		t.Fatalf("tally %+v", got)
	}
}

// R10: when the event IDs cannot be read, the fold stops rather than guess.
func TestTheFoldStopsWhenEventIDsCannotBeRead(t *testing.T) {
	s := story(t)
	s.say(start, event(1, start, 1, true))
	s.save()
	for _, files := range s.f.seen.hours {
		for _, f := range files {
			f.r = broken{f.r}
		}
	}
	s.lag.append(s.lag.order[0], start, event(1, start, 1, true))
	s.lag.showAll()
	if _, err := s.f.Poll(context.Background()); err == nil {
		t.Fatal("it went on")
	}
	if _, err := s.f.Poll(context.Background()); err == nil {
		t.Fatal("and on")
	}
	s.f = s.open(t)
	drainAll(t, s.f)
	if got := s.tally(); got.Duplicate != 1 || got.Received != 2 {
		t.Fatalf("after a restart: %+v", got)
	}
}

type broken struct{ retention.BlobReader }

func (broken) ReadAt([]byte, int64) (int, error) { return 0, errors.New("the disk is gone") }

// A flipped bit in any file of a checkpoint is found, and the file is named.
func TestFlippedBitInACheckpointIsFound(t *testing.T) {
	s := story(t)
	s.say(start, event(1, start, 1, true), event(2, start, 2, false))
	s.save()
	ctx := context.Background()
	blobs, err := s.model.Blobs().List(ctx, "fold")
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[string]bool{}
	for _, b := range blobs {
		r, err := s.model.Blobs().Open(ctx, b.Name)
		if err != nil {
			t.Fatal(err)
		}
		raw, _ := io.ReadAll(io.NewSectionReader(r, 0, b.Bytes))
		r.Close()
		kind := b.Name[bytes.LastIndexByte([]byte(b.Name), '.')+1:]
		kinds[kind] = true
		for i := 0; i < len(raw); i++ {
			flipped := slices.Clone(raw)
			flipped[i] ^= 0x10
			switch kind {
			case "visitors", "state":
				_, err = openRun(flipped)
			case "day":
				_, err = index.OpenLayer(flipped)
			case "seen":
				_, err = openSeen(memory{flipped, b})
			default:
				err = retention.ErrCorrupt // the manifest is JSON: the blob store's hash holds it
			}
			if !errors.Is(err, retention.ErrCorrupt) {
				t.Fatalf("%s: a bit flipped in byte %d: %v", b.Name, i, err)
			}
		}
	}
	for _, k := range []string{"visitors", "state", "day", "seen", "checkpoint"} {
		if !kinds[k] {
			t.Errorf("no file of kind %s was tried", k)
		}
	}
}

type memory struct {
	b    []byte
	blob retention.Blob
}

func (m memory) ReadAt(p []byte, off int64) (int, error) { return bytes.NewReader(m.b).ReadAt(p, off) }
func (m memory) Close() error                            { return nil }
func (m memory) Blob() retention.Blob                    { return m.blob }

// R33: what is known of a visitor now agrees with the view after the next
// checkpoint.
func TestFactsAreAheadOfTheViewAndAgreeWithTheNext(t *testing.T) {
	s := story(t)
	s.say(start, event(1, start, 1, true))
	v := s.save()
	s.f.Built(v)
	if cols, _, ok := s.f.Touched(visitorKey(1)); ok {
		t.Errorf("nothing happened since the generation, and it names %v", cols)
	}
	a := taxonomy.Column{Source: "web", Trait: "c:t/a"}
	check := func(want int) {
		t.Helper()
		cols, x, ok := s.f.Touched(visitorKey(1))
		if !ok || !slices.Contains(cols, a) || x.Count(a, start.Day()) != want {
			t.Errorf("columns %v (%v), count %d, want %d", cols, ok, x.Count(a, start.Day()), want)
		}
	}
	s.say(start+1, event(1, start+1, 2, true), event(1, start+1, 3, true))
	check(3)
	s.save()
	check(3)
	s.say(start+2, event(1, start+2, 4, true))
	check(4)
	s.say(start+3, event(2, start+3, 5, true))
	if cols, x, ok := s.f.Touched(visitorKey(2)); !ok || cols != nil || x.Count(a, start.Day()) != 1 {
		t.Errorf("a new visitor: columns %v, %v", cols, ok)
	}
	s.say(start+4, taxonomy.Record{Kind: taxonomy.RecordErasure, Received: start + 4, Space: taxonomy.SpaceCookie, Visitor: visitorKey(1)})
	if cols, x, ok := s.f.Touched(visitorKey(1)); !ok || cols != nil || !x.In(index.SetGone) {
		t.Errorf("an erased visitor: columns %v, %v", cols, ok)
	}
}

// R6, P6: a head that went back does not bring back what was committed after it:
// the newest whole manifest is the committed one.
func TestAHeadThatWentBackIsBroughtForward(t *testing.T) {
	ctx := context.Background()
	s := story(t)
	s.say(start, event(1, start, 1, true), event(2, start, 2, true))
	s.save()
	before, err := s.model.Keyed().Get(ctx, headSpace, headKey(0))
	if err != nil {
		t.Fatal(err)
	}
	s.say(start+1, taxonomy.Record{Kind: taxonomy.RecordErasure, Received: start + 1, Space: taxonomy.SpaceCookie, Visitor: visitorKey(1)})
	s.save()
	now, err := s.model.Keyed().Get(ctx, headSpace, headKey(0))
	if err != nil {
		t.Fatal(err)
	}
	back := before
	back.Version = now.Version
	if _, err := s.model.Keyed().Swap(ctx, headSpace, back); err != nil {
		t.Fatal(err)
	}
	s.lag.writers[s.lag.order[0]].visible = 0 // the log was trimmed
	s.f = s.open(t)
	if n := s.count(s.f.View(), "any"); n != 1 {
		t.Errorf("%d visitors, want the one that was not erased", n)
	}
	if !s.f.Erased(visitorKey(1), start+2) {
		t.Error("the erasure is lost")
	}
}
