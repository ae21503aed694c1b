package taxonomy

import (
	"encoding/json"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// What Meet must obey so that two statements with the same receipt time give
// the same in either order (R8).
func TestMeetIsCommutativeAssociativeAndIdempotent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b, c := anyConsent.Draw(t, "a"), anyConsent.Draw(t, "b"), anyConsent.Draw(t, "c")
		if x, y := a.Meet(b), b.Meet(a); !x.Equal(y) {
			t.Fatalf("%+v, the other way round %+v", x, y)
		}
		if x, y := a.Meet(b).Meet(c), a.Meet(b.Meet(c)); !x.Equal(y) {
			t.Fatalf("%+v, grouped the other way %+v", x, y)
		}
		if x := a.Meet(a); !x.Equal(a) {
			t.Fatalf("%+v with itself is %+v", a, x)
		}
	})
}

func TestMeetAllowsExactlyWhatBothAllow(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := anyConsent.Draw(t, "a"), anyConsent.Draw(t, "b")
		before := slices.Clone(a.Destinations)
		m := a.Meet(b)
		for p := MayStore; p <= MayExport; p <<= 1 {
			if got, want := m.Purposes.Has(p), a.Purposes.Has(p) && b.Purposes.Has(p); got != want {
				t.Fatalf("%v: %v, want %v", p, got, want)
			}
		}
		for _, d := range []DestinationID{"a", "b", "c", "d", "never-named"} {
			if got, want := m.Allows(d), a.Allows(d) && b.Allows(d); got != want {
				t.Fatalf("%s: %v, want %v", d, got, want)
			}
		}
		if !slices.Equal(before, a.Destinations) {
			t.Fatal("it changed its operand")
		}
		// Monotone: who allows less, also allows less together with another.
		c := anyConsent.Draw(t, "c")
		if less, more := m.Meet(c), a.Meet(c); less.Purposes&^more.Purposes != 0 {
			t.Fatalf("%v is not within %v", less.Purposes, more.Purposes)
		}
	})
}

func TestPurposesHaveNamesThatParse(t *testing.T) {
	for p := range MayAll + 1 {
		words := strings.Split(p.String(), "+")
		if p == 0 {
			words = nil
		}
		if got, err := ParsePurposes(words); err != nil || got != p {
			t.Errorf("%d: %q parses as %d, %v", p, words, got, err)
		}
	}
	if _, err := ParsePurposes([]string{"store", "sell"}); err == nil || !strings.Contains(err.Error(), `"sell"`) {
		t.Errorf("got %v", err)
	}
	for s, want := range map[Signal]string{SignalNone: "none", SignalOptOut: "optout", SignalAsserted: "asserted", 99: "unknown"} {
		if got := s.String(); got != want {
			t.Errorf("signal %d: %q, want %q", s, got, want)
		}
	}
}

func TestADayIsThatOfTheCalendar(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := Millis(rapid.OneOf(rapid.Int64Range(-1e13, 1e13), rapid.Int64Range(-5, 5), rapid.Int64Range(-1e9, 1e9)).Draw(t, "millis"))
		d := m.Day()
		y, mo, dd := m.Time().Date()
		if want := time.Date(y, mo, dd, 0, 0, 0, 0, time.UTC).UnixMilli(); int64(d.Start()) != want {
			t.Fatalf("%v: day %v begins %d, want %d", m, d, d.Start(), want)
		}
		if m < d.Start() || m >= (d+1).Start() {
			t.Fatalf("%v is not in %v", m, d)
		}
		if h := m.Hour(); int64(m) < h*int64(Hour) || int64(m) >= (h+1)*int64(Hour) {
			t.Fatalf("%v is not in hour %d", m, h)
		}
		if DayOf(m.Time()) != d || MillisOf(m.Time()) != m {
			t.Fatalf("%v: %v, %v", m, DayOf(m.Time()), MillisOf(m.Time()))
		}
		if y >= 0 && y <= 9999 {
			if got, err := ParseDay(d.String()); err != nil || got != d {
				t.Fatalf("%v parses as %v, %v", d, got, err)
			}
		}
	})
}

