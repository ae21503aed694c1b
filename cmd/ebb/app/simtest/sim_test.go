package simtest

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/ebb-dmp/ebb/cmd/ebb/app"
	"github.com/ebb-dmp/ebb/retention/defs"
	"github.com/ebb-dmp/ebb/retention/log/crashfs"
	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/onboard"
	"github.com/ebb-dmp/ebb/taxonomy/rules"
	"github.com/ebb-dmp/ebb/taxonomy/tree"
)

// sim is one run: a world, the model, and everyone who acts.
type sim struct {
	*world
	t        testing.TB
	rng      *rand.Rand
	m        *model
	browsers []*browser
	partners []*dsp
	files    []importFile
	names    []string // of audiences
	serial   int      // of event IDs
	newest   taxonomy.Millis
	fresh    map[*visitor]bool // erased since the eraser's last pass
	trace    []string
	crashes  int
	done     map[string]int    // steps by name
	moves    int               // how often the installation moves: the step's weight
	target   map[string]string // settings of where a move that did not end was going
	places   int               // how many data directories there were
	refused  int               // of them, how often one was not whole and did not open
	issues   map[taxonomy.VisitorKey]taxonomy.Day
}

// browser is a visitor's program: a jar, an answer to the consent question, and
// batches that it may send again.
type browser struct {
	n      int
	jar    jar
	yes    *bool // what the page says of consent; nil: nothing
	gpc    bool
	bot    bool
	skew   taxonomy.Millis // of its clock
	sent   []batch         // its last batches, for repeats
	forget bool            // keeps no cookies
}

type batch struct {
	site   taxonomy.SiteID
	events []sentEvent
}

type sentEvent struct {
	id   string
	t    taxonomy.Millis // by the true clock
	cat  string
	news bool
	bad  bool // malformed: the edge refuses it
}

type importFile struct {
	body string
	rows []importRow
}

type importRow struct {
	visitor string
	at      taxonomy.Millis
	cat     string
}

var siteSource = map[taxonomy.SiteID]taxonomy.SourceID{"shop": "own", "mag": "ally"}

func newSim(t testing.TB, seed uint64) *sim {
	s := &sim{t: t, rng: rand.New(rand.NewPCG(seed, seed)), m: newModel(), fresh: map[*visitor]bool{}, done: map[string]int{}, issues: map[taxonomy.VisitorKey]taxonomy.Day{}}
	flags := map[string]string{"compress": fmt.Sprint(seed%2 == 0)}
	if seed%3 == 0 {
		flags["log.segment_bytes"] = "1MiB"
	}
	s.world = newWorld(t, crashfs.New(), seed, flags)
	s.fail = s.fatalf
	s.newest = s.now()
	yes, no := true, false
	for n := range 7 {
		b := &browser{n: n, jar: jar{}, yes: &yes}
		switch n {
		case 4:
			b.yes = nil
		case 5:
			b.bot = true
		case 6:
			b.forget = true
		}
		b.skew = taxonomy.Millis(s.rng.IntN(7)-3) * 10 * taxonomy.Minute
		if s.rng.IntN(8) == 0 && n > 0 {
			b.yes = &no
		}
		s.browsers = append(s.browsers, b)
	}
	s.mustOpen()
	s.definitions()
	return s
}

func (s *sim) fatalf(format string, args ...any) {
	s.t.Helper()
	last := s.trace
	if len(last) > 60 {
		last = last[len(last)-60:]
	}
	for line := range strings.Lines(s.log.String()) {
		if strings.Contains(line, "level=ERROR") {
			last = append(last, "message: "+strings.TrimSpace(line))
		}
	}
	s.t.Fatalf("seed %d (EBB_SEED=%d repeats it), step %d, %s: %s\nlast steps:\n  %s", s.seed, s.seed, len(s.trace), s.now(), fmt.Sprintf(format, args...), strings.Join(last, "\n  "))
}

func (s *sim) note(format string, args ...any) {
	s.trace = append(s.trace, fmt.Sprintf("%s ", s.now())+fmt.Sprintf(format, args...))
}

