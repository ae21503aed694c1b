// Package pull is the transport that sends nothing: the partner fetches the
// files that the manifest names. Published is acknowledged (R32), since a
// partner that missed a file finds it, or the full that replaced it.
package pull

import (
	"context"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/segments/delivery"
)

// Transport is the pull transport. The zero value is ready.
type Transport struct{}

var _ delivery.Transport = Transport{}

// Facts: a full replaces what the partner held, and files are served.
func (Transport) Facts() delivery.TransportFacts {
	return delivery.TransportFacts{FullReplaces: true, Served: true}
}

// Send has nothing to do: the head that names the file publishes it.
func (Transport) Send(context.Context, *delivery.Destination, delivery.File, retention.BlobReader) error {
	return nil
}
