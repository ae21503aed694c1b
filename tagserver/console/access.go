package console

import (
	"cmp"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/tree"
)

// accessRoutes are the pages of who may do what, and of who did.
func (c *Console) accessRoutes(admin func(string, func(echo.Context) (*page, error)) tagserver.Route) []tagserver.Route {
	return []tagserver.Route{
		admin("/access", c.access), c.form("/access", c.giveKey), c.form("/access/:id", c.revoke),
		admin("/audit", c.trail),
		c.form("/destinations/:id", c.deliverTo),
	}
}

// keyDoc is an API key as the API has it.
type keyDoc struct {
	ID           string   `json:"id"`
	Title        string   `json:"title,omitempty"`
	Role         string   `json:"role"`
	Scopes       []string `json:"scopes,omitempty"`
	Sources      []string `json:"sources,omitempty"`
	Destinations []string `json:"destinations,omitempty"`
	Ends         string   `json:"ends,omitempty"`
	Key          string   `json:"key,omitempty"`
	Used         string   `json:"used,omitempty"`
}

// role is a role and what it may do.
type role struct {
	Name, Says string
	Scopes     []tagserver.Scope
}

var roleWords = map[tagserver.Role]string{
	tagserver.RoleViewer: "looks", tagserver.RoleAnalyst: "defines categories, rules and audiences",
	tagserver.RoleOperator: "defines the rest, takes in, delivers, erases", tagserver.RoleAdmin: "gives keys",
}

type accessData struct {
	Keys  []document[keyDoc]
	Roles []role
	Me    string // the key of this session
	Made  *keyDoc
	No    *refusal

	ID, Title, Role, Ends, Sources, Destinations string
	Scopes                                       map[string]bool
	All                                          []tagserver.Scope
}

func (c *Console) access(e echo.Context) (*page, error) {
	return c.accessPage(e, &accessData{Role: string(tagserver.RoleViewer)})
}

func (c *Console) accessPage(e echo.Context, d *accessData) (*page, error) {
	var err error
	if d.Keys, err = every[document[keyDoc]](c, e, "/keys"); err != nil {
		return nil, err
	}
	for _, r := range tagserver.Roles {
		d.Roles = append(d.Roles, role{string(r), roleWords[r], r.Scopes()})
	}
	d.All = tagserver.RoleAdmin.Scopes()
	if p := tagserver.PrincipalOf(e.Request().Context()); p != nil {
		d.Me = p.ID
	}
	p := &page{Template: "access", Title: "API keys", Section: base + "/access", Data: d}
	if no := cmp.Or(d.No, refused(e)); no != nil {
		d.No, p.Status = no, no.Status
	}
	return p, nil
}

func split(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ' ' || r == ',' })
}

// giveKey makes a key and shows it, this once.
func (c *Console) giveKey(e echo.Context) (*page, error) {
	d := &accessData{ID: field(e, "id"), Title: field(e, "title"), Role: field(e, "role"), Ends: field(e, "ends"), Sources: field(e, "sources"), Destinations: field(e, "destinations"), Scopes: map[string]bool{}}
	k := keyDoc{ID: cmp.Or(d.ID, tree.Slug(d.Title)), Title: d.Title, Role: d.Role, Ends: d.Ends, Sources: split(d.Sources), Destinations: split(d.Destinations)}
	for _, s := range e.Request().PostForm["scopes"] {
		d.Scopes[s] = true
		k.Scopes = append(k.Scopes, s)
	}
	var made keyDoc
	var err error
	if _, d.No, err = c.ask(e, http.MethodPost, "/keys", k, &made); err != nil {
		return nil, err
	}
	if d.No == nil {
		d = &accessData{Made: &made, Role: string(tagserver.RoleViewer)}
	}
	return c.accessPage(e, d)
}

func (c *Console) revoke(e echo.Context) (*page, error) {
	at := "/keys/" + url.PathEscape(param(e, "id"))
	var k keyDoc
	h, err := c.get(e, at, &k)
	if err != nil {
		return nil, err
	}
	_, no, err := c.ask(e, http.MethodDelete, at, nil, nil, "If-Match", h.Get("ETag"))
	if err != nil {
		return nil, err
	}
	if no != nil {
		e.Set("refusal", no)
		return c.access(e)
	}
	return done(e, base+"/access")
}

// entryDoc is an entry of the audit log as the API has it.
type entryDoc struct {
	Seq    uint64    `json:"seq"`
	At     time.Time `json:"at"`
	Who    string    `json:"who"`
	What   string    `json:"what"`
	Kind   string    `json:"kind"`
	Object string    `json:"object"`
	Before uint64    `json:"before"`
	After  uint64    `json:"after"`
	Detail string    `json:"detail"`
	Of     uint64    `json:"of"`
	Hash   string    `json:"hash"`
}

// Time is when, as pages show it.
func (l *entryDoc) Time() taxonomy.Millis { return taxonomy.MillisOf(l.At) }

// Href is the page of what was changed, "" if it has none.
func (l *entryDoc) Href() string {
	kind := map[string]string{"site": "sites", "audience": "audiences", "destination": "destinations", "rule": "editor", "taxonomy": "taxonomies"}[l.Kind]
	if kind == "" || l.Object == "" {
		return ""
	}
	return pathOf(kind, l.Object)
}

// verification is what a walk over the whole log found.
type verification struct {
	Entries uint64 `json:"entries"`
	Last    uint64 `json:"last"`
	Hash    string `json:"hash"`
	Faults  []struct {
		Seq uint64 `json:"seq"`
		Why string `json:"fault"`
	} `json:"faults"`
}

func (c *Console) trail(e echo.Context) (*page, error) {
	q := url.Values{"limit": {"100"}}
	if cursor := e.QueryParam("cursor"); cursor != "" {
		q.Set("cursor", cursor)
	}
	var l listed[*entryDoc]
	if _, err := c.get(e, "/audit?"+q.Encode(), &l); err != nil {
		return nil, err
	}
	d := struct {
		Entries []*entryDoc
		Next    string
		First   bool
		Chain   *verification
	}{Entries: l.Items, First: e.QueryParam("cursor") == ""}
	if l.Next != "" {
		d.Next = base + "/audit?" + url.Values{"cursor": {l.Next}}.Encode()
	}
	if d.First {
		d.Chain = &verification{}
		if _, err := c.get(e, "/audit/verification", d.Chain); err != nil {
			return nil, err
		}
	}
	return &page{Template: "trail", Title: "Audit log", Section: base + "/access", Data: d}, nil
}
