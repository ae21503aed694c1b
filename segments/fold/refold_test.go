package fold

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/rules"
)

// ruled classifies by an event's name, by a table that can change.
type ruled struct {
	version uint32
	table   map[string][]taxonomy.Trait
}

func (r *ruled) Version() uint32 { return r.version }
func (r *ruled) Text() []byte    { b, _ := json.Marshal(r.table); return b }
func (r *ruled) Classify(_ taxonomy.SiteID, e *taxonomy.Event, dst []taxonomy.Trait) []taxonomy.Trait {
	return append(dst, r.table[e.Name]...)
}

// to is the change to another table, with the least reach that is right.
func (r *ruled) to(n *ruled) Change {
	traits := map[taxonomy.Trait]bool{}
	for _, name := range []string{"a", "b"} {
		for _, t := range slices.Concat(r.table[name], n.table[name]) {
			if slices.Contains(r.table[name], t) != slices.Contains(n.table[name], t) {
				traits[t] = true
			}
		}
	}
	return Change{To: n, Reach: rules.Reach{Traits: slices.Sorted(maps.Keys(traits))}}
}

func drawTable(t *rapid.T, version uint32) *ruled {
	r := &ruled{version, map[string][]taxonomy.Trait{}}
	for _, name := range []string{"a", "b"} {
		for _, c := range []string{"root", "x", "y"} {
			if rapid.Bool().Draw(t, name+" is "+c) {
				r.table[name] = append(r.table[name], taxonomy.CategoryTrait("t", c))
			}
		}
	}
	return r
}

// refolding makes a world's folds keep their rules in checkpoints; first are those
// of an empty one.
func (w *world) refolding(first *ruled) {
	w.hook = func(o *Options) {
		o.Rules = func() Classifier { return first }
		o.Compile = func(version uint32, text []byte) (Classifier, error) {
			r := &ruled{version: version}
			return r, json.Unmarshal(text, &r.table)
		}
		o.PartEvents = 2
	}
}

func ruledOf(c Classifier) *ruled {
	if x, ok := c.(compiled); ok {
		c = x.Classifier
	}
	return c.(*ruled)
}

// finish reads what is left of a re-fold, and switches.
func finish(t rapid.TB, f *Fold) *View {
	t.Helper()
	for {
		more, err := f.RefoldPart(context.Background())
		if err != nil && !errors.Is(err, ErrNoRefold) {
			t.Fatalf("re-fold: %v", err)
		}
		if !more {
			break
		}
	}
	v := checkpoint(t, f)
	if p, ok := f.Refolding(); ok {
		t.Fatalf("the re-fold is not over: %+v", p)
	}
	return v
}

