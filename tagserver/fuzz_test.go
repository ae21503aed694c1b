package tagserver

import (
	"bytes"
	"encoding/json"
	"net/url"
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/keys"
)

// What our reader of JSON takes, the library takes too, and reads the same.
func FuzzBatch(f *testing.F) {
	for _, s := range []string{
		`{"site":"shop","sent":1764063000000,"consent":{"granted":true,"tcf":"x","gpp":null},"events":[{"id":"a","t":1,"kind":"page","name":"n","url":"https://a.example/","ref":"","props":{"k":"v","n":-1.5e3,"b":false,"z":null}}]}`,
		`{"events":[],"site":"x"}`, `{"site":"\u0041\ud83d\ude00\n\/"}`, `{"site":"\ud83d"}`, `{"site":"a","site":"b"}`, `{"site":"a","x":[[{}],1,"",null,true]}`,
		`{"site":"a","events":[1,null,{"id":1},{"props":[]},{"id":"a","id":"b"}]}`, "", "{", `{"site":"a"}x`, `{"site":"a","events":[{},]}`, "{\"site\":\"\x00\"}", `{"site":"a","sent":01}`,
	} {
		f.Add(s)
	}
	site := taxonomy.Site{ID: "shop", QueryKeys: []string{"cat"}}
	f.Fuzz(func(t *testing.T, body string) {
		if len(body) > 64<<10 {
			return
		}
		var b wireBatch
		if err := parseBatch(body, &b); err != nil {
			e := err.(*wireError)
			if e.Line < 1 || e.Column < 1 || e.Why == "" {
				t.Fatalf("a fault without a place: %+v", e)
			}
			return
		}
		d := json.NewDecoder(strings.NewReader(body))
		d.UseNumber()
		var m map[string]any
		if !json.Valid([]byte(body)) || d.Decode(&m) != nil {
			t.Fatalf("taken, but no JSON: %q", body)
		}
		same(t, "site", b.Site, m["site"])
		if c, ok := m["consent"].(map[string]any); ok {
			g, ok := c["granted"].(bool)
			if ok != (b.Consent.Granted != nil) || ok && g != *b.Consent.Granted {
				t.Fatalf("granted: %v, the library reads %v", b.Consent.Granted, c["granted"])
			}
			same(t, "tcf", b.Consent.TCF, c["tcf"])
		}
		events, _ := m["events"].([]any)
		if len(events) != b.N || len(b.Events) != min(b.N, maxEvents) {
			t.Fatalf("%d events, the library reads %d", b.N, len(events))
		}
		for i := range b.Events {
			e := &b.Events[i]
			if e.Fault != "" {
				continue
			}
			le := events[i].(map[string]any)
			same(t, "id", e.ID, le["id"])
			same(t, "kind", e.Kind, le["kind"])
			same(t, "name", e.Name, le["name"])
			same(t, "url", e.URL, le["url"])
			same(t, "ref", e.Ref, le["ref"])
			checkClean(t, e, &site)
		}
	})
}

func same(t *testing.T, what, got string, lib any) {
	t.Helper()
	if s, _ := lib.(string); s != got {
		t.Fatalf("%s: %q, the library reads %q", what, got, s)
	}
}

// checkClean holds for every event that passes: bounded, in order, and free of
// what the detectors know.
func checkClean(t *testing.T, e *wireEvent, site *taxonomy.Site) {
	t.Helper()
	var out taxonomy.Event
	if f := cleanEvent(&out, e, site, 1_764_063_000_000, 1_764_063_000_000); f != nil {
		if f.why == "" || f.reason == "" || !utf8.ValidString(f.sample) {
			t.Fatalf("a refusal that says nothing: %+v", f)
		}
		return
	}
	texts := []string{out.Name, out.URL, out.Ref}
	for i, p := range out.Props {
		texts = append(texts, p.Key, p.Value)
		if i > 0 && p.Key <= out.Props[i-1].Key {
			t.Fatalf("properties are not in order: %v", out.Props)
		}
	}
	for _, s := range texts {
		if !utf8.ValidString(s) || len(s) > 3*maxURL {
			t.Fatalf("kept: %d bytes, UTF-8 %v", len(s), utf8.ValidString(s))
		}
		if c := findPII(s); c != "" && s != out.URL {
			t.Fatalf("kept though it is a %s: %q", c, s)
		}
	}
	if out.URL != "" {
		u, err := url.Parse(out.URL)
		if err != nil || u.User != nil || u.Fragment != "" || strings.Contains(out.URL, "#") {
			t.Fatalf("kept address: %q, %v", out.URL, err)
		}
		for k := range u.Query() {
			if k != "cat" {
				t.Fatalf("kept query key %q of %q", k, out.URL)
			}
		}
		if again, f := cleanURL(out.URL, site.QueryKeys); f != nil || again != out.URL {
			t.Fatalf("cleaned again: %q, %v; was %q", again, f, out.URL)
		}
	}
}

