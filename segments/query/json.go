package query

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/near"
)

// MaxBytes is the size of the largest expression that Parse reads.
const MaxBytes = 256 << 10

// maxNesting bounds the JSON itself. Each level of an expression takes at most
// two levels of JSON, and a leaf two more.
const maxNesting = 2*MaxDepth + 8

// Parse reads the JSON face of an expression. Unknown keys are refused, and all
// faults are returned at once: each is a taxonomy.FieldError whose field is its
// path, such as "and[1].window" ("." is the whole).
func Parse(b []byte) (Expr, error) { return ParseAt("", b) }

// ParseAt is Parse for an expression that stands at a path of a larger document.
func ParseAt(path string, b []byte) (Expr, error) {
	p := parser{}
	if len(b) > MaxBytes {
		p.faults.add(path, "the expression is %d bytes long, at most %d", len(b), MaxBytes)
		return nil, p.faults.err()
	}
	root, err := readValue(b)
	if err != nil {
		p.faults.add(path, "%v", err)
		return nil, p.faults.err()
	}
	e := p.expr(path, root, 1)
	// The rules of the language are checked on the tree. If its form is at fault
	// too, only faults of leaves that could be read are added.
	c := checker{}
	c.expr(path, e, 1)
	if e == nil || len(p.faults.errs) > 0 {
		return nil, p.faults.err()
	}
	if err := c.faults.err(); err != nil {
		return nil, err
	}
	return e, nil
}

// Print returns the JSON face of an expression, in one form for each meaning of
// the tree: Parse(Print(e)) is e for every e that Check passes.
func Print(e Expr) []byte { return appendExpr(nil, e) }

func appendExpr(b []byte, e Expr) []byte {
	list := func(key string, of []Expr) {
		b = append(b, `{"`+key+`":[`...)
		for i, k := range of {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendExpr(b, k)
		}
		b = append(b, "]}"...)
	}
	switch e := e.(type) {
	case And:
		list("and", e.Of)
	case Or:
		list("or", e.Of)
	case Not:
		b = append(b, `{"not":`...)
		b = append(appendExpr(b, e.Of), '}')
	case Any:
		b = append(b, `{"any":true}`...)
	case Trait:
		b = appendTrait(b, &e)
	case Sequence:
		b = append(b, `{"sequence":[`...)
		for i, st := range e.Steps {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendString(append(b, `{"trait":`...), string(st.Trait))
			if i > 0 && st.Within != MaxWithin {
				b = strconv.AppendInt(append(b, `,"within_days":`...), int64(st.Within), 10)
			}
			if st.Sources != nil {
				b = appendStrings(append(b, `,"sources":`...), st.Sources)
			}
			b = append(b, '}')
		}
		b = append(appendWindow(append(b, ']'), e.Window), '}')
	case AsOf:
		if e.Day != 0 {
			b = append(b, `{"as_of":"`+e.Day.String()+`","of":`...)
		} else {
			b = fmt.Appendf(b, `{"as_of":{"days_ago":%d},"of":`, e.Ago)
		}
		b = append(appendExpr(b, e.Of), '}')
	case Attribute:
		b = appendString(append(b, `{"attribute":`...), e.Key)
		if r := e.Range; r != nil {
			bound := func(b []byte, at Bound, shut, open string) []byte {
				if !at.Set {
					return b
				}
				if at.Open {
					shut = open
				}
				return append(b, `,"`+shut+`":`+numeral(at.Value)...)
			}
			b = append(bound(bound(b, r.Low, "min", "above"), r.High, "max", "below"), '}')
		} else {
			b = append(appendStrings(append(b, `,"in":`...), e.In), '}')
		}
	case List:
		b = append(appendString(append(b, `{"list":`...), string(e.List)), '}')
	case Audience:
		b = append(appendString(append(b, `{"audience":`...), string(e.ID)), '}')
	default:
		b = append(b, "null"...)
	}
	return b
}

