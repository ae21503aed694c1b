package console

import (
	"cmp"
	"encoding/json"
	"net/http"
	"slices"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// livePolicy is the policy of the pages that follow what happens: our own
// scripts, and requests to this host.
const livePolicy = "default-src 'none'; script-src 'self'; connect-src 'self'; style-src 'self'; img-src 'self' data:; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"

// inspectorRoutes are the tag doctor's: what a site's requests came to, a page to
// try the tag on, and the calls of the tag on that page.
func (c *Console) inspectorRoutes(admin func(string, func(echo.Context) (*page, error)) tagserver.Route) []tagserver.Route {
	call := func(method string) tagserver.Route {
		return tagserver.Route{Method: method, Path: base + "/sites/:id/try/v1/:call", Listener: tagserver.Private, Auth: tagserver.AuthOrigin, Handler: c.rehearse}
	}
	return []tagserver.Route{
		admin("/sites/:id/inspector", c.inspector),
		admin("/sites/:id/try", c.try),
		admin("/sites/:id/try/*", c.try),
		call(http.MethodGet), call(http.MethodPost),
	}
}

// known returns a defined site.
func (c *Console) known(e echo.Context) (*taxonomy.Site, string, error) {
	id := taxonomy.SiteID(param(e, "id"))
	for _, s := range c.o.Definitions.Sites() {
		if s.ID == id {
			return &s, cmp.Or(s.Title, string(s.ID)), nil
		}
	}
	return nil, "", errNothing
}

func (c *Console) inspector(e echo.Context) (*page, error) {
	site, title, err := c.known(e)
	if err != nil || c.o.Inspect == nil {
		return nil, errNothing
	}
	live := e.QueryParam("live") != "0"
	p := &page{Template: "inspector", Title: "Inspector of " + title, Section: base + "/sites", Data: inspectorView{
		Site: site.ID, Name: title, Live: live, inspection: c.inspection(site.ID)}}
	if live {
		c.follow(e, p, "htmx")
	}
	return p, nil
}

// follow lets a page run scripts of ours.
func (c *Console) follow(e echo.Context, p *page, scripts ...string) {
	e.Response().Header().Set("Content-Security-Policy", livePolicy)
	for _, s := range scripts {
		p.Scripts = append(p.Scripts, c.asset("/"+s, ".js"))
	}
}

type inspectorView struct {
	Site taxonomy.SiteID
	Name string
	Live bool
	inspection
}

// inspection is an Inspection as it is shown.
type inspection struct {
	At       taxonomy.Millis
	Requests []requestView
	Findings []findingView
	Signals  []signalView
	Unused   []unusedView
}

type requestView struct {
	tagserver.Sighting
	Came    string // stored, refused, partly, nothing: of the colour
	Says    string
	Allowed string
	Asked   []string // "TCF yes"
	Shown   []eventView
	More    int // events that are not shown
}

type eventView struct {
	Outcome  string
	Good     bool
	What     string // kind, and name
	Where    string // host and path
	Props    []taxonomy.Prop
	Refusal  *tagserver.Refusal
	Rules    []string
	Traits   []traitView
	Near     []tagserver.NearMiss
	Unused   []string
	NoTraits bool // stored, and no rule holds
}

type traitView struct {
	Code  taxonomy.Trait
	Title string
}

type findingView struct {
	tagserver.Finding
	Says, Next string
}

type signalView struct {
	Name, Verdict string
	N             int
	Good          bool
}

type unusedView struct {
	Key  string
	N    int
	Rule string // that would use it, as JSON
}

func (c *Console) inspection(id taxonomy.SiteID) inspection {
	in := c.o.Inspect(id)
	v := inspection{At: in.At}
	for _, f := range in.Findings {
		fv := findingView{Finding: f, Says: f.Why, Next: f.Mend}
		if w, ok := reasons[taxonomy.Reason(f.Code)]; ok {
			fv.Next = cmp.Or(fv.Next, w.Next)
		}
		v.Findings = append(v.Findings, fv)
	}
	for _, s := range in.Signals {
		v.Signals = append(v.Signals, signalView{signalName(s.Signal), s.Verdict, s.N, s.Verdict == "yes"})
	}
	for _, k := range in.Unused {
		v.Unused = append(v.Unused, unusedView{k.Key, k.N, ruleFor(k.Key)})
	}
	for i := range in.Sightings {
		v.Requests = append(v.Requests, c.requestView(&in.Sightings[i], in.Sights[i]))
	}
	return v
}

func (c *Console) requestView(x *tagserver.Sighting, sights []tagserver.Sight) requestView {
	r := requestView{Sighting: *x, Allowed: strings.ReplaceAll(x.May.String(), "+", ", "), More: x.N - len(x.Events)}
	for _, s := range x.Signals {
		r.Asked = append(r.Asked, signalName(s.Signal)+": "+s.Verdict)
	}
	stored, refused := 0, 0
	for i := range x.Events {
		ev := &x.Events[i]
		e := eventView{Outcome: ev.Outcome, Good: ev.Outcome == "stored", What: ev.Event.Kind.String(), Props: ev.Event.Props}
		if ev.Event.Name != "" {
			e.What += " " + ev.Event.Name
		}
		_, e.Where, _ = strings.Cut(ev.Event.URL, "://")
		switch {
		case ev.Refusal.Code != "":
			e.What, e.Refusal = "", &ev.Refusal
			refused++
		case e.Good:
			stored++
			s := &sights[i]
			e.Rules, e.Near, e.Unused = s.Rules, s.Near, s.Unused
			for _, t := range s.Traits {
				e.Traits = append(e.Traits, traitView{t, c.title(t)})
			}
			e.NoTraits = len(s.Traits) == 0
		default:
			e.What = ""
		}
		r.Shown = append(r.Shown, e)
	}
	switch {
	case x.Refused != nil:
		r.Came, r.Says, r.More = "bad", "refused: "+x.Refused.Code, 0
	case !x.May.Has(taxonomy.MayStore | taxonomy.MayProfile):
		r.Came, r.Says, r.More = "bad", "no consent", 0
		if slices.ContainsFunc(x.Signals, func(s tagserver.SignalSeen) bool { return s.Verdict == "no" }) {
			r.Came = "" // a visitor's own no is nothing to mend
		}
	case refused > 0:
		r.Came, r.Says = "bad", plural(stored, "event")+" stored, "+number(refused)+" refused"
	case len(x.Events) == 0:
		r.Came, r.Says = "good", "consent taken, no events"
	default:
		r.Came, r.Says = "good", plural(stored, "event")+" stored"
	}
	return r
}

var signalNames = map[taxonomy.Signal]string{
	taxonomy.SignalNone: "nobody", taxonomy.SignalMode: "the site's mode", taxonomy.SignalExplicit: "the page", taxonomy.SignalTCF: "TCF",
	taxonomy.SignalGPP: "GPP", taxonomy.SignalUSP: "US Privacy", taxonomy.SignalAsserted: "an agreement", taxonomy.SignalGPC: "Global Privacy Control",
	taxonomy.SignalOptOut: "the opt-out cookie",
}

func signalName(s taxonomy.Signal) string { return cmp.Or(signalNames[s], s.String()) }

// ruleFor is a rule that makes traits of a key, to begin with.
func ruleFor(key string) string {
	field, name, _ := strings.Cut(key, ".")
	id := strings.Trim(strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, strings.ToLower(name)), "-")
	if id == "" {
		id = "new"
	}
	then := "k:" + id + "={" + name + "}"
	if field == "query" || strings.ContainsAny(name, "{}") {
		then = "k:" + id + "=yes" // only properties can be put in
	}
	type when struct {
		Field string `json:"field"`
		Op    string `json:"op"`
	}
	// Marshal of strings does not fail.
	b, _ := json.Marshal(struct {
		ID   string   `json:"id"`
		When []when   `json:"when"`
		Then []string `json:"then"`
	}{id, []when{{key, "exists"}}, []string{then}})
	return string(b)
}

