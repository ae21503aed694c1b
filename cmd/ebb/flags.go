package main

import (
	"fmt"
	"reflect"

	"github.com/ebb-dmp/ebb/cmd/ebb/config"
)

// flags makes every setting a flag of every subcommand. kong reads flags from
// the tags of a struct, and the settings are a table, so the struct is made
// from the table: a setting cannot be forgotten here.
//
// Flags are pointers to text: nil means not given, which a value could not say,
// and the text is read where that of the file and the environment is read. All
// but --data are left out of help, which would otherwise begin with thirty
// lines that are the same for every command; `ebb config --help` has them.
type flags struct{ v reflect.Value }

func newFlags() flags {
	fields := make([]reflect.StructField, 0, len(config.Fields()))
	for i, f := range config.Fields() {
		tag := fmt.Sprintf(`name:%q placeholder:%q help:%q`, f.Key, f.Value, f.Help)
		if f.Key != "data" {
			tag += ` hidden:""`
		}
		fields = append(fields, reflect.StructField{
			Name: fmt.Sprintf("Setting%d", i),
			Type: reflect.TypeFor[*string](),
			Tag:  reflect.StructTag(tag),
		})
	}
	return flags{reflect.New(reflect.StructOf(fields))}
}

// target is the pointer to the struct, for kong.
func (f flags) target() any { return f.v.Interface() }

// given returns the settings that were given as flags, by key.
func (f flags) given() map[string]string {
	out := make(map[string]string)
	for i, field := range config.Fields() {
		if p := f.v.Elem().Field(i).Interface().(*string); p != nil {
			out[field.Key] = *p
		}
	}
	return out
}
