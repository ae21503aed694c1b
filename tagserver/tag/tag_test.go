// Package tag holds the browser tag: its source, what is served of it, and the
// tests that both fit. It has no code of its own; the edge embeds ebb.js.
package tag

import (
	"bytes"
	"compress/gzip"
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/evanw/esbuild/pkg/api"
)

//go:generate go test . -run TestTheTagIsBuiltFromItsSource -update

var update = flag.Bool("update", false, "write ebb.js anew")

// maxGzip is the gate of the tag's size, in bytes as a browser fetches it.
const maxGzip = 3072

// build minifies the source with esbuild as a library, so nobody needs Node.
func build(t *testing.T) []byte {
	t.Helper()
	src, err := os.ReadFile("src/ebb.js")
	if err != nil {
		t.Fatal(err)
	}
	r := api.Transform(string(src), api.TransformOptions{
		MinifyWhitespace: true, MinifyIdentifiers: true, MinifySyntax: true,
		Target: api.ES2017, LegalComments: api.LegalCommentsNone, Charset: api.CharsetASCII,
	})
	for _, m := range append(r.Errors, r.Warnings...) {
		t.Errorf("src/ebb.js:%d: %s", m.Location.Line, m.Text)
	}
	return r.Code
}

func TestTheTagIsBuiltFromItsSource(t *testing.T) {
	want := build(t)
	if *update {
		if err := os.WriteFile("ebb.js", want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile("ebb.js")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Fatal("ebb.js is not what src/ebb.js gives; run `go generate ./tagserver/tag`")
	}
}

func TestTheTagIsSmall(t *testing.T) {
	var b bytes.Buffer
	z, _ := gzip.NewWriterLevel(&b, gzip.BestCompression)
	z.Write(build(t))
	z.Close()
	t.Logf("%d bytes gzip", b.Len())
	if b.Len() > maxGzip {
		t.Errorf("the tag has %d bytes gzip, at most %d", b.Len(), maxGzip)
	}
}

// A strict content security policy forbids these, and so do we.
func TestTheTagUsesNothingThatAStrictPolicyForbids(t *testing.T) {
	code := string(build(t))
	for _, bad := range []string{"eval(", "Function(", "document.write", "innerHTML", ".cookie", "setAttribute(", "createElement"} {
		if strings.Contains(code, bad) {
			t.Errorf("the tag uses %s", bad)
		}
	}
}
