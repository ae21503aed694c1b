package tag

import (
	"cmp"
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/chromedp/cdproto/tracing"
	"github.com/chromedp/chromedp"
)

// traced is an entry of Chromium's trace, as far as it is read here.
type traced struct {
	Name, Ph string
	Ts, Dur  float64 // µs
	Tdur     float64 // of the processor: what others took in between is not in it
	Tid      int
	Args     struct {
		Data struct {
			URL string
		}
		BeginData struct {
			StackTrace []struct{ URL string }
		}
	}
}

// What the tag costs a page, from Chromium's own trace, on a processor at a
// quarter of its speed: script time is printed; that it forces no layout is held.
func TestLongTheTagsShareOfAPage(t *testing.T) {
	browser := chromium(t)
	e, s := newEdge(t), newSite(t)
	e.audiences = `[{"id":"a","slug":"a"}]`
	s.put("/a", e.page("", "", `<script src="`+e.URL+`/t/1/shop.js" data-site="shop" data-layer="dataLayer"></script><p>text</p><button id="b" data-ebb-event="add" data-ebb-p-sku="a-1">b</button>
<script>ebb('consent',true);ebb('product',{sku:'a-1',price:5});ebb('audiences',function(){})</script>`))
	b := newTab(t, browser)
	var mu sync.Mutex
	var all []traced
	done := make(chan bool, 1)
	chromedp.ListenTarget(b, func(ev any) {
		switch ev := ev.(type) {
		case *tracing.EventDataCollected:
			mu.Lock()
			defer mu.Unlock()
			for _, v := range ev.Value {
				var x traced
				if json.Unmarshal(v, &x) == nil {
					all = append(all, x)
				}
			}
		case *tracing.EventTracingComplete:
			done <- true
		}
	})
	b.run(slow(4), tracing.Start().WithTransferMode(tracing.TransferModeReportEvents).
		WithTraceConfig(&tracing.TraceConfig{IncludedCategories: []string{"devtools.timeline", "disabled-by-default-devtools.timeline", "v8"}}))
	b.open(s.URL + "/a")
	b.js(`(document.getElementById('b').click(),history.pushState(null,'','/b'),ebb('flush'))`)
	e.wants(t, "page /a", "view_item", "add", "page /b")
	b.run(tracing.End())
	<-done
	mu.Lock()
	defer mu.Unlock()

	ours := func(url string) bool { return strings.HasPrefix(url, e.URL+"/t/") }
	type span struct{ from, to, cpu float64 }
	spans := map[int][]span{} // by thread
	kinds := map[string]int{}
	var tasks float64
	for _, x := range all {
		if x.Name == "RunTask" {
			tasks += x.Tdur
		}
		switch x.Name {
		case "EvaluateScript", "FunctionCall", "v8.compile", "TimerFire", "EventDispatch":
			if ours(x.Args.Data.URL) {
				kinds[x.Name]++
				spans[x.Tid] = append(spans[x.Tid], span{x.Ts, x.Ts + x.Dur, x.Tdur})
			}
		}
	}
	// Nested calls are counted once.
	var total, longest float64
	for tid, list := range spans {
		slices.SortFunc(list, func(a, b span) int {
			return cmp.Or(cmp.Compare(a.from, b.from), cmp.Compare(b.to, a.to)) // the outer first
		})
		var end float64
		for _, sp := range list {
			if sp.to <= end {
				continue
			}
			total += sp.cpu
			longest = max(longest, sp.cpu)
			end = sp.to
		}
		for _, x := range all {
			if x.Tid != tid || x.Name != "Layout" && x.Name != "UpdateLayoutTree" {
				continue
			}
			for _, sp := range list {
				if x.Ts >= sp.from && x.Ts < sp.to {
					t.Errorf("%s within the tag, %.0f µs after it began", x.Name, x.Ts-sp.from)
				}
			}
		}
	}
	if kinds["EvaluateScript"] != 2 || kinds["FunctionCall"] == 0 {
		t.Errorf("the trace shows %v of the tag; want its two files and their calls", kinds)
	}
	t.Logf("at a quarter of the speed, ebb.js and shop.js over a page view, a product, a click and a route change: %.1f ms of the processor, the longest call %.1f ms; %d entries; all tasks of the page %.1f ms",
		total/1000, longest/1000, len(all), tasks/1000)
}