func TestDaysAroundTheEdges(t *testing.T) {
	for s, want := range map[string]string{
		"1970-01-01T00:00:00Z": "1970-01-01", "1969-12-31T23:59:59.999Z": "1969-12-31", "1969-12-31T00:00:00Z": "1969-12-31", "1969-12-30T23:59:59.999Z": "1969-12-30",
		"2028-02-29T23:59:59.999Z": "2028-02-29", "2028-03-01T00:00:00Z": "2028-03-01", "2027-03-01T00:30:00+01:00": "2027-02-28", "2016-12-31T23:59:59Z": "2016-12-31",
		"2026-11-25T00:00:00+14:00": "2026-11-24", "2026-11-24T23:00:00-11:00": "2026-11-25",
	} {
		at, err := time.Parse(time.RFC3339Nano, s)
		if err != nil {
			t.Fatal(err)
		}
		if got := DayOf(at).String(); got != want {
			t.Errorf("%s: %s, want %s", s, got, want)
		}
	}
	if got := Millis(-1).String(); got != "1969-12-31T23:59:59.999Z" {
		t.Errorf("got %s", got)
	}
	for _, s := range []string{"", "2026-11-25T00:00:00Z", "2026-02-29", "26-11-25", "2026-13-01", "x"} {
		if _, err := ParseDay(s); err == nil {
			t.Errorf("%q is a day", s)
		}
	}
	b, err := json.Marshal(map[string]any{"d": Day(20782)})
	if err != nil || string(b) != `{"d":"2026-11-25"}` {
		t.Errorf("%s, %v", b, err)
	}
	var x struct{ D Day }
	if err := json.Unmarshal([]byte(`{"d":"2028-02-29"}`), &x); err != nil || x.D.String() != "2028-02-29" {
		t.Errorf("%v, %v", x, err)
	}
	if err := json.Unmarshal([]byte(`{"d":"yesterday"}`), &x); err == nil || x.D.String() != "2028-02-29" {
		t.Errorf("%v, %v", x, err)
	}
}

// P5: 90 days and not a millisecond more.
func TestADayIsOverAfter90Days(t *testing.T) {
	for _, d := range []Day{20782, -1, 0, DayOf(time.Date(2028, 2, 29, 0, 0, 0, 0, time.UTC)), DayOf(time.Date(2027, 12, 1, 0, 0, 0, 0, time.UTC))} {
		end := time.UnixMilli(int64(d.Start())).UTC().AddDate(0, 0, 90)
		if d.Over() != MillisOf(end) {
			t.Errorf("%v: over at %v, want %v", d, d.Over(), end)
		}
		for offset, want := range map[Millis]bool{-Second: false, -1: false, 0: true, Second: true} {
			if got := d.Expired(d.Over() + offset); got != want {
				t.Errorf("%v, %d ms after its end: expired %v", d, offset, got)
			}
		}
		last := d.Over() - 1
		if got := last.Day().Oldest(); got != d {
			t.Errorf("on its last day the oldest readable day is %v, want %v", got, d)
		}
		if n := last.Day() - d + 1; n != RetentionDays {
			t.Errorf("%v is readable on %d days", d, n)
		}
	}
}

func TestSlugs(t *testing.T) {
	for s, want := range map[string]string{
		"a": "", "0": "", "a-b_c.9": "", strings.Repeat("a", 64): "",
		"": "must not be empty", strings.Repeat("a", 65): "65 bytes long", "A": "character 'A' at byte 0", "a b": "character ' ' at byte 1",
		"-a": "byte 0", ".a": "byte 0", "_": "byte 0", "a/b": "byte 1", "é": "byte 0", "a\x00": "byte 1",
	} {
		err := CheckSlug("site", s)
		if (err == nil) != (want == "") || err != nil && (!strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "site")) {
			t.Errorf("%q: got %v, want %q", s, err, want)
		}
	}
}

func TestSpaces(t *testing.T) {
	for s, want := range map[Space]bool{"cookie": true, "device": true, "own:demo": true, "partner:dsp-a": true, "": false, "own": false, "own:": false,
		"own:A": false, "cookie:x": false, "device:x": false, "email:x": false, "own:a:b": false} {
		if err := CheckSpace(s); (err == nil) != want {
			t.Errorf("%q: %v", s, err)
		}
	}
}

func TestAWriterIsNamedInHex(t *testing.T) {
	w := WriterID{0xab, 15: 1}
	if got, err := ParseWriterID(w.String()); err != nil || got != w {
		t.Errorf("%v, %v", got, err)
	}
	for _, s := range []string{"", "ab", strings.Repeat("g", 32), strings.Repeat("a", 34)} {
		if _, err := ParseWriterID(s); err == nil {
			t.Errorf("%q is a writer", s)
		}
	}
	b, err := json.Marshal(map[WriterID]int{w: 1})
	var m map[WriterID]int
	if err != nil || json.Unmarshal(b, &m) != nil || m[w] != 1 {
		t.Errorf("%s, %v", b, err)
	}
}

