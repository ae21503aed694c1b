package app_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/ebb-dmp/ebb/cmd/ebb/app/apptest"
	"github.com/ebb-dmp/ebb/tagserver"
)

// Every row of an installation that asks for a key answers nobody without one, and
// each listener has the rows that belong there.
func TestNoRouteAnswersWithoutAKey(t *testing.T) {
	a, admin := apptest.New(t, time.Now, nil).Open(t)
	t.Cleanup(func() { apptest.Close(t, a) })
	s, err := a.Serve(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	call := func(r *tagserver.Route, authorization string) *httptest.ResponseRecorder {
		path := strings.NewReplacer(":id", "shop", ":category", "a", ":receipt", "00ff", ":site", "shop").Replace(r.Path)
		req := httptest.NewRequest(r.Method, path, strings.NewReader("{}"))
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("If-Match", "*")
		req.Header.Set("Authorization", authorization)
		w := httptest.NewRecorder()
		s.Edge().Handler(r.Listener).ServeHTTP(w, req)
		return w
	}
	asked := map[tagserver.Auth]int{}
	for _, r := range s.Edge().Routes() {
		if r.Auth != tagserver.AuthAdmin && r.Auth != tagserver.AuthDestination {
			continue
		}
		want := map[tagserver.Auth]tagserver.Listener{tagserver.AuthAdmin: tagserver.Private, tagserver.AuthDestination: tagserver.Partner}[r.Auth]
		if r.Listener != want {
			t.Errorf("%s %s is for %s on the listener %s", r.Method, r.Path, r.Auth, r.Listener)
		}
		asked[r.Auth]++
		for _, authorization := range []string{"", "Bearer ebba_other", "Bearer ebbp_" + admin, admin, "Basic " + admin} {
			w := call(&r, authorization)
			page := r.Method == http.MethodGet && strings.HasPrefix(r.Path, "/console")
			switch {
			case page && w.Code == http.StatusSeeOther && strings.HasPrefix(w.Header().Get("Location"), "/console/login"):
			case !page && w.Code == http.StatusUnauthorized && w.Header().Get("WWW-Authenticate") != "":
			default:
				t.Errorf("%s %s with %q: %d %s", r.Method, r.Path, strings.ReplaceAll(authorization, admin, "KEY"), w.Code, w.Body)
			}
		}
		if r.Method == http.MethodGet && r.Path == "/api/v1/sites" {
			if w := call(&r, "Bearer "+admin); w.Code != http.StatusOK {
				t.Errorf("with the key: %d %s", w.Code, w.Body)
			}
			asked["with the key"]++
		}
	}
	if asked[tagserver.AuthAdmin] < 100 || asked[tagserver.AuthDestination] < 3 || asked["with the key"] != 1 {
		t.Errorf("asked %v: the table has lost rows", asked)
	}
}
