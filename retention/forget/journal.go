package forget

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	iofs "io/fs"
	"sync"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/retention/log"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// Entry is one erasure as the journal keeps it: never the visitor's key, only
// HMAC(erasure key, visitor key), cut to 16 bytes (R24).
type Entry struct {
	Hash  [16]byte
	Space taxonomy.Space
	At    taxonomy.Millis
}

// Journal is erasures.journal: every erasure, so that a restored backup can be
// told whom it must not bring back (R29). It lies beside the data, and on a
// second path if one is configured, since it must outlive what it protects.
//
// The file: magic "EBBERASE" · version u32 = 1; then entries: length of what
// follows u16 · hash 16 bytes · time i64 · space · CRC-32C of the entry from its
// length on, u32. Little endian. A tail that was cut off by a crash is cut at
// the last whole entry; anything else that does not fit is retention.ErrCorrupt.
//
// It is safe for concurrent use.
type Journal struct {
	mu    sync.Mutex
	files []journalFile
	have  map[[16]byte]Entry // the newest by hash
	err   error              // why nothing more may be appended
}

type journalFile struct {
	path string
	f    file
}

// file is what the journal needs of an open file.
type file interface {
	io.Writer
	Sync() error
	Close() error
}

const (
	journalMagic  = "EBBERASE"
	journalHeader = 12
	entryMin      = 16 + 8
	entryMax      = entryMin + 64
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// OpenJournal opens the journal on each path, making what is not there, and
// brings all of them to the union of their entries.
func OpenJournal(fs log.FS, paths ...string) (*Journal, error) {
	if len(paths) == 0 {
		return nil, errors.New("open the journal of erasures: no path")
	}
	j := &Journal{have: map[[16]byte]Entry{}}
	for _, p := range paths {
		entries, err := ReadJournal(fs, p)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			newest(j.have, e)
		}
	}
	for _, p := range paths {
		// Writing it whole, beside, and renaming it cuts a torn tail, adds what
		// only another path has, and is there whole or not at all.
		f, err := rewriteJournal(fs, p, j.have)
		if err != nil {
			return nil, errors.Join(err, j.Close())
		}
		j.files = append(j.files, journalFile{p, f})
	}
	return j, nil
}

func newest(m map[[16]byte]Entry, e Entry) {
	if have, ok := m[e.Hash]; !ok || have.At < e.At {
		m[e.Hash] = e
	}
}

// ReadJournal reads the entries of a journal, in order; none if there is no
// file. A file that cannot be read is an error, and never a journal of nothing:
// it would be written over, and whom it names could come back.
func ReadJournal(fs log.FS, path string) ([]Entry, error) {
	f, err := fs.Open(path)
	if errors.Is(err, iofs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the journal of erasures: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil {
		return nil, fmt.Errorf("read the journal of erasures: %w", err)
	}
	entries, err := parseJournal(b)
	if err != nil {
		return nil, fmt.Errorf("journal of erasures %s: %w; use the copy on the second path, or a copy from a backup", path, err)
	}
	return entries, nil
}

func parseJournal(b []byte) ([]Entry, error) {
	// The file came here by a rename, whole: no crash leaves less than a header.
	if len(b) < journalHeader || string(b[:8]) != journalMagic {
		return nil, fmt.Errorf("%w: it is no journal of erasures", retention.ErrCorrupt)
	}
	if v := binary.LittleEndian.Uint32(b[8:]); v != 1 {
		return nil, fmt.Errorf("%w: it has version %d, this program reads 1; use the newer program", retention.ErrCorrupt, v)
	}
	var entries []Entry
	for rest := b[journalHeader:]; len(rest) > 0; {
		e, n, ok := parseEntry(rest)
		if !ok {
			// A torn tail has nothing readable behind it.
			for i := 1; i < len(rest); i++ {
				if _, _, ok := parseEntry(rest[i:]); ok {
					return nil, fmt.Errorf("%w: an entry at byte %d is damaged", retention.ErrCorrupt, len(b)-len(rest))
				}
			}
			break
		}
		entries = append(entries, e)
		rest = rest[n:]
	}
	return entries, nil
}

func parseEntry(b []byte) (e Entry, n int, ok bool) {
	if len(b) < 2 {
		return e, 0, false
	}
	n = int(binary.LittleEndian.Uint16(b))
	if n < entryMin || n > entryMax || len(b) < 2+n+4 {
		return e, 0, false
	}
	if crc32.Checksum(b[:2+n], castagnoli) != binary.LittleEndian.Uint32(b[2+n:]) {
		return e, 0, false
	}
	copy(e.Hash[:], b[2:])
	e.At = taxonomy.Millis(binary.LittleEndian.Uint64(b[18:]))
	e.Space = taxonomy.Space(b[26 : 2+n])
	return e, 2 + n + 4, true
}

func appendEntry(b []byte, e Entry) []byte {
	from := len(b)
	b = binary.LittleEndian.AppendUint16(b, uint16(entryMin+len(e.Space)))
	b = append(b, e.Hash[:]...)
	b = binary.LittleEndian.AppendUint64(b, uint64(e.At))
	b = append(b, e.Space...)
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b[from:], castagnoli))
}

// rewriteJournal writes a journal of the entries and returns it open at its end.
func rewriteJournal(fs log.FS, path string, entries map[[16]byte]Entry) (file, error) {
	b := binary.LittleEndian.AppendUint32([]byte(journalMagic), 1)
	for _, e := range sortedEntries(entries) {
		b = appendEntry(b, e)
	}
	tmp := path + ".tmp"
	f, err := fs.Create(tmp, "")
	if err != nil {
		return nil, fmt.Errorf("write the journal of erasures: %w", err)
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = fs.Rename(tmp, path)
	}
	if err == nil {
		err = syncDir(fs, fs.PathDir(path))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("write the journal of erasures: %w", err), f.Close())
	}
	return f, nil
}

func syncDir(fs log.FS, dir string) error {
	d, err := fs.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Append adds erasures, durably and on every path. What is there already is not
// added again. After a failed write the journal takes no more until it is opened
// anew: whether the tail is whole cannot be known.
func (j *Journal) Append(ctx context.Context, entries []Entry) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.err != nil {
		return j.err
	}
	var b []byte
	var fresh []Entry
	for _, e := range entries {
		if len(e.Space) > entryMax-entryMin {
			return fmt.Errorf("append to the journal of erasures: a space has %d bytes, at most %d", len(e.Space), entryMax-entryMin)
		}
		if have, ok := j.have[e.Hash]; !ok || have.At < e.At {
			b = appendEntry(b, e)
			fresh = append(fresh, e)
		}
	}
	if len(b) == 0 {
		return nil
	}
	for _, f := range j.files {
		_, err := f.f.Write(bytes.Clone(b)) // a file may change the bytes that it writes
		if err == nil {
			err = f.f.Sync()
		}
		if err != nil {
			j.err = fmt.Errorf("append to the journal of erasures %s: %w; restart after mending the disk", f.path, err)
			return j.err
		}
	}
	for _, e := range fresh {
		newest(j.have, e)
	}
	return nil
}

// Entries returns the newest entry of each hash, by time.
func (j *Journal) Entries() []Entry {
	j.mu.Lock()
	defer j.mu.Unlock()
	return sortedEntries(j.have)
}

// Close closes the files.
func (j *Journal) Close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	var errs []error
	for _, f := range j.files {
		errs = append(errs, f.f.Close())
	}
	j.files, j.err = nil, retention.ErrClosed
	return errors.Join(errs...)
}
