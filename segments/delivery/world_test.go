package delivery_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/retention/storetest"
	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/segments/delivery/format/tsv"
	"github.com/ebb-dmp/ebb/segments/delivery/transport/pull"
	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// The world is the naive model: visitors with everything that is true of them,
// in maps. Views of it are copies.

const dsp taxonomy.DestinationID = "dsp"

type tb interface {
	Helper()
	Fatalf(string, ...any)
}

type visitor struct {
	key      taxonomy.VisitorKey
	ordinal  uint32
	newest   map[taxonomy.Column]taxonomy.Day
	consent  taxonomy.Consent
	match    string
	synced   taxonomy.Day
	gone     bool // erased: read by nobody any more
	dropped  bool // the fold has forgotten it
	nameless bool // gone, and the view gives no key for it
	member   map[taxonomy.AudienceID]bool
	// converted: in an audience that the destination suppresses by.
	converted bool
}

type world struct {
	shards     int
	visitors   []*visitor
	now        taxonomy.Millis
	epoch, gen uint64
	ordinals   uint32 // given out so far
	positive   map[taxonomy.AudienceID][]taxonomy.Column
	audiences  []taxonomy.AudienceID
}

func column(trait string) taxonomy.Column {
	return taxonomy.Column{Source: "own", Trait: taxonomy.Trait(trait)}
}

var (
	colAny  = column("any")
	colCar  = column("c:iab/car")
	colBoat = column("c:iab/boat")
	colList = column("l:vip=in")
	// colAlly is what another source saw, which no generation here was built with.
	colAlly = taxonomy.Column{Source: "ally", Trait: taxonomy.TraitAny}
)

func newWorld(visitors int) *world {
	w := &world{
		shards: 2, now: storetest.Start, gen: 0,
		audiences: []taxonomy.AudienceID{"cars", "either", "nobody-bought", "vip"},
		positive: map[taxonomy.AudienceID][]taxonomy.Column{
			"cars": {colCar}, "either": {colBoat, colCar}, "nobody-bought": nil, "vip": {colList},
		},
	}
	for i := range visitors {
		w.add(i)
	}
	return w
}

func (w *world) add(i int) *visitor {
	h := sha256.Sum256([]byte(fmt.Sprint("visitor", i)))
	v := &visitor{
		newest: map[taxonomy.Column]taxonomy.Day{},
		member: map[taxonomy.AudienceID]bool{},
	}
	copy(v.key[:], h[:])
	// Ordinals over two blocks, so that the walk from block to block is tested.
	w.ordinals++
	v.ordinal = w.ordinals * 9001
	w.visitors = append(w.visitors, v)
	return v
}

func (w *world) today() taxonomy.Day { return w.now.Day() }

// sees gives a visitor an event today.
func (w *world) sees(v *visitor, c taxonomy.Column) {
	v.newest[c], v.newest[colAny] = w.today(), w.today()
	v.consent = taxonomy.Consent{Day: w.today(), Purposes: taxonomy.MayAll}
	if c == colList {
		w.lists(v, 0)
	}
}

// lists states today that a visitor is on the list, with an end of its own if
// there is one (R16). A day keeps its last statement.
func (w *world) lists(v *visitor, until taxonomy.Day) {
	for c, d := range v.newest {
		if key, ok := c.Trait.Statement(); ok && key == "l:vip" && d == w.today() {
			delete(v.newest, c)
		}
	}
	c := colList
	if until != 0 {
		c.Trait = c.Trait.Ending(until)
	}
	if v.newest[c] = w.today(); !slices.Contains(w.positive["vip"], c) {
		w.positive["vip"] = append(w.positive["vip"], c)
	}
}

func (v *visitor) shard(w *world) int { return v.key.Shard(w.shards) }

// allowed is the model of SetAllow.
func (w *world) allowed(v *visitor) bool {
	return !v.dropped && v.consent.Allows(dsp) && v.consent.Day+30 > w.today()
}

