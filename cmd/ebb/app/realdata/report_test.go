package realdata

import (
	"slices"
	"strings"

	"github.com/ebb-dmp/ebb/segments/insight"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// reported are the audiences that overlap in reports, and are profiled.
var reported = []string{"grocery-30", "large-basket", "produce-no-meat", "owners-not-married", "nested-twice"}

// profiles asks the other engine how many members of an audience have each category.
func (j *journey) profiles() map[string]string {
	tables := map[string]string{}
	for _, r := range j.rules {
		if slices.Contains(reported, string(r.id)) {
			tables["profile "+string(r.id)] = "SELECT category, count(DISTINCT visitor) FROM about WHERE visitor IN (SELECT visitor FROM (" + r.sql + "\n) AS t(visitor)) GROUP BY ALL"
		}
	}
	return tables
}

// reports holds overlaps and profiles against the other engine: every combination of
// five audiences by the visitors that it finds in each, and every category's members.
func (j *journey) reports(want answer) {
	j.t.Helper()
	var q insight.OverlapQuery
	in := map[int]insight.Combination{}
	for i, id := range reported {
		q.Of = append(q.Of, insight.Group{Audience: taxonomy.AudienceID(id)})
		for _, v := range want.Visitors[id] {
			in[v] |= insight.Of(i)
		}
	}
	cells := make([]uint64, 1<<len(reported))
	for _, c := range in {
		cells[c]++
	}
	o, err := j.Overlap(ctx, q)
	if err != nil {
		j.t.Fatal(err)
	}
	filled := 0
	for c, n := range o.Exclusive()[1:] {
		if n > 0 {
			filled++
		}
		if n != cells[c+1] {
			j.t.Errorf("only in %05b: %d visitors, DuckDB has %d", c+1, n, cells[c+1])
		}
	}
	if filled < 12 {
		j.t.Errorf("only %d of 31 combinations have visitors: it says little", filled)
	}
	rows := 0
	for _, id := range reported {
		p, err := j.Profile(ctx, insight.ProfileQuery{Audience: taxonomy.AudienceID(id), Taxonomy: "products"})
		if err != nil {
			j.t.Fatal(err)
		}
		had := map[string]uint64{}
		for _, r := range want.Tables["profile "+id] {
			had[r[0].(string)] = uint64(r[1].(float64))
		}
		everybody := map[string]uint64{}
		for _, r := range want.Tables["nodes"] {
			everybody[r[0].(string)] = uint64(r[1].(float64))
		}
		if int(p.Members) != len(want.Visitors[id]) || len(p.Categories) != len(everybody) || p.Base != o.Base {
			j.t.Errorf("%s: %d members with %d categories of %d; DuckDB has %d with %d, the overlap is of %d", id, p.Members, len(p.Categories), p.Base, len(want.Visitors[id]), len(everybody), o.Base)
		}
		for _, k := range p.Categories {
			name := strings.TrimPrefix(string(k.Trait), "c:products/")
			if rows++; k.Members != had[name] || k.Base != everybody[name] {
				j.t.Errorf("%s, %s: %d of %d, DuckDB counts %d of %d", id, name, k.Members, k.Base, had[name], everybody[name])
			}
		}
	}
	j.t.Logf("%d combinations with visitors and %d rows of profiles are DuckDB's", filled, rows)
}
