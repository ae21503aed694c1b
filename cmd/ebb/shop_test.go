package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/ebb-dmp/ebb/cmd/ebb/app"
	"github.com/ebb-dmp/ebb/cmd/ebb/config"
	"github.com/ebb-dmp/ebb/cmd/ebb/keyfile"
	"github.com/ebb-dmp/ebb/retention/defs"
	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/keys"
	"github.com/ebb-dmp/ebb/taxonomy/rules"
	"github.com/ebb-dmp/ebb/taxonomy/tree"
)

// shopOrigin is where the shop's pages are.
const shopOrigin = "http://localhost:8090"

// definitions of a small shop.
var shopDefinitions = []struct {
	kind defs.Kind
	id   string
	body any
}{
	{defs.Source, "crm", taxonomy.Source{ID: "crm", Title: "Customers", Party: 1, Agreement: &taxonomy.Agreement{Uses: []string{"store", "profile", "insight", "training", "export"}}}},
	{defs.Source, "web", taxonomy.Source{ID: "web", Title: "Our pages", Party: 1}},
	{defs.Site, "shop", taxonomy.Site{ID: "shop", Title: "Shop", Origins: []string{shopOrigin}, Source: "web", Consent: taxonomy.ModeOptIn}},
	{defs.Taxonomy, "shop", tree.Taxonomy{ID: "shop", Title: "Shop", Categories: []tree.Category{{ID: "tea", Title: "Tea"}, {ID: "milk", Title: "Milk"}, {ID: "cake", Title: "Cake"}}}},
	{defs.Rule, "bought", rules.Rule{ID: "bought", When: []rules.Condition{{Field: "kind", Op: "eq", Value: "fact"}}, Then: []string{"c:shop/{what}"}}},
	{defs.Audience, "tea", audience.Definition{ID: "tea", Title: "Bought tea", Kind: audience.KindRule, Rule: []byte(`{"trait":"c:shop/tea"}`)}},
	{defs.Audience, "like-tea", audience.Definition{ID: "like-tea", Title: "Like those who bought tea", Kind: audience.KindLookalike, Lookalike: &audience.LookalikeSpec{Seed: "tea", Size: 60}}},
	{defs.Destination, "dsp", delivery.Destination{ID: "dsp", Title: "A DSP", Audiences: []taxonomy.AudienceID{"tea"}, Floor: 1, KeyHash: delivery.HashKey("ebbp_x")}},
}

// makeShop makes an installation with the shop's definitions and returns its
// admin key.
func makeShop(data string) (adminKey string, err error) {
	r, err := config.Load(config.Input{Flags: map[string]string{"data": data}, CheckSchedule: app.CheckSchedule})
	if err != nil {
		return "", err
	}
	ring, err := keys.Generate(rand.Reader, taxonomy.DayOf(time.Now()))
	if err == nil {
		ring, err = ring.WithSpace(rand.Reader, "own:crm")
	}
	if err == nil {
		err = keyfile.Create(r.KeysFile(), ring)
	}
	if err != nil {
		return "", err
	}
	ctx := context.Background()
	a, adminKey, err := app.Open(ctx, app.Options{Config: r.Config, Env: app.System(), Keys: ring, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return "", err
	}
	for _, d := range shopDefinitions {
		if err := a.Define(ctx, d.kind, d.id, d.body); err != nil {
			return "", err
		}
	}
	return adminKey, a.Close(ctx)
}

// freePort takes a port below those that the system gives to whoever asks for any:
// between its end and the server's start nobody gets it by chance.
func freePort() (l net.Listener, err error) {
	for range 100 {
		if l, err = net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 10_000+mathrand.IntN(20_000))); err == nil {
			break
		}
	}
	return l, err
}

// freePorts returns settings for three listeners on ports that are free now, and
// schedules that never come while a test runs.
func freePorts() (env []string, private string, err error) {
	for _, name := range []string{"PUBLIC", "PARTNER", "PRIVATE"} {
		l, err := freePort()
		if err != nil {
			return nil, "", err
		}
		defer l.Close() // all three are held until all are known
		private = l.Addr().String()
		env = append(env, "EBB_LISTEN_"+name+"="+private)
	}
	for _, s := range []string{"BUILD", "DELIVER", "RETENTION"} {
		env = append(env, "EBB_"+s+"_SCHEDULE=0 5 29 2 *")
	}
	return append(env, "EBB_EXPORT_FLOOR=1", "EBB_MESSAGES_LEVEL=warn"), private, nil
}

// shop makes an installation with a shop's definitions, takes free ports for its
// listeners, and sets ADMIN to its admin key: shop DATA.
func shop(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: shop DATA")
	}
	key, err := makeShop(ts.MkAbs(args[0]))
	ts.Check(err)
	ts.Setenv("ADMIN", key)
	env, private, err := freePorts()
	ts.Check(err)
	for _, e := range append(env, "PRIVATE="+private) {
		k, v, _ := strings.Cut(e, "=")
		ts.Setenv(k, v)
	}
}

// purchases writes a file of purchases, one for each visitor from first on, of tea
// unless it says of what: purchases FILE FIRST N [WHAT].
func purchases(ts *testscript.TestScript, neg bool, args []string) {
	var first, n int
	what := "tea"
	if len(args) == 4 {
		what, args = args[3], args[:3]
	}
	if len(args) != 3 || neg {
		ts.Fatalf("usage: purchases FILE FIRST N [WHAT]")
	}
	if _, err := fmt.Sscan(args[1]+" "+args[2], &first, &n); err != nil {
		ts.Fatalf("usage: purchases FILE FIRST N")
	}
	var b strings.Builder
	b.WriteString("who,day,what\n")
	day := time.Now().UTC().Format(time.DateOnly)
	for i := first; i < first+n; i++ {
		fmt.Fprintf(&b, "visitor-%d,%s,%s\n", i, day, what)
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(b.String()), 0o600))
}

// ready waits until the server of the script is ready for traffic.
func ready(ts *testscript.TestScript, neg bool, _ []string) {
	ts.Check(waitReady(ts.Getenv("PRIVATE")))
}

// waitReady asks until the server says that it is ready. It gives up after a
// time that no start takes.
func waitReady(private string) error {
	for end := time.Now().Add(time.Minute); ; {
		res, err := http.Get("http://" + private + "/readyz")
		if err == nil {
			res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return nil
			}
			err = fmt.Errorf("%s", res.Status)
		}
		if time.Now().After(end) {
			return fmt.Errorf("the server did not get ready: %w", err)
		}
		time.Sleep(20 * time.Millisecond) // between two questions; nothing is concluded from it
	}
}

// flip changes one bit of a file: flip FILE OFFSET.
func flip(ts *testscript.TestScript, neg bool, args []string) {
	var at int
	if len(args) != 2 || neg {
		ts.Fatalf("usage: flip FILE OFFSET")
	}
	if _, err := fmt.Sscan(args[1], &at); err != nil {
		ts.Fatalf("usage: flip FILE OFFSET")
	}
	b, err := os.ReadFile(ts.MkAbs(args[0]))
	ts.Check(err)
	b[at] ^= 1
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), b, 0o600))
}

// field sets a variable to a field of the JSON document in a file: field FILE
// NAME VARIABLE.
func field(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 3 || neg {
		ts.Fatalf("usage: field FILE NAME VARIABLE")
	}
	var doc map[string]any
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[0])), &doc))
	ts.Setenv(args[2], fmt.Sprint(doc[args[1]]))
}
