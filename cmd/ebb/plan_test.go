package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ebb-dmp/ebb/cmd/ebb/app"
	"github.com/ebb-dmp/ebb/cmd/ebb/cli"
	"github.com/ebb-dmp/ebb/cmd/ebb/client"
	"github.com/ebb-dmp/ebb/cmd/ebb/config"
	"github.com/ebb-dmp/ebb/cmd/ebb/demo"
	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// running starts the demo without its live stream: the same data, and what is
// asked about it stays.
func running(t *testing.T) *demo.Demo {
	t.Helper()
	d, err := demo.Start(context.Background(), demo.Options{Env: app.System(), Dir: t.TempDir(), Logger: slog.New(slog.DiscardHandler), Quiet: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return d
}

// command runs a command against the demo, and returns its answer.
func command(t *testing.T, d *demo.Demo, cmd interface{ Run(*cli.Context) error }) ([]byte, error) {
	t.Helper()
	var out bytes.Buffer
	flags := map[string]string{"data": filepath.Join(t.TempDir(), "elsewhere"), "admin_key": d.Info.AdminKey, "listen.private": strings.TrimPrefix(d.Info.Private, "http://")}
	err := cmd.Run(&cli.Context{Context: context.Background(), Stdout: &out, Stderr: io.Discard, Output: cli.JSON, Now: time.Now, Rand: rand.Reader,
		Load: func() (*config.Resolved, error) {
			return config.Load(config.Input{Flags: flags, CheckSchedule: app.CheckSchedule})
		}})
	return out.Bytes(), err
}

func planned(t *testing.T, d *demo.Demo, o planOptions) (p planAnswer) {
	t.Helper()
	out, err := command(t, d, planCommand{o})
	if err != nil && err != cli.ErrDrift {
		t.Fatal(err)
	}
	if jerr := json.Unmarshal(out, &p); jerr != nil || (err == cli.ErrDrift) != (len(p.Changes) > 0) {
		t.Fatalf("%s: %v, %v", out, jerr, err)
	}
	return p
}

func write(t *testing.T, dir, name, content string) {
	t.Helper()
	name = filepath.Join(dir, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// One demo serves both: the examples are planned only.
func TestPlansOfTheDemo(t *testing.T) {
	d := running(t)
	t.Run("the example destinations are taken", func(t *testing.T) { examplesAreTaken(t, d) })
	t.Run("a plan's numbers are what apply does", func(t *testing.T) { plansNumbersAreWhatApplyDoes(t, d) })
	t.Run("a draft is saved, counted and published in the console", func(t *testing.T) { draftInTheConsole(t, d) })
}

// The whole set of the demo goes through files and nothing changes; a plan's
// numbers are then what apply does: what a build counts, and what a destination
// holds.
func plansNumbersAreWhatApplyDoes(t *testing.T, d *demo.Demo) {
	dir := filepath.Join(t.TempDir(), "definitions")
	if _, err := command(t, d, exportCommand{Folder: dir}); err != nil {
		t.Fatal(err)
	}
	if p := planned(t, d, planOptions{dir, true}); len(p.Changes) != 0 || p.Same < 14 {
		t.Fatalf("what was exported would change %+v, %d are the same", p.Changes, p.Same)
	}
	// Written again it is the same, byte for byte.
	again := filepath.Join(t.TempDir(), "again")
	if _, err := command(t, d, exportCommand{Folder: again}); err != nil {
		t.Fatal(err)
	}
	sameFiles(t, dir, again)

	// A changed rule, of which others depend; a new audience; a lookalike of another
	// size; a destination that gets more; a source that is withdrawn.
	write(t, dir, "audiences/grocery-regulars.yaml", "audience:\n  id: grocery-regulars\n  title: Grocery regulars\n  kind: rule\n  rule_text: c:products/grocery in 30d on 2+ days\n")
	write(t, dir, "more.yaml", `audience: {id: everybody, title: Everybody, kind: rule, rule_text: any}
---
audience: {id: rest, title: The rest, kind: rule, rule_text: any and not audience grocery-regulars}
---
audience: {id: like-more, title: Like them, kind: lookalike, lookalike: {seed: grocery-regulars, size: 700}}
`)
	one := filepath.Join(dir, "destinations", "fake-dsp-one.yaml")
	b, err := os.ReadFile(one)
	if err != nil {
		t.Fatal(err)
	}
	write(t, dir, "destinations/fake-dsp-one.yaml", strings.Replace(string(b), "audiences:\n", "audiences:\n    - everybody\n    - rest\n    - like-more\n", 1))
	p := planned(t, d, planOptions{dir, false})
	if len(p.Changes) != 5 || len(p.Reach.Audiences) < 4 || len(p.Reach.Destinations) != 2 && len(p.Reach.Destinations) != 1 {
		t.Fatalf("the plan: %+v", p)
	}
	if _, err := command(t, d, applyCommand{planOptions{dir, false}, p.Hash}); err != nil {
		t.Fatal(err)
	}
	if p := planned(t, d, planOptions{dir, false}); len(p.Changes) != 0 {
		t.Fatalf("after it %+v", p.Changes)
	}
	ctx := context.Background()
	built, err := d.Build(ctx)
	if err != nil {
		t.Fatal(err)
	}
	counts := map[string]uint64{}
	for _, e := range built.Generation.Audiences {
		counts[string(e.ID)] = e.Count
	}
	seen := 0
	for _, a := range p.Reach.Audiences {
		if a.After == nil {
			continue
		}
		seen++
		if got := counts[a.ID]; a.After.Shown != shownAs(got) {
			t.Errorf("%s: planned %s, built %d", a.ID, a.After.Shown, got)
		}
	}
	for _, want := range []string{"grocery-regulars", "everybody", "rest", "like-more"} {
		if !slices.ContainsFunc(p.Reach.Audiences, func(a planReach) bool { return a.ID == want }) {
			t.Errorf("the plan does not tell of %s", want)
		}
	}
	if seen < 4 {
		t.Errorf("%d audiences were compared", seen)
	}
	// What the destination holds after the next delivery.
	for _, dest := range p.Reach.Destinations {
		done, err := d.Deliver(ctx, taxonomy.DestinationID(dest.ID))
		if err != nil {
			t.Fatal(err)
		}
		if done.Hold != nil { // a change as large as this waits until somebody approves
			if _, err := command(t, d, deliverApprove{dest.ID}); err != nil {
				t.Fatal(err)
			}
			if _, err := d.Build(ctx); err != nil {
				t.Fatal(err)
			}
			if done, err = d.Deliver(ctx, taxonomy.DestinationID(dest.ID)); err != nil {
				t.Fatal(err)
			}
		}
		var adds uint64
		for _, a := range dest.Audiences {
			n, err := strconv.ParseUint(a.Added.Shown, 10, 64)
			if err != nil {
				adds = 0
				break // too few to be told
			}
			adds += n
		}
		if done.Result != delivery.ResultDelta && done.Result != delivery.ResultFull || adds > 0 && done.Result == delivery.ResultDelta && done.Adds < adds {
			t.Errorf("to %s: planned %d adds, delivered %+v", dest.ID, adds, done)
		}
	}
	// Back to what was exported, which deletes what came: with the flag only.
	if p := planned(t, d, planOptions{again, false}); slices.ContainsFunc(p.Changes, func(c planChange) bool { return c.What == "delete" }) {
		t.Errorf("a deletion without the flag: %+v", p.Changes)
	}
	if _, err := command(t, d, applyCommand{planOptions{again, true}, ""}); err != nil {
		t.Fatal(err)
	}
	if p := planned(t, d, planOptions{again, true}); len(p.Changes) != 0 {
		t.Errorf("back where it was: %+v", p.Changes)
	}
}

func shownAs(n uint64) string {
	if n < 50 {
		return "<50"
	}
	return strconv.FormatUint(n, 10)
}

func sameFiles(t *testing.T, a, b string) {
	t.Helper()
	read := func(dir string) map[string]string {
		m := map[string]string{}
		err := fs.WalkDir(os.DirFS(dir), ".", func(name string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return err
			}
			b, err := os.ReadFile(filepath.Join(dir, name))
			m[name] = string(b)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	x, y := read(a), read(b)
	if len(x) < 14 || len(x) != len(y) {
		t.Errorf("%d files, and %d", len(x), len(y))
	}
	for name := range x {
		if x[name] != y[name] {
			t.Errorf("%s is\n%s\nand\n%s", name, x[name], y[name])
		}
	}
}

// schemathesis makes requests of the API's own description, sound ones and broken
// ones, and reads every answer with it: none is a 5xx, none is not described, and
// what is described as refused is refused.
func TestLongSchemathesisFindsNothing(t *testing.T) {
	st, err := filepath.Abs("../../.cache/venv/bin/schemathesis")
	if err == nil {
		_, err = os.Stat(st)
	}
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("no schemathesis here; `deploy/test tools` installs it into .cache/venv")
		}
		t.Skip("no schemathesis here; `deploy/test tools` installs it into .cache/venv")
	}
	d := running(t)
	seconds := os.Getenv("EBB_TEST_SCHEMATHESIS")
	if seconds == "" {
		seconds = "75"
	}
	cmd := exec.Command(st, "run", d.Info.Private+"/api/v1/openapi.json", "--header", "Authorization: Bearer "+d.Info.AdminKey,
		"--checks", "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,response_schema_conformance,negative_data_rejection,ignored_auth,unsupported_method,use_after_free",
		"--phases", "coverage,fuzzing,stateful", "--max-time", seconds, "--seed", "1", "--suppress-health-check", "all", "--warnings", "off", "--continue-on-failure", "--no-color", "--output-sanitize", "true")
	cmd.Dir = t.TempDir() // it keeps what it found there
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	tail := out[max(0, len(out)-600):]
	if !bytes.Contains(out, []byte("No issues found")) || bytes.Contains(out, []byte("Tested: 0")) {
		t.Errorf("%s", out)
	}
	t.Logf("%s", tail)
	// Whatever it sent, the log of what it changed is whole.
	cl := client.New(d.Info.Private, d.Info.AdminKey, http.DefaultClient)
	var r struct {
		Entries uint64
		Faults  []any
	}
	if _, err := cl.Get(context.Background(), "/api/v1/audit/verification", &r); err != nil || len(r.Faults) != 0 || r.Entries == 0 {
		t.Errorf("%+v %v", r, err)
	}
}

// Who wants to deliver copies from the examples: there is one of each format, and
// all are taken as they stand.
func examplesAreTaken(t *testing.T, d *demo.Demo) {
	const dir, table = "../../deploy/examples/destinations", "../../segments/delivery/format/README.md"
	examples, err := os.ReadFile(filepath.Join(dir, "destinations.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	formats, err := os.ReadFile(table)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(string(formats)) {
		if !strings.HasPrefix(line, "| `") {
			continue
		}
		for i, name := range strings.Split(strings.SplitN(line, "|", 3)[1], "`") {
			if i%2 == 0 {
				continue
			}
			n++
			if !strings.Contains(string(examples), "\n  format: "+name+"\n") {
				t.Errorf("no example has the format %s", name)
			}
		}
	}
	if n < 13 {
		t.Fatalf("%d formats found in %s", n, table)
	}
	p := planned(t, d, planOptions{dir, false})
	if len(p.Changes) != n+1 {
		t.Errorf("%d changes for %d formats and an audience", len(p.Changes), n)
	}
}
