package api

import (
	"context"
	"strconv"
	"strings"
	"testing"

	"github.com/ebb-dmp/ebb/retention/defs"
)

func (s *stage) trail() (links []linkView) {
	s.t.Helper()
	for path := "/audit?limit=3"; path != ""; {
		var p page[linkView]
		s.must(200, "GET", path, "").into(s.t, &p)
		links = append(links, p.Items...)
		if path = ""; p.Next != "" {
			path = "/audit?limit=3&cursor=" + p.Next
		}
	}
	return links
}

// changesNothing are the POSTs that only ask.
var changesNothing = map[string]bool{"POST /estimates": true, "POST /reports/overlap": true, "POST /reports/profile": true, "POST /plan": true, "POST /audiences/{id}/dry-run": true, "POST /rules/{id}/dry-run": true,
	"POST /consent/explanations": true}

// Every operation that is described and changes something leaves an entry, with
// who, what, which object and the versions. A new one must say here how it is
// called, or be found.
func TestEveryWriteIsInTheAuditLog(t *testing.T) {
	s := newStage(t)
	s.furnish()
	s.must(201, "POST", "/keys", `{"id":"spare","role":"viewer"}`)
	s.must(201, "POST", "/taxonomies", `{"id":"spare","title":"S","categories":[{"id":"a","title":"A"}]}`)
	const form = "--b\r\nContent-Disposition: form-data; name=source\r\n\r\nown\r\n--b\r\nContent-Disposition: form-data; name=mapping\r\n\r\n" + mapping +
		"\r\n--b\r\nContent-Disposition: form-data; name=file; filename=x.csv\r\n\r\n" + file + "\r\n--b--\r\n"
	for _, id := range []string{"tree-1", "tree-2", "tree-3", "drafted", "begun"} {
		s.must(201, "POST", "/taxonomies", `{"id":"`+id+`","title":"S","categories":[{"id":"a","title":"A"},{"id":"b","title":"B"}]}`)
	}
	for _, id := range []string{"drafted", "begun"} {
		s.must(201, "POST", "/rules", `{"id":"`+id+`","then":["k:a=b"]}`)
		s.must(201, "PUT", "/rules/"+id+"/draft", `{"then":["k:a=c"]}`, "If-None-Match: *")
		s.must(201, "PUT", "/taxonomies/"+id+"/draft", `{"title":"D"}`, "If-None-Match: *")
	}
	type call struct{ path, body, want string } // what, kind, object, before>after
	set := `{"definitions":[{"kind":"source","definition":{"id":"planned","party":2}}]`
	var plan struct{ Hash string }
	calls := map[string]call{
		"POST /sites":                                         {"", `{"id":"n","origins":["https://n.example"],"source":"own","consent":"opt-in"}`, "make site n 0>1"},
		"PUT /sites/{id}":                                     {"n", `{"origins":["https://m.example"],"source":"own","consent":"opt-in"}`, "change site n 1>2"},
		"DELETE /sites/{id}":                                  {"n", "", "delete site n 2>0"},
		"POST /sources":                                       {"", `{"id":"n","party":1}`, "make source n 0>1"},
		"PUT /sources/{id}":                                   {"n", `{"party":2}`, "change source n 1>2"},
		"DELETE /sources/{id}":                                {"n", "", "delete source n 2>0"},
		"POST /taxonomies":                                    {"", `{"id":"n","title":"N"}`, "make taxonomy n 0>1"},
		"PUT /taxonomies/{id}":                                {"n", `{"title":"M"}`, "change taxonomy n 1>2"},
		"DELETE /taxonomies/{id}":                             {"n", "", "delete taxonomy n 2>0"},
		"PUT /taxonomies/{id}/categories/{category}":          {"spare", `{"title":"B"}`, "change taxonomy spare 1>2"},
		"DELETE /taxonomies/{id}/categories/{category}":       {"spare", "", "change taxonomy spare 2>3"},
		"POST /rules":                                         {"", `{"id":"n","when":[{"field":"path","op":"eq","value":"/"}],"then":["c:mine/b"]}`, "make rule n 0>1"},
		"PUT /rules/{id}":                                     {"n", `{"when":[{"field":"path","op":"eq","value":"/x"}],"then":["c:mine/b"]}`, "change rule n 1>2"},
		"DELETE /rules/{id}":                                  {"n", "", "delete rule n 2>0"},
		"POST /audiences":                                     {"", `{"id":"n","title":"N","kind":"rule","rule":{"any":true}}`, "make audience n 0>1"},
		"PUT /audiences/{id}":                                 {"n", `{"title":"M","kind":"rule","rule":{"any":true}}`, "change audience n 1>2"},
		"DELETE /audiences/{id}":                              {"n", "", "delete audience n 2>0"},
		"POST /lookalikes":                                    {"", `{"id":"l","title":"N","lookalike":{"seed":"bees","size":1000}}`, "make audience l 0>1"},
		"PUT /lookalikes/{id}":                                {"l", `{"title":"M","lookalike":{"seed":"bees","size":1000}}`, "change audience l 1>2"},
		"DELETE /lookalikes/{id}":                             {"l", "", "delete audience l 2>0"},
		"POST /destinations":                                  {"", `{"id":"n","title":"N"}`, "make destination n 0>1"},
		"PUT /destinations/{id}":                              {"n", `{"title":"M"}`, "change destination n 1>2"},
		"POST /destinations/{id}/key":                         {"n", "", "change destination n 2>3"},
		"DELETE /destinations/{id}":                           {"n", "", "delete destination n 3>0"},
		"POST /destinations/{id}/deliveries":                  {"dsp", "", "deliver destination dsp 0>0"},
		"POST /destinations/{id}/approval":                    {"dsp", "", "approval destination dsp 0>0"},
		"POST /destinations/{id}/replay":                      {"dsp", "", "replay destination dsp 0>0"},
		"POST /destinations/{id}/matches":                     {"dsp", "0123456789abcdef0123456789abcdef\tP1\n", "take matches in destination dsp 0>0"},
		"POST /keys":                                          {"", `{"id":"n","role":"viewer"}`, "make apikey n 0>1"},
		"PUT /keys/{id}":                                      {"n", `{"role":"analyst"}`, "change apikey n 1>2"},
		"DELETE /keys/{id}":                                   {"n", "", "delete apikey n 2>0"},
		"POST /generations":                                   {"", "", "build generation  0>0"},
		"POST /imports":                                       {"", form, "take in source own 0>0"},
		"POST /erasures":                                      {"", `{"space":"own:crm","id":"someone@example.com"}`, "erase visitor  0>0"},
		"POST /nightly-passes":                                {"", "", "run nightly-pass  0>0"},
		"POST /backups":                                       {"", "", "make backup  0>0"},
		"POST /apply":                                         {"", set + `,"hash":"HASH"}`, "make source planned 0>1"},
		"POST /sites/{id}/rollback":                           {"shop", `{"version":1}`, "change site shop 1>2"},
		"POST /sources/{id}/rollback":                         {"own", `{"version":1}`, "change source own 1>2"},
		"POST /taxonomies/{id}/rollback":                      {"mine", `{"version":1}`, "change taxonomy mine 1>2"},
		"POST /rules/{id}/rollback":                           {"r1", `{"version":1}`, "change rule r1 1>2"},
		"POST /audiences/{id}/rollback":                       {"bees", `{"version":1}`, "change audience bees 1>2"},
		"POST /destinations/{id}/rollback":                    {"dsp", `{"version":1}`, "change destination dsp 1>2"},
		"POST /taxonomies/{id}/categories/{category}/merge":   {"tree-1", `{"into":"a"}`, "change taxonomy tree-1 1>2"},
		"POST /taxonomies/{id}/categories/{category}/archive": {"tree-2", `{}`, "change taxonomy tree-2 1>2"},
		"POST /taxonomies/{id}/categories/{category}/restore": {"tree-3", `{}`, "change taxonomy tree-3 1>2"},
		"POST /taxonomies/{id}/draft/publish":                 {"drafted", "", "change taxonomy drafted 1>2"},
		"PUT /taxonomies/{id}/draft":                          {"begun", `{"title":"E"}`, "change draft-taxonomy begun 1>2"},
		"DELETE /taxonomies/{id}/draft":                       {"begun", "", "delete draft-taxonomy begun 2>0"},
		"POST /rules/{id}/draft/publish":                      {"drafted", "", "change rule drafted 1>2"},
		"PUT /rules/{id}/draft":                               {"begun", `{"then":["k:a=d"]}`, "change draft-rule begun 1>2"},
		"DELETE /rules/{id}/draft":                            {"begun", "", "delete draft-rule begun 2>0"},
		"POST /operations/{id}/cancel":                        {"1", "", "cancel operation 1 0>0"},
		"POST /operations/{id}/resume":                        {"1", "", "resume operation 1 0>0"},
	}
	s.must(201, "POST", "/generations", "")
	order := []string{"POST /generations", "POST /sites", "PUT /sites/{id}", "DELETE /sites/{id}", "POST /destinations", "PUT /destinations/{id}", "POST /destinations/{id}/key", "DELETE /destinations/{id}"}
	rank := map[string]int{"POST": 0, "PUT": 1, "DELETE": 2}
	done := map[string]bool{}
	for _, o := range order {
		done[o] = true
	}
	for pass := range 3 {
		for _, o := range s.operations() {
			name := o.method + " " + o.path
			if o.method == "GET" || done[name] || rank[o.method] != pass {
				continue
			}
			done[name] = true
			order = append(order, name)
		}
	}
	for _, name := range order {
		c, ok := calls[name]
		method, path, _ := strings.Cut(name, " ")
		if !ok {
			if !changesNothing[name] && !strings.HasSuffix(name, "/dry-run") {
				t.Errorf("%s changes something: say here how it is called and what the log then says", name)
			}
			continue
		}
		if name == "POST /apply" {
			s.must(200, "POST", "/plan", set+"}").into(t, &plan)
			c.body = strings.Replace(c.body, "HASH", plan.Hash, 1)
		}
		before := len(s.trail())
		headers := []string{"If-Match: *"}
		if name == "POST /imports" {
			headers = append(headers, "Content-Type: multipart/form-data; boundary=b")
		}
		o := operation{path: path}
		a := s.call(method, o.at(c.path), c.body, headers...)
		if a.code/100 != 2 {
			if strings.HasPrefix(path, "/operations") {
				continue // the stand-in has none; its own tests call it
			}
			t.Errorf("%s: %d %s", name, a.code, a.body)
			continue
		}
		links := s.trail()
		if len(links) == before {
			t.Errorf("%s leaves no entry", name)
			continue
		}
		found := false
		for _, l := range links[:len(links)-before] {
			got := l.What + " " + l.Kind + " " + l.Object + " " + strconv.FormatUint(l.Before, 10) + ">" + strconv.FormatUint(l.After, 10)
			found = found || got == c.want && l.Who == "admin" && l.Of == 0
		}
		if !found {
			t.Errorf("%s leaves %+v, want %q", name, links[:len(links)-before], c.want)
		}
	}
	var r defs.TrailReport
	s.must(200, "GET", "/audit/verification", "").into(t, &r)
	if len(r.Faults) != 0 || r.Last == 0 {
		t.Errorf("%+v", r)
	}
	all := s.must(200, "GET", "/audit?limit=1000", "")
	if strings.Contains(string(all.body), "someone") {
		t.Error("the log holds a visitor's ID")
	}
}

func TestWhatFailedAfterItsEntrySaysSo(t *testing.T) {
	s := newStage(t)
	s.eraseErr = errBoom
	s.must(500, "POST", "/erasures", `{"space":"own:crm","id":"x"}`)
	links := s.trail()
	if len(links) != 2 || links[0].What != "failed" || links[0].Of != links[1].Seq || links[1].What != "erase" {
		t.Errorf("%+v", links)
	}
}

// Nothing is done that cannot be written down.
func TestNothingIsDoneWithoutTheAuditLog(t *testing.T) {
	s := newStage(t, func(o *Options) { o.Trail = brokenTrail{o.Trail} })
	version := s.defs.Version()
	s.must(500, "POST", "/sources", `{"id":"n","party":1}`)
	s.must(500, "POST", "/erasures", `{"space":"own:crm","id":"x"}`)
	if s.defs.Version() != version || len(s.erased) != 0 {
		t.Error("it was done")
	}
}

type brokenTrail struct{ Trail }

func (brokenTrail) Append(context.Context, defs.Entry) (defs.Link, error) {
	return defs.Link{}, errBoom
}
