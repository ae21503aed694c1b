package keys

import (
	"strings"
	"testing"

	"github.com/ebb-dmp/ebb/taxonomy"
	"pgregory.net/rapid"
)

const host = "__Host-ebb"

func TestACookieIsValidFor90Days(t *testing.T) {
	r := goldenRing(t)
	id := [16]byte{9}
	v := r.SignCookie(host, id, goldenDay)
	for d, want := range map[taxonomy.Day]bool{-2: false, -1: true, 0: true, 89: true, 90: true, 91: false, 40000: false} {
		got, issued, ok := r.VerifyCookie(host, v, goldenDay+d)
		if ok != want {
			t.Errorf("on day %+d: ok = %v, want %v", d, ok, want)
		}
		if ok && (got != id || issued != goldenDay) || !ok && (got != [16]byte{} || issued != 0) {
			t.Errorf("on day %+d: got %x of %v", d, got, issued)
		}
	}
}

func TestEveryChangeOfACookieIsRefused(t *testing.T) {
	r := goldenRing(t)
	v := r.SignCookie(host, goldenID, goldenDay)
	refuse := func(what, value string) {
		t.Helper()
		if _, _, ok := r.VerifyCookie(host, value, goldenDay); ok {
			t.Errorf("%s is accepted: %q", what, value)
		}
	}
	for i := range v {
		for c := range 256 {
			if byte(c) == v[i] {
				continue
			}
			refuse("a changed byte", v[:i]+string([]byte{byte(c)})+v[i+1:])
		}
		refuse("a missing byte", v[:i]+v[i+1:])
		refuse("a prefix", v[:i])
		for _, c := range "A=.\n\r \x00+/" {
			refuse("an added byte", v[:i]+string(c)+v[i:])
		}
	}
	for _, suffix := range []string{"=", "==", "A", "\n", "%0A", " ", "." + v} {
		refuse("a suffix", v+suffix)
	}
	refuse("quotes", `"`+v+`"`)
	refuse("upper case", strings.ToUpper(v))
	for _, name := range []string{"__Host-ebbp", "", "__Host-eb", "__Host-ebb ", "__host-ebb"} {
		if _, _, ok := r.VerifyCookie(name, v, goldenDay); ok {
			t.Errorf("accepted under the name %q", name)
		}
	}
	// The last character carries two bits that mean nothing: only one of the
	// four ways to write them may be accepted.
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	accepted := 0
	for _, c := range alphabet {
		if _, _, ok := r.VerifyCookie(host, v[:len(v)-1]+string(c), goldenDay); ok {
			accepted++
		}
	}
	if accepted != 1 {
		t.Errorf("%d last characters are accepted, want 1", accepted)
	}
}

func TestACookieOfAnotherRingIsRefused(t *testing.T) {
	a, b := made(t, goldenDay), goldenRing(t)
	if _, _, ok := b.VerifyCookie(host, a.SignCookie(host, goldenID, goldenDay), goldenDay); ok {
		t.Error("accepted")
	}
}

func TestRotatedKeysVerifyUntilTheirLastCookieEnds(t *testing.T) {
	today := goldenDay
	a := goldenRing(t)
	old := a.SignCookie(host, goldenID, today)
	b, err := a.Rotate(seeded(5), today)
	if err != nil {
		t.Fatal(err)
	}
	young := b.SignCookie(host, goldenID, today)
	if young[:11] == old[:11] {
		t.Error("the key did not change")
	}
	if _, _, ok := b.VerifyCookie(host, old, today+CookieDays); !ok {
		t.Error("a cookie of the old key is refused in its life")
	}
	if _, _, ok := a.VerifyCookie(host, young, today); ok {
		t.Error("a ring that never had the key accepts it")
	}
	if _, gone := b.Prune(today + CookieDays + 1); len(gone) != 0 {
		t.Errorf("destroyed too early: %v", gone)
	}
	c, gone := b.Prune(today + CookieDays + 2)
	if len(gone) != 1 || gone[0] != "cookie/f2073898" {
		t.Errorf("destroyed %v", gone)
	}
	if _, _, ok := c.VerifyCookie(host, old, today); ok {
		t.Error("a destroyed key verifies")
	}
	if c.SignCookie(host, goldenID, today) != young {
		t.Error("pruning changed which key signs")
	}
}

func TestAStagedKeyVerifiesBeforeItSigns(t *testing.T) {
	a := goldenRing(t)
	for seed := range byte(8) { // IDs before and after the present one
		staged, err := a.Stage(seeded(seed))
		if err != nil {
			t.Fatal(err)
		}
		if staged.SignCookie(host, goldenID, goldenDay) != goldenCookie {
			t.Fatal("the staged key signs already")
		}
		rotated, err := staged.Rotate(strings.NewReader(""), goldenDay) // draws nothing
		if err != nil {
			t.Fatal(err)
		}
		v := rotated.SignCookie(host, goldenID, goldenDay)
		if v == goldenCookie {
			t.Fatal("the old key still signs")
		}
		if _, _, ok := staged.VerifyCookie(host, v, goldenDay); !ok {
			t.Fatal("a node with the staged key refuses a cookie of the rotated")
		}
	}
}

