// Package consenttest tests what a visitor's consent leads to, from the browser to
// the segment file. See README.md.
package consenttest

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ebb-dmp/ebb/cmd/ebb/app"
	"github.com/ebb-dmp/ebb/cmd/ebb/app/apptest"
	"github.com/ebb-dmp/ebb/retention/defs"
	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/rules"
	"github.com/ebb-dmp/ebb/taxonomy/tree"
)

var ctx = context.Background()

// vendor is one of the vendor list that the operator supplies.
type vendor struct {
	ID       int    `json:"id"`
	Name     string `json:"name"`
	Purposes []int  `json:"purposes"`
	Interest []int  `json:"legIntPurposes"`
	Flexible []int  `json:"flexiblePurposes"`
	Deleted  string `json:"deletedDate,omitempty"`
}

// vendorList is such a list.
func vendorList(t testing.TB, vendors ...vendor) []byte {
	t.Helper()
	doc := map[string]any{"gvlSpecificationVersion": 3, "vendorListVersion": 150, "tcfPolicyVersion": 5, "lastUpdated": "2026-01-01T00:00:00Z"}
	byID := map[string]vendor{}
	for _, v := range vendors {
		byID[fmt.Sprint(v.ID)] = v
	}
	doc["vendors"] = byID
	b, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// ours is what Ebb declares; a DSP declares purposes 1 and 4.
func ours(id int) vendor { return vendor{ID: id, Name: "Ebb", Purposes: []int{1, 3, 4, 7, 9, 10}} }
func dsp(id int) vendor {
	return vendor{ID: id, Name: fmt.Sprintf("DSP %d", id), Purposes: []int{1, 4}}
}
func deletedDSP(id int) vendor   { v := dsp(id); v.Deleted = "2026-03-20T00:00:00Z"; return v }
func undeclared(id int) vendor   { v := dsp(id); v.Purposes = []int{1, 2}; return v }
func partnerKey(d string) string { return delivery.KeyPrefix + "consent-" + d }

// world is an App with its vendor list, behind its own listeners.
type world struct {
	*apptest.Place
	t      testing.TB
	offset atomic.Int64 // of the clock, ns
	still  time.Time    // if not zero, the clock stands here, plus offset
	server *app.Server
	key    string // the admin's
}

// file is one that the settings name.
type file struct {
	name string
	body []byte
}

// newWorld opens an App whose clock stands at a time, or goes on its own if that
// is zero.
func newWorld(t testing.TB, still time.Time, list []byte, flags map[string]string, files ...file) *world {
	t.Helper()
	w := &world{t: t, still: still}
	w.Place = apptest.New(t, w.now, map[string]string{"data": "data", "export_floor": "1"})
	maps.Copy(w.Settings, flags)
	// The eraser looks every ten seconds; here it hurries.
	w.Change = func(o *app.Options) {
		o.Env.After = func(d time.Duration) <-chan time.Time { return time.After(min(d, 50*time.Millisecond)) }
	}
	w.put("gvl.json", list)
	for _, f := range files {
		w.put(f.name, f.body)
	}
	w.open()
	t.Cleanup(w.stop)
	w.define(defs.Source, "web", taxonomy.Source{ID: "web", Title: "Our pages", Party: 1})
	w.define(defs.Taxonomy, "shop", tree.Taxonomy{ID: "shop", Title: "Shop", Categories: []tree.Category{{ID: "tea", Title: "Tea"}, {ID: "cake", Title: "Cake"}, {ID: "health", Title: "Health", Sensitive: true}}})
	w.define(defs.Rule, "bought", rules.Rule{ID: "bought", When: []rules.Condition{{Field: "name", Op: "exists"}}, Then: []string{"c:shop/{what}"}})
	w.define(defs.Audience, "tea", audience.Definition{ID: "tea", Title: "Tea", Kind: audience.KindRule, Rule: []byte(`{"trait":"c:shop/tea"}`), Page: true})
	return w
}

func (w *world) now() time.Time {
	if w.still.IsZero() {
		return app.System().Now().Add(time.Duration(w.offset.Load()))
	}
	return w.still.Add(time.Duration(w.offset.Load()))
}

func (w *world) later(d time.Duration) { w.offset.Add(int64(d)) }

func (w *world) put(name string, b []byte) {
	w.t.Helper()
	f, err := w.FS.Create(name, vfs.WriteCategoryUnspecified)
	if err == nil {
		if _, err = f.Write(b); err == nil {
			err = f.Sync()
		}
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) open() {
	w.t.Helper()
	a, key := w.Open(w.t)
	if key != "" {
		w.key = key
	}
	var err error
	if w.server, err = a.Serve(ctx); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) stop() {
	if w.server == nil {
		return
	}
	s := w.server
	w.server = nil
	if err := s.Close(ctx); err != nil {
		w.t.Error(err)
	}
}

// again starts the App again, with another vendor list if there is one.
func (w *world) again(list []byte) {
	w.t.Helper()
	w.stop()
	if list != nil {
		w.put("gvl.json", list)
	}
	w.open()
}

func (w *world) define(kind defs.Kind, id string, body any) {
	w.t.Helper()
	if err := w.server.Define(ctx, kind, id, body); err != nil {
		w.t.Fatal(err)
	}
}

// site defines a site whose pages are at origin.
func (w *world) site(s taxonomy.Site) {
	s.Title, s.Source = "Shop", "web"
	w.define(defs.Site, string(s.ID), s)
}

// destination defines one of a vendor, who gets the audiences; 0: of none.
func (w *world) destination(id string, gvl int, audiences ...taxonomy.AudienceID) {
	w.define(defs.Destination, id, delivery.Destination{ID: taxonomy.DestinationID(id), Title: id, GVLID: gvl, Audiences: audiences, Floor: 1, KeyHash: delivery.HashKey(partnerKey(id))})
}

// deliver builds and delivers to everyone.
func (w *world) deliver() {
	w.t.Helper()
	if _, err := w.server.Build(ctx); err != nil {
		w.t.Fatal(err)
	}
	if err := w.server.DeliverAll(ctx); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) ask(l tagserver.Listener, method, path, body string, header http.Header) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, "http://edge.example"+path, strings.NewReader(body))
	for k, v := range header {
		r.Header[k] = v
	}
	rec := httptest.NewRecorder()
	w.server.Edge().Handler(l).ServeHTTP(rec, r)
	return rec
}

