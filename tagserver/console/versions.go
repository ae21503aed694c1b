package console

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/segments/query"
	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// versionRoutes are the history of a definition, and the way back.
func (c *Console) versionRoutes(admin func(string, func(echo.Context) (*page, error)) tagserver.Route) []tagserver.Route {
	return []tagserver.Route{admin("/versions/:kind/:id", c.versions), c.form("/versions/:kind/:id", c.rollBack)}
}

// versioned are the kinds of definitions that have a history, and their pages.
var versioned = map[string]string{"audiences": "audiences", "rules": "editor", "taxonomies": "taxonomies", "sites": "sites", "destinations": "destinations"}

type versionDoc struct {
	Version    uint64          `json:"version"`
	Changed    time.Time       `json:"changed"`
	Definition json.RawMessage `json:"definition"`
}

// Time is when, as pages show it.
func (v *versionDoc) Time() taxonomy.Millis { return taxonomy.MillisOf(v.Changed) }

type versionsData struct {
	Kind, ID, Back string
	Tag            string
	Versions       []*versionDoc
	From, To       uint64
	Fields         []difference
	Says           []string // of a rule or a taxonomy
	Was, Is        string   // of an audience's rule, as sentences
	No             *refusal
}

// value is a JSON value as people read it: text as it is.
type value string

// UnmarshalJSON implements json.Unmarshaler.
func (v *value) UnmarshalJSON(b []byte) error {
	var s string
	if json.Unmarshal(b, &s) == nil {
		*v = value(s)
		return nil
	}
	var x any
	if err := json.Unmarshal(b, &x); err != nil {
		return err
	}
	var out strings.Builder
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	if err := e.Encode(x); err != nil {
		return err
	}
	*v = value(strings.TrimSpace(out.String()))
	return nil
}

func (c *Console) versions(e echo.Context) (*page, error) {
	d := &versionsData{Kind: param(e, "kind"), ID: param(e, "id"), No: refused(e)}
	to, ok := versioned[d.Kind]
	if !ok {
		return nil, errNothing
	}
	d.Back = pathOf(to, d.ID)
	of := "/" + d.Kind + "/" + url.PathEscape(d.ID)
	h, err := c.get(e, of, nil)
	if err != nil {
		return nil, err
	}
	d.Tag = h.Get("ETag")
	if d.Versions, err = every[*versionDoc](c, e, of+"/versions"); err != nil {
		return nil, err
	}
	if len(d.Versions) > 0 {
		d.To = d.Versions[0].Version
		if n, err := strconv.ParseUint(e.QueryParam("to"), 10, 64); err == nil {
			d.To = n
		}
		var diff struct {
			From   uint64       `json:"from"`
			Fields []difference `json:"fields"`
			Says   []string     `json:"says"`
		}
		if _, err := c.get(e, fmt.Sprintf("%s/diff?to=%d", of, d.To), &diff); err != nil {
			return nil, err
		}
		d.From, d.Fields, d.Says = diff.From, diff.Fields, diff.Says
		if d.Kind == "audiences" {
			for _, v := range d.Versions {
				switch v.Version {
				case d.From:
					d.Was = c.sentenceOf(v.Definition)
				case d.To:
					d.Is = c.sentenceOf(v.Definition)
				}
			}
		}
	}
	p := &page{Template: "versions", Title: "Versions of " + d.ID, Section: base + "/" + d.Kind, Data: d}
	if d.No != nil {
		p.Status = d.No.Status
	}
	return p, nil
}

// sentenceOf says an audience's rule, "" if it has none that can be read.
func (c *Console) sentenceOf(definition json.RawMessage) string {
	var def audience.Definition
	if json.Unmarshal(definition, &def) != nil {
		return ""
	}
	expr, err := def.Expr()
	if err != nil || expr == nil {
		return ""
	}
	return query.Sentence(expr, c.o.Title)
}

// rollBack makes a former version the present one.
func (c *Console) rollBack(e echo.Context) (*page, error) {
	kind := param(e, "kind")
	to, ok := versioned[kind]
	n, err := strconv.ParseUint(field(e, "version"), 10, 64)
	if !ok || err != nil {
		return nil, errNothing
	}
	_, no, err := c.ask(e, http.MethodPost, "/"+kind+"/"+url.PathEscape(param(e, "id"))+"/rollback", map[string]uint64{"version": n}, nil, "If-Match", field(e, "tag"))
	if err != nil {
		return nil, err
	}
	if no != nil {
		e.Set("refusal", no)
		return c.versions(e)
	}
	return done(e, pathOf(to, param(e, "id")))
}
