package tagserver

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// remembers is what an installation knows of switches.
type remembers struct {
	knows
	off map[taxonomy.VisitorKey][]taxonomy.Trait
}

func (r remembers) Off(v taxonomy.VisitorKey) []taxonomy.Trait { return r.off[v] }

const own = "https://edge.example"

func (b *browser) switches(category string, off bool) (r offReply) {
	b.e.t.Helper()
	w := b.do("POST", "/privacy/category", fmt.Sprintf(`{"category":%q,"off":%v}`, category, off), "Origin", own, "Content-Type", "application/json")
	if w.Code != 200 || json.Unmarshal(w.Body.Bytes(), &r) != nil {
		b.e.t.Fatalf("switch %s: %d %s", category, w.Code, w.Body)
	}
	return r
}

// A switch is a statement in the log before it is answered, for the ID that came;
// a cookie without an ID keeps it for every ID that follows.
func TestASwitchIsInTheLogAndOutlivesTheID(t *testing.T) {
	e := newEdge(t, func(o *Options) { o.Visitors = remembers{knows{}, nil} })
	b := e.browser()
	b.yes()
	b.yes()
	key := e.last(taxonomy.RecordEvent).Visitor
	if r := b.switches("news/wine", true); !slices.Equal(r.Off, []string{"news/wine"}) || r.Durable != "local" {
		t.Errorf("%+v", r)
	}
	r := b.switches("news/sport", true)
	if !slices.Equal(r.Off, []string{"news/sport", "news/wine"}) || b.cookies[CookieOff] != "1.news/sport~news/wine" {
		t.Errorf("%+v, cookie %q", r, b.cookies[CookieOff])
	}
	said := e.last(taxonomy.RecordChoice)
	if said.Visitor != key || !said.Returning || !slices.Equal(said.Off, []taxonomy.Trait{"c:news/sport", "c:news/wine"}) || !said.Consent.Equal(taxonomy.Consent{}) {
		t.Errorf("%+v", said)
	}
	for range 2 { // the ID goes, the wish stays: first with a new ID, then when it returns
		delete(b.cookies, CookieID)
		b.yes()
		said, ev := e.last(taxonomy.RecordChoice), e.last(taxonomy.RecordEvent)
		if said.Visitor != ev.Visitor || ev.Visitor == key || len(said.Off) != 2 {
			t.Errorf("a new ID begins with %+v", said)
		}
		key = ev.Visitor
	}
	b.do("POST", "/privacy/erase", "", "Origin", own)
	if b.cookies[CookieOff] == "" {
		t.Error("an erasure takes the wish away")
	}
	if r := b.switches("news/wine", false); !slices.Equal(r.Off, []string{"news/sport"}) {
		t.Errorf("one on again: %+v", r)
	}
	if b.switches("news/sport", false); b.cookies[CookieOff] != "1." {
		t.Errorf("all on again, and the cookie is %q", b.cookies[CookieOff])
	}
}

// The fold may be a moment behind: what was just switched on does not come back
// with the next switch.
func TestTheCookieKnowsBetterThanTheFold(t *testing.T) {
	known := remembers{knows{}, map[taxonomy.VisitorKey][]taxonomy.Trait{}}
	e := newEdge(t, func(o *Options) { o.Visitors = known })
	b := e.browser()
	b.yes()
	key := e.last(taxonomy.RecordEvent).Visitor
	b.switches("news/wine", true)
	known.off[key] = []taxonomy.Trait{"c:news/wine"}
	known.knows[key] = Known{Categories: []KnownCategory{{ID: "news/wine", Title: "Wine", Off: true}}}
	b.switches("news/wine", false) // and the fold has not seen it yet
	if page := b.do("GET", "/privacy", "").Body.String(); !strings.Contains(page, "Switch off: Wine") {
		t.Errorf("the page is behind: %s", page)
	}
	if r := b.switches("news/sport", true); !slices.Equal(r.Off, []string{"news/sport"}) {
		t.Errorf("what was switched on comes back: %+v", r)
	}
}

// A browser that lost the cookie, and not its ID, loses nothing by the next
// switch.
func TestASwitchKeepsWhatIsKnownToBeOff(t *testing.T) {
	known := remembers{knows{}, map[taxonomy.VisitorKey][]taxonomy.Trait{}}
	e := newEdge(t, func(o *Options) { o.Visitors = known })
	b := e.browser()
	b.yes()
	key := e.last(taxonomy.RecordEvent).Visitor
	known.off[key] = []taxonomy.Trait{"c:news/wine"}
	known.knows[key] = Known{}
	if r := b.switches("news/sport", true); !slices.Equal(r.Off, []string{"news/sport", "news/wine"}) {
		t.Errorf("%+v", r)
	}
	delete(b.cookies, CookieOff)
	w := b.do("GET", "/privacy/status", "")
	if !strings.Contains(w.Body.String(), `"off":[]`) {
		t.Errorf("the status reads more than this browser's cookies: %s", w.Body)
	}
	page := b.do("GET", "/privacy", "").Body.String()
	if !strings.Contains(page, "Switch on: news/wine") {
		t.Errorf("the page lacks what is off: %s", page)
	}
}

