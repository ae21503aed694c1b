package app

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ebb-dmp/ebb/cmd/ebb/config"
	"github.com/ebb-dmp/ebb/retention/defs"
	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/keys"
	"github.com/ebb-dmp/ebb/taxonomy/onboard"
)

// R21, R33: at midnight definitions are read anew while a generation is built.
// Whatever comes last, pages answer with the newest generation.
func TestPagesNeverGoBackToAnOlderGeneration(t *testing.T) {
	ctx := context.Background()
	r, err := config.Load(config.Input{CheckSchedule: CheckSchedule})
	if err != nil {
		t.Fatal(err)
	}
	start := taxonomy.DayOf(time.Date(2026, 11, 25, 0, 0, 0, 0, time.UTC))
	var now atomic.Int64
	now.Store(int64(start.Start()))
	env := System()
	env.FS = vfs.NewMem()
	env.Now = func() time.Time { return taxonomy.Millis(now.Load()).Time() }
	ring, err := keys.Generate(env.Rand, start)
	if err != nil {
		t.Fatal(err)
	}
	a, _, err := Open(ctx, Options{Config: r.Config, Env: env, Keys: ring, Logger: slog.New(slog.DiscardHandler),
		SaveKeys: func(change func(*keys.Ring) (*keys.Ring, error)) (*keys.Ring, error) { return change(ring) }})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := a.Close(ctx); err != nil {
			t.Error(err)
		}
	}()
	define := func(kind defs.Kind, id string, body any) {
		if err := a.Define(ctx, kind, id, body); err != nil {
			t.Fatal(err)
		}
	}
	define(defs.Source, "web", taxonomy.Source{ID: "web", Title: "The site", Party: 1, Agreement: &taxonomy.Agreement{Uses: []string{"store", "profile"}}})
	for i := range 20 {
		id := fmt.Sprintf("all-%d", i)
		define(defs.Audience, id, audience.Definition{ID: taxonomy.AudienceID(id), Title: id, Kind: audience.KindRule, Rule: []byte(`{"any": true}`), Page: true})
	}
	mapping := onboard.Mapping{Visitor: "id", Space: "own:crm", Event: &onboard.EventMapping{Name: "seen"}}
	for i := range 40 {
		now.Store(int64((start + taxonomy.Day(i)).Start()))
		if _, err := a.Import(ctx, ImportRequest{Source: "web", Mapping: mapping, File: strings.NewReader(fmt.Sprintf("id\nvisitor %d\n", i))}); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := a.refresh(ctx); err != nil {
				t.Error(err)
			}
		})
		if _, err := a.Build(ctx); err != nil {
			t.Fatal(err)
		}
		wg.Wait()
		if got, want := a.seg.State().Pages.Generation().Number, a.current.Load().Number; got != want {
			t.Fatalf("pages answer with generation %d, the newest is %d", got, want)
		}
	}
}
