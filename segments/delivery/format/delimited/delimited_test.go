package delimited_test

import (
	"bytes"
	"crypto/md5"
	"encoding/csv"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/segments/delivery/format/delimited"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/gziptest"
	"pgregory.net/rapid"
)

// 2015-12-10 13:45:24 UTC, the moment of Adobe's examples.
const adobes = taxonomy.Millis(1449756724000)

var seg = func(ids ...string) (m []delimited.Member) {
	for _, id := range ids {
		m = append(m, delimited.Member{SID: id, Alias: id})
	}
	return m
}

// The pairs of template and output are those of Adobe's page "Outbound macro
// examples". (That of lists with & it prints without the last &, which its own
// template writes; and its two times differ, where we know one.)
func TestAdobesExamplesComeOutAsPublished(t *testing.T) {
	names := map[string]string{"ORDER_ID": "215", "DPID": "888", "MASTER_DPID": "20915", "SYNC_TYPE": "ftp"}
	for _, x := range []struct {
		template string
		v        delimited.Values
		want     string
	}{
		{"<SYNC_TYPE>_<ORDER_ID>_<DPID>_<SYNC_MODE>_<TIMESTAMP>.sync", delimited.Values{Account: names, Mode: "iter", Created: adobes}, "ftp_215_888_iter_1449756724.sync"},
		{"<SYNC_TYPE>_<ORDER_ID>_<DPID>_<SYNC_MODE>_<TIMESTAMP>.sync", delimited.Values{Account: names, Mode: "full", Created: adobes}, "ftp_215_888_full_1449756724.sync"},
		{"<SYNC_TYPE>_<ORDER_ID>_<DPID>_<MASTER_DPID>_<SYNC_MODE>_<TIMESTAMP>.sync", delimited.Values{Account: names, Mode: "iter", Created: adobes}, "ftp_215_888_20915_iter_1449756724.sync"},
		{`<DP_UUID> <SEGMENT_LIST;separator=" ">`, delimited.Values{ID: "123456", In: seg("105955", "101183", "101180", "101179")}, "123456 105955 101183 101180 101179"},
		{`<DP_UUID> <REMOVED_SEGMENT_LIST;separator=" ">`, delimited.Values{ID: "123456", Out: seg("105955", "101183", "101180", "101179")}, "123456 105955 101183 101180 101179"},
		{`<PID><TAB><UUID><TAB><SET_ATTRIBUTES><TAB><OPT_OUT><TAB><SEGMENT_LIST:{seg|<seg.type>,<seg.alias>,<OUTPUT_ATTRIBUTE_VALUE>,<seg.lastUpdateTime>&}>`,
			delimited.Values{ID: "00088008579683653741516297509717335000", Account: map[string]string{"PID": "1159"}, In: seg("103714", "103713"), Created: 1344114661000},
			"1159\t00088008579683653741516297509717335000\t1\t0\t5,103714,1,1344114661000&5,103713,1,1344114661000&"},
		{`<PID><TAB><DP_UUID><TAB><SET_ATTRIBUTES><TAB><TRAIT_LIST;separator="|">`, delimited.Values{ID: "12345", Account: map[string]string{"PID": "1131"}, In: seg("123", "456", "789")}, "1131\t12345\t1\t123|456|789"},
		{`<TIMESTAMP;format="YYYYMMDDhhmmss">`, delimited.Values{Created: adobes}, "20151210141204"},
		{`<DP_UUID><ASCII_SOH><SEGMENT_LIST;separator=COMMA>`, delimited.Values{ID: "x", In: seg("1", "2")}, "x\x011,2"},
	} {
		p, err := delimited.Parse(x.template)
		if err != nil {
			t.Fatalf("%s: %v", x.template, err)
		}
		if got := string(p.Append(nil, &x.v)); got != x.want {
			t.Errorf("%s\ngives %q\nwant  %q", x.template, got, x.want)
		}
	}
}