// R18, R8, P10: whatever the writers' interleaving, and wherever rules change,
// re-folds are cancelled, visitors erased, and the power goes, also in the middle
// of a re-fold: every answer is that of having had the rules in force from the
// start.
func TestARefoldEqualsHavingHadTheRulesAllAlong(t *testing.T) {
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
		version := uint32(1)
		w.refolding(drawTable(t, version))
		tb := t
		f := w.open(tb)
		for range rapid.IntRange(0, 40).Draw(t, "steps") {
			var err error
			switch rapid.IntRange(0, 10).Draw(t, "step") {
			case 0, 1:
				lw := log.writers[log.order[rapid.IntRange(0, n-1).Draw(t, "whose")]]
				lw.visible = min(len(lw.frames), lw.visible+rapid.IntRange(1, 5).Draw(t, "more"))
			case 2, 3:
				_, err = f.Poll(context.Background())
			case 4:
				_, err = f.Checkpoint(context.Background())
			case 5:
				version++
				err = f.Refold(context.Background(), ruledOf(f.InForce()).to(drawTable(t, version)))
			case 6, 7:
				_, err = f.RefoldPart(context.Background())
			case 8:
				if rapid.IntRange(0, 3).Draw(t, "cancel") == 0 {
					err = f.CancelRefold(context.Background())
				}
			case 9: // the power goes at a write
				w.fail = rapid.IntRange(0, 10).Draw(t, "writes left")
				switch rapid.IntRange(0, 2).Draw(t, "in") {
				case 0:
					_, err = f.Checkpoint(context.Background())
				case 1:
					version++
					err = f.Refold(context.Background(), ruledOf(f.InForce()).to(drawTable(t, version)))
				default:
					err = f.CancelRefold(context.Background())
				}
				w.fail = -1
				if errors.Is(err, errPower) {
					err = nil
				}
				if rapid.Bool().Draw(t, "and we with it") {
					f = w.open(tb)
				}
			case 10: // the eraser comes
				for i := range 5 {
					if k := visitorKey(i); f.Erased(k, last) {
						if err := w.model.Events().Erase(context.Background(), []taxonomy.VisitorKey{k}); err != nil {
							t.Fatal(err)
						}
						f.Forget([]taxonomy.VisitorKey{k})
					}
				}
			}
			if err != nil && !errors.Is(err, ErrRefolding) && !errors.Is(err, ErrNoRefold) && !errors.Is(err, ErrSwitching) {
				t.Fatal(err)
			}
		}
		// P10: a shadow of a view under its own rules is the view, whatever was folded,
		// stored or lost since.
		shadow := func(ch Change) *View {
			t.Helper()
			v, err := f.View().Shadow(context.Background(), Shadow{Change: ch, Events: w.model.Events(), Bytes: 4 * rapid.IntRange(1, 20).Draw(t, "room")})
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
		returned := map[taxonomy.VisitorKey]bool{} // who has an event that a closed writer brought back
		for i := range h {
			if !h[i].First.IsZero() {
				returned[h[i].Visitor] = true
			}
		}
		living := func(v *View) map[fact]int {
			all := contents(v)
			maps.DeleteFunc(all, func(x fact, _ int) bool {
				_, says := x.col.Trait.Statement() // of two layers with one the newer counts
				return says || f.Erased(x.visitor, last) || returned[x.visitor]
			})
			return all
		}
		if v := f.View(); v.RuleVersion() == f.InForce().Version() {
			all := rules.Reach{Traits: []taxonomy.Trait{"c:t/root", "c:t/x", "c:t/y"}}
			if got := living(shadow(Change{To: f.InForce().(Source), Reach: all})); !cmp.Equal(living(v), got) {
				t.Fatalf("its shadow (-view +shadow):\n%s", cmp.Diff(living(v), got))
			}
		}
		same := func(when string, v *View) {
			t.Helper()
			if v.RuleVersion() != f.InForce().Version() {
				t.Fatalf("%s: the view is of rules %d, in force are %d", when, v.RuleVersion(), f.InForce().Version())
			}
			want := naive(h, ruledOf(f.InForce()))
			if got := read(t, w, f, v); !cmp.Equal(want, got) {
				t.Fatalf("%s, rules %v (-want +got):\n%s", when, ruledOf(f.InForce()), cmp.Diff(want, got))
			}
		}
		log.showAll()
		drainAll(tb, f)
		same("before the re-fold is over", checkpoint(tb, f))
		same("after it", finish(tb, f))
		version++
		ch := ruledOf(f.InForce()).to(drawTable(t, version))
		foretold := shadow(ch)
		if err := f.Refold(context.Background(), ch); err != nil {
			t.Fatal(err)
		}
		same("after one in peace", finish(tb, f))
		if got, want := read(t, w, f, foretold), read(t, w, f, f.View()); !cmp.Equal(want, got) || foretold.RuleVersion() != version {
			t.Fatalf("what was foretold (-is +foretold):\n%s", cmp.Diff(want, got))
		}
		f = w.open(tb) // and once more from the files alone
		same("after a restart", f.View())
		if _, err := f.Rewrite(context.Background()); err != nil {
			t.Fatal(err)
		}
		same("after the night", f.View())
		if n := len(f.stored.masks); n != 0 {
			t.Fatalf("%d masks are left when every layer was written anew", n)
		}
		f = w.open(tb)
		same("after the night and a restart", f.View())
	})
}

// shopper says n events of a name of one visitor.
func shopper(l *lagLog, w taxonomy.WriterID, from, n, visitor int, name string, at taxonomy.Millis) {
	for i := range n {
		r := event(visitor, at, byte(from+i), true)
		r.Event.Name = name
		l.append(w, at, r)
	}
	l.showAll()
}

func categories(v *View, trait taxonomy.Trait) (n int) {
	for fa, count := range contents(v) {
		if fa.col.Trait == trait {
			n += count
		}
	}
	return n
}

