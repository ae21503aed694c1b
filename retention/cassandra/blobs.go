package cassandra

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
)

const (
	insertPart    = `INSERT INTO blob_part (id, part, sum, data) VALUES (?, ?, ?, ?) USING TTL ?`
	selectPart    = `SELECT sum, data FROM blob_part WHERE id = ? AND part = ?`
	deletePart    = `DELETE FROM blob_part WHERE id = ? AND part = ?`
	selectHead    = `SELECT id, parts, bytes, sha256, over FROM blob_head WHERE root = ? AND name = ?`
	selectRoot    = `SELECT name, id, parts, bytes, sha256, over FROM blob_head WHERE root = ? AND name >= ? AND name < ?`
	selectHeads   = `SELECT name, id, parts, bytes, sha256, over FROM blob_head`
	insertHead    = `INSERT INTO blob_head (root, name, id, parts, bytes, sha256, over) VALUES (?, ?, ?, ?, ?, ?, ?) IF NOT EXISTS USING TTL ?`
	insertLasting = `INSERT INTO blob_head (root, name, id, parts, bytes, sha256, over) VALUES (?, ?, ?, ?, ?, ?, ?) IF NOT EXISTS`
	updateHead    = `UPDATE blob_head USING TTL ? SET id = ?, parts = ?, bytes = ?, sha256 = ?, over = ? WHERE root = ? AND name = ? IF id = ?`
	deleteHead    = `DELETE FROM blob_head WHERE root = ? AND name = ? IF id = ?`
	insertGone    = `INSERT INTO blob_gone (id, name, parts, at) VALUES (?, ?, ?, ?)`
	selectGone    = `SELECT id, name, parts, at FROM blob_gone`
	deleteGone    = `DELETE FROM blob_gone WHERE id = ?`
)

const (
	partBytes = 256 << 10
	// partsAtOnce is how many parts of a put are in memory.
	partsAtOnce = 8
	// openFor is how long the parts of a deleted blob stay for whoever has it
	// open: the nightly pass removes those that are gone for longer.
	openFor = 6 * taxonomy.Hour
	// forever is a TTL of 0, which overrides a table's default.
	forever = 0
	// unknownParts: a put that ended in a crash did not say how many.
	unknownParts = -1
)

type blobs struct{ st *Store }

var _ retention.Blobs = (*blobs)(nil)

// head is a row of blob_head.
type head struct {
	retention.Blob
	id    []byte
	parts int
}

func checkBlobName(name string) error {
	for slug := range strings.SplitSeq(name, "/") {
		if err := taxonomy.CheckSlug(fmt.Sprintf("name %.80q: part", name), slug); err != nil {
			return err
		}
	}
	return nil
}

// rootOf is the partition that a name's head stands in: its first folder.
func rootOf(name string) string {
	root, _, _ := strings.Cut(name, "/")
	return root
}

// longer returns the later of two ends, 0 being never.
func longer(a, b taxonomy.Millis) taxonomy.Millis {
	if a == 0 || b == 0 {
		return 0
	}
	return max(a, b)
}

func (b *blobs) ttl(over taxonomy.Millis) int {
	if over == 0 {
		return forever
	}
	return b.st.ttl(over, b.st.o.Now())
}

// partSum is the checksum of a part and of where it belongs.
func partSum(id []byte, part int, data []byte) int64 {
	sum := crc32.Update(uint32(part), castagnoli, id)
	return int64(crc32.Update(sum, castagnoli, data))
}

