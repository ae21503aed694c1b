package tagserver

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/consent"
	"github.com/ebb-dmp/ebb/taxonomy/keys"
)

const yesBody = `{"site":"shop","consent":{"granted":true},"events":[{}]}`

// cookie returns a valid cookie of a new ID, and its visitor key.
func (e *edge) cookie(n byte, issued taxonomy.Day) (value string, key taxonomy.VisitorKey) {
	e.t.Helper()
	ring := e.Server.o.Keys()
	id := [16]byte{n, 15: n}
	key, err := ring.VisitorKey(taxonomy.SpaceCookie, id[:], issued)
	if err != nil {
		e.t.Fatal(err)
	}
	return ring.SignCookie(CookieID, id, issued), key
}

func TestACookieThatDoesNotVerifyIsReplacedNeverAdopted(t *testing.T) {
	e := newEdge(t)
	today := e.clock.Now().Day()
	good, key := e.cookie(1, today)
	other, err := keys.Generate(seeded(9), today)
	if err != nil {
		t.Fatal(err)
	}
	cases := map[string]string{
		"foreign key":       other.SignCookie(CookieID, [16]byte{1, 15: 1}, today),
		"another cookie's":  e.Server.o.Keys().SignCookie("__Host-ebbp", [16]byte{1, 15: 1}, today),
		"two days ahead":    e.Server.o.Keys().SignCookie(CookieID, [16]byte{1, 15: 1}, today+2),
		"91 days old":       e.Server.o.Keys().SignCookie(CookieID, [16]byte{1, 15: 1}, today-91),
		"empty":             "",
		"quoted":            `"` + good + `"`,
		"unsigned":          "1.aaaaaaaa." + base64.RawURLEncoding.EncodeToString(make([]byte, 18)),
		"a lower case name": "",
	}
	// Each byte of a good one, changed.
	for i := range good {
		for _, c := range []byte{good[i] ^ 1, 'A', '.', '_'} {
			if c != good[i] && c > ' ' && c != ';' && c != ',' && c != '"' && c != '\\' {
				cases[fmt.Sprintf("byte %d is %q", i, c)] = good[:i] + string(c) + good[i+1:]
			}
		}
	}
	for name, value := range cases {
		header := CookieID + "=" + value
		if name == "a lower case name" {
			header = "__host-ebb=" + good
		}
		b := e.browser()
		w := b.post("shop", 1, yesBody, "Cookie", header)
		if w.Code != 200 {
			t.Fatalf("%s: %d %s %s", name, w.Code, w.Body, e.lines.b.String())
		}
		r := e.last(taxonomy.RecordEvent)
		if r.Visitor == key || r.Returning {
			t.Errorf("%s: adopted", name)
		}
		if v := b.cookies[CookieID]; v == "" || v == value || v == good {
			t.Errorf("%s: the cookie was not replaced", name)
		}
	}
	if e.metric("cookies_total", "state", cookieInvalid) == 0 {
		t.Error("bad cookies are not counted")
	}
	// The control: the good one.
	b := e.browser()
	w := b.post("shop", 1, yesBody, "Cookie", CookieID+"="+good)
	if r := e.last(taxonomy.RecordEvent); r.Visitor != key || !r.Returning || len(w.Header()["Set-Cookie"]) != 0 {
		t.Errorf("a good cookie: returning %v, Set-Cookie %v", r.Returning, w.Header()["Set-Cookie"])
	}
}