// R10: ties fall back on a total order.
func TestRefsAreTotallyOrdered(t *testing.T) {
	anyRef := rapid.Custom(func(t *rapid.T) Ref {
		return Ref{WriterID{rapid.SampledFrom([]byte{0, 1, 0x7f, 0x80, 0xff}).Draw(t, "w"), 15: rapid.SampledFrom([]byte{0, 0xff}).Draw(t, "last")},
			rapid.SampledFrom([]uint64{0, 1, 2, math.MaxUint64}).Draw(t, "seq")}
	})
	sign := func(n int) int { return min(1, max(-1, n)) }
	rapid.Check(t, func(t *rapid.T) {
		a, b, c := anyRef.Draw(t, "a"), anyRef.Draw(t, "b"), anyRef.Draw(t, "c")
		if (a.Compare(b) == 0) != (a == b) || sign(a.Compare(b)) != -sign(b.Compare(a)) {
			t.Fatalf("%v %v: %d, %d", a, b, a.Compare(b), b.Compare(a))
		}
		if a.Compare(b) <= 0 && b.Compare(c) <= 0 && a.Compare(c) > 0 {
			t.Fatalf("%v ≤ %v ≤ %v, but not the first and last", a, b, c)
		}
		if a.Writer != b.Writer {
			if want := strings.Compare(string(a.Writer[:]), string(b.Writer[:])); sign(a.Compare(b)) != want {
				t.Fatalf("%v %v: %d, want %d", a, b, a.Compare(b), want)
			}
		}
	})
}

func TestShardsAreWithinBoundsAndEven(t *testing.T) {
	count := make([]int, 64)
	for i := range 64 * 256 {
		k := VisitorKey{byte(i >> 8), byte(i), byte(i * 7), byte(i * 13)}
		count[k.Shard(64)]++
		if k.Shard(1) != 0 {
			t.Fatal("a shard beyond the only one")
		}
	}
	for s, n := range count {
		if n < 128 || n > 512 {
			t.Errorf("shard %d has %d of %d", s, n, 64*256)
		}
	}
	if GroupOf(7, 1) != 0 || GroupOf(7, 4) != 3 {
		t.Error("groups")
	}
}

// R16: what excludes each other has the same key.
func TestStatementsOfAKeyExcludeEachOther(t *testing.T) {
	for x, want := range map[Trait]string{"a:age=18-24": "a:age", "a:age=": "a:age", "a:x=y=z": "a:x", "l:vip=in": "l:vip", "l:vip=out": "l:vip",
		"c:news/sport": "", "k:age=18": "", "any": "", "bot": "", "": "", "a": "", "a:": "", "a:age": "", "c:a=b": ""} {
		got, ok := x.Statement()
		if got != want || ok != (want != "") {
			t.Errorf("%q: %q, %v", x, got, ok)
		}
	}
	if ListTrait("vip", true) != "l:vip=in" || ListTrait("vip", false) != "l:vip=out" || AttributeTrait("age", "1") != "a:age=1" || CategoryTrait("news", "sport") != "c:news/sport" {
		t.Error("traits are spelled otherwise")
	}
	a, b := Column{"z", "c:a/b"}, Column{"a", "c:a/c"}
	if a.Compare(b) >= 0 || b.Compare(a) <= 0 || a.Compare(a) != 0 || (Column{"a", "c:a/b"}).Compare(a) >= 0 {
		t.Error("columns are not by trait, then by source")
	}
}

func TestKindsHaveNamesThatParse(t *testing.T) {
	for k := EventPage; k <= EventFact; k++ {
		if got, ok := ParseEventKind(k.String()); !ok || got != k {
			t.Errorf("%d: %q parses as %d", k, k, got)
		}
	}
	for _, s := range []string{"", "unknown", "Page"} {
		if k, ok := ParseEventKind(s); ok {
			t.Errorf("%q is the kind %d", s, k)
		}
	}
	if EventKind(0).String() != "unknown" || EventKind(200).String() != "unknown" || Outcome(0).String() != "unknown" || Dropped.String() != "dropped" {
		t.Error("what is not known has another name")
	}
	e := Event{Props: []Prop{{"a", "1"}, {"b", ""}}}
	if v, ok := e.Prop("b"); v != "" || !ok {
		t.Error("an empty property is not there")
	}
	if _, ok := e.Prop("c"); ok {
		t.Error("a property from nowhere")
	}
}

// R12, P2: what a record adds to received.
func TestARecordCountsItsEvents(t *testing.T) {
	for want, r := range map[uint64]Record{
		1: {Kind: RecordEvent}, 0: {Kind: RecordConsent, Event: &Event{}},
		5: {Kind: RecordCounts, Counts: []Count{{N: 2}, {N: 3}}},
	} {
		if got := r.EventCount(); got != want {
			t.Errorf("kind %d: %d, want %d", r.Kind, got, want)
		}
	}
}

