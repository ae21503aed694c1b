package delivery

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"

	"github.com/RoaringBitmap/roaring/v2"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// ErrPushing: a delivery is under way, so that what its receiver holds is not known
// yet.
var ErrPushing = errors.New("a delivery is under way")

// Rest returns ErrPushing with the destination's name if a delivery is under way.
func (d *Deliverer) Rest(ctx context.Context) error {
	ids, err := d.destinations(ctx)
	if err != nil {
		return err
	}
	slices.Sort(ids)
	for _, dest := range ids {
		h, err := d.readHead(ctx, dest)
		if err != nil {
			return fmt.Errorf("look at deliveries to %s: %w", dest, err)
		}
		if p := h.Pending; p != nil {
			return fmt.Errorf("%w to destination %q: %d of %d chunks have an answer", ErrPushing, dest, p.Run.Acknowledged+p.Run.Refused, p.Run.Chunks)
		}
	}
	return nil
}

// Carry makes what is kept of each destination that of another installation, whose
// visitors are numbered anew: the ledger, the files with their names, and the
// history. So the next delivery says what changed since the last one there, and
// nothing else. What is kept here of destinations that the other does not know
// goes. Carrying again, after a crash too, gives the same; nobody else may write
// meanwhile.
func (d *Deliverer) Carry(ctx context.Context, from *Deliverer, n *index.Numbering) error {
	if err := from.Rest(ctx); err != nil {
		return fmt.Errorf("carry deliveries: %w", err)
	}
	ids, err := from.destinations(ctx)
	if err != nil {
		return fmt.Errorf("carry deliveries: %w", err)
	}
	slices.Sort(ids)
	for _, dest := range ids {
		if err := d.carry(ctx, from, dest, n); err != nil {
			return fmt.Errorf("carry deliveries to %s: %w", dest, err)
		}
	}
	own, err := d.destinations(ctx)
	if err != nil {
		return fmt.Errorf("carry deliveries: %w", err)
	}
	for _, dest := range own {
		if slices.Contains(ids, dest) {
			continue
		}
		err := d.empty(ctx, dest, nil)
		if err == nil {
			err = retention.Lower(ctx, d.o.Keyed, Space, retention.Key{Partition: string(dest), Item: headItem})
		}
		if err != nil {
			return fmt.Errorf("carry deliveries: remove %s: %w", dest, err)
		}
	}
	return nil
}

func (d *Deliverer) carry(ctx context.Context, from *Deliverer, dest taxonomy.DestinationID, n *index.Numbering) error {
	defer d.lock(dest)()
	h, err := from.readHead(ctx, dest)
	if err != nil {
		return err
	}
	here, err := d.readHead(ctx, dest)
	if err != nil {
		return err
	}
	l, err := from.readLedger(ctx, dest, h)
	if err != nil {
		return err
	}
	defer l.Close()
	// A file of an earlier attempt may have other members under the same name.
	keep := map[string]bool{}
	for _, f := range h.Files {
		keep[f.Name] = true
	}
	if err := d.empty(ctx, dest, keep); err != nil {
		return err
	}
	for i := range h.Files {
		f := &h.Files[i]
		if err := d.copyFile(ctx, from, dest, f.Name, f.Expires); err != nil {
			return err
		}
		members, err := from.readMembers(ctx, dest, f)
		if err != nil {
			return err
		}
		b, err := marshalMembers(renumberMembers(members, n))
		if err != nil {
			return err
		}
		if err := d.putBlob(ctx, dest, f.Members, f.Expires, bytes.NewReader(b)); err != nil {
			return err
		}
	}
	// Terms are of the leases there.
	h.Shards, h.Term, h.version = n.Shards(), here.Term, here.version
	h.Sent = nil // to be looked at, and of ordinals that mean others there
	if h.Ledger != "" {
		b, err := l.renumber(n).marshal(n.Shards())
		if err := errors.Join(l.IDs.err(), err); err != nil {
			return err
		}
		if err := d.putBlob(ctx, dest, h.Ledger, h.LedgerOver, bytes.NewReader(b)); err != nil {
			return err
		}
	}
	return d.swapHead(ctx, dest, h)
}