// until is R31, read off the rule.
func (w *world) until(v *visitor, a taxonomy.AudienceID) taxonomy.Day {
	var end taxonomy.Day
	inUse := func(d taxonomy.Day) bool { return d > w.today()-taxonomy.RetentionDays }
	for _, c := range w.positive[a] {
		d, ok := v.newest[c]
		if !ok || !inUse(d) {
			continue
		}
		e := d + 90
		if key, ok := c.Trait.Statement(); ok {
			if slices.ContainsFunc(w.positive[a], func(o taxonomy.Column) bool {
				k, _ := o.Trait.Statement()
				return k == key && v.newest[o] > d
			}) {
				continue // a newer statement decides (R16)
			}
			if _, u, ends := c.Trait.Ends(); ends {
				e = min(e, u)
			}
		}
		end = max(end, e)
	}
	if d, ok := v.newest[colAny]; end == 0 && ok && inUse(d) {
		end = d + 90
	}
	if end == 0 {
		return 0
	}
	return min(end, v.consent.Day+30)
}

// id is the partner's ID of a visitor, or none.
func (w *world) id(d *delivery.Destination, v *visitor) string {
	if d.IDs == delivery.ByMatch {
		return v.match
	}
	if d.RequireSync && v.match == "" {
		return ""
	}
	return pseudonym(d.ID, d.PseudonymEpoch, v.key)
}

// want is the set that the partner must hold.
func (w *world) want(d *delivery.Destination) map[string]bool {
	set := map[string]bool{}
	for _, a := range d.Audiences {
		var in []string
		for _, v := range w.visitors {
			if id := w.id(d, v); v.member[a] && !v.gone && !v.converted && w.allowed(v) && id != "" && w.until(v, a) > w.today() {
				in = append(in, id+"\t"+string(a))
			}
		}
		if uint64(len(in)) >= d.Floor {
			for _, row := range in {
				set[row] = true
			}
		}
	}
	return set
}

func pseudonym(d taxonomy.DestinationID, epoch uint32, k taxonomy.VisitorKey) string {
	h := sha256.Sum256(fmt.Appendf(nil, "%s %d %x", d, epoch, k))
	return hex.EncodeToString(h[:16])
}

// generation builds the next generation and a source of it.
func (w *world) generation() delivery.Source {
	w.gen++
	g := &audience.Generation{Epoch: w.epoch, Number: w.gen, Clock: w.now, Shards: w.shards, Sources: []taxonomy.SourceID{"own"}}
	members := map[taxonomy.AudienceID]index.Set{}
	for _, a := range w.audiences {
		s := index.NewSet(w.shards)
		for _, v := range w.visitors {
			if v.member[a] && !v.dropped {
				s[v.shard(w)].Add(v.ordinal)
			}
		}
		members[a] = s
		g.Audiences = append(g.Audiences, audience.Entry{ID: a, Count: s.Count(), Positive: w.positive[a]})
	}
	return delivery.Source{
		Generation: g, View: w.view(),
		Members:    func(_ context.Context, e audience.Entry) (index.Set, error) { return members[e.ID], nil },
		Suppressed: w.converted,
		Info: func(a taxonomy.AudienceID) delivery.AudienceInfo {
			return delivery.AudienceInfo{Title: "About\t" + string(a), Segtax: 4}
		},
	}
}

// converted is who is suppressed now, whenever it is asked.
func (w *world) converted(context.Context) (index.Set, error) {
	s := index.NewSet(w.shards)
	for _, v := range w.visitors {
		if v.converted && !v.dropped {
			s[v.shard(w)].Add(v.ordinal)
		}
	}
	return s, nil
}

// view is a copy of the world as an index and its visitors.
type view struct {
	w     *world
	byKey map[taxonomy.VisitorKey]*visitor
	at    []map[uint32]*visitor
}

