package tag

import (
	"os"
	"strings"
	"testing"

	"github.com/dop251/goja"
)

// page runs the served file in an interpreter, on a page that is a dozen fakes:
// what a browser does with it is the browser test's business.
type page struct {
	*goja.Runtime
	t *testing.T
}

func newPage(t *testing.T) *page {
	t.Helper()
	p := &page{goja.New(), t}
	b, err := os.ReadFile("testdata/page.js")
	if err != nil {
		t.Fatal(err)
	}
	p.run(string(b))
	return p
}

func (p *page) run(js string) goja.Value {
	p.t.Helper()
	v, err := p.RunString(js)
	if err != nil {
		p.t.Fatalf("%.80s: %v", js, err)
	}
	return v
}

func (p *page) load() *page {
	p.t.Helper()
	b, err := os.ReadFile("frozen/" + version(p.t) + "/ebb.js")
	if err != nil {
		p.t.Fatal(err)
	}
	p.run(string(b))
	return p
}

func (p *page) want(js, want string) {
	p.t.Helper()
	if got := p.run("JSON.stringify(" + js + ")").String(); got != want {
		p.t.Errorf("%s is %s, want %s", js, got, want)
	}
}

const kinds = `sent.map(function(s){return s.body.events.map(function(e){return e.name||e.kind}).join(' ')})`

func TestNothingIsSentBeforeConsent(t *testing.T) {
	for _, calls := range []string{"", "ebb('track','x');ebb('page');ebb('flush')", "ebb('consent',false)", "ebb('consent')", "ebb('consent','true')", "ebb('consent',1)", "ebb('audiences',function(){})"} {
		p := newPage(t).load()
		p.run(calls)
		p.run("step(60000); fire('pagehide'); document.visibilityState='hidden'; fire('visibilitychange'); step(60000)")
		p.want("[sent.length,beacons.length,Object.keys(store).length]", "[0,0,0]")
	}
}

func TestConsentReleasesWhatWaited(t *testing.T) {
	p := newPage(t)
	p.run("ebb('track','early',{sku:'a-1'})") // into the stub's queue
	p.load()
	p.run("ebb('track','later'); ebb('consent',true,{tcf:'CP',gpp:'DB'}); step(0)")
	p.want(kinds, `["early page later"]`)
	p.want("[sent[0].url,sent[0].method,sent[0].keepalive,sent[0].credentials,sent[0].type,sent[0].headers]", `["https://data.example/v1/e","POST",true,"include","text/plain",1]`)
	p.want("[sent[0].body.site,sent[0].body.sent,sent[0].body.consent]", `["shop",1764063000000,{"tcf":"CP","gpp":"DB","granted":true}]`)
	p.want("sent[0].body.events[0]", `{"id":"e0e1e2e3e4e5e6e7","t":1764063000000,"kind":"track","name":"early","url":"https://shop.example/a","ref":"https://search.example/","props":{"sku":"a-1"}}`)
	p.want("store", `{"ebb:shop":"{\"y\":1}"}`) // a mark, no ID
}

func TestEventsAreBatched(t *testing.T) {
	p := newPage(t).load()
	p.run("ebb('consent',true); step(0); ebb('track','a'); step(200); ebb('track','b'); step(99)")
	p.want("sent.length", "1") // the first page view
	p.run("step(1)")
	p.want(kinds, `["page","a b"]`)
	p.run("ebb('track','c'); ebb('flush')")
	p.want(kinds, `["page","a b","c"]`)
	p.run("for (var i=0;i<200;i++) ebb('track','n'); ebb('flush'); step(100000)")
	p.want("sent[3].body.events.length", "100") // bounded
	p.want("sent.length", "4")
}

func TestOnePageViewAnAddress(t *testing.T) {
	p := newPage(t)
	p.run("ebb('page')")
	p.load().run("ebb('page'); ebb('consent',true); step(1000); ebb('page'); step(1000); location.href='https://shop.example/b'; ebb('page'); step(1000); ebb('page',{shown:'modal'}); step(1000)")
	p.want("sent.map(function(s){return s.body.events.length+' '+s.body.events[0].url})", `["1 https://shop.example/a","1 https://shop.example/b","1 https://shop.example/b"]`)
	p = newPage(t)
	p.run("script.dataset.auto='false'")
	p.load().run("ebb('consent',true); step(1000)")
	p.want("sent.length", "0")
}

