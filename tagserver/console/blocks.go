package console

import (
	"cmp"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/segments/query"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// block is a part of an audience's rule as a form shows it: each field as it was
// typed, also where it is wrong. The tree of blocks is the tree of the expression.
type block struct {
	// Kind is and, or, not, any, trait, attribute, list or audience.
	Kind string

	Trait, Sources, Window, Min, Max, Unit, LastMin, LastMax string // of a trait
	Key, In                                                  string // of an attribute; a value a line
	List, Audience                                           string
	Text                                                     string // any part, as it stands in the text of a rule

	Of []*block

	// Laid out by number.
	N, Up int
	Path  string // as in faults
	// Faults are by field; "" for the block itself.
	Faults map[string]string
	// Count and Kept are what the estimate says of the part.
	Count, Kept string
}

// Group reports whether it joins parts.
func (b *block) Group() bool { return b.Kind == "and" || b.Kind == "or" }

// Fault is the fault of a field, "" if it has none.
func (b *block) Fault(field string) string { return b.Faults[field] }

// ID is the id of a field in the page, and its name in the form.
func (b *block) ID(field string) string { return field + "." + strconv.Itoa(b.N) }

// Leaf reports whether it is neither a group nor a "not".
func (b *block) Leaf() bool { return !b.Group() && b.Kind != "not" }

// leafKinds are what a part can ask for.
var leafKinds = []struct{ Kind, Name string }{
	{"trait", "had a category or key=value"}, {"attribute", "has an attribute"}, {"list", "is on a list"}, {"audience", "is in an audience"}, {"any", "had any event"},
	{"text", "as text: a sequence, a comparison, an earlier day"},
}

// Kinds are the choices of a leaf.
func (b *block) Kinds() []struct{ Kind, Name string } { return leafKinds }

func newTraitBlock() *block { return &block{Kind: "trait", Window: "30d", Min: "1", Unit: "events"} }

// blockOf shows an expression as blocks.
func blockOf(e query.Expr) *block {
	group := func(kind string, of []query.Expr) *block {
		b := &block{Kind: kind}
		for _, k := range of {
			b.Of = append(b.Of, blockOf(k))
		}
		return b
	}
	switch e := e.(type) {
	case query.And:
		return group("and", e.Of)
	case query.Or:
		return group("or", e.Of)
	case query.Not:
		return group("not", []query.Expr{e.Of})
	case query.Trait:
		b := &block{Kind: "trait", Trait: string(e.Trait), Window: e.Window.String(), Min: strconv.Itoa(e.Min), Unit: "events"}
		if e.Max > 0 {
			b.Max = strconv.Itoa(e.Max)
		}
		if e.Unit == index.DistinctDays {
			b.Unit = "days"
		}
		if l := e.LastSeen; l != nil {
			b.LastMin, b.LastMax = strconv.Itoa(l.Min), strconv.Itoa(l.Max)
		}
		for i, s := range e.Sources {
			if i > 0 {
				b.Sources += " "
			}
			b.Sources += string(s)
		}
		return b
	case query.Attribute:
		if e.Range != nil {
			break
		}
		return &block{Kind: "attribute", Key: e.Key, In: strings.Join(e.In, "\n")}
	case query.List:
		return &block{Kind: "list", List: string(e.List)}
	case query.Audience:
		return &block{Kind: "audience", Audience: string(e.ID)}
	case query.Any:
		return &block{Kind: "any"}
	}
	// Sequences, comparisons and earlier days have no fields of their own: they are
	// written as they are in the text.
	return &block{Kind: "text", Text: query.Text(e)}
}

// number lays blocks out: numbers in the order in which they stand, and the places
// that faults name.
func (b *block) number() (all []*block) {
	var walk func(b *block, up int, path string)
	walk = func(b *block, up int, path string) {
		b.N, b.Up, b.Path = len(all), up, path
		all = append(all, b)
		n := b.N
		for i, k := range b.Of {
			at := b.Kind
			if b.Group() {
				at += "[" + strconv.Itoa(i) + "]"
			}
			walk(k, n, under(path, at))
		}
	}
	walk(b, -1, "")
	return all
}

func under(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// readBlocks reads the blocks of a form: those that encode wrote, as they were
// changed. A block that names no earlier group as its own stands in the first.
func readBlocks(v url.Values) *block {
	var all []*block
	for n := 0; n <= query.MaxNodes; n++ {
		at := func(field string) string { return v.Get(field + "." + strconv.Itoa(n)) }
		kind := at("kind")
		if kind == "" {
			break
		}
		b := &block{Kind: kind}
		trimmed := func(field string) string { return strings.TrimSpace(at(field)) }
		switch kind {
		case "and", "or", "not", "any":
		case "trait":
			b.Trait, b.Sources, b.Window = trimmed("trait"), trimmed("sources"), trimmed("window")
			b.Min, b.Max, b.Unit, b.LastMin, b.LastMax = trimmed("min"), trimmed("max"), trimmed("unit"), trimmed("lastmin"), trimmed("lastmax")
			if !v.Has("window." + strconv.Itoa(n)) { // it was of another kind until now
				fresh := newTraitBlock()
				b.Window, b.Min, b.Unit = fresh.Window, fresh.Min, fresh.Unit
			}
		case "attribute":
			b.Key, b.In = trimmed("key"), strings.ReplaceAll(at("in"), "\r", "")
		case "list":
			b.List = trimmed("list")
		case "audience":
			b.Audience = trimmed("audience")
		case "text":
			b.Text = trimmed("text")
		default:
			b.Kind = "any"
		}
		all = append(all, b)
		if n == 0 {
			continue
		}
		up, err := strconv.Atoi(at("up"))
		if err != nil || up < 0 || up >= n || !all[up].Group() && (all[up].Kind != "not" || len(all[up].Of) > 0) {
			up = 0
		}
		all[up].Of = append(all[up].Of, b)
	}
	if len(all) == 0 {
		return nil
	}
	return all[0]
}

// change does what a button of the blocks says: "add", "group", "or", "not" or
// "remove", a colon, and the number of a block. It reports false for what it does
// not know.
func (b *block) change(do string) (*block, bool) {
	all := b.number()
	verb, num, _ := strings.Cut(do, ":")
	n, err := strconv.Atoi(num)
	if err != nil || n < 0 || n >= len(all) {
		return b, false
	}
	x := all[n]
	replace := func(by *block) {
		if n == 0 {
			b = by
			return
		}
		up := all[x.Up]
		up.Of[slices.Index(up.Of, x)] = by
	}
	switch verb {
	case "add":
		if x.Group() {
			x.Of = append(x.Of, newTraitBlock())
		} else {
			replace(&block{Kind: "and", Of: []*block{x, newTraitBlock()}})
		}
	case "or":
		replace(&block{Kind: "or", Of: []*block{x, newTraitBlock()}})
	case "not":
		if x.Kind == "not" && len(x.Of) == 1 {
			replace(x.Of[0])
		} else {
			replace(&block{Kind: "not", Of: []*block{x}})
		}
	case "remove":
		if n == 0 {
			return newTraitBlock(), true
		}
		up := all[x.Up]
		up.Of = slices.Delete(up.Of, slices.Index(up.Of, x), slices.Index(up.Of, x)+1)
		// A "not" of nothing goes too, and a group of one becomes that one.
		for len(up.Of) == 0 && up.Up >= 0 {
			x, up = up, all[up.Up]
			up.Of = slices.Delete(up.Of, slices.Index(up.Of, x), slices.Index(up.Of, x)+1)
		}
		switch {
		case len(up.Of) == 0:
			return newTraitBlock(), true
		case len(up.Of) == 1 && up.Group():
			x, n = up, up.N
			replace(up.Of[0])
		}
	default:
		return b, false
	}
	return b, true
}

var windowForm = regexp.MustCompile(`^(?:(\d{1,4}) ?d(?:ays)?|(\d{1,4})|(\S+) to (\S+))$`)

// expr returns the expression that the blocks say, nil if a field is wrong, which
// then has its fault.
func (b *block) expr() query.Expr {
	all := b.number()
	good := true
	fault := func(b *block, field, says string) {
		if b.Faults == nil {
			b.Faults = map[string]string{}
		}
		if b.Faults[field] == "" {
			b.Faults[field] = says
		}
		good = false
	}
	number := func(b *block, field, s string, none int) int {
		if s == "" {
			return none
		}
		n, err := strconv.Atoi(s)
		if err != nil || n < 0 {
			fault(b, field, "want a whole number")
		}
		return n
	}
	var build func(b *block) query.Expr
	build = func(b *block) query.Expr {
		var of []query.Expr
		for _, k := range b.Of {
			of = append(of, build(k))
		}
		switch b.Kind {
		case "and":
			return query.And{Of: of}
		case "or":
			return query.Or{Of: of}
		case "not":
			if len(of) != 1 {
				fault(b, "", "needs one part")
				return query.Any{}
			}
			return query.Not{Of: of[0]}
		case "trait":
			t := query.Trait{Trait: taxonomy.Trait(b.Trait), Min: number(b, "min", b.Min, 1), Max: number(b, "max", b.Max, 0)}
			if b.Trait == "" {
				fault(b, "trait", "name a category, such as c:products/grocery, or a key and value, such as k:brand=acme")
			}
			if b.Max == "0" {
				fault(b, "max", "for those who never had it, use “but not”")
			}
			if b.Unit == "days" {
				t.Unit = index.DistinctDays
			}
			if m := windowForm.FindStringSubmatch(cmp.Or(b.Window, "90d")); m == nil {
				fault(b, "window", "want a number of days, such as 30d, or 2026-09-01 to 2026-09-30")
			} else if n := m[1] + m[2]; n != "" {
				if t.Window.Days, _ = strconv.Atoi(n); t.Window.Days == 0 {
					fault(b, "window", "want 1d to 90d")
				}
			} else {
				var err error
				if t.Window.From, err = taxonomy.ParseDay(m[3]); err != nil {
					fault(b, "window", "want days as 2026-09-01")
				}
				if t.Window.To, err = taxonomy.ParseDay(m[4]); err != nil {
					fault(b, "window", "want days as 2026-09-30")
				}
			}
			if b.LastMin != "" || b.LastMax != "" {
				t.LastSeen = &query.Recency{Min: number(b, "lastmin", b.LastMin, 0), Max: number(b, "lastmax", b.LastMax, taxonomy.RetentionDays-1)}
			}
			for _, s := range strings.FieldsFunc(b.Sources, func(r rune) bool { return r == ' ' || r == ',' }) {
				t.Sources = append(t.Sources, taxonomy.SourceID(s))
			}
			slices.Sort(t.Sources)
			t.Sources = slices.Compact(t.Sources)
			return t
		case "attribute":
			a := query.Attribute{Key: b.Key}
			for v := range strings.SplitSeq(b.In, "\n") {
				if v != "" {
					a.In = append(a.In, v)
				}
			}
			slices.Sort(a.In)
			a.In = slices.Compact(a.In)
			return a
		case "list":
			return query.List{List: taxonomy.ListID(b.List)}
		case "audience":
			return query.Audience{ID: taxonomy.AudienceID(b.Audience)}
		case "text":
			e, err := query.ParseText(b.Text)
			for _, f := range taxonomy.Faults(err) {
				fault(b, "text", f.Field+": "+f.Err.Error())
			}
			if err == nil {
				return e
			}
		}
		return query.Any{}
	}
	e := build(b)
	for _, f := range taxonomy.Faults(query.Check(e)) {
		at, field := place(all, f.Field)
		fault(at, field, f.Err.Error())
	}
	if !good {
		return nil
	}
	return e
}

// fieldOf is the field of a block by its key in the language.
var fieldOf = map[string]string{"trait": "trait", "sources": "sources", "window": "window", "min": "min", "max": "max", "unit": "unit",
	"last_seen.min_days": "lastmin", "last_seen.max_days": "lastmax", "attribute": "key", "in": "in", "list": "list", "audience": "audience"}

// place finds the block and the field that a fault is of: the block with the longest
// path that leads to it.
func place(all []*block, path string) (at *block, field string) {
	at = all[0]
	for _, b := range all {
		if b.Path != "" && len(b.Path) >= len(at.Path) && (path == b.Path || strings.HasPrefix(path, b.Path+".")) {
			at = b
		}
	}
	key := strings.TrimPrefix(strings.TrimPrefix(path, at.Path), ".")
	key, _, _ = strings.Cut(key, "[")
	return at, fieldOf[key]
}
