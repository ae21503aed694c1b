// Package gziptest unpacks what tests read: published files that are kept zipped,
// and files that partners get.
package gziptest

import (
	"bytes"
	"compress/gzip"
	"io"
	"io/fs"
)

// TB is as much of a test as is needed, so that properties and fuzz targets have it
// too.
type TB interface {
	Helper()
	Fatalf(format string, args ...any)
}

// Plain returns what was zipped, whole, or fails the test.
func Plain(t TB, zipped []byte) []byte {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(zipped))
	if err != nil {
		t.Fatalf("gunzip: %v", err)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		t.Fatalf("gunzip: %v", err)
	}
	return b
}

// File returns what was zipped into a file.
func File(t TB, dir fs.FS, name string) []byte {
	t.Helper()
	b, err := fs.ReadFile(dir, name)
	if err != nil {
		t.Fatalf("gunzip: %v", err)
	}
	return Plain(t, b)
}
