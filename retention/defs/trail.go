package defs

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
)

var (
	// trailSpace holds the entries of the audit log: partition the number of the
	// block, item the entry's number, both big-endian. Each is written once.
	trailSpace = retention.KeyedSpace{Name: "audit"}
	// trailHead holds the last entry. Whoever appends swaps it, so that however
	// many nodes write there is one chain.
	trailHead = retention.KeyedSpace{Name: "audit-head", Swapped: true}

	trailHeadKey = retention.Key{Partition: "audit", Item: "head"}
)

// trailBlock is how many entries a partition has: few enough to be read at once,
// and no partition grows for ever.
const trailBlock = 4096

// Entry is one entry of the audit log: who did what to which object. It holds
// nothing of a visitor. What does not apply is empty.
type Entry struct {
	Seq uint64          `json:"seq"` // 1, 2, 3, …
	At  taxonomy.Millis `json:"at"`
	// Who is the ID of the key that asked for it.
	Who string `json:"who"`
	// What was done: "make", "change", "delete", "deliver" and so on.
	What   string `json:"what"`
	Kind   string `json:"kind,omitempty"`
	Object string `json:"object,omitempty"`
	// Before and After are the versions of a definition, 0 where there was none.
	Before uint64 `json:"before,omitempty"`
	After  uint64 `json:"after,omitempty"`
	// Detail is a word or a hash: of a plan, say.
	Detail string `json:"detail,omitempty"`
	// Of is the entry whose outcome this one tells: that of a change is written
	// before the change, so that no change is without one, and one that then
	// failed has another.
	Of uint64 `json:"of,omitempty"`
	// Nonce tells two entries that are otherwise the same apart.
	Nonce string `json:"nonce"`
}

// Link is an entry in its chain.
type Link struct {
	Entry
	// Hash is over the entry and the hash before it, in hex.
	Hash string `json:"hash"`
}

// Trail is the audit log. Each entry's hash covers the hash before it, so that an
// entry that is altered, dropped or moved breaks the chain there. It is safe for
// concurrent use, and by several processes.
type Trail struct {
	keyed retention.Keyed
	now   func() taxonomy.Millis
	rand  io.Reader

	mu sync.Mutex // one append of this process at a time
}

// NewTrail returns the audit log in keyed.
func NewTrail(keyed retention.Keyed, rand io.Reader, now func() taxonomy.Millis) *Trail {
	return &Trail{keyed: keyed, now: now, rand: rand}
}

// A value under a key: version of the form, 1; the hash before, 32 bytes; the
// entry's own hash, 32 bytes; the entry, JSON.
const (
	trailVersion = 1
	trailPrefix  = 1 + 2*sha256.Size
)

type rawLink struct {
	seq        uint64
	prev, hash [sha256.Size]byte
	body       []byte
}

func hashLink(prev [sha256.Size]byte, body []byte) [sha256.Size]byte {
	h := sha256.New()
	h.Write([]byte("ebb audit 1\n"))
	h.Write(prev[:])
	h.Write(body)
	return [sha256.Size]byte(h.Sum(nil))
}

func (l *rawLink) encode() []byte {
	b := append([]byte{trailVersion}, l.prev[:]...)
	b = append(b, l.hash[:]...)
	return append(b, l.body...)
}

func decodeLink(b []byte) (l rawLink, e Entry, err error) {
	if len(b) < trailPrefix || b[0] != trailVersion {
		return l, e, fmt.Errorf("is no entry of this format: %w", retention.ErrCorrupt)
	}
	l.prev, l.hash, l.body = [sha256.Size]byte(b[1:]), [sha256.Size]byte(b[1+sha256.Size:]), b[trailPrefix:]
	if err := json.Unmarshal(l.body, &e); err != nil {
		return l, e, fmt.Errorf("cannot be read: %w", retention.ErrCorrupt)
	}
	l.seq = e.Seq
	return l, e, nil
}

func (l *rawLink) link(e Entry) Link { return Link{Entry: e, Hash: hex.EncodeToString(l.hash[:])} }

func trailPartition(seq uint64) string {
	return string(binary.BigEndian.AppendUint64(nil, seq/trailBlock))
}

