// Package dir is the transport that puts files into a folder of this machine,
// from which something else takes them on.
package dir

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/ebb-dmp/ebb/retention/log"
	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// Transport writes below Root, and nowhere else.
type Transport struct {
	FS log.FS
	// Root is the folder below which destinations have theirs; empty: the
	// configuration allows none.
	Root string
}

var _ delivery.Transport = Transport{}

// Facts: files are pushed.
func (Transport) Facts() delivery.TransportFacts { return delivery.TransportFacts{} }

// Check looks at the destination's URL, which is a folder's name below Root.
func (t Transport) Check(d *delivery.Destination) error {
	if t.Root == "" {
		return taxonomy.Invalid("transport", "the configuration names no folder for files to leave by")
	}
	if d.URL == "" || strings.HasPrefix(d.URL, "/") || path.Clean(d.URL) != d.URL || d.URL == "." || d.URL == ".." || strings.HasPrefix(d.URL, "../") || strings.ContainsAny(d.URL, "\\:\x00") {
		return taxonomy.Invalid("url", "%.80q: want a folder below the configured one, such as \"dsp/incoming\"", d.URL)
	}
	return nil
}

// Send writes the chunk under a temporary name, and renames it when it is whole
// and durable. Sent again, it is the same file.
func (t Transport) Send(ctx context.Context, d *delivery.Destination, c *delivery.Chunk) error {
	if err := t.Check(d); err != nil {
		return err
	}
	if c.Name == "" || strings.ContainsAny(c.Name, "/\\\x00") || strings.HasPrefix(c.Name, ".") {
		return fmt.Errorf("write chunk: %q is no file's name", c.Name)
	}
	folder := t.FS.PathJoin(t.Root, d.URL)
	if err := t.FS.MkdirAll(folder, 0o755); err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	// The dot hides it from whoever takes files by a pattern.
	temporary := t.FS.PathJoin(folder, "."+c.Name+".tmp")
	f, err := t.FS.Create(temporary, "ebb-delivery")
	if err != nil {
		return fmt.Errorf("write chunk: %w", err)
	}
	_, err = io.Copy(f, &stoppable{ctx, io.NewSectionReader(c.Body, 0, c.Body.Size())})
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(fmt.Errorf("write chunk: %w", err), t.FS.Remove(temporary))
	}
	if err := t.FS.Rename(temporary, t.FS.PathJoin(folder, c.Name)); err != nil {
		return fmt.Errorf("rename chunk: %w", err)
	}
	dirFile, err := t.FS.OpenDir(folder)
	if err != nil {
		return fmt.Errorf("sync folder: %w", err)
	}
	if err := errors.Join(dirFile.Sync(), dirFile.Close()); err != nil {
		return fmt.Errorf("sync folder: %w", err)
	}
	return nil
}

type stoppable struct {
	ctx context.Context
	r   io.Reader
}

func (s *stoppable) Read(b []byte) (int, error) {
	if err := s.ctx.Err(); err != nil {
		return 0, err
	}
	return s.r.Read(b)
}
