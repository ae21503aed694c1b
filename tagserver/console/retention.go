package console

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/retention/forget"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// placeRow is a place with its gauge.
type placeRow struct {
	forget.Place
	Gauge gauge
}

func places(r forget.Report) []placeRow {
	var rows []placeRow
	for _, p := range r.Places {
		rows = append(rows, placeRow{p, ageGauge(p.Age, p.Bound)})
	}
	return rows
}

var receiptID = regexp.MustCompile(`^[0-9a-f]{32}$`)

type retentionData struct {
	Report  forget.Report
	Places  []placeRow
	Nights  []Night
	HasPast bool // passes are kept at all
	// Asked is what was looked up, Receipt what was found.
	Asked   string
	Fault   string
	Receipt *forget.Receipt
	Oldest  taxonomy.Day
	Days    int
}

func (c *Console) retention(e echo.Context) (*page, error) {
	ctx := e.Request().Context()
	r := c.o.Audit(ctx)
	d := retentionData{Report: r, Places: places(r), HasPast: c.o.Nights != nil, Oldest: c.o.Now().Day().Oldest(), Days: taxonomy.RetentionDays}
	if c.o.Nights != nil {
		d.Nights = c.o.Nights(ctx)
	}
	d.Asked = strings.ToLower(strings.TrimSpace(e.QueryParam("receipt")))
	switch {
	case d.Asked == "":
	case !receiptID.MatchString(d.Asked):
		d.Fault = "A receipt has 32 digits from 0 to 9 and a to f. What was asked for has another form."
		if len(d.Asked) > 64 {
			d.Asked = ""
		}
	default:
		rc, err := c.o.Receipt(ctx, d.Asked)
		switch {
		case errors.Is(err, retention.ErrNotFound):
			d.Fault = "There is no such receipt. Receipts are kept for 100 days."
		case err != nil:
			return nil, fmt.Errorf("read a receipt: %w", err)
		default:
			d.Receipt = &rc
		}
	}
	return &page{Template: "retention", Title: "Retention", Section: base + "/retention", Data: d}, nil
}
