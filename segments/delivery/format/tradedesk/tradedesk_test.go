package tradedesk_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/segments/delivery/format/tradedesk"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"pgregory.net/rapid"
)

var created = taxonomy.MillisOf(time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC))

// published compiles a schema of The Trade Desk's document. OpenAPI 3.0 says
// "nullable" where JSON Schema has a type of null.
func published(t *testing.T, name string) *jsonschema.Schema {
	t.Helper()
	file := "thirdparty"
	if strings.HasPrefix(name, "Advertiser") {
		file = "advertiser"
	}
	b, err := os.ReadFile("testdata/published/" + file + "-openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	var nulls func(any)
	nulls = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			if v["nullable"] == true {
				v["type"] = []any{v["type"], "null"}
			}
			for _, x := range v {
				nulls(x)
			}
		case []any:
			for _, x := range v {
				nulls(x)
			}
		}
	}
	nulls(doc)
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	if err := c.AddResource("https://ttd.test/api.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("https://ttd.test/api.json#/components/schemas/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func valid(s *jsonschema.Schema, body []byte) error {
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
	if err != nil {
		return err
	}
	return s.Validate(v)
}

func TestTheExemplaryBodyIsWritten(t *testing.T) {
	want, err := os.ReadFile("testdata/exemplary/delta-by-match.json")
	if err != nil {
		t.Fatal(err)
	}
	e := (tradedesk.Format{}).New(delivery.FileInfo{IDs: delivery.ByMatch, Created: created, Delay: 15, Account: map[string]string{"DataProviderId": "ebb"}})
	out, err := e.Append(nil, delivery.Run{Audience: "cars", Minutes: 43200}, []string{"0a1f6a3c-4c5e-4f0a-9d2b-6f1d2c3b4a59", "7b2e9d10-1f2a-4b3c-8d4e-5f60718293a4"})
	if err == nil {
		out, err = e.Append(out, delivery.Run{Audience: "cars", Remove: true}, []string{"c3d4e5f6-0718-4293-a4b5-c6d7e8f90a1b"})
	}
	if err == nil {
		out, err = e.Close(out)
	}
	if err != nil || string(out) != string(want) {
		t.Fatalf("%v\n%s\nwant\n%s", err, out, want)
	}
	if err := valid(published(t, "ThirdPartyDataRequest"), out); err != nil {
		t.Fatal(err)
	}
}

// Whatever the rows, The Trade Desk's document accepts the body, and another
// reader of JSON finds the same rows in it.
func TestEveryBodyIsWhatTheirDocumentAccepts(t *testing.T) {
	schema, advertisers := published(t, "ThirdPartyDataRequest"), published(t, "AdvertiserDataRequest")
	if valid(schema, []byte(`{"DataProviderId":"ebb","DataOrigins":[]}`)) == nil || valid(schema, []byte(`{"DataProviderId":"ebb","Items":[{"Data":[{"Name":"x","TtlInMinutes":"1"}]}]}`)) == nil {
		t.Fatal("the document accepts everything: the test means nothing")
	}
	type row struct {
		id, audience string
		life         int
	}
	rapid.Check(t, func(t *rapid.T) {
		info := delivery.FileInfo{IDs: rapid.SampledFrom([]delivery.IDs{delivery.ByMatch, delivery.ByPseudonym}).Draw(t, "ids"), Created: created, Delay: rapid.IntRange(0, 15).Draw(t, "delay"), Account: map[string]string{"DataProviderId": rapid.StringN(1, 9, -1).Draw(t, "provider")}}
		f := tradedesk.Format{Advertiser: rapid.Bool().Draw(t, "advertiser")}
		if f.Advertiser {
			info.IDs, info.Account["AdvertiserId"] = delivery.ByMatch, rapid.StringN(1, 9, -1).Draw(t, "advertiser's ID")
		}
		e := f.New(info)
		var out []byte
		var want []row
		for range rapid.IntRange(0, 4).Draw(t, "runs") {
			r := delivery.Run{Audience: taxonomy.AudienceID(rapid.StringMatching(`[a-z][a-z0-9_.-]{0,20}`).Draw(t, "audience")), Minutes: rapid.IntRange(1, 129_600).Draw(t, "minutes")}
			if rapid.Bool().Draw(t, "remove") {
				r.Remove, r.Minutes = true, 0
			}
			ids := rapid.SliceOfN(rapid.StringN(1, 9, -1), 0, 5).Draw(t, "ids")
			var err error
			if out, err = e.Append(out, r, ids); err != nil {
				t.Fatal(err)
			}
			for _, id := range ids {
				life := max(1, r.Minutes-info.Delay)
				if r.Remove {
					life = 0
				}
				want = append(want, row{strings.ToValidUTF8(id, "\ufffd"), string(r.Audience), life})
			}
		}
		out, err := e.Close(out)
		if err != nil {
			t.Fatal(err)
		}
		theirs := schema
		if f.Advertiser {
			theirs = advertisers
		}
		if err := valid(theirs, out); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		var body struct {
			Items []struct {
				TDID, DataProviderUserId string
				Data                     []struct {
					Name         string
					TtlInMinutes int
				}
			}
		}
		if err := json.Unmarshal(out, &body); err != nil {
			t.Fatal(err)
		}
		var got []row
		for _, i := range body.Items {
			id := i.TDID
			if info.IDs == delivery.ByPseudonym {
				id = i.DataProviderUserId
			}
			got = append(got, row{id, i.Data[0].Name, i.Data[0].TtlInMinutes})
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("got %v\nwant %v", got, want)
		}
	})
}

