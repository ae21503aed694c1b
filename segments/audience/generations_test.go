package audience_test

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/retention/storetest"
	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/segments/query/querytest"
	"github.com/ebb-dmp/ebb/taxonomy"
)

func TestAStaleTermIsRefused(t *testing.T) { // P8
	b, w := newBench(t), world(12)
	b.term = 5
	b.run(w, catalog())
	b.term = 4
	if _, err := b.build.Run(t.Context(), b.job(w, catalog())); !errors.Is(err, audience.ErrStale) {
		t.Errorf("term 4 after term 5: %v", err)
	}
	b.onlyNamedFiles() // it is refused before it writes
	b.term = 5
	b.run(w, catalog())

	// Two builders of one term: the one that read the head first comes second.
	out, err := audience.Build(t.Context(), audience.Input{View: w.View(), Catalog: catalog(), Sources: w.Sources(), Number: 3, Term: 5, Built: b.clock.Now() + 1})
	if err != nil {
		t.Fatal(err)
	}
	b.run(w, catalog())
	if _, err := b.gens.Publish(t.Context(), out); !errors.Is(err, audience.ErrStale) {
		t.Errorf("number 3 after number 3: %v", err)
	}
}

// A builder that was frozen just before the swap of its generation goes on when
// another has its lease and has published nothing yet.
func TestWhoeverClaimedKeepsOffAnEarlierTerm(t *testing.T) { // P8
	for begun := range 2 {
		b, w := newBench(t), world(12)
		b.term = 1
		claim := func(term uint64, want error) {
			t.Helper()
			if err := b.gens.Claim(t.Context(), term); !errors.Is(err, want) {
				t.Fatalf("claim for term %d: got %v, want %v", term, err, want)
			}
		}
		claim(1, nil)
		if begun == 1 {
			b.run(w, catalog())
		}
		k := &meddling{Keyed: b.model.Keyed(), before: func() { claim(2, nil) }}
		build := audience.Builder{Generations: audience.NewGenerations(b.model.Blobs(), k, audience.Options{Now: b.clock.Now}), Now: b.clock.Now}
		for _, when := range []string{"just before the swap", "ever after"} {
			if _, err := build.Run(t.Context(), b.job(w, catalog())); !errors.Is(err, audience.ErrStale) {
				t.Errorf("%s: term 1 published: %v", when, err)
			}
		}
		if refs, err := b.gens.List(t.Context()); err != nil || len(refs) != begun {
			t.Errorf("%d generations are published, want %d; %v", len(refs), begun, err)
		}
		claim(1, audience.ErrStale)
		claim(2, nil)
		b.term = 2
		b.run(w, catalog())
		b.want(w, "two", 0, 2, 4, 6, 8, 10)
		claim(1, audience.ErrStale)
	}
}

// meddling publishes another generation between the read of the head and its
// swap.
type meddling struct {
	retention.Keyed
	before func()
}

func (m *meddling) Swap(ctx context.Context, s retention.KeyedSpace, it retention.Item) (uint64, error) {
	if f := m.before; f != nil {
		m.before = nil
		f()
	}
	return m.Keyed.Swap(ctx, s, it)
}

func TestTheSlowerOfTwoPublicationsIsRefused(t *testing.T) {
	b, w := newBench(t), world(12)
	b.run(w, catalog())
	k := &meddling{Keyed: b.model.Keyed(), before: func() { b.clock.Advance(1); b.run(world(6), catalog()) }}
	g := audience.NewGenerations(b.model.Blobs(), k, audience.Options{Now: b.clock.Now})
	build := audience.Builder{Generations: g, Now: b.clock.Now}
	if _, err := build.Run(t.Context(), b.job(w, catalog())); !errors.Is(err, audience.ErrStale) {
		t.Fatal(err)
	}
	b.want(w, "two", 0, 2, 4)
	if _, err := build.Run(t.Context(), b.job(w, catalog())); err != nil {
		t.Fatal(err)
	}
	b.want(w, "two", 0, 2, 4, 6, 8, 10)
	b.onlyNamedFiles()
}

// flipped gives one bit of one blob wrong.
type flipped struct {
	retention.Blobs
	name string
	bit  int
}

type flippedReader struct {
	retention.BlobReader
	bit int
}

func (f flipped) Open(ctx context.Context, name string) (retention.BlobReader, error) {
	r, err := f.Blobs.Open(ctx, name)
	if err == nil && name == f.name {
		r = flippedReader{r, f.bit}
	}
	return r, err
}

func (f flippedReader) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.BlobReader.ReadAt(p, off)
	if at := int64(f.bit/8) - off; at >= 0 && at < int64(n) {
		p[at] ^= 1 << (f.bit % 8)
	}
	return n, err
}

