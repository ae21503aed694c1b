package simtest

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/ebb-dmp/ebb/retention/log/crashfs"
	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// I/O faults through the whole App: the n-th fsync or write fails, and all of
// its kind from then on if the fault stays. No false acknowledgement (P1), the
// server says that it is not ready, and a restart on a disk that is well has all
// that was acknowledged.
func TestFaultsOfTheDiskGiveNoFalseAcknowledgement(t *testing.T) {
	everyFault(t, 7)
}

func TestLongFaultsOfTheDisk(t *testing.T) {
	if os.Getenv("EBB_LONG") == "" {
		t.Skip("set EBB_LONG=1")
	}
	stride := 3
	if os.Getenv("EBB_TEST_FAULTS") == "all" {
		stride = 1
	}
	everyFault(t, stride)
}

func everyFault(t *testing.T, stride int) {
	for _, f := range []struct {
		name string
		kind crashfs.Kind
		err  error
		keep int
	}{
		{"fsync", crashfs.Sync, syscall.EIO, 0},
		{"disk full", crashfs.Write, crashfs.ErrNoSpace, 0},
		{"disk full, torn", crashfs.Write, crashfs.ErrNoSpace, 9},
	} {
		t.Run(f.name, func(t *testing.T) {
			hit := 0
			for n := 0; n < 40; n += stride {
				s := &sim{t: t, m: newModel(), world: newWorld(t, crashfs.New(), uint64(n), nil)}
				s.mustOpen()
				s.definitionsFor([]string{"a"})
				if s.suffers(n, f.kind, f.err, f.keep) {
					hit++
				}
			}
			if hit == 0 {
				t.Error("no fault was met: the test shows nothing")
			}
		})
	}
}

// suffers does a day's work on a disk that begins to fail at its n-th operation
// of a kind, and looks at what is left. It reports whether the fault was met.
func (s *sim) suffers(n int, kind crashfs.Kind, err error, keep int) bool {
	met, count := false, 0
	s.power.SetFault(func(_ int, op crashfs.Op) *crashfs.Fault {
		if op.Kind != kind {
			return nil
		}
		if count++; count <= n {
			return nil
		}
		met = true
		return &crashfs.Fault{Err: err, Keep: keep}
	})
	b := jar{}
	acked := uint64(0)
	refused := false
	for i := range 8 {
		for j := range 2 {
			rec := s.send(request{method: http.MethodPost, path: "/v1/e", cookies: b,
				body: fmt.Sprintf(`{"site":"shop","consent":{"granted":true},"events":[{"id":"e%d-%d","name":"x","props":{"cat":"sport"}}]}`, i, j)})
			switch rec.Code {
			case http.StatusOK:
				b.take(s.now(), rec)
				acked++
			case http.StatusServiceUnavailable:
				refused = true
				if rec.Header().Get("Retry-After") == "" {
					s.t.Errorf("operation %d: 503 without Retry-After", n)
				}
			default:
				s.t.Errorf("operation %d: post: %d %s", n, rec.Code, rec.Body)
			}
		}
		if i%3 == 1 {
			// What fails here is not acknowledged to anyone.
			if _, err := s.server.Build(ctx); err == nil {
				_ = s.server.DeliverAll(ctx)
			}
		}
	}
	if ready := s.get(tagserver.Private, "/readyz"); refused && (ready.Code == http.StatusOK || !strings.Contains(ready.Body.String(), "fault: ")) {
		s.t.Errorf("operation %d: events are refused and /readyz says %d %s", n, ready.Code, ready.Body)
	}
	next := s.power.Crash(s.power.Len(), crashfs.None)
	s.power.SetFault(nil)
	_ = s.stop() // it may not be able to
	s.fs, s.power = next, next
	s.mustOpen()
	defer func() {
		if err := s.stop(); err != nil {
			s.t.Errorf("operation %d: stop: %v", n, err)
		}
	}()
	s.newestFrame()
	if _, err := s.server.Build(ctx); err != nil {
		s.t.Fatalf("operation %d: build after the restart: %v", n, err)
	}
	accounts, aerr := s.server.Accounts(ctx)
	if aerr != nil {
		s.t.Fatal(aerr)
	}
	a := accounts["shop"]
	if !a.Balanced() || a.Received < acked+1 {
		s.t.Errorf("P1, P2: operation %d: %d events were acknowledged, and the account is %+v", n, acked, a)
	}
	if e, ok := s.server.Generation().Entry("a"); !ok || acked >= 2 && e.Count != 1 {
		s.t.Errorf("operation %d: the audience counts %d after %d acknowledged events", n, e.Count, acked)
	}
	if ready := s.get(tagserver.Private, "/readyz"); ready.Code != http.StatusOK {
		s.t.Errorf("operation %d: not ready after the restart: %s", n, ready.Body)
	}
	return met
}

