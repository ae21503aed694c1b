package tagserver

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
)

func TestAnEventBecomesARecord(t *testing.T) {
	e := newEdge(t)
	b := e.browser()
	now := e.clock.Now()
	w := b.post("shop", 1, fmt.Sprintf(`{"site":"shop","sent":%d,"consent":{"granted":true},"events":[{"id":"ev-1","t":%d,"kind":"track","name":"add_to_cart",
		"url":"https://user:pw@Shop.Example/p/shoes;jsessionid=9?cat=red&secret=x&utm_source=mail#top","ref":"https://search.example/q?q=words",
		"props":{"sku":"a-1","price":12.50,"gift":true,"none":null}}]}`, 5_000, 4_000))
	if w.Code != 200 {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	if got, want := w.Body.String(), `{"stored":1,"duplicate":0,"refused":[],"durable":"local"}`; got != want {
		t.Errorf("answer %s, want %s", got, want)
	}
	r := e.last(taxonomy.RecordEvent)
	ring := e.Server.o.Keys()
	id, issued, ok := ring.VerifyCookie(CookieID, b.cookies[CookieID], now.Day())
	if !ok {
		t.Fatal("the cookie that was set does not verify")
	}
	key, err := ring.VisitorKey(taxonomy.SpaceCookie, id[:], issued)
	if err != nil {
		t.Fatal(err)
	}
	evID, err := ring.EventID(taxonomy.SpaceCookie, issued, "shop", "ev-1")
	if err != nil {
		t.Fatal(err)
	}
	want := taxonomy.Record{
		Kind: taxonomy.RecordEvent, Received: now, Site: "shop", Source: "own", Space: taxonomy.SpaceCookie, Visitor: key,
		Consent: taxonomy.Consent{Day: now.Day(), Regime: taxonomy.RegimeOptIn, Signal: taxonomy.SignalExplicit, Purposes: taxonomy.MayAll},
		Event: &taxonomy.Event{
			ID: evID, Time: now - 1000, Kind: taxonomy.EventTrack, Name: "add_to_cart",
			URL: "https://shop.example/p/shoes?cat=red&utm_source=mail", Ref: "https://search.example",
			Props: []taxonomy.Prop{{Key: "gift", Value: "true"}, {Key: "price", Value: "12.50"}, {Key: "sku", Value: "a-1"}},
		},
	}
	if d := cmp.Diff(want, r); d != "" {
		t.Error(d)
	}
	// The second one comes with its cookie.
	b.yes()
	if r := e.last(taxonomy.RecordEvent); !r.Returning || r.Visitor != key {
		t.Errorf("a request with our cookie: returning %v, same visitor %v", r.Returning, r.Visitor == key)
	}
}

func TestWhatIsRefusedAndHow(t *testing.T) {
	ok := `{"site":"shop","consent":{"granted":true},"events":[{}]}`
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	z.Write(bytes.Repeat([]byte(" "), 10<<20))
	z.Close()
	deep := `{"site":"shop","x":` + strings.Repeat("[", 50) + strings.Repeat("]", 50) + `}`
	many := `{"site":"shop","events":[` + strings.TrimSuffix(strings.Repeat("{},", 101), ",") + `]}`
	for _, c := range []struct {
		name   string
		body   string
		header []string
		status int
		code   string
		at     string
		site   taxonomy.SiteID
		n      int
	}{
		{"no JSON", "hello", nil, 400, "malformed", "body: line 1, column 1", "", 1},
		{"empty", "", nil, 400, "malformed", "body: line 1, column 1", "", 1},
		{"cut", `{"site":"shop","events":[{"id"`, nil, 400, "malformed", "body: line 1, column 31", "shop", 1},
		{"place", "{\"site\":\"shop\",\n \"events\": [{}, }]}", nil, 400, "malformed", "body: line 2, column 17", "shop", 1},
		{"no site", `{"events":[]}`, nil, 400, "malformed", "body: line 1, column 14", "", 1},
		{"site of the wrong type", `{"site":7}`, nil, 400, "malformed", "body: line 1, column 9", "", 1},
		{"granted of the wrong type", `{"site":"shop","consent":{"granted":"true"}}`, nil, 400, "malformed", "body: line 1, column 37", "shop", 1},
		{"a key twice", `{"site":"shop","consent":{"granted":false,"granted":true}}`, nil, 400, "malformed", "body: line 1, column 53", "shop", 1},
		{"something after", ok + "x", nil, 400, "malformed", "body: line 1, column 57", "shop", 1},
		{"not UTF-8", "{\"site\":\"shop\",\"sent\":1,\"x\":\"\xff\"}", nil, 400, "malformed", "body: line 1, column 30", "shop", 1},
		{"too deep", deep, nil, 400, "malformed", "body: line 1, column 37", "shop", 1},
		{"sent is no time", `{"site":"shop","sent":1e99,"events":[]}`, nil, 400, "malformed", "body: line 1, column 23", "shop", 1},
		{"unknown site", `{"site":"jane@example.com","events":[{},{}]}`, nil, 404, "unknown_site", "body.site", "", 2},
		{"ended site", `{"site":"ended","events":[{}]}`, nil, 410, "source_ended", "body.site", "ended", 1},
		{"withdrawn source", `{"site":"gone","events":[{}]}`, nil, 410, "source_ended", "body.site", "gone", 1},
		{"another origin", ok, []string{"Origin", "https://evil.example"}, 403, "wrong_origin", "header.Origin", "shop", 1},
		{"another site's origin", ok, []string{"Origin", "https://news.example"}, 403, "wrong_origin", "header.Origin", "shop", 1},
		{"origin null", ok, []string{"Origin", "null"}, 403, "wrong_origin", "header.Origin", "shop", 1},
		{"http for https", ok, []string{"Origin", "http://shop.example"}, 403, "wrong_origin", "header.Origin", "shop", 1},
		{"a port", ok, []string{"Origin", "https://shop.example:444"}, 403, "wrong_origin", "header.Origin", "shop", 1},
		{"a subdomain", ok, []string{"Origin", "https://a.shop.example"}, 403, "wrong_origin", "header.Origin", "shop", 1},
		{"a longer name", ok, []string{"Origin", "https://shop.example.evil.example"}, 403, "wrong_origin", "header.Origin", "shop", 1},
		{"only a referer, of another site", ok, []string{"Origin", "", "Referer", "https://evil.example/x"}, 403, "wrong_origin", "header.Origin", "shop", 1},
		{"bad type", ok, []string{"Content-Type", "application/xml"}, 415, "unsupported_type", "header.Content-Type", "", 1},
		{"a form", ok, []string{"Content-Type", "application/x-www-form-urlencoded"}, 415, "unsupported_type", "header.Content-Type", "", 1},
		{"no type", ok, []string{"Content-Type", ""}, 415, "unsupported_type", "header.Content-Type", "", 1},
		{"brotli", ok, []string{"Content-Encoding", "br"}, 415, "unsupported_type", "header.Content-Encoding", "", 1},
		{"not gzip", ok, []string{"Content-Encoding", "gzip"}, 400, "malformed", "body", "", 1},
		{"half a gzip", bomb.String()[:200], []string{"Content-Encoding", "gzip"}, 413, "too_large", "body", "", 1},
		{"a bomb", bomb.String(), []string{"Content-Encoding", "gzip"}, 413, "too_large", "body", "", 1},
		{"oversize", strings.Repeat(" ", 64<<10) + "{", nil, 413, "too_large", "body", "", 1},
		{"too many events", many, nil, 413, "too_many", "body.events", "shop", 101},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := newEdge(t)
			e.canaries = []string{"jane@example.com"}
			w := e.browser().post(c.site, c.n, c.body, c.header...)
			p := problem(t, w)
			if w.Code != c.status || p.Code != c.code {
				t.Fatalf("%d %s, want %d %s: %s", w.Code, p.Code, c.status, c.code, w.Body)
			}
			if len(p.Errors) != 1 || p.Errors[0].Location != c.at {
				t.Errorf("fault at %v, want %q", p.Errors, c.at)
			}
			if got := w.Header().Get("X-Ebb-Reason"); got != c.code {
				t.Errorf("X-Ebb-Reason %q, want %q", got, c.code)
			}
			if strings.Contains(w.Body.String(), "jane") {
				t.Error("the answer repeats what was sent")
			}
			if len(e.records()) != 0 {
				t.Errorf("records were written: %v", e.kinds())
			}
			if got := e.metric("requests_refused_total"); got != 1 {
				t.Errorf("refused requests counted: %v, want 1", got)
			}
			if got := e.Refusals(c.site); len(got) != 1 || got[0].Where != c.at {
				t.Errorf("samples of the refusal: %+v", got)
			}
		})
	}
}