func appendTrait(b []byte, t *Trait) []byte {
	b = appendString(append(b, `{"trait":`...), string(t.Trait))
	b = appendWindow(b, t.Window)
	if t.Min != 1 {
		b = strconv.AppendInt(append(b, `,"min":`...), int64(t.Min), 10)
	}
	if t.Max != 0 {
		b = strconv.AppendInt(append(b, `,"max":`...), int64(t.Max), 10)
	}
	if t.Unit == index.DistinctDays {
		b = append(b, `,"unit":"days"`...)
	}
	if t.Sources != nil {
		b = appendStrings(append(b, `,"sources":`...), t.Sources)
	}
	if l := t.LastSeen; l != nil {
		b = fmt.Appendf(b, `,"last_seen":{"min_days":%d,"max_days":%d}`, l.Min, l.Max)
	}
	return append(b, '}')
}

func appendWindow(b []byte, w Window) []byte {
	switch {
	case w.Days == 0:
		b = append(b, `,"window":{"from":"`+w.From.String()+`","to":"`+w.To.String()+`"}`...)
	case w.Days != taxonomy.RetentionDays:
		b = append(b, `,"window":"`+strconv.Itoa(w.Days)+`d"`...)
	}
	return b
}

// numeral writes a number without an exponent.
func numeral(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }

func appendStrings[S ~string](b []byte, ss []S) []byte {
	b = append(b, '[')
	for i, s := range ss {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendString(b, string(s))
	}
	return append(b, ']')
}

func appendString(b []byte, s string) []byte {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(s) // a string and a buffer: cannot fail
	return append(b, bytes.TrimSuffix(buf.Bytes(), []byte("\n"))...)
}

// value is a JSON value with its keys in the order in which they stood.
type value struct {
	kind byte // '{', '[', 's'tring, 'n'umber, 'b'ool, '0' null
	keys []string
	vals []*value // of an object by keys, or of an array
	str  string   // string, number
	yes  bool
}

func (v *value) what() string {
	switch v.kind {
	case '{':
		return "an object"
	case '[':
		return "an array"
	case 's':
		return "a string"
	case 'n':
		return "a number"
	case 'b':
		return "true or false"
	}
	return "null"
}

func (v *value) get(key string) *value {
	if i := slices.Index(v.keys, key); i >= 0 {
		return v.vals[i]
	}
	return nil
}

// readValue reads exactly one JSON value. encoding/json alone would take the
// last of repeated keys in silence; here a repeat is kept, and refused later
// with its path.
func readValue(b []byte) (*value, error) {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	v, err := readNext(dec, 0)
	if err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, errors.New("the JSON ends too early")
		}
		return nil, fmt.Errorf("at byte %d: %w", dec.InputOffset(), err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, fmt.Errorf("more follows the JSON value at byte %d", dec.InputOffset())
	}
	return v, nil
}

func readNext(dec *json.Decoder, depth int) (*value, error) {
	if depth > maxNesting {
		return nil, fmt.Errorf("nested deeper than %d", MaxDepth)
	}
	tok, err := dec.Token()
	if err != nil {
		return nil, err
	}
	switch t := tok.(type) {
	case string:
		return &value{kind: 's', str: t}, nil
	case json.Number:
		return &value{kind: 'n', str: t.String()}, nil
	case bool:
		return &value{kind: 'b', yes: t}, nil
	case json.Delim:
		v := &value{kind: byte(t)}
		for dec.More() {
			if t == '{' {
				key, err := dec.Token()
				if err != nil {
					return nil, err
				}
				v.keys = append(v.keys, key.(string))
			}
			k, err := readNext(dec, depth+1)
			if err != nil {
				return nil, err
			}
			v.vals = append(v.vals, k)
		}
		_, err := dec.Token() // the closing one
		return v, err
	}
	return &value{kind: '0'}, nil
}

// Sizes beyond which JSON is refused before it is looked through: keys of an
// object, and strings of an array.
const (
	maxKeys    = 32
	maxStrings = 500
)

