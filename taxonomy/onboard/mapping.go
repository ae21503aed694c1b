// Package onboard reads files of what is known already: facts, attributes and
// lists, in CSV. It parses and reports; a bad row is named and never ends a
// file.
package onboard

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/ebb-dmp/ebb/taxonomy"
)

// Mapping says what the columns of a file mean. It must have a visitor, and one
// of Event, Attributes and List.
type Mapping struct {
	// Comma separates fields: "," if empty; "\t" and ";" are usual.
	Comma string `json:"comma,omitempty"`
	// Missing are texts that stand for no value, such as NA. An empty field is
	// missing too.
	Missing []string `json:"missing,omitempty"`

	// Visitor is the column of the visitor's ID, Space the kind of that ID.
	Visitor string         `json:"visitor"`
	Space   taxonomy.Space `json:"space"`

	// Time is the column of the time. Without it everything is as of the import.
	Time string `json:"time,omitempty"`
	// Layout of Time: a layout of Go's time package such as "2006-01-02
	// 15:04:05", or unix (seconds), unix_ms, or rfc3339, which is the default.
	// A time without zone is UTC.
	Layout string `json:"layout,omitempty"`
	// ShiftDays is added to every time: a file of last year can be moved so that
	// its last day (Span) is today.
	ShiftDays int `json:"shift_days,omitempty"`

	// Joins bring columns from other files.
	Joins []Join `json:"joins,omitempty"`

	// Event makes an event of each row.
	Event *EventMapping `json:"event,omitempty"`
	// Attributes make a statement of each of their columns that has a value.
	Attributes []Column `json:"attributes,omitempty"`
	// List puts the visitor of each row into a list, or takes it out.
	List *ListMapping `json:"list,omitempty"`
	// Life is for how many days after their time statements hold: 1 to 90, 0
	// for 90.
	Life int `json:"life,omitempty"`
}

// EventMapping says how a row becomes an event.
type EventMapping struct {
	Kind string `json:"kind,omitempty"` // fact if empty
	Name string `json:"name,omitempty"`
	// ID has the columns that together identify the event within the source. If
	// empty, file and row do: then the same row in another file is another event.
	ID    []string `json:"id,omitempty"`
	Props []Column `json:"props,omitempty"`
}

// ListMapping says in which list a row puts its visitor.
type ListMapping struct {
	ID  taxonomy.ListID `json:"id"`
	Out bool            `json:"out,omitempty"` // take out instead
}

// Column names a column and the key under which its value is kept; the key is
// the column if empty.
type Column struct {
	Column string `json:"column"`
	Key    string `json:"key,omitempty"`
}

// Join looks the value of the column On up in a Lookup and brings its columns.
type Join struct {
	Name    string   `json:"name"` // which Lookup
	On      string   `json:"on"`   // a column of the file
	Key     string   `json:"key"`  // the column of the other file that it equals
	Columns []string `json:"columns"`
}

func (c Column) key() string {
	if c.Key != "" {
		return c.Key
	}
	return c.Column
}

// Validate returns every fault of m, each a taxonomy.FieldError, joined.
func (m *Mapping) Validate() error {
	var errs []error
	fault := func(field, format string, args ...any) {
		errs = append(errs, taxonomy.Invalid(field, format, args...))
	}
	if len(m.Comma) > 1 || m.Comma == `"` || m.Comma == "\n" || m.Comma == "\r" {
		fault("comma", "%q is not one character of ASCII that can separate", m.Comma)
	}
	if m.Visitor == "" {
		fault("visitor", "name the column of the visitor's ID")
	}
	if err := taxonomy.CheckSpace(m.Space); err != nil {
		errs = append(errs, &taxonomy.FieldError{Field: "space", Err: err})
	} else if m.Space == taxonomy.SpaceCookie {
		fault("space", "cookie IDs are known to browsers only; use own:<name>, partner:<name> or device")
	}
	if m.Time == "" && m.Layout != "" {
		fault("layout", "has no meaning without time")
	}
	if m.ShiftDays < -40_000 || m.ShiftDays > 40_000 {
		fault("shift_days", "%d is not within ±40000", m.ShiftDays)
	}
	if m.Life < 0 || m.Life > taxonomy.RetentionDays {
		fault("life", "%d is not 0 to %d days", m.Life, taxonomy.RetentionDays)
	}
	columns := make(map[string]string)
	for i, j := range m.Joins {
		at := fmt.Sprintf("joins[%d]", i)
		if j.Name == "" || j.On == "" || j.Key == "" || len(j.Columns) == 0 {
			fault(at, "needs name, on, key and columns")
		}
		for _, c := range j.Columns {
			if first, ok := columns[c]; ok {
				fault(at+".columns", "%q also comes from %s", c, first)
			}
			columns[c] = at
		}
	}
	n := 0
	if e := m.Event; e != nil {
		n++
		if e.Kind != "" {
			if _, ok := taxonomy.ParseEventKind(e.Kind); !ok {
				fault("event.kind", "%q is not one of page, track, impression, click, conversion, fact", e.Kind)
			}
		}
		if len(e.Name) > maxValue {
			fault("event.name", "%d bytes long, at most %d", len(e.Name), maxValue)
		}
		checkColumns("event.props", e.Props, fault)
		for i, c := range e.Props {
			if taxonomy.NeverStored(c.key()) {
				fault(fmt.Sprintf("event.props[%d].key", i), "%q begins as what is evaluated and never stored: the edge does that, an import would store it", c.key())
			}
		}
		for i, c := range e.ID {
			if c == "" || slices.Contains(e.ID[:i], c) {
				fault(fmt.Sprintf("event.id[%d]", i), "is empty or named twice")
			}
		}
	}
	if len(m.Attributes) > 0 {
		n++
		checkColumns("attributes", m.Attributes, fault)
		for i, c := range m.Attributes {
			if err := taxonomy.CheckSlug("key", c.key()); err != nil {
				errs = append(errs, &taxonomy.FieldError{Field: fmt.Sprintf("attributes[%d].key", i), Err: err})
			}
		}
	}
	if l := m.List; l != nil {
		n++
		if err := taxonomy.CheckSlug("id", string(l.ID)); err != nil {
			errs = append(errs, &taxonomy.FieldError{Field: "list.id", Err: err})
		}
	}
	if n != 1 {
		fault("event", "give exactly one of event, attributes and list, not %d", n)
	}
	return errors.Join(errs...)
}

