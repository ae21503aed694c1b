package rules

import (
	"encoding/json"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/tree"
	"pgregory.net/rapid"
)

func forest(t testing.TB) *tree.Forest {
	t.Helper()
	f, err := tree.New(
		tree.Taxonomy{ID: "news", Title: "News", Categories: []tree.Category{
			{ID: "sport", Title: "Sport"}, {ID: "winter", Title: "Winter", Parents: []string{"sport"}},
			{ID: "travel", Title: "Travel"}, {ID: "ski", Title: "Ski", Parents: []string{"winter", "travel"}},
		}},
		tree.Taxonomy{ID: "products", Title: "Products", Categories: []tree.Category{
			{ID: "grocery", Title: "Grocery"}, {ID: "grocery.frzn-ice", Title: "Frozen ice", Parents: []string{"grocery"}},
			{ID: "v9i3On", Title: "Odd"},
		}},
	)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func compile(t testing.TB, rules ...Rule) *Classifier {
	t.Helper()
	c, err := Compile(7, forest(t), rules)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func props(kv ...string) (ps []taxonomy.Prop) {
	for i := 0; i < len(kv); i += 2 {
		ps = append(ps, taxonomy.Prop{Key: kv[i], Value: kv[i+1]})
	}
	slices.SortFunc(ps, func(a, b taxonomy.Prop) int { return strings.Compare(a.Key, b.Key) })
	return ps
}

func is(t *testing.T, got []taxonomy.Trait, want ...string) {
	t.Helper()
	var g []string
	for _, x := range got {
		g = append(g, string(x))
	}
	if !slices.Equal(g, want) {
		t.Errorf("got %q, want %q", g, want)
	}
}

// R14: once into each category and once into each ancestor.
func TestACategoryBringsEachAncestorOnce(t *testing.T) {
	c := compile(t,
		Rule{ID: "a", When: []Condition{{Field: "path", Op: "prefix", Value: "/ski/"}}, Then: []string{"c:news/ski"}},
		Rule{ID: "b", When: []Condition{{Field: "path", Op: "suffix", Value: ".html"}}, Then: []string{"c:news/winter", "k:type=article"}},
	)
	e := &taxonomy.Event{Kind: taxonomy.EventPage, URL: "https://www.example.com/ski/alps.html?x=1"}
	is(t, c.Classify("shop", e, nil), "c:news/ski", "c:news/sport", "c:news/travel", "c:news/winter", "k:type=article")
	if got := c.Matched("shop", e); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("matched %v", got)
	}
	if c.Version() != 7 {
		t.Errorf("version %d", c.Version())
	}
	dst := []taxonomy.Trait{"any", "a:z=1"}
	got := c.Classify("shop", &taxonomy.Event{URL: "https://a.b/x.html"}, dst)
	is(t, got, "any", "a:z=1", "c:news/sport", "c:news/winter", "k:type=article")
}

func TestAnEventsOwnTraitsCountIfTheTreeHasThem(t *testing.T) {
	c := compile(t)
	e := &taxonomy.Event{Traits: []taxonomy.Trait{"c:news/winter", "c:news/gone", "k:plan=pro", "a:age=1", "l:x=in", "any", "bot", "c:news/winter"}}
	is(t, c.Classify("s", e, nil), "c:news/sport", "c:news/winter", "k:plan=pro")
}

func TestAPropertyNamesACategory(t *testing.T) {
	c := compile(t, Rule{ID: "r", Then: []string{"c:products/{department}", "c:products/{department}.{product_category}", "k:department={department}"}})
	for _, x := range []struct {
		props []taxonomy.Prop
		want  []string
	}{
		{props("department", "GROCERY", "product_category", "FRZN ICE"), []string{"c:products/grocery", "c:products/grocery.frzn-ice", "k:department=GROCERY"}},
		{props("department", "GROCERY"), []string{"c:products/grocery", "k:department=GROCERY"}},
		{props("department", "v9i3On"), []string{"c:products/v9i3On", "k:department=v9i3On"}},
		{props("department", "SPACE TRAVEL"), []string{"k:department=SPACE TRAVEL"}},
		{props("department", ""), nil},
		{props("department", "\x01"), nil},
		{props("department", strings.Repeat("x", 65)), nil},
		{props("department", "--", "product_category", "//"), []string{"k:department=--"}},
		{nil, nil},
	} {
		is(t, c.Classify("s", &taxonomy.Event{Kind: taxonomy.EventFact, Props: x.props}, nil), x.want...)
	}
}

func TestConditions(t *testing.T) {
	one, ten, nine99 := 1.0, 10.0, 9.99
	e := &taxonomy.Event{Kind: taxonomy.EventTrack, Name: "add_to_cart", URL: "https://WWW.Example.com:8443/a/b?q=1&q=2&e=a%20b&x", Ref: "https://news.example.org",
		Props: props("price", "9.99", "empty", "", "sku", "A-1")}
	for _, c := range []struct {
		c    Condition
		want bool
	}{
		{Condition{Field: "host", Op: "eq", Value: "www.example.com"}, true},
		{Condition{Field: "host", Op: "eq", Value: "WWW.example.com"}, true},
		{Condition{Field: "host", Op: "eq", Value: "example.com"}, false},
		{Condition{Field: "host", Op: "suffix", Value: "example.com"}, true},
		{Condition{Field: "host", Op: "suffix", Value: ".example.com"}, true},
		{Condition{Field: "host", Op: "suffix", Value: "ample.com"}, false},
		{Condition{Field: "host", Op: "suffix", Value: "www.example.com"}, true},
		{Condition{Field: "host", Op: "suffix", Values: []string{"example.com", "com"}}, true},
		{Condition{Field: "host", Op: "prefix", Value: "www."}, true},
		{Condition{Field: "host", Op: "exists"}, true},
		{Condition{Field: "path", Op: "eq", Value: "/a/b"}, true},
		{Condition{Field: "path", Op: "prefix", Value: "/a"}, true},
		{Condition{Field: "path", Op: "prefix", Value: "/b"}, false},
		{Condition{Field: "path", Op: "prefix", Values: []string{"/", "/a", "/a/b"}}, true},
		{Condition{Field: "path", Op: "suffix", Value: "b"}, true},
		{Condition{Field: "path", Op: "suffix", Value: "q=1"}, false},
		{Condition{Field: "ref", Op: "suffix", Value: "example.org"}, true},
		{Condition{Field: "name", Op: "in", Values: []string{"x", "add_to_cart"}}, true},
		{Condition{Field: "kind", Op: "eq", Value: "track"}, true},
		{Condition{Field: "kind", Op: "in", Values: []string{"page", "click"}}, false},
		{Condition{Field: "prop.price", Op: "range", Min: &one, Max: &ten}, true},
		{Condition{Field: "prop.price", Op: "range", Min: &ten}, false},
		{Condition{Field: "prop.sku", Op: "range", Min: &one}, false},
		{Condition{Field: "prop.empty", Op: "exists"}, true},
		{Condition{Field: "prop.empty", Op: "eq", Value: ""}, true},
		{Condition{Field: "prop.none", Op: "eq", Value: ""}, false},
		{Condition{Field: "prop.none", Op: "exists"}, false},
		{Condition{Field: "prop.empty", Op: "prefix", Value: "x"}, false},
		{Condition{Field: "prop.price", Op: "range", Above: &one, Max: &nine99}, true},
		{Condition{Field: "prop.price", Op: "range", Above: &one, Below: &nine99}, false},
		{Condition{Field: "prop.price", Op: "range", Above: &nine99}, false},
		{Condition{Field: "prop.price", Op: "range", Min: &nine99, Below: &ten}, true},
		{Condition{Field: "prop.price", Op: "range", Above: &one, Min: &nine99}, true},
		{Condition{Field: "prop.sku", Op: "ne", Value: "A-1"}, false},
		{Condition{Field: "prop.sku", Op: "ne", Values: []string{"B", "C"}}, true},
		{Condition{Field: "prop.none", Op: "ne", Value: "A-1"}, false},
		{Condition{Field: "prop.none", Op: "eq", Value: "A-1", Not: true}, true},
		{Condition{Field: "prop.sku", Op: "eq", Value: "A-1", Not: true}, false},
		{Condition{Field: "prop.empty", Op: "ne", Value: ""}, false},
		{Condition{Field: "url", Op: "suffix", Value: "?q=1&q=2&e=a%20b&x"}, true},
		{Condition{Field: "url", Op: "contains", Values: []string{"zz", "/a/"}}, true},
		{Condition{Field: "host", Op: "contains", Value: "EXAMPLE"}, true},
		{Condition{Field: "path", Op: "contains", Value: "b"}, true},
		{Condition{Field: "path", Op: "contains", Value: "q=1"}, false},
		{Condition{Field: "name", Op: "words", Value: "cart"}, true},
		{Condition{Field: "name", Op: "words", Value: "car"}, false},
		{Condition{Field: "name", Op: "words", Values: []string{"to_c", "to_cart"}}, true},
		{Condition{Field: "name", Op: "matches", Value: "^add_.*t$"}, true},
		{Condition{Field: "name", Op: "matches", Value: "^cart"}, false},
		{Condition{Field: "query.q", Op: "eq", Value: "1"}, true},
		{Condition{Field: "query.q", Op: "eq", Value: "2"}, false},
		{Condition{Field: "query.e", Op: "eq", Value: "a b"}, true},
		{Condition{Field: "query.x", Op: "exists"}, true},
		{Condition{Field: "query.y", Op: "exists"}, false},
		{Condition{Field: "query.y", Op: "exists", Not: true}, true},
	} {
		got := compile(t, Rule{ID: "r", When: []Condition{c.c}, Then: []string{"k:a=b"}}).Classify("s", e, nil)
		if (len(got) == 1) != c.want {
			b, _ := json.Marshal(c.c)
			t.Errorf("%s: got %v, want %v", b, !c.want, c.want)
		}
	}
}

func TestFaultsNameTheirPlace(t *testing.T) {
	one, two := 1.0, 2.0
	cond := func(c Condition) Rule { return Rule{ID: "r", When: []Condition{c}, Then: []string{"k:a=b"}} }
	then := func(s ...string) Rule { return Rule{ID: "r", Then: s} }
	for _, c := range []struct {
		r    Rule
		want string
	}{
		{Rule{Then: []string{"k:a=b"}}, "id: rule: must not be empty"},
		{then(), "then: name at least one"},
		{Rule{ID: "r", Sites: []taxonomy.SiteID{"a", "B"}, Then: []string{"k:a=b"}}, "sites[1]: "},
		{cond(Condition{Field: "path_prefix", Op: "eq", Value: "/"}), `when[0].field: "path_prefix" is not one of host, path`},
		{cond(Condition{Field: "prop.", Op: "exists"}), "when[0].field: "},
		{cond(Condition{Field: "host", Op: "regex", Value: "x"}), `when[0].op: "regex" is not one of eq`},
		{cond(Condition{Field: "query.", Op: "exists"}), "when[0].field: "},
		{cond(Condition{Field: "name", Op: "matches", Value: "a("}), "when[0].value: error parsing regexp: missing closing"},
		{cond(Condition{Field: "name", Op: "matches", Value: "(?=a)"}), "the syntax is RE2's"},
		{cond(Condition{Field: "name", Op: "matches", Value: strings.Repeat("a", 257)}), "257 bytes long, at most 256"},
		{cond(Condition{Field: "name", Op: "matches", Values: []string{"a", "b"}}), "join several by |"},
		{cond(Condition{Field: "name", Op: "contains"}), "when[0].value: must not be empty"},
		{cond(Condition{Field: "kind", Op: "contains", Value: "p"}), "contains does not apply to kind"},
		{cond(Condition{Field: "prop.a", Op: "range", Above: &one, Max: &one}), "when[0].above: no number lies between above 1 and max 1"},
		{cond(Condition{Field: "prop.a", Op: "range", Above: &two, Below: &one}), "when[0].above: 2 is greater than below 1"},
		{cond(Condition{Field: "prop.a", Op: "eq", Above: &two}), "takes no bounds"},
		{cond(Condition{Field: "host", Op: "eq"}), "when[0].value: must not be empty"},
		{cond(Condition{Field: "host", Op: "eq", Value: "https://a.b/"}), "when[0].value: "},
		{cond(Condition{Field: "host", Op: "suffix", Value: "."}), "when[0].value: must not be empty"},
		{cond(Condition{Field: "host", Op: "in"}), "when[0].values: in needs"},
		{cond(Condition{Field: "host", Op: "in", Values: []string{"a", ""}}), "when[0].values[1]: must not be empty"},
		{cond(Condition{Field: "host", Op: "prefix", Values: []string{}}), "when[0].values: prefix needs"},
		{cond(Condition{Field: "host", Op: "eq", Values: []string{"a"}}), "when[0].values: eq compares"},
		{cond(Condition{Field: "host", Op: "in", Value: "a", Values: []string{"a"}}), "when[0].values: give value or values"},
		{cond(Condition{Field: "path", Op: "prefix", Value: "a"}), "a path begins with /"},
		{cond(Condition{Field: "kind", Op: "eq", Value: "view"}), `"view" is not one of page`},
		{cond(Condition{Field: "kind", Op: "prefix", Value: "p"}), "when[0].op: prefix does not apply"},
		{cond(Condition{Field: "prop.a", Op: "range"}), "when[0].min: range needs"},
		{cond(Condition{Field: "prop.a", Op: "range", Min: &two, Max: &one}), "when[0].min: 2 is greater than max 1"},
		{cond(Condition{Field: "prop.a", Op: "range", Min: &one, Value: "x"}), "when[0].value: range takes none"},
		{cond(Condition{Field: "prop.a", Op: "exists", Max: &one}), "when[0].min: exists takes no bounds"},
		{cond(Condition{Field: "name", Op: "eq", Value: strings.Repeat("x", 513)}), "513 bytes long"},
		{then("c:news/sport", "c:news/nope"), `then[1]: "c:news/nope": there is no such category`},
		{then("c:none/sport"), `there is no taxonomy "none"`},
		{then("c:news"), "want c:<taxonomy>/<category>"},
		{then("sport"), "a rule gives categories"},
		{then("a:age=1"), "a rule gives categories"},
		{then("l:x=in"), "a rule gives categories"},
		{then("any"), "a rule gives categories"},
		{then("k:a"), "want k:<key>=<value>"},
		{then("k:A=1"), "key "},
		{then("k:{a}=1"), "key "},
		{then("c:{a}/b"), "there is no taxonomy"},
		{then("c:news/{a"), "between { and }"},
		{then("c:news/{}"), "between { and }"},
		{then("c:news/a}"), "a } without {"},
		{then("k:a=\x01"), "no control characters"},
	} {
		if err := c.r.Validate(forest(t)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want %q", err, c.want)
		}
	}
	_, err := Compile(1, forest(t), []Rule{then("k:a=b"), cond(Condition{Field: "x"}), then("k:a=b")})
	if err == nil || !strings.Contains(err.Error(), "rules[1].when[0].field: ") || !strings.Contains(err.Error(), `rules[2].id: "r" is also the ID of rules[0]`) {
		t.Errorf("got %v", err)
	}
}

// The oracle: each rule by itself, with the library's URL parser and no index.

func naive(f *tree.Forest, rules []Rule, site taxonomy.SiteID, e *taxonomy.Event) []taxonomy.Trait {
	out := map[taxonomy.Trait]bool{}
	add := func(t taxonomy.Trait) {
		if x, c, ok := f.Category(t); ok {
			t = taxonomy.CategoryTrait(x.ID, c.ID)
		}
		out[t] = true
		for _, a := range f.Ancestors(t) {
			out[a] = true
		}
	}
	known := func(t string) bool {
		_, c, ok := f.Category(taxonomy.Trait(t))
		return ok && (c.Archived == 0 || e.Time < taxonomy.Millis(c.Archived))
	}
	for _, t := range e.Traits {
		if known(string(t)) || strings.HasPrefix(string(t), "k:") {
			add(t)
		}
	}
	values := map[string]string{}
	for i := len(e.Props) - 1; i >= 0; i-- {
		values[e.Props[i].Key] = e.Props[i].Value
	}
next:
	for _, r := range rules {
		if len(r.Sites) > 0 && !slices.Contains(r.Sites, site) {
			continue
		}
		for _, c := range r.When {
			if !naiveHolds(c, e, values) {
				continue next
			}
		}
		for _, t := range r.Then {
			raw, slug, ok, sluggish := t, t, true, true
			for strings.Contains(raw, "{") {
				i := strings.Index(raw, "{")
				key := raw[i+1 : i+strings.Index(raw[i:], "}")]
				v, has := values[key]
				ok = ok && has && v != ""
				raw = strings.Replace(raw, "{"+key+"}", v, 1)
				slug = strings.Replace(slug, "{"+key+"}", tree.Slug(v), 1)
				sluggish = sluggish && tree.Slug(v) != ""
			}
			switch {
			case !ok:
			case strings.HasPrefix(t, "k:"):
				add(taxonomy.Trait(raw))
			case known(raw):
				add(taxonomy.Trait(raw))
			case sluggish && known(slug):
				add(taxonomy.Trait(slug))
			}
		}
	}
	var ts []taxonomy.Trait
	for t := range out {
		ts = append(ts, t)
	}
	slices.Sort(ts)
	return ts
}

func naiveHolds(c Condition, e *taxonomy.Event, values map[string]string) bool {
	if c.Not {
		c.Not = false
		return !naiveHolds(c, e, values)
	}
	var s string
	host := func(u string) string {
		p, err := url.Parse(u)
		if err != nil {
			panic(err)
		}
		return strings.ToLower(p.Hostname())
	}
	switch key, prop := strings.CutPrefix(c.Field, "prop."); {
	case prop:
		v, ok := values[key]
		if !ok {
			return false
		}
		s = v
	case strings.HasPrefix(c.Field, "query."):
		p, err := url.Parse(e.URL)
		if err != nil {
			panic(err)
		}
		q := p.Query()
		if !q.Has(c.Field[6:]) {
			return false
		}
		s = q.Get(c.Field[6:])
	case c.Field == "url":
		s = e.URL
	case c.Field == "host":
		s = host(e.URL)
	case c.Field == "ref":
		s = host(e.Ref)
	case c.Field == "path":
		p, _ := url.Parse(e.URL)
		if s = p.EscapedPath(); s == "" && p.Host != "" {
			s = "/"
		}
	case c.Field == "name":
		s = e.Name
	case c.Field == "kind":
		s = e.Kind.String()
	}
	if s == "" && !strings.HasPrefix(c.Field, "prop.") && !strings.HasPrefix(c.Field, "query.") {
		return false
	}
	vs := c.Values
	if vs == nil {
		vs = []string{c.Value}
	}
	some := func(f func(v string) bool) bool { return slices.ContainsFunc(vs, f) }
	isHost := c.Field == "host" || c.Field == "ref"
	switch c.Op {
	case "exists":
		return true
	case "eq", "in", "ne":
		return (c.Op == "ne") != some(func(v string) bool { return s == v || isHost && s == strings.ToLower(v) })
	case "contains":
		return some(func(v string) bool { return len(strings.Split(s, v)) > 1 })
	case "words":
		return some(func(v string) bool {
			return regexp.MustCompile(`(^|[^\pL\p{Nd}])` + regexp.QuoteMeta(v) + `($|[^\pL\p{Nd}])`).MatchString(s)
		})
	case "matches":
		return regexp.MustCompile(c.Value).MatchString(s)
	case "prefix":
		return some(func(v string) bool { return strings.HasPrefix(s, v) })
	case "suffix":
		return some(func(v string) bool {
			if isHost {
				return strings.HasSuffix("."+s, "."+strings.TrimPrefix(v, "."))
			}
			return strings.HasSuffix(s, v)
		})
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || strings.ContainsAny(s, "eExXpPnNiI_") {
		return false
	}
	return (c.Min == nil || *c.Min <= f) && (c.Max == nil || f <= *c.Max) && (c.Above == nil || *c.Above < f) && (c.Below == nil || f < *c.Below)
}

var (
	someHost = rapid.SampledFrom([]string{"a.com", "b.a.com", "ba.com", "c.b.a.com", "com", "x.org"})
	somePath = rapid.StringMatching(`/[ab/]{0,5}`)
	someText = rapid.StringMatching(`[ab]{1,4}`)
	someNum  = rapid.SampledFrom([]string{"-1", "0", "1", "1.5", "2", "3", "10", "+4", ".5", "5.", ".", "1e1", "x", "", "0x1", "1_0", "Inf", "NaN"})
	someCat  = rapid.SampledFrom([]string{"GROCERY", "grocery", "frzn ice", "FRZN ICE", "v9i3On", "other", "", "sport"})
	sites    = []taxonomy.SiteID{"s1", "s2", "s3"}
)

var anyCondition = rapid.Custom(func(t *rapid.T) (c Condition) {
	c.Field = rapid.SampledFrom([]string{"host", "path", "ref", "name", "kind", "prop.p", "prop.q", "prop.r", "url", "query.a", "query.b"}).Draw(t, "field")
	text := map[string]*rapid.Generator[string]{"host": someHost, "ref": someHost, "path": somePath, "name": someText,
		"kind": rapid.SampledFrom([]string{"page", "track"})}[c.Field]
	if text == nil {
		text = rapid.OneOf(someText, someNum, someCat)
	}
	switch c.Op = rapid.SampledFrom([]string{"eq", "in", "prefix", "suffix", "range", "exists", "ne", "contains", "words", "matches"}).Draw(t, "op"); c.Op {
	case "eq":
		c.Value = text.Draw(t, "value")
	case "range":
		a, b := float64(rapid.IntRange(-2, 6).Draw(t, "min")), float64(rapid.IntRange(-2, 12).Draw(t, "max"))
		if rapid.Bool().Draw(t, "lower") || b < a {
			c.Min = &a
		}
		if c.Min == nil || b >= a && rapid.Bool().Draw(t, "upper") {
			c.Max = &b
		}
		if rapid.Bool().Draw(t, "strict") {
			c.Min, c.Above = nil, c.Min
		}
		if rapid.Bool().Draw(t, "strict") {
			c.Max, c.Below = nil, c.Max
		}
	case "exists":
	case "matches":
		c.Value = rapid.SampledFrom([]string{"a", "^[ab]+$", "a.b|^/", "^$", `\.com`}).Draw(t, "pattern")
	case "words": // the oracle knows words that begin and end with a letter
		c.Values = rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "ab", "com", "a.com", "GROCERY", "frzn"}), 1, 3).Draw(t, "values")
	default:
		c.Values = rapid.SliceOfN(text, 1, 4).Draw(t, "values")
	}
	c.Not = rapid.IntRange(0, 4).Draw(t, "not") == 0
	return c
})

