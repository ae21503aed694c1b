package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/ebb-dmp/ebb/taxonomy/near"
)

// Input is everything that settings come from. Load reads nothing else.
type Input struct {
	// File names the YAML file in messages; Content is what stands in it. Nil
	// content means that there is none.
	File    string
	Content []byte
	// Environ is the environment as KEY=value, as os.Environ gives it. Of it
	// only EBB_… is looked at.
	Environ []string
	// Flags are the settings given as flags, by key.
	Flags map[string]string
	// CheckSchedule returns an error that says what is wrong with a cron line.
	// It comes in so that this package does not know the scheduler.
	CheckSchedule func(string) error
}

// Origin is the place that a value came from.
type Origin struct {
	Place string // default, file, environment or flag
	Name  string // the file, the variable, the flag
	Line  int    // in the file
}

func (o Origin) String() string {
	switch o.Place {
	case "file":
		return fmt.Sprintf("%s:%d", o.Name, o.Line)
	case "default":
		return "default"
	}
	return o.Name
}

// Resolved is a configuration that holds and the places of its values. It is
// not changed after Load and may be shared.
type Resolved struct {
	Config
	origins map[string]Origin
}

// Setting is one line of `ebb config print`.
type Setting struct {
	Key   string `json:"key"`
	Value string `json:"value"`
	From  string `json:"from"`
	Env   string `json:"env"`
	Help  string `json:"help"`
}

// Settings returns every setting with where it came from. A secret's value is
// shown as "(set)".
func (r *Resolved) Settings() []Setting {
	out := make([]Setting, len(fields))
	for i, f := range fields {
		value := text(reflect.ValueOf(&r.Config).Elem().FieldByIndex(f.index))
		switch {
		case f.Secret && value != "":
			value = "(set)"
		case f.Key == "keys":
			value = r.KeysFile()
		}
		out[i] = Setting{Key: f.Key, Value: value, From: r.origins[f.Key].String(), Env: f.Env, Help: f.Help}
	}
	return out
}

// Problem is one fault of a configuration.
type Problem struct {
	Where string `json:"where"` // ebb.yaml:12, EBB_DATA, --data, or a key
	What  string `json:"what"`
}

// Error is all that is wrong with a configuration, so that one reading mends it.
type Error struct{ Problems []Problem }

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("the configuration does not hold:")
	for _, p := range e.Problems {
		fmt.Fprintf(&b, "\n  %s: %s", p.Where, p.What)
	}
	b.WriteString("\nmend it, then run `ebb config check`")
	return b.String()
}

// notSettings are variables that begin with EBB_ and are no settings: the file
// itself, and switches of the project's own tests, which programs that a test
// starts inherit.
func notSetting(env string) bool {
	return env == "EBB_CONFIG" || env == "EBB_LONG" || strings.HasPrefix(env, "EBB_TEST_")
}

// Load resolves the settings: defaults, then the file, then the environment,
// then flags. On any fault it returns an *Error that names all of them.
func Load(in Input) (*Resolved, error) {
	l := loader{
		r:    &Resolved{origins: make(map[string]Origin, len(fields))},
		keys: make(map[string]*Field, len(fields)),
		envs: make(map[string]*Field, len(fields)),
	}
	for i := range fields {
		f := &fields[i]
		l.keys[f.Key], l.envs[f.Env] = f, f
		l.set(f, f.Default, Origin{Place: "default"})
	}
	l.file(in.File, in.Content)
	l.environment(in.Environ)
	for _, key := range sortedKeys(in.Flags) {
		o := Origin{Place: "flag", Name: "--" + key}
		if f := l.keys[key]; f != nil {
			l.set(f, in.Flags[key], o)
		} else {
			l.unknown(o, key, "--", sortedKeys(l.keys))
		}
	}
	l.validate(in.CheckSchedule)
	if len(l.problems) > 0 {
		return nil, &Error{l.problems}
	}
	return l.r, nil
}

type loader struct {
	r        *Resolved
	keys     map[string]*Field
	envs     map[string]*Field
	problems []Problem
}

func (l *loader) set(f *Field, value string, o Origin) {
	l.r.origins[f.Key] = o
	v := reflect.ValueOf(&l.r.Config).Elem().FieldByIndex(f.index)
	if value == "" && o.Place == "default" {
		return // worked out later, or the zero value
	}
	if err := set(v, value); err != nil {
		l.fault(o, "%s: %v", f.Key, err)
	}
}

func (l *loader) fault(o Origin, format string, args ...any) {
	l.problems = append(l.problems, Problem{Where: o.String(), What: fmt.Sprintf(format, args...)})
}

// wrong reports a value that was read but does not hold, at its origin.
func (l *loader) wrong(key, format string, args ...any) {
	l.fault(l.r.origins[key], "%s: %s", key, fmt.Sprintf(format, args...))
}

func (l *loader) unknown(o Origin, name, prefix string, known []string) {
	if meant, ok := near.Word(name, known, max(2, len(name)/3)); ok {
		l.fault(o, "there is no setting %s; did you mean %s%s?", name, prefix, meant)
		return
	}
	l.fault(o, "there is no setting %s; `ebb config print` lists all", name)
}

func (l *loader) environment(environ []string) {
	sorted := slices.Clone(environ)
	slices.Sort(sorted) // so that messages come in one order
	for _, pair := range sorted {
		name, value, _ := strings.Cut(pair, "=")
		if !strings.HasPrefix(name, "EBB_") || notSetting(name) {
			continue
		}
		o := Origin{Place: "environment", Name: name}
		if f := l.envs[name]; f != nil {
			l.set(f, value, o)
		} else {
			l.unknown(o, name, "", sortedKeys(l.envs))
		}
	}
}
