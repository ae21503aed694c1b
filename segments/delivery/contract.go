package delivery

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

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
	// MaxBytes and MaxRows bound one chunk of what is pushed; 0 is no bound. A
	// format without MaxRows is pushed as one chunk, however large.
	MaxBytes int64
	MaxRows  int
	// Removes: the format can say that a member leaves. One that cannot is
	// delivered as fulls only.
	Removes bool
	// ByID: the rows of one ID stand together, sorted by audience, and in one
	// chunk unless they alone are more than MaxRows. Append is handed them as
	// runs that follow each other. Else rows stand by audience.
	ByID bool
	// Apart: no chunk holds both adds and removals, because the receiver is told
	// by the request, or the file's name, which of them it is.
	Apart bool
}

// FileInfo is what a format may write at the head of a file.
type FileInfo struct {
	Destination taxonomy.DestinationID
	IDs         IDs // pseudonyms are 32 hex digits
	Kind        Kind
	Generation  uint64
	// Created is on a whole minute; lives count from it.
	Created taxonomy.Millis
	// Delay is by how many minutes after Created the file may still be sent. A
	// format whose lives count from the receiver's clock takes it off them, so
	// that copies end early rather than late. 0 for files that are pulled.
	Delay int
	// Account is the destination's: the receiver's words for us.
	Account map[string]string
	// Segments are the destination's: the receiver's names of audiences.
	Segments map[taxonomy.AudienceID]string
	// Serial numbers the deliveries of a destination, with holes.
	Serial uint64
}

// Run is what is the same in rows that stand together.
type Run struct {
	Audience taxonomy.AudienceID
	// Remove: the members leave. Minutes is then 0.
	Remove bool
	// Minutes is the remaining life (R31), from FileInfo.Created: at least 1.
	Minutes int
}

// Transport is how bytes reach a receiver. One transport is one folder below
// transport/. It is safe for concurrent use.
type Transport interface {
	// Facts says what the way of sending does to the planner's work.
	Facts() TransportFacts
	// Check returns the faults of what a destination says for this transport,
	// each a taxonomy.FieldError, joined. It reaches nothing outside.
	Check(*Destination) error
	// Send brings one chunk to the receiver. It is not called for transports
	// that serve.
	//
	// nil means that the receiver has it. ErrRefused means that it has not and
	// says that it never will; ErrUnknown, that it may have it; every other
	// error, that it has not. The last two are sent again later, the same bytes
	// under the same Key, and not before After if the error is a *Later. An
	// error says which answer the receiver gave, never a row nor a secret.
	//
	// Every row says what holds of one ID and audience whatever was there
	// before, and no two chunks that are under way speak of the same ID and
	// audience: a chunk may arrive twice, and chunks in any order.
	Send(ctx context.Context, d *Destination, c *Chunk) error
}

// Chunk is what is sent at once.
type Chunk struct {
	// Name is the file's with the chunk's number, Key an idempotency key of 32
	// hex digits: the same for the same bytes of the same delivery.
	Name, Key string
	Kind      Kind
	MediaType string
	Rows      uint64
	// Index counts the chunks of a delivery from 0 to Of-1.
	Index, Of int
	Created   taxonomy.Millis
	// Removes: the chunk has removals only, of a format that keeps them apart.
	Removes bool
	// Control: a file that lists the others, sent when all of them were taken.
	// No rows, and no answer but the status.
	Control bool
	// Body is read from its start, as often as needed, until Send returns.
	Body   *io.SectionReader
	SHA256 [32]byte
	// Judge reads a receiver's answer, if the format knows its answers; else
	// nil, and the transport goes by the status alone.
	Judge func(status int, answer []byte) (Verdict, error)
	// Took is told the receiver's name of the job by which it works on the chunk
	// after it has taken it. A transport that calls it is a Follower. Nil if
	// nobody asks.
	Took func(job string)
	// Headers returns the format's own for a body, or is nil.
	Headers func(body []byte, secret string, now taxonomy.Millis) (map[string]string, error)
}

// Verdict is what an accepted chunk's answer says of single rows.
type Verdict struct {
	// Rejected is how many rows the receiver did not take, by its own words.
	Rejected map[string]int
}

// Checker may be implemented by a format that needs something said of a
// destination: its account, mostly. Faults are taxonomy.FieldErrors, joined.
type Checker interface {
	Check(*Destination) error
}

// Judge may be implemented by a format whose receiver answers more than a
// status. An error is one that Transport.Send may return.
type Judge interface {
	Judge(status int, answer []byte) (Verdict, error)
}

// Headers may be implemented by a format whose receiver wants more than a media
// type at the head of a request: signatures, mostly. secret is the content of
// the destination's credentials file.
type Headers interface {
	Headers(c *Chunk, body []byte, secret string, now taxonomy.Millis) (map[string]string, error)
}

// ErrRefused is in errors that mean that a receiver will never take a chunk.
var ErrRefused = errors.New("refused")

// Later is an error with the receiver's wish when to be asked again.
type Later struct {
	After time.Duration // from now
	Err   error
}

func (l *Later) Error() string { return fmt.Sprintf("%v; again after %s", l.Err, l.After) }

// Unwrap returns the error itself.
func (l *Later) Unwrap() error { return l.Err }

// TransportFacts is what a way of sending does to the planner's work.
type TransportFacts struct {
	// Served: files stay with us and are fetched, so they must be kept, listed
	// and withdrawn, and a full ends everything that the receiver held before.
	// Without it chunks are pushed, and a full says everything once more, also
	// what was taken away since the last.
	Served bool
	// Manifest: receivers find files by looking into a folder, so a last one
	// that lists them says that all are there. A format's own (Controller) stands
	// in its place.
	Manifest bool
}

// Kind is what a file says about what stood before it.
type Kind string

// The kinds of files.
const (
	Full  Kind = "full"  // replaces everything
	Delta Kind = "delta" // changes what the file before it left
)
