package fold

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// bothMatches are matches and the naive ones, to which the same happens.
type bothMatches struct {
	ours  *matches
	naive *naiveMatches
}

var (
	someDests = []taxonomy.DestinationID{"dsp", ""}
	// someIDs are of every length at which something is different: none, a length of
	// two bytes, all of a chunk of the arena, more than that. The edge takes 256 bytes.
	// Some are packed in each way, or nearly.
	someIDs = []string{"", "a", "b", "0b", "00b", "Ab", "7e57ab1e-0000-4000-8000-000000000001", "7E57AB1E-0000-4000-8000-000000000001", strings.Repeat("c", 127), strings.Repeat("d", 128), strings.Repeat("e", 255), strings.Repeat("f", 256),
		strings.Repeat("g", arenaChunk-4), strings.Repeat("h", arenaChunk-3)}
	someVisitors = func() (list []taxonomy.VisitorKey) {
		for i := range 8 {
			list = append(list, taxonomy.VisitorKey{byte(i % 2), 15: byte(i)}) // the zero key too
		}
		return list
	}()
)

// equal says where they differ.
func (b *bothMatches) equal(dests []taxonomy.DestinationID, visitors []taxonomy.VisitorKey, ids []string) error {
	for _, d := range dests {
		known := map[taxonomy.VisitorKey]bool{}
		for v := range b.ours.knows(d) {
			if known[v] {
				return fmt.Errorf("destination %q knows %x twice", d, v)
			}
			known[v] = true
		}
		for _, v := range visitors {
			id, at, ok := b.ours.of(d, v)
			wantID, wantAt, want := b.naive.of(d, v)
			if id != wantID || at != wantAt || ok != want || b.ours.matched(d, v) != want || known[v] != want {
				return fmt.Errorf("destination %q knows %x by %.9q of %d, %t, %t, %t; want %.9q of %d, %t", d, v, id, at, ok, b.ours.matched(d, v), known[v], wantID, wantAt, want)
			}
		}
		for _, id := range ids {
			v, ok := b.ours.holder(d, id)
			if want, in := b.naive.holder(d, id); v != want || ok != in {
				return fmt.Errorf("%.9q of destination %q is %x's, %t; want %x's, %t", id, d, v, ok, want, in)
			}
		}
	}
	if got, want := entries(b.ours), entries(b.naive.claims); !maps.Equal(got, want) {
		return fmt.Errorf("%d entries, want %d, or others", len(got), len(want))
	}
	return b.ours.consistent()
}

func entries(t anyTable) map[string]string {
	all := map[string]string{}
	t.each(func(k, v []byte) { all[string(k)] = string(v) })
	return all
}

// drained is the run of what changed.
func drained(t anyTable) []byte {
	var r runBuilder
	t.drain(&r)
	return r.bytes()
}

// consistent checks what claims say of themselves.
func (m *matches) consistent() error {
	n, bytes, heads := 0, 0, [2]int{}
	for c := range m.all() {
		n++
		b, _ := m.ids.entry(c.place())
		bytes += len(b)
		for s := range side(2) {
			if c.is(isHead << s) {
				heads[s]++
			}
			if c.is(leaves << s) {
				return fmt.Errorf("a claim is still about to leave chain %d", s)
			}
		}
	}
	counted := 0
	for _, d := range m.dests.known {
		counted += d.claims
	}
	if n != m.live || n != counted || bytes != m.ids.used-m.ids.dead || heads[0] != m.heads[0].n || heads[1] != m.heads[1].n {
		return fmt.Errorf("%d claims, counted %d and %d; %d bytes of IDs, counted %d - %d; heads %v, counted %d and %d",
			n, m.live, counted, bytes, m.ids.used, m.ids.dead, heads, m.heads[0].n, m.heads[1].n)
	}
	return nil
}

