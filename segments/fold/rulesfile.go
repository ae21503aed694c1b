package fold

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"slices"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/rules"
)

// rulesRef is the file of a version of the rules.
type rulesRef struct {
	Version uint32  `json:"version"`
	File    fileRef `json:"file"`
}

// refoldRecord is a re-fold under way, as a manifest has it.
type refoldRecord struct {
	Version uint32             `json:"version"`
	Rules   rulesRef           `json:"rules"`
	At      retention.Position `json:"at"` // P
	Parts   int                `json:"parts"`
	Next    int                `json:"next"` // the parts before it are in Days
	Read    uint64             `json:"read"`
	Total   uint64             `json:"total"`
	Started taxonomy.Millis    `json:"started"`
	Days    []dayRef           `json:"days"` // the new columns
}

// rulesFile is what a file of rules says: magic "EBBRUL", version u16 = 1, this as
// JSON, CRC-32C of all before, both little endian.
type rulesFile struct {
	Version uint32 `json:"version"`
	Text    []byte `json:"text"`
	// Reach is what changed since the version that was in force before.
	Reach rules.Reach `json:"reach"`
}

const (
	rulesMagic   = "EBBRUL"
	rulesVersion = 1
)

func (x *rulesFile) bytes() ([]byte, error) {
	j, err := json.Marshal(x)
	if err != nil {
		return nil, err
	}
	b := binary.LittleEndian.AppendUint16([]byte(rulesMagic), rulesVersion)
	b = append(b, j...)
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli)), nil
}

func parseRulesFile(b []byte) (*rulesFile, error) {
	if len(b) < 12 || string(b[:6]) != rulesMagic {
		return nil, fmt.Errorf("%w: no file of rules", retention.ErrCorrupt)
	}
	if v := binary.LittleEndian.Uint16(b[6:]); v != rulesVersion {
		return nil, fmt.Errorf("file of rules has version %d, this program reads %d; use the newer program", v, rulesVersion)
	}
	body := b[:len(b)-4]
	if crc32.Checksum(body, castagnoli) != binary.LittleEndian.Uint32(b[len(body):]) {
		return nil, fmt.Errorf("%w: the checksum of a file of rules differs", retention.ErrCorrupt)
	}
	x := new(rulesFile)
	if err := json.Unmarshal(body[8:], x); err != nil {
		return nil, fmt.Errorf("%w: file of rules: %v", retention.ErrCorrupt, err)
	}
	return x, nil
}

// mask hides what a change of rules replaced: in layers that were written under
// rules before its version, the columns of its reach.
type mask struct {
	rulesRef
	reach rules.Reach
}

func (m *mask) hides(c taxonomy.Column) bool { return m.reach.Has(c.Trait) }

// masked returns a layer without the columns that were replaced since it was
// written.
func (st *stored) masked(l *index.Layer, ref fileRef) *index.Layer {
	for i := range st.masks {
		if ref.Rules < st.masks[i].Version {
			l = l.Without(st.masks[i].hides)
		}
	}
	return l
}

// replaced returns the days of the checkpoint that switches: the old columns hidden,
// the new ones beside them.
func (w *dayWriter) replaced(base index.Days, captured []dayCapture) (index.Days, []dayCapture) {
	r := w.c.refold
	now := mask{rulesRef{Version: r.of.version}, r.of.reach}
	w.hidden = map[*index.Layer]fileRef{}
	days := index.Days{}
	for d, layers := range base {
		for _, l := range layers {
			ref := w.f.stored.layers[l]
			h := l.Without(now.hides)
			if h == l && !slices.ContainsFunc(w.f.stored.masks, func(m mask) bool { return ref.Rules < m.Version }) {
				ref.Rules = r.of.version // nothing in its file was ever replaced
			}
			w.hidden[h] = ref
			if h.Columns() > 0 {
				days[d] = append(days[d], h)
			}
		}
	}
	for d, layers := range r.base[w.shard] {
		days[d] = append(days[d], layers...)
	}
	var all []dayCapture
	for _, dc := range captured {
		kept := map[column][]uint32{}
		for col, events := range dc.columns {
			if !now.hides(w.f.columnName(col)) {
				kept[col] = events
			}
		}
		all = append(all, dayCapture{dc.shard, dc.day, kept})
	}
	return days, append(all, of(r.captured, w.shard)...)
}

