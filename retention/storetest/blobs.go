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
	"testing"
	"testing/iotest"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
	"pgregory.net/rapid"
)

// Blobs tests an engine of retention.Blobs.
func Blobs(t *testing.T, open Opener[retention.Blobs]) {
	t.Run("RandomOperationsAnswerAsTheModelDoes", func(t *testing.T) {
		rapid.Check(t, func(t *rapid.T) { randomBlobs(t, open) })
	})
	type B = *bench[retention.Blobs]

	statement(t, open, "ABlobComesBackAsItWasPut", func(b B) {
		for name, size := range map[string]int{"empty": 0, "a/one": 1, "a/b/large": 300_001, "a/even": 1 << 16} {
			content := make([]byte, size)
			for i := range content {
				content[i] = byte(i * i >> 3)
			}
			over := b.clock.Now() + taxonomy.OneDay
			blob, err := b.got.Put(b.ctx, name, over, bytes.NewReader(content))
			b.check(err)
			want := retention.Blob{Name: name, Bytes: int64(size), Over: over, SHA256: sha256.Sum256(content)}
			if blob != want {
				b.t.Fatalf("got %+v, want %+v", blob, want)
			}
			b.reopen()
			wantBlob(b, want, content)
		}
	})
	statement(t, open, "ReadingAtAnyPlaceIsAsReaderAtSays", func(b B) {
		content := []byte("0123456789")
		b.check(second(b.got.Put(b.ctx, "x", 0, bytes.NewReader(content))))
		r, err := b.got.Open(b.ctx, "x")
		b.check(err)
		defer r.Close()
		b.check(iotest.TestReader(io.NewSectionReader(r, 0, int64(len(content))), content))
		buf := make([]byte, 4)
		if n, err := r.ReadAt(buf, 8); n != 2 || err != io.EOF {
			b.t.Fatalf("reading past the end gave %d, %v; want 2, EOF", n, err)
		}
		if n, err := r.ReadAt(buf, 10); n != 0 || err != io.EOF {
			b.t.Fatalf("reading at the end gave %d, %v; want 0, EOF", n, err)
		}
	})
	statement(t, open, "AFolderAndThoseBelowItAreDeletedAtOnce", func(b B) {
		for i := range 20 {
			dir := fmt.Sprintf("generations/%d/", i)
			names := []string{dir + "manifest", dir + "members/one", dir + "members/more/two"}
			for _, name := range names {
				b.check(second(b.got.Put(b.ctx, name, 0, strings.NewReader(name))))
			}
			b.check(b.got.Delete(b.ctx, names))
		}
		left, err := b.got.List(b.ctx, "")
		b.check(err)
		if len(left) != 0 {
			b.t.Fatalf("%d blobs are left", len(left))
		}
	})
	statement(t, open, "ABlobIsImmutable", func(b B) {
		first, err := b.got.Put(b.ctx, "a/x", b.clock.Now()+taxonomy.Hour, strings.NewReader("first"))
		b.check(err)
		if _, err := b.got.Put(b.ctx, "a/x", b.clock.Now()+taxonomy.Hour, strings.NewReader("other")); err == nil || errors.Is(err, retention.ErrUnknown) {
			b.t.Fatalf("putting other bytes under the name gave %v, want an error", err)
		}
		b.reopen()
		wantBlob(b, first, []byte("first"))
	})
	statement(t, open, "PuttingAgainMayExtendTheLifeButNeverShortensIt", func(b B) {
		over := b.clock.Now() + 2*taxonomy.Hour
		for _, step := range []struct{ put, want taxonomy.Millis }{{over, over}, {over - taxonomy.Hour, over}, {over + 1, over + 1}, {0, 0}, {over, 0}} {
			blob, err := b.got.Put(b.ctx, "x", step.put, strings.NewReader("same"))
			b.check(err)
			if blob.Over != step.want {
				b.t.Fatalf("put with over %s: got over %s, want %s", step.put, blob.Over, step.want)
			}
			b.reopen()
			wantBlob(b, retention.Blob{Name: "x", Bytes: 4, Over: step.want, SHA256: sha256.Sum256([]byte("same"))}, []byte("same"))
		}
	})
	statement(t, open, "AFailedPutLeavesNothing", func(b B) {
		broken := errors.New("broken pipe")
		if _, err := b.got.Put(b.ctx, "a/x", 0, io.MultiReader(strings.NewReader(strings.Repeat("x", 100_000)), iotest.ErrReader(broken))); !errors.Is(err, broken) {
			b.t.Fatalf("got %v, want the reader's error", err)
		}
		wantNoBlob(b, "a/x")
		if l, err := b.got.List(b.ctx, ""); err != nil || len(l) != 0 {
			b.t.Fatalf("got %v, %v; want an empty list", l, err)
		}
		b.check(second(b.got.Put(b.ctx, "a/x", 0, strings.NewReader("whole"))))
	})
	statement(t, open, "AListIsOfAFolderAndThoseBelowByName", func(b B) {
		for _, n := range []string{"b", "a/2", "a/1", "a/b/1", "ab/1", "a-b/1", "a.b"} {
			b.check(second(b.got.Put(b.ctx, n, 0, strings.NewReader(n))))
		}
		b.reopen()
		for folder, want := range map[string][]string{
			"":     {"a-b/1", "a.b", "a/1", "a/2", "a/b/1", "ab/1", "b"},
			"a":    {"a/1", "a/2", "a/b/1"},
			"a/b":  {"a/b/1"},
			"b":    nil, // a blob is no folder
			"none": nil,
		} {
			l, err := b.got.List(b.ctx, folder)
			b.check(err)
			var got []string
			for _, blob := range l {
				got = append(got, blob.Name)
				if blob.Bytes != int64(len(blob.Name)) || blob.SHA256 != sha256.Sum256([]byte(blob.Name)) {
					b.t.Fatalf("the list says %+v", blob)
				}
			}
			if !slices.Equal(got, want) {
				b.t.Fatalf("folder %q: got %q, want %q", folder, got, want)
			}
		}
	})
	statement(t, open, "ADeletedBlobStaysReadableToWhoHasItOpen", func(b B) {
		content := bytes.Repeat([]byte("keep"), 50_000)
		b.check(second(b.got.Put(b.ctx, "a/x", 0, bytes.NewReader(content))))
		r, err := b.got.Open(b.ctx, "a/x")
		b.check(err)
		b.check(b.got.Delete(b.ctx, []string{"a/x", "a/never"}))
		b.check(b.got.Delete(b.ctx, []string{"a/x"}))
		wantNoBlob(b, "a/x")
		got, err := io.ReadAll(io.NewSectionReader(r, 0, r.Blob().Bytes))
		b.check(err)
		if !bytes.Equal(got, content) {
			b.t.Fatalf("got %d other bytes after the blob was deleted", len(got))
		}
		b.check(r.Close())
		b.reopen()
		wantNoBlob(b, "a/x")
		b.check(second(b.got.Put(b.ctx, "a/x", 0, strings.NewReader("another life"))))
	})
	statement(t, open, "ABadNameIsRefused", func(b B) {
		for _, name := range []string{"", "/", "a//b", "/a", "a/", "../x", "a/../b", "A", "a b", "a\x00", strings.Repeat("x", 65)} {
			if _, err := b.got.Put(b.ctx, name, 0, strings.NewReader("x")); err == nil {
				b.t.Fatalf("name %q was taken", name)
			}
		}
	})
	statement(t, open, "ManyMayPutTheSameAtOnce", func(b B) {
		var wg sync.WaitGroup
		errs := make([]error, 6)
		for g := range errs {
			wg.Go(func() {
				for i := range 5 {
					_, err := b.got.Put(b.ctx, fmt.Sprintf("f/%d", i), 0, strings.NewReader(strings.Repeat("same", 1000*i)))
					errs[g] = errors.Join(errs[g], err)
				}
			})
		}
		wg.Wait()
		b.check(errors.Join(errs...))
		if l, err := b.got.List(b.ctx, "f"); err != nil || len(l) != 5 {
			b.t.Fatalf("got %d blobs, %v; want 5", len(l), err)
		}
	})
	statement(t, open, "ACancelledContextIsHonoured", func(b B) {
		b.check(second(b.got.Put(b.ctx, "x", 0, strings.NewReader("x"))))
		ctx, cancel := context.WithCancel(b.ctx)
		cancel()
		for what, err := range map[string]error{
			"put":    second(b.got.Put(ctx, "y", 0, strings.NewReader("y"))),
			"open":   second(b.got.Open(ctx, "x")),
			"list":   second(b.got.List(ctx, "")),
			"delete": b.got.Delete(ctx, []string{"x"}),
		} {
			if !errors.Is(err, context.Canceled) {
				b.t.Fatalf("%s: got %v, want context.Canceled", what, err)
			}
		}
		wantNoBlob(b, "y")
	})
}

