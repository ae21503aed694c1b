package lint

import (
	"fmt"
	"go/ast"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
)

// seam is a way out of the program that is handed down as a value, so that one
// simulator can stand in for the world.
type seam struct {
	what string // to do instead
	uses func(name string) bool
}

func only(names ...string) func(string) bool {
	return func(name string) bool { return slices.Contains(names, name) }
}

func except(names ...string) func(string) bool {
	return func(name string) bool { return !slices.Contains(names, name) }
}

// begins takes prefixes of names; one that ends with a colon is a whole name.
func begins(prefixes ...string) func(string) bool {
	return func(name string) bool {
		return slices.ContainsFunc(prefixes, func(p string) bool {
			exact, ok := strings.CutSuffix(p, ":")
			return ok && name == exact || !ok && strings.HasPrefix(name, p)
		})
	}
}

const (
	takeClock  = "take the time as a value (Now func() taxonomy.Millis, or a channel that ticks); app.Env has the clock"
	takeFS     = "take a file system (retention/log.FS); app.Env has the real one"
	takeRandom = "take an io.Reader, or a seeded *rand.Rand; app.Env has the source"
	takeNet    = "take a listener, a dialer or an *http.Client; app.Env makes them"
	takeConfig = "take the setting as a value; only cmd reads the environment"
)

// seams are the uses that are found, by the path of the package.
var seams = map[string]seam{
	"time": {takeClock, only("Now", "Since", "Until", "After", "AfterFunc", "Tick", "NewTimer", "NewTicker", "Sleep")},
	"os": {takeFS, only("Chdir", "Chmod", "Chown", "Chtimes", "CopyFS", "Create", "CreateTemp", "DirFS", "Getwd", "Lchown", "Link", "Lstat",
		"Mkdir", "MkdirAll", "MkdirTemp", "NewFile", "NewRoot", "Open", "OpenFile", "OpenInRoot", "OpenRoot", "Pipe", "ReadDir", "ReadFile", "Readlink",
		"Remove", "RemoveAll", "Rename", "Stat", "Symlink", "TempDir", "Truncate", "UserCacheDir", "UserConfigDir", "UserHomeDir", "WriteFile")},
	"io/ioutil":     {takeFS, except()},
	"path/filepath": {takeFS, only("Abs", "EvalSymlinks", "Glob", "Walk", "WalkDir")},
	// Functions that make a source from a given seed are fine; all others draw
	// from one that nobody can repeat.
	"math/rand":                            {takeRandom, except("New", "NewSource", "NewZipf", "Rand", "Source", "Source64", "Zipf")},
	"math/rand/v2":                         {takeRandom, except("New", "NewPCG", "NewChaCha8", "NewZipf", "Rand", "Source", "PCG", "ChaCha8", "Zipf")},
	"crypto/rand":                          {takeRandom, except()},
	"net":                                  {takeNet, begins("Listen:", "ListenConfig", "ListenIP", "ListenMulticast", "ListenPacket", "ListenTCP", "ListenUDP", "ListenUnix", "Dial", "Lookup", "FileListener", "FileConn", "FilePacketConn", "DefaultResolver", "Interfaces", "InterfaceAddrs")},
	"net/http":                             {takeNet, only("DefaultClient", "DefaultTransport", "Get", "Head", "ListenAndServe", "ListenAndServeTLS", "Post", "PostForm")},
	"crypto/tls":                           {takeNet, only("Dial", "DialWithDialer", "Dialer", "Listen", "LoadX509KeyPair")},
	"syscall":                              {takeFS, only("Open", "Read", "Write", "Mkdir", "Unlink", "Rename", "Flock", "Fsync", "Getrandom", "Gettimeofday", "Time")},
	"github.com/cockroachdb/pebble/v2/vfs": {takeFS, only("Default")},
}

// environment is a second rule for package os.
var environment = seam{takeConfig, only("Environ", "ExpandEnv", "Getenv", "LookupEnv", "Setenv", "Unsetenv", "Args", "Stdin", "Stdout", "Stderr", "Exit")}

// outside may touch the world: cmd makes app.Env and runs the program; deploy
// holds what runs beside it.
var outside = []string{"cmd", "deploy"}

