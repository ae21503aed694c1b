package onboard

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/ebb-dmp/ebb/taxonomy"
)

const (
	maxID    = 256                  // bytes of a visitor's ID, and of an event's
	maxValue = 1024                 // bytes of a property
	maxAttr  = 64                   // bytes of an attribute's value
	maxRows  = 1<<31/maxColumns - 1 // so that numbers of records fit in 31 bits
)

// Input is what Parse needs besides the file.
type Input struct {
	// Now is the instant of the import. A day before the 90 days that end on it
	// is too old; a time beyond it becomes it.
	Now taxonomy.Millis
	// Lookups by the name of their join.
	Lookups map[string]*Lookup
	// Refuse, if set, says whether a value may not be kept (personal data).
	// What is refused is counted and left out; the row goes on without it.
	Refuse func(key, value string) bool
}

// Fact is one record of a row. It is valid during the call; Event is fn's.
type Fact struct {
	Row uint32 // of the file, the first after the header being 1
	// Number of the record, for taxonomy.ImportRow: unique in the file, and
	// below 1<<31, so that the other half is free for what is not a record.
	Number uint32
	// Visitor is the ID as it stands in the file. It must become a visitor key
	// (taxonomy/keys) and not be kept.
	Visitor string
	// ID is what identifies the event in the source, "" if only file and row do.
	// Like Visitor it is only for hashing, into Event.ID or Statement.ID.
	ID string

	Event     *taxonomy.Event     // one of these two
	Statement *taxonomy.Statement // is set
}

// Fault is a row that is refused. It tells the place and the reason, and never
// the value, which may be personal.
type Fault struct {
	Row    uint32          `json:"row"`  // as Fact.Row
	Line   int             `json:"line"` // of the file, the header being 1
	Column string          `json:"column,omitempty"`
	Reason taxonomy.Reason `json:"reason"`
	Why    string          `json:"why"`
}

func (f *Fault) Error() string {
	if f.Column == "" {
		return fmt.Sprintf("row %d (line %d): %s", f.Row, f.Line, f.Why)
	}
	return fmt.Sprintf("row %d (line %d), column %q: %s", f.Row, f.Line, f.Column, f.Why)
}

// Report says what became of a file. It always adds up: Rows = Accepted + the
// sum of Rejected.
type Report struct {
	Rows     uint64                     `json:"rows"`
	Accepted uint64                     `json:"accepted"`
	Rejected map[taxonomy.Reason]uint64 `json:"rejected,omitempty"`
	// Records is how many facts were handed on: one a row for events and lists,
	// one a value for attributes.
	Records uint64 `json:"records"`
	// Refused is how many values were left out as personal data.
	Refused uint64 `json:"refused,omitempty"`
	// Unjoined is how many accepted rows found nothing in a join.
	Unjoined uint64 `json:"unjoined,omitempty"`
	// Ahead is how many accepted rows had a time beyond the import.
	Ahead uint64 `json:"ahead,omitempty"`
	// First and Last day of what was accepted, if anything was.
	First taxonomy.Day `json:"first"`
	Last  taxonomy.Day `json:"last"`
}

// Span is what a file's times cover, as they stand in it, without ShiftDays.
type Span struct {
	Rows        uint64 // with a time that can be read
	First, Last taxonomy.Day
}

// Parse reads a file and calls fn with each record, in order of the rows, and
// bad, if it is not nil, with each row that is refused. A row is accepted or
// refused as a whole, before fn sees any of it.
//
// If fn returns a *Fault, its Column, Reason and Why refuse the row; then a row
// of several attributes may have been handed on in part. Any other error of fn
// ends the file and is returned, as is an error of r, or of a mapping that does
// not fit the file's columns. The report is right in every case.
func Parse(r io.Reader, m *Mapping, in Input, fn func(*Fact) error, bad func(Fault)) (Report, error) {
	rep := Report{Rejected: make(map[taxonomy.Reason]uint64)}
	if err := m.Validate(); err != nil {
		return rep, fmt.Errorf("read the file: mapping: %w", err)
	}
	p, err := newParser(r, m, &in)
	if err != nil {
		return rep, fmt.Errorf("read the file: %w", err)
	}
	for {
		err := p.read()
		if err == io.EOF {
			return rep, nil
		}
		var f *Fault
		if err != nil && !errors.As(err, &f) {
			return rep, fmt.Errorf("read the file after row %d: %w", p.row-1, err)
		}
		rep.Rows++
		if err == nil {
			err = p.take(&rep, fn)
		}
		switch {
		case err == nil:
			rep.Accepted++
		case errors.As(err, &f):
			f.Row, f.Line = p.row, p.line
			if f.Reason == "" {
				f.Reason = taxonomy.ReasonImport
			}
			rep.Rejected[f.Reason]++
			if bad != nil {
				bad(*f)
			}
		default:
			rep.Rows-- // it was neither accepted nor refused
			return rep, fmt.Errorf("row %d (line %d): %w", p.row, p.line, err)
		}
	}
}

