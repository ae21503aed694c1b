package simtest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ebb-dmp/ebb/retention/defs"
	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/rules"
)

// edgeSim is an App that tests of the edge call as browsers do.
func edgeSim(t *testing.T, flags map[string]string) *sim {
	t.Helper()
	s := &sim{t: t, m: newModel(), world: newWorld(t, vfs.NewMem(), 1, flags)}
	s.mustOpen()
	t.Cleanup(func() { _ = s.stop() })
	s.definitionsFor([]string{"a"})
	return s
}

// visits posts n events with consent, of one category each, keeping cookies.
func (s *sim) visits(j jar, cat string, n int, header ...string) {
	s.t.Helper()
	for range n {
		rec := s.send(request{method: http.MethodPost, path: "/v1/e", cookies: j, header: header,
			body: fmt.Sprintf(`{"site":"shop","consent":{"granted":true},"events":[{"name":"seen","props":{"cat":%q}}]}`, cat)})
		if rec.Code != http.StatusOK || replyOf(s.t, rec).Stored != 1 {
			s.t.Fatalf("post: %d %s", rec.Code, rec.Body)
		}
		j.take(s.now(), rec)
		s.clock.Add(int64(taxonomy.Second))
	}
}

// settle folds, builds and delivers what is there.
func (s *sim) settle() {
	s.t.Helper()
	s.newestFrame()
	for _, do := range []func() error{
		func() error { return s.server.Fold(ctx) },
		func() error { _, err := s.server.Build(ctx); return err },
		func() error { return s.server.DeliverAll(ctx) },
	} {
		if err := do(); err != nil {
			s.t.Fatal(err)
		}
	}
}

// told is which audiences a page is told of a browser.
func (s *sim) told(j jar) string {
	s.t.Helper()
	if err := s.server.Fold(ctx); err != nil {
		s.t.Fatal(err)
	}
	rec := s.send(request{method: http.MethodGet, path: "/v1/seg?site=shop&consent=1", cookies: j})
	var reply struct{ Audiences []struct{ ID string } }
	if err := json.Unmarshal(rec.Body.Bytes(), &reply); err != nil || rec.Code != http.StatusOK {
		s.t.Fatalf("seg: %d %s", rec.Code, rec.Body)
	}
	var ids []string
	for _, a := range reply.Audiences {
		ids = append(ids, a.ID)
	}
	return strings.Join(ids, ",")
}

// privacy reads the visitor's own data.
func (s *sim) privacy(j jar) (k tagserver.Known) {
	s.t.Helper()
	rec := s.send(request{method: http.MethodGet, path: "/privacy/data", cookies: j, header: []string{"Referer", "http://edge.example/privacy"}})
	var body struct{ Known tagserver.Known }
	if err := json.Unmarshal(rec.Body.Bytes(), &body); err != nil || rec.Code != http.StatusOK {
		s.t.Fatalf("data: %d %s", rec.Code, rec.Body)
	}
	return body.Known
}

func (s *sim) flip(j jar, category string, off int) {
	s.t.Helper()
	rec := s.send(request{method: http.MethodPost, path: "/privacy/category", cookies: j, body: fmt.Sprintf("category=%s&off=%d", category, off),
		header: []string{"Origin", "http://edge.example", "Referer", "http://edge.example/privacy", "Content-Type", "application/x-www-form-urlencoded"}})
	if rec.Code != http.StatusSeeOther {
		s.t.Fatalf("switch: %d %s", rec.Code, rec.Body)
	}
	j.take(s.now(), rec)
}

// A category that a visitor switches off is gone from its pages at once, from
// what partners hold with the next delivery, and from its own page's groups; it
// stays off over a restart, a change of rules, the night's rewriting and a new
// ID; and the same way back.
func TestASwitchOffReachesPagesAndPartnersAndStays(t *testing.T) {
	s := edgeSim(t, nil)
	one, other := jar{}, jar{}
	s.visits(one, "sport", 3)
	s.visits(other, "sport", 2)
	s.settle()
	expect := func(when, told string, held int) {
		t.Helper()
		if got := s.told(one); got != told {
			t.Errorf("%s: the page is told %q, want %q", when, got, told)
		}
		if got := s.told(other); got != "a" {
			t.Errorf("%s: the other visitor's page is told %q", when, got)
		}
		s.settle()
		d := s.partners[0] // the other's floor is two visitors
		if err := s.pull(d); err != nil {
			t.Fatal(err)
		}
		if len(d.holds) != held {
			t.Errorf("%s: the partner holds %d, want %d", when, len(d.holds), held)
		}
		if got := s.told(one); got != told {
			t.Errorf("%s, and delivered: the page is told %q, want %q", when, got, told)
		}
		k := s.privacy(one)
		if (len(k.Audiences) > 0) != (told != "") || len(k.Events) == 0 {
			t.Errorf("%s: its own page has groups %v and %d events", when, k.Audiences, len(k.Events))
		}
		for _, c := range k.Categories {
			if c.ID == "sim/sport" && c.Off != (told == "") {
				t.Errorf("%s: its own page says %+v", when, c)
			}
		}
	}
	expect("at first", "a", 2)
	s.flip(one, "sim/sport", 1)
	expect("switched off", "", 1)
	s.visits(one, "sport", 2)
	expect("and visited again", "", 1)
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	s.mustOpen()
	expect("after a restart", "", 1)
	s.define(defs.Rule, "cat2", rules.Rule{ID: "cat2", When: []rules.Condition{{Field: "name", Op: "eq", Value: "seen"}}, Then: []string{"c:sim/sport"}})
	expect("after a change of rules", "", 1)
	if err := s.server.Nightly(ctx); err != nil {
		t.Fatal(err)
	}
	expect("after the night", "", 1)
	delete(one, tagserver.CookieID) // the browser loses the ID, and keeps the wish
	s.visits(one, "sport", 2)
	expect("under a new ID", "", 1)
	s.flip(one, "sim/sport", 0)
	// The ID before it stays off: nobody can be told that it was the same browser.
	expect("switched on", "a", 2)
	s.visits(one, "sport", 1)
	expect("and visited again", "a", 2)
}

