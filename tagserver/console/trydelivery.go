package console

import (
	"net/http"
	"net/url"

	"github.com/labstack/echo/v4"

	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// tried is a dry run of a delivery, as the API answers it.
type tried struct {
	delivery.Delivery
	MadeUp   bool `json:"made_up"`
	Visitors []struct {
		ID       string              `json:"id"`
		Audience taxonomy.AudienceID `json:"audience"`
		Segment  string              `json:"segment"`
		Remove   bool                `json:"remove"`
		Minutes  int                 `json:"minutes"`
	} `json:"visitors"`
	Files []struct {
		Name      string `json:"name"`
		MediaType string `json:"media_type"`
		Text      string `json:"text"`
		Base64    string `json:"base64"`
	} `json:"files"`
}

// tryDelivery shows what a delivery would send now.
func (c *Console) tryDelivery(e echo.Context, id string) (*page, *refusal, error) {
	var t tried
	// Its time is the API's, which is a text.
	var out struct {
		*tried
		At string `json:"at"`
	}
	out.tried = &t
	_, no, err := c.ask(e, http.MethodPost, "/destinations/"+url.PathEscape(id)+"/deliveries/dry-run", nil, &out)
	if err != nil || no != nil {
		return nil, no, err
	}
	row := newRunRow(t.Delivery)
	return &page{Template: "trydelivery", Title: "A delivery tried", Section: base + "/destinations", Data: struct {
		runRow
		ID     string
		Few    bool
		Tried  *tried
		Result string
	}{row, id, t.Held < audience.ShownFloor, &t, resultWords[t.Result]}}, nil, nil
}