func TestAPageThatIsLeftSendsByBeacon(t *testing.T) {
	p := newPage(t).load()
	p.run("ebb('consent',true); step(1000); ebb('track','last'); fire('pagehide'); fire('visibilitychange'); step(10000)")
	p.want("[sent.length,beacons.length]", "[1,1]")
	p.want("[beacons[0].url,beacons[0].type,beacons[0].body.events[0].name,beacons[0].body.consent.granted]", `["https://data.example/v1/e","text/plain","last",true]`)
	// What a browser does not take, or takes offline, waits for the next page.
	for _, no := range []string{"navigator.sendBeacon=function(){return false}", "navigator.onLine=false", "navigator.sendBeacon=undefined"} {
		p = newPage(t).load()
		p.run(no + "; ebb('consent',true); step(1000); ebb('track','last'); document.visibilityState='hidden'; fire('visibilitychange')")
		p.want("[sent.length,beacons.length,JSON.parse(store['ebb:shop']).q.length]", "[1,0,1]")
		p.run("timers=[]; listeners={}; window.ebb=undefined")
		p.load().run("ebb('consent',true); step(1000)")
		p.want("[sent[1].body.events.map(function(e){return e.name||e.kind}),store]", `[["last","page"],{"ebb:shop":"{\"y\":1,\"q\":[]}"}]`)
	}
}

func TestWithdrawalTellsTheEdgeAndStops(t *testing.T) {
	p := newPage(t).load()
	p.run("ebb('consent',true); step(1000); ebb('track','unsent'); ebb('consent',false); ebb('track','after'); fire('pagehide'); step(100000)")
	p.want("[sent.length,beacons.length,sent[1].body.consent.granted,sent[1].body.events.length]", "[2,0,false,0]")
	p.want("store", "{}")
	// Granted on an earlier page, refused on this one.
	p = newPage(t)
	p.run("store['ebb:shop']='{\"y\":1}'")
	p.load().run("ebb('consent',false); ebb('consent',false)")
	p.want("[sent.length,sent[0].body.consent.granted]", "[1,false]")
	// And agreed again.
	p.run("ebb('consent',true); ebb('track','again'); step(1000)")
	p.want("sent[1].body.consent.granted", "true")
}

func TestGlobalPrivacyControlIsANo(t *testing.T) {
	p := newPage(t)
	p.run("navigator.globalPrivacyControl=true")
	p.load().run("ebb('consent',true); ebb('track','x'); step(10000); fire('pagehide')")
	p.want("[sent.length,beacons.length,Object.keys(store).length]", "[0,0,0]")
}

func TestOptOutAndOptIn(t *testing.T) {
	p := newPage(t).load()
	p.run("ebb('consent',true); step(1000); ebb('optout'); ebb('track','x'); step(10000); fire('pagehide')")
	p.want("[sent.length,beacons.length,sent[1].url,sent[1].method,sent[1].credentials,sent[1].type]", `[2,0,"https://data.example/v1/optout","POST","include","text/plain"]`)
	p.run("ebb('optin')")
	p.want("sent[2].url", `"https://data.example/v1/optin"`)
}

func TestAudiencesAlwaysCallBack(t *testing.T) {
	p := newPage(t).load()
	p.run("var got=[]; function cb(l){got.push(l)}; ebb('audiences',cb)")
	p.want("[got.length,sent.length]", "[0,0]")
	p.run("ebb('consent',true,{tcf:'C P',usp:'1YNN'}); step(1000)")
	p.want("sent.filter(function(s){return s.method=='GET'}).map(function(s){return [s.url,s.credentials]})", `[["https://data.example/v1/seg?site=shop&tcf=C%20P&usp=1YNN&consent=1","include"]]`)
	p.want("got", `[[{"id":"a","slug":"a"}]]`)
	p.run("status=403; ebb('audiences',cb)")
	p.run("status=200; offline=true; ebb('audiences',cb)")
	p.run("offline=false; ebb('consent',false); ebb('audiences',cb)")
	p.want("got.slice(1)", "[[],[],[]]")
	p.run("ebb('audiences',function(){throw new Error('page bug')}); ebb('audiences'); 1")
}

