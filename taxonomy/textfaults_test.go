package taxonomy

import (
	"errors"
	"testing"
)

func TestFaultsOfATextAreToldInOrderOfTheirPlaces(t *testing.T) {
	f := TextFaults{Text: "eins\nzwölf drei", Path: "rule_text"}
	if f.Err() != nil {
		t.Error("a fault of nothing")
	}
	cause := errors.New("cause")
	f.Add(12, "third: %w", cause)
	f.Add(0, "first")
	f.Add(99, "behind the end")
	f.Add(5, "second")
	want := []string{"rule_text: line 1, column 1: first", "rule_text: line 2, column 1: second", "rule_text: line 2, column 7: third: cause", "rule_text: line 2, column 11: behind the end"}
	err := f.Err()
	got := Faults(err)
	if len(got) != len(want) || f.Len() != len(want) || !errors.Is(err, cause) {
		t.Fatalf("%v", err)
	}
	for i := range want {
		if got[i].Error() != want[i] {
			t.Errorf("%q, want %q", got[i].Error(), want[i])
		}
	}
	for range 40 {
		f.Add(0, "again")
	}
	if got := Faults(f.Err()); len(got) != maxTextFaults+1 || got[maxTextFaults].Err.Error() != "and 12 more faults" {
		t.Errorf("of many: %v", got)
	}
}
