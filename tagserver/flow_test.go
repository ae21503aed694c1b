package tagserver

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// A page that is left closes its connection; its events count all the same.
func TestAClosedPageStillCounts(t *testing.T) {
	e := newEdge(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r := httptest.NewRequest("POST", "/v1/e", strings.NewReader(yesBody)).WithContext(ctx)
	r.Header.Set("Content-Type", "text/plain")
	w := newRecorder()
	e.sent["shop"]++
	e.Handler(Public).ServeHTTP(w, r)
	if w.Code != 200 || len(e.records()) != 1 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// P9: the store is waited for no longer than the limit says.
func TestTheStoreIsWaitedForSoLong(t *testing.T) {
	var asked time.Duration
	e := newEdge(t, func(o *Options) {
		o.Limits.Answer = 700 * time.Millisecond
		o.Timeout = func(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
			asked = d
			ctx, cancel := context.WithCancel(ctx)
			cancel() // the time is over
			return ctx, cancel
		}
	})
	w := e.browser().do("POST", "/v1/e", yesBody)
	if p := problem(t, w); w.Code != 503 || p.Code != "unavailable" || asked != 700*time.Millisecond {
		t.Errorf("%d %s after %v", w.Code, p.Code, asked)
	}
	if w := e.browser().do("GET", "/v1/n/shop?consent=1", ""); w.Code != 200 || w.Body.Len() != 43 {
		t.Errorf("pixel: %d", w.Code)
	}
}

// R12, with many at once, flushes between, and a real server: received is what
// was sent.
func TestTrafficAddsUp(t *testing.T) {
	e := newEdge(t, func(o *Options) { o.Shards, o.Groups, o.Limits.NewIDs = 16, 4, -1 })
	srv := httptest.NewServer(e.Handler(Public))
	defer srv.Close()
	bodies := []struct {
		body string
		site taxonomy.SiteID
		n    int
	}{
		{`{"site":"shop","consent":{"granted":true},"events":[{"id":"a"},{"id":"a"},{"id":"b"},{"kind":"?"}]}`, "shop", 4},
		{`{"site":"shop","events":[{},{}]}`, "shop", 2},
		{`{"site":"news","consent":{"granted":true},"events":[{}]}`, "news", 1},
		{`nonsense`, "", 1},
		{`{"site":"nowhere","events":[{}]}`, "", 1},
		{`{"site":"shop","consent":{"granted":true},"events":[{"name":"jane@example.com"}]}`, "shop", 1},
	}
	const workers, rounds = 6, 20
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			cookies := map[string]string{}
			for i := range rounds {
				c := bodies[i%len(bodies)]
				r, err := http.NewRequest("POST", srv.URL+"/v1/e", strings.NewReader(c.body))
				if err != nil {
					t.Error(err)
					return
				}
				r.Header.Set("Content-Type", "application/json")
				for k, v := range cookies {
					r.AddCookie(&http.Cookie{Name: k, Value: v})
				}
				res, err := srv.Client().Do(r)
				if err != nil {
					t.Error(err)
					return
				}
				for _, sc := range res.Cookies() {
					cookies[sc.Name] = sc.Value
				}
				res.Body.Close()
				if i%7 == 3 {
					if err := e.Flush(t.Context()); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	for i := range rounds {
		c := bodies[i%len(bodies)]
		e.sent[c.site] += workers * c.n
	}
	e.canaries = []string{"jane"}
	// Every record lies in the group of its visitor.
	for g := range taxonomy.Group(4) {
		frames, err := e.log.Follow(t.Context(), g, nil, 1<<30)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range frames {
			for _, r := range f.Records {
				if r.Kind == taxonomy.RecordEvent && taxonomy.GroupOf(r.Visitor.Shard(16), 4) != g {
					t.Error("a record in another group than its visitor's")
				}
			}
		}
	}
}

// The records of a batch stand in one frame, whole or not at all.
func TestABatchIsOneFrame(t *testing.T) {
	e := newEdge(t)
	b := e.browser()
	b.post("shop", 0, `{"site":"shop","consent":{"granted":true},"events":[]}`)
	b.post("shop", 100, `{"site":"shop","consent":{"granted":true},"events":[`+strings.TrimSuffix(strings.Repeat("{},", 100), ",")+`]}`)
	frames, err := e.log.Follow(t.Context(), 0, nil, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	if len(frames) != 2 || frames[1].N != 100 {
		t.Errorf("%d frames", len(frames))
	}
}

// What a request carried does not come back in another's record.
func TestMemoryIsNotSharedBetweenRequests(t *testing.T) {
	e := newEdge(t)
	for i := range 50 {
		props := ""
		if i%2 == 0 {
			props = fmt.Sprintf(`,"name":"n%d","ref":"https://r%d.example/","props":{"a":"%d","b":"x"}`, i, i, i)
		}
		e.browser().post("shop", 1, fmt.Sprintf(`{"site":"shop","consent":{"granted":true},"events":[{"url":"https://shop.example/%d"%s}]}`, i, props))
		ev := e.last(taxonomy.RecordEvent).Event
		if want := fmt.Sprintf("https://shop.example/%d", i); ev.URL != want || (len(ev.Props) == 2) != (i%2 == 0) || (ev.Name != "") != (i%2 == 0) || (ev.Ref != "") != (i%2 == 0) {
			t.Fatalf("request %d: %+v", i, ev)
		}
	}
}

var _ retention.Log = (*appendLog)(nil)

// P9: what is worked on at once is bounded, and the pixel answers all the same.
func TestOneRequestTooManyIsAnsweredAtOnce(t *testing.T) {
	inside, leave := make(chan struct{}), make(chan struct{})
	e := newEdge(t, func(o *Options) {
		o.Limits.InFlight = 2
		o.Timeout = func(ctx context.Context, _ time.Duration) (context.Context, context.CancelFunc) {
			inside <- struct{}{}
			<-leave
			return ctx, func() {}
		}
	})
	var wg sync.WaitGroup
	for range 2 {
		e.sent["shop"]++
		r := httptest.NewRequest("POST", "/v1/e", strings.NewReader(yesBody))
		r.Header.Set("Content-Type", "text/plain")
		wg.Go(func() {
			w := newRecorder()
			e.Handler(Public).ServeHTTP(w, r)
			if w.Code != 200 {
				t.Errorf("one of two: %d", w.Code)
			}
		})
		<-inside
	}
	if w := e.browser().do("POST", "/v1/e", yesBody); w.Code != 503 || problem(t, w).Code != "full" || w.Header().Get("Retry-After") != "1" {
		t.Errorf("the third: %d %s", w.Code, w.Body)
	}
	if w := e.browser().do("GET", "/v1/n/shop?consent=1", ""); w.Code != 200 || w.Body.Len() != 43 || w.Header().Get("X-Ebb-Reason") != "full" {
		t.Errorf("the third, a pixel: %d %v", w.Code, w.Header())
	}
	close(leave)
	wg.Wait()
	go func() { <-inside }()
	if w := e.browser().yes(); w.Code != 200 {
		t.Errorf("after them: %d", w.Code)
	}
}
