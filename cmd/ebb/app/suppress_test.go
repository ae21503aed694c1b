package app

import (
	"testing"
	"time"

	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// Who is suppressed is asked once; who leaves and comes in again, as one who buys
// twice, is asked anew.
func TestWhoIsSuppressedAgainIsAskedAgain(t *testing.T) {
	s := suppressor{a: &App{env: Env{Now: func() time.Time { return time.Unix(1e9, 0) }}}, at: map[taxonomy.DestinationID]*suppressing{}}
	nobody, one := index.NewSet(1), index.NewSet(1)
	one[0].Add(7)
	ask := func(set index.Set) bool {
		at := s.begin("dsp", set)
		if at == nil {
			return false
		}
		at.busy, at.done = false, set // it is settled
		return true
	}
	for i, step := range []struct {
		set  index.Set
		want bool
	}{{nobody, true}, {one, true}, {one, false}, {nobody, false}, {one, true}, {one, false}} {
		if got := ask(step.set); got != step.want {
			t.Errorf("look %d: asked %t, want %t", i+1, got, step.want)
		}
	}
}
