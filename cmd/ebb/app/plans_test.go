package app_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/tagserver/api"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/tree"
)

// A plan in the background is one operation from its beginning to its end, with the
// progress of what it reads; it can be cancelled, fails as what it counts does, and
// ends with the App.
func TestAPlanInTheBackgroundIsOneOperation(t *testing.T) {
	now := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	a := open(t, &now)
	var deeds []deed
	for i := range 40 {
		deeds = append(deeds, deed{i % 7, now.Add(-time.Duration(i) * 24 * time.Hour), topics[i%len(topics)]})
	}
	shop(t, a, deeds)
	if _, err := a.Build(ctx); err != nil {
		t.Fatal(err)
	}
	is := words{categories: []tree.Category{{ID: "a", Title: "A"}}, given: map[string]string{"a": "a"}}
	snap := a.Definitions()
	next := snap.With(is.changes(snap), taxonomy.MillisOf(now))
	find := func(id string) (found api.Operation, plans int) {
		t.Helper()
		all, err := a.Operations(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range all {
			if o.Kind == api.KindPlan {
				plans++
			}
			if o.ID == id {
				found = o
			}
		}
		return found, plans
	}
	// over waits until an operation is over.
	over := func(id string) api.Operation {
		t.Helper()
		for {
			if o, _ := find(id); o.State != api.OperationRunning {
				return o
			}
			time.Sleep(time.Millisecond)
		}
	}
	begun, let := make(chan struct{}), make(chan struct{})
	o, err := a.BeginPlan(func(ctx context.Context) error {
		close(begun)
		<-let
		_, err := a.Preview(ctx, next)
		return err
	})
	if err != nil || o.State != api.OperationRunning || o.Kind != api.KindPlan || o.Started == nil {
		t.Fatalf("%+v, %v", o, err)
	}
	<-begun
	if got, _ := find(o.ID); got.State != api.OperationRunning {
		t.Errorf("%+v", got)
	}
	close(let)
	if got := over(o.ID); got.State != api.OperationDone || got.Read != uint64(len(deeds)) || got.Progress != 1 || got.Columns == 0 || got.Ended == nil {
		t.Errorf("%+v", got)
	}
	if _, n := find(o.ID); n != 1 {
		t.Errorf("it stands among %d operations", n)
	}
	waits := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	if o, err = a.BeginPlan(waits); err != nil {
		t.Fatal(err)
	}
	if err := a.CancelOperation(ctx, o.ID); err != nil {
		t.Fatal(err)
	}
	if got := over(o.ID); got.State != api.OperationCancelled || a.CancelOperation(ctx, o.ID) == nil {
		t.Errorf("%+v", got)
	}
	if o, err = a.BeginPlan(func(context.Context) error { return errors.New("boom") }); err != nil {
		t.Fatal(err)
	}
	if got := over(o.ID); got.State != api.OperationFailed {
		t.Errorf("%+v", got)
	}
	// The App waits for what it ends.
	ended := false
	if _, err = a.BeginPlan(func(ctx context.Context) error { err := waits(ctx); ended = true; return err }); err != nil {
		t.Fatal(err)
	}
	if err := a.Close(ctx); err != nil || !ended {
		t.Errorf("closed with %v, ended %v", err, ended)
	}
	if _, err := a.BeginPlan(waits); !errors.Is(err, retention.ErrClosed) {
		t.Errorf("after its end: %v", err)
	}
}
