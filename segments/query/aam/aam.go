// Package aam reads the rules of Adobe Audience Manager's segments, such as
//
//	(frequency([1000T] <= 2D) >= 5) AND NOT 2000T
//
// and makes expressions of the audience language of them.
package aam

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/ebb-dmp/ebb/segments/query"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/rules/aam"
)

// Bounds of what is read.
const (
	MaxBytes = 64 << 10
	maxDepth = 64
)

// Traits says what a trait of Audience Manager is called here. ok is false if it
// is not known, which is a fault of the rule.
type Traits func(id uint64) (t taxonomy.Trait, ok bool)

// Imported is what a segment's rule becomes.
type Imported struct {
	Rule query.Expr
	// Notes are what means something else here, each once.
	Notes []string
}

// Parse reads the rule of a segment. All faults are returned at once, each a
// taxonomy.FieldError whose field is "line 1, column 8": also what the audience
// language cannot say, for a rule that is nearly right would be worse than none.
func Parse(text string, traits Traits) (*Imported, error) {
	p := parser{text: text, faults: taxonomy.TextFaults{Text: text}, traits: traits}
	if len(text) > MaxBytes {
		return nil, p.failed(0, "the rule is %d bytes long, at most %d", len(text), MaxBytes)
	}
	if !utf8.ValidString(text) {
		return nil, p.failed(0, "the rule is not UTF-8")
	}
	p.toks = syntax.Tokens(text, p.fault)
	e := p.or(0)
	if t := p.tok(); t.Kind != aam.End {
		p.fault(t.At, "%s is left over; join two parts by AND or OR", t)
	}
	if p.faults.Len() > 0 {
		return nil, p.faults.Err()
	}
	if err := query.Check(e); err != nil {
		for _, f := range taxonomy.Faults(err) {
			p.fault(0, "as a rule, %s: %w", f.Field, f.Err)
		}
		return nil, p.faults.Err()
	}
	return &Imported{Rule: e, Notes: p.notes}, nil
}

// syntax is that of a segment's rule: it has lists in square brackets, and no quotes.
var syntax = aam.Syntax{Marks: "()[],", Signs: "<>="}

type parser struct {
	text   string
	traits Traits
	toks   []aam.Token
	i      int
	faults taxonomy.TextFaults
	notes  []string
}

func (p *parser) fault(at int, format string, args ...any) { p.faults.Add(at, format, args...) }

func (p *parser) failed(at int, format string, args ...any) error {
	p.fault(at, format, args...)
	return p.faults.Err()
}

func (p *parser) note(format string, args ...any) {
	if n := fmt.Sprintf(format, args...); !slices.Contains(p.notes, n) {
		p.notes = append(p.notes, n)
	}
}

func (p *parser) tok() aam.Token { return p.toks[p.i] }

func (p *parser) take(s string) bool {
	if p.tok().Kind != aam.End && strings.EqualFold(p.tok().Text, s) {
		p.i++
		return true
	}
	return false
}

func (p *parser) or(depth int) query.Expr {
	of := p.joined("OR", depth, p.and)
	if len(of) == 1 {
		return of[0]
	}
	return query.Or{Of: of}
}

func (p *parser) and(depth int) query.Expr {
	of := p.joined("AND", depth, p.not)
	if len(of) == 1 {
		return of[0]
	}
	return query.And{Of: of}
}

func (p *parser) joined(word string, depth int, part func(int) query.Expr) []query.Expr {
	of := []query.Expr{part(depth)}
	for p.take(word) {
		of = append(of, part(depth))
	}
	return of
}

func (p *parser) not(depth int) query.Expr {
	switch t := p.tok(); {
	case depth > maxDepth:
		return p.lost(t.At, "nested deeper than %d", maxDepth)
	case p.take("NOT"):
		p.note("NOT is of those who had any event in the 90 days: of others nothing is known")
		return query.Not{Of: p.not(depth + 1)}
	case p.take("("):
		e := p.or(depth + 1)
		if !p.take(")") {
			p.lost(p.tok().At, "want ')', got %s", p.tok())
			p.take(")")
		}
		return e
	case p.take("frequency"):
		return p.frequency(t)
	case p.take("all_confirmed"):
		p.note("all_confirmed is whoever had an event in the 90 days and came back with the cookie")
		return query.Any{}
	}
	t := p.tok()
	if trait, ok := p.trait(); ok {
		p.wholeLife()
		return query.Had(trait)
	}
	return p.lost(t.At, "want a trait such as 1000T, frequency(…), NOT or '(', got %s", t)
}

// lost says a fault and goes on behind the part, so that the rest is read too.
func (p *parser) lost(at int, format string, args ...any) query.Expr {
	p.fault(at, format, args...)
	for depth := 0; p.tok().Kind != aam.End; p.i++ {
		switch t := p.tok(); {
		case t.Text == "(":
			depth++
		case t.Text == ")" && depth > 0:
			depth--
		case depth == 0 && (t.Text == ")" || t.Is("AND") || t.Is("OR")):
			return query.Any{}
		}
	}
	return query.Any{}
}

// within is lost within the brackets of a frequency.
func (p *parser) within(at int, format string, args ...any) query.Expr {
	e := p.lost(at, format, args...)
	for !p.take(")") && p.tok().Kind != aam.End { // an "and" within the brackets is no end
		p.i++
	}
	return p.lostCount(e)
}

