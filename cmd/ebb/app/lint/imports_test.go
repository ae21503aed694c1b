package lint

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
)

// line is the order of the folders: each imports only those before it. deploy
// runs the program from outside and stands at the end.
var line = []string{"taxonomy", "retention", "segments", "lookalike", "tagserver", "cmd", "deploy"}

// confined says which folders may import what, and why only they. Of several
// that a path begins with, the longest counts.
var confined = []struct {
	prefix string
	to     []string
	why    string
}{
	{"github.com/labstack/echo", []string{"tagserver"}, "HTTP is the edge's business"},
	{"github.com/danielgtaylor/huma", []string{"tagserver/api"}, "the API is described where it is answered"},
	{"github.com/gocql/gocql", []string{"retention/cassandra"}, "one engine speaks to Cassandra"},
	{"github.com/cockroachdb/pebble", []string{"retention/embedded", "retention/log", "retention/storetest"}, "others take retention/log's FS"},
	{"github.com/cockroachdb/pebble/v2/vfs", []string{"retention/embedded", "retention/log", "retention/storetest", "cmd/ebb/app"}, "app.Env names the real file system; others take retention/log's FS"},
	{"github.com/robfig/cron", []string{"cmd/ebb/app"}, "all schedules are in one place"},
	{"github.com/alecthomas/kong", []string{"cmd"}, "only the program has a command line"},
	{"go.yaml.in/yaml", []string{"cmd", "tagserver/api", "deploy"}, "YAML becomes plain structs at the rim"},
	{module + "/retention/embedded", []string{"retention", "cmd", "deploy"}, "only the wiring names an engine; others take the contracts"},
	{module + "/retention/cassandra", []string{"retention", "cmd", "deploy"}, "only the wiring names an engine; others take the contracts"},
}

// siblings are folders whose sub-folders do not know each other: engines,
// formats, transports. The wiring picks one.
var siblings = map[string][]string{
	"retention":                   {"embedded", "cassandra"},
	"segments/delivery/format":    nil, // all
	"segments/delivery/transport": nil,
}

// leaves are folders whose own package imports none of its sub-folders, so that
// their words stay the lowest of all.
var leaves = []string{"taxonomy", "retention"}

// checkImports holds the line and who may import what. Tests are freer: they
// may use what stands above them, except for the program.
func checkImports(sources []source) (out []finding) {
	for i := range sources {
		s := &sources[i]
		for _, spec := range s.file.Imports {
			target, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				continue // does not compile
			}
			if what := importFault(s, target); what != "" {
				out = append(out, finding{s.path, s.line(spec.Pos()), what})
			}
		}
	}
	return out
}

func importFault(s *source, target string) string {
	from := s.dir()
	own, isOwn := strings.CutPrefix(target, module)
	own = strings.TrimPrefix(own, "/")
	fromTop, ownTop := top(from), top(own)
	here, there := slices.Index(line, fromTop), slices.Index(line, ownTop)
	switch {
	case target == "C":
		return "uses cgo; the binary is built without"
	case isOwn && there < 0:
		return fmt.Sprintf("imports %s, which is none of the project's folders", target)
	case isOwn && here >= 0 && there > here && (!s.test || ownTop == "cmd" || ownTop == "deploy"):
		return fmt.Sprintf("imports %s; imports run along %s and never back: declare what you need where you need it, and let cmd/ebb/app pass it in", own, strings.Join(reversed(line), " → "))
	case s.test:
		return ""
	case fromTop == "taxonomy" && !isOwn && !standard(target):
		return fmt.Sprintf("imports %s; taxonomy has the standard library only", target)
	case isOwn && slices.Contains(leaves, from) && own != from && below(own, from):
		return fmt.Sprintf("imports %s; a sub-folder imports its parent, never the reverse", own)
	}
	longest := -1
	for i, c := range confined {
		if below(target, c.prefix) && (longest < 0 || len(c.prefix) > len(confined[longest].prefix)) {
			longest = i
		}
	}
	if longest >= 0 && !belowAny(from, confined[longest].to) {
		c := confined[longest]
		return fmt.Sprintf("imports %s, which is for %s only: %s", target, strings.Join(c.to, ", "), c.why)
	}
	for parent, names := range siblings {
		a, b := child(from, parent), child(own, parent)
		if isOwn && a != "" && b != "" && a != b && (names == nil || slices.Contains(names, a) && slices.Contains(names, b)) {
			return fmt.Sprintf("imports its sibling %s; what both need belongs in %s", own, parent)
		}
	}
	return ""
}

// top is the first folder of a path.
func top(dir string) string {
	t, _, _ := strings.Cut(dir, "/")
	return t
}

// child is the name of the folder directly below parent in which dir lies, or
// "".
func child(dir, parent string) string {
	rest, ok := strings.CutPrefix(dir, parent+"/")
	if !ok {
		return ""
	}
	return top(rest)
}

// standard tells the standard library as the go command does: its paths do not
// begin with a host name.
func standard(target string) bool { return !strings.Contains(top(target), ".") }

func reversed(s []string) []string {
	r := slices.Clone(s)
	slices.Reverse(r)
	return r
}