// act does something to the App that may be done again. Sometimes the power
// fails while it is done, or just behind it; if nobody was told that it was
// done, it is done again, as whoever waits for an answer does; what must be done
// first then is again.
func (s *sim) act(what string, do func() error, again ...func()) {
	s.t.Helper()
	for try := 0; ; try++ {
		for _, first := range again {
			if try > 0 {
				first()
			}
		}
		before := s.power.Len()
		err := do()
		after := s.power.Len()
		if err != nil {
			s.fatalf("%s: %v", what, err)
		}
		if try == 3 || s.rng.IntN(14) > 0 {
			return
		}
		at := before + s.rng.IntN(after-before+1)
		if s.fails(at, what); at == after {
			return
		}
	}
}

// fails lets the power fail.
func (s *sim) fails(at int, during string) {
	keep, how := crashfs.Keep(crashfs.None), "nothing"
	switch s.rng.IntN(3) {
	case 0:
		keep, how = crashfs.All, "all"
	case 1:
		keep, how = crashfs.Some(s.rng.IntN), "some"
	}
	s.crashes++
	s.note("power fails during %q, %d before its end; %s of what was not synced is kept", during, s.power.Len()-at, how)
	s.crash(at, keep)
}

func (s *sim) definitions() { s.definitionsFor([]string{"a", "b", "c", "d", "e", "f"}) }

// definitionsFor defines the simulated installation with so many audiences; the
// first has a rule that is not random.
func (s *sim) definitionsFor(names []string) {
	all := []string{"store", "profile", "insight", "training", "export"}
	put := func(kind defs.Kind, id string, body any) { s.define(kind, id, body) }
	put(defs.Source, "own", taxonomy.Source{ID: "own", Title: "Own", Party: 1})
	put(defs.Source, "ally", taxonomy.Source{ID: "ally", Title: "Ally", Party: 2})
	put(defs.Source, "crm", taxonomy.Source{ID: "crm", Title: "CRM", Party: 1, Agreement: &taxonomy.Agreement{Uses: all, Destinations: []taxonomy.DestinationID{"one"}}})
	for site, src := range siteSource {
		put(defs.Site, string(site), taxonomy.Site{ID: site, Title: string(site), Origins: []string{shop}, Source: src, Consent: taxonomy.ModeOptIn})
	}
	tx := tree.Taxonomy{ID: "sim", Title: "Simulated"}
	for _, c := range categories {
		cat := tree.Category{ID: c, Title: c}
		if i := strings.LastIndexByte(c, '.'); i > 0 {
			cat.Parents = []string{c[:i]}
		}
		tx.Categories = append(tx.Categories, cat)
	}
	put(defs.Taxonomy, "sim", tx)
	put(defs.Rule, "cat", rules.Rule{ID: "cat", Then: []string{"c:sim/{cat}"}})
	s.definePathRule()
	for _, name := range names {
		s.names = append(s.names, name)
		if name == "a" {
			s.m.audiences[name] = &node{op: "trait", trait: "c:sim/sport", days: 30}
		} else {
			s.m.audiences[name] = randomRule(s.rng, 2)
		}
		s.defineAudience(name)
	}
	for i, id := range []taxonomy.DestinationID{"one", "two"} {
		s.partners = append(s.partners, newDSP(id))
		s.m.dests[id] = &destModel{audiences: slices.Clone(s.names[:min(5, len(s.names))]), floor: 1 + i}
		s.defineDestination(id)
	}
}

func (s *sim) definePathRule() {
	prefix := "/nowhere"
	if s.m.pathRule {
		prefix = "/news"
	}
	s.define(defs.Rule, "path", rules.Rule{ID: "path", When: []rules.Condition{{Field: "path", Op: "prefix", Value: prefix}}, Then: []string{"c:sim/news"}})
}

func (s *sim) defineAudience(name string) {
	s.define(defs.Audience, name, audience.Definition{ID: taxonomy.AudienceID(name), Title: name, Kind: audience.KindRule,
		Rule: json.RawMessage(s.m.audiences[name].json()), Page: true})
}

func (s *sim) defineDestination(id taxonomy.DestinationID) {
	d := s.m.dests[id]
	var list []taxonomy.AudienceID
	for _, a := range d.audiences {
		list = append(list, taxonomy.AudienceID(a))
	}
	i := slices.IndexFunc(s.partners, func(p *dsp) bool { return p.id == id })
	s.define(defs.Destination, string(id), delivery.Destination{ID: id, Title: string(id), Audiences: list, Floor: uint64(d.floor),
		KeyHash: delivery.HashKey(s.partners[i].key)})
}

func pick[T any](r *rand.Rand, of []T) T { return of[r.IntN(len(of))] }

