package app

import (
	"context"
	"crypto/rand"
	"io"
	"net"
	"net/netip"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ebb-dmp/ebb/retention/log"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// Env is the world: everything that a program reaches outside itself. It is made
// once and its fields are handed down one by one; a test makes another world.
type Env struct {
	// Now is the wall clock.
	Now func() time.Time
	// After is a timer.
	After func(time.Duration) <-chan time.Time
	// Rand is a cryptographic source.
	Rand io.Reader
	// FS holds the data directory.
	FS log.FS
	// Listen opens a listener, Dial a connection.
	Listen func(network, address string) (net.Listener, error)
	Dial   func(ctx context.Context, network, address string) (net.Conn, error)
	// Resolve returns the addresses of a host's name; nil: there is no name
	// service.
	Resolve func(ctx context.Context, host string) ([]netip.Addr, error)
}

// System is the world as it is.
func System() Env {
	return Env{
		Now:    time.Now,
		After:  time.After,
		Rand:   rand.Reader,
		FS:     vfs.Default,
		Listen: net.Listen,
		Dial:   (&net.Dialer{}).DialContext,
		Resolve: func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		},
	}
}

// millis is the wall clock in the unit of records.
func (e *Env) millis() taxonomy.Millis { return taxonomy.MillisOf(e.Now()) }
