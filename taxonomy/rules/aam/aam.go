// Package aam reads the rules of Adobe Audience Manager's traits, such as
//
//	(c_make == "A") AND (c_search == "1" OR NOT (d_event == imp))
//
// and makes classifier rules of them.
package aam

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/rules"
	"github.com/ebb-dmp/ebb/taxonomy/tree"
)

// Bounds of what is read.
const (
	MaxBytes = 64 << 10
	MaxDepth = 64
	// MaxConditions is how many conditions a trait may have in all; one rule may
	// have rules.MaxConditions of them.
	MaxConditions = 1000
	// MaxRules is how many rules one trait may become: a classifier rule has no
	// "or", so each way in which the trait's can hold is a rule of its own.
	MaxRules = 100
)

// Imported is what a trait's rule becomes.
type Imported struct {
	// Rules that give the trait, together, exactly when the trait's rule holds.
	// The first has the ID that was asked for, the others have -2, -3 …
	Rules []rules.Rule
	// Notes are what means something else here, or needs something of the
	// operator, each once.
	Notes []string
}

// Parse reads the rule of a trait and makes rules that give then. All faults are
// returned at once, each a taxonomy.FieldError whose field is "line 1, column 8".
// What it returns is not yet held against a forest: rules.Compile does that.
//
// Keys become fields by their prefix: c_ is the customer's, a property; d_event
// is the kind, h_host and h_referer are the URL's host and the referrer's;
// other keys are properties of that name without the prefix.
func Parse(id, title, text string, then []string) (*Imported, error) {
	p := parser{text: text, faults: taxonomy.TextFaults{Text: text}}
	if len(text) > MaxBytes {
		return nil, p.failed(0, "the rule is %d bytes long, at most %d", len(text), MaxBytes)
	}
	if !utf8.ValidString(text) {
		return nil, p.failed(0, "the rule is not UTF-8")
	}
	p.toks = traitSyntax.Tokens(text, p.fault)
	e := p.or(0)
	if t := p.tok(); t.Kind != End {
		p.fault(t.At, "%s is left over; join two parts by AND or OR", t)
	}
	if p.faults.Len() > 0 {
		return nil, p.faults.Err()
	}
	if p.conditions > MaxConditions {
		return nil, p.failed(0, "the rule has %d conditions, at most %d", p.conditions, MaxConditions)
	}
	ways, err := e.ways(false)
	if err != nil {
		return nil, p.failed(0, "%w", err)
	}
	out := &Imported{Notes: p.notes}
	for i, w := range ways {
		r := rules.Rule{ID: id, Title: title, When: w, Then: then}
		if i > 0 {
			r.ID = fmt.Sprintf("%s-%d", id, i+1)
		}
		out.Rules = append(out.Rules, r)
	}
	return out, nil
}

// expr is a part of the rule: a condition, or an "and" or "or" of others.
type expr struct {
	cond *rules.Condition
	or   bool
	not  bool
	of   []*expr
}

var (
	errWays = fmt.Errorf("the rule holds in more than %d ways, and each would be a rule; cut it into several traits", MaxRules)
	errLong = fmt.Errorf("one way in which the rule holds has more than %d conditions", rules.MaxConditions)
)

// ways returns every conjunction of conditions under which e holds, or, if not,
// does not hold.
func (e *expr) ways(not bool) (out [][]rules.Condition, err error) {
	not = not != e.not
	if e.cond != nil {
		c := *e.cond
		c.Not = not
		return [][]rules.Condition{{c}}, nil
	}
	either := e.or != not // of its parts, by De Morgan; else all
	if !either {
		out = [][]rules.Condition{nil}
	}
	for _, k := range e.of {
		w, err := k.ways(not)
		if err != nil {
			return nil, err
		}
		if either {
			out = join(out, w)
		} else if len(out)*len(w) <= MaxRules {
			out = both(out, w)
		} else {
			return nil, errWays
		}
		switch {
		case len(out) > MaxRules:
			return nil, errWays
		case slices.ContainsFunc(out, func(w []rules.Condition) bool { return len(w) > rules.MaxConditions }):
			return nil, errLong
		}
	}
	return out, nil
}

// both joins each way of a with each of b.
func both(a, b [][]rules.Condition) (out [][]rules.Condition) {
	for _, x := range a {
		for _, y := range b {
			out = append(out, slices.Concat(x, y))
		}
	}
	return out
}

// join adds ways to ways. Equality of one field with one more value is no way of
// its own, but a value more: a == 1 OR a == 2 stays one rule.
func join(to, ways [][]rules.Condition) [][]rules.Condition {
next:
	for _, w := range ways {
		if len(w) == 1 && isEqual(&w[0]) {
			for i := range to {
				if o := to[i]; len(o) == 1 && isEqual(&o[0]) && o[0].Field == w[0].Field {
					c := rules.Condition{Field: o[0].Field, Op: "in", Values: slices.Concat(valuesOf(&o[0]), valuesOf(&w[0]))}
					slices.Sort(c.Values)
					c.Values = slices.Compact(c.Values)
					to[i] = []rules.Condition{c}
					continue next
				}
			}
		}
		to = append(to, w)
	}
	return to
}

func isEqual(c *rules.Condition) bool { return !c.Not && (c.Op == "eq" || c.Op == "in") }

func valuesOf(c *rules.Condition) []string {
	if c.Op == "in" {
		return c.Values
	}
	return []string{c.Value}
}

// empty has no category: conditions need none.
var empty = func() *tree.Forest {
	f, err := tree.New()
	if err != nil {
		panic(err)
	}
	return f
}()

