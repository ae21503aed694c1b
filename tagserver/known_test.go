package tagserver

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/ebb-dmp/ebb/taxonomy"
)

type knows map[taxonomy.VisitorKey]Known

func (k knows) Known(_ context.Context, v taxonomy.VisitorKey) (Known, error) {
	if n, ok := k[v]; ok {
		return n, nil
	}
	return Known{}, errors.New("unknown")
}

func (knows) Off(taxonomy.VisitorKey) []taxonomy.Trait { return nil }

func TestAVisitorSeesWhatIsKnownAndHasItErased(t *testing.T) {
	known := knows{}
	e := newEdge(t, func(o *Options) { o.Visitors = known })
	b := e.browser()
	state := func() (st status) {
		t.Helper()
		w := b.do("GET", "/privacy/status", "")
		if w.Code != 200 || json.Unmarshal(w.Body.Bytes(), &st) != nil {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
		return st
	}
	if st := state(); st.Cookie != "none" || st.OptedOut {
		t.Errorf("at first %+v", st)
	}
	if w := b.do("GET", "/privacy", ""); !strings.Contains(w.Body.String(), "Nothing.") {
		t.Errorf("page %s", w.Body)
	}
	b.yes()
	key := e.last(taxonomy.RecordEvent).Visitor
	known[key] = Known{Audiences: []string{"Wine <readers>"}, Events: []KnownPart{{Day: 20600, Site: "shop", What: "page", Page: "https://shop.example/wine", Till: 20689}}}
	if st := state(); st.Cookie != "valid" || st.Since == nil {
		t.Errorf("with a cookie %+v", st)
	}
	page := b.do("GET", "/privacy", "", "Sec-Fetch-Site", "cross-site").Body.String() // a link from anywhere
	for _, want := range []string{"Wine &lt;readers&gt;", "https://shop.example/wine", "Opt out", "Only erase"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	if w := b.do("GET", "/privacy/data", ""); w.Code != 200 || !strings.Contains(w.Body.String(), `"Wine \u003creaders\u003e"`) || !strings.HasPrefix(w.Header().Get("Content-Disposition"), "attachment") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	w := b.do("POST", "/privacy/erase", "", "Content-Type", "application/x-www-form-urlencoded", "Origin", "https://edge.example", "Referer", "https://edge.example/privacy")
	if w.Code != 303 || !strings.HasPrefix(w.Header().Get("Location"), "/privacy?receipt=ey") {
		t.Errorf("erase: %d %v %s", w.Code, w.Header(), w.Body)
	}
	if r := e.last(taxonomy.RecordErasure); r.Visitor != key {
		t.Error("no erasure of the visitor is in the log")
	}
	if st := state(); st.Cookie != "none" || st.OptedOut {
		t.Errorf("after the erasure %+v", st)
	}
	b.do("POST", "/v1/optout", "", "Content-Type", "application/x-www-form-urlencoded", "Origin", "https://edge.example")
	if st := state(); !st.OptedOut {
		t.Errorf("after the opt-out %+v", st)
	}
}

// Another site learns nothing, not even whether there is
// anything; a forged cookie is no proof.
func TestAnotherSiteLearnsNothingOfAVisitor(t *testing.T) {
	e := newEdge(t, func(o *Options) { o.Visitors = knows{} })
	b := e.browser()
	b.yes()
	for _, path := range []string{"/privacy/data", "/privacy/status"} {
		var first string
		for _, h := range [][]string{{"Origin", "https://evil.example"}, {"Origin", shop}, {"Origin", "null"}, {"Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Site", "same-site"}} {
			w, nobody := b.do("GET", path, "", h...), e.browser().do("GET", path, "", h...)
			if w.Code != 403 || w.Header().Get("Access-Control-Allow-Origin") != "" || w.Body.String() != nobody.Body.String() || first != "" && w.Body.String() != first {
				t.Errorf("%s with %v: %d %s", path, h, w.Code, w.Body)
			}
			first = w.Body.String()
		}
	}
	if w := b.do("POST", "/privacy/erase", "", "Origin", "https://evil.example"); w.Code != 403 {
		t.Errorf("another site may erase: %d", w.Code)
	}
	w := e.browser().do("GET", "/privacy/status", "", "Cookie", CookieID+"=1.x.forged")
	if !strings.Contains(w.Body.String(), `"cookie":"invalid"`) {
		t.Errorf("a forged cookie: %s", w.Body)
	}
}
