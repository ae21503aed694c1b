package tagserver

import (
	"fmt"
	"strings"
	"testing"

	"github.com/ebb-dmp/ebb/taxonomy"
)

// R34
func TestNewIDsAreLimitedByAddressClass(t *testing.T) {
	e := newEdge(t, func(o *Options) { o.Limits.NewIDs, o.Limits.NewIDBurst = 1, 3 })
	known := e.browser()
	known.yes()
	ask := func(peer string) int {
		b := e.browser()
		b.peer = peer
		return b.yes().Code
	}
	for i, c := range []struct {
		peer string
		want int
	}{
		{"198.51.100.1:1", 200}, {"198.51.100.2:1", 200}, // with the known one: three of the /24
		{"198.51.100.3:1", 429}, {canaryAddr + ":1", 429},
		{"198.51.101.1:1", 200}, // another /24
		{"[2001:db8:1:2::1]:1", 200}, {"[2001:db8:1:3::1]:1", 200}, {"[2001:db8:1:ffff::1]:1", 200},
		{"[2001:db8:1::9]:1", 429}, {"[2001:db8:2::9]:1", 200},
		{"[::ffff:198.51.100.9]:1", 429}, // the same /24, written as IPv6
	} {
		if got := ask(c.peer); got != c.want {
			t.Errorf("%d: new ID for %s: %d, want %d", i, c.peer, got, c.want)
		}
	}
	if w := known.yes(); w.Code != 200 {
		t.Errorf("a known visitor is limited: %d", w.Code)
	}
	w := e.browser().get("shop", "/v1/n/shop?consent=1")
	if got := w.Header().Get("X-Ebb-Reason"); got != "rate_limit" {
		t.Errorf("pixel: X-Ebb-Reason %q", got)
	}
	e.clock.Advance(taxonomy.Second)
	if got := ask("198.51.100.1:1"); got != 200 {
		t.Errorf("a second later: %d", got)
	}
	if e.metric("cookies_total", "state", cookieLimited) == 0 || e.metric("events_total", "reason", "rate_limit") == 0 {
		t.Error("limits are not counted")
	}
}

func TestTheLimiterForgetsWithinItsBound(t *testing.T) {
	l := newLimiter[netipAddr](1, 1, 100)
	for i := range 10_000 {
		l.allow(parseAddr(fmt.Sprintf("10.%d.%d.1", i/250, i%250)), 0)
		if n := len(l.now) + len(l.old); n > 200 {
			t.Fatalf("%d classes are kept, at most 200", n)
		}
	}
}

func TestTheClientsAddressComesFromTrustedProxiesOnly(t *testing.T) {
	trusted := mustPrefixes("10.0.0.0/8", "fd00::/8")
	for _, c := range []struct {
		peer      string
		forwarded []string
		want      string
	}{
		{"203.0.113.9:1", nil, "203.0.113.9"},
		{"203.0.113.9:1", []string{"1.2.3.4"}, "203.0.113.9"},
		{"10.0.0.1:1", []string{"1.2.3.4"}, "1.2.3.4"},
		{"10.0.0.1:1", []string{"6.6.6.6, 1.2.3.4"}, "1.2.3.4"},
		{"10.0.0.1:1", []string{"6.6.6.6, 1.2.3.4, 10.9.9.9"}, "1.2.3.4"},
		{"10.0.0.1:1", []string{"6.6.6.6", "1.2.3.4,10.9.9.9"}, "1.2.3.4"},
		{"10.0.0.1:1", []string{"::ffff:1.2.3.4"}, "1.2.3.4"},
		{"10.0.0.1:1", []string{"1.2.3.4:99"}, "1.2.3.4"},
		{"10.0.0.1:1", []string{"[2001:db8::1]:99"}, "2001:db8::1"},
		{"10.0.0.1:1", []string{"6.6.6.6, garbage"}, "10.0.0.1"},
		{"10.0.0.1:1", []string{"010.1.2.3"}, "10.0.0.1"},
		{"10.0.0.1:1", []string{""}, "10.0.0.1"},
		{"10.0.0.1:1", []string{strings.Repeat("10.1.1.1,", 1000) + "10.1.1.1"}, "10.1.1.1"},
		{"[fd00::1]:1", []string{"fe80::1%eth0"}, "fe80::1"},
		{"garbage", []string{"1.2.3.4"}, "invalid IP"},
	} {
		if got := clientAddr(c.peer, c.forwarded, trusted).String(); got != c.want {
			t.Errorf("peer %s, X-Forwarded-For %.40q: %s, want %s", c.peer, c.forwarded, got, c.want)
		}
	}
}
