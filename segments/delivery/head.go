package delivery

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/RoaringBitmap/roaring/v2"
	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// Space is where the heads are kept: one item a destination, swapped, so that
// everything that a delivery changes changes at once.
var Space = retention.KeyedSpace{Name: "delivery", Swapped: true}

const (
	headItem = "head"
	// fileLife is how long a file may be served (P5, R26).
	fileLife = 14 * taxonomy.OneDay
	// keptRuns is how many deliveries of a destination the head remembers.
	keptRuns = 50
	// maxChain is how many files may stand in a manifest before a full replaces
	// them: a partner that is new has to fetch them all, and the head, which
	// names them, must stay below 1 MiB.
	maxChain = 300
)

// head is the state of a destination: what its partner sees, and the name of
// the ledger that belongs to it. All else is files, written before it.
type head struct {
	// Seq grows by one with every head. A file is named with the head that was
	// to name it, so files that no head names can be told from those that one
	// may still name.
	Seq        uint64 `json:"seq"`
	Epoch      uint64 `json:"epoch"`
	Generation uint64 `json:"generation"` // the newest delivered
	// Term is the highest under which anybody has claimed this destination; 0 in an
	// installation without leases, and in heads of versions that knew no terms.
	Term uint64 `json:"term,omitempty"`
	// Touched counts the erasures that met this head before anything was delivered.
	Touched uint64          `json:"touched,omitempty"`
	AsOf    taxonomy.Millis `json:"as_of"`
	// Clock is the latest time at which a delivery was made: the planner's day
	// never goes back, whatever the machine's clock does.
	Clock          taxonomy.Millis `json:"clock"`
	IDs            IDs             `json:"ids"`
	PseudonymEpoch uint32          `json:"pseudonym_epoch"`
	Format         string          `json:"format"`
	Shards         int             `json:"shards"`
	Audiences      []AudienceInfo  `json:"audiences"`
	Ledger         string          `json:"ledger"` // blob
	// LedgerOver is when everything in the ledger has ended for the partner,
	// and its blob may be gone.
	LedgerOver taxonomy.Millis `json:"ledger_over"`
	Files      []File          `json:"files"` // one full and the deltas since, or the last of them
	Runs       []Delivery      `json:"runs"`  // the newest last

	// FullHeld is how many memberships the last full had; Hold is a change that
	// waits, Approved when one was approved last.
	FullHeld uint64          `json:"full_held,omitempty"`
	Hold     *Hold           `json:"hold,omitempty"`
	Approved taxonomy.Millis `json:"approved,omitempty"`

	// What follows is of destinations that are pushed to.

	Transport string `json:"transport,omitempty"`
	// FullAt is when the last full was begun.
	FullAt  taxonomy.Millis `json:"full_at,omitempty"`
	Pending *pending        `json:"pending,omitempty"`
	// Owes: something of the last delivery was not acknowledged, so the same
	// generation is looked at again.
	Owes  bool  `json:"owes,omitempty"`
	Retry retry `json:"retry"`
	// Prompt: what is in the outbox goes out by itself, before and beside any plan
	// of the schedule's.
	Prompt  bool     `json:"prompt,omitempty"`
	Letters []Letter `json:"letters,omitempty"` // the newest last
	// Jobs are those of the receiver whose outcome is not known yet.
	Jobs []job `json:"jobs,omitempty"`
	// Sent is what was sent and is kept to be shown, the newest last.
	Sent []sent `json:"sent,omitempty"`

	version uint64
}

// File is a segment file.
type File struct {
	Name string `json:"name"`
	Kind Kind   `json:"kind"`
	// Base is the generation that a delta changes, 0 for a full.
	Base       uint64          `json:"base"`
	Generation uint64          `json:"generation"`
	Rows       uint64          `json:"rows"`
	Bytes      int64           `json:"bytes"`
	SHA256     string          `json:"sha256"`
	Created    taxonomy.Millis `json:"created"` // on a whole minute
	Expires    taxonomy.Millis `json:"expires"`
	MediaType  string          `json:"media_type"`
	// Oldest is the day of the oldest behaviour that a row tells of, by its life.
	Oldest taxonomy.Day `json:"oldest"`
	// Members is the blob that says which ordinals have a row.
	Members string `json:"members"`
}

