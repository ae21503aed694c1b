package keys

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/ebb-dmp/ebb/taxonomy"
	"pgregory.net/rapid"
)

func seeded(n byte) io.Reader { return rand.NewChaCha8([32]byte{n}) }

func day(t testing.TB, s string) taxonomy.Day {
	t.Helper()
	d, err := taxonomy.ParseDay(s)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func made(t testing.TB, today taxonomy.Day) *Ring {
	t.Helper()
	r, err := Generate(seeded(1), today)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestHMACEqualsTheLibrarys(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		raw := [secretSize]byte(rapid.SliceOfN(rapid.Byte(), secretSize, secretSize).Draw(t, "key"))
		msg := rapid.SliceOfN(rapid.Byte(), 0, 600).Draw(t, "message") // beyond scratch too
		s := newSecret(raw)
		var a scratch
		got := s.end(append(s.begin(a[:0]), msg...))
		h := hmac.New(sha256.New, raw[:])
		h.Write(msg)
		if want := h.Sum(nil); !bytes.Equal(got[:], want) {
			t.Fatalf("got %x, want %x", got, want)
		}
	})
}

// R30
func TestANewRingHasThisAndTheNextFourQuarters(t *testing.T) {
	today := day(t, "2026-11-25")
	r := made(t, today)
	for s, want := range map[string]bool{
		"2026-09-30": false, "2026-10-01": true, "2026-11-25": true, "2026-12-31": true,
		"2027-01-01": true, "2027-12-31": true, "2028-01-01": false,
	} {
		_, err := r.VisitorKey(taxonomy.SpaceCookie, make([]byte, 16), day(t, s))
		if (err == nil) != want {
			t.Errorf("issued %s: err = %v, want a key: %v", s, err, want)
		}
		if err != nil && !errors.Is(err, ErrNoKey) {
			t.Errorf("issued %s: %v is not ErrNoKey", s, err)
		}
	}
	if got, want := r.ExtendDue(today), int(day(t, "2028-01-01")-today); got != want {
		t.Errorf("due in %d days, want %d", got, want)
	}
	if got := r.ExtendDue(day(t, "2027-12-31")); got != 1 {
		t.Errorf("on the last day: due in %d days, want 1", got)
	}
	if got := r.ExtendDue(day(t, "2028-01-01")); got != 0 {
		t.Errorf("a day too late: due in %d days, want 0", got)
	}
}

// R30
func TestExtendKeepsEveryKeyThatIsThere(t *testing.T) {
	r := made(t, day(t, "2026-11-25"))
	same, n, err := r.Extend(seeded(2), day(t, "2026-12-31"))
	if err != nil || n != 0 || same != r {
		t.Fatalf("in the same quarter: %d added, err %v", n, err)
	}
	later, n, err := r.Extend(seeded(2), day(t, "2027-05-01"))
	if err != nil || n != 2 {
		t.Fatalf("two quarters later: %d added, err %v", n, err)
	}
	if len(r.quarters) != 5 {
		t.Errorf("the old ring has changed: %d quarters", len(r.quarters))
	}
	id := make([]byte, 16)
	for _, s := range []string{"2026-10-01", "2027-12-31"} {
		a, err1 := r.VisitorKey(taxonomy.SpaceCookie, id, day(t, s))
		b, err2 := later.VisitorKey(taxonomy.SpaceCookie, id, day(t, s))
		if err1 != nil || err2 != nil || a != b {
			t.Errorf("issued %s: the visitor key changed (%v, %v)", s, err1, err2)
		}
	}
}

// R30
func TestPruneDestroysAStoreKeyOnceNothingCanBeKeptUnderIt(t *testing.T) {
	r := made(t, day(t, "2026-11-25"))
	last := day(t, "2026-12-31") // the quarter's last ID
	// It is valid on last+90, and what it did on that day is readable until:
	over := last + CookieDays + taxonomy.RetentionDays
	if same, gone := r.Prune(over); len(gone) != 0 || same != r {
		t.Errorf("on %v: destroyed %v", over, gone)
	}
	pruned, gone := r.Prune(over + 1)
	if len(gone) != 1 || !strings.HasPrefix(gone[0], "store/cookie/2026-Q4/") {
		t.Errorf("on %v: destroyed %v", over+1, gone)
	}
	if _, err := pruned.VisitorKey(taxonomy.SpaceCookie, make([]byte, 16), last); !errors.Is(err, ErrNoKey) {
		t.Errorf("after: err = %v", err)
	}
	b, err := pruned.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	old := base64.StdEncoding.EncodeToString(r.quarters[0].secret.raw[:])
	if bytes.Contains(b, []byte(old)) {
		t.Error("the destroyed key is still in the file")
	}
}