// Put implements retention.Blobs: the parts under a name of their own, then the
// head by a transaction. Until there is a head nobody sees anything; parts that
// a crash left end with their TTL.
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
	if err := ctx.Err(); err != nil {
		return retention.Blob{}, err
	}
	old, err := b.head(ctx, name)
	if err == nil {
		over = longer(over, old.Over) // it may have to be written anew with the later end
	} else if !errors.Is(err, retention.ErrNotFound) {
		return retention.Blob{}, err
	}
	h := head{Blob: retention.Blob{Name: name, Over: over}, id: make([]byte, 16)}
	if err := b.st.draw(h.id); err != nil {
		return retention.Blob{}, err
	}
	if over == 0 {
		// Parts that end by themselves need no note; these would stay for ever
		// after a crash.
		if err := b.gone(ctx, head{Blob: h.Blob, id: h.id, parts: unknownParts}); err != nil {
			return retention.Blob{}, err
		}
	}
	if err := b.writeParts(ctx, &h, content); err != nil {
		b.discard(h)
		return retention.Blob{}, err
	}
	for {
		blob, again, err := b.place(ctx, &h)
		if !again || ctx.Err() != nil {
			return blob, err
		}
	}
}

// writeParts writes the content, some parts at a time, and completes the head.
func (b *blobs) writeParts(ctx context.Context, h *head, content io.Reader) error {
	sum, ttl := sha256.New(), b.ttl(h.Over)
	for {
		parts, end, err := readParts(sum, content)
		if err != nil {
			return err
		}
		if err := b.st.each(ctx, len(parts), func(ctx context.Context, i int) error {
			n := h.parts + i
			return b.st.s.write(ctx, insertPart, h.id, n, partSum(h.id, n, parts[i]), parts[i], ttl)
		}); err != nil {
			return err
		}
		h.parts += len(parts)
		for _, p := range parts {
			h.Bytes += int64(len(p))
		}
		if end {
			h.SHA256 = [32]byte(sum.Sum(nil))
			return nil
		}
	}
}

// readParts reads the next parts, at most eight, and reports the end.
func readParts(sum hash.Hash, content io.Reader) (parts [][]byte, end bool, err error) {
	for len(parts) < partsAtOnce {
		p := make([]byte, partBytes)
		n, err := io.ReadFull(content, p)
		if n > 0 {
			sum.Write(p[:n])
			parts = append(parts, p[:n:n])
		}
		switch {
		case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
			return parts, true, nil
		case err != nil:
			return nil, false, err
		}
	}
	return parts, false, nil
}

// place makes the head, or finds that there is one. again: somebody changed it
// meanwhile.
func (b *blobs) place(ctx context.Context, h *head) (blob retention.Blob, again bool, err error) {
	old, err := b.head(ctx, h.Name)
	switch {
	case errors.Is(err, retention.ErrNotFound):
		args := []any{rootOf(h.Name), h.Name, h.id, h.parts, h.Bytes, h.SHA256[:], int64(h.Over)}
		cql := insertLasting
		if h.Over != 0 {
			cql, args = insertHead, append(args, b.ttl(h.Over))
		}
		ok, err := b.st.s.swap(ctx, cql, args...)
		if err != nil && !errors.Is(err, retention.ErrUnknown) {
			b.discard(*h)
			return retention.Blob{}, false, err
		}
		// If it is unknown or somebody was faster, the next look tells.
		return h.Blob, !ok || err != nil, err
	case err != nil:
		return retention.Blob{}, false, fmt.Errorf("%w: %w", retention.ErrUnknown, err)
	case string(old.id) == string(h.id):
		return old.Blob, false, nil
	case old.SHA256 != h.SHA256:
		b.discard(*h)
		return retention.Blob{}, false, fmt.Errorf("other bytes are kept under that name: %w", retention.ErrConflict)
	case longer(old.Over, h.Over) == old.Over:
		b.discard(*h)
		return old.Blob, false, nil
	}
	// The end of its life moves. The new parts were written with the later of
	// the two ends, unless another has put it meanwhile with one that is later
	// still.
	ok, err := b.st.s.swap(ctx, updateHead, b.ttl(h.Over), h.id, h.parts, h.Bytes, h.SHA256[:], int64(h.Over), rootOf(h.Name), h.Name, old.id)
	if err != nil && !errors.Is(err, retention.ErrUnknown) {
		b.discard(*h)
		return retention.Blob{}, false, err
	}
	if err == nil && ok {
		return h.Blob, false, b.gone(ctx, old)
	}
	return h.Blob, true, err
}

