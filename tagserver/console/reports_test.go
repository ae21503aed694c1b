package console

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"golang.org/x/net/html"

	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// reports answers as the API does, with numbers of every kind.
func (w *world) reports(m *http.ServeMux, answer func(http.ResponseWriter, int, any), invalid func(http.ResponseWriter, error)) {
	between := func(low, high uint64) map[string]any {
		return map[string]any{"shown": "range", "at_least": low, "at_most": high}
	}
	below := map[string]any{"shown": "<50"}
	head := func(day string) map[string]any {
		if day == "" {
			day = w.now.Day().String()
		}
		return map[string]any{"as_of": w.now.Time(), "day": day, "base": shownAs(182_000), "base_is": "visitors who may be profiled and counted in insights, less robots, erased visitors and the holdout"}
	}
	title := func(id string) string {
		for _, a := range w.audiences {
			if string(a.ID) == id {
				return a.Title
			}
		}
		return id
	}
	m.HandleFunc("POST /api/v1/reports/overlap", func(rw http.ResponseWriter, r *http.Request) {
		var in struct {
			Of  []struct{ Audience, Trait string }
			Day string
		}
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
			invalid(rw, err)
			return
		}
		if !tagserver.PrincipalOf(r.Context()).Has("audiences:write") {
			answer(rw, 403, tagserver.NewProblem(403, "forbidden", "the key has no right to audiences:write"))
			return
		}
		v := head(in.Day)
		var groups, pairs, combinations []any
		for i, g := range in.Of {
			if g.Trait != "" && !strings.HasPrefix(g.Trait, "c:products/") {
				invalid(rw, taxonomy.Invalid("of[1].trait", "there is no category %q", g.Trait))
				return
			}
			one := map[string]any{"title": title(g.Audience), "audience": g.Audience, "visitors": shownAs(uint64(4000 - 700*i))}
			if g.Trait != "" {
				one = map[string]any{"title": w.titles[taxonomy.Trait(g.Trait)], "trait": g.Trait, "sensitive": true, "archived": true, "visitors": below}
			}
			groups = append(groups, one)
			for j := range i {
				p := map[string]any{"of": []int{j, i}, "both": shownAs(1200), "jaccard": 0.2, "lift": 15.4}
				if g.Trait != "" {
					p = map[string]any{"of": []int{j, i}, "both": below}
				} else if i == 2 {
					p = map[string]any{"of": []int{j, i}, "both": between(2551, 2600)}
				}
				pairs = append(pairs, p)
			}
		}
		for i, n := range []any{shownAs(2600), between(1151, 1200), shownAs(700), below, map[string]any{"shown": "≥60", "at_least": 60}, map[string]any{"shown": "–"}, below} {
			if len(in.Of) == 3 {
				var of []int
				for g := range 3 {
					if (i+1)>>g&1 == 1 {
						of = append(of, g)
					}
				}
				combinations = append(combinations, map[string]any{"of": of, "visitors": n})
			}
		}
		v["groups"], v["pairs"], v["combinations"] = groups, pairs, combinations
		answer(rw, 200, v)
	})
	m.HandleFunc("POST /api/v1/reports/profile", func(rw http.ResponseWriter, r *http.Request) {
		var in struct {
			Audience, Taxonomy, Day string
			Sensitive               bool
		}
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
			invalid(rw, err)
			return
		}
		v := head(in.Day)
		v["members"], v["more"], v["left_out"], v["nobody"] = shownAs(4000), 1, 2, 3
		if in.Audience == "tiny" {
			v["members"] = below
			answer(rw, 200, v)
			return
		}
		cat := func(trait string, members, all any, index float64) map[string]any {
			k := map[string]any{"trait": "c:products/" + trait, "title": w.titles[taxonomy.Trait("c:products/"+trait)], "members": members, "base": all, "share": 0.5, "base_share": 0.25}
			if index > 0 {
				k["index"] = index
			}
			return k
		}
		v["categories"] = []any{cat("grocery", between(3951, 4000), shownAs(18_200), 0), cat("pastry", shownAs(1000), shownAs(9_100), 500), cat("wine", shownAs(100), shownAs(18_200), 25), cat("pets", below, below, 0)}
		v["last_seen"] = []any{map[string]any{"from": 0, "to": 0, "members": shownAs(500), "base": shownAs(9_000)}, map[string]any{"from": 1, "to": 13, "members": shownAs(3000), "base": shownAs(50_000)}, map[string]any{"from": 14, "members": shownAs(500)}}
		answer(rw, 200, v)
	})
}

