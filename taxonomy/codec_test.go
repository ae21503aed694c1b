package taxonomy

import (
	"bytes"
	"encoding/hex"
	"errors"
	"math"
	"os"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

var (
	anyText   = rapid.StringN(0, 12, 40)
	anyMillis = rapid.Custom(func(t *rapid.T) Millis {
		return Millis(rapid.OneOf(rapid.Int64Range(-1e6, 1e6), rapid.Int64Range(0, 4e12), rapid.Int64()).Draw(t, "millis"))
	})
	anyDay  = rapid.Custom(func(t *rapid.T) Day { return Day(rapid.Int32().Draw(t, "day")) })
	any16   = rapid.Custom(func(t *rapid.T) [16]byte { return [16]byte(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "16 bytes")) })
	anyDSPs = rapid.Custom(func(t *rapid.T) []DestinationID {
		var ds []DestinationID
		for _, d := range []DestinationID{"a", "b", "c", "d"} {
			if rapid.Bool().Draw(t, string(d)) {
				ds = append(ds, d)
			}
		}
		if ds == nil && rapid.Bool().Draw(t, "nobody") {
			return []DestinationID{}
		}
		return ds
	})
	anyConsent = rapid.Custom(func(t *rapid.T) Consent {
		return Consent{Day: anyDay.Draw(t, "day"), Regime: Regime(rapid.IntRange(0, 3).Draw(t, "regime")), Signal: Signal(rapid.IntRange(0, 8).Draw(t, "signal")),
			Purposes: Purposes(rapid.IntRange(0, int(MayAll)).Draw(t, "purposes")), Destinations: anyDSPs.Draw(t, "destinations")}
	})
	anyRecord = rapid.Custom(func(t *rapid.T) Record {
		maybe := func(what string) bool { return rapid.Bool().Draw(t, what) }
		r := Record{Kind: RecordKind(rapid.IntRange(1, 10).Draw(t, "kind")), Received: anyMillis.Draw(t, "received")}
		if maybe("site") {
			r.Site = SiteID(anyText.Draw(t, "site"))
		}
		if maybe("source") {
			r.Source = SourceID(anyText.Draw(t, "source"))
		}
		if maybe("space") {
			r.Space = Space(anyText.Draw(t, "space"))
		}
		if maybe("visitor") {
			r.Visitor = any16.Draw(t, "visitor")
		}
		r.Returning, r.Bot = maybe("returning"), maybe("bot")
		if maybe("consent") {
			r.Consent = anyConsent.Draw(t, "consent")
		}
		if maybe("first") {
			r.First = Ref{any16.Draw(t, "writer"), rapid.Uint64().Draw(t, "seq")}
		}
		if maybe("import") {
			r.Import = ImportRow{any16.Draw(t, "file"), rapid.Uint32().Draw(t, "row")}
		}
		if maybe("event") {
			r.Event = &Event{ID: any16.Draw(t, "id"), Time: anyMillis.Draw(t, "time"), Kind: EventKind(rapid.Byte().Draw(t, "event kind")),
				Name: anyText.Draw(t, "name"), URL: anyText.Draw(t, "url"), Ref: anyText.Draw(t, "ref")}
			for range rapid.IntRange(0, 3).Draw(t, "props") {
				r.Event.Props = append(r.Event.Props, Prop{anyText.Draw(t, "key"), anyText.Draw(t, "value")})
			}
			for range rapid.IntRange(0, 3).Draw(t, "traits") {
				r.Event.Traits = append(r.Event.Traits, Trait(anyText.Draw(t, "trait")))
			}
		}
		if maybe("match") {
			r.Match = &Match{DestinationID(anyText.Draw(t, "destination")), anyText.Draw(t, "partner's ID")}
		}
		if maybe("statement") {
			r.Statement = &Statement{any16.Draw(t, "statement ID"), anyMillis.Draw(t, "as of"), Trait(anyText.Draw(t, "states")), anyDay.Draw(t, "until")}
		}
		if maybe("succeeds") {
			r.Succeeds = any16.Draw(t, "succeeds")
		}
		for range rapid.IntRange(0, 3).Draw(t, "counts") {
			r.Counts = append(r.Counts, Count{SiteID(anyText.Draw(t, "counted site")), Outcome(rapid.Byte().Draw(t, "outcome")), Reason(anyText.Draw(t, "reason")), rapid.Uint64().Draw(t, "n")})
		}
		for range rapid.IntRange(0, 3).Draw(t, "off") {
			r.Off = append(r.Off, Trait(anyText.Draw(t, "switched off")))
		}
		for range rapid.IntRange(0, 3).Draw(t, "heard") {
			r.Heard = append(r.Heard, Heard{anyDay.Draw(t, "heard on"), SiteID(anyText.Draw(t, "heard by")), Signal(rapid.Byte().Draw(t, "heard signal")), Verdict(rapid.Byte().Draw(t, "says")), rapid.Uint64().Draw(t, "times")})
		}
		return r
	})
)