// A site's waterfall, from seen to reached: bots of each layer, who never came
// back, who may not be profiled, who is held by a partner.
func TestTheWaterfallOfASite(t *testing.T) {
	s := edgeSim(t, nil)
	crawler := []string{"User-Agent", "ExampleBot/1.0"}
	var js []jar
	for range 5 {
		j := jar{}
		s.visits(j, "sport", 2)
		js = append(js, j)
	}
	s.visits(jar{}, "sport", 2, crawler...)
	once := jar{}
	s.visits(once, "sport", 1) // waits for its cookie to come back
	s.visits(jar{}, "sport", 1, crawler...)
	bait := jar{}
	for range 2 {
		rec := s.send(request{method: http.MethodGet, path: "/v1/n/shop?consent=1&ebb_trap=1", cookies: bait})
		bait.take(s.now(), rec)
	}
	// One visitor narrows what it allows to keeping.
	s.flip(js[0], "sim/sport", 1) // a switch is no lack of consent
	s.settle()
	w, err := s.server.Waterfall(ctx, "shop")
	if err != nil {
		t.Fatal(err)
	}
	// newestFrame's visitor of settle waits, too.
	want := tagserver.Waterfall{Source: "own", Seen: 5 + 1 + 1 + 1 + 1 + 1, NotBot: 5 + 1 + 1, Adopted: 5, Permitted: 5, Matched: 5}
	if w.Source != want.Source || w.Seen != want.Seen || w.NotBot != want.NotBot || w.Adopted != want.Adopted || w.Permitted != want.Permitted || w.Matched != want.Matched {
		t.Errorf("%+v, want %+v", w, want)
	}
	if got := fmt.Sprint(w.Layers); got != "[{agent 2} {cadence 0} {honeypot 1}]" {
		t.Errorf("layers %s", got)
	}
	s.clock.Add(int64(26 * taxonomy.Hour))
	s.settle()
	s.settle()
	if w, err = s.server.Waterfall(ctx, "shop"); err != nil || w.NeverReturned != 3 || w.NotBot > 5+2 {
		t.Errorf("a day later: %v %+v", err, w)
	}
	if _, err := s.server.Waterfall(ctx, "nowhere"); err == nil {
		t.Error("a site that does not exist has a waterfall")
	}
}

// geo.file through the whole App: the country decides, a newer file is taken
// without a restart, a broken one is not, and none means strict.
func TestTheCountryDecidesAndItsFileMayChange(t *testing.T) {
	good, err := os.ReadFile("../../../../tagserver/geo/testdata/GeoLite2-Country-Test.mmdb")
	if err != nil {
		t.Fatal(err)
	}
	fs := vfs.NewMem()
	write := func(b []byte) {
		t.Helper()
		f, err := fs.Create("countries.mmdb", "")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write(bytes.Clone(b)); err != nil { // which the file system may spoil
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	flags := map[string]string{"geo.file": "countries.mmdb", "trusted_proxies": "198.51.100.0/24"}
	s := &sim{t: t, m: newModel(), world: newWorld(t, fs, 1, flags)}
	write(good[:len(good)/2])
	if err := s.open(); err == nil || !strings.Contains(err.Error(), "geo.file") {
		t.Fatalf("a broken file at the start: %v", err)
	}
	write(good)
	s.mustOpen()
	t.Cleanup(func() { _ = s.stop() })
	s.definitionsFor([]string{"a"})
	s.define(defs.Site, "us", taxonomy.Site{ID: "us", Title: "US", Origins: []string{shop}, Source: "own", Consent: taxonomy.ModeByCountry})
	stored := func(addr string) int {
		rec := s.send(request{method: http.MethodPost, path: "/v1/e", header: []string{"X-Forwarded-For", addr}, body: `{"site":"us","events":[{"name":"x"}]}`})
		if rec.Code != http.StatusOK {
			t.Fatalf("%d %s", rec.Code, rec.Body)
		}
		return replyOf(t, rec).Stored
	}
	all := func(when string, us int) {
		t.Helper()
		for addr, want := range map[string]int{"216.160.83.56": us, "89.160.20.128": 0, "10.0.0.1": 0, "garbage": 0} {
			if got := stored(addr); got != want {
				t.Errorf("%s: %s: %d stored, want %d", when, addr, got, want)
			}
		}
	}
	all("with the file", 1)
	time.Sleep(2 * time.Millisecond) // the file system in memory tells versions apart by the time of the machine
	write(good[:100])
	s.timers.fire(time.Minute, 1)
	all("with a broken one", 1)
	if !strings.Contains(s.log.String(), "stays in force") {
		t.Error("nobody is told")
	}
	if _, err := s.server.Build(ctx); err != nil {
		t.Fatal(err)
	}
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	delete(s.flags, "geo.file")
	s.mustOpen()
	all("without a file", 0)
}