// Scan reads only the times of a file: Last is the day that ShiftDays moves.
func Scan(r io.Reader, m *Mapping) (Span, error) {
	var s Span
	if err := m.Validate(); err != nil {
		return s, fmt.Errorf("scan the file: mapping: %w", err)
	}
	if m.Time == "" {
		return s, errors.New("scan the file: the mapping names no column of times")
	}
	p, err := newParser(r, &Mapping{Comma: m.Comma, Missing: m.Missing, Visitor: m.Time, Time: m.Time, Layout: m.Layout}, &Input{})
	if err != nil {
		return s, fmt.Errorf("scan the file: %w", err)
	}
	for {
		err := p.read()
		var f *Fault
		if err == io.EOF {
			return s, nil
		} else if errors.As(err, &f) {
			continue
		} else if err != nil {
			return s, fmt.Errorf("scan the file: %w", err)
		}
		t, err := p.time()
		if err != nil {
			continue
		}
		if d := t.Day(); s.Rows == 0 {
			s.First, s.Last = d, d
		} else {
			s.First, s.Last = min(s.First, d), max(s.Last, d)
		}
		s.Rows++
	}
}

// parser is one file on its way.
type parser struct {
	m     *Mapping
	in    *Input
	rows  *rows
	names []string

	row    uint32
	line   int
	fields []string
	joined [][]string // by join, nil if nothing was found

	visitor, at int   // columns
	on          []int // columns, by join
	layout      string
	id          []place
	values      []value // properties or attributes, by key
	kind        taxonomy.EventKind
}

// place is a column: of the file (join < 0), or of a join.
type place struct{ join, column int }

type value struct {
	place
	name, key string
}

func newParser(r io.Reader, m *Mapping, in *Input) (*parser, error) {
	p := &parser{m: m, in: in, rows: newRows(r, m.comma()), at: -1, kind: taxonomy.EventFact}
	var err error
	if p.names, err = p.rows.header(); err != nil {
		return nil, err
	}
	for i, n := range p.names {
		if slices.Contains(p.names[:i], n) {
			return nil, fmt.Errorf("the column %q comes twice in the first row", n)
		}
	}
	column := func(name string) (int, error) {
		i := slices.Index(p.names, name)
		if i < 0 {
			return 0, fmt.Errorf("there is no column %q; there are %s", name, list(p.names))
		}
		return i, nil
	}
	if p.visitor, err = column(m.Visitor); err != nil {
		return nil, err
	}
	if m.Time != "" {
		if p.at, err = column(m.Time); err != nil {
			return nil, err
		}
	}
	p.layout = m.Layout
	if p.layout == "" || p.layout == "rfc3339" {
		p.layout = time.RFC3339Nano
	}
	p.joined = make([][]string, len(m.Joins))
	for i, j := range m.Joins {
		if in.Lookups[j.Name] == nil {
			return nil, fmt.Errorf("joins[%d]: the table %q is not given", i, j.Name)
		}
		on, err := column(j.On)
		if err != nil {
			return nil, err
		}
		p.on = append(p.on, on)
		for _, c := range j.Columns {
			if slices.Contains(p.names, c) {
				return nil, fmt.Errorf("joins[%d]: the file has a column %q of its own", i, c)
			}
		}
	}
	find := func(name string) (place, error) {
		for i, j := range m.Joins {
			if c := slices.Index(j.Columns, name); c >= 0 {
				c = slices.Index(in.Lookups[j.Name].columns, name)
				if c < 0 {
					return place{}, fmt.Errorf("joins[%d]: the table %q was read without column %q", i, j.Name, name)
				}
				return place{i, c}, nil
			}
		}
		c, err := column(name)
		return place{-1, c}, err
	}
	columns := m.Attributes
	if e := m.Event; e != nil {
		columns = e.Props
		if e.Kind != "" {
			p.kind, _ = taxonomy.ParseEventKind(e.Kind)
		}
		for _, c := range e.ID {
			at, err := find(c)
			if err != nil {
				return nil, err
			}
			p.id = append(p.id, at)
		}
	}
	for _, c := range columns {
		at, err := find(c.Column)
		if err != nil {
			return nil, err
		}
		p.values = append(p.values, value{at, c.Column, c.key()})
	}
	slices.SortFunc(p.values, func(a, b value) int { return strings.Compare(a.key, b.key) })
	return p, nil
}