// keysOf is what may stand in each kind of node; the first is what names it.
var keysOf = map[string][]string{
	"and":       {"and"},
	"or":        {"or"},
	"not":       {"not"},
	"any":       {"any"},
	"trait":     {"trait", "window", "min", "max", "unit", "sources", "last_seen"},
	"sequence":  {"sequence", "window"},
	"as_of":     {"as_of", "of"},
	"attribute": {"attribute", "in", "min", "above", "max", "below"},
	"list":      {"list"},
	"audience":  {"audience"},
}

var kinds = []string{"and", "or", "not", "any", "trait", "sequence", "as_of", "attribute", "list", "audience"}

type parser struct {
	faults faults
	nodes  int
}

// expr returns nil if the node itself cannot be told.
func (p *parser) expr(path string, v *value, depth int) Expr {
	if p.nodes++; p.nodes > MaxNodes {
		if p.nodes == MaxNodes+1 {
			p.faults.add(path, "the expression has more than %d nodes; split it into audiences of its own", MaxNodes)
		}
		return nil
	}
	if depth > MaxDepth {
		p.faults.add(path, "nested deeper than %d", MaxDepth)
		return nil
	}
	if v.kind != '{' {
		p.faults.add(path, "want an object such as {\"trait\": …}, got %s", v.what())
		return nil
	}
	if p.tooMany(path, v) {
		return nil
	}
	kind := ""
	for _, k := range kinds {
		if v.get(k) == nil {
			continue
		}
		if kind != "" {
			p.faults.add(path, "has both %q and %q; put each into its own object, within {\"and\": […]} or {\"or\": […]}", kind, k)
			return nil
		}
		kind = k
	}
	if kind == "" {
		if len(v.keys) == 0 {
			p.faults.add(path, "is empty; want one of %s", strings.Join(kinds, ", "))
		}
		for _, k := range v.keys {
			p.unknown(path, k, kinds)
		}
		return nil
	}
	p.keys(path, v, keysOf[kind])
	switch kind {
	case "and":
		return And{p.list(join(path, kind), v.get(kind), depth)}
	case "or":
		return Or{p.list(join(path, kind), v.get(kind), depth)}
	case "not":
		return Not{p.expr(join(path, kind), v.get(kind), depth+1)}
	case "any":
		if x := v.get(kind); x.kind != 'b' || !x.yes {
			p.faults.add(join(path, kind), "want true; for its opposite use {\"not\": …}")
		}
		return Any{}
	case "trait":
		return p.trait(path, v)
	case "attribute":
		a := Attribute{Key: p.str(join(path, kind), v.get(kind))}
		if in := v.get("in"); in != nil {
			a.In = p.strings(join(path, "in"), in)
		}
		a.Range = p.between(path, v)
		return a
	case "sequence":
		return p.sequence(path, v)
	case "as_of":
		return p.asOf(path, v, depth)
	case "list":
		return List{taxonomy.ListID(p.str(join(path, kind), v.get(kind)))}
	default:
		return Audience{taxonomy.AudienceID(p.str(join(path, kind), v.get(kind)))}
	}
}

func (p *parser) list(path string, v *value, depth int) []Expr {
	if v.kind != '[' {
		p.faults.add(path, "want an array of expressions, got %s", v.what())
		return nil
	}
	of := make([]Expr, len(v.vals))
	for i, k := range v.vals {
		of[i] = p.expr(path+"["+strconv.Itoa(i)+"]", k, depth+1)
	}
	return of
}

