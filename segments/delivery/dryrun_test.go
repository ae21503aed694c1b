package delivery_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/hex"
	"flag"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/RoaringBitmap/roaring/v2"
	"pgregory.net/rapid"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/retention/storetest"
	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/segments/delivery/format/delimited"
	"github.com/ebb-dmp/ebb/segments/delivery/format/tradedesk"
	"github.com/ebb-dmp/ebb/segments/delivery/transport/pull"
	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/taxonomy"
)

var update = flag.Bool("update", false, "write testdata anew")

// everything is all that is kept.
func everything(t tb, m *storetest.Model) string {
	t.Helper()
	var b strings.Builder
	blobs, err := m.Blobs().List(context.Background(), "delivery")
	if err != nil {
		t.Fatalf("%v", err)
	}
	for _, x := range blobs {
		fmt.Fprintf(&b, "%s %x\n", x.Name, x.SHA256)
	}
	it, err := m.Keyed().Get(context.Background(), delivery.Space, retention.Key{Partition: string(dsp), Item: "head"})
	fmt.Fprintf(&b, "%x %d %v\n", it.Value, it.Version, err)
	return b.String()
}

// Whatever happened before, a dry run says what the run that follows says, to the
// byte; and it leaves everything as it was.
func TestADryRunSaysWhatTheRunThenSays(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		r := filled(t, rapid.IntRange(0, 12).Draw(rt, "visitors"))
		f := &folderOf{facts: delivery.TransportFacts{Manifest: rapid.Bool().Draw(rt, "manifest")}, bodies: map[string]string{}}
		r.with(rt, plain{delivery.FormatFacts{
			Extension: ".txt", Removes: true, MaxRows: rapid.IntRange(0, 9).Draw(rt, "rows of a chunk"),
			ByID: rapid.Bool().Draw(rt, "by ID"), Apart: rapid.Bool().Draw(rt, "apart"),
		}}, f)
		dest := destination()
		dest.Format, dest.Transport = "plain", rapid.SampledFrom([]string{"folder", "pull"}).Draw(rt, "transport")
		dest.Floor = uint64(rapid.IntRange(1, 4).Draw(rt, "floor"))
		for range rapid.IntRange(1, 4).Draw(rt, "deliveries") {
			src := r.w.generation()
			before := everything(rt, r.store)
			dry, err := r.d.DryRun(context.Background(), dest, src)
			if err != nil {
				rt.Fatalf("%v", err)
			}
			if everything(rt, r.store) != before {
				rt.Fatalf("the dry run changed something")
			}
			done, err := r.d.Run(context.Background(), dest, src)
			if err != nil {
				rt.Fatalf("%v", err)
			}
			want := done
			want.File, want.SHA256, want.Acknowledged = "", "", 0
			if got := fmt.Sprintf("%+v", dry.Delivery); got != fmt.Sprintf("%+v", want) {
				rt.Fatalf("the dry run says\n%s\nthe run\n%+v", got, want)
			}
			if dry, err = r.d.DryRun(context.Background(), dest, src); err != nil || dry.Result != delivery.ResultDelivered || dry.Rows != 0 {
				rt.Fatalf("of what was delivered it says %+v, %v", dry.Delivery, err)
			}
			for _, v := range r.w.visitors {
				switch rapid.IntRange(0, 5).Draw(rt, "what") {
				case 0:
					delete(v.member, "cars")
				case 1:
					v.member["either"] = true
				}
			}
			r.w.now += taxonomy.Millis(rapid.IntRange(1, 30).Draw(rt, "hours")) * taxonomy.Hour
		}
	})
}

