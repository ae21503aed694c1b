// Package rules is the classifier: rules that say what an event is about,
// compiled once, and asked for every event.
package rules

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/tree"
)

// Bounds of rules.
const (
	MaxRules      = 100_000
	MaxConditions = 32
	MaxValues     = 10_000 // of one condition
	MaxThen       = 64
	MaxValue      = 512 // bytes of a value in a rule
	MaxPattern    = 256 // bytes of a regular expression
)

// Rule turns events into traits: if all conditions hold, the event is about
// what Then names.
type Rule struct {
	ID    string `json:"id"`
	Title string `json:"title,omitempty"`
	// Sites it is for; none means all.
	Sites []taxonomy.SiteID `json:"sites,omitempty"`
	// When has conditions that must all hold; none means always.
	When []Condition `json:"when,omitempty"`
	// Then has the traits: "c:<taxonomy>/<category>", whose ancestors follow by
	// themselves, or "k:<key>=<value>". In the category or the value, {key}
	// stands for the property of that key:
	//
	//	c:products/{department}
	//	c:products/{department}.{product_category}
	//	k:department={department}
	//
	// For a category the property's value is first taken as it is, then as a
	// slug ("FRZN ICE" is frzn-ice); what is no category of the taxonomy gives
	// nothing, so an unforeseen value can never make a column. For a key=value
	// it is taken as it is, up to 64 bytes without control characters. An event
	// that lacks the property, or has it empty, gets nothing from that line.
	Then []string `json:"then"`
}

// Condition is a question to one field of an event.
type Condition struct {
	// Field is one of
	//
	//	host        the URL's host, lower case, without port
	//	path        the URL's path, at least "/"
	//	url         the URL as it is kept
	//	query.<key> the first value of a key in the URL's query, decoded
	//	ref         the referrer's host
	//	name        the event's name
	//	kind        page, track, impression, click, conversion, fact
	//	prop.<key>  a property
	//
	// A field that is empty is not there, and nothing holds for it. A property
	// may be empty and there.
	Field string `json:"field"`
	// Op is one of
	//
	//	eq        is Value
	//	in        is one of Values
	//	ne        is there and is neither Value nor one of Values
	//	prefix    begins with Value or one of Values
	//	suffix    ends with Value or one of Values; of host and ref: is it, or is a
	//	          subdomain of it
	//	contains  has Value or one of Values within it
	//	words     has Value or one of Values within it, as whole words: what stands
	//	          before and behind is no letter and no digit
	//	matches   has a match of the regular expression Value (RE2, at most
	//	          MaxPattern bytes)
	//	range     is a decimal number, Min ≤ it ≤ Max and Above < it < Below, where
	//	          absent means no bound
	//	exists    is there
	//
	// Text is compared byte by byte; hosts in lower case.
	Op     string   `json:"op"`
	Value  string   `json:"value,omitempty"`
	Values []string `json:"values,omitempty"`
	Min    *float64 `json:"min,omitempty"`
	Max    *float64 `json:"max,omitempty"`
	Above  *float64 `json:"above,omitempty"`
	Below  *float64 `json:"below,omitempty"`
	// Not turns the question round: it holds where it would not, so also where
	// the field is not there.
	Not bool `json:"not,omitempty"`
}

type field uint8

const (
	fieldHost field = iota
	fieldPath
	fieldRef
	fieldName
	fieldKind
	fieldURL
	fieldProp
	fieldQuery
	scalars = fieldProp // fields that an event has once
)

var fieldNames = [...]string{fieldHost: "host", fieldPath: "path", fieldRef: "ref", fieldName: "name", fieldKind: "kind", fieldURL: "url"}

type op uint8

const (
	opEq op = iota
	opPrefix
	opSuffix
	opRange
	opExists
	// What cannot be looked up, only asked; the dearest last.
	opNe
	opContains
	opWords
	opMatches
)

// values returns what the condition compares with: Values, or Value alone.
func (c *Condition) values() []string {
	if c.Values != nil {
		return c.Values
	}
	return []string{c.Value}
}

// Validate returns every fault of r, each a taxonomy.FieldError, joined. The
// forest is the one that Compile will be given.
func (r *Rule) Validate(f *tree.Forest) error {
	_, err := parse(r, f)
	return err
}

