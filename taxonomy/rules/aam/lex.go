package aam

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Syntax is what a text of Audience Manager is cut at: traits' rules and segments'
// are cut alike, at other signs.
type Syntax struct {
	Marks  string // ASCII; each stands alone
	Signs  string // ASCII; those that stand together are one operator
	Quotes string // ASCII; what is between two is one value
}

// traitSyntax is that of a trait's rule.
var traitSyntax = Syntax{Marks: "()", Signs: "=!<>", Quotes: `"'`}

// Kinds of tokens beside marks, whose kind is the mark itself.
const (
	End      = 0
	Word     = 'w'
	Quoted   = 's'
	Operator = 'o'
)

// Token is a part of a text.
type Token struct {
	Kind byte
	At   int    // byte
	Text string // of what is quoted, without the quotes; "" at the end
}

// String is the token as a message shows it.
func (t Token) String() string {
	if t.Kind == End {
		return "the end"
	}
	if len(t.Text) > 40 {
		return strconv.Quote(t.Text[:40] + "…")
	}
	return strconv.Quote(t.Text)
}

// Is reports whether it is this word, in any case.
func (t Token) Is(word string) bool { return t.Kind == Word && strings.EqualFold(t.Text, word) }

// Tokens cuts a text, which is UTF-8, into tokens, of which the last is the end. A
// quote that is not closed is told, and goes to the end.
func (s Syntax) Tokens(text string, fault func(at int, format string, args ...any)) (out []Token) {
	in := func(set string, r rune) bool { return strings.ContainsRune(set, r) }
	for i := 0; i < len(text); {
		start := i
		r, size := utf8.DecodeRuneInString(text[i:])
		switch {
		case unicode.IsSpace(r):
			i += size
		case in(s.Marks, r):
			i++
			out = append(out, Token{byte(r), start, text[start:i]})
		case in(s.Signs, r):
			for i < len(text) && strings.IndexByte(s.Signs, text[i]) >= 0 {
				i++
			}
			out = append(out, Token{Operator, start, text[start:i]})
		case in(s.Quotes, r):
			end := strings.IndexRune(text[i+1:], r)
			if end < 0 {
				fault(start, "the quote is not closed")
				end = len(text) - i - 1
			}
			out = append(out, Token{Quoted, start, text[i+1 : i+1+end]})
			i = min(i+end+2, len(text))
		default:
			n := strings.IndexFunc(text[i:], func(r rune) bool { return unicode.IsSpace(r) || in(s.Marks, r) || in(s.Signs, r) || in(s.Quotes, r) })
			if n < 0 {
				n = len(text) - i
			}
			i += n
			out = append(out, Token{Word, start, text[start:i]})
		}
	}
	return append(out, Token{End, len(text), ""})
}