func TestSeveralCookiesOfTheName(t *testing.T) {
	e := newEdge(t)
	today := e.clock.Now().Day()
	one, key1 := e.cookie(1, today)
	two, key2 := e.cookie(2, today)
	for _, c := range []struct {
		name, header string
		want         taxonomy.VisitorKey // zero: a new one
	}{
		{"the same twice", CookieID + "=" + one + "; " + CookieID + "=" + one, key1},
		{"a forged one first", CookieID + "=x; " + CookieID + "=" + one, key1},
		{"a forged one last", CookieID + "=" + one + ";" + CookieID + "=1.aaaaaaaa.zzz", key1},
		{"among others", "a=b; =; ;;" + CookieID + "=" + one + "; x", key1},
		{"two that differ", CookieID + "=" + one + "; " + CookieID + "=" + two, taxonomy.VisitorKey{}},
	} {
		b := e.browser()
		b.post("shop", 1, yesBody, "Cookie", c.header)
		r := e.last(taxonomy.RecordEvent)
		if c.want.IsZero() {
			if r.Visitor == key1 || r.Visitor == key2 || r.Returning || b.cookies[CookieID] == "" {
				t.Errorf("%s: want a new visitor", c.name)
			}
		} else if r.Visitor != c.want || !r.Returning {
			t.Errorf("%s: want the visitor of the valid one", c.name)
		}
	}
}

func TestAnIDNeverComesFromTheRequestItself(t *testing.T) {
	e := newEdge(t)
	good, key := e.cookie(1, e.clock.Now().Day())
	e.browser().get("shop", "/v1/n/shop?consent=1&"+CookieID+"="+good+"&uid="+good)
	e.browser().post("shop", 1, `{"site":"shop","`+CookieID+`":"`+good+`","visitor":"`+good+`","consent":{"granted":true},"events":[{}]}`)
	for _, r := range e.records() {
		if r.Visitor == key || r.Returning {
			t.Errorf("an ID was taken from the request: %+v", r.Kind)
		}
	}
}

// R27
func TestAnOldIDIsFollowedByANewOne(t *testing.T) {
	e := newEdge(t)
	today := e.clock.Now().Day()
	id := [16]byte{1, 15: 3} // rotates 79 days after its issue
	for _, c := range []struct {
		age     taxonomy.Day
		rotates bool
	}{{0, false}, {78, false}, {79, true}, {90, true}} {
		issued := today - c.age
		// The ring of a test is young: make one that has the quarter of the issue.
		old, err := keys.Generate(seeded(1), issued)
		if err != nil {
			t.Fatal(err)
		}
		e := newEdge(t, func(o *Options) { o.Keys = func() *keys.Ring { return old } })
		key, err := old.VisitorKey(taxonomy.SpaceCookie, id[:], issued)
		if err != nil {
			t.Fatal(err)
		}
		b := e.browser()
		b.cookies[CookieID] = old.SignCookie(CookieID, id, issued)
		before := b.cookies[CookieID]
		b.yes()
		ev := e.last(taxonomy.RecordEvent)
		if ev.Visitor != key || !ev.Returning {
			t.Errorf("age %d: the event is not the old ID's, which the request proved to have", c.age)
		}
		if rotated := b.cookies[CookieID] != before; rotated != c.rotates {
			t.Fatalf("age %d: new cookie %v, want %v", c.age, rotated, c.rotates)
		}
		if !c.rotates {
			continue
		}
		s := e.last(taxonomy.RecordSucceeds)
		if s.Succeeds != key || s.Visitor == key || s.Visitor.IsZero() {
			t.Errorf("age %d: succeeds does not lead from the old to the new", c.age)
		}
		b.yes()
		if ev := e.last(taxonomy.RecordEvent); ev.Visitor != s.Visitor || !ev.Returning {
			t.Errorf("age %d: the next request is not the new ID's", c.age)
		}
		// The image: the succession is fsynced before the answer.
		l := &appendLog{Log: e.log}
		e.Server.o.Log = l
		b.cookies[CookieID] = before
		b.get("shop", "/v1/n/shop?consent=1")
		if len(l.acks) != 1 || l.acks[0] != retention.AckLocal {
			t.Errorf("age %d: pixel with a succession asked for %v", c.age, l.acks)
		}
	}
}

