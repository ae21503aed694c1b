package rules

import (
	"strconv"
	"strings"

	"github.com/ebb-dmp/ebb/taxonomy"
)

// view is the scalar fields of an event, empty where there is none.
type view [scalars]string

func look(e *taxonomy.Event) (v view) {
	v[fieldHost], v[fieldPath] = splitURL(e.URL)
	v[fieldRef], _ = splitURL(e.Ref)
	v[fieldName] = e.Name
	v[fieldKind] = e.Kind.String()
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

// number reads a decimal number: digits with an optional sign and one optional
// point. No exponent, so a value of bounded length is always in range, and
// nothing that is not a number costs an error.
func number(s string) (float64, bool) {
	if s == "" || len(s) > 40 {
		return 0, false
	}
	digits, point := 0, false
	for i := range len(s) {
		switch c := s[i]; {
		case c >= '0' && c <= '9':
			digits++
		case c == '.' && !point:
			point = true
		case (c == '-' || c == '+') && i == 0:
		default:
			return 0, false
		}
	}
	if digits == 0 {
		return 0, false
	}
	f, err := strconv.ParseFloat(s, 64)
	return f, err == nil
}

// domainSuffix reports whether host is s or a subdomain of it.
func domainSuffix(host, s string) bool {
	return strings.HasSuffix(host, s) && (len(host) == len(s) || host[len(host)-len(s)-1] == '.')
}

func (c *condition) isDomain() bool { return c.field == fieldHost || c.field == fieldRef }

// value returns the field's text, and whether the event has it.
func (c *condition) value(v *view, e *taxonomy.Event) (string, bool) {
	if c.field == fieldProp {
		return e.Prop(c.key)
	}
	return v[c.field], v[c.field] != ""
}

// holds asks the condition, without any index.
func (c *condition) holds(v *view, e *taxonomy.Event) bool {
	s, ok := c.value(v, e)
	if !ok {
		return false
	}
	switch c.op {
	case opExists:
		return true
	case opRange:
		f, ok := number(s)
		return ok && c.min <= f && f <= c.max
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