// parsed is a rule in the form that the classifier works with.
type parsed struct {
	sites   []taxonomy.SiteID
	conds   []condition
	targets []target
	// edge: it asks for what is never stored.
	edge bool
}

// condition is a Condition in compiled form.
type condition struct {
	field    field
	op       op
	key      string   // of fieldProp, fieldQuery
	values   []string // sorted, without repeats
	min, max float64  // opRange
	// Whether the bounds themselves are within.
	above, below bool
	pattern      *regexp.Regexp // opMatches
	not          bool
	at           uint8 // its place in the rule's When
}

// target is a line of Then.
type target struct {
	category uint32 // if it is a category without {}: its place in the forest
	parts    []part // else
	isKey    bool   // k:
	literal  taxonomy.Trait
}

// part is text, or the key of a property.
type part struct {
	text string
	prop string
}

func parse(r *Rule, f *tree.Forest) (*parsed, error) {
	p := new(parsed)
	var errs []error
	fail := func(field string, err error) {
		errs = append(errs, &taxonomy.FieldError{Field: field, Err: err})
	}
	if err := taxonomy.CheckSlug("rule", r.ID); err != nil {
		fail("id", err)
	}
	if len(r.Title) > tree.MaxTitle {
		fail("title", fmt.Errorf("%d bytes long, at most %d", len(r.Title), tree.MaxTitle))
	}
	for i, s := range r.Sites {
		if err := taxonomy.CheckSlug("site", string(s)); err != nil {
			fail(fmt.Sprintf("sites[%d]", i), err)
		}
	}
	p.sites = slices.Clone(r.Sites)
	slices.Sort(p.sites)
	p.sites = slices.Compact(p.sites)

	if len(r.When) > MaxConditions {
		fail("when", fmt.Errorf("%d conditions, at most %d", len(r.When), MaxConditions))
	} else {
		for i := range r.When {
			c, field, err := parseCondition(&r.When[i])
			if err != nil {
				fail(fmt.Sprintf("when[%d].%s", i, field), err)
			}
			c.at = uint8(i)
			p.conds = append(p.conds, c)
		}
		// The dear ones are asked only if the others hold.
		slices.SortStableFunc(p.conds, func(a, b condition) int { return cmp.Compare(max(a.op, opExists), max(b.op, opExists)) })
	}
	switch {
	case len(r.Then) == 0:
		fail("then", errors.New("name at least one category, such as c:news/sport, or key=value, such as k:plan=pro"))
	case len(r.Then) > MaxThen:
		fail("then", fmt.Errorf("%d traits, at most %d", len(r.Then), MaxThen))
	default:
		for i, s := range r.Then {
			t, err := parseTarget(s, f)
			if err != nil {
				fail(fmt.Sprintf("then[%d]", i), err)
			}
			p.targets = append(p.targets, t)
			for _, part := range t.parts {
				if !taxonomy.NeverStored(part.prop) {
					continue
				}
				if p.edge = true; t.isKey {
					fail(fmt.Sprintf("then[%d]", i), fmt.Errorf("%.80q: %s is never stored, and this would store its value", s, part.prop))
				}
			}
		}
	}
	for i := range p.conds {
		p.edge = p.edge || p.conds[i].field == fieldProp && taxonomy.NeverStored(p.conds[i].key)
	}
	return p, errors.Join(errs...)
}

