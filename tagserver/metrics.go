package tagserver

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/ebb-dmp/ebb/taxonomy"
)

// metrics are this package's, each with labels from closed lists: routes of the
// table, status classes, outcomes, reasons, and what became of a cookie. Never
// a site: sites are many, and P2 by site is in the log.
type metrics struct {
	requests *prometheus.CounterVec   // route, status
	seconds  *prometheus.HistogramVec // route
	events   *prometheus.CounterVec   // outcome, reason
	refused  *prometheus.CounterVec   // reason: whole requests
	cookies  *prometheus.CounterVec   // state
	signals  *prometheus.CounterVec   // signal, verdict
	appends  *prometheus.CounterVec   // result
	bots     *prometheus.CounterVec   // layer
	syncs    *prometheus.CounterVec   // way, result
	matches  *prometheus.CounterVec   // result
	panics   prometheus.Counter
	shed     prometheus.Counter
	server   prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	vec := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "ebb_tagserver_" + name, Help: help}, labels)
	}
	m := &metrics{
		requests: vec("requests_total", "Requests answered.", "route", "status"),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "ebb_tagserver_request_seconds", Help: "Time from the request's head to its answer.",
			Buckets: []float64{.001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2},
		}, []string{"route"}),
		events:  vec("events_total", "Events received, by what became of them at the edge. stored is: accepted into the log.", "outcome", "reason"),
		refused: vec("requests_refused_total", "Requests refused as a whole.", "reason"),
		cookies: vec("cookies_total", "ID cookies, by what became of them.", "state"),
		signals: vec("consent_signals_total", "Consent signals of requests, by what each says by itself: yes, no, unreadable, or nothing said.", "signal", "verdict"),
		appends: vec("appends_total", "Batches given to the log.", "result"),
		bots:    vec("bot_events_total", "Events flagged as a bot's, by the layer that did.", "layer"),
		syncs:   vec("syncs_total", "Syncs with destinations, by way and by what became of them: sent, or why nothing was said.", "way", "result"),
		matches: vec("matches_total", "Partners' IDs of visitors, by what became of them. ids_per_visitor, visitors_per_id and changes_per_day are caps that were met: somebody may be spoiling a partner's matches.", "result"),
		panics:  prometheus.NewCounter(prometheus.CounterOpts{Name: "ebb_tagserver_panics_total", Help: "Requests that panicked and were answered 500."}),
		shed:    prometheus.NewCounter(prometheus.CounterOpts{Name: "ebb_tagserver_connections_shed_total", Help: "Connections without a request that were closed because a listener held too many."}),
		server:  prometheus.NewCounter(prometheus.CounterOpts{Name: "ebb_tagserver_connection_errors_total", Help: "Faults of connections and TLS handshakes, which are counted and not logged: their text holds addresses."}),
	}
	if reg != nil {
		reg.MustRegister(m.requests, m.seconds, m.events, m.refused, m.cookies, m.signals, m.appends, m.bots, m.syncs, m.matches, m.shed, m.panics, m.server)
	}
	return m
}

func (m *metrics) says(sig taxonomy.Signal, v taxonomy.Verdict) {
	m.signals.WithLabelValues(sig.String(), v.String()).Inc()
}

// States of an ID cookie.
const (
	cookieNew       = "new"       // there was none; one was set
	cookieReturning = "returning" // ours
	cookieRotated   = "rotated"   // ours, and old enough for a new ID (R27)
	cookieInvalid   = "invalid"   // did not verify: tampered, foreign, over, or of a key that is gone
	cookieDouble    = "double"    // two of ours that differ
	cookieErased    = "erased"    // of an erased visitor (R25)
	cookieExpired   = "expired"   // taken away by a decision
	cookieLimited   = "limited"   // a new one was refused (R34)
)

// refuse counts events that were refused and keeps a sample of why.
func (s *Server) refuse(site taxonomy.SiteID, f *fault, now taxonomy.Millis, n int) {
	s.count(site, f.reason, n)
	if f.reason == taxonomy.ReasonConsent {
		return // as it should be: nothing to mend, and no sample
	}
	s.samples.add(site, Refusal{At: now, Code: string(f.reason), Where: f.field, Why: f.why, Sample: f.sample})
}

func (s *Server) count(site taxonomy.SiteID, r taxonomy.Reason, n int) {
	o := outcomeOf(r)
	s.tally.add(site, o, r, n)
	s.metrics.events.WithLabelValues(o.String(), string(r)).Add(float64(n))
}