// known returns the visitor whose cookie a jar holds, if it is valid now.
func (s *sim) known(j jar) *visitor {
	c, ok := j[tagserver.CookieID]
	if !ok || c.ends <= s.now() {
		return nil
	}
	return s.byCookie(c.value)
}

func (s *sim) byCookie(value string) *visitor {
	id, issued, ok := s.ring.Load().VerifyCookie(tagserver.CookieID, value, s.now().Day())
	if !ok {
		return nil
	}
	k, err := s.ring.Load().VisitorKey(taxonomy.SpaceCookie, id[:], issued)
	if err != nil {
		s.fatalf("derive a key: %v", err)
	}
	s.issues[k] = issued
	return s.m.visitor(k)
}

// says is the browser's answer to consent as a request carries it, and whether
// it allows anything.
func (b *browser) says(now taxonomy.Millis) (consent string, header []string, allowed, refused bool) {
	optedOut := b.jar[tagserver.CookieOptOut].ends > now
	if b.yes != nil {
		consent = fmt.Sprintf(`,"consent":{"granted":%t}`, *b.yes)
	}
	if b.gpc {
		header = append(header, "Sec-GPC", "1")
	}
	if b.bot {
		header = append(header, "User-Agent", "Examplebot/2.0")
	}
	refused = b.gpc || optedOut || b.yes != nil && !*b.yes
	return consent, header, b.yes != nil && *b.yes && !refused, refused
}

// post sends a batch and takes the answer for what it says, which the model must
// have foreseen.
func (s *sim) post(b *browser, x batch) {
	consent, header, allowed, refused := b.says(s.now())
	clock := s.now() + b.skew
	var events []string
	for _, e := range x.events {
		kind := `"track","name":"view"`
		if e.bad {
			kind = `"fact"`
		}
		url := shop + "/a"
		if e.news {
			url = shop + "/news/1"
		}
		events = append(events, fmt.Sprintf(`{"id":%q,"t":%d,"kind":%s,"url":%q,"props":{"cat":%q}}`, e.id, e.t+b.skew, kind, url, e.cat))
	}
	q := request{method: http.MethodPost, path: "/v1/e", header: header, cookies: b.jar.clone(),
		body: fmt.Sprintf(`{"site":%q,"sent":%d%s,"events":[%s]}`, x.site, clock, consent, strings.Join(events, ","))}
	var rec *httptest.ResponseRecorder
	s.note("browser %d posts %d events to %s (allowed %t, refused %t)", b.n, len(x.events), x.site, allowed, refused)
	s.act("post", func() error {
		s.m.tried[x.site] += uint64(len(x.events))
		rec = s.send(q)
		if rec.Code >= 500 {
			return fmt.Errorf("answer %d: %s", rec.Code, rec.Body)
		}
		return nil
	})
	sent := s.known(q.cookies)
	now := s.now()
	if s.m.withdrawn[siteSource[x.site]] {
		if rec.Code != http.StatusGone {
			s.fatalf("a site whose source is withdrawn answers %d %s", rec.Code, rec.Body)
		}
		return
	}
	if rec.Code != http.StatusOK {
		s.fatalf("post: %d %s", rec.Code, rec.Body)
	}
	reply := replyOf(s.t, rec)
	minted := setsID(rec)
	if !b.forget {
		b.jar.take(now, rec)
	}
	if refused && sent != nil {
		s.erase(sent)
	}
	if !allowed { // P3
		if reply.Stored != 0 || minted != "" {
			s.fatalf("P3: without consent the answer is %s, new ID %t", rec.Body, minted != "")
		}
		return
	}
	v, returning := sent, true
	switch {
	case sent != nil && !sent.erased:
		if minted != "" {
			next := s.byCookie(minted) // R27: from now on; this request is the old one's
			next.succeeds = sent
		}
	case sent != nil && minted == "":
		// The edge has not followed the erasure yet: what it took is dropped.
	case minted == "":
		s.fatalf("consent, and no cookie that holds: no ID was given: %s", rec.Body)
	default:
		v, returning = s.byCookie(minted), false
	}
	stored, dup, bad := 0, 0, 0
	inBatch := map[string]bool{}
	for _, e := range x.events {
		at := e.t
		switch {
		case e.bad, at < now-24*taxonomy.Hour:
			bad++
			continue
		case at > now+5*taxonomy.Minute:
			at = now
		}
		if inBatch[e.id] {
			dup++
			continue
		}
		inBatch[e.id] = true
		stored++
		s.m.add(v, event{site: x.site, source: siteSource[x.site], id: e.id, at: at, received: now, bot: b.bot, cat: e.cat, news: e.news})
	}
	if reply.Stored != stored || reply.Duplicate != dup || len(reply.Refused) != bad {
		s.fatalf("answer %s, want %d stored, %d duplicate, %d refused", rec.Body, stored, dup, bad)
	}
	s.m.received[x.site] += uint64(stored)
	s.m.came(v, now, returning, nil)
}

