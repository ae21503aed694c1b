package console

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/segments/query"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// number prints with a comma before every three digits.
func number[T ~int | ~int64 | ~uint64](n T) string {
	s := strconv.FormatInt(int64(n), 10)
	sign := ""
	if s[0] == '-' {
		sign, s = "−", s[1:]
	}
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return sign + s
}

// shown is a number of visitors as people see it (P7).
func shown(n uint64) string {
	if n < audience.ShownFloor {
		return fmt.Sprintf("<%d", audience.ShownFloor)
	}
	return number(n)
}

// size prints bytes with three digits.
func size(n int64) string {
	if n < 1000 {
		return strconv.FormatInt(n, 10) + " B"
	}
	v, unit := float64(n), 0
	for v >= 999.5 && unit < 4 {
		v /= 1000
		unit++
	}
	return strconv.FormatFloat(v, 'g', 3, 64) + " " + [...]string{"B", "kB", "MB", "GB", "TB"}[unit]
}

func percent(part, whole uint64) string {
	switch {
	case whole == 0:
		return "–"
	case part == whole:
		return "100 %"
	}
	v := 100 * float64(part) / float64(whole)
	switch {
	case v > 0 && v < 0.1:
		return "<0.1 %"
	case v > 99.9:
		return ">99.9 %"
	}
	return strconv.FormatFloat(v, 'f', 1, 64) + " %"
}

// share prints a part of one.
func share(v float64) string { return strconv.FormatFloat(100*v, 'f', 1, 64) + " %" }

// decimal prints a number with so many digits behind the point.
func decimal(v float64, digits int) string { return strconv.FormatFloat(v, 'f', digits, 64) }

// when prints a time to the minute. UTC stands at the foot of every page.
func when(m taxonomy.Millis) string {
	if m == 0 {
		return "–"
	}
	return m.Time().Format("2006-01-02 15:04")
}

func clock(m taxonomy.Millis) string { return m.Time().Format("15:04:05") }

func iso(m taxonomy.Millis) string { return m.Time().Format(time.RFC3339) }

// ago says how long ago in the largest unit that fits.
func ago(now, m taxonomy.Millis) string {
	d := now - m
	for _, u := range []struct {
		of   taxonomy.Millis
		name string
	}{{taxonomy.OneDay, "day"}, {taxonomy.Hour, "hour"}, {taxonomy.Minute, "minute"}, {taxonomy.Second, "second"}} {
		if d >= u.of {
			return plural(int(d/u.of), u.name) + " ago"
		}
	}
	return "just now"
}

func plural(n int, word string) string {
	switch {
	case n == 1:
		return "1 " + word
	case strings.HasSuffix(word, "y") && !strings.HasSuffix(word, "ay"):
		return number(n) + " " + strings.TrimSuffix(word, "y") + "ies"
	}
	return number(n) + " " + word + "s"
}

// period prints a length of time without what is zero: "1h30m", "24h".
func period(p delivery.Period) string {
	s := p.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// short is the beginning of a hash, enough to compare by eye.
func short(hash string) string { return hash[:min(12, len(hash))] }

// reason says why events were refused, and what helps.
type reason struct{ Says, Next string }

var reasons = map[taxonomy.Reason]reason{
	taxonomy.ReasonMalformed:       {"not what /v1/e takes", "The replies name the place of each fault; look at the last refusals below."},
	taxonomy.ReasonUnknownSite:     {"of no site that is defined, or of one that has ended", "Compare data-site in the page with the site's id."},
	taxonomy.ReasonWrongOrigin:     {"from a web origin that the site does not list", "Add the origin to the site, if it is yours."},
	taxonomy.ReasonTooOld:          {"older than may be taken: 24 hours from a browser, 89 days from an import", "Nothing: older behaviour is not kept."},
	taxonomy.ReasonTooLarge:        {"larger than 64 kB", "Send fewer or smaller events at once."},
	taxonomy.ReasonTooMany:         {"more than 100 events at once", "Send them in several requests."},
	taxonomy.ReasonPII:             {"looked like an e-mail address, phone number, card or account", "Take it out of addresses and properties where it is made."},
	taxonomy.ReasonConsent:         {"without consent", "Nothing, if visitors said no. If none said yes: does the page call ebb('consent', true)?"},
	taxonomy.ReasonErased:          {"of visitors who were erased", "Nothing: this is an erasure at work."},
	taxonomy.ReasonNotAdopted:      {"from browsers whose cookie did not come back within 24 hours", "Nothing, if it is few: visitors of one page, and robots."},
	taxonomy.ReasonProvisionalFull: {"for want of room for browsers that have not come back", "Usually robots. Look at what calls the site."},
	taxonomy.ReasonRateLimit:       {"too many new browsers or requests from one address range", "Usually robots; a test from one machine may raise new_ids_per_minute and limits.requests_per_minute."},
	taxonomy.ReasonCorrupt:         {"lost where the log on disk is damaged", "See the overview, and look at the disk."},
	taxonomy.ReasonLogExpired:      {"lost because the log was skipped", "Skipping is done by command only; see the help on operations."},
	taxonomy.ReasonImport:          {"rows of a file that could not be read", "The receipt of the import names each row and why."},
	taxonomy.ReasonSource:          {"of a source that is withdrawn or whose agreement has ended", "Renew the agreement, or stop sending."},
}

func reasonOf(r taxonomy.Reason) reason {
	if w, ok := reasons[r]; ok {
		return w
	}
	return reason{Says: string(r)}
}

// clause is a rule in words: a sentence, and what stands below it.
type clause struct {
	Lead  string // "all of these:", "had"
	Title string // of the trait, if it has one
	Code  string // the trait, list or audience as it stands in the rule
	Href  string
	Rest  string
	Of    []clause
}

// explain says a rule in words.
func (c *Console) explain(e query.Expr) clause {
	list := func(lead string, of []query.Expr) clause {
		cl := clause{Lead: lead}
		for _, k := range of {
			cl.Of = append(cl.Of, c.explain(k))
		}
		return cl
	}
	switch e := e.(type) {
	case query.And:
		return list("matches all of these", e.Of)
	case query.Or:
		return list("matches at least one of these", e.Of)
	case query.Not:
		return list("does not match", []query.Expr{e.Of})
	case query.Any:
		return clause{Lead: "had any event in the last 90 days"}
	case query.Trait:
		return clause{Lead: "had", Title: c.title(e.Trait), Code: string(e.Trait), Rest: query.Often(&e)}
	case query.AsOf:
		return list(query.Describe(e)+", matched", []query.Expr{e.Of})
	case query.Attribute:
		if e.Range != nil {
			break
		}
		return clause{Lead: "has", Code: e.Key, Rest: strings.Join(e.In, " or ")}
	case query.List:
		return clause{Lead: "is on the list", Code: string(e.List)}
	case query.Audience:
		return clause{Lead: "is in the audience", Code: string(e.ID), Href: pathOf("audiences", string(e.ID))}
	}
	return clause{Lead: query.Describe(e)}
}

func (c *Console) title(t taxonomy.Trait) string {
	if c.o.Title == nil {
		return ""
	}
	return c.o.Title(t)
}
