// Package apptest gives tests of the whole of Ebb an App in memory.
package apptest

import (
	"context"
	"log/slog"
	"maps"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ebb-dmp/ebb/cmd/ebb/app"
	"github.com/ebb-dmp/ebb/cmd/ebb/config"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/keys"
)

// Never is a schedule that does not come while a test runs: what is built is
// built when the test says so.
const Never = "0 0 29 2 *"

// Place is where Apps live, one after the other: a disk in memory, a clock that
// the test holds, and keys. Its fields may be changed between two Apps; the keys
// at any time, by any goroutine.
type Place struct {
	FS  vfs.FS
	Now func() time.Time
	// Settings are those of the command line.
	Settings map[string]string
	Keys     atomic.Pointer[keys.Ring]
	// Change, if set, makes another world or other options of an App.
	Change func(*app.Options)
}

// New is an empty place with new keys. Settings are added to what makes an App
// wait for the test: listeners at free ports and schedules that never come.
func New(t testing.TB, now func() time.Time, settings map[string]string) *Place {
	t.Helper()
	p := &Place{FS: vfs.NewMem(), Now: now, Settings: map[string]string{
		"listen.public": "127.0.0.1:0", "listen.partner": "127.0.0.1:0", "listen.private": "127.0.0.1:0",
		"build.schedule": Never, "deliver.schedule": Never, "retention.schedule": Never,
	}}
	maps.Copy(p.Settings, settings)
	ring, err := keys.Generate(app.System().Rand, taxonomy.DayOf(now()))
	if err != nil {
		t.Fatal(err)
	}
	p.Keys.Store(ring)
	return p
}

// Options are those of an App in the place. Messages go nowhere.
func (p *Place) Options(t testing.TB) app.Options {
	t.Helper()
	r, err := config.Load(config.Input{CheckSchedule: app.CheckSchedule, Flags: p.Settings})
	if err != nil {
		t.Fatal(err)
	}
	o := app.Options{Config: r.Config, Env: app.System(), Keys: p.Keys.Load(), Logger: slog.New(slog.DiscardHandler), Init: r.Cluster(),
		SaveKeys: func(change func(*keys.Ring) (*keys.Ring, error)) (*keys.Ring, error) {
			ring, err := change(p.Keys.Load())
			if err == nil {
				p.Keys.Store(ring)
			}
			return ring, err
		}}
	o.Env.FS, o.Env.Now = p.FS, p.Now
	if p.Change != nil {
		p.Change(&o)
	}
	return o
}

// Open opens an App, which the caller closes. The key of the administrator comes
// with the first App of a place only.
func (p *Place) Open(t testing.TB) (a *app.App, adminKey string) {
	t.Helper()
	a, adminKey, err := app.Open(context.Background(), p.Options(t))
	if err != nil {
		t.Fatal(err)
	}
	return a, adminKey
}

// App is Open; the App is closed at the end of the test.
func (p *Place) App(t testing.TB) *app.App {
	t.Helper()
	a, _ := p.Open(t)
	t.Cleanup(func() { Close(t, a) })
	return a
}

// Close closes an App.
func Close(t testing.TB, a *app.App) {
	t.Helper()
	if err := a.Close(context.Background()); err != nil {
		t.Error(err)
	}
}
