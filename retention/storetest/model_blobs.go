package storetest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
)

type modelBlob struct {
	content []byte // never changed, so readers share it
	blob    retention.Blob
}

type modelBlobs struct {
	mu    sync.Mutex
	files map[string]*modelBlob
}

func checkBlobName(name string) error {
	for slug := range strings.SplitSeq(name, "/") {
		if err := taxonomy.CheckSlug("blob name "+name, slug); err != nil {
			return err
		}
	}
	return nil
}

// longer returns the later of two ends, 0 being never.
func longer(a, b taxonomy.Millis) taxonomy.Millis {
	if a == 0 || b == 0 {
		return 0
	}
	return max(a, b)
}

func (m *modelBlobs) Put(ctx context.Context, name string, over taxonomy.Millis, content io.Reader) (retention.Blob, error) {
	if err := checkBlobName(name); err != nil {
		return retention.Blob{}, fmt.Errorf("put: %w", err)
	}
	b, err := io.ReadAll(content)
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return retention.Blob{}, fmt.Errorf("put blob %s: %w", name, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if f := m.files[name]; f != nil {
		if !bytes.Equal(f.content, b) {
			return retention.Blob{}, fmt.Errorf("put blob %s: other bytes are kept under that name: %w", name, retention.ErrConflict)
		}
		f.blob.Over = longer(f.blob.Over, over)
		return f.blob, nil
	}
	f := &modelBlob{b, retention.Blob{Name: name, Bytes: int64(len(b)), Over: over, SHA256: sha256.Sum256(b)}}
	m.files[name] = f
	return f.blob, nil
}

func (m *modelBlobs) Open(ctx context.Context, name string) (retention.BlobReader, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	f := m.files[name]
	if f == nil {
		return nil, fmt.Errorf("open blob %s: %w", name, retention.ErrNotFound)
	}
	return &modelBlobReader{Reader: bytes.NewReader(f.content), blob: f.blob}, nil
}

type modelBlobReader struct {
	*bytes.Reader
	blob   retention.Blob
	closed bool
}

func (r *modelBlobReader) Blob() retention.Blob { return r.blob }
func (r *modelBlobReader) Close() error {
	if r.closed {
		return errors.New("blob closed twice")
	}
	r.closed = true
	return nil
}

func (m *modelBlobs) List(ctx context.Context, folder string) ([]retention.Blob, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var l []retention.Blob
	for name, f := range m.files {
		if folder == "" || strings.HasPrefix(name, folder+"/") {
			l = append(l, f.blob)
		}
	}
	slices.SortFunc(l, func(a, b retention.Blob) int { return strings.Compare(a.Name, b.Name) })
	return l, nil
}

func (m *modelBlobs) Delete(ctx context.Context, names []string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, n := range names {
		delete(m.files, n)
	}
	return nil
}
