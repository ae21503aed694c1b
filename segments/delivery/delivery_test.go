package delivery_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// filled is a rig with n visitors in every audience, matched and allowed.
func filled(t *testing.T, n int) *rig {
	w := newWorld(n)
	for i, v := range w.visitors {
		w.sees(v, colCar)
		v.match, v.synced = "partner-id-"+string(rune('a'+i)), w.today()
		for _, a := range w.audiences {
			v.member[a] = true
		}
	}
	return newRig(t, w)
}

func (r *rig) state(t tb, name string) delivery.FileState {
	t.Helper()
	b, _, state, err := r.d.Open(context.Background(), dsp, name)
	if err != nil {
		t.Fatalf("open %s: %v", name, err)
	}
	if b != nil {
		b.Close()
	}
	return state
}

// R26, R25: the file that held an erased visitor answers 410, a new full
// without it follows, and no byte of it stays behind.
func TestAnErasedVisitorsFilesAreWithdrawnAndItsIDIsNowhere(t *testing.T) {
	for _, ids := range []delivery.IDs{delivery.ByPseudonym, delivery.ByMatch} {
		r := filled(t, 5)
		dest := destination()
		dest.IDs = ids
		r.run(t, dest)
		old := r.manifest(t).Files[0]
		v := r.w.visitors[3]
		id := r.w.id(&dest, v)
		if !r.somewhere(t, id) {
			t.Fatal("the search finds nothing: the test means nothing")
		}
		v.gone = true
		for range 2 { // the eraser repeats itself
			if err := r.d.Erase(context.Background(), []taxonomy.VisitorKey{v.key}); err != nil {
				t.Fatal(err)
			}
		}
		v.dropped = true
		if got := r.state(t, old.Name); got != delivery.FileWithdrawn {
			t.Fatalf("the old file is %s", got)
		}
		if got := r.manifest(t).Files; len(got) != 0 {
			t.Fatalf("the manifest still has %v", got)
		}
		if done := r.run(t, dest); done.Result != delivery.ResultFull || done.Held != 16 {
			t.Fatalf("the next delivery is %+v", done)
		}
		if r.somewhere(t, id) {
			t.Fatalf("the %s of an erased visitor is still on disk", ids)
		}
	}
}

// somewhere reports whether a string is in anything that is stored, compressed
// or not.
func (r *rig) somewhere(t tb, what string) bool {
	found := false
	look := func(b []byte) {
		if bytes.Contains(b, []byte(what)) {
			found = true
		}
		if z, err := gzip.NewReader(bytes.NewReader(b)); err == nil {
			if text, err := io.ReadAll(z); err == nil && bytes.Contains(text, []byte(what)) {
				found = true
			}
		}
	}
	ctx := context.Background()
	blobs, err := r.store.Blobs().List(ctx, "")
	if err != nil {
		t.Fatalf("list: %v", err)
	}
	for _, b := range blobs {
		f, err := r.store.Blobs().Open(ctx, b.Name)
		if err != nil {
			t.Fatalf("open: %v", err)
		}
		c, _ := io.ReadAll(io.NewSectionReader(f, 0, b.Bytes))
		look(c)
		f.Close()
	}
	err = r.store.Keyed().Scan(ctx, delivery.Space, nil, func(it retention.Item) error { look(it.Value); return nil })
	if err != nil {
		t.Fatalf("scan: %v", err)
	}
	return found
}

// R25: Forget alone sends the removal with the next delta and leaves the files,
// so that many erasures a day make one full.
func TestForgettingSendsARemovalWithTheNextDelta(t *testing.T) {
	r := filled(t, 5)
	r.run(t, destination())
	v := r.w.visitors[2]
	v.gone, v.nameless = true, true
	if err := r.d.Forget(context.Background(), []taxonomy.VisitorKey{v.key}); err != nil {
		t.Fatal(err)
	}
	if done := r.run(t, destination()); done.Result != delivery.ResultDelta || done.Removes != 4 || done.Adds != 0 {
		t.Fatalf("the next delivery is %+v", done)
	}
	// The night's pass finds the delta too: its removal rows hold the ID.
	if err := r.d.Erase(context.Background(), []taxonomy.VisitorKey{v.key}); err != nil {
		t.Fatal(err)
	}
	if m := r.manifest(t); len(m.Files) != 0 {
		t.Fatalf("files that hold an erased visitor are served: %v", m.Files)
	}
}

