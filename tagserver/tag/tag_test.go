// Package tag holds the browser tag: its source, what is served of it, and the
// tests that both fit. It has no code of its own; the edge embeds ebb.js.
package tag

import (
	"bytes"
	"compress/gzip"
	"crypto/sha512"
	"encoding/base64"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/evanw/esbuild/pkg/api"
)

//go:generate go test . -run TestTheTagIsBuiltFromItsSource -update

var update = flag.Bool("update", false, "write what is served anew")

// files are what is served, and the gates of their sizes, in bytes as a browser
// fetches them.
var files = map[string]int{"ebb": 3072, "ads": 1024, "shop": 1280}

// build bundles and minifies a source with esbuild as a library, so nobody
// needs Node.
func build(t *testing.T, name string) []byte {
	t.Helper()
	r := api.Build(api.BuildOptions{
		EntryPoints: []string{"src/" + name + ".ts"}, Bundle: true, Format: api.FormatIIFE, Outfile: name + ".js",
		MinifyWhitespace: true, MinifyIdentifiers: true, MinifySyntax: true,
		Target: api.ES2020, LegalComments: api.LegalCommentsNone, Charset: api.CharsetASCII,
	})
	for _, m := range append(r.Errors, r.Warnings...) {
		t.Errorf("%s:%d: %s", m.Location.File, m.Location.Line, m.Text)
	}
	if len(r.OutputFiles) != 1 {
		t.Fatal("esbuild gave no bundle")
	}
	return r.OutputFiles[0].Contents
}

func TestTheTagIsBuiltFromItsSource(t *testing.T) {
	for name := range files {
		want := build(t, name)
		file := "frozen/" + version(t) + "/" + name + ".js"
		if *update {
			if err := os.WriteFile(file, want, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		got, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Fatalf("%s is not what src/ gives; run `go generate ./tagserver/tag`", file)
		}
	}
}

// version is that of the source.
func version(t *testing.T) string {
	t.Helper()
	src, err := os.ReadFile("src/ebb.ts")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`ebb\.v = '(\d+\.\d+\.\d+)'`).FindSubmatch(src)
	if m == nil {
		t.Fatal("src/ebb.ts says no version")
	}
	return string(m[1])
}

// A page that names an integrity hash breaks if a released file changes: a
// change is a new version, in a folder of its own, with its lines in SHA384.
func TestReleasedFilesNeverChange(t *testing.T) {
	sums, err := os.ReadFile("frozen/SHA384")
	if err != nil {
		t.Fatal(err)
	}
	var have strings.Builder
	err = fs.WalkDir(os.DirFS("frozen"), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || name == "SHA384" {
			return err
		}
		b, err := os.ReadFile("frozen/" + name)
		if err != nil {
			return err
		}
		sum := sha512.Sum384(b)
		fmt.Fprintf(&have, "sha384-%s  %s\n", base64.StdEncoding.EncodeToString(sum[:]), name)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if have.String() != string(sums) {
		t.Errorf("frozen/ holds\n%sand SHA384 says\n%s", have.String(), sums)
	}
}

func TestTheTagIsSmall(t *testing.T) {
	for name, gate := range files {
		var b bytes.Buffer
		z, _ := gzip.NewWriterLevel(&b, gzip.BestCompression)
		z.Write(build(t, name))
		z.Close()
		t.Logf("%s.js: %d bytes gzip, gate %d", name, b.Len(), gate)
		if b.Len() > gate {
			t.Errorf("%s.js has %d bytes gzip, at most %d", name, b.Len(), gate)
		}
	}
}

// A strict content security policy forbids these, and so do we.
func TestTheTagUsesNothingThatAStrictPolicyForbids(t *testing.T) {
	code := string(build(t, "ebb")) + string(build(t, "ads")) + string(build(t, "shop"))
	for _, bad := range []string{"eval(", "Function(", "document.write", "innerHTML", ".cookie", "setAttribute(", "createElement"} {
		if strings.Contains(code, bad) {
			t.Errorf("the tag uses %s", bad)
		}
	}
}
