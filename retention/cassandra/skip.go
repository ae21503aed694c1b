package cassandra

import (
	"context"
	"errors"
	"fmt"

	"github.com/ebb-dmp/ebb/retention"
)

// ErrNoHole: there is nothing to skip.
var ErrNoHole = errors.New("there is no such hole")

// Skip gives up what is missing in a hole whose rows will not come (R5): it
// writes a row in its place that says so, and all followers go on behind it.
// What was in it counts as received and dropped{log_expired}, of no site, since
// nobody knows of which. Unless force is set only a hole that is Lost is skipped.
// Skipping it again finds no hole.
func (st *Store) Skip(ctx context.Context, h Hole, force bool) error {
	l := st.follower()
	fail := func(err error) error {
		return fmt.Errorf("skip records %d to %d of writer %s: %w", h.Next, h.Behind-1, h.Writer, err)
	}
	holes, err := l.holes(ctx, h.Group, retention.Position{h.Writer: h.Next - 1}, nil)
	if err != nil {
		return fail(err)
	}
	for _, x := range holes {
		if x.Writer != h.Writer || x.Next != h.Next {
			continue
		}
		if !x.Lost && !force {
			return fail(errors.New("its rows are younger than 7 days and may still come: start the node that wrote them; if it is gone for good, say so with --force"))
		}
		f := retention.Frame{Writer: x.Writer, Group: x.Group, First: x.Next, N: int(x.Behind - x.Next), Time: x.Since, Lost: true, Skipped: true,
			Counts: []retention.SiteCount{{N: x.Behind - x.Next}}}
		if err := l.writeRow(ctx, &f); err != nil {
			return fail(err)
		}
		return nil
	}
	return fail(ErrNoHole)
}
