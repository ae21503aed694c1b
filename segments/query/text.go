package query

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/near"
)

// ParseText reads the text face of an expression, such as
//
//	c:products/grocery in 30d on 3+ days and not (c:products/meat or in list crm)
//
// All faults are returned at once, in order of their places: each is a
// taxonomy.FieldError whose field is "line 1, column 8". Columns count
// characters from 1.
func ParseText(text string) (Expr, error) { return ParseTextAt("", text) }

// ParseTextAt is ParseText for a text that stands at a path of a larger
// document: fields are "rule_text: line 1, column 8".
func ParseTextAt(path, text string) (Expr, error) {
	p := textParser{text: text, faults: taxonomy.TextFaults{Text: text, Path: path}}
	if len(text) > MaxBytes {
		return nil, p.failed(0, "the rule is %d bytes long, at most %d", len(text), MaxBytes)
	}
	if i := badByte(text); i >= 0 {
		return nil, p.failed(i, "the rule is text in UTF-8 without control characters")
	}
	p.lex()
	n := p.or(0)
	if p.tok().kind != tokEnd {
		p.fault(p.tok().at, "%s is left over; join two parts by and or or", p.tok())
	}
	p.check(n)
	if p.faults.Len() > 0 {
		return nil, p.faults.Err()
	}
	return n.e, nil
}

func badByte(s string) int {
	for i, r := range s {
		if r == utf8.RuneError && !strings.HasPrefix(s[i:], "\ufffd") || unicode.IsControl(r) && r != '\n' && r != '\r' && r != '\t' {
			return i
		}
	}
	return -1
}

// textNode is a part of the tree with its places in the text.
type textNode struct {
	e      Expr
	at     int
	bad    bool           // already said what is wrong with it
	fields map[string]int // of a leaf: the place of each part, by its key in JSON
	kids   []*textNode
}

type textParser struct {
	text   string
	toks   []token
	i      int
	faults taxonomy.TextFaults
}

func (p *textParser) fault(at int, format string, args ...any) { p.faults.Add(at, format, args...) }

func (p *textParser) failed(at int, format string, args ...any) error {
	p.fault(at, format, args...)
	return p.faults.Err()
}

// lost says a fault at the next token and goes on to where the next part may
// begin, so that what follows is read too.
func (p *textParser) lost(at int, format string, args ...any) *textNode {
	p.fault(p.tok().at, format, args...)
	p.skip()
	return &textNode{e: Any{}, at: at, bad: true}
}

func (p *textParser) skip() {
	for depth := 0; p.tok().kind != tokEnd; p.i++ {
		t := p.tok()
		switch {
		case t.is("("):
			depth++
		case depth > 0 && t.is(")"):
			depth--
		case depth == 0 && (t.is(")") || t.is(",") || t.is("and") || t.is("or")):
			return
		}
	}
}

// maxBrackets bounds the brackets and "not"s around one part, for the parser
// calls itself once for each. An expression's own depth is MaxDepth.
const maxBrackets = 4 * MaxDepth

func (p *textParser) or(depth int) *textNode { return p.joined("or", depth, p.and) }

func (p *textParser) and(depth int) *textNode { return p.joined("and", depth, p.not) }

func (p *textParser) joined(word string, depth int, part func(int) *textNode) *textNode {
	n := part(depth)
	if !p.tok().is(word) {
		return n
	}
	all := &textNode{at: n.at, kids: []*textNode{n}}
	for p.take(word) {
		all.kids = append(all.kids, part(depth))
	}
	return all.join(word)
}

// join makes n the "and" or the "or" of its kids.
func (n *textNode) join(word string) *textNode {
	of := make([]Expr, len(n.kids))
	for i, k := range n.kids {
		of[i] = k.e
	}
	if n.e = (And{of}); word == "or" {
		n.e = Or{of}
	}
	return n
}

func (p *textParser) not(depth int) *textNode {
	at := p.tok().at
	if !p.take("not") {
		return p.part(depth)
	}
	if depth >= maxBrackets {
		return p.lost(at, "nested deeper than %d", MaxDepth)
	}
	k := p.not(depth + 1)
	return &textNode{e: Not{k.e}, at: at, kids: []*textNode{k}}
}