// read reads a row. A *Fault is a row that is none.
func (p *parser) read() error {
	if p.row == maxRows {
		return fmt.Errorf("more than %d rows; split the file", maxRows)
	}
	var err error
	p.row++
	p.fields, p.line, err = p.rows.next()
	if isRow(err) {
		return &Fault{Why: err.Error()}
	}
	if err != nil {
		return err
	}
	if len(p.fields) != len(p.names) {
		return &Fault{Why: fmt.Sprintf("%d fields, the first row has %d", len(p.fields), len(p.names))}
	}
	return nil
}

func (p *parser) get(at place) string {
	if at.join < 0 {
		return p.fields[at.column]
	}
	if row := p.joined[at.join]; row != nil {
		return row[at.column]
	}
	return ""
}

func (p *parser) time() (taxonomy.Millis, error) {
	s := p.fields[p.at]
	bad := func(why string) error { return &Fault{Column: p.m.Time, Why: why} }
	if p.m.missing(s) {
		return 0, bad("has no value")
	}
	switch p.layout {
	case "unix", "unix_ms":
		var n int64
		if len(s) > 15 {
			return 0, bad("is not a number of " + p.layout)
		}
		for i := range len(s) {
			if s[i] < '0' || s[i] > '9' {
				return 0, bad("is not a number of " + p.layout)
			}
			n = 10*n + int64(s[i]-'0')
		}
		if p.layout == "unix" {
			n *= 1000
		}
		return p.within(taxonomy.Millis(n))
	}
	t, err := time.Parse(p.layout, s)
	if err != nil {
		return 0, bad(fmt.Sprintf("is not a time of the layout %q", p.layout))
	}
	return p.within(taxonomy.MillisOf(t))
}

// within refuses times that no calendar of ours reaches, so that days do not
// overflow.
func (p *parser) within(t taxonomy.Millis) (taxonomy.Millis, error) {
	if t < -1<<52 || t > 1<<52 {
		return 0, &Fault{Column: p.m.Time, Why: "is out of range"}
	}
	return t, nil
}

// take makes the records of a row.
func (p *parser) take(rep *Report, fn func(*Fact) error) error {
	f := Fact{Row: p.row, Number: p.row, Visitor: p.fields[p.visitor]}
	switch {
	case p.m.missing(f.Visitor):
		return &Fault{Column: p.m.Visitor, Why: "has no value"}
	case len(f.Visitor) > maxID:
		return &Fault{Column: p.m.Visitor, Why: fmt.Sprintf("%d bytes long, at most %d", len(f.Visitor), maxID)}
	case !utf8.ValidString(f.Visitor):
		return &Fault{Column: p.m.Visitor, Why: "is not UTF-8"}
	case strings.Contains(f.Visitor, "@"):
		return &Fault{Column: p.m.Visitor, Reason: taxonomy.ReasonPII, Why: "looks like an e-mail address; an ID must not name a person"}
	}

	t, ahead := p.in.Now, false
	if p.at >= 0 {
		var err error
		if t, err = p.time(); err != nil {
			return err
		}
		t += taxonomy.Millis(p.m.ShiftDays) * taxonomy.OneDay
		if t > p.in.Now {
			t, ahead = p.in.Now, true
		}
		if t.Day() < p.in.Now.Day().Oldest() {
			return &Fault{Column: p.m.Time, Reason: taxonomy.ReasonTooOld,
				Why: fmt.Sprintf("%v is before %v, the first of the 90 days", t.Day(), p.in.Now.Day().Oldest())}
		}
	}
	unjoined := false
	for i, j := range p.m.Joins {
		p.joined[i] = p.in.Lookups[j.Name].rows[p.fields[p.on[i]]]
		unjoined = unjoined || p.joined[i] == nil
	}

	refused, err := p.emit(&f, t, rep, fn)
	if err != nil {
		return err
	}
	rep.Refused += refused
	if ahead {
		rep.Ahead++
	}
	if unjoined {
		rep.Unjoined++
	}
	if d := t.Day(); rep.Accepted == 0 {
		rep.First, rep.Last = d, d
	} else {
		rep.First, rep.Last = min(rep.First, d), max(rep.Last, d)
	}
	return nil
}