// held is what a partner holds that applies the whole of its manifest: IDs by
// audience.
func (w *world) held(dest string) map[string][]string {
	w.t.Helper()
	for {
		if held, ok := w.apply(dest); ok {
			return held
		}
	}
}

// apply is one pass over the manifest. It is not ok if a file was withdrawn
// meanwhile (410): a partner then reads the manifest again.
func (w *world) apply(dest string) (held map[string][]string, ok bool) {
	w.t.Helper()
	auth := http.Header{"Authorization": {"Bearer " + partnerKey(dest)}}
	rec := w.ask(tagserver.Partner, "GET", delivery.FilesPath(taxonomy.DestinationID(dest)), "", auth)
	var m delivery.Manifest
	if err := json.Unmarshal(rec.Body.Bytes(), &m); rec.Code != http.StatusOK || err != nil {
		w.t.Fatalf("manifest of %s: %d %s", dest, rec.Code, rec.Body)
	}
	rows := map[[2]string]bool{}
	for _, f := range m.Files {
		rec := w.ask(tagserver.Partner, "GET", f.URL, "", auth)
		if rec.Code == http.StatusGone {
			return nil, false
		}
		z, err := gzip.NewReader(bytes.NewReader(rec.Body.Bytes()))
		if err != nil {
			w.t.Fatalf("file %s: %d %v", f.Name, rec.Code, err)
		}
		text, err := io.ReadAll(z)
		if err != nil {
			w.t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			c := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
			if len(c) != 4 {
				w.t.Fatalf("file %s: %q", f.Name, line)
			}
			if c[2] == "+" {
				rows[[2]string{c[1], c[0]}] = true
			} else {
				delete(rows, [2]string{c[1], c[0]})
			}
		}
	}
	out := map[string][]string{}
	for r := range rows {
		out[r[0]] = append(out[r[0]], r[1])
	}
	for _, ids := range out {
		slices.Sort(ids)
	}
	return out, true
}