func anyRules(t *rapid.T, f *tree.Forest) []Rule {
	var rules []Rule
	for i := range rapid.IntRange(0, 12).Draw(t, "rules") {
		r := Rule{ID: fmt.Sprint("r", i), When: rapid.SliceOfN(anyCondition, 0, 3).Draw(t, "when"),
			Sites: rapid.SliceOfN(rapid.SampledFrom(sites[:2]), 0, 2).Draw(t, "sites"),
			Then: rapid.SliceOfN(rapid.SampledFrom([]string{"c:news/ski", "c:news/winter", "c:news/travel", "c:products/grocery.frzn-ice",
				"c:products/{p}", "c:products/{p}.{q}", "k:p={p}", "k:x=x-{q}-{r}", "k:a=b", "k:z=z", "c:products/gro{q}"}), 1, 3).Draw(t, "then")}
		if r.Validate(f) == nil { // empty values and the like are refused
			rules = append(rules, r)
		}
	}
	return rules
}

var anyEvent = rapid.Custom(func(t *rapid.T) *taxonomy.Event {
	e := &taxonomy.Event{Kind: taxonomy.EventKind(rapid.IntRange(1, 3).Draw(t, "kind")), Time: taxonomy.Millis(rapid.IntRange(0, 3).Draw(t, "time"))}
	if rapid.Bool().Draw(t, "has URL") {
		e.URL = "https://" + someHost.Draw(t, "host") + rapid.SampledFrom([]string{"", ":8080"}).Draw(t, "port")
		if rapid.Bool().Draw(t, "has path") {
			e.URL += somePath.Draw(t, "path")
		}
		e.URL += rapid.SampledFrom([]string{"", "?a=b/c", "#x", "?b=a&a=1.5&a=2", "?a", "?a=a%2fb+a&b=#?b=c", "#?a=b"}).Draw(t, "tail")
	}
	if rapid.Bool().Draw(t, "has ref") {
		e.Ref = "https://" + someHost.Draw(t, "ref")
	}
	if rapid.Bool().Draw(t, "has name") {
		e.Name = someText.Draw(t, "name")
	}
	for _, k := range []string{"p", "q", "r"} {
		if rapid.Bool().Draw(t, "has "+k) {
			e.Props = append(e.Props, taxonomy.Prop{Key: k, Value: rapid.OneOf(someText, someNum, someCat).Draw(t, k)})
		}
	}
	e.Traits = rapid.SliceOfN(rapid.SampledFrom([]taxonomy.Trait{"c:news/ski", "c:news/none", "k:a=b", "l:x=in"}), 0, 2).Draw(t, "traits")
	return e
})

