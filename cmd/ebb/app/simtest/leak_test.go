package simtest

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ebb-dmp/ebb/cmd/ebb/app"
	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/onboard"
)

// What is planted, and must be found nowhere; and what is allowed, and must be
// found, else the search means nothing.
var planted = map[string]string{
	"e-mail address": "jane.planted@mail.example", "phone number": "+49 151 23456789", "IP address": "203.0.113.199",
	"user agent": "PlantedBrowser/99.7", "forged cookie": "planted-cookie-value-4711", "card number": "4111 1111 1111 1111",
	"file's e-mail address": "joe.planted@file.example", "customer's own ID": "customer-planted-0815",
	"cookie of somebody else": "planted-foreign-session-2202", "language": "xx-PLANTED-lang", "client hint": "PlantedHint 77",
	"token": "eyJwbGFudGVkIjoxfQ.eyJwbGFudGVkLXRva2VuIjoxfQ.c2lnbmF0dXJl", "hash of an address": "5f4dcc3b5aa765d61d8327deb882cf99aabbccdd",
	"IBAN": "DE89 3704 0044 0532 0130 00", "other address": "2001:db8:77::1999",
}

// personal are those that the detectors know: a page may send them in any field.
// The others have doors of their own (a header, a file's ID column); as a word
// in an event nobody could tell them from another.
var personal = []string{"e-mail address", "phone number", "card number", "file's e-mail address", "token", "hash of an address", "IBAN"}

const canary = "canary-allowed-7431"

// P4: whatever comes in by whatever door, nothing personal is on the disk or in
// a message. Once with all compression off, where every byte lies as it is, and
// once with it, through the dumps that decode every block.
func TestNothingPersonalIsEverWritten(t *testing.T) {
	for _, compress := range []bool{false, true} {
		t.Run(fmt.Sprintf("compress=%t", compress), func(t *testing.T) { leak(t, compress) })
	}
}

