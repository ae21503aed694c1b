package api

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// matchLines takes every line, and refuses one name.
type matchLines struct{}

func (matchLines) Import(_ context.Context, q MatchRequest) (r MatchReceipt, err error) {
	if q.Name == "1_2_3.sync" {
		return r, taxonomy.Invalid("name", "says 1")
	}
	r = MatchReceipt{Import: "ab", Destination: q.Destination}
	err = delivery.ReadMatches(q.File, func(string) error { return nil }, func(delivery.MatchRow) error {
		r.Rows++
		r.Stored++
		return nil
	}, func(f delivery.MatchFault) {
		r.Rows++
		r.Malformed++
		q.Bad(f)
	})
	return r, err
}

func (matchLines) Export(_ context.Context, id taxonomy.DestinationID, begin func(string) io.Writer) error {
	_, err := io.WriteString(begin("0_1_2.sync"), strings.Repeat("0", 32)+"\tP\n")
	return err
}

// The files of a destination go through the API in whole: refused lines keep none of
// the others back, and neither answer nor log has a value of them.
func TestMatchFilesAreTakenLineByLine(t *testing.T) {
	s := newStage(t)
	s.furnish()
	const good = "0123456789abcdef0123456789abcdef\tP1\n"
	for _, body := range []string{good + "no\n" + good, gzipped(good + "no\n" + good)} {
		a := s.must(http.StatusOK, http.MethodPost, "/destinations/dsp/matches?name=0_5_1793612152.sync", body, "Content-Type: application/octet-stream")
		if !strings.Contains(string(a.body), `"rows":3,"stored":2,`) || !strings.Contains(string(a.body), `"malformed":1,"faults":[{"line":2,"why":"has 1 columns`) {
			t.Errorf("%s", a.body)
		}
	}
	s.must(http.StatusUnprocessableEntity, http.MethodPost, "/destinations/dsp/matches?name=1_2_3.sync", good)
	s.must(http.StatusBadRequest, http.MethodPost, "/destinations/dsp/matches?nam=x", good)
	s.must(http.StatusBadRequest, http.MethodPost, "/destinations/dsp/matches", "")
	s.must(http.StatusNotFound, http.MethodPost, "/destinations/nobody/matches", good)
	a := s.must(http.StatusOK, http.MethodGet, "/destinations/dsp/matches", "")
	if string(a.body) != strings.Repeat("0", 32)+"\tP\n" || a.head.Get("Content-Disposition") != `attachment; filename="0_1_2.sync"` {
		t.Errorf("%v %q", a.head, a.body)
	}
	s.must(http.StatusNotFound, http.MethodGet, "/destinations/nobody/matches", "")
}