func trailKey(seq uint64) retention.Key {
	return retention.Key{Partition: trailPartition(seq), Item: string(binary.BigEndian.AppendUint64(nil, seq))}
}

// head returns the last entry and the version under which it is kept.
func (t *Trail) head(ctx context.Context) (l rawLink, version uint64, err error) {
	it, err := t.keyed.Get(ctx, trailHead, trailHeadKey)
	if errors.Is(err, retention.ErrNotFound) {
		return l, it.Version, nil
	}
	if err == nil {
		if l, _, err = decodeLink(it.Value); err != nil {
			err = fmt.Errorf("the last entry %w", err)
		}
	}
	return l, it.Version, err
}

// settle writes the head where entries lie: a crash may have come between the
// swap and that.
func (t *Trail) settle(ctx context.Context, l *rawLink) error {
	if l.seq == 0 {
		return nil
	}
	return t.keyed.Put(ctx, trailSpace, []retention.Item{{Key: trailKey(l.seq), Value: l.encode()}})
}

// maxAppends bounds how often an append meets another node's.
const maxAppends = 100

// Append gives an entry its number, its time and its place in the chain, durably.
// If the outcome is unknown the entry may be there.
func (t *Trail) Append(ctx context.Context, e Entry) (Link, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var nonce [8]byte
	if _, err := io.ReadFull(t.rand, nonce[:]); err != nil {
		return Link{}, fmt.Errorf("append to the audit log: %w", err)
	}
	e.Nonce = hex.EncodeToString(nonce[:])
	for range maxAppends {
		last, version, err := t.head(ctx)
		if err != nil {
			return Link{}, fmt.Errorf("append to the audit log: %w", err)
		}
		// First the head that is there: after the swap nobody knows it any more.
		if err := t.settle(ctx, &last); err != nil {
			return Link{}, fmt.Errorf("append to the audit log: %w", err)
		}
		e.Seq, e.At = last.seq+1, t.now()
		next := rawLink{seq: e.Seq, prev: last.hash}
		if next.body, err = json.Marshal(e); err != nil {
			return Link{}, fmt.Errorf("append to the audit log: %w", err)
		}
		next.hash = hashLink(next.prev, next.body)
		_, err = t.keyed.Swap(ctx, trailHead, retention.Item{Key: trailHeadKey, Value: next.encode(), Version: version})
		if errors.Is(err, retention.ErrConflict) {
			continue
		}
		if err == nil {
			err = t.settle(ctx, &next)
		}
		if err != nil {
			return Link{}, fmt.Errorf("append to the audit log: %w", err)
		}
		return next.link(e), nil
	}
	return Link{}, fmt.Errorf("append to the audit log: other nodes were first %d times: %w", maxAppends, retention.ErrUnknown)
}

// Head returns the last entry, with number 0 if there is none.
func (t *Trail) Head(ctx context.Context) (Link, error) {
	l, _, err := t.head(ctx)
	if err != nil || l.seq == 0 {
		return Link{}, err
	}
	_, e, err := decodeLink(l.encode())
	return l.link(e), err
}

