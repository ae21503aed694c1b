package app

import (
	"github.com/ebb-dmp/ebb/cmd/ebb/config"
	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/tagserver"
)

// listeners are those that the node's roles open, in the order in which they
// start: the private one, with health and metrics, always.
func (a *App) listeners() []tagserver.Listener {
	out := []tagserver.Listener{tagserver.Private}
	if a.cfg.Has(config.RoleDeliver) {
		out = append(out, tagserver.Partner)
	}
	if a.cfg.Has(config.RoleEdge) {
		out = append(out, tagserver.Public)
	}
	return out
}

// ack is how far an event must have come before its request is answered.
func (a *App) ack() retention.Ack {
	if a.cfg.Ack == "quorum" {
		return retention.AckQuorum
	}
	return retention.AckLocal
}

// eraseAck is how far an erasure must have come to be answered as done (R24).
func (a *App) eraseAck() retention.Ack {
	if a.cluster != nil {
		return retention.AckQuorum
	}
	return retention.AckLocal
}
