package log

import (
	"io"
	"log/slog"
	"maps"
	"testing"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/retention/log/crashfs"
	"github.com/ebb-dmp/ebb/taxonomy"
	"pgregory.net/rapid"
)

func textLogger(w io.Writer) *slog.Logger { return slog.New(slog.NewTextHandler(w, nil)) }

// Any appends, trims, rotations, clean and unclean restarts, in any order:
// Follow gives exactly what was acknowledged and is not trimmed, and End says
// what that is. The model is a map.
func TestTheLogIsAMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		fs, writer, i := crashfs.New(), 0, 0
		o := options(fs, writer)
		o.SegmentBytes = rapid.Int64Range(200, 3000).Draw(t, "segment bytes")
		o.NoCompression = rapid.Bool().Draw(t, "plain")
		reopen := func(on *crashfs.FS) *Log {
			fs = on
			o2 := options(fs, writer)
			o2.SegmentBytes, o2.NoCompression = o.SegmentBytes, o.NoCompression
			l, err := Open(o2)
			if err != nil {
				t.Fatal(err)
			}
			return l
		}
		l := reopen(fs)
		want := map[taxonomy.Ref]taxonomy.Record{}
		waits := map[taxonomy.Ref]taxonomy.Record{} // appended with AckNone
		maybe := map[taxonomy.Ref]taxonomy.Record{} // the same, before a power loss
		at := retention.Position{}                  // trimmed
		last := retention.Position{}

		read := func(t *rapid.T) {
			frames, err := tryFollow(l, at, rapid.IntRange(0, 4000).Draw(t, "max"))
			if err != nil {
				t.Fatal(err)
			}
			got := records(frames)
			for ref, r := range want {
				g, ok := got[ref]
				if ref.Seq > at[ref.Writer] && (!ok || !g.Consent.Equal(r.Consent) || g.Visitor != r.Visitor || g.Received != r.Received || g.Kind != r.Kind) {
					t.Fatalf("record %v: there %v, got %+v", ref, ok, g)
				}
				delete(got, ref)
			}
			for ref, g := range got {
				r, ok := waits[ref]
				if !ok {
					r, ok = maybe[ref]
				}
				if !ok || g.Visitor != r.Visitor {
					t.Fatalf("record %v was never appended", ref)
				}
				want[ref] = r // once shown, it stays
				last[ref.Writer] = max(last[ref.Writer], ref.Seq)
			}
			ends, err := l.End(ctx, 0, at)
			if err != nil {
				t.Fatal(err)
			}
			beyond := tally{}
			for _, f := range frames {
				beyond.add(f.Counts)
			}
			for _, e := range ends {
				if e.Last < last[e.Writer] {
					t.Fatalf("writer %v ends at %d, records to %d were read", e.Writer, e.Last, last[e.Writer])
				}
				beyond = beyond.minus(tallyOf(e.Unfolded))
			}
			if len(beyond) > 0 {
				t.Fatalf("Follow has events that End has not: %v", beyond)
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"": read,
			"append": func(t *rapid.T) {
				rs := events(i, rapid.IntRange(1, 6).Draw(t, "n"))
				i += len(rs)
				ack := rapid.SampledFrom([]retention.Ack{retention.AckNone, retention.AckLocal, retention.AckQuorum}).Draw(t, "ack")
				ref, _, err := l.Append(ctx, 0, rs, ack)
				if err != nil {
					t.Fatal(err)
				}
				if ack == retention.AckNone {
					add(waits, ref, rs)
					return
				}
				// What waited went along, being before it.
				maps.Copy(want, waits)
				clear(waits)
				add(want, ref, rs)
				last[ref.Writer] = ref.Seq + uint64(len(rs)) - 1
			},
			"trim": func(t *rapid.T) {
				for n := range writer + 1 {
					if w := writerID(n); last[w] > 0 {
						at[w] = max(at[w], rapid.Uint64Range(0, last[w]).Draw(t, "to"))
					}
				}
				if err := l.Trim(ctx, 0, at); err != nil {
					t.Fatal(err)
				}
			},
			"rotate": func(t *rapid.T) {
				if err := l.Rotate(ctx, 0); err != nil {
					t.Fatal(err)
				}
			},
			"restart": func(t *rapid.T) {
				if err := l.Close(ctx); err != nil {
					t.Fatal(err)
				}
				maps.Copy(want, waits)
				clear(waits)
				writer++
				l = reopen(fs)
			},
			"power loss": func(t *rapid.T) {
				now := fs.Len()
				lost := fs.Crash(now, crashfs.Prefix(rapid.IntRange(0, 500).Draw(t, "kept")))
				_ = l.Close(ctx) // of what is no more
				writer++
				l = reopen(lost)
				maps.Copy(maybe, waits) // lost, or there with nobody having been told
				clear(waits)
			},
		})
		_ = l.Close(ctx)
	})
}

func tallyOf(c []retention.SiteCount) tally {
	t := tally{}
	t.add(c)
	return t
}