// R18: until the switch every answer uses the old rules, also for what comes
// after the re-fold began, and /v1/seg's answers switch with the others.
func TestUntilTheSwitchTheOldRulesAnswer(t *testing.T) {
	l, wr := newLagLog(1), taxonomy.WriterID{1}
	w := newWorld(l, start)
	x, y := taxonomy.CategoryTrait("t", "x"), taxonomy.CategoryTrait("t", "y")
	old := &ruled{1, map[string][]taxonomy.Trait{"a": {x}}}
	w.refolding(old)
	f := w.open(t)
	shopper(l, wr, 1, 3, 1, "a", start)
	drainAll(t, f)
	checkpoint(t, f)
	f.Built(f.View())
	if err := f.Refold(t.Context(), old.to(&ruled{2, map[string][]taxonomy.Trait{"a": {y}}})); err != nil {
		t.Fatal(err)
	}
	if err := f.Refold(t.Context(), old.to(&ruled{3, nil})); !errors.Is(err, ErrRefolding) {
		t.Errorf("a second one while the first runs: %v", err)
	}
	shopper(l, wr, 4, 2, 1, "a", start+1)
	drainAll(t, f)
	seg := func(when string, wantX, wantY int) {
		t.Helper()
		_, facts, ok := f.Touched(visitorKey(1))
		if !ok {
			t.Fatalf("%s: the visitor is not touched", when)
		}
		if gx, gy := facts.Count(taxonomy.Column{Source: "web", Trait: x}, start.Day()), facts.Count(taxonomy.Column{Source: "web", Trait: y}, start.Day()); gx != wantX || gy != wantY {
			t.Errorf("%s: a page is told %d in x and %d in y, want %d and %d", when, gx, gy, wantX, wantY)
		}
	}
	seg("before anything is read", 5, 0)
	if v := checkpoint(t, f); categories(v, x) != 5 || categories(v, y) != 0 {
		t.Errorf("before anything is read: %d in x, %d in y", categories(v, x), categories(v, y))
	}
	for {
		more, err := f.RefoldPart(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if !more {
			break
		}
	}
	shopper(l, wr, 6, 1, 1, "a", start+2)
	drainAll(t, f)
	seg("before the switch", 6, 0)
	if v := checkpoint(t, f); categories(v, x) != 0 || categories(v, y) != 6 || v.RuleVersion() != 2 {
		t.Errorf("after the switch: %d in x, %d in y, rules %d", categories(v, x), categories(v, y), v.RuleVersion())
	}
	shopper(l, wr, 7, 1, 1, "a", start+3)
	drainAll(t, f)
	seg("after the switch", 0, 7)
	if err := f.CancelRefold(t.Context()); !errors.Is(err, ErrNoRefold) {
		t.Errorf("cancel what is over: %v", err)
	}
}

// R18: who is erased while the scan runs is in no new column.
func TestAnErasureDuringTheScanIsSubtracted(t *testing.T) {
	l, wr := newLagLog(1), taxonomy.WriterID{1}
	w := newWorld(l, start)
	y := taxonomy.CategoryTrait("t", "y")
	old := &ruled{1, map[string][]taxonomy.Trait{}}
	w.refolding(old)
	erase := -1
	inner := w.hook
	w.hook = func(o *Options) {
		inner(o)
		o.PartEvents = 1 << 20
		o.Events = meddlingEvents{o.Events, func() {
			if erase >= 0 {
				l.append(wr, start+9, taxonomy.Record{Kind: taxonomy.RecordErasure, Received: start + 9, Space: taxonomy.SpaceCookie, Visitor: visitorKey(erase)})
				l.showAll()
				erase = -1
			}
		}}
	}
	f := w.open(t)
	for i := range 4 {
		shopper(l, wr, 10*i+1, 2, i, "a", start)
	}
	drainAll(t, f)
	checkpoint(t, f)
	if err := f.Refold(t.Context(), old.to(&ruled{2, map[string][]taxonomy.Trait{"a": {y}}})); err != nil {
		t.Fatal(err)
	}
	erase = 2
	if _, err := f.RefoldPart(t.Context()); err != nil {
		t.Fatal(err)
	}
	drainAll(t, f)
	if n := categories(finish(t, f), y); n != 6 {
		t.Errorf("%d events in the new column, want 6: those of three visitors", n)
	}
}

// meddlingEvents does something after the first event of a scan.
type meddlingEvents struct {
	retention.Events
	do func()
}

func (m meddlingEvents) Scan(ctx context.Context, part, parts int, from, to taxonomy.Day, fn func(*retention.StoredEvent) error) error {
	return m.Events.Scan(ctx, part, parts, from, to, func(e *retention.StoredEvent) error {
		err := fn(e)
		m.do()
		return err
	})
}

// A file of rules whose bytes changed is noticed.
func FuzzRulesFile(f *testing.F) {
	x := rulesFile{Version: 7, Text: []byte(`{"a":["c:t/x"]}`), Reach: rules.Reach{Traits: []taxonomy.Trait{"c:t/x"}, Prefixes: []string{"k:brand="}}}
	b, err := x.bytes()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(b[:len(b)-1])
	f.Fuzz(func(t *testing.T, in []byte) {
		got, err := parseRulesFile(in)
		if err != nil {
			return
		}
		again, err := got.bytes()
		if err != nil {
			t.Fatal(err)
		}
		if back, err := parseRulesFile(again); err != nil || !cmp.Equal(got, back) {
			t.Fatalf("%+v became %+v, %v", got, back, err)
		}
	})
}
