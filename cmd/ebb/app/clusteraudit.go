package app

import (
	"context"

	"github.com/ebb-dmp/ebb/retention/cassandra"
	"github.com/ebb-dmp/ebb/retention/forget"
)

// auditRows bounds how many rows of each table of a cluster an audit of the App
// looks at, since pages of the console ask for one. `ebb retention audit` with the
// data files at hand looks at more.
const auditRows = 2000

// auditCluster adds what the tables of the cluster hold to an audit. Files are of
// the machines on which Cassandra runs, so they are not looked at here.
func (a *App) auditCluster(ctx context.Context, r *forget.Report) {
	if a.cluster == nil {
		return
	}
	tables, err := a.cluster.store.Audit(ctx, cassandra.AuditOptions{Rows: auditRows})
	if err != nil {
		r.OK = false
		r.Places = append(r.Places, forget.Place{Name: "cassandra", Error: err.Error()})
		return
	}
	for _, p := range tables.Places() {
		r.OK = r.OK && p.OK
		r.Places = append(r.Places, p)
	}
}