func (p *textParser) part(depth int) *textNode {
	t := p.tok()
	switch {
	case t.is("("):
		if depth >= maxBrackets {
			return p.lost(t.at, "nested deeper than %d", MaxDepth)
		}
		p.i++
		n := p.or(depth + 1)
		p.close(t)
		return n
	case t.is("all") && p.peek().is("of"), t.is("one") && p.peek().is("of"):
		return p.of(depth)
	case p.peek().is("is"):
		return p.attribute()
	case p.peek().compares():
		return p.comparison()
	case t.is("as") && p.peek().is("of"):
		return p.asOf(depth)
	case t.is("anyone"):
		p.i++
		return &textNode{e: Any{}, at: t.at}
	case t.is("last"):
		e := Had(taxonomy.TraitAny)
		n := &textNode{at: t.at, fields: map[string]int{}}
		return p.modifiers(n, e)
	case t.is("in"), t.is("audience"), t.is("list"):
		return p.named()
	case t.is("any"), t.kind == tokQuoted, t.kind == tokWord && isTraitWord(t.s):
		p.i++
		e := Had(taxonomy.Trait(t.s))
		if t.is("any") {
			e.Trait = taxonomy.TraitAny
		}
		n := &textNode{at: t.at, fields: map[string]int{"trait": t.at}}
		if why := textTrait(t.s); why != "" {
			n.bad = true
			p.fault(t.at, "%.80q %s", t.s, why)
		}
		return p.sequence(p.modifiers(n, e))
	case t.kind == tokWord && !isKeyword(t.s):
		if meant, ok := near.Word(t.s, keywords, 1); ok {
			return p.lost(t.at, "%s is not understood; did you mean %q?", t, meant)
		}
		return p.lost(t.at, "%s alone says nothing: write c:taxonomy/category, k:key=value, audience %s, in list %s, or %s is value", t, cut(t.s), cut(t.s), cut(t.s))
	}
	return p.lost(t.at, "want a part such as c:products/grocery, age is 18-24, in list crm or audience buyers, got %s", t)
}

// textTrait says what the text face has instead of a trait.
func textTrait(s string) string {
	switch {
	case strings.HasPrefix(s, "a:"):
		return "is an attribute: write it as age is 18-24"
	case strings.HasPrefix(s, "l:"):
		return "is a list: write it as in list name"
	}
	return ""
}

func (p *textParser) close(open token) {
	if p.take(")") {
		return
	}
	p.fault(p.tok().at, "want ')' for the bracket of %s, got %s", p.faults.Place(open.at), p.tok())
	p.skip()
	p.take(")")
}

// of reads "all of (…, …)" or "one of (…, …)".
func (p *textParser) of(depth int) *textNode {
	first := p.next()
	p.i++ // of
	word := "and"
	if first.is("one") {
		word = "or"
	}
	open := p.tok()
	if !p.take("(") {
		return p.lost(first.at, "want '(' and the parts, with commas between, got %s", open)
	}
	if depth >= maxBrackets {
		return p.lost(first.at, "nested deeper than %d", MaxDepth)
	}
	n := &textNode{at: first.at}
	for {
		n.kids = append(n.kids, p.or(depth+1))
		if !p.take(",") {
			break
		}
	}
	p.close(open)
	return n.join(word)
}

func (p *textParser) named() *textNode {
	first := p.tok()
	p.take("in")
	what := p.next()
	if !what.is("list") && !what.is("audience") {
		p.i -= min(p.i, 1)
		return p.lost(first.at, "want list or audience after in, got %s; a window follows what it is of, as in c:products/grocery in 30d", what)
	}
	name := p.tok()
	if name.kind != tokQuoted && (name.kind != tokWord || isKeyword(name.s)) {
		return p.lost(first.at, "want the ID of the %s, got %s", strings.ToLower(what.s), name)
	}
	p.i++
	n := &textNode{at: first.at}
	if what.is("list") {
		n.e, n.fields = List{taxonomy.ListID(name.s)}, map[string]int{"list": name.at}
	} else {
		n.e, n.fields = Audience{taxonomy.AudienceID(name.s)}, map[string]int{"audience": name.at}
	}
	return n
}