func TestTheIndexFindsWhatAskingOneByOneFinds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := anyForest(t)
		rules := anyRules(t, f)
		c, err := Compile(1, f, rules)
		if err != nil {
			t.Fatal(err)
		}
		for range 8 {
			e, site := anyEvent.Draw(t, "event"), rapid.SampledFrom(sites).Draw(t, "site")
			got, want := c.Classify(site, e, nil), naive(f, rules, site, e)
			if !slices.Equal(got, want) {
				b, _ := json.Marshal(rules)
				t.Fatalf("rules %s\nevent %+v\ngot  %v\nwant %v", b, e, got, want)
			}
		}
	})
}

func TestARuleRoundTripsThroughJSON(t *testing.T) {
	f := forest(t)
	rapid.Check(t, func(t *rapid.T) {
		rules := anyRules(t, f)
		b, err := json.Marshal(rules)
		if err != nil {
			t.Fatal(err)
		}
		var again []Rule
		if err := json.Unmarshal(b, &again); err != nil {
			t.Fatal(err)
		}
		x, err1 := Compile(1, f, rules)
		y, err2 := Compile(1, f, again)
		if err1 != nil || err2 != nil {
			t.Fatal(err1, err2)
		}
		e := anyEvent.Draw(t, "event")
		if a, b := x.Classify("s1", e, nil), y.Classify("s1", e, nil); !slices.Equal(a, b) {
			t.Fatalf("%v, after %s %v", a, b, b)
		}
	})
}

