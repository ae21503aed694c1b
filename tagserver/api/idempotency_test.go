package api

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
)

const again = "Idempotency-Key: 5f0c1f6e-7d0b-4f6a-9a3e-2b9a1c1f9d10"

func TestARepeatedPostGetsTheSameAnswerAndDoesNothing(t *testing.T) {
	s := newStage(t)
	s.furnish()
	const body = `{"id":"newcomer","title":"New"}`
	first := s.must(201, "POST", "/destinations", body, again)
	version := s.defs.Version()
	second := s.must(201, "POST", "/destinations", body, again)
	if !bytes.Equal(first.body, second.body) || first.head.Get("ETag") != second.head.Get("ETag") || first.head.Get("Location") != second.head.Get("Location") ||
		second.head.Get("Idempotency-Replayed") != "true" || first.head.Get("Idempotency-Replayed") != "" || second.head.Get("Content-Type") != "application/json" {
		t.Errorf("first %v %s\nthen %v %s", first.head, first.body, second.head, second.body)
	}
	if s.defs.Version() != version {
		t.Error("something was made again")
	}
	if a := s.must(422, "POST", "/destinations", `{"id":"other","title":"New"}`, again); a.problem(t).Code != codeKeyReused {
		t.Errorf("%s", a.body)
	}
	// A body that nobody reads is a body too.
	s.must(201, "POST", "/generations", "unread", "Idempotency-Key: g")
	s.must(201, "POST", "/generations", "unread", "Idempotency-Key: g")
	s.must(422, "POST", "/generations", "other", "Idempotency-Key: g")
	// The same key of another route, or of another caller, is another.
	s.must(200, "POST", "/destinations/newcomer/key", "", again)
	other := s.key(`{"id":"second","role":"admin"}`)
	s.must(409, "POST", "/destinations", body, again, other) // there already
	// What is kept holds neither the destination's key nor ours.
	var k struct{ Key string }
	first.into(t, &k)
	kept := 0
	err := s.keys.Scan(context.Background(), retention.KeyedSpace{Name: "answers", Swapped: true}, nil, func(it retention.Item) error {
		kept++
		if all := it.Key.Partition + it.Key.Item + string(it.Value); strings.Contains(all, k.Key) || strings.Contains(all, "5f0c1f6e") || strings.Contains(all, "newcomer") {
			t.Errorf("kept in clear: %s", all)
		}
		if it.Over != now+taxonomy.OneDay {
			t.Errorf("kept until %d", it.Over)
		}
		return nil
	})
	if err != nil || kept != 3 || len(k.Key) < 40 {
		t.Errorf("%d answers are kept, key %q: %v", kept, k.Key, err)
	}
	// A day later it is another request.
	s.later = taxonomy.OneDay
	s.must(409, "POST", "/destinations", body, again)
}

func TestWhatWasRefusedDoesNotUseTheKeyUp(t *testing.T) {
	s := newStage(t)
	s.furnish()
	s.must(422, "POST", "/sites", `{"id":"x"}`, again)
	s.must(201, "POST", "/sites", `{"id":"x","origins":["https://x.example"],"source":"own","consent":"opt-in"}`, again)
	for _, bad := range []string{"a b", strings.Repeat("x", 256), "\x7f"} {
		s.must(400, "POST", "/sites", `{"id":"y"}`, "Idempotency-Key: "+bad)
	}
}

func TestARepeatedImportIsTakenInOnce(t *testing.T) {
	s := newStage(t)
	s.furnish()
	begun, go_on := make(chan bool), make(chan bool)
	s.imported = func(q ImportRequest) (ImportReceipt, error) {
		begun <- true
		<-go_on
		return ImportReceipt{Import: strings.Repeat("ab", 16), Source: q.Source}, nil
	}
	give := func() *answer {
		body := "--b\r\nContent-Disposition: form-data; name=source\r\n\r\nown\r\n--b\r\nContent-Disposition: form-data; name=mapping\r\n\r\n" + mapping +
			"\r\n--b\r\nContent-Disposition: form-data; name=file; filename=x.csv\r\n\r\n" + file + "\r\n--b--\r\n"
		return s.call("POST", "/imports", body, "Content-Type: multipart/form-data; boundary=b", again)
	}
	first := make(chan *answer)
	go func() { first <- give() }()
	<-begun
	if a := give(); a.code != 409 || a.problem(t).Code != codeBusy || a.head.Get("Retry-After") == "" {
		t.Errorf("while it runs: %d %s", a.code, a.body)
	}
	go_on <- true
	a, b := <-first, give()
	if a.code != 201 || b.code != 201 || !bytes.Equal(a.body, b.body) || len(s.received) != 1 {
		t.Errorf("%d %s, %d %s: taken in %d times", a.code, a.body, b.code, b.body, len(s.received))
	}
}

func TestKeptAnswersAreBounded(t *testing.T) {
	s := newStage(t, func(o *Options) { o.Limits.Answers = 5 << 10 })
	refused := 0
	for i := range 10 {
		a := s.call("POST", "/sources", fmt.Sprintf(`{"id":"s%d","party":1}`, i), fmt.Sprint("Idempotency-Key: ", i))
		if a.code == 503 && a.problem(t).Code == codeFull {
			refused++
		} else if a.code != 201 {
			t.Fatalf("%d %s", a.code, a.body)
		}
	}
	if refused == 0 || refused == 10 {
		t.Errorf("%d of 10 were refused", refused)
	}
	s.must(201, "POST", "/sources", `{"id":"without","party":1}`)
	s.later = taxonomy.OneDay
	s.must(201, "POST", "/sources", `{"id":"tomorrow","party":1}`, "Idempotency-Key: t")
}
