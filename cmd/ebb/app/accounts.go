package app

import (
	"context"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/segments/fold"
	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// Account is what became of a site's events.
type Account = tagserver.Account

// Accounts returns the account of each site. Received and queued are measured,
// each from the log and the fold; none is computed as the rest of the others
// (R12).
func (a *App) Accounts(ctx context.Context) (map[taxonomy.SiteID]Account, error) {
	accounts := map[taxonomy.SiteID]Account{}
	sum := map[taxonomy.SiteID]fold.Tally{}
	positions := make([]retention.Position, len(a.fold.list))
	for i, g := range a.fold.list {
		var tallies map[taxonomy.SiteID]fold.Tally
		tallies, positions[i] = g.fold.Load().Accounts()
		for site, t := range tallies {
			sum[site] = addTally(sum[site], t)
		}
	}
	for site, t := range sum {
		accounts[site] = Account{Received: t.Received, Stored: t.Stored, Duplicate: t.Duplicate,
			Rejected: t.Rejected, Dropped: t.Dropped, Queued: t.Waiting}
	}
	for g := range taxonomy.Group(a.install.Groups) {
		ends, err := a.wal.End(ctx, g, positions[g])
		if err != nil {
			return nil, fmt.Errorf("read the log's ends: %w", err)
		}
		for _, e := range ends {
			for _, c := range e.Unfolded {
				acc := accounts[c.Site]
				acc.Received += c.N
				acc.Queued += c.N
				accounts[c.Site] = acc
			}
		}
	}
	return accounts, nil
}

// accountCollector shows the accounts as metrics.
type accountCollector struct {
	a                                                      *App
	received, stored, duplicate, rejected, dropped, queued *prometheus.Desc
}

func newAccountCollector(a *App) *accountCollector {
	d := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("ebb_events_"+name, help, append([]string{"site"}, labels...), nil)
	}
	return &accountCollector{
		a:         a,
		received:  d("received_total", "Events that are in the log or were refused before it."),
		stored:    d("stored_total", "Events that were folded."),
		duplicate: d("duplicate_total", "Copies of events that were received before."),
		rejected:  d("rejected_total", "Events that were malformed, too old or of no site.", "reason"),
		dropped:   d("dropped_total", "Events that policy refused.", "reason"),
		queued:    d("queued", "Events in the log that are not folded yet, or wait for their visitor to return."),
	}
}

// Describe is prometheus.Collector.
func (c *accountCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.received, c.stored, c.duplicate, c.rejected, c.dropped, c.queued} {
		ch <- d
	}
}

// Collect is prometheus.Collector.
func (c *accountCollector) Collect(ch chan<- prometheus.Metric) {
	accounts, err := c.a.Accounts(context.Background())
	if err != nil {
		ch <- prometheus.NewInvalidMetric(c.received, err)
		return
	}
	for site, a := range accounts {
		s := string(site)
		ch <- prometheus.MustNewConstMetric(c.received, prometheus.CounterValue, float64(a.Received), s)
		ch <- prometheus.MustNewConstMetric(c.stored, prometheus.CounterValue, float64(a.Stored), s)
		ch <- prometheus.MustNewConstMetric(c.duplicate, prometheus.CounterValue, float64(a.Duplicate), s)
		for why, n := range a.Rejected {
			ch <- prometheus.MustNewConstMetric(c.rejected, prometheus.CounterValue, float64(n), s, string(why))
		}
		for why, n := range a.Dropped {
			ch <- prometheus.MustNewConstMetric(c.dropped, prometheus.CounterValue, float64(n), s, string(why))
		}
		ch <- prometheus.MustNewConstMetric(c.queued, prometheus.GaugeValue, float64(a.Queued), s)
	}
}

// measure registers what the App itself knows.
func (a *App) measure() {
	a.registry.MustRegister(newAccountCollector(a),
		gauge("ebb_fold_clock_seconds", "The fold's clock, in seconds since 1970.", func() float64 { return float64(a.fold.Clock()) / 1000 }),
		gauge("ebb_rules_version", "Version of the rules that every answer is made by.", func() float64 { return float64(a.versionInForce()) }),
		gauge("ebb_refolds", "Re-folds that run or wait (changed rules, folded again over the stored days).", func() float64 { n, _ := a.refoldProgress(); return float64(n) }),
		gauge("ebb_refold_events_read", "Stored events that the re-fold under way has read; 0 if none is.", func() float64 { _, o := a.refoldProgress(); return float64(o.Read) }),
		gauge("ebb_refold_events_total", "About how many it has to read.", func() float64 { _, o := a.refoldProgress(); return float64(o.Total) }),
		gauge("ebb_checkpoint_number", "Number of the last committed checkpoint.", func() float64 { return float64(a.fold.View().Number()) }),
		gauge("ebb_generation_number", "Number of the published generation, 0 before the first.", func() float64 {
			if g := a.current.Load(); g != nil {
				return float64(g.Number)
			}
			return 0
		}),
		gauge("ebb_delivery_holds", "Destinations whose change is too large to go out by itself and waits for approval.", func() float64 { return float64(a.holds()) }),
		gauge("ebb_log_bytes", "What the log occupies on disk.", func() float64 { return float64(a.local().Usage().Bytes) }),
		gauge("ebb_log_quarantined", "Damaged ranges of the log that were put aside.", func() float64 { return float64(len(a.local().Problems())) }),
	)
}

func gauge(name, help string, f func() float64) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, f)
}