func (s *sim) erase(v *visitor) {
	for x := v; x != nil; x = x.succeeds {
		if !x.erased {
			s.fresh[x] = true
		}
	}
	s.m.erase(v)
}

// heartbeat is a post that a cookie's visitor makes, so that the log has a frame
// of this moment: here no timer makes ticks.
func (s *sim) heartbeat() {
	s.newest = max(s.newest, s.now())
	b := s.browsers[0]
	yes := true
	was := *b
	b.yes, b.gpc = &yes, false
	delete(b.jar, tagserver.CookieOptOut)
	// A writer without a frame holds the fold's clock: the frame must be of the
	// App that runs.
	for crashes := -1; crashes != s.crashes; {
		crashes = s.crashes
		s.post(b, batch{site: "shop"})
	}
	b.yes, b.gpc = was.yes, was.gpc
}

// The steps.

func (s *sim) stepEvents() {
	b := pick(s.rng, s.browsers)
	x := batch{site: pick(s.rng, []taxonomy.SiteID{"shop", "shop", "mag"})}
	for range 1 + s.rng.IntN(4) {
		s.serial++
		e := sentEvent{id: fmt.Sprintf("e%d", s.serial), t: s.now(), cat: pick(s.rng, categories), news: s.rng.IntN(3) == 0, bad: s.rng.IntN(15) == 0}
		switch s.rng.IntN(8) {
		case 0:
			e.t -= taxonomy.Millis(s.rng.IntN(23)) * taxonomy.Hour // late
		case 1:
			e.t -= 25 * taxonomy.Hour // too late
		case 2:
			ahead := s.rng.IntN(9)
			// What is more than 5 minutes ahead is put to its receipt (R20), so two
			// copies of it may differ. By which of them the day is, is free (R8): so
			// here they are of one day.
			if h := (s.now() - s.now().Day().Start()) / taxonomy.Hour; h < 1 || h > 22 {
				ahead = min(ahead, 4)
			}
			e.t += taxonomy.Millis(ahead) * taxonomy.Minute
		}
		x.events = append(x.events, e)
		if s.rng.IntN(12) == 0 {
			x.events = append(x.events, e) // twice in one batch
		}
	}
	s.post(b, x)
	if b.sent = append(b.sent, x); len(b.sent) > 4 {
		b.sent = b.sent[1:]
	}
}

// stepRepeat sends a batch again, as a browser does that heard no answer.
func (s *sim) stepRepeat() {
	b := pick(s.rng, s.browsers)
	if len(b.sent) > 0 {
		s.post(b, pick(s.rng, b.sent))
	}
}

// stepTab sends from a tab that has the cookies of before what follows.
func (s *sim) stepTab() {
	b := pick(s.rng, s.browsers[:4])
	v := s.known(b.jar)
	if v == nil || s.now()-v.at > 20*taxonomy.OneDay {
		return // not one that might get a new ID for its age
	}
	if _, issued, ok := s.ring.Load().VerifyCookie(tagserver.CookieID, b.jar[tagserver.CookieID].value, s.now().Day()); !ok || s.now().Day()-issued > 70 {
		return
	}
	tab := *b
	tab.jar = b.jar.clone()
	s.optOut(b)
	delete(tab.jar, tagserver.CookieOptOut)
	s.serial++
	yes := true
	tab.yes, tab.gpc, tab.sent = &yes, false, nil
	s.post(&tab, batch{site: "shop", events: []sentEvent{{id: fmt.Sprintf("e%d", s.serial), t: s.now(), cat: "sport"}}})
}

func (s *sim) stepPixel() {
	b := s.browsers[6] // without cookies: what the pixel takes may be lost until the next post
	s.note("pixel")
	s.m.tried["shop"]++
	rec := s.send(request{method: http.MethodGet, path: "/v1/n/shop?consent=1&kind=page&url=" + shop + "/a", cookies: b.jar})
	if rec.Code != http.StatusOK || rec.Body.Len() != 43 {
		s.fatalf("pixel: %d, %d bytes", rec.Code, rec.Body.Len())
	}
	if v := setsID(rec); v != "" {
		s.byCookie(v) // known to exist; it never comes back
	}
}