func wantBlob(b *bench[retention.Blobs], want retention.Blob, content []byte) {
	b.t.Helper()
	r, err := b.got.Open(b.ctx, want.Name)
	b.check(err)
	defer r.Close()
	if r.Blob() != want {
		b.t.Fatalf("got %+v, want %+v", r.Blob(), want)
	}
	got, err := io.ReadAll(io.NewSectionReader(r, 0, r.Blob().Bytes))
	b.check(err)
	if !bytes.Equal(got, content) {
		b.t.Fatalf("blob %s: got %d other bytes", want.Name, len(got))
	}
}

func wantNoBlob(b *bench[retention.Blobs], name string) {
	b.t.Helper()
	if _, err := b.got.Open(b.ctx, name); !errors.Is(err, retention.ErrNotFound) {
		b.t.Fatalf("opening %s gave %v, want not found", name, err)
	}
}

func randomBlobs(t *rapid.T, open Opener[retention.Blobs]) {
	b := open.open(t)
	defer b.close()
	want := b.want.Blobs()
	names := []string{"a", "a/b", "a/c", "b/a/a", "b"} // a is a blob and a folder
	for range rapid.IntRange(1, 30).Draw(t, "steps") {
		switch rapid.SampledFrom([]string{"put", "put", "open", "list", "delete", "reopen"}).Draw(t, "op") {
		case "put":
			name := rapid.SampledFrom(names).Draw(t, "name")
			content := strings.Repeat(rapid.SampledFrom([]string{"x", "y"}).Draw(t, "content"), rapid.IntRange(0, 3).Draw(t, "n"))
			var over taxonomy.Millis
			if rapid.IntRange(0, 3).Draw(t, "forever") > 0 {
				over = b.clock.Now() + taxonomy.Millis(rapid.Int64Range(1, 1000).Draw(t, "life"))
			}
			g, gerr := b.got.Put(b.ctx, name, over, strings.NewReader(content))
			w, werr := want.Put(b.ctx, name, over, strings.NewReader(content))
			if err := sameErr(gerr, werr); err != nil || g != w {
				t.Fatalf("put %s: got %+v, want %+v; %v", name, g, w, err)
			}
		case "open":
			name := rapid.SampledFrom(names).Draw(t, "name")
			w, err := want.Open(b.ctx, name)
			if err != nil {
				wantNoBlob(b, name)
				break
			}
			content, _ := io.ReadAll(io.NewSectionReader(w, 0, w.Blob().Bytes))
			wantBlob(b, w.Blob(), content)
		case "list":
			folder := rapid.SampledFrom([]string{"", "a", "b", "b/a"}).Draw(t, "folder")
			g, gerr := b.got.List(b.ctx, folder)
			w, werr := want.List(b.ctx, folder)
			if !slices.Equal(g, w) || gerr != nil || werr != nil {
				t.Fatalf("folder %q: got %+v, want %+v; %v, %v", folder, g, w, gerr, werr)
			}
		case "delete":
			gone := []string{rapid.SampledFrom(names).Draw(t, "name")}
			if err := sameErr(b.got.Delete(b.ctx, gone), want.Delete(b.ctx, gone)); err != nil {
				t.Fatal(err)
			}
		case "reopen":
			b.reopen()
		}
	}
}