func TestADayNoCookieCanCarryDoesNotVerify(t *testing.T) {
	r := goldenRing(t)
	for _, d := range []taxonomy.Day{-1, 1 << 16, 1 << 30, -1 << 31} {
		v := r.SignCookie(host, goldenID, d)
		for _, today := range []taxonomy.Day{d, goldenDay} {
			if _, _, ok := r.VerifyCookie(host, v, today); ok && today != -1 {
				t.Errorf("issued %d: verifies on %d", d, today)
			}
		}
	}
}

// R27
func TestRotationDaysSpreadOver76To90Days(t *testing.T) {
	var count [15]int
	for b := range 256 {
		d := RotationDay([16]byte{15: byte(b)}, goldenDay) - goldenDay
		if d < 76 || d > 90 {
			t.Fatalf("byte %d: day %d", b, d)
		}
		count[d-76]++
	}
	for i, n := range count {
		if n < 17 || n > 18 {
			t.Errorf("day %d: %d of 256 IDs", 76+i, n)
		}
	}
}

func TestSignedCookiesVerifyAndOthersDoNot(t *testing.T) {
	r, other := goldenRing(t), made(t, goldenDay)
	rapid.Check(t, func(t *rapid.T) {
		id := [16]byte(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "id"))
		issued := taxonomy.Day(rapid.IntRange(0, 65535).Draw(t, "issued"))
		age := taxonomy.Day(rapid.IntRange(-3, 95).Draw(t, "age"))
		name := rapid.StringN(0, 40, 80).Draw(t, "name")
		v := r.SignCookie(name, id, issued)
		got, day, ok := r.VerifyCookie(name, v, issued+age)
		if ok != (age >= -1 && age <= 90) || ok && (got != id || day != issued) {
			t.Fatalf("age %d: %x, %v, %v", age, got, day, ok)
		}
		if _, _, ok := other.VerifyCookie(name, v, issued+age); ok {
			t.Fatal("another ring accepts it")
		}
	})
}

func FuzzVerifyCookie(f *testing.F) {
	f.Add(host, goldenCookie)
	f.Add(host, goldenCookie+"=")
	f.Add("__Host-ebbp", goldenCookie)
	f.Add(host, "1.f2073898."+strings.Repeat("A", 46))
	f.Add(host, "1.f2073898."+strings.Repeat("\n", 46))
	f.Add(host, "1..")
	r := goldenRing(f)
	f.Fuzz(func(t *testing.T, name, value string) {
		id, issued, ok := r.VerifyCookie(name, value, goldenDay)
		if !ok {
			if id != [16]byte{} || issued != 0 {
				t.Fatal("a refused cookie gives an ID")
			}
			return
		}
		// What is accepted is what we would have written.
		if r.SignCookie(name, id, issued) != value {
			t.Fatalf("%q is accepted but not canonical", value)
		}
	})
}

func FuzzParse(f *testing.F) {
	b, err := goldenRing(f).Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"format":"ebb keys","version":1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := Parse(b)
		if err != nil {
			return
		}
		m, err := r.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Parse(m); err != nil {
			t.Fatal(err)
		}
		r.SignCookie(host, goldenID, goldenDay)
	})
}

func TestTheHotPathDoesNotAllocate(t *testing.T) {
	r, err := goldenRing(t).WithSpace(seeded(2), "device")
	if err != nil {
		t.Fatal(err)
	}
	v := r.SignCookie(host, goldenID, goldenDay)
	p := r.Pseudonyms("dsp-a", 7)
	dst := make([]byte, 0, 64)
	key := taxonomy.VisitorKey{1}
	for name, c := range map[string]struct {
		most float64
		f    func()
	}{
		"VerifyCookie": {0, func() { r.VerifyCookie(host, v, goldenDay) }},
		"VisitorKey":   {0, func() { r.VisitorKey(taxonomy.SpaceCookie, goldenID[:], goldenDay) }},
		"EventID":      {0, func() { r.EventID(taxonomy.SpaceCookie, goldenDay, "shop", "0123456789abcdef") }},
		"Erasure":      {0, func() { r.Erasure(key) }},
		"Pseudonyms":   {0, func() { dst = p.Append(dst[:0], key) }},
		"SignCookie":   {1, func() { r.SignCookie(host, goldenID, goldenDay) }},
		"Pseudonym":    {1, func() { r.Pseudonym("dsp-a", 7, key) }},
	} {
		if got := testing.AllocsPerRun(100, c.f); got > c.most {
			t.Errorf("%s: %v allocations, want at most %v", name, got, c.most)
		}
	}
}

func BenchmarkVerifyCookie(b *testing.B) {
	r := goldenRing(b)
	b.ReportAllocs()
	for b.Loop() {
		r.VerifyCookie(host, goldenCookie, goldenDay)
	}
}

func BenchmarkVisitorKey(b *testing.B) {
	r := goldenRing(b)
	b.ReportAllocs()
	for b.Loop() {
		r.VisitorKey(taxonomy.SpaceCookie, goldenID[:], goldenDay)
	}
}

func BenchmarkPseudonyms(b *testing.B) {
	r := goldenRing(b)
	p := r.Pseudonyms("dsp-a", 7)
	dst := make([]byte, 0, 64)
	b.ReportAllocs()
	for b.Loop() {
		dst = p.Append(dst[:0], taxonomy.VisitorKey{1})
	}
}
