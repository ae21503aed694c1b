package simtest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ebb-dmp/ebb/cmd/ebb/app"
	"github.com/ebb-dmp/ebb/cmd/ebb/keyfile"
	"github.com/ebb-dmp/ebb/retention/defs"
	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/tagserver/api"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/keys"
	"github.com/ebb-dmp/ebb/taxonomy/onboard"
	"github.com/ebb-dmp/ebb/taxonomy/rules"
)

// callAPI asks the running program as an operator.
func (in *installation) callAPI(key, method, path string, body, into any) error {
	var r io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return err
		}
		r = bytes.NewReader(b)
	}
	q, err := http.NewRequestWithContext(ctx, method, "http://"+in.addr[2]+"/api/v1"+path, r)
	if err != nil {
		return err
	}
	q.Header.Set("Authorization", "Bearer "+key)
	q.Header.Set("Content-Type", "application/json")
	if method == http.MethodPut {
		q.Header.Set("If-Match", "*")
	}
	res, err := http.DefaultClient.Do(q)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	if res.StatusCode >= 300 {
		return fmt.Errorf("%s %s: %s: %s", method, path, res.Status, b)
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(b, into)
}

// R18: kill −9 of the real program at random moments of a re-fold, each time another;
// the next start takes it up where a checkpoint has it, and in the end every count
// is that of the file.
func TestLongKillMinus9DuringARefold(t *testing.T) {
	if os.Getenv("EBB_LONG") == "" {
		t.Skip("set EBB_LONG=1")
	}
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("EBB_SEED"); s != "" {
		seed, _ = strconv.ParseUint(s, 10, 64)
	}
	t.Logf("EBB_SEED=%d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	in := install(t)
	const events, visitors = 60_000, 5_000
	prefixes := []string{"a", "b", "c", "d"}

	// What visitors did, by the first letter of what they looked at.
	var file strings.Builder
	file.WriteString("who,when,what\n")
	looked := map[string]map[int]bool{}
	today := taxonomy.DayOf(time.Now())
	for i := range events {
		what := fmt.Sprintf("%s%d", prefixes[rng.IntN(len(prefixes))], rng.IntN(50))
		who := rng.IntN(visitors)
		if looked[what] == nil {
			looked[what] = map[int]bool{}
		}
		looked[what][who] = true
		fmt.Fprintf(&file, "v%d,%s,%s\n", who, (today - taxonomy.Day(i%80) - 1).Start().Time().Format("2006-01-02 15:04:05"), what)
	}
	var err error
	if in.ring, err = in.ring.WithSpace(app.System().Rand, "own:crm"); err == nil {
		err = keyfile.Update(in.data+".keys.json", func(*keys.Ring) (*keys.Ring, error) { return in.ring, nil })
	}
	if err != nil {
		t.Fatal(err)
	}
	a := in.open()
	if err := a.Define(ctx, defs.Source, "crm", taxonomy.Source{ID: "crm", Title: "CRM", Party: 1, Agreement: &taxonomy.Agreement{Uses: []string{"store", "profile"}}}); err != nil {
		t.Fatal(err)
	}
	rule := func(prefix string) rules.Rule {
		return rules.Rule{ID: "look", When: []rules.Condition{{Field: "prop.what", Op: "prefix", Value: prefix}}, Then: []string{"k:look=yes", "k:saw={what}"}}
	}
	if err := a.Define(ctx, defs.Rule, "look", rule("nothing")); err != nil {
		t.Fatal(err)
	}
	rec, err := a.Import(ctx, app.ImportRequest{Source: "crm", File: strings.NewReader(file.String()), Mapping: onboard.Mapping{Visitor: "who", Space: "own:crm", Time: "when", Layout: "2006-01-02 15:04:05",
		Event: &onboard.EventMapping{Name: "look", Props: []onboard.Column{{Column: "what"}}}}})
	if err != nil || rec.Stored != events {
		t.Fatalf("%+v, %v", rec, err)
	}
	if _, err := a.Build(ctx); err != nil {
		t.Fatal(err)
	}
	key := in.key
	if err := a.Close(ctx); err != nil {
		t.Fatal(err)
	}

	resumed, kills := 0, 0
	in.serve()
	for ; kills < 40 && resumed < 5; kills++ {
		if err := in.callAPI(key, http.MethodPut, "/rules/look", rule(prefixes[kills%len(prefixes)]), nil); err != nil {
			t.Fatal(err)
		}
		<-time.After(time.Duration(rng.IntN(500)) * time.Millisecond) // the random moment
		in.kill()
		in.serve()
		var list struct {
			Items []api.Operation `json:"items"`
		}
		if err := in.callAPI(key, http.MethodGet, "/operations", nil, &list); err != nil {
			t.Fatal(err)
		}
		for _, o := range list.Items {
			if o.State == api.OperationRunning && o.Read > 0 {
				resumed++
			}
		}
	}
	t.Logf("%d kills, %d re-folds taken up in their middle", kills, resumed)
	if resumed == 0 {
		t.Error("no kill met a re-fold in its middle")
	}

	last := prefixes[(kills-1)%len(prefixes)]
	deadline := time.Now().Add(2 * time.Minute)
	for {
		var list struct {
			Items []api.Operation `json:"items"`
		}
		if err := in.callAPI(key, http.MethodGet, "/operations", nil, &list); err != nil {
			t.Fatal(err)
		}
		if len(list.Items) > 0 && list.Items[0].State == api.OperationDone {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("not over: %+v", list.Items)
		}
		<-time.After(20 * time.Millisecond) // between two questions; nothing depends on it
	}
	in.balance()
	if err := in.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := in.cmd.Wait(); err != nil {
		t.Fatalf("SIGTERM: %v\n%s", err, in.messages.String())
	}

	want := map[string]int{}
	all := map[int]bool{}
	for what, who := range looked {
		if strings.HasPrefix(what, last) {
			want["k:saw="+what] = len(who)
			for v := range who {
				all[v] = true
			}
		}
	}
	want["k:look=yes"] = len(all)
	a = in.open()
	defer a.Close(ctx)
	got := visitorsOf(t, a, "k:")
	if len(got) != len(want) {
		t.Errorf("%d columns, want %d", len(got), len(want))
	}
	for c, n := range want {
		if got[c] != n {
			t.Errorf("%s: %d visitors, want %d", c, got[c], n)
		}
	}
}

// visitorsOf counts the visitors of each column whose trait begins so.
func visitorsOf(t *testing.T, a *app.App, prefix string) map[string]int {
	t.Helper()
	v, out := a.View(), map[string]int{}
	today := v.Clock().Day()
	err := v.Columns(today.Oldest(), today, func(c taxonomy.Column, _ uint64) {
		if !strings.HasPrefix(string(c.Trait), prefix) {
			return
		}
		op := index.Operand{Kind: index.OpCount, Columns: []taxonomy.Column{c}, From: today.Oldest(), To: today, Min: 1}
		for s := range v.Shards() {
			for b := range v.Blocks(s) {
				var words index.Words
				n, err := v.Leaf(s, b, &op, &words)
				if err != nil {
					t.Fatal(err)
				}
				out[string(c.Trait)] += n
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}