func (s *sim) optOut(b *browser) {
	v := s.known(b.jar)
	q := request{method: http.MethodPost, path: "/v1/optout", cookies: b.jar.clone()}
	var rec *httptest.ResponseRecorder
	s.note("browser %d opts out", b.n)
	s.act("opt out", func() error {
		if rec = s.send(q); rec.Code != http.StatusOK {
			return fmt.Errorf("answer %d: %s", rec.Code, rec.Body)
		}
		return nil
	})
	b.jar.take(s.now(), rec)
	if v != nil {
		s.erase(v)
	}
}

func (s *sim) stepChoice() {
	b := pick(s.rng, s.browsers[1:])
	yes, no := true, false
	switch s.rng.IntN(6) {
	case 0:
		s.optOut(b)
	case 1:
		b.yes = &no // the next batch withdraws
	case 2:
		b.gpc = !b.gpc
	case 3:
		b.yes = nil
	default:
		b.yes, b.gpc = &yes, false
		s.note("browser %d opts in", b.n)
		rec := s.send(request{method: http.MethodPost, path: "/v1/optin", cookies: b.jar.clone()})
		if rec.Code != http.StatusOK {
			s.fatalf("opt in: %d %s", rec.Code, rec.Body)
		}
		b.jar.take(s.now(), rec)
	}
}

// stepImport takes a file in, new or once more.
func (s *sim) stepImport() {
	var f importFile
	if len(s.files) > 0 && s.rng.IntN(2) == 0 {
		f = pick(s.rng, s.files)
	} else {
		var b strings.Builder
		b.WriteString("who,when,cat\n")
		for range 1 + s.rng.IntN(6) {
			r := importRow{visitor: fmt.Sprintf("c%d", s.rng.IntN(6)), cat: pick(s.rng, categories),
				at: (s.now().Day() - taxonomy.Day(s.rng.IntN(95))).Start() + taxonomy.Millis(s.rng.IntN(12))*taxonomy.Hour}
			if r.at > s.now() {
				r.at -= taxonomy.OneDay
			}
			f.rows = append(f.rows, r)
			fmt.Fprintf(&b, "%s,%s,%s\n", r.visitor, r.at.Time().Format("2006-01-02 15:04:05"), r.cat)
		}
		f.body = b.String()
		s.files = append(s.files, f)
	}
	mapping := onboard.Mapping{Visitor: "who", Space: "own:crm", Time: "when", Layout: "2006-01-02 15:04:05",
		Event: &onboard.EventMapping{Name: "bought", Props: []onboard.Column{{Column: "cat"}}}}
	s.note("import of %d rows", len(f.rows))
	var rec app.ImportReceipt
	site := taxonomy.ImportSite("crm")
	s.act("import", func() (err error) {
		s.m.tried[site] += uint64(len(f.rows))
		rec, err = s.server.Import(ctx, app.ImportRequest{Source: "crm", Mapping: mapping, File: strings.NewReader(f.body)})
		return err
	})
	now := s.now()
	again := s.m.imports[f.body]
	s.m.imports[f.body] = true
	for i, r := range f.rows {
		s.m.received[site]++
		if r.at.Day() < now.Day().Oldest() {
			continue // too old now
		}
		k, err := s.ring.Load().VisitorKey("own:crm", []byte(r.visitor), 0)
		if err != nil {
			s.fatalf("derive a key: %v", err)
		}
		v := s.m.visitor(k)
		if !again && !v.erased {
			v.events = append(v.events, &event{site: site, source: "crm", id: fmt.Sprintf("%s %d", rec.Import, i+1), at: r.at, received: now, cat: r.cat})
		}
		s.m.came(v, now, true, []taxonomy.DestinationID{"one"})
	}
}

func (s *sim) stepEraseImported() {
	id := fmt.Sprintf("c%d", s.rng.IntN(6))
	if !slices.Contains(s.ring.Load().Spaces(), "own:crm") {
		return
	}
	s.note("erasure of an imported visitor")
	s.act("erase", func() error { _, err := s.server.Erase(ctx, "own:crm", id); return err })
	k, err := s.ring.Load().VisitorKey("own:crm", []byte(id), 0)
	if err != nil {
		s.fatalf("derive a key: %v", err)
	}
	s.erase(s.m.visitor(k))
}

