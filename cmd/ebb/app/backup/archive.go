package backup

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"slices"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/retention/log"
)

// blockSize is tar's.
const blockSize = 512

// Write writes a backup of the files in dir, which must not change meanwhile,
// and returns the manifest with the files. They are read twice: their hashes
// stand before them, so that whoever reads the archive knows from the start what
// must come. It is not compressed: what is in a data directory is already, and
// a damaged byte spoils one file and none behind it.
func Write(ctx context.Context, w io.Writer, fs log.FS, dir string, m Manifest) (*Manifest, error) {
	m.Files = nil
	for _, p := range parts {
		if err := list(fs, dir, p, &m.Files); err != nil {
			return nil, fmt.Errorf("write a backup: %w", err)
		}
	}
	for i := range m.Files {
		f := &m.Files[i]
		h := sha256.New()
		n, err := pour(ctx, h, fs, fs.PathJoin(dir, f.Name))
		if err != nil {
			return nil, fmt.Errorf("write a backup: read %s: %w", f.Name, err)
		}
		f.Bytes, f.SHA256 = n, hex.EncodeToString(h.Sum(nil))
	}
	b, err := m.encode()
	if err != nil {
		return nil, err
	}
	out := bufio.NewWriterSize(w, 256<<10)
	entry := func(name string, size int64, content func() (int64, error)) error {
		h, err := header(name, size)
		if err == nil {
			_, err = out.Write(h)
		}
		if err != nil {
			return err
		}
		n, err := content()
		if err == nil && n != size {
			err = fmt.Errorf("%s changed while it was read", name)
		}
		if err == nil {
			_, err = out.Write(make([]byte, padding(size)))
		}
		return err
	}
	err = entry(manifestName, int64(len(b)), func() (int64, error) { n, err := out.Write(b); return int64(n), err })
	for i := range m.Files {
		if err != nil {
			break
		}
		f := &m.Files[i]
		err = entry(f.Name, f.Bytes, func() (int64, error) { return pour(ctx, out, fs, fs.PathJoin(dir, f.Name)) })
	}
	if err == nil {
		_, err = out.Write(make([]byte, 2*blockSize))
	}
	if err == nil {
		err = out.Flush()
	}
	if err != nil {
		return nil, fmt.Errorf("write a backup: %w", err)
	}
	return &m, nil
}

// list appends the files at and below name.
func list(fs log.FS, dir, name string, files *[]File) error {
	at := fs.PathJoin(dir, name)
	info, err := fs.Stat(at)
	if errors.Is(err, iofs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if !info.IsDir() {
		*files = append(*files, File{Name: name})
		return nil
	}
	names, err := fs.List(at)
	if err != nil {
		return err
	}
	slices.Sort(names)
	for _, n := range names {
		if err := list(fs, dir, name+"/"+n, files); err != nil {
			return err
		}
	}
	return nil
}

func pour(ctx context.Context, w io.Writer, fs log.FS, path string) (int64, error) {
	f, err := fs.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	return io.Copy(w, withContext{ctx, f})
}

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

// header is the bytes that stand before a file: always the same for a name and a
// size, so that a reader can compare them whole.
func header(name string, size int64) ([]byte, error) {
	var b bytes.Buffer
	err := tar.NewWriter(&b).WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o600})
	return b.Bytes(), err
}

func padding(size int64) int64 { return -size & (blockSize - 1) }

// Fault is a file of a backup that is not as it was written.
type Fault struct {
	File string `json:"file"`
	What string `json:"what"`
}

// Damage is the error of a backup that has faults. It is retention.ErrCorrupt.
type Damage struct{ Faults []Fault }

func (d *Damage) Error() string {
	f := d.Faults[0]
	if len(d.Faults) == 1 {
		return fmt.Sprintf("the backup is damaged: %s: %s", f.File, f.What)
	}
	return fmt.Sprintf("the backup is damaged in %d places, the first is %s: %s", len(d.Faults), f.File, f.What)
}

// Unwrap makes it retention.ErrCorrupt.
func (d *Damage) Unwrap() error { return retention.ErrCorrupt }

// maxFaults is how many faults are named.
const maxFaults = 100

// Verify reads a backup to its end and checks every byte. A *Damage names the
// files that are bad; the manifest is returned beside it if it could be read.
func Verify(r io.Reader) (*Manifest, error) {
	return Read(r, nil, func(*File) (io.WriteCloser, error) { return discard{}, nil })
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }
func (discard) Close() error                { return nil }