// Adobe's template for The Trade Desk, whose outputs are compared as JSON.
func TestAdobesTemplateOfJSONComesOutAsPublished(t *testing.T) {
	p, err := delimited.Parse(`{"AdvertiserId":"<PIDALIAS>", "DataCenterId": 2,"TDID":"<DP_UUID>", "Data":[<SEGMENT_LIST:{seg|<OPEN_CURLY_BRACKET>"Name":"<seg.alias>"<CLOSE_CURLY_BRACKET>}; separator=","><if(SEGMENT_LIST && REMOVED_SEGMENT_LIST)><COMMA><endif> <REMOVED_SEGMENT_LIST:{seg|<OPEN_CURLY_BRACKET>"Name":"<seg.alias>", "TtlInMinutes":0<CLOSE_CURLY_BRACKET>}; separator=",">]}`)
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		id      string
		in, out []delimited.Member
		want    string
	}{
		{"dfd215e4-8d6b-4fdb-90b9-fab4456f2c9d", seg("4321"), nil, `{"AdvertiserId":"12345", "DataCenterId": 2,"TDID":"dfd215e4-8d6b-4fdb-90b9-fab4456f2c9d","Data":[{"Name":"4321"}]}`},
		{"9099e8fe-abab-5114-abaa-28bdaa0539ca", seg("4321"), seg("987", "654"), `{"AdvertiserId":"12345", "DataCenterId": 2,"TDID":"9099e8fe-abab-5114-abaa-28bdaa0539ca","Data":[{"Name":"4321"},{"Name":"987","TtlInMinutes":0}, {"Name":"654","TtlInMinutes":0}]}`},
	} {
		var got, want any
		out := p.Append(nil, &delimited.Values{ID: x.id, In: x.in, Out: x.out, Account: map[string]string{"PIDALIAS": "12345"}})
		if err := json.Unmarshal(out, &got); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if err := json.Unmarshal([]byte(x.want), &want); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%v\nwant %v", got, want)
		}
	}
}

func TestAFaultOfATemplateIsNamed(t *testing.T) {
	for template, word := range map[string]string{
		"<NOBODY>": "NOBODY", "<DP_UUID": "want >", "<SEGMENT_LIST:{seg|<seg.sid>": "no end", "<if(SEGMENT_LIST)>x": "without <endif>", "<endif>": "without <if",
		`<SEGMENT_LIST;separator="x>`: "quote", "<SEGMENT_LIST;format=\"x\">": "no option", "<if(PID)>x<endif>": "no list", "<SEGMENT_LIST:{seg|<other.sid>}>": "other.sid",
		strings.Repeat("x", 9000): "8192",
	} {
		if _, err := delimited.Parse(template); err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%.60s: %v", template, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"<DP_UUID>", `<SEGMENT_LIST:{seg|<seg.type>,<seg.sid>};separator=",">`, "<if(SEGMENT_LIST && REMOVED_SEGMENT_LIST)><COMMA><endif>", "a}b", "<TIMESTAMP;format=\"YYYY\">"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if p, err := delimited.Parse(s); err == nil {
			p.Append(nil, &delimited.Values{ID: "id", In: seg("1"), Out: seg("2"), Account: map[string]string{}})
		}
	})
}

var account = map[string]string{"PID": "1234", "DPID": "20914", "PIDALIAS": "XYZCustomer", "SYNC_TYPE": "S3"}

type row struct {
	id, segment string
	out         bool
}

func write(t interface{ Fatalf(string, ...any) }, f delivery.Format, info delivery.FileInfo, rows []row) []byte {
	e := f.New(info)
	var out []byte
	var err error
	for _, r := range rows {
		run := delivery.Run{Audience: taxonomy.AudienceID(r.segment), Remove: r.out, Minutes: 1440}
		if r.out {
			run.Minutes = 0
		}
		if out, err = e.Append(out, run, []string{r.id}); err != nil {
			t.Fatalf("append: %v", err)
		}
	}
	if out, err = e.Close(out); err != nil {
		t.Fatalf("close: %v", err)
	}
	return out
}