func TestAFlippedBitIsFoundAndNamed(t *testing.T) {
	b, w := newBench(t), world(12)
	out := b.run(w, catalog())
	e := entry(t, out, "two")
	refs, err := b.gens.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{e.Blob, refs[0].Manifest} {
		r, err := b.model.Blobs().Open(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		bits := int(r.Blob().Bytes) * 8
		for bit := 0; bit < bits; bit += 7 {
			g := audience.NewGenerations(flipped{b.model.Blobs(), name, bit}, b.model.Keyed(), audience.Options{Now: b.clock.Now})
			gen, err := g.Current(t.Context())
			if name == e.Blob && err == nil {
				_, err = g.Load(t.Context(), gen, "two")
				if _, other := g.Load(t.Context(), gen, "three"); other != nil {
					t.Fatalf("the other file: %v", other)
				}
			}
			if !errors.Is(err, retention.ErrCorrupt) || !strings.Contains(err.Error(), name) {
				t.Fatalf("bit %d of %s: %v", bit, name, err)
			}
		}
	}
	// The next build goes on, says so, and mends it.
	for _, name := range []string{e.Blob, refs[0].Manifest} {
		g := audience.NewGenerations(flipped{b.model.Blobs(), name, 99}, b.model.Keyed(), audience.Options{Now: b.clock.Now})
		b.clock.Advance(taxonomy.Minute)
		next, err := (&audience.Builder{Generations: g, Now: b.clock.Now}).Run(t.Context(), b.job(w, catalog()))
		if err != nil {
			t.Fatal(err)
		}
		if name == e.Blob && (next.Damaged["two"] == nil || len(next.Damaged) != 1) {
			t.Errorf("damaged: %v", next.Damaged)
		}
		if entry(t, next, "two").Blob == e.Blob {
			t.Error("the damaged file is used on")
		}
		b.want(w, "two", 0, 2, 4, 6, 8, 10)
	}
}

func TestAFlippedBitInTheHeadIsFound(t *testing.T) {
	b, w := newBench(t), world(12)
	b.run(w, catalog())
	var it retention.Item
	if err := b.model.Keyed().Scan(t.Context(), audience.Space, nil, func(i retention.Item) error { it = i; return nil }); err != nil {
		t.Fatal(err)
	}
	good := slices.Clone(it.Value)
	for bit := range len(good) * 8 {
		it.Value = slices.Clone(good)
		it.Value[bit/8] ^= 1 << (bit % 8)
		var err error
		if it.Version, err = b.model.Keyed().Swap(t.Context(), audience.Space, it); err != nil {
			t.Fatal(err)
		}
		if _, err := b.gens.List(t.Context()); !errors.Is(err, retention.ErrCorrupt) {
			t.Fatalf("bit %d: %v", bit, err)
		}
	}
}

func TestOldGenerationsAndTheirFilesGo(t *testing.T) {
	b, w := newBench(t), world(12)
	b.gens = audience.NewGenerations(b.model.Blobs(), b.model.Keyed(), audience.Options{Keep: 3, Now: b.clock.Now})
	b.build.Generations = b.gens
	var first *audience.Generation
	for i := range 5 {
		w.Facts = append(w.Facts, querytest.Fact{Visitor: 1 + 2*i, Day: today, Column: column("c:p/two")})
		out := b.run(w, catalog())
		if i == 0 {
			first = out.Generation
		}
		b.clock.Advance(taxonomy.Hour)
	}
	refs, err := b.gens.List(t.Context())
	if err != nil || len(refs) != 3 || refs[0].Number != 5 || refs[2].Number != 3 {
		t.Fatalf("kept %v, %v", refs, err)
	}
	b.onlyNamedFiles()
	if _, err := b.gens.Load(t.Context(), first, "two"); !errors.Is(err, retention.ErrNotFound) {
		t.Errorf("the first generation's file: %v", err)
	}
	b.clock.Advance(15 * taxonomy.OneDay)
	w.Now += 15 * taxonomy.OneDay
	b.run(w, catalog())
	if refs, _ := b.gens.List(t.Context()); len(refs) != 1 {
		t.Errorf("15 days later %d are kept", len(refs))
	}
	b.onlyNamedFiles()
}

func (b *bench) holder(w *querytest.World) (h struct {
	Oldest       func() (taxonomy.Day, bool)
	ExpireBefore func(taxonomy.Day)
	Erase        func(visitors ...int)
	Bound        int
}) {
	x := b.gens.Holder(func() (audience.View, error) { return w.View(), nil }, func() uint64 { return b.term })
	check := func(err error) {
		b.t.Helper()
		if err != nil {
			b.t.Fatal(err)
		}
	}
	h.Bound = x.Bound
	h.Oldest = func() (taxonomy.Day, bool) {
		d, ok, err := x.Oldest(context.Background())
		check(err)
		return d, ok
	}
	h.ExpireBefore = func(d taxonomy.Day) { check(x.ExpireBefore(context.Background(), d)) }
	h.Erase = func(visitors ...int) {
		var keys []taxonomy.VisitorKey
		for _, v := range visitors {
			keys = append(keys, querytest.Key(v))
		}
		check(x.Erase(context.Background(), keys))
	}
	return h
}

// anyone reports whether a visitor is in any member file that is there.
func (b *bench) anyone(w *querytest.World, visitor int) bool {
	shard, ordinal, _ := w.View().Place(visitor)
	for _, name := range b.files() {
		if !strings.HasSuffix(name, ".members") {
			continue
		}
		r, err := b.model.Blobs().Open(context.Background(), name)
		if err != nil {
			b.t.Fatal(err)
		}
		content, err := io.ReadAll(io.NewSectionReader(r, 0, r.Blob().Bytes))
		if err != nil {
			b.t.Fatal(err)
		}
		set, err := audience.DecodeMembers(content)
		if err != nil {
			b.t.Fatal(err)
		}
		if set.Contains(shard, ordinal) {
			return true
		}
	}
	return false
}

func TestAnErasedVisitorIsInNoFileOfAnyGeneration(t *testing.T) { // P6
	b, w := newBench(t), world(12)
	b.run(w, catalog())
	b.clock.Advance(taxonomy.Hour)
	w.Facts = append(w.Facts, querytest.Fact{Visitor: 1, Day: today, Column: column("c:p/two")})
	b.run(w, catalog())
	if !b.anyone(w, 6) {
		t.Fatal("visitor 6 is in no file before")
	}
	w.Sets[index.SetGone] = []int{6}
	h := b.holder(w)
	h.Erase()
	if !b.anyone(w, 6) {
		t.Fatal("nobody asked for it")
	}
	for range 2 { // the second time it is not there
		h.Erase(6)
		if b.anyone(w, 6) {
			t.Fatal("visitor 6 is still in a file")
		}
		b.want(w, "two", 0, 1, 2, 4, 8, 10)
		b.want(w, "three", 0, 3, 9)
		b.want(w, "neither", 5, 7, 11)
		b.onlyNamedFiles()
		refs, err := b.gens.List(t.Context())
		if err != nil || len(refs) != 3 || refs[0].Withdrawn || !refs[1].Withdrawn || !refs[2].Withdrawn {
			t.Fatalf("%v, %v", refs, err)
		}
		if gen, err := b.gens.Open(t.Context(), refs[2]); err != nil || gen.Audiences[2].Count != 6 {
			t.Errorf("the counts of a withdrawn generation: %v, %v", gen, err)
		}
	}
	out := b.run(w, catalog())
	if e := entry(t, out, "three"); e.Removed != 0 || e.Added != 0 {
		t.Errorf("the next build: %+v", e)
	}
}

func TestNoFileOutlivesItsLife(t *testing.T) { // P5
	b, w := newBench(t), world(12)
	h := b.holder(w)
	if _, ok := h.Oldest(); ok {
		t.Error("nothing is there, but something is oldest")
	}
	b.run(w, catalog())
	// A build that died after its first file.
	d := &dying{Model: b.model, left: 1}
	g := audience.NewGenerations(dyingBlobs{b.model.Blobs(), d}, dyingKeyed{b.model.Keyed(), d}, audience.Options{Now: b.clock.Now})
	changed := world(11)
	if _, err := (&audience.Builder{Generations: g, Now: b.clock.Now}).Run(t.Context(), b.job(changed, catalog())); !errors.Is(err, errKilled) {
		t.Fatal(err)
	}
	if d, ok := h.Oldest(); !ok || d != today || h.Bound != 91 {
		t.Errorf("oldest %v, %t, bound %d", d, ok, h.Bound)
	}
	h.ExpireBefore(today) // nothing is over
	b.want(w, "two", 0, 2, 4, 6, 8, 10)
	h.ExpireBefore(today + 1)
	if d, ok := h.Oldest(); ok {
		t.Errorf("still there: %v", d)
	}
	gen, err := b.gens.Current(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.gens.Load(t.Context(), gen, "two"); !errors.Is(err, retention.ErrNotFound) {
		t.Errorf("members beyond their life: %v", err)
	}
	b.run(w, catalog())
	b.want(w, "two", 0, 2, 4, 6, 8, 10)
}

func TestNothingIsPublishedYet(t *testing.T) {
	m := storetest.NewModel(func() taxonomy.Millis { return 0 })
	g := audience.NewGenerations(m.Blobs(), m.Keyed(), audience.Options{Now: func() taxonomy.Millis { return 0 }})
	if _, err := g.Current(t.Context()); !errors.Is(err, retention.ErrNotFound) {
		t.Error(err)
	}
	if err := g.Sweep(t.Context()); err != nil {
		t.Error(err)
	}
}

// A sweep of one builder must not take away what another is writing.
func TestASweepSparesWhatIsBeingWritten(t *testing.T) {
	b, w := newBench(t), world(12)
	b.run(w, catalog())
	put := func(name string) {
		if _, err := b.model.Blobs().Put(t.Context(), name, today.Over(), strings.NewReader("x")); err != nil {
			t.Fatal(err)
		}
	}
	put("generations/0/1/two/left-behind.members")
	put("generations/0/2/two/coming.members")
	put("generations/1/1/two/restored.members")
	if err := b.gens.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	files := strings.Join(b.files(), " ")
	if strings.Contains(files, "left-behind") || !strings.Contains(files, "coming") || !strings.Contains(files, "restored") {
		t.Errorf("after the sweep: %s", files)
	}
}