func (w *world) view() *view {
	c := *w
	c.visitors = nil
	v := &view{w: &c, byKey: map[taxonomy.VisitorKey]*visitor{}, at: make([]map[uint32]*visitor, w.shards)}
	for s := range v.at {
		v.at[s] = map[uint32]*visitor{}
	}
	for _, o := range w.visitors {
		n := *o
		n.newest = map[taxonomy.Column]taxonomy.Day{}
		for k, d := range o.newest {
			n.newest[k] = d
		}
		c.visitors = append(c.visitors, &n)
		if !n.dropped {
			v.byKey[n.key] = &n
			v.at[n.shard(w)][n.ordinal] = &n
		}
	}
	return v
}

func (v *view) Shards() int                  { return v.w.shards }
func (v *view) Position() retention.Position { return nil }
func (v *view) Clock() taxonomy.Millis       { return v.w.now }
func (v *view) RuleVersion() uint32          { return 1 }
func (v *view) Blocks(shard int) (n int) {
	for o := range v.at[shard] {
		n = max(n, int(o/index.BlockSize)+1)
	}
	return n
}

func (v *view) Leaf(shard, block int, op *index.Operand, dst *index.Words) (n int, err error) {
	*dst = index.Words{}
	for o, x := range v.at[shard] {
		in := false
		switch op.Set {
		case index.SetAllow + string(dsp):
			in = v.w.allowed(x)
		case index.SetMatched + string(dsp):
			in = x.match != ""
		case index.SetGone:
			in = x.gone
		}
		if in && int(o/index.BlockSize) == block {
			i := o % index.BlockSize
			dst[i/64] |= 1 << (i % 64)
			n++
		}
	}
	return n, nil
}

func (v *view) Newest(shard, block int, cs []taxonomy.Column, from, to taxonomy.Day, dst *[index.BlockSize]uint8) error {
	*dst = [index.BlockSize]uint8{}
	for o, x := range v.at[shard] {
		if int(o/index.BlockSize) != block {
			continue
		}
		for _, c := range cs {
			if d, ok := x.newest[c]; ok && d >= from && d <= to {
				n := uint8(1 + to - d)
				if have := dst[o%index.BlockSize]; have == 0 || n < have {
					dst[o%index.BlockSize] = n
				}
			}
		}
	}
	return nil
}

func (v *view) Columns(from, to taxonomy.Day, fn func(taxonomy.Column, uint64)) error {
	for _, c := range []taxonomy.Column{colAny, colAlly, colBoat, colCar, colList} {
		fn(c, 1)
	}
	return nil
}

func (v *view) Key(shard int, ordinal uint32) (taxonomy.VisitorKey, bool) {
	x := v.at[shard][ordinal]
	if x == nil || x.nameless {
		return taxonomy.VisitorKey{}, false
	}
	return x.key, true
}

func (v *view) Ordinal(k taxonomy.VisitorKey) (int, uint32, bool) {
	x := v.byKey[k]
	if x == nil {
		return 0, 0, false
	}
	return x.shard(v.w), x.ordinal, true
}

func (v *view) Consent(shard int, ordinal uint32) (taxonomy.Consent, bool) {
	x := v.at[shard][ordinal]
	if x == nil {
		return taxonomy.Consent{}, false
	}
	return x.consent, true
}

func (v *view) MatchID(_ taxonomy.DestinationID, shard int, ordinal uint32) (string, taxonomy.Day, bool) {
	x := v.at[shard][ordinal]
	if x == nil || x.match == "" {
		return "", 0, false
	}
	return x.match, x.synced, true
}

// faulty fails at a chosen write: before it happened, or after. From then on
// everything fails, as if the process had died, until it is mended.
type faulty struct {
	retention.Keyed
	retention.Blobs
	after int // writes until the crash; < 0: never
	late  bool
	down  bool
	mu    sync.Mutex
}

var errCrash = errors.New("crash")

