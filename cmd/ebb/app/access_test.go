package app

import (
	"context"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ebb-dmp/ebb/cmd/ebb/config"
	"github.com/ebb-dmp/ebb/retention/defs"
	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/tagserver/api"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/keys"
)

// An installation that was made when there was one admin key, in its settings,
// keeps it: as an API key, which can be revoked.
func TestTheFirstKeyBecomesAnAPIKey(t *testing.T) {
	ctx := context.Background()
	r, err := config.Load(config.Input{CheckSchedule: CheckSchedule})
	if err != nil {
		t.Fatal(err)
	}
	day := taxonomy.DayOf(time.Date(2026, 11, 25, 0, 0, 0, 0, time.UTC))
	env := System()
	env.FS = vfs.NewMem()
	env.Now = func() time.Time { return day.Start().Time() }
	ring, err := keys.Generate(env.Rand, day)
	if err != nil {
		t.Fatal(err)
	}
	open := func() (*App, string) {
		t.Helper()
		a, key, err := Open(ctx, Options{Config: r.Config, Env: env, Keys: ring, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		return a, key
	}
	a, first := open()
	if p := a.callers.Who(delivery.HashKey(first)); !strings.HasPrefix(first, api.KeyPrefix) || p == nil || p.ID != firstKeyID || !p.Has("keys:write") || !p.Whole() {
		t.Fatalf("the first key %q is %+v", first, p)
	}
	// As an older program left it.
	old, hash, err := api.NewKey(env.Rand)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.defs.Delete(ctx, defs.APIKey, firstKeyID, 1); err != nil {
		t.Fatal(err)
	}
	doc, _ := a.defs.Snapshot().Get(defs.Setting, installationID)
	var fields map[string]any
	if err := json.Unmarshal(doc.Body, &fields); err != nil {
		t.Fatal(err)
	}
	if _, is := fields["admin_key"]; is {
		t.Error("the hash stands in the settings still")
	}
	fields["admin_key"] = hash
	b, err := json.Marshal(fields)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.defs.Put(ctx, defs.Setting, installationID, b, doc.Version); err != nil {
		t.Fatal(err)
	}
	if err := a.Close(ctx); err != nil {
		t.Fatal(err)
	}
	for range 2 { // and once more, when it has moved
		a, key := open()
		if key != "" || a.callers.Who(delivery.HashKey(old)) == nil || a.callers.Who(delivery.HashKey(first)) != nil {
			t.Errorf("a new key %q; the old one is %+v, the one before %+v", key, a.callers.Who(delivery.HashKey(old)), a.callers.Who(delivery.HashKey(first)))
		}
		if err := a.Close(ctx); err != nil {
			t.Fatal(err)
		}
	}
}
