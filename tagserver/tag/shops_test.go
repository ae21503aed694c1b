package tag

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/ebb-dmp/ebb/tagserver"
)

// shopPage is a page as a shop's own documentation has it: markup, consent and
// what happens when somebody buys.
type shopPage struct {
	shop, path, body string
	head             string // before the snippet
	// yes gives consent the shop's way; then act is run.
	yes, act string
	want     []string // events, besides the page view
	props    string   // of the first of them, as JSON
}

const structured = `<script type="application/ld+json">{"@context":"https://schema.org/","@graph":[{"@type":"BreadcrumbList"},{"@context":"https://schema.org/","@type":"Product","@id":"https://shop.example/product/hoodie/#product","name":"Hoodie","sku":"woo-h1","offers":[{"@type":"Offer","priceSpecification":[{"@type":"UnitPriceSpecification","price":"42.00","priceCurrency":"EUR"}],"availability":"http://schema.org/InStock"}]}]}</script>`

const microdata = `<div itemscope itemtype="https://schema.org/Product"><h1 itemprop="name">Backpack</h1><span itemprop="sku" content="24-MB01">24-MB01</span><div itemprop="offers" itemscope itemtype="https://schema.org/Offer"><meta itemprop="price" content="34"><meta itemprop="priceCurrency" content="USD"></div></div>`

// fakes of what the shops' own scripts offer, by their documentation.
const (
	customerPrivacy = `window.Shopify={said:{marketing:'',analytics:''},loadFeatures:function(f,cb){setTimeout(function(){Shopify.customerPrivacy={currentVisitorConsent:function(){return Shopify.said},marketingAllowed:function(){return Shopify.said.marketing==='yes'},analyticsProcessingAllowed:function(){return Shopify.said.analytics==='yes'}};cb()},20)}};`
	jqueryOn        = `window.handlers={};function $(){return {on:function(n,f){handlers[n]=f}}};window.jQuery=$;window.require=function(names,f){f($)};`
	emitter         = `document.$emitter={subscribe:function(n,f){this[n]=f}};`
)

