package lint

import (
	"bytes"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

// prescribed is all that may stand at the top.
var prescribed = []string{
	"taxonomy", "retention", "segments", "lookalike", "tagserver", "cmd", "deploy",
	"go.mod", "go.sum", "LICENSE", "README.md",
	".ci", ".github", ".gitignore", ".editorconfig", ".gitattributes",
}

// untracked may lie there too: git's own, caches, and a built binary.
var untracked = []string{".git", ".cache", "ebb"}

// checkTop finds what lies at the top without a place there.
func checkTop(tree fs.FS) (out []finding, err error) {
	entries, err := fs.ReadDir(tree, ".")
	for _, e := range entries {
		if !slices.Contains(prescribed, e.Name()) && !slices.Contains(untracked, e.Name()) {
			out = append(out, finding{path: e.Name(), what: "has no place at the top; every folder there is one subject of the house, and this belongs in one of them"})
		}
	}
	return out, err
}

// checkReadmes finds folders with Go files, and folders of the house, that do
// not say why they are there.
func checkReadmes(tree fs.FS) (out []finding, err error) {
	need := make(map[string]bool)
	have := make(map[string]bool)
	err = walk(tree, func(name string) error {
		dir := path.Dir(name)
		if slices.Contains(line, top(dir)) {
			need[top(dir)] = true
		}
		switch {
		case path.Base(name) == "README.md":
			have[dir] = true
		case path.Ext(name) == ".go" && !slices.Contains(strings.Split(name, "/"), "testdata"):
			need[dir] = true
		}
		return nil
	})
	for dir := range need {
		if !have[dir] {
			out = append(out, finding{path: dir, what: "has no README.md; say why, its shape, and the decisions with their dates"})
		}
	}
	slices.SortFunc(out, func(a, b finding) int { return strings.Compare(a.path, b.path) })
	return out, err
}

// hostPaths are places of the machine that the project is built on. They are
// put together here so that this file does not hold them.
var hostPaths = [][]byte{[]byte("/work" + "/main"), []byte("/work" + "/shared"), []byte("/work" + "/."), []byte("../" + "shared"), []byte("SEMANTICS" + ".md")}

// checkHostPaths finds files that send a reader where only the builder can go.
func checkHostPaths(tree fs.FS) (out []finding, err error) {
	err = walk(tree, func(name string) error {
		built := path.Ext(name) == ".test" || path.Ext(name) == ".prof" // see .gitignore
		if built || !strings.Contains(name, "/") && slices.Contains(untracked, name) {
			return nil
		}
		b, err := fs.ReadFile(tree, name)
		if err != nil {
			return err
		}
		for _, p := range hostPaths {
			if i := bytes.Index(b, p); i >= 0 {
				out = append(out, finding{name, 1 + bytes.Count(b[:i], []byte("\n")), "names " + string(p) + ", which no reader has; say what stands there instead"})
			}
		}
		return nil
	})
	return out, err
}

// link is a target in Markdown, in the two forms that the project uses.
var link = regexp.MustCompile(`\]\(([^)\s]+)\)`)

// fenced is a block of code, in which brackets are not links.
var fenced = regexp.MustCompile("(?s)```.*?```|`[^`\n]*`")

// checkLinks finds links between the project's pages that lead nowhere. Those
// to other hosts are not looked at.
func checkLinks(tree fs.FS) (out []finding, err error) {
	err = walk(tree, func(name string) error {
		if path.Ext(name) != ".md" {
			return nil
		}
		b, err := fs.ReadFile(tree, name)
		if err != nil {
			return err
		}
		b = fenced.ReplaceAllFunc(b, func(code []byte) []byte { return bytes.Repeat([]byte("\n"), bytes.Count(code, []byte("\n"))) })
		for _, m := range link.FindAllSubmatchIndex(b, -1) {
			target, _, _ := strings.Cut(string(b[m[2]:m[3]]), "#")
			if target == "" || strings.Contains(target, ":") || strings.HasPrefix(target, "/") {
				continue // in this page, elsewhere, or an address of the server
			}
			if _, err := fs.Stat(tree, path.Join(path.Dir(name), target)); err != nil {
				out = append(out, finding{name, 1 + bytes.Count(b[:m[0]], []byte("\n")), "links to " + target + ", which is not there"})
			}
		}
		return nil
	})
	return out, err
}

// root is the top of the project.
func root(t *testing.T) fs.FS {
	t.Helper()
	dir, err := filepath.Abs("../../../..")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "go.mod")); err != nil {
		t.Fatalf("the top of the project is not where this test looks: %v", err)
	}
	return os.DirFS(dir)
}

// project parses the whole project, and makes sure that it did.
func project(t *testing.T) []source {
	t.Helper()
	sources, err := parse(root(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, folder := range []string{"taxonomy", "retention", "segments", "cmd"} {
		if !slices.ContainsFunc(sources, func(s source) bool { return below(s.dir(), folder) && !s.test }) {
			t.Fatalf("no Go files found in %s", folder)
		}
	}
	return sources
}

func TestEverythingHasItsPlace(t *testing.T) {
	tree := root(t)
	for name, check := range map[string]func(fs.FS) ([]finding, error){"top": checkTop, "readme": checkReadmes, "host": checkHostPaths, "links": checkLinks} {
		t.Run(name, func(t *testing.T) {
			found, err := check(tree)
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range found {
				t.Error(f)
			}
		})
	}
}

func TestPlaceLintFindsBreaches(t *testing.T) {
	text := func(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s)} }
	tree := fstest.MapFS{
		"README.md":               text("x"),
		"docs/a.md":               text("x"),
		"main.go":                 text("package main"),
		".git/config":             text(string(hostPaths[0])),
		".cache/x.go":             text("package x"),
		"taxonomy/a.go":           text("package a"),
		"retention/README.md":     text("x"),
		"retention/a.go":          text("package a"),
		"retention/log/a.go":      text("package a"),
		"retention/testdata/a.go": text("package a"),
		"tagserver/tag/a.js":      text("line\nsee " + string(hostPaths[1]) + "/x"),
		"deploy/README.md":        text("see " + string(hostPaths[3])),
	}
	check := func(f func(fs.FS) ([]finding, error), want ...string) {
		t.Helper()
		got, err := f(tree)
		if err != nil {
			t.Fatal(err)
		}
		expect(t, got, want...)
	}
	tree["lookalike/a.md"] = text("[a](../README.md#x) [b](https://x.example/y.md) [c](#d)\n`[e](f.md)`\n[g](h.md)\n```\n[i](j.md)\n```\n[k](../retention)\n")
	check(checkLinks, "lookalike/a.md:3: links to h.md")
	delete(tree, "lookalike/a.md")
	check(checkTop, "docs: ", "main.go: ")
	check(checkReadmes, "taxonomy: ", "retention/log: ", "tagserver: ")
	check(checkHostPaths, "tagserver/tag/a.js:2: ", "deploy/README.md:1: ")
}