func TestManyValuesAreCutToThoseThatMatter(t *testing.T) {
	var values []string
	for i := range 500 {
		values = append(values, fmt.Sprintf("/a%d", i), fmt.Sprintf("/a%d/", i))
	}
	c := compile(t, Rule{ID: "r", When: []Condition{{Field: "path", Op: "prefix", Values: values}}, Then: []string{"k:a=b"}})
	for p, want := range map[string]int{"/a499/x": 1, "/a0": 1, "/a": 0, "/b": 0} {
		if got := c.Matched("s", &taxonomy.Event{URL: "https://h" + p}); len(got) != want {
			t.Errorf("%s: %v", p, got)
		}
	}
}

func FuzzRule(f *testing.F) {
	f.Add([]byte(`{"id":"r","when":[{"field":"prop.p","op":"range","min":1}],"then":["c:products/{p}"]}`), "https://a.com/x", "1")
	f.Add([]byte(`{"id":"r","when":[{"field":"host","op":"suffix","values":["a","b.a"]}],"then":["k:a={p}"]}`), "http://[::1]:80?x", "\xff")
	f.Add([]byte(`{"id":"r","when":[{"field":"path","op":"suffix","value":"é"}],"then":["k:a={p}"]}`), "//x@y/é", "a\nb")
	f.Add([]byte(`{"id":"r","when":[{"field":"query.x","op":"words","value":"é","not":true},{"field":"url","op":"matches","value":"a+$"},{"field":"prop.p","op":"range","above":1,"below":2}],"then":["k:a=b"]}`), "https://a.com/?x=%c3%a9&%zz=1", "1.5")
	fo := forest(f)
	f.Fuzz(func(t *testing.T, b []byte, u, v string) {
		var r Rule
		if json.Unmarshal(b, &r) != nil {
			return
		}
		c, err := Compile(1, fo, []Rule{r})
		if err != nil {
			return
		}
		e := &taxonomy.Event{URL: u, Ref: u, Name: v, Kind: 1, Props: props("p", v, "q", u)}
		got := c.Classify("s", e, nil)
		// The same conditions, asked without the index.
		p, err := parse(&r, fo)
		if err != nil {
			t.Fatal(err)
		}
		want := len(p.sites) == 0 || slices.Contains(p.sites, "s")
		w := look(e)
		for i := range p.conds {
			want = want && p.conds[i].holds(&w, e)
		}
		if have := len(c.Matched("s", e)) == 1; have != want {
			t.Fatalf("index says %v, conditions say %v", have, want)
		}
		if !slices.IsSorted(got) || len(slices.Compact(slices.Clone(got))) != len(got) {
			t.Fatalf("not sorted or not once: %q", got)
		}
		for _, x := range got {
			if strings.HasPrefix(string(x), "k:") && strings.ContainsAny(string(x), "\n\x00") {
				t.Fatalf("a control character in %q", x)
			}
		}
	})
}

