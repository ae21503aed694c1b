package delivery

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/RoaringBitmap/roaring/v2"

	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// An ID-sync file has a line for each match: our ID of a visitor at a destination,
// a tab, the partner's. Its name and columns are those of Audience Manager:
//
//	[adobe_id_][c2c_id_]MASTERDPID_DPID_TIMESTAMP.sync[.SPLIT_NUMBER][.gz]
//
// MASTERDPID 0 says that the first column is the ID of whose server it is: ours.

const (
	// maxMatchLine is how long a line may be, in bytes.
	maxMatchLine = 1024
	// ebbIDLen is how long our IDs are: hex digits.
	ebbIDLen = 32
)

// CheckMatchName says what is wrong with the name of an ID-sync file for a
// destination. A name that does not end as theirs do says nothing, and is fine.
func CheckMatchName(d *Destination, name string) error {
	stem := strings.TrimSuffix(name, ".gz")
	if at := strings.LastIndexByte(stem, '.'); at >= 0 && isDigits(stem[at+1:]) {
		stem = stem[:at]
	}
	stem, ok := strings.CutSuffix(stem, ".sync")
	if !ok {
		return nil
	}
	stem = strings.TrimPrefix(strings.TrimPrefix(stem, "adobe_id_"), "c2c_id_")
	parts := strings.Split(stem, "_")
	for _, p := range parts {
		if !isDigits(p) {
			return fmt.Errorf("the name %.100q: want MASTERDPID_DPID_TIMESTAMP.sync, each of digits", name)
		}
	}
	ours := d.Account["DPID"]
	switch {
	case len(parts) != 3:
		return fmt.Errorf("the name %.100q has %d numbers before .sync, want 3: MASTERDPID, DPID, TIMESTAMP; a destination's file has its own IDs and nobody else's", name, len(parts))
	case parts[0] != "0":
		return fmt.Errorf("the name %.100q says that the first column is of data source %s; want 0, Ebb's own IDs", name, parts[0])
	case ours != "" && parts[1] != ours:
		return fmt.Errorf("the name %.100q is of data source %s, and the destination's DPID is %s", name, parts[1], ours)
	}
	return nil
}

// MatchName is the name of a destination's ID-sync file that is written at a time.
// A destination without a DPID has its own ID there.
func MatchName(d *Destination, at taxonomy.Millis) string {
	dpid := d.Account["DPID"]
	if dpid == "" {
		dpid = string(d.ID)
	}
	return fmt.Sprintf("0_%s_%d.sync", dpid, at/taxonomy.Second)
}

func isDigits(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}

// MatchRow is a line of an ID-sync file.
type MatchRow struct {
	Line  uint32 // the first being 1
	EbbID string // our ID of a visitor at the destination
	ID    string // the partner's
}

// MatchFault is a line that is refused: place and reason, never a value.
type MatchFault struct {
	Line   uint32 `json:"line"`
	Column int    `json:"column,omitempty"` // 1 or 2; 0: the line
	Why    string `json:"why"`
}

// ReadMatches reads an ID-sync file and calls row or bad for each of its lines; an
// error of row ends it. check says what is wrong with a partner's ID. An empty line
// at the end is none.
func ReadMatches(r io.Reader, check func(string) error, row func(MatchRow) error, bad func(MatchFault)) error {
	b := bufio.NewReaderSize(r, maxMatchLine+2)
	for line := uint32(1); ; line++ {
		text, err := b.ReadSlice('\n')
		long := false
		for errors.Is(err, bufio.ErrBufferFull) {
			long = true
			_, err = b.ReadSlice('\n')
		}
		if err != nil && err != io.EOF {
			return fmt.Errorf("read line %d: %w", line, err)
		}
		if len(text) == 0 && err == io.EOF {
			return nil
		}
		if line == 1<<31 {
			return errors.New("the file has more than 2^31 lines; split it")
		}
		s := strings.TrimSuffix(strings.TrimSuffix(string(text), "\n"), "\r")
		if f, why := readMatch(s, long, check); why.Why != "" {
			why.Line = line
			bad(why)
		} else {
			f.Line = line
			if err := row(f); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
	}
}

func readMatch(s string, long bool, check func(string) error) (m MatchRow, why MatchFault) {
	if long {
		return m, MatchFault{Why: fmt.Sprintf("is longer than %d bytes", maxMatchLine)}
	}
	columns := strings.Split(s, "\t")
	if len(columns) != 2 {
		return m, MatchFault{Why: fmt.Sprintf("has %d columns, want 2 with a tab between: our ID of the visitor, and yours", len(columns))}
	}
	m.EbbID, m.ID = columns[0], columns[1]
	if len(m.EbbID) != ebbIDLen || strings.Trim(m.EbbID, "0123456789abcdef") != "" {
		return m, MatchFault{Column: 1, Why: fmt.Sprintf("is no ID of ours: want the %d hex digits that the sync gave", ebbIDLen)}
	}
	if err := check(m.ID); err != nil {
		return m, MatchFault{Column: 2, Why: "the partner's ID " + err.Error()}
	}
	return m, MatchFault{}
}

// WriteMatches writes the ID-sync file of a destination: everyone whom it knows by
// an ID of its own and whose consent reaches it, as of a view, in the order of our
// IDs. It returns how many lines it wrote.
func (d *Deliverer) WriteMatches(ctx context.Context, dest Destination, v audience.View, w io.Writer) (n uint64, err error) {
	dest = dest.WithDefaults()
	fail := func(err error) (uint64, error) { return n, fmt.Errorf("write the matches of %s: %w", dest.ID, err) }
	sets := make([]*roaring.Bitmap, v.Shards())
	for s := range sets {
		may, _, err := eligible(v, &Destination{ID: dest.ID}, s)
		if err != nil {
			return fail(err)
		}
		matched, err := readSet(v, s, index.SetMatched+string(dest.ID))
		if err != nil {
			return fail(err)
		}
		may.And(matched)
		sets[s] = may
	}
	o := order{name: d.namer(&dest, v, nil)}
	out := bufio.NewWriterSize(w, 64<<10)
	err = o.each(ctx, sets, nil, func(list []member) error {
		for i := range list {
			id, _, ok := v.MatchID(dest.ID, list[i].shard, list[i].ordinal)
			if !ok {
				continue // it went over to another since
			}
			n++
			out.WriteString(list[i].id)
			out.WriteByte('\t')
			out.WriteString(id)
			if err := out.WriteByte('\n'); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		err = out.Flush()
	}
	if err != nil {
		return fail(err)
	}
	return n, nil
}
