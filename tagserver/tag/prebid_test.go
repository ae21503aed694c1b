package tag

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/evanw/esbuild/pkg/api"
)

// prebid bundles the real Prebid.js, which deploy/test fetches from npm into the
// git-ignored cache, with the module that sends OpenRTB to a server.
func prebid(t *testing.T) string {
	t.Helper()
	dir := prebidDir(t)
	r := api.Build(api.BuildOptions{
		Stdin:  &api.StdinOptions{Contents: `import p from 'prebid.js'; import 'prebid.js/modules/prebidServerBidAdapter'; import 'prebid.js/modules/appnexusBidAdapter'; p.processQueue();`, ResolveDir: dir},
		Bundle: true, Format: api.FormatIIFE, Target: api.ES2020, Outfile: "prebid.js", LogLevel: api.LogLevelSilent,
	})
	for _, m := range r.Errors {
		t.Fatal(m.Text)
	}
	return string(r.OutputFiles[0].Contents)
}

// prebidDir is where deploy/test keeps the real Prebid.js.
func prebidDir(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../../.cache/prebid")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir + "/node_modules/prebid.js"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("no Prebid.js here; `deploy/test tools` fetches it")
		}
		t.Skip("no Prebid.js here; `deploy/test tools` fetches it")
	}
	return dir
}

// A bid request of the real Prebid.js carries the visitor's audiences, beside
// the page's own data, and no longer after a withdrawal.
func TestLongABidRequestCarriesTheAudiences(t *testing.T) {
	source := prebid(t)
	browser := chromium(t)
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
	s.put("/prebid.js", source)
	s.put("/a", e.page("", "", `<script src="`+e.URL+`/t/1/ads.js" data-site="shop" data-prebid="*"></script><script>
var pbjs=window.pbjs||{};pbjs.que=pbjs.que||[];
pbjs.que.push(function(){pbjs.setConfig({ortb2:{user:{data:[{name:'page.example',segment:[{id:'own'}]}]}},
 s2sConfig:{accountId:'1',enabled:true,bidders:['appnexus'],timeout:800,adapter:'prebidServer',endpoint:'`+server.URL+`/auction',syncEndpoint:'`+server.URL+`/sync'}})});
window.bid=function(){return new Promise(function(r){pbjs.que.push(function(){pbjs.requestBids({timeout:900,adUnits:[{code:'div-1',mediaTypes:{banner:{sizes:[[300,250]]}},bids:[{bidder:'appnexus',params:{placementId:13144370}}]}],bidsBackHandler:function(){r(1)}})})})}
ebb('consent',true)</script><script src="/prebid.js"></script><div id="div-1"></div>`))
	b := newTab(t, browser).open(s.URL + "/a")
	eventually(t, func() string {
		return unless(strings.Contains(b.js(`pbjs.getConfig('ortb2')`), `"wine"`), "the audiences are not in Prebid's configuration")
	})
	data := func() string {
		t.Helper()
		b.js(`bid()`)
		var q struct {
			User struct{ Data json.RawMessage }
		}
		raw := <-bids
		if err := json.Unmarshal(raw, &q); err != nil {
			t.Fatal(err)
		}
		return string(q.User.Data)
	}
	host := strings.TrimPrefix(e.URL, "http://")
	const own = `{"name":"page.example","segment":[{"id":"own"}]}`
	if got, want := data(), `[`+own+`,{"name":"`+host+`","ext":{},"segment":[{"id":"wine"},{"id":"shoes"}]}]`; got != want {
		t.Errorf("user.data is %s\nwant %s", got, want)
	}
	b.js(`ebb('consent',false)`)
	if got := data(); got != `[`+own+`]` {
		t.Errorf("after the withdrawal user.data is %s", got)
	}
	t.Logf("Prebid.js %s", b.js(`pbjs.version`))
}