// AudienceInfo is what a partner is told about an audience.
type AudienceInfo struct {
	ID     taxonomy.AudienceID `json:"id"`
	Slug   string              `json:"slug"`
	Title  string              `json:"title"`
	Segtax int                 `json:"segtax"` // IAB's number of the taxonomy, 0 for none
}

func (d *Deliverer) readHead(ctx context.Context, dest taxonomy.DestinationID) (*head, error) {
	it, err := d.o.Keyed.Get(ctx, Space, retention.Key{Partition: string(dest), Item: headItem})
	if errors.Is(err, retention.ErrNotFound) {
		return &head{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read head: %w", err)
	}
	return decodeHead(it)
}

func decodeHead(it retention.Item) (*head, error) {
	body, err := unseal(headMagic, it.Value)
	if err != nil {
		return nil, fmt.Errorf("read head: %w", err)
	}
	h := new(head)
	if err := json.Unmarshal(body, h); err != nil {
		return nil, fmt.Errorf("read head: %v: %w", err, retention.ErrCorrupt)
	}
	h.version = it.Version
	return h, nil
}

// swapHead makes h the head in the place of the one that it was read from. An
// unknown outcome is resolved by looking.
func (d *Deliverer) swapHead(ctx context.Context, dest taxonomy.DestinationID, h *head) error {
	body, err := json.Marshal(h)
	if err != nil {
		return fmt.Errorf("write head: %w", err)
	}
	value := seal(headMagic, body)
	key := retention.Key{Partition: string(dest), Item: headItem}
	v, err := d.o.Keyed.Swap(ctx, Space, retention.Item{Key: key, Value: value, Version: h.version})
	if errors.Is(err, retention.ErrUnknown) {
		it, getErr := d.o.Keyed.Get(ctx, Space, key)
		if getErr == nil && bytes.Equal(it.Value, value) {
			v, err = it.Version, nil
		}
	}
	if err != nil {
		return fmt.Errorf("write head: %w", err)
	}
	h.version = v
	return nil
}

// folder is where the files of a destination lie.
func folder(dest taxonomy.DestinationID) string { return "delivery/" + string(dest) }

// name makes a file's name: epoch, generation, head and kind, and a random part
// by which two nodes that work on the same head never write the same name.
func (d *Deliverer) name(h *head, epoch, generation uint64, kind string) (string, error) {
	var r [4]byte
	if _, err := io.ReadFull(d.o.Rand, r[:]); err != nil {
		return "", fmt.Errorf("name a file: %w", err)
	}
	return fmt.Sprintf("e%d-g%d-h%d-%s-%s", epoch, generation, h.Seq, hex.EncodeToString(r[:]), kind), nil
}

// parseName returns the head that a file was written for.
func parseName(name string) (seq uint64, ok bool) {
	parts := strings.SplitN(name, "-", 5)
	if len(parts) != 5 || len(parts[3]) != 8 || parts[4] == "" {
		return 0, false
	}
	for i, letter := range []string{"e", "g", "h"} {
		digits, found := strings.CutPrefix(parts[i], letter)
		n, err := strconv.ParseUint(digits, 10, 64)
		if !found || err != nil {
			return 0, false
		}
		seq = n
	}
	return seq, true
}

// clean deletes the files that neither h nor any head after it names: what a
// crash left, and what h no longer needs. Files of heads to come are another
// node's work.
func (d *Deliverer) clean(ctx context.Context, dest taxonomy.DestinationID, h *head) error {
	blobs, err := d.o.Blobs.List(ctx, folder(dest))
	if err != nil {
		return fmt.Errorf("list files: %w", err)
	}
	keep := map[string]bool{h.Ledger: true}
	for _, f := range h.Files {
		keep[f.Name], keep[f.Members] = true, true
	}
	if p := h.Pending; p != nil {
		keep[p.File], keep[p.Index], keep[p.Members] = true, true, true
	}
	for _, s := range h.Sent {
		keep[s.File], keep[s.Index], keep[s.Members] = true, true, true
	}
	var old []string
	for _, b := range blobs {
		n := strings.TrimPrefix(b.Name, folder(dest)+"/")
		if seq, ok := parseName(n); ok && seq <= h.Seq && !keep[n] {
			old = append(old, b.Name)
		}
	}
	if len(old) == 0 {
		return nil
	}
	if err := d.o.Blobs.Delete(ctx, old); err != nil {
		return fmt.Errorf("delete old files: %w", err)
	}
	return nil
}

// readBlob returns the whole content of one of our small files.
func (d *Deliverer) readBlob(ctx context.Context, dest taxonomy.DestinationID, name string) ([]byte, error) {
	r, err := d.o.Blobs.Open(ctx, folder(dest)+"/"+name)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	defer r.Close()
	b := make([]byte, r.Blob().Bytes)
	if _, err := io.ReadFull(io.NewSectionReader(r, 0, int64(len(b))), b); err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return b, nil
}

// readLedger reads the ledger that h names. The caller closes it.
func (d *Deliverer) readLedger(ctx context.Context, dest taxonomy.DestinationID, h *head) (*Ledger, error) {
	if h.Ledger == "" {
		return NewLedger(), nil
	}
	file, err := d.o.Blobs.Open(ctx, folder(dest)+"/"+h.Ledger)
	if errors.Is(err, retention.ErrNotFound) && d.o.Now() >= h.LedgerOver {
		return NewLedger(), nil
	}
	if errors.Is(err, retention.ErrNotFound) {
		// Another node may have moved the head since it was read, and cleaned up.
		if now, herr := d.readHead(ctx, dest); herr == nil && now.version != h.version {
			err = retention.ErrConflict
		}
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", h.Ledger, err)
	}
	l, err := openLedger(file, file.Blob().Bytes)
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("read %s: %w", h.Ledger, err)
	}
	if l.IDs == nil {
		return l, file.Close()
	}
	l.file = file
	return l, nil
}

