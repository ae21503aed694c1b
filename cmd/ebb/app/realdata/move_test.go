package realdata

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/ebb-dmp/ebb/cmd/ebb/app"
	"github.com/ebb-dmp/ebb/cmd/ebb/app/clustertest"
	"github.com/ebb-dmp/ebb/retention/defs"
	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/keys"
	"github.com/ebb-dmp/ebb/taxonomy/onboard"
	"github.com/ebb-dmp/ebb/taxonomy/tree"
)

// travelled is a journey that may move, and browsers that visit it.
type travelled struct {
	*journey
	server *app.Server
	jars   []map[string]*http.Cookie
	houses int // data directories so far
}

// browse sends a request of a browser to the edge.
func (m *travelled) browse(n int, method, path, body string) *httptest.ResponseRecorder {
	m.t.Helper()
	r := httptest.NewRequest(method, "http://edge.example"+path, strings.NewReader(body))
	r.RemoteAddr = "198.51.100.77:4711"
	r.Header.Set("User-Agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0")
	r.Header.Set("Origin", "https://shop.example")
	r.Header.Set("Content-Type", "text/plain")
	for _, c := range m.jars[n] {
		r.AddCookie(&http.Cookie{Name: c.Name, Value: c.Value})
	}
	rec := httptest.NewRecorder()
	m.server.Edge().Handler(tagserver.Public).ServeHTTP(rec, r)
	for _, c := range rec.Result().Cookies() {
		m.jars[n][c.Name] = c
	}
	if rec.Code != http.StatusOK {
		m.t.Fatalf("%s %s: %d %s", method, path, rec.Code, rec.Body)
	}
	return rec
}

func (m *travelled) visit(n int, id, brand string) {
	m.t.Helper()
	now := m.now.Load()
	m.browse(n, http.MethodPost, "/v1/e", fmt.Sprintf(`{"site":"web","sent":%d,"consent":{"granted":true},"events":[{"id":%q,"t":%d,"kind":"track","name":"purchase","props":{"brand":%q}}]}`, now, id, now, brand))
}

func (m *travelled) told(n int) []string {
	m.t.Helper()
	var reply struct{ Audiences []struct{ Slug string } }
	if err := json.Unmarshal(m.browse(n, http.MethodGet, "/v1/seg?site=web&consent=1", "").Body.Bytes(), &reply); err != nil {
		m.t.Fatal(err)
	}
	var slugs []string
	for _, a := range reply.Audiences {
		slugs = append(slugs, a.Slug)
	}
	slices.Sort(slugs)
	return slugs
}

func (m *travelled) serve() {
	m.t.Helper()
	s, err := m.Serve(ctx)
	if err != nil {
		m.t.Fatal(err)
	}
	m.server = s
}

// moveTo stops the installation, moves it to where settings say, and serves it
// from there.
func (m *travelled) moveTo(settings map[string]string) {
	m.t.Helper()
	if err := m.Close(ctx); err != nil {
		m.t.Fatal(err)
	}
	from := m.Options(m.t)
	m.houses++
	m.Settings = maps.Clone(m.Settings)
	for k := range m.Settings {
		if strings.HasPrefix(k, "cassandra.") {
			delete(m.Settings, k)
		}
	}
	delete(m.Settings, "groups")
	m.Settings["store"], m.Settings["data"] = "embedded", fmt.Sprintf("house-%d", m.houses)
	maps.Copy(m.Settings, settings)
	to := m.Options(m.t)
	if to.Config.Cluster() { // as `ebb init` does
		a, _, err := app.Open(ctx, to)
		if err != nil {
			m.t.Fatal(err)
		}
		if err := a.Close(ctx); err != nil {
			m.t.Fatal(err)
		}
	}
	to.Init = false
	moved, err := app.Move(ctx, app.MoveOptions{From: from, To: to, Tell: func(step string) { m.t.Log(step) }})
	if err != nil {
		m.t.Fatal(err)
	}
	for _, c := range moved.Counts {
		m.t.Logf("%-28s %6d %6d", c.What, c.From, c.To)
	}
	if !moved.Same || len(moved.Audiences) < 21 || len(moved.Destinations) != 2 {
		m.t.Fatalf("what was moved is not what was there: %+v", moved)
	}
	if m.App, _, err = app.Open(ctx, to); err != nil {
		m.t.Fatal(err)
	}
	a := m.App
	m.t.Cleanup(func() {
		if err := a.Close(ctx); err != nil {
			m.t.Error(err)
		}
	})
	m.serve()
}

