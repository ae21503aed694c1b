package console

import (
	"cmp"
	"errors"
	"fmt"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/tagserver/consent"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// maxConsentString is how long a string may be that is asked about, in bytes: the
// parsers refuse longer ones.
const maxConsentString = 8 << 10

type consentData struct {
	Asked   string
	Long    bool // too long to be shown again
	Answer  *consent.Explanation
	Sites   []taxonomy.Site
	Choices []audienceChoice
	Of      string // title of the audience that is counted; "" all visitors
	Fault   string
	Permits *permitsShown
	Heard   *heardShown
}

// heardShown is what the signals of requests said, as people may see it.
type heardShown struct {
	At      []siteChoice
	Of      string // title of the site; "" all
	Days    int
	Signals []heardLine
}

type siteChoice struct {
	ID, Title string
	Chosen    bool
}

type heardLine struct {
	Name, Says, Requests string
	Class                string // of the verdict's tag
	Course               *spark
}

type audienceChoice struct {
	ID, Title string
	Chosen    bool
}

// permitsShown is what visitors allow, as people may see it.
type permitsShown struct {
	AsOf         taxonomy.Millis
	Visitors     string
	Without      []lostShown
	Destinations []reachShown
	Signals      []signalShown
}

type lostShown struct {
	Purpose          int
	Name, Lost, From string
}

type reachShown struct{ ID, Title, Allowed string }

type signalShown struct{ Name, Visitors, Profile string }

// signalWords are the signals in people's words.
var signalWords = map[taxonomy.Signal]string{
	taxonomy.SignalNone: "nothing said", taxonomy.SignalMode: "the law of the country", taxonomy.SignalExplicit: "the visitor's answer to the page",
	taxonomy.SignalTCF: "a TCF string", taxonomy.SignalGPP: "a GPP string", taxonomy.SignalUSP: "a US Privacy string",
	taxonomy.SignalAsserted: "a source's agreement", taxonomy.SignalGPC: "Global Privacy Control", taxonomy.SignalOptOut: "the opt-out cookie",
	taxonomy.SignalDNT: "DNT, which is obeyed as Global Privacy Control is",
}

// consent shows what a string means, what visitors allow, and what would be lost
// without a purpose.
func (c *Console) consent(e echo.Context) (*page, error) {
	if c.o.Explain == nil || c.o.Permits == nil {
		return c.nothing(e)
	}
	ctx := e.Request().Context()
	d := consentData{Asked: strings.TrimSpace(e.QueryParam("string")), Sites: c.o.Definitions.Sites()}
	if d.Asked != "" {
		x := c.o.Explain(d.Asked)
		d.Answer = &x
		if len(d.Asked) > maxConsentString {
			d.Asked, d.Long = "", true
		}
	}
	of := e.QueryParam("audience")
	catalog := c.o.Definitions.Audiences()
	for _, a := range catalog.All() {
		title := a.Title
		if title == "" {
			title = string(a.ID)
		}
		d.Choices = append(d.Choices, audienceChoice{string(a.ID), title, string(a.ID) == of})
		if string(a.ID) == of {
			d.Of = title
		}
	}
	p, err := c.o.Permits(ctx, taxonomy.AudienceID(of))
	switch {
	case errors.Is(err, retention.ErrNotFound):
		d.Fault = "This audience is not in the current generation. It is once it has been built."
	case err != nil:
		return nil, fmt.Errorf("count what visitors allow: %w", err)
	default:
		d.Permits = c.showPermits(&p)
	}
	if d.Heard, err = c.showHeard(e.QueryParam("site")); err != nil {
		return nil, err
	}
	return &page{Template: "consent", Title: "Consent", Section: base + "/consent", Data: d}, nil
}

// showHeard returns what the signals of requests said in the 90 days, at a site or
// at all.
func (c *Console) showHeard(site string) (*heardShown, error) {
	if c.o.Signals == nil {
		return nil, nil
	}
	s, err := c.o.Signals(taxonomy.SiteID(site), taxonomy.RetentionDays)
	if err != nil && !errors.Is(err, retention.ErrNotFound) {
		return nil, fmt.Errorf("count what consent signals said: %w", err)
	}
	out := &heardShown{Days: taxonomy.RetentionDays}
	for _, x := range c.o.Definitions.Sites() {
		ch := siteChoice{string(x.ID), cmp.Or(x.Title, string(x.ID)), string(x.ID) == site}
		if ch.Chosen {
			out.Of = ch.Title
		}
		out.At = append(out.At, ch)
	}
	for _, l := range s.Lines {
		line := heardLine{Name: signalWords[l.Signal], Says: l.Verdict.String(), Requests: shown(l.N), Course: newLine(l.Days, "days")}
		switch l.Verdict {
		case taxonomy.SaysYes:
			line.Class = "good"
		case taxonomy.SaysUnreadable:
			line.Class = "bad"
		}
		out.Signals = append(out.Signals, line)
	}
	return out, nil
}

func (c *Console) showPermits(p *consent.Permits) *permitsShown {
	whole := p.Visitors >= audience.ShownFloor
	show := func(n uint64) string {
		if !whole && n >= audience.ShownFloor {
			return fmt.Sprintf("≥%d", audience.ShownFloor)
		}
		return shown(n)
	}
	out := &permitsShown{AsOf: p.AsOf, Visitors: show(p.Visitors)}
	for _, w := range p.Without {
		out.Without = append(out.Without, lostShown{w.Purpose, w.Name, show(w.Lost), w.From})
	}
	titles := map[taxonomy.DestinationID]string{}
	for _, x := range c.o.Definitions.Destinations() {
		titles[x.ID] = x.Title
	}
	for _, x := range p.Destinations {
		out.Destinations = append(out.Destinations, reachShown{string(x.Destination), titles[x.Destination], show(x.Allowed)})
	}
	for _, s := range p.Signals {
		out.Signals = append(out.Signals, signalShown{signalWords[s.Signal], show(s.Visitors), show(s.Profile)})
	}
	return out
}