func (s *sim) stepFold() {
	s.note("fold")
	s.act("fold", func() error { return s.server.Fold(ctx) })
}

func (s *sim) stepEraser() {
	s.note("eraser's pass")
	s.act("erase soon", func() error { s.erasesSoon(); return nil })
	clear(s.fresh)
}

func (s *sim) stepDeliver() {
	s.note("deliver")
	if s.server.Generation() != nil {
		s.act("deliver", func() error { return s.server.DeliverAll(ctx) })
	}
}

func (s *sim) stepNightly() {
	s.note("nightly")
	s.heartbeat()
	s.act("nightly", func() error { return s.server.Nightly(ctx) }, s.heartbeat)
	clear(s.fresh)
	for _, p := range s.server.Audit(ctx).Places {
		// The queue needs four nights, and nights are missed here.
		if !p.OK && p.Name != "eraser's queue" {
			s.fatalf("P5: the audit after the nightly pass: %+v", p)
		}
	}
	if d, ok := s.server.View().(interface {
		OldestDay() (taxonomy.Day, bool)
	}).OldestDay(); ok && d < s.newest.Day().Oldest() {
		s.fatalf("P5: the index holds %s", d)
	}
}

// stepClock lets time pass, mostly forward.
func (s *sim) stepClock() {
	d := pick(s.rng, []taxonomy.Millis{taxonomy.Second, taxonomy.Minute, 10 * taxonomy.Minute, taxonomy.Hour, 5 * taxonomy.Hour, 23 * taxonomy.Hour,
		taxonomy.OneDay, 2 * taxonomy.OneDay, 8 * taxonomy.OneDay, 29 * taxonomy.OneDay, -taxonomy.Second, 0, 0})
	switch {
	case d == 0 && s.rng.IntN(3) > 0: // to the last second of the day, or the first of the next
		d = (s.now().Day() + 1).Start() - s.now() - taxonomy.Second + taxonomy.Millis(s.rng.IntN(2))*taxonomy.Second
	case d == 0 && s.newest-start < 200*taxonomy.OneDay:
		d = taxonomy.Millis(76+s.rng.IntN(15)) * taxonomy.OneDay
	}
	s.clock.Add(int64(d))
	s.newest = max(s.newest, s.now())
	s.note("the clock moved by %s", d.Time().Sub(taxonomy.Millis(0).Time()))
}

func (s *sim) stepDefine() {
	switch s.rng.IntN(5) {
	case 0, 1:
		name := pick(s.rng, s.names)
		s.m.audiences[name] = randomRule(s.rng, 2)
		s.note("audience %s is now %s", name, s.m.audiences[name].json())
		s.act("define", func() error { s.defineAudience(name); return nil })
	case 2:
		s.m.pathRule = !s.m.pathRule
		s.note("the path rule is on: %t", s.m.pathRule)
		s.act("define", func() error { s.definePathRule(); return nil })
	case 3:
		on := !s.m.withdrawn["ally"]
		s.note("source ally is withdrawn: %t", on)
		s.act("define", func() error {
			s.define(defs.Source, "ally", taxonomy.Source{ID: "ally", Title: "Ally", Party: 2, Withdrawn: on})
			return nil
		})
		s.m.withdrawn["ally"] = on
	case 4:
		id := pick(s.rng, s.partners).id
		d := s.m.dests[id]
		d.audiences = slices.DeleteFunc(slices.Clone(s.names), func(string) bool { return s.rng.IntN(4) == 0 })
		s.note("destination %s gets %v", id, d.audiences)
		s.act("define", func() error { s.defineDestination(id); return nil })
	}
}

func (s *sim) stepCrash() { s.fails(s.power.Len(), "rest") }

// build builds and compares every audience with the model (P7).
func (s *sim) build() {
	s.t.Helper()
	s.heartbeat()
	s.note("build")
	s.act("build", func() error { _, err := s.server.Build(ctx); return err }, s.heartbeat)
	s.compareAudiences()
}

