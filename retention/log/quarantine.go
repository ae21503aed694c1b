package log

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"strings"

	"github.com/cockroachdb/errors/oserror"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// Problem is something wrong that was found in the log's files.
type Problem struct {
	Writer taxonomy.WriterID
	Group  taxonomy.Group
	// First and Last are the numbers of the records that are lost. Last is less
	// than First if none are, because what is damaged held none.
	First, Last uint64
	// Counts is the lost events by site, as far as they are known.
	Counts []retention.SiteCount
	// Torn: what a crash left half-written, which is no fault and is cut. The
	// alert is on all others.
	Torn   bool
	Reason string
	// File, Offset and Bytes say where it stands; Kept is the file that the bytes
	// were copied to, "" if they were not.
	File          string
	Offset, Bytes int64
	Kept          string
	At            taxonomy.Millis
}

// A quarantine file, little endian:
//
//	0   "EBBBAD\r\n"
//	8   version u16 · group u16 · length of the place u32
//	16  when it was taken, ms i64
//	24  CRC-32C of the bytes below u32 · CRC-32C of bytes 0 to 27 u32
//	32  the place (path and offset), then the damaged bytes
var badMagic = []byte("EBBBAD\r\n")

const (
	badHeader = 32
	badSuffix = ".bad"
)

// Problems returns what was found wrong since Open, and what was quarantined
// before it and is still kept. The caller owns it.
func (l *Log) Problems() []Problem {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.problems)
}

// damaged reports a problem, once, and keeps the bytes. from is where they can
// be read, nil if there are none to keep. That they could not be kept does not
// stop anyone from reading on.
func (g *group) damaged(p Problem, from *walker) {
	l := g.l
	p.At = l.o.Now()
	l.mu.Lock()
	at := slices.IndexFunc(l.problems, func(o Problem) bool {
		return o.Writer == p.Writer && o.Group == p.Group && o.First == p.First && o.Last == p.Last && (o.Offset == p.Offset && o.Reason == p.Reason || o.Kept == l.badPath(p))
	})
	if at < 0 {
		l.problems = append(l.problems, p)
	}
	l.mu.Unlock()
	if at >= 0 {
		return
	}
	attrs := []any{"writer", p.Writer, "group", p.Group, "file", p.File, "offset", p.Offset, "bytes", p.Bytes, "reason", p.Reason}
	if p.Torn {
		l.logger.Warn("cut what a crash left half-written at the end of the log", attrs...)
		return
	}
	if from != nil {
		kept, err := l.keep(p, from)
		if err != nil {
			attrs = append(attrs, "not_kept", err)
		} else {
			l.mu.Lock()
			for i := range l.problems {
				if o := &l.problems[i]; o.Writer == p.Writer && o.Group == p.Group && o.First == p.First && o.Last == p.Last && o.Offset == p.Offset {
					o.Kept = kept
				}
			}
			l.mu.Unlock()
			attrs = append(attrs, "kept", kept)
		}
	}
	l.logger.Error("the log is damaged; what is lost is counted, the rest goes on", append(attrs, "first", p.First, "last", p.Last)...)
}

func (l *Log) badPath(p Problem) string {
	return l.o.FS.PathJoin(l.o.Dir, quarantine, fmt.Sprintf("%s-%04x-%d-%d%s", p.Writer, uint16(p.Group), p.First, p.Last, badSuffix))
}

