package delivery

import (
	"context"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// Format is how rows become bytes that a receiver understands. One format is
// one folder below format/, with the partner's specification beside it.
//
// A format does no I/O and has no clock: the same rows in the same order give
// the same bytes. It is safe for concurrent use; an Encoder is not.
type Format interface {
	// Facts says what the receiver demands. They never change.
	Facts() FormatFacts
	// New begins a file.
	New(FileInfo) Encoder
}

// Encoder writes one file. It is handed runs of rows rather than rows: rows
// that differ in nothing but the ID stand together, which lets a format group
// them in one element, or compress what is the same in all of them for nothing.
type Encoder interface {
	// Append appends the bytes of rows to dst, as far as they are ready, and
	// returns it. The IDs are sorted and must not be kept. An error names what
	// the format cannot say (never an ID); the file is then given up.
	Append(dst []byte, run Run, ids []string) ([]byte, error)
	// Close appends what is left, and ends the file.
	Close(dst []byte) ([]byte, error)
}

// FormatFacts is what a receiver demands of a file.
type FormatFacts struct {
	Extension string // with the dot: ".tsv.gz"
	MediaType string
	// MaxBytes and MaxRows bound one part; 0 is no bound. What is larger is cut
	// into parts by the transport that needs it.
	MaxBytes int64
	MaxRows  uint64
	// Removes: the format can say that a member leaves. One that cannot is
	// delivered as fulls only.
	Removes bool
}

// FileInfo is what a format may write at the head of a file.
type FileInfo struct {
	Destination taxonomy.DestinationID
	IDs         IDs // pseudonyms are 32 hex digits
	Kind        Kind
	Generation  uint64
	// Created is on a whole minute; lives count from it.
	Created taxonomy.Millis
}

// Run is what is the same in rows that stand together.
type Run struct {
	Audience taxonomy.AudienceID
	// Remove: the members leave. Minutes is then 0.
	Remove bool
	// Minutes is the remaining life (R31), from FileInfo.Created: at least 1.
	Minutes int
}

// Transport is how a file reaches a receiver. One transport is one folder below
// transport/. It is safe for concurrent use.
//
// Delivery calls Send once a file is sealed and before the ledger counts its
// rows as held. Every row is a statement about one ID and audience that holds
// whatever was there before, so sending a file twice, or an older one and then
// a newer one, is safe; sending a newer one and then an older one is not, so
// files of a destination go one at a time and in order.
//
// A row of which we do not know whether it arrived is held and not held: the
// next plan removes it if it must go and adds it if it must be there. So a
// transport that is not sure says ErrUnknown and leaves the rest to the ledger.
type Transport interface {
	// Facts says what the way of sending does to the planner's work.
	Facts() TransportFacts
	// Send brings one file to the receiver under its name. It is idempotent by
	// name. nil means that the receiver has accepted it (for pull: that it may
	// be fetched); an error that is retention.ErrUnknown, that it may have;
	// every other error, that it has not. An error says which answer the
	// receiver gave, never a row of the file.
	Send(ctx context.Context, d *Destination, f File, body retention.BlobReader) error
}

// TransportFacts is what a way of sending does to the planner's work.
type TransportFacts struct {
	// FullReplaces: a full ends everything that the receiver held before, so
	// nothing needs to be removed first.
	FullReplaces bool
	// Served: files stay with us and are fetched, so they must be kept, listed
	// and withdrawn.
	Served bool
}

// Kind is what a file says about what stood before it.
type Kind string

// The kinds of files.
const (
	Full  Kind = "full"  // replaces everything
	Delta Kind = "delta" // changes what the file before it left
)
