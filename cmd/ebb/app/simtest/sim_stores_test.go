package simtest

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/retention/embedded"
	wal "github.com/ebb-dmp/ebb/retention/log"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// compareStores opens what the App left and compares the stored events with the
// model's, one by one (P1, P5, P6); and no file has the key of a visitor that
// was erased four nights ago.
func (s *sim) compareStores() {
	s.t.Helper()
	dir := s.flags["data"]
	store, err := embedded.Open(embedded.Options{FS: s.fs, Dir: dir, Now: s.now, Compress: s.flags["compress"] == "true", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		s.fatalf("open the store: %v", err)
	}
	defer store.Close()
	type stored struct {
		v    taxonomy.VisitorKey
		site taxonomy.SiteID
		id   taxonomy.EventID
		day  taxonomy.Day
	}
	today := s.now().Day()
	want := map[stored]string{}
	for _, v := range s.m.order {
		for _, e := range v.events {
			if v.erased || !e.counts || e.at.Day() < today.Oldest() {
				continue
			}
			space, issued := taxonomy.SpaceCookie, s.issued(v)
			if e.source == "crm" {
				space, issued = "own:crm", 0
			}
			id, err := s.ring.Load().EventID(space, issued, e.site, e.id)
			if err != nil {
				s.fatalf("derive an event's ID: %v", err)
			}
			want[stored{v.key, e.site, id, e.at.Day()}] = e.id
		}
	}
	got := map[stored]bool{}
	err = store.Events().Scan(ctx, 0, 1, 0, today+1, func(e *retention.StoredEvent) error {
		k := stored{e.Record.Visitor, e.Record.Site, e.Record.Event.ID, e.Day()}
		if got[k] {
			return fmt.Errorf("an event is read twice")
		}
		got[k] = true
		if _, ok := want[k]; !ok {
			v := s.m.visitors[k.v]
			return fmt.Errorf("an event of %s on %s is stored that the model does not have; erased %t", k.site, k.day, v != nil && v.erased)
		}
		return nil
	})
	if err != nil {
		s.fatalf("P5, P6: %v", err)
	}
	for k, id := range want {
		if !got[k] {
			s.fatalf("P1: event %s of %s on %s was acknowledged and is not stored", id, k.site, k.day)
		}
	}
	gone := map[string][]byte{}
	for _, v := range s.m.order {
		if v.erased {
			addForms(gone, "key of an erased visitor", v.key[:])
		}
	}
	if where := searchAll(s.t, s.fs, dir, gone); len(where) > 0 {
		s.fatalf("P6: four nights later there is %v", where)
	}
}

// issued is the day of the cookie from which a visitor's key was derived.
func (s *sim) issued(v *visitor) taxonomy.Day { return s.issues[v.key] }

// addForms adds the forms in which bytes may stand somewhere.
func addForms(to map[string][]byte, what string, b []byte) {
	to[what+" (raw) "+strconv.Itoa(len(to))] = bytes.Clone(b)
	to[what+" (hex) "+strconv.Itoa(len(to))] = []byte(hex.EncodeToString(b))
	to[what+" (HEX) "+strconv.Itoa(len(to))] = bytes.ToUpper([]byte(hex.EncodeToString(b)))
	to[what+" (base64url) "+strconv.Itoa(len(to))] = []byte(base64.RawURLEncoding.EncodeToString(b))
	to[what+" (base64) "+strconv.Itoa(len(to))] = []byte(base64.RawStdEncoding.EncodeToString(b))
}

// searchAll looks for words in every file below dir, as it is and through the
// dumps that decode every block, and says which is where.
func searchAll(t testing.TB, fs wal.FS, dir string, words map[string][]byte) (found []string) {
	t.Helper()
	if len(words) == 0 {
		return nil
	}
	look := func(where string, b []byte) {
		for what, w := range words {
			if bytes.Contains(b, w) {
				found = append(found, what+" in "+where)
			}
		}
	}
	eachFile(t, fs, dir, func(path string, b []byte) {
		look(path, b)
		if plain, ok := gunzip(b); ok {
			look(path+" (unpacked)", plain)
		}
	})
	var dump bytes.Buffer
	if err := embedded.Dump(ctx, fs, dir, &dump); err != nil {
		t.Fatal(err)
	}
	look("the store's dump", dump.Bytes())
	if err := wal.Dump(fs, fs.PathJoin(dir, "log"), func(file string, _ uint64, raw []byte) error { look(file+" (decoded)", raw); return nil }); err != nil {
		t.Fatal(err)
	}
	return found
}

// eachFile calls fn with every file below dir.
func eachFile(t testing.TB, fs wal.FS, dir string, fn func(path string, b []byte)) {
	t.Helper()
	names, err := fs.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		path := fs.PathJoin(dir, name)
		info, err := fs.Stat(path)
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if info.IsDir() {
			eachFile(t, fs, path, fn)
			continue
		}
		fn(path, readFile(t, fs, path))
	}
}

func readFile(t testing.TB, fs wal.FS, path string) []byte {
	t.Helper()
	f, err := fs.Open(path)
	if os.IsNotExist(err) {
		return nil // Pebble removes what it no longer needs in its own time
	}
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// seeds are 1 to n, or what EBB_SEED says: one number, or from-to.
func seeds(t testing.TB, n uint64) (out []uint64) {
	from, to := uint64(1), n
	if s := os.Getenv("EBB_SEED"); s != "" {
		first, last, ranged := strings.Cut(s, "-")
		if !ranged {
			last = first
		}
		var errs [2]error
		from, errs[0] = strconv.ParseUint(first, 10, 64)
		to, errs[1] = strconv.ParseUint(last, 10, 64)
		if errors.Join(errs[:]...) != nil || to < from {
			t.Fatalf("EBB_SEED=%q: want a number, or two as 201-900", s)
		}
	}
	for ; from <= to; from++ {
		out = append(out, from)
	}
	return out
}

// A few lives of a whole Ebb; TestLongSimulator200Seeds has the rest.
func TestSimulator(t *testing.T) { simulate(t, seeds(t, 4), 60) }

func TestLongSimulator200Seeds(t *testing.T) {
	if os.Getenv("EBB_LONG") == "" {
		t.Skip("set EBB_LONG=1")
	}
	simulate(t, seeds(t, 200), 50)
}

func simulate(t *testing.T, seeds []uint64, steps int) {
	did := map[string]int{}
	crashes, visitors := 0, 0
	for _, seed := range seeds {
		s := newSim(t, seed)
		s.run(steps)
		crashes, visitors = crashes+s.crashes, visitors+len(s.m.order)
		for k, n := range s.done {
			did[k] += n
		}
	}
	t.Logf("%d seeds from %d: %d power failures, %d visitors; steps: %v", len(seeds), seeds[0], crashes, visitors, sortedNames(did))
}
