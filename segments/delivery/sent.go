package delivery

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"

	"github.com/RoaringBitmap/roaring/v2"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
)

const (
	// DefaultKeepSent is how long what was sent can be shown; MaxKeepSent is as long
	// as any file with visitors' rows may lie on disk.
	DefaultKeepSent = Period(7 * 24 * 3600e9)
	maxKeepSent     = Period(fileLife * 1e6)
	// forgottenLife is how long at most if it says removals of the forgotten: their IDs
	// are in it, and nobody could tell the eraser so later.
	forgottenLife = taxonomy.OneDay
	// mostSent is how many deliveries of a destination are kept: the head names them.
	mostSent = 30
)

// ErrNotKept is in errors that mean that what a delivery sent is not there any
// more.
var ErrNotKept = errors.New("not kept any more")

// sent is a delivery that was pushed and whose bytes are kept.
type sent struct {
	File    string          `json:"file"`
	Index   string          `json:"index"`
	Members string          `json:"members"`
	Media   string          `json:"media"`
	SHA256  string          `json:"sha256"`
	Oldest  taxonomy.Day    `json:"oldest"`
	Expires taxonomy.Millis `json:"expires"`
	// All chunks were acknowledged; else these bits tell.
	All     bool   `json:"all,omitempty"`
	Done    []byte `json:"done,omitempty"`
	Refused []byte `json:"refused,omitempty"`
	Tried   []byte `json:"tried,omitempty"`
}

// sent is what p comes to when it has ended; nil if nothing of it was sent.
func (p *pending) sent() *sent {
	if !slices.ContainsFunc(slices.Concat(p.Done, p.Refused, p.Tried), func(b byte) bool { return b != 0 }) {
		return nil
	}
	s := &sent{File: p.File, Index: p.Index, Members: p.Members, Media: p.Media, SHA256: p.Run.SHA256, Oldest: p.Oldest, Expires: p.Expires}
	if s.All = p.Run.Acknowledged == p.Run.Chunks; !s.All {
		s.Done, s.Refused, s.Tried = p.Done, p.Refused, p.Tried
	}
	return s
}

// keepSent keeps what was under way, if it was sent and may be kept.
func (h *head) keepSent(p *pending, now taxonomy.Millis) {
	h.expireSent(now)
	if s := p.sent(); s != nil && now < s.Expires {
		h.Sent = append(slices.Clone(h.Sent), *s)
		h.Sent = h.Sent[max(0, len(h.Sent)-mostSent):]
	}
}

// expireSent drops what has been kept long enough, and reports whether any was.
func (h *head) expireSent(now taxonomy.Millis) bool {
	kept := slices.DeleteFunc(slices.Clone(h.Sent), func(s sent) bool { return now >= s.Expires })
	gone := len(kept) < len(h.Sent)
	h.Sent = kept
	return gone
}

// withdrawSent drops what was sent of a visitor of whom holds is true (R25, R26). Each
// delivery is alone: unlike files that are pulled, none builds on another.
func (d *Deliverer) withdrawSent(ctx context.Context, dest taxonomy.DestinationID, h *head, holds func(shard int, members *roaring.Bitmap) bool) (bool, error) {
	var kept []sent
	for _, s := range h.Sent {
		members, err := d.readMembers(ctx, dest, &File{Members: s.Members})
		if err != nil && !errors.Is(err, retention.ErrNotFound) {
			return false, err
		}
		found := err != nil // its life is over
		for i, m := range members {
			found = found || holds(i, m)
		}
		if !found {
			kept = append(kept, s)
		}
	}
	gone := len(kept) < len(h.Sent)
	h.Sent = kept
	return gone, nil
}

// keep is until when what is sent may be kept.
func (d *Destination) keep(created taxonomy.Millis, removes []Removal) taxonomy.Millis {
	life := DefaultKeepSent
	if d.Push.KeepSent != 0 {
		life = d.Push.KeepSent
	}
	most := life.Millis()
	if slices.ContainsFunc(removes, func(r Removal) bool { return r.Forgotten }) {
		most = min(most, forgottenLife)
	}
	return created + most
}

// The outcomes of a chunk.
const (
	ChunkAcknowledged = "acknowledged"
	ChunkRefused      = "refused"
	ChunkUnanswered   = "unanswered" // sent, and no answer that says what came of it
	ChunkNotSent      = "not sent"   // unless Ebb was stopped while it was sent
	ChunkPublished    = "published"  // for the partner to pull
)

// SentChunk is one body that a partner was sent.
type SentChunk struct {
	Name    string
	Rows    uint64
	Bytes   int64
	SHA256  string
	Outcome string
	Control bool // it lists the others
	// From is where it begins in the content.
	From int64
}

// WasSent reports whether its bytes have left the house.
func (c *SentChunk) WasSent() bool { return c.Outcome != ChunkNotSent }

// Sent is what a delivery sent, byte for byte. Close it.
type Sent struct {
	File      string
	MediaType string
	SHA256    string // of all chunks behind each other
	Expires   taxonomy.Millis
	Chunks    []SentChunk
	// Content is the chunks, one behind the other.
	Content retention.BlobReader
}

// Close ends reading.
func (s *Sent) Close() error { return s.Content.Close() }