func (p *parser) trait(path string, v *value) Expr {
	t := Had(taxonomy.Trait(p.str(join(path, "trait"), v.get("trait"))))
	if w := v.get("window"); w != nil {
		t.Window = p.window(join(path, "window"), w)
	}
	if n := v.get("min"); n != nil {
		t.Min = p.int(join(path, "min"), n)
	}
	if n := v.get("max"); n != nil {
		at := join(path, "max")
		if t.Max = p.int(at, n); t.Max == 0 && n.kind == 'n' && n.str == "0" {
			p.faults.add(at, `0 is not within 1 to %d; for those who never had it use {"not": {"trait": …}}`, MaxMax)
		}
	}
	if u := v.get("unit"); u != nil {
		switch s := p.str(join(path, "unit"), u); {
		case s == index.DistinctDays.String():
			t.Unit = index.DistinctDays
		case s != index.Events.String() && u.kind == 's':
			p.faults.add(join(path, "unit"), "%.40q is not one of events, days", s)
		}
	}
	t.Sources = p.sources(path, v)
	if l := v.get("last_seen"); l != nil {
		at := join(path, "last_seen")
		if l.kind != '{' {
			p.faults.add(at, "want an object with min_days and max_days, got %s", l.what())
			return t
		}
		p.keys(at, l, []string{"min_days", "max_days"})
		t.LastSeen = &Recency{Max: taxonomy.RetentionDays - 1}
		if n := l.get("min_days"); n != nil {
			t.LastSeen.Min = p.int(join(at, "min_days"), n)
		}
		if n := l.get("max_days"); n != nil {
			t.LastSeen.Max = p.int(join(at, "max_days"), n)
		}
	}
	return t
}

func (p *parser) sources(path string, v *value) (ids []taxonomy.SourceID) {
	if s := v.get("sources"); s != nil {
		ids = []taxonomy.SourceID{}
		for _, id := range p.strings(join(path, "sources"), s) {
			ids = append(ids, taxonomy.SourceID(id))
		}
	}
	return ids
}

func (p *parser) sequence(path string, v *value) Expr {
	at := join(path, "sequence")
	s := Sequence{Window: LastDays(taxonomy.RetentionDays)}
	if w := v.get("window"); w != nil {
		s.Window = p.window(join(path, "window"), w)
	}
	steps := v.get("sequence")
	if steps.kind != '[' || len(steps.vals) > maxStrings {
		p.faults.add(at, "want an array of 2 to %d steps such as {\"trait\": …, \"within_days\": 7}", MaxSteps)
		return s
	}
	for i, k := range steps.vals {
		at := at + "[" + strconv.Itoa(i) + "]"
		st := Step{}
		if i > 0 {
			st.Within = MaxWithin
		}
		if k.kind != '{' || k.get("trait") == nil {
			p.faults.add(at, "want a step such as {\"trait\": \"c:shop/shoes\", \"within_days\": 7}")
		} else {
			p.keys(at, k, []string{"trait", "within_days", "sources"})
			st.Trait = taxonomy.Trait(p.str(join(at, "trait"), k.get("trait")))
			if n := k.get("within_days"); n != nil {
				if st.Within = p.int(join(at, "within_days"), n); i == 0 {
					p.faults.add(join(at, "within_days"), "the first step has none before it")
				}
			}
			st.Sources = p.sources(at, k)
		}
		s.Steps = append(s.Steps, st)
	}
	return s
}

func (p *parser) asOf(path string, v *value, depth int) Expr {
	e, at := AsOf{}, join(path, "as_of")
	switch when := v.get("as_of"); when.kind {
	case 's':
		var err error
		if e.Day, err = taxonomy.ParseDay(when.str); err != nil {
			p.faults.add(at, "%.40q is not a day; want YYYY-MM-DD, or {\"days_ago\": 30}", when.str)
		}
	case '{':
		p.keys(at, when, []string{"days_ago"})
		if n := when.get("days_ago"); n != nil {
			e.Ago = p.int(join(at, "days_ago"), n)
		}
	default:
		p.faults.add(at, "want \"2026-09-01\" or {\"days_ago\": 30}, got %s", when.what())
	}
	if of := v.get("of"); of != nil {
		e.Of = p.expr(join(path, "of"), of, depth+1)
	} else {
		p.faults.add(join(path, "of"), "is missing: what was true then")
	}
	return e
}

// between reads the bounds of an attribute; nil if it has none.
func (p *parser) between(path string, v *value) *Range {
	var r Range
	read := func(to *Bound, shut, open string) {
		for _, key := range []string{shut, open} {
			n := v.get(key)
			if n == nil {
				continue
			}
			if to.Set {
				p.faults.add(join(path, key), "has both %q and %q", shut, open)
				continue
			}
			f, err := strconv.ParseFloat(n.str, 64)
			if n.kind != 'n' || err != nil {
				p.faults.add(join(path, key), "want a number, got %s", got(n))
			}
			*to = Bound{Set: true, Value: f, Open: key == open}
		}
	}
	read(&r.Low, "min", "above")
	read(&r.High, "max", "below")
	if r == (Range{}) {
		return nil
	}
	return &r
}