// parseCondition returns a condition, or the field at fault and what is wrong.
func parseCondition(c *Condition) (out condition, place string, err error) {
	prop, isProp := strings.CutPrefix(c.Field, "prop.")
	query, isQuery := strings.CutPrefix(c.Field, "query.")
	switch {
	case isProp:
		if prop == "" || len(prop) > 64 {
			return out, "field", fmt.Errorf("%.80q: a property's key has 1 to 64 bytes", c.Field)
		}
		out.field, out.key = fieldProp, prop
	case isQuery:
		if query == "" || len(query) > 64 {
			return out, "field", fmt.Errorf("%.80q: a key of the query has 1 to 64 bytes", c.Field)
		}
		out.field, out.key = fieldQuery, query
	case slices.Contains(fieldNames[:], c.Field):
		out.field = field(slices.Index(fieldNames[:], c.Field))
	default:
		return out, "field", fmt.Errorf("%.80q is not one of host, path, url, query.<key>, ref, name, kind, prop.<key>", c.Field)
	}

	text := false
	out.not = c.Not
	switch c.Op {
	case "eq":
		out.op, text = opEq, true
		if c.Values != nil {
			return out, "values", errors.New(`eq compares with "value"; for several use in`)
		}
	case "in":
		out.op, text = opEq, true
		if len(c.Values) == 0 {
			return out, "values", errors.New("in needs at least one")
		}
	case "prefix":
		out.op, text = opPrefix, true
	case "suffix":
		out.op, text = opSuffix, true
	case "ne":
		out.op, text = opNe, true
	case "contains":
		out.op, text = opContains, true
	case "words":
		out.op, text = opWords, true
	case "matches":
		out.op, text = opMatches, true
		if c.Values != nil {
			return out, "values", errors.New(`matches takes one "value"; join several by |`)
		}
		if len(c.Value) > MaxPattern {
			return out, "value", fmt.Errorf("the regular expression is %d bytes long, at most %d", len(c.Value), MaxPattern)
		}
		if out.pattern, err = regexp.Compile(c.Value); err != nil {
			return out, "value", fmt.Errorf("%w; the syntax is RE2's: https://github.com/google/re2/wiki/Syntax", err)
		}
	case "range":
		out.op = opRange
	case "exists":
		out.op = opExists
	default:
		return out, "op", fmt.Errorf("%.80q is not one of eq, in, ne, prefix, suffix, contains, words, matches, range, exists", c.Op)
	}
	if out.field == fieldKind && out.op != opEq && out.op != opNe {
		return out, "op", fmt.Errorf("%s does not apply to kind; use eq, in or ne", c.Op)
	}

	if !text && (c.Value != "" || c.Values != nil) {
		return out, "value", fmt.Errorf("%s takes none", c.Op)
	}
	if out.op != opRange && (c.Min != nil || c.Max != nil || c.Above != nil || c.Below != nil) {
		return out, "min", fmt.Errorf("%s takes no bounds; use range", c.Op)
	}
	switch {
	case out.op == opRange:
		out.min, out.max = math.Inf(-1), math.Inf(1)
		if c.Min != nil {
			out.min = *c.Min
		}
		if c.Max != nil {
			out.max = *c.Max
		}
		if c.Above != nil && *c.Above >= out.min {
			out.min, out.above = *c.Above, true
		}
		if c.Below != nil && *c.Below <= out.max {
			out.max, out.below = *c.Below, true
		}
		if c.Min == nil && c.Max == nil && c.Above == nil && c.Below == nil {
			return out, "min", errors.New("range needs min, max, above or below")
		}
		if !(out.min <= out.max) || out.min == out.max && (out.above || out.below) {
			lower, upper := "min", "max"
			if out.above {
				lower = "above"
			}
			if out.below {
				upper = "below"
			}
			if out.min == out.max {
				return out, lower, fmt.Errorf("no number lies between %s %v and %s %v", lower, out.min, upper, out.max)
			}
			return out, lower, fmt.Errorf("%v is greater than %s %v", out.min, upper, out.max)
		}
	case text:
		if c.Value != "" && c.Values != nil {
			return out, "values", errors.New("give value or values, not both")
		}
		if len(c.Values) > MaxValues {
			return out, "values", fmt.Errorf("%d of them, at most %d", len(c.Values), MaxValues)
		}
		vs := c.values()
		if len(vs) == 0 {
			return out, "values", fmt.Errorf("%s needs at least one", c.Op)
		}
		for i, v := range vs {
			place := "value"
			if c.Values != nil {
				place = fmt.Sprintf("values[%d]", i)
			}
			if v, err = parseValue(&out, v); err != nil {
				return out, place, err
			}
			out.values = append(out.values, v)
		}
		slices.Sort(out.values)
		out.values = slices.Compact(out.values)
	}
	return out, "", nil
}

