package simtest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/ebb-dmp/ebb/retention/defs"
	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/tagserver/api"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// uid is a browser's pseudonym at a destination.
func (s *sim) uid(j jar, dest string) string {
	s.t.Helper()
	rec := s.send(request{method: http.MethodGet, path: "/v1/uid/" + dest + "?site=shop&consent=1", cookies: j})
	var reply struct{ UID string }
	if err := json.Unmarshal(rec.Body.Bytes(), &reply); err != nil || reply.UID == "" {
		s.t.Fatalf("uid: %d %s %v", rec.Code, rec.Body, rec.Header())
	}
	return reply.UID
}

func (s *sim) private(method, path, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, "http://ebb.example"+path, strings.NewReader(body))
	r.Header.Set("Authorization", "Bearer "+s.adminKey)
	rec := httptest.NewRecorder()
	s.server.Edge().Handler(tagserver.Private).ServeHTTP(rec, r)
	return rec
}

type matchReceipt struct {
	api.MatchReceipt
	Faults []delivery.MatchFault
}

// takes gives a destination's file and returns its receipt, whose numbers add up.
func (s *sim) takes(dest, file string) (r matchReceipt) {
	s.t.Helper()
	rec := s.private(http.MethodPost, "/api/v1/destinations/"+dest+"/matches", file)
	if err := json.Unmarshal(rec.Body.Bytes(), &r); err != nil || rec.Code != http.StatusOK {
		s.t.Fatalf("matches in: %d %s", rec.Code, rec.Body)
	}
	if r.Rows != r.Stored+r.Unchanged+r.Duplicate+r.Unmatched+r.Consent+r.Capped+r.Malformed {
		s.t.Errorf("the receipt does not add up: %+v", r.MatchReceipt)
	}
	return r
}

// gives returns the lines of a destination's file.
func (s *sim) gives(dest string) (lines []string) {
	s.t.Helper()
	rec := s.private(http.MethodGet, "/api/v1/destinations/"+dest+"/matches", "")
	if rec.Code != http.StatusOK || !strings.HasPrefix(rec.Header().Get("Content-Disposition"), `attachment; filename="0_`+dest+`_`) {
		s.t.Fatalf("matches out: %d %v %s", rec.Code, rec.Header(), rec.Body)
	}
	for line := range strings.Lines(rec.Body.String()) {
		lines = append(lines, strings.TrimSuffix(line, "\n"))
	}
	return lines
}

// R13, R24, R32: a file of matches in, and out again: for one destination alone, for
// whom it may have, once, within the caps, and for nobody who has gone.
func TestMatchesComeAndGoByFile(t *testing.T) {
	s := edgeSim(t, nil)
	s.define(defs.Destination, "three", delivery.Destination{ID: "three", Title: "Three", Audiences: []taxonomy.AudienceID{"a"}, IDs: delivery.ByMatch, Floor: 1,
		Sync: delivery.Sync{IDsPerVisitor: 2}})
	var jars []jar
	for range 5 {
		j := jar{}
		s.visits(j, "sport", 2)
		jars = append(jars, j)
	}
	s.settle()
	line := func(v int, id string) string { return s.uid(jars[v], "three") + "\t" + id }
	want := []string{line(0, "P0"), line(1, "P1"), line(2, "P2")}
	// One opts out, and is erased; one does not want to be sent to anybody.
	s.define(defs.Site, "quiet", taxonomy.Site{ID: "quiet", Title: "Quiet", Origins: []string{shop}, Source: "own", Consent: taxonomy.ModeOptIn, GPCMode: "share_only"})
	unsent := line(4, "P4")
	if rec := s.send(request{method: http.MethodPost, path: "/v1/e", cookies: jars[4], header: []string{"Sec-GPC", "1"},
		body: `{"site":"quiet","consent":{"granted":true},"events":[{"name":"seen","props":{"cat":"sport"}}]}`}); replyOf(t, rec).Stored != 1 {
		t.Fatalf("quiet: %s", rec.Body)
	}
	other := s.uid(jars[0], "one")
	file := strings.Join([]string{want[0], want[1], "broken", want[2], line(3, "P3"), other + "\tP9", strings.Repeat("0", 32) + "\tP8", unsent, line(2, "a@b.example")}, "\n") + "\n"
	gone := s.uid(jars[3], "three")
	if rec := s.send(request{method: http.MethodPost, path: "/v1/optout", cookies: jars[3], body: "{}"}); rec.Code >= 400 {
		t.Fatalf("opt-out: %d %s", rec.Code, rec.Body)
	}
	r := s.takes("three", file)
	// The sync of another destination names nobody here, and neither does who is erased.
	if r.Stored != 3 || r.Malformed != 2 || r.Unmatched != 3 || r.Consent != 1 || len(r.Faults) != 2 || r.Faults[0].Line != 3 || r.Faults[1].Line != 9 || r.Faults[1].Column != 2 {
		t.Errorf("%+v", r)
	}
	slices.Sort(want)
	out := s.gives("three")
	if !slices.Equal(out, want) {
		t.Errorf("out: %q\nwant %q", out, want)
	}
	if r = s.takes("three", file); r.Stored != 0 || r.Duplicate != 3 {
		t.Errorf("the same file again: %+v", r)
	}
	if r = s.takes("three", strings.Join(out, "\n")); r.Stored != 0 || r.Unchanged != 3 {
		t.Errorf("what went out comes in: %+v", r)
	}
	if lines := s.gives("one"); len(lines) != 0 {
		t.Errorf("another destination has %q", lines)
	}
	// Caps hold for files as for browsers.
	var many []string
	for i := range 4 {
		many = append(many, line(0, fmt.Sprint("Q", i)))
	}
	if r = s.takes("three", strings.Join(many, "\n")); r.Stored != 1 || r.Capped != 3 || len(r.Faults) != 3 {
		t.Errorf("caps: %+v", r)
	}
	s.settle()
	held := func() uint64 {
		t.Helper()
		d, err := s.server.Files().Standing(ctx, "three")
		if err != nil {
			t.Fatal(err)
		}
		return d.Held
	}
	if held() != 3 {
		t.Errorf("delivered to %d, want 3", held())
	}
	// Who takes the consent away is in no file, whatever a file says of it.
	if rec := s.send(request{method: http.MethodPost, path: "/v1/optout", cookies: jars[1], body: "{}"}); rec.Code >= 400 {
		t.Fatalf("opt-out: %d %s", rec.Code, rec.Body)
	}
	s.clock.Add(int64(taxonomy.OneDay))
	if r = s.takes("three", file+"\n"); r.Stored != 2 || r.Unmatched != 4 || r.Consent != 1 {
		t.Errorf("after an erasure: %+v", r)
	}
	for _, l := range s.gives("three") {
		if strings.HasPrefix(l, gone) || l == want[slices.IndexFunc(want, func(x string) bool { return strings.HasSuffix(x, "P1") })] {
			t.Errorf("an erased visitor is in the file: %q", l)
		}
	}
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	s.mustOpen()
	if n := len(s.gives("three")); n != 2 {
		t.Errorf("after a restart the file has %d lines", n)
	}
}