func TestImportsRunAlongTheLine(t *testing.T) {
	sources := project(t)
	for _, f := range checkImports(sources) {
		t.Error(f)
	}
}

// A planted breach of every rule is found, and what is allowed is not.
func TestImportLintFindsBreaches(t *testing.T) {
	tree := fstest.MapFS{}
	n := 0
	// plant writes a file of the folder that imports the target and returns the
	// beginning of its finding.
	plant := func(name, target string) string {
		n++
		file := fmt.Sprintf("%s_%02d%s", strings.TrimSuffix(name, path.Ext(name)), n, path.Ext(name))
		if strings.HasSuffix(name, "_test.go") {
			file = fmt.Sprintf("%s_%02d_test.go", strings.TrimSuffix(name, "_test.go"), n)
		}
		tree[file] = &fstest.MapFile{Data: []byte("package p\n\nimport _ \"" + target + "\"\n")}
		return file + ":3: "
	}
	own := func(dir string) string { return module + "/" + dir }
	want := []string{
		plant("taxonomy/a.go", own("retention")) + "imports retention; imports run along",
		plant("retention/log/a.go", own("segments/fold")) + "imports segments/fold; imports run along",
		plant("segments/fold/a.go", own("cmd/ebb/app")) + "imports cmd/ebb/app; imports run along",
		plant("segments/fold/a_test.go", own("cmd/ebb/app")) + "imports cmd/ebb/app; imports run along",
		plant("cmd/ebb/a.go", own("deploy/bench")) + "imports deploy/bench; imports run along",
		plant("segments/a.go", own("")) + "imports " + own(""),
		plant("segments/a.go", own("internal/x")) + "imports " + own("internal/x") + ", which is none",
		plant("taxonomy/rules/a.go", "github.com/RoaringBitmap/roaring/v2") + "imports github.com/RoaringBitmap/roaring/v2; taxonomy has the standard library only",
		plant("taxonomy/a.go", own("taxonomy/tree")) + "imports taxonomy/tree; a sub-folder imports its parent",
		plant("retention/a.go", own("retention/forget")) + "imports retention/forget; a sub-folder",
		plant("segments/a.go", "github.com/labstack/echo/v4") + "imports github.com/labstack/echo/v4, which is for tagserver only",
		plant("tagserver/a.go", "github.com/danielgtaylor/huma/v2") + "imports github.com/danielgtaylor/huma/v2, which is for tagserver/api only",
		plant("retention/embedded/a.go", "github.com/gocql/gocql") + "imports github.com/gocql/gocql, which is for",
		plant("segments/index/a.go", "github.com/cockroachdb/pebble/v2/vfs") + "imports github.com/cockroachdb/pebble/v2/vfs, which is for",
		plant("cmd/ebb/app/a.go", "github.com/cockroachdb/pebble/v2") + "imports github.com/cockroachdb/pebble/v2, which is for",
		plant("cmd/ebb/a.go", "github.com/robfig/cron/v3") + "imports github.com/robfig/cron/v3, which is for cmd/ebb/app only",
		plant("tagserver/a.go", "github.com/alecthomas/kong") + "imports github.com/alecthomas/kong, which is for cmd only",
		plant("segments/a.go", "go.yaml.in/yaml/v3") + "imports go.yaml.in/yaml/v3, which is for",
		plant("segments/fold/a.go", own("retention/embedded")) + "imports " + own("retention/embedded") + ", which is for",
		plant("retention/embedded/a.go", own("retention/cassandra")) + "imports its sibling retention/cassandra",
		plant("segments/delivery/format/tsv/a.go", own("segments/delivery/format/csv")) + "imports its sibling segments/delivery/format/csv",
		plant("retention/log/a.go", "C") + "uses cgo",
		// The system that this test runs on is not the only one.
		plant("segments/a_windows.go", own("tagserver")) + "imports tagserver; imports run along",
	}
	for _, allowed := range [][2]string{
		{"taxonomy/rules/a.go", own("taxonomy")},
		{"taxonomy/a.go", "crypto/sha256"},
		{"retention/a.go", own("taxonomy/keys")},
		{"retention/embedded/a.go", own("retention/log")},
		{"retention/embedded/a.go", "github.com/cockroachdb/pebble/v2"},
		{"tagserver/api/a.go", "github.com/danielgtaylor/huma/v2/adapters/humaecho"},
		{"tagserver/console/a.go", "github.com/labstack/echo/v4/middleware"},
		{"cmd/ebb/app/a.go", own("retention/embedded")},
		{"cmd/ebb/app/a.go", "github.com/robfig/cron/v3"},
		{"cmd/ebb/app/a.go", "github.com/cockroachdb/pebble/v2/vfs"},
		{"segments/a.go", "github.com/labstackx/echo"},
		{"deploy/bench/a.go", own("cmd/ebb/app")},
		{"retention/storetest/a_test.go", own("segments/fold")},
		{"segments/fold/a_test.go", own("retention/embedded")},
	} {
		plant(allowed[0], allowed[1])
	}
	sources, err := parse(tree)
	if err != nil {
		t.Fatal(err)
	}
	expect(t, checkImports(sources), want...)
}