func (f *faulty) write(do func() error) error {
	f.mu.Lock()
	crash, happens := f.down || f.after == 0, !f.down && f.late
	f.down = crash
	f.after--
	f.mu.Unlock()
	if !crash {
		return do()
	}
	if happens {
		do()
	}
	return errCrash
}

type faultyKeyed struct{ *faulty }

func (f faultyKeyed) Get(ctx context.Context, s retention.KeyedSpace, k retention.Key) (retention.Item, error) {
	return f.Keyed.Get(ctx, s, k)
}
func (f faultyKeyed) Put(ctx context.Context, s retention.KeyedSpace, items []retention.Item) error {
	return f.Keyed.Put(ctx, s, items)
}
func (f faultyKeyed) Delete(ctx context.Context, s retention.KeyedSpace, k []retention.Key) error {
	return f.Keyed.Delete(ctx, s, k)
}
func (f faultyKeyed) Scan(ctx context.Context, s retention.KeyedSpace, p *string, fn func(retention.Item) error) error {
	return f.Keyed.Scan(ctx, s, p, fn)
}
func (f faultyKeyed) Swap(ctx context.Context, s retention.KeyedSpace, it retention.Item) (v uint64, err error) {
	err = f.write(func() (e error) { v, e = f.Keyed.Swap(ctx, s, it); return e })
	return v, err
}

type faultyBlobs struct{ *faulty }

func (f faultyBlobs) Open(ctx context.Context, n string) (retention.BlobReader, error) {
	return f.Blobs.Open(ctx, n)
}
func (f faultyBlobs) List(ctx context.Context, n string) ([]retention.Blob, error) {
	return f.Blobs.List(ctx, n)
}
func (f faultyBlobs) Put(ctx context.Context, n string, over taxonomy.Millis, r io.Reader) (b retention.Blob, err error) {
	err = f.write(func() (e error) { b, e = f.Blobs.Put(ctx, n, over, r); return e })
	return b, err
}
func (f faultyBlobs) Delete(ctx context.Context, names []string) error {
	return f.write(func() error { return f.Blobs.Delete(ctx, names) })
}

// locked lets two deliverers draw from one seed.
type locked struct {
	mu sync.Mutex
	r  io.Reader
}

func (l *locked) Read(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.r.Read(b)
}

// rig is a deliverer over a model store and a world.
type rig struct {
	w     *world
	store *storetest.Model
	fault *faulty
	rand  io.Reader
	d     *delivery.Deliverer
}

func newRig(t tb, w *world) *rig {
	r := &rig{w: w, store: storetest.NewModel(func() taxonomy.Millis { return w.now }), rand: &locked{r: rand.NewChaCha8([32]byte{7})}}
	r.fault = &faulty{Keyed: r.store.Keyed(), Blobs: r.store.Blobs(), after: -1}
	r.restart(t)
	return r
}

// restart is a new process over the same store.
func (r *rig) restart(t tb) {
	t.Helper()
	r.fault.down, r.fault.after = false, -1
	d, err := delivery.New(delivery.Options{
		Keyed: faultyKeyed{r.fault}, Blobs: faultyBlobs{r.fault}, Pseudonym: pseudonym,
		View:       func(context.Context) (audience.View, error) { return r.w.view(), nil },
		Formats:    map[string]delivery.Format{"tsv": tsv.Format{}},
		Transports: map[string]delivery.Transport{"pull": pull.Transport{}},
		Now:        func() taxonomy.Millis { return r.w.now }, Rand: r.rand,
	})
	if err != nil {
		t.Fatalf("new deliverer: %v", err)
	}
	r.d = d
}

func (r *rig) run(t tb, dest delivery.Destination) delivery.Delivery {
	t.Helper()
	done, err := r.d.Run(context.Background(), dest, r.w.generation())
	if err != nil {
		t.Fatalf("run: %v", err)
	}
	return done
}

func (r *rig) manifest(t tb) delivery.Manifest {
	t.Helper()
	m, err := r.d.Manifest(context.Background(), dsp)
	if err != nil {
		t.Fatalf("manifest: %v", err)
	}
	return m
}

