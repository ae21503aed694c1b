package app

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/tagserver/api"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/consent"
	"github.com/ebb-dmp/ebb/taxonomy/keys"
	"github.com/ebb-dmp/ebb/taxonomy/onboard"
)

// An import is asked for and answered in the API's terms.
type (
	ImportRequest = api.ImportRequest
	ImportReceipt = api.ImportReceipt
)

// importBatch is how many records one frame of an import has.
const importBatch = 500

// Import takes a file in. Every row becomes a record of its own, named by file
// and row, so that a file that is given again, in whole or after a crash, counts
// nothing twice. It returns when all is folded.
func (a *App) Import(ctx context.Context, q ImportRequest) (ImportReceipt, error) {
	a.importing.Lock()
	defer a.importing.Unlock()
	rec := ImportReceipt{Source: q.Source}
	fail := func(err error) (ImportReceipt, error) { return rec, fmt.Errorf("import into %q: %w", q.Source, err) }

	summary, err := a.asserted(q.Source)
	if err != nil {
		return fail(err)
	}
	if err := q.Mapping.Validate(); err != nil {
		return fail(fmt.Errorf("mapping: %w", err))
	}
	ring, err := a.withSpace(q.Mapping.Space)
	if err != nil {
		return fail(err)
	}
	file, err := a.nameImport(q)
	if err != nil {
		return fail(err)
	}
	rec.Import = hex.EncodeToString(file[:])

	// What the log holds from before, of a process that died or a command that
	// ended, is not of this import's receipt.
	if err := a.Fold(ctx); err != nil {
		return fail(err)
	}
	now := a.env.millis()
	site := taxonomy.ImportSite(q.Source)
	before := a.fold.Tallies()[site]
	visitors := map[taxonomy.VisitorKey]struct{}{}
	out := importer{a: a, batches: map[taxonomy.Group][]taxonomy.Record{}}
	base := taxonomy.Record{Received: now, Site: site, Source: q.Source, Space: q.Mapping.Space, Returning: true, Consent: summary}

	rec.Report, err = onboard.Parse(q.File, &q.Mapping, onboard.Input{Now: now, Lookups: q.Lookups, Refuse: tagserver.RefusesValue}, func(f *onboard.Fact) error {
		r := base
		var err error
		if r.Visitor, err = ring.VisitorKey(q.Mapping.Space, []byte(f.Visitor), 0); err != nil {
			return err
		}
		id := f.ID
		if id == "" {
			id = fmt.Sprintf("%s %d", rec.Import, f.Number)
		}
		hashed, err := ring.EventID(q.Mapping.Space, 0, site, id)
		if err != nil {
			return err
		}
		r.Import = taxonomy.ImportRow{File: file, Row: f.Number}
		switch {
		case f.Event != nil:
			r.Kind, r.Event = taxonomy.RecordEvent, f.Event
			r.Event.ID = hashed
		case f.Statement.Trait[0] == 'l':
			r.Kind, r.Statement = taxonomy.RecordMembership, f.Statement
			r.Statement.ID = hashed
		default:
			r.Kind, r.Statement = taxonomy.RecordAttribute, f.Statement
			r.Statement.ID = hashed
		}
		visitors[r.Visitor] = struct{}{}
		return out.add(ctx, r)
	}, func(f onboard.Fault) {
		if q.Bad != nil {
			q.Bad(f)
		}
		// A refused row has a number of its own too, apart from those of records.
		out.later(ctx, taxonomy.Record{Kind: taxonomy.RecordCounts, Received: now, Import: taxonomy.ImportRow{File: file, Row: f.Row | 1<<31},
			Counts: []taxonomy.Count{{Site: site, Outcome: taxonomy.Rejected, Reason: f.Reason, N: 1}}})
	})
	rec.Visitors = len(visitors)
	if err = errors.Join(err, out.flush(ctx)); err != nil {
		return fail(err)
	}
	if err := a.Fold(ctx); err != nil {
		return fail(err)
	}
	after := a.fold.Tallies()[site]
	rec.Stored, rec.Duplicate = after.Stored-before.Stored, after.Duplicate-before.Duplicate
	for why, n := range after.Dropped {
		rec.Dropped += n - before.Dropped[why]
	}
	return rec, nil
}