func TestWhatWasNotTakenComesAgain(t *testing.T) {
	p := newPage(t).load()
	p.run("Math.random=function(){return 0.5}; status=503; ebb('consent',true); step(0)")
	p.want("JSON.parse(store['ebb:shop']).q.length", "1") // for the next page, if there is none here
	p.run("step(999)")
	p.want("sent.length", "1")
	p.run("step(1)")
	p.run("status=200")
	p.want("[sent.length,sent[0].body.events[0].id==sent[1].body.events[0].id]", "[2,true]")
	p.run("step(2000)") // the second 503's retry
	p.want("[sent.length,store]", `[3,{"ebb:shop":"{\"y\":1,\"q\":[]}"}]`)
	p.run("step(100000)")
	p.want("sent.length", "3")
	// Retry-After is kept.
	p = newPage(t).load()
	p.run("status=429; retryAfter='30'; ebb('consent',true); step(0)")
	p.run("step(29999)")
	p.want("sent.length", "1")
	p.run("step(1)")
	p.want("sent.length", "2")
	// What is refused for good is not repeated; the rest is, at most a minute
	// apart.
	for _, c := range [][2]string{{"status=400", "1"}, {"status=401", "1"}, {"status=403", "1"}, {"status=410", "1"}, {"status=413", "1"}, {"status=422", "1"}, {"status=408", "21"}, {"status=500", "21"}, {"offline=true", "21"}} {
		p = newPage(t).load()
		p.run(c[0] + "; ebb('consent',true); step(0)")
		for range 20 {
			p.run("step(60000)")
		}
		p.want("sent.length", c[1])
	}
	// A withdrawal ends retries, and nothing is left of what waited.
	p = newPage(t).load()
	p.run("status=503; ebb('consent',true); step(0)")
	p.run("ebb('consent',false); step(1000000)")
	p.want("[sent.map(function(s){return s.body.consent.granted}),store]", "[[true,false],{}]")
}

