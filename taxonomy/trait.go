package taxonomy

import (
	"strconv"
	"strings"
)

// Trait is what can be true of a visitor on a day. Its first letter says which
// kind it is:
//
//	c:<taxonomy>/<category>    a category, its ancestors being traits of their own
//	k:<key>=<value>            a key=value that is kept as such
//	a:<key>=<value>            an attribute, whose newest statement wins (R16)
//	l:<list>=in, l:<list>=out  a membership of a static list (R16)
//	any                        an event happened at all (R15)
//	bot                        an event was flagged as a bot's (R28)
//	bot:<layer>                by which layer of the edge
type Trait string

// The traits that the fold itself gives.
const (
	TraitAny Trait = "any"
	TraitBot Trait = "bot"

	// BotLayerPrefix begins the trait of a layer. An event that is flagged carries
	// it, and the fold keeps it beside TraitBot; no rule may ask for it.
	BotLayerPrefix = "bot:"
)

// CategoryTrait is the trait of a category.
func CategoryTrait(taxonomy, category string) Trait {
	return Trait("c:" + taxonomy + "/" + category)
}

// AttributeTrait is the trait of one value of an attribute.
func AttributeTrait(key, value string) Trait { return Trait("a:" + key + "=" + value) }

// ListTrait is the trait of being in, or having been taken out of, a list.
func ListTrait(list ListID, in bool) Trait {
	if in {
		return Trait("l:" + string(list) + "=in")
	}
	return Trait("l:" + string(list) + "=out")
}

// Statement returns the key under which the newest statement wins, and true, if
// t is an attribute or a list membership; all traits with the same such key
// exclude each other.
func (t Trait) Statement() (string, bool) {
	if len(t) < 2 || t[1] != ':' || t[0] != 'a' && t[0] != 'l' {
		return "", false
	}
	if i := strings.IndexByte(string(t), '='); i > 0 {
		return string(t[:i]), true
	}
	return "", false
}

// endMark stands between a statement and its own end: no value has control
// characters.
const endMark = '\x1f'

// Ending is an attribute or a membership that holds only before a day (R16, "less
// if stated"). It is a trait of its own, so that the index needs to know nothing
// of ends: whoever asks for the newest statement sees that it is over.
func (t Trait) Ending(until Day) Trait {
	return t + Trait(endMark) + Trait(strconv.Itoa(int(until)))
}

// Ends returns what is stated, and the first day on which it no longer holds if
// the statement has an end of its own.
func (t Trait) Ends() (stated Trait, until Day, ends bool) {
	i := strings.LastIndexByte(string(t), endMark)
	if i < 0 {
		return t, 0, false
	}
	n, err := strconv.ParseInt(string(t[i+1:]), 10, 32)
	if err != nil {
		return t, 0, false
	}
	return t[:i], Day(n), true
}

// Column is a trait from one source. The index stores columns, so that what a
// source brought can be withdrawn at once (R19). A category's column holds the
// events of its descendants too: the fold writes an event once into each of its
// categories and once into each of their ancestors (R14).
type Column struct {
	Source SourceID
	Trait  Trait
}

// Compare orders columns by trait, then by source, which keeps the columns of
// one trait together on disk.
func (c Column) Compare(o Column) int {
	if r := strings.Compare(string(c.Trait), string(o.Trait)); r != 0 {
		return r
	}
	return strings.Compare(string(c.Source), string(o.Source))
}
