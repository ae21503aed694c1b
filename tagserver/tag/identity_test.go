package tag

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/ebb-dmp/ebb/retention/storetest"
	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/keys"
)

// realEdge is the edge itself, over the model of the log, with a clock of the
// test's; it notes every cookie that it sets.
type realEdge struct {
	*httptest.Server
	t       *testing.T
	clock   *storetest.Clock
	log     *storetest.ModelLog
	origins []string
	mu      sync.Mutex
	set     []string // Set-Cookie lines, without their values
	asked   []string // paths with their queries
	sent    []string // Location lines
	ring    *keys.Ring
}

func (e *realEdge) Site(id taxonomy.SiteID) (taxonomy.Site, bool) {
	return taxonomy.Site{ID: "shop", Source: "web", Consent: taxonomy.ModeOptIn, Origins: e.origins}, id == "shop"
}
func (e *realEdge) HasOrigin(o string) bool {
	return strings.Contains(strings.Join(e.origins, " ")+" ", o+" ")
}
func (e *realEdge) Source(taxonomy.SourceID) (taxonomy.Source, bool) {
	return taxonomy.Source{ID: "web", Party: 1}, true
}
func (e *realEdge) Destination(taxonomy.DestinationID) (tagserver.Destination, bool) {
	return tagserver.Destination{}, false
}
func (e *realEdge) Erased(taxonomy.VisitorKey) bool { return false }
func (e *realEdge) Page(context.Context, taxonomy.VisitorKey, taxonomy.SiteID) (tagserver.PageAnswer, error) {
	return tagserver.PageAnswer{}, nil
}

func newRealEdge(t *testing.T, partitioned bool) *realEdge {
	t.Helper()
	return newRealEdgeWith(t, partitioned, nil, "")
}

func newRealEdgeWith(t *testing.T, partitioned bool, change func(*tagserver.Options), addr string) *realEdge {
	t.Helper()
	e := &realEdge{t: t, clock: storetest.NewClock(storetest.Start)}
	e.log = storetest.NewLog(1, e.clock.Now)
	ring, err := keys.Generate(rand.Reader, e.clock.Now().Day())
	if err != nil {
		t.Fatal(err)
	}
	e.ring = ring
	o := tagserver.Options{Now: e.clock.Now, Rand: rand.Reader, Log: e.log, Keys: func() *keys.Ring { return ring }, Shards: 1, Groups: 1,
		Sites: e, Sources: e, Destinations: e, Erased: e, Audiences: e, Partitioned: partitioned}
	if change != nil {
		change(&o)
	}
	s, err := tagserver.New(o)
	if err != nil {
		t.Fatal(err)
	}
	h := s.Handler(tagserver.Public)
	e.Server = listenAt(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.ServeHTTP(w, r)
		e.mu.Lock()
		defer e.mu.Unlock()
		e.asked = append(e.asked, r.URL.RequestURI())
		if l := w.Header().Get("Location"); l != "" {
			e.sent = append(e.sent, l)
		}
		for _, c := range w.Header()["Set-Cookie"] {
			name, rest, _ := strings.Cut(c, "=")
			_, attrs, _ := strings.Cut(rest, "; ")
			e.set = append(e.set, name+"; "+attrs)
		}
	}), addr)
	return e
}

func (e *realEdge) paths() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]string(nil), e.asked...)
}

func (e *realEdge) locations() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]string(nil), e.sent...)
}

// cookies returns the Set-Cookie lines since the last call.
func (e *realEdge) cookies() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	set := e.set
	e.set = nil
	return set
}

// records returns the records of a kind, in their order; of an event that came
// twice (a page that is left before it has heard the answer sends it again) the
// first, as every reader counts.
func (e *realEdge) records(kind taxonomy.RecordKind) (out []taxonomy.Record) {
	e.log.Sync()
	frames, err := e.log.Follow(context.Background(), 0, nil, 1<<30)
	if err != nil {
		e.t.Fatal(err)
	}
	seen := map[taxonomy.EventID]bool{}
	for i := range frames {
		for _, r := range frames[i].Records {
			if r.Kind != kind {
				continue
			}
			if r.Event != nil {
				if seen[r.Event.ID] {
					continue
				}
				seen[r.Event.ID] = true
			}
			out = append(out, r)
		}
	}
	return out
}

// visit opens a page that agrees, and returns the record of its page view.
func (e *realEdge) visit(b *tab, url string) taxonomy.Record {
	e.t.Helper()
	n := len(e.records(taxonomy.RecordEvent))
	b.open(url)
	var all []taxonomy.Record
	eventually(e.t, func() string {
		all = e.records(taxonomy.RecordEvent)
		return unless(len(all) == n+1, fmt.Sprintf("%s: %d page views came, want 1", url, len(all)-n))
	})
	b.js(`new Promise(function(r){setTimeout(r,100)})`) // the answer is heard as well
	return all[n]
}

