package fold

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// manifest is a checkpoint: the names of its files and what else the state is.
// It is a blob of JSON, written after all it names; the head (headSpace) that
// points to it is swapped last, so a checkpoint is there whole or not at all.
type manifest struct {
	Format      int                                   `json:"format"` // manifestFormat
	Number      uint64                                `json:"number"` // of the checkpoint
	NextFile    uint64                                `json:"next_file"`
	Epoch       uint64                                `json:"epoch"`
	Term        uint64                                `json:"term"`
	Shards      int                                   `json:"shards"`
	Groups      int                                   `json:"groups"`
	Group       taxonomy.Group                        `json:"group"`
	Clock       taxonomy.Millis                       `json:"clock"`
	RuleVersion uint32                                `json:"rule_version"`
	Position    retention.Position                    `json:"position"`
	FrameTimes  map[taxonomy.WriterID]taxonomy.Millis `json:"frame_times"`
	Ordinals    map[int]uint32                        `json:"ordinals"` // next ordinal by shard
	Visitors    []fileRef                             `json:"visitors"` // runs, the newest last
	State       []fileRef                             `json:"state"`    // runs, the newest last
	Days        []dayRef                              `json:"days"`
	// Rules is the file of the rules in force (R18); Masks those of earlier
	// changes that some layer is older than, the oldest first.
	Rules  *rulesRef     `json:"rules,omitempty"`
	Masks  []rulesRef    `json:"masks,omitempty"`
	Refold *refoldRecord `json:"refold,omitempty"`
	Seen   []seenRef     `json:"seen"`
}

// manifestFormat is written; 1, which knew no re-folds, is read as well.
const manifestFormat = 2

// fileRef is a file of the checkpoint: its number and length.
type fileRef struct {
	File  uint64 `json:"f"`
	Bytes int64  `json:"b"`
	// Rules is the version in force when a layer was written, 0 of all other files.
	Rules uint32 `json:"r,omitempty"`
}

// dayRef is the layers of a shard and day, the oldest first.
type dayRef struct {
	Shard  int          `json:"s"`
	Day    taxonomy.Day `json:"d"`
	Layers []fileRef    `json:"l"`
}

type seenRef struct {
	Hour  int64     `json:"h"`
	Files []fileRef `json:"l"`
}

// headSpace holds, for each group, the name of the committed manifest.
var headSpace = retention.KeyedSpace{Name: "checkpoint", Swapped: true}

type head struct {
	Manifest string `json:"manifest"` // "": claimed, and nothing committed yet
	Number   uint64 `json:"number"`
	Epoch    uint64 `json:"epoch"`
	// Term is that of the lease under which the head was last swapped: by a
	// commit, or by whoever claimed it since.
	Term uint64 `json:"term"`
}

// files names and numbers the files of a group's checkpoints.
type files struct {
	blobs  retention.Blobs
	folder string
	next   uint64
	aside  *aside
}

func folderOf(g taxonomy.Group) string { return fmt.Sprintf("fold/%d", g) }

func (f *files) name(n uint64, kind string) string { return fmt.Sprintf("%s/%d.%s", f.folder, n, kind) }

// write stores a file under the next number.
func (f *files) write(ctx context.Context, kind string, over taxonomy.Millis, b []byte) (fileRef, error) {
	ref := fileRef{File: f.next, Bytes: int64(len(b))}
	f.next++
	put := func() error {
		if _, err := f.blobs.Put(ctx, f.name(ref.File, kind), over, bytes.NewReader(b)); err != nil {
			return fmt.Errorf("write %s: %w", f.name(ref.File, kind), err)
		}
		return nil
	}
	if kind == "day" { // nobody reads it back before the manifest
		return ref, f.aside.do(put)
	}
	return ref, put()
}

// read returns a file's bytes.
func (f *files) read(ctx context.Context, kind string, ref fileRef) ([]byte, error) {
	r, err := f.blobs.Open(ctx, f.name(ref.File, kind))
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", f.name(ref.File, kind), err)
	}
	defer r.Close()
	if r.Blob().Bytes != ref.Bytes {
		return nil, fmt.Errorf("%w: %s has %d bytes, its manifest says %d", retention.ErrCorrupt, r.Blob().Name, r.Blob().Bytes, ref.Bytes)
	}
	b := make([]byte, ref.Bytes)
	if _, err := r.ReadAt(b, 0); err != nil && err != io.EOF {
		return nil, fmt.Errorf("read %s: %w", f.name(ref.File, kind), err)
	}
	return b, nil
}

