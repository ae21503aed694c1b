package facts_test

import (
	"strings"
	"testing"

	"github.com/ebb-dmp/ebb/segments/delivery/format/facts"
)

const whole = `
receiver: A DSP
specification: https://dsp.example/spec
read: 2026-11-25
extension: .json
media_type: application/json
ids: any
life: {unit: minutes, max: 10}
removal: a life of 0
chunk: {max_rows: 5, max_bytes: 100}
limits: {name: 256}
retry: never
`

func TestFactsAreReadWholeOrNotAtAll(t *testing.T) {
	f, err := facts.Parse([]byte(whole))
	if got := f.Format(); err != nil || !got.Removes || got.MaxRows != 5 || got.MaxBytes != 100 || got.Extension != ".json" || f.Limits["name"] != 256 {
		t.Fatalf("%+v, %v", f, err)
	}
	for _, change := range [][2]string{
		{"receiver: A DSP", ""}, {"2026-11-25", "yesterday"}, {"max_rows: 5", "max_rows: -5"}, {"unit: minutes", "unit: ''"},
		{"retry: never", "retry: never\nretries: 5"}, {"ids: any", "ids: [}"},
	} {
		if _, err := facts.Parse([]byte(strings.Replace(whole, change[0], change[1], 1))); err == nil {
			t.Errorf("%q in the place of %q was taken", change[1], change[0])
		}
	}
}
