// Package retention is the life of data: recorded, kept, expired, erased, and
// therefore where it is kept.
//
// It declares five contracts (Log, Events, Keyed, Blobs, Leases). Packages
// retention/log and retention/embedded keep them on this machine,
// retention/cassandra in a cluster; retention/storetest is the suite that every
// engine passes, beside the obvious model in memory. Lifecycle (opening,
// closing) and forget.Holder stand beside the contracts, not in them.
//
// # Outcomes
//
// Every method that writes ends in one of three ways: nil means done and
// durable as the contract says; an error that is ErrUnknown (errors.Is) means
// that it may or may not have happened; every other error means that it did not
// happen. All writes are idempotent, so what is unknown is repeated.
//
// All methods are safe for concurrent use unless they say otherwise, and all
// honour their context.
package retention

import "errors"

// Errors of the contracts. Engines wrap them; callers use errors.Is.
var (
	// ErrUnknown: it may have happened. Repeat it.
	ErrUnknown = errors.New("outcome unknown")
	// ErrNotFound: there is no such thing, or its life is over.
	ErrNotFound = errors.New("not found")
	// ErrConflict: a compare-and-swap met another version.
	ErrConflict = errors.New("version conflict")
	// ErrFull: a configured bound is reached. Nothing was written.
	ErrFull = errors.New("full")
	// ErrClosed: the engine is closed, or has refused to go on after a failed
	// fsync; what was acknowledged is safe.
	ErrClosed = errors.New("closed")
	// ErrHeld: another holder has the lease.
	ErrHeld = errors.New("lease is held")
	// ErrCorrupt: bytes do not match their checksum or format.
	ErrCorrupt = errors.New("corrupt")
)
