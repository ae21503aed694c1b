package fold

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// Follow opens the last committed checkpoint of a group that another node folds,
// or begins with nothing if there is none yet. It claims nothing and writes
// nothing: what it returns answers questions as of the checkpoint, and Touched
// also of what opt.Log has beyond it, which is this node's own log (R33). Its
// Poll takes in the latter and carries no effect out; Checkpoint and Rewrite
// refuse. opt.Term does not count, and opt.Log may be nil.
//
// before, if not nil, is the one that this replaces: days that both have are not
// read again. retention.ErrNotFound means that the checkpoint was replaced while
// it was read: follow again.
func Follow(ctx context.Context, opt Options, before *Fold) (*Fold, error) {
	opt.Term = math.MaxUint64
	if opt.BatchBytes == 0 {
		opt.BatchBytes = 1 << 20
	}
	opt.OnErased, opt.OnUnmatched = nil, nil
	f := &Fold{opt: opt, state: NewState(opt.Config), seen: &seenFiles{}, following: true}
	f.files = files{blobs: opt.Blobs, folder: folderOf(opt.Group), next: 1, aside: newAside(opt.Parallel)}
	f.stored = stored{layers: map[*index.Layer]fileRef{}, seen: map[int64][]fileRef{}, rules: map[uint32]rulesRef{}}
	if before != nil {
		f.known = before.layersByFile()
	}
	m, version, err := f.files.committed(ctx, opt.Keyed, opt.Group)
	if err != nil {
		return nil, err
	}
	if m == nil {
		if err := f.loadRules(ctx, nil); err != nil {
			return nil, err
		}
		f.begin()
		return f, nil
	}
	f.prefetch(ctx, m)
	err = f.load(ctx, m, version)
	f.known = nil
	if err != nil {
		return nil, errors.Join(fmt.Errorf("follow checkpoint %d of group %d: %w", m.Number, opt.Group, err), f.Close())
	}
	// What came before the checkpoint is in the lists that the builder published.
	f.built = f.View()
	return f, nil
}

// Latest returns the number of the last committed checkpoint of a group, 0 if
// there is none.
func Latest(ctx context.Context, keyed retention.Keyed, g taxonomy.Group) (uint64, error) {
	h, _, err := committedHead(ctx, keyed, g)
	return h.Number, err
}

func committedHead(ctx context.Context, keyed retention.Keyed, g taxonomy.Group) (h head, version uint64, err error) {
	item, err := keyed.Get(ctx, headSpace, headKey(g))
	if errors.Is(err, retention.ErrNotFound) {
		return h, 0, nil
	}
	if err != nil {
		return h, 0, fmt.Errorf("read the checkpoint's head: %w", err)
	}
	if err := json.Unmarshal(item.Value, &h); err != nil {
		return h, 0, fmt.Errorf("%w: the checkpoint's head: %v", retention.ErrCorrupt, err)
	}
	return h, item.Version, nil
}

// committed returns the manifest that the head names, nil if none.
func (f *files) committed(ctx context.Context, keyed retention.Keyed, g taxonomy.Group) (*manifest, uint64, error) {
	h, version, err := committedHead(ctx, keyed, g)
	if err != nil || h.Manifest == "" {
		return nil, version, err
	}
	m, err := f.readManifest(ctx, h.Manifest)
	return m, version, err
}

func (f *Fold) layersByFile() map[uint64]*index.Layer {
	if f.ready() != nil {
		return nil
	}
	known := make(map[uint64]*index.Layer, len(f.stored.layers))
	for l, ref := range f.stored.layers {
		known[ref.File] = l
	}
	return known
}

// layer opens a layer of a day, or returns it if it is open already.
func (f *Fold) layer(ctx context.Context, ref fileRef) (*index.Layer, error) {
	if l, ok := f.known[ref.File]; ok && int64(len(l.Bytes())) == ref.Bytes {
		return l, nil
	}
	b, err := f.files.read(ctx, "day", ref)
	if err != nil {
		return nil, err
	}
	l, err := index.OpenLayer(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.files.name(ref.File, "day"), err)
	}
	return l, nil
}

// Following reports whether this only follows.
func (f *Fold) Following() bool { return f.following }

// Knows reports whether the state has an erasure that was asked for then or
// later, so that it can tell of it, and of an opt-in that lifted it.
func (f *Fold) Knows(hash [16]byte, asked taxonomy.Millis) bool {
	f.mu.RLock()
	defer f.mu.RUnlock()
	e, ok := f.state.erased.get(hash)
	return ok && e.at >= asked
}

// ErrStopped is in errors after which a Fold can only be opened anew.
var ErrStopped = errors.New("the fold has stopped")

var errFollowing = errors.New("another node folds this group: nothing is written here")

// Folded is a visitor of whom a Poll folded records, and the last of them of one
// writer; a zero ref if what changed for it was another's record.
type Folded struct {
	Visitor taxonomy.VisitorKey
	Last    taxonomy.Ref
}

// note remembers whom the frames were about, for OnFolded.
func (f *Fold) note(frames []retention.Frame) {
	if f.opt.OnFolded == nil {
		return
	}
	for i := range frames {
		fr := &frames[i]
		for j := range fr.Records {
			if v := fr.Records[j].Visitor; !v.IsZero() {
				f.about = append(f.about, Folded{v, taxonomy.Ref{Writer: fr.Writer, Seq: fr.First + uint64(j)}})
			}
		}
	}
	for _, e := range f.undone.Erased {
		f.about = append(f.about, Folded{Visitor: e.Visitor})
	}
}

// Join returns one view over the views of all groups, in order of groups: the
// shards of each, the least clock, and the joined position. It shares them.
func Join(views []*View) *View {
	if len(views) == 1 {
		return views[0]
	}
	v := &View{clock: views[0].clock, ruleVersion: views[0].ruleVersion, shards: make([]shardView, len(views[0].shards)), sets: map[string]denseSet{}}
	positions := make([]retention.Position, len(views))
	for g, of := range views {
		v.number += of.number
		v.clock = min(v.clock, of.clock)
		if g == 0 || of.ruleVersion < v.ruleVersion {
			v.ruleVersion, v.words, v.lives = of.ruleVersion, of.words, of.lives
		}
		v.epoch = max(v.epoch, of.epoch)
		positions[g] = of.position
		for i := range of.shards {
			if taxonomy.GroupOf(i, len(views)) == taxonomy.Group(g) {
				v.shards[i] = of.shards[i]
			}
		}
	}
	v.position = retention.JoinPositions(positions)
	return v
}

// Committed returns the position of the last committed checkpoint of a group,
// empty if there is none.
func Committed(ctx context.Context, keyed retention.Keyed, blobs retention.Blobs, g taxonomy.Group) (retention.Position, error) {
	f := files{blobs: blobs, folder: folderOf(g)}
	m, _, err := f.committed(ctx, keyed, g)
	if err != nil || m == nil {
		return retention.Position{}, err
	}
	return m.Position, nil
}
