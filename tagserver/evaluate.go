package tagserver

import (
	"slices"
	"strings"

	"github.com/ebb-dmp/ebb/taxonomy"
)

// Evaluator knows the rules that ask for keys which are evaluated and never
// stored: properties whose key begins with p_, and keys of the query that a site
// does not keep. It is asked on requests, so it answers from memory.
type Evaluator interface {
	// QueryKeys returns the keys of the query that a site keeps and those beyond
	// them that rules ask for; nil if there are none of these.
	QueryKeys(taxonomy.SiteID) []string
	// Evaluate appends to dst what only the keys that are not kept say of an
	// event: full has them, kept has not.
	Evaluate(site taxonomy.SiteID, full, kept *taxonomy.Event, dst []taxonomy.Trait) []taxonomy.Trait
}

// evaluate takes what is never stored out of a cleaned event and leaves the traits
// that it says. The firewall comes first: properties have passed it in cleanEvent,
// and an address with more of its query passes it here or is not asked.
func (s *Server) evaluate(e *taxonomy.Event, raw string, site *taxonomy.Site) {
	private := slices.ContainsFunc(e.Props, func(p taxonomy.Prop) bool { return taxonomy.NeverStored(p.Key) })
	full := *e
	if s.o.Evaluator != nil && strings.IndexByte(raw, '?') >= 0 {
		if keys := s.o.Evaluator.QueryKeys(site.ID); keys != nil {
			if u, f := cleanURL(raw, keys); f == nil {
				full.URL = u
			}
		}
	}
	if !private && full.URL == e.URL {
		return
	}
	full.Props = slices.Clone(e.Props)
	e.Props = slices.DeleteFunc(e.Props, func(p taxonomy.Prop) bool { return taxonomy.NeverStored(p.Key) })
	if s.o.Evaluator != nil {
		e.Traits = s.o.Evaluator.Evaluate(site.ID, &full, e, e.Traits[:0])
	}
}
