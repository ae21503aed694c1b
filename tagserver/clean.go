package tagserver

import (
	"net/url"
	"slices"
	"strings"

	"github.com/ebb-dmp/ebb/taxonomy"
)

// The bounds of an event's time around its receipt (R20).
const (
	maxBack  = taxonomy.OneDay
	maxAhead = 5 * taxonomy.Minute
)

// fault says why an event is refused. It never holds the value that is at
// fault; sample has its shape.
type fault struct {
	reason taxonomy.Reason
	field  string
	why    string
	sample string
}

func malformed(field, why string) *fault {
	return &fault{reason: taxonomy.ReasonMalformed, field: field, why: field + ": " + why}
}

func personal(field string, class piiClass, value string) *fault {
	return &fault{
		reason: taxonomy.ReasonPII, field: field,
		why:    field + ": looks like it holds personal data (" + string(class) + "); send none, or a coarser value",
		sample: redact(value),
	}
}

// cleanEvent turns what was sent into an event of a site, or says why it cannot
// be one. What it returns holds no PII that the detectors know, no query key
// that the site does not list, and no more of the referrer than its origin.
// The event's ID is left to the caller, who has the key for it. dst.Props is
// used again.
func cleanEvent(dst *taxonomy.Event, e *wireEvent, site *taxonomy.Site, received taxonomy.Millis, sent int64) *fault {
	if e.Fault != "" {
		field, _, _ := strings.Cut(e.Fault, ":")
		return &fault{reason: taxonomy.ReasonMalformed, field: field, why: e.Fault}
	}
	t, ok := eventTime(received, sent, e.T)
	if !ok {
		return &fault{reason: taxonomy.ReasonTooOld, field: "t", why: "t: more than 24 hours before it was received; import older events instead"}
	}
	dst.Time = t
	if f := checkText("id", e.ID, maxEventID); f != nil {
		return f
	}
	if f := checkText("name", e.Name, maxName); f != nil {
		return f
	}
	if c := findHash(e.Name); c != "" {
		return personal("name", c, e.Name)
	}
	dst.Name = e.Name
	switch kind, ok := taxonomy.ParseEventKind(e.Kind); {
	case e.Kind == "" && e.Name == "":
		dst.Kind = taxonomy.EventPage
	case e.Kind == "":
		dst.Kind = taxonomy.EventTrack
	case !ok || kind == taxonomy.EventFact:
		// Facts are imported by authenticated callers only.
		return malformed("kind", "want page, track, impression, click or conversion")
	case kind == taxonomy.EventTrack && e.Name == "":
		return malformed("name", "a track event needs a name")
	default:
		dst.Kind = kind
	}
	var f *fault
	if dst.URL, f = cleanURL(e.URL, site.QueryKeys); f != nil {
		return f
	}
	if dst.Ref, f = cleanRef(e.Ref); f != nil {
		return f
	}
	dst.Props, f = cleanProps(dst.Props[:0], e.Props)
	return f
}

// eventTime is R20: receipt − (sent − t), so that the visitor's clock does not
// matter; more than 24 h back is refused, more than 5 minutes ahead becomes the
// receipt. Without sent the clock is taken to be right; without t the event
// happened when it was received.
func eventTime(received taxonomy.Millis, sent, t int64) (taxonomy.Millis, bool) {
	if t == 0 {
		return received, true
	}
	at := taxonomy.Millis(t)
	if sent != 0 {
		at = received - taxonomy.Millis(sent-t)
	}
	switch {
	case at < received-maxBack:
		return 0, false
	case at > received+maxAhead:
		return received, true
	}
	return at, true
}

func checkText(field, s string, limit int) *fault {
	if len(s) > limit {
		return malformed(field, "longer than "+itoa(limit)+" bytes")
	}
	for i := 0; i < len(s); i++ {
		if s[i] < ' ' || s[i] == 0x7f {
			return malformed(field, "holds a control character")
		}
	}
	if c := findPII(s); c != "" {
		return personal(field, c, s)
	}
	return nil
}

