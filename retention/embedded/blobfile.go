package embedded

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// A blob's file. Integers are big-endian; n is the length of the content, p the
// number of its pieces of 16 KiB, the last of which may be shorter.
//
//	0          8   magic "ebb-blob"
//	8          4   version of this format, 1
//	12         4   size of a piece, 16384
//	16         n   content
//	16+n      4p   CRC-32C of each piece
//	16+n+4p    8   n
//	 +8        8   over, in milliseconds since 1970; 0: never
//	 +16      32   SHA-256 of the content
//	 +48       4   CRC-32C of the name, of the 16 bytes at the beginning, of the
//	               pieces' checksums and of the 48 bytes before this
//	 +52       8   magic "ebb-end."
//
// The name is in the checksum, so that a file that was moved to another's place
// is not taken for it.
const (
	blobMagic   = "ebb-blob"
	blobEnd     = "ebb-end."
	blobVersion = 1
	blobPiece   = 16 << 10
	blobHead    = 16
	blobTail    = 60
)

func blobHeader() []byte {
	b := append(make([]byte, 0, blobHead), blobMagic...)
	b = binary.BigEndian.AppendUint32(b, blobVersion)
	return binary.BigEndian.AppendUint32(b, blobPiece)
}

// blobSum is the checksum of everything but the content.
func blobSum(name string, header, sums, tail []byte) uint32 {
	c := crc32.Update(0, castagnoli, []byte(name))
	c = crc32.Update(c, castagnoli, header)
	c = crc32.Update(c, castagnoli, sums)
	return crc32.Update(c, castagnoli, tail)
}

// writeBlob writes a blob's file at path and syncs it. On error the caller
// removes it.
func writeBlob(f vfs.FS, path, name string, over taxonomy.Millis, content io.Reader) (_ retention.Blob, err error) {
	w, err := f.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return retention.Blob{}, err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	// A vfs.File may change the bytes that it writes: no slice is used again.
	if _, err := w.Write(blobHeader()); err != nil {
		return retention.Blob{}, err
	}
	blob := retention.Blob{Name: name, Over: over}
	hash := sha256.New()
	var sums []byte
	buf := make([]byte, 8*blobPiece)
	for {
		n, rerr := io.ReadFull(content, buf)
		for p := range pieces(buf[:n]) {
			sums = binary.BigEndian.AppendUint32(sums, crc32.Checksum(p, castagnoli))
		}
		hash.Write(buf[:n])
		blob.Bytes += int64(n)
		if n > 0 {
			if _, err := w.Write(buf[:n]); err != nil {
				return retention.Blob{}, err
			}
		}
		if rerr == io.EOF || rerr == io.ErrUnexpectedEOF {
			break
		}
		if rerr != nil {
			return retention.Blob{}, rerr
		}
	}
	hash.Sum(blob.SHA256[:0])
	tail := binary.BigEndian.AppendUint64(nil, uint64(blob.Bytes))
	tail = binary.BigEndian.AppendUint64(tail, uint64(over))
	tail = append(tail, blob.SHA256[:]...)
	tail = binary.BigEndian.AppendUint32(tail, blobSum(name, blobHeader(), sums, tail))
	tail = append(tail, blobEnd...)
	if _, err := w.Write(append(sums, tail...)); err != nil {
		return retention.Blob{}, err
	}
	return blob, w.Sync()
}

// pieces yields b in pieces; only the last may be short.
func pieces(b []byte) func(yield func([]byte) bool) {
	return func(yield func([]byte) bool) {
		for len(b) > 0 {
			n := min(len(b), blobPiece)
			if !yield(b[:n]) {
				return
			}
			b = b[n:]
		}
	}
}

// blobReader reads an open file. It is safe for concurrent use.
type blobReader struct {
	f    vfs.File
	blob retention.Blob
	sums []byte
	// good has a bit for each piece that was read and matched its checksum. It
	// is checked once for each opening: a reader of one column out of many
	// reads a piece many times.
	good   []atomic.Uint64
	closed atomic.Bool
}

var piecePool = sync.Pool{New: func() any { return new([blobPiece]byte) }}

func openBlob(f vfs.FS, path, name string) (*blobReader, error) {
	file, err := f.Open(path, vfs.RandomReadsOption)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: blob %s", retention.ErrNotFound, name)
	}
	if err != nil {
		return nil, err
	}
	r := &blobReader{f: file}
	if err := r.readHead(name); err != nil {
		return nil, errors.Join(fmt.Errorf("blob %s: %w", name, err), file.Close())
	}
	return r, nil
}

