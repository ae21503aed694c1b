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

// ours is our module for Prebid.js, by which prebid bundles it.
const ours = "ours"

// prebid bundles the real Prebid.js, which deploy/test fetches from npm into the
// git-ignored cache, with the module that sends OpenRTB to a server, the adapter of
// a bidder, and what is named.
func prebid(t *testing.T, modules ...string) string {
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
	// By its real path, as esbuild has it: the module would else speak to a second copy
	// of Prebid where the cache is a link.
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		t.Fatal(err)
	}
	module, err := filepath.Abs("prebid/ebbRtdProvider.js")
	if err != nil {
		t.Fatal(err)
	}
	source := `import p from 'prebid.js';`
	for _, m := range append([]string{"prebidServerBidAdapter", "appnexusBidAdapter"}, modules...) {
		if m == ours {
			source += ` import 'prebid.js/modules/rtdModule'; import '` + module + `';`
		} else {
			source += ` import 'prebid.js/modules/` + m + `';`
		}
	}
	r := api.Build(api.BuildOptions{
		Stdin:  &api.StdinOptions{Contents: source + ` p.processQueue();`, ResolveDir: dir},
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
	return string(r.OutputFiles[0].Contents)
}

// auctions is a server of auctions in which nobody bids.
type auctions struct {
	*httptest.Server
	bodies chan []byte
}

func newAuctions(t *testing.T) *auctions {
	a := &auctions{bodies: make(chan []byte, 9)}
	a.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Access-Control-Allow-Origin", r.Header.Get("Origin"))
		w.Header().Set("Access-Control-Allow-Credentials", "true")
		w.Header().Set("Access-Control-Allow-Headers", "content-type")
		b, _ := io.ReadAll(r.Body)
		if r.Method == "POST" && strings.HasSuffix(r.URL.Path, "/auction") {
			a.bodies <- b
		}
		fmt.Fprint(w, `{"id":"1","seatbid":[]}`)
	}))
	t.Cleanup(a.Close)
	return a
}

// own is what the page itself says of its visitor.
const own = `{"name":"page.example","segment":[{"id":"own"}]}`

// script sets Prebid up on a page that says own, with further settings, and defines
// bid, which holds an auction.
func (a *auctions) script(settings string) string {
	return `
var pbjs=window.pbjs||{};pbjs.que=pbjs.que||[];
pbjs.que.push(function(){pbjs.setConfig({ortb2:{user:{data:[{name:'page.example',segment:[{id:'own'}]}]}},` + settings + `
 s2sConfig:{accountId:'1',enabled:true,bidders:['appnexus'],timeout:20000,adapter:'prebidServer',endpoint:'` + a.URL + `/auction',syncEndpoint:'` + a.URL + `/sync'}})});
window.bid=function(){return new Promise(function(r){pbjs.que.push(function(){pbjs.requestBids({timeout:20000,adUnits:[{code:'div-1',mediaTypes:{banner:{sizes:[[300,250]]}},bids:[{bidder:'appnexus',params:{placementId:13144370}}]}],bidsBackHandler:function(){r(1)}})})})}
`
}

// data holds an auction and returns its user.data.
func (a *auctions) data(t *testing.T, b *tab) string {
	t.Helper()
	b.js(`bid()`)
	var q struct {
		User struct{ Data json.RawMessage }
	}
	if err := json.Unmarshal(<-a.bodies, &q); err != nil {
		t.Fatal(err)
	}
	return string(q.User.Data)
}
