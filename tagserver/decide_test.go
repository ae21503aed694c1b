package tagserver

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"slices"
	"strings"
	"testing"
)

// handlersThatDecide are the handlers of routes that touch a visitor, and those
// that do not, with the reason. A route whose handler is in neither fails here.
var (
	handlersThatDecide = []string{"handleCollect", "handlePixel", "handleSeg", "handleSync", "handleFrame", "handleUID", "handleMatch", "handleMatchSigned", "handleOptOut", "handleErase"}
	// A visitor who asks what is known of it proves with its cookie who it is;
	// that is a right, and needs no consent.
	handlersOfAccess = []string{"handlePrivacy", "handleStatus", "handleKnown"}
	// A switch takes away what may be read of whoever the cookie proves to be, and
	// gives nothing: it needs no consent either.
	handlersOfChoice = []string{"handleCategory"}
	handlersWithout  = map[string]string{
		"handlePreflight": "reads no cookie", "handleOptIn": "only takes cookies away", "handleGPC": "the same bytes for everyone",
		"handleReceiptKey": "the same bytes for everyone",
		"handleTag":        "the same bytes for everyone", "handleTagFrozen": "the same bytes for everyone",
	}
)

// P3: every route that touches a visitor goes through the one decision. The calls
// are read from the source: who calls Decide, who calls that, up to the handlers
// of the table.
func TestEveryRouteThatTouchesAVisitorDecides(t *testing.T) {
	calls := make(map[string][]string) // by function, whom it calls
	var inTable []string
	set := token.NewFileSet()
	files, err := fs.Glob(os.DirFS("."), "*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(set, name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || fn.Body == nil {
				continue
			}
			ast.Inspect(fn.Body, func(n ast.Node) bool {
				if c, ok := n.(*ast.CallExpr); ok {
					switch x := c.Fun.(type) {
					case *ast.SelectorExpr:
						calls[fn.Name.Name] = append(calls[fn.Name.Name], x.Sel.Name)
					case *ast.Ident:
						calls[fn.Name.Name] = append(calls[fn.Name.Name], x.Name)
					}
				}
				if x, ok := n.(*ast.SelectorExpr); ok && fn.Name.Name == "table" && strings.HasPrefix(x.Sel.Name, "handle") {
					inTable = append(inTable, x.Sel.Name)
				}
				return true
			})
		}
	}
	var reaches func(from, to string, seen map[string]bool) bool
	reaches = func(from, to string, seen map[string]bool) bool {
		if seen[from] {
			return false
		}
		seen[from] = true
		for _, c := range calls[from] {
			if c == to || reaches(c, to, seen) {
				return true
			}
		}
		return false
	}
	var deciders []string
	for fn, cs := range calls {
		if slices.Contains(cs, "Decide") || slices.Contains(cs, "DecideWith") {
			deciders = append(deciders, fn)
		}
	}
	if !slices.Equal(deciders, []string{"identifyBy"}) {
		t.Errorf("Decide is called in %v; one place decides for all routes", deciders)
	}
	if len(inTable) == 0 {
		t.Fatal("no handler found in the table")
	}
	for _, h := range inTable {
		_, without := handlersWithout[h]
		decides := slices.Contains(handlersThatDecide, h)
		if slices.Contains(handlersOfAccess, h) {
			for _, writes := range []string{"newID", "cookie", "statement"} {
				if reaches(h, writes, map[string]bool{}) {
					t.Errorf("%s is for access only, and calls %s", h, writes)
				}
			}
			continue
		}
		if slices.Contains(handlersOfChoice, h) {
			for _, gives := range []string{"newID", "identify"} {
				if reaches(h, gives, map[string]bool{}) {
					t.Errorf("%s only takes away, and calls %s", h, gives)
				}
			}
			continue
		}
		switch got := reaches(h, "identify", map[string]bool{}); {
		case slices.Contains(handlersOfAccess, h):
			if !reaches(h, "visitorOf", map[string]bool{}) {
				t.Errorf("%s tells what is known, and not by the visitor's own cookie", h)
			}
		case !decides && !without:
			t.Errorf("%s is new in the table: does it touch a visitor? Add it to one of the two lists", h)
		case decides && !got:
			t.Errorf("%s touches a visitor and does not decide", h)
		case without && (got || reaches(h, "VisitorKey", map[string]bool{})):
			t.Errorf("%s is said not to touch a visitor, and does", h)
		}
	}
}