func (p *textParser) attribute() *textNode {
	key := p.next()
	p.i++ // is
	n := &textNode{at: key.at, fields: map[string]int{"attribute": key.at, "in": p.tok().at}}
	if key.kind == tokMark || key.kind == tokWord && isKeyword(key.s) {
		n.bad = true
		p.fault(key.at, "want the name of an attribute before is, got %s; put it in quotes if it is called so", key)
	}
	if p.tok().is("not") {
		return p.lost(key.at, "put not before the name: not %s is …", cut(key.s))
	}
	var values []string
	value := func() bool {
		v := p.tok()
		if v.kind != tokQuoted && (v.kind != tokWord || isKeyword(v.s)) {
			return false
		}
		if slices.Contains(values, v.s) {
			n.bad = true
			p.fault(v.at, "%s is repeated", v)
		} else {
			values = append(values, v.s)
		}
		p.i++
		return true
	}
	const want = "want a value, got %s; put it in quotes if it is called so"
	if open := p.tok(); p.take("(") {
		for {
			if !value() {
				return p.lost(key.at, want, p.tok())
			}
			if !p.take(",") {
				break
			}
		}
		p.close(open)
	} else {
		for {
			if !value() {
				return p.lost(key.at, want, p.tok())
			}
			if !p.more() {
				break
			}
			p.i++ // or
		}
	}
	slices.Sort(values)
	n.e = Attribute{Key: key.s, In: values}
	return n
}

// more reports whether "or" follows, and behind it one more name of the list
// that is being read: a name that does not begin another part.
func (p *textParser) more() bool {
	if !p.tok().is("or") {
		return false
	}
	v := p.peek()
	after := p.toks[min(p.i+2, len(p.toks)-1)]
	return (v.kind == tokQuoted || v.kind == tokWord && !isKeyword(v.s)) && !isTraitWord(v.s) && !after.is("is") && !after.compares()
}

// modifiers reads what stands behind a trait, each at most once, in any order.
func (p *textParser) modifiers(n *textNode, t Trait) *textNode {
	once := func(key string) bool {
		at := p.tok().at
		if _, ok := n.fields[key]; ok {
			p.fault(at, "%s is said twice", map[string]string{"window": "the window", "min": "how often", "sources": "the source", "last_seen": "last seen"}[key])
			n.bad = true
		}
		n.fields[key] = at
		return true
	}
	fail := func(format string, args ...any) *textNode {
		return p.lost(n.at, format, args...)
	}
	for {
		w := p.tok()
		switch {
		case (w.is("in") || w.is("from")) && once("window"):
			if why := p.window(&t.Window); why != "" {
				return fail("%s", why)
			}
		case w.is("via") && once("sources"):
			if !p.sources(&t.Sources) {
				return fail("want a source, got %s", p.tok())
			}
		case (w.is("on") || w.is("at") || w.kind == tokWord && startsDigit(w.s)) && once("min"):
			if why := p.often(&t); why != "" {
				return fail("%s", why)
			}
			n.fields["max"] = w.at
		case w.is("last") && once("last_seen"):
			p.i++
			if !p.take("seen") {
				return fail("want seen after last, got %s", p.tok())
			}
			lo, hi, ok := bounds(p.tok().s, taxonomy.RetentionDays-1)
			if p.tok().kind != tokWord || !ok {
				return fail("want days such as 0-30, 21+ or 7, got %s", p.tok())
			}
			n.fields["last_seen.min_days"], n.fields["last_seen.max_days"] = p.tok().at, p.tok().at
			p.i++
			t.LastSeen = &Recency{lo, hi}
			if !p.take("days") && !p.take("day") || !p.take("ago") {
				return fail("want days ago, got %s", p.tok())
			}
		default:
			n.e = t
			return n
		}
	}
}

func startsDigit(s string) bool { return s != "" && s[0] >= '0' && s[0] <= '9' }

func windowDays(t token) (int, bool) {
	digits, ok := strings.CutSuffix(strings.ToLower(t.s), "d")
	n, err := strconv.Atoi(digits)
	return n, ok && err == nil && t.kind == tokWord && strconv.Itoa(n) == digits && n >= 1 && n <= taxonomy.RetentionDays
}

// window reads "in 30d" and "from 2026-09-01 to 2026-09-30". It returns what is
// wrong with the next token, or "".
func (p *textParser) window(w *Window) string {
	if p.take("in") {
		d, ok := windowDays(p.tok())
		if !ok {
			return fmt.Sprintf("%s is not a window; want 1d to %dd (1d is today), or from 2026-09-01 to 2026-09-30", p.tok(), taxonomy.RetentionDays)
		}
		*w = LastDays(d)
		p.i++
		return ""
	}
	p.i++ // from
	var err error
	var win Window
	if win.From, err = taxonomy.ParseDay(p.tok().s); err != nil {
		return fmt.Sprintf("%s is not a day; want YYYY-MM-DD (sources stand behind via)", p.tok())
	}
	p.i++
	if !p.take("to") {
		return fmt.Sprintf("want to and the last day, got %s", p.tok())
	}
	if win.To, err = taxonomy.ParseDay(p.tok().s); err != nil {
		return fmt.Sprintf("%s is not a day; want YYYY-MM-DD", p.tok())
	}
	*w = win
	p.i++
	return ""
}

