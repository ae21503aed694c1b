package delivery

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/ebb-dmp/ebb/taxonomy"
)

const (
	// sampled is how many visitors a dry run shows.
	sampled = 3
	// sampleLeast is of how many visitors they must be: of fewer, three would tell
	// who they are (P7).
	sampleLeast = 50
	// madeUpLife is how many days the copies of made-up visitors live.
	madeUpLife = 30
)

// DryRun is what a delivery would do and say. Nothing of it is kept.
type DryRun struct {
	// Delivery is as of one that was made, without a file and answers.
	Delivery
	// Visitors are the rows of three visitors, and Files what the receiver would get
	// if the delivery were of these alone.
	//
	// They are those whose IDs come first. Instead of their IDs there are some that
	// nobody has. MadeUp: the delivery is of too few visitors for a sample, or of
	// none, and these were made up as well.
	Visitors []SampleRow
	Files    []SampleFile
	MadeUp   bool
}

// SampleRow is a row of a sample.
type SampleRow struct {
	ID       string // a stand-in
	Audience taxonomy.AudienceID
	Segment  string // the receiver's name of the audience
	Remove   bool
	Minutes  int
}

// SampleFile is one body that a receiver would get.
type SampleFile struct {
	Name      string // empty: the deliverer's own name, which is drawn at random
	MediaType string
	Rows      uint64
	Control   bool // it lists the others
	Body      []byte
}

// StandIn is the ID by which a dry run shows its nth visitor, from 1. None is of a
// real visitor: pseudonyms are HMACs, and partners' IDs are not so regular.
//
// Real ones do not belong there. A dry run is asked for at will, and its answer is
// kept for whoever repeats the request, in logs of proxies and in browsers, where no
// erasure reaches it (R25); and three visitors are fewer than may be shown (P7).
func StandIn(kind IDs, n int) string {
	if kind == ByMatch {
		return strings.Repeat(string(rune('0'+n)), 10)
	}
	h := sha256.Sum256(fmt.Appendf(nil, "a visitor who does not exist, %d", n))
	return hex.EncodeToString(h[:16])
}

// DryRun says what Run would do now, exactly: what would be sent, how many rows,
// files and bytes, what would wait for approval, which audiences would not be sent
// and why; and shows it on three visitors. It changes nothing and sends nothing. It
// takes about as long as Run.
//
// What is under way is taken as neither acknowledged nor refused. dest need not be
// defined anywhere yet.
func (d *Deliverer) DryRun(ctx context.Context, dest Destination, src Source) (DryRun, error) {
	dest = dest.WithDefaults()
	fail := func(err error) (DryRun, error) {
		return DryRun{}, fmt.Errorf("try a delivery to %s: %w", dest.ID, err)
	}
	if err := d.valid(&dest); err != nil {
		return fail(err)
	}
	h, err := d.readHead(ctx, dest.ID)
	if err != nil {
		return fail(err)
	}
	g := src.Generation
	dry := DryRun{Delivery: Delivery{Destination: dest.ID, Epoch: g.Epoch, Generation: g.Number, Result: ResultDelivered}}
	run := &dry.Delivery
	clock := max(d.o.Now(), h.Clock)
	created := clock - clock%taxonomy.Minute
	nh := *h
	nh.Seq, nh.Generation, nh.Shards = h.Seq+1, g.Number, src.View.Shards()
	sample := &sampler{kind: dest.IDs}
	// Run does nothing with a generation that was delivered.
	if run.At = clock; h.Seq == 0 || g.Epoch != h.Epoch || g.Number > h.Generation || g.Number == h.Generation && h.Owes {
		c, err := d.compare(ctx, &dest, &src, h, clock, run)
		if err != nil {
			return fail(err)
		}
		defer c.close()
		run.Result = ResultSame
		if served := d.o.Transports[dest.Transport].Facts().Served; !c.e.Empty() && served || len(c.e.Removes) > 0 || c.e.added() > 0 {
			run.Result = ResultDelta
			if c.e.Full {
				run.Result = ResultFull
			}
			w := d.chunkerOf(&dest, &nh, created, c)
			w.w, w.sample = io.Discard, sample
			// As long as the names that Run gives, which stand in lists of files.
			name, err := d.name(&nh, g.Epoch, g.Number, string(w.info.Kind))
			if err != nil {
				return fail(err)
			}
			err = w.all(ctx, name, d.o.Formats[dest.Format].Facts().Extension)
			if err = errors.Join(err, c.ids.err()); err != nil {
				return fail(err)
			}
			run.Adds, run.Removes, run.Rows = w.adds, w.removes, w.adds+w.removes
			for i := range w.pieces {
				run.Bytes += w.pieces[i].bytes
			}
			if !d.o.Transports[dest.Transport].Facts().Served {
				run.Chunks = len(w.pieces)
			}
		}
		for _, held := range c.next.Held {
			run.Held += held.Count()
		}
	}
	rows := sample.rows()
	if run.Rows < sampleLeast || len(sample.ids) < sampled {
		dry.MadeUp, rows = true, madeUp(&dest, created, d.o.Formats[dest.Format].Facts().Removes)
	}
	if dry.Files, err = d.sampleFiles(ctx, &dest, &nh, created, rows); err != nil {
		return fail(err)
	}
	info := FileInfo{Segments: dest.Segments}
	for _, r := range rows {
		dry.Visitors = append(dry.Visitors, SampleRow{r.id, r.Audience, info.Segment(r.Audience), r.Remove, r.Minutes})
	}
	return dry, nil
}

