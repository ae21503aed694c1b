package embedded

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// Blobs are files below blobs/, each in the folders of its name. blobSuffix
// holds a character that no name may have, so that a blob and a folder of the
// same name do not meet, whatever they are called.
const (
	blobSuffix = "=blob"
	tempFolder = "=temp"
)

type blobs struct {
	s    *Store
	root string
	temp string
	next atomic.Uint64 // number of the next temporary file

	// changing is held while files appear and go, never while content is read
	// or written.
	changing sync.Mutex
}

var _ retention.Blobs = (*blobs)(nil)

// openBlobs makes the folders, and removes what was being written at a crash.
func openBlobs(s *Store) (*blobs, error) {
	b := &blobs{s: s, root: s.fs.PathJoin(s.o.Dir, "blobs")}
	b.temp = s.fs.PathJoin(b.root, tempFolder)
	if err := s.fs.RemoveAll(b.temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("remove unfinished blobs: %w", err)
	}
	return b, makeDir(s.fs, b.temp)
}

func checkBlobName(name string) error {
	for slug := range strings.SplitSeq(name, "/") {
		if err := taxonomy.CheckSlug(fmt.Sprintf("name %.80q: part", name), slug); err != nil {
			return err
		}
	}
	return nil
}

func (b *blobs) path(name string) string {
	return b.s.fs.PathJoin(append([]string{b.root}, strings.Split(name, "/")...)...) + blobSuffix
}

// longer returns the later of two ends, 0 being never.
func longer(a, b taxonomy.Millis) taxonomy.Millis {
	if a == 0 || b == 0 {
		return 0
	}
	return max(a, b)
}

// Put implements retention.Blobs: a temporary file, synced, then renamed, then
// its folder synced.
func (b *blobs) Put(ctx context.Context, name string, over taxonomy.Millis, content io.Reader) (retention.Blob, error) {
	if err := checkBlobName(name); err != nil {
		return retention.Blob{}, fmt.Errorf("put blob: %w", err)
	}
	blob, err := b.put(ctx, name, over, content)
	if err != nil {
		return retention.Blob{}, fmt.Errorf("put blob %s: %w", name, err)
	}
	return blob, nil
}

func (b *blobs) put(ctx context.Context, name string, over taxonomy.Millis, content io.Reader) (retention.Blob, error) {
	if err := b.usable(ctx); err != nil {
		return retention.Blob{}, err
	}
	temp := b.s.fs.PathJoin(b.temp, fmt.Sprint(b.next.Add(1)))
	// Of a blob that is there already, the end of its life may move: then it is
	// written anew, with the later end.
	if old, err := b.head(name); err == nil {
		over = longer(over, old.Over)
	}
	blob, err := writeBlob(b.s.fs, temp, name, over, withContext{ctx, content})
	if err != nil {
		return retention.Blob{}, errors.Join(err, b.discard(temp))
	}
	b.changing.Lock()
	defer b.changing.Unlock()
	if err := b.usable(ctx); err != nil {
		return retention.Blob{}, errors.Join(err, b.discard(temp))
	}
	old, err := b.verify(name)
	switch {
	case errors.Is(err, retention.ErrNotFound):
	case errors.Is(err, retention.ErrCorrupt):
		// What is there cannot be read: the same blob put again mends it.
		b.s.log.Warn("a corrupt blob is replaced", "blob", name)
	case err != nil:
		return retention.Blob{}, errors.Join(err, b.discard(temp))
	case old.SHA256 != blob.SHA256:
		return retention.Blob{}, errors.Join(fmt.Errorf("other bytes are kept under that name: %w", retention.ErrConflict), b.discard(temp))
	case longer(old.Over, blob.Over) == old.Over:
		return old, b.discard(temp)
	}
	path := b.path(name)
	dir := b.s.fs.PathDir(path)
	if err := b.makeFolder(dir); err != nil {
		return retention.Blob{}, errors.Join(err, b.discard(temp))
	}
	if err := b.s.fs.Rename(temp, path); err != nil {
		return retention.Blob{}, errors.Join(err, b.discard(temp))
	}
	if err := syncDir(b.s.fs, dir); err != nil {
		return retention.Blob{}, fmt.Errorf("%w: %w", retention.ErrUnknown, err)
	}
	return blob, nil
}

