package tag

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/consent"
)

// standInForPrebidServer is not Prebid Server, whose Go module is not to be had:
// it answers /cookie_sync, /setuid and /openrtb2/auction as their documentation
// says (docs.prebid.org, prebid-server/endpoints). With PBS_URL a real one is used in
// its place.
type standInForPrebidServer struct {
	*httptest.Server
	edge string // its bidder's user sync
	mu   sync.Mutex
	asks []cookieSync
	uids []string          // by /setuid, with its query
	bids map[string][]byte // the last auction's body
}

type cookieSync struct {
	Bidders     []string `json:"bidders"`
	GDPR        *int     `json:"gdpr"`
	GDPRConsent string   `json:"gdpr_consent"`
	USPrivacy   string   `json:"us_privacy"`
	GPP         string   `json:"gpp"`
	GPPSID      string   `json:"gpp_sid"`
}

func (p *standInForPrebidServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Access-Control-Allow-Origin", r.Header.Get("Origin"))
	h.Set("Access-Control-Allow-Credentials", "true")
	h.Set("Access-Control-Allow-Headers", "content-type")
	if r.Method == "OPTIONS" {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch r.URL.Path {
	case "/cookie_sync":
		var q cookieSync
		b, _ := io.ReadAll(r.Body)
		if json.Unmarshal(b, &q) != nil || q.GDPR != nil && *q.GDPR == 1 && q.GDPRConsent == "" {
			http.Error(w, "gdpr_consent is required if gdpr is 1", http.StatusBadRequest)
			return
		}
		p.asks = append(p.asks, q)
		gdpr := ""
		if q.GDPR != nil {
			gdpr = fmt.Sprint(*q.GDPR)
		}
		// The template of a bidder's configuration: the user macro goes in before the
		// address is escaped.
		e := url.QueryEscape
		back := p.URL + "/setuid?bidder=ebb&gdpr=" + e(gdpr) + "&gdpr_consent=" + e(q.GDPRConsent) + "&gpp=" + e(q.GPP) + "&gpp_sid=" + e(q.GPPSID) + "&f=i&uid=$UID"
		sync := p.edge + "/v1/sync/pbs?gdpr=" + e(gdpr) + "&gdpr_consent=" + e(q.GDPRConsent) + "&us_privacy=" + e(q.USPrivacy) + "&gpp=" + e(q.GPP) + "&gpp_sid=" + e(q.GPPSID) + "&redirect=" + e(back)
		answer, _ := json.Marshal(map[string]any{"status": "no_cookie", "bidder_status": []any{
			map[string]any{"bidder": "appnexus", "no_cookie": true, "usersync": map[string]any{"url": sync, "type": "redirect", "supportCORS": false}}}})
		h.Set("Content-Type", "application/json")
		w.Write(answer)
	case "/setuid":
		q := r.URL.Query()
		if q.Get("bidder") == "" || q.Get("gdpr") == "1" && q.Get("gdpr_consent") == "" {
			http.Error(w, "bad", http.StatusBadRequest)
			return
		}
		p.uids = append(p.uids, r.URL.RawQuery)
		v, _ := json.Marshal(map[string]any{"tempUIDs": map[string]any{q.Get("bidder"): map[string]string{"uid": q.Get("uid")}}})
		http.SetCookie(w, &http.Cookie{Name: "uids", Value: base64.URLEncoding.EncodeToString(v), Path: "/"})
		h.Set("Content-Type", "image/png")
	case "/openrtb2/auction":
		b, _ := io.ReadAll(r.Body)
		p.bids["auction"] = b
		h.Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"id":"1","seatbid":[]}`)
	default:
		http.NotFound(w, r)
	}
}

// syncEdge is the edge itself with two bidders, of which one is permitted.
type syncEdge struct {
	*realEdge
	hosts []string
}

func (e *syncEdge) Destination(id taxonomy.DestinationID) (tagserver.Destination, bool) {
	return tagserver.Destination{ID: "pbs", Hosts: e.hosts, GVLID: 52}, id == "pbs"
}
func (e *syncEdge) Page(context.Context, taxonomy.VisitorKey, taxonomy.SiteID) (tagserver.PageAnswer, error) {
	return tagserver.PageAnswer{Audiences: []tagserver.PageAudience{{ID: "wine", Slug: "wine", Segtax: 4}, {ID: "shoes", Slug: "shoes"}, {ID: "private", Slug: "private"}}}, nil
}

// The real Prebid.js runs its user sync against the edge: Prebid Server's
// /cookie_sync names the edge's sync, with Prebid's consent in it, the edge sends the
// browser on to /setuid with the pseudonym of that destination, and the visitor's
// audiences are in the bid request of the bidder that may be told, and in no
// other's. Without consent there is neither ID nor audience.
func TestLongPrebidSyncsWithTheEdgeAndTellsPermittedBiddersAlone(t *testing.T) {
	source := prebid(t, "rubiconBidAdapter", "consentManagementTcf", ours)
	browser := chromium(t)
	pbs := &standInForPrebidServer{bids: map[string][]byte{}}
	pbs.Server = httptest.NewServer(pbs)
	t.Cleanup(pbs.Close)
	base := pbs.URL
	real := os.Getenv("PBS_URL")
	if real != "" {
		base = strings.TrimSuffix(real, "/")
	}
	u, err := url.Parse(base)
	if err != nil {
		t.Fatal(err)
	}
	// What the strings of this test say: "yes…" agrees, "not-pbs" agrees to all but
	// the destination. Parsing real strings is tested beside the parsers.
	strs := func(out []consent.Statement, s tagserver.Strings, day taxonomy.Day) []consent.Statement {
		st := consent.Statement{Signal: taxonomy.SignalTCF, Regime: taxonomy.RegimeOptIn, Purposes: taxonomy.MayAll}
		switch {
		case strings.HasPrefix(s.TCF, "yes"):
		case s.TCF == "not-pbs":
			st.Destinations = []taxonomy.DestinationID{}
		default:
			st.Purposes = 0
		}
		return append(out, st)
	}
	e := &syncEdge{hosts: []string{u.Host}}
	e.realEdge = newRealEdgeWith(t, false, func(o *tagserver.Options) {
		o.Strings, o.Destinations, o.Audiences = strs, e, e
		o.Bidders = func() []tagserver.Bidder {
			return []tagserver.Bidder{{Code: "appnexus", Destination: "pbs", Segments: map[taxonomy.AudienceID]string{"wine": "wine", "shoes": "S-2"}}}
		}
	}, os.Getenv("PBS_EDGE"))
	pbs.edge = e.URL
	s := newSite(t)
	e.origins = []string{s.URL}
	s.put("/prebid.js", source)
	page := func(tcf string) string {
		return `<!doctype html><script>` + errors + stub + `
ebb('consent',true,{tcf:'yes'});
window.__tcfapi=function(c,v,f){var d={gdprApplies:true,tcString:'` + tcf + `',eventStatus:'tcloaded',cmpStatus:'loaded',listenerId:1,purpose:{consents:{1:true,2:true,3:true,4:true},legitimateInterests:{}},vendor:{consents:{32:true,52:true},legitimateInterests:{}},publisher:{restrictions:{}}};f(d,true)};
var pbjs=window.pbjs||{};pbjs.que=pbjs.que||[];
pbjs.que.push(function(){pbjs.setConfig({
 consentManagement:{gdpr:{cmpApi:'iab',timeout:500,defaultGdprScope:true}},
 userSync:{syncEnabled:true,syncDelay:1,filterSettings:{all:{bidders:'*',filter:'include'}}},
 realTimeData:{auctionDelay:30000,dataProviders:[{name:'ebb',waitForIt:true,params:{site:'shop',host:'` + e.URL + `',perBidder:true}}]},
 s2sConfig:{accountId:'1',enabled:true,bidders:['appnexus','rubicon'],timeout:20000,adapter:'prebidServer',allowUnknownBidderCodes:true,endpoint:'` + base + `/openrtb2/auction',syncEndpoint:'` + base + `/cookie_sync'}})});
window.bid=function(){return new Promise(function(r){pbjs.que.push(function(){pbjs.requestBids({timeout:20000,adUnits:[{code:'div-1',mediaTypes:{banner:{sizes:[[300,250]]}},bids:[{bidder:'appnexus',params:{placementId:13144370}},{bidder:'rubicon',params:{accountId:1,siteId:2,zoneId:3}}]}],bidsBackHandler:function(){r(1)}})})})}
</script><script async src="` + e.URL + `/t/1/ebb.js" data-site="shop" data-consent="manual"></script><script src="/prebid.js"></script><div id="div-1"></div>`
	}
	s.put("/yes", page("yes"))
	s.put("/not-pbs", page("not-pbs"))
	s.put("/no", page("no"))

	b := newTab(t, browser)
	visitor := e.visit(b, s.URL+"/yes").Visitor
	uid := e.ring.Pseudonym("pbs", 0, visitor)
	b.js(`bid()`)
	if real != "" {
		eventually(t, func() string {
			return unless(strings.Contains(fmt.Sprint(e.locations()), url.QueryEscape(uid)), "the edge sent nobody to "+real)
		})
		return
	}
	eventually(t, func() string {
		pbs.mu.Lock()
		defer pbs.mu.Unlock()
		return unless(len(pbs.uids) == 1, fmt.Sprintf("/cookie_sync was asked %+v, /setuid %v", pbs.asks, pbs.uids))
	})
	pbs.mu.Lock()
	if q := pbs.asks[0]; q.GDPR == nil || *q.GDPR != 1 || q.GDPRConsent != "yes" {
		t.Errorf("/cookie_sync was asked %+v", q)
	}
	if got, want := pbs.uids[0], "bidder=ebb&gdpr=1&gdpr_consent=yes&gpp=&gpp_sid=&f=i&uid="+uid; got != want {
		t.Errorf("/setuid was asked %s\nwant %s", got, want)
	}
	pbs.mu.Unlock()
	name := strings.TrimPrefix(e.URL, "http://")
	if got, want := bidderData(t, pbs), `{"appnexus":[{"name":"`+name+`","segment":[{"id":"S-2"}]},{"ext":{"segtax":4},"name":"`+name+`","segment":[{"id":"wine"}]}]}`; got != want {
		t.Errorf("bidders were told %s\nwant %s", got, want)
	}

	// Agreed with us and not with the partner, then with nobody: nothing leaves.
	for _, path := range []string{"/not-pbs", "/no"} {
		b := newTab(t, browser)
		b.open(s.URL + path)
		b.js(`bid()`)
		asked := "/v1/sync/pbs?gdpr=1&gdpr_consent=" + path[1:]
		eventually(t, func() string {
			return unless(strings.Contains(fmt.Sprint(e.paths()), asked), "Prebid did not sync on "+path)
		})
		pbs.mu.Lock()
		if len(pbs.uids) != 1 {
			t.Errorf("%s: /setuid was asked %v", path, pbs.uids[1:])
		}
		pbs.mu.Unlock()
		if got := bidderData(t, pbs); got != `{}` {
			t.Errorf("%s: bidders were told %s", path, got)
		}
	}
	t.Logf("Prebid.js %s", b.js(`pbjs.version`))
}

// bidderData is what the last auction told of the visitor, by bidder, and fails
// if it tells everybody.
func bidderData(t *testing.T, p *standInForPrebidServer) string {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	var q struct {
		User struct{ Data []any }
		Ext  struct {
			Prebid struct {
				BidderConfig []struct {
					Bidders []string
					Config  struct {
						ORTB2 struct{ User struct{ Data []any } } `json:"ortb2"`
					}
				} `json:"bidderconfig"`
			}
		}
	}
	if err := json.Unmarshal(p.bids["auction"], &q); err != nil {
		t.Fatal(err)
	}
	if len(q.User.Data) != 0 {
		t.Errorf("all bidders were told %v", q.User.Data)
	}
	out := map[string][]any{}
	for _, c := range q.Ext.Prebid.BidderConfig {
		for _, b := range c.Bidders {
			if d := c.Config.ORTB2.User.Data; len(d) > 0 {
				out[b] = append(out[b], d...)
			}
		}
	}
	got, _ := json.Marshal(out)
	return string(got)
}

// listenAt serves h at an address, or at any if it is empty.
func listenAt(t *testing.T, h http.Handler, addr string) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	if addr != "" {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		s.Listener.Close()
		s.Listener = l
	}
	s.Start()
	t.Cleanup(s.Close)
	return s
}
