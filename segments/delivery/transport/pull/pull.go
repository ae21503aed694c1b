// Package pull is the transport that sends nothing: the partner fetches the
// files that the manifest names. Published is acknowledged (R32), since a
// partner that missed a file finds it, or the full that replaced it.
package pull

import (
	"context"

	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// Transport is the pull transport. The zero value is ready.
type Transport struct{}

var _ delivery.Transport = Transport{}

// Facts: files are served, and a full replaces what the partner held.
func (Transport) Facts() delivery.TransportFacts { return delivery.TransportFacts{Served: true} }

// Check: there is nowhere to send to.
func (Transport) Check(d *delivery.Destination) error {
	if d.URL != "" {
		return taxonomy.Invalid("url", "is for transports that push; by pull the partner fetches")
	}
	return nil
}

// Send is not called: the head that names the file publishes it.
func (Transport) Send(context.Context, *delivery.Destination, *delivery.Chunk) error { return nil }
