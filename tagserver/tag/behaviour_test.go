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
	b, err := os.ReadFile("ebb.js")
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
	p.want("sent[0].body.events[0]", `{"id":"e000102030405060708090a0b0c0d0e0f","t":1764063000000,"kind":"track","url":"https://shop.example/a?x=1","ref":"https://search.example/?q=1","name":"early","props":{"sku":"a-1"}}`)
	p.want("store", `{"ebb:shop":"1"}`) // a mark, no ID
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
	p.want("sent[3].body.events.length", "50") // bounded
	p.want("sent.length", "4")
}

func TestOnePageViewAnAddress(t *testing.T) {
	p := newPage(t)
	p.run("ebb('page')")
	p.load().run("ebb('page'); ebb('consent',true); step(1000); ebb('page'); step(1000); location.href='https://shop.example/b'; ebb('page'); step(1000); ebb('page',{shown:'modal'}); step(1000)")
	p.want("sent.map(function(s){return s.body.events.length+' '+s.body.events[0].url})", `["1 https://shop.example/a?x=1","1 https://shop.example/b","1 https://shop.example/b"]`)
	p = newPage(t)
	p.run("script.attrs['data-auto']='false'")
	p.load().run("ebb('consent',true); step(1000)")
	p.want("sent.length", "0")
}

func TestAPageThatIsLeftSendsByBeacon(t *testing.T) {
	p := newPage(t).load()
	p.run("ebb('consent',true); step(1000); ebb('track','last'); fire('pagehide'); fire('visibilitychange'); step(10000)")
	p.want("[sent.length,beacons.length]", "[1,1]")
	p.want("[beacons[0].url,beacons[0].type,beacons[0].body.events[0].name,beacons[0].body.consent.granted]", `["https://data.example/v1/e","text/plain","last",true]`)
	// A browser that takes no beacon gets a fetch.
	p = newPage(t).load()
	p.run("navigator.sendBeacon=function(){return false}; ebb('consent',true); step(1000); ebb('track','last'); document.visibilityState='hidden'; fire('visibilitychange')")
	p.want(kinds, `["page","last"]`)
}

func TestWithdrawalTellsTheEdgeAndStops(t *testing.T) {
	p := newPage(t).load()
	p.run("ebb('consent',true); step(1000); ebb('track','unsent'); ebb('consent',false); ebb('track','after'); fire('pagehide'); step(100000)")
	p.want("[sent.length,beacons.length,sent[1].body.consent.granted,sent[1].body.events.length]", "[2,0,false,0]")
	p.want("store", "{}")
	// Granted on an earlier page, refused on this one.
	p = newPage(t)
	p.run("store['ebb:shop']='1'")
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
	p.want("sent.filter(function(s){return s.method=='GET'}).map(function(s){return [s.url,s.credentials]})", `[["https://data.example/v1/seg?consent=1&site=shop&gdpr_consent=C%20P&us_privacy=1YNN","include"]]`)
	p.want("got", `[[{"id":"a","slug":"a"}]]`)
	p.run("status=403; ebb('audiences',cb)")
	p.run("status=200; offline=true; ebb('audiences',cb)")
	p.run("offline=false; ebb('consent',false); ebb('audiences',cb)")
	p.want("got.slice(1)", "[[],[],[]]")
	p.run("ebb('audiences',function(){throw new Error('page bug')}); ebb('audiences'); 1")
}

func TestWhatWasNotTakenComesAgainAndNotForEver(t *testing.T) {
	p := newPage(t).load()
	p.run("Math.random=function(){return 0.5}; status=503; ebb('consent',true); step(0)")
	p.run("step(1999)")
	p.want("sent.length", "1")
	p.run("step(1); status=200")
	p.want("[sent.length,sent[0].body.events[0].id==sent[1].body.events[0].id]", "[2,true]")
	p.run("step(4000)") // the second 503's retry
	p.want("sent.length", "3")
	p.run("step(100000)")
	p.want("sent.length", "3")
	// Retry-After is kept.
	p = newPage(t).load()
	p.run("status=429; retryAfter='30'; ebb('consent',true); step(0)")
	p.run("step(29999)")
	p.want("sent.length", "1")
	p.run("step(1)")
	p.want("sent.length", "2")
	// What is refused for good is not repeated; offline is, five times.
	for _, c := range [][2]string{{"status=400", "1"}, {"status=410", "1"}, {"offline=true", "6"}} {
		p = newPage(t).load()
		p.run(c[0] + "; ebb('consent',true); step(0)")
		for range 20 {
			p.run("step(1000000)")
		}
		p.want("sent.length", c[1])
	}
	// A withdrawal ends retries.
	p = newPage(t).load()
	p.run("status=503; ebb('consent',true); step(0)")
	p.run("ebb('consent',false); step(1000000)")
	p.want("sent.map(function(s){return s.body.consent.granted})", "[true,false]")
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
	p.run("script.attrs['data-host']='https://elsewhere.example'")
	p.load().run("ebb('consent',true); step(1000)")
	if u := p.run("sent[0].url").String(); !strings.HasPrefix(u, "https://elsewhere.example/") {
		t.Errorf("sent to %s", u)
	}
}