func TestTheExemplaryFilesAreWritten(t *testing.T) {
	rows := []row{{"59767559181262060060278870901087098252", "24", false}, {"59767559181262060060278870901087098252", "26", false}, {"59767559181262060060278870901087098252", "27", false}}
	leaves := append(slices.Clone(rows), row{rows[0].id, "25", true}, row{rows[0].id, "28", true})
	for name, x := range map[string]struct {
		f    delivery.Format
		rows []row
	}{
		"beeswax-add.txt": {delimited.Beeswax(), rows}, "adform.csv": {delimited.Adform(), rows}, "audience-manager.sync": {delimited.AudienceManager(), leaves},
	} {
		info := delivery.FileInfo{Created: adobes, Kind: delivery.Delta, Account: account}
		if name == "beeswax-add.txt" {
			info.Segments = map[taxonomy.AudienceID]string{"24": "stinger-24", "26": "stinger-26", "27": "stinger-27"}
		}
		out := string(write(t, x.f, info, x.rows))
		if strings.HasSuffix(name, ".sync") {
			out = string(gziptest.Plain(t, []byte(out)))
		}
		want, err := os.ReadFile("testdata/exemplary/" + name)
		if err != nil {
			t.Fatal(err)
		}
		if out != string(want) {
			t.Errorf("%s: %q", name, out)
		}
	}
}

// Adobe's published line says the same as ours: readers take one blank or more.
func TestAdobesPublishedLineSaysTheSame(t *testing.T) {
	published, err := os.ReadFile("testdata/supplemental/audience-manager-published.txt")
	if err != nil {
		t.Fatal(err)
	}
	ours, err := os.ReadFile("testdata/exemplary/audience-manager.sync")
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(strings.Fields(string(published)), strings.Fields(string(ours))) {
		t.Fatalf("%s\n%s", published, ours)
	}
}

// Whatever the rows, another reader of delimited text finds them again.
func TestEveryFileIsReadBackByAnotherReader(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var rows []row
		id := 0
		for range rapid.IntRange(0, 9).Draw(t, "visitors") {
			id += 1 + rapid.IntRange(0, 9).Draw(t, "gap")
			name := fmt.Sprintf("%04d%s", id, rapid.StringMatching(`[a-zA-Z0-9+/=._-]{0,20}`).Draw(t, "id"))
			for s := range rapid.IntRange(1, 5).Draw(t, "audiences") {
				rows = append(rows, row{name, fmt.Sprint("aud", s), false})
			}
		}
		for _, x := range []struct {
			f     delivery.Format
			comma rune
			inner string
		}{{delimited.Beeswax(), '|', ""}, {delimited.Adform(), '\t', ","}} {
			r := csv.NewReader(bytes.NewReader(write(t, x.f, delivery.FileInfo{}, rows)))
			r.Comma, r.FieldsPerRecord = x.comma, -1
			records, err := r.ReadAll()
			if err != nil {
				t.Fatal(err)
			}
			var got []row
			for _, rec := range records {
				segments := rec[1:]
				if x.inner != "" {
					segments = strings.Split(rec[1], x.inner)
				}
				for _, s := range segments {
					got = append(got, row{rec[0], s, false})
				}
			}
			if !slices.Equal(got, rows) {
				t.Fatalf("got %v\nwant %v", got, rows)
			}
		}
	})
}

// Names and control file are as Adobe publishes them, except that ours is JSON.
func TestAudienceManagersNamesAndControlFile(t *testing.T) {
	f := delimited.AudienceManager()
	info := delivery.FileInfo{Kind: delivery.Delta, Created: 1486140844000, Account: account}
	name := f.(delivery.Namer).Name
	if a, b, c := name(info, 0, 1), name(info, 0, 2), name(info, 1, 2); a != "S3_1234_20914_XYZCustomer_iter_1486140844000.sync.gz" || b != "S3_1234_20914_XYZCustomer_iter_1486140844000001.sync.gz" || c != "S3_1234_20914_XYZCustomer_iter_1486140844000002.sync.gz" {
		t.Fatal(a, b, c)
	}
	next := info
	next.Serial++
	if name(next, 0, 1) == name(info, 0, 1) {
		t.Error("two deliveries have one name")
	}
	parts := []delivery.Part{{Name: name(info, 0, 2), Bytes: 10, Lines: 3, MD5: md5.Sum([]byte("x"))}, {Name: name(info, 1, 2), Bytes: 5, Lines: 1}}
	n, body, err := f.(delivery.Controller).Control(info, parts)
	if err != nil || n != "S3_1234_20914_XYZCustomer_iter_1486140844000.info" {
		t.Fatal(n, err)
	}
	var v struct {
		Files  []map[string]any
		Totals map[string]any
	}
	if err := json.Unmarshal(body, &v); err != nil {
		t.Fatal(err)
	}
	sum := md5.Sum([]byte("x"))
	if fmt.Sprintf("%v %v %v %v", v.Totals["TotalByteSize"], v.Totals["TotalNumberFiles"], v.Totals["TotalNumberLines"], v.Totals["FileName"]) != "15 2 4 S3_1234_20914_XYZCustomer_iter_1486140844000.sync.gz" ||
		v.Files[0]["md5"] != hex.EncodeToString(sum[:]) || v.Files[1]["FileSequenceNumber"] != 2.0 || v.Files[0]["FileLineCount"] != 3.0 || v.Files[0]["FileByteSize"] != 10.0 {
		t.Fatalf("%s", body)
	}
}

