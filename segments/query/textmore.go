package query

import "github.com/ebb-dmp/ebb/taxonomy"

// sequence reads the steps behind a first trait: "c:a/a then c:a/b within 7d".
// Behind the last one stands the window of all.
func (p *textParser) sequence(first *textNode) *textNode {
	if !p.tok().is("then") {
		return first
	}
	n := &textNode{at: first.at, bad: first.bad, fields: map[string]int{"sequence": first.at}}
	s := Sequence{Window: LastDays(taxonomy.RetentionDays)}
	place := func(i int, key string, at int) { n.fields[join(nth("", "sequence", i), key)] = at }
	t, ok := first.e.(Trait)
	if !ok {
		return p.lost(first.at, "want a trait before then")
	}
	for key, at := range first.fields {
		if place(0, key, at); key != "trait" && key != "sources" && !n.bad {
			n.bad = true
			p.fault(at, "a step says only what was had and via which sources; the window of all stands behind the last one")
		}
	}
	s.Steps = append(s.Steps, Step{Trait: t.Trait, Sources: t.Sources})
	for p.take("then") {
		w := p.tok()
		if w.kind != tokQuoted && !w.is("any") && !(w.kind == tokWord && isTraitWord(w.s)) {
			return p.lost(first.at, "want what was had then, such as c:shop/checkout, got %s", w)
		}
		i := len(s.Steps)
		st := Step{Trait: taxonomy.Trait(w.s), Within: MaxWithin}
		if w.is("any") {
			st.Trait = taxonomy.TraitAny
		}
		if place(i, "trait", w.at); textTrait(w.s) != "" {
			n.bad = true
			p.fault(w.at, "%.80q %s", w.s, textTrait(w.s))
		}
		p.i++
		for {
			at := p.tok().at
			if p.tok().is("via") && st.Sources == nil {
				if place(i, "sources", at); !p.sources(&st.Sources) {
					return p.lost(first.at, "want a source, got %s", p.tok())
				}
				continue
			}
			if !p.take("within") {
				break
			}
			place(i, "within_days", at)
			if st.Within, ok = windowDays(p.tok()); !ok {
				return p.lost(first.at, "%s is not a number of days; want 1d (the day after) to %dd", p.tok(), MaxWithin)
			}
			p.i++
		}
		s.Steps = append(s.Steps, st)
	}
	if at := p.tok(); at.is("in") || at.is("from") {
		n.fields["window"] = at.at
		if why := p.window(&s.Window); why != "" {
			return p.lost(first.at, "%s", why)
		}
	}
	n.e = s
	return n
}

// comparison reads "age >= 18" and "18 <= age < 30".
func (p *textParser) comparison() *textNode {
	first := p.tok()
	n := &textNode{at: first.at, fields: map[string]int{}}
	var r Range
	number := func(of token) (Bound, bool) {
		v, ok := taxonomy.Number(of.s)
		return Bound{Set: true, Value: v}, ok && of.kind == tokWord
	}
	put := func(op string, b Bound, at int) {
		b.Open = len(op) == 1
		to, key := &r.High, "max"
		if op[0] == '>' {
			to, key = &r.Low, "min"
		}
		if b.Open {
			key = map[string]string{"max": "below", "min": "above"}[key]
		}
		*to, n.fields[key] = b, at
	}
	if b, ok := number(first); ok {
		op := p.peek()
		if op.s[0] != '<' {
			p.i++
			return p.lost(first.at, "write the name first, as in age > %s", first.s)
		}
		put(">"+op.s[1:], b, first.at)
		p.i += 2
	}
	key := p.next()
	if n.fields["attribute"] = key.at; key.kind == tokMark || key.kind == tokEnd || key.kind == tokWord && isKeyword(key.s) {
		n.bad = true
		p.fault(key.at, "want the name of an attribute, got %s; put it in quotes if it is called so", key)
	}
	if op := p.tok(); op.compares() {
		p.i++
		b, ok := number(p.tok())
		if !ok {
			return p.lost(first.at, "want a number, got %s", p.tok())
		}
		if r.Low.Set && op.s[0] == '>' {
			return p.lost(first.at, "the lower bound is said twice; for a number between two write 18 <= %s < 30", cut(key.s))
		}
		put(op.s, b, p.tok().at)
		p.i++
	}
	n.e = Attribute{Key: key.s, Range: &r}
	return n
}

// asOf reads "as of 2026-09-01 (…)" and "as of 30 days ago (…)".
func (p *textParser) asOf(depth int) *textNode {
	first := p.next()
	p.i++ // of
	when := p.tok()
	n := &textNode{at: first.at, fields: map[string]int{"as_of": when.at}}
	e := AsOf{}
	if day, err := taxonomy.ParseDay(when.s); err == nil && when.kind == tokWord {
		e.Day = day
		p.i++
	} else {
		days, _, ok := bounds(when.s, 0)
		if !ok || when.kind != tokWord {
			return p.lost(first.at, "want a day such as 2026-09-01, or 30 days ago, got %s", when)
		}
		e.Ago = days
		p.i++
		if !p.take("days") && !p.take("day") || !p.take("ago") {
			return p.lost(first.at, "want days ago, got %s", p.tok())
		}
	}
	open := p.tok()
	if !p.take("(") {
		return p.lost(first.at, "want '(' and what was true then, got %s", open)
	}
	if depth >= maxBrackets {
		return p.lost(first.at, "nested deeper than %d", MaxDepth)
	}
	k := p.or(depth + 1)
	p.close(open)
	e.Of = k.e
	n.e, n.kids = e, []*textNode{k}
	return n
}
