package consenttest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/ebb-dmp/ebb/retention/defs"
	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/gziptest"
	"github.com/ebb-dmp/ebb/taxonomy/iab"
)

// published reads a column of IAB's own file by the first, with nothing of the
// program's loader.
func published(t *testing.T, name string, column int) map[string]string {
	t.Helper()
	b := gziptest.File(t, os.DirFS("../../../../taxonomy/iab"), name+".tsv.gz")
	out := map[string]string{}
	for line := range strings.Lines(string(b)) {
		if c := strings.Split(strings.TrimRight(line, "\r\n"), "\t"); len(c) > column {
			out[strings.TrimSpace(c[0])] = strings.TrimSpace(c[column])
		}
	}
	return out
}

// A page tagged with a code of IAB Content 1.0 is, by the official mappings, about a
// category of Content 3.1 and one of Ad Product 2.0: from the browser through the
// edge to audiences and a partner's file. A code that 3.1 has no place for is in Ad
// Product alone, and is reported, as are the rows and defects of every file.
func TestAPageWithACodeOfContent10LandsInTheNewTaxonomies(t *testing.T) {
	w := newWorld(t, march, vendorList(t, ours(5)), nil)
	w.site(taxonomy.Site{ID: "shop", Origins: []string{origin}, Consent: taxonomy.ModeOptIn})
	x, err := iab.NewCrosswalk()
	if err != nil {
		t.Fatal(err)
	}
	codes := []string{"IAB1-1", "IAB2-1", "IAB17-12", "IAB12", "nothing"}
	wanted := map[string]bool{}
	for _, c := range codes {
		wanted["iab-"+strings.ToLower(c)] = true
	}
	for _, r := range x.Rules("iab", "prop.iab") {
		if wanted[r.ID] { // all 392 would be folded one after the other
			w.define(defs.Rule, r.ID, r)
		}
	}
	to20, toAd, in31 := published(t, "content-1.0-to-2.0", 3), published(t, "content-1.0-to-ad-product-2.0", 3), published(t, "content-3.1", 2)
	count := func(tax string, ids map[string]string, code string, n int) {
		t.Helper()
		id := ids[code]
		a := strings.ToLower(strings.NewReplacer("_", "-", ".", "-").Replace(tax + "-" + code))
		w.define(defs.Audience, a, audience.Definition{ID: taxonomy.AudienceID(a), Title: a, Kind: audience.KindRule,
			Rule: []byte(fmt.Sprintf(`{"trait":"c:%s/%s"}`, tax, id))})
		w.destination("d-"+a, 0, taxonomy.AudienceID(a))
		w.deliver()
		if got, want := w.counts(a, "d-"+a), fmt.Sprintf("d-%s %d", a, n); got != want {
			t.Errorf("%s is %s/%s: held %s, want %s", code, tax, id, got, want)
		}
	}
	for i, code := range codes {
		for range i + 1 {
			v := w.visitor()
			for range 2 { // with the cookie that the first brought
				if rec := v.do("POST", "/v1/e", fmt.Sprintf(`{"site":"shop","consent":{"granted":true},"events":[{"kind":"page","url":"https://shop.example/","props":{"iab":%q}}]}`, code)); rec.Code != 200 {
					t.Fatalf("%d %s", rec.Code, rec.Body)
				}
			}
		}
	}
	for i, code := range codes[:4] {
		_, there := in31[to20[code]]
		if there != (code != "IAB12") || toAd[code] == "" {
			t.Fatalf("%s is %q in 2.0, which 3.1 has: %v; %q in Ad Product", code, to20[code], there, toAd[code])
		}
		if there {
			count("iab-content-3.1", to20, code, i+1)
		}
		count("iab-ad-product-2.0", toAd, code, i+1)
	}

	rec := w.ask(tagserver.Private, "GET", "/api/v1/published-files", "", http.Header{"Authorization": {"Bearer " + w.key}})
	var report struct {
		Attribution string
		Items       []iab.Report
	}
	if err := json.Unmarshal(rec.Body.Bytes(), &report); err != nil || !strings.Contains(report.Attribution, "IAB Tech Lab") {
		t.Fatalf("%d %s", rec.Code, rec.Body)
	}
	rows, reported := map[string]int{}, false
	for _, r := range report.Items {
		rows[r.Of+" "+r.To] = r.Rows
		for _, l := range r.Lost {
			reported = reported || r.To == "iab-content-3.1" && l.Code == "IAB12" && strings.Contains(l.Why, to20["IAB12"])
		}
	}
	if !reported || rows["iab-content-3.1 "] != 704 || rows["iab-audience-1.1 "] != 1558 || rows["iab-ad-product-2.0 "] != 583 || rows["iab-content-1.0 iab-ad-product-2.0"] != 392 {
		t.Errorf("the report: %v, IAB12 among the lost: %v", rows, reported)
	}
}