// The page has each category with its switch, as a plain form.
func TestThePageHasASwitchForEachCategory(t *testing.T) {
	known := remembers{knows{}, nil}
	e := newEdge(t, func(o *Options) { o.Visitors = known })
	b := e.browser()
	b.yes()
	day := e.clock.Now().Day()
	known.knows[e.last(taxonomy.RecordEvent).Visitor] = Known{Categories: []KnownCategory{
		{ID: "news/wine", Title: "Wine <red>", Of: "News", N: 3, Last: &day}, {ID: "news/sport", Title: "Sport", N: 1, Last: &day}}}
	page := b.do("GET", "/privacy", "").Body.String()
	for _, want := range []string{`aria-label="Switch off: Wine &lt;red&gt;"`, `name="category" value="news/sport"`, `name="off" value="1"`} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %s", want)
		}
	}
	form := func(v url.Values) *http.Response {
		return b.do("POST", "/privacy/category", v.Encode(), "Content-Type", "application/x-www-form-urlencoded", "Origin", own, "Referer", own+"/privacy").Result()
	}
	res := form(url.Values{"category": {"news/wine"}, "off": {"1"}})
	to := res.Header.Get("Location")
	if res.StatusCode != 303 || !strings.HasPrefix(to, "/privacy?receipt=ey") {
		t.Fatalf("%d %q", res.StatusCode, to)
	}
	page = b.do("GET", to, "").Body.String()
	if !strings.Contains(page, `aria-label="Switch on: Wine &lt;red&gt;"`) || !strings.Contains(page, "Your receipt") {
		t.Errorf("after the switch: %s", page)
	}
	// Nobody can put words into the page.
	for _, forged := range []string{"x", "a.b.c", strings.Replace(strings.TrimPrefix(to, "/privacy?receipt="), ".ey", ".eyx", 1)} {
		if page := b.do("GET", "/privacy?receipt="+forged, "").Body.String(); strings.Contains(page, "Your receipt") {
			t.Errorf("a forged receipt is shown: %s", forged)
		}
	}
}

func TestABadWishIsRefused(t *testing.T) {
	e := newEdge(t)
	b := e.browser()
	b.yes()
	for _, body := range []string{"", "{}", `{"category":"news"}`, `{"category":"news/"}`, `{"category":"News/Wine","off":true}`, `{"category":"a/b/c"}`,
		`{"category":"a/b~c/d"}`, `{"category":"a/b; Path=/"}`, `{"category":"` + strings.Repeat("a", 65) + `/b"}`, `[`} {
		if w := b.do("POST", "/privacy/category", body, "Origin", own, "Content-Type", "application/json"); w.Code != 422 || w.Header().Get("Set-Cookie") != "" {
			t.Errorf("%s: %d %s", body, w.Code, w.Body)
		}
	}
	for _, body := range []string{"category=a/b", "category=a/b&off=2", "category=a/b&off=1&off=0", "category=a/b&category=a/c&off=1", "%zz"} {
		if w := b.do("POST", "/privacy/category", body, "Origin", own, "Content-Type", "application/x-www-form-urlencoded"); w.Code != 422 {
			t.Errorf("%s: %d", body, w.Code)
		}
	}
	if w := b.do("POST", "/privacy/category", `{"category":"a/b","off":true}`, "Origin", "https://evil.example", "Content-Type", "application/json"); w.Code != 403 {
		t.Errorf("another site may switch: %d", w.Code)
	}
	for i := range maxOff {
		b.switches(fmt.Sprintf("t/%d", i), true)
	}
	if w := b.do("POST", "/privacy/category", `{"category":"t/more","off":true}`, "Origin", own, "Content-Type", "application/json"); w.Code != 422 || problem(t, w).Code != "too_many" {
		t.Errorf("one too many: %d %s", w.Code, w.Body)
	}
	for _, r := range e.records() {
		if r.Kind == taxonomy.RecordChoice && len(r.Off) > maxOff {
			t.Error("too many are in the log")
		}
	}
}

// A choice that the log does not take changes no cookie, so it can come again.
func TestAChoiceThatIsNotTakenChangesNothing(t *testing.T) {
	l := &appendLog{}
	e := newEdge(t, func(o *Options) { l.Log = o.Log; o.Log = l })
	b := e.browser()
	b.yes()
	l.err = retention.ErrFull
	if w := b.do("POST", "/privacy/category", `{"category":"a/b","off":true}`, "Origin", own, "Content-Type", "application/json"); w.Code != 503 || w.Header().Get("Set-Cookie") != "" {
		t.Errorf("%d %v", w.Code, w.Header())
	}
	l.err = nil
}