// R8, R32: compact matches answer as maps of claims do and write the same bytes,
// whatever happens to them, also where all keys meet in one place.
func TestMatchesAnswerAsMapsOfClaims(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := bothMatches{newMatches(), newNaiveMatches()}
		b.ours.mask = rapid.SampledFrom([]uint64{^uint64(0), 0, 3 << 62, 7}).Draw(t, "hash bits")
		key := rapid.Custom(func(t *rapid.T) claimKey {
			return claimKey{rapid.SampledFrom(someDests).Draw(t, "destination"), rapid.SampledFrom(someVisitors).Draw(t, "visitor"), rapid.SampledFrom(someIDs).Draw(t, "id")}
		})
		times := rapid.Map(rapid.IntRange(-2, 8), func(n int) taxonomy.Millis { return taxonomy.Millis(n) })
		act := func(kind int) {
			switch {
			case kind < 10:
				k, at := key.Draw(t, "claim"), times.Draw(t, "at")
				b.ours.claim(k, at)
				b.naive.claim(k, at)
			case kind == 10:
				v := rapid.SampledFrom(someVisitors).Draw(t, "forget")
				b.ours.forget(v)
				b.naive.forget(v)
			case kind == 11:
				end, not := times.Draw(t, "end"), rapid.SampledFrom(someVisitors).Draw(t, "unknown")
				over := func(v taxonomy.VisitorKey, at taxonomy.Millis) bool { return at < end || v == not }
				if got, want := b.ours.drop(over), b.naive.drop(over); got != want {
					t.Fatalf("dropped %t, want %t", got, want)
				}
			case kind < 14:
				if got, want := drained(b.ours), drained(b.naive.claims); !bytes.Equal(got, want) {
					t.Fatalf("a run of %d bytes, want %d, or others", len(got), len(want))
				}
			default: // a restart reads what there was, and then a run of what changed
				next := bothMatches{newMatches(), newNaiveMatches()}
				next.ours.mask = b.ours.mask
				load := func(k, v []byte) {
					_ = next.naive.claims.load(k, v)
					if err := next.ours.load(k, v); err != nil {
						t.Fatal(err)
					}
					clear(k) // as whoever owns the run's memory may
				}
				b.naive.claims.each(load)
				for range rapid.IntRange(0, 6).Draw(t, "entries") {
					k := naiveClaimCodec.key(nil, key.Draw(t, "entry"))
					if rapid.Bool().Draw(t, "removed") {
						_ = next.naive.claims.unload(k)
						if err := next.ours.unload(k); err != nil {
							t.Fatal(err)
						}
					} else { // also one that is older than what is there
						load(k, naiveClaimCodec.val(nil, times.Draw(t, "at")))
					}
				}
				next.naive.reindex()
				b = next
			}
		}
		for range rapid.IntRange(0, 40).Draw(t, "steps") {
			act(rapid.IntRange(0, 14).Draw(t, "kind"))
			if err := b.equal(someDests, someVisitors, someIDs); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// numbered are claims of so many visitors, each by an ID of its own.
func numbered(n int) (list []claimKey) {
	for i := range n {
		list = append(list, claimKey{"dsp", taxonomy.VisitorKey{byte(i), byte(i >> 8), byte(i >> 16), 1}, fmt.Sprintf("partner-%028d", i)})
	}
	return list
}

// R24: whoever is erased leaves no ID in memory that is kept.
func TestAnErasedVisitorsIDIsOverwritten(t *testing.T) {
	m := newMatches()
	all := numbered(5000)
	for _, k := range all {
		m.claim(k, 1)
	}
	ever := map[*byte][]byte{} // chunks, also those that were given back
	stands := func(id string) bool {
		for _, b := range m.ids.chunks {
			ever[&b[:1][0]] = b[:cap(b)]
		}
		packed := packID(nil, id)[1:]
		return slices.ContainsFunc(slices.Collect(maps.Values(ever)), func(b []byte) bool { return bytes.Contains(b, packed) })
	}
	for i, k := range all {
		if i%3 == 0 {
			continue
		}
		looks := i%50 == 0
		if looks && !stands(k.id) {
			t.Fatalf("the ID of %d is looked for in the wrong place", i)
		}
		m.forget(k.visitor)
		if looks && stands(k.id) {
			t.Fatalf("the ID of %d stays", i)
		}
	}
	if err := m.consistent(); err != nil || m.ids.dead > m.ids.used/8+arenaChunk {
		t.Errorf("%d of %d bytes belong to nobody: %v", m.ids.dead, m.ids.used, err)
	}
}

// Memory goes back when most matches are gone, and nothing else changes: neither what
// is answered, nor what the next run says.
func TestMatchesThatAreGoneGiveTheirMemoryBack(t *testing.T) {
	b := bothMatches{newMatches(), newNaiveMatches()}
	all := numbered(12_000)
	var visitors []taxonomy.VisitorKey
	var ids []string
	for i, k := range all {
		b.ours.claim(k, taxonomy.Millis(i))
		b.naive.claim(k, taxonomy.Millis(i))
		visitors, ids = append(visitors, k.visitor), append(ids, k.id)
		if i == 10_000 {
			drained(b.ours)
			drained(b.naive.claims)
		}
	}
	before := slices.Clone(b.ours.ids.chunks)
	over := func(v taxonomy.VisitorKey, at taxonomy.Millis) bool { return at%12 != 0 }
	b.ours.drop(over)
	b.naive.drop(over)
	for _, chunk := range before {
		if len(bytes.Trim(chunk, "\x00")) != 0 { // R24
			t.Error("what was given back still holds IDs")
		}
	}
	if b.ours.n != 1000 || b.ours.live != 1000 || b.ours.ids.dead != 0 || len(b.ours.ids.chunks) != 1 || len(b.ours.heads[ofID].slots) > 2000 {
		t.Errorf("%d claims of whom %d live in %d and %d bytes", b.ours.n, b.ours.live, b.ours.ids.used, b.ours.ids.dead)
	}
	if err := b.equal([]taxonomy.DestinationID{"dsp"}, visitors, ids); err != nil {
		t.Error(err)
	}
	for _, k := range all[:5000] { // free ordinals and places are used again
		b.ours.claim(k, 20_000)
		b.naive.claim(k, 20_000)
	}
	if got, want := drained(b.ours), drained(b.naive.claims); !bytes.Equal(got, want) {
		t.Errorf("a run of %d bytes, want %d, or others", len(got), len(want))
	}
	if err := b.equal([]taxonomy.DestinationID{"dsp"}, visitors, ids); err != nil {
		t.Error(err)
	}
}

// One ID of all visitors, and one visitor with all IDs: a file may say so.
func TestManyOfOneAreAnsweredAsMapsAnswer(t *testing.T) {
	b := bothMatches{newMatches(), newNaiveMatches()}
	var visitors []taxonomy.VisitorKey
	ids := []string{"of all"}
	for i, k := range numbered(400) {
		for _, k := range []claimKey{{k.dest, k.visitor, "of all"}, {k.dest, visitorKey(1), k.id}} {
			b.ours.claim(k, taxonomy.Millis(i%7))
			b.naive.claim(k, taxonomy.Millis(i%7))
		}
		visitors, ids = append(visitors, k.visitor), append(ids, k.id)
	}
	for i, v := range append(visitors[:200:200], visitorKey(1)) {
		if i%50 == 0 {
			if err := b.equal([]taxonomy.DestinationID{"dsp"}, visitors[i:i+3], ids[:2]); err != nil {
				t.Fatal(err)
			}
		}
		b.ours.forget(v)
		b.naive.forget(v)
	}
	if err := b.equal([]taxonomy.DestinationID{"dsp"}, append(visitors, visitorKey(1)), ids); err != nil {
		t.Error(err)
	}
}

// A destination that has no match any more leaves its number to another.
func TestDestinationsWithoutMatchesLeaveTheirNumbers(t *testing.T) {
	m := newMatches()
	for i := range 100 {
		d := taxonomy.DestinationID(fmt.Sprint("dsp", i))
		m.claim(claimKey{d, visitorKey(1), "x"}, 1)
		if id, _, ok := m.of(d, visitorKey(1)); id != "x" || !ok {
			t.Fatalf("destination %d: %q, %t", i, id, ok)
		}
		m.forget(visitorKey(1))
		if m.matched(d, visitorKey(1)) {
			t.Fatalf("destination %d still knows who is forgotten", i)
		}
	}
	if len(m.dests.known) != 1 {
		t.Errorf("%d numbers, want 1", len(m.dests.known))
	}
}

// Bytes of a run that are no claim are refused, and those that are say what they said.
func TestBytesThatAreNoClaimAreRefused(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := bothMatches{newMatches(), newNaiveMatches()}
		k := rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(t, "key")
		if len(k) > 0 {
			k[0] %= 30
		}
		v := rapid.SliceOfN(rapid.Byte(), 0, 11).Draw(t, "value")
		got, want := b.ours.load(k, v), b.naive.claims.load(k, v)
		if (got == nil) != (want == nil) || got != nil && !errors.Is(got, retention.ErrCorrupt) {
			t.Fatalf("loads with %v, want %v", got, want)
		}
		if !maps.Equal(entries(b.ours), entries(b.naive.claims)) {
			t.Fatal("other entries")
		}
		got, want = b.ours.unload(k), b.naive.claims.unload(k)
		if (got == nil) != (want == nil) || !maps.Equal(entries(b.ours), entries(b.naive.claims)) {
			t.Fatalf("unloads with %v, want %v", got, want)
		}
	})
}

