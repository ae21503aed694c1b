package tagserver

import (
	"net/url"
	"strings"
	"unicode/utf8"

	"github.com/ebb-dmp/ebb/taxonomy"
)

// wireQuery is the query of a GET: an event's fields (for /v1/n), a site (for
// /v1/seg and /v1/sync), and consent (R33).
type wireQuery struct {
	Site string
	// Destination and Redirect are of syncs and matches.
	Destination, Redirect string
	As                    string // of /v1/seg: another form of the answer
	Consent               wireConsent
	Event                 wireEvent
	Fault                 string // why the event's fields cannot be read
}

// maxQuery bounds a query, in bytes: a TCF string, a GPP string and an address.
const maxQuery = 12 << 10

// parseQuery reads a GET's query. Keys it does not know are skipped, which is
// how pages put their cache breakers there. A consent signal that is given
// twice with different values is one that nobody can read, except consent
// itself, whose stricter value holds. What cannot be decoded is a fault of an
// event's field and, in a signal, no signal.
func parseQuery(raw string, q *wireQuery) {
	if len(raw) > maxQuery {
		q.Fault = "the query is longer than 12 KiB"
		q.Consent.Conflict = true
		return
	}
	var seen uint
	for more := raw != ""; more; {
		var pair string
		pair, raw, more = strings.Cut(raw, "&")
		key, value, _ := strings.Cut(pair, "=")
		switch key {
		case "consent":
			// 1 is yes and 0 is no. Anything else says nothing, which means no,
			// but is no withdrawal either.
			switch value {
			case "0":
				no := false
				q.Consent.Granted = &no
			case "1":
				if q.Consent.Granted == nil {
					yes := true
					q.Consent.Granted = &yes
				}
			default:
				q.Consent.Conflict = q.Consent.Conflict || value != ""
			}
		case "gdpr":
			if value == "" {
				value = "-" // said, and not what: not the same as nothing
			}
			q.signal(&seen, 0, &q.Consent.GDPR, value)
		case "coppa":
			q.Consent.child(value)
		case "gdpr_consent", "tcf": // the second, as bodies call it, from the tag
			q.signal(&seen, 1, &q.Consent.TCF, value)
		case "gpp":
			q.signal(&seen, 2, &q.Consent.GPP, value)
		case "gpp_sid":
			q.signal(&seen, 3, &q.Consent.GPPSID, value)
		case "us_privacy", "usp":
			q.signal(&seen, 4, &q.Consent.USP, value)
		case "site":
			q.field(&seen, 5, key, &q.Site, value)
		case "u":
			q.field(&seen, 6, key, &q.Event.URL, value)
		case "n":
			q.field(&seen, 7, key, &q.Event.Name, value)
		case "k":
			q.field(&seen, 8, key, &q.Event.Kind, value)
		case "id":
			q.field(&seen, 9, key, &q.Event.ID, value)
		case "r":
			q.field(&seen, 10, key, &q.Event.Ref, value)
		case "dest":
			q.field(&seen, 11, key, &q.Destination, value)
		case "as":
			q.field(&seen, 13, key, &q.As, value)
		case "redirect":
			q.field(&seen, 12, key, &q.Redirect, value)
		}
	}
}

func (q *wireQuery) signal(seen *uint, bit uint, dst *string, value string) {
	v, ok := unescape(value)
	twice := *seen&(1<<bit) != 0 && *dst != v
	*seen |= 1 << bit
	if !ok || twice || len(v) > maxSignal {
		q.Consent.Conflict = true
		return
	}
	*dst = v
}

func (q *wireQuery) field(seen *uint, bit uint, key string, dst *string, value string) {
	v, ok := unescape(value)
	switch {
	case !ok:
		q.Fault = key + ": is not percent-encoded well"
	case *seen&(1<<bit) != 0 && *dst != v:
		q.Fault = key + ": is given twice"
	}
	*seen |= 1 << bit
	*dst = v
}

func unescape(s string) (string, bool) {
	if strings.IndexByte(s, '%') < 0 && strings.IndexByte(s, '+') < 0 {
		return s, validText(s)
	}
	v, err := url.QueryUnescape(s)
	if err != nil || !validText(v) {
		return "", false
	}
	return v, true
}

// siteOf returns the site's ID of a path such as /v1/n/shop. What is no slug
// names no site.
func siteOf(s string) taxonomy.SiteID {
	if taxonomy.CheckSlug("site", s) != nil {
		return ""
	}
	return taxonomy.SiteID(s)
}

// validText reports whether s is UTF-8 without control characters.
func validText(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] < ' ' || s[i] == 0x7f {
			return false
		}
	}
	return utf8.ValidString(s)
}