func TestARecordRoundTrips(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := anyRecord.Draw(t, "record")
		before := rapid.SliceOfN(rapid.Byte(), 0, 3).Draw(t, "before")
		after := rapid.SliceOfN(rapid.Byte(), 0, 3).Draw(t, "after")
		b := AppendRecord(bytes.Clone(before), &r)
		if !bytes.HasPrefix(b, before) {
			t.Fatal("what stood before is gone")
		}
		got, rest, err := DecodeRecord(append(b[len(before):], after...))
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, r) {
			t.Fatalf("got %+v, want %+v", got, r)
		}
		if !bytes.Equal(rest, after) {
			t.Fatalf("what follows: %x, want %x", rest, after)
		}
		// Equal records give equal bytes.
		if again := AppendRecord(nil, &got); !bytes.Equal(again, b[len(before):]) {
			t.Fatalf("%x became %x", b[len(before):], again)
		}
	})
}

func TestARecordCutShortIsMalformed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := anyRecord.Draw(t, "record")
		b := AppendRecord(nil, &r)
		for n := range len(b) {
			if _, _, err := DecodeRecord(b[:n]); !errors.Is(err, ErrMalformed) {
				t.Fatalf("cut to %d of %d bytes: %v", n, len(b), err)
			}
		}
	})
}

func TestADecodedRecordSharesNoMemory(t *testing.T) {
	r := Record{Kind: RecordEvent, Site: "shop", Event: &Event{Name: "name", Props: []Prop{{"key", "value"}}}}
	b := AppendRecord(nil, &r)
	got, _, err := DecodeRecord(b)
	if err != nil {
		t.Fatal(err)
	}
	for i := range b {
		b[i] = 0xff
	}
	if !reflect.DeepEqual(got, r) {
		t.Errorf("got %+v", got)
	}
}

func TestANewerRecordIsRefusedWhole(t *testing.T) {
	for bit := 16; bit < 64; bit++ {
		b := []byte{byte(RecordEvent)}
		for m := uint64(1) << bit; ; m >>= 7 {
			if m < 0x80 {
				b = append(b, byte(m))
				break
			}
			b = append(b, byte(m)|0x80)
		}
		b = append(b, 0, 0, 0, 0)
		if _, _, err := DecodeRecord(b); !errors.Is(err, ErrMalformed) || !strings.Contains(err.Error(), "newer") {
			t.Errorf("bit %d: %v", bit, err)
		}
	}
}

func TestAConsentRoundTripsAlsoAtTheEndOfTheBytes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := anyConsent.Draw(t, "consent")
		b := AppendConsent(nil, &c)
		got, rest, err := DecodeConsent(b)
		if err != nil || len(rest) != 0 || !got.Equal(c) {
			t.Fatalf("got %+v, %x, %v, want %+v", got, rest, err, c)
		}
		for n := range len(b) {
			if _, _, err := DecodeConsent(b[:n]); !errors.Is(err, ErrMalformed) {
				t.Fatalf("cut to %d of %d bytes: %v", n, len(b), err)
			}
		}
	})
}

