package app

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"github.com/RoaringBitmap/roaring/v2"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/segments/fold"
	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/tagserver/api"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// matchBatch is how many lines of an ID-sync file are held at once: some 100 bytes
// each. A pseudonym tells nobody whose it is, so for each batch all visitors are
// gone through, which takes about a second a million.
const matchBatch = 500_000

// matchFiles is api.Matches.
type matchFiles struct{ s *Server }

// Import takes an ID-sync file in. What it says is believed of visitors whom this
// installation knows and whose consent reaches the destination, within the caps
// that syncs have; it changes nobody's consent. A file that is given again, in whole
// or after a crash, changes nothing twice.
func (m matchFiles) Import(ctx context.Context, q api.MatchRequest) (rec api.MatchReceipt, err error) {
	a := m.s.App
	a.importing.Lock()
	defer a.importing.Unlock()
	fail := func(err error) (api.MatchReceipt, error) {
		return rec, fmt.Errorf("import matches of %q: %w", q.Destination, err)
	}
	d, ok := a.catalog.Load().destinations[q.Destination]
	if !ok {
		return fail(retention.ErrNotFound)
	}
	if err := delivery.CheckMatchName(&d, q.Name); err != nil {
		return fail(&taxonomy.FieldError{Field: "name", Err: err})
	}
	h := sha256.New()
	if _, err := io.Copy(h, q.File); err != nil {
		return fail(fmt.Errorf("read the file: %w", err))
	}
	if _, err := q.File.Seek(0, io.SeekStart); err != nil {
		return fail(fmt.Errorf("read the file again: %w", err))
	}
	fmt.Fprintf(h, "\x00matches of %s", d.ID)
	var file [16]byte
	copy(file[:], h.Sum(nil))
	rec.Import, rec.Destination = hex.EncodeToString(file[:]), d.ID

	// What the log holds of a run that broke off is a duplicate of this one.
	if err := a.covered(ctx); err != nil {
		return fail(err)
	}
	b := matchImport{m: m, dest: &d, file: file, rec: &rec, view: a.fold.View(), now: a.env.millis(), bad: q.Bad,
		rows: map[[32]byte][]delivery.MatchRow{}, out: importer{a: a, batches: map[taxonomy.Group][]taxonomy.Record{}}}
	err = delivery.ReadMatches(q.File, tagserver.CheckPartnerID, func(r delivery.MatchRow) error {
		rec.Rows++
		var id [32]byte
		copy(id[:], r.EbbID)
		b.rows[id] = append(b.rows[id], r)
		if b.n++; b.n < matchBatch {
			return nil
		}
		return b.find(ctx)
	}, func(f delivery.MatchFault) {
		rec.Rows++
		rec.Malformed++
		b.fault(f)
	})
	if err = errors.Join(err, b.find(ctx), b.out.flush(ctx)); err != nil {
		return fail(err)
	}
	return rec, a.Fold(ctx)
}

// matchImport finds whose the IDs of a batch are.
type matchImport struct {
	m    matchFiles
	dest *delivery.Destination
	file [16]byte
	rec  *api.MatchReceipt
	view *fold.View
	now  taxonomy.Millis
	bad  func(delivery.MatchFault)
	rows map[[32]byte][]delivery.MatchRow
	n    int
	out  importer
}

func (b *matchImport) fault(f delivery.MatchFault) {
	if b.bad != nil {
		b.bad(f)
	}
}

// find goes through all visitors, and records the matches of those whom the batch
// names.
func (b *matchImport) find(ctx context.Context) error {
	if b.n == 0 {
		return nil
	}
	ids := b.m.s.keys.Load().Pseudonyms(b.dest.ID, b.dest.PseudonymEpoch)
	var id [32]byte
	for s := range b.view.Shards() {
		if err := ctx.Err(); err != nil {
			return err
		}
		may, err := delivery.Reachable(b.view, &delivery.Destination{ID: b.dest.ID}, s)
		if err != nil {
			return err
		}
		for o := range uint32(b.view.Blocks(s) * index.BlockSize) {
			k, ok := b.view.Key(s, o)
			if !ok {
				continue
			}
			ids.Append(id[:0], k)
			rows := b.rows[id]
			if len(rows) == 0 {
				continue
			}
			delete(b.rows, id)
			for _, r := range rows {
				if err := b.take(ctx, s, o, k, may, r); err != nil {
					return err
				}
			}
		}
	}
	for _, rows := range b.rows {
		b.rec.Unmatched += uint64(len(rows))
	}
	clear(b.rows)
	b.n = 0
	return nil
}

// take records a match, or counts why not.
func (b *matchImport) take(ctx context.Context, shard int, o uint32, k taxonomy.VisitorKey, may *roaring.Bitmap, r delivery.MatchRow) error {
	s := b.m.s
	row := taxonomy.ImportRow{File: b.file, Row: r.Line}
	if s.fold.of(k, s.install.Shards).fold.Load().Imported(row) {
		b.rec.Duplicate++
		return nil
	}
	if !may.Contains(o) {
		b.rec.Consent++
		return nil
	}
	if id, day, ok := b.view.MatchID(b.dest.ID, shard, o); ok && id == r.ID && day == b.now.Day() {
		b.rec.Unchanged++
		return nil
	}
	dest, _ := s.catalog.Load().Destination(b.dest.ID)
	if verdict := s.edge.TakeMatch(&dest, k, r.ID); verdict.Refused() {
		b.rec.Capped++
		b.fault(delivery.MatchFault{Line: r.Line, Why: "a cap is met: sync." + string(verdict) + "; it begins anew at midnight UTC"})
		return nil
	}
	b.rec.Stored++
	return b.out.add(ctx, taxonomy.Record{Kind: taxonomy.RecordMatch, Received: b.now, Visitor: k, Import: row,
		Match: &taxonomy.Match{Destination: b.dest.ID, ID: r.ID}})
}

// Export writes the ID-sync file of a destination.
func (m matchFiles) Export(ctx context.Context, id taxonomy.DestinationID, begin func(name string) io.Writer) error {
	a := m.s.App
	d, ok := a.catalog.Load().destinations[id]
	if !ok {
		return fmt.Errorf("matches of %q: %w", id, retention.ErrNotFound)
	}
	if err := a.covered(ctx); err != nil {
		return err
	}
	_, err := a.deliverer.WriteMatches(ctx, d, a.fold.View(), begin(delivery.MatchName(&d, a.env.millis())))
	return err
}