// left are the lines of all files that left for a destination, from wherever the
// installation was, sorted, without those of some households; a browser is called
// by its number.
func (m *travelled) left(id taxonomy.DestinationID, without ...int) (lines []string) {
	m.t.Helper()
	names := map[string]string{}
	for k, n := range m.number {
		if n >= 800_000 && n < 900_000 || slices.Contains(without, n) {
			names[m.Keys.Load().Pseudonym(id, 0, k)] = fmt.Sprint(n)
		}
	}
	return slices.Sorted(func(yield func(string) bool) {
		for _, l := range m.allLeft(string(id)) {
			who, rest, _ := strings.Cut(l, "\t")
			n, renamed := names[who]
			if renamed {
				l = n + "\t" + rest
			}
			if i, _ := strconv.Atoi(n); renamed && slices.Contains(without, i) {
				continue
			}
			if !yield(l) {
				return
			}
		}
	})
}

func (m *travelled) allLeft(id string) (lines []string) {
	m.t.Helper()
	names, err := m.FS.List("")
	if err != nil {
		m.t.Fatal(err)
	}
	for _, n := range names {
		if strings.HasSuffix(n, ".outgoing") {
			lines = append(lines, m.outgoingIn(m.FS.PathJoin(n, id))...)
		}
	}
	return lines
}

// know says which number a visitor has in this test.
func (m *travelled) know(n int, space taxonomy.Space, id []byte, issued taxonomy.Day) {
	m.t.Helper()
	k, err := m.Keys.Load().VisitorKey(space, id, issued)
	if err != nil {
		m.t.Fatal(err)
	}
	m.number[k] = n
}

// buy imports purchases of one brand by some households.
func (m *travelled) buy(brand string, households ...int) {
	m.t.Helper()
	rows := [][]string{{"who", "when", "brand"}}
	for _, h := range households {
		m.know(h, household, []byte(fmt.Sprint(h)), 0)
		rows = append(rows, []string{fmt.Sprint(h), taxonomy.Millis(m.now.Load()).Time().Format("2006-01-02 15:04:05"), brand})
	}
	rec := m.load("shop", onboard.Mapping{Visitor: "who", Space: household, Time: "when", Layout: "2006-01-02 15:04:05",
		Event: &onboard.EventMapping{Name: "purchase", Props: []onboard.Column{{Column: "brand"}}}}, untable(m.t, rows), nil)
	if int(rec.Stored) != len(households) {
		m.t.Errorf("%d of %d purchases were stored", rec.Stored, len(households))
	}
}

func newTravelled(t *testing.T, ring *keys.Ring) *travelled {
	t.Helper()
	uses := &taxonomy.Agreement{Uses: []string{"store", "profile", "insight", "training", "export"}}
	m := &travelled{}
	m.journey = newJourneyIn(t, newWorldIn(t, noon(today), ring, map[string]string{"export_floor": "1"}), func(j *journey, products tree.Taxonomy) {
		for _, id := range []taxonomy.SourceID{"shop", "outlet"} {
			j.define(defs.Source, string(id), taxonomy.Source{ID: id, Title: string(id), Party: 1, Agreement: uses})
		}
		j.defineRules(products)
	})
	m.define(defs.Source, "web", taxonomy.Source{ID: "web", Title: "Web", Party: 1})
	m.define(defs.Site, "web", taxonomy.Site{ID: "web", Title: "Web", Origins: []string{"https://shop.example"}, Source: "web", Consent: taxonomy.ModeOptIn})
	m.define(defs.Audience, "private", audience.Definition{ID: "private", Title: "Private brands", Kind: audience.KindRule, Rule: json.RawMessage(`{"trait":"k:brand=Private"}`), Page: true})
	m.define(defs.Audience, "like", audience.Definition{ID: "like", Title: "Like them", Kind: audience.KindLookalike, Lookalike: &audience.LookalikeSpec{Seed: "private", Size: 150}})
	ids := []taxonomy.AudienceID{"private"}
	for _, r := range m.rules[:8] {
		ids = append(ids, r.id)
	}
	m.define(defs.Destination, "pushed", delivery.Destination{ID: "pushed", Title: "Pushed", Audiences: ids, Floor: 1, KeyHash: delivery.HashKey("ebbp_x"), Transport: "dir", URL: "pushed"})
	m.define(defs.Destination, "pulled", delivery.Destination{ID: "pulled", Title: "Pulled", Audiences: ids, Floor: 1, KeyHash: delivery.HashKey("ebbp_y")})
	m.jars = []map[string]*http.Cookie{{}, {}}
	m.serve()
	for n := range m.jars {
		m.visit(n, "first", "National")
		m.visit(n, "again", []string{"National", "Private"}[n])
		id, issued, ok := ring.VerifyCookie(tagserver.CookieID, m.jars[n][tagserver.CookieID].Value, today)
		if !ok {
			t.Fatal("a cookie does not hold")
		}
		m.know(800_000+n, taxonomy.SpaceCookie, id[:], issued)
	}
	return m
}

