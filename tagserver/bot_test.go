package tagserver

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/ebb-dmp/ebb/retention/storetest"
	"github.com/ebb-dmp/ebb/taxonomy"
)

func layersOf(rs []taxonomy.Record) (out []taxonomy.Trait) {
	for _, r := range rs {
		if r.Kind != taxonomy.RecordEvent {
			continue
		}
		if r.Bot != (len(r.Event.Traits) == 1) {
			out = append(out, "inconsistent")
		}
		out = append(out, r.Event.Traits...)
	}
	return out
}

// The first layer says itself what it is, by whichever door it comes.
func TestACrawlersEventsNameItsLayer(t *testing.T) {
	e := newEdge(t)
	b := e.browser()
	b.header.Set("User-Agent", "Mozilla/5.0 (compatible; Googlebot/2.1)")
	b.yes()
	b.get("shop", "/v1/n/shop?consent=1&u=https://shop.example/x")
	if got := layersOf(e.records()); !slices.Equal(got, []taxonomy.Trait{botAgent, botAgent}) {
		t.Errorf("layers %v", got)
	}
	if n := e.metric("bot_events_total", "layer", "agent"); n != 2 {
		t.Errorf("%v events counted", n)
	}
}

// The second counts by the minute in which events happened: more than a person
// can do is flagged, what an offline browser kept and brings at once is not.
func TestMoreThanAPersonCanDoIsABots(t *testing.T) {
	e := newEdge(t, func(o *Options) { o.Limits.Cadence = 10 })
	batch := func(b *browser, n int, gap taxonomy.Millis) {
		var events []string
		for i := range n {
			events = append(events, fmt.Sprintf(`{"t":%d}`, int64(e.clock.Now()-taxonomy.Millis(n-i)*gap)))
		}
		b.post("shop", n, `{"site":"shop","consent":{"granted":true},"events":[`+strings.Join(events, ",")+`]}`)
	}
	fast, slow, offline := e.browser(), e.browser(), e.browser()
	for _, c := range []struct {
		who  string
		b    *browser
		n    int
		gap  taxonomy.Millis
		bots int
	}{
		{"ten in a minute", slow, 10, 100, 0},
		{"twelve in a minute", fast, 12, 100, 2},
		{"sixty over an hour, brought at once", offline, 60, taxonomy.Minute, 0},
	} {
		before := len(e.records())
		batch(c.b, c.n, c.gap)
		if got := layersOf(e.records()[before:]); len(got) != c.bots || c.bots > 0 && got[0] != botCadence {
			t.Errorf("%s: %v, want %d flagged by cadence", c.who, got, c.bots)
		}
	}
}

func TestCadenceForgetsWithinItsBound(t *testing.T) {
	c := newCadence(3, 50)
	for i := range 10_000 {
		c.over(taxonomy.VisitorKey{byte(i), byte(i >> 8)}, storetest.Start)
		if len(c.now) > 50 || len(c.old) > 50 {
			t.Fatalf("%d and %d entries", len(c.now), len(c.old))
		}
	}
}

// The third is bait that only programs take: in the page's address, in the
// props, and in the pixel's query. It is not kept, and what only looks like it
// is nobody's.
func TestWhoTakesTheBaitIsABot(t *testing.T) {
	for _, c := range []struct {
		url, props, pixel string
		bot               bool
	}{
		{url: "https://shop.example/a?ebb_trap=1", bot: true},
		{url: "https://shop.example/a?x=1&ebb_trap", bot: true},
		{url: "https://shop.example/a", props: `"ebb_trap":"1"`, bot: true},
		{pixel: "&ebb_trap=1", bot: true},
		{pixel: "&u=https%3A%2F%2Fshop.example%2F%3Febb_trap%3D1", bot: true},
		{url: "https://shop.example/ebb_trap"},
		{url: "https://shop.example/a?not_ebb_trap=1"},
		{url: "https://shop.example/a?x=ebb_trap"},
		{url: "https://shop.example/a#?ebb_trap=1"},
		{url: "https://shop.example/a?ebb_trapped=1", props: `"trap":"ebb_trap"`},
	} {
		e := newEdge(t, func(o *Options) {})
		shopSite := e.sites["shop"]
		shopSite.QueryKeys = append(shopSite.QueryKeys, Bait) // even if somebody lists it
		e.sites["shop"] = shopSite
		if c.pixel != "" {
			e.browser().get("shop", "/v1/n/shop?consent=1"+c.pixel)
		} else {
			e.browser().post("shop", 1, `{"site":"shop","consent":{"granted":true},"events":[{"url":"`+c.url+`","props":{`+c.props+`}}]}`)
		}
		r := e.last(taxonomy.RecordEvent)
		if r.Bot != c.bot {
			t.Errorf("%+v: bot %v", c, r.Bot)
		}
		if c.bot && strings.Contains(fmt.Sprintf("%s %v", r.Event.URL, r.Event.Props), Bait) {
			t.Errorf("%+v: the bait is kept: %s %v", c, r.Event.URL, r.Event.Props)
		}
	}
}
