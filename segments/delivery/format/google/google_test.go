package google_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/segments/delivery/format/google"
	"github.com/ebb-dmp/ebb/taxonomy"
	"pgregory.net/rapid"
)

var created = taxonomy.MillisOf(time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC))

// protoc is Google's own compiler, which decodes and encodes by a description.
func protoc(t *testing.T, what, message string, in []byte) []byte {
	t.Helper()
	tool, err := exec.LookPath("protoc")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("no protoc: apt-get install protobuf-compiler")
		}
		t.Skip("no protoc: apt-get install protobuf-compiler")
	}
	cmd := exec.Command(tool, "--"+what+"="+message, "-Itestdata/published", "upload.proto")
	cmd.Stdin = bytes.NewReader(in)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("protoc --%s: %v: %s", what, err, stderr.String())
	}
	return out
}

func info(ids delivery.IDs) delivery.FileInfo {
	return delivery.FileInfo{IDs: ids, Created: created, Delay: 15, Account: map[string]string{"life_days": "90"}, Segments: map[taxonomy.AudienceID]string{"cars": "111", "sport": "222"}}
}

// protoc decodes what we write into what the fixture says.
func TestProtocDecodesTheExemplaryRequest(t *testing.T) {
	e := google.Format{}.New(info(delivery.ByMatch))
	// 68 days: added 22 days ago to a list of 90.
	out, err := e.Append(nil, delivery.Run{Audience: "cars", Minutes: 68*1440 - 720}, []string{"CAESEHIV8HXNp0pFdHgi2rElMfk"})
	if err == nil {
		out, err = e.Append(out, delivery.Run{Audience: "sport", Remove: true}, []string{"CAESEHIV8HXNp0pFdHgi2rElMfk"})
	}
	if err == nil {
		out, err = e.Close(out)
	}
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile("testdata/exemplary/delta.textproto")
	if err != nil {
		t.Fatal(err)
	}
	if got := protoc(t, "decode", "UpdateUsersDataRequest", out); string(got) != string(want) {
		t.Fatalf("%s\nwant\n%s", got, want)
	}
	if back := protoc(t, "encode", "UpdateUsersDataRequest", want); len(back) != len(out) {
		t.Fatalf("protoc writes %d bytes, we %d", len(back), len(out))
	}
}

// Whatever the rows, protoc finds them; a member never ends after ours.
func TestProtocDecodesEveryRequest(t *testing.T) {
	n := 0
	rapid.Check(t, func(rt *rapid.T) {
		if n++; n > 25 {
			return // a process each
		}
		i := info(rapid.SampledFrom([]delivery.IDs{delivery.ByMatch, delivery.ByPseudonym}).Draw(rt, "ids"))
		life := rapid.IntRange(1, 540).Draw(rt, "life")
		i.Account["life_days"] = fmt.Sprint(life)
		e := google.Format{}.New(i)
		var out []byte
		var want strings.Builder
		for range rapid.IntRange(0, 5).Draw(rt, "runs") {
			r := delivery.Run{Audience: rapid.SampledFrom([]taxonomy.AudienceID{"cars", "sport"}).Draw(rt, "audience"), Minutes: rapid.IntRange(1, 129_600).Draw(rt, "minutes")}
			if rapid.Bool().Draw(rt, "remove") {
				r.Remove, r.Minutes = true, 0
			}
			ids := rapid.SliceOfN(rapid.StringMatching(`[A-Za-z0-9_-]{1,40}`), 0, 4).Draw(rt, "ids")
			var err error
			if out, err = e.Append(out, r, ids); err != nil {
				rt.Fatal(err)
			}
			now := int64(created / 1000)
			added := min(now, now+int64(r.Minutes)*60-int64(life)*86400)
			if !r.Remove && added+int64(life)*86400 > now+int64(r.Minutes)*60 && added != now {
				rt.Fatal("outlives ours")
			}
			for _, id := range ids {
				fmt.Fprintf(&want, "ops {\n  user_id: %q\n  user_list_id: %s\n", id, i.Segments[r.Audience])
				if r.Remove {
					want.WriteString("  delete: true\n")
				} else {
					fmt.Fprintf(&want, "  time_added_to_user_list: %d\n", added)
				}
				kind := "GOOGLE_USER_ID"
				if i.IDs == delivery.ByPseudonym {
					kind = "PARTNER_PROVIDED_ID"
				}
				fmt.Fprintf(&want, "  user_id_type: %s\n}\n", kind)
			}
		}
		out, err := e.Close(out)
		if err != nil {
			rt.Fatal(err)
		}
		want.WriteString("process_consent: true\n")
		text := string(protoc(t, "decode", "UpdateUsersDataRequest", out))
		if text != want.String() {
			rt.Fatalf("%s\nwant\n%s", text, want.String())
		}
	})
}

