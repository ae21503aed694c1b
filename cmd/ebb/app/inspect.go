package app

import (
	"encoding/json"

	"github.com/ebb-dmp/ebb/retention/defs"
	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/rules"
)

// Inspect shows what became of a site's last requests at this node, and what
// the rules in force make of their events.
func (s *Server) Inspect(site taxonomy.SiteID) tagserver.Inspection {
	c := s.catalog.Load()
	lens := c.classifier.Lens(site)
	return s.edge.Inspect(site, func(e *taxonomy.Event) tagserver.Sight {
		v := lens.Look(e)
		sight := tagserver.Sight{Rules: v.Rules, Traits: v.Traits, Unused: v.Unused}
		for _, m := range v.Near {
			sight.Near = append(sight.Near, tagserver.NearMiss{Rule: m.Rule, Wants: c.wants(m.Rule, m.When), Case: m.Case})
		}
		return sight
	})
}

// wants says a condition of a rule in plain English.
func (c *catalog) wants(rule string, when int) string {
	doc, ok := c.snap.Get(defs.Rule, rule)
	if !ok {
		return ""
	}
	var r rules.Rule
	if json.Unmarshal(doc.Body, &r) != nil || when >= len(r.When) {
		return ""
	}
	return r.When[when].Words()
}
