// Package cluster tests several nodes of Ebb in one process, on one real
// Cassandra: they share nothing else. See README.md.
package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ebb-dmp/ebb/cmd/ebb/app"
	"github.com/ebb-dmp/ebb/cmd/ebb/app/clustertest"
	"github.com/ebb-dmp/ebb/cmd/ebb/config"
	"github.com/ebb-dmp/ebb/retention/defs"
	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/keys"
	"github.com/ebb-dmp/ebb/taxonomy/rules"
)

var ctx = context.Background()

const (
	shop   = "https://shop.example"
	siteID = taxonomy.SiteID("shop")
	// soon bounds what must happen in the end; how fast it did is measured.
	soon = 60 * time.Second
)

// world is a cluster: a keyspace and the keys, which are the same on all nodes.
type world struct {
	t     *testing.T
	flags map[string]string
	ring  *keys.Ring
	fs    map[string]*vfs.MemFS // by node: what survives its process
	// frozen: a node whose clock and timers stand still.
}

func newWorld(t *testing.T, flags map[string]string) *world {
	t.Helper()
	w := &world{t: t, flags: clustertest.Keyspace(t), fs: map[string]*vfs.MemFS{}}
	maps.Copy(w.flags, map[string]string{
		"listen.public": "127.0.0.1:0", "listen.partner": "127.0.0.1:0", "listen.private": "127.0.0.1:0", "new_ids_per_minute": "10000000",
		"build.schedule": "@every 2s", "deliver.schedule": "@every 3s", "checkpoint.interval": "2s", "cassandra.lease": "3s", "export_floor": "1",
	})
	maps.Copy(w.flags, flags)
	ring, err := keys.Generate(app.System().Rand, taxonomy.DayOf(time.Now()))
	if err != nil {
		t.Fatal(err)
	}
	w.ring = ring
	return w
}

// node is one of its processes.
type node struct {
	*app.Server
	w      *world
	name   string
	logged *buffer
	frozen atomic.Bool
	once   sync.Once
}

type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *buffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *buffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (w *world) options(name string, flags map[string]string) (app.Options, *buffer) {
	w.t.Helper()
	all := maps.Clone(w.flags)
	maps.Copy(all, map[string]string{"node": name, "data": "data"})
	maps.Copy(all, flags)
	r, err := config.Load(config.Input{CheckSchedule: app.CheckSchedule, Flags: all})
	if err != nil {
		w.t.Fatal(err)
	}
	if w.fs[name] == nil {
		w.fs[name] = vfs.NewMem()
	}
	env := app.System()
	env.FS = w.fs[name]
	logged := &buffer{}
	return app.Options{Config: r.Config, Env: env, Keys: w.ring, Logger: slog.New(slog.NewTextHandler(logged, nil))}, logged
}

// init makes the installation, as `ebb init` does.
func (w *world) init() {
	w.t.Helper()
	o, _ := w.options("init", nil)
	o.Init = true
	a, key, err := app.Open(ctx, o)
	if err != nil {
		w.t.Fatal(err)
	}
	if key == "" {
		w.t.Error("init made no admin key")
	}
	if err := a.Close(ctx); err != nil {
		w.t.Fatal(err)
	}
}

// start starts a node that serves.
func (w *world) start(name string, flags map[string]string) *node {
	w.t.Helper()
	n := &node{w: w, name: name}
	o, logged := w.options(name, flags)
	n.logged = logged
	// A node that is frozen, as by a long pause of its host, does nothing until it
	// goes on: its timers do not fire. The cluster's clock runs on.
	after := o.Env.After
	o.Env.After = func(d time.Duration) <-chan time.Time {
		out := make(chan time.Time, 1)
		go func() {
			t := <-after(d)
			for n.frozen.Load() {
				t = <-time.After(10 * time.Millisecond)
			}
			out <- t
		}()
		return out
	}
	a, _, err := app.Open(ctx, o)
	if err != nil {
		w.t.Fatalf("open %s: %v", name, err)
	}
	w.t.Cleanup(n.stop)
	n.Server = &app.Server{App: a}
	s, err := a.Serve(ctx)
	if err != nil {
		w.t.Fatalf("serve %s: %v", name, err)
	}
	n.Server = s
	return n
}

// stop ends a node in order.
func (n *node) stop() {
	n.once.Do(func() {
		n.frozen.Store(false)
		c, cancel := context.WithTimeout(ctx, soon)
		defer cancel()
		if err := n.Close(c); err != nil {
			n.w.t.Errorf("close %s: %v", n.name, err)
		}
		if n.w.t.Failed() {
			n.w.t.Logf("%s said:\n%s", n.name, n.logged)
		}
	})
}

