package delivery

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/RoaringBitmap/roaring/v2"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// said is a row that is to be written.
type said struct {
	Run
	id      string
	until   taxonomy.Day
	shard   int
	ordinal uint32
}

// piece is one chunk of a file of chunks.
type piece struct {
	bytes  int64
	rows   uint64
	sha256 [32]byte
	says   *Ledger // Held: adds; Maybe: those of them that replace a copy; Outbox: removals
}

// chunker writes what a plan says as chunks, one behind the other, in the order
// in which rows stand in files that are pulled.
type chunker struct {
	format  Format
	info    FileInfo
	was     *Ledger // what the partner had, by which renewals are told from news
	e       *Effects
	name    func(int, uint32) (string, bool)
	shards  int
	w       io.Writer
	pieces  []piece
	members []*roaring.Bitmap
	adds    uint64
	removes uint64
	oldest  taxonomy.Day

	had      map[taxonomy.AudienceID][]*roaring.Bitmap
	gathered []said
	open     *stream // of a format whose chunks have no bound
}

func (c *chunker) write(ctx context.Context) error {
	for s := range c.members {
		c.members[s] = roaring.New()
	}
	removes := c.e.Removes
	audiences := slices.Collect(maps.Keys(c.e.Adds))
	for _, m := range removes {
		audiences = append(audiences, m.Audience)
	}
	slices.Sort(audiences)
	var rows []said
	for _, a := range slices.Compact(audiences) {
		for _, d := range c.e.Adds[a].days() {
			if err := ctx.Err(); err != nil {
				return err
			}
			minutes := int((d.Start() - c.info.Created) / taxonomy.Minute)
			if minutes <= c.info.Delay {
				continue // over before it is sure to be there; it stays in Maybe
			}
			rows = rows[:0]
			for s, days := range c.e.Adds[a] {
				b := days[d]
				if b == nil {
					continue
				}
				for it := b.Iterator(); it.HasNext(); {
					o := it.Next()
					id, ok := c.name(s, o)
					if !ok {
						continue // gone: stays in Maybe until the eraser comes
					}
					c.members[s].Add(o)
					rows = append(rows, said{Run{Audience: a, Minutes: minutes}, id, d, s, o})
				}
			}
			slices.SortFunc(rows, func(x, y said) int { return strings.Compare(x.id, y.id) })
			c.adds += uint64(len(rows))
			c.oldest = min(c.oldest, d-taxonomy.RetentionDays)
			if err := c.take(rows); err != nil {
				return err
			}
		}
		rows = rows[:0]
		for ; len(removes) > 0 && removes[0].Audience == a; removes = removes[1:] {
			m := removes[0]
			rows = append(rows, said{Run{Audience: a, Remove: true}, m.ID, m.Until, m.Shard, m.Ordinal})
			if m.Shard < c.shards {
				c.members[m.Shard].Add(m.Ordinal)
			}
			c.oldest = min(c.oldest, m.Until-taxonomy.RetentionDays)
		}
		c.removes += uint64(len(rows))
		if err := c.take(rows); err != nil {
			return err
		}
	}
	if c.open != nil {
		return c.end()
	}
	return c.flush(len(c.gathered))
}

func (c *chunker) take(rows []said) error {
	if len(rows) == 0 {
		return nil
	}
	n := c.format.Facts().MaxRows
	if n == 0 {
		return c.stream(rows)
	}
	c.gathered = append(c.gathered, rows...)
	for len(c.gathered) >= n {
		if err := c.flush(n); err != nil {
			return err
		}
	}
	return nil
}

// flush writes the first n gathered rows as one chunk, or as several if one
// would be too large.
func (c *chunker) flush(n int) error {
	if n == 0 {
		return nil
	}
	rows := c.gathered[:n]
	if err := c.encode(rows); err != nil {
		return err
	}
	c.gathered = append(c.gathered[:0], c.gathered[n:]...)
	return nil
}

func (c *chunker) encode(rows []said) error {
	s := c.begin()
	if err := s.rows(rows); err != nil {
		return err
	}
	body, err := s.encoder.Close(s.buf)
	if err != nil {
		return err
	}
	if most := c.format.Facts().MaxBytes; most > 0 && int64(len(body)) > most {
		if len(rows) == 1 {
			return fmt.Errorf("one row of audience %s is %d bytes, and the receiver takes at most %d", rows[0].Audience, len(body), most)
		}
		// Halves rather than a running count: a format may compress.
		if err := c.encode(rows[:len(rows)/2]); err != nil {
			return err
		}
		return c.encode(rows[len(rows)/2:])
	}
	if _, err := c.w.Write(body); err != nil {
		return fmt.Errorf("write rows: %w", err)
	}
	s.piece.bytes, s.piece.sha256 = int64(len(body)), sha256.Sum256(body)
	c.pieces = append(c.pieces, s.piece)
	return nil
}