// readHead returns the committed manifest of a group and the version of its
// head; a nil manifest if there is none yet.
//
// A whole manifest that is newer than the head's is the committed one: it was
// written after all its files, and the log may have been trimmed behind it
// already. The head lacks it if the power went before the swap, or if the store
// lost its newest writes to damage.
func (f *files) readHead(ctx context.Context, keyed retention.Keyed, g taxonomy.Group) (*manifest, uint64, error) {
	var m *manifest
	var h head
	item, err := keyed.Get(ctx, headSpace, headKey(g))
	if err != nil && !errors.Is(err, retention.ErrNotFound) {
		return nil, 0, fmt.Errorf("read the checkpoint's head: %w", err)
	}
	if err == nil {
		if err := json.Unmarshal(item.Value, &h); err != nil {
			return nil, 0, fmt.Errorf("%w: the checkpoint's head: %v", retention.ErrCorrupt, err)
		}
		if h.Manifest != "" {
			if m, err = f.readManifest(ctx, h.Manifest); err != nil {
				return nil, 0, err
			}
		}
	}
	newer, err := f.newest(ctx, m, h.Term)
	if err != nil || newer == nil {
		return m, item.Version, err
	}
	version, err := f.swapHead(ctx, keyed, newer, f.manifestName(newer), item.Version)
	return newer, version, err
}

// newest returns a whole manifest that is newer than m, or nil. One of a term
// below the head's is of a builder that was over when it wrote it.
func (f *files) newest(ctx context.Context, m *manifest, term uint64) (best *manifest, err error) {
	blobs, err := f.blobs.List(ctx, f.folder)
	if err != nil && !errors.Is(err, retention.ErrCorrupt) {
		return nil, fmt.Errorf("list %s: %w", f.folder, err)
	}
	have := map[string]bool{}
	for _, b := range blobs {
		have[b.Name] = true
	}
	for _, b := range blobs {
		if !strings.HasSuffix(b.Name, ".checkpoint") {
			continue
		}
		c, err := f.readManifest(ctx, b.Name)
		if err != nil {
			continue // not whole: it was never committed
		}
		if c.Term < term || m != nil && c.Number <= m.Number || best != nil && c.Number <= best.Number {
			continue
		}
		whole := true
		for name := range f.names(c) {
			whole = whole && have[name]
		}
		if whole {
			best = c
		}
	}
	return best, nil
}

func (f *files) readManifest(ctx context.Context, name string) (*manifest, error) {
	r, err := f.blobs.Open(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("open checkpoint %s: %w", name, err)
	}
	defer r.Close()
	b, err := io.ReadAll(io.NewSectionReader(r, 0, r.Blob().Bytes))
	if err != nil {
		return nil, fmt.Errorf("read checkpoint %s: %w", name, err)
	}
	m := new(manifest)
	if err := json.Unmarshal(b, m); err != nil {
		return nil, fmt.Errorf("%w: checkpoint %s: %v", retention.ErrCorrupt, name, err)
	}
	if m.Format < 1 || m.Format > manifestFormat {
		return nil, fmt.Errorf("checkpoint %s has format %d, this program reads up to %d; use the newer program", name, m.Format, manifestFormat)
	}
	return m, nil
}

// manifestName is the name of a manifest's own file, the last it numbered.
func (f *files) manifestName(m *manifest) string { return f.name(m.NextFile-1, "checkpoint") }

func headKey(g taxonomy.Group) retention.Key {
	return retention.Key{Partition: "group", Item: fmt.Sprint(g)}
}

// commit writes the manifest and swaps the head to it.
func (f *files) commit(ctx context.Context, keyed retention.Keyed, m *manifest, version uint64) (uint64, string, error) {
	if err := f.aside.settle(); err != nil {
		return 0, "", err
	}
	n := f.next
	f.next++
	m.NextFile = f.next
	b, err := json.Marshal(m)
	if err != nil {
		return 0, "", err
	}
	name := f.name(n, "checkpoint")
	if _, err := f.blobs.Put(ctx, name, 0, bytes.NewReader(b)); err != nil {
		return 0, "", fmt.Errorf("write %s: %w", name, err)
	}
	v, err := f.swapHead(ctx, keyed, m, name, version)
	return v, name, err
}

// swapHead makes a manifest the committed one.
func (f *files) swapHead(ctx context.Context, keyed retention.Keyed, m *manifest, name string, version uint64) (uint64, error) {
	v, err := f.putHead(ctx, keyed, m.Group, head{Manifest: name, Number: m.Number, Epoch: m.Epoch, Term: m.Term}, version)
	if err != nil {
		return 0, fmt.Errorf("commit checkpoint %d: %w", m.Number, err)
	}
	return v, nil
}