func TestAnEventAboutMoreThanFitsLosesNothing(t *testing.T) {
	x := tree.Taxonomy{ID: "t", Title: "T"}
	var rules []Rule
	var want []taxonomy.Trait
	for i := range 1000 {
		id := fmt.Sprintf("c%03d", i)
		x.Categories = append(x.Categories, tree.Category{ID: id, Title: id})
		want = append(want, taxonomy.CategoryTrait("t", id))
		for _, r := range []string{"a", "b"} { // each twice
			rules = append(rules, Rule{ID: r + id, Then: []string{"c:t/" + id}})
		}
	}
	f, err := tree.New(x)
	if err != nil {
		t.Fatal(err)
	}
	c, err := Compile(1, f, rules)
	if err != nil {
		t.Fatal(err)
	}
	e := &taxonomy.Event{}
	if got := c.Classify("s", e, nil); !slices.Equal(got, want) {
		t.Errorf("got %d traits, want %d", len(got), len(want))
	}
	if got := c.Matched("s", e); len(got) != len(rules) {
		t.Errorf("%d rules matched, want %d", len(got), len(rules))
	}
}

func TestAConditionReadsAsPlainEnglish(t *testing.T) {
	n := 4.5
	for want, c := range map[string]Condition{
		"path begins with “/shoes”":                       {Field: "path", Op: "prefix", Value: "/shoes"},
		"host is not “a”, “b” or “c”":                     {Field: "host", Op: "in", Values: []string{"a", "b", "c"}, Not: true},
		"host is “a”, “b”, “c”, “d”, “e”, “f” or 2 more":  {Field: "host", Op: "in", Values: []string{"a", "b", "c", "d", "e", "f", "g", "h"}},
		"prop.price is a number above 4.5":                {Field: "prop.price", Op: "range", Above: &n},
		"title has none of “red”, “shoes” as whole words": {Field: "title", Op: "words", Values: []string{"red", "shoes"}, Not: true},
	} {
		if got := c.Words(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
