package tag

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/evanw/esbuild/pkg/api"
)

// The module for real-time data in the real Prebid.js: an auction waits for the
// audiences, carries them with the page's own data, takes consent along, and goes
// on without them if nobody answers.
func TestLongThePrebidModuleInARealAuction(t *testing.T) {
	dir := prebidDir(t)
	browser := chromium(t)
	module, err := filepath.Abs("prebid/ebbRtdProvider.js")
	if err != nil {
		t.Fatal(err)
	}
	r := api.Build(api.BuildOptions{
		Stdin:  &api.StdinOptions{Contents: `import p from 'prebid.js'; import 'prebid.js/modules/prebidServerBidAdapter'; import 'prebid.js/modules/appnexusBidAdapter'; import 'prebid.js/modules/consentManagementUsp'; import 'prebid.js/modules/rtdModule'; import '` + module + `'; p.processQueue();`, ResolveDir: dir},
		Bundle: true, Format: api.FormatIIFE, Target: api.ES2020, Outfile: "prebid.js", LogLevel: api.LogLevelSilent,
		// In Prebid's own tree the module lies beside these.
		Plugins: []api.Plugin{{Name: "src", Setup: func(b api.PluginBuild) {
			b.OnResolve(api.OnResolveOptions{Filter: `^\.\./src/`}, func(a api.OnResolveArgs) (api.OnResolveResult, error) {
				if a.Importer != module {
					return api.OnResolveResult{}, nil
				}
				return api.OnResolveResult{Path: filepath.Join(dir, "node_modules/prebid.js/dist/src", strings.TrimPrefix(a.Path, "../"))}, nil
			})
		}}},
	})
	for _, m := range r.Errors {
		t.Fatalf("%s %+v", m.Text, m.Location)
	}
	bids := make(chan []byte, 9)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Access-Control-Allow-Origin", r.Header.Get("Origin"))
		w.Header().Set("Access-Control-Allow-Credentials", "true")
		w.Header().Set("Access-Control-Allow-Headers", "content-type")
		b, _ := io.ReadAll(r.Body)
		if r.Method == "POST" && strings.HasSuffix(r.URL.Path, "/auction") {
			bids <- b
		}
		fmt.Fprint(w, `{"id":"1","seatbid":[]}`)
	}))
	t.Cleanup(server.Close)
	e, s := newEdge(t), newSite(t)
	e.audiences = `[{"id":"wine","slug":"wine"},{"id":"shoes","slug":"shoes"}]`
	s.put("/prebid.js", string(r.OutputFiles[0].Contents))
	s.put("/a", `<!doctype html><script>`+errors+`
var pbjs=window.pbjs||{};pbjs.que=pbjs.que||[];
pbjs.que.push(function(){pbjs.setConfig({ortb2:{user:{data:[{name:'page.example',segment:[{id:'own'}]}]}},
 consentManagement:{usp:{cmpApi:'static',consentData:{getUSPData:{uspString:'1YNN'}}}},
 realTimeData:{auctionDelay:5000,dataProviders:[{name:'ebb',waitForIt:true,params:{site:'shop',host:'`+e.URL+`/',segtax:600}}]},
 s2sConfig:{accountId:'1',enabled:true,bidders:['appnexus'],timeout:800,adapter:'prebidServer',endpoint:'`+server.URL+`/auction',syncEndpoint:'`+server.URL+`/sync'}})});
window.bid=function(){return new Promise(function(r){pbjs.que.push(function(){pbjs.requestBids({timeout:900,adUnits:[{code:'div-1',mediaTypes:{banner:{sizes:[[300,250]]}},bids:[{bidder:'appnexus',params:{placementId:13144370}}]}],bidsBackHandler:function(){r(1)}})})})}
</script><script src="/prebid.js"></script><div id="div-1"></div>`)
	b := newTab(t, browser).open(s.URL + "/a")
	data := func() string {
		t.Helper()
		b.js(`bid()`)
		var q struct {
			User struct{ Data json.RawMessage }
		}
		if err := json.Unmarshal(<-bids, &q); err != nil {
			t.Fatal(err)
		}
		return string(q.User.Data)
	}
	host := strings.TrimPrefix(e.URL, "http://")
	const own = `{"name":"page.example","segment":[{"id":"own"}]}`
	if got, want := data(), `[`+own+`,{"name":"`+host+`","segment":[{"id":"wine"},{"id":"shoes"}],"ext":{"segtax":600}}]`; got != want {
		t.Errorf("user.data is %s\nwant %s", got, want)
	}
	if all := e.all(); len(all) != 1 || all[0].Path != "/v1/seg" || all[0].Query != "site=shop&us_privacy=1YNN" {
		t.Errorf("the edge was asked %+v", all)
	}
	e.answer(503)
	if got := data(); got != `[`+own+`]` {
		t.Errorf("without an answer user.data is %s", got)
	}
	b.want(`errors`, `[]`)
	t.Logf("Prebid.js %s", b.js(`pbjs.version`))
}