var shopPages = []shopPage{
	{shop: "datalayer", path: "/p", head: `window.dataLayer=[{event:'view_item',ecommerce:{currency:'EUR',items:[{item_id:'a-1',item_name:'Shoe',price:59}]}}];`,
		yes: `ebb('consent',true)`, act: `dataLayer.push({event:'add_to_cart',ecommerce:{items:[{item_id:'a-1'}]}})`,
		want: []string{"view_item", "add_to_cart"}, props: `{"currency":"EUR","price":59,"product":"Shoe","sku":"a-1"}`},
	{shop: "gtm", path: "/g", head: `window.dataLayer=[];function gtag(){dataLayer.push(arguments)};gtag('js',new Date());gtag('event','view_item',{currency:'EUR',items:[{item_id:'g-1'}]});`,
		yes: `ebb('consent',true)`, act: `gtag('event','purchase',{transaction_id:'T1',value:20,currency:'EUR',items:[{item_id:'g-1'}]})`,
		want: []string{"view_item", "purchase", "purchase_item"}, props: `{"currency":"EUR","sku":"g-1"}`},
	{shop: "shopify", path: "/products/shoe", head: customerPrivacy, body: `<form method="post" action="/cart/add" onsubmit="return false"><button id="buy">Add to cart</button></form>`,
		yes: `(Shopify.said={marketing:'yes',analytics:'yes'},document.dispatchEvent(new CustomEvent('visitorConsentCollected',{detail:{marketingAllowed:true}})))`, act: `document.getElementById('buy').click()`,
		want: []string{"view_item", "add_to_cart"}, props: `{"brand":"Acme","category":"Shoes","currency":"EUR","price":59.9,"product":"Red \"shoe\"","sku":"shop-1"}`},
	{shop: "woocommerce", path: "/product/hoodie", head: jqueryOn + `window.allowed=false;window.wp_has_consent=function(c){return allowed};`,
		body: structured + `<form class="cart" method="post" onsubmit="return false"><input name="quantity" value="2"><button id="buy" name="add-to-cart" value="7">Add</button></form>`,
		yes:  `document.dispatchEvent(new CustomEvent('wp_listen_for_consent_change',{detail:{marketing:'allow'}}))`,
		act:  `(document.getElementById('buy').click(),handlers.added_to_cart({},{},'',{data:function(k){return {product_sku:'woo-2',quantity:1}[k]}}))`,
		want: []string{"view_item", "add_to_cart", "add_to_cart"}, props: `{"currency":"EUR","price":"42.00","product":"Hoodie","sku":"woo-h1"}`},
	{shop: "woocommerce", path: "/checkout/order-received/4711/", body: `<ul class="woocommerce-order-overview"><li class="woocommerce-order-overview__total total">Total: <strong><span class="woocommerce-Price-amount amount"><bdi>1.234,50&nbsp;<span>€</span></bdi></span></strong></li></ul>`,
		yes: `ebb('consent',true)`, act: `0`, want: []string{"purchase"}, props: `{"value":1234.5}`},
	{shop: "magento", path: "/backpack.html", head: jqueryOn, body: `<div class="product-info-main">` + microdata + `</div>`,
		yes: `handlers['user:allowed:save:cookie']()`, act: `handlers['ajax:addToCart']({},{sku:'24-MB01',productIds:['1']})`,
		want: []string{"view_item", "add_to_cart"}, props: `{"currency":"USD","price":34,"product":"Backpack","sku":"24-MB01"}`},
	{shop: "magento", path: "/checkout/onepage/success/", body: `<div class="checkout-success"><p>Your order number is: <a class="order-number"><strong>000000042</strong></a>.</p></div>`,
		yes: `ebb('consent',true)`, act: `0`, want: []string{"purchase"}, props: `{}`},
	{shop: "shopware", path: "/Backpack/SW1", head: emitter, body: microdata + `<form action="/checkout/line-item/add" method="post" onsubmit="return false"><button id="buy">Add</button></form>`,
		yes: `document.$emitter.CookieConfiguration_Update({detail:{'ebb-consent':true}})`, act: `document.getElementById('buy').click()`,
		want: []string{"view_item", "add_to_cart"}, props: `{"currency":"USD","price":34,"product":"Backpack","sku":"24-MB01"}`},
	{shop: "shopware", path: "/checkout/finish", body: `<p class="finish-ordernumber">Your order number: #10023</p>`,
		yes: `ebb('consent',true)`, act: `0`, want: []string{"purchase"}, props: `{}`},
}

// bodies are the classes that the shops give to the pages above.
var bodies = map[string]string{"/product/hoodie": "single-product", "/checkout/order-received/4711/": "woocommerce-order-received", "/backpack.html": "catalog-product-view",
	"/checkout/onepage/success/": "checkout-onepage-success", "/Backpack/SW1": "is-ctl-product is-act-index", "/checkout/finish": "is-ctl-checkout is-act-finishpage"}

// rendered does with a snippet what the shop's template engine does, as far as
// these snippets need it: Liquid's conditions and values, Twig's comments and
// blocks.
func rendered(text string) string {
	text = regexp.MustCompile(`(?s)\{%-? comment -?%\}.*?\{%-? endcomment -?%\}|\{#.*?#\}`).ReplaceAllString(text, "")
	values := map[string]string{"product.selected_or_first_available_variant.sku | json": `"shop-1"`, "product.title | json": `"Red \"shoe\""`, "product.vendor | json": `"Acme"`,
		"product.type | json": `"Shoes"`, "product.selected_or_first_available_variant.price | divided_by: 100.0 | json": `59.9`, "cart.currency.iso_code | json": `"EUR"`, "parent()": ""}
	text = regexp.MustCompile(`\{\{(.*?)\}\}`).ReplaceAllStringFunc(text, func(m string) string {
		v, ok := values[strings.TrimSpace(m[2:len(m)-2])]
		if !ok {
			return "the test knows no value for " + m
		}
		return v
	})
	return regexp.MustCompile(`\{%.*?%\}`).ReplaceAllString(text, "")
}

