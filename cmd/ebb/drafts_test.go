package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/ebb-dmp/ebb/cmd/ebb/cli"
	"github.com/ebb-dmp/ebb/cmd/ebb/client"
	"github.com/ebb-dmp/ebb/cmd/ebb/demo"
)

// slow answers as a server whose plans take long: the state of the operation is the
// next of a list each time, and the last from then on.
type slow struct {
	states []string
	asked  []string
	seen   func() // each time the state is asked for
}

func (s *slow) client(t *testing.T) *client.Client {
	mux := http.NewServeMux()
	note := func(r *http.Request) { s.asked = append(s.asked, r.Method+" "+r.URL.Path) }
	mux.HandleFunc("POST /api/v1/plan", func(w http.ResponseWriter, r *http.Request) {
		note(r)
		if !strings.HasPrefix(r.Header.Get("Prefer"), "respond-async") {
			t.Errorf("prefers %q", r.Header.Get("Prefer"))
		}
		w.Header().Set("Operation-Location", "/api/v1/operations/plan-x")
		w.WriteHeader(202)
		fmt.Fprint(w, `{"id":"plan-x","state":"running"}`)
	})
	mux.HandleFunc("GET /api/v1/operations/plan-x", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, `{"id":"plan-x","state":%q,"progress":0.4,"events_total":1000}`, s.states[0])
		s.states = s.states[min(1, len(s.states)-1):]
		if s.seen != nil {
			s.seen()
		}
	})
	mux.HandleFunc("POST /api/v1/operations/plan-x/cancel", func(w http.ResponseWriter, r *http.Request) {
		note(r)
		fmt.Fprint(w, `{"id":"plan-x","state":"cancelled"}`)
	})
	mux.HandleFunc("GET /api/v1/operations/plan-x/result", func(w http.ResponseWriter, r *http.Request) {
		note(r)
		if s.states[0] != "done" {
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(409)
			_ = json.NewEncoder(w).Encode(map[string]any{"status": 409, "detail": "it was cancelled; plan again"})
			return
		}
		fmt.Fprint(w, `{"hash":"00ff","changes":[],"same":7}`)
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return client.New(server.URL, "key", server.Client())
}

func TestAPlanThatTakesLongIsFollowed(t *testing.T) {
	s := &slow{states: []string{"running", "running", "done"}}
	clock := time.Unix(0, 0)
	var told bytes.Buffer
	c := &cli.Context{Context: t.Context(), Stdout: io.Discard, Stderr: &told, Now: func() time.Time { clock = clock.Add(noteEvery); return clock }}
	var p planAnswer
	raw, err := counted(c, s.client(t), "/api/v1/plan", planRequest{}, &p)
	if err != nil || p.Same != 7 || !strings.Contains(string(raw), "00ff") {
		t.Fatalf("%s %v", raw, err)
	}
	if !strings.HasPrefix(told.String(), "plan-x: 40% of about 1000 stored events are read") {
		t.Errorf("told %q", told.String())
	}
	s = &slow{states: []string{"running", "cancelled"}} // by somebody else
	if _, err := counted(c, s.client(t), "/api/v1/plan", planRequest{}, &p); err == nil || !strings.Contains(err.Error(), "plan again") {
		t.Errorf("cancelled: %v", err)
	}
}

func TestWhoInterruptsAPlanCancelsIt(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	s := &slow{states: []string{"running"}, seen: stop}
	c := &cli.Context{Context: ctx, Stdout: io.Discard, Stderr: io.Discard, Now: time.Now}
	var p planAnswer
	if _, err := counted(c, s.client(t), "/api/v1/plan", planRequest{}, &p); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if want := "POST /api/v1/operations/plan-x/cancel"; len(s.asked) != 2 || s.asked[1] != want {
		t.Errorf("asked %q", s.asked)
	}
}

// The console's pages over the real API: what they ask of it is what it answers.
func draftInTheConsole(t *testing.T, d *demo.Demo) {
	cookie := ""
	visit := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	send := func(method, path string, form url.Values) (int, string, http.Header) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), method, d.Info.Private+path, strings.NewReader(form.Encode()))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set("Sec-Fetch-Site", "same-origin")
		r.Header.Set("Cookie", cookie)
		res, err := visit.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, string(b), res.Header
	}
	goes := func(path string, form url.Values, to string) string {
		t.Helper()
		status, body, h := send(http.MethodPost, path, form)
		if status != http.StatusSeeOther || !strings.HasPrefix(h.Get("Location"), to) {
			t.Fatalf("%s %v: %d to %q\n%s", path, form, status, h.Get("Location"), body)
		}
		return h.Get("Location")
	}
	says := func(path string, want ...string) string {
		t.Helper()
		_, body, _ := send(http.MethodGet, path, nil)
		for _, w := range want {
			if !strings.Contains(body, w) {
				t.Errorf("%s does not say %q:\n%s", path, w, body)
			}
		}
		return body
	}
	_, _, h := send(http.MethodPost, "/console/login", url.Values{"key": {d.Info.AdminKey}})
	cookie, _, _ = strings.Cut(h.Get("Set-Cookie"), ";")

	// A rule: from nothing over a draft to an operation.
	const draft = "/console/drafts/rules/all-of-it"
	goes("/console/editor", url.Values{"title": {"All of it"}, "then": {"k:all=yes"}, "field.0": {"kind"}, "op.0": {"ne"}, "values.0": {"click"}, "was": {""}, "text": {""}, "do": {"draft"}}, draft)
	says("/console/rules", `href="`+draft+`"`)
	says("/console/editor/all-of-it?draft=1", "Save the draft", `value="All of it"`)
	says(draft, "It is new.", "It asks that kind is there and is not “click”.", "It gives k:all=yes.", "Saved by admin")
	at := goes(draft, url.Values{"do": {"plan"}, "draft": {"1"}}, draft+"?plan=plan-")
	for body := says(at); !strings.Contains(body, "would keep theirs"); body = says(at) {
		if !strings.Contains(body, "Cancel counting") {
			t.Fatalf("neither counted nor counting:\n%s", body)
		}
	}
	if status, body, _ := send(http.MethodPost, draft, url.Values{"do": {"publish"}, "draft": {"7"}}); status != http.StatusPreconditionFailed || !strings.Contains(body, "admin saved this draft since you looked at it") {
		t.Errorf("a draft that was not looked at: %d", status)
	}
	goes(draft, url.Values{"do": {"publish"}, "draft": {"1"}}, "/console/")
	if status, _, _ := send(http.MethodGet, draft, nil); status != http.StatusNotFound {
		t.Errorf("published, it is still a draft: %d", status)
	}
	says("/console/versions/rules/all-of-it", "It asks that kind is there and is not “click”.")

	// A tree: taken into a draft, changed, discarded.
	goes("/console/drafts/taxonomies/products", url.Values{"do": {"begin"}}, "/console/taxonomies/products?draft=1")
	goes("/console/taxonomies/products?draft=1", url.Values{"do": {"add"}, "title": {"Moon cheese"}}, "/console/taxonomies/products/moon-cheese?draft=1")
	says("/console/drafts/taxonomies/products", "“Moon cheese” (moon-cheese) is new, at the top.")
	if strings.Contains(says("/console/taxonomies/products", "There is a draft with changes by admin."), "moon-cheese") {
		t.Error("what is published has what the draft adds")
	}
	goes("/console/drafts/taxonomies/products", url.Values{"do": {"discard"}, "draft": {"2"}}, "/console/taxonomies")
}
