package tag

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// edge records what a tag sends, and answers as it is told.
type edge struct {
	*httptest.Server
	mu        sync.Mutex
	requests  []request
	status    []int // of the next answers; then 200
	always    int   // if not 0, of all
	files     int   // of the tag that were fetched
	audiences string
}

type request struct {
	Method, Path, Query, Type string
	Body                      struct {
		Consent struct {
			Granted *bool
			TCF     string
			GPP     string
			GPPSID  string `json:"gpp_sid"`
		}
		Events []struct {
			ID, Kind, Name, URL string
			Props               map[string]any
		}
	}
	Bytes  int
	Status int
}

func newEdge(t *testing.T) *edge {
	e := &edge{audiences: `[]`}
	e.Server = httptest.NewServer(e)
	t.Cleanup(e.Close)
	return e
}

func (e *edge) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	if file, ok := strings.CutPrefix(r.URL.Path, "/t/1/"); ok {
		b, err := os.ReadFile("frozen/" + sourceVersion + "/" + file)
		if err != nil {
			http.NotFound(w, r)
			return
		}
		e.mu.Lock()
		e.files++
		e.mu.Unlock()
		h.Set("Content-Type", "text/javascript")
		w.Write(b)
		return
	}
	q := request{Method: r.Method, Path: r.URL.Path, Query: r.URL.RawQuery, Type: r.Header.Get("Content-Type"), Status: 200}
	b, _ := io.ReadAll(r.Body)
	q.Bytes = len(b)
	if len(b) > 0 && json.Unmarshal(b, &q.Body) != nil {
		q.Status = 400
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.always != 0 {
		q.Status = e.always
	} else if len(e.status) > 0 && r.URL.Path == "/v1/e" {
		q.Status, e.status = e.status[0], e.status[1:]
	}
	e.requests = append(e.requests, q)
	h.Set("Access-Control-Allow-Origin", r.Header.Get("Origin"))
	h.Set("Access-Control-Allow-Credentials", "true")
	h.Set("Access-Control-Expose-Headers", "Retry-After")
	if q.Status == 503 {
		h.Set("Retry-After", "1")
	}
	w.WriteHeader(q.Status)
	fmt.Fprintf(w, `{"audiences":%s}`, e.audiences)
}

func (e *edge) answer(always int, next ...int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.always, e.status = always, next
}

func (e *edge) all() []request {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.requests)
}

// served is how many files of the tag were fetched.
func (e *edge) served() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.files
}

// events are the names (or kinds and paths) of what was taken, each ID once, as
// the edge's readers count.
func (e *edge) events() (names []string) {
	seen := map[string]bool{}
	for _, q := range e.all() {
		for _, ev := range q.Body.Events {
			if q.Status == 200 && !seen[ev.ID] {
				seen[ev.ID] = true
				name := ev.Name
				if name == "" {
					name = ev.Kind + " " + ev.URL[strings.LastIndexByte(ev.URL, '/'):]
				}
				names = append(names, name)
			}
		}
	}
	return names
}

func (e *edge) wants(t *testing.T, names ...string) {
	t.Helper()
	eventually(t, func() string {
		if got := e.events(); !slices.Equal(got, names) {
			return fmt.Sprintf("the edge took %q, want %q", got, names)
		}
		return ""
	})
}

// eventually polls until nothing is missing. Twenty seconds are an end, not a
// bound to be met.
func eventually(t *testing.T, missing func() string) {
	t.Helper()
	var m string
	for end := time.Now().Add(90 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if m = missing(); m == "" {
			return
		}
	}
	t.Fatal(m)
}

// site serves pages by their path, with a policy if there is one.
type site struct {
	*httptest.Server
	mu     sync.Mutex
	pages  map[string]string
	policy string
}