func leak(t *testing.T, compress bool) {
	s := &sim{t: t, m: newModel(), world: newWorld(t, vfs.NewMem(), 1, map[string]string{"compress": fmt.Sprint(compress)})}
	s.rng = nil
	s.mustOpen()
	s.definitionsFor([]string{"a"})
	b := jar{}
	var replies strings.Builder
	note := func(rec *httptest.ResponseRecorder) {
		for name, values := range rec.Result().Header {
			fmt.Fprintln(&replies, name, values)
		}
		replies.Write(rec.Body.Bytes())
	}
	ask := func(l tagserver.Listener, path string, header ...string) {
		t.Helper()
		header = append(header, "User-Agent", planted["user agent"], "Accept-Language", planted["language"], "Cookie", "session="+planted["cookie of somebody else"])
		note(s.get(l, path, header...))
	}
	send := func(method, path, body string, header ...string) {
		t.Helper()
		header = append([]string{"User-Agent", planted["user agent"], "X-Forwarded-For", planted["IP address"], "Referer", shop + "/?m=" + planted["e-mail address"],
			"Accept-Language", planted["language"], "Sec-Ch-Ua", planted["client hint"], "X-Real-Ip", planted["other address"], "Forwarded", "for=" + planted["IP address"]}, header...)
		rec := s.send(request{method: method, path: path, body: body, header: header, cookies: b})
		if rec.Code >= 500 {
			t.Fatalf("%s %s: %d %s", method, path, rec.Code, rec.Body)
		}
		note(rec)
		b.take(s.now(), rec)
	}
	post := func(events string) {
		t.Helper()
		send(http.MethodPost, "/v1/e", `{"site":"shop","consent":{"granted":true},"events":[`+events+`]}`)
	}
	post("")
	for _, name := range personal {
		x := planted[name]
		post(fmt.Sprintf(`{"id":"n %s","name":%q},{"name":"ok","props":{"q":%q}},{"name":"ok","props":{%q:"v"}},{"url":%q},{"ref":%q},{"id":%q}`,
			name, x, x, x, shop+"/a?m="+x, "https://x.example/"+x, x))
	}
	post(fmt.Sprintf(`{"name":"seen","props":{"cat":"sport","note":%q}}`, canary))
	for name, x := range planted {
		q := strings.NewReplacer(" ", "%20", "+", "%2B").Replace(x)
		if slices.Contains(personal, name) {
			send(http.MethodGet, "/v1/n/shop?consent=1&name="+q+"&url="+shop+"/"+q, "")
		}
		send(http.MethodGet, "/v1/n/shop?consent=1&x="+q, "")
		send(http.MethodGet, "/v1/seg?site=shop&consent=1&x="+q, "")
		send(http.MethodGet, "/v1/sync/one?consent=1&x="+q, "")
		send(http.MethodPost, "/v1/e", `{"site":`+fmt.Sprintf("%q", x)+`,"events":[`)
		send(http.MethodPost, "/v1/e", `{"site":"shop","consent":{"granted":true},"events":[]}`, "Cookie", tagserver.CookieID+"="+planted["forged cookie"])
		send(http.MethodPost, "/v1/e", `{"site":"shop","consent":{"granted":true},"events":[]}`, "Cookie", "session="+planted["cookie of somebody else"]+"; "+tagserver.CookieOptOut+"x="+x)
		send(http.MethodPost, "/privacy/category", "category="+q+"&off=1", "Content-Type", "application/x-www-form-urlencoded", "Origin", "http://edge.example")
		send(http.MethodPost, "/privacy/category", fmt.Sprintf(`{"category":%q,"off":true}`, x), "Content-Type", "application/json", "Origin", "http://edge.example")
		send(http.MethodPost, "/privacy/category", "category=sim/home&off=1&reason="+q, "Content-Type", "application/x-www-form-urlencoded", "Origin", "http://edge.example", "Cookie", tagserver.CookieOff+"=1."+q)
		send(http.MethodGet, "/privacy?receipt="+q, "")
		send(http.MethodGet, "/privacy/status?x="+q, "")
		send(http.MethodGet, "/"+q, "")
		send("BREW", "/v1/e", q)
		ask(tagserver.Private, "/api/v1/sites/"+q)
		ask(tagserver.Private, "/api/v1/audiences?x="+q, "Authorization", "Bearer "+s.adminKey)
		ask(tagserver.Private, "/api/v1/audiences", "Authorization", "Bearer "+q)
		ask(tagserver.Partner, "/v1/destinations/one/files/"+q, "Authorization", "Bearer "+q)
	}
	hostile(post, send)
	file := "who,when,cat,mail\n" + planted["customer's own ID"] + "," + s.now().Time().Format("2006-01-02 15:04:05") + ",sport,x\n" +
		"c2," + s.now().Time().Format("2006-01-02 15:04:05") + ",sport," + planted["file's e-mail address"] + "\n"
	if _, err := s.server.Import(ctx, app.ImportRequest{Source: "crm", File: strings.NewReader(file), Mapping: onboard.Mapping{Visitor: "who", Space: "own:crm", Time: "when",
		Layout: "2006-01-02 15:04:05", Event: &onboard.EventMapping{Name: "bought", Props: []onboard.Column{{Column: "cat"}, {Column: "mail"}}}}}); err != nil {
		t.Fatal(err)
	}
	everything := func() {
		t.Helper()
		for _, do := range []func() error{
			func() error { return s.server.Edge().Flush(ctx) },
			func() error { return s.server.Fold(ctx) },
			func() error { _, err := s.server.Build(ctx); return err },
			func() error { return s.server.DeliverAll(ctx) },
			func() error { return s.server.Nightly(ctx) },
		} {
			if err := do(); err != nil {
				t.Fatal(err)
			}
		}
	}
	everything()
	for _, path := range []string{"/metrics", "/api/v1/sites/shop/inspector", "/api/v1/sites/shop/waterfall", "/api/v1/sites/shop/refusals", "/api/v1/accounts", "/console/sites/shop", "/console/sites", "/console"} {
		ask(tagserver.Private, path, "Authorization", "Bearer "+s.adminKey)
	}
	words := map[string][]byte{}
	for what, x := range planted {
		words[what] = []byte(x)
	}
	id := b[tagserver.CookieID].value
	raw, issued, ok := s.ring.Load().VerifyCookie(tagserver.CookieID, id, s.now().Day())
	if !ok {
		t.Fatal("no cookie was given")
	}
	v, err := s.ring.Load().VisitorKey(taxonomy.SpaceCookie, raw[:], issued)
	if err != nil {
		t.Fatal(err)
	}
	words["value of the ID cookie"] = []byte(id)
	addForms(words, "ID of the cookie", raw[:])
	nowhere := func(when string, words map[string][]byte) {
		t.Helper()
		if found := searchAll(t, s.fs, dataDir, words); len(found) > 0 {
			t.Errorf("P4: %s: %s", when, strings.Join(found, "\n"))
		}
		text := s.log.String()
		for what, w := range words {
			if strings.Contains(text, string(w)) {
				t.Errorf("P4: %s: %s is in a message", when, what)
			}
			// A reply may tell the browser its own cookie, and the visitor what it did.
			if at := strings.Index(replies.String(), string(w)); planted[what] != "" && at >= 0 {
				t.Errorf("P4: %s: %s is in a reply: …%s", when, what, replies.String()[max(0, at-300):min(replies.Len(), at+60)])
			}
		}
	}
	nowhere("after everything ran", words)
	if found := searchAll(t, s.fs, dataDir, map[string][]byte{"canary": []byte(canary)}); len(found) == 0 {
		t.Error("the canary in an allowed field is not found: the search does not see it")
	} else {
		t.Log(found)
	}
	key := map[string][]byte{}
	addForms(key, "visitor key", v[:])
	if len(searchAll(t, s.fs, dataDir, key)) == 0 {
		t.Error("the visitor's key is not found before the erasure: the search does not see it")
	}

	// P6: erased, and four nights later no byte of it is left.
	send(http.MethodPost, "/v1/optout", "")
	s.erasesSoon()
	for range 4 {
		s.clock.Add(int64(taxonomy.OneDay))
		s.newestFrame()
		everything()
	}
	words["canary"] = []byte(canary) // it was the visitor's
	for k, x := range key {
		words[k] = x
	}
	nowhere("four nights after the erasure", words)
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	nowhere("after the stop", words)
}