// Read is Verify that hands the files on: accept is told the manifest before the
// first file and may refuse; create is called for each file, and what it returns
// is closed behind the last byte. What was handed on is good only if no error is
// returned.
func Read(r io.Reader, accept func(*Manifest) error, create func(*File) (io.WriteCloser, error)) (*Manifest, error) {
	x := &reader{r: bufio.NewReaderSize(r, 256<<10)}
	m, err := x.manifest()
	if err != nil {
		return nil, err
	}
	if accept != nil {
		if err := accept(m); err != nil {
			return m, err
		}
	}
	for i := range m.Files {
		f := &m.Files[i]
		if x.cut {
			x.fault(f.Name, "is missing: the backup ends before it")
			continue
		}
		if err := x.file(f, create); err != nil {
			return m, err
		}
	}
	if !x.cut {
		end := make([]byte, 2*blockSize+1)
		n, err := io.ReadFull(x.r, end)
		if err != io.ErrUnexpectedEOF && err != io.EOF && err != nil {
			return m, fmt.Errorf("read a backup: %w", err)
		}
		if n != 2*blockSize || !zero(end[:n]) {
			x.fault("end of the archive", "is not what was written there")
		}
	}
	if len(x.faults) > 0 {
		return m, &Damage{x.faults}
	}
	return m, nil
}

type reader struct {
	r      *bufio.Reader
	cut    bool // the archive ended too early
	faults []Fault
}

func (x *reader) fault(file, what string) {
	if len(x.faults) < maxFaults {
		x.faults = append(x.faults, Fault{file, what})
	}
}

// manifest reads the first entry.
func (x *reader) manifest() (*Manifest, error) {
	damaged := func(what string) error { return &Damage{[]Fault{{manifestName, what}}} }
	block, err := x.r.Peek(blockSize)
	if err != nil && err != io.EOF {
		return nil, fmt.Errorf("read a backup: %w", err)
	}
	h, err := tar.NewReader(bytes.NewReader(block)).Next()
	if err != nil || h.Name != manifestName || h.Size < 0 || h.Size > maxManifest {
		return nil, damaged("the file does not begin as a backup of Ebb; is it one?")
	}
	want, err := header(manifestName, h.Size)
	if err != nil || !bytes.Equal(block, want) {
		return nil, damaged("its header is not what was written there")
	}
	b, err := io.ReadAll(io.LimitReader(x.r, int64(len(want))+h.Size+padding(h.Size)))
	if err != nil {
		return nil, fmt.Errorf("read a backup: %w", err)
	}
	b = b[len(want):]
	if int64(len(b)) != h.Size+padding(h.Size) {
		return nil, damaged("the backup ends within it")
	}
	m, err := parseManifest(b[:h.Size])
	if errors.Is(err, retention.ErrCorrupt) {
		return nil, damaged(err.Error())
	}
	if err != nil {
		return nil, err
	}
	if !zero(b[h.Size:]) {
		x.fault(manifestName, "what stands behind it is not what was written there")
	}
	return m, nil
}

func zero(b []byte) bool { return len(bytes.Trim(b, "\x00")) == 0 }

// file reads one entry. Errors are those of reading and of create; what is wrong
// with the file is a fault.
func (x *reader) file(f *File, create func(*File) (io.WriteCloser, error)) (err error) {
	want, err := header(f.Name, f.Bytes)
	if err != nil {
		return fmt.Errorf("read a backup: %s: %w", f.Name, err)
	}
	got := make([]byte, len(want))
	if _, err := io.ReadFull(x.r, got); err != nil {
		return x.short(f, err)
	}
	if !bytes.Equal(got, want) {
		x.fault(f.Name, "its header is not what was written there")
	}
	w, err := create(f)
	if err != nil {
		return err
	}
	h := sha256.New()
	_, err = io.CopyN(io.MultiWriter(h, w), x.r, f.Bytes)
	if cerr := w.Close(); err == nil && cerr != nil {
		return cerr
	}
	if err != nil {
		return x.short(f, err)
	}
	if hex.EncodeToString(h.Sum(nil)) != f.SHA256 {
		x.fault(f.Name, "its bytes do not match their SHA-256")
	}
	pad := make([]byte, padding(f.Bytes))
	if _, err := io.ReadFull(x.r, pad); err != nil {
		return x.short(f, err)
	}
	if !zero(pad) {
		x.fault(f.Name, "what stands behind it is not what was written there")
	}
	return nil
}

func (x *reader) short(f *File, err error) error {
	if err != io.EOF && err != io.ErrUnexpectedEOF {
		return fmt.Errorf("read a backup: %s: %w", f.Name, err)
	}
	x.cut = true
	x.fault(f.Name, "the backup ends within it")
	return nil
}
