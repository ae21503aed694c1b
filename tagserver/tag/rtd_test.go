package tag

import (
	"strings"
	"testing"
)

// The module for real-time data in the real Prebid.js: an auction waits for the
// audiences, carries them with the page's own data, takes consent along, and goes
// on without them if nobody answers.
func TestLongThePrebidModuleInARealAuction(t *testing.T) {
	source := prebid(t, "consentManagementUsp", ours)
	browser := chromium(t)
	sale := newAuctions(t)
	e, s := newEdge(t), newSite(t)
	e.audiences = `[{"id":"wine","slug":"wine"},{"id":"shoes","slug":"shoes"}]`
	s.put("/prebid.js", source)
	s.put("/a", `<!doctype html><script>`+errors+sale.script(`
 consentManagement:{usp:{cmpApi:'static',consentData:{getUSPData:{uspString:'1YNN'}}}},
 realTimeData:{auctionDelay:30000,dataProviders:[{name:'ebb',waitForIt:true,params:{site:'shop',host:'`+e.URL+`/',segtax:600}}]},`)+
		`</script><script src="/prebid.js"></script><div id="div-1"></div>`)
	b := newTab(t, browser).open(s.URL + "/a")
	host := strings.TrimPrefix(e.URL, "http://")
	if got, want := sale.data(t, b), `[`+own+`,{"name":"`+host+`","segment":[{"id":"wine"},{"id":"shoes"}],"ext":{"segtax":600}}]`; got != want {
		t.Errorf("user.data is %s\nwant %s", got, want)
	}
	if all := e.all(); len(all) != 1 || all[0].Path != "/v1/seg" || all[0].Query != "site=shop&us_privacy=1YNN" {
		t.Errorf("the edge was asked %+v", all)
	}
	e.answer(503)
	if got := sale.data(t, b); got != `[`+own+`]` {
		t.Errorf("without an answer user.data is %s", got)
	}
	b.want(`errors`, `[]`)
	t.Logf("Prebid.js %s", b.js(`pbjs.version`))
}