// sampleFiles writes rows as a destination's format has them.
func (d *Deliverer) sampleFiles(ctx context.Context, dest *Destination, h *head, created taxonomy.Millis, rows []said) (files []SampleFile, err error) {
	if len(rows) == 0 {
		return nil, nil // it has no audiences
	}
	f := d.o.Formats[dest.Format]
	facts := f.Facts()
	c := d.chunkerOf(dest, h, created, &comparison{was: NewLedger()})
	var body bytes.Buffer
	c.w = &body
	if c.format.Facts().ByID {
		slices.SortStableFunc(rows, byID)
	}
	for _, removes := range []bool{false, true} {
		var part []said
		for _, r := range rows {
			if r.Remove == removes || !c.format.Facts().Apart {
				part = append(part, r)
			}
		}
		if err := c.take(part); err != nil {
			return nil, err
		}
		if !c.format.Facts().Apart {
			break
		}
		if err := c.end(); err != nil {
			return nil, err
		}
	}
	if err := c.end(); err != nil {
		return nil, err
	}
	if err := c.list("sample", facts.Extension); err != nil {
		return nil, err
	}
	for _, p := range c.pieces {
		s := SampleFile{Name: p.name, MediaType: facts.MediaType, Rows: p.rows, Control: p.control, Body: slices.Clone(body.Next(int(p.bytes)))}
		if p.control {
			s.MediaType = controlMedia
		}
		files = append(files, s)
	}
	return files, nil
}

func byID(x, y said) int {
	if c := strings.Compare(x.id, y.id); c != 0 {
		return c
	}
	return strings.Compare(string(x.Audience), string(y.Audience))
}

// madeUp are rows of visitors that do not exist, in the destination's audiences.
func madeUp(dest *Destination, created taxonomy.Millis, removes bool) (rows []said) {
	end := created.Day() + madeUpLife
	for i := range dest.Audiences[:min(len(dest.Audiences), sampled)] {
		for n := i + 1; n <= sampled; n++ {
			r := said{Run: Run{Audience: dest.Audiences[i], Minutes: int((end.Start() - created) / taxonomy.Minute)}, id: StandIn(dest.IDs, n), until: end}
			if i > 0 && n == sampled && removes {
				r.Remove, r.Minutes = true, 0
			}
			rows = append(rows, r)
		}
	}
	return rows
}

// sampler keeps the rows of the visitors whose IDs come first: whoever is among
// them at the end was so whenever a row of theirs came by.
type sampler struct {
	kind IDs
	ids  []string // sorted, at most sampled
	kept map[string][]said
}

func (s *sampler) see(rows []said) {
	for i := range rows {
		id := rows[i].id
		at, found := slices.BinarySearch(s.ids, id)
		if !found {
			if at == sampled {
				continue
			}
			if s.kept == nil {
				s.kept = map[string][]said{}
			}
			s.ids = slices.Insert(s.ids, at, id)
			if len(s.ids) > sampled {
				delete(s.kept, s.ids[sampled])
				s.ids = s.ids[:sampled]
			}
		}
		s.kept[id] = append(s.kept[id], rows[i])
	}
}

// rows are those that were kept, under stand-ins, in the order of files by audience.
func (s *sampler) rows() (rows []said) {
	for i, id := range s.ids {
		for _, r := range s.kept[id] {
			r.id = StandIn(s.kind, i+1)
			rows = append(rows, r)
		}
	}
	slices.SortStableFunc(rows, func(x, y said) int {
		if c := strings.Compare(string(x.Audience), string(y.Audience)); c != 0 {
			return c
		}
		if x.Remove != y.Remove {
			if y.Remove {
				return -1
			}
			return 1
		}
		if x.Minutes != y.Minutes {
			return x.Minutes - y.Minutes
		}
		return strings.Compare(x.id, y.id)
	})
	return rows
}
