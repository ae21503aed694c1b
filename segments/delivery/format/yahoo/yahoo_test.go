package yahoo_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/segments/delivery/format/yahoo"
	"github.com/ebb-dmp/ebb/taxonomy"
	"pgregory.net/rapid"
)

var created = taxonomy.MillisOf(time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC))

func info() delivery.FileInfo {
	return delivery.FileInfo{IDs: delivery.ByMatch, Created: created, Account: map[string]string{"urn": "IXID", "gdpr": "true", "consent": "CO"}, Segments: map[taxonomy.AudienceID]string{"cars": "1234", "sport": "5678"}}
}

func TestTheExemplaryBodyIsWritten(t *testing.T) {
	want, err := os.ReadFile("testdata/exemplary/delta.json")
	if err != nil {
		t.Fatal(err)
	}
	e := yahoo.Format{}.New(info())
	out, err := e.Append(nil, delivery.Run{Audience: "cars", Minutes: 720}, []string{"df32sx-"})
	if err == nil {
		out, err = e.Append(out, delivery.Run{Audience: "sport", Remove: true}, []string{"df32sx-"})
	}
	if err == nil {
		out, err = e.Append(out, delivery.Run{Audience: "cars", Remove: true}, []string{"q-9"})
	}
	if err == nil {
		out, err = e.Close(out)
	}
	if err != nil || string(out) != strings.TrimSpace(string(want)) {
		t.Fatalf("%v\n%s", err, out)
	}
}

// A body is JSON, and its rows are what a reader of query strings finds.
func TestEveryBodyIsReadBack(t *testing.T) {
	type row struct {
		id, segment string
		end         int64
	}
	rapid.Check(t, func(t *rapid.T) {
		e := yahoo.Format{}.New(info())
		var want []row
		out, err := []byte(nil), error(nil)
		for i := range rapid.IntRange(0, 6).Draw(t, "visitors") {
			id := fmt.Sprintf("%d%s", i, rapid.StringN(0, 9, -1).Draw(t, "id"))
			for _, a := range []taxonomy.AudienceID{"cars", "sport"} {
				r := delivery.Run{Audience: a, Minutes: rapid.IntRange(0, 129_600).Draw(t, "minutes")}
				r.Remove = r.Minutes == 0
				if out, err = e.Append(out, r, []string{id}); err != nil {
					t.Fatal(err)
				}
				end := int64(created/1000) + int64(r.Minutes)*60
				if r.Remove {
					end = 0
				}
				want = append(want, row{strings.ToValidUTF8(id, "\ufffd"), info().Segments[a], end})
			}
		}
		if out, err = e.Close(out); err != nil {
			t.Fatal(err)
		}
		var body struct {
			Schema []string
			Data   [][2]string
		}
		if err := json.Unmarshal(out, &body); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		var got []row
		for _, d := range body.Data {
			for _, s := range strings.Split(d[1], ";") {
				q, err := url.ParseQuery(s)
				if err != nil {
					t.Fatal(err)
				}
				end, err := strconv.ParseInt(q.Get("exp"), 10, 64)
				if err != nil || q.Get("ts") != fmt.Sprint(int64(created/1000)) {
					t.Fatal(s)
				}
				got = append(got, row{d[0], q.Get("seg_id"), end})
			}
		}
		if !slices.Equal(got, want) || body.Schema[0] != "IXID" || body.Schema[1] != "SEGMENTS" {
			t.Fatalf("got %v\nwant %v", got, want)
		}
	})
}

func TestYahoosCountersAreRead(t *testing.T) {
	b, err := os.ReadFile("testdata/supplemental/published-reply.json")
	if err != nil {
		t.Fatal(err)
	}
	if v, err := (yahoo.Format{}).Judge(200, b); err != nil || v.Rejected["invalidRows"] != 2 {
		t.Fatal(v, err)
	}
	for _, garbage := range []string{"", "{}", "<html>", `{"totalRows":1}`, `{"totalRows":"1","invalidRows":0}`} {
		if _, err := (yahoo.Format{}).Judge(200, []byte(garbage)); !errors.Is(err, retention.ErrUnknown) {
			t.Errorf("%q: %v", garbage, err)
		}
	}
}

func TestADestinationSaysWhatYahooNeeds(t *testing.T) {
	d := &delivery.Destination{Audiences: []taxonomy.AudienceID{"cars"}}
	err := yahoo.Format{}.Check(d)
	for _, field := range []string{"urn", "gdpr", "credentials_file", "segments"} {
		if err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%s is not named: %v", field, err)
		}
	}
	d.Account, d.CredentialsFile, d.Segments = info().Account, "yahoo", info().Segments
	if err := (yahoo.Format{}).Check(d); err != nil {
		t.Fatal(err)
	}
}

// BenchmarkMembers prints rows a second, two segments an ID.
func BenchmarkMembers(b *testing.B) {
	var took time.Duration
	id := []string{""}
	for b.Loop() {
		e, out := yahoo.Format{}.New(info()), make([]byte, 0, 1<<17)
		start := time.Now()
		for i := range 500 {
			id[0] = strconv.Itoa(1<<40 + i*7919)
			out, _ = e.Append(out, delivery.Run{Audience: "cars", Minutes: 1440}, id)
			out, _ = e.Append(out, delivery.Run{Audience: "sport", Minutes: 1440}, id)
		}
		e.Close(out)
		took += time.Since(start)
	}
	b.ReportMetric(float64(b.N*1000)/took.Seconds()/1e6, "Mrows/s")
}
