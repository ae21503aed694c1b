// Package audience computes who is in: it turns definitions into generations,
// answers estimates, and explains both.
package audience

import (
	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// Generation is one immutable, hashed, published state of all audiences: the
// manifest of a build. It names visitors by ordinals, so it is built from a
// committed checkpoint only (R6).
type Generation struct {
	// Epoch is the number of restores of this installation (R29), and part of
	// every name.
	Epoch  uint64 `json:"epoch"`
	Number uint64 `json:"number"` // 1, 2, 3, … within the epoch
	Term   uint64 `json:"term"`   // of the builder's lease
	// Built is the wall time of the build; Clock the fold's, whose day decides
	// what "today" means in every window.
	Built taxonomy.Millis `json:"built"`
	Clock taxonomy.Millis `json:"clock"`
	// Position is what the generation has seen.
	Position    retention.Position `json:"position"`
	RuleVersion uint32             `json:"rule_version"` // of the taxonomy and classifier
	Shards      int                `json:"shards"`
	// Sources are those that were in use for profiling, sorted.
	Sources   []taxonomy.SourceID `json:"sources"`
	Audiences []Entry             `json:"audiences"` // by ID
}

// Day is "today" of the generation.
func (g *Generation) Day() taxonomy.Day { return g.Clock.Day() }

// Entry is one audience in a generation. An audience that did not change points
// to the file of an older generation.
type Entry struct {
	ID      taxonomy.AudienceID `json:"id"`
	Version uint64              `json:"version"` // of the definition
	Count   uint64              `json:"count"`   // exact
	Added   uint64              `json:"added"`   // against the generation before
	Removed uint64              `json:"removed"`
	Blob    string              `json:"blob"` // name in Blobs of the members
	SHA256  string              `json:"sha256"`
	// Positive are the columns that the rule uses positively: the newest day in
	// one of them decides a member's remaining life (R31). Empty for pure NOT
	// and for lookalikes, whose life goes by the newest day of any event.
	Positive []taxonomy.Column `json:"positive,omitempty"`
	// Over is when the life of Blob ends: the start of day d+90, d being the day
	// on which it was written.
	Over taxonomy.Millis `json:"over"`
	// Fault, if set, is why the audience could not be built, and is empty.
	Fault string `json:"fault,omitempty"`
	// Evidence is how good a lookalike is.
	Evidence *Evidence `json:"evidence,omitempty"`
}

// Entry returns an audience's entry.
func (g *Generation) Entry(id taxonomy.AudienceID) (Entry, bool) {
	for i := range g.Audiences {
		if g.Audiences[i].ID == id {
			return g.Audiences[i], true
		}
	}
	return Entry{}, false
}

// View is an index and its visitors as of one committed checkpoint: all that a
// build, an estimate or a delivery reads. It is immutable and safe for
// concurrent use.
type View interface {
	index.Leaves
	index.Visitors
	// Position and Clock are the checkpoint's; RuleVersion is the version in
	// force there; Any are the columns of TraitAny of the sources in use.
	Position() retention.Position
	Clock() taxonomy.Millis
	RuleVersion() uint32
}
