package console

import (
	"strings"
	"testing"
)

// A delivery whose bytes are kept has a link to them; others say that they have none.
func TestWhatWasSentIsALinkWhileItIsKept(t *testing.T) {
	s := serve(t, normal())
	_, body := s.get(t, base+"/destinations/acme")
	const at = `href="/api/v1/destinations/acme/deliveries/000040-0-403-delta.tsv.gz/content" download`
	if strings.Count(body, at) != 1 || strings.Count(body, "/content\"") != 1 || !strings.Contains(body, "not kept any more") {
		t.Errorf("%d links to what is kept, %d in all", strings.Count(body, at), strings.Count(body, "/content\""))
	}
}
