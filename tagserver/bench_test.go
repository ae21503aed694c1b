package tagserver

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// countLog is a log that counts and keeps nothing: what is measured is the edge.
type countLog struct {
	retention.Log
	n int
}

func (l *countLog) Append(_ context.Context, _ taxonomy.Group, r []taxonomy.Record, ack retention.Ack) (taxonomy.Ref, retention.Ack, error) {
	l.n += len(r)
	return taxonomy.Ref{}, ack, nil
}

type discard struct{ h http.Header }

func (d *discard) Header() http.Header         { return d.h }
func (d *discard) Write(b []byte) (int, error) { return len(b), nil }
func (d *discard) WriteHeader(int)             {}

const browserAgent = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36"

func benchEdge(b *testing.B) (*Server, string, *countLog) {
	t := &testing.T{}
	e := newEdge(t, func(o *Options) { o.Log = &countLog{}; o.Limits.NewIDs = -1 })
	value, _ := e.cookie(1, e.clock.Now().Day())
	b.ReportAllocs()
	return e.Server, value, e.o.Log.(*countLog)
}

func benchHandler(b *testing.B, s *Server, l *countLog, req func() *http.Request) {
	h := s.Handler(Public)
	d := &discard{h: http.Header{}}
	b.ResetTimer()
	for b.Loop() {
		clear(d.h)
		h.ServeHTTP(d, req())
	}
	b.StopTimer()
	if l.n < b.N {
		b.Fatalf("%d records of %d requests", l.n, b.N)
	}
}

func BenchmarkPixel(b *testing.B) {
	for _, name := range []string{"cookie", "new"} {
		b.Run(name, func(b *testing.B) {
			s, cookie, l := benchEdge(b)
			r := httptest.NewRequest("GET", "/v1/n/shop?consent=1&u=https%3A%2F%2Fshop.example%2Fp%2Fshoes", nil)
			r.Header = http.Header{"Referer": {shop + "/"}, "User-Agent": {browserAgent}}
			if name == "cookie" {
				r.Header["Cookie"] = []string{CookieID + "=" + cookie}
			}
			benchHandler(b, s, l, func() *http.Request { return r })
		})
	}
}

// BenchmarkPixelCore is the part that a fast path shares: without echo.
func BenchmarkPixelCore(b *testing.B) {
	s, cookie, l := benchEdge(b)
	r := httptest.NewRequest("GET", "/v1/n/shop", nil)
	r.Header = http.Header{"Referer": {shop + "/"}, "User-Agent": {browserAgent}, "Cookie": {CookieID + "=" + cookie}}
	req := pixelRequest{site: "shop", query: "consent=1&u=https%3A%2F%2Fshop.example%2Fp%2Fshoes", head: headOf(r), page: pageOf(r.Header)}
	ctx := context.Background()
	b.ResetTimer()
	for b.Loop() {
		w := s.getWork()
		var a pixelAnswer
		s.pixel(ctx, &req, w, &a)
		s.putWork(w)
	}
	b.StopTimer()
	if l.n < b.N {
		b.Fatalf("%d records of %d requests", l.n, b.N)
	}
}

func BenchmarkCollect(b *testing.B) {
	for _, n := range []int{1, 10} {
		b.Run(fmt.Sprintf("events=%d", n), func(b *testing.B) {
			s, cookie, l := benchEdge(b)
			event := `{"id":"e%d0f1e2d3c4b5a69788796a5b4c3d2e1","t":1764063000000,"kind":"track","name":"add_to_cart","url":"https://shop.example/p/shoes?cat=red&x=1","ref":"https://search.example/","props":{"sku":"a-1","price":12.5}}`
			var events []string
			for i := range n {
				events = append(events, fmt.Sprintf(event, i))
			}
			body := `{"site":"shop","sent":1764063000000,"consent":{"granted":true},"events":[` + strings.Join(events, ",") + `]}`
			r := httptest.NewRequest("POST", "/v1/e", nil)
			r.Header = http.Header{"Origin": {shop}, "User-Agent": {browserAgent}, "Cookie": {CookieID + "=" + cookie}, "Content-Type": {"text/plain;charset=UTF-8"}}
			rd := strings.NewReader(body)
			b.SetBytes(int64(len(body)))
			benchHandler(b, s, l, func() *http.Request {
				rd.Reset(body)
				r.Body = io.NopCloser(rd)
				return r
			})
		})
	}
}

func BenchmarkFindPII(b *testing.B) {
	for name, s := range map[string]string{
		"clean":   "https://shop.example/p/shoes/red-running-shoes-for-women?cat=red&utm_source=newsletter&utm_medium=x",
		"digits":  "https://shop.example/p/12345/67890-red-running-shoes-2026-11-25?cat=4006381333931",
		"percent": "https://shop.example/p/r%C3%A4der/sch%C3%B6n?cat=a%20b%20c",
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if findPII(s) != "" {
					b.Fatal("not clean")
				}
			}
		})
	}
}

// BenchmarkFirewallShare prints what the firewall costs of a whole request, in
// percent: the same event cleaned alone, and taken by the handler.
func BenchmarkFirewallShare(b *testing.B) {
	const event = `{"id":"e00f1e2d3c4b5a69788796a5b4c3d2e1","t":1764063000000,"kind":"track","name":"add_to_cart","url":"https://shop.example/p/shoes?cat=red&x=1","ref":"https://search.example/","props":{"sku":"a-1","price":12.5,"list":"summer sale 2026","ean":"4006381333931"}}`
	body := `{"site":"shop","sent":1764063000000,"consent":{"granted":true},"events":[` + event + `]}`
	s, cookie, l := benchEdge(b)
	site, _ := s.o.Sites.Site("shop")
	var batch wireBatch
	if err := parseBatch(body, &batch); err != nil {
		b.Fatal(err)
	}
	values := []string{batch.Events[0].Name, batch.Events[0].URL, batch.Events[0].Ref}
	for _, p := range batch.Events[0].Props {
		values = append(values, p.Key, p.Value)
	}
	r := httptest.NewRequest("POST", "/v1/e", nil)
	r.Header = http.Header{"Origin": {shop}, "User-Agent": {browserAgent}, "Cookie": {CookieID + "=" + cookie}, "Content-Type": {"text/plain"}}
	rd := strings.NewReader(body)
	var firewall, clean, whole time.Duration
	var dst taxonomy.Event
	for b.Loop() {
		t0 := time.Now()
		for _, v := range values {
			if RefusesValue("k", v) {
				b.Fatal("not clean")
			}
		}
		t1 := time.Now()
		if f := cleanEvent(&dst, &batch.Events[0], &site, 1764063000000, batch.Sent); f != nil {
			b.Fatal(f.why)
		}
		t2 := time.Now()
		rd.Reset(body)
		r.Body = io.NopCloser(rd)
		s.Handler(Public).ServeHTTP(httptest.NewRecorder(), r)
		firewall, clean, whole = firewall+t1.Sub(t0), clean+t2.Sub(t1), whole+time.Since(t2)
	}
	if l.n < b.N {
		b.Fatalf("%d records of %d requests", l.n, b.N)
	}
	b.ReportMetric(100*float64(firewall)/float64(whole), "%detectors")
	b.ReportMetric(100*float64(clean)/float64(whole), "%clean")
	b.ReportMetric(float64(firewall.Nanoseconds())/float64(b.N), "detectors-ns/event")
}
