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
	"strings"
	"testing"
	"time"

	"github.com/ebb-dmp/ebb/cmd/ebb/cli"
	"github.com/ebb-dmp/ebb/cmd/ebb/client"
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