func (s *sim) compareAudiences() {
	s.t.Helper()
	g := s.server.Generation()
	v := s.server.View()
	if v.Clock() < s.now() || v.Clock() > s.newest {
		s.fatalf("R7: the view's clock is %s, want %s to %s", v.Clock(), s.now(), s.newest)
	}
	today := v.Clock().Day()
	for _, name := range s.names {
		e, ok := g.Entry(taxonomy.AudienceID(name))
		if !ok || e.Fault != "" {
			s.fatalf("audience %s: %+v", name, e)
		}
		want := s.m.members(s.m.audiences[name], today)
		set, err := s.server.Members(ctx, e.ID)
		if err != nil {
			s.fatalf("members of %s: %v", name, err)
		}
		got := map[taxonomy.VisitorKey]bool{}
		for shard, b := range set {
			if b == nil {
				continue
			}
			for it := b.Iterator(); it.HasNext(); {
				k, ok := v.Key(shard, it.Next())
				if !ok {
					s.fatalf("P6: audience %s holds someone who is gone", name)
				}
				got[k] = true
			}
		}
		if uint64(len(want)) != e.Count || len(got) != len(want) {
			s.fatalf("P7: audience %s %s counts %d, its file has %d, the model %d%s", name, s.m.audiences[name].json(), e.Count, len(got), len(want), s.differ(got, want))
		}
		for k := range got {
			if want[k] == nil {
				s.fatalf("P7: audience %s %s%s", name, s.m.audiences[name].json(), s.differ(got, want))
			}
		}
	}
}

// differ describes the visitors in one set only.
func (s *sim) differ(got map[taxonomy.VisitorKey]bool, want map[taxonomy.VisitorKey]*visitor) string {
	var b strings.Builder
	for _, v := range s.m.order {
		if got[v.key] != (want[v.key] != nil) {
			fmt.Fprintf(&b, "\nvisitor (in the App's: %t, the model's: %t) adopted %s erased %t:", got[v.key], want[v.key] != nil, v.adopted, v.erased)
			for _, e := range v.events {
				fmt.Fprintf(&b, "\n  %s %s at %s received %s counts %t bot %t %v", e.site, e.id, e.at, e.received, e.counts, e.bot, s.m.classify(e))
			}
		}
	}
	for k := range got {
		if s.m.visitors[k] == nil {
			b.WriteString("\na visitor that the model does not know")
		}
	}
	return b.String()
}

// stepPublish builds, delivers, and lets every partner pull: its copy then is
// exactly ours (P6, P8), and every page is told what is true.
func (s *sim) stepPublish() {
	s.t.Helper()
	s.heartbeat()
	s.stepEraser()
	s.build()
	s.act("deliver", func() error { return s.server.DeliverAll(ctx) })
	today := s.server.View().Clock().Day()
	for _, p := range s.partners {
		if err := s.pull(p); err != nil {
			s.fatalf("partner %s pulls: %v", p.id, err)
		}
		if s.now() < s.newest {
			continue // a clock that went back: copies and deliveries have other days
		}
		want := s.m.held(p.id, today, func(k taxonomy.VisitorKey) string { return s.ring.Load().Pseudonym(p.id, 0, k) })
		if err := compareHeld(p.holds, want); err != nil {
			_, manifest := s.file(p, delivery.FilesPath(p.id))
			s.fatalf("partner %s: %v; it applied %s of generation %d; manifest %s", p.id, err, p.applied, p.at, manifest)
		}
	}
	for _, b := range s.browsers[:4] {
		s.comparePage(b, today)
	}
}

// comparePage asks /v1/seg for a browser that allows it.
func (s *sim) comparePage(b *browser, today taxonomy.Day) {
	if _, _, allowed, _ := b.says(s.now()); !allowed || s.m.withdrawn["own"] || s.now() < s.newest {
		return
	}
	rec := s.send(request{method: http.MethodGet, path: "/v1/seg?site=shop&consent=1", cookies: b.jar})
	var reply struct{ Audiences []struct{ ID string } }
	if err := json.Unmarshal(rec.Body.Bytes(), &reply); err != nil || rec.Code != http.StatusOK {
		s.fatalf("seg: %d %s", rec.Code, rec.Body)
	}
	var got, want []string
	for _, a := range reply.Audiences {
		got = append(got, a.ID)
	}
	if v := s.known(b.jar); v != nil && s.m.eligible(v, today) {
		for _, name := range s.names {
			if s.m.audiences[name].holds(s.m, v, today) {
				want = append(want, name)
			}
		}
	}
	if slices.Sort(got); !slices.Equal(got, want) {
		s.fatalf("P7: the page of browser %d is told %v, want %v", b.n, got, want)
	}
}