func TestADestinationSaysWhatTheTemplateNeeds(t *testing.T) {
	d := &delivery.Destination{Audiences: []taxonomy.AudienceID{"cars"}}
	for name, x := range map[string]struct {
		f     delivery.Format
		words []string
	}{
		"beeswax": {delimited.Beeswax(), []string{"segments", "cars"}}, "adform": {delimited.Adform(), []string{"segments"}},
		"audience manager": {delimited.AudienceManager(), []string{"PID", "DPID", "SYNC_TYPE"}}, "own": {delimited.Own(), []string{"line"}},
	} {
		err := x.f.(delivery.Checker).Check(d)
		for _, w := range x.words {
			if err == nil || !strings.Contains(err.Error(), w) {
				t.Errorf("%s: %v does not name %s", name, err, w)
			}
		}
	}
	own := delimited.Own().(delivery.Checker)
	for line, ok := range map[string]bool{
		"<DP_UUID> <SEGMENT_LIST>": false, "<SEGMENT_LIST> <REMOVED_SEGMENT_LIST>": false, "<DP_UUID> <SEGMENT_LIST> <REMOVED_SEGMENT_LIST>": true,
	} {
		d.Account = map[string]string{"line": line}
		if err := own.Check(d); (err == nil) != ok {
			t.Errorf("%s: %v", line, err)
		}
	}
	d.Account["name"] = "x.txt"
	if err := own.Check(d); err == nil || !strings.Contains(err.Error(), "TIMESTAMP") {
		t.Error(err)
	}
}

func TestAnIDThatWouldEndAFieldIsRefusedAndNotShown(t *testing.T) {
	for _, f := range []delivery.Format{delimited.Beeswax(), delimited.Adform(), delimited.AudienceManager()} {
		for _, bad := range []string{"", "secret|\t ,", "secret\n"} {
			if _, err := f.New(delivery.FileInfo{Account: account}).Append(nil, delivery.Run{Audience: "cars", Minutes: 1}, []string{bad}); err == nil || strings.Contains(err.Error(), "secret") {
				t.Errorf("%q: %v", bad, err)
			}
		}
	}
}

// BenchmarkMembers prints members a second for each of the family, three
// audiences each.
func BenchmarkMembers(b *testing.B) {
	for name, f := range map[string]delivery.Format{"beeswax": delimited.Beeswax(), "adform": delimited.Adform(), "audience-manager": delimited.AudienceManager()} {
		b.Run(name, func(b *testing.B) {
			var took time.Duration
			id := []string{""}
			n := 0
			for b.Loop() {
				e := f.New(delivery.FileInfo{Account: account})
				out := make([]byte, 0, 1<<20)
				start := time.Now()
				for i := range 10_000 {
					id[0] = fmt.Sprintf("%032x", i)
					for _, a := range []taxonomy.AudienceID{"cars", "sport", "travel"} {
						out, _ = e.Append(out, delivery.Run{Audience: a, Minutes: 1440}, id)
					}
					if len(out) > 1<<19 {
						out = out[:0]
					}
				}
				e.Close(out)
				took += time.Since(start)
				n += 30_000
			}
			b.ReportMetric(float64(n)/took.Seconds()/1e6, "Mrows/s")
		})
	}
}
