package app

import (
	"context"
	"errors"
	"time"
)

// nightAfter is how long after the nightly pass begins the other nodes do their
// part: it needs what the pass has done.
const nightAfter = 10 * time.Minute

// nodeNight is a node's own part of the nightly pass, on nodes that do not lead:
// its log goes into a new file, so that the bytes of what is covered can go; of
// groups that it builds the visitors are forgotten whom the pass has erased
// everywhere else, and their files are written anew.
func (a *App) nodeNight(ctx context.Context) error {
	if a.leads() || !a.wait(ctx, nightAfter) || a.leads() {
		return ctx.Err()
	}
	return a.nodeNightNow(ctx)
}

func (a *App) nodeNightNow(ctx context.Context) error {
	var errs []error
	for _, g := range a.fold.list {
		errs = append(errs, a.local().Rotate(ctx, g.n))
		if !g.builds() {
			errs = append(errs, a.follow(ctx, g)) // which trims this node's log
		}
	}
	if len(a.fold.built()) > 0 {
		gone, err := a.eraser.Passed(ctx)
		errs = append(errs, err)
		a.fold.Forget(gone)
		_, err = a.fold.Rewrite(ctx)
		errs = append(errs, err)
	}
	return errors.Join(append(errs, a.local().ExpireQuarantine((a.env.millis().Day() - 1).Start()))...)
}