// Every format shows three visitors as its receiver would get them: who come first
// by their IDs, and none of their IDs.
func TestADryRunShowsThreeVisitors(t *testing.T) {
	formats := maps.Clone(benched)
	formats["tradedesk-advertiser"], formats["template"] = tradedesk.Format{Advertiser: true}, delimited.Own()
	for _, name := range slices.Sorted(maps.Keys(formats)) {
		t.Run(name, func(t *testing.T) {
			const n = 120
			c := &crowd{n: n, now: taxonomy.MillisOf(time.Date(2026, 11, 26, 9, 0, 30, 0, time.UTC)), matches: true}
			m := storetest.NewModel(func() taxonomy.Millis { return c.now })
			real := func(_ taxonomy.DestinationID, _ uint32, k taxonomy.VisitorKey) string {
				return pseudonym(dsp, 0, k)
			}
			d, err := delivery.New(delivery.Options{
				Keyed: m.Keyed(), Blobs: m.Blobs(), Pseudonym: real, View: func(context.Context) (audience.View, error) { return c, nil },
				Formats: formats, Transports: map[string]delivery.Transport{"drain": &drain{}, "pull": pull.Transport{}},
				Now: func() taxonomy.Millis { return c.now }, After: func(time.Duration) <-chan time.Time { return nil }, Rand: rand.NewChaCha8([32]byte{}),
			})
			if err != nil {
				t.Fatal(err)
			}
			dest := benchDestination(name)
			dest.Account["AdvertiserId"], dest.Account["line"] = "adv", `<DP_UUID>,<SEGMENT_LIST;separator=",">,<REMOVED_SEGMENT_LIST;separator=",">`
			if dest.Transport = "drain"; !formats[name].Facts().Removes {
				dest.Transport = "pull"
			}
			if name == "tradedesk-advertiser" || name == "yahoo" {
				dest.IDs = delivery.ByMatch
			}
			src := delivery.Source{
				Generation: &audience.Generation{Number: 1, Clock: c.now, Shards: 1, Audiences: []audience.Entry{{ID: "cars", Positive: []taxonomy.Column{colCar}}, {ID: "sport", Positive: []taxonomy.Column{colCar}}}},
				View:       c,
				Members: func(_ context.Context, e audience.Entry) (index.Set, error) {
					who := roaring.New()
					who.AddRange(0, n)
					if e.ID == "sport" {
						for o := uint32(0); o < n; o += 3 {
							who.Remove(o)
						}
					}
					return index.Set{who}, nil
				},
			}
			dry, err := d.DryRun(context.Background(), dest, src)
			if err != nil || dry.MadeUp {
				t.Fatalf("%v, %+v", err, dry.Delivery)
			}
			got := shownSample(t, &dry)
			golden := filepath.Join("testdata", "dryrun", name+".golden")
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if want, err := os.ReadFile(golden); err != nil || got != string(want) {
				t.Errorf("%v; got\n%s\nwant\n%s\n-update writes what it gets", err, got, want)
			}
			// What stands there is of whoever comes first, as a plain model finds it.
			ids := map[string]uint32{}
			for o := range uint32(n) {
				k, _ := c.Key(0, o)
				ids[real(dsp, 0, k)] = o
				if dest.IDs == delivery.ByMatch {
					delete(ids, real(dsp, 0, k))
					id, _, _ := c.MatchID(dsp, 0, o)
					ids[id] = o
				}
			}
			want := map[string]bool{}
			for i, id := range slices.Sorted(maps.Keys(ids))[:3] {
				want[fmt.Sprint(delivery.StandIn(dest.IDs, i+1), "cars")] = true
				if ids[id]%3 != 0 {
					want[fmt.Sprint(delivery.StandIn(dest.IDs, i+1), "sport")] = true
				}
			}
			seen := map[string]bool{}
			for _, r := range dry.Visitors {
				seen[fmt.Sprint(r.ID, r.Audience)] = true
			}
			if !maps.Equal(seen, want) {
				t.Errorf("shows %v, want %v", seen, want)
			}
			for id := range ids {
				raw, _ := hex.DecodeString(id)
				if strings.Contains(got, id) || len(raw) > 0 && strings.Contains(got, hex.EncodeToString(raw)) {
					t.Errorf("it shows the ID %s", id)
				}
			}
		})
	}
}

// shownSample is a sample as people read it.
func shownSample(t *testing.T, dry *delivery.DryRun) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, %d rows\n", dry.Result, dry.Rows)
	for _, r := range dry.Visitors {
		sign := "+"
		if r.Remove {
			sign = "-"
		}
		fmt.Fprintf(&b, "%s %s (%s) %s %d\n", r.ID, r.Audience, r.Segment, sign, r.Minutes)
	}
	for _, f := range dry.Files {
		fmt.Fprintf(&b, "\n--- %q %s, %d rows\n", f.Name, f.MediaType, f.Rows)
		body := f.Body
		if z, err := gzip.NewReader(bytes.NewReader(body)); err == nil {
			if body, err = io.ReadAll(z); err != nil {
				t.Fatal(err)
			}
		}
		if utf8.Valid(body) && !bytes.ContainsRune(body, 0) {
			b.Write(body)
			b.WriteByte('\n')
			continue
		}
		b.WriteString(hex.Dump(body))
	}
	return b.String()
}

// Of fewer than 50 rows, and of none, nobody real is shown at all (P7).
func TestADryRunOfFewShowsWhoDoesNotExist(t *testing.T) {
	r := filled(t, 9)
	r.with(t, plain{delivery.FormatFacts{Extension: ".txt", Removes: true}}, &folderOf{bodies: map[string]string{}})
	dest := destination()
	dest.Format, dest.Transport = "plain", "folder"
	src := r.w.generation()
	for range 2 {
		dry, err := r.d.DryRun(context.Background(), dest, src)
		if err != nil || !dry.MadeUp || len(dry.Files) != 1 {
			t.Fatalf("%v, %+v", err, dry)
		}
		for _, row := range dry.Visitors {
			if !row.Remove && row.Minutes < 29*24*60 {
				t.Errorf("%+v has a life of its own", row)
			}
		}
		if body := string(dry.Files[0].Body); strings.Count(body, "\n") != len(dry.Visitors) || !strings.Contains(body, delivery.StandIn(dest.IDs, 3)) || !strings.Contains(body, " true 0\n") {
			t.Errorf("%s", body)
		}
		if _, err := r.d.Run(context.Background(), dest, src); err != nil {
			t.Fatal(err)
		}
	}
}
