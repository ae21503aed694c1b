package tagserver

import (
	"net/netip"
	"strings"
	"sync"

	"golang.org/x/time/rate"

	"github.com/ebb-dmp/ebb/taxonomy"
)

// maxHops bounds how much of X-Forwarded-For is read.
const maxHops = 32

// clientAddr returns the address that a request came from: that of the peer,
// unless the peer is a trusted proxy; then the last address of X-Forwarded-For
// that is none. Nobody else's word is taken, so a spoofed header changes
// nothing. The address lives in memory for the request only (P4).
func clientAddr(peer string, forwarded []string, trusted []netip.Prefix) netip.Addr {
	a := parseAddr(peer)
	if len(trusted) == 0 || len(forwarded) == 0 || !isTrusted(a, trusted) {
		return a
	}
	hops := 0
	for i := len(forwarded) - 1; i >= 0; i-- {
		for line := forwarded[i]; line != ""; {
			at := strings.LastIndexByte(line, ',')
			hop := strings.TrimSpace(line[at+1:])
			line = line[:max(at, 0)]
			if hops++; hops > maxHops {
				return a
			}
			b := parseAddr(hop)
			if !b.IsValid() {
				return a
			}
			a = b
			if !isTrusted(a, trusted) {
				return a
			}
		}
	}
	return a
}

func parseAddr(s string) netip.Addr {
	a, err := netip.ParseAddr(s)
	if err != nil {
		p, err := netip.ParseAddrPort(s)
		if err != nil {
			return netip.Addr{}
		}
		a = p.Addr()
	}
	return a.Unmap().WithZone("")
}

func isTrusted(a netip.Addr, trusted []netip.Prefix) bool {
	for _, p := range trusted {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// addressClass is what new IDs are limited by: a household's or an office's
// worth of addresses, /24 or /48. All addresses that cannot be read are one
// class.
func addressClass(a netip.Addr) netip.Prefix {
	bits := 48
	if a.Is4() {
		bits = 24
	}
	p, _ := a.Prefix(bits)
	return p
}

// siteClass is what requests are limited by.
type siteClass struct {
	site  taxonomy.SiteID
	class netip.Prefix
}

// limiter bounds how often something happens for each of many keys: how many new
// IDs an address class gets, so that a script cannot fill the log with visitors;
// how many requests it makes of a site. It keeps keys in memory only, in two
// generations of at most max each: the older one is forgotten when the newer is
// full, which costs a key at most a full burst.
type limiter[K comparable] struct {
	rate  rate.Limit
	burst int
	max   int

	mu       sync.Mutex
	now, old map[K]*rate.Limiter
}

func newLimiter[K comparable](perSecond float64, burst, keys int) *limiter[K] {
	return &limiter[K]{rate: rate.Limit(perSecond), burst: burst, max: keys, now: make(map[K]*rate.Limiter)}
}

func (l *limiter[K]) allow(key K, now taxonomy.Millis) bool {
	if l.rate == rate.Inf {
		return true
	}
	l.mu.Lock()
	lim := l.now[key]
	if lim == nil {
		if lim = l.old[key]; lim == nil {
			lim = rate.NewLimiter(l.rate, l.burst)
		}
		if len(l.now) >= l.max {
			l.old, l.now = l.now, make(map[K]*rate.Limiter)
		}
		l.now[key] = lim
	}
	l.mu.Unlock()
	return lim.AllowN(now.Time(), 1)
}

// mayAsk reports whether a site takes one more request from an address now.
func (s *Server) mayAsk(site taxonomy.SiteID, h *head, now taxonomy.Millis) bool {
	return s.asks.rate == rate.Inf || s.asks.allow(siteClass{site, addressClass(s.addr(h))}, now)
}

const tooOften = "too many requests of this site from one network at once; send it again later, with the same ids"