// stream is a chunk that is being written.
type stream struct {
	encoder Encoder
	had     func(taxonomy.AudienceID, int, uint32) bool
	buf     []byte
	sum     interface {
		io.Writer
		Sum([]byte) []byte
	}
	piece piece
	ids   []string
}

func (c *chunker) begin() *stream {
	return &stream{encoder: c.format.New(c.info), had: c.hadCopy, piece: piece{says: NewLedger()}, sum: sha256.New()}
}

// hadCopy reports whether the partner may have had a copy of a row before.
func (c *chunker) hadCopy(a taxonomy.AudienceID, shard int, ordinal uint32) bool {
	had, ok := c.had[a]
	if !ok {
		had = make([]*roaring.Bitmap, c.shards)
		for s := range had {
			had[s] = c.was.Held[a].After(s, minDay)
			had[s].Or(c.was.Maybe[a].After(s, minDay))
		}
		for o := range c.e.ends[a] {
			had[o.shard].Add(o.ordinal)
		}
		c.had[a] = had
	}
	return had[shard].Contains(ordinal)
}

const minDay = taxonomy.Day(-1 << 31)

// stream writes rows of the one chunk of a format without bounds.
func (c *chunker) stream(rows []said) error {
	if c.open == nil {
		c.open = c.begin()
	}
	for part := range slices.Chunk(rows, 4096) {
		if err := c.open.rows(part); err != nil {
			return err
		}
		if len(c.open.buf) >= flushAt {
			if err := c.drain(); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *chunker) drain() error {
	s := c.open
	s.sum.Write(s.buf)
	s.piece.bytes += int64(len(s.buf))
	_, err := c.w.Write(s.buf)
	s.buf = s.buf[:0]
	if err != nil {
		return fmt.Errorf("write rows: %w", err)
	}
	return nil
}

func (c *chunker) end() (err error) {
	if c.open.buf, err = c.open.encoder.Close(c.open.buf); err != nil {
		return err
	}
	if err := c.drain(); err != nil {
		return err
	}
	c.open.sum.Sum(c.open.piece.sha256[:0])
	c.pieces = append(c.pieces, c.open.piece)
	return nil
}

// rows appends rows, those of one run together, and notes what they say.
func (s *stream) rows(rows []said) (err error) {
	for len(rows) > 0 {
		n, run := 0, rows[0].Run
		s.ids = s.ids[:0]
		for n < len(rows) && rows[n].Run == run {
			s.ids = append(s.ids, rows[n].id)
			s.note(rows[n])
			n++
		}
		if s.buf, err = s.encoder.Append(s.buf, run, s.ids); err != nil {
			return err
		}
		s.piece.rows += uint64(n)
		rows = rows[n:]
	}
	return nil
}

func (s *stream) note(r said) {
	if r.Remove {
		s.piece.says.Outbox = append(s.piece.says.Outbox, Removal{Audience: r.Audience, ID: r.id, Until: r.until, Shard: r.shard, Ordinal: r.ordinal})
		return
	}
	note := func(to map[taxonomy.AudienceID]Held) {
		h := to[r.Audience]
		for len(h) <= r.shard {
			h = append(h, map[taxonomy.Day]*roaring.Bitmap{})
		}
		to[r.Audience] = h
		h.Add(r.shard, r.ordinal, r.until)
	}
	note(s.piece.says.Held)
	if s.had(r.Audience, r.shard, r.ordinal) {
		note(s.piece.says.Maybe)
	}
}

const indexMagic = "EBBDCHNK"

// The body of an index of chunks: number of chunks, and for each: bytes · rows ·
// SHA-256 · length · what it says, as a ledger's file.
func marshalPieces(ps []piece, shards int) ([]byte, error) {
	b := binary.AppendUvarint(nil, uint64(len(ps)))
	for _, p := range ps {
		b = binary.AppendUvarint(b, uint64(p.bytes))
		b = binary.AppendUvarint(b, p.rows)
		b = append(b, p.sha256[:]...)
		l, err := p.says.marshal(shards)
		if err != nil {
			return nil, err
		}
		b = append(binary.AppendUvarint(b, uint64(len(l))), l...)
	}
	return seal(indexMagic, b), nil
}

func unmarshalPieces(b []byte) (ps []piece, err error) {
	body, err := unseal(indexMagic, b)
	if err != nil {
		return nil, err
	}
	r := reader{b: body}
	for range r.uvarint(uint64(len(body))) {
		p := piece{bytes: int64(r.uvarint(1 << 50)), rows: r.uvarint(1 << 50)}
		copy(p.sha256[:], r.take(32))
		says := r.take(r.uvarint(uint64(len(r.b))))
		if r.err != nil {
			return nil, r.err
		}
		if p.says, err = unmarshalLedger(says); err != nil {
			return nil, err
		}
		ps = append(ps, p)
	}
	if r.err == nil && len(r.b) != 0 {
		r.fail("bytes behind its end")
	}
	return ps, r.err
}
