package tag

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A page that the browser prerenders (Speculation Rules) is no visit: nothing is
// sent of it, also not with consent, until the visitor goes there; then it is
// one. Chromium prerenders nothing in a tab that a debugger looks at, so this one
// runs by itself, and the pages say when they go on by asking the site.
func TestLongAPrerenderedPageIsNoVisitUntilItIsShown(t *testing.T) {
	chromium(t) // skips, or fails, where there is none
	e, s := newEdge(t), newSite(t)
	asked, went, goOn := make(chan string, 9), make(chan bool, 9), make(chan bool)
	inner := s.Config.Handler
	s.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/b":
			asked <- r.Header.Get("Sec-Purpose")
		case "/wait":
			went <- true
			select {
			case <-goOn:
			case <-r.Context().Done():
			}
			return
		}
		inner.ServeHTTP(w, r)
	})
	s.put("/a", `<!doctype html><title>a</title><script type="speculationrules">{"prerender":[{"source":"list","urls":["/b"],"eagerness":"immediate"}]}</script>
<script>fetch('/wait').then(function(){location.href='/b'})</script>a`)
	s.put("/b", e.page("window.was=document.prerendering;", "", `<script>ebb('consent',true);ebb('track','early',{prerendered:was});
document.addEventListener('prerenderingchange',function(){ebb('track','shown',{activated:performance.getEntriesByType('navigation')[0].activationStart>0})})</script>`))

	dir, err := os.MkdirTemp("", "ebb-prerender")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-component-update", "--disable-sync",
		"--user-data-dir="+dir, "--remote-debugging-port=0", s.URL+"/a")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // it and its children, nobody else
		_ = cmd.Wait()                                      // killed, so it says that it was
		_ = os.RemoveAll(dir)                               // a child may still close a file there
	})
	<-went
	if purpose := <-asked; !strings.Contains(purpose, "prerender") {
		t.Fatalf("the browser asked for the page with Sec-Purpose %q, want a prerender", purpose)
	}
	// The tag is loaded and has its consent: long enough for one that does not wait.
	eventually(t, func() string { return unless(e.served() > 0, "the prerendered page did not load the tag") })
	time.Sleep(1200 * time.Millisecond)
	if all := e.all(); len(all) != 0 {
		t.Fatalf("of a page that nobody has seen %d requests were sent: %+v", len(all), all)
	}
	close(goOn)
	eventually(t, func() string {
		return unless(len(e.events()) == 3, fmt.Sprintf("the visit did not arrive: %+v", e.all()))
	})
	var prerendered, activated any
	for _, q := range e.all() {
		for _, ev := range q.Body.Events {
			switch ev.Name {
			case "early":
				prerendered = ev.Props["prerendered"]
			case "shown":
				activated = ev.Props["activated"]
			}
		}
	}
	if prerendered != true || activated != true {
		t.Errorf("prerendered %v, activated %v: the page was loaded anew", prerendered, activated)
	}
	if len(asked) > 0 {
		t.Errorf("the page was fetched again (%q)", <-asked)
	}
}