// wants delivers until the destinations hold what they should. Who was erased is
// taken out once the eraser has passed, which comes every ten seconds; ninety are an
// end, not a bound.
func (w *world) wants(destinations, want string) {
	w.t.Helper()
	var got string
	for end := time.Now().Add(90 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		w.deliver()
		if got = w.counts("tea", strings.Fields(destinations)...); got == want {
			return
		}
		if time.Now().After(end) {
			w.t.Fatalf("held: %s; want %s", got, want)
		}
	}
}

// counts says how many visitors of an audience each destination holds.
func (w *world) counts(a string, destinations ...string) (out string) {
	for _, d := range destinations {
		out += fmt.Sprintf("%s %d ", d, len(w.held(d)[a]))
	}
	return strings.TrimSpace(out)
}

// visitor is a browser with its cookies.
type visitor struct {
	w       *world
	cookies map[string]string
	header  http.Header
}

const origin = "https://shop.example"

func (w *world) visitor() *visitor {
	return &visitor{w: w, cookies: map[string]string{}, header: http.Header{}}
}

func (v *visitor) do(method, path, body string) *httptest.ResponseRecorder {
	h := v.header.Clone()
	h.Set("User-Agent", "Mozilla/5.0 (X11; Linux x86_64) Firefox/140.0")
	if method == "POST" {
		h.Set("Origin", origin)
		h.Set("Content-Type", "text/plain;charset=UTF-8")
	} else {
		h.Set("Referer", origin+"/")
	}
	for k, c := range v.cookies {
		h.Add("Cookie", k+"="+c)
	}
	rec := v.w.ask(tagserver.Public, method, path, body, h)
	for _, c := range rec.Result().Cookies() {
		if c.MaxAge > 0 {
			v.cookies[c.Name] = c.Value
		} else {
			delete(v.cookies, c.Name)
		}
	}
	return rec
}

// buys posts that the visitor bought something, with consent as its body has it,
// and returns why it was refused, if it was.
func (v *visitor) buys(what, consent string) (reason string) {
	v.w.t.Helper()
	rec := v.do("POST", "/v1/e", fmt.Sprintf(`{"site":"shop","consent":%s,"events":[{"kind":"track","name":"buy","props":{"what":%q}}]}`, consent, what))
	if rec.Code != 200 {
		v.w.t.Fatalf("%d %s", rec.Code, rec.Body)
	}
	return code(rec)
}

// code is the stable code of X-Ebb-Reason.
func code(rec *httptest.ResponseRecorder) string {
	r := rec.Header().Get("X-Ebb-Reason")
	if _, after, ok := strings.Cut(r, "code="); ok {
		r, _, _ = strings.Cut(after, ";")
	}
	return r
}

// audiences asks what the page may know, once all is folded.
func (v *visitor) audiences(query string) string {
	v.w.t.Helper()
	if err := v.w.server.Fold(ctx); err != nil {
		v.w.t.Fatal(err)
	}
	rec := v.do("GET", "/v1/seg?site=shop&"+query, "")
	var r struct{ Audiences []struct{ ID string } }
	if err := json.Unmarshal(rec.Body.Bytes(), &r); err != nil {
		v.w.t.Fatalf("%d %s", rec.Code, rec.Body)
	}
	var ids []string
	for _, a := range r.Audiences {
		ids = append(ids, a.ID)
	}
	return strings.Join(ids, " ")
}

func long(t *testing.T) {
	t.Helper()
	if os.Getenv("EBB_LONG") == "" {
		t.Skip("long; set EBB_LONG=1")
	}
}