// The cookie can only take away, and only categories: whatever it holds.
func FuzzOffCookie(f *testing.F) {
	for _, s := range []string{"1.news/wine", "1.", "", "2.news/wine", "1.a/b~~c/d~a/b", "1.a/b~../../x", "1." + strings.Repeat("a/b~", 2000), "1.\x00/\xff"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		off := parseOff(s)
		if len(off) > maxOff || !slices.IsSorted(off) {
			t.Fatalf("%q: %v", s, off)
		}
		for _, c := range off {
			if got, ok := categoryTrait(strings.TrimPrefix(string(c), "c:")); !ok || got != c {
				t.Fatalf("%q holds %q", s, c)
			}
		}
		if again := parseOff(offValue(off)); !slices.Equal(again, off) {
			t.Fatalf("%v became %v", off, again)
		}
	})
}

// A receipt can be checked by anyone, against the published key, and says what
// was taken, for whom by hash only, and nothing else of the visitor.
func TestAReceiptCanBeCheckedByAnyone(t *testing.T) {
	e := newEdge(t)
	b := e.browser()
	b.yes()
	key, id := e.last(taxonomy.RecordEvent).Visitor, b.cookies[CookieID]
	var set ReceiptKeys
	w := e.browser().do("GET", "/.well-known/ebb-receipts.json", "")
	if err := json.Unmarshal(w.Body.Bytes(), &set); err != nil || !strings.HasPrefix(w.Header().Get("Cache-Control"), "public") {
		t.Fatalf("%v: %s", err, w.Body)
	}
	pub, err := set.Public()
	if err != nil {
		t.Fatal(err)
	}
	var got struct{ Receipt string }
	if err := json.Unmarshal(b.do("POST", "/v1/optout", "").Body.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	r, err := VerifyReceipt(pub, got.Receipt)
	of := e.o.Keys().Erasure(key)
	if err != nil || r.What != "optout" || !slices.Equal(r.Of, []string{hex.EncodeToString(of[:])}) || r.At != int64(e.clock.Now()/1000) || r.Durable != "local" {
		t.Errorf("%v %+v", err, r)
	}
	// By the standard's own words, without our code: signing input, signature.
	parts := strings.Split(got.Receipt, ".")
	sig, _ := b64.DecodeString(parts[2])
	if !ed25519.Verify(pub, []byte(parts[0]+"."+parts[1]), sig) {
		t.Error("the signature is not one of RFC 8037")
	}
	for _, part := range parts[:2] {
		raw, _ := b64.DecodeString(part)
		if strings.Contains(string(raw), id) || bytes.Contains(raw, key[:]) || strings.Contains(string(raw), hex.EncodeToString(key[:])) {
			t.Errorf("the receipt names the visitor: %s", raw)
		}
	}
	other, _, _ := ed25519.GenerateKey(seeded(3))
	if _, err := VerifyReceipt(other, got.Receipt); err == nil {
		t.Error("another installation's key takes it")
	}
	for i := range got.Receipt {
		bad := []byte(got.Receipt)
		if bad[i] = 'A'; got.Receipt[i] == 'A' {
			bad[i] = 'Q'
		}
		// The last letter of a signature carries bits that no byte has.
		if v, err := VerifyReceipt(pub, string(bad)); err == nil && i != len(bad)-1 {
			t.Fatalf("changed at %d, and taken: %+v", i, v)
		}
	}
	none := b64.EncodeToString([]byte(`{"alg":"none"}`))
	for _, forged := range []string{none + "." + parts[1] + ".", none + "." + parts[1] + "." + parts[2], parts[0] + "." + parts[1] + ".", "", ".", "..", strings.Repeat("a", 1<<20)} {
		if _, err := VerifyReceipt(pub, forged); err == nil {
			t.Errorf("taken: %.40s", forged)
		}
	}
}

func FuzzReceipt(f *testing.F) {
	pub, priv, _ := ed25519.GenerateKey(seeded(3))
	text := receiptHead(pub) + "." + b64.EncodeToString([]byte(`{"what":"optout","iat":1}`))
	f.Add(text + "." + b64.EncodeToString(ed25519.Sign(priv, []byte(text))))
	f.Add("a.b.c")
	f.Add(text + ".")
	f.Fuzz(func(t *testing.T, s string) {
		r, err := VerifyReceipt(pub, s)
		if err == nil && (r.What != "optout" || !strings.HasPrefix(strings.TrimSpace(s), text)) {
			t.Fatalf("forged: %q gives %+v", s, r)
		}
	})
}
