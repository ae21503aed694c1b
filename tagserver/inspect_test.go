package tagserver

import (
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/ebb-dmp/ebb/taxonomy"
)

func TestTheInspectorShowsWhatBecameOfEachRequest(t *testing.T) {
	e := newEdge(t)
	b := e.browser()
	b.post("shop", 3, `{"site":"shop","consent":{"granted":true},"events":[
		{"id":"a","kind":"track","name":"add_to_cart","url":"https://shop.example/shoes?cat=1&x=2","props":{"sku":"a-1","price":59}},
		{"id":"a","kind":"track","name":"again"},
		{"id":"b","kind":"track","name":"mail","props":{"note":"jane.doe@example.com"}}]}`)
	e.clock.Advance(taxonomy.Second)
	b.post("shop", 1, `{"site":"shop","events":[{"kind":"track","name":"secret-wish"}]}`)
	e.clock.Advance(taxonomy.Second)
	b.post("shop", 1, `{"site":"shop","consent":{"granted":true},"events":[{}]}`, "Origin", "https://other.example")
	in := e.Inspect("shop", func(ev *taxonomy.Event) Sight {
		return Sight{Rules: []string{"rule of " + ev.Name}, Unused: []string{"prop.sku"}}
	})
	if len(in.Sightings) != 3 {
		t.Fatalf("%d sightings, want 3: %+v", len(in.Sightings), in.Sightings)
	}
	refused, silent, taken := in.Sightings[0], in.Sightings[1], in.Sightings[2]
	if refused.Refused == nil || refused.Refused.Code != "wrong_origin" || refused.N != 1 {
		t.Errorf("refused: %+v", refused)
	}
	// P3: of a request without consent only the decision is remembered.
	if silent.N != 1 || len(silent.Events) != 0 || silent.May != 0 || silent.Reasons[0].Code != "no_consent" || silent.Signals[0] != (SignalSeen{taxonomy.SignalNone, "nothing said"}) {
		t.Errorf("without consent: %+v", silent)
	}
	if strings.Contains(fmt.Sprintf("%+v", in), "secret-wish") {
		t.Error("an event without consent is shown")
	}
	if taken.Cookie != "new" || taken.Signals[0] != (SignalSeen{taxonomy.SignalExplicit, "yes"}) || len(taken.Events) != 3 {
		t.Fatalf("taken: %+v", taken)
	}
	ev := taken.Events[0]
	if ev.Outcome != "stored" || ev.Event.URL != "https://shop.example/shoes?cat=1" || ev.Event.ID != (taxonomy.EventID{}) || len(ev.Event.Props) != 2 {
		t.Errorf("stored: %+v", ev)
	}
	if d := taken.Events[1]; d.Outcome != "duplicate" || d.Event.Name != "" {
		t.Errorf("duplicate: %+v", d)
	}
	if r := taken.Events[2]; r.Outcome != "rejected" || r.Refusal.Code != "pii" || r.Refusal.Where != "props.note" || r.Refusal.Sample != "aaaa.aaa@aaaaaaa.aaa" || r.Event.Name != "" {
		t.Errorf("refused: %+v", r)
	}
	if s := in.Sights[2]; len(s) != 3 || s[0].Rules[0] != "rule of add_to_cart" || s[1].Rules != nil || s[2].Rules != nil {
		t.Errorf("rules were asked of what was not stored: %+v", s)
	}
	if len(in.Unused) != 1 || in.Unused[0] != (KeyCount{"prop.sku", 1}) {
		t.Errorf("unused: %+v", in.Unused)
	}
	codes := map[string]string{}
	for _, f := range in.Findings {
		codes[f.Code] = f.Mend
	}
	if _, ok := codes["pii"]; !ok || codes["consent/no_consent"] == "" || len(codes) != 3 {
		t.Errorf("findings: %+v", in.Findings)
	}
	e.clock.Advance(sightingAge)
	if in := e.Inspect("shop", nil); len(in.Sightings) > 1 {
		t.Errorf("after ten minutes there are %d", len(in.Sightings))
	}
	e.clock.Advance(2 * taxonomy.Second)
	if in := e.Inspect("shop", nil); len(in.Sightings) != 0 {
		t.Error("what is older than ten minutes is shown")
	}
}

