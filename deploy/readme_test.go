package deploy

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/ebb-dmp/ebb/cmd/ebb/app"
	"github.com/ebb-dmp/ebb/cmd/ebb/config"
	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/keys"
)

// The README's calls of the API do what it says, in its order.
func TestTheReadmesCallsWork(t *testing.T) {
	for _, tool := range []string{"bash", "curl"} {
		if _, err := exec.LookPath(tool); err != nil {
			if os.Getenv("CI") != "" {
				t.Fatalf("no %s here; deploy/test installs it", tool)
			}
			t.Skipf("no %s here; get it with: apt-get install %s", tool, tool)
		}
	}
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	// A call is a line that begins with `api`, with the lines that go on below it.
	calls := regexp.MustCompile(`(?m)^    api http.*(?:\n      .*)*`).FindAllString(string(readme), -1)
	if len(calls) < 7 {
		t.Fatalf("found %d calls; has the README another form now?", len(calls))
	}

	s, admin := started(t)
	for _, call := range calls {
		call = strings.ReplaceAll(call, "127.0.0.1:8082", s.Address(tagserver.Private))
		cmd := exec.Command("bash", "-c", `api() { curl -sS --fail-with-body -H "Authorization: Bearer $ADMIN" -H 'Content-Type: application/json' "$@"; }
`+call)
		cmd.Env = append(os.Environ(), "ADMIN="+admin)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Run(); err != nil {
			t.Fatalf("%s\n%v: %s", strings.TrimSpace(call), err, out.Bytes())
		}
		if strings.Contains(call, "/destinations") && !strings.Contains(out.String(), `"key":"ebbp_`) {
			t.Errorf("creating a destination printed no key: %s", out.Bytes())
		}
	}
}

// started opens and serves an App in a folder of its own, with a key for it.
func started(t *testing.T) (s *app.Server, admin string) {
	t.Helper()
	ctx := context.Background()
	r, err := config.Load(config.Input{CheckSchedule: app.CheckSchedule, Flags: map[string]string{"data": t.TempDir() + "/data",
		"listen.public": "127.0.0.1:0", "listen.partner": "127.0.0.1:0", "listen.private": "127.0.0.1:0"}})
	if err != nil {
		t.Fatal(err)
	}
	env := app.System()
	ring, err := keys.Generate(env.Rand, taxonomy.DayOf(env.Now()))
	if err != nil {
		t.Fatal(err)
	}
	a, admin, err := app.Open(ctx, app.Options{Config: r.Config, Env: env, Keys: ring, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	s, err = a.Serve(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return s, admin
}
