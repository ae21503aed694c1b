package tagserver

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/consent"
)

const testKeyHash = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"

// withSync gives the edge a destination that syncs in every way.
func withSync(e *edge) {
	e.dest["dsp"] = Destination{ID: "dsp", Sync: "https://sync.dsp.example/in?id=${EBB_ID}&gdpr=${GDPR}&c=${GDPR_CONSENT_755}&o=${GDPR_CONSENT_21}&g=${GPP_STRING_755}&s=${GPP_SID}&u=${US_PRIVACY}&x=${NOBODY}",
		Epoch: 3, GVLID: 755, Hosts: []string{"pbs.example", "dsp.example:8443"}, Pixel: true, KeyHash: testKeyHash,
		Caps: MatchCaps{IDsPerVisitor: 2, VisitorsPerID: 3, Changes: 6}}
}

// Macros are filled for whom they are: consent strings that are meant for another
// vendor, and what nobody knows, are taken out.
func TestMacrosAreFilledForTheirVendorAlone(t *testing.T) {
	e := newEdge(t, func(o *Options) {
		o.Strings = func(_ []consent.Statement, s Strings, day taxonomy.Day) []consent.Statement {
			return []consent.Statement{{Signal: taxonomy.SignalTCF, Regime: taxonomy.RegimeOptIn, Purposes: taxonomy.MayAll}}
		}
	})
	withSync(e)
	b := e.browser()
	b.yes()
	uid := e.Server.o.Keys().Pseudonym("dsp", 3, e.last(taxonomy.RecordEvent).Visitor)
	w := b.do("GET", "/v1/sync/dsp?gdpr=1&gdpr_consent=CP%2Fx&gpp=DB&gpp_sid=2%2C7&us_privacy=1YNN", "")
	if want := "https://sync.dsp.example/in?id=" + uid + "&gdpr=1&c=CP%2Fx&o=&g=DB&s=2%2C7&u=1YNN&x="; w.Code != 302 || w.Header().Get("Location") != want {
		t.Errorf("%d %s\nwant %s", w.Code, w.Header().Get("Location"), want)
	}
	// A signal that nobody can read is passed to nobody.
	if w = b.do("GET", "/v1/sync/dsp?gdpr=${EBB_ID}&gdpr_consent=x", ""); strings.Contains(w.Header().Get("Location"), "${") || strings.Count(w.Header().Get("Location"), uid) > 1 {
		t.Errorf("a caller's macro is filled: %s", w.Header().Get("Location"))
	}
}

// redirect= leads to a host that the destination lists, over https, and nowhere
// else; both spellings of the macro are filled.
func TestARedirectOfTheRequestGoesToListedHostsAlone(t *testing.T) {
	e := newEdge(t)
	withSync(e)
	b := e.browser()
	b.yes()
	uid := e.Server.o.Keys().Pseudonym("dsp", 3, e.last(taxonomy.RecordEvent).Visitor)
	ask := func(to string) string {
		return b.do("GET", "/v1/sync/dsp?consent=1&redirect="+url.QueryEscape(to), "").Header().Get("Location")
	}
	for to, want := range map[string]string{
		"https://pbs.example/setuid?bidder=ebb&gdpr=&f=i&uid=$UID": "https://pbs.example/setuid?bidder=ebb&gdpr=&f=i&uid=" + uid,
		"https://dsp.example:8443/${EBB_ID}/x":                     "https://dsp.example:8443/" + uid + "/x",
		"https://PBS.example/none":                                 "https://PBS.example/none",
	} {
		if got := ask(to); got != want {
			t.Errorf("%s: %s", to, got)
		}
	}
	for _, to := range []string{"https://evil.example/?u=$UID", "http://pbs.example/$UID", "//pbs.example/$UID", "https://pbs.example@evil.example/$UID", "https://u:p@pbs.example/$UID", "https://pbs.example.evil.example/$UID",
		"https://pbs.example:8443/$UID", "https://dsp.example/$UID", `https:\\pbs.example/$UID`, "https://pbs.example/#$UID", "javascript:$UID", "https://$UID/", "https:pbs.example/$UID", "https://pbs.example/" + strings.Repeat("x", 9000)} {
		w := b.do("GET", "/v1/sync/dsp?consent=1&redirect="+url.QueryEscape(to), "")
		if w.Code != 200 || w.Header().Get("Location") != "" || !strings.HasPrefix(w.Header().Get("X-Ebb-Reason"), "bad_redirect") {
			t.Errorf("%.60q: %d %v", to, w.Code, w.Header())
		}
	}
	if w := b.do("GET", "/v1/sync/dsp?consent=1&redirect="+url.QueryEscape("https://pbs.example\r\nX: y/$UID"), ""); w.Code != 200 || !strings.HasPrefix(w.Header().Get("X-Ebb-Reason"), "malformed") {
		t.Errorf("a line break: %v", w.Header())
	}
	if w := b.do("GET", "/v1/sync/dsp?consent=1&redirect=https%3A%2F%2Fpbs.example%2Fa&redirect=https%3A%2F%2Fpbs.example%2Fb", ""); w.Code != 200 {
		t.Error("of two redirects one is taken")
	}
}