// empty removes the blobs of a destination, but for some.
func (d *Deliverer) empty(ctx context.Context, dest taxonomy.DestinationID, keep map[string]bool) error {
	blobs, err := d.o.Blobs.List(ctx, folder(dest))
	if err != nil {
		return fmt.Errorf("list files: %w", err)
	}
	var old []string
	for _, b := range blobs {
		if !keep[b.Name[len(folder(dest))+1:]] {
			old = append(old, b.Name)
		}
	}
	return d.o.Blobs.Delete(ctx, old)
}

// copyFile copies a file as it is: partners have its hash.
func (d *Deliverer) copyFile(ctx context.Context, from *Deliverer, dest taxonomy.DestinationID, name string, over taxonomy.Millis) error {
	r, err := from.o.Blobs.Open(ctx, folder(dest)+"/"+name)
	if err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	defer r.Close()
	return d.putBlob(ctx, dest, name, over, io.NewSectionReader(r, 0, r.Blob().Bytes))
}

func (d *Deliverer) putBlob(ctx context.Context, dest taxonomy.DestinationID, name string, over taxonomy.Millis, r io.Reader) error {
	if _, err := d.o.Blobs.Put(ctx, folder(dest)+"/"+name, over, r); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

// nobodyPlace is where an ordinal goes whose visitor has no place any more. Whoever
// looks for it finds no one, and what names it stays what it was: a removal, or a
// file that somebody stands in who may not be there.
var nobodyPlace = index.Place{Ordinal: math.MaxUint32}

func placeOf(n *index.Numbering, shard int, ordinal uint32) index.Place {
	if p, ok := n.Of(shard, ordinal); ok {
		return p
	}
	return nobodyPlace
}

func renumberMembers(members []*roaring.Bitmap, n *index.Numbering) []*roaring.Bitmap {
	out := index.NewSet(n.Shards())
	for s, m := range members {
		n.Bitmap(s, m, out)
		for it := m.Iterator(); it.HasNext(); {
			if p := placeOf(n, s, it.Next()); p == nobodyPlace {
				out[p.Shard].Add(p.Ordinal)
			}
		}
	}
	return out
}

// renumber returns the ledger as it is in another division. Copies of visitors who
// have no place any more have ended.
func (l *Ledger) renumber(n *index.Numbering) *Ledger {
	out := NewLedger()
	for _, x := range []struct{ from, to map[taxonomy.AudienceID]Held }{{l.Held, out.Held}, {l.Maybe, out.Maybe}} {
		for a, held := range x.from {
			to := NewHeld(n.Shards())
			for s, days := range held {
				for day, b := range days {
					parts := make([]*roaring.Bitmap, n.Shards())
					n.Bitmap(s, b, parts)
					for i, p := range parts {
						if p != nil {
							to.or(i, day, p)
						}
					}
				}
			}
			x.to[a] = to
		}
	}
	if l.IDs != nil {
		// All of them: a move is made once, with nothing else under way.
		ids := make([]map[uint32]string, n.Shards())
		for s := range ids {
			ids[s] = map[uint32]string{}
		}
		for s := range l.IDs.who {
			for w := l.IDs.walk(s); w.next(); {
				if p, ok := n.Of(s, w.ordinal); ok {
					ids[p.Shard][p.Ordinal] = string(w.id)
				}
			}
		}
		out.IDs = matchedOf(ids)
	}
	removals := func(rs []Removal) []Removal {
		rs = slices.Clone(rs)
		for i := range rs {
			p := placeOf(n, rs[i].Shard, rs[i].Ordinal)
			rs[i].Shard, rs[i].Ordinal = int(p.Shard), p.Ordinal
		}
		return rs
	}
	out.Outbox, out.Said = removals(l.Outbox), removals(l.Said)
	return out
}

// Kept is how much is kept of a destination, in numbers that do not depend on how
// visitors are numbered.
type Kept struct {
	Destination taxonomy.DestinationID `json:"destination"`
	Held        uint64                 `json:"held"`     // and what may be held
	Removals    uint64                 `json:"removals"` // to be said, and said
	Files       int                    `json:"files"`
	// Sum is over all of it, by visitor keys.
	Sum index.Sum `json:"-"`
}

// TakeStock returns what is kept of each destination, by name. key tells whose an
// ordinal is, also of those who are gone, and is zero of those who are forgotten.
func (d *Deliverer) TakeStock(ctx context.Context, key func(shard int, ordinal uint32) taxonomy.VisitorKey) ([]Kept, error) {
	ids, err := d.destinations(ctx)
	if err != nil {
		return nil, err
	}
	slices.Sort(ids)
	stock := []Kept{}
	for _, dest := range ids {
		k := Kept{Destination: dest}
		if err := d.stock(ctx, &k, key); err != nil {
			return nil, fmt.Errorf("count deliveries to %s: %w", dest, err)
		}
		stock = append(stock, k)
	}
	return stock, nil
}

func (d *Deliverer) stock(ctx context.Context, k *Kept, key func(int, uint32) taxonomy.VisitorKey) error {
	h, err := d.readHead(ctx, k.Destination)
	if err != nil {
		return err
	}
	l, err := d.readLedger(ctx, k.Destination, h)
	if err != nil {
		return err
	}
	defer l.Close()
	number := func(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }
	for what, rows := range []map[taxonomy.AudienceID]Held{l.Held, l.Maybe} {
		for a, held := range rows {
			for s, days := range held {
				for day, b := range days {
					for it := b.Iterator(); it.HasNext(); {
						if v := key(s, it.Next()); !v.IsZero() { // else its life is over
							k.Held++
							k.Sum.Add([]byte{'h', byte(what)}, []byte(a), number(uint64(day)), v[:])
						}
					}
				}
			}
		}
	}
	for s := range h.Shards {
		for w := l.IDs.walk(s); w.next(); {
			if v := key(s, w.ordinal); !v.IsZero() {
				k.Sum.Add([]byte{'i'}, w.id, v[:])
			}
		}
	}
	if err := l.IDs.err(); err != nil {
		return err
	}
	for what, rs := range [][]Removal{l.Outbox, l.Said} {
		for _, r := range rs {
			k.Removals++
			v := key(r.Shard, r.Ordinal)
			k.Sum.Add([]byte{'r', byte(what), flag(r.Forgotten), flag(r.Again)}, []byte(r.Audience), []byte(r.ID), number(uint64(r.Until)), v[:])
		}
	}
	for i := range h.Files {
		f := &h.Files[i]
		members, err := d.readMembers(ctx, k.Destination, f)
		if err != nil {
			return err
		}
		blob, err := d.o.Blobs.Open(ctx, folder(k.Destination)+"/"+f.Name)
		if err != nil {
			return err
		}
		sum := blob.Blob().SHA256
		if err := blob.Close(); err != nil {
			return err
		}
		k.Files++
		k.Sum.Add([]byte{'f'}, []byte(f.Name), sum[:], number(f.Generation))
		nameless := byte(0)
		for s, m := range members {
			for it := m.Iterator(); it.HasNext(); {
				if v := key(s, it.Next()); v.IsZero() {
					nameless = 1
				} else {
					k.Sum.Add([]byte{'m'}, []byte(f.Name), v[:])
				}
			}
		}
		k.Sum.Add([]byte{'n', nameless}, []byte(f.Name))
	}
	k.Sum.Add([]byte{'g'}, number(h.Seq), number(h.Epoch), number(h.Generation), number(uint64(h.FullAt)), number(h.FullHeld))
	return nil
}

func flag(b bool) byte {
	if b {
		return 1
	}
	return 0
}
