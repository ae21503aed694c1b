package realdata

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ebb-dmp/ebb/cmd/ebb/app"
	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// origin is that of the site's pages.
const origin = "https://www.msweb.example"

// site is the edge over real HTTP and the browsers that come to it.
type site struct {
	*world
	m        *msweb
	s        *app.Server
	client   *http.Client // one for all: connections are kept alive, cookies are the browsers' own
	base     *url.URL
	browsers sync.Map // visitor number → *browser

	requests, repeated, busy atomic.Int64
}

// browser is one visitor with the cookies that it was given.
type browser struct {
	visit
	jar *cookiejar.Jar
}

// perRequest is how much the clock moves with each request.
const perRequest = 5 * taxonomy.Millis(1)

func newSite(t *testing.T, m *msweb) *site {
	t.Helper()
	x := &site{world: newWorld(t, noon(today.Oldest())), m: m}
	x.defineMSWeb(m, true)
	var err error
	if x.s, err = x.Serve(ctx); err != nil {
		t.Fatal(err)
	}
	x.base = &url.URL{Scheme: "http", Host: x.s.Address(tagserver.Public)}
	transport := &http.Transport{MaxIdleConnsPerHost: workers}
	t.Cleanup(transport.CloseIdleConnections)
	x.client = &http.Client{Transport: transport}
	return x
}

// do sends a request of a browser and keeps what cookies come back. A node that
// is busy is asked again, as the tag does.
func (x *site) do(b *browser, method, path string, body, reply any) error {
	var sent []byte
	if body != nil {
		var err error
		if sent, err = json.Marshal(body); err != nil {
			return err
		}
	}
	// Browsers send Secure cookies to http://localhost; Go's jar wants https.
	home := &url.URL{Scheme: "https", Host: "localhost"}
	for range 20 {
		r, err := http.NewRequestWithContext(ctx, method, x.base.String()+path, bytes.NewReader(sent))
		if err != nil {
			return err
		}
		r.Header.Set("Origin", origin)
		r.Header.Set("Content-Type", "text/plain")
		r.Header.Set("User-Agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0")
		for _, c := range b.jar.Cookies(home) {
			r.AddCookie(c)
		}
		x.now.Add(int64(perRequest))
		x.requests.Add(1)
		res, err := x.client.Do(r)
		if err != nil {
			return err
		}
		got, err := io.ReadAll(res.Body)
		if err != nil {
			return err
		}
		if err := res.Body.Close(); err != nil {
			return err
		}
		if res.StatusCode == http.StatusServiceUnavailable {
			x.busy.Add(1)
			continue
		}
		if res.StatusCode != http.StatusOK {
			return fmt.Errorf("%s %s: %s: %s", method, path, res.Status, got)
		}
		b.jar.SetCookies(home, res.Cookies())
		return json.Unmarshal(got, reply)
	}
	return fmt.Errorf("%s %s: busy twenty times", method, path)
}

// The wire of /v1/e, as a page writes and reads it.
type (
	batch struct {
		Site    string          `json:"site"`
		Sent    int64           `json:"sent"`
		Consent map[string]bool `json:"consent"`
		Events  []page          `json:"events"`
	}
	page struct {
		ID   string `json:"id,omitempty"`
		T    int64  `json:"t"`
		Kind string `json:"kind"`
		URL  string `json:"url"`
	}
	taken struct {
		Stored    int               `json:"stored"`
		Duplicate int               `json:"duplicate"`
		Refused   []json.RawMessage `json:"refused"`
		Durable   string            `json:"durable"`
	}
)

func (x *site) post(b *browser, events []page) error {
	var got taken
	err := x.do(b, http.MethodPost, "/v1/e", batch{Site: "msweb", Sent: x.now.Load(), Consent: map[string]bool{"granted": true}, Events: events}, &got)
	if err == nil && (got.Stored != len(events) || len(got.Refused) != 0 || got.Durable != "local") {
		err = fmt.Errorf("%d events, answer %+v", len(events), got)
	}
	return err
}

// come is a visitor's day: its first page asks for consent and gets the cookie;
// then it looks at its pages, at once or one by one. Some browsers send again
// what was taken already.
func (x *site) come(v visit) error {
	jar, err := cookiejar.New(nil)
	if err != nil {
		return err
	}
	b := &browser{v, jar}
	if err := x.post(b, []page{}); err != nil {
		return err
	}
	var views []page
	for i, id := range v.areas {
		views = append(views, page{ID: strconv.FormatInt(int64(i), 36) + "-" + x.m.areas[id].id, T: x.now.Load() - int64(len(v.areas)-i)*1000, Kind: "page", URL: origin + x.m.areas[id].path})
	}
	if v.number%2 == 0 {
		err = x.post(b, views)
	} else {
		for i := range views {
			if err = x.post(b, views[i:i+1]); err != nil {
				break
			}
		}
	}
	if err == nil && v.number%50 == 0 {
		x.repeated.Add(int64(len(views)))
		err = x.post(b, views)
	}
	if err != nil {
		return fmt.Errorf("a visitor's day: %w", err)
	}
	x.browsers.Store(v.number, b)
	return nil
}

// workers is how many browsers are served at a time.
const workers = 8

