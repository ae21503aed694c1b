package tag

import (
	"os"
	"testing"
)

// loadFile loads another file of the tag, whose script element has attributes of
// its own.
func (p *page) loadFile(name, dataset string) *page {
	p.t.Helper()
	b, err := os.ReadFile("frozen/" + version(p.t) + "/" + name + ".js")
	if err != nil {
		p.t.Fatal(err)
	}
	p.run("document.currentScript={src:'https://data.example/t/1/" + name + ".js',dataset:" + dataset + "}")
	p.run(string(b))
	return p
}

const told = `[].concat.apply([],sent.map(function(s){return s.body.events.slice().map(function(e){return e.kind=='page'?'page':[e.kind,e.name,e.props]})}))`

func TestShopHelpersSayProductCartAndOrder(t *testing.T) {
	const calls = `ebb('product',{item_id:'a-1',item_name:'Red shoe',item_brand:'Acme',item_category:'Shoes',item_category2:'Red',price:59,currency:'EUR',internal:1});
		ebb('cart',[{sku:'a-1',quantity:2},{id:'b-2'}]); ebb('cart',{sku:'b-2'},'remove'); ebb('cart',null); ebb('cart',[]);
		ebb('order',{id:1234567890123,value:118,currency:'EUR'},[{sku:'a-1',price:59,quantity:2}]);`
	const want = `["page",["track","view_item",{"sku":"a-1","product":"Red shoe","brand":"Acme","category":"Shoes/Red","price":59,"currency":"EUR"}],` +
		`["track","add_to_cart",{"sku":"a-1","quantity":2}],["track","add_to_cart",{"sku":"b-2"}],["track","remove_from_cart",{"sku":"b-2"}],` +
		`["conversion","purchase",{"value":118,"currency":"EUR","items":1}],["track","purchase_item",{"sku":"a-1","price":59,"quantity":2,"currency":"EUR"}]]`
	const shop = "{site:'shop'}"
	// Whatever is there first: the calls, the tag or the helpers.
	for name, load := range map[string]func(p *page){
		"calls, tag, helpers": func(p *page) { p.run(calls); p.load(); p.loadFile("shop", shop) },
		"tag, calls, helpers": func(p *page) { p.load(); p.run(calls); p.loadFile("shop", shop) },
		"tag, helpers, calls": func(p *page) { p.load(); p.loadFile("shop", shop); p.run(calls) },
		"helpers, calls, tag": func(p *page) {
			p.loadFile("shop", shop)
			p.run(calls + "document.currentScript=script")
			p.load()
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPage(t)
			load(p)
			p.run("ebb('consent',true); step(1000)")
			got := p.run("JSON.stringify(" + told + ".sort(function(a,b){return (a=='page'?0:1)-(b=='page'?0:1)}))").String()
			if got != want {
				t.Errorf("%s\nwant %s", got, want)
			}
		})
	}
	// Calls of what never comes are bounded.
	p := newPage(t).load()
	p.run("for (var i=0;i<5000;i++) ebb('product',{sku:'s'+i})")
	p.loadFile("shop", shop).run("ebb('consent',true); step(1000)")
	p.want("[sent.length,sent[0].body.events.length<=20]", "[1,true]")
}

// An order counts once, however often its page is shown, and its number is not
// sent.
func TestAnOrderCountsOnce(t *testing.T) {
	ids := func(number string) string {
		p := newPage(t).load().loadFile("shop", "{site:'shop'}")
		p.run("ebb('consent',true); step(1000); sent=[]")
		p.run("ebb('order',{id:" + number + ",value:1},[{sku:'a'},{sku:'b'}]); ebb('order',{id:" + number + ",value:1},[{sku:'a'}]); step(1000)")
		p.want("[sent.length,JSON.stringify(sent).indexOf('4711')]", "[1,-1]")
		return p.run("JSON.stringify(sent[0].body.events.map(function(e){return e.id}))").String()
	}
	a, again, b := ids("'4711'"), ids("4711"), ids("'4712'")
	if a != again || a == b {
		t.Errorf("ids %s, again %s, of another %s", a, again, b)
	}
	p := newPage(t).load().loadFile("shop", "{site:'shop'}")
	p.run("ebb('consent',true); step(1000); sent=[]; ebb('order',{value:1}); ebb('order',{id:'',value:2}); step(1000)")
	p.want("sent[0].body.events.map(function(e){return e.props.value})", "[1,2]") // without a number nobody can tell
	p.want("/^order-[a-z]{14}(-\\d)?$/.test(JSON.parse('"+a+"')[1])", "true")
}

