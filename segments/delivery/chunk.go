package delivery

import (
	"context"
	"crypto/md5"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"maps"
	"slices"

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
	index   *indexWriter // of what each chunk says; nil: nobody asks
	pieces  []piece
	members []*roaring.Bitmap
	adds    uint64
	removes uint64
	oldest  taxonomy.Day

	had      map[taxonomy.AudienceID][]*roaring.Bitmap
	gathered []said
	order    order
	open     *stream // of a format whose chunks have no bound
	control  bool    // sums are wanted for a control file
	manifest bool    // which is one if the format has none of its own
	sample   *sampler
}

// newChunker writes what a comparison says, by a way of sending. Files that are
// served are one chunk each.
func newChunker(f Format, way TransportFacts, what *comparison, shards int, info FileInfo) *chunker {
	if way.Served {
		f = whole{f}
	} else {
		info.Delay = int(pendingLife / taxonomy.Minute)
	}
	_, own := f.(Controller)
	return &chunker{
		format: f, info: info, was: what.was, e: &what.e, name: what.name, shards: shards, oldest: info.Created.Day(),
		members: make([]*roaring.Bitmap, shards), had: map[taxonomy.AudienceID][]*roaring.Bitmap{},
		control: own || way.Manifest, manifest: way.Manifest,
	}
}

// whole is a format whose files are not divided.
type whole struct{ Format }

func (w whole) Facts() FormatFacts {
	f := w.Format.Facts()
	f.MaxRows, f.MaxBytes, f.Apart = 0, 0, false
	return f
}

// all writes all chunks, and what lists them.
func (c *chunker) all(ctx context.Context, stem, ext string) error {
	if err := c.write(ctx); err != nil {
		return err
	}
	return c.list(stem, ext)
}

func (c *chunker) write(ctx context.Context) error {
	for s := range c.members {
		c.members[s] = roaring.New()
	}
	facts := c.format.Facts()
	write := c.byAudience
	if facts.ByID {
		write = c.byID
	}
	if !facts.Apart {
		if err := write(ctx, true, true); err != nil {
			return err
		}
		return c.end()
	}
	for _, removes := range []bool{false, true} {
		if err := write(ctx, !removes, removes); err != nil {
			return err
		}
		if err := c.end(); err != nil {
			return err
		}
	}
	return nil
}

// end ends the chunk that is being written or gathered.
func (c *chunker) end() error {
	if c.open != nil {
		return c.endStream()
	}
	return c.flush(len(c.gathered))
}

func (c *chunker) byID(ctx context.Context, adds, removes bool) error {
	g := grouping{e: c.e, name: c.name, created: c.info.Created, delay: c.info.Delay}
	return g.each(ctx, adds, removes, func(rows []said) error {
		for i := range rows {
			r := &rows[i]
			if r.shard < c.shards {
				c.members[r.shard].Add(r.ordinal)
			}
			c.oldest = min(c.oldest, r.until-taxonomy.RetentionDays)
			if r.Remove {
				c.removes++
			} else {
				c.adds++
			}
		}
		return c.take(rows)
	})
}

