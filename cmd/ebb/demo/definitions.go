package demo

import (
	"encoding/json"

	"github.com/ebb-dmp/ebb/retention/defs"
	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/rules"
	"github.com/ebb-dmp/ebb/taxonomy/tree"
)

// What the demo's definitions are called.
const (
	shop, news taxonomy.SiteID        = "demo-shop", "demo-news"
	purchases  taxonomy.SourceID      = "purchases"
	web        taxonomy.SourceID      = "web"
	dspAll     taxonomy.DestinationID = "fake-dsp-one"
	dspSome    taxonomy.DestinationID = "fake-dsp-two"
)

type definition struct {
	kind defs.Kind
	id   string
	body any
}

// definitions are all but the destinations, in an order in which each names only
// what stands before it.
func definitions(products tree.Taxonomy, page string) []definition {
	list := []definition{
		{defs.Source, string(web), taxonomy.Source{ID: web, Title: "The demo's own sites", Party: 1}},
		{defs.Source, string(purchases), taxonomy.Source{ID: purchases, Title: "Complete Journey, by 84.51° (CC0)", Party: 1, Owner: "84.51°",
			Agreement: &taxonomy.Agreement{Uses: []string{"store", "profile", "insight", "training", "export"}}}},
		{defs.Site, string(shop), taxonomy.Site{ID: shop, Title: "The demo's shop", Origins: []string{page}, Source: web, Consent: taxonomy.ModeOptIn, QueryKeys: []string{"q", "product"}}},
		{defs.Site, string(news), taxonomy.Site{ID: news, Title: "The demo's magazine", Origins: []string{"https://news.example"}, Source: web, Consent: taxonomy.ModeOptIn}},
		{defs.Taxonomy, products.ID, products},
	}
	for _, r := range []rules.Rule{
		{ID: "purchase", Title: "What was bought", When: []rules.Condition{{Field: "kind", Op: "eq", Value: "fact"}},
			Then: []string{"c:products/{department}", "c:products/{department}.{product_category}"}},
		{ID: "wine-pages", Title: "Pages about wine", Sites: []taxonomy.SiteID{shop, news},
			When: []rules.Condition{{Field: "path", Op: "prefix", Value: "/wine"}}, Then: []string{"c:iab-content-3.1/" + iabWine}},
		{ID: "cooking-pages", Title: "Pages about cooking", Sites: []taxonomy.SiteID{shop, news},
			When: []rules.Condition{{Field: "path", Op: "prefix", Value: "/recipes"}}, Then: []string{"c:iab-content-3.1/" + iabCooking}},
	} {
		list = append(list, definition{defs.Rule, r.ID, r})
	}
	for _, a := range audiences() {
		list = append(list, definition{defs.Audience, string(a.ID), a})
	}
	return list
}

// Categories of IAB Content 3.1 that the demo's pages are about.
const (
	iabCooking = "216" // Cooking
	iabWine    = "211" // Alcoholic Beverages
)

func audiences() []audience.Definition {
	rule := func(id taxonomy.AudienceID, title, rule string) audience.Definition {
		return audience.Definition{ID: id, Title: title, Kind: audience.KindRule, Rule: json.RawMessage(rule)}
	}
	readers := rule("wine-readers", "Read about wine this week",
		`{"trait":"c:iab-content-3.1/`+iabWine+`","window":"7d"}`)
	readers.Page = true
	return []audience.Definition{
		rule("grocery-regulars", "Bought groceries on 3 days or more in 30",
			`{"trait":"c:products/grocery","window":"30d","unit":"days","min":3}`),
		rule("produce-30d", "Bought fruit or vegetables in 30 days",
			`{"trait":"c:products/produce","window":"30d"}`),
		rule("no-meat", "Bought groceries in 90 days, and no meat",
			`{"and":[{"trait":"c:products/grocery"},{"not":{"or":[{"trait":"c:products/meat"},{"trait":"c:products/meat-pckgd"}]}}]}`),
		rule("lapsing", "Last bought anything 21 to 60 days ago",
			`{"and":[{"any":true},{"trait":"c:products/grocery","last_seen":{"min_days":21,"max_days":60}}]}`),
		rule("bakery-and-deli", "Bought pastry or deli at least twice in 60 days",
			`{"or":[{"trait":"c:products/pastry","window":"60d","min":2},{"trait":"c:products/deli","window":"60d","min":2}]}`),
		rule("cosmetics", "Bought cosmetics in 90 days", `{"trait":"c:products/cosmetics"}`),
		rule("fresh-regulars", "Regulars who buy fresh food",
			`{"and":[{"audience":"grocery-regulars"},{"audience":"produce-30d"}]}`),
		readers,
		{ID: "like-produce", Title: "People like those who buy fruit and vegetables", Kind: audience.KindLookalike,
			Lookalike: &audience.LookalikeSpec{Seed: "produce-30d", Size: 300}},
	}
}

func destinations() []delivery.Destination {
	return []delivery.Destination{
		{ID: dspAll, Title: "Fake DSP one: takes everything", IDs: delivery.ByPseudonym, Floor: Floor,
			Audiences: []taxonomy.AudienceID{"grocery-regulars", "produce-30d", "no-meat", "lapsing", "fresh-regulars", "like-produce"}},
		{ID: dspSome, Title: "Fake DSP two: fresh food", IDs: delivery.ByPseudonym, Floor: Floor,
			Audiences: []taxonomy.AudienceID{"produce-30d", "bakery-and-deli", "wine-readers"}, SyncURL: "https://dsp.example/sync?id=" + delivery.EbbID},
	}
}
