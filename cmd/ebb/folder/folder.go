// Package folder is definitions as files: it reads a folder of YAML into what the
// API takes, knows the file and line of every field, and writes what the API
// shows as such files.
package folder

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Kinds are the kinds of definitions, each with the folder that it is written to.
// An order in which each names only those before it, or its own.
var Kinds = []struct{ Kind, Folder string }{
	{"source", "sources"}, {"site", "sites"}, {"taxonomy", "taxonomies"}, {"rule", "rules"}, {"audience", "audiences"}, {"destination", "destinations"},
}

// Definition is one definition, as the API takes it.
type Definition struct {
	Kind       string          `json:"kind"`
	Definition json.RawMessage `json:"definition"`
}

// Set is all definitions of a folder.
type Set struct {
	Definitions []Definition
	places      map[string]place // by the API's path: definitions[3].definition.title
}

type place struct {
	file string
	line int
}

func (p place) String() string { return fmt.Sprintf("%s:%d", p.file, p.line) }

// Bounds of what is read: of a file, and of a document's depth.
const (
	maxFile  = 16 << 20
	maxDepth = 32
)

// Read reads every .yaml and .yml file of a folder and of those below it, in
// order of their names. A file has one or more documents; each has one key, the
// kind, and below it the definition. All faults are told at once, each with file
// and line.
func Read(dir fs.FS) (*Set, error) {
	s := &Set{places: map[string]place{}}
	var faults []error
	err := fs.WalkDir(dir, ".", func(name string, e fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case e.IsDir():
			if name != "." && strings.HasPrefix(e.Name(), ".") {
				return fs.SkipDir
			}
			return nil
		case path.Ext(name) != ".yaml" && path.Ext(name) != ".yml":
			return nil
		}
		b, err := readFile(dir, name)
		if err != nil {
			return err
		}
		faults = append(faults, s.file(name, b)...)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the definitions: %w", err)
	}
	return s, errors.Join(faults...)
}

// ReadFile reads the definitions of one file, which faults call by name.
func ReadFile(name string, content []byte) (*Set, error) {
	s := &Set{places: map[string]place{}}
	if len(content) > maxFile {
		return nil, fmt.Errorf("read the definitions: %s is larger than %d bytes", name, maxFile)
	}
	return s, errors.Join(s.file(name, content)...)
}

func readFile(dir fs.FS, name string) ([]byte, error) {
	f, err := dir.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(b) > maxFile {
		err = fmt.Errorf("%s is larger than %d bytes", name, maxFile)
	}
	return b, err
}

func (s *Set) file(name string, content []byte) (faults []error) {
	dec := yaml.NewDecoder(bytes.NewReader(content))
	for {
		var doc yaml.Node
		err := dec.Decode(&doc)
		if err == io.EOF {
			return faults
		}
		if err != nil {
			at, what := lineOf(err)
			return append(faults, fmt.Errorf("%s:%d: no YAML: %s", name, at, what))
		}
		if err := s.document(name, &doc); err != nil {
			faults = append(faults, err)
		}
	}
}

// lineOf takes the line out of the library's message.
func lineOf(err error) (int, string) {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	rest, ok := strings.CutPrefix(text, "line ")
	if n, what, cut := strings.Cut(rest, ": "); ok && cut {
		if line, err := strconv.Atoi(n); err == nil {
			return line, what
		}
	}
	return 1, text
}

func (s *Set) document(name string, doc *yaml.Node) error {
	if doc.Kind != yaml.DocumentNode || len(doc.Content) != 1 {
		return nil
	}
	n := doc.Content[0]
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		return nil // a file of comments
	}
	if n.Kind != yaml.MappingNode || len(n.Content) != 2 {
		return fmt.Errorf("%s:%d: want one key, the kind, with the definition below it", name, n.Line)
	}
	kind := n.Content[0].Value
	if !slices.ContainsFunc(Kinds, func(k struct{ Kind, Folder string }) bool { return k.Kind == kind }) {
		return fmt.Errorf("%s:%d: %q is no kind of definition; there are source, site, taxonomy, rule, audience and destination", name, n.Content[0].Line, kind)
	}
	at := fmt.Sprintf("definitions[%d]", len(s.Definitions))
	w := writer{file: name, places: s.places}
	s.places[at] = place{name, n.Content[0].Line}
	if err := w.value(at+".definition", n.Content[1], 0); err != nil {
		return err
	}
	s.Definitions = append(s.Definitions, Definition{kind, w.b.Bytes()})
	return nil
}

// Place returns the file and line of a place in the API's words, such as
// body.definitions[3].definition.rule.and[0]: those of the innermost part of it
// that the files have. ok is false if they have none.
func (s *Set) Place(location string) (at string, ok bool) {
	location, _, _ = strings.Cut(strings.TrimPrefix(location, "body."), ":")
	for location != "" {
		if p, ok := s.places[location]; ok {
			return p.String(), true
		}
		// A rule stands in files as text.
		if before, ok := strings.CutSuffix(location, ".rule"); ok {
			if p, ok := s.places[before+".rule_text"]; ok {
				return p.String(), true
			}
		}
		location = location[:max(0, strings.LastIndexAny(location, ".["))]
	}
	return "", false
}

