package fold

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/rules"
)

// Options is what a Fold is made of.
type Options struct {
	Config
	Log    retention.Log
	Events retention.Events
	Keyed  retention.Keyed
	Blobs  retention.Blobs
	// Rules returns the classifier in force: an input of each step.
	Rules func() Classifier
	// Above returns the ancestors of a category, for what visitors switch off; nil:
	// categories have none.
	Above func(taxonomy.Trait) []taxonomy.Trait
	// Compile makes a classifier of the text (Source) under which a checkpoint
	// holds it. With it, rules change by Refold only, and Rules returns a Source
	// that is asked for once, when there is no checkpoint that says which rules
	// are in force. nil: what Rules returns holds from then on, and what was
	// folded before stays as it was.
	Compile func(version uint32, text []byte) (Classifier, error)
	// Part returns a classifier that gives the same traits of a reach as its
	// first argument, if there is a smaller one; nil: the whole is asked.
	Part func(Classifier, *rules.Reach) (Classifier, error)
	// Pace is called by a re-fold's scan between some hundred events while the log
	// has more to fold, and may wait, so that it is followed in time; nil: the scan
	// never waits.
	Pace func(context.Context) error
	// PartEvents is about how many events a re-fold reads between two marks of its
	// progress; 0 means 8,192.
	PartEvents int
	// OnErased and OnUnmatched take a step's effects before the checkpoint that
	// covers it, and may be called again with the same. nil takes nothing.
	OnErased    func(context.Context, []Erased) error
	OnUnmatched func(context.Context, []Unmatched) error
	// OnFolded is told of whom each Poll folded records, after all else was carried
	// out; a visitor may come several times. It may be called again with the same.
	OnFolded func(context.Context, []Folded) error
	// Epoch is the number of restores (R29), Term that of the builder's lease.
	Epoch, Term uint64
	// BatchBytes is about how much log one Poll folds; 0 means 1 MiB.
	BatchBytes int
	// CheckpointBytes of folded log make a checkpoint due; 0 means 32 MiB (R6).
	CheckpointBytes int64
	// Parallel is how many files of days are read or written at once; 0 means one.
	Parallel int
	// DaysBehind lets Open return before the days are read (R35): who asks for one
	// waits. If one cannot be read the fold stops, and its views say so.
	DaysBehind bool
	// Before, if set, is a follower of the group: days that it has are not read
	// again.
	Before *Fold
	Logger *slog.Logger
}

// Fold keeps a State in step with the log of one group, and in checkpoints.
//
// Poll and Checkpoint are each called by one goroutine at a time, though both
// may run at once; all else is safe for concurrent use. A Fold that returned an
// error from Poll or Checkpoint can be tried again, unless the error says that
// it is stopped.
type Fold struct {
	opt   Options
	files files

	mu    sync.RWMutex // guards state
	state *State
	seen  *seenFiles // replaced under mu
	built *View      // that the last generation was built from

	// Of Poll's goroutine:
	undone Effects  // of frames that are folded but not yet carried out
	about  []Folded // of whom, until OnFolded has taken it
	folded atomic.Int64

	reading   *reading                // of the days; nil: they are read
	following bool                    // see Follow
	known     map[uint64]*index.Layer // by file, while Follow loads

	// Of Checkpoint's goroutine:
	stored   stored
	inflight *capture
	keep     map[string]bool // files of the committed checkpoint
	before   map[string]bool // and of the one before it, for its readers

	polling, saving sync.Mutex
	view            atomic.Pointer[View]
	busy            atomic.Bool // the last Poll found something
	starting        *refold     // under mu: begins with the next checkpoint
	refolding       sync.Mutex
	stopped         error // under mu: the state can no longer be trusted
}

// View returns the view of the last committed checkpoint. It is never nil.
func (f *Fold) View() *View { return f.view.Load() }

// Built says that a generation was built from a view: what happened before it
// need not be remembered for corrections (R33).
func (f *Fold) Built(v *View) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.built = v
	for _, sh := range f.state.shards {
		if sh == nil {
			continue
		}
		for len(sh.touched) > 1 && sh.touched[0].committed && sh.touched[0].number <= v.number {
			sh.touched = sh.touched[1:]
		}
	}
}

// Erased reports whether a visitor is erased as of now.
func (f *Fold) Erased(k taxonomy.VisitorKey, now taxonomy.Millis) bool {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if len(f.state.erased.m) == 0 {
		return false
	}
	e, ok := f.state.erased.get(f.state.cfg.Erasure(k))
	return ok && e.covers(max(now, e.at+1))
}

// Tallies returns what became of each site's events, as folded so far.
func (f *Fold) Tallies() map[taxonomy.SiteID]Tally {
	t, _ := f.Accounts()
	return t
}

// Accounts returns what became of each site's events up to the position that is
// returned with it. The caller owns both.
func (f *Fold) Accounts() (map[taxonomy.SiteID]Tally, retention.Position) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.state.Tallies(), f.state.position.Clone()
}

// Position returns what is folded so far, which may be beyond the last
// checkpoint. The caller owns it.
func (f *Fold) Position() retention.Position {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.state.position.Clone()
}

// Clock is the fold's time.
func (f *Fold) Clock() taxonomy.Millis {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.state.clock
}

// Forget removes what is left of erased visitors from the state; the bytes go
// with the next Rewrite. It is the fold's part of the eraser's work.
func (f *Fold) Forget(visitors []taxonomy.VisitorKey) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.state.Forget(visitors)
}

// Close closes what the fold has open. It does not make a checkpoint.
func (f *Fold) Close() error {
	if f.reading != nil {
		f.reading.stop()
		<-f.reading.done
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	closeUnused(f.seen.hours, nil)
	return nil
}

func closeUnused(old, now map[int64][]*seenFile) {
	used := map[*seenFile]bool{}
	for _, fs := range now {
		for _, f := range fs {
			used[f] = true
		}
	}
	for _, fs := range old {
		for _, f := range fs {
			if !used[f] {
				f.r.Close()
			}
		}
	}
}