// try is the page on which a site's owner tries the tag.
func (c *Console) try(e echo.Context) (*page, error) {
	site, title, err := c.known(e)
	if err != nil || c.o.Inspect == nil || c.o.Rehearse == nil {
		return nil, errNothing
	}
	p := &page{Template: "try", Title: "Try the tag of " + title, Section: base + "/sites", Data: struct {
		inspectorView
		Origin    string
		Tag, Host string
	}{inspectorView{Site: site.ID, Name: title, Live: true, inspection: c.inspection(site.ID)},
		first(site.Origins), c.asset("/ebb", ".js"), pathOf("sites", string(site.ID)) + "/try"}}
	c.follow(e, p, "try", "htmx")
	return p, nil
}

func first(s []string) string {
	if len(s) == 0 {
		return ""
	}
	return s[0]
}

// rehearse passes a call of the tag on the test page on to the edge. It changes
// what an event of any visitor changes, so a session is enough, if the page that
// calls is ours.
func (c *Console) rehearse(e echo.Context) error {
	headers(e.Response().Header())
	r := e.Request()
	site, _, err := c.known(e)
	switch {
	case !c.SignedIn(r):
		return tagserver.NewProblem(http.StatusUnauthorized, "unauthorized", "sign in to the console first")
	case r.Method != http.MethodGet && !fromUs(r) || r.Header.Get("Sec-Fetch-Site") == "cross-site":
		return tagserver.NewProblem(http.StatusForbidden, string(taxonomy.ReasonWrongOrigin), "only the console's own test page may call this")
	case err != nil || c.o.Rehearse == nil:
		return tagserver.NewProblem(http.StatusNotFound, "not_found", "there is no such site")
	case r.Method == http.MethodGet != slices.Contains([]string{"seg"}, param(e, "call")):
		return tagserver.NewProblem(http.StatusMethodNotAllowed, "method_not_allowed", "the tag does not call this so")
	}
	return c.o.Rehearse()(e, site.ID, param(e, "call"), r.Header.Get("Origin")+pathOf("sites", string(site.ID))+"/try")
}