func (p *textParser) sources(ids *[]taxonomy.SourceID) bool {
	p.i++ // via
	for {
		s := p.tok()
		if s.kind != tokQuoted && (s.kind != tokWord || isKeyword(s.s)) {
			return false
		}
		p.i++
		*ids = append(*ids, taxonomy.SourceID(s.s))
		if !p.more() {
			break
		}
		p.i++ // or
	}
	slices.Sort(*ids)
	return true
}

// often reads "3+ times", "2-5 times", "3 times", "at least 3 times", and the
// same of days behind "on". It returns what is wrong, or "".
func (p *textParser) often(t *Trait) string {
	days := p.take("on")
	least := false
	if p.take("at") {
		if p.tok().is("most") {
			n := cut(p.peek().s)
			return fmt.Sprintf("at most leaves open whether never counts: write 1-%s, or 0-%s to count those who never did", n, n)
		}
		if !p.take("least") {
			return fmt.Sprintf("want least after at, got %s", p.tok())
		}
		least = true
	}
	w := p.tok()
	lo, hi, ok := bounds(w.s, 0)
	if w.kind != tokWord || !ok || least && lo != hi {
		return fmt.Sprintf("want how often, such as 3+, 2-5 or 3, got %s", w)
	}
	if least {
		hi = 0
	}
	if lo == 0 && hi == 0 {
		return fmt.Sprintf("%s is true of all, or of those who never did; for these write not before the part", w)
	}
	p.i++
	unit, other := index.Events, "days"
	if days {
		unit, other = index.DistinctDays, "times"
	}
	switch u := p.tok(); {
	case days && (u.is("days") || u.is("day")), !days && (u.is("times") || u.is("time")):
		p.i++
	case u.is(other):
		return map[bool]string{true: "days are counted with on: on 3+ days", false: "times are counted without on: 3+ times"}[!days]
	default:
		return fmt.Sprintf("want %s, got %s", map[bool]string{true: "days", false: "times"}[days], u)
	}
	t.Min, t.Max, t.Unit = lo, hi, unit
	return ""
}

// bounds reads "3" (3 to 3), "3+" (3 to open), "3-5" and "3–5".
func bounds(s string, open int) (lo, hi int, ok bool) {
	number := func(s string) int {
		n, err := strconv.Atoi(s)
		if err != nil || len(s) > 4 || s[0] < '0' || s[0] > '9' {
			ok = false
		}
		return n
	}
	ok = true
	if a, plus := strings.CutSuffix(s, "+"); plus {
		return number(a), open, ok
	}
	a, b, ranged := strings.Cut(strings.ReplaceAll(s, "–", "-"), "-")
	lo = number(a)
	hi = lo
	if ranged {
		if hi = number(b); hi == 0 && lo == 0 {
			return 0, 0, false
		}
	}
	return lo, hi, ok
}

// check holds the tree against the rules of the language and says each fault
// where its part stands in the text.
func (p *textParser) check(root *textNode) {
	at := map[string]int{}
	bad := map[string]bool{}
	var visit func(path string, n *textNode)
	visit = func(path string, n *textNode) {
		at[path], bad[path] = n.at, n.bad
		for key, pos := range n.fields {
			at[join(path, key)], bad[join(path, key)] = pos, n.bad
		}
		for i, k := range n.kids {
			switch n.e.(type) {
			case And:
				visit(nth(path, "and", i), k)
			case Or:
				visit(nth(path, "or", i), k)
			case Not:
				visit(join(path, "not"), k)
			case AsOf:
				visit(join(path, "of"), k)
			}
		}
	}
	visit("", root)
	c := checker{}
	c.expr("", root.e, 1)
	for _, err := range c.faults.errs {
		f, ok := err.(*taxonomy.FieldError)
		if !ok {
			p.fault(root.at, "%w", err)
			continue
		}
		path := f.Field
		if path == "." {
			path = ""
		}
		for path != "" { // up to a part that has a place
			if _, ok := at[path]; ok {
				break
			}
			path = path[:max(strings.LastIndexAny(path, ".["), 0)]
		}
		if !bad[path] {
			p.fault(at[path], "%w", f.Err)
		}
	}
}