// comeAll has the visitors of a day, several at a time, and learns their keys.
func (x *site) comeAll(visits []visit) {
	x.t.Helper()
	queue, errs := make(chan visit), make(chan error, workers)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			var err error
			for v := range queue {
				if err == nil {
					err = x.come(v)
				}
			}
			errs <- err
		})
	}
	for _, v := range visits {
		queue <- v
	}
	close(queue)
	wg.Wait()
	for range workers {
		if err := <-errs; err != nil {
			x.t.Fatal(err)
		}
	}
	for _, v := range visits {
		x.number[x.keyOf(v.number)] = v.number
	}
}

// keyOf derives a visitor's key from its cookie, as the edge does.
func (x *site) keyOf(number int) taxonomy.VisitorKey {
	x.t.Helper()
	ring := x.Keys.Load()
	for _, c := range x.browser(number).jar.Cookies(&url.URL{Scheme: "https", Host: "localhost"}) {
		if c.Name != tagserver.CookieID {
			continue
		}
		id, issued, ok := ring.VerifyCookie(c.Name, c.Value, taxonomy.Millis(x.now.Load()).Day())
		if !ok {
			break
		}
		k, err := ring.VisitorKey(taxonomy.SpaceCookie, id[:], issued)
		if err != nil {
			x.t.Fatal(err)
		}
		return k
	}
	x.t.Fatal("a visitor without a cookie that verifies")
	return taxonomy.VisitorKey{}
}

func (x *site) browser(number int) *browser {
	b, ok := x.browsers.Load(number)
	if !ok {
		x.t.Fatal("no such browser")
	}
	return b.(*browser)
}

// asks asks /v1/seg for some visitors, and compares with the audiences that the
// other engine has them in. Answers are stale if the day's generation is overdue.
func (x *site) asks(when string, numbers []int, want map[string]visitors, overdue bool) {
	x.t.Helper()
	for _, n := range numbers {
		var got struct {
			Audiences []struct{ ID string }
			Stale     bool
		}
		if err := x.do(x.browser(n), http.MethodGet, "/v1/seg?site=msweb&consent=1", nil, &got); err != nil {
			x.t.Fatal(err)
		}
		var ids []string
		for _, a := range got.Audiences {
			ids = append(ids, a.ID)
		}
		if in := containing(want, n); !slices.Equal(ids, in) || got.Stale != overdue {
			x.t.Errorf("%s: /v1/seg answers %v (stale: %v), DuckDB has the visitor in %v", when, ids, got.Stale, in)
		}
	}
}

// knock is somebody without a cookie who leaves again: it moves the fold's
// clock, and nothing else may come of it.
func (x *site) knock() {
	x.t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		x.t.Fatal(err)
	}
	if err := x.post(&browser{jar: jar}, []page{}); err != nil {
		x.t.Fatal(err)
	}
	if err := x.Fold(ctx); err != nil {
		x.t.Fatal(err)
	}
}

// Through the edge: visitors come over HTTP on the 90 days, on each of which all
// audiences equal those of DuckDB, visitor by visitor, as do the answers of
// /v1/seg, before the day's generation (R33) and after it. Then nobody comes any
// more, and all leave with their days. Everything that was sent is accounted for
// (P2), every view stored once.
func TestMSWebThroughTheEdgeEqualsDuckDB(t *testing.T) { throughTheEdge(t, few) }

// The same with everybody.
func TestLongMSWebThroughTheEdgeEqualsDuckDB(t *testing.T) {
	long(t)
	throughTheEdge(t, everybody)
}

func throughTheEdge(t *testing.T, keep keep) {
	m := readMSWeb(t, keep)
	x := newSite(t, m)
	visits := m.byDay()
	x.build()

	var serving time.Duration
	var sample []int
	for i, d := range theDays() {
		x.set(noon(d))
		start := time.Now()
		x.comeAll(visits[d])
		serving += time.Since(start)
		if err := x.Fold(ctx); err != nil {
			t.Fatal(err)
		}
		// Before the build whoever came today is in today's audiences, everybody
		// else in those of the last generation (R21, R33).
		want, came := m.asOf[d], []int{visits[d][0].number, visits[d][1].number}
		x.asks(d.String()+" before the build", came, want, i > 0)
		x.asks(d.String()+" before the build", sample[max(0, len(sample)-i%20):], m.asOf[d-1], i > 0)
		sample = append(sample, came...)
		x.sameAsOf(m, d, i%keep.asking == 0)
		x.asks(d.String(), sample[max(0, len(sample)-2-i%20):], want, false)
		x.balanced()
	}
	x.asks("at the end", sample, m.asOf[today], false)
	x.everyDay(m.cells, "web")
	x.telling(m.asOf[today], len(m.visits))

	for _, d := range later {
		x.set(noon(d))
		x.knock()
		x.sameAsOf(m, d, true)
		x.asks(d.String(), sample, m.asOf[d], false)
	}

	if err := x.s.Edge().Flush(ctx); err != nil {
		t.Fatal(err)
	}
	if err := x.Fold(ctx); err != nil {
		t.Fatal(err)
	}
	x.settled("msweb", m.views)
	a := x.balanced()["msweb"]
	if n := uint64(x.repeated.Load()); a.Duplicate < n || x.busy.Load() == 0 && a.Duplicate != n {
		t.Errorf("%d views were sent again, %d duplicates", n, a.Duplicate)
	}
	t.Logf("%d visitors, %d views, %d of them sent again, %d requests (%d answered 503 and repeated) in %.1f s, %.0f a second",
		len(m.visits), m.views, x.repeated.Load(), x.requests.Load(), x.busy.Load(), serving.Seconds(), float64(x.requests.Load())/serving.Seconds())
}