// The frame and the JSON say what the redirect says, and to nobody else.
func TestFrameAndJSONTellThePseudonymOrNothing(t *testing.T) {
	e := newEdge(t)
	withSync(e)
	b := e.browser()
	b.yes()
	v := e.last(taxonomy.RecordEvent).Visitor
	uid := e.Server.o.Keys().Pseudonym("dsp", 3, v)
	w := b.do("GET", "/v1/sync/dsp/frame?consent=1", "")
	if w.Code != 200 || !strings.Contains(w.Body.String(), `<img src="https://sync.dsp.example/in?id=`+uid+`&amp;gdpr=`) || w.Header().Get("Content-Security-Policy") != "default-src 'none'; base-uri 'none'; form-action 'none'; img-src https://sync.dsp.example" {
		t.Errorf("%d %v %s", w.Code, w.Header(), w.Body)
	}
	w = b.do("GET", "/v1/uid/dsp?consent=1", "", "Origin", shop)
	if w.Body.String() != `{"uid":"`+uid+`"}` || w.Header().Get("Access-Control-Allow-Origin") != shop {
		t.Errorf("%v %s", w.Header(), w.Body)
	}
	w = b.do("GET", "/v1/uid/dsp?consent=1", "", "Origin", "https://pbs.example")
	if w.Body.String() != `{"uid":"`+uid+`"}` || w.Header().Get("Access-Control-Allow-Origin") != "https://pbs.example" {
		t.Errorf("a listed host: %v %s", w.Header(), w.Body)
	}
	for _, q := range []struct {
		query  string
		header []string
	}{{"", nil}, {"?consent=0x", nil}, {"?consent=1", []string{"Origin", "https://evil.example"}}, {"?consent=1", []string{"Origin", "null"}}, {"?consent=1&site=news", nil}, {"?consent=1", []string{"Cookie", "x=y"}}} {
		if w := b.do("GET", "/v1/uid/dsp"+q.query, "", q.header...); w.Body.String() != `{"uid":""}` {
			t.Errorf("%v: %s", q, w.Body)
		}
		if w := b.do("GET", "/v1/sync/dsp/frame"+q.query, "", q.header...); strings.Contains(w.Body.String(), "<img") || w.Header().Get("X-Ebb-Reason") == "" {
			t.Errorf("%v: %s", q, w.Body)
		}
	}
	e.erased[v] = true // R25
	if w := b.do("GET", "/v1/uid/dsp?consent=1", ""); w.Body.String() != `{"uid":""}` {
		t.Errorf("erased: %s", w.Body)
	}
}