// discard removes parts that no head points to. What it does not reach ends
// with its TTL.
func (b *blobs) discard(h head) {
	ctx, cancel := context.WithTimeout(context.Background(), requestTimeout)
	defer cancel()
	if err := b.gone(ctx, h); err != nil {
		b.st.logger.Warn("parts of a blob that was not put stay to their end", "err", err)
	}
}

// gone notes that parts may go: readers may still have them open.
func (b *blobs) gone(ctx context.Context, h head) error {
	if h.parts == 0 {
		return nil
	}
	return b.st.s.rewrite(ctx, insertGone, h.id, h.Name, h.parts, int64(b.st.o.Now()))
}

// head reads a head, after every transaction under way.
func (b *blobs) head(ctx context.Context, name string) (h head, err error) {
	h.Name = name
	var sum []byte
	if err := b.st.s.serial(ctx, selectHead, []any{rootOf(name), name}, &h.id, &h.parts, &h.Bytes, &sum, (*int64)(&h.Over)); err != nil {
		return h, err
	}
	if len(sum) != sha256.Size {
		return h, fmt.Errorf("%w: its head has a checksum of %d bytes", retention.ErrCorrupt, len(sum))
	}
	h.SHA256 = [32]byte(sum)
	return h, nil
}

// Open implements retention.Blobs.
func (b *blobs) Open(ctx context.Context, name string) (retention.BlobReader, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("open blob %s: %w", name, err)
	}
	h, err := b.head(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("open blob %s: %w", name, err)
	}
	return &reader{b: b, head: h, part: -1}, nil
}

// reader reads parts as they are asked for and keeps the last.
type reader struct {
	b    *blobs
	head head
	mu   sync.Mutex
	part int
	data []byte
	shut bool
}

func (r *reader) Blob() retention.Blob { return r.head.Blob }

func (r *reader) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.shut {
		return fmt.Errorf("close blob %s: %w", r.head.Name, retention.ErrClosed)
	}
	r.shut, r.data = true, nil
	return nil
}

func (r *reader) ReadAt(p []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, fmt.Errorf("read blob %s: offset %d", r.head.Name, off)
	}
	for n < len(p) {
		at := off + int64(n)
		if at >= r.head.Bytes {
			return n, io.EOF
		}
		data, err := r.load(int(at / partBytes))
		if err != nil {
			return n, fmt.Errorf("read blob %s: %w", r.head.Name, err)
		}
		n += copy(p[n:], data[at%partBytes:])
	}
	return n, nil
}

// load returns a part, whole and checked.
func (r *reader) load(part int) ([]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.shut {
		return nil, retention.ErrClosed
	}
	if part == r.part {
		return r.data, nil
	}
	var sum int64
	var data []byte
	// Not of the context of Open, which may have ended; the session's timeouts
	// bound it.
	err := r.b.st.s.one(context.Background(), selectPart, []any{r.head.id, part}, &sum, &data)
	if err != nil {
		return nil, err
	}
	want := min(partBytes, r.head.Bytes-int64(part)*partBytes)
	if int64(len(data)) != want || partSum(r.head.id, part, data) != sum {
		return nil, fmt.Errorf("part %d: %w", part, retention.ErrCorrupt)
	}
	r.part, r.data = part, data
	return data, nil
}

