package console

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"

	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// A session is worth what its key is worth at each request.
func TestASessionEndsWithItsKey(t *testing.T) {
	w := normal()
	s := serve(t, w)
	keys := map[string]*tagserver.Principal{
		delivery.HashKey("ebba_viewer"):     {ID: "viewer", Scopes: tagserver.RoleViewer.Scopes()},
		delivery.HashKey("ebba_restricted"): {ID: "restricted", Scopes: tagserver.RoleAdmin.Scopes(), Sources: []taxonomy.SourceID{"web"}},
		delivery.HashKey("ebba_narrow"):     {ID: "narrow", Scopes: []tagserver.Scope{"sites:read"}},
	}
	s.c.o.Who = func(hash string) *tagserver.Principal { return keys[hash] }
	for key, want := range map[string]int{"ebba_viewer": http.StatusSeeOther, "ebba_restricted": http.StatusUnauthorized, "ebba_narrow": http.StatusUnauthorized, "ebba_nobody": http.StatusUnauthorized} {
		if res := s.do(post(base+"/login", url.Values{"key": {key}}, "Origin", ours)); res.StatusCode != want {
			t.Errorf("%s signs in: %d, want %d", key, res.StatusCode, want)
		}
	}
	k := session(t, s.do(post(base+"/login", url.Values{"key": {"ebba_viewer"}}, "Origin", ours)))
	get := func() int {
		r := httptest.NewRequest(http.MethodGet, base+"/sites", nil)
		r.AddCookie(k)
		return s.do(r).StatusCode
	}
	if got := get(); got != http.StatusOK {
		t.Errorf("with the key: %d", got)
	}
	// Reports ask for more than looking: the page says so.
	r := httptest.NewRequest(http.MethodGet, base+"/overlap?of=lapsed&of=wine", nil)
	r.AddCookie(k)
	if got := s.do(r).StatusCode; got != http.StatusForbidden {
		t.Errorf("a viewer's report: %d", got)
	}
	delete(keys, delivery.HashKey("ebba_viewer"))
	if got := get(); got != http.StatusSeeOther {
		t.Errorf("when it is revoked: %d", got)
	}
}
