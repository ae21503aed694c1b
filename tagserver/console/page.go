package console

import (
	"bytes"
	"fmt"
	"html/template"
	"net/url"
	"path"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/ebb-dmp/ebb/taxonomy"
)

// page is what a handler gathered, and how it is to be shown.
type page struct {
	Status   int    // 0: 200
	Template string // name in templates/
	Title    string
	Section  string // of the navigation, as its path: "/sites"
	Bare     bool   // without navigation: nobody is signed in
	Data     any
	Scripts  []string // of ours, by their path; the page's policy must allow them
}

type message struct{ Text string }

// pair is two things for a template that takes one.
type pair struct{ A, B any }

// pathOf is the page of a thing. IDs are slugs, but what is shown may be older
// than the check.
func pathOf(kind, id string) string { return base + "/" + kind + "/" + url.PathEscape(id) }

// param is a parameter of the path as it was meant: echo leaves it escaped.
func param(e echo.Context, name string) string {
	v, err := url.PathUnescape(e.Param(name))
	if err != nil {
		return e.Param(name)
	}
	return v
}

// view is what the layout sees.
type view struct {
	*page
	Style, Icon string
	Version     string
	Now         taxonomy.Millis
	Nav         []navItem
}

type navItem struct {
	Href, Name string
	Here       bool
}

var nav = []struct{ path, name string }{
	{"", "Overview"}, {"/sites", "Sites"}, {"/taxonomies", "Taxonomies"}, {"/rules", "Rules"}, {"/audiences", "Audiences"}, {"/destinations", "Destinations"}, {"/consent", "Consent"}, {"/retention", "Retention"}, {"/access", "Access"}, {"/help", "Help"},
}

func (c *Console) render(_ echo.Context, p *page) ([]byte, error) {
	t, ok := c.pages[p.Template]
	if !ok {
		return nil, fmt.Errorf("there is no template %q", p.Template)
	}
	v := view{page: p, Style: c.asset("/console", ".css"), Icon: c.asset("/ebb", ".svg"), Version: c.o.Version, Now: c.o.Now()}
	for _, n := range nav {
		v.Nav = append(v.Nav, navItem{base + n.path, n.name, p.Section == base+n.path})
	}
	var b bytes.Buffer
	if err := t.ExecuteTemplate(&b, "layout", v); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// parse reads the templates: layout.html and parts.html belong to all, every
// other file is a page of its name.
func (c *Console) parse() (map[string]*template.Template, error) {
	funcs := template.FuncMap{
		"number": func(n any) string {
			switch n := n.(type) {
			case int:
				return number(n)
			case int64:
				return number(n)
			}
			return number(n.(uint64))
		},
		"shown": shown, "size": size, "percent": percent, "share": share, "when": when, "clock": clock, "iso": iso, "plural": plural, "short": short,
		"ago":    func(m taxonomy.Millis) string { return ago(c.o.Now(), m) },
		"period": period,
		"auc":    func(v float64) string { return fmt.Sprintf("%.3f", v) },
		"fixed":  func(v float64) string { return fmt.Sprintf("%.1f", v) },
		"join":   strings.Join,
		"pair":   func(a, b any) pair { return pair{a, b} },
		// told is what a field is described by: its fault, if it has one.
		"told": func(id string, fault string) template.HTMLAttr {
			if fault == "" {
				return ""
			}
			return template.HTMLAttr(`aria-invalid="true" aria-describedby="` + template.HTMLEscapeString(id) + `-fault"`)
		},
		"path": func(kind string, id any) string { return pathOf(kind, fmt.Sprint(id)) },
	}
	common, err := template.New("").Funcs(funcs).Option("missingkey=error").ParseFS(embedded, "templates/layout.html", "templates/parts.html")
	if err != nil {
		return nil, fmt.Errorf("parse templates: %w", err)
	}
	files, err := embedded.ReadDir("templates")
	if err != nil {
		return nil, err
	}
	pages := map[string]*template.Template{}
	for _, f := range files {
		if f.Name() == "layout.html" || f.Name() == "parts.html" {
			continue
		}
		t, err := common.Clone()
		if err == nil {
			t, err = t.ParseFS(embedded, path.Join("templates", f.Name()))
		}
		if err != nil {
			return nil, fmt.Errorf("parse templates: %w", err)
		}
		pages[strings.TrimSuffix(f.Name(), ".html")] = t
	}
	return pages, nil
}