// writeRules writes the rules in force and those to come, unless they have files,
// and puts them into the manifest.
func (f *Fold) writeRules(ctx context.Context, c *capture, next *stored) error {
	next.rules = map[uint32]rulesRef{}
	if c.rules == nil {
		return nil
	}
	keep := func(x rulesFile) (ref rulesRef, err error) {
		ref, ok := f.stored.rules[x.Version]
		if !ok {
			b, err := x.bytes()
			if err != nil {
				return ref, err
			}
			file, err := f.files.write(ctx, "rules", 0, b)
			if err != nil {
				return ref, err
			}
			ref = rulesRef{x.Version, file}
		}
		next.rules[x.Version] = ref
		return ref, nil
	}
	if r := c.refold; r != nil {
		ref, err := keep(rulesFile{r.of.version, r.of.text, r.of.reach})
		if err != nil {
			return err
		}
		if r.switches {
			c.manifest.Rules = &ref
			return nil
		}
		c.manifest.Refold.Rules = ref
		c.manifest.Refold.Days = nil
	}
	x := rulesFile{Version: c.rules.Version()}
	if src, ok := c.rules.(Source); ok {
		x.Text = src.Text()
	}
	ref, err := keep(x)
	c.manifest.Rules = &ref
	return err
}

// keepMasks leaves out the masks that no layer needs any more.
func (f *Fold) keepMasks(c *capture, next *stored) {
	masks := slices.Clone(f.stored.masks)
	if r := c.refold; r != nil && r.switches && !r.of.reach.Empty() {
		masks = append(masks, mask{*c.manifest.Rules, r.of.reach})
	}
	oldest := ^uint32(0)
	for _, ref := range next.layers {
		oldest = min(oldest, ref.Rules)
	}
	next.masks, c.manifest.Masks = nil, nil
	for _, m := range masks {
		if oldest < m.Version {
			next.masks = append(next.masks, m)
			c.manifest.Masks = append(c.manifest.Masks, m.rulesRef)
		}
	}
}

// loadRules reads the rules in force and the masks; without a manifest that says
// which, those of Options.Rules are in force.
func (f *Fold) loadRules(ctx context.Context, m *manifest) error {
	if m != nil {
		for _, ref := range m.Masks {
			x, err := f.readRules(ctx, ref)
			if err != nil {
				return err
			}
			f.stored.masks = append(f.stored.masks, mask{ref, x.Reach})
		}
	}
	if f.opt.Compile == nil {
		if m != nil && m.Rules != nil {
			return fmt.Errorf("checkpoint %d holds the rules in force, and there is nothing to compile them with", m.Number)
		}
		return nil
	}
	now, ok := f.opt.Rules().(Source)
	if !ok {
		return fmt.Errorf("open the fold: the rules have no text to keep in checkpoints")
	}
	f.state.rules = now
	if m == nil || m.Rules == nil {
		return nil
	}
	f.stored.rules[m.Rules.Version] = *m.Rules
	_, c, err := f.compile(ctx, *m.Rules)
	f.state.rules = c
	return err
}

func (f *Fold) readRules(ctx context.Context, ref rulesRef) (*rulesFile, error) {
	b, err := f.files.read(ctx, "rules", ref.File)
	if err != nil {
		return nil, fmt.Errorf("read the rules of version %d: %w", ref.Version, err)
	}
	x, err := parseRulesFile(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.files.name(ref.File.File, "rules"), err)
	}
	return x, nil
}

// compiled is a classifier that was made of a text.
type compiled struct {
	Classifier
	text []byte
}

func (c compiled) Text() []byte { return c.text }

func (f *Fold) compile(ctx context.Context, ref rulesRef) (*rulesFile, Classifier, error) {
	x, err := f.readRules(ctx, ref)
	if err != nil {
		return nil, nil, err
	}
	c, err := f.opt.Compile(x.Version, x.Text)
	if err != nil {
		return nil, nil, fmt.Errorf("compile the rules of version %d: %w", ref.Version, err)
	}
	if _, ok := c.(Source); !ok {
		c = compiled{c, x.Text}
	}
	return x, c, nil
}

// loadRefold takes a re-fold up where the checkpoint has it. Who follows leaves it
// to the builder.
func (f *Fold) loadRefold(ctx context.Context, m *manifest) error {
	rec := m.Refold
	if rec == nil || f.following {
		return nil
	}
	x, to, err := f.compile(ctx, rec.Rules)
	if err != nil {
		return err
	}
	r := &refold{version: rec.Version, to: to, part: to, text: x.Text, reach: x.Reach,
		at: rec.At, parts: rec.Parts, total: rec.Total, started: rec.Started, next: rec.Next, read: rec.Read}
	if f.opt.Part != nil {
		if r.part, err = f.opt.Part(to, &r.reach); err != nil {
			return fmt.Errorf("take up the re-fold to version %d: %w", rec.Version, err)
		}
	}
	f.stored.rules[rec.Version] = rec.Rules
	f.state.refold = r
	for _, d := range rec.Days {
		if d.Shard >= len(f.state.shards) || f.state.shards[d.Shard] == nil {
			return fmt.Errorf("%w: a day of shard %d", retention.ErrCorrupt, d.Shard)
		}
		sh := f.state.shards[d.Shard]
		if sh.staged == nil {
			sh.staged = index.Days{}
		}
		if sh.staged[d.Day], err = f.loadLayers(ctx, d, m.Clock); err != nil {
			return err
		}
	}
	return nil
}