// A flipped bit in any file is found and named, or changes nothing: nothing
// wrong is served.
func TestAFlippedBitServesNothingWrong(t *testing.T) {
	s := newSim(t, 2)
	v := []string{}
	for n := range 3 {
		b := jar{}
		for i := range 3 {
			rec := s.send(request{method: http.MethodPost, path: "/v1/e", cookies: b,
				body: fmt.Sprintf(`{"site":"shop","consent":{"granted":true},"events":[{"id":"f%d-%d","name":"x","props":{"cat":"sport"}}]}`, n, i)})
			if rec.Code != http.StatusOK {
				t.Fatal(rec.Body)
			}
			b.take(s.now(), rec)
		}
		v = append(v, b[tagserver.CookieID].value)
	}
	if err := s.server.Nightly(ctx); err != nil {
		t.Fatal(err)
	}
	for range 3 { // so that the middle of the journal is not its last entry, which could be torn
		rec := s.send(request{method: http.MethodPost, path: "/v1/e", body: `{"site":"shop","consent":{"granted":true},"events":[]}`})
		v = append(v, setsID(rec))
	}
	for _, value := range v[2:] {
		rec := s.send(request{method: http.MethodPost, path: "/v1/optout", cookies: jar{tagserver.CookieID: {value, s.now() + taxonomy.OneDay}}})
		if rec.Code != http.StatusOK {
			t.Fatal(rec.Body)
		}
	}
	s.erasesSoon()
	s.newestFrame() // stands in the log only
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	whole := s.power
	found, kinds := map[string]int{}, map[string]int{}
	eachFile(t, whole, dataDir, func(path string, b []byte) {
		if len(b) == 0 || strings.HasSuffix(path, "LOCK") || strings.HasSuffix(path, "/reserve") {
			return
		}
		kind := kindOf(path)
		if kinds[kind]++; kinds[kind] > 3 {
			return
		}
		disk := whole.Crash(whole.Len(), crashfs.All)
		flip(t, disk, path, b)
		s.fs, s.power = disk, disk
		s.log = &lines{}
		if how := s.afterFlip(path); how != "" {
			found[kind]++
			t.Logf("%-40s %.200s", path, how)
			if kind == "manifest" && strings.HasPrefix(how, "open: ") {
				t.Errorf("a generation, which can be built again, keeps the program from starting: %s", how)
			}
		}
	})
	t.Logf("files looked at, by kind: %v; found: %v", kinds, found)
	for _, kind := range []string{"log", "visitors", "state", "day", "seen", "checkpoint", "members", "manifest", "gz", "ledger", "erasures.journal", "sst"} {
		if found[kind] == 0 {
			t.Errorf("a flipped bit in a file of kind %q is never found", kind)
		}
	}
}

// afterFlip opens the App over the damaged disk and uses it. It returns how the
// damage was told, "" if nothing was and all is as it was.
func (s *sim) afterFlip(path string) string {
	s.t.Helper()
	if err := s.open(); err != nil {
		return "open: " + err.Error()
	}
	told := ""
	say := func(what string, err error) bool {
		if err != nil && told == "" {
			told = what + ": " + err.Error()
		}
		return err == nil
	}
	p := newDSP("one")
	if g := s.server.Generation(); g != nil {
		if e, ok := g.Entry("a"); ok {
			if set, err := s.server.Members(ctx, "a"); say("members", err) && set.Count() != e.Count {
				s.t.Errorf("%s: members read %d, the generation counts %d", path, set.Count(), e.Count)
			}
		}
	}
	say("pull", s.pull(p)) // a file that differs from its hash is an error of pull
	_, err := s.server.Build(ctx)
	// What our log lost is counted, and missing.
	if say("build", err) && !strings.HasPrefix(path, dataDir+"/log/") {
		if e, _ := s.server.Generation().Entry("a"); e.Count != 2 {
			s.t.Errorf("%s: built on damage that was not seen: the audience counts %d, want 2", path, e.Count)
		}
	}
	say("deliver", s.server.DeliverAll(ctx))
	say("stop", s.stop())
	for line := range strings.Lines(s.log.String()) {
		if told == "" && (strings.Contains(line, "level=WARN") || strings.Contains(line, "level=ERROR")) {
			told = strings.TrimSpace(line)
		}
	}
	return told
}

// kindOf is what a file is, by its name.
func kindOf(path string) string {
	name := strings.TrimSuffix(path[strings.LastIndexByte(path, '/')+1:], "=blob")
	switch {
	case strings.HasPrefix(path, dataDir+"/log/"):
		return "log"
	case name == "erasures.journal":
		return name
	case strings.HasPrefix(name, "MANIFEST-"):
		return "MANIFEST"
	case strings.HasPrefix(path, dataDir+"/db/") && strings.HasSuffix(name, ".log"):
		return "wal"
	}
	if i := strings.LastIndexAny(name, ".-"); i >= 0 {
		return name[i+1:]
	}
	return name
}

// flip turns over a bit in the middle of a file.
func flip(t testing.TB, fs *crashfs.FS, path string, b []byte) {
	t.Helper()
	f, err := fs.Create(path, "")
	if err != nil {
		t.Fatal(err)
	}
	c := append([]byte(nil), b...)
	c[len(c)/2] ^= 4
	if _, err := f.Write(c); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}
