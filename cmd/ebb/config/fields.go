package config

import (
	"fmt"
	"reflect"
	"strings"
)

// Field is what there is to know of one setting.
type Field struct {
	Key     string // listen.public
	Env     string // EBB_LISTEN_PUBLIC
	Value   string // what stands for its value in help: HOST:PORT
	Default string // as text; empty where the default is worked out
	Help    string
	Secret  bool // its value is never printed
	List    bool // in YAML it may be a sequence

	index []int // its place in Config
}

// Entry is what one element of a list is called.
func (f *Field) Entry() string {
	if f.Key == "trusted_proxies" {
		return "network"
	}
	return strings.ToLower(strings.TrimSuffix(f.Value, ",…"))
}

// fields are all settings in the order in which they are printed.
var fields = collect(reflect.TypeFor[Config](), "", nil)

// Fields returns all settings in the order in which they are printed.
func Fields() []Field { return append([]Field(nil), fields...) }

// collect walks a struct of settings. A schedule has its default and help where
// it is used, since three settings share its type.
func collect(t reflect.Type, prefix string, index []int) (out []Field) {
	for i := range t.NumField() {
		f := t.Field(i)
		key := f.Tag.Get("key")
		if key == "" {
			panic(fmt.Sprintf("config: field %s has no key", f.Name))
		}
		if prefix != "" {
			key = prefix + "." + key
		}
		at := append(append([]int(nil), index...), i)
		if f.Type.Kind() == reflect.Struct {
			inner := collect(f.Type, key, at)
			if s := f.Tag.Get("schedule"); s != "" {
				inner[0].Default, inner[0].Help = s, f.Tag.Get("about")
			}
			out = append(out, inner...)
			continue
		}
		out = append(out, Field{
			Key:     key,
			Env:     "EBB_" + strings.ToUpper(strings.ReplaceAll(key, ".", "_")),
			Value:   f.Tag.Get("value"),
			Default: f.Tag.Get("default"),
			Help:    f.Tag.Get("help"),
			Secret:  f.Tag.Get("secret") == "true",
			List:    f.Type.Kind() == reflect.Slice,
			index:   at,
		})
	}
	return out
}
