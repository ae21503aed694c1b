package retention

import (
	"context"
	"io"

	"github.com/ebb-dmp/ebb/taxonomy"
)

// Blob is what is known of an immutable file without opening it.
type Blob struct {
	Name  string
	Bytes int64
	// Over is the instant from which it may be removed, 0 for never.
	Over taxonomy.Millis
	// SHA256 of the content.
	SHA256 [32]byte
}

// Blobs keeps immutable files. A name is slash-separated slugs, such as
// "index/0/2026-11-25/17.day"; what stands before the last slash is its folder.
type Blobs interface {
	// Put writes a blob, whole or not at all, durably, and returns what is
	// known of it. Putting the same name and bytes again is fine and may extend
	// Over; other bytes under a name that exists are an error.
	Put(ctx context.Context, name string, over taxonomy.Millis, content io.Reader) (Blob, error)

	// Open opens a blob for reading at any place, or returns ErrNotFound. The
	// caller closes it. Its bytes stay readable until then, also if the blob is
	// deleted. Bytes that do not match their checksum give ErrCorrupt, at Open
	// or at the read that meets them.
	Open(ctx context.Context, name string) (BlobReader, error)

	// List returns the blobs of a folder and those below it, by name.
	List(ctx context.Context, folder string) ([]Blob, error)

	// Delete removes blobs. Removing what is not there is fine.
	Delete(ctx context.Context, names []string) error
}

// BlobReader reads an open blob.
type BlobReader interface {
	io.ReaderAt
	io.Closer
	Blob() Blob
}
