package folder

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"testing/fstest"

	"pgregory.net/rapid"
)

func files(pairs ...string) fstest.MapFS {
	m := fstest.MapFS{}
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i]] = &fstest.MapFile{Data: []byte(pairs[i+1])}
	}
	return m
}

func TestAFolderIsReadWithThePlaceOfEveryField(t *testing.T) {
	s, err := Read(files("a/own.yaml", "# ours\nsource:\n  id: own\n  party: 1\n  agreement:\n    uses: [store, profile]\n    ends: 2030-01-02\n---\nsource: {id: other, party: 2}\n",
		"b.yml", "audience:\n  id: bees\n  page: true\n  rule_text: c:mine/b in 30d\n", "notes.txt", "nothing", ".git/x.yaml", "no: {", "empty.yaml", "# nothing\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := []Definition{{"source", json.RawMessage(`{"id":"own","party":1,"agreement":{"uses":["store","profile"],"ends":"2030-01-02"}}`)},
		{"source", json.RawMessage(`{"id":"other","party":2}`)}, {"audience", json.RawMessage(`{"id":"bees","page":true,"rule_text":"c:mine/b in 30d"}`)}}
	if len(s.Definitions) != len(want) {
		t.Fatalf("%d definitions", len(s.Definitions))
	}
	for i := range want {
		if s.Definitions[i].Kind != want[i].Kind || !bytes.Equal(s.Definitions[i].Definition, want[i].Definition) {
			t.Errorf("%d: %s %s", i, s.Definitions[i].Kind, s.Definitions[i].Definition)
		}
	}
	for location, at := range map[string]string{
		"body.definitions[0].definition.party":                       "a/own.yaml:4",
		"body.definitions[0].definition.agreement.uses[1]":           "a/own.yaml:6",
		"body.definitions[0].definition.title":                       "a/own.yaml:3", // it has none
		"body.definitions[0]":                                        "a/own.yaml:2",
		"body.definitions[1].definition.id":                          "a/own.yaml:9",
		"body.definitions[2].definition.rule.and[0].windw":           "b.yml:4",
		"body.definitions[2].definition.rule_text: line 1, column 4": "b.yml:4",
	} {
		if got, ok := s.Place(location); !ok || got != at {
			t.Errorf("%s is at %q, want %q", location, got, at)
		}
	}
	if at, ok := s.Place("rules/r1.then[0]"); ok {
		t.Errorf("what is in no file is at %s", at)
	}
}

func TestEveryFaultOfAFileHasItsLine(t *testing.T) {
	for content, want := range map[string]string{
		"source:\n  id: [":                    "x.yaml:2: no YAML",
		"source:\n\tid: x":                    "x.yaml:2: no YAML",
		"sauce:\n  id: x":                     `x.yaml:1: "sauce" is no kind`,
		"\nsource: {}\nsite: {}":              "x.yaml:2: want one key",
		"- source":                            "x.yaml:1: want one key",
		"source:\n  id: &a x\n  title: *a":    "x.yaml:2: anchors",
		"source:\n  id: !!binary aGk=":        "x.yaml:2: tag !!binary",
		"source:\n  a: {b: {c: {? [x] : y}}}": "x.yaml:2: a key must be a word",
		"source:\n  n: .inf":                  "x.yaml:2: \".inf\" is no number",
		"source:\n  a: " + strings.Repeat("[", 40) + strings.Repeat("]", 40): "x.yaml:2: is nested too deep",
	} {
		if _, err := Read(files("x.yaml", content)); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q: %v, want %s", content, err, want)
		}
	}
	_, err := Read(files("a.yaml", "sauce: {}", "b.yaml", "sit: {}"))
	if err == nil || !strings.Contains(err.Error(), "a.yaml:1") || !strings.Contains(err.Error(), "b.yaml:1") {
		t.Errorf("not all at once: %v", err)
	}
}

// What is written is read as the same JSON.
func TestWhatIsWrittenIsReadAgain(t *testing.T) {
	var value func(depth int) *rapid.Generator[any]
	value = func(depth int) *rapid.Generator[any] {
		leaf := rapid.OneOf(rapid.Map(rapid.String(), func(s string) any { return s }), rapid.Map(rapid.Int64(), func(n int64) any { return n }), rapid.Map(rapid.Bool(), func(b bool) any { return b }),
			rapid.Map(rapid.SampledFrom([]string{"", "yes", "no", "null", "~", "2026-11-25", "1e3", "0x10", "- a", "a: b", "#", "\n", "on", " ", "c:a/b in 30d", "*x", "&y", "!z", "%", "@"}), func(s string) any { return s }))
		if depth == 0 {
			return leaf
		}
		return rapid.OneOf(leaf, rapid.Map(rapid.SliceOfN(value(depth-1), 0, 4), func(s []any) any { return s }),
			rapid.Map(rapid.MapOfN(rapid.String(), value(depth-1), 0, 4), func(m map[string]any) any { return m }))
	}
	rapid.Check(t, func(r *rapid.T) {
		in, err := json.Marshal(rapid.MapOfN(rapid.StringMatching(`[a-z_]{1,8}`), value(3), 0, 6).Draw(r, "definition"))
		if err != nil {
			r.Skip()
		}
		name, content, err := Write("audience", "x", in)
		if err != nil {
			r.Fatal(err)
		}
		s, err := Read(files(name, string(content)))
		if err != nil {
			r.Fatalf("%v in\n%s", err, content)
		}
		var a, b any
		if err := json.Unmarshal(in, &a); err != nil {
			r.Fatal(err)
		}
		if err := json.Unmarshal(s.Definitions[0].Definition, &b); err != nil {
			r.Fatal(err)
		}
		x, _ := json.Marshal(a)
		y, _ := json.Marshal(b)
		if name != "audiences/x.yaml" || !bytes.Equal(x, y) {
			r.Fatalf("%s became %s by\n%s", x, y, content)
		}
	})
}

func FuzzRead(f *testing.F) {
	f.Add("source:\n  id: own\n  party: 1\n---\nsite: {id: shop}\n")
	f.Add("audience: {rule: {and: [{trait: x}]}}")
	f.Fuzz(func(t *testing.T, content string) {
		s, err := Read(files("x.yaml", content))
		if err != nil {
			return
		}
		for _, d := range s.Definitions {
			if !json.Valid(d.Definition) {
				t.Errorf("%q became %s", content, d.Definition)
			}
		}
	})
}