func newSite(t *testing.T) *site {
	s := &site{pages: map[string]string{}}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		page, ok := s.pages[r.URL.Path]
		if s.policy != "" {
			w.Header().Set("Content-Security-Policy", s.policy)
		}
		s.mu.Unlock()
		switch {
		case !ok:
			http.NotFound(w, r)
			return
		case strings.HasSuffix(r.URL.Path, ".js"):
			w.Header().Set("Content-Type", "text/javascript")
		default:
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
		}
		io.WriteString(w, page)
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *site) put(path, page string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pages[path] = page
}

const stub = `window.ebb=window.ebb||function(){(ebb.q=ebb.q||[]).push(arguments)}`

// errors counts what reached the page.
const errors = `window.errors=[];addEventListener('error',function(e){errors.push(e.message)});addEventListener('unhandledrejection',function(e){errors.push(''+e.reason)});`

func (e *edge) page(before, attrs, after string) string {
	return `<!doctype html><title>page</title><script>` + errors + before + stub + `</script><script src="` + e.URL + `/t/1/ebb.js" data-site="shop" ` + attrs + `></script>` + after
}

var sourceVersion = ""

// chromium starts one browser for a test and its parts, or skips, or fails in
// CI, where it must be there.
func chromium(t *testing.T) context.Context {
	t.Helper()
	sourceVersion = version(t)
	path, err := exec.LookPath("chromium")
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("no chromium here; deploy/test installs it")
		}
		t.Skip("no chromium here; get it with: apt-get install chromium")
	}
	alloc, cancel := chromedp.NewExecAllocator(context.Background(), append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.DisableGPU,
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-background-networking", true),
		chromedp.Flag("disable-features", "Translate"), // not the back-forward cache, which chromedp's own list switches off
		chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-sync", true))...)
	t.Cleanup(cancel)
	ctx, _ := chromedp.NewContext(alloc)
	// Waits until the browser is gone, so that nobody writes into a folder that is
	// being removed.
	t.Cleanup(func() { _ = chromedp.Cancel(ctx) })
	ctx, cancel = context.WithTimeout(ctx, 10*time.Minute)
	t.Cleanup(cancel)
	if err := chromedp.Run(ctx); err != nil {
		t.Fatal(err)
	}
	return ctx
}

// tab is a tab; each part has servers, so origins and storage, of its own.
type tab struct {
	context.Context
	t *testing.T
}

func newTab(t *testing.T, browser context.Context) *tab {
	t.Helper()
	ctx, cancel := chromedp.NewContext(browser)
	t.Cleanup(cancel)
	ctx, cancel = context.WithTimeout(ctx, 2*time.Minute)
	t.Cleanup(cancel)
	return &tab{ctx, t}
}

func (b *tab) run(actions ...chromedp.Action) {
	b.t.Helper()
	if err := chromedp.Run(b, actions...); err != nil {
		b.t.Fatal(err)
	}
}

func (b *tab) open(url string) *tab {
	b.t.Helper()
	b.run(chromedp.Navigate(url))
	return b
}

// js runs a script, waits for a promise, and returns the value as JSON.
func (b *tab) js(script string) string {
	b.t.Helper()
	var out []byte
	b.run(chromedp.Evaluate(`Promise.resolve(`+script+`).then(function(v){return v===undefined?null:v})`, &out, awaitPromise))
	return string(out)
}

func (b *tab) want(script, want string) {
	b.t.Helper()
	if got := b.js(script); got != want {
		b.t.Errorf("%s is %s, want %s", script, got, want)
	}
}

// linger gives a tag that would do something wrong the time to do it.
const linger = `new Promise(function(r){setTimeout(r,1200)})`

