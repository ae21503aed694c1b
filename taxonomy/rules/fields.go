package rules

import (
	"net/url"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/ebb-dmp/ebb/taxonomy"
)

// view is the scalar fields of an event, empty where there is none.
type view [scalars]string

func look(e *taxonomy.Event) (v view) {
	v[fieldHost], v[fieldPath] = splitURL(e.URL)
	v[fieldRef], _ = splitURL(e.Ref)
	v[fieldName] = e.Name
	v[fieldKind] = e.Kind.String()
	v[fieldURL] = e.URL
	return v
}

// splitURL returns the host, in lower case and without port, and the path of a
// URL that the edge has cleaned. url.Parse does more and allocates; what it
// would refuse gives some host and path here, which do no harm. A URL without
// scheme has no host; one that has a host has a path, "/" at least.
func splitURL(u string) (host, path string) {
	rest := u
	if i := strings.Index(u, "://"); i >= 0 {
		rest = u[i+3:]
		end := strings.IndexAny(rest, "/?#")
		if end < 0 {
			end = len(rest)
		}
		host, rest = rest[:end], rest[end:]
		if i := strings.LastIndexByte(host, '@'); i >= 0 {
			host = host[i+1:]
		}
		if strings.HasPrefix(host, "[") {
			host, _, _ = strings.Cut(host[1:], "]")
		} else if i := strings.LastIndexByte(host, ':'); i >= 0 {
			host = host[:i]
		}
		host = strings.ToLower(host) // does not allocate where it is lower already
	}
	if end := strings.IndexAny(rest, "?#"); end >= 0 {
		rest = rest[:end]
	}
	switch {
	case strings.HasPrefix(rest, "/"):
		return host, rest
	case host != "":
		return host, "/"
	}
	return host, ""
}

// domainSuffix reports whether host is s or a subdomain of it.
func domainSuffix(host, s string) bool {
	return strings.HasSuffix(host, s) && (len(host) == len(s) || host[len(host)-len(s)-1] == '.')
}

func (c *condition) isDomain() bool { return c.field == fieldHost || c.field == fieldRef }

// value returns the field's text, and whether the event has it.
func (c *condition) value(v *view, e *taxonomy.Event) (string, bool) {
	switch c.field {
	case fieldProp:
		return e.Prop(c.key)
	case fieldQuery:
		return queryValue(e.URL, c.key)
	}
	return v[c.field], v[c.field] != ""
}

// queryValue returns the first value of a key in a URL's query. It allocates
// only where something is percent-encoded.
func queryValue(u, key string) (string, bool) {
	u, _, _ = strings.Cut(u, "#")
	_, q, _ := strings.Cut(u, "?")
	for q != "" {
		var pair string
		pair, q, _ = strings.Cut(q, "&")
		k, v, _ := strings.Cut(pair, "=")
		if k, ok := unescape(k); ok && pair != "" && k == key {
			if v, ok := unescape(v); ok {
				return v, true
			}
		}
	}
	return "", false
}

func unescape(s string) (string, bool) {
	if !strings.ContainsAny(s, "%+") {
		return s, true
	}
	s, err := url.QueryUnescape(s)
	return s, err == nil
}

// hasWord reports whether w stands in s with no letter or digit at either side
// where w itself begins or ends with one.
func hasWord(s, w string) bool {
	part := func(r rune) bool { return unicode.IsLetter(r) || unicode.IsDigit(r) }
	first, _ := utf8.DecodeRuneInString(w)
	last, _ := utf8.DecodeLastRuneInString(w)
	for at := 0; at <= len(s)-len(w); {
		i := strings.Index(s[at:], w)
		if i < 0 {
			return false
		}
		i += at
		before, _ := utf8.DecodeLastRuneInString(s[:i])
		after, _ := utf8.DecodeRuneInString(s[i+len(w):])
		if !(part(first) && part(before)) && !(part(last) && part(after)) {
			return true
		}
		at = i + 1
	}
	return false
}

// holds asks the condition, without any index.
func (c *condition) holds(v *view, e *taxonomy.Event) bool { return c.asks(v, e) != c.not }

func (c *condition) asks(v *view, e *taxonomy.Event) bool {
	s, ok := c.value(v, e)
	if !ok {
		return false
	}
	switch c.op {
	case opExists:
		return true
	case opRange:
		f, ok := taxonomy.Number(s)
		return ok && c.min <= f && f <= c.max && !(c.above && f == c.min) && !(c.below && f == c.max)
	case opMatches:
		return c.pattern.MatchString(s)
	case opContains:
		for _, x := range c.values {
			if strings.Contains(s, x) {
				return true
			}
		}
	case opWords:
		for _, x := range c.values {
			if hasWord(s, x) {
				return true
			}
		}
	case opNe:
		return !c.sorted(s)
	case opEq:
		if len(c.values) > 16 {
			return c.sorted(s)
		}
		for _, x := range c.values {
			if s == x {
				return true
			}
		}
	case opPrefix:
		for _, x := range c.values {
			if strings.HasPrefix(s, x) {
				return true
			}
		}
	case opSuffix:
		for _, x := range c.values {
			if strings.HasSuffix(s, x) && (!c.isDomain() || domainSuffix(s, x)) {
				return true
			}
		}
	}
	return false
}

func (c *condition) sorted(s string) bool {
	lo, hi := 0, len(c.values)
	for lo < hi {
		if m := (lo + hi) / 2; c.values[m] < s {
			lo = m + 1
		} else {
			hi = m
		}
	}
	return lo < len(c.values) && c.values[lo] == s
}