func parseValue(c *condition, v string) (string, error) {
	if len(v) > MaxValue {
		return v, fmt.Errorf("%.20q…: %d bytes long, at most %d", v, len(v), MaxValue)
	}
	if v == "" && !((c.field == fieldProp || c.field == fieldQuery) && (c.op == opEq || c.op == opNe)) {
		return v, errors.New("must not be empty")
	}
	if c.op == opMatches {
		return v, nil
	}
	switch c.field {
	case fieldHost, fieldRef:
		if strings.ContainsAny(v, "/:@ ") {
			return v, fmt.Errorf("%.80q is not a host such as www.example.com", v)
		}
		v = strings.ToLower(v)
		if c.op == opSuffix {
			v = strings.TrimPrefix(v, ".")
			if v == "" {
				return v, errors.New("must not be empty")
			}
		}
	case fieldPath:
		if (c.op == opEq || c.op == opNe || c.op == opPrefix) && v[0] != '/' {
			return v, fmt.Errorf("%.80q: a path begins with /", v)
		}
	case fieldKind:
		if _, ok := taxonomy.ParseEventKind(v); !ok {
			return v, fmt.Errorf("%.80q is not one of page, track, impression, click, conversion, fact", v)
		}
	}
	return v, nil
}

func parseTarget(s string, f *tree.Forest) (t target, err error) {
	kind, rest, _ := strings.Cut(s, ":")
	var head string // what may not hold a {}
	switch kind {
	case "c":
		tax, cat, ok := strings.Cut(rest, "/")
		if !ok || cat == "" {
			return t, fmt.Errorf("%.80q: want c:<taxonomy>/<category>", s)
		}
		if !slices.ContainsFunc(f.Taxonomies(), func(x tree.Taxonomy) bool { return x.ID == tax }) {
			return t, fmt.Errorf("%.80q: there is no taxonomy %q", s, tax)
		}
		head, rest = "c:"+tax+"/", cat
	case "k":
		key, value, ok := strings.Cut(rest, "=")
		if !ok || value == "" {
			return t, fmt.Errorf("%.80q: want k:<key>=<value>", s)
		}
		if err := taxonomy.CheckSlug("key", key); err != nil {
			return t, fmt.Errorf("%.80q: %w", s, err)
		}
		t.isKey, head, rest = true, "k:"+key+"=", value
	default:
		return t, fmt.Errorf("%.80q: a rule gives categories (c:<taxonomy>/<category>) and key=values (k:<key>=<value>)", s)
	}
	parts, err := parseParts(rest)
	if err != nil {
		return t, fmt.Errorf("%.80q: %w", s, err)
	}
	if len(parts) == 1 && parts[0].prop == "" {
		t.literal = taxonomy.Trait(s)
		if t.isKey {
			if !cleanValue(rest) {
				return t, fmt.Errorf("%.80q: a value has at most %d bytes and no control characters", s, maxKeyValue)
			}
			return t, nil
		}
		i, ok := f.Index(t.literal)
		if !ok {
			return t, fmt.Errorf("%.80q: there is no such category", s)
		}
		t.category = i
		return t, nil
	}
	t.parts = append([]part{{text: head}}, parts...)
	return t, nil
}

// parseParts cuts "a{b}c" into text and properties.
func parseParts(s string) (parts []part, err error) {
	for s != "" {
		text, rest, open := strings.Cut(s, "{")
		if strings.Contains(text, "}") {
			return nil, errors.New("a } without {")
		}
		if text != "" {
			parts = append(parts, part{text: text})
		}
		if !open {
			break
		}
		key, after, closed := strings.Cut(rest, "}")
		if !closed || key == "" || len(key) > 64 || strings.Contains(key, "{") {
			return nil, errors.New("want the key of a property between { and }")
		}
		parts = append(parts, part{prop: key})
		s = after
	}
	return parts, nil
}

const maxKeyValue = 64

// cleanValue reports whether v may stand in a key=value trait.
func cleanValue(v string) bool {
	if v == "" || len(v) > maxKeyValue || !utf8.ValidString(v) {
		return false
	}
	for i := range len(v) {
		if v[i] < ' ' || v[i] == 0x7f {
			return false
		}
	}
	return true
}