// checkSeams finds what reaches for the world outside cmd and deploy.
func checkSeams(sources []source) (out []finding) {
	for i := range sources {
		s := &sources[i]
		if s.test || belowAny(s.dir(), outside) {
			continue
		}
		names := make(map[string]string) // by the name in this file, the path
		for _, spec := range s.file.Imports {
			target, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				continue
			}
			if _, watched := seams[target]; !watched {
				continue
			}
			switch {
			case spec.Name == nil:
				names[packageName(target)] = target
			case spec.Name.Name == ".":
				out = append(out, finding{s.path, s.line(spec.Pos()), fmt.Sprintf("imports %s into its own names, which hides its uses; %s", target, seams[target].what)})
			default:
				names[spec.Name.Name] = target
			}
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			sel, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			id, ok := sel.X.(*ast.Ident)
			if !ok || id.Obj != nil { // a variable that is called like a package
				return true
			}
			target, ok := names[id.Name]
			if !ok {
				return true
			}
			rule := seams[target]
			if target == "os" && environment.uses(sel.Sel.Name) {
				rule = environment
			}
			if rule.uses(sel.Sel.Name) {
				out = append(out, finding{s.path, s.line(sel.Pos()), fmt.Sprintf("uses %s.%s; %s", target, sel.Sel.Name, rule.what)})
			}
			return true
		})
	}
	return out
}

// packageName is what a path is called when the import gives no name.
func packageName(target string) string {
	parts := strings.Split(target, "/")
	last := parts[len(parts)-1]
	if len(parts) > 1 && len(last) > 1 && last[0] == 'v' && strings.Trim(last[1:], "0123456789") == "" {
		return parts[len(parts)-2]
	}
	return last
}

func TestTheWorldComesInAsValues(t *testing.T) {
	for _, f := range checkSeams(project(t)) {
		t.Error(f)
	}
}

// A planted use of every seam is found, whatever it is called in the file.
func TestSeamLintFindsBreaches(t *testing.T) {
	const planted = `package p

import (
	crand "crypto/rand"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"
	. "io/ioutil"

	"github.com/cockroachdb/pebble/v2/vfs"
)

var now = time.Now

func f() {
	time.Sleep(time.Second)
	os.ReadFile("x")
	rand.IntN(3)
	_ = crand.Reader
	net.Listen("tcp", ":0")
	http.Get("x")
	filepath.Walk("x", nil)
	os.Getenv("X")
	_ = vfs.Default
	go func() { <-time.After(time.Minute) }()
}
`
	const clean = `package p

import (
	"math/rand/v2"
	"net"
	"os"
	"time"
)

type clock struct{}

func (clock) Now() time.Time { return time.Unix(0, 0).Add(time.Hour) }

func g(time clock, r *rand.Rand, h net.Listener) error {
	time.Now()
	r.IntN(3)
	_ = rand.New(rand.NewPCG(1, 2))
	var err error = os.ErrNotExist
	_ = net.JoinHostPort("a", "1")
	return err
}
`
	tree := fstest.MapFS{
		"segments/fold/a.go":      {Data: []byte(planted)},
		"segments/fold/b.go":      {Data: []byte(clean)},
		"segments/fold/a_test.go": {Data: []byte(planted)},
		"cmd/ebb/app/env.go":      {Data: []byte(planted)},
		"deploy/bench/main.go":    {Data: []byte(planted)},
		"deploy/compat/go.mod":    {Data: []byte("module x")},
	}
	sources, err := parse(tree)
	if err != nil {
		t.Fatal(err)
	}
	const at = "segments/fold/a.go:"
	expect(t, checkSeams(sources),
		at+"11: imports io/ioutil into its own names",
		at+"16: uses time.Now; take the time as a value",
		at+"19: uses time.Sleep;",
		at+"20: uses os.ReadFile; take a file system",
		at+"21: uses math/rand/v2.IntN; take an io.Reader",
		at+"22: uses crypto/rand.Reader;",
		at+"23: uses net.Listen; take a listener",
		at+"24: uses net/http.Get;",
		at+"25: uses path/filepath.Walk;",
		at+"26: uses os.Getenv; take the setting as a value",
		at+"27: uses github.com/cockroachdb/pebble/v2/vfs.Default;",
		at+"28: uses time.After;",
	)
}