func TestLongTheTagInABrowser(t *testing.T) {
	browser := chromium(t)
	const yes = `;ebb('consent',true)`

	t.Run("TB1 calls before the tag is there keep their order, each once", func(t *testing.T) {
		e, s := newEdge(t), newSite(t)
		s.put("/a", `<!doctype html><script>`+stub+yes+`;ebb('track','one');ebb('track','two',{n:1});ebb('track','three')</script><script async src="`+e.URL+`/t/1/ebb.js" data-site="shop"></script>`)
		newTab(t, browser).open(s.URL + "/a")
		e.wants(t, "one", "two", "three", "page /a")
		for _, q := range e.all() {
			if q.Method != "POST" || q.Type != "text/plain" {
				t.Errorf("%s %s of type %q: a simple request asks no leave", q.Method, q.Path, q.Type)
			}
		}
	})

	t.Run("TB2 nothing before consent", func(t *testing.T) {
		for name, before := range map[string]string{
			"nobody": "", "TCF": "window.__tcfapi=function(c,v,f){f({eventStatus:'cmpuishown',gdprApplies:true},true)};",
			"GPP": "window.__gpp=function(c,f){f({pingData:{signalStatus:'not ready'}},true)};", "USP": "window.__uspapi=function(){};",
			"GPC": "Object.defineProperty(navigator,'globalPrivacyControl',{value:true});",
		} {
			e, s := newEdge(t), newSite(t)
			s.put("/a", e.page(before, `data-wait="200"`, `<script>ebb('track','x');ebb('flush')</script>`))
			b := newTab(t, browser).open(s.URL + "/a")
			b.js(linger)
			b.open("about:blank") // a page that is left sends nothing either
			if n := len(e.all()); n != 0 {
				t.Errorf("%s: %d requests", name, n)
			}
			b.open(s.URL+"/a").want(`[document.cookie,Object.keys(localStorage),Object.keys(sessionStorage),errors]`, `["",[],[],[]]`)
		}
	})

	t.Run("a GPP platform that does not list its APIs is asked by the standard's names", func(t *testing.T) {
		for sale, want := range map[string][]string{"2": {"page /a"}, "1": nil} {
			e, s := newEdge(t), newSite(t)
			s.put("/a", e.page(`window.__gpp=function(c,f,p){if(c=='getSection')return f(p=='usca'?{SaleOptOut:`+sale+`}:null,p=='usca');
f({eventName:'signalStatus',pingData:{signalStatus:'ready',applicableSections:[8],gppString:'DBABBg~BUAAAACA.QA'}},true)};`, `data-wait="200"`, ""))
			b := newTab(t, browser).open(s.URL + "/a")
			if want == nil {
				b.js(linger)
				if n := len(e.all()); n != 0 {
					t.Errorf("opted out: %d requests", n)
				}
				continue
			}
			e.wants(t, want...)
			if c := e.all()[0].Body.Consent; c.GPP != "DBABBg~BUAAAACA.QA" || c.GPPSID != "8" {
				t.Errorf("sent with %+v", c)
			}
		}
	})

	t.Run("TB3 granted, then withdrawn", func(t *testing.T) {
		e, s := newEdge(t), newSite(t)
		s.put("/a", e.page("", "", ""))
		b := newTab(t, browser).open(s.URL + "/a")
		b.js(`ebb('consent',true)`)
		e.wants(t, "page /a")
		e.answer(503)
		b.js(`(ebb('track','unsent'),ebb('flush'))`)
		eventually(t, func() string {
			return unless(b.js(`JSON.parse(localStorage['ebb:shop']).q?.length`) == "1", "no outbox")
		})
		e.answer(0)
		b.js(`(ebb('consent',false),ebb('track','after'))`)
		b.js(linger)
		all := e.all()
		last := all[len(all)-1]
		if g := last.Body.Consent.Granted; g == nil || *g || len(last.Body.Events) != 0 {
			t.Errorf("the last request is %+v, want the withdrawal", last)
		}
		e.wants(t, "page /a")
		b.want(`Object.keys(localStorage)`, `[]`)
		// The opt-out is told, and remembered on the next page.
		b.js(`(ebb('consent',true),ebb('optout'))`)
		eventually(t, func() string {
			return unless(b.js(`localStorage['ebb:shop']`) == `"{\"o\":2}"`, "the opt-out is not remembered")
		})
		n := len(e.all())
		if e.all()[n-1].Path != "/v1/optout" {
			t.Errorf("the last request is %+v", e.all()[n-1])
		}
		b.open(s.URL + "/a").js(`(ebb('consent',true),ebb('track','x'),` + linger + `)`)
		if got := e.all(); len(got) != n {
			t.Errorf("after the opt-out: %+v", got[n:])
		}
	})

	t.Run("TB4 page views of a single-page site, and of the back button", func(t *testing.T) {
		e, s := newEdge(t), newSite(t)
		s.put("/a", e.page("window.shown=[];addEventListener('pageshow',function(e){shown.push(e.persisted)});", "", `<script>ebb('consent',true)</script>`))
		s.put("/away", "<title>away</title>away")
		b := newTab(t, browser).open(s.URL + "/a")
		soon := `new Promise(function(r){setTimeout(r,20)})`
		for _, step := range []string{`history.pushState({},'','/b')`, `history.replaceState({},'','/c?q=1')`, `history.pushState({},'','/c#x')`, `history.back()`, `history.back()`} {
			b.js(step)
			b.js(soon)
			b.js(soon)
		}
		b.js(`ebb('flush')`)
		e.wants(t, "page /a", "page /b", "page /c", "page /a")
		b.open(s.URL + "/away")
		b.js(`setTimeout(function(){history.back()})`)
		e.wants(t, "page /a", "page /b", "page /c", "page /a", "page /a")
		t.Logf("pageshow.persisted: %s", b.js(`shown`))
		s.put("/h", e.page("", `data-spa="hash"`, `<script>ebb('consent',true)</script>`))
		e2 := newEdge(t)
		s.put("/h", e2.page("", `data-spa="hash"`, `<script>ebb('consent',true)</script>`))
		b = newTab(t, browser).open(s.URL + "/h#/one")
		b.js(`location.hash='#/two'`)
		e2.wants(t, "page /one", "page /two")
	})

	t.Run("TB5 503, offline and a closed tab lose nothing and count nothing twice", func(t *testing.T) {
		e, s := newEdge(t), newSite(t)
		s.put("/a", e.page("", `data-auto="false"`, `<script>ebb('consent',true)</script>`))
		b := newTab(t, browser).open(s.URL + "/a")
		e.answer(0, 503, 503, 503)
		b.js(`ebb('track','busy')`)
		e.wants(t, "busy")
		b.run(offline(true))
		b.js(`(ebb('track','offline'),ebb('flush'))`)
		b.js(linger)
		b.run(offline(false))
		e.wants(t, "busy", "offline")
		e.answer(503)
		b.js(`(ebb('track','closed'),ebb('flush'))`)
		eventually(t, func() string {
			return unless(b.js(`JSON.parse(localStorage['ebb:shop']).q?.length`) == "1", "no outbox")
		})
		b.open("about:blank")
		e.answer(0)
		b.open(s.URL + "/a")
		e.wants(t, "busy", "offline", "closed")
		eventually(t, func() string {
			return unless(b.js(`JSON.parse(localStorage['ebb:shop']).q?.length`) == "0", "the outbox is not emptied")
		})
	})

	t.Run("TB6 what is refused for good is not repeated", func(t *testing.T) {
		e, s := newEdge(t), newSite(t)
		s.put("/a", e.page("", `data-auto="false"`, `<script>ebb('consent',true)</script>`))
		b := newTab(t, browser).open(s.URL + "/a")
		for i, status := range []int{400, 401, 403, 413, 422} {
			e.answer(0, status)
			b.js(`(ebb('track','x'),ebb('flush'))`)
			eventually(t, func() string { return unless(len(e.all()) == i+1, "not sent") })
		}
		b.js(linger)
		if n := len(e.all()); n != 5 {
			t.Errorf("%d requests, want 5", n)
		}
		b.want(`[localStorage['ebb:shop'],errors]`, `["{\"y\":1}",[]]`)
	})

	t.Run("TB7 a strict policy is not violated", func(t *testing.T) {
		e, s := newEdge(t), newSite(t)
		s.policy = "default-src 'none'; script-src 'self' " + e.URL + "; connect-src " + e.URL + "; img-src " + e.URL + "; require-trusted-types-for 'script'; trusted-types 'none'"
		s.put("/stub.js", `window.violations=[];document.addEventListener('securitypolicyviolation',function(e){violations.push(e.violatedDirective+' '+e.blockedURI)});`+stub+yes)
		s.put("/a", `<!doctype html><script src="/stub.js"></script><script async src="`+e.URL+`/t/1/ebb.js" data-site="shop"></script><script async src="`+e.URL+`/t/1/ads.js" data-site="shop" data-prebid="*" data-gpt="k"></script>`)
		b := newTab(t, browser).open(s.URL + "/a")
		e.wants(t, "page /a")
		eventually(t, func() string {
			return unless(b.js(`!!(JSON.parse(localStorage['ebb:shop']).a)`) == "true", "audiences not asked")
		})
		b.want(`violations`, `[]`)
	})

	t.Run("TB8 without storage events are sent, and nothing breaks", func(t *testing.T) {
		for name, before := range map[string]string{
			"throws": "Object.defineProperty(window,'localStorage',{get:function(){throw new Error('denied')}});",
			"full":   "Storage.prototype.setItem=function(){throw new DOMException('full','QuotaExceededError')};",
			"null":   "Object.defineProperty(window,'localStorage',{value:null});",
		} {
			e, s := newEdge(t), newSite(t)
			s.put("/a", e.page(before, "", `<script>ebb('consent',true);ebb('track','x')</script>`))
			b := newTab(t, browser).open(s.URL + "/a")
			e.answer(0, 503)
			e.wants(t, "page /a", "x")
			if b.want(`errors`, `[]`); t.Failed() {
				t.Log(name)
			}
		}
	})

	t.Run("TB9 a hostile page goes on working", func(t *testing.T) {
		for name, c := range map[string]struct {
			before, after string
			sent          bool
		}{
			"JSON gone":        {"window.JSON={};", "", false},
			"JSON gone later":  {"", "JSON.stringify=function(){throw 1};", true},
			"arrays polluted":  {"Array.prototype.extra=function(){};Object.prototype.more='x';", "", true},
			"history frozen":   {"Object.freeze(history);Object.freeze(History.prototype);", "", true},
			"fetch replaced":   {"window.fetch=function(){throw new Error('no')};", "", false},
			"no crypto":        {"Object.defineProperty(window,'crypto',{value:undefined});", "", false},
			"global is frozen": {"Object.defineProperty(window,'ebb',{value:function(){},writable:false});", "", false},
		} {
			e, s := newEdge(t), newSite(t)
			s.put("/a", e.page(c.before, "", `<button id="b">b</button><script>`+c.after+`ebb('consent',true);ebb('track','x');ebb();ebb(null,{});ebb('nothing');window.works=history.length</script>`))
			b := newTab(t, browser).open(s.URL + "/a")
			b.js(`document.getElementById('b').click()`)
			if c.sent {
				eventually(t, func() string { return unless(slices.Contains(e.events(), "x"), name+": not sent") })
			}
			var bad string
			b.run(chromedp.Evaluate(`errors.join()+(window.works?'':' stopped')`, &bad))
			if bad != "" {
				t.Errorf("%s: %s", name, bad)
			}
		}
	})

	t.Run("TB10 audiences are handed to Prebid and GPT", func(t *testing.T) {
		e, s := newEdge(t), newSite(t)
		e.audiences = `[{"id":"a1","slug":"a"},{"id":"b2","slug":"b"}]`
		stubs := map[string]string{
			"all":    `window.pbjs={que:{push:function(f){f()}},c:{ortb2:{site:{name:'s'},user:{keywords:'k',data:[{name:'other',segment:[{id:'o'}]}]}}},getConfig:function(k){return this.c[k]},setConfig:function(c){Object.assign(this.c,c)}};window.googletag={cmd:{push:function(f){f()}},t:{},setConfig:function(c){Object.assign(this.t,c.targeting)}};`,
			"some":   `window.pbjs={que:{push:function(f){f()}},c:{rubicon:{ortb2:{user:{data:[{name:'other'}]}}}},getBidderConfig:function(){return this.c},setBidderConfig:function(o){this.c[o.bidders[0]]=Object.assign(this.c[o.bidders[0]]||{},o.config)}};window.googletag={cmd:{push:function(f){f()}},t:{},pubads:function(){var t=this.t;return {setTargeting:function(k,v){t[k]=v}}}};`,
			"absent": ``,
		}
		host := strings.TrimPrefix(e.URL, "http://")
		ours := `{"name":"` + host + `","ext":{"segtax":600},"segment":[{"id":"a1"},{"id":"b2"}]}`
		for name, c := range map[string]struct{ bidders, look, want, gone string }{
			"all":    {"*", `[pbjs.c.ortb2,googletag.t]`, `[{"site":{"name":"s"},"user":{"keywords":"k","data":[{"name":"other","segment":[{"id":"o"}]},` + ours + `]}},{"k":["a1","b2"]}]`, `[{"site":{"name":"s"},"user":{"keywords":"k","data":[{"name":"other","segment":[{"id":"o"}]}]}},{"k":null}]`},
			"some":   {"rubicon,ix", `[pbjs.c,googletag.t]`, `[{"rubicon":{"ortb2":{"user":{"data":[{"name":"other"},` + ours + `]}}},"ix":{"ortb2":{"user":{"data":[` + ours + `]}}}},{"k":["a1","b2"]}]`, `[{"rubicon":{"ortb2":{"user":{"data":[{"name":"other"}]}}},"ix":{"ortb2":{"user":{"data":[]}}}},{"k":[]}]`},
			"absent": {"*", `[pbjs.que.length,googletag.cmd.length]`, `[1,1]`, `[2,2]`},
		} {
			s.put("/"+name, e.page(stubs[name], "", `<script src="`+e.URL+`/t/1/ads.js" data-site="shop" data-segtax="600" data-gpt="k" data-prebid="`+c.bidders+`"></script>`))
			b := newTab(t, browser).open(s.URL + "/" + name)
			b.js(`ebb('consent',true)`)
			look := func(want string) {
				t.Helper()
				eventually(t, func() string {
					got := b.js(`(window.pbjs&&window.googletag?` + c.look + `:0)`)
					return unless(got == want, fmt.Sprintf("%s: %s\nwant %s", name, got, want))
				})
			}
			look(c.want)
			b.js(`ebb('consent',false)`) // taken back
			look(c.gone)
			b.want(`errors`, `[]`)
		}
	})

	t.Run("TB11 what the browser does not take at the end waits for the next page", func(t *testing.T) {
		e, s := newEdge(t), newSite(t)
		s.put("/a", e.page("", `data-auto="false"`, `<script>ebb('consent',true)</script>`))
		b := newTab(t, browser).open(s.URL + "/a")
		b.js(`(function(){var v=Array(250).join('v'),p={};for(var k=0;k<6;k++)p['p'+k]=v;for(var i=0;i<65;i++)ebb('track','n'+i,p)})()`)
		b.open("about:blank") // 104 KB wait: the browser takes 64, storage 60
		b.open(s.URL + "/a")
		eventually(t, func() string {
			n := len(e.events())
			return unless(n == 65, fmt.Sprintf("%d of 65 arrived", n))
		})
		sum := 0
		for _, q := range e.all() {
			if q.Bytes > 60_000 {
				t.Errorf("a batch of %d bytes", q.Bytes)
			}
			sum += q.Bytes
		}
		t.Logf("%d requests, %d bytes", len(e.all()), sum)
	})

	t.Run("TB12 one global, no long task", func(t *testing.T) {
		e, s := newEdge(t), newSite(t)
		s.put("/a", `<!doctype html><script>window.before=Object.getOwnPropertyNames(window);window.long=[];new PerformanceObserver(function(l){l.getEntries().forEach(function(x){long.push(x.duration)})}).observe({type:'longtask',buffered:true})</script>`+
			`<script>window.t0=performance.now()</script><script src="`+e.URL+`/t/1/ebb.js" data-site="shop"></script><script>window.t1=performance.now();ebb('consent',true)</script>`)
		b := newTab(t, browser)
		b.run(slow(4))
		b.open(s.URL + "/a")
		e.wants(t, "page /a")
		b.want(`Object.getOwnPropertyNames(window).filter(function(k){return before.indexOf(k)<0&&!/^(t0|t1|before|long)$/.test(k)})`, `["ebb"]`)
		t.Logf("at a quarter of the speed: from before the tag to after it (fetching included) %s ms, tasks of more than 50 ms on the page: %s", b.js(`t1-t0`), b.js(`long`))
	})

	t.Run("TB13 two instances do not know of each other, and twice the same is one", func(t *testing.T) {
		e, s := newEdge(t), newSite(t)
		script := `<script src="` + e.URL + `/t/1/ebb.js" data-site="shop"`
		s.put("/a", `<!doctype html><script>`+errors+`window.warned=0;console.warn=function(){warned++}</script>`+script+`></script>`+script+`></script>`+script+` data-ns="dmp"></script>`)
		b := newTab(t, browser).open(s.URL + "/a")
		b.js(`(dmp('consent',true),dmp('track','theirs'),ebb('track','ours'))`)
		e.wants(t, "page /a", "theirs")
		b.js(linger)
		e.wants(t, "page /a", "theirs")
		b.want(`[warned,errors,Object.keys(localStorage)]`, `[1,[],["dmp:shop"]]`)
	})

	t.Run("TB14 text stays text", func(t *testing.T) {
		e, s := newEdge(t), newSite(t)
		const evil = `<img src=x onerror=window.pwned=1>"'}]`
		s.put("/a", e.page("", "", `<title>`+`&lt;script&gt;`+`</title><button id="b" data-ebb-event="add &lt;b&gt;" data-ebb-p-sku="&lt;script&gt;window.pwned=1&lt;/script&gt;">b</button><script>ebb('consent',true)</script>`))
		b := newTab(t, browser).open(s.URL + "/a?x=%3Cscript%3E")
		b.js("(ebb('track',`" + evil + "`),document.getElementById('b').click())")
		e.wants(t, "page /a", evil, "add <b>")
		b.want(`[window.pwned,errors,document.images.length]`, `[null,[],0]`)
	})

	t.Run("a platform in a parent frame of another origin is read", func(t *testing.T) {
		e, outer, inner := newEdge(t), newSite(t), newSite(t)
		inner.put("/in", e.page("", "", ""))
		other := strings.Replace(inner.URL, "127.0.0.1", "localhost", 1)
		outer.put("/a", `<!doctype html><iframe name="__tcfapiLocator"></iframe><iframe src="`+other+`/in"></iframe><script>
addEventListener('message',function(e){var c=e.data.__tcfapiCall;if(!c)return;window.tell=function(y){e.source.postMessage({__tcfapiReturn:{callId:c.callId,success:true,returnValue:{eventStatus:'useractioncomplete',gdprApplies:true,tcString:'CP',purpose:{consents:{1:y,3:y,4:y}},vendor:{consents:{}}}}},'*')}})</script>`)
		b := newTab(t, browser).open(outer.URL + "/a")
		eventually(t, func() string { return unless(b.js(`!!window.tell`) == "true", "nobody asked") })
		b.js(linger)
		if n := len(e.all()); n != 0 {
			t.Errorf("%d requests before the answer", n)
		}
		b.js(`tell(true)`)
		e.wants(t, "page /in")
		if c := e.all()[0].Body.Consent; c.TCF != "CP" || c.Granted != nil {
			t.Errorf("consent %+v, want the string alone", c)
		}
	})
}

func unless(ok bool, missing string) string {
	if ok {
		return ""
	}
	return missing
}