// Every batch that a program writes is read as it was meant.
func TestEveryBatchOfTheLibraryIsRead(t *testing.T) {
	type event struct {
		ID    string            `json:"id"`
		T     int64             `json:"t"`
		Name  string            `json:"name"`
		Props map[string]string `json:"props,omitempty"`
	}
	rapid.Check(t, func(t *rapid.T) {
		in := struct {
			Site   string  `json:"site"`
			Sent   int64   `json:"sent"`
			Events []event `json:"events"`
		}{Site: rapid.String().Draw(t, "site"), Sent: rapid.Int64Range(0, 1e14).Draw(t, "sent")}
		for range rapid.IntRange(0, 5).Draw(t, "n") {
			in.Events = append(in.Events, event{rapid.String().Draw(t, "id"), rapid.Int64Range(0, 1e14).Draw(t, "t"), rapid.String().Draw(t, "name"),
				rapid.MapOfN(rapid.String(), rapid.String(), 0, 3).Draw(t, "props")})
		}
		if in.Events == nil {
			in.Events = []event{}
		}
		body, err := json.Marshal(in)
		if err != nil {
			t.Fatal(err)
		}
		if rapid.Bool().Draw(t, "indent") {
			var b bytes.Buffer
			json.Indent(&b, body, " ", "\t")
			body = b.Bytes()
		}
		var b wireBatch
		if err := parseBatch(string(body), &b); err != nil {
			t.Fatalf("%s: %v", body, err)
		}
		if b.Site != in.Site || b.Sent != in.Sent || b.N != len(in.Events) {
			t.Fatalf("%+v from %s", b, body)
		}
		for i, e := range b.Events {
			w := in.Events[i]
			if e.Fault != "" || e.ID != w.ID || e.T != w.T || e.Name != w.Name || len(e.Props) != len(w.Props) {
				t.Fatalf("%+v, want %+v", e, w)
			}
			for _, p := range e.Props {
				if w.Props[p.Key] != p.Value {
					t.Fatalf("%+v, want %+v", e, w)
				}
			}
		}
	})
}

// A query is read as the library reads it, and never more permissively.
func FuzzQuery(f *testing.F) {
	for _, s := range []string{
		"consent=1&gdpr=1&gdpr_consent=CP&gpp=DB&gpp_sid=7&us_privacy=1YNN&u=https%3A%2F%2Fa.example&n=x&id=1&k=page&r=b&site=shop", "consent=1&consent=0", "consent=%31", "&&=&a", "u=%zz", "n=a+b", "gdpr=1&gdpr=1", "consent=1;x=2", "CONSENT=1",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		var q wireQuery
		parseQuery(raw, &q)
		yes, no := 0, 0
		values := map[string][]string{}
		for _, pair := range strings.Split(raw, "&") {
			k, v, _ := strings.Cut(pair, "=")
			values[k] = append(values[k], v)
			if pair == "consent=1" {
				yes++
			}
			if pair == "consent=0" {
				no++
			}
		}
		if g := q.Consent.Granted; g != nil && *g && (yes == 0 || no > 0) || no > 0 && len(raw) <= maxQuery && (g == nil || *g) {
			t.Fatalf("%q: granted %v", raw, g)
		}
		if len(raw) > maxQuery {
			return
		}
		for k, got := range map[string]string{"u": q.Event.URL, "n": q.Event.Name, "id": q.Event.ID, "k": q.Event.Kind, "r": q.Event.Ref, "site": q.Site} {
			v := values[k]
			if len(v) != 1 {
				continue
			}
			want, err := url.QueryUnescape(v[0])
			if err == nil && validText(want) && got != want {
				t.Fatalf("%q: %s is %q, the library reads %q", raw, k, got, want)
			}
			if (err != nil || !validText(want)) && q.Fault == "" {
				t.Fatalf("%q: %s cannot be read, and nothing says so", raw, k)
			}
		}
		for _, s := range []string{q.Consent.TCF, q.Consent.GPP, q.Consent.USP, q.Consent.GDPR} {
			if len(s) > maxSignal {
				t.Fatalf("a signal of %d bytes", len(s))
			}
		}
	})
}

