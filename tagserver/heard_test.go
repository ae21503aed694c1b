package tagserver

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// What the log holds of consent signals adds up to what the requests carried, by
// day, site, signal and verdict, however the flushes fell and failed; of who
// opted out it holds only that, and of children nothing.
func TestWhatSignalsSaidInTheLogIsWhatRequestsCarried(t *testing.T) {
	log := &appendLog{}
	e := newEdge(t, func(o *Options) { log.Log, o.Log = o.Log, log })
	want := map[heardKey]uint64{}
	rapid.Check(t, func(rt *rapid.T) {
		switch rapid.IntRange(0, 9).Draw(rt, "between") {
		case 0:
			e.clock.Advance(taxonomy.Millis(rapid.Int64Range(0, int64(24*taxonomy.Hour)).Draw(rt, "later")))
		case 1, 2:
			log.err = rapid.SampledFrom([]error{nil, retention.ErrFull, errors.New("disk gone")}).Draw(rt, "fails")
			if err := e.Flush(context.Background()); err != nil && log.err == nil {
				rt.Fatalf("flush: %v", err)
			}
			log.err = nil
		}
		site := rapid.SampledFrom([]taxonomy.SiteID{"shop", "news"}).Draw(rt, "site")
		signals := map[taxonomy.Signal]taxonomy.Verdict{}
		b := e.browser()
		var query string
		if rapid.Bool().Draw(rt, "GPC") {
			b.header.Set("Sec-Gpc", "1")
			signals[taxonomy.SignalGPC] = taxonomy.SaysNo
		}
		if rapid.Bool().Draw(rt, "DNT") {
			b.header.Set("Dnt", "1")
			signals[taxonomy.SignalDNT] = taxonomy.SaysNo
		}
		if said := rapid.SampledFrom([]string{"", "1", "0"}).Draw(rt, "granted"); said != "" {
			query += "&consent=" + said
			signals[taxonomy.SignalExplicit] = map[string]taxonomy.Verdict{"1": taxonomy.SaysYes, "0": taxonomy.SaysNo}[said]
		}
		if rapid.Bool().Draw(rt, "US Privacy") {
			query += "&us_privacy=1YNN"
			signals[taxonomy.SignalUSP] = taxonomy.SaysUnreadable // nobody reads strings here
		}
		if len(signals) == 0 {
			signals[taxonomy.SignalNone] = taxonomy.SaysNothing
		}
		if rapid.IntRange(0, 4).Draw(rt, "opt-out") == 0 {
			b.cookies[CookieOptOut] = "1"
			signals = map[taxonomy.Signal]taxonomy.Verdict{taxonomy.SignalOptOut: taxonomy.SaysNo}
		}
		if rapid.IntRange(0, 4).Draw(rt, "child") == 0 {
			query += "&coppa=1"
			signals = nil
		}
		for s, v := range signals {
			want[heardKey{e.clock.Now().Day(), site, s, v}]++
		}
		b.origin = e.sites[site].Origins[0]
		if rapid.Bool().Draw(rt, "pixel") {
			b.get(site, "/v1/n/"+string(site)+"?"+strings.TrimPrefix(query, "&"))
		} else {
			b.do("GET", "/v1/seg?site="+string(site)+query, "")
		}
		got := maps.Clone(e.heard.pending)
		if got == nil {
			got = map[heardKey]uint64{}
		}
		for _, r := range e.records() {
			for _, h := range r.Heard {
				got[heardKey{h.Day, h.Site, h.Signal, h.Verdict}] += h.N
			}
		}
		if !maps.Equal(got, want) {
			rt.Fatalf("in the log and pending %v, sent %v", got, want)
		}
	})
	if err := e.Flush(context.Background()); err != nil || len(e.heard.pending) != 0 {
		t.Errorf("after the last flush %d wait: %v", len(e.heard.pending), err)
	}
}

// A record's list is bounded; what does not fit goes with the next.
func TestManySignalsTakeSeveralRecords(t *testing.T) {
	e := newEdge(t)
	e.heard.pending = map[heardKey]uint64{}
	for i := range 2*heardAtOnce + 1 {
		e.heard.pending[heardKey{day: 20000, site: taxonomy.SiteID(fmt.Sprint(i))}] = 1
	}
	if err := e.Flush(context.Background()); err != nil {
		t.Fatal(err)
	}
	var lists, n int
	for _, r := range e.records() {
		if len(r.Heard) > heardAtOnce {
			t.Errorf("a record has %d", len(r.Heard))
		}
		lists, n = lists+1, n+len(r.Heard)
	}
	if lists != 3 || n != 2*heardAtOnce+1 {
		t.Errorf("%d in %d records", n, lists)
	}
}