func (s *sim) stepPull() {
	p := pick(s.rng, s.partners)
	s.note("partner %s pulls", p.id)
	if err := s.pull(p); err != nil {
		s.fatalf("partner %s pulls: %v", p.id, err)
	}
	for r, ends := range p.holds {
		if ends > s.newest+30*taxonomy.OneDay {
			s.fatalf("R31: partner %s holds a member of %s for more than 30 days, to %s", p.id, r.audience, ends)
		}
	}
}

// check holds what must be true at every moment (P1, P2).
func (s *sim) check() {
	s.t.Helper()
	accounts, err := s.server.Accounts(ctx)
	if err != nil {
		s.fatalf("accounts: %v", err)
	}
	for site, a := range accounts {
		if !a.Balanced() {
			s.fatalf("P2: %s: %+v", site, a)
		}
	}
	pending := map[taxonomy.SiteID]uint64{}
	for _, c := range s.server.Edge().Counters() {
		pending[c.Site] += c.N
	}
	for site, n := range s.m.tried {
		a := accounts[site]
		if a.Received < s.m.received[site] {
			s.fatalf("P1: %s: %d events were acknowledged, the log received %d", site, s.m.received[site], a.Received)
		}
		if a.Received+pending[site] > n {
			s.fatalf("P2: %s: %d events were sent, %d are counted", site, n, a.Received+pending[site])
		}
	}
}

// checkStored compares what the fold counts as stored with the events that
// count by the model, once all is folded. What an erased visitor did may be
// among them or not (R8).
func (s *sim) checkStored() {
	accounts, err := s.server.Accounts(ctx)
	if err != nil {
		s.fatalf("accounts: %v", err)
	}
	least, most := map[taxonomy.SiteID]uint64{}, map[taxonomy.SiteID]uint64{}
	for _, v := range s.m.order {
		for _, e := range v.events {
			if e.counts && !v.erased {
				least[e.site]++
			}
			most[e.site]++
		}
	}
	for site, a := range accounts {
		if a.Stored < least[site] || a.Stored > most[site] {
			s.fatalf("P1: %s: %d events are stored, want %d, at most %d", site, a.Stored, least[site], most[site])
		}
	}
}

func (s *sim) run(steps int) {
	s.t.Helper()
	type step struct {
		name   string
		weight int
		do     func()
	}
	all := []step{
		{"events", 30, s.stepEvents}, {"repeat", 8, s.stepRepeat}, {"tab", 3, s.stepTab}, {"pixel", 3, s.stepPixel}, {"choice", 7, s.stepChoice},
		{"import", 4, s.stepImport}, {"erase imported", 1, s.stepEraseImported}, {"fold", 8, s.stepFold}, {"eraser", 3, s.stepEraser},
		{"build", 4, s.build}, {"deliver", 3, s.stepDeliver}, {"pull", 5, s.stepPull}, {"publish", 5, s.stepPublish}, {"nightly", 2, s.stepNightly},
		{"clock", 16, s.stepClock}, {"define", 4, s.stepDefine}, {"crash", 2, s.stepCrash}, {"move", s.moves, s.stepMove},
	}
	total := 0
	for _, x := range all {
		total += x.weight
	}
	for range steps {
		n := s.rng.IntN(total)
		for _, x := range all {
			if n -= x.weight; n < 0 {
				s.done[x.name]++
				x.do()
				break
			}
		}
		s.check()
	}
	s.finish()
}

// finish publishes once more, lets four nights pass, and looks into the stores.
func (s *sim) finish() {
	s.clock.Store(int64(s.newest))
	s.stepPublish()
	s.checkStored()
	for range 4 {
		s.clock.Add(int64(taxonomy.OneDay))
		s.newest = s.now()
		s.stepNightly()
		s.check()
	}
	if r := s.server.Audit(ctx); !r.OK {
		s.fatalf("P5: the audit after four nights: %+v", r)
	}
	s.stepPublish()
	s.checkStored()
	if err := s.stop(); err != nil {
		s.fatalf("stop: %v", err)
	}
	s.compareStores()
	if i := strings.Index(s.log.String(), "level=ERROR"); i >= 0 {
		line, _, _ := strings.Cut(s.log.String()[i:], "\n")
		s.fatalf("an error was logged: %s", line)
	}
}

func sortedNames(m map[string]int) (out []string) {
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, fmt.Sprintf("%s %d", k, m[k]))
	}
	return out
}
