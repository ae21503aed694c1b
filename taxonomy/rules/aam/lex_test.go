package aam

import (
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// Whatever the text and the syntax: the tokens stand in order, each where it says,
// and between them is nothing but spaces and quotes.
func FuzzTokens(f *testing.F) {
	for _, s := range []string{`(c_make == "A b") AND d_event=>imp`, "frequency([1000T,2T] <= 2D) >= 5", `"not closed`, `''""`, "é((]\u00a0<>", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if !utf8.ValidString(text) {
			return
		}
		for _, s := range []Syntax{traitSyntax, {Marks: "()[],", Signs: "<>="}} {
			var faults []int
			toks := s.Tokens(text, func(at int, _ string, _ ...any) { faults = append(faults, at) })
			at := 0
			for i, k := range toks {
				if k.At < at || (k.Kind == End) != (i == len(toks)-1) {
					t.Fatalf("%q: %+v", text, toks)
				}
				if rest := strings.Trim(text[at:k.At], s.Quotes); strings.TrimSpace(rest) != "" {
					t.Fatalf("%q: %q before %+v is no token", text, rest, k)
				}
				from := k.At
				if k.Kind == Quoted {
					from++
				}
				if !strings.HasPrefix(text[from:], k.Text) || k.Text == "" && k.Kind != Quoted && k.Kind != End {
					t.Fatalf("%q: %+v stands elsewhere", text, k)
				}
				at = from + len(k.Text)
			}
			if toks[len(toks)-1].At != len(text) || len(faults) > 1 || len(faults) == 1 && (text[faults[0]] != '"' && text[faults[0]] != '\'') {
				t.Fatalf("%q: %+v, faults at %v", text, toks, faults)
			}
			if s.Quotes == "" && slices.ContainsFunc(toks, func(k Token) bool { return k.Kind == Quoted }) {
				t.Fatalf("%q: quoted where there are no quotes: %+v", text, toks)
			}
		}
	})
}