// keep copies the damaged bytes to a file of their own, durably.
func (l *Log) keep(p Problem, from *walker) (string, error) {
	fs, path := l.o.FS, l.badPath(p)
	if _, err := fs.Stat(path); err == nil {
		return path, nil
	}
	bad := make([]byte, min(p.Bytes, 2*maxBatch))
	n, err := from.f.ReadAt(bad, p.Offset)
	if err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	where := fmt.Sprintf("%s@%d", p.File, p.Offset)
	body := append([]byte(where), bad[:n]...)
	b := append([]byte(nil), badMagic...)
	b = binary.LittleEndian.AppendUint16(b, version)
	b = binary.LittleEndian.AppendUint16(b, uint16(p.Group))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(where)))
	b = binary.LittleEndian.AppendUint64(b, uint64(p.At))
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(body, castagnoli))
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))

	dir := fs.PathDir(path)
	if err := fs.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	if err := syncDir(fs, l.o.Dir); err != nil {
		return "", err
	}
	f, err := fs.Create(path+tmpSuffix, vfs.WriteCategoryUnspecified)
	if err != nil {
		return "", err
	}
	_, err = f.Write(append(b, body...))
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return "", errors.Join(err, fs.Remove(path+tmpSuffix))
	}
	if err := fs.Rename(path+tmpSuffix, path); err != nil {
		return "", err
	}
	return path, syncDir(fs, dir)
}

// loadQuarantine finds what earlier processes kept.
func (l *Log) loadQuarantine() error {
	fs, dir := l.o.FS, l.o.FS.PathJoin(l.o.Dir, quarantine)
	names, err := fs.List(dir)
	if oserror.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	slices.Sort(names)
	for _, name := range names {
		path := fs.PathJoin(dir, name)
		if strings.HasSuffix(name, tmpSuffix) {
			if err := remove(fs, path); err != nil {
				return err
			}
			continue
		}
		if !strings.HasSuffix(name, badSuffix) {
			continue
		}
		// A damaged or foreign header gives time 0: the audit shows it as the
		// oldest thing there is, and the next expiry removes it.
		p := Problem{Kept: path, Reason: "quarantined before this start"}
		if w, rest, ok := strings.Cut(strings.TrimSuffix(name, badSuffix), "-"); ok {
			p.Writer, _ = taxonomy.ParseWriterID(w)
			_, _ = fmt.Sscanf(rest, "%04x-%d-%d", &p.Group, &p.First, &p.Last)
		}
		b, err := readFile(fs, path)
		if err != nil {
			return err
		}
		if at, where, bad, ok := parseBad(b); ok {
			p.At, p.File, p.Bytes = at, where, int64(len(bad))
		}
		l.problems = append(l.problems, p)
	}
	return nil
}

func parseBad(b []byte) (at taxonomy.Millis, where string, bad []byte, ok bool) {
	if len(b) < badHeader || string(b[:8]) != string(badMagic) ||
		crc32.Checksum(b[:28], castagnoli) != binary.LittleEndian.Uint32(b[28:]) ||
		crc32.Checksum(b[badHeader:], castagnoli) != binary.LittleEndian.Uint32(b[24:]) {
		return 0, "", nil, false
	}
	n := binary.LittleEndian.Uint32(b[12:])
	body := b[badHeader:]
	if binary.LittleEndian.Uint16(b[8:]) != version || int64(n) > int64(len(body)) {
		return 0, "", nil, false
	}
	return taxonomy.Millis(binary.LittleEndian.Uint64(b[16:])), string(body[:n]), body[n:], true
}

func readFile(fs FS, path string) ([]byte, error) {
	f, err := fs.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(f)
}

// ExpireQuarantine removes damaged bytes that were kept before the given
// instant. They may hold keys of visitors that were erased since, and nothing
// can be erased within them: so they do not stay longer than a few nights.
func (l *Log) ExpireQuarantine(before taxonomy.Millis) error {
	l.mu.Lock()
	old := slices.Clone(l.problems)
	l.mu.Unlock()
	removed := make(map[string]bool)
	for _, p := range old {
		if p.Kept != "" && p.At < before {
			if err := remove(l.o.FS, p.Kept); err != nil {
				return fmt.Errorf("expire quarantine: %w", err)
			}
			removed[p.Kept] = true
		}
	}
	if len(removed) == 0 {
		return nil
	}
	l.mu.Lock()
	for i := range l.problems {
		if removed[l.problems[i].Kept] {
			l.problems[i].Kept = ""
		}
	}
	l.mu.Unlock()
	if err := syncDir(l.o.FS, l.o.FS.PathJoin(l.o.Dir, quarantine)); err != nil {
		return fmt.Errorf("expire quarantine: %w", err)
	}
	return nil
}