// lostCount goes past what may stand behind a frequency.
func (p *parser) lostCount(e query.Expr) query.Expr {
	if op := p.tok(); strings.Trim(op.Text, "<>=") == "" && op.Kind != aam.End {
		p.i++
		if _, ok := number(p.tok().Text, ""); ok {
			p.i++
		}
	}
	return e
}

// trait reads "1000T". ok is false if something else is next; a trait that is
// not known is a fault.
func (p *parser) trait() (taxonomy.Trait, bool) {
	t := p.tok()
	id, ok := number(t.Text, "T")
	if !ok {
		return "", false
	}
	p.i++
	trait, known := p.traits(uint64(id))
	if !known {
		p.fault(t.At, "trait %s is not known here; import it first, or say which category it is", t.Text)
		return taxonomy.TraitAny, true
	}
	return trait, true
}

// number reads digits and a unit, in either case.
func number(s, unit string) (int64, bool) {
	if len(s) <= len(unit) || !strings.EqualFold(s[len(s)-len(unit):], unit) || s[0] < '0' || s[0] > '9' {
		return 0, false
	}
	n, err := strconv.ParseInt(s[:len(s)-len(unit)], 10, 64)
	return n, err == nil
}

func (p *parser) wholeLife() {
	p.note("without a recency Audience Manager looks at a trait's whole life, 120 days if nothing else was set; here it is 90 days")
}

// frequency reads what follows the word: ([1000T,2000T] <= 2D) >= 5. The recency
// and the frequency may be left out.
func (p *parser) frequency(word aam.Token) query.Expr {
	const want = "want ([ and traits after frequency, got %s"
	if !p.take("(") {
		return p.lost(p.tok().At, want, p.tok())
	}
	if !p.take("[") {
		return p.within(p.tok().At, want, p.tok())
	}
	var traits []taxonomy.Trait
	for {
		t, ok := p.trait()
		if !ok {
			return p.within(p.tok().At, "want a trait such as 1000T, got %s", p.tok())
		}
		if !slices.Contains(traits, t) {
			traits = append(traits, t)
		}
		if !p.take(",") {
			break
		}
	}
	if !p.take("]") {
		return p.within(p.tok().At, "want ',' or ']', got %s", p.tok())
	}
	window := query.LastDays(taxonomy.RetentionDays)
	if op := p.tok(); op.Text != ")" && op.Kind != aam.End {
		p.i++
		days := p.tok()
		n, ok := number(days.Text, "D")
		if !ok {
			return p.within(days.At, "want a number of days such as 30D, got %s", days)
		}
		p.i++
		switch {
		case op.Text == ">=" || op.Text == "=>":
			p.fault(op.At, "cannot be said here: %s %s is \"longer ago than %s\", and windows end today or on a fixed day; last seen %d+ days ago asks for the newest event", op.Text, days.Text, days.Text, min(n, taxonomy.RetentionDays-1))
		case op.Text != "<=":
			p.fault(op.At, "want <= or >= before the days, got %s", op)
		case n < 1:
			p.fault(days.At, "want at least 1D, got %s", days)
		case n > taxonomy.RetentionDays:
			p.note("%s becomes 90 days: nothing is kept for longer", strings.ToUpper(days.Text))
		default:
			p.note("\"the last N days\" is today and the N-1 UTC days before, not N times 24 hours")
			window = query.LastDays(int(n))
		}
	} else {
		p.wholeLife()
	}
	if !p.take(")") {
		return p.within(p.tok().At, "want ')', got %s", p.tok())
	}
	lo, hi := int64(1), int64(open)
	if op := p.tok(); strings.Trim(op.Text, "<>=") == "" && op.Kind != aam.End {
		p.i++
		num := p.tok()
		n, ok := number(num.Text, "")
		if !ok {
			return p.lost(num.At, "want how often, got %s", num)
		}
		p.i++
		if n > query.MaxMax {
			p.fault(num.At, "%d is more than can be counted, which is %d", n, query.MaxMax)
			return query.Any{}
		}
		switch op.Text {
		case ">=", "=>":
			lo = n
		case ">":
			lo = n + 1
		case "==":
			lo, hi = n, n
		case "<=":
			lo, hi = 0, n
		case "<":
			if lo, hi = 0, n-1; n == 0 {
				p.fault(num.At, "less than 0 is true of nobody")
			}
		default:
			p.fault(op.At, "want >=, <= or ==, got %s", op)
		}
		if lo == 0 && hi == open && n == 0 && op.Text != "<" {
			p.fault(num.At, "at least 0 is true of all")
		}
	}
	return p.counted(word, traits, window, int(lo), int(hi))
}

// open is the upper bound of what has none.
const open = -1

// counted asks how often one of the traits was had.
func (p *parser) counted(word aam.Token, traits []taxonomy.Trait, w query.Window, lo, hi int) query.Expr {
	each := func(lo, hi int) query.Expr {
		var of []query.Expr
		for _, t := range traits {
			e := query.Had(t)
			e.Window, e.Min, e.Max = w, lo, max(hi, 0)
			of = append(of, e)
		}
		if len(of) == 1 {
			return of[0]
		}
		return query.Or{Of: of}
	}
	switch {
	case hi == 0: // never
		return query.Not{Of: each(1, open)}
	case lo == 1 && hi == open, len(traits) == 1:
		if lo == 0 {
			p.note("an upper bound alone also counts those who never had the trait, if they had any event in the 90 days")
		}
		return each(lo, hi)
	}
	p.fault(word.At, "cannot be said here: the events of %d traits counted together; give the traits one category above them and ask for that", len(traits))
	return query.Any{}
}
