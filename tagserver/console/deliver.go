package console

import (
	"net/http"
	"net/url"
	"slices"

	"github.com/labstack/echo/v4"

	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// deliverTo changes what a destination gets, or has it delivered now.
func (c *Console) deliverTo(e echo.Context) (*page, error) {
	id := param(e, "id")
	of := "/destinations/" + url.PathEscape(id)
	a := field(e, "audience")
	var no *refusal
	var err error
	switch do := field(e, "do"); do {
	case "deliver":
		_, no, err = c.ask(e, http.MethodPost, of+"/deliveries", nil, nil)
	case "try":
		var p *page
		if p, no, err = c.tryDelivery(e, id); p != nil {
			return p, nil
		}
	case "approve":
		_, no, err = c.ask(e, http.MethodPost, of+"/approval", nil, nil)
	case "replay":
		_, no, err = c.ask(e, http.MethodPost, of+"/replay", nil, nil)
	case "add", "drop":
		// All of the destination goes back as it came: the form shows one field of it.
		var d map[string]any
		var h http.Header
		if h, err = c.get(e, of, &d); err != nil {
			return nil, err
		}
		had, _ := d["audiences"].([]any)
		now := []any{}
		for _, x := range had {
			if x != a {
				now = append(now, x)
			}
		}
		if do == "add" && a != "" {
			now = append(now, a)
		}
		d["audiences"] = now
		_, no, err = c.ask(e, http.MethodPut, of, d, nil, "If-Match", h.Get("ETag"))
	default:
		return nil, errNothing
	}
	if err != nil {
		return nil, err
	}
	if no != nil {
		e.Set("refusal", no) // the page shows it where the buttons are
		p, err := c.destination(e)
		if p != nil {
			p.Status = no.Status
		}
		return p, err
	}
	return done(e, pathOf("destinations", id))
}

// refused is what was refused of a form, for the page that shows it.
func refused(e echo.Context) *refusal {
	no, _ := e.Get("refusal").(*refusal)
	return no
}

// undelivered are the audiences that a destination does not get.
func undelivered(all *audience.Catalog, has []taxonomy.AudienceID) (out []choice) {
	for _, a := range all.All() {
		if !slices.Contains(has, a.ID) {
			out = append(out, choice{string(a.ID), a.Title})
		}
	}
	return out
}