// spaced is the text of a page, with a space between what stands in elements of its own.
func spaced(t *testing.T, body string) string {
	var b strings.Builder
	for d := range parsePage(t, body).Descendants() {
		if d.Type == html.TextNode {
			b.WriteString(" " + d.Data)
		}
	}
	return strings.Join(strings.Fields(b.String()), " ")
}

// P7: an overlap is shown as it is told: exact, below the floor, and within bounds,
// with who is meant.
func TestAnOverlapIsShownAsItIsTold(t *testing.T) {
	w := normal()
	s := serve(t, w)
	const path = base + "/overlap?of=grocery-regulars&of=lapsed&of=pet-owners"
	status, body := s.get(t, path)
	if status != 200 {
		t.Fatalf("status %d", status)
	}
	text := spaced(t, body)
	for _, want := range []string{
		"The base is 182,000 visitors who may be profiled and counted in insights",
		"A Grocery regulars grocery-regulars 4,000 2.2 %",
		"2,600 Grocery regulars",
		"1,151–1,200 Lapsed customers",
		"<50 Pet owners",
		"A B Grocery regulars and Lapsed customers 1,200 30.0 % 36.4 % 0.200 15.40",
		"A C Grocery regulars and Pet owners 2,551–2,600 63.8–65.0 % 98.1–100.0 % – –",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in %s", want, text)
		}
	}
	if n := strings.Count(body, `aria-label="in"`); n != 12 { // 7 combinations of 3
		t.Errorf("%d dots are filled", n)
	}
	// Nothing chosen, or one: the form alone, with what is chosen.
	_, body = s.get(t, base+"/overlap?of=lapsed")
	if strings.Contains(body, "Each pair") || strings.Count(body, " checked") != 1 {
		t.Error("one audience is no overlap")
	}
	status, body = s.get(t, base+"/overlap?of=lapsed&categories=c:nothing/here")
	if status != 422 || !strings.Contains(body, "there is no category") {
		t.Errorf("status %d, %s", status, spaced(t, body))
	}
	// A day that is asked for is asked for.
	if _, body = s.get(t, path+"&day=2026-11-20"); !strings.Contains(body, "for the end of 2026-11-20") {
		t.Error("the day is lost")
	}
}

func TestAProfileIsShownAsItIsTold(t *testing.T) {
	w := normal()
	s := serve(t, w)
	status, body := s.get(t, base+"/audiences/grocery-regulars/profile?sort=members&taxonomy=products")
	text := spaced(t, body)
	for _, want := range []string{
		"4,000 members in the base, 2.2 % of it",
		"Grocery c:products/grocery 987–1,000 98.8–100.0 % 10.0 % 3,951–4,000 18,200",
		"Pastry c:products/pastry 500 25.0 % 5.0 % 1,000 9,100",
		"c:products/pets – – – – <50 <50",
		"on the day itself 500 12.5 % 4.9 %", "1 to 13 days before 3,000 75.0 % 27.5 %", "14 days before, or earlier 500 12.5 % –",
		"1 more category not shown", "2 sensitive categories left out",
	} {
		if status != 200 || !strings.Contains(text, want) {
			t.Errorf("%d, %q is not in %s", status, want, text)
		}
	}
	if !strings.Contains(body, `<option value="products" selected>`) || !strings.Contains(body, `<option value="members" selected>`) {
		t.Error("the form forgets what was chosen")
	}
	if _, body = s.get(t, base+"/audiences/tiny/profile"); !strings.Contains(body, "Too few members") || strings.Contains(body, "By category") {
		t.Error("an audience below the floor has a profile")
	}
	if status, _ = s.get(t, base+"/audiences/nobody/profile"); status != 404 {
		t.Errorf("status %d", status)
	}
	for _, p := range []string{base + "/audiences", base + "/audiences/grocery-regulars"} {
		if _, body := s.get(t, p); !strings.Contains(body, `href="/console/overlap`) {
			t.Errorf("%s does not lead to the overlap", p)
		}
	}
}
