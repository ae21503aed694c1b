package delivery

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// piece is one chunk of a file of chunks.
type piece struct {
	bytes  int64
	rows   uint64
	sha256 [32]byte
	// name is the receiver's for a chunk, or empty. control: the chunk lists the
	// others. removes: it has removals.
	name    string
	control bool
	removes bool
	// What it says lies in the index from here, so many bytes.
	from, length int64

	md5   [16]byte // known while it is written only
	lines uint64
}

const (
	indexMagic = "EBBDCHNK"
	// indexVersion 3 has what chunks say outside of the table.
	indexVersion = 3
	indexHead    = int64(len(indexMagic)) + 1
	indexTail    = 8
)

// An index of chunks is
//
//	magic 8 bytes · version u8 · what each chunk says, as a ledger's file · table ·
//	its length, u32 · CRC-32C of magic, version, table and length, u32
//
// both numbers little endian. The table, integers being uvarints: number of chunks,
// and for each: bytes · rows · SHA-256 · from · length of what it says · 1 for a
// control file, 2 if it has removals · length · name. What a chunk says has its own
// checksum; it is read alone, since all of it is as large as the ledger.

// indexWriter writes an index while the chunks are written.
type indexWriter struct {
	w      io.Writer
	shards int
	at     int64
}

func (x *indexWriter) write(b []byte) error {
	n, err := x.w.Write(b)
	x.at += int64(n)
	if err != nil {
		return fmt.Errorf("write index of chunks: %w", err)
	}
	return nil
}

func indexStart() []byte { return append([]byte(indexMagic), indexVersion) }

// add writes what a chunk says, and notes in p where.
func (x *indexWriter) add(p *piece, says *Ledger) error {
	if x.at == 0 {
		if err := x.write(indexStart()); err != nil {
			return err
		}
	}
	b, err := says.marshal(x.shards)
	if err != nil {
		return err
	}
	p.from, p.length = x.at, int64(len(b))
	return x.write(b)
}

// end writes the table.
func (x *indexWriter) end(ps []piece) error {
	if x.at == 0 {
		if err := x.write(indexStart()); err != nil {
			return err
		}
	}
	b := binary.AppendUvarint(nil, uint64(len(ps)))
	for i := range ps {
		p := &ps[i]
		b = binary.AppendUvarint(b, uint64(p.bytes))
		b = binary.AppendUvarint(b, p.rows)
		b = append(b, p.sha256[:]...)
		b = binary.AppendUvarint(b, uint64(p.from))
		b = binary.AppendUvarint(b, uint64(p.length))
		var flags uint64
		if p.control {
			flags |= 1
		}
		if p.removes {
			flags |= 2
		}
		b = binary.AppendUvarint(b, flags)
		b = appendString(b, p.name)
	}
	b = binary.LittleEndian.AppendUint32(b, uint32(len(b)))
	sum := crc32.Update(crc32.Checksum(indexStart(), castagnoli), castagnoli, b)
	return x.write(binary.LittleEndian.AppendUint32(b, sum))
}

