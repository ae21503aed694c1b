// Package deliverytest is a partner that is pushed to, for tests: it loses,
// repeats, delays, mislays and refuses what it is sent. It is no partner's
// software; it does what it is told of each chunk.
package deliverytest

import (
	"compress/gzip"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// Fate is what becomes of a chunk.
type Fate string

// The fates. After the last three the partner's word is not worth much.
const (
	Takes     Fate = "takes"
	TakesMute Fate = "takes, and the answer is lost"
	Lost      Fate = "never gets it"
	Busy      Fate = "wants to be asked later"
	Refuses   Fate = "refuses"
	Twice     Fate = "takes it twice"
	Delays    Fate = "says yes, and takes it later"
	Mislays   Fate = "says yes, and takes only some"
	Mutters   Fate = "says nothing, and takes it later"
)

// Honest are the fates after which what the partner said is what it did, or it
// said nothing; AllFates are those and the others.
var (
	Honest   = []Fate{Takes, Takes, Takes, TakesMute, Lost, Busy, Refuses, Twice}
	AllFates = append(append([]Fate{}, Honest...), Delays, Mislays, Mutters)
)

// Partner is a delivery.Transport and what stands behind it: a copy of rows, of
// which each ends by the life that it was sent with. It reads TSV, packed by gzip.
type Partner struct {
	mu sync.Mutex
	// Fate decides of a chunk, under a lock: chunks may come from several
	// goroutines, and it must not draw from what they share.
	Fate func(*delivery.Chunk) Fate
	// Ends is when the copy of a row, "ID\taudience", ends.
	Ends map[string]taxonomy.Millis
	// Lied are the rows of which it took something later, or not, without saying so.
	Lied map[string]bool
	// Keys are the idempotency keys that were seen, and what for; Calls counts chunks.
	Keys  map[string][32]byte
	Calls int
	// Fault is what was wrong with what it was sent.
	Fault error

	late []func() // what arrived and was not applied yet
}

// NewPartner returns one that takes everything.
func NewPartner() *Partner {
	return &Partner{Ends: map[string]taxonomy.Millis{}, Keys: map[string][32]byte{}, Lied: map[string]bool{}, Fate: func(*delivery.Chunk) Fate { return Takes }}
}

// Facts implements delivery.Transport.
func (p *Partner) Facts() delivery.TransportFacts { return delivery.TransportFacts{} }

// Check implements delivery.Transport.
func (p *Partner) Check(*delivery.Destination) error { return nil }

// Send implements delivery.Transport.
func (p *Partner) Send(_ context.Context, _ *delivery.Destination, c *delivery.Chunk) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.Calls++
	if was, ok := p.Keys[c.Key]; ok && was != c.SHA256 {
		p.Fault = fmt.Errorf("key %s stands for two things", c.Key)
	}
	p.Keys[c.Key] = c.SHA256
	rows, err := Rows(c)
	if err != nil {
		p.Fault = err
		return err
	}
	apply := func(rows []Row) {
		for _, r := range rows {
			if r.Remove {
				delete(p.Ends, r.Key())
			} else {
				p.Ends[r.Key()] = c.Created + taxonomy.Millis(r.Minutes)*taxonomy.Minute
			}
		}
	}
	what := p.Fate(c)
	if what == Delays || what == Mislays || what == Mutters {
		for _, r := range rows {
			p.Lied[r.Key()] = true
		}
	}
	switch what {
	case TakesMute:
		apply(rows)
		return fmt.Errorf("no answer: %w", retention.ErrUnknown)
	case Lost:
		return fmt.Errorf("connection reset: %w", retention.ErrUnknown)
	case Busy:
		return &delivery.Later{After: 90 * time.Minute, Err: errors.New("status 429")}
	case Refuses:
		return fmt.Errorf("status 400: %w", delivery.ErrRefused)
	case Twice:
		apply(rows)
		apply(rows)
	case Delays:
		p.late = append(p.late, func() { apply(rows) })
	case Mislays:
		apply(rows[:len(rows)/2])
	case Mutters:
		p.late = append(p.late, func() { apply(rows) })
		return fmt.Errorf("timeout: %w", retention.ErrUnknown)
	default:
		apply(rows)
	}
	return nil
}

// CatchUp applies what was late.
func (p *Partner) CatchUp() {
	for _, f := range p.late {
		f()
	}
	p.late = nil
}

// Holds are the rows whose copies have not ended.
func (p *Partner) Holds(now taxonomy.Millis) map[string]bool {
	set := map[string]bool{}
	for row, end := range p.Ends {
		if now < end {
			set[row] = true
		}
	}
	return set
}

// Row is a line of a chunk.
type Row struct {
	ID, Audience string
	Remove       bool
	Minutes      int
}

// Key is the row as Partner calls it.
func (r *Row) Key() string { return r.ID + "\t" + r.Audience }

// Rows reads a chunk.
func Rows(c *delivery.Chunk) ([]Row, error) {
	rows, err := ReadRows(io.NewSectionReader(c.Body, 0, c.Body.Size()))
	if err == nil && uint64(len(rows)) != c.Rows {
		err = fmt.Errorf("%d lines, the chunk says %d", len(rows), c.Rows)
	}
	return rows, err
}

// ReadRows reads TSV, packed by gzip. A line that adds has a life, one that removes
// has none.
func ReadRows(packed io.Reader) (rows []Row, err error) {
	z, err := gzip.NewReader(packed)
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(z)
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(text)) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		if len(f) != 4 {
			return nil, fmt.Errorf("line %q has %d columns", line, len(f))
		}
		minutes, err := strconv.Atoi(f[3])
		if err != nil || f[2] != "+" && f[2] != "-" || (f[2] == "+") != (minutes > 0) {
			return nil, fmt.Errorf("line %q", line)
		}
		rows = append(rows, Row{f[0], f[1], f[2] == "-", minutes})
	}
	return rows, nil
}

// Seeded makes fates of a seed, the chunk and how often it was sent, whoever sends
// it and when.
func Seeded(seed uint64, of []Fate) func(*delivery.Chunk) Fate {
	sent := map[string]int{}
	return func(c *delivery.Chunk) Fate {
		sent[c.Key]++
		h := sha256.Sum256(fmt.Appendf(nil, "%d %s %d", seed, c.Key, sent[c.Key]))
		return of[int(h[0])%len(of)]
	}
}

// Chunked is a format in chunks of a few rows, so that there are several.
type Chunked struct {
	delivery.Format
	MaxRows int
}

// Facts implements delivery.Format.
func (c Chunked) Facts() delivery.FormatFacts {
	f := c.Format.Facts()
	f.MaxRows, f.MaxBytes = c.MaxRows, 10_000
	return f
}