func TestAnAnswersFailedLinesAreCounted(t *testing.T) {
	b, err := os.ReadFile("testdata/supplemental/failed-lines.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := valid(published(t, "ThirdPartyDataServerResponse"), b); err != nil {
		t.Fatalf("the fake answer is none of theirs: %v", err)
	}
	v, err := tradedesk.Format{}.Judge(200, b)
	if err != nil || v.Rejected["UserNotMapped"] != 2 || v.Rejected["MissingUserId"] != 1 {
		t.Fatalf("%v, %v", v, err)
	}
	for _, all := range []string{"{}", `{"FailedLines":null}`, `{"FailedLines":[]}`} {
		if v, err := (tradedesk.Format{}).Judge(200, []byte(all)); err != nil || v.Rejected != nil {
			t.Errorf("%s: %v, %v", all, v, err)
		}
	}
	for _, garbage := range []string{"", "<html>", `{"FailedLines":7}`, `[`} {
		if _, err := (tradedesk.Format{}).Judge(200, []byte(garbage)); !errors.Is(err, retention.ErrUnknown) {
			t.Errorf("%q: %v", garbage, err)
		}
	}
}

func FuzzJudge(f *testing.F) {
	f.Add([]byte(`{"FailedLines":[{"ErrorCode":"Unknown"}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := tradedesk.Format{}.Judge(200, b)
		if err != nil && v.Rejected != nil {
			t.Fatal("an unknown answer with a verdict")
		}
	})
}

func TestADestinationNamesOurIDThere(t *testing.T) {
	d := &delivery.Destination{Account: map[string]string{"DataProviderId": "ebb"}, CredentialsFile: "ttd", Push: delivery.Push{Concurrency: 4}}
	if err := (tradedesk.Format{}).Check(d); err != nil {
		t.Fatal(err)
	}
	d.Push.Concurrency, d.CredentialsFile, d.Account = 5, "", nil
	err := tradedesk.Format{}.Check(d)
	for _, field := range []string{"account", "push.concurrency", "credentials_file"} {
		if err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%s is not named: %v", field, err)
		}
	}
}

func TestAnAdvertisersDataNamesTheAdvertiserAndGoesByTheirID(t *testing.T) {
	d := &delivery.Destination{CredentialsFile: "ttd", IDs: delivery.ByPseudonym}
	err := tradedesk.Format{Advertiser: true}.Check(d)
	for _, field := range []string{"account", "AdvertiserId", "ids"} {
		if err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%s is not named: %v", field, err)
		}
	}
	d.IDs, d.Account = delivery.ByMatch, map[string]string{"AdvertiserId": "adv"}
	if err := (tradedesk.Format{Advertiser: true}).Check(d); err != nil {
		t.Fatal(err)
	}
	out, err := tradedesk.Format{Advertiser: true}.New(delivery.FileInfo{IDs: delivery.ByMatch, Created: created, Account: d.Account, Segments: map[taxonomy.AudienceID]string{"cars": "Car fans"}}).Append(nil, delivery.Run{Audience: "cars", Minutes: 60}, []string{"id"})
	if err != nil || !strings.HasPrefix(string(out), `{"AdvertiserId":"adv","Items":[{"TDID":"id","Data":[{"Name":"Car fans",`) {
		t.Fatalf("%s, %v", out, err)
	}
}
