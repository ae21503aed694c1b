package app

import (
	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/tagserver/partner"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// routes hands the edge the rows of its sub-folders, and who guards them.
func (a *App) routes(s *Server, o *tagserver.Options) {
	files := partner.Options{Files: a.deliverer, KeyHash: func(id taxonomy.DestinationID) (string, bool) {
		d, ok := a.catalog.Load().destinations[id]
		return d.KeyHash, ok
	}}
	o.Routes = append(o.Routes, partner.Routes(files)...)
	o.Routes = append(o.Routes, tagserver.OpsRoutes(tagserver.Ops{Metrics: a.registry, Ready: s.Ready})...)
	o.Guards = map[tagserver.Auth]tagserver.Guard{tagserver.AuthDestination: partner.Guard(files), tagserver.AuthAdmin: tagserver.KeyGuard(a.IsAdmin)}
}