// No bytes of a Cookie header give an ID that we did not sign.
func FuzzCookies(f *testing.F) {
	ring, err := keys.Generate(seeded(1), 20_000)
	if err != nil {
		f.Fatal(err)
	}
	good := ring.SignCookie(CookieID, [16]byte{1}, 20_000)
	for _, s := range []string{CookieID + "=" + good, "a=b; " + CookieID + "=" + good + "; " + CookieOptOut + "=1", CookieID + "=x;;;=", CookieOptOut} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, line string) {
		c := readCookies([]string{line, line}, cookieMode{}, ring, 20_000)
		if c.n > 1 || c.n == 1 && (!strings.Contains(line, CookieID+"="+good) || c.ids[0].id != [16]byte{1}) {
			t.Fatalf("%q gives %d IDs", line, c.n)
		}
		if c.optOut && !strings.Contains(line, CookieOptOut) || c.n > 0 && !c.any {
			t.Fatalf("%q: %+v", line, c)
		}
	})
}

// The detectors end, on any bytes, and a clean string is clean twice.
func FuzzPII(f *testing.F) {
	for _, s := range []string{"jane@example.com", "%2540", "+49 170 1234567", "4111 1111 1111 1111", "DE89 3704 0044 0532 0130 00", "(at)", "\xef\xbc\xa0", "0.0.0.0.0.0.0.0.0.0.0.0.0.0"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		class := findPII(s)
		if again := findPII(s); again != class {
			t.Fatalf("%q: %q, then %q", s, class, again)
		}
		if class == "" {
			// What is around it does not hide what is inside.
			if findPII(s+" jane@example.com") == "" {
				t.Fatalf("%q hides an address after it", s)
			}
		}
		_ = redact(s)
	})
}

// Whatever is posted, the answer is ours and P2 holds.
func FuzzCollect(f *testing.F) {
	f.Add([]byte(yesBody), "text/plain", "", shop)
	f.Add([]byte(`{"site":"news","events":[{},{}]}`), "application/json", "gzip", "null")
	f.Fuzz(func(t *testing.T, body []byte, media, encoding, origin string) {
		e := newEdge(t)
		var b wireBatch
		n, site := 1, taxonomy.SiteID("")
		r := newRequest("POST", "/v1/e")
		r.Body = readCloser{bytes.NewReader(body)}
		r.Header["Content-Type"], r.Header["Content-Encoding"], r.Header["Origin"] = []string{media}, []string{encoding}, []string{origin}
		w := newRecorder()
		e.Handler(Public).ServeHTTP(w, r)
		if w.Code >= 500 {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
		// What it should have counted for, by the parser alone.
		switch {
		case w.Code == 415 || strings.Contains(w.Body.String(), "Content-Encoding") || encoding == "gzip" || w.Code == 413 && len(body) > 64<<10:
			delete(e.sent, "") // judged by the sum only
			for _, c := range e.Counters() {
				e.sent[c.Site] += int(c.N)
			}
			for _, rec := range e.records() {
				e.sent[rec.Site] += int(rec.EventCount())
			}
			return
		case parseBatch(string(body), &b) == nil:
			n, site = b.N, e.knownSite(b.Site)
		default:
			site = e.knownSite(b.Site)
		}
		e.sent[site] = n
	})
}

type readCloser struct{ *bytes.Reader }

func (readCloser) Close() error { return nil }