// An installation that moves to Cassandra, into two shards of a group each, and
// back, gives the same as one that stays where it is: the same visitors in every
// audience, the same answers to pages, and over all of its deliveries the same
// lines, so no full that was not due, and no removal lost. Keys and clock are the
// same.
func TestCassandraTakesAnInstallationOverAndGivesItBack(t *testing.T) {
	cluster := clustertest.Keyspace(t)
	cluster["shards"], cluster["groups"], cluster["node"] = "2", "2", "mover"
	cluster["cassandra.lease"] = "2s" // how long a move waits for who was there a moment ago
	ring, err := keys.Generate(app.System().Rand, today)
	if err == nil {
		ring, err = ring.WithSpace(app.System().Rand, household)
	}
	if err != nil {
		t.Fatal(err)
	}
	stays, moves := newTravelled(t, ring), newTravelled(t, ring)
	both := func(do func(*travelled)) {
		do(stays)
		do(moves)
	}
	var rows, before int
	compare := func(when string, without ...int) {
		t.Helper()
		want, got := stays.build(), moves.build()
		for id, of := range want {
			if !slices.Equal(of, got[id]) {
				t.Errorf("%s, %s: %d visitors where it stayed, %d where it moved", when, id, len(of), len(got[id]))
			}
		}
		if w, g := stays.estimates(), moves.estimates(); !maps.Equal(w, g) {
			t.Errorf("%s: estimates differ: %v and %v", when, w, g)
		}
		both(func(m *travelled) {
			if err := m.DeliverAll(ctx); err != nil {
				t.Fatal(err)
			}
			m.balanced()
		})
		w, g := stays.left("pushed", without...), moves.left("pushed", without...)
		if !slices.Equal(w, g) {
			t.Errorf("%s: %d lines left where it stayed, %d where it moved", when, len(w), len(g))
		}
		before, rows = rows, len(g)
		for n := range stays.jars {
			if w, g := stays.told(n), moves.told(n); !slices.Equal(w, g) || len(w) == 0 && n == 1 {
				t.Errorf("%s: page %d is told %v where it stayed, %v where it moved", when, n, w, g)
			}
		}
	}
	compare("before")
	stays.telling(stays.build(), 2_039)
	full := rows

	// Somebody is erased, and the night that makes removals of it is to come; and
	// somebody comes newly into an audience, of whom no delivery has told yet.
	buyers := stays.build()["grocery-30"]
	both(func(m *travelled) {
		if _, err := m.Erase(ctx, household, fmt.Sprint(buyers[0])); err != nil {
			t.Fatal(err)
		}
		m.buy("Private", 900_001, 900_002)
	})
	moves.moveTo(cluster)
	// The removals of who was erased come with the eraser's next pass, on its own time.
	compare("in Cassandra", buyers[0])
	if n := rows - before; n == 0 || n > full/10 {
		t.Errorf("after a move %d rows left, a full has %d", n, full)
	}
	both(func(m *travelled) {
		m.visit(0, "third", "Private")
		m.buy("Private", 900_003)
	})
	if got := moves.told(0); !slices.Contains(got, "private") {
		t.Errorf("a page in Cassandra is told %v right after its event", got)
	}
	compare("some time later in Cassandra", buyers[0])

	// While a node runs nothing is moved.
	o := moves.Options(t)
	o.Init, o.Config.Data = false, "another-node"
	to := o
	to.Config.Store, to.Config.Data = "embedded", "nowhere"
	if _, err := app.Move(ctx, app.MoveOptions{From: o, To: to}); err == nil || !strings.Contains(err.Error(), "stop `ebb serve` on all of them") {
		t.Errorf("a cluster with a node at work was moved: %v", err)
	}
	// By the clock of this world that node has been silent for long.
	both(func(m *travelled) { m.set(taxonomy.Millis(m.now.Load()) + taxonomy.Minute) })

	moves.moveTo(map[string]string{"shards": "3"})
	compare("back", buyers[0])
	both(func(m *travelled) {
		m.visit(1, "fourth", "National")
		m.buy("Private", 900_001, 900_004)
		if err := m.Nightly(ctx); err != nil {
			t.Fatal(err)
		}
	})
	compare("after a night")
	for _, of := range moves.build() {
		if slices.Contains(of, buyers[0]) {
			t.Error("who was erased is in an audience")
		}
	}
}