// The same tag under three conditions of a browser: below the site's own domain,
// as a third party with the switch on, and with it off.
func TestLongWhoAVisitorIsInABrowser(t *testing.T) {
	browser := chromium(t)
	// Names below localhost are sites of their own, and reach this machine.
	at := func(s *site, host string) string { return strings.Replace(s.URL, "127.0.0.1", host, 1) }
	page := func(e *realEdge, host string) string {
		return `<!doctype html><script>` + stub + `;ebb('consent',true)</script><script async src="` + strings.Replace(e.URL, "127.0.0.1", host, 1) + `/t/1/ebb.js" data-site="shop"></script>`
	}

	t.Run("own domain, R27", func(t *testing.T) {
		e, s := newRealEdge(t, false), newSite(t)
		e.origins = []string{s.URL}
		s.put("/a", page(e, "127.0.0.1"))
		b := newTab(t, browser)
		first := e.visit(b, s.URL+"/a")
		if set := e.cookies(); first.Returning || len(set) != 1 || set[0] != "__Host-ebb; Path=/; Max-Age=7776000; Secure; HttpOnly; SameSite=Lax" {
			t.Fatalf("the first visit: returning %v, set %q", first.Returning, set)
		}
		// The next day it is known, and nothing is set again: not on every view.
		e.clock.Advance(taxonomy.OneDay)
		for range 3 {
			again := e.visit(b, s.URL+"/a")
			if set := e.cookies(); !again.Returning || again.Visitor != first.Visitor || len(set) != 0 {
				t.Errorf("the next day: returning %v, the same %v, set %q", again.Returning, again.Visitor == first.Visitor, set)
			}
		}
		// By the 90th day the ID has changed, once; the page view that brought it
		// about is still the old one's, and what follows the new one's.
		e.clock.Advance(88 * taxonomy.OneDay)
		last := e.visit(b, s.URL+"/a")
		if set := e.cookies(); last.Visitor != first.Visitor || len(set) != 1 {
			t.Errorf("on the 90th day: the same %v, set %q", last.Visitor == first.Visitor, set)
		}
		next := e.visit(b, s.URL+"/a")
		succession := e.records(taxonomy.RecordSucceeds)
		if set := e.cookies(); !next.Returning || next.Visitor == first.Visitor || len(set) != 0 ||
			len(succession) != 1 || succession[0].Visitor != next.Visitor || succession[0].Succeeds != first.Visitor {
			t.Errorf("afterwards: returning %v, set %q, successions %d", next.Returning, set, len(succession))
		}
		// No script can read any of it.
		b.want(`document.cookie`, `""`)
	})

	t.Run("third party, partitioned", func(t *testing.T) {
		e, s := newRealEdge(t, true), newSite(t)
		e.origins = []string{at(s, "one.localhost"), at(s, "two.localhost")}
		s.put("/a", page(e, "127.0.0.1"))
		b := newTab(t, browser)
		one := e.visit(b, at(s, "one.localhost")+"/a")
		if set := e.cookies(); len(set) != 1 || !strings.HasPrefix(set[0], "__Host-ebbp; ") || !strings.Contains(set[0], "SameSite=None; Partitioned") {
			t.Errorf("set %q", set)
		}
		back := e.visit(b, at(s, "one.localhost")+"/a")
		two := e.visit(b, at(s, "two.localhost")+"/a")
		backTwo := e.visit(b, at(s, "two.localhost")+"/a")
		if !back.Returning || back.Visitor != one.Visitor || two.Returning || !backTwo.Returning || backTwo.Visitor != two.Visitor || two.Visitor == one.Visitor {
			t.Errorf("on one site: back %v, the same %v; on another: new %v, back %v, a visitor of its own %v",
				back.Returning, back.Visitor == one.Visitor, !two.Returning, backTwo.Returning, two.Visitor != one.Visitor)
		}
	})

	t.Run("third party, switched off", func(t *testing.T) {
		e, s := newRealEdge(t, false), newSite(t)
		e.origins = []string{at(s, "one.localhost")}
		s.put("/a", page(e, "127.0.0.1"))
		b := newTab(t, browser)
		// The browser keeps nothing of a third party, so nobody comes back, and
		// nothing is counted (R11).
		if a, b := e.visit(b, at(s, "one.localhost")+"/a"), e.visit(b, at(s, "one.localhost")+"/a"); a.Returning || b.Returning || a.Visitor == b.Visitor {
			t.Errorf("returning %v and %v", a.Returning, b.Returning)
		}
	})
}
