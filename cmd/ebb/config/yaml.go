package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// file reads the YAML file. It walks the nodes rather than decoding into the
// struct, since only nodes know their line.
func (l *loader) file(name string, content []byte) {
	if content == nil {
		return
	}
	dec := yaml.NewDecoder(bytes.NewReader(content))
	var doc yaml.Node
	if err := dec.Decode(&doc); err != nil {
		if !errors.Is(err, io.EOF) { // an empty file says nothing
			l.problems = append(l.problems, Problem{name, fmt.Sprintf("no YAML: %s", strings.TrimPrefix(err.Error(), "yaml: "))})
		}
		return
	}
	var second yaml.Node
	if err := dec.Decode(&second); !errors.Is(err, io.EOF) {
		l.problems = append(l.problems, Problem{name, "a second document follows; a configuration is one"})
		return
	}
	if len(doc.Content) == 1 {
		l.mapping(name, "", doc.Content[0])
	}
}

// mapping reads the settings and sections below one prefix.
func (l *loader) mapping(file, prefix string, n *yaml.Node) {
	at := Origin{Place: "file", Name: file, Line: n.Line}
	switch {
	case n.Kind == yaml.ScalarNode && n.Tag == "!!null":
		return // nothing below but comments
	case n.Kind != yaml.MappingNode && prefix == "":
		l.fault(at, "a configuration is a list of `key: value` lines")
		return
	case n.Kind != yaml.MappingNode:
		l.fault(at, "%s is a section; its settings stand below it, indented: %s", prefix, strings.Join(l.below(prefix), ", "))
		return
	}
	seen := make(map[string]int, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		o := Origin{Place: "file", Name: file, Line: k.Line}
		key := k.Value
		if prefix != "" {
			key = prefix + "." + key
		}
		if line, twice := seen[key]; twice {
			l.fault(o, "%s stands here for the second time; the first is in line %d", key, line)
			continue
		}
		seen[key] = k.Line
		switch f := l.keys[key]; {
		case f != nil:
			l.scalar(f, v, o)
		case len(l.below(key)) > 0:
			l.mapping(file, key, v)
		default:
			l.unknown(o, key, "", append(sortedKeys(l.keys), l.sections()...))
		}
	}
}

// scalar reads one value: a scalar, or for a list also a sequence of scalars.
func (l *loader) scalar(f *Field, v *yaml.Node, o Origin) {
	switch {
	case v.Kind == yaml.ScalarNode && v.Tag == "!!null":
		l.fault(o, "%s has no value; remove the line to have the default", f.Key)
	case v.Kind == yaml.ScalarNode:
		l.set(f, v.Value, o)
	case v.Kind == yaml.SequenceNode && f.List:
		words := make([]string, 0, len(v.Content))
		for _, e := range v.Content {
			if e.Kind != yaml.ScalarNode {
				l.fault(Origin{Place: "file", Name: o.Name, Line: e.Line}, "%s: an entry is one %s", f.Key, f.Entry())
				return
			}
			words = append(words, e.Value)
		}
		l.set(f, strings.Join(words, ","), o)
	default:
		l.fault(o, "%s takes one value (%s)", f.Key, f.Value)
	}
}

// below returns the keys in a section.
func (l *loader) below(section string) (keys []string) {
	for _, f := range fields {
		if strings.HasPrefix(f.Key, section+".") {
			keys = append(keys, f.Key)
		}
	}
	return keys
}

func (l *loader) sections() (out []string) {
	for _, f := range fields {
		if s, _, ok := strings.Cut(f.Key, "."); ok && !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