// List implements retention.Blobs.
func (b *blobs) List(ctx context.Context, folder string) ([]retention.Blob, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("list blobs: %w", err)
	}
	cql, args := selectHeads, []any(nil)
	if folder != "" {
		cql, args = selectRoot, []any{rootOf(folder), folder + "/", folder + "0"} // '0' follows '/'
	}
	var list []retention.Blob
	err := b.st.s.rows(ctx, func() { list = nil }, func(scan func(...any) error) error {
		var h head
		var sum []byte
		if err := scan(&h.Name, &h.id, &h.parts, &h.Bytes, &sum, (*int64)(&h.Over)); err != nil {
			return err
		}
		if len(sum) != sha256.Size {
			return fmt.Errorf("blob %s: %w: its head has a checksum of %d bytes", h.Name, retention.ErrCorrupt, len(sum))
		}
		h.SHA256 = [32]byte(sum)
		list = append(list, h.Blob)
		return nil
	}, cql, args...)
	if err != nil {
		return nil, fmt.Errorf("list blobs of %q: %w", folder, err)
	}
	slices.SortFunc(list, func(x, y retention.Blob) int { return strings.Compare(x.Name, y.Name) })
	return list, nil
}

// Delete implements retention.Blobs. The head goes at once, the parts when they
// can be open nowhere any more.
func (b *blobs) Delete(ctx context.Context, names []string) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("delete blobs: %w", err)
	}
	for _, name := range names {
		if err := b.delete(ctx, name); err != nil {
			return fmt.Errorf("delete blob %s: %w", name, err)
		}
	}
	return nil
}

func (b *blobs) delete(ctx context.Context, name string) error {
	for {
		h, err := b.head(ctx, name)
		if errors.Is(err, retention.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := b.gone(ctx, h); err != nil {
			return err
		}
		ok, err := b.st.s.swap(ctx, deleteHead, rootOf(name), name, h.id)
		if err == nil && ok {
			return nil
		}
		if err != nil && (!errors.Is(err, retention.ErrUnknown) || ctx.Err() != nil) {
			return err
		}
		// Another moved its end meanwhile, or the outcome is unknown: look again.
	}
}

// sweep removes parts that no head points to for longer than anyone may have
// them open. The nightly pass calls it.
func (b *blobs) sweep(ctx context.Context) error {
	var list []head
	var at []taxonomy.Millis
	err := b.st.s.rows(ctx, func() { list, at = nil, nil }, func(scan func(...any) error) error {
		var h head
		var t int64
		err := scan(&h.id, &h.Name, &h.parts, &t)
		list, at = append(list, h), append(at, taxonomy.Millis(t))
		return err
	}, selectGone)
	if err != nil {
		return fmt.Errorf("sweep blobs: %w", err)
	}
	now := b.st.o.Now()
	for i, h := range list {
		if now-at[i] < openFor {
			continue
		}
		if err := b.sweepOne(ctx, h); err != nil {
			return fmt.Errorf("sweep blob %s: %w", h.Name, err)
		}
	}
	return nil
}

func (b *blobs) sweepOne(ctx context.Context, h head) error {
	// A deletion that did not come to its end, and a put that did, leave the
	// note: what a head points to stays.
	switch live, err := b.head(ctx, h.Name); {
	case err == nil && string(live.id) == string(h.id):
		return b.st.s.rewrite(ctx, deleteGone, h.id)
	case err != nil && !errors.Is(err, retention.ErrNotFound):
		return err
	}
	for p := 0; h.parts == unknownParts || p < h.parts; p++ {
		if h.parts == unknownParts {
			var sum int64
			var data []byte
			// Parts are written some at a time: behind a missing one there may be
			// others of the same eight.
			err := b.st.s.one(ctx, selectPart, []any{h.id, p}, &sum, &data)
			if errors.Is(err, retention.ErrNotFound) {
				if p%partsAtOnce == partsAtOnce-1 {
					break
				}
				continue
			}
			if err != nil {
				return err
			}
		}
		if err := b.st.s.rewrite(ctx, deletePart, h.id, p); err != nil {
			return err
		}
	}
	return b.st.s.rewrite(ctx, deleteGone, h.id)
}
