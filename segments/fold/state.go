// Package fold is the one function that turns the log into what is known: who
// exists, what they did on each day, what is allowed. Step is pure: the same
// state and input give the same state and effects. The Fold around it reads the
// log, stores events, commits checkpoints and publishes views.
package fold

import (
	"bytes"
	"fmt"

	"github.com/RoaringBitmap/roaring/v2"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// Classifier turns an event into traits, by one version of the taxonomy.
type Classifier interface {
	Version() uint32
	// Classify appends the event's categories with all their ancestors, and its
	// other traits, each once.
	Classify(site taxonomy.SiteID, e *taxonomy.Event, dst []taxonomy.Trait) []taxonomy.Trait
}

// Config is what a fold is made with; it never changes for a data directory.
type Config struct {
	Shards int // S, fixed at init
	Groups int
	Group  taxonomy.Group
	// Erasure is HMAC(erasure key, visitor key), cut to 16 bytes (R24).
	Erasure func(taxonomy.VisitorKey) [16]byte
	// WaitingBytes bounds the waiting table (R11); 0 means 64 MiB.
	WaitingBytes int
}

// Tally is what became of a site's events: the terms of P2 that the fold knows.
// Received = Stored + Duplicate + ΣRejected + ΣDropped + Waiting.
type Tally struct {
	Received  uint64
	Stored    uint64
	Duplicate uint64
	Rejected  map[taxonomy.Reason]uint64
	Dropped   map[taxonomy.Reason]uint64
	// Waiting are events in the waiting table: part of queued.
	Waiting uint64
}

func (t *Tally) clone() Tally {
	c := *t
	c.Rejected = map[taxonomy.Reason]uint64{}
	c.Dropped = map[taxonomy.Reason]uint64{}
	for k, v := range t.Rejected {
		c.Rejected[k] = v
	}
	for k, v := range t.Dropped {
		c.Dropped[k] = v
	}
	return c
}

// State is everything the fold knows (R6). It is changed by Step, Advance and
// Forget only, and is not safe for concurrent use.
type State struct {
	cfg         Config
	clock       taxonomy.Millis
	position    retention.Position
	frameTime   map[taxonomy.WriterID]taxonomy.Millis // of the last folded frame
	ruleVersion uint32
	// rules are those in force if a checkpoint holds them (Options.Compile), else
	// nil; refold is the change of them that is folded anew, nil if none.
	rules    Classifier
	refold   *refold
	shards   []*shard // nil for shards of other groups
	consents consents
	columns  interner

	counters *table[taxonomy.SiteID, *Tally]
	waiting  *waitingTable
	erased   *table[[16]byte, erasure]
	succeeds *table[taxonomy.VisitorKey, succession]
	matches  *matches
	imports  *table[importChunk, *[512]byte]
	newest   *table[statementPlace, statement]
	choices  *table[taxonomy.VisitorKey, choice]
	heard    *table[heardKey, uint64]
	off      []map[taxonomy.Trait]*roaring.Bitmap // see offSets; nil: to be made

	// recent are the event IDs since the last checkpoint; flushing those of the
	// checkpoint under way. Behind both stands the Seen.
	recent, flushing map[Hash]taxonomy.Millis
	// changed says that something but time passed since the last checkpoint.
	changed bool
	scratch []taxonomy.Trait
	coming  []taxonomy.Trait // likewise
}

// shard is the visitors and columns of one shard.
type shard struct {
	n        int
	ids      idMap // see find
	visitors visitors
	dirty    map[uint32]struct{} // ordinals changed since the last checkpoint
	gone     *roaring.Bitmap
	// days are the committed layers: replaced, never changed.
	days index.Days
	// pending are this interval's events, an ordinal each, by day and column;
	// said are its statements.
	pending map[dayColumn]*[]uint32
	said    map[saidKey]column
	// staged are the committed layers of a re-fold's new columns, and next those
	// of this interval; both empty unless there is one.
	staged index.Days
	next   map[dayColumn]*[]uint32
	// touched are the events of each visitor by interval: what a committed
	// layer does not hold yet (flushing, pending), and what the last generation
	// has not seen.
	touched []interval
}

// find returns the ordinal of a visitor key.
func (sh *shard) find(k taxonomy.VisitorKey) (uint32, bool) { return sh.ids.get(k, &sh.visitors) }

// interval is what happened between two checkpoints.
type interval struct {
	number    uint64 // of the checkpoint that ends it
	committed bool   // its events are in days
	visitors  map[uint32][]dayColumn
}

// column is an interned taxonomy.Column.
type column uint32

type dayColumn struct {
	day taxonomy.Day
	col column
}

type saidKey struct {
	day     taxonomy.Day
	ordinal uint32
	source  taxonomy.SourceID
	key     string
}

type interner struct {
	of   map[taxonomy.SourceID]map[taxonomy.Trait]column
	cols []taxonomy.Column
}

func (in *interner) intern(s taxonomy.SourceID, t taxonomy.Trait) column {
	m := in.of[s]
	if m == nil {
		m = map[taxonomy.Trait]column{}
		in.of[s] = m
	}
	c, ok := m[t]
	if !ok {
		c = column(len(in.cols))
		in.cols = append(in.cols, taxonomy.Column{Source: s, Trait: t})
		m[t] = c
	}
	return c
}

// consents interns summaries: there are few, and every visitor has one.
type consents struct {
	of      map[string]uint32
	all     []taxonomy.Consent
	scratch []byte
	last    struct { // of load
		b []byte
		i uint32
	}
}

func (cs *consents) intern(c taxonomy.Consent) uint32 {
	cs.scratch = taxonomy.AppendConsent(cs.scratch[:0], &c)
	i, ok := cs.of[string(cs.scratch)]
	if !ok {
		i = cs.add(cs.scratch, c)
	}
	return i
}

func (cs *consents) add(b []byte, c taxonomy.Consent) uint32 {
	i := uint32(len(cs.all))
	cs.all = append(cs.all, c)
	cs.of[string(b)] = i
	return i
}

// load interns a summary by its bytes, which it decodes only the first time.
func (cs *consents) load(b []byte) (uint32, error) {
	if bytes.Equal(b, cs.last.b) {
		return cs.last.i, nil // as the visitor before
	}
	if i, ok := cs.of[string(b)]; ok {
		cs.last.b, cs.last.i = append(cs.last.b[:0], b...), i
		return i, nil
	}
	c, rest, err := taxonomy.DecodeConsent(b)
	if err != nil || len(rest) != 0 {
		return 0, fmt.Errorf("%w: consent of a visitor", retention.ErrCorrupt)
	}
	return cs.intern(c), nil // under the bytes that we write today
}

// NewState returns the state before the first record.
func NewState(cfg Config) *State {
	if cfg.WaitingBytes == 0 {
		cfg.WaitingBytes = 64 << 20
	}
	s := &State{
		cfg:       cfg,
		position:  retention.Position{},
		frameTime: map[taxonomy.WriterID]taxonomy.Millis{},
		consents:  consents{of: map[string]uint32{}},
		columns:   interner{of: map[taxonomy.SourceID]map[taxonomy.Trait]column{}},
		counters:  newTable('c', counterCodec),
		waiting:   newWaiting(cfg.WaitingBytes),
		erased:    newTable('e', erasedCodec),
		succeeds:  newTable('s', succeedsCodec),
		matches:   newMatches(),
		imports:   newTable('i', importCodec),
		newest:    newTable('t', statementCodec),
		choices:   newTable('x', choiceCodec),
		heard:     newTable('h', heardCodec),
		recent:    map[Hash]taxonomy.Millis{},
		shards:    make([]*shard, cfg.Shards),
	}
	for i := range s.shards {
		if taxonomy.GroupOf(i, cfg.Groups) == cfg.Group {
			s.shards[i] = &shard{
				n:       i,
				dirty:   map[uint32]struct{}{},
				gone:    roaring.New(),
				days:    index.Days{},
				pending: map[dayColumn]*[]uint32{},
				said:    map[saidKey]column{},
				next:    map[dayColumn]*[]uint32{},
				touched: []interval{{number: 1, visitors: map[uint32][]dayColumn{}}},
			}
		}
	}
	return s
}

// tables are the parts of the state that lie in its runs, beside the visitors.
func (s *State) tables() []anyTable {
	return []anyTable{s.counters, s.waiting.table, s.erased, s.succeeds, s.matches, s.imports, s.newest, s.choices, s.heard}
}

func (s *State) shardOf(v taxonomy.VisitorKey) (*shard, error) {
	sh := s.shards[v.Shard(s.cfg.Shards)]
	if sh == nil {
		return nil, fmt.Errorf("fold: a record of shard %d is in the log of group %d", v.Shard(s.cfg.Shards), s.cfg.Group)
	}
	return sh, nil
}

func (s *State) tally(site taxonomy.SiteID) *Tally {
	t, ok := s.counters.get(site)
	if !ok {
		t = &Tally{Rejected: map[taxonomy.Reason]uint64{}, Dropped: map[taxonomy.Reason]uint64{}}
	}
	s.counters.put(site, t)
	return t
}

// Clock is the fold's time (R7).
func (s *State) Clock() taxonomy.Millis { return s.clock }

// Position is what has been folded. The caller must not change it.
func (s *State) Position() retention.Position { return s.position }

// Tallies returns what became of each site's events. The caller owns it.
func (s *State) Tallies() map[taxonomy.SiteID]Tally {
	m := make(map[taxonomy.SiteID]Tally, len(s.counters.m))
	for site, t := range s.counters.m {
		c := t.clone()
		c.Waiting = s.waiting.events[site]
		m[site] = c
	}
	return m
}

// visitor is what is known of one ordinal.
type visitor struct {
	key     taxonomy.VisitorKey
	adopted taxonomy.Millis // the earliest returning receipt (R11)
	// consentAt is the receipt of the newest summary, consent which one it is.
	consentAt taxonomy.Millis
	consent   uint32
	newest    taxonomy.Day // of an event, fact or match: when it is over, so is the visitor
	flags     uint8
}

const (
	isGone    = 1 << iota // erased: in no answer, and no record of it counts
	isDropped             // its life is over; the ordinal is not used again
)

// chunkSize is how many visitors are copied at once when one changes that a
// view has seen.
const chunkSize = 256

// visitors is a list of visitors by ordinal that can be frozen: a frozen list
// never changes, and costs a pointer a chunk.
type visitors struct {
	chunks []*chunk
	n      uint32
	era    uint64
}

type chunk struct {
	era uint64
	v   [chunkSize]visitor
}

func (l *visitors) at(o uint32) *visitor { return &l.chunks[o/chunkSize].v[o%chunkSize] }

// edit returns a visitor to be changed.
func (l *visitors) edit(o uint32) *visitor {
	c := l.chunks[o/chunkSize]
	if c.era != l.era {
		copied := *c
		copied.era = l.era
		c = &copied
		l.chunks[o/chunkSize] = c
	}
	return &c.v[o%chunkSize]
}

// grow makes the list n long.
func (l *visitors) grow(n uint32) {
	for uint32(len(l.chunks))*chunkSize < n {
		l.chunks = append(l.chunks, &chunk{era: l.era})
	}
	l.n = max(l.n, n)
}

// freeze returns the list as it is now.
func (l *visitors) freeze() visitors {
	l.era++
	return visitors{chunks: append([]*chunk(nil), l.chunks...), n: l.n}
}