func TestABodyOfExactlyTheLimitIsTaken(t *testing.T) {
	e := newEdge(t)
	body := `{"site":"shop","consent":{"granted":true},"events":[{}]}`
	body += strings.Repeat(" ", 64<<10-len(body))
	if w := e.browser().post("shop", 1, body); w.Code != 200 {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	var z bytes.Buffer
	g := gzip.NewWriter(&z)
	g.Write([]byte(body))
	g.Close()
	if w := e.browser().post("shop", 1, z.String(), "Content-Encoding", "gzip", "Content-Type", "application/json"); w.Code != 200 {
		t.Fatalf("gzip: %d %s", w.Code, w.Body)
	}
	// One byte more, packed or not.
	z.Reset()
	g.Reset(&z)
	g.Write([]byte(body + " "))
	g.Close()
	for enc, b := range map[string]string{"gzip": z.String(), "": body + " "} {
		r := newRequest("POST", "/v1/e")
		r.Header.Set("Content-Type", "text/plain")
		r.Header.Set("Content-Encoding", enc)
		r.Body, r.ContentLength = readCloser{bytes.NewReader([]byte(b))}, -1
		w := newRecorder()
		e.sent[""]++
		e.Handler(Public).ServeHTTP(w, r)
		if w.Code != 413 {
			t.Errorf("encoding %q, one byte more: %d", enc, w.Code)
		}
	}
}

func TestOneBadEventDoesNotCostItsNeighbours(t *testing.T) {
	long := strings.Repeat("x", 300)
	props := make([]string, 33)
	for i := range props {
		props[i] = fmt.Sprintf(`"k%d":1`, i)
	}
	for _, c := range []struct{ event, code, field string }{
		{`7`, "malformed", "want an object"},
		{`null`, "malformed", "want an object"},
		{`{"id":7}`, "malformed", "id"},
		{`{"id":"` + long + `"}`, "malformed", "id"},
		{`{"id":"a\u0000b"}`, "malformed", "id"},
		{`{"id":"a","id":"b"}`, "malformed", "id"},
		{`{"kind":"purchase"}`, "malformed", "kind"},
		{`{"kind":"fact"}`, "malformed", "kind"},
		{`{"kind":"track"}`, "malformed", "name"},
		{`{"name":"` + long + `"}`, "malformed", "name"},
		{`{"t":"now"}`, "malformed", "t"},
		{`{"t":1.5}`, "malformed", "t"},
		{`{"t":-1}`, "malformed", "t"},
		{`{"t":99999999999999999999}`, "malformed", "t"},
		{`{"url":"/relative"}`, "malformed", "url"},
		{`{"url":"javascript:alert(1)"}`, "malformed", "url"},
		{`{"url":"https://x.example/` + strings.Repeat("a", 2048) + `"}`, "malformed", "url"},
		{`{"url":"https://%zz/"}`, "malformed", "url"},
		{`{"props":[]}`, "malformed", "props"},
		{`{"props":{"a":{}}}`, "malformed", "props"},
		{`{"props":{"":1}}`, "malformed", "props"},
		{`{"props":{"a":1,"a":2}}`, "malformed", "props.a"},
		{`{"props":{"a":"` + long + `"}}`, "malformed", "props.a"},
		{`{"props":{` + strings.Join(props, ",") + `}}`, "malformed", "props"},
		{`{"props":{"e-mail":"x"}}`, "pii", "props.e-mail"},
	} {
		t.Run(c.event[:min(len(c.event), 30)], func(t *testing.T) {
			e := newEdge(t)
			w := e.browser().post("shop", 3, `{"site":"shop","consent":{"granted":true},"events":[{"id":"a"},`+c.event+`,{"id":"b"}]}`)
			r := reply(t, w)
			if w.Code != 200 || r.Stored != 2 || len(r.Refused) != 1 {
				t.Fatalf("%d %s", w.Code, w.Body)
			}
			got := r.Refused[0]
			if got.I != 1 || got.Code != c.code || !strings.HasPrefix(got.Why, c.field) {
				t.Errorf("refused %+v, want event 1, %s, %s", got, c.code, c.field)
			}
			if h := w.Header().Get("X-Ebb-Reason"); h != c.code {
				t.Errorf("X-Ebb-Reason %q, want %q", h, c.code)
			}
		})
	}
}

// R20
func TestEventTimesAreBoundedAroundTheReceipt(t *testing.T) {
	e := newEdge(t)
	now := e.clock.Now()
	day, five := int64(taxonomy.OneDay), int64(5*taxonomy.Minute)
	for _, c := range []struct {
		name    string
		sent, t int64
		want    taxonomy.Millis // 0: too old
	}{
		{"now", 1_000_000_000, 1_000_000_000, now},
		{"a visitor's wrong clock does not matter", 5_000, 4_000, now - 1000},
		{"24 hours back", day + 7, 7, now - taxonomy.OneDay},
		{"a millisecond more", day + 8, 7, 0},
		{"5 minutes ahead", 7, five + 7, now + 5*taxonomy.Minute},
		{"a millisecond more", 7, five + 8, now},
		{"far ahead", 1, 999_999_999_999_999, now},
		{"far back", 999_999_999_999_999, 1, 0},
		{"no sent", 0, int64(now) - 60_000, now - taxonomy.Minute},
		{"no sent, 24 hours back", 0, int64(now) - day, now - taxonomy.OneDay},
		{"no sent, a millisecond more", 0, int64(now) - day - 1, 0},
		{"no time", 5_000, 0, now},
		{"neither", 0, 0, now},
	} {
		body := fmt.Sprintf(`{"site":"shop","sent":%d,"consent":{"granted":true},"events":[{"t":%d}]}`, c.sent, c.t)
		r := reply(t, e.browser().post("shop", 1, body))
		switch {
		case c.want == 0:
			if len(r.Refused) != 1 || r.Refused[0].Code != "too_old" {
				t.Errorf("%s: %+v, want too_old", c.name, r)
			}
		case r.Stored != 1:
			t.Errorf("%s: %+v, want stored", c.name, r)
		default:
			if got := e.last(taxonomy.RecordEvent).Event.Time; got != c.want {
				t.Errorf("%s: %v, want %v", c.name, got, c.want)
			}
		}
	}
}

// R34
func TestRepeatsInsideARequestAreDuplicates(t *testing.T) {
	e := newEdge(t)
	r := reply(t, e.browser().post("shop", 5, `{"site":"shop","consent":{"granted":true},"events":[{"id":"a"},{"id":"b"},{"id":"a"},{},{}]}`))
	if r.Stored != 4 || r.Duplicate != 1 || len(r.Refused) != 0 {
		t.Errorf("%+v, want 4 stored and 1 duplicate: events without an id are different ones", r)
	}
	want := []taxonomy.Count{{Site: "shop", Outcome: taxonomy.Duplicate, N: 1}}
	if d := cmp.Diff(want, e.Counters()); d != "" {
		t.Error(d)
	}
	seen := map[taxonomy.EventID]bool{}
	for _, r := range e.records() {
		seen[r.Event.ID] = true
	}
	if len(seen) != 4 {
		t.Errorf("%d different event IDs, want 4", len(seen))
	}
}

// R22
func TestABatchWithoutEventsIsAConsentRecord(t *testing.T) {
	e := newEdge(t)
	b := e.browser()
	for i, returning := range []bool{false, true} {
		w := b.post("shop", 0, `{"site":"shop","consent":{"granted":true},"events":[]}`)
		if w.Code != 200 || b.cookies[CookieID] == "" {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
		rs := e.records()
		if len(rs) != i+1 || rs[i].Kind != taxonomy.RecordConsent || rs[i].Returning != returning || rs[i].Consent.Purposes != taxonomy.MayAll {
			t.Errorf("request %d: %+v", i, rs)
		}
	}
}

// R12: the edge's counters travel in the next frame.
func TestCountersTravelInTheNextFrame(t *testing.T) {
	e := newEdge(t)
	b := e.browser()
	b.post("", 1, "x")
	b.post("shop", 2, `{"site":"shop","events":[{},{}]}`) // no consent
	want := []taxonomy.Count{
		{Outcome: taxonomy.Rejected, Reason: taxonomy.ReasonMalformed, N: 1},
		{Site: "shop", Outcome: taxonomy.Dropped, Reason: taxonomy.ReasonConsent, N: 2},
	}
	if d := cmp.Diff(want, e.Counters()); d != "" {
		t.Fatal(d)
	}
	if len(e.records()) != 0 {
		t.Fatal("a refusal wrote a record by itself")
	}
	b.yes()
	if len(e.Counters()) != 0 {
		t.Error("counters stay after a frame took them")
	}
	if d := cmp.Diff(want, e.last(taxonomy.RecordCounts).Counts); d != "" {
		t.Error(d)
	}
	// Without an event they go by Flush, which writes nothing if there is nothing.
	b.post("", 1, "y")
	for range 2 {
		if err := e.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(e.records()); n != 3 {
		t.Errorf("%d records, want event, counts, counts", n)
	}
}

func TestWhatTheLogDoesNotTakeIsNotAnswered(t *testing.T) {
	for _, c := range []struct {
		err        error
		code       string
		retryAfter string
		kept       bool // the counters
	}{
		{retention.ErrFull, "full", "5", true},
		{retention.ErrClosed, "unavailable", "2", true},
		{errors.New("disk on fire"), "unavailable", "2", true},
		{retention.ErrUnknown, "unavailable", "2", false},
	} {
		t.Run(c.err.Error(), func(t *testing.T) {
			var l *appendLog
			e := newEdge(t, func(o *Options) { l = &appendLog{Log: o.Log}; o.Log = l })
			b := e.browser()
			e.sent[""]++
			b.do(http.MethodPost, "/v1/e", "x")
			l.err = fmt.Errorf("append: %w", c.err)
			w := b.do(http.MethodPost, "/v1/e", `{"site":"shop","consent":{"granted":true},"events":[{},{"kind":"?"}]}`)
			p := problem(t, w)
			if w.Code != 503 || p.Code != c.code || w.Header().Get("Retry-After") != c.retryAfter {
				t.Errorf("%d %s, Retry-After %q", w.Code, p.Code, w.Header().Get("Retry-After"))
			}
			if len(b.cookies) != 0 {
				t.Error("a cookie was set for a visitor that is not in the log")
			}
			// The batch comes again, so nothing of it is counted yet; what was
			// pending before stays, unless the log may bring it back itself.
			if got := len(e.Counters()); (got == 1) != c.kept {
				t.Errorf("%d counters pending, kept: want %v", got, c.kept)
			}
			if !c.kept {
				e.sent[""]-- // never received (R12)
			}
			// The image promises nothing and answers all the same.
			w = b.do(http.MethodGet, "/v1/n/shop?consent=1", "")
			if w.Code != 200 || w.Header().Get("X-Ebb-Reason") != c.code || len(b.cookies) != 0 {
				t.Errorf("pixel: %d %q, cookies %v", w.Code, w.Header().Get("X-Ebb-Reason"), b.cookies)
			}
			l.err = nil
		})
	}
}

// P1
func TestDurableSaysHowFarItCame(t *testing.T) {
	for _, c := range []struct {
		ask, reached retention.Ack
		want         string
	}{{0, 0, "local"}, {retention.AckLocal, 0, "local"}, {retention.AckQuorum, 0, "quorum"}, {retention.AckQuorum, retention.AckLocal, "local"}} {
		e := newEdge(t, func(o *Options) { o.Ack = c.ask; o.Log = &appendLog{Log: o.Log, reached: c.reached} })
		if got := reply(t, e.browser().yes()).Durable; got != c.want {
			t.Errorf("asked %v, reached %v: durable %q, want %q", c.ask, c.reached, got, c.want)
		}
	}
}

func TestCORS(t *testing.T) {
	e := newEdge(t)
	for _, c := range []struct {
		origin string
		ok     bool
	}{{shop, true}, {"http://localhost:8080", true}, {"https://news.example", true}, {"https://evil.example", false}, {"null", false}, {"", false}, {"https://shop.example/", false}} {
		for _, path := range []string{"/v1/e", "/v1/seg", "/v1/optout", "/v1/optin"} {
			w := e.browser().do(http.MethodOptions, path, "", "Origin", c.origin, "Access-Control-Request-Method", "POST")
			h := w.Header()
			if (w.Code == 204) != c.ok || (h.Get("Access-Control-Allow-Origin") == c.origin && c.origin != "") != c.ok ||
				(h.Get("Access-Control-Allow-Credentials") == "true") != c.ok || h.Get("Vary") != "Origin" {
				t.Errorf("preflight of %s from %q: %d %v", path, c.origin, w.Code, h)
			}
		}
	}
	w := e.browser().yes()
	if w.Header().Get("Access-Control-Allow-Origin") != shop || w.Header().Get("Vary") != "Origin" {
		t.Errorf("answer: %v", w.Header())
	}
	// A page may read why it was refused, if any site is its own.
	w = e.browser().post("", 1, "x")
	if w.Header().Get("Access-Control-Allow-Origin") != shop {
		t.Errorf("refusal: %v", w.Header())
	}
	w = e.browser().post("", 1, "x", "Origin", "https://evil.example")
	if w.Header().Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("a stranger's origin is echoed: %v", w.Header())
	}
}