// R32: a match is in the log under the visitor of the cookie, with its consent;
// without the leave of both parties it is not.
func TestAPixelBringsAMatchIfBothPartiesMay(t *testing.T) {
	var allow []taxonomy.DestinationID
	e := newEdge(t, func(o *Options) {
		o.Strings = func(_ []consent.Statement, s Strings, day taxonomy.Day) []consent.Statement {
			return []consent.Statement{{Signal: taxonomy.SignalTCF, Regime: taxonomy.RegimeOptIn, Purposes: taxonomy.MayAll, Destinations: allow}}
		}
	})
	withSync(e)
	b := e.browser()
	b.yes()
	v := e.last(taxonomy.RecordEvent).Visitor
	n := len(e.kinds())
	refused := func(path, why string, header ...string) {
		t.Helper()
		w := b.do("GET", path, "", header...)
		if w.Code != 200 || w.Body.Len() != 43 || !strings.HasPrefix(w.Header().Get("X-Ebb-Reason"), why) || len(e.kinds()) != n {
			t.Errorf("%s: %v, want %s; kinds %v", path, w.Header(), why, e.kinds())
		}
	}
	refused("/v1/match?dest=dsp&id=AbC", "consent; code=no_consent")
	refused("/v1/match?dest=nosync&id=AbC&consent=1", "no_pixel")
	refused("/v1/match?dest=none&id=AbC&consent=1", "unknown_destination")
	refused("/v1/match?dest=dsp&id=AbC&consent=1", "wrong_origin", "Origin", "https://evil.example")
	refused("/v1/match?dest=dsp&id=AbC&consent=1", "no_visitor", "Cookie", "x=y")
	refused("/v1/match?dest=dsp&id=AbC&id=B&consent=1", "malformed")
	for _, id := range []string{"", "0", "$UID", "${UID}", "%25%25UID%25%25", "a@b.example", "a%2540b", "a,b", "null", strings.Repeat("x", 257)} {
		refused("/v1/match?dest=dsp&consent=1&id="+id, "bad_id")
	}
	allow = []taxonomy.DestinationID{"other"}
	refused("/v1/match?dest=dsp&id=AbC&gdpr_consent=CP", "consent; code=no_export")
	allow = []taxonomy.DestinationID{"dsp"}
	w := b.do("GET", "/v1/match?dest=dsp&id=CAESEHIV8HXNp0pFdHgi2rElMfk&gdpr_consent=CP&site=shop", "", "Origin", "", "Referer", shop+"/x")
	r := e.last(taxonomy.RecordMatch)
	if w.Body.Len() != 43 || w.Header().Get("X-Ebb-Reason") != "" || r.Visitor != v || *r.Match != (taxonomy.Match{Destination: "dsp", ID: "CAESEHIV8HXNp0pFdHgi2rElMfk"}) || !r.Returning || !r.Consent.Allows("dsp") || r.Site != "shop" {
		t.Errorf("%v %+v", w.Header(), r)
	}
	n = len(e.kinds())
	if b.do("GET", "/v1/match?dest=dsp&id=CAESEHIV8HXNp0pFdHgi2rElMfk&gdpr_consent=CP", ""); len(e.kinds()) != n {
		t.Error("the same pair is written twice on a day")
	}
	// R23
	b.header.Set("Sec-GPC", "1")
	if b.do("GET", "/v1/match?dest=dsp&id=other&gdpr_consent=CP", ""); e.last(taxonomy.RecordErasure).Visitor != v || e.last(taxonomy.RecordMatch).Match.ID == "other" {
		t.Error("GPC does not stop a match, or does not erase")
	}
}