// R29
func TestABackupNeedsItsKeysButNotThoseDestroyedOnPurpose(t *testing.T) {
	today := day(t, "2026-11-25")
	r := made(t, today)
	ids := r.KeyIDs()
	if len(ids) != 7 {
		t.Fatalf("IDs: %v", ids)
	}
	if m := r.Missing(ids, today); m != nil {
		t.Errorf("its own: missing %v", m)
	}
	if ext, _, err := r.Extend(seeded(2), today+100); err != nil || ext.Missing(ids, today+100) != nil {
		t.Errorf("after extending: missing %v, %v", ext.Missing(ids, today+100), err)
	}
	if rot, err := r.Rotate(seeded(3), today); err != nil || rot.Missing(ids, today) != nil {
		t.Errorf("after a rotation of the cookie key: %v", err)
	}
	end := day(t, "2026-12-31") + StoreKeyDays + 1
	pruned, _ := r.Prune(end)
	if m := pruned.Missing(ids, end); m != nil {
		t.Errorf("after pruning: missing %v", m)
	}
	if m := pruned.Missing(ids, end-1); len(m) != 1 {
		t.Errorf("a day before it could have been pruned: missing %v", m)
	}
	other, err := Generate(seeded(9), today)
	if err != nil {
		t.Fatal(err)
	}
	if m := other.Missing(ids, today); len(m) != len(ids) {
		t.Errorf("another installation's: missing %d of %d", len(m), len(ids))
	}
	demo, err := r.WithSpace(seeded(4), "own:demo")
	if err != nil {
		t.Fatal(err)
	}
	if m := r.Missing(demo.KeyIDs(), today); len(m) != 1 || !strings.HasPrefix(m[0], "store/own:demo/") {
		t.Errorf("without the space's key: missing %v", m)
	}
}