// An answer that the platform of the page gives; the edge decides again.
func TestPlatformsAreRead(t *testing.T) {
	const tcf = `var say; window.__tcfapi=function(c,v,f){ say=function(o){f(Object.assign({eventStatus:'tcloaded',gdprApplies:true,tcString:'CP',purpose:{consents:{1:true,3:true,4:true}},vendor:{consents:{}}},o),true)} };`
	const gpp = `var say; window.__gpp=function(c,f,p){ if(c=='getSection') return f(sections[p],true); say=function(o){f({pingData:Object.assign({signalStatus:'ready',applicableSections:[7],supportedAPIs:['2:tcfeuv2','7:usnat','8:usca'],gppString:'DB'},o)},true)} };`
	for name, c := range map[string]struct{ page, say, want string }{
		"TCF yes":                  {tcf, "say()", `[[null,"CP",null,null]]`},
		"TCF not answered":         {tcf, "say({eventStatus:'cmpuishown'})", `[]`},
		"TCF silent":               {tcf, "1", `[]`},
		"TCF no purpose 4":         {tcf, "say({purpose:{consents:{1:true,3:true}}})", `[]`},
		"TCF broken":               {tcf, "say({purpose:null})", `[]`},
		"TCF does not apply":       {tcf, "say({gdprApplies:false})", `[[null,"",null,null]]`},
		"TCF vendor no":            {tcf + "script.dataset.tcfVendor='12';", "say()", `[]`},
		"TCF vendor yes":           {tcf + "script.dataset.tcfVendor='12';", "say({vendor:{consents:{12:true}}})", `[[null,"CP",null,null]]`},
		"TCF yes and page no":      {tcf, "say(); ebb('consent',false)", `[]`},
		"GPP no opt-out":           {gpp + "var sections={usnat:[{SaleOptOut:2,Gpc:false}]};", "say()", `[[null,null,"DB","7"]]`},
		"GPP opt-out":              {gpp + "var sections={usnat:[{SaleOptOut:2},{SharingOptOut:1}]};", "say()", `[]`},
		"GPP with GPC":             {gpp + "var sections={usnat:[{SaleOptOut:2},{Gpc:true}]};", "say()", `[]`},
		"GPP not ready":            {gpp + "var sections={usnat:{}};", "say({signalStatus:'not ready'})", `[]`},
		"GPP section unknown":      {gpp + "var sections={};", "say()", `[]`},
		"GPP no law applies":       {gpp + "var sections={};", "say({applicableSections:[-1]})", `[[null,null,"",""]]`},
		"GPP Europe without TCF":   {gpp + "var sections={};", "say({applicableSections:[2]})", `[]`},
		"GPP Canada":               {gpp + "var sections={};", "say({applicableSections:[5]})", `[]`},
		"GPP API not listed":       {gpp + "var sections={};", "say({applicableSections:[9]})", `[]`},
		"GPP lists no APIs":        {gpp + "var sections={usca:{SaleOptOut:2}};", "say({applicableSections:[8],supportedAPIs:undefined})", `[[null,null,"DB","8"]]`},
		"GPP no APIs, opt-out":     {gpp + "var sections={usri:{SaleOptOut:1}};", "say({applicableSections:[27],supportedAPIs:undefined})", `[]`},
		"GPP no APIs, last state":  {gpp + "var sections={usri:{SaleOptOut:2}};", "say({applicableSections:[27],supportedAPIs:undefined})", `[[null,null,"DB","27"]]`},
		"GPP a state to come":      {gpp + "var sections={usnat:{SaleOptOut:2}};", "say({applicableSections:[28]})", `[]`},
		"default granted, nobody":  {"script.dataset.default='granted';", "1", `[[null,null,null,null]]`},
		"default granted, unasked": {"script.dataset.default='granted';" + tcf, "1", `[]`},
		"mode none":                {"script.dataset.consent='none';", "1", `[[null,null,null,null]]`},
		"mode none and GPC":        {"script.dataset.consent='none';navigator.globalPrivacyControl=true;", "1", `[]`},
		"manual does not look":     {"script.dataset.consent='manual';" + tcf, "1", `[]`},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPage(t)
			p.run(c.page)
			p.load().run("for (var i=0;i<40;i++) step(100)")
			p.run(c.say)
			p.run("step(1000)")
			p.want("sent.filter(function(s){return s.body.events.length}).map(function(s){var c=s.body.consent; return [c.granted,c.tcf,c.gpp,c.gpp_sid].map(function(x){return x===undefined?null:x})})", c.want)
		})
	}
	for usp, sent := range map[string]string{"1YNN": "1", "1---": "1", "1YYN": "0"} {
		p := newPage(t)
		p.run("window.__uspapi=function(c,v,f){f({uspString:'" + usp + "'},true)}")
		p.load().run("step(1000)")
		p.want("sent.length", sent)
	}
}

// Withdrawing in the platform's own window is a withdrawal.
func TestAPlatformsWithdrawalStops(t *testing.T) {
	p := newPage(t)
	p.run(`var say; window.__tcfapi=function(c,v,f){ say=function(y){f({eventStatus:'useractioncomplete',tcString:'C'+y,purpose:{consents:{1:y,3:y,4:y}},vendor:{}},true)} }`)
	p.load().run("say(true); step(0)")
	p.run("say(false); ebb('track','after'); step(1000)")
	p.want("[sent.map(function(s){return [s.body.consent,s.body.events.length]}),store]", `[[[{"tcf":"Ctrue"},1],[{"tcf":"Cfalse","granted":false},0]],{}]`)
}

func TestSinglePageSitesAreFollowed(t *testing.T) {
	p := newPage(t).load()
	p.run("ebb('consent',true); var r=window.history.pushState(0,'','https://shop.example/b'); step(0); window.history.replaceState(0,'','https://shop.example/b?x=2'); step(0); location.href='https://shop.example/a'; fire('popstate'); step(0); fire('pageshow',{persisted:true}); fire('pageshow',{persisted:false}); step(1000)")
	p.want("r", `"pushed"`)
	p.want("[].concat.apply([],sent.map(function(s){return s.body.events.map(function(e){return e.url})}))", `["https://shop.example/a","https://shop.example/b","https://shop.example/a","https://shop.example/a"]`)
	p = newPage(t)
	p.run("script.dataset.spa='hash'; location.href='https://shop.example/app/#!/cart?x=1'")
	p.load().run("ebb('consent',true); location.href='https://shop.example/app/#/pay'; fire('hashchange'); step(0); step(1000)")
	p.want("[].concat.apply([],sent.map(function(s){return s.body.events.map(function(e){return e.url})}))", `["https://shop.example/app/cart","https://shop.example/app/pay"]`)
}