type parser struct {
	text   string
	toks   []Token
	i      int
	faults taxonomy.TextFaults
	notes  []string

	conditions int
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

func (p *parser) tok() Token { return p.toks[p.i] }

func (p *parser) or(depth int) *expr  { return p.joined("OR", true, depth, p.and) }
func (p *parser) and(depth int) *expr { return p.joined("AND", false, depth, p.not) }

func (p *parser) joined(word string, or bool, depth int, part func(int) *expr) *expr {
	e := part(depth)
	if !p.tok().Is(word) {
		return e
	}
	all := &expr{or: or, of: []*expr{e}}
	for p.tok().Is(word) {
		p.i++
		all.of = append(all.of, part(depth))
	}
	return all
}

func (p *parser) not(depth int) *expr {
	t := p.tok()
	if depth > MaxDepth {
		return p.lost("nested deeper than %d", MaxDepth)
	}
	switch {
	case t.Is("NOT"):
		p.i++
		e := p.not(depth + 1)
		return &expr{not: true, of: []*expr{e}}
	case t.Kind == '(':
		p.i++
		e := p.or(depth + 1)
		if p.tok().Kind != ')' {
			p.fault(p.tok().At, "want ')', got %s", p.tok())
			p.skip()
		}
		if p.tok().Kind == ')' {
			p.i++
		}
		return e
	}
	return p.condition()
}

// lost says a fault and goes on behind the part, so that the rest is read too.
func (p *parser) lost(format string, args ...any) *expr {
	p.fault(p.tok().At, format, args...)
	p.skip()
	return &expr{cond: &rules.Condition{}}
}

func (p *parser) skip() {
	for depth := 0; p.tok().Kind != End; p.i++ {
		switch t := p.tok(); {
		case t.Kind == '(':
			depth++
		case t.Kind == ')' && depth > 0:
			depth--
		case depth == 0 && (t.Kind == ')' || t.Is("AND") || t.Is("OR")):
			return
		}
	}
}

// operators are Audience Manager's, each with ours. Greater-or-equal is written
// => in its table of operators and >= in its examples.
var operators = map[string]string{"==": "eq", "!=": "ne", ">": "above", "<": "below", "=>": "min", ">=": "min", "<=": "max",
	"contains": "contains", "matcheswords": "words", "startswith": "prefix", "endswith": "suffix", "matchesregex": "matches"}

func (p *parser) condition() *expr {
	key := p.tok()
	if key.Kind != Word || key.Is("AND") || key.Is("OR") {
		return p.lost("want a condition such as c_make == \"A\", got %s", key)
	}
	p.i++
	name := p.tok()
	op, ok := operators[strings.ToLower(name.Text)]
	if !ok || name.Kind == Quoted {
		return p.lost("%s is not an operator; want one of == != > < >= => <= contains matcheswords startswith endswith matchesregex", name)
	}
	p.i++
	v := p.tok()
	if v.Kind != Word && v.Kind != Quoted || v.Is("AND") || v.Is("OR") {
		return p.lost("want a value after %s, got %s", name.Text, v)
	}
	p.i++
	if p.conditions++; p.conditions > MaxConditions {
		return &expr{cond: &rules.Condition{}}
	}
	before := p.faults.Len()
	c := &rules.Condition{Field: p.field(key), Op: op, Value: v.Text}
	switch op {
	case "above", "below", "min", "max":
		f, err := strconv.ParseFloat(v.Text, 64)
		if err != nil || f-f != 0 {
			p.fault(v.At, "%s is not a number, and %s compares numbers", v, name.Text)
			return &expr{cond: c}
		}
		c.Op, c.Value = "range", ""
		*map[string]**float64{"above": &c.Above, "below": &c.Below, "min": &c.Min, "max": &c.Max}[op] = &f
	case "words":
		p.note("matcheswords is read as: the value has these words in it, next to each other")
	}
	if c.Field == "kind" {
		kind, ok := map[string]string{"imp": "impression", "click": "click", "conv": "conversion"}[strings.ToLower(v.Text)]
		if !ok || op != "eq" && op != "ne" {
			p.fault(v.At, "d_event is == or != imp, click or conv, got %s", v)
		}
		c.Value = kind
	}
	// What only rules can say of a condition, they say.
	r := rules.Rule{ID: "x", When: []rules.Condition{*c}, Then: []string{"k:x=y"}}
	if err := r.Validate(empty); err != nil && p.faults.Len() == before {
		for _, f := range taxonomy.Faults(err) {
			at := v.At
			if strings.HasSuffix(f.Field, "field") {
				at = key.At
			}
			p.fault(at, "%w", f.Err)
		}
	}
	return &expr{cond: c}
}

// field is what a key is here.
func (p *parser) field(key Token) string {
	prefix, rest, ok := strings.Cut(key.Text, "_")
	if !ok || rest == "" || len(prefix) != 1 {
		return "prop." + key.Text
	}
	switch strings.ToLower(prefix) {
	case "c":
		return "prop." + rest
	case "d":
		if rest == "event" {
			return "kind"
		}
		p.note("%s is a signal that Audience Manager adds itself; here it is the property %s, which the page or the import must send", key.Text, rest)
		return "prop." + rest
	case "h":
		switch strings.ToLower(rest) {
		case "host":
			return "host"
		case "referer", "referrer":
			p.note("%s is compared with the referrer's host; the rest of the referrer is never kept", key.Text)
			return "ref"
		}
		p.note("%s is a header, which is never kept; here it is the property %s, which the page must send", key.Text, rest)
		return "prop." + rest
	case "p":
		p.note("%s is evaluated and never stored, here too: the page sends it as the property p_%s, and the rule holds from publication on", key.Text, rest)
		return "prop.p_" + rest
	}
	return "prop." + key.Text
}