func (n *node) define(kind defs.Kind, id string, body any) {
	n.w.t.Helper()
	if err := n.Define(ctx, kind, id, body); err != nil {
		n.w.t.Fatal(err)
	}
}

// site defines a shop whose pages about wine make an audience for pages.
func (n *node) site() {
	n.w.t.Helper()
	n.define(defs.Source, "web", taxonomy.Source{ID: "web", Title: "The shop", Party: 1})
	n.define(defs.Site, string(siteID), taxonomy.Site{ID: siteID, Title: "The shop", Origins: []string{shop}, Source: "web", Consent: taxonomy.ModeOptIn})
	n.define(defs.Rule, "wine", rules.Rule{ID: "wine", When: []rules.Condition{{Field: "path", Op: "prefix", Value: "/wine"}}, Then: []string{"k:about=wine"}})
	n.define(defs.Rule, "tea", rules.Rule{ID: "tea", When: []rules.Condition{{Field: "path", Op: "prefix", Value: "/tea"}}, Then: []string{"k:about=tea"}})
	rule := func(id, text string) {
		n.define(defs.Audience, id, audience.Definition{ID: taxonomy.AudienceID(id), Title: id, Kind: audience.KindRule, Rule: json.RawMessage(text), Page: true})
	}
	rule("wine", `{"trait":"k:about=wine","window":"7d"}`)
	rule("wine-twice", `{"trait":"k:about=wine","window":"7d","min":2}`)
	rule("tea-only", `{"and":[{"trait":"k:about=tea"},{"not":{"trait":"k:about=wine"}}]}`)
}

// browser is a visitor: a jar of cookies.
type browser map[string]string

// send asks the public listener's handler of a node.
func (n *node) send(b browser, method, path, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, "http://edge.example"+path, strings.NewReader(body))
	r.RemoteAddr = "198.51.100.77:4711"
	r.Header.Set("User-Agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0")
	r.Header.Set("Origin", shop)
	if method == http.MethodPost {
		r.Header.Set("Content-Type", "text/plain;charset=UTF-8")
	}
	for name, v := range b {
		r.AddCookie(&http.Cookie{Name: name, Value: v})
	}
	rec := httptest.NewRecorder()
	n.Edge().Handler(tagserver.Public).ServeHTTP(rec, r)
	for _, c := range rec.Result().Cookies() {
		if c.MaxAge < 0 || c.MaxAge == 0 && c.Value == "" {
			delete(b, c.Name)
		} else {
			b[c.Name] = c.Value
		}
	}
	return rec
}

var eventNumber atomic.Int64

// visit records a page view of a visitor at a node and returns how durable it is
// said to be.
func (n *node) visit(b browser, path string) string {
	n.w.t.Helper()
	now := time.Now().UnixMilli()
	body := fmt.Sprintf(`{"site":%q,"sent":%d,"consent":{"granted":true},"events":[{"id":"e%d","t":%d,"kind":"page","url":"https://shop.example%s"}]}`,
		siteID, now, eventNumber.Add(1), now, path)
	rec := n.send(b, http.MethodPost, "/v1/e", body)
	var reply struct {
		Stored  int
		Refused []any
		Durable string
	}
	if err := json.Unmarshal(rec.Body.Bytes(), &reply); err != nil || rec.Code != http.StatusOK || reply.Stored != 1 {
		n.w.t.Fatalf("%s: an event was answered %d %s, %v", n.name, rec.Code, rec.Body, err)
	}
	return reply.Durable
}

// newBrowser is a visitor whose cookie has come back.
func (n *node) newBrowser() browser {
	n.w.t.Helper()
	b := browser{}
	n.visit(b, "/")
	n.visit(b, "/")
	return b
}

// seg asks a node for the audiences of a visitor.
func (n *node) seg(b browser) (slugs []string, stale bool) {
	n.w.t.Helper()
	rec := n.send(maps.Clone(b), http.MethodGet, "/v1/seg?site="+string(siteID)+"&consent=1", "")
	var ans struct {
		Audiences []struct{ Slug string }
		Stale     bool
	}
	if err := json.Unmarshal(rec.Body.Bytes(), &ans); err != nil || rec.Code != http.StatusOK {
		n.w.t.Fatalf("%s: /v1/seg was answered %d %s, %v", n.name, rec.Code, rec.Body, err)
	}
	for _, a := range ans.Audiences {
		slugs = append(slugs, a.Slug)
	}
	return slugs, ans.Stale
}

// until waits until something is so, and returns how long that took.
func (w *world) until(what string, is func() bool) time.Duration {
	w.t.Helper()
	begin := time.Now()
	for !is() {
		if time.Since(begin) > soon {
			w.t.Fatalf("after %s it is not so: %s", soon, what)
		}
		time.Sleep(10 * time.Millisecond)
	}
	return time.Since(begin)
}