// P9: what is remembered does not grow with traffic, sites or sizes.
func TestTheInspectorIsBounded(t *testing.T) {
	e := newEdge(t)
	b := e.browser()
	long := strings.Repeat("v", 200)
	props := `"p0":0`
	for i := range 31 {
		props += fmt.Sprintf(`,"k%d":"%s"`, i, long)
	}
	event := `{"kind":"track","name":"n","url":"https://shop.example/` + strings.Repeat("a", 1900) + `","props":{` + props + `}}`
	for range 200 {
		b.post("shop", 6, `{"site":"shop","consent":{"granted":true},"events":[`+strings.Repeat(event+",", 5)+event+`]}`)
		e.clock.Advance(sightingGap)
	}
	r := e.seen.sites["shop"]
	if len(r.all) > sightingsPerSite || r.bytes > sightingBytes || len(r.all) < 5 {
		t.Errorf("%d requests, %d bytes", len(r.all), r.bytes)
	}
	sum := 0
	for i := range r.all {
		sum += r.all[i].size()
	}
	if sum != r.bytes {
		t.Errorf("the account says %d bytes, there are %d", r.bytes, sum)
	}
	// Twenty at once, ten a second, whatever comes.
	n := len(e.Inspect("shop", nil).Sightings)
	for range 50 {
		b.yes()
	}
	if got := len(e.Inspect("shop", nil).Sightings); got > n+int(sightingBurst/sightingGap) || got > sightingsPerSite {
		t.Errorf("%d requests of one moment were remembered", got-n)
	}
	var s sightings
	for i := range sightingSites + 10 {
		id := taxonomy.SiteID(fmt.Sprintf("s%d", i))
		s.due(id, taxonomy.Millis(i), false)
		s.add(id, Sighting{At: taxonomy.Millis(i)})
	}
	if len(s.sites) > sightingSites || s.list("s0", 0) != nil || s.list("s1000", 0) == nil {
		t.Errorf("%d sites", len(s.sites))
	}
}

func TestThePixelIsInspectedToo(t *testing.T) {
	e := newEdge(t)
	b := e.browser()
	for _, q := range []string{"consent=1&u=https://shop.example/a", "consent=1&n=jane.doe@example.com&k=track", "", "consent=0"} {
		b.get("shop", "/v1/n/shop?"+q)
		e.clock.Advance(taxonomy.Second)
	}
	b.get("shop", "/v1/n/shop?consent=1", "Referer", "https://other.example/")
	var got []string
	for _, x := range e.Inspect("shop", nil).Sightings {
		line := x.Cookie
		if x.Refused != nil {
			line += " " + x.Refused.Code
		}
		for _, ev := range x.Events {
			line += " " + ev.Outcome + ev.Refusal.Code
		}
		got = append(got, line)
	}
	if want := "not read wrong_origin | taken away | none | returning rejectedpii | new stored"; strings.Join(got, " | ") != want {
		t.Errorf("%s\nwant %s", strings.Join(got, " | "), want)
	}
}

// The console's test page: as if the page were the site's own.
func TestARehearsalGoesTheWholeWay(t *testing.T) {
	e := newEdge(t)
	const prefix = "http://localhost:8082/console/sites/shop/try"
	call := func(site taxonomy.SiteID, path, body string) int {
		w := newRecorder()
		r := newRequest("POST", "/console/sites/shop/try/v1/"+path)
		r.Header.Set("Content-Type", "text/plain")
		r.Header.Set("Origin", "http://localhost:8082")
		r.Body = io.NopCloser(strings.NewReader(body))
		c := e.echos[Private].NewContext(r, w)
		if err := e.Rehearse(c, site, path, prefix); err != nil {
			e.handleError(err, c)
		}
		return w.Code
	}
	e.sent["shop"]++
	if code := call("shop", "e", `{"site":"shop","consent":{"granted":true},"events":[{"url":"`+prefix+`/shoes/red"}]}`); code != 200 {
		t.Fatalf("answered %d", code)
	}
	if u := e.last(taxonomy.RecordEvent).Event.URL; u != shop+"/shoes/red" {
		t.Errorf("the address is %s", u)
	}
	if x := e.Inspect("shop", nil).Sightings[0]; !x.Test || x.Events[0].Outcome != "stored" {
		t.Errorf("%+v", x)
	}
	for path, want := range map[string]int{"optout": 200, "optin": 200, "nothing": 404} {
		if code := call("shop", path, ""); code != want {
			t.Errorf("%s: %d, want %d", path, code, want)
		}
	}
	if code := call("nowhere", "e", "{}"); code != 404 {
		t.Errorf("unknown site: %d", code)
	}
}

// Every request's signals are counted by what they say, not only those that the
// inspector keeps.
func TestSignalsAreCountedByVerdict(t *testing.T) {
	e := newEdge(t)
	b := e.browser()
	for range 40 {
		b.yes()
	}
	b.post("shop", 1, `{"site":"shop","consent":{"granted":false},"events":[{}]}`)
	b.get("shop", "/v1/n/shop?us_privacy=1YNN") // nobody reads strings here
	b.get("shop", "/v1/n/shop")
	for verdict, want := range map[[2]string]float64{{"explicit", "yes"}: 40, {"explicit", "no"}: 1, {"usp", "unreadable"}: 1, {"none", "nothing said"}: 1} {
		if got := e.metric("consent_signals_total", "signal", verdict[0], "verdict", verdict[1]); got != want {
			t.Errorf("%s says %s: %v, want %v", verdict[0], verdict[1], got, want)
		}
	}
}
