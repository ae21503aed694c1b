package api

import (
	"bufio"
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"fmt"
	"io"
)

// Spool is a file for the time of one request. Close removes it.
type Spool interface {
	io.Writer
	io.ReaderAt
	io.Closer
}

// spooled is a file that was uploaded, on disk because it must be read twice and
// may be larger than memory. A file of customers has their IDs in it, so what
// lies on disk is encrypted with a key that lives in this value alone: a crash
// leaves bytes that nobody can read.
type spooled struct {
	s     Spool
	block cipher.Block
	size  int64
	at    int64
}

// spool takes a part in whole.
func (a *API) spool(part io.Reader) (*spooled, error) {
	var key [32]byte
	if _, err := io.ReadFull(a.o.Rand, key[:]); err != nil {
		return nil, fmt.Errorf("draw the key of the spool: %w", err)
	}
	block, err := aes.NewCipher(key[:])
	if err != nil {
		return nil, fmt.Errorf("make the spool's cipher: %w", err)
	}
	in := newPlain(part, a.o.Limits.File, "form.file")
	s, err := a.o.Spool()
	if err != nil {
		return nil, fmt.Errorf("make the spool: %w", err)
	}
	f := &spooled{s: s, block: block}
	out := bufio.NewWriterSize(s, 64<<10)
	f.size, err = io.Copy(cipher.StreamWriter{S: f.stream(0), W: out}, in)
	if err == nil {
		err = out.Flush()
	}
	if in.err != nil {
		err = in.err
	}
	if err != nil {
		_ = f.Close() // the error before it is the one to tell
		return nil, err
	}
	return f, nil
}

// stream is the key stream from an offset on. The counter begins at 0, which is
// fine because every spool has a key of its own.
func (f *spooled) stream(offset int64) cipher.Stream {
	var iv [aes.BlockSize]byte
	binary.BigEndian.PutUint64(iv[8:], uint64(offset/aes.BlockSize))
	s := cipher.NewCTR(f.block, iv[:])
	var skip [aes.BlockSize]byte
	s.XORKeyStream(skip[:offset%aes.BlockSize], skip[:offset%aes.BlockSize])
	return s
}

// Read is io.Reader.
func (f *spooled) Read(b []byte) (int, error) {
	if f.at >= f.size {
		return 0, io.EOF
	}
	b = b[:min(int64(len(b)), f.size-f.at)]
	n, err := f.s.ReadAt(b, f.at)
	f.stream(f.at).XORKeyStream(b[:n], b[:n])
	f.at += int64(n)
	if err == io.EOF && n > 0 {
		err = nil
	}
	if err != nil {
		return n, fmt.Errorf("read the spool: %w", err)
	}
	return n, nil
}

// Seek is io.Seeker.
func (f *spooled) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += f.at
	case io.SeekEnd:
		offset += f.size
	}
	if offset < 0 {
		return f.at, fmt.Errorf("seek in the spool: offset %d is negative", offset)
	}
	f.at = offset
	return offset, nil
}

// Rewind goes to the start.
func (f *spooled) Rewind() error { _, err := f.Seek(0, io.SeekStart); return err }

// Close removes the file.
func (f *spooled) Close() error { return f.s.Close() }
