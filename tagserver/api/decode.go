package api

import (
	"bytes"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/taxonomy/near"
)

// maxFaults bounds how many faults of one body are told.
const maxFaults = 100

// decode reads a JSON object into v, a pointer to a struct, and returns every
// fault with its place. It is stricter than encoding/json, which would pass over
// a misspelt field, take the last of two, and match names in any case: each of
// these is a definition that does not say what its author meant.
//
// readOnly are fields that are known and may not be set here, and why.
func decode(prefix string, body []byte, v any, readOnly map[string]string) []tagserver.ProblemError {
	w := walker{readOnly: readOnly}
	if !utf8.Valid(body) {
		w.add(prefix, "is not UTF-8")
		return w.faults
	}
	var whole json.RawMessage
	if err := json.Unmarshal(body, &whole); err != nil {
		var syntax *json.SyntaxError
		at := prefix
		if errors.As(err, &syntax) {
			line, column := place(body, syntax.Offset)
			at = fmt.Sprintf("%s: line %d, column %d", prefix, line, column)
		}
		w.add(at, "is no JSON: %s", strings.TrimPrefix(err.Error(), "json: "))
		return w.faults
	}
	w.value(prefix, bytes.TrimSpace(whole), reflect.TypeOf(v).Elem(), true)
	if len(w.faults) > 0 {
		return w.faults
	}
	if err := json.Unmarshal(body, v); err != nil {
		w.add(prefix, "%s", strings.TrimPrefix(err.Error(), "json: "))
	}
	return w.faults
}

func place(body []byte, offset int64) (line, column int) {
	before := body[:min(max(offset-1, 0), int64(len(body)))]
	line = 1 + bytes.Count(before, []byte("\n"))
	return line, len(before) - bytes.LastIndexByte(before, '\n')
}

type walker struct {
	faults   []tagserver.ProblemError
	readOnly map[string]string
}

func (w *walker) add(location, format string, args ...any) {
	if len(w.faults) < maxFaults {
		w.faults = append(w.faults, fault(location, format, args...))
	}
}

var (
	rawType  = reflect.TypeFor[json.RawMessage]()
	textType = reflect.TypeFor[encoding.TextUnmarshaler]()
)

// value checks a JSON value, which is valid JSON, against a type.
func (w *walker) value(path string, raw json.RawMessage, t reflect.Type, top bool) {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t == rawType {
		return // whoever reads it says what is wrong with it
	}
	if raw[0] == 'n' {
		w.add(path, "must not be null; leave it out")
		return
	}
	if reflect.PointerTo(t).Implements(textType) {
		var s string
		if raw[0] != '"' || json.Unmarshal(raw, &s) != nil {
			w.add(path, "want a string, got %s", what(raw))
		} else if err := reflect.New(t).Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(s)); err != nil {
			w.add(path, "%s", err)
		}
		return
	}
	switch t.Kind() {
	case reflect.Struct:
		w.object(path, raw, t, top)
	case reflect.Slice:
		var list []json.RawMessage
		if raw[0] != '[' || json.Unmarshal(raw, &list) != nil {
			w.add(path, "want an array, got %s", what(raw))
			return
		}
		for i, e := range list {
			w.value(path+"["+strconv.Itoa(i)+"]", e, t.Elem(), false)
		}
	default:
		if err := json.Unmarshal(raw, reflect.New(t).Interface()); err != nil {
			w.add(path, "want %s, got %s", wanted(t), what(raw))
		}
	}
}

func (w *walker) object(path string, raw json.RawMessage, t reflect.Type, top bool) {
	if raw[0] != '{' {
		w.add(path, "want an object, got %s", what(raw))
		return
	}
	known, types := fieldsOf(t)
	seen := make(map[string]bool)
	dec := json.NewDecoder(bytes.NewReader(raw))
	_, _ = dec.Token() // the {; the whole was found to be valid
	for dec.More() {
		tok, err := dec.Token()
		key, ok := tok.(string)
		var v json.RawMessage
		if err != nil || !ok || dec.Decode(&v) != nil {
			w.add(path, "cannot be read")
			return
		}
		at := under(path, cut(key))
		ft, is := types[key]
		switch {
		case top && w.readOnly[key] != "":
			w.add(at, "%s", w.readOnly[key])
		case !is:
			if meant, ok := near.Word(key, known, min(len(key)/2, 4)); ok {
				w.add(at, "unknown field; did you mean %q?", meant)
			} else {
				w.add(at, "unknown field; known here: %s", strings.Join(known, ", "))
			}
		case seen[key]:
			w.add(at, "stands twice")
		default:
			w.value(at, v, ft, false)
		}
		seen[key] = true
	}
}

// fieldsOf returns the JSON names of a struct's fields, in order, and their
// types.
func fieldsOf(t reflect.Type) (names []string, types map[string]reflect.Type) {
	types = make(map[string]reflect.Type)
	for _, f := range reflect.VisibleFields(t) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Anonymous || !f.IsExported() || name == "" || name == "-" || types[name] != nil {
			continue
		}
		names = append(names, name)
		types[name] = f.Type
	}
	return names, types
}

func what(raw json.RawMessage) string {
	switch raw[0] {
	case '{':
		return "an object"
	case '[':
		return "an array"
	case '"':
		return "a string"
	case 't', 'f':
		return string(raw)
	case 'n':
		return "null"
	}
	return cut(string(raw))
}

func wanted(t reflect.Type) string {
	switch t.Kind() {
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	case reflect.Float32, reflect.Float64:
		return "a number"
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return "a whole number that is not negative and not too large"
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return "a whole number that is not too large"
	}
	return "something else"
}

// cut keeps a key that is no word out of the answer.
func cut(s string) string {
	if len(s) > 40 {
		return strings.ToValidUTF8(s[:40], "") + "…"
	}
	return s
}