func TestADataLayerIsRead(t *testing.T) {
	const layer = "{site:'shop',layer:'dataLayer'}"
	for name, c := range map[string][2]string{
		"Tag Manager": {`{event:'add_to_cart',ecommerce:{currency:'EUR',items:[{item_id:'a-1',price:5}]}}`, `["track","add_to_cart",{"sku":"a-1","price":5,"currency":"EUR"}]`},
		"gtag":        {`(function(){return arguments})('event','view_item',{currency:'EUR',items:[{id:'a-1',name:'Shoe'}]})`, `["track","view_item",{"sku":"a-1","product":"Shoe","currency":"EUR"}]`},
		"purchase":    {`{event:'purchase',ecommerce:{transaction_id:'T-1',value:9,currency:'EUR',items:[{item_id:'a'}]}}`, `["conversion","purchase",{"value":9,"currency":"EUR","items":1}],["track","purchase_item",{"sku":"a","currency":"EUR"}]`},
		"Enhanced":    {`{ecommerce:{currencyCode:'USD',detail:{products:[{id:'d',category:'A/B'}]}}}`, `["track","view_item",{"sku":"d","category":"A/B","currency":"USD"}]`},
		"EE purchase": {`{ecommerce:{currencyCode:'USD',purchase:{actionField:{id:'T2',revenue:'7'},products:[{id:'d'}]}}}`, `["conversion","purchase",{"value":"7","currency":"USD","items":1}],["track","purchase_item",{"sku":"d","currency":"USD"}]`},
		"other":       {`{event:'login',user_email:'jane@example.com'}`, ``},
		"clearing":    {`{ecommerce:null}`, ``},
		"nonsense":    {`null,undefined,7,'x',[],{ecommerce:7},{event:'add_to_cart',ecommerce:{items:7}},{event:{},ecommerce:{}},{get ecommerce(){throw 1}}`, ``},
	} {
		t.Run(name, func(t *testing.T) {
			for _, late := range []bool{false, true} {
				p := newPage(t)
				p.run("var pushed=[]; window.dataLayer=[]; " + map[bool]string{false: "window.dataLayer.push(" + c[0] + ");"}[late])
				p.load().loadFile("shop", layer)
				if late {
					p.run("var before=window.dataLayer.length; if (window.dataLayer.push(" + c[0] + ")<=before) throw new Error('push does not answer as it did')")
				}
				p.run("ebb('consent',true); step(1000)")
				want := `["page"`
				if c[1] != "" {
					want += "," + c[1]
				}
				if got := p.run("JSON.stringify(" + told + ".sort(function(a,b){return (a=='page'?0:1)-(b=='page'?0:1)}))").String(); got != want+"]" && name != "nonsense" {
					t.Errorf("late %v: %s\nwant %s]", late, got, want)
				}
			}
		})
	}
}

func TestSettingsMayStandInTheAddress(t *testing.T) {
	p := newPage(t)
	p.run("script.dataset={}; script.src='https://data.example/t/1/ebb.js?site=shop&consent=manual&auto=false'")
	p.load().run("window.__tcfapi=function(){throw new Error('asked')}; ebb('consent',true); ebb('track','x'); step(1000)")
	p.want("[sent.length,sent[0].url,sent[0].body.site,sent[0].body.events.length]", `[1,"https://data.example/v1/e","shop",1]`)
	// What stands on the element counts; the page's own address never does.
	p = newPage(t)
	p.run("script.dataset={site:'shop'}; script.src='https://data.example/t/1/ebb.js?site=other'")
	p.load().run("ebb('consent',true); step(1000)")
	p.want("sent[0].body.site", `"shop"`)
	p = newPage(t)
	p.run("document.currentScript=null; location.href='https://shop.example/?site=shop&host=https://evil.example'")
	p.load().run("ebb('consent',true); step(1000)")
	p.want("sent.length", "0")
}
