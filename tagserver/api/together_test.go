package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ebb-dmp/ebb/taxonomy"
)

func TestNoChangeIsLostAmongMany(t *testing.T) {
	s := newStage(t)
	s.furnish()
	s.must(201, "PUT", "/sources/count", `{"party":1,"title":"0"}`, "If-None-Match: *")
	const writers, each = 4, 5
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for done := 0; done < each; {
				got := s.call("GET", "/sources/count", "")
				var src taxonomy.Source
				if err := json.Unmarshal(got.body, &src); err != nil {
					t.Error(err)
					return
				}
				n := 0
				_, _ = fmt.Sscan(src.Title, &n)
				a := s.call("PUT", "/sources/count", fmt.Sprintf(`{"party":1,"title":"%d"}`, n+1), "If-Match: "+got.head.Get("ETag"))
				switch a.code {
				case 200:
					done++
				case 412:
				default:
					t.Errorf("%d %s", a.code, a.body)
					return
				}
			}
		})
	}
	wg.Wait()
	var src taxonomy.Source
	s.must(200, "GET", "/sources/count", "").into(t, &src)
	if src.Title != fmt.Sprint(writers*each) {
		t.Errorf("counted to %s, want %d", src.Title, writers*each)
	}
}

func TestTwoChangesThatDoNotGoTogetherAreNotBothMade(t *testing.T) {
	s := newStage(t)
	for i := range 20 {
		id := fmt.Sprintf("s%d", i)
		s.must(201, "POST", "/sources", `{"id":"`+id+`","party":1}`)
		var made, gone *answer
		var wg sync.WaitGroup
		wg.Go(func() {
			made = s.call("PUT", "/sites/"+id, `{"origins":["https://x.example"],"source":"`+id+`","consent":"opt-in"}`, "If-None-Match: *")
		})
		wg.Go(func() { gone = s.call("DELETE", "/sources/"+id, "", "If-Match: *") })
		wg.Wait()
		if (made.code == 201) == (gone.code == 204) {
			t.Fatalf("a site of a source: %d %s; the source's deletion: %d %s", made.code, made.body, gone.code, gone.body)
		}
	}
}

// deadlines notes which deadlines were taken off.
type deadlines struct {
	*httptest.ResponseRecorder
	read, write int
}

func (d *deadlines) SetReadDeadline(t time.Time) error {
	if t.IsZero() {
		d.read++
	}
	return nil
}

func (d *deadlines) SetWriteDeadline(t time.Time) error {
	if t.IsZero() {
		d.write++
	}
	return nil
}

func TestWhatTakesLongHasNoDeadlineAndWhatDoesNotKeepsIts(t *testing.T) {
	s := newStage(t)
	s.furnish()
	for _, c := range []struct {
		method, path, body string
		want               int
	}{
		{"POST", "/generations", "", 1}, {"POST", "/destinations/dsp/deliveries", "", 1}, {"POST", "/estimates", `{"rule":{"any":true}}`, 1},
		{"POST", "/imports", "", 1}, {"POST", "/erasures", `{"space":"own:crm","id":"x"}`, 1}, {"GET", "/retention", "", 1},
		{"GET", "/sites", "", 0}, {"POST", "/sources", `{"id":"z","party":1}`, 0},
	} {
		r := httptest.NewRequest(c.method, base+c.path, strings.NewReader(c.body))
		r.Header.Set("Authorization", "Bearer "+adminKey)
		r.Header.Set("Content-Type", "application/json")
		d := &deadlines{ResponseRecorder: httptest.NewRecorder()}
		s.edge.ServeHTTP(d, r)
		if d.read != c.want || d.write != c.want || d.Code >= http.StatusInternalServerError {
			t.Errorf("%s %s: deadlines taken off %d and %d times, want %d (%d %s)", c.method, c.path, d.read, d.write, c.want, d.Code, d.Body)
		}
	}
}
