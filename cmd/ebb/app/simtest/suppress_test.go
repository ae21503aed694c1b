package simtest

import (
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ebb-dmp/ebb/retention/defs"
	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/rules"
)

// suppressEvery is the distance of the loop that looks whom to suppress.
const suppressEvery = 5 * time.Second

// folder is a receiver that takes files out of a folder and applies them in the
// order in which they came.
type folder struct {
	w       *world
	applied map[string]bool
	holds   map[row]bool
}

// take applies what is new.
func (f *folder) take() {
	f.w.t.Helper()
	at := dataDir + ".outgoing/inbox"
	names, _ := f.w.fs.List(at) // there may be none yet
	slices.SortFunc(names, func(a, b string) int { return int(headOf(a)) - int(headOf(b)) })
	for _, name := range names {
		if f.applied[name] || strings.HasPrefix(name, ".") {
			continue
		}
		file, err := f.w.fs.Open(path.Join(at, name))
		if err != nil {
			f.w.t.Fatal(err)
		}
		z, err := gzip.NewReader(file)
		if err != nil {
			f.w.t.Fatal(err)
		}
		text, err := io.ReadAll(z)
		if err != nil {
			f.w.t.Fatal(err)
		}
		file.Close()
		for line := range strings.Lines(string(text)) {
			c := strings.Split(line, "\t")
			if c[2] == "+" {
				f.holds[row{c[0], c[1]}] = true
			} else {
				delete(f.holds, row{c[0], c[1]})
			}
		}
		f.applied[name] = true
	}
}

// headOf is the number of the head that a file was written for.
func headOf(name string) (n uint64) {
	_, _ = fmt.Sscanf(name[strings.Index(name, "-h"):], "-h%d", &n)
	return n
}

// From the event at the edge to the receiver's removal pass at most 60 s of the
// clock, at whatever moment between two checkpoints and two looks it comes; no
// build and no schedule runs. The next full leaves the visitor out as well.
func TestAConverterIsTakenFromTheReceiverWithinAMinute(t *testing.T) {
	s := edgeSim(t, nil)
	s.define(defs.Rule, "bought", rules.Rule{ID: "bought", When: []rules.Condition{{Field: "kind", Op: "eq", Value: "conversion"}}, Then: []string{"c:sim/travel.sea"}})
	s.define(defs.Audience, "bought", audience.Definition{ID: "bought", Title: "Bought", Kind: audience.KindRule, Rule: []byte(`{"trait":"c:sim/travel.sea","window":"2d"}`)})
	s.define(defs.Destination, "pushed", delivery.Destination{ID: "pushed", Title: "Pushed", Audiences: []taxonomy.AudienceID{"a"},
		Suppress: []taxonomy.AudienceID{"bought"}, Transport: "dir", URL: "inbox", Floor: 1})
	var jars []jar
	for range 4 {
		j := jar{}
		s.visits(j, "sport", 2)
		jars = append(jars, j)
	}
	s.settle()
	to := &folder{w: s.world, applied: map[string]bool{}, holds: map[row]bool{}}
	if to.take(); len(to.holds) != 4 {
		t.Fatalf("the receiver holds %d at first", len(to.holds))
	}
	// second reports whether it had a look at a checkpoint with so many converters.
	second := func(converters int) (looked bool) {
		s.clock.Add(int64(taxonomy.Second))
		s.timers.fire(pollEvery, 1) // it folds, and makes checkpoints
		if s.now()/taxonomy.Second%5 == 0 {
			looked = s.seen(converters) // before: a checkpoint may come beside the look
			s.timers.fire(suppressEvery, 1)
		}
		return looked
	}
	for i, wait := range []int{1, 17, 29, 36} {
		for range wait {
			second(0)
		}
		s.newestFrame()
		at := s.now()
		rec := s.send(request{method: http.MethodPost, path: "/v1/e", cookies: jars[i],
			body: `{"site":"shop","consent":{"granted":true},"events":[{"kind":"conversion","name":"order"}]}`})
		if rec.Code != http.StatusOK || replyOf(t, rec).Stored != 1 {
			t.Fatalf("conversion: %d %s", rec.Code, rec.Body)
		}
		want := 3 - i
		for len(to.holds) != want && s.now() < at+60*taxonomy.Second {
			if second(i + 1) {
				s.untilTaken(to, want)
			}
		}
		if took := s.now() - at; len(to.holds) != want {
			t.Fatalf("converter %d: %v s later the receiver still holds %d, want %d", i, took/taxonomy.Second, len(to.holds), want)
		} else {
			t.Logf("converter %d: gone after %d s", i, took/taxonomy.Second)
		}
	}
	s.clock.Add(int64(25 * taxonomy.Hour))
	s.settle()
	if to.take(); len(to.holds) != 0 {
		t.Errorf("after the next full it holds %d", len(to.holds))
	}
	s.clock.Add(int64(2 * taxonomy.OneDay)) // the window is over
	s.settle()
	if to.take(); len(to.holds) != 4 {
		t.Errorf("once the conversions are forgotten it holds %d", len(to.holds))
	}
}

// seen reports whether the last checkpoint has so many converters.
func (s *sim) seen(n int) bool {
	s.t.Helper()
	r, err := s.server.Reach(ctx, []taxonomy.Trait{"c:sim/travel.sea"})
	if err != nil {
		s.t.Fatal(err)
	}
	return r.Courses[0].Visitors >= uint64(n)
}

// untilTaken waits for what the look that was just made has begun to send.
func (s *sim) untilTaken(to *folder, want int) {
	s.t.Helper()
	for tries := 0; len(to.holds) != want; tries++ {
		if tries == 120_000 { // an end, not a bound
			s.t.Fatal("a look at a checkpoint with the conversion sent nothing")
		}
		time.Sleep(time.Millisecond) // for the sender's goroutine; the clock of the test stands
		to.take()
	}
}