func (p *parser) emit(f *Fact, t taxonomy.Millis, rep *Report, fn func(*Fact) error) (refused uint64, err error) {
	hand := func() error {
		err := fn(f)
		if err == nil {
			rep.Records++
		}
		return err
	}
	limit := maxValue
	if p.m.Event == nil {
		limit = maxAttr
	}
	var props []taxonomy.Prop
	if len(p.values) > 0 {
		props = make([]taxonomy.Prop, 0, len(p.values))
	}
	for i := range p.values {
		v := &p.values[i]
		s := p.get(v.place)
		switch {
		case p.m.missing(s):
			continue
		case len(s) > limit:
			return 0, &Fault{Column: v.name, Why: fmt.Sprintf("%d bytes long, at most %d", len(s), limit)}
		case !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }):
			return 0, &Fault{Column: v.name, Why: "is not UTF-8 text of one line"}
		case p.in.Refuse != nil && p.in.Refuse(v.key, s):
			refused++
			continue
		}
		props = append(props, taxonomy.Prop{Key: v.key, Value: s})
	}

	if p.m.Event != nil {
		if f.ID, err = p.eventID(); err != nil {
			return 0, err
		}
		f.Event = &taxonomy.Event{Time: t, Kind: p.kind, Name: p.m.Event.Name, Props: props}
		return refused, hand()
	}
	var until taxonomy.Day
	if p.m.Life > 0 {
		until = t.Day() + taxonomy.Day(p.m.Life)
	}
	if l := p.m.List; l != nil {
		f.Statement = &taxonomy.Statement{Time: t, Trait: taxonomy.ListTrait(l.ID, !l.Out), Until: until}
		return refused, hand()
	}
	if len(props) == 0 && refused == 0 {
		return 0, &Fault{Why: "none of the attributes has a value"}
	}
	// Several records of one row need numbers of their own, the same whenever
	// the file is read, so each column has its place whether filled or not.
	for i := range p.values {
		for _, x := range props {
			if x.Key == p.values[i].key {
				f.Number = (f.Row-1)*uint32(len(p.values)) + uint32(i) + 1
				f.Statement = &taxonomy.Statement{Time: t, Trait: taxonomy.AttributeTrait(x.Key, x.Value), Until: until}
				if err := hand(); err != nil {
					return refused, err
				}
			}
		}
	}
	return refused, nil
}

// eventID joins the columns that identify the event. Lengths stand between
// them, so that "1","23" and "12","3" differ.
func (p *parser) eventID() (string, error) {
	if len(p.id) == 0 {
		return "", nil
	}
	var b strings.Builder
	for i, at := range p.id {
		s := p.get(at)
		if p.m.missing(s) {
			return "", &Fault{Column: p.m.Event.ID[i], Why: "has no value, and identifies the event"}
		}
		if i > 0 {
			fmt.Fprintf(&b, "\x1f%d\x1f", len(s))
		}
		b.WriteString(s)
	}
	if b.Len() > maxID {
		return "", &Fault{Column: p.m.Event.ID[0], Why: fmt.Sprintf("the columns that identify the event are %d bytes long, at most %d", b.Len(), maxID)}
	}
	return b.String(), nil
}