func (r *blobReader) readHead(name string) error {
	info, err := r.f.Stat()
	if err != nil {
		return err
	}
	size := info.Size()
	if size < blobHead+blobTail {
		return fmt.Errorf("%w: it is %d bytes long", retention.ErrCorrupt, size)
	}
	header, tail := make([]byte, blobHead), make([]byte, blobTail)
	if err := readFull(r.f, header, 0); err != nil {
		return err
	}
	if err := readFull(r.f, tail, size-blobTail); err != nil {
		return err
	}
	if !bytes.HasPrefix(header, []byte(blobMagic)) || !bytes.HasSuffix(tail, []byte(blobEnd)) {
		return fmt.Errorf("%w: it does not begin and end as a blob", retention.ErrCorrupt)
	}
	if v := binary.BigEndian.Uint32(header[8:]); v > blobVersion {
		return fmt.Errorf("%w: it is of format %d, this program reads up to %d", retention.ErrCorrupt, v, blobVersion)
	}
	n := int64(binary.BigEndian.Uint64(tail))
	count := (n + blobPiece - 1) / blobPiece
	if n < 0 || n > size || blobHead+n+4*count+blobTail != size {
		return fmt.Errorf("%w: it is %d bytes long, which is not what its end says", retention.ErrCorrupt, size)
	}
	r.sums = make([]byte, 4*count)
	if err := readFull(r.f, r.sums, blobHead+n); err != nil {
		return err
	}
	if blobSum(name, header, r.sums, tail[:48]) != binary.BigEndian.Uint32(tail[48:]) {
		return fmt.Errorf("%w: its end does not match its checksum", retention.ErrCorrupt)
	}
	r.blob = retention.Blob{Name: name, Bytes: n, Over: taxonomy.Millis(binary.BigEndian.Uint64(tail[8:]))}
	copy(r.blob.SHA256[:], tail[16:])
	r.good = make([]atomic.Uint64, (count+63)/64)
	return nil
}

func readFull(f io.ReaderAt, b []byte, at int64) error {
	n, err := f.ReadAt(b, at)
	if n == len(b) {
		return nil
	}
	if err == nil || err == io.EOF {
		return fmt.Errorf("%w: it ends too early", retention.ErrCorrupt)
	}
	return err
}

// Blob implements retention.BlobReader.
func (r *blobReader) Blob() retention.Blob { return r.blob }

// Close implements retention.BlobReader.
func (r *blobReader) Close() error {
	if r.closed.Swap(true) {
		return fmt.Errorf("blob %s: closed twice", r.blob.Name)
	}
	return r.f.Close()
}

// ReadAt implements io.ReaderAt.
func (r *blobReader) ReadAt(p []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, fmt.Errorf("blob %s: read at %d", r.blob.Name, off)
	}
	if off >= r.blob.Bytes {
		return 0, io.EOF
	}
	if rest := r.blob.Bytes - off; int64(len(p)) > rest {
		p, err = p[:rest], io.EOF
	}
	if len(p) == 0 {
		return 0, err
	}
	for i := off / blobPiece; i <= (off+int64(len(p))-1)/blobPiece; i++ {
		if err := r.check(i); err != nil {
			return 0, err
		}
	}
	if rerr := readFull(r.f, p, blobHead+off); rerr != nil {
		return 0, fmt.Errorf("blob %s: %w", r.blob.Name, rerr)
	}
	return len(p), err
}

// check compares piece i with its checksum, the first time.
func (r *blobReader) check(i int64) error {
	word, bit := &r.good[i/64], uint64(1)<<(i%64)
	if word.Load()&bit != 0 {
		return nil
	}
	buf := piecePool.Get().(*[blobPiece]byte)
	defer piecePool.Put(buf)
	b := buf[:min(blobPiece, r.blob.Bytes-i*blobPiece)]
	if err := readFull(r.f, b, blobHead+i*blobPiece); err != nil {
		return fmt.Errorf("blob %s: %w", r.blob.Name, err)
	}
	if crc32.Checksum(b, castagnoli) != binary.BigEndian.Uint32(r.sums[4*i:]) {
		return fmt.Errorf("blob %s: %w: bytes %d to %d do not match their checksum", r.blob.Name, retention.ErrCorrupt, i*blobPiece, i*blobPiece+int64(len(b))-1)
	}
	word.Or(bit)
	return nil
}

// verify checks all pieces.
func (r *blobReader) verify() error {
	for i := range int64(len(r.sums) / 4) {
		if err := r.check(i); err != nil {
			return err
		}
	}
	return nil
}