// goldenRecords are the records of testdata/record-v1.hex, in order. That file
// was made by golden.py beside it: if this test fails, files on disk of earlier
// versions can no longer be read.
func goldenRecords() []Record {
	key := VisitorKey{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}
	fill := func(b byte) (x [16]byte) {
		for i := range x {
			x[i] = b
		}
		return x
	}
	const at = Millis(1795608000123)
	return []Record{
		{Kind: RecordEvent, Received: at, Site: "shop", Source: "own", Space: "cookie", Visitor: key, Returning: true, Bot: true,
			Consent: Consent{20782, RegimeOptIn, SignalExplicit, MayAll, []DestinationID{"dsp-a", "dsp-b"}}, First: Ref{fill(7), 300},
			Event: &Event{ID: fill(9), Time: at - 1000, Kind: EventPage, URL: "https://shop.example/käse?utm_source=x", Ref: "https://news.example",
				Props: []Prop{{"a", "1"}, {"b", ""}}, Traits: []Trait{"c:news/sport"}}},
		{Kind: RecordEvent, Received: at, Source: "journey", Space: "own:demo", Visitor: key, Returning: true,
			Consent: Consent{20782, RegimeContract, SignalAsserted, MayAll, nil}, Import: ImportRow{fill(5), 75000},
			Event: &Event{ID: fill(8), Time: -1, Kind: EventFact, Name: "purchase", Props: []Prop{{"department", "GROCERY"}}}},
		{Kind: RecordConsent, Received: at, Site: "shop", Visitor: key, Consent: Consent{-1, RegimeUnknown, SignalOptOut, 0, []DestinationID{}}},
		{Kind: RecordErasure, Received: at, Space: "cookie", Visitor: key},
		{Kind: RecordOptIn, Received: at, Space: "own:demo", Visitor: key},
		{Kind: RecordMatch, Received: at, Visitor: key, Match: &Match{"dsp-a", "partner-id"}},
		{Kind: RecordMembership, Received: at, Source: "crm", Visitor: key, Statement: &Statement{fill(4), at, "l:vip=in", 20812}},
		{Kind: RecordAttribute, Received: at, Source: "crm", Visitor: key, Statement: &Statement{fill(3), at, "a:age=45-54", 0}},
		{Kind: RecordSucceeds, Received: at, Visitor: key, Succeeds: fill(2)},
		{Kind: RecordCounts, Received: at, Counts: []Count{{"shop", Rejected, ReasonMalformed, 12}, {"", Dropped, ReasonConsent, 1 << 40}}},
		{Kind: RecordTick, Received: at},
	}
}

// A choice came after version 1 was written down, in a field of its own: what is
// older reads as it did, and an older program refuses it instead of reading half.
func TestAChoiceKeepsItsCategories(t *testing.T) {
	for _, r := range []Record{
		{Kind: RecordChoice, Received: 5, Visitor: VisitorKey{1}, Returning: true, Off: []Trait{"c:news/sport", "c:news/wine"}},
		{Kind: RecordChoice, Received: 5, Visitor: VisitorKey{1}}, // all on again
	} {
		got, rest, err := DecodeRecord(AppendRecord(nil, &r))
		if err != nil || len(rest) != 0 || !reflect.DeepEqual(got, r) {
			t.Errorf("%v; %+v became %+v", err, r, got)
		}
		if r.EventCount() != 0 {
			t.Error("a choice counts as an event")
		}
	}
}

func TestRecordsOfVersion1StayTheSame(t *testing.T) {
	text, err := os.ReadFile("testdata/record-v1.hex")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Fields(string(text))
	want := goldenRecords()
	if len(lines) != len(want) {
		t.Fatalf("%d lines, %d records", len(lines), len(want))
	}
	for i, line := range lines {
		b, err := hex.DecodeString(line)
		if err != nil {
			t.Fatal(err)
		}
		got, rest, err := DecodeRecord(b)
		if err != nil || len(rest) != 0 || !reflect.DeepEqual(got, want[i]) {
			t.Errorf("record %d: %v; got %+v, want %+v", i, err, got, want[i])
		}
		if w := AppendRecord(nil, &want[i]); !bytes.Equal(w, b) {
			t.Errorf("record %d: written as %x, want %x", i, w, b)
		}
	}
}