// writer turns YAML into JSON, key by key in order, so that the API sees a key
// that stands twice.
type writer struct {
	b      bytes.Buffer
	file   string
	places map[string]place
}

func (w *writer) value(at string, n *yaml.Node, depth int) error {
	fail := func(format string, args ...any) error {
		return fmt.Errorf("%s:%d: %s", w.file, n.Line, fmt.Sprintf(format, args...))
	}
	w.places[at] = place{w.file, n.Line}
	if depth > maxDepth {
		return fail("is nested too deep")
	}
	if n.Anchor != "" || n.Kind == yaml.AliasNode {
		return fail("anchors and aliases are not read; write it out")
	}
	switch n.Kind {
	case yaml.MappingNode:
		w.b.WriteByte('{')
		for i := 0; i < len(n.Content); i += 2 {
			k := n.Content[i]
			if k.Kind != yaml.ScalarNode {
				return fail("a key must be a word")
			}
			if i > 0 {
				w.b.WriteByte(',')
			}
			w.text(k.Value)
			w.b.WriteByte(':')
			if err := w.value(at+"."+k.Value, n.Content[i+1], depth+1); err != nil {
				return err
			}
			w.places[at+"."+k.Value] = place{w.file, k.Line}
		}
		w.b.WriteByte('}')
	case yaml.SequenceNode:
		w.b.WriteByte('[')
		for i, e := range n.Content {
			if i > 0 {
				w.b.WriteByte(',')
			}
			if err := w.value(fmt.Sprintf("%s[%d]", at, i), e, depth+1); err != nil {
				return err
			}
		}
		w.b.WriteByte(']')
	case yaml.ScalarNode:
		switch n.ShortTag() {
		case "!!str", "!!timestamp": // a day is written without quotes
			w.text(n.Value)
		case "!!bool", "!!int", "!!float":
			var v any
			if err := n.Decode(&v); err != nil {
				return fail("%q cannot be read", n.Value)
			}
			b, err := json.Marshal(v)
			if err != nil {
				return fail("%q is no number", n.Value)
			}
			w.b.Write(b)
		case "!!null":
			w.b.WriteString("null")
		default:
			return fail("tag %s is not read", n.ShortTag())
		}
	default:
		return fail("cannot be read")
	}
	return nil
}

func (w *writer) text(s string) {
	e := json.NewEncoder(&w.b)
	e.SetEscapeHTML(false)
	_ = e.Encode(s)             // a buffer takes all, and a string prints
	w.b.Truncate(w.b.Len() - 1) // its line's end
}

// Write returns the file of a definition: its path below the folder, and its
// bytes. Keys stand in the order of the definition's JSON.
func Write(kind, id string, definition json.RawMessage) (name string, content []byte, err error) {
	k := slices.IndexFunc(Kinds, func(k struct{ Kind, Folder string }) bool { return k.Kind == kind })
	if k < 0 {
		return "", nil, fmt.Errorf("write %s %q: no kind of definition", kind, id)
	}
	dec := json.NewDecoder(bytes.NewReader(definition))
	dec.UseNumber()
	body, err := node(dec)
	if err != nil {
		return "", nil, fmt.Errorf("write %s %q: %w", kind, id, err)
	}
	root := &yaml.Node{Kind: yaml.MappingNode, Content: []*yaml.Node{{Kind: yaml.ScalarNode, Value: kind}, body}}
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := errors.Join(enc.Encode(root), enc.Close()); err != nil {
		return "", nil, fmt.Errorf("write %s %q: %w", kind, id, err)
	}
	return path.Join(Kinds[k].Folder, id+".yaml"), b.Bytes(), nil
}

// node reads one JSON value.
func node(dec *json.Decoder) (*yaml.Node, error) {
	t, err := dec.Token()
	if err != nil {
		return nil, err
	}
	switch t := t.(type) {
	case json.Delim:
		n := &yaml.Node{Kind: yaml.SequenceNode}
		if t == '{' {
			n.Kind = yaml.MappingNode
		}
		for dec.More() {
			kid, err := node(dec)
			if err != nil {
				return nil, err
			}
			n.Content = append(n.Content, kid)
		}
		if len(n.Content) == 0 {
			n.Style = yaml.FlowStyle
		}
		_, err := dec.Token() // its end
		return n, err
	case string:
		n := &yaml.Node{}
		n.SetString(t)
		return n, nil
	case json.Number:
		tag := "!!int"
		if strings.ContainsAny(t.String(), ".eE") {
			tag = "!!float"
		}
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: tag, Value: t.String()}, nil
	case bool:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!bool", Value: strconv.FormatBool(t)}, nil
	}
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null", Value: "null"}, nil
}