// maxColumns bounds what is taken of a row, and so the numbers of its records.
const maxColumns = 64

func checkColumns(field string, cs []Column, fault func(field, format string, args ...any)) {
	if len(cs) > maxColumns {
		fault(field, "%d columns, at most %d", len(cs), maxColumns)
	}
	seen := make(map[string]bool)
	for i, c := range cs {
		at := fmt.Sprintf("%s[%d]", field, i)
		switch {
		case c.Column == "":
			fault(at+".column", "must not be empty")
		case len(c.key()) > 64:
			fault(at+".key", "%.20q…: %d bytes long, at most 64", c.key(), len(c.key()))
		case seen[c.key()]:
			fault(at+".key", "%q is taken", c.key())
		}
		seen[c.key()] = true
	}
}

func (m *Mapping) comma() byte {
	if m.Comma == "" {
		return ','
	}
	return m.Comma[0]
}

func (m *Mapping) missing(s string) bool { return s == "" || slices.Contains(m.Missing, s) }

// Lookup is another file in memory: some columns, by a key.
type Lookup struct {
	columns []string
	rows    map[string][]string
}

// NewLookup reads CSV and keeps the join's columns by its key. Every fault ends
// it, for a table that is half read gives wrong answers in silence: a bad row, a
// column that is not there, a key that comes twice with other values.
func NewLookup(r io.Reader, comma string, j Join) (*Lookup, error) {
	m := Mapping{Comma: comma}
	x := newRows(r, m.comma())
	names, err := x.header()
	if err != nil {
		return nil, fmt.Errorf("read the table %q: line 1: %w", j.Name, err)
	}
	at := make([]int, len(j.Columns))
	key := slices.Index(names, j.Key)
	if key < 0 {
		return nil, fmt.Errorf("read the table %q: there is no column %q; there are %s", j.Name, j.Key, list(names))
	}
	for i, c := range j.Columns {
		if at[i] = slices.Index(names, c); at[i] < 0 {
			return nil, fmt.Errorf("read the table %q: there is no column %q; there are %s", j.Name, c, list(names))
		}
	}
	l := &Lookup{columns: slices.Clone(j.Columns), rows: make(map[string][]string)}
	intern := make(map[string]string)
	for {
		fields, line, err := x.next()
		if err == io.EOF {
			return l, nil
		}
		if err == nil && len(fields) != len(names) {
			err = fmt.Errorf("%d fields, the first row has %d", len(fields), len(names))
		}
		if err != nil {
			return nil, fmt.Errorf("read the table %q: line %d: %w", j.Name, line, err)
		}
		row := make([]string, len(at))
		for i, c := range at {
			v, ok := intern[fields[c]]
			if !ok {
				v = strings.Clone(fields[c])
				intern[v] = v
			}
			row[i] = v
		}
		if old, ok := l.rows[fields[key]]; ok && !slices.Equal(old, row) {
			return nil, fmt.Errorf("read the table %q: line %d: the key of column %q was there already, with other values", j.Name, line, j.Key)
		}
		l.rows[strings.Clone(fields[key])] = row
	}
}

// Len returns the number of keys.
func (l *Lookup) Len() int { return len(l.rows) }

func list(names []string) string {
	if len(names) > 20 {
		return fmt.Sprintf("%q and %d more", names[:20], len(names)-20)
	}
	return fmt.Sprintf("%q", names)
}