func (c *chunker) byAudience(ctx context.Context, adds, takes bool) error {
	removes := c.e.Removes
	audiences := slices.Collect(maps.Keys(c.e.Adds))
	for _, m := range removes {
		audiences = append(audiences, m.Audience)
	}
	slices.Sort(audiences)
	var rows []said
	c.order.name = c.name
	for _, a := range slices.Compact(audiences) {
		for _, d := range c.e.Adds[a].days() {
			if !adds {
				break
			}
			if err := ctx.Err(); err != nil {
				return err
			}
			minutes := int((d.Start() - c.info.Created) / taxonomy.Minute)
			if minutes <= c.info.Delay {
				continue // over before it is sure to be there; it stays in Maybe
			}
			run := Run{Audience: a, Minutes: minutes}
			// Who has no name is gone, and stays in Maybe until the eraser comes.
			err := c.order.each(ctx, c.e.Adds[a].on(d), nil, func(list []member) error {
				rows = rows[:0]
				for i := range list {
					m := &list[i]
					c.members[m.shard].Add(m.ordinal)
					rows = append(rows, said{run, m.id, d, m.shard, m.ordinal})
				}
				c.adds += uint64(len(rows))
				return c.take(rows)
			})
			if err != nil {
				return err
			}
			c.oldest = min(c.oldest, d-taxonomy.RetentionDays)
		}
		rows = rows[:0]
		for ; takes && len(removes) > 0 && removes[0].Audience == a; removes = removes[1:] {
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
	return nil
}

func (c *chunker) take(rows []said) error {
	if len(rows) == 0 {
		return nil
	}
	if c.sample != nil {
		c.sample.see(rows)
	}
	n := c.format.Facts().MaxRows
	if n == 0 {
		return c.stream(rows)
	}
	byID := c.format.Facts().ByID
	for len(rows) > 0 {
		room := n - len(c.gathered)
		take := min(room, len(rows))
		c.gathered, rows = append(c.gathered, rows[:take]...), rows[take:]
		if len(c.gathered) < n {
			break
		}
		most := n
		if byID && len(rows) > 0 && c.gathered[n-1].id == rows[0].id {
			most = boundary(c.gathered)
		}
		if err := c.flush(most); err != nil {
			return err
		}
	}
	return nil
}

// boundary returns where the last ID of rows begins, or their end if they are
// all of one.
func boundary(rows []said) int {
	for i := len(rows) - 1; i > 0; i-- {
		if rows[i-1].id != rows[i].id {
			return i
		}
	}
	return len(rows)
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
		half := len(rows) / 2
		if c.format.Facts().ByID {
			if at := boundary(rows[:half+1]); at <= half {
				half = at
			}
		}
		if err := c.encode(rows[:half]); err != nil {
			return err
		}
		return c.encode(rows[half:])
	}
	if _, err := c.w.Write(body); err != nil {
		return fmt.Errorf("write rows: %w", err)
	}
	s.piece.bytes, s.piece.sha256 = int64(len(body)), sha256.Sum256(body)
	if c.control {
		s.piece.md5 = md5.Sum(body)
	}
	return c.done(s)
}

// done notes a chunk that is written.
func (c *chunker) done(s *stream) error {
	s.piece.lines, s.piece.removes = s.lines(), len(s.says.Outbox) > 0
	if c.index != nil {
		if err := c.index.add(&s.piece, s.says); err != nil {
			return err
		}
	}
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
	also  hash.Hash // MD5, if a control file is to be written
	piece piece
	says  *Ledger // Held: adds; Maybe: those of them that replace a copy; Outbox: removals
	ids   []string
}

// lines is how many lines have been written.
func (s *stream) lines() uint64 {
	if l, ok := s.encoder.(Liner); ok {
		return l.Lines()
	}
	return s.piece.rows
}

func (c *chunker) begin() *stream {
	return &stream{encoder: c.format.New(c.info), had: c.hadCopy, says: NewLedger(), sum: sha256.New()}
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
		if c.control {
			c.open.also = md5.New()
		}
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
	if s.also != nil {
		s.also.Write(s.buf)
	}
	s.piece.bytes += int64(len(s.buf))
	_, err := c.w.Write(s.buf)
	s.buf = s.buf[:0]
	if err != nil {
		return fmt.Errorf("write rows: %w", err)
	}
	return nil
}

func (c *chunker) endStream() (err error) {
	if c.open.buf, err = c.open.encoder.Close(c.open.buf); err != nil {
		return err
	}
	if err := c.drain(); err != nil {
		return err
	}
	c.open.sum.Sum(c.open.piece.sha256[:0])
	if c.open.also != nil {
		c.open.also.Sum(c.open.piece.md5[:0])
	}
	err = c.done(c.open)
	c.open = nil
	return err
}

// list gives the chunks their names, and lists them in a last one if the
// receiver, or the way to it, wants that.
func (c *chunker) list(stem, ext string) error {
	namer, named := c.format.(Namer)
	parts := make([]Part, len(c.pieces))
	for i := range c.pieces {
		p := &c.pieces[i]
		if named {
			p.name = namer.Name(c.info, i, len(c.pieces))
		} else if c.control {
			p.name = partName(stem, ext, i, len(c.pieces))
		}
		parts[i] = Part{p.name, p.rows, p.lines, p.bytes, p.sha256, p.md5}
	}
	if !c.control || len(parts) == 0 {
		return nil
	}
	var name string
	var body []byte
	var err error
	if k, ok := c.format.(Controller); ok {
		name, body, err = k.Control(c.info, parts)
	} else if c.manifest {
		name, body, err = manifestOf(c.info, stem, parts)
	}
	if err != nil {
		return err
	}
	if _, err := c.w.Write(body); err != nil {
		return fmt.Errorf("write control file: %w", err)
	}
	c.pieces = append(c.pieces, piece{bytes: int64(len(body)), sha256: sha256.Sum256(body), name: name, control: true})
	return nil
}

// partName is the name of a chunk whose format has none of its own.
func partName(stem, ext string, i, of int) string {
	if of > 1 {
		return fmt.Sprintf("%s-p%04d%s", stem, i+1, ext)
	}
	return stem + ext
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
		s.says.Outbox = append(s.says.Outbox, Removal{Audience: r.Audience, ID: r.id, Until: r.until, Shard: r.shard, Ordinal: r.ordinal})
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
	note(s.says.Held)
	if s.had(r.Audience, r.shard, r.ordinal) {
		note(s.says.Maybe)
	}
}

// gather adds what a chunk says, which is not to be used any more, to what others do.
func (l *Ledger) gather(says *Ledger, shards int) {
	for a, h := range says.Held {
		if l.Held[a] == nil {
			l.Held[a] = NewHeld(shards)
		}
		for s, days := range h {
			for d, b := range days {
				l.Held[a].take(s, d, b)
			}
		}
	}
	l.Outbox = append(l.Outbox, says.Outbox...)
}