// Body returns the bytes of a chunk.
func (s *Sent) Body(i int) *io.SectionReader {
	return io.NewSectionReader(s.Content, s.Chunks[i].From, s.Chunks[i].Bytes)
}

// OpenSent opens what a delivery sent, by its file's name (Delivery.File): of a
// partner that pulls, the file that it finds; of one that is pushed to, every chunk and
// what came of it. It reads all of it first, and fails if that is not what was
// sent, by the hash that was noted when it was written (retention.ErrCorrupt).
//
// What was sent is kept for as long as Push.KeepSent says, and no longer than until
// the night after somebody in it was erased or no longer allows this (R25, R26). Then
// the error is ErrNotKept; for what was never sent it is retention.ErrNotFound.
func (d *Deliverer) OpenSent(ctx context.Context, dest taxonomy.DestinationID, file string) (*Sent, error) {
	fail := func(err error) (*Sent, error) {
		return nil, fmt.Errorf("open what %s was sent: %w", dest, err)
	}
	h, err := d.readHead(ctx, dest)
	if err != nil {
		return fail(err)
	}
	known := h.Sent
	if h.Pending != nil {
		if s := h.Pending.sent(); s != nil {
			known = append(slices.Clone(known), *s)
		}
	}
	now := d.o.Now()
	for i := range known {
		if s := &known[i]; s.File == file && now < s.Expires {
			out, err := d.openSent(ctx, dest, s)
			if err != nil {
				return fail(err)
			}
			return out, nil
		}
	}
	for _, f := range h.Files {
		if f.Name == file && now < f.Expires {
			body, err := d.o.Blobs.Open(ctx, folder(dest)+"/"+file)
			if err != nil {
				return fail(err)
			}
			s := &Sent{File: file, MediaType: f.MediaType, SHA256: f.SHA256, Expires: f.Expires, Content: body,
				Chunks: []SentChunk{{Name: file, Rows: f.Rows, Bytes: f.Bytes, SHA256: f.SHA256, Outcome: ChunkPublished}}}
			if err := s.check(ctx); err != nil {
				return fail(err)
			}
			return s, nil
		}
	}
	if h.Pending != nil && h.Pending.File == file || slices.ContainsFunc(h.Runs, func(r Delivery) bool { return r.File == file && file != "" }) {
		return fail(ErrNotKept)
	}
	return fail(retention.ErrNotFound)
}

func (d *Deliverer) openSent(ctx context.Context, dest taxonomy.DestinationID, s *sent) (*Sent, error) {
	index, pieces, err := d.openIndex(ctx, dest, s.Index)
	if err != nil {
		return nil, err
	}
	index.Close()
	out := &Sent{File: s.File, MediaType: s.Media, SHA256: s.SHA256, Expires: s.Expires}
	var at int64
	for i := range pieces {
		p := &pieces[i]
		c := SentChunk{Name: chunkName(s.File, p, i, len(pieces)), Rows: p.rows, Bytes: p.bytes, SHA256: hex.EncodeToString(p.sha256[:]), Control: p.control, From: at, Outcome: ChunkNotSent}
		switch {
		case s.All || bit(s.Done, i):
			c.Outcome = ChunkAcknowledged
		case bit(s.Refused, i):
			c.Outcome = ChunkRefused
		case bit(s.Tried, i):
			c.Outcome = ChunkUnanswered
		}
		at += p.bytes
		out.Chunks = append(out.Chunks, c)
	}
	if out.Content, err = d.o.Blobs.Open(ctx, folder(dest)+"/"+s.File); err != nil {
		return nil, err
	}
	if err := out.check(ctx); err != nil {
		return nil, err
	}
	return out, nil
}

// check reads everything and compares it with what was noted; it closes what does
// not hold.
func (s *Sent) check(ctx context.Context) (err error) {
	defer func() {
		if err != nil {
			s.Content.Close()
		}
	}()
	all := sha256.New()
	buf := make([]byte, 64<<10)
	for i := range s.Chunks {
		one := sha256.New()
		if _, err := io.CopyBuffer(writers{all, one}, reads{ctx, s.Body(i)}, buf); err != nil {
			return fmt.Errorf("read %s: %w", s.File, err)
		}
		if sum := hex.EncodeToString(one.Sum(nil)); sum != s.Chunks[i].SHA256 {
			return fmt.Errorf("%s: chunk %d is not what was sent, whose SHA-256 is %s: %w", s.File, i, s.Chunks[i].SHA256, retention.ErrCorrupt)
		}
	}
	if hex.EncodeToString(all.Sum(nil)) != s.SHA256 {
		return fmt.Errorf("%s is not what was sent, whose SHA-256 is %s: %w", s.File, s.SHA256, retention.ErrCorrupt)
	}
	return nil
}

type writers [2]hash.Hash

func (w writers) Write(p []byte) (int, error) {
	w[0].Write(p) // a hash takes everything
	return w[1].Write(p)
}

// reads is a reader that ends with a context.
type reads struct {
	ctx context.Context
	io.Reader
}

func (r reads) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.Reader.Read(p)
}

// kept are the files whose bytes are at hand.
func (h *head) kept(now taxonomy.Millis) (files []string) {
	for _, s := range h.Sent {
		if now < s.Expires {
			files = append(files, s.File)
		}
	}
	for _, f := range h.Files {
		if now < f.Expires {
			files = append(files, f.Name)
		}
	}
	return files
}
