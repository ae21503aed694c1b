package console

import (
	"net/http"
	"net/url"

	"github.com/labstack/echo/v4"

	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/segments/delivery"
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
	case "add", "drop", "suppress", "unsuppress":
		// All of the destination goes back as it came: the form shows one field of it.
		var d map[string]any
		var h http.Header
		if h, err = c.get(e, of, &d); err != nil {
			return nil, err
		}
		list := "audiences"
		if do == "suppress" || do == "unsuppress" {
			list = "suppress"
		}
		had, _ := d[list].([]any)
		now := []any{}
		for _, x := range had {
			if x != a {
				now = append(now, x)
			}
		}
		if (do == "add" || do == "suppress") && a != "" {
			now = append(now, a)
		}
		d[list] = now
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

// undelivered are the audiences that a destination neither gets nor suppresses by.
func undelivered(all *audience.Catalog, dest *delivery.Destination) (out []choice) {
	for _, a := range all.All() {
		if !dest.Names(a.ID) {
			out = append(out, choice{string(a.ID), a.Title})
		}
	}
	return out
}