// readIndex reads the table of an index of so many bytes.
func readIndex(r io.ReaderAt, size int64) (ps []piece, err error) {
	fail := func(what string) ([]piece, error) {
		return nil, fmt.Errorf("index of chunks: %s: %w", what, retention.ErrCorrupt)
	}
	start, tail := make([]byte, indexHead), make([]byte, indexTail)
	if size < indexHead+indexTail {
		return fail("cut off")
	}
	if _, err := r.ReadAt(start, 0); err != nil {
		return nil, fmt.Errorf("index of chunks: %w", err)
	}
	if string(start[:len(indexMagic)]) != indexMagic {
		return fail("is none")
	}
	if v := start[len(indexMagic)]; v < indexVersion {
		// It lives for a day at most. Without it, all that is under way is what may
		// have arrived, and is planned anew.
		return nil, fmt.Errorf("index of chunks: version %d, of an older program: %w", v, retention.ErrNotFound)
	} else if v > indexVersion {
		return nil, fmt.Errorf("index of chunks: version %d, this program reads up to %d: use the program that wrote it, or a newer one", v, indexVersion)
	}
	if _, err := r.ReadAt(tail, size-indexTail); err != nil && err != io.EOF {
		return nil, fmt.Errorf("index of chunks: %w", err)
	}
	length := int64(binary.LittleEndian.Uint32(tail))
	if length > size-indexHead-indexTail {
		return fail("a length is too large")
	}
	table := make([]byte, length, length+4)
	if _, err := r.ReadAt(table, size-indexTail-length); err != nil {
		return nil, fmt.Errorf("index of chunks: %w", err)
	}
	sum := crc32.Update(crc32.Checksum(start, castagnoli), castagnoli, append(table, tail[:4]...))
	if sum != binary.LittleEndian.Uint32(tail[4:]) {
		return fail("checksum does not match")
	}
	t := reader{b: table}
	for range t.uvarint(uint64(len(table))) {
		p := piece{bytes: int64(t.uvarint(1 << 50)), rows: t.uvarint(1 << 50)}
		copy(p.sha256[:], t.take(32))
		p.from, p.length = int64(t.uvarint(1<<50)), int64(t.uvarint(1<<50))
		flags := t.uvarint(3)
		p.control, p.removes = flags&1 != 0, flags&2 != 0
		p.name = string(t.take(t.uvarint(4096)))
		if t.err != nil {
			return nil, t.err
		}
		if p.length > 0 && (p.from < indexHead || p.from+p.length > size-indexTail-length) {
			return fail("a chunk lies outside")
		}
		ps = append(ps, p)
	}
	if t.err == nil && len(t.b) != 0 {
		t.fail("bytes behind its end")
	}
	return ps, t.err
}

// readSays reads what a chunk says.
func readSays(r io.ReaderAt, p *piece) (*Ledger, error) {
	if p.length == 0 {
		return NewLedger(), nil
	}
	b := make([]byte, p.length)
	if _, err := r.ReadAt(b, p.from); err != nil {
		return nil, fmt.Errorf("index of chunks: %w", err)
	}
	return unmarshalLedger(b)
}

// openIndex opens an index of chunks and reads its table. The caller closes it.
func (d *Deliverer) openIndex(ctx context.Context, dest taxonomy.DestinationID, name string) (retention.BlobReader, []piece, error) {
	r, err := d.o.Blobs.Open(ctx, folder(dest)+"/"+name)
	if err != nil {
		return nil, nil, fmt.Errorf("read %s: %w", name, err)
	}
	ps, err := readIndex(r, r.Blob().Bytes)
	if err != nil {
		r.Close()
		return nil, nil, fmt.Errorf("read %s: %w", name, err)
	}
	return r, ps, nil
}

// putChunks writes chunks and, while they are written, their index beside them.
//
// The rows are made in a goroutine that ends with this function: whichever side
// fails first closes the pipes on the others.
func (d *Deliverer) putChunks(ctx context.Context, dest taxonomy.DestinationID, p *pending, c *chunker, over taxonomy.Millis) (retention.Blob, error) {
	bodies, toBodies := io.Pipe()
	index, toIndex := io.Pipe()
	c.w, c.index = toBodies, &indexWriter{w: toIndex, shards: c.shards}
	var all errgroup.Group
	all.Go(func() error {
		stem, ext, _ := strings.Cut(p.File, ".")
		err := c.all(ctx, stem, "."+ext)
		if err == nil {
			err = c.index.end(c.pieces)
		}
		toBodies.CloseWithError(err)
		toIndex.CloseWithError(err)
		return err
	})
	enough := errors.New("the store took no more")
	put := func(name string, r *io.PipeReader) (retention.Blob, error) {
		blob, err := d.o.Blobs.Put(ctx, folder(dest)+"/"+name, over, r)
		r.CloseWithError(enough)
		return blob, err
	}
	var blob retention.Blob
	var putErr, indexErr error
	all.Go(func() error { _, indexErr = put(p.Index, index); return nil })
	all.Go(func() error { blob, putErr = put(p.File, bodies); return nil })
	// What a store says goes before what its closed pipe made of it.
	err := all.Wait()
	if errors.Is(err, enough) {
		err = nil
	}
	return blob, errors.Join(putErr, indexErr, err)
}