// lines fetches a file as the partner does and returns its lines, having
// checked what the manifest says of it.
func (r *rig) lines(t tb, f delivery.ManifestFile) []string {
	t.Helper()
	body, _, state, err := r.d.Open(context.Background(), dsp, f.Name)
	if err != nil || state != delivery.FileServed {
		t.Fatalf("open %s: %s, %v", f.Name, state, err)
	}
	defer body.Close()
	raw, err := io.ReadAll(io.NewSectionReader(body, 0, f.Bytes+1))
	if sum := sha256.Sum256(raw); err != nil || int64(len(raw)) != f.Bytes || hex.EncodeToString(sum[:]) != f.SHA256 {
		t.Fatalf("file %s: %d bytes, the manifest says %d; sum %x, the manifest says %s; %v", f.Name, len(raw), f.Bytes, sum, f.SHA256, err)
	}
	z, err := gzip.NewReader(bytes.NewReader(raw))
	if err != nil {
		t.Fatalf("gunzip: %v", err)
	}
	text, err := io.ReadAll(z)
	if err != nil {
		t.Fatalf("gunzip: %v", err)
	}
	lines := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
	if len(text) == 0 {
		lines = nil
	}
	if uint64(len(lines)) != f.Rows {
		t.Fatalf("file %s has %d lines, the manifest says %d", f.Name, len(lines), f.Rows)
	}
	return lines
}

// partner is a DSP that goes by the manifest and by its own clock.
type partner struct {
	applied string
	ends    map[string]taxonomy.Millis // "id\taudience" → when its copy ends
}

func (p *partner) pull(t tb, r *rig) {
	t.Helper()
	m := r.manifest(t)
	from := 0
	for i, f := range m.Files {
		if f.Name == p.applied {
			from = i + 1
		}
	}
	if from == 0 && len(m.Files) > 0 && m.Files[0].Kind != delivery.Full {
		return // a file was withdrawn; the new full will come
	}
	for _, f := range m.Files[from:] {
		if f.Kind == delivery.Full {
			p.ends = map[string]taxonomy.Millis{}
		}
		seen := map[string]bool{}
		for _, l := range r.lines(t, f) {
			c := strings.Split(l, "\t")
			if len(c) != 4 {
				t.Fatalf("line %q has %d columns", l, len(c))
			}
			row := c[0] + "\t" + c[1]
			if seen[row] {
				t.Fatalf("file %s says two things of one ID and audience", f.Name)
			}
			seen[row] = true
			minutes, err := strconv.Atoi(c[3])
			switch {
			case err != nil:
				t.Fatalf("line %q: %v", l, err)
			case c[2] == "-" && minutes == 0:
				delete(p.ends, row)
			case c[2] == "+" && minutes > 0:
				p.ends[row] = taxonomy.MillisOf(f.Created) + taxonomy.Millis(minutes)*taxonomy.Minute
			default:
				t.Fatalf("line %q", l)
			}
		}
		p.applied = f.Name
	}
}

func (p *partner) holds(now taxonomy.Millis) map[string]bool {
	set := map[string]bool{}
	for row, end := range p.ends {
		if now < end {
			set[row] = true
		}
	}
	return set
}

func destination() delivery.Destination {
	return delivery.Destination{
		ID: dsp, Title: "A DSP", IDs: delivery.ByPseudonym, Floor: 1,
		Audiences: []taxonomy.AudienceID{"cars", "either", "nobody-bought", "vip"},
	}.WithDefaults()
}

func same(t tb, what string, got, want map[string]bool) {
	t.Helper()
	for row := range got {
		if !want[row] {
			t.Fatalf("%s: the partner holds %q, which it must not", what, row)
		}
	}
	for row := range want {
		if !got[row] {
			t.Fatalf("%s: the partner lacks %q", what, row)
		}
	}
}

var _ tb = (*testing.T)(nil)