// Each snippet on a page of its shop, in a real browser: nothing before the
// visitor's answer as the shop has it, then product, cart and order.
func TestLongShopSnippetsInABrowser(t *testing.T) {
	browser := chromium(t)
	for _, c := range shopPages {
		t.Run(c.shop+" "+c.path, func(t *testing.T) {
			e, s := newEdge(t), newSite(t)
			snippet, err := tagserver.SnippetFor(c.shop, e.URL, "shop", false)
			if err != nil {
				t.Fatal(err)
			}
			s.put(c.path, `<!doctype html><html><head><script>`+errors+c.head+`</script>`+rendered(snippet)+`</head><body class="`+bodies[c.path]+`">`+c.body+`</body></html>`)
			b := newTab(t, browser).open(s.URL + c.path)
			eventually(t, func() string {
				return unless(b.js(`!!(window.ebb&&ebb.v)`) == "true", "the tag is not there")
			})
			b.js(`new Promise(function(r){setTimeout(r,500)})`)
			if n := len(e.all()); n != 0 {
				t.Errorf("%d requests before the visitor's answer", n)
			}
			b.js(c.yes)
			b.js(c.act)
			b.js(`ebb('flush')`)
			eventually(t, func() string {
				var got []string
				for _, name := range e.events() {
					if !strings.HasPrefix(name, "page ") {
						got = append(got, name)
					}
				}
				// Two requests may overtake each other.
				slices.Sort(got)
				want := slices.Sorted(slices.Values(c.want))
				return unless(slices.Equal(got, want), fmt.Sprintf("the edge took %q, want %q", got, want))
			})
			for _, q := range e.all() {
				for _, ev := range q.Body.Events {
					if ev.Name == c.want[0] {
						if p, _ := json.Marshal(ev.Props); string(p) != c.props && !(c.props == "{}" && len(ev.Props) == 0) {
							t.Errorf("%s carries %s, want %s", ev.Name, p, c.props)
						}
					}
				}
				for i := range q.Body.Events {
					q.Body.Events[i].ID = "" // random: it may hold any digits
				}
				if raw, _ := json.Marshal(q.Body); strings.Contains(string(raw), "000000042") || strings.Contains(string(raw), "10023") {
					t.Errorf("an order's number was sent: %s", raw)
				}
			}
			b.want(`errors`, `[]`)
		})
	}
}

func TestSnippetsForShopsMayBeFrozen(t *testing.T) {
	for _, shop := range tagserver.Shops {
		text, err := tagserver.SnippetFor(shop, "https://data.shop.example", "shop", false)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(text, "HOST") || strings.Contains(text, "SITE") || strings.Contains(text, "STUB") || !strings.Contains(text, "https://data.shop.example/t/1/ebb.js") || !strings.Contains(text, tagserver.TagStub) {
			t.Errorf("%s: %s", shop, text)
		}
		frozen, err := tagserver.SnippetFor(shop, "https://data.shop.example", "shop", true)
		if shop == "gtm" {
			if err == nil {
				t.Error("Tag Manager drops integrity, and nobody says so")
			}
			continue
		}
		if err != nil || strings.Contains(frozen, "/t/1/") || !strings.Contains(frozen, "/t/"+tagserver.TagVersion+`/ebb.js" integrity="sha384-`) {
			t.Errorf("%s, frozen: %v %s", shop, err, frozen)
		}
	}
	if _, err := tagserver.SnippetFor("../ebb", "h", "s", false); err == nil {
		t.Error("a shop that nobody knows")
	}
}