// hostile is traffic that nobody means well: every planted value that a page may
// not send, in the dresses in which it might pass, and requests that are broken.
func hostile(post func(string), send func(method, path, body string, header ...string)) {
	for _, name := range personal {
		x := planted[name]
		for _, dress := range []string{
			url.QueryEscape(x), url.PathEscape(x), url.QueryEscape(url.QueryEscape(x)), base64.StdEncoding.EncodeToString([]byte(x)), strings.ToUpper(x),
			strings.ReplaceAll(x, "@", "＠"), strings.ReplaceAll(x, "@", " (at) "), "mailto:" + x, "id:" + x, x + ".", strings.Join(strings.Split(x, " "), "-"),
		} {
			post(fmt.Sprintf(`{"name":"h","props":{"q":%q}},{"url":%q},{"name":"h","props":{"ebb_trap":%q}}`, dress, shop+"/?cat="+url.QueryEscape(dress), dress))
		}
		// Cut off, repeated, nested and in fields that there are not.
		send(http.MethodPost, "/v1/e", fmt.Sprintf(`{"site":"shop","consent":{"granted":true},"events":[{"name":%q`, x))
		send(http.MethodPost, "/v1/e", fmt.Sprintf(`{"site":"shop","consent":{"granted":true,"tcf":%q},"events":[{"name":"h"}]}`, x))
		send(http.MethodPost, "/v1/e", fmt.Sprintf(`{"site":"shop",%q:1,"consent":{"granted":true},"events":[{"name":"h",%q:{%q:[%q]}}]}`, x, x, x, x))
		send(http.MethodPost, "/v1/e", x, "Content-Type", "application/json", "Content-Encoding", "gzip")
		send(http.MethodPost, "/v1/e", x, "Content-Type", x)
		send(http.MethodPost, "/v1/optout?x="+url.QueryEscape(x), x, "Origin", "https://"+url.PathEscape(x))
	}
	send(http.MethodPost, "/v1/optin", "")
	post("")
}

// newestFrame makes the log have a frame of this moment.
func (s *sim) newestFrame() {
	s.t.Helper()
	rec := s.send(request{method: http.MethodPost, path: "/v1/e", body: `{"site":"shop","consent":{"granted":true},"events":[{"name":"tick"}]}`})
	if rec.Code != http.StatusOK {
		s.t.Fatalf("post: %d %s", rec.Code, rec.Body)
	}
}