func TestASpaceHasOneKeyForGood(t *testing.T) {
	r := made(t, 20000)
	if _, err := r.VisitorKey("own:demo", []byte("7"), 0); !errors.Is(err, ErrNoKey) {
		t.Fatalf("without a key: err = %v", err)
	}
	a, err := r.WithSpace(seeded(2), "own:demo")
	if err != nil {
		t.Fatal(err)
	}
	b, err := a.WithSpace(seeded(3), "own:demo")
	if err != nil || a != b {
		t.Errorf("added again: another ring, %v", err)
	}
	k1, _ := a.VisitorKey("own:demo", []byte("7"), 1)
	k2, _ := a.VisitorKey("own:demo", []byte("7"), 30000)
	if k1 != k2 || k1.IsZero() {
		t.Error("the issue day changed the key of another space")
	}
	c, err := a.WithSpace(seeded(4), "device")
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(c.Spaces()); got != "[device own:demo]" {
		t.Errorf("spaces: %s", got)
	}
	if c, err = c.WithoutSpace("own:demo"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.VisitorKey("own:demo", []byte("7"), 0); !errors.Is(err, ErrNoKey) {
		t.Errorf("retired: err = %v", err)
	}
	for _, s := range []taxonomy.Space{"", "cookie", "own", "own:", "own:Demo", "other:x", "own:a\x00b"} {
		if _, err := r.WithSpace(seeded(2), s); err == nil {
			t.Errorf("space %q is accepted", s)
		}
	}
}

func TestNoTwoDerivationsMeet(t *testing.T) {
	r, err := made(t, 20000).WithSpace(seeded(2), "own:demo")
	if err != nil {
		t.Fatal(err)
	}
	if r, err = r.WithSpace(seeded(3), "own:demo2"); err != nil {
		t.Fatal(err)
	}
	seen := map[string]string{}
	add := func(what string, b []byte) {
		if other, ok := seen[string(b)]; ok {
			t.Errorf("%s equals %s", what, other)
		}
		seen[string(b)] = what
	}
	id := make([]byte, 16)
	for _, s := range []taxonomy.Space{"cookie", "own:demo", "own:demo2"} {
		k, err := r.VisitorKey(s, id, 20000)
		if err != nil {
			t.Fatal(err)
		}
		add("visitor key "+string(s), k[:])
		for _, site := range []taxonomy.SiteID{"a", "ab"} {
			for _, x := range []string{"b", "bb", string(id)} {
				e, err := r.EventID(s, 20000, site, x)
				if err != nil {
					t.Fatal(err)
				}
				add(fmt.Sprintf("event %s %s %q", s, site, x), e[:])
			}
		}
		e := r.Erasure(k)
		add("erasure "+string(s), e[:])
		for _, d := range []taxonomy.DestinationID{"a", "b"} {
			for epoch := range uint32(2) {
				add(fmt.Sprintf("pseudonym %s %s %d", s, d, epoch), []byte(r.Pseudonym(d, epoch, k)))
			}
		}
	}
	next, err := r.VisitorKey("cookie", id, 20000+92)
	if err != nil {
		t.Fatal(err)
	}
	add("visitor key of the next quarter", next[:])
}

func TestIDsOfNoLengthOrTooMuchAreRefusedWithoutBeingShown(t *testing.T) {
	r := made(t, 20000)
	long := strings.Repeat("jane@example.com", 20)
	for _, f := range []func() error{
		func() error { _, err := r.VisitorKey("cookie", nil, 20000); return err },
		func() error { _, err := r.VisitorKey("cookie", []byte("jane@example.com1"), 20000); return err },
		func() error { _, err := r.VisitorKey("cookie", []byte(long), 20000); return err },
		func() error { _, err := r.VisitorKey("own:demo", []byte("jane@example.com"), 20000); return err },
		func() error { _, err := r.EventID("cookie", 20000, "s", ""); return err },
		func() error { _, err := r.EventID("cookie", 20000, "s", long); return err },
	} {
		if err := f(); err == nil || strings.Contains(err.Error(), "jane") {
			t.Errorf("err = %v", err)
		}
	}
}

func TestAFileRoundTrips(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		today := taxonomy.Day(rapid.IntRange(10, 60000).Draw(t, "today"))
		rnd := seeded(rapid.Byte().Draw(t, "seed"))
		r, err := Generate(rnd, today)
		for range rapid.IntRange(0, 6).Draw(t, "steps") {
			if err != nil {
				t.Fatal(err)
			}
			today += taxonomy.Day(rapid.IntRange(0, 200).Draw(t, "days"))
			switch rapid.IntRange(0, 4).Draw(t, "step") {
			case 0:
				r, _, err = r.Extend(rnd, today)
			case 1:
				r, err = r.WithSpace(rnd, taxonomy.Space("own:"+rapid.StringMatching("[a-z]{1,5}").Draw(t, "space")))
			case 2:
				r, err = r.Rotate(rnd, today)
			case 3:
				r, _ = r.Prune(today)
			case 4:
				r, err = r.Stage(rnd)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := r.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		again, err := Parse(b)
		if err != nil {
			t.Fatalf("%v in %s", err, b)
		}
		b2, err := again.Marshal()
		if err != nil || !bytes.Equal(b, b2) {
			t.Fatalf("%v; %s became %s", err, b, b2)
		}
		v := r.SignCookie("n", [16]byte{1}, today)
		if _, _, ok := again.VerifyCookie("n", v, today); !ok {
			t.Fatal("a cookie of the one does not verify with the other")
		}
	})
}

func TestAFlippedBitInTheFileIsFound(t *testing.T) {
	b, err := goldenRing(t).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	for i := range b {
		for bit := range 8 {
			c := bytes.Clone(b)
			c[i] ^= 1 << bit
			r, err := Parse(c)
			if err != nil {
				continue
			}
			// What still parses must mean the same: case of a field's name, a
			// space for a tab.
			if m, err := r.Marshal(); err != nil || !bytes.Equal(m, b) {
				t.Errorf("byte %d (%q), bit %d: accepted with another meaning", i, b[i], bit)
			}
		}
	}
	for n := range b[:len(b)-1] {
		if _, err := Parse(b[:n]); err == nil && n < len(b)-1 {
			t.Errorf("cut to %d bytes: accepted", n)
		}
	}
}

func TestAFaultyFileIsNamedAndNotShown(t *testing.T) {
	edit := func(f func(m map[string]any)) []byte {
		b, _ := goldenRing(t).Marshal()
		var m map[string]any
		if err := json.Unmarshal(b, &m); err != nil {
			t.Fatal(err)
		}
		f(m)
		var plain file
		b, _ = json.Marshal(m)
		if json.Unmarshal(b, &plain) == nil {
			if sum, err := plain.sum(); err == nil && m["check"] != "keep" {
				m["check"] = sum
			}
		}
		b, _ = json.Marshal(m)
		return b
	}
	one := "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="
	for name, c := range map[string]struct {
		b    []byte
		want string
	}{
		"empty":          {nil, "not JSON"},
		"not keys":       {[]byte(`{"a":1}`), "format"},
		"newer":          {edit(func(m map[string]any) { m["version"] = 2; m["new"] = 1 }), "version 2: this program reads version 1"},
		"unknown field":  {edit(func(m map[string]any) { m["extra"] = 1 }), `unknown field "extra"`},
		"edited":         {edit(func(m map[string]any) { m["check"] = "keep" }), "check: does not fit"},
		"no erasure key": {edit(func(m map[string]any) { delete(m, "erasure") }), "erasure: is missing"},
		"short key":      {edit(func(m map[string]any) { m["partner"] = "AQEB" }), "32 bytes in base64"},
		"number":         {edit(func(m map[string]any) { m["partner"] = 12345678 }), "partner: wrong type"},
		"same key twice": {edit(func(m map[string]any) { m["partner"] = m["erasure"] }), "is the same key as"},
		"no current":     {edit(func(m map[string]any) { m["cookie"].(map[string]any)["current"] = "x" }), "cookie.current"},
		"key under another's ID": {edit(func(m map[string]any) {
			m["cookie"].(map[string]any)["keys"] = map[string]any{"00000000": one}
		}), "the key's ID is f2073898"},
		"retired stranger": {edit(func(m map[string]any) {
			m["cookie"].(map[string]any)["retired"] = map[string]any{"00000000": "2026-01-01"}
		}), "cookie.retired"},
		"retired current": {edit(func(m map[string]any) {
			m["cookie"].(map[string]any)["retired"] = map[string]any{"f2073898": "2026-01-01"}
		}), "cookie.retired"},
		"bad quarter": {edit(func(m map[string]any) { m["store"] = map[string]any{"2026-Q5": m["partner"]} }), "quarter"},
		"bad space":   {edit(func(m map[string]any) { m["spaces"] = map[string]any{"own:A": one} }), "spaces"},
		"cookie as a space": {edit(func(m map[string]any) {
			m["spaces"] = map[string]any{"cookie": "CQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQk="}
		}), "spaces.cookie"},
		"trailing": {append(edit(func(map[string]any) {}), "{}"...), "not JSON"},
	} {
		_, err := Parse(c.b)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: err = %v, want %q in it", name, err, c.want)
		} else if strings.Contains(err.Error(), "AQEB") || strings.Contains(err.Error(), "12345678") {
			t.Errorf("%s: the error shows a key: %v", name, err)
		}
	}
}