func TestEachFieldHasItsPlaceInTheBytes(t *testing.T) {
	// Two records that differ in one field must differ in bytes: reflection
	// finds fields that a later change forgets to write.
	rapid.Check(t, func(t *rapid.T) {
		a := anyRecord.Draw(t, "a")
		b := a
		v := reflect.ValueOf(&b).Elem()
		f := v.Field(rapid.IntRange(0, v.NumField()-1).Draw(t, "field"))
		other := anyRecord.Draw(t, "b")
		f.Set(reflect.ValueOf(other).FieldByIndex([]int{fieldIndex(v, f)}))
		same := reflect.DeepEqual(a, b)
		if bytes.Equal(AppendRecord(nil, &a), AppendRecord(nil, &b)) != same {
			t.Fatalf("equal: %v; %+v and %+v", same, a, b)
		}
	})
}

func fieldIndex(v, f reflect.Value) int {
	for i := range v.NumField() {
		if v.Field(i).Addr().Interface() == f.Addr().Interface() {
			return i
		}
	}
	panic("no such field")
}

func FuzzDecodeRecord(f *testing.F) {
	for _, r := range goldenRecords() {
		f.Add(AppendRecord(nil, &r))
	}
	f.Add(bytes.Repeat([]byte{0xff}, 64))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, rest, err := DecodeRecord(b)
		if err != nil {
			if !errors.Is(err, ErrMalformed) || !reflect.DeepEqual(r, Record{}) || rest != nil {
				t.Fatalf("%v, with %+v and %d bytes", err, r, len(rest))
			}
			return
		}
		if !bytes.HasSuffix(b, rest) {
			t.Fatal("what follows is not the end of what came")
		}
		// What was read is written canonically, and reads the same.
		w := AppendRecord(nil, &r)
		again, rest, err := DecodeRecord(w)
		if err != nil || len(rest) != 0 || !reflect.DeepEqual(again, r) {
			t.Fatalf("%v; %+v became %+v", err, r, again)
		}
	})
}

func FuzzDecodeConsent(f *testing.F) {
	for _, r := range goldenRecords() {
		f.Add(AppendConsent(nil, &r.Consent))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, _, err := DecodeConsent(b)
		if err != nil {
			return
		}
		again, rest, err := DecodeConsent(AppendConsent(nil, &c))
		if err != nil || len(rest) != 0 || !again.Equal(c) {
			t.Fatalf("%v; %+v became %+v", err, c, again)
		}
	})
}

func TestDecodingBoundsMemory(t *testing.T) {
	// A short record that claims a long list asks for no more than its bytes.
	for _, claim := range [][]byte{{0xff, 0xff, 0xff, 0xff, 0x0f}, {0xff, 0xff, 0x03}} {
		b := append([]byte{byte(RecordCounts)}, 0x80, 0x40, 0) // hasCounts
		b = append(b, claim...)
		if _, _, err := DecodeRecord(b); !errors.Is(err, ErrMalformed) {
			t.Errorf("%x: %v", b, err)
		}
	}
	long := Record{Kind: RecordEvent, Event: &Event{URL: strings.Repeat("x", maxString)}}
	if _, _, err := DecodeRecord(AppendRecord(nil, &long)); err != nil {
		t.Errorf("a string of the greatest length: %v", err)
	}
}

func TestReadingARecordKeepsExtremes(t *testing.T) {
	r := Record{Kind: RecordEvent, Received: math.MinInt64, First: Ref{WriterID{1}, math.MaxUint64}, Import: ImportRow{Row: math.MaxUint32},
		Statement: &Statement{Time: math.MaxInt64, Until: math.MinInt32}, Consent: Consent{Day: math.MaxInt32, Purposes: math.MaxUint16}}
	got, _, err := DecodeRecord(AppendRecord(nil, &r))
	if err != nil || !reflect.DeepEqual(got, r) {
		t.Errorf("%v, %+v", err, got)
	}
}

func BenchmarkRecord(b *testing.B) {
	r := goldenRecords()[0]
	w := AppendRecord(nil, &r)
	b.Run("append", func(b *testing.B) {
		b.ReportAllocs()
		buf := make([]byte, 0, 1024)
		for b.Loop() {
			buf = AppendRecord(buf[:0], &r)
		}
	})
	b.Run("decode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, _, err := DecodeRecord(w); err != nil {
				b.Fatal(err)
			}
		}
	})
}