// Answers are written by protoc, not by us.
func TestAnAnswersErrorsAreCounted(t *testing.T) {
	text, err := os.ReadFile("testdata/supplemental/partial.textproto")
	if err != nil {
		t.Fatal(err)
	}
	v, err := google.Format{}.Judge(200, protoc(t, "encode", "UpdateUsersDataResponse", text))
	if err != nil || v.Rejected["UNKNOWN_ID"] != 2 || v.Rejected["BAD_COOKIE"] != 1 {
		t.Fatal(v, err)
	}
	for status, want := range map[string]error{"NO_ERROR": nil, "INTERNAL_ERROR": retention.ErrUnknown, "BAD_NETWORK_ID": delivery.ErrRefused, "PERMISSION_DENIED": delivery.ErrRefused} {
		if _, err := (google.Format{}).Judge(200, protoc(t, "encode", "UpdateUsersDataResponse", []byte("status: "+status))); !errors.Is(err, want) {
			t.Errorf("%s: %v", status, err)
		}
	}
	for _, garbage := range []string{"", "<html>", "\x08", "\x12\xff"} {
		if _, err := (google.Format{}).Judge(200, []byte(garbage)); !errors.Is(err, retention.ErrUnknown) {
			t.Errorf("%q: %v", garbage, err)
		}
	}
}

func FuzzJudge(f *testing.F) {
	f.Add([]byte{8, 1, 18, 2, 32, 21})
	f.Fuzz(func(t *testing.T, b []byte) {
		if v, err := (google.Format{}).Judge(200, b); err != nil && v.Rejected != nil {
			t.Fatal("an unknown answer with a verdict")
		}
	})
}

func TestADestinationNamesListsAndTheirLife(t *testing.T) {
	d := &delivery.Destination{Audiences: []taxonomy.AudienceID{"cars"}, Account: map[string]string{"data_source_id": "2000"}}
	err := google.Format{}.Check(d)
	for _, field := range []string{"life_days", "data_source_id", "segments"} {
		if err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%s is not named: %v", field, err)
		}
	}
	d.Account, d.Segments = map[string]string{"life_days": "90"}, map[taxonomy.AudienceID]string{"cars": "111"}
	if err := (google.Format{}).Check(d); err != nil {
		t.Fatal(err)
	}
}

// BenchmarkMembers prints rows a second.
func BenchmarkMembers(b *testing.B) {
	ids := make([]string, 1000)
	for i := range ids {
		ids[i] = fmt.Sprintf("CAESE%022d", i)
	}
	var took time.Duration
	for b.Loop() {
		start := time.Now()
		e := google.Format{}.New(info(delivery.ByMatch))
		out, _ := e.Append(make([]byte, 0, 1<<17), delivery.Run{Audience: "cars", Minutes: 1440}, ids)
		e.Close(out)
		took += time.Since(start)
	}
	b.ReportMetric(float64(b.N*1000)/took.Seconds()/1e6, "Mrows/s")
}
