package format_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ebb-dmp/ebb/segments/delivery/format"
	"go.yaml.in/yaml/v3"
)

const whole = `
# Of a receiver.
receiver: A DSP
specification: https://dsp.example/spec # theirs
read: 2026-11-25
extension: .json
media_type: application/json
ids: any
life_unit: minutes
life_max: 10
removal: a life of 0
max_rows: 5
max_bytes: 100
limit.name: 256
retry: never
`

func TestFactsAreReadWholeOrNotAtAll(t *testing.T) {
	f, err := format.Parse([]byte(whole))
	if got := f.Format(); err != nil || !got.Removes || got.MaxRows != 5 || got.MaxBytes != 100 || got.Extension != ".json" || f.Limits["name"] != 256 || f.Specification != "https://dsp.example/spec" {
		t.Fatalf("%+v, %v", f, err)
	}
	for _, change := range [][2]string{
		{"receiver: A DSP", ""}, {"2026-11-25", "yesterday"}, {"max_rows: 5", "max_rows: -5"}, {"life_unit: minutes", "life_unit:"},
		{"retry: never", "retry: never\nretries: 5"}, {"ids: any", "ids: [any]"}, {"retry: never", "retry: never\nretry: always"}, {"ids: any", "ids: a: b"},
		{"limit.name: 256", "limit.name: many"},
	} {
		if _, err := format.Parse([]byte(strings.Replace(whole, change[0], change[1], 1))); err == nil {
			t.Errorf("%q in the place of %q was taken", change[1], change[0])
		}
	}
}

// A real YAML reader finds in every format's file what we find in it.
func TestFactsAreYAML(t *testing.T) {
	files, err := filepath.Glob("*/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		f, err := format.Parse(b)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var y map[string]any
		if err := yaml.Unmarshal(b, &y); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		want := fmt.Sprint(y["receiver"], y["specification"], y["retry"], y["ids"], y["life_unit"], y["life_max"], y["max_rows"], y["max_bytes"])
		if got := fmt.Sprint(f.Receiver, f.Specification, f.Retry, f.IDs, f.LifeUnit, f.LifeMax, f.MaxRows, f.MaxBytes); got != want {
			t.Errorf("%s: we read\n%s, YAML says\n%s", name, got, want)
		}
		for k, n := range f.Limits {
			if y["limit."+k] != n {
				t.Errorf("%s: limit.%s is %v, YAML says %v", name, k, n, y["limit."+k])
			}
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(whole))
	f.Add([]byte("a: \n: b\nread: 1"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if facts, err := format.Parse(b); err == nil && facts.Receiver == "" {
			t.Fatal("facts of nobody were taken")
		}
	})
}
