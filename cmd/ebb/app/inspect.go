package app

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

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

// wants says a condition of a rule as it stands there: "path prefix /shoes".
func (c *catalog) wants(rule string, when int) string {
	doc, ok := c.snap.Get(defs.Rule, rule)
	if !ok {
		return ""
	}
	var r rules.Rule
	if json.Unmarshal(doc.Body, &r) != nil || when >= len(r.When) {
		return ""
	}
	w := &r.When[when]
	var b strings.Builder
	if w.Not {
		b.WriteString("not ")
	}
	b.WriteString(w.Field + " " + w.Op)
	values := w.Values
	if w.Value != "" {
		values = []string{w.Value}
	}
	const most = 3
	for i, v := range values {
		if i == most {
			fmt.Fprintf(&b, " … of %d", len(values))
			break
		}
		b.WriteString(" " + v)
	}
	for _, bound := range []struct {
		word string
		v    *float64
	}{{"min", w.Min}, {"max", w.Max}, {"above", w.Above}, {"below", w.Below}} {
		if bound.v != nil {
			b.WriteString(" " + bound.word + " " + strconv.FormatFloat(*bound.v, 'g', -1, 64))
		}
	}
	return b.String()
}