// asserted is the consent summary that a source's agreement gives (R13).
func (a *App) asserted(id taxonomy.SourceID) (taxonomy.Consent, error) {
	src, ok := a.catalog.Load().Source(id)
	day := a.env.millis().Day()
	switch {
	case !ok:
		return taxonomy.Consent{}, fmt.Errorf("there is no such source: %w; define it first", retention.ErrNotFound)
	case src.Withdrawn:
		return taxonomy.Consent{}, errors.New("the source is withdrawn")
	case src.Agreement == nil:
		return taxonomy.Consent{}, errors.New("the source has no agreement that asserts its visitors' consent; add \"agreement\" with its uses to the source")
	case src.Agreement.Ends != nil && day >= *src.Agreement.Ends:
		return taxonomy.Consent{}, fmt.Errorf("the source's agreement ended on %s", *src.Agreement.Ends)
	}
	d := consent.Decide(consent.Signals{Asserted: src.Agreement, Day: day})
	if !d.Profile() {
		return taxonomy.Consent{}, fmt.Errorf("the source's agreement allows only %q; importing needs the uses store and profile", d.Consent.Purposes)
	}
	return d.Consent, nil
}

// withSpace returns keys that have a store key for the space, making and keeping
// one if there is none (R30).
func (a *App) withSpace(space taxonomy.Space) (*keys.Ring, error) {
	if space == taxonomy.SpaceCookie {
		return nil, errors.New("space cookie is for browsers; a file's IDs are of a space such as own:crm")
	}
	ring := a.keys.Load()
	for _, s := range ring.Spaces() {
		if s == space {
			return ring, nil
		}
	}
	if a.saveKeys == nil {
		return nil, fmt.Errorf("there is no store key for space %q; run `ebb keys extend --space %s`", space, space)
	}
	ring, err := a.saveKeys(func(r *keys.Ring) (*keys.Ring, error) { return r.WithSpace(a.env.Rand, space) })
	if err != nil {
		return nil, fmt.Errorf("make a store key for space %q: %w", space, err)
	}
	a.keys.Store(ring)
	return ring, nil
}

// nameImport is SHA-256 of the file's bytes and the source, cut to 16 bytes.
func (a *App) nameImport(q ImportRequest) (name [16]byte, err error) {
	h := sha256.New()
	if _, err := io.Copy(h, q.File); err != nil {
		return name, fmt.Errorf("read the file: %w", err)
	}
	if _, err := q.File.Seek(0, io.SeekStart); err != nil {
		return name, fmt.Errorf("read the file again: %w", err)
	}
	fmt.Fprintf(h, "\x00%s", q.Source)
	if q.Again {
		var nonce [16]byte
		if _, err := io.ReadFull(a.env.Rand, nonce[:]); err != nil {
			return name, fmt.Errorf("name the import: %w", err)
		}
		h.Write(nonce[:])
	}
	copy(name[:], h.Sum(nil))
	return name, nil
}

// importer appends records in batches, each of one group.
type importer struct {
	a       *App
	batches map[taxonomy.Group][]taxonomy.Record
	err     error // of later
}

func (im *importer) add(ctx context.Context, r taxonomy.Record) error {
	if im.err != nil {
		return im.err
	}
	g := taxonomy.GroupOf(r.Visitor.Shard(im.a.install.Shards), im.a.install.Groups)
	im.batches[g] = append(im.batches[g], r)
	if len(im.batches[g]) < importBatch {
		return nil
	}
	return im.send(ctx, g)
}

// later is add for a caller that cannot fail; flush returns its error.
func (im *importer) later(ctx context.Context, r taxonomy.Record) { im.err = im.add(ctx, r) }

func (im *importer) flush(ctx context.Context) error {
	if im.err != nil {
		return im.err
	}
	for g := range im.batches {
		if err := im.send(ctx, g); err != nil {
			return err
		}
	}
	return nil
}

// send appends a batch. A log that is full is folded and tried again: an import
// is in no hurry and may be larger than the log.
func (im *importer) send(ctx context.Context, g taxonomy.Group) error {
	batch := im.batches[g]
	if len(batch) == 0 {
		return nil
	}
	_, _, err := im.a.wal.Append(ctx, g, batch, retention.AckLocal)
	if errors.Is(err, retention.ErrFull) {
		if err := im.a.Fold(ctx); err != nil {
			return err
		}
		if _, err := im.a.fold.Checkpoint(ctx); err != nil {
			return err
		}
		_, _, err = im.a.wal.Append(ctx, g, batch, retention.AckLocal)
	}
	if err != nil {
		return fmt.Errorf("append rows: %w", err)
	}
	im.batches[g] = batch[:0]
	return nil
}
