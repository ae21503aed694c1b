package tagserver

import (
	"slices"
	"strings"
	"testing"

	"github.com/ebb-dmp/ebb/taxonomy"
)

// rich decides that who came by a campaign and pays is rich.
type rich struct{ asked *int }

func (rich) QueryKeys(s taxonomy.SiteID) []string {
	if s == "shop" {
		return []string{"cat", "utm_source", "campaign"}
	}
	return nil
}

func (r rich) Evaluate(_ taxonomy.SiteID, full, kept *taxonomy.Event, dst []taxonomy.Trait) []taxonomy.Trait {
	*r.asked++
	if plan, _ := full.Prop("p_plan"); plan == "goldcanary" {
		dst = append(dst, "k:plan=paid")
	}
	if strings.Contains(full.URL, "campaign=springcanary") && !strings.Contains(kept.URL, "campaign") {
		dst = append(dst, "c:t/spring")
	}
	return dst
}

// DESIGN: keys that are evaluated and never stored are classified at the edge, and
// only their traits are recorded. The harness holds that no canary is anywhere.
func TestOfKeysThatAreNeverStoredOnlyTheTraitsAreRecorded(t *testing.T) {
	asked := 0
	e := newEdge(t, func(o *Options) { o.Evaluator = rich{&asked} })
	e.canaries = []string{"goldcanary", "springcanary"}
	b := e.browser()
	b.post("shop", 1, `{"site":"shop","consent":{"granted":true},"events":[{"url":"https://shop.example/p?cat=red&campaign=springcanary","props":{"p_plan":"goldcanary","sku":"a"}}]}`)
	r := e.last(taxonomy.RecordEvent)
	if !slices.Equal(r.Event.Traits, []taxonomy.Trait{"k:plan=paid", "c:t/spring"}) || r.Event.URL != "https://shop.example/p?cat=red" ||
		!slices.Equal(r.Event.Props, []taxonomy.Prop{{Key: "sku", Value: "a"}}) {
		t.Errorf("recorded %+v", r.Event)
	}
	// An event without such keys costs nothing.
	b.post("shop", 1, `{"site":"shop","consent":{"granted":true},"events":[{"url":"https://shop.example/p?cat=red","props":{"sku":"a"}}]}`)
	if asked != 1 {
		t.Errorf("asked %d times", asked)
	}
	// The firewall comes first: what is personal is refused, not evaluated, and an
	// address with it is kept without it.
	w := b.post("shop", 1, `{"site":"shop","consent":{"granted":true},"events":[{"url":"https://shop.example/p","props":{"p_plan":"jane.canary@mail.example"}}]}`)
	if !strings.Contains(w.Body.String(), `"code":"pii"`) || asked != 1 {
		t.Errorf("asked %d times; answer %s", asked, w.Body)
	}
	b.post("shop", 1, `{"site":"shop","consent":{"granted":true},"events":[{"url":"https://shop.example/p?campaign=jane.canary@mail.example","props":{}}]}`)
	if r := e.last(taxonomy.RecordEvent); asked != 1 || r.Event.URL != "https://shop.example/p" || len(r.Event.Traits) > 0 {
		t.Errorf("asked %d times, recorded %+v", asked, r.Event)
	}
}

// Without rules that ask for them they go all the same.
func TestKeysThatAreNeverStoredGoWithoutRulesToo(t *testing.T) {
	e := newEdge(t)
	e.canaries = []string{"goldcanary"}
	e.browser().post("shop", 1, `{"site":"shop","consent":{"granted":true},"events":[{"url":"https://shop.example/p","props":{"p_plan":"goldcanary"}}]}`)
	if r := e.last(taxonomy.RecordEvent); len(r.Event.Props) > 0 || len(r.Event.Traits) > 0 {
		t.Errorf("recorded %+v", r.Event)
	}
}