func (f *files) putHead(ctx context.Context, keyed retention.Keyed, g taxonomy.Group, h head, version uint64) (uint64, error) {
	b, err := json.Marshal(h)
	if err != nil {
		return 0, err
	}
	item := retention.Item{Key: headKey(g), Value: b, Version: version}
	v, err := keyed.Swap(ctx, headSpace, item)
	if errors.Is(err, retention.ErrUnknown) {
		// It may have happened: the head itself knows.
		if now, gerr := keyed.Get(ctx, headSpace, item.Key); gerr == nil && bytes.Equal(now.Value, b) {
			return now.Version, nil
		}
	}
	return v, err
}

// names returns the names of the files that a manifest needs.
func (f *files) names(m *manifest) map[string]bool {
	keep := map[string]bool{}
	add := func(kind string, refs []fileRef) {
		for _, r := range refs {
			keep[f.name(r.File, kind)] = true
		}
	}
	add("visitors", m.Visitors)
	add("state", m.State)
	for _, d := range m.Days {
		add("day", d.Layers)
	}
	for _, s := range m.Seen {
		add("seen", s.Files)
	}
	rules := slices.Clone(m.Masks)
	if m.Rules != nil {
		rules = append(rules, *m.Rules)
	}
	if m.Refold != nil {
		rules = append(rules, m.Refold.Rules)
		for _, d := range m.Refold.Days {
			add("day", d.Layers)
		}
	}
	for _, r := range rules {
		add("rules", []fileRef{r.File})
	}
	return keep
}

// claim makes the head one of our term, so that the swap of whoever held an
// earlier term, and does not know yet that it is over, meets another version. It
// returns the head's version. A head of a later term is retention.ErrHeld.
func (f *files) claim(ctx context.Context, keyed retention.Keyed, g taxonomy.Group, term, version uint64) (uint64, error) {
	if term == 0 {
		return version, nil // without leases there is nobody to keep off
	}
	var h head
	item, err := keyed.Get(ctx, headSpace, headKey(g))
	switch {
	case errors.Is(err, retention.ErrNotFound):
	case err != nil:
		return 0, err
	default:
		if err := json.Unmarshal(item.Value, &h); err != nil {
			return 0, fmt.Errorf("%w: the checkpoint's head: %v", retention.ErrCorrupt, err)
		}
	}
	switch {
	case item.Version != version:
		return 0, fmt.Errorf("%w: another swapped the head meanwhile", retention.ErrConflict)
	case h.Term > term:
		return 0, fmt.Errorf("%w: it is of term %d", retention.ErrHeld, h.Term)
	case h.Term == term:
		return version, nil
	}
	h.Term = term
	return f.putHead(ctx, keyed, g, h, version)
}

// sweepAll is sweep when nobody else writes: what was never committed goes too,
// and its numbers are not given again, since one who is frozen while deleting
// may have their names in hand.
func (f *files) sweepAll(ctx context.Context, keep map[string]bool) error {
	blobs, err := f.blobs.List(ctx, f.folder)
	if err != nil && !errors.Is(err, retention.ErrCorrupt) {
		return fmt.Errorf("list %s: %w", f.folder, err)
	}
	for _, b := range blobs {
		f.next = max(f.next, f.number(b.Name)+1)
	}
	return f.sweep(ctx, keep)
}

// number is that of a file's name, or 0.
func (f *files) number(name string) (n uint64) {
	_, _ = fmt.Sscanf(strings.TrimPrefix(name, f.folder+"/"), "%d.", &n)
	return n
}

// sweep deletes the group's files that are not to be kept: what an older
// checkpoint needed, and what one that was never committed wrote. Files of
// numbers that we have not come to are another's: a builder that was frozen
// between its commit and its sweep must not take those of its successor.
func (f *files) sweep(ctx context.Context, keep map[string]bool) error {
	blobs, err := f.blobs.List(ctx, f.folder)
	if err != nil && !errors.Is(err, retention.ErrCorrupt) {
		// A damaged file is not in the list; whoever needs it says so.
		return fmt.Errorf("list %s: %w", f.folder, err)
	}
	var old []string
	for _, b := range blobs {
		if !keep[b.Name] && f.number(b.Name) < f.next {
			old = append(old, b.Name)
		}
	}
	slices.Sort(old)
	if err := f.blobs.Delete(ctx, old); err != nil {
		return fmt.Errorf("delete files of older checkpoints: %w", err)
	}
	return nil
}