func TestPropertiesAreCutToWhatTheEdgeTakes(t *testing.T) {
	p := newPage(t).load()
	p.run("var big={}; for (var i=0;i<40;i++) big['k'+i]=i; ebb('consent',true); ebb('set',{plan:'b'}); ebb('track',Array(99).join('n'),{a:Array(400).join('x'),b:Array(400).join('é'),n:1.5,f:false}); ebb('track','many',big); ebb('track','item',[{sku:'a'},{sku:'b'}]); ebb('conversion','order',{value:5}); step(1000)")
	p.want("sent[0].body.events.slice(1).map(function(e){var q=e.props; return [e.kind,e.name.length,Object.keys(q).length,q.plan,(q.a||'').length,(q.b||'').length,q.n,q.f]})",
		`[["track",64,5,"b",256,85,1.5,false],["track",4,32,"b",0,0,null,null],["track",4,2,"b",0,0,null,null],["track",4,2,"b",0,0,null,null],["conversion",5,2,"b",0,0,null,null]]`)
}

func TestAnOptOutIsToldUntilItIsHeard(t *testing.T) {
	p := newPage(t).load()
	p.run("ebb('consent',true); step(1000); offline=true; ebb('optout')")
	p.want("store", `{"ebb:shop":"{\"o\":1}"}`)
	p.run("offline=false; sent=[]; timers=[]; listeners={}; window.ebb=undefined")
	p.load().run("ebb('consent',true); ebb('track','x'); step(1000); fire('pagehide')")
	p.want("[sent.map(function(s){return s.url}),store,beacons.length]", `[["https://data.example/v1/optout"],{"ebb:shop":"{\"o\":2}"},0]`)
	p.run("ebb('optin')")
	p.run("ebb('track','y'); step(1000)")
	p.want("[sent.length,sent[1].url,sent[2].body.events[0].name]", `[3,"https://data.example/v1/optin","y"]`)
}

func TestItNeverThrowsIntoThePage(t *testing.T) {
	p := newPage(t).load()
	p.run("ebb(); ebb('nothing'); ebb('toString'); ebb('track'); ebb(null); ebb('consent',true,7); ebb('track','x',{get a(){throw 1}}); step(1000); 1")
	p = newPage(t)
	p.run("brokenStorage=true")
	p.load().run("ebb('consent',true); step(1000)")
	p.want("sent.length", "1")
	p = newPage(t)
	p.run("window.fetch=function(){throw new Error('blocked')}")
	p.load().run("ebb('consent',true); ebb('optout'); ebb('audiences',function(){}); fire('pagehide')")
	p = newPage(t)
	p.run("document.currentScript=null")
	p.load().run("ebb('track','x')") // no script element: the stub goes on collecting, nothing breaks
}

func TestASecondInclusionDoesNothing(t *testing.T) {
	p := newPage(t).load()
	p.run("var first=window.ebb")
	p.load().run("ebb('consent',true); step(1000)")
	p.want("[first===window.ebb,sent.length]", "[true,1]")
}

func TestPrerenderedPagesWait(t *testing.T) {
	p := newPage(t)
	p.run("document.prerendering=true; ebb('consent',true)")
	p.load().run("ebb('track','early'); step(10000); fire('pagehide')")
	p.want("[sent.length,beacons.length]", "[0,0]")
	p.run("document.prerendering=false; fire('prerenderingchange'); step(10000)")
	p.want(kinds, `["early page"]`)
}

func TestTheEdgeMayLieElsewhere(t *testing.T) {
	p := newPage(t)
	p.run("script.dataset.host='https://elsewhere.example'")
	p.load().run("ebb('consent',true); step(1000)")
	if u := p.run("sent[0].url").String(); !strings.HasPrefix(u, "https://elsewhere.example/") {
		t.Errorf("sent to %s", u)
	}
}