// Before returns up to limit entries numbered below seq, the newest first. With 0
// it begins at the end.
func (t *Trail) Before(ctx context.Context, seq uint64, limit int) (links []Link, err error) {
	last, _, err := t.head(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the audit log: %w", err)
	}
	if err := t.settle(ctx, &last); err != nil {
		return nil, fmt.Errorf("read the audit log: %w", err)
	}
	if seq == 0 || seq > last.seq {
		seq = last.seq + 1
	}
	for block := int64(seq-1) / trailBlock; block >= 0 && seq > 1 && len(links) < limit; block-- {
		var part []Link
		partition := trailPartition(uint64(block) * trailBlock)
		err := t.keyed.Scan(ctx, trailSpace, &partition, func(it retention.Item) error {
			l, e, err := decodeLink(it.Value)
			if err != nil {
				return fmt.Errorf("an entry %w; run `ebb audit verify`", err)
			}
			if e.Seq < seq {
				part = append(part, l.link(e))
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("read the audit log: %w", err)
		}
		for i := len(part) - 1; i >= 0 && len(links) < limit; i-- {
			links = append(links, part[i])
		}
	}
	return links, nil
}

// TrailFault is a place where the chain does not hold.
type TrailFault struct {
	Seq   uint64 `json:"seq"`
	Fault string `json:"fault"`
}

// TrailReport is what Verify found.
type TrailReport struct {
	Entries uint64 `json:"entries"` // that were read
	// Last and Hash are the end of the chain. Whoever notes them elsewhere can
	// tell later that not even the whole chain was made anew.
	Last   uint64       `json:"last"`
	Hash   string       `json:"hash"`
	Faults []TrailFault `json:"faults"`
}

// maxTrailFaults bounds what a report lists.
const maxTrailFaults = 100

// Verify walks the whole chain. noted are ends that were written down before, by
// number: the chain must still have them.
func (t *Trail) Verify(ctx context.Context, noted map[uint64]string) (r TrailReport, err error) {
	r.Faults = []TrailFault{}
	fault := func(seq uint64, format string, args ...any) {
		if len(r.Faults) < maxTrailFaults {
			r.Faults = append(r.Faults, TrailFault{seq, fmt.Sprintf(format, args...)})
		}
	}
	last, _, err := t.head(ctx)
	if errors.Is(err, retention.ErrCorrupt) {
		fault(0, "%s", err)
		return r, nil
	}
	if err != nil {
		return r, fmt.Errorf("verify the audit log: %w", err)
	}
	if err := t.settleMissing(ctx, &last); err != nil {
		return r, fmt.Errorf("verify the audit log: %w", err)
	}
	r.Last, r.Hash = last.seq, hex.EncodeToString(last.hash[:])
	if last.seq > 0 && hashLink(last.prev, last.body) != last.hash {
		fault(last.seq, "the head was altered: its bytes do not give its hash")
	}
	var before rawLink // the entry that was read last
	next := uint64(1)
	for block := uint64(0); block <= last.seq/trailBlock; block++ {
		partition := trailPartition(block * trailBlock)
		err := t.keyed.Scan(ctx, trailSpace, &partition, func(it retention.Item) error {
			if len(it.Key.Item) != 8 {
				fault(0, "something lies among the entries that is none")
				return nil
			}
			seq := binary.BigEndian.Uint64([]byte(it.Key.Item))
			r.Entries++
			for ; next < seq && len(r.Faults) < maxTrailFaults; next++ {
				fault(next, "is missing")
			}
			gap := before.seq+1 != seq
			next = seq + 1
			l, e, err := decodeLink(it.Value)
			switch {
			case err != nil:
				fault(seq, "%s", err)
			case e.Seq != seq:
				fault(seq, "was moved here: it is entry %d", e.Seq)
			case hashLink(l.prev, l.body) != l.hash:
				fault(seq, "was altered: its bytes do not give its hash")
			case !gap && l.prev != before.hash:
				fault(seq, "does not follow the entry before it")
			case seq > last.seq:
				fault(seq, "lies beyond the head, which is entry %d", last.seq)
			case seq == last.seq && (l.hash != last.hash || !bytes.Equal(l.body, last.body)):
				fault(seq, "is not the head, which has its number")
			}
			if want, ok := noted[seq]; ok && want != hex.EncodeToString(l.hash[:]) {
				fault(seq, "has not the hash that was noted")
			}
			delete(noted, seq)
			l.seq = seq
			before = l
			return nil
		})
		if err != nil {
			return r, fmt.Errorf("verify the audit log: %w", err)
		}
	}
	for ; next <= last.seq && len(r.Faults) < maxTrailFaults; next++ {
		fault(next, "is missing")
	}
	for seq := range noted {
		fault(seq, "was noted, and is not there any more")
	}
	return r, nil
}

// settleMissing writes the head where entries lie if nothing lies there: what
// does lie there is looked at, and not mended.
func (t *Trail) settleMissing(ctx context.Context, l *rawLink) error {
	if l.seq == 0 {
		return nil
	}
	_, err := t.keyed.Get(ctx, trailSpace, trailKey(l.seq))
	if errors.Is(err, retention.ErrNotFound) {
		return t.settle(ctx, l)
	}
	return err
}
