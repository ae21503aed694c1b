package query

import (
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

type tokenKind uint8

const (
	tokEnd    tokenKind = iota
	tokWord             // without quotes: a keyword, or any name
	tokQuoted           // in quotes: only ever a name
	tokMark             // ( ) , < <= > >=
)

type token struct {
	kind tokenKind
	at   int // byte of the text
	s    string
}

func (t token) String() string {
	switch t.kind {
	case tokEnd:
		return "the end"
	case tokMark:
		return "'" + t.s + "'"
	}
	return strconv.Quote(cut(t.s))
}

// is reports whether t is the keyword, in any case, or the mark.
func (t token) is(s string) bool {
	return t.kind == tokWord && strings.EqualFold(t.s, s) || t.kind == tokMark && t.s == s
}

// keywords may not stand as names without quotes.
var keywords = []string{"and", "or", "not", "in", "is", "via", "from", "to", "on", "at", "last", "seen", "days", "times", "ago",
	"list", "audience", "any", "anyone", "all", "one", "of", "never", "between", "then", "within", "as"}

func isKeyword(s string) bool { return slices.Contains(keywords, strings.ToLower(s)) }

// mark reports whether r ends a word.
func mark(r rune) bool {
	return r == '(' || r == ')' || r == ',' || r == '"' || r == '<' || r == '>' || unicode.IsSpace(r)
}

// comparison returns the comparison that s begins with, and its bytes. Those who
// come from Audience Manager write => for >=.
func comparison(s string) (op string, n int) {
	for _, c := range [...][2]string{{">=", ">="}, {"<=", "<="}, {"=>", ">="}, {"=<", "<="}, {">", ">"}, {"<", "<"}} {
		if strings.HasPrefix(s, c[0]) {
			return c[1], len(c[0])
		}
	}
	return "", 0
}

// compares reports whether t is a comparison.
func (t token) compares() bool { return t.kind == tokMark && (t.s[0] == '<' || t.s[0] == '>') }

func isTraitWord(s string) bool {
	return len(s) > 1 && s[1] == ':' && strings.IndexByte("ckal", s[0]) >= 0
}

func (p *textParser) lex() {
	for i := 0; i < len(p.text); {
		r, n := utf8.DecodeRuneInString(p.text[i:])
		switch {
		case unicode.IsSpace(r):
			i += n
		case r == '"':
			i = p.quoted(i)
		case r == '<' || r == '>' || r == '=' && comparesAt(p.text[i:]):
			op, n := comparison(p.text[i:])
			p.toks = append(p.toks, token{tokMark, i, op})
			i += n
		case mark(r):
			p.toks = append(p.toks, token{tokMark, i, string(r)})
			i += n
		default:
			end := i
			for end < len(p.text) {
				r, n := utf8.DecodeRuneInString(p.text[end:])
				if mark(r) || r == '=' && comparesAt(p.text[end:]) {
					break
				}
				end += n
			}
			p.toks = append(p.toks, token{tokWord, i, p.text[i:end]})
			i = end
		}
	}
	p.toks = append(p.toks, token{tokEnd, len(p.text), ""})
}

func comparesAt(s string) bool { _, n := comparison(s); return n > 0 }

// quoted reads "a name", in which \" and \\ stand for " and \.
func (p *textParser) quoted(start int) (next int) {
	var b strings.Builder
	for i := start + 1; i < len(p.text); i++ {
		switch c := p.text[i]; {
		case c == '"':
			p.toks = append(p.toks, token{tokQuoted, start, b.String()})
			return i + 1
		case c == '\\' && i+1 < len(p.text) && (p.text[i+1] == '"' || p.text[i+1] == '\\'):
			i++
			b.WriteByte(p.text[i])
		default:
			b.WriteByte(c)
		}
	}
	p.fault(start, "the quote is not closed")
	p.toks = append(p.toks, token{tokQuoted, start, b.String()})
	return len(p.text)
}

func (p *textParser) tok() token { return p.toks[p.i] }

func (p *textParser) peek() token { return p.toks[min(p.i+1, len(p.toks)-1)] }

func (p *textParser) next() token {
	t := p.tok()
	if t.kind != tokEnd {
		p.i++
	}
	return t
}

// take goes past the keyword or mark if it is next.
func (p *textParser) take(s string) bool {
	if p.tok().is(s) {
		p.i++
		return true
	}
	return false
}
