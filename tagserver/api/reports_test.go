package api

import (
	"context"
	"encoding/csv"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/segments/insight"
	"github.com/ebb-dmp/ebb/segments/query/querytest"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// basis is what reports are made on: of 1,000 visitors all but the last 100 may be
// counted in insights, the first 600 had category b (and so a), of whom the first 400
// five days ago, and those from 300 to 799 had "free".
func (s *stage) basis() audience.Basis {
	s.t.Helper()
	w := &querytest.World{Now: now, Sets: map[string][]int{}, At: map[taxonomy.WriterID]uint64{{1}: 7}}
	for v := range 1000 {
		w.Sets[index.SetProfile] = append(w.Sets[index.SetProfile], v)
		if v < 900 {
			w.Sets[index.SetInsight] = append(w.Sets[index.SetInsight], v)
		}
		day := now.Day()
		if v < 400 {
			day -= 5
		}
		had := func(t taxonomy.Trait) {
			w.Facts = append(w.Facts, querytest.Fact{Visitor: v, Day: day, Column: taxonomy.Column{Source: "own", Trait: t}})
		}
		had(taxonomy.TraitAny)
		if v < 600 {
			had("c:mine/a")
			had("c:mine/b")
		}
		if v >= 300 && v < 800 {
			had("c:mine/free")
		}
	}
	c, err := s.api.here(context.Background()).audiences()
	if err != nil {
		s.t.Fatal(err)
	}
	return audience.Basis{View: w.View(), Catalog: c, Sources: w.Sources(), Workers: 1}
}

func TestReports(t *testing.T) {
	s := newStage(t)
	s.furnish()
	var o overlapView
	s.must(200, "POST", "/reports/overlap", `{"of":[{"audience":"bees"},{"trait":"c:mine/free"}]}`).into(t, &o)
	if o.Base.Shown != "900" || o.BaseIs == "" || o.Day != now.Day() || o.AsOf.IsZero() || len(o.Position) != 1 {
		t.Errorf("head %+v", o.ReportHead)
	}
	if o.Groups[0].Title != "Bees" || o.Groups[0].Visitors.Shown != "600" || o.Groups[1].Title != "Free" || *o.Groups[1].Visitors.Count != 500 {
		t.Errorf("groups %+v", o.Groups)
	}
	if p := o.Pairs[0]; *p.Both.Count != 300 || *p.Jaccard != 0.375 || *p.Lift != 0.9 {
		t.Errorf("pair %+v", p)
	}
	if len(o.Combinations) != 3 || !slices.Equal(o.Combinations[0].Of, []int{0}) || o.Combinations[2].Visitors.Shown != "200" {
		t.Errorf("combinations %+v", o.Combinations)
	}
	// As of an earlier day: only the first 400 had been there.
	s.must(200, "POST", "/reports/overlap", `{"of":[{"audience":"bees"},{"trait":"c:mine/free"}],"day":"`+(now.Day()-2).String()+`"}`).into(t, &o)
	if o.Groups[0].Visitors.Shown != "400" || o.Groups[1].Visitors.Shown != "100" || o.Day != now.Day()-2 {
		t.Errorf("two days ago: %+v", o.Groups)
	}
	// The one within the other: neither the rest nor, by difference, the whole.
	a := s.must(200, "POST", "/reports/overlap", `{"of":[{"audience":"bees"},{"trait":"c:mine/a"}]}`)
	o = overlapView{}
	a.into(t, &o)
	if p := o.Pairs[0]; p.Both.Count != nil || *p.Both.AtLeast != 551 || *p.Both.AtMost != 600 || p.Both.Shown != "551–600" || p.Jaccard != nil {
		t.Errorf("pair %s", a.body)
	}

	var p profileView
	s.must(200, "POST", "/reports/profile", `{"audience":"bees","limit":2}`).into(t, &p)
	if p.Title != "Bees" || p.Members.Shown != "600" || p.Base.Shown != "900" || len(p.Categories) != 2 || p.More != 1 || p.Nobody != 3 {
		t.Errorf("profile %+v", p)
	}
	s.must(200, "POST", "/reports/profile", `{"audience":"bees","taxonomy":"mine","sort":"members"}`).into(t, &p)
	free := p.Categories[2]
	if free.Trait != "c:mine/free" || *free.Members.Count != 300 || *free.Share != 0.5 || *free.Base.Count != 500 || *free.Index != 90 {
		t.Errorf("row %+v", free)
	}
	// All who were seen last five days ago are members, so everybody is not told.
	if len(p.LastSeen) != 2 || *p.LastSeen[0].To != 0 || *p.LastSeen[0].Members.Count != 200 || *p.LastSeen[1].From != 1 || *p.LastSeen[1].Members.Count != 400 || p.LastSeen[1].To != nil || p.LastSeen[0].Base != nil {
		t.Errorf("last seen %+v", p.LastSeen)
	}
}

func TestReportsAsCSV(t *testing.T) {
	s := newStage(t)
	s.furnish()
	s.must(201, "PUT", "/taxonomies/other", `{"title":"O","categories":[{"id":"x","title":"=1+1"}]}`, "If-None-Match: *")
	read := func(a *answer) [][]string {
		t.Helper()
		if ct := a.head.Get("Content-Type"); ct != "text/csv" || a.head.Get("Vary") != "Accept" {
			t.Fatalf("type %q, %v", ct, a.head)
		}
		rows, err := csv.NewReader(strings.NewReader(string(a.body))).ReadAll()
		if err != nil {
			t.Fatal(err)
		}
		return rows
	}
	rows := read(s.must(200, "POST", "/reports/overlap", `{"of":[{"audience":"bees"},{"trait":"c:mine/free"},{"trait":"c:other/x"}]}`, "Accept: text/csv, application/json;q=0.5"))
	if len(rows) != 1+1+3+3+7 || !slices.Equal(rows[2][:5], []string{"group", "bees", "Bees", "600", "600"}) || rows[4][2] != "'=1+1" || rows[4][3] != "<50" || rows[4][4] != "" {
		t.Errorf("%q", rows)
	}
	rows = read(s.must(200, "POST", "/reports/profile", `{"audience":"bees"}`, "Accept: text/csv"))
	if len(rows) != 5 || !slices.Equal(rows[1][:4], []string{"", "all", "600", "600"}) || rows[4][0] != "c:mine/free" || rows[4][12] != "90" {
		t.Errorf("%q", rows)
	}
	// What is refused is a problem, and what is no report is JSON.
	s.must(422, "POST", "/reports/overlap", `{"of":[]}`, "Accept: text/csv").problem(t)
	var list struct{ Items []any }
	s.must(200, "GET", "/audiences", "", "Accept: text/csv").into(t, &list)
	var o overlapView
	s.must(200, "POST", "/reports/overlap", `{"of":[{"audience":"bees"},{"trait":"c:mine/free"}]}`, "Accept: */*, text/csv").into(t, &o)
}

func TestWhatCannotBeReportedIsRefusedWithItsPlace(t *testing.T) {
	s := newStage(t)
	s.furnish()
	for _, c := range []struct{ path, body, at string }{
		{"overlap", `{"of":[{"audience":"bees"}]}`, "body.of"},
		{"overlap", `{}`, "body.of"},
		{"overlap", `{"of":[{"audience":"bees"},{"audience":"wasps"}]}`, "body.of[1].audience"},
		{"overlap", `{"of":[{"audience":"bees"},{"trait":"c:mine/z"}]}`, "body.of[1].trait"},
		{"overlap", `{"of":[{"audience":"bees"},{"trait":"k:about=tea"}]}`, "body.of[1].trait"},
		{"overlap", `{"of":[{"audience":"bees"},{}]}`, "body.of[1].audience"},
		{"overlap", `{"of":[{"audience":"bees"},{"audience":"not-bees"}],"day":"1999-01-01"}`, "body.day"},
		{"overlap", `{"off":[]}`, "body.off"},
		{"profile", `{}`, "body.audience"},
		{"profile", `{"audience":"wasps"}`, "body.audience"},
		{"profile", `{"audience":"bees","taxonomy":"yours"}`, "body.taxonomy"},
		{"profile", `{"audience":"bees","sort":"title"}`, "body.sort"},
		{"profile", `{"audience":"bees","limit":1001}`, "body.limit"},
		{"profile", `{"audience":"bees","limit":0}`, "body.limit"},
	} {
		if a := s.call(http.MethodPost, "/reports/"+c.path, c.body); a.code != 422 || !slices.Contains(places(a.problem(t)), c.at) {
			t.Errorf("%s %s: %d %s, want 422 at %s", c.path, c.body, a.code, a.body, c.at)
		}
	}
}

// P7: below the floor nothing is told of an audience but that it is.
func TestASmallAudienceHasNoProfile(t *testing.T) {
	s := newStage(t, func(o *Options) {
		profile := o.Profile
		o.Profile = func(ctx context.Context, q insight.ProfileQuery) (*insight.Profile, error) {
			p, err := profile(ctx, q)
			p.Members = 49
			return p, err
		}
	})
	s.furnish()
	var p profileView
	s.must(200, "POST", "/reports/profile", `{"audience":"bees"}`).into(t, &p)
	if p.Members.Shown != "<50" || p.Members.Count != nil || len(p.Categories) > 0 || len(p.LastSeen) > 0 {
		t.Errorf("%+v", p)
	}
}