// A packed ID is the ID, whatever bytes it has, and packed it takes a byte more at most:
// half, if it is a UUID, a number or a hash.
func TestPackedIDsAreTheIDs(t *testing.T) {
	for id, most := range map[string]int{"7e57ab1e-0000-4000-8000-00000000000f": 17, "1234567890123456789": 11, strings.Repeat("0af9", 16): 33, "7E57AB1E-0000-4000-8000-00000000000F": 37, "": 1} {
		if packed := packID(nil, id); len(packed) > most {
			t.Errorf("%q takes %d bytes, want %d", id, len(packed), most)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		letters := rapid.SampledFrom([]string{"0123456789abcdef", "0123456789abcdef-", "09af`g/:-\x00\xff"}).Draw(t, "letters")
		b := rapid.SliceOfN(rapid.SampledFrom([]byte(letters)), 0, 40).Draw(t, "id")
		if rapid.Bool().Draw(t, "as a UUID") {
			b = append(b, make([]byte, 36)...)[:36]
			for i := range b {
				if uuidLine(i) && rapid.IntRange(0, 9).Draw(t, "line") > 0 {
					b[i] = '-'
				} else if b[i] == 0 {
					b[i] = '7'
				}
			}
		}
		before := []byte("before")
		packed := packID(before, b)
		if len(packed) > len(before)+len(b)+1 || !bytes.HasPrefix(packed, before) || !bytes.Equal(packed, packID(before, string(b))) {
			t.Fatalf("%q is %x packed", b, packed)
		}
		if got := unpackID(nil, packed[len(before):]); !bytes.Equal(got, b) {
			t.Fatalf("%q comes back as %q", b, got)
		}
	})
}