// A signed match is the destination's word for one visitor, ID and time.
func TestASignedMatchIsTheDestinationsWordForThisVisitor(t *testing.T) {
	e := newEdge(t)
	withSync(e)
	e.dest["keyless"] = Destination{ID: "keyless"}
	b, other := e.browser(), e.browser()
	b.yes()
	v := e.last(taxonomy.RecordEvent).Visitor
	other.yes()
	uid := e.Server.o.Keys().Pseudonym("dsp", 3, v)
	until := e.clock.Now() + taxonomy.Minute
	body := func(dest, id, sig string, until taxonomy.Millis) string {
		return fmt.Sprintf(`{"site":"shop","destination":%q,"id":%q,"expires":%d,"signature":%q,"consent":{"granted":true}}`, dest, id, until, sig)
	}
	sign := func(dest taxonomy.DestinationID, uid, id string, until taxonomy.Millis) string {
		s, err := SignMatch(testKeyHash, dest, uid, id, until)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	good := sign("dsp", uid, "p-1", until)
	n := len(e.kinds())
	for name, c := range map[string]struct {
		by   *browser
		body string
		code int
	}{
		"another visitor":      {other, body("dsp", "p-1", good, until), 403},
		"another ID":           {b, body("dsp", "p-2", good, until), 403},
		"another end":          {b, body("dsp", "p-1", good, until+1), 403},
		"another destination":  {b, body("keyless", "p-1", good, until), 403},
		"none":                 {b, body("dsp", "p-1", "", until), 403},
		"over":                 {b, body("dsp", "p-1", sign("dsp", uid, "p-1", e.clock.Now()-1), e.clock.Now()-1), 403},
		"for ever":             {b, body("dsp", "p-1", sign("dsp", uid, "p-1", until+taxonomy.OneDay), until+taxonomy.OneDay), 403},
		"no ID":                {b, body("dsp", "0", sign("dsp", uid, "0", until), until), 422},
		"twice":                {b, `{"destination":"dsp","destination":"dsp"}`, 400},
		"not JSON":             {b, `dsp`, 400},
		"no such destination":  {b, body("none", "p-1", good, until), 200},
		"no consent":           {b, strings.Replace(body("dsp", "p-1", good, until), "true", "null", 1), 200},
		"consent is not given": {b, strings.Replace(body("dsp", "p-1", good, until), `"granted":true`, ``, 1), 200},
	} {
		w := c.by.do("POST", "/v1/match", c.body, "Content-Type", "application/json")
		if w.Code != c.code || len(e.kinds()) != n || strings.Contains(w.Body.String(), `"matched":true`) {
			t.Errorf("%s: %d %s %v", name, w.Code, w.Body, e.kinds())
		}
	}
	w := b.do("POST", "/v1/match", body("dsp", "p-1", good, until), "Content-Type", "text/plain")
	if r := e.last(taxonomy.RecordMatch); w.Code != 200 || w.Body.String() != `{"matched":true,"durable":"local"}` || r.Visitor != v || r.Match.ID != "p-1" {
		t.Errorf("%d %s %+v", w.Code, w.Body, r)
	}
}

// Caps hold what one destination learns in a day: an attacker who hangs one ID on
// many visitors, or many on one, is stopped, seen, and harms no other destination.
func TestCapsStopPoisoningAndSayIt(t *testing.T) {
	e := newEdge(t)
	withSync(e)
	e.dest["calm"] = Destination{ID: "calm", Pixel: true}
	var bs []*browser
	for range 5 {
		b := e.browser()
		b.yes()
		bs = append(bs, b)
	}
	match := func(b *browser, dest, id string) string {
		return b.do("GET", "/v1/match?consent=1&dest="+dest+"&id="+id, "").Header().Get("X-Ebb-Reason")
	}
	for i, want := range []string{"", "", "", "visitors_per_id", "visitors_per_id"} {
		if got := match(bs[i], "dsp", "one"); got != want {
			t.Errorf("visitor %d: %q, want %q", i, got, want)
		}
	}
	if a, b := match(bs[0], "dsp", "two"), match(bs[0], "dsp", "three"); a != "" || b != "ids_per_visitor" {
		t.Errorf("%q %q", a, b)
	}
	// The newest sync holds the ID (R32): who had it before takes it back, which is a change.
	if got := match(bs[0], "dsp", "one"); got != "" || e.last(taxonomy.RecordMatch).Match.ID != "one" {
		t.Errorf("%q", got)
	}
	if a, b := match(bs[3], "dsp", "four"), match(bs[4], "dsp", "five"); a != "" || b != "changes_per_day" {
		t.Errorf("%q %q", a, b)
	}
	if got := match(bs[4], "calm", "one"); got != "" {
		t.Errorf("another destination: %q", got)
	}
	got, _ := json.Marshal(e.MatchAlarms())
	day := strconv.Quote(e.clock.Now().Day().String())
	if want := `[{"Destination":"dsp","Day":` + day + `,"Cap":"visitors_per_id","Refused":2},{"Destination":"dsp","Day":` + day + `,"Cap":"ids_per_visitor","Refused":1},{"Destination":"dsp","Day":` + day + `,"Cap":"changes_per_day","Refused":1}]`; string(got) != want {
		t.Errorf("alarms %s\nwant   %s", got, want)
	}
	e.clock.Advance(24 * 60 * 60 * 1000)
	for _, b := range bs {
		b.yes()
	}
	if got := match(bs[4], "dsp", "one"); got != "" || len(e.MatchAlarms()) != 3 {
		t.Errorf("the next day: %q, %d alarms", got, len(e.MatchAlarms()))
	}
}

// What the log did not take is not remembered as learnt.
func TestAMatchThatWasNotKeptIsTakenAgain(t *testing.T) {
	e := newEdge(t)
	g, d := newMatchGuard(), Destination{ID: "dsp", Caps: MatchCaps{Changes: 1}}
	v := taxonomy.VisitorKey{1}
	for range 3 {
		if got := g.take(d.ID, d.Caps, v, "a", e.clock.Now()); got != MatchNew {
			t.Fatal(got)
		}
		g.giveBack(d.ID, v, "a")
	}
}