// R27 with groups: both the old key's group and the new one's learn of it.
func TestASuccessionIsToldToBothGroups(t *testing.T) {
	today := newEdge(t).clock.Now().Day()
	old, err := keys.Generate(seeded(1), today-85)
	if err != nil {
		t.Fatal(err)
	}
	crossed := 0
	for n := range byte(12) {
		e := newEdge(t, func(o *Options) {
			o.Keys = func() *keys.Ring { return old }
			o.Shards, o.Groups, o.Rand = 64, 4, seeded(n)
		})
		b := e.browser()
		id := [16]byte{n, 15: 3}
		b.cookies[CookieID] = old.SignCookie(CookieID, id, today-85)
		b.yes()
		s := e.last(taxonomy.RecordSucceeds)
		for _, k := range []taxonomy.VisitorKey{s.Visitor, s.Succeeds} {
			frames, err := e.log.Follow(t.Context(), taxonomy.GroupOf(k.Shard(64), 4), nil, 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			found := false
			for _, f := range frames {
				for _, r := range f.Records {
					found = found || r.Kind == taxonomy.RecordSucceeds
				}
			}
			if !found {
				t.Error("a group does not know of the succession")
			}
		}
		if s.Visitor.Shard(64)%4 != s.Succeeds.Shard(64)%4 {
			crossed++
		}
	}
	if crossed == 0 {
		t.Error("no succession crossed groups: the test says nothing")
	}
}

// R25
func TestAnErasedKeyGetsANewID(t *testing.T) {
	e := newEdge(t)
	b := e.browser()
	b.yes()
	old := e.last(taxonomy.RecordEvent).Visitor
	before := b.cookies[CookieID]
	e.erased[old] = true
	b.yes()
	if r := e.last(taxonomy.RecordEvent); r.Visitor == old || r.Returning || b.cookies[CookieID] == before {
		t.Errorf("an erased key goes on: same %v, returning %v", r.Visitor == old, r.Returning)
	}
	// Without leave there is none.
	b.cookies[CookieID] = before
	n := len(e.records())
	b.post("shop", 1, `{"site":"shop","events":[{}]}`)
	if len(e.records()) != n {
		t.Error("a record without consent")
	}
}

// R22, R23: every combination of signals, against the one decision.
func TestEverySignalGoesThroughDecide(t *testing.T) {
	yes, no := true, false
	for _, explicit := range []*bool{nil, &yes, &no} {
		for _, gpc := range []bool{false, true} {
			for _, optOut := range []bool{false, true} {
				for _, site := range []taxonomy.SiteID{"shop", "news"} {
					for _, country := range []string{"", "DE", "US"} {
						for _, tcf := range []string{"", "CPanything"} {
							e := newEdge(t, func(o *Options) {
								if country != "" {
									o.Country = func(a netipAddr) string {
										if a.String() != canaryAddr {
											t.Errorf("country of %v was asked", a)
										}
										return country
									}
								}
							})
							sig := consent.Signals{OptOutCookie: optOut, GPC: gpc, Explicit: explicit, Mode: e.sites[site].Consent, Day: e.clock.Now().Day(), Country: country}
							if tcf != "" {
								sig.Statements = []consent.Statement{{Signal: taxonomy.SignalTCF, Stale: true, Reason: consent.Reason{Code: "string_unread"}}}
							}
							d := consent.Decide(sig)
							checkDecision(t, e, site, sig, d, tcf)
						}
					}
				}
			}
		}
	}
}

func checkDecision(t *testing.T, e *edge, site taxonomy.SiteID, sig consent.Signals, d consent.Decision, tcf string) {
	t.Helper()
	name := fmt.Sprintf("%s %s gpc=%v optout=%v tcf=%q", site, sig.Country, sig.GPC, sig.OptOutCookie, tcf)
	granted, query := "", ""
	if sig.Explicit != nil {
		name += fmt.Sprintf(" explicit=%v", *sig.Explicit)
		granted = fmt.Sprintf(`"granted":%v,`, *sig.Explicit)
		query = "consent=" + map[bool]string{true: "1", false: "0"}[*sig.Explicit]
	}
	if tcf != "" {
		query += "&gdpr_consent=" + tcf
	}
	value, key := e.cookie(1, sig.Day)
	for _, withID := range []bool{false, true} {
		for _, route := range []string{"e", "n"} {
			b := e.browser()
			b.origin = e.sites[site].Origins[0]
			if withID {
				b.cookies[CookieID] = value
			}
			if sig.OptOutCookie {
				b.cookies[CookieOptOut] = "1"
			}
			if sig.GPC {
				b.header.Set("Sec-GPC", "1")
			}
			before := len(e.records())
			at := name + " " + route
			var reason string
			if route == "e" {
				w := b.post(site, 1, fmt.Sprintf(`{"site":"%s","consent":{%s"tcf":"%s"},"events":[{}]}`, site, granted, tcf))
				r := reply(t, w)
				if (r.Stored == 1) != d.Store() || (len(r.Refused) == 1) == d.Store() {
					t.Errorf("%s: %s, Store is %v", at, w.Body, d.Store())
				}
				if !d.Store() && r.Refused[0].Code != "consent" {
					t.Errorf("%s: refused with %q", at, r.Refused[0].Code)
				}
				reason = w.Header().Get("X-Ebb-Reason")
			} else {
				reason = b.get(site, "/v1/n/"+string(site)+"?"+query).Header().Get("X-Ebb-Reason")
			}
			if d.Store() != (reason == "") || !d.Store() && !strings.HasPrefix(reason, "consent; code="+d.Reasons[0].Code) {
				t.Errorf("%s: X-Ebb-Reason %q, decided %v", at, reason, d.Reasons)
			}
			var added []taxonomy.Record
			for _, r := range e.records()[before:] {
				if r.Kind != taxonomy.RecordCounts {
					added = append(added, r)
				}
			}
			got := b.cookies[CookieID]
			switch {
			case d.Expire:
				// R24: the erasure is in the log before the answer.
				if withID && (len(added) != 1 || added[0].Kind != taxonomy.RecordErasure || added[0].Visitor != key) {
					t.Errorf("%s: no erasure of the ID that was carried: %v", at, added)
				}
				if !withID && len(added) != 0 {
					t.Errorf("%s: records of nobody: %v", at, added)
				}
				if got != "" {
					t.Errorf("%s: the ID cookie stays", at)
				}
			case !d.Store():
				if len(added) != 0 || withID != (got == value) {
					t.Errorf("%s: silence must neither write nor touch the cookie: %v", at, added)
				}
			default:
				if len(added) != 1 || added[0].Kind != taxonomy.RecordEvent || added[0].Returning != withID || withID != (added[0].Visitor == key) || !added[0].Consent.Equal(d.Consent) {
					t.Errorf("%s: %+v", at, added)
				}
				if got == "" {
					t.Errorf("%s: no cookie", at)
				}
			}
			if sig.OptOutCookie && b.cookies[CookieOptOut] != "1" {
				t.Errorf("%s: the opt-out cookie is gone", at)
			}
		}
	}
}

func TestGPCIsExactlyOne(t *testing.T) {
	e := newEdge(t)
	for _, c := range []struct {
		lines []string
		on    bool
	}{{[]string{"1"}, true}, {[]string{"0", "1"}, true}, {[]string{"0"}, false}, {[]string{"1, 1"}, false}, {[]string{"true"}, false}, {[]string{`"1"`}, false}, {nil, false}} {
		b := e.browser()
		if c.lines != nil {
			b.header["Sec-Gpc"] = c.lines
		}
		if got := reply(t, b.yes()).Stored == 0; got != c.on {
			t.Errorf("Sec-GPC %q: on %v, want %v", c.lines, got, c.on)
		}
	}
}

// R23, R24
func TestAnErasureThatIsNotTakenKeepsTheCookie(t *testing.T) {
	var l *appendLog
	e := newEdge(t, func(o *Options) { l = &appendLog{Log: o.Log}; o.Log = l })
	b := e.browser()
	b.yes()
	id := b.cookies[CookieID]
	l.err = retention.ErrFull
	b.header.Set("Sec-GPC", "1")
	if w := b.do("POST", "/v1/e", yesBody); w.Code != 503 || b.cookies[CookieID] != id {
		t.Errorf("collect: %d, cookie kept %v", w.Code, b.cookies[CookieID] == id)
	}
	if w := b.do("GET", "/v1/n/shop?consent=1", ""); w.Header().Get("X-Ebb-Reason") != "unavailable" || b.cookies[CookieID] != id {
		t.Errorf("pixel: %q, cookie kept %v", w.Header().Get("X-Ebb-Reason"), b.cookies[CookieID] == id)
	}
	if w := b.do("GET", "/v1/sync/dsp?consent=1", ""); w.Header().Get("X-Ebb-Reason") != "unavailable" || b.cookies[CookieID] != id {
		t.Errorf("sync: %q", w.Header().Get("X-Ebb-Reason"))
	}
	if w := b.do("GET", "/v1/seg?site=shop&consent=1", ""); w.Code != 503 || b.cookies[CookieID] != id {
		t.Errorf("seg: %d", w.Code)
	}
	if w := b.do("POST", "/v1/optout", ""); w.Code != 503 || b.cookies[CookieID] != id || b.cookies[CookieOptOut] != "" {
		t.Errorf("optout: %d", w.Code)
	}
	l.err = nil
	b.post("shop", 1, yesBody)
	if b.cookies[CookieID] != "" || e.last(taxonomy.RecordErasure).Visitor.IsZero() {
		t.Error("the repeated request does not erase")
	}
	// R24: at quorum, else 202.
	l.reached = retention.AckLocal
	e.Server.o.Ack = retention.AckQuorum
	b = e.browser()
	b.yes()
	b.header.Set("Sec-GPC", "1")
	if w := b.post("shop", 1, yesBody); w.Code != 202 || !strings.Contains(w.Body.String(), `"durable":"local"`) {
		t.Errorf("an erasure by GPC short of quorum: %d %s", w.Code, w.Body)
	}
	b = e.browser()
	b.yes()
	if w := b.do("POST", "/v1/optout", ""); w.Code != 202 || !strings.Contains(w.Body.String(), `"durable":"local"`) {
		t.Errorf("an erasure short of quorum: %d %s", w.Code, w.Body)
	}
}

// R24: a full log keeps room for erasures, and only for them.
func TestAnErasureTravelsAlone(t *testing.T) {
	e := newEdge(t)
	b := e.browser()
	b.yes()
	b.post("", 1, "x") // a count that waits for a frame
	b.do("POST", "/v1/optout", "")
	if k := e.kinds(); len(e.records()) != 2 || k[1] != taxonomy.RecordErasure || len(e.Counters()) != 1 {
		t.Errorf("records %v, counters %v", k, e.Counters())
	}
}

func TestBrokenRandomnessGivesNoID(t *testing.T) {
	e := newEdge(t, func(o *Options) { o.Rand = failing{} })
	w := e.browser().do("POST", "/v1/e", yesBody)
	if w.Code != 503 || len(w.Header()["Set-Cookie"]) != 0 || len(e.records()) != 0 {
		t.Errorf("%d %v", w.Code, w.Header())
	}
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errors.New("no randomness") }

var _ io.Reader = failing{}

func TestBotsAreFlagged(t *testing.T) {
	for agent, want := range map[string]bool{
		"Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)":                                        true,
		"Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36": false,
		"Mozilla/5.0 (Linux; Android 9; CUBOT_X19) AppleWebKit/537.36":                                                    false,
		"Mozilla/5.0 (Linux; Android 9; CUBOT_X19) somebot/1.0":                                                           true,
		"SomeSpider/1.0":             true,
		"":                           false,
		strings.Repeat("x", 100_000): true,
	} {
		e := newEdge(t)
		b := e.browser()
		b.header.Set("User-Agent", agent)
		b.yes()
		if got := e.last(taxonomy.RecordEvent).Bot; got != want {
			t.Errorf("%.60q: bot %v, want %v", agent, got, want)
		}
	}
}