func TestARingPrintsNoKey(t *testing.T) {
	r := goldenRing(t)
	var log bytes.Buffer
	l := slog.New(slog.NewJSONHandler(&log, nil))
	l.Info("m", "keys", r)
	slog.New(slog.NewTextHandler(&log, nil)).Info("m", "keys", r)
	p := r.Pseudonyms("d", 1)
	j, _ := json.Marshal(struct{ K any }{r}) // as a configuration dump would
	out := log.String() + string(j)
	for _, f := range []string{"%v", "%+v", "%#v", "%x", "%s", "%d", "%q"} {
		out += fmt.Sprintf(f, r) + fmt.Sprintf(f, p) + fmt.Sprintf(f, struct{ K *Ring }{r})
	}
	for _, s := range []string{"AQEB", "0101", "1 1 1", "0x1, 0x1", "BAQE", "0404", "4 4 4"} {
		if strings.Contains(out, s) {
			t.Errorf("%q is in %s", s, out)
		}
	}
	if !strings.Contains(out, "keys(1 cookie, 2 store)") {
		t.Errorf("got %s", out)
	}
}

func TestGenerateNeedsRandomness(t *testing.T) {
	for n := range 8 * secretSize {
		if _, err := Generate(io.LimitReader(seeded(1), int64(n)), 20000); err == nil {
			t.Fatalf("with %d random bytes: no error", n)
		}
	}
}