func (p *parser) window(path string, v *value) Window {
	switch v.kind {
	case 's':
		digits, ok := strings.CutSuffix(v.str, "d")
		n, err := strconv.Atoi(digits)
		if !ok || err != nil || strconv.Itoa(n) != digits || n < 1 || n > taxonomy.RetentionDays {
			p.faults.add(path, "%.40q is not a window; want \"1d\" to \"%dd\" (1d is today), or {\"from\": \"2026-09-01\", \"to\": \"2026-09-30\"}", v.str, taxonomy.RetentionDays)
			return LastDays(1)
		}
		return LastDays(n)
	case '{':
		p.keys(path, v, []string{"from", "to"})
		w := Window{}
		day := func(key string, d *taxonomy.Day) {
			k := v.get(key)
			if k == nil {
				p.faults.add(join(path, key), "is missing")
				return
			}
			s := p.str(join(path, key), k)
			if k.kind != 's' {
				return
			}
			var err error
			if *d, err = taxonomy.ParseDay(s); err != nil {
				p.faults.add(join(path, key), "%.40q is not a day; want YYYY-MM-DD", s)
			}
		}
		day("from", &w.From)
		day("to", &w.To)
		return w
	}
	p.faults.add(path, "want \"30d\" or {\"from\": …, \"to\": …}, got %s", v.what())
	return LastDays(1)
}

func (p *parser) tooMany(path string, v *value) bool {
	if len(v.keys) > maxKeys {
		p.faults.add(path, "has %d keys, at most %d", len(v.keys), maxKeys)
		return true
	}
	return false
}

// keys refuses keys that are not known, and repeats.
func (p *parser) keys(path string, v *value, known []string) {
	if p.tooMany(path, v) {
		return
	}
	for i, k := range v.keys {
		if !slices.Contains(known, k) {
			p.unknown(path, k, known)
		} else if slices.Index(v.keys, k) < i {
			p.faults.add(join(path, k), "stands twice")
		}
	}
}

func (p *parser) unknown(path, key string, known []string) {
	if meant, ok := near.Word(key, known, len(key)/2+1); ok {
		p.faults.add(join(path, cut(key)), "unknown key; did you mean %q?", meant)
		return
	}
	p.faults.add(join(path, cut(key)), "unknown key; known here: %s", strings.Join(known, ", "))
}

func cut(s string) string {
	if len(s) > 40 {
		return s[:40] + "…"
	}
	return s
}

func (p *parser) str(path string, v *value) string {
	if v.kind != 's' {
		p.faults.add(path, "want a string, got %s", v.what())
	}
	return v.str
}

// strings returns the strings of an array, sorted, since their order means
// nothing; a repeat is refused where it stands.
func (p *parser) strings(path string, v *value) []string {
	if v.kind != '[' {
		p.faults.add(path, "want an array of strings, got %s", v.what())
		return nil
	}
	if len(v.vals) > maxStrings {
		p.faults.add(path, "has %d entries, at most %d", len(v.vals), maxStrings)
		return nil
	}
	out := make([]string, 0, len(v.vals))
	for i, k := range v.vals {
		at := path + "[" + strconv.Itoa(i) + "]"
		s := p.str(at, k)
		if slices.Contains(out, s) {
			p.faults.add(at, "%.80q is repeated", s)
			continue
		}
		out = append(out, s)
	}
	slices.Sort(out)
	return out
}

func (p *parser) int(path string, v *value) int {
	n, err := strconv.Atoi(v.str)
	if v.kind != 'n' || err != nil {
		p.faults.add(path, "want a whole number, got %s", got(v))
	}
	return n
}

func got(v *value) string {
	if v.kind == 'n' {
		return cut(v.str)
	}
	return v.what()
}