func TestFaultsOfASiteNameTheirPlace(t *testing.T) {
	good := Site{ID: "shop", Source: "own", Consent: ModeOptIn, Origins: []string{"https://shop.example", "http://localhost:8080"}, QueryKeys: []string{"utm_source"}}
	if err := good.Validate(); err != nil {
		t.Errorf("a good site: %v", err)
	}
	for want, f := range map[string]func(*Site){
		"id: ":                      func(s *Site) { s.ID = "Shop" },
		`id: must not begin with "`: func(s *Site) { s.ID = "import.crm" },
		"source: ":                  func(s *Site) { s.Source = "" },
		"consent: ":                 func(s *Site) { s.Consent = "maybe" },
		"origins: ":                 func(s *Site) { s.Origins = nil },
		"origins[1]: ":              func(s *Site) { s.Origins[1] = "https://shop.example/" },
		"origins[0]: ":              func(s *Site) { s.Origins[0] = "shop.example" },
		`origins[0]: "https://S`:    func(s *Site) { s.Origins[0] = "https://Shop.example" },
		`origins[0]: "https://u:`:   func(s *Site) { s.Origins[0] = "https://u:p@shop.example" },
		`origins[0]: "ftp`:          func(s *Site) { s.Origins[0] = "ftp://shop.example" },
		"query_keys[0]: ":           func(s *Site) { s.QueryKeys[0] = "a=b" },
		"gpc_mode: ":                func(s *Site) { s.GPCMode = "off" },
		"opt_out_countries[0]: \"c": func(s *Site) { s.Consent, s.OptOutCountries = ModeByCountry, []string{"ca"} },
		"opt_out_countries[1]: the": func(s *Site) { s.Consent, s.OptOutCountries = ModeByCountry, []string{"CA", "DE"} },
		"consent: opt_out":          func(s *Site) { s.OptOutCountries = []string{"CA"} },
		"consent: opt_out_":         func(s *Site) { s.TrustGDPRZero = true },
	} {
		s := good
		s.Origins, s.QueryKeys = slices.Clone(good.Origins), slices.Clone(good.QueryKeys)
		f(&s)
		err := s.Validate()
		var fe *FieldError
		if err == nil || !strings.HasPrefix(err.Error(), want) || !errors.As(err, &fe) || strings.Contains(err.Error(), "\n") {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	if err := (&Site{}).Validate(); err == nil || strings.Count(err.Error(), "\n") != 3 {
		t.Errorf("an empty site has four faults, got %v", err)
	}
}

func TestFaultsOfASourceNameTheirPlace(t *testing.T) {
	for want, s := range map[string]Source{
		"id: ":                        {Party: 1},
		"party: ":                     {ID: "a"},
		"agreement.uses: ":            {ID: "a", Party: 2, Agreement: &Agreement{Uses: []string{"sell"}}},
		"agreement.destinations[1]: ": {ID: "a", Party: 3, Agreement: &Agreement{Uses: []string{"store"}, Destinations: []DestinationID{"x", "Y"}}},
	} {
		if err := s.Validate(); err == nil || !strings.HasPrefix(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	if err := (&Source{ID: "a", Party: 3, Agreement: &Agreement{}}).Validate(); err != nil {
		t.Errorf("a good source: %v", err)
	}
	if ImportSite("crm") != "import.crm" {
		t.Error(ImportSite("crm"))
	}
}

func TestFaultsAreTakenApartAndPlaced(t *testing.T) {
	plain := errors.New("plain")
	err := errors.Join(Invalid("a", "one"), errors.Join(Invalid("b[1].c", "two"), plain))
	got := Faults(Under("rules[3].", err))
	if len(got) != 3 || got[0].Error() != "rules[3].a: one" || got[1].Error() != "rules[3].b[1].c: two" || !errors.Is(&got[2], plain) {
		t.Errorf("got %v", got)
	}
	if Under("x.", nil) != nil || Faults(nil) != nil {
		t.Error("faults where there are none")
	}
}

func TestAMomentReadsWhatItWrites(t *testing.T) {
	for in, want := range map[string]string{"2026-11-26": "2026-11-26T00:00:00Z", "2026-11-26T12:00:00.25+01:00": "2026-11-26T11:00:00.25Z", "2026-11-26T11:00:00Z": "2026-11-26T11:00:00Z"} {
		var m, again Moment
		if err := m.UnmarshalText([]byte(in)); err != nil || m.String() != want {
			t.Errorf("%s: %s, %v", in, m, err)
		}
		if err := again.UnmarshalText([]byte(m.String())); err != nil || again != m {
			t.Errorf("%s: %d, then %d, %v", in, m, again, err)
		}
	}
	for _, in := range []string{"", "yesterday", "1970-01-01", "1969-12-31", "2026-02-30"} {
		if err := new(Moment).UnmarshalText([]byte(in)); err == nil {
			t.Errorf("%q is taken", in)
		}
	}
}
