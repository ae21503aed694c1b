package lint

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"slices"
	"strings"
	"testing"
)

// module is the path that the project's own imports begin with.
const module = "github.com/ebb-dmp/ebb"

// source is one parsed Go file. Its path is relative to the top of the tree,
// with slashes.
type source struct {
	path string
	test bool
	fset *token.FileSet
	file *ast.File
}

func (s *source) dir() string { return path.Dir(s.path) }

func (s *source) line(p token.Pos) int { return s.fset.Position(p).Line }

// finding is one place that breaks a rule, and what to do.
type finding struct {
	path string
	line int // 0 for a whole file
	what string
}

func (f finding) String() string {
	if f.line == 0 {
		return f.path + ": " + f.what
	}
	return fmt.Sprintf("%s:%d: %s", f.path, f.line, f.what)
}

// leftBehind are folders that are no part of the project: what git, a build or
// a test leaves.
var leftBehind = []string{".git", ".cache", "node_modules"}

// walk calls visit for every file of the project.
func walk(tree fs.FS, visit func(name string) error) error {
	return fs.WalkDir(tree, ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && slices.Contains(leftBehind, d.Name()):
			return fs.SkipDir
		case d.IsDir():
			return nil
		}
		return visit(name)
	})
}

// parse reads every Go file of the module, for all systems and build tags, so
// that a rule holds also where the machine that runs the test does not build.
// Files of a nested module are left out, since they import on their own account.
//
// `go list` would be the obvious way; it sees only this system's files, and
// nothing at all where something does not compile.
func parse(tree fs.FS) ([]source, error) {
	var nested []string
	var out []source
	err := walk(tree, func(name string) error {
		if name != "go.mod" && path.Base(name) == "go.mod" {
			nested = append(nested, path.Dir(name)+"/")
		}
		if path.Ext(name) != ".go" || slices.Contains(strings.Split(name, "/"), "testdata") {
			return nil
		}
		b, err := fs.ReadFile(tree, name)
		if err != nil {
			return err
		}
		s := source{path: name, test: strings.HasSuffix(name, "_test.go"), fset: token.NewFileSet()}
		s.file, err = parser.ParseFile(s.fset, name, b, 0)
		if err != nil {
			return err
		}
		out = append(out, s)
		return nil
	})
	out = slices.DeleteFunc(out, func(s source) bool {
		return slices.ContainsFunc(nested, func(dir string) bool { return strings.HasPrefix(s.path, dir) })
	})
	return out, err
}

// below reports whether the folder is dir or lies in it.
func below(folder, dir string) bool {
	return folder == dir || strings.HasPrefix(folder, dir+"/")
}

func belowAny(folder string, dirs []string) bool {
	return slices.ContainsFunc(dirs, func(d string) bool { return below(folder, d) })
}

// expect fails unless the findings are exactly those that are wanted, each
// given as its beginning: a rule must find what breaks it, and nothing else.
func expect(t *testing.T, got []finding, want ...string) {
	t.Helper()
	for _, w := range want {
		if !slices.ContainsFunc(got, func(f finding) bool { return strings.HasPrefix(f.String(), w) }) {
			t.Errorf("not found: %s", w)
		}
	}
	for _, f := range got {
		if !slices.ContainsFunc(want, func(w string) bool { return strings.HasPrefix(f.String(), w) }) {
			t.Errorf("found what is no breach: %s", f)
		}
	}
}