// P6: a delivery whose source is older than an erasure does not bring the
// visitor back.
func TestADeliveryFromAnOldViewBringsNobodyBack(t *testing.T) {
	r := filled(t, 5)
	dest := destination()
	r.run(t, dest)
	old := r.w.generation() // of before the erasure, delivered after it
	v := r.w.visitors[2]
	v.gone, v.nameless = true, true
	if err := r.d.Forget(context.Background(), []taxonomy.VisitorKey{v.key}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.d.Run(context.Background(), dest, old); err != nil {
		t.Fatal(err)
	}
	p := &partner{ends: map[string]taxonomy.Millis{}}
	p.pull(t, r)
	same(t, "from an old view", p.holds(r.w.now), r.w.want(&dest))
}

// R26: who lost `allow` is out of every file by the next night, also when
// nothing is delivered; and the daily full is early rather than late.
func TestFilesThatHoldWhoSaidNoAreGoneWithinADay(t *testing.T) {
	r := filled(t, 3)
	dest := destination()
	r.run(t, dest)
	r.w.visitors[0].consent.Destinations = []taxonomy.DestinationID{"other"}
	if err := r.d.ExpireBefore(context.Background(), r.w.today().Oldest()); err != nil {
		t.Fatal(err)
	}
	if m := r.manifest(t); len(m.Files) != 0 {
		t.Fatalf("the nightly pass left %v", m.Files)
	}
	r.run(t, dest)
	r.w.now += 22*taxonomy.Hour + 59*taxonomy.Minute
	if done := r.run(t, dest); done.Result == delivery.ResultFull {
		t.Fatalf("a full too soon: %+v", done)
	}
	r.w.now += 2 * taxonomy.Minute
	if done := r.run(t, dest); done.Result != delivery.ResultFull || done.Why != "the daily full" {
		t.Fatalf("no full 24 h after the last less one period: %+v", done)
	}
	if m := r.manifest(t); len(m.Files) != 1 || m.Files[0].Kind != delivery.Full {
		t.Fatalf("manifest has %v", m.Files)
	}
}

func TestNoFileIsServedAfter14Days(t *testing.T) {
	r := filled(t, 3)
	r.run(t, destination())
	f := r.manifest(t).Files[0]
	r.w.now += 14*taxonomy.OneDay - taxonomy.Minute
	r.w.now -= r.w.now % taxonomy.Minute
	if got := r.state(t, f.Name); got != delivery.FileServed {
		t.Fatalf("on its last minute the file is %s", got)
	}
	r.w.now = taxonomy.MillisOf(f.Expires)
	if got := r.state(t, f.Name); got != delivery.FileWithdrawn {
		t.Fatalf("after 14 days the file is %s", got)
	}
	if m := r.manifest(t); len(m.Files) != 0 {
		t.Fatalf("after 14 days the manifest has %v", m.Files)
	}
	if r.state(t, "nothing-of-ours.tsv.gz") != delivery.FileUnknown || r.state(t, "../head") != delivery.FileUnknown {
		t.Fatal("a name that no file can have is not unknown")
	}
}

func TestDeliveringAGenerationAgainDoesNothing(t *testing.T) {
	r := filled(t, 3)
	src := r.w.generation()
	if _, err := r.d.Run(context.Background(), destination(), src); err != nil {
		t.Fatal(err)
	}
	before := r.manifest(t)
	r.w.now += taxonomy.OneDay * 2 // also when a full would be due
	done, err := r.d.Run(context.Background(), destination(), src)
	if err != nil || done.Result != delivery.ResultDelivered {
		t.Fatalf("%+v, %v", done, err)
	}
	if after := r.manifest(t); len(after.Files) != 1 || after.Files[0] != before.Files[0] {
		t.Fatalf("files were %v and are %v", before.Files, after.Files)
	}
	if runs, err := r.d.Deliveries(context.Background(), dsp); err != nil || len(runs) != 1 || runs[0].Rows != 12 || runs[0].SHA256 != before.Files[0].SHA256 {
		t.Fatalf("deliveries are %+v, %v", runs, err)
	}
	// A generation that changes nothing leaves no file, and the chain no hole.
	r.w.now = src.Generation.Clock + taxonomy.Hour
	if done := r.run(t, destination()); done.Result != delivery.ResultSame {
		t.Fatalf("%+v", done)
	}
	r.w.visitors[0].member["cars"] = false
	r.run(t, destination())
	m := r.manifest(t)
	if len(m.Files) != 2 || m.Files[1].Base != 1 || m.Files[1].Generation != 3 || m.Generation != 3 {
		t.Fatalf("files are %v", m.Files)
	}
}

// The head must stay small however often generations are built.
func TestALongChainOfDeltasEndsInAFull(t *testing.T) {
	r := filled(t, 2)
	fulls := 0
	for i := range 310 {
		r.w.visitors[0].member["cars"] = i%2 == 0
		r.w.now += taxonomy.Second
		if done := r.run(t, destination()); done.Result == delivery.ResultFull {
			fulls++
		}
		if n := len(r.manifest(t).Files); n > 300 {
			t.Fatalf("there are %d files", n)
		}
	}
	it, err := r.store.Keyed().Get(context.Background(), delivery.Space, retention.Key{Partition: string(dsp), Item: "head"})
	if err != nil || fulls != 2 {
		t.Fatalf("%d fulls, %v", fulls, err)
	}
	if runs, err := r.d.Deliveries(context.Background(), dsp); err != nil || len(runs) != 50 || len(it.Value) > 64<<10 {
		t.Fatalf("%d runs, a head of %d bytes, %v", len(runs), len(it.Value), err)
	}
}

// R29: a new epoch, and a new epoch of pseudonyms, are a full for everyone.
func TestANewEpochIsAFullForEveryone(t *testing.T) {
	r := filled(t, 3)
	dest := destination()
	r.run(t, dest)
	dest.PseudonymEpoch++
	if done := r.run(t, dest); done.Result != delivery.ResultFull || done.Rows != 12 {
		t.Fatalf("after a new epoch of pseudonyms: %+v", done)
	}
	old := r.w.generation()
	r.w.epoch, r.w.gen = 1, 0
	if done := r.run(t, dest); done.Result != delivery.ResultFull || done.Why != "the installation was restored" {
		t.Fatalf("after a restore: %+v", done)
	}
	if _, err := r.d.Run(context.Background(), dest, old); err == nil {
		t.Fatal("a generation of an older epoch was delivered")
	}
}

// The planner's day never goes back: what it thinks has ended for the partner
// must not begin to be held again when a clock is set back.
func TestAClockThatIsSetBackLosesNobody(t *testing.T) {
	r := filled(t, 2)
	dest := destination()
	p := &partner{ends: map[string]taxonomy.Millis{}}
	r.run(t, dest)
	r.w.now += 2 * taxonomy.OneDay
	r.run(t, dest)
	r.w.now -= 3 * taxonomy.OneDay
	done := r.run(t, dest)
	if done.At.Day() != r.w.today()+3 {
		t.Fatalf("delivered at %v", done.At)
	}
	p.pull(t, r)
	r.w.now += 3 * taxonomy.OneDay
	same(t, "after the clock is right again", p.holds(r.w.now), r.w.want(&dest))
}

// Two nodes that deliver at once: one wins, the other sees that it is done, and
// the winner's file is there.
func TestTwoNodesLeaveOneDelivery(t *testing.T) {
	r := filled(t, 3)
	src := r.w.generation()
	one := r.d
	r.restart(t)
	errs := make(chan error, 2)
	for _, d := range []*delivery.Deliverer{one, r.d} {
		go func() {
			_, err := d.Run(context.Background(), destination(), src)
			errs <- err
		}()
	}
	if err := errors.Join(<-errs, <-errs); err != nil {
		t.Fatal(err)
	}
	m := r.manifest(t)
	if len(m.Files) != 1 {
		t.Fatalf("files are %v", m.Files)
	}
	r.lines(t, m.Files[0])
}

// The other node's file for the next head is not a crash's leftover.
func TestCleaningLeavesTheFilesOfHeadsToCome(t *testing.T) {
	r := filled(t, 3)
	r.run(t, destination())
	ctx := context.Background()
	inFlight := "delivery/dsp/e0-g2-h2-0badcafe-delta.tsv.gz"
	leftover := "delivery/dsp/e0-g1-h1-0badcafe-delta.tsv.gz"
	for _, n := range []string{inFlight, leftover} {
		if _, err := r.store.Blobs().Put(ctx, n, 0, strings.NewReader("x")); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.d.ExpireBefore(ctx, r.w.today().Oldest()); err != nil {
		t.Fatal(err)
	}
	if _, err := r.store.Blobs().Open(ctx, leftover); !errors.Is(err, retention.ErrNotFound) {
		t.Fatal("what a crash left is still there")
	}
	b, err := r.store.Blobs().Open(ctx, inFlight)
	if err != nil {
		t.Fatalf("another node's file was deleted: %v", err)
	}
	b.Close()
}

// Two partners must not be able to join their files by the order of rows.
func TestRowsStandInOrderOfIDNotOfArrival(t *testing.T) {
	r := filled(t, 9)
	r.run(t, destination())
	lines := r.lines(t, r.manifest(t).Files[0])
	var cars []string
	for _, l := range lines {
		if c := strings.Split(l, "\t"); c[1] == "cars" {
			cars = append(cars, c[0])
		}
	}
	if len(cars) != 9 || !slices.IsSorted(cars) {
		t.Fatalf("IDs are %v", cars)
	}
}

func TestTheManifestHasTheFieldsThatPartnersKnow(t *testing.T) {
	r := filled(t, 3)
	r.run(t, destination())
	m := r.manifest(t)
	b, err := m.JSON()
	if err != nil {
		t.Fatal(err)
	}
	var top map[string]json.RawMessage
	var files []map[string]any
	if err := errors.Join(json.Unmarshal(b, &top), json.Unmarshal(top["files"], &files)); err != nil {
		t.Fatal(err)
	}
	keys := func(m map[string]any) (ks []string) {
		for k := range m {
			ks = append(ks, k)
		}
		slices.Sort(ks)
		return ks
	}
	if got := strings.Join(keys(files[0]), " "); got != "base bytes created expires generation kind name rows sha256 url" || len(top) != 5 {
		t.Fatalf("a file has %s; the manifest %d fields", got, len(top))
	}
	tsv := string(m.TSV())
	if !strings.Contains(tsv, "\naudience\tcars\tcars\tAbout cars\t4\n") || !strings.HasPrefix(tsv, "destination\tdsp\ngeneration\t1\nas_of\t"+r.w.now.Time().Format(time.RFC3339)+"\n") {
		t.Fatalf("TSV is\n%s", tsv)
	}
	if want := "\t/v1/destinations/dsp/files/" + m.Files[0].Name + "\tfull\t0\t1\t12\t"; !strings.Contains(tsv, want) {
		t.Fatalf("TSV is\n%s\nand lacks %q", tsv, want)
	}
	empty, err := r.d.Manifest(context.Background(), "other")
	if b, _ := empty.JSON(); err != nil || !strings.Contains(string(b), `"audiences":[],"files":[]`) {
		t.Fatalf("the manifest of nothing is %s, %v", b, err)
	}
}

func TestADroppedDestinationLeavesNothing(t *testing.T) {
	r := filled(t, 3)
	r.run(t, destination())
	id := r.w.id(&delivery.Destination{ID: dsp}, r.w.visitors[0])
	if err := r.d.Drop(context.Background(), dsp); err != nil {
		t.Fatal(err)
	}
	if _, any, err := r.d.Oldest(context.Background()); any || err != nil || r.somewhere(t, id) {
		t.Fatalf("something is left: %v, %v", any, err)
	}
	if done := r.run(t, destination()); done.Result != delivery.ResultFull {
		t.Fatalf("defined again, it gets %+v", done)
	}
}

func TestAFlippedBitInAStoredFileIsFound(t *testing.T) {
	l := &delivery.Ledger{Held: held(map[taxonomy.Day][]uint32{today: {1, 2}}), IDs: delivery.MatchedOf(map[uint32]string{1: "a", 2: "b"}),
		Outbox: []delivery.Removal{{Audience: "cars", ID: "x", Until: today, Ordinal: 7}}}
	b, err := delivery.MarshalLedger(l, 1)
	if err != nil {
		t.Fatal(err)
	}
	got, err := delivery.UnmarshalLedger(b)
	if err != nil || id(got, 2) != "b" || got.Outbox[0] != l.Outbox[0] || got.Held["cars"].Count() != 2 {
		t.Fatalf("round trip gives %+v, %v", got, err)
	}
	for i := range b {
		for bit := range 8 {
			bad := slices.Clone(b)
			bad[i] ^= 1 << bit
			if _, err := delivery.UnmarshalLedger(bad); err == nil {
				t.Fatalf("byte %d, bit %d: not found", i, bit)
			}
		}
	}
}

// A ledger that is lost or damaged costs a full, and stops nothing.
func TestALostLedgerIsHealedByAFull(t *testing.T) {
	ctx := context.Background()
	r := filled(t, 5)
	first := r.run(t, destination())
	blobs, err := r.store.Blobs().List(ctx, "")
	if err != nil {
		t.Fatal(err)
	}
	lost := 0
	for _, b := range blobs {
		if strings.HasSuffix(b.Name, "ledger") {
			lost++
			if err := r.store.Blobs().Delete(ctx, []string{b.Name}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if lost == 0 {
		t.Fatal("no ledger was found: the test means nothing")
	}
	again := r.run(t, destination())
	if again.Result != delivery.ResultFull || again.Held != first.Held || again.Why == "" {
		t.Fatalf("after the loss: %+v; want a full of %d", again, first.Held)
	}
	if next := r.run(t, destination()); next.Result == delivery.ResultFull {
		t.Errorf("and once more a full: %+v", next)
	}
}

// The ledger of the first version, as it was written on 2026-11-25. If this
// fails, the program no longer reads what is on operators' disks.
func TestALedgerOfVersion1IsStillRead(t *testing.T) {
	text, err := os.ReadFile("testdata/ledger-v1.hex")
	if err != nil {
		t.Fatal(err)
	}
	b, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	l, err := delivery.UnmarshalLedger(b)
	if err != nil {
		t.Fatal(err)
	}
	if l.Held["cars"].After(0, today-1).GetCardinality() != 2 || id(l, 2) != "b" || l.Outbox[0] != (delivery.Removal{Audience: "cars", ID: "x", Until: today, Ordinal: 7}) {
		t.Fatalf("it reads %+v", l)
	}
}

func FuzzUnmarshalLedger(f *testing.F) {
	l := &delivery.Ledger{Held: held(map[taxonomy.Day][]uint32{today: {1, 2}}), IDs: delivery.MatchedOf(map[uint32]string{1: "a", 2: "b"}),
		Outbox: []delivery.Removal{{Audience: "cars", ID: "x", Until: today, Ordinal: 7}}}
	b, err := delivery.MarshalLedger(l, 1)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b[9 : len(b)-4])
	f.Add([]byte{1, 1, 4, 'c', 'a', 'r', 's', 1, 2, 255, 255, 255, 255, 15})
	f.Fuzz(func(t *testing.T, body []byte) {
		l, err := delivery.UnmarshalLedger(delivery.Seal(body))
		if err == nil && l == nil {
			t.Fatal("neither ledger nor error")
		}
		if who, err := delivery.UnmarshalMembers(body); err == nil {
			for _, m := range who {
				m.GetCardinality()
			}
		}
	})
}