// putLedger writes the ledger that h will name.
func (d *Deliverer) putLedger(ctx context.Context, dest taxonomy.DestinationID, h *head, l *Ledger) error {
	name, err := d.name(h, h.Epoch, h.Generation, "ledger")
	if err != nil {
		return err
	}
	// No copy ends later than 90 days after the day of the newest event, which
	// may be tomorrow's. A blob with an end does not stay for ever either if no
	// head comes to name it and its destination is given up.
	h.LedgerOver = (max(d.o.Now(), h.Clock).Day() + 1 + taxonomy.RetentionDays).Start()
	// It is made in a goroutine that ends with this function.
	pr, pw := io.Pipe()
	written := make(chan error, 1)
	go func() {
		err := l.write(pw, h.Shards)
		pw.CloseWithError(err)
		written <- err
	}()
	enough := errors.New("the store took no more")
	_, err = d.o.Blobs.Put(ctx, folder(dest)+"/"+name, h.LedgerOver, pr)
	pr.CloseWithError(enough)
	if wErr := <-written; err == nil {
		err = wErr
	}
	if err != nil {
		return fmt.Errorf("write ledger: %w", err)
	}
	h.Ledger = name
	return nil
}

func (d *Deliverer) readMembers(ctx context.Context, dest taxonomy.DestinationID, f *File) ([]*roaring.Bitmap, error) {
	b, err := d.readBlob(ctx, dest, f.Members)
	if err != nil {
		return nil, err
	}
	who, err := unmarshalMembers(b)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", f.Members, err)
	}
	return who, nil
}

// withdraw takes a file out of h, and those before it: what comes after one
// that is missing could not be applied by whoever has not applied it.
func (h *head) withdraw(i int) { h.Files = append([]File(nil), h.Files[i+1:]...) }