func cleanProps(dst []taxonomy.Prop, props []wireProp) ([]taxonomy.Prop, *fault) {
	if len(props) > maxProps {
		return dst, malformed("props", "more than "+itoa(maxProps))
	}
	for i := range props {
		p := &props[i]
		// A key may itself be what must not be seen, so the place is a number
		// until the key is known to be harmless.
		if p.Key == "" {
			return dst, malformed("props", "an empty key")
		}
		if f := checkText("props key "+itoa(i), p.Key, maxPropKey); f != nil {
			return dst, f
		}
		if c := findHash(p.Key); c != "" {
			return dst, personal("props key "+itoa(i), c, p.Key)
		}
		if p.Key == Bait {
			continue // said its part
		}
		field := "props." + p.Key
		if isPersonalField(p.Key) {
			return dst, personal(field, piiField, p.Value)
		}
		if f := checkText(field, p.Value, maxPropValue); f != nil {
			return dst, f
		}
		if c := findHash(p.Value); c != "" {
			return dst, personal(field, c, p.Value)
		}
		dst = append(dst, taxonomy.Prop{Key: p.Key, Value: p.Value})
	}
	slices.SortStableFunc(dst, func(a, b taxonomy.Prop) int { return strings.Compare(a.Key, b.Key) })
	for i := 1; i < len(dst); i++ {
		if dst[i].Key == dst[i-1].Key {
			return dst, malformed("props."+dst[i].Key, "is given twice")
		}
	}
	return dst, nil
}

// cleanURL keeps scheme, host and path of a page's address, and of its query
// the keys that the site lists. User, fragment and all else go without a word:
// the page cannot help having them. A path or a kept value that holds PII
// refuses the event. Parts of a path that are numbers of more than six digits
// or UUIDs become ":id", and matrix parameters (;jsessionid=…) go.
func cleanURL(raw string, keep []string) (string, *fault) {
	if raw == "" {
		return "", nil
	}
	if len(raw) > maxURL {
		return "", malformed("url", "longer than "+itoa(maxURL)+" bytes")
	}
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return "", malformed("url", "want an absolute http or https address")
	}
	path := u.EscapedPath()
	if c := findPII(path); c != "" {
		return "", personal("url", c, path)
	}
	var b strings.Builder
	b.Grow(len(raw))
	b.WriteString(u.Scheme)
	b.WriteString("://")
	host := strings.ToLower(u.Host)
	if c := findPII(u.Hostname()); c == piiEmail {
		return "", personal("url", c, host)
	}
	b.WriteString(host)
	cleanPath(&b, path)
	if u.RawQuery == "" || len(keep) == 0 {
		return b.String(), nil
	}
	sep := byte('?')
	for rest, more := u.RawQuery, true; more; {
		var pair string
		pair, rest, more = strings.Cut(rest, "&")
		key, value, _ := strings.Cut(pair, "=")
		if !slices.Contains(keep, key) || key == Bait {
			continue
		}
		v := value
		if c := findPII(v); c != "" {
			return "", personal("url", c, value)
		}
		if c := findHash(v); c != "" {
			return "", personal("url", c, value)
		}
		b.WriteByte(sep)
		b.WriteString(key)
		b.WriteByte('=')
		b.WriteString(value)
		sep = '&'
	}
	return b.String(), nil
}

func cleanPath(b *strings.Builder, path string) {
	for rest, more := strings.TrimPrefix(path, "/"), path != ""; more; {
		var seg string
		seg, rest, more = strings.Cut(rest, "/")
		seg, _, _ = strings.Cut(seg, ";")
		b.WriteByte('/')
		if hidesID(seg) {
			b.WriteString(":id")
		} else {
			b.WriteString(seg)
		}
	}
}

// hidesID reports whether a part of a path holds a number of more than six
// digits, or is a UUID or holds a hash: an order, an account, a session.
func hidesID(seg string) bool {
	run := 0
	for i := 0; i < len(seg); i++ {
		if !isDigit(seg[i]) {
			run = 0
		} else if run++; run > 6 {
			return true
		}
	}
	return isUUID(seg) || findHash(seg) != ""
}

// cleanRef keeps the origin of the referrer. What is no web address is dropped:
// browsers put all sorts of things there.
func cleanRef(raw string) (string, *fault) {
	if raw == "" {
		return "", nil
	}
	o := originOf(raw)
	if c := findPII(o); c != "" {
		return "", personal("ref", c, o)
	}
	return o, nil
}

// originOf returns scheme and host of an http or https address, in lower case,
// or "".
func originOf(raw string) string {
	if len(raw) > maxURL {
		return ""
	}
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return ""
	}
	return u.Scheme + "://" + strings.ToLower(u.Host)
}