// discard removes a temporary file.
func (b *blobs) discard(temp string) error {
	if err := b.s.fs.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// makeFolder makes a folder and those above it up to the root, durably.
func (b *blobs) makeFolder(dir string) error {
	if _, err := b.s.fs.Stat(dir); err == nil {
		return nil
	}
	if dir != b.root {
		if err := b.makeFolder(b.s.fs.PathDir(dir)); err != nil {
			return err
		}
	}
	if err := b.s.fs.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return syncDir(b.s.fs, b.s.fs.PathDir(dir))
}

// usable returns an error if the store is closed or has failed.
func (b *blobs) usable(ctx context.Context) error {
	release, err := b.s.acquire(ctx)
	if err == nil {
		release()
	}
	return err
}

// withContext ends a reading when its context ends.
type withContext struct {
	ctx context.Context
	r   io.Reader
}

func (w withContext) Read(p []byte) (int, error) {
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	return w.r.Read(p)
}

// head returns what is known of a blob.
func (b *blobs) head(name string) (retention.Blob, error) {
	r, err := openBlob(b.s.fs, b.path(name), name)
	if err != nil {
		return retention.Blob{}, err
	}
	return r.blob, r.Close()
}

// verify returns what is known of a blob, having read all of it.
func (b *blobs) verify(name string) (retention.Blob, error) {
	r, err := openBlob(b.s.fs, b.path(name), name)
	if err != nil {
		return retention.Blob{}, err
	}
	return r.blob, errors.Join(r.verify(), r.Close())
}

// Open implements retention.Blobs. The end of the file, with the checksums of
// its pieces, is checked here; each piece when it is first read.
func (b *blobs) Open(ctx context.Context, name string) (retention.BlobReader, error) {
	err := b.usable(ctx)
	if err == nil {
		err = checkBlobName(name)
	}
	if err != nil {
		return nil, fmt.Errorf("open blob %.80q: %w", name, err)
	}
	r, err := openBlob(b.s.fs, b.path(name), name)
	if err != nil {
		return nil, fmt.Errorf("open blob %s: %w", name, err)
	}
	return r, nil
}

// List implements retention.Blobs. Blobs that are corrupt are left out, and the
// error, beside the list of all others, names them.
func (b *blobs) List(ctx context.Context, folder string) ([]retention.Blob, error) {
	if err := b.usable(ctx); err != nil {
		return nil, fmt.Errorf("list blobs: %w", err)
	}
	dir := b.root
	if folder != "" {
		if err := checkBlobName(folder); err != nil {
			return nil, fmt.Errorf("list blobs: %w", err)
		}
		dir = b.s.fs.PathJoin(append([]string{b.root}, strings.Split(folder, "/")...)...)
	}
	var list []retention.Blob
	var bad []error
	err := walkBlobs(b.s.fs, dir, folder, func(name, path string) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		r, err := openBlob(b.s.fs, path, name)
		switch {
		case errors.Is(err, retention.ErrNotFound): // deleted meanwhile
		case errors.Is(err, retention.ErrCorrupt):
			bad = append(bad, err)
		case err != nil:
			return err
		default:
			list = append(list, r.blob)
			return r.Close()
		}
		return nil
	})
	slices.SortFunc(list, func(a, b retention.Blob) int { return strings.Compare(a.Name, b.Name) })
	if err := errors.Join(append(bad, err)...); err != nil {
		return list, fmt.Errorf("list blobs: %w", err)
	}
	return list, nil
}

// walkBlobs calls fn with the name and path of each blob below dir, the folder
// of that name.
func walkBlobs(f vfs.FS, dir, folder string, fn func(name, path string) error) error {
	entries, err := f.List(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	slices.Sort(entries)
	for _, e := range entries {
		path, name := f.PathJoin(dir, e), e
		if folder != "" {
			name = folder + "/" + e
		}
		switch {
		case e == tempFolder:
			continue
		case strings.HasSuffix(e, blobSuffix):
			err = fn(strings.TrimSuffix(name, blobSuffix), path)
		default:
			err = walkBlobs(f, path, name, fn)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Delete implements retention.Blobs.
func (b *blobs) Delete(ctx context.Context, names []string) error {
	if err := b.usable(ctx); err != nil {
		return fmt.Errorf("delete blobs: %w", err)
	}
	for _, name := range names {
		if err := checkBlobName(name); err != nil {
			return fmt.Errorf("delete blob: %w", err)
		}
	}
	b.changing.Lock()
	defer b.changing.Unlock()
	dirs := map[string]bool{}
	for _, name := range names {
		path := b.path(name)
		switch err := b.s.fs.Remove(path); {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return fmt.Errorf("delete blob %s: %w", name, err)
		default:
			dirs[b.s.fs.PathDir(path)] = true
		}
	}
	for dir := range dirs {
		if err := syncDir(b.s.fs, dir); err != nil {
			return fmt.Errorf("delete blobs: %w: %w", retention.ErrUnknown, err)
		}
	}
	// Not before all are synced: with an empty folder those above it go too.
	for dir := range dirs {
		b.removeEmpty(dir)
	}
	return nil
}

// removeEmpty removes folders that hold nothing any more: there is one for each
// day. It is tidiness: a folder that comes back after a crash does no harm.
func (b *blobs) removeEmpty(dir string) {
	for dir != b.root {
		if entries, err := b.s.fs.List(dir); err != nil || len(entries) > 0 {
			return
		}
		if b.s.fs.Remove(dir) != nil {
			return
		}
		dir = b.s.fs.PathDir(dir)
	}
}

// deleteOver deletes the blobs whose Over has come.
func (b *blobs) deleteOver(ctx context.Context) error {
	list, err := b.List(ctx, "")
	now := b.s.o.Now()
	var over []string
	for i := range list {
		if o := list[i].Over; o != 0 && o <= now {
			over = append(over, list[i].Name)
		}
	}
	return errors.Join(b.Delete(ctx, over), err)
}
