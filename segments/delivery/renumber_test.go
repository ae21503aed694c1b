package delivery

import (
	"fmt"
	"maps"
	"testing"

	"github.com/RoaringBitmap/roaring/v2"
	"pgregory.net/rapid"

	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// A ledger says the same of the same visitors when they are numbered anew: what
// is held, what may be, under which ID, and what is to be taken away.
func TestARenumberedLedgerSaysTheSame(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		from, to := rapid.IntRange(1, 3).Draw(t, "shards before"), rapid.IntRange(1, 4).Draw(t, "shards after")
		n := index.NewNumbering(from, to)
		type at struct {
			s int
			o uint32
		}
		who := map[at]string{} // by the new place
		l := NewLedger()
		var ids []map[uint32]string
		if rapid.Bool().Draw(t, "by match") {
			ids = make([]map[uint32]string, from)
			for s := range ids {
				ids[s] = map[uint32]string{}
			}
		}
		name := func(s int, o uint32) string { return fmt.Sprintf("%d/%d", s, o) }
		held := map[taxonomy.AudienceID]map[bool]Held{"a": {true: NewHeld(from), false: NewHeld(from)}, "b": {true: NewHeld(from), false: NewHeld(from)}}
		for s := range from {
			for o := range uint32(rapid.IntRange(0, 12).Draw(t, "visitors")) {
				if rapid.IntRange(0, 7).Draw(t, "is over") == 0 {
					continue
				}
				p := rapid.IntRange(0, to-1).Draw(t, "new shard")
				who[at{p, n.Next(p)}] = name(s, o)
				n.Add(s, o, p)
				for _, a := range []taxonomy.AudienceID{"a", "b"} {
					if day := rapid.IntRange(0, 3).Draw(t, "until"); day > 0 {
						held[a][rapid.Bool().Draw(t, "surely")].Add(s, o, taxonomy.Day(day))
					}
				}
				if ids != nil {
					ids[s][o] = "id of " + name(s, o)
				}
				if rapid.IntRange(0, 3).Draw(t, "removed") == 0 {
					l.Outbox = append(l.Outbox, Removal{Audience: "a", ID: name(s, o), Until: 5, Shard: s, Ordinal: o, Forgotten: rapid.Bool().Draw(t, "forgotten")})
				}
			}
		}
		l.IDs = matchedOf(ids)
		l.Outbox = append(l.Outbox, Removal{Audience: "b", ID: "of nobody", Until: 5, Ordinal: 1000})
		for a, of := range held {
			l.Held[a], l.Maybe[a] = of[true], of[false]
		}
		tell := func(l *Ledger, whose func(int, uint32) string) map[string]bool {
			out := map[string]bool{}
			for what, rows := range map[string]map[taxonomy.AudienceID]Held{"held": l.Held, "maybe": l.Maybe} {
				for a, h := range rows {
					for s, days := range h {
						for d, b := range days {
							for it := b.Iterator(); it.HasNext(); {
								out[fmt.Sprint(what, a, d, whose(s, it.Next()))] = true
							}
						}
					}
				}
			}
			for s := range max(from, to) {
				for w := l.IDs.walk(s); w.next(); {
					out["id"+whose(s, w.ordinal)+string(w.id)] = true
				}
			}
			for _, r := range l.Outbox {
				out[fmt.Sprint("removal", r.Audience, r.ID, r.Until, r.Forgotten, whose(r.Shard, r.Ordinal))] = true
			}
			return out
		}
		b, err := l.renumber(n).marshal(n.Shards())
		if err != nil {
			t.Fatal(err)
		}
		moved, err := unmarshalLedger(b)
		if err != nil {
			t.Fatal(err)
		}
		want := tell(l, func(s int, o uint32) string {
			if _, ok := n.Of(s, o); !ok {
				return ""
			}
			return name(s, o)
		})
		got := tell(moved, func(s int, o uint32) string { return who[at{s, o}] })
		if !maps.Equal(got, want) {
			t.Fatalf("it says %v, and said %v", got, want)
		}
	})
}

// A file that somebody stands in who has no place any more is still known as one.
func TestAFileOfNobodyStaysOne(t *testing.T) {
	n := index.NewNumbering(1, 2)
	n.Add(0, 1, 1)
	got := renumberMembers([]*roaring.Bitmap{roaring.BitmapOf(0, 1)}, n)
	if !got[1].Contains(0) || got[0].GetCardinality() != 1 {
		t.Errorf("members are %v and %v", got[0], got[1])
	}
}
