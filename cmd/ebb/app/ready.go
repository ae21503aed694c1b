package app

import (
	"context"
	"fmt"
	"time"

	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// warnKeysDays is how long before the last store key's quarter ends readyz warns
// (R30).
const warnKeysDays = 30

// lagLimit is how far the fold may be behind the wall clock before the server
// says that it is not ready: pages would get stale answers.
const lagLimit = 2 * taxonomy.Minute

// Ready says why the server should get no traffic, and what calls for an
// operator.
func (s *Server) Ready(ctx context.Context) (faults, warnings []string) {
	if !s.ready.Load() {
		faults = append(faults, "the server is starting or stopping")
	}
	select {
	case <-s.store.Failed():
		faults = append(faults, "the store cannot go on; mend the disk and restart")
	default:
	}
	if err := s.local().Err(); err != nil {
		faults = append(faults, fmt.Sprintf("the log takes no more: %v; mend the disk and restart", err))
	}
	if u := s.local().Usage(); u.Full || u.Bytes >= u.MaxBytes {
		faults = append(faults, "the log is full: events are refused with 503; free disk space, or find out why folding stands still")
	}
	if lag := s.env.millis() - s.fold.Clock(); s.fold.Clock() > 0 && lag > lagLimit {
		warnings = append(warnings, fmt.Sprintf("the fold is %d s behind the clock; look at ebb_events_queued", lag/taxonomy.Second))
	}
	for _, p := range s.local().Problems() {
		if !p.Torn {
			warnings = append(warnings, "a damaged part of the log is quarantined; see the console, and copy it away before the next night if you want to look at it")
			break
		}
	}
	if s.cluster != nil {
		f, w := s.clusterReady()
		faults, warnings = append(faults, f...), append(warnings, w...)
	}
	warnings = append(warnings, s.matchWarnings()...)
	warnings = append(warnings, s.holdWarnings(ctx)...)
	if d := s.keys.Load().ExtendDue(s.env.millis().Day()); d <= warnKeysDays {
		warnings = append(warnings, fmt.Sprintf("store keys end in %d days; run `ebb keys extend` and copy the file to all nodes", d))
	}
	return faults, warnings
}

// matchWarnings says where caps on what is learnt of partners' IDs were met.
func (s *Server) matchWarnings() (out []string) {
	if s.edge == nil {
		return nil
	}
	for _, m := range s.edge.MatchAlarms() {
		out = append(out, fmt.Sprintf("destination %s: %d matches were refused on %s, since the cap %s was met: somebody may be spoiling its matches; see ebb_tagserver_matches_total, and raise sync.%s only if it is the partner itself",
			m.Destination, m.Refused, m.Day, m.Cap, m.Cap))
	}
	return out
}

// holdWarnings says which destinations' changes wait for approval.
func (s *Server) holdWarnings(ctx context.Context) (out []string) {
	s.eachHold(ctx, func(id taxonomy.DestinationID, h *delivery.Hold) {
		out = append(out, fmt.Sprintf("destination %s: a change of %d %% of the last full waits; look at its audiences, then approve it in the console or by `ebb deliver approve %s`", id, h.Percent(), id))
	})
	return out
}

// holdsWithin is how long a scrape waits for the store.
const holdsWithin = 2 * time.Second

// holds is how many destinations' changes wait, as far as the store can tell.
func (a *App) holds() (n int) {
	ctx, cancel := context.WithTimeout(context.Background(), holdsWithin)
	defer cancel()
	a.eachHold(ctx, func(taxonomy.DestinationID, *delivery.Hold) { n++ })
	return n
}

func (a *App) eachHold(ctx context.Context, fn func(taxonomy.DestinationID, *delivery.Hold)) {
	if a.deliverer == nil {
		return
	}
	for _, d := range sorted(a.catalog.Load().destinations) {
		if h, err := a.deliverer.Waiting(ctx, d.ID); err == nil && h != nil {
			fn(d.ID, h)
		}
	}
}
