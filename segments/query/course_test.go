package query_test

import (
	"slices"
	"testing"

	"github.com/ebb-dmp/ebb/segments/query"
	"github.com/ebb-dmp/ebb/taxonomy"
	"pgregory.net/rapid"
)

// R14: on random worlds a trait's course is what the naive model counts, day by day,
// and nobody is counted twice over the days.
func TestCoursesAreWhatTheNaiveModelCounts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		_, m, r, v, _ := genCase(t)
		asked := append([]taxonomy.Trait{"c:nobody/had"}, traits...)
		got, err := query.Courses(t.Context(), v, m.today, r, asked, query.RunOptions{Workers: 1})
		if err != nil {
			t.Fatal(err)
		}
		eligible := m.eligible()
		count := func(e query.Expr) (n uint64) {
			is := m.eval(e)
			for visitor := range 8 {
				if is[visitor] && eligible[visitor] {
					n++
				}
			}
			return n
		}
		for i, trait := range asked {
			e := query.Had(trait)
			if want := count(e); got[i].Trait != trait || got[i].Visitors != want {
				t.Fatalf("%s: %d visitors, want %d", trait, got[i].Visitors, want)
			}
			for d := range got[i].Days {
				day := m.today.Oldest() + taxonomy.Day(d)
				e.Window = query.Window{From: day, To: day}
				if want := count(e); got[i].Days[d] != want {
					t.Fatalf("%s on %s: %d visitors, want %d", trait, day, got[i].Days[d], want)
				}
			}
		}
	})
}

func TestTraitsAreThoseNamed(t *testing.T) {
	e, err := query.ParseText("c:a/b and not (c:a/a in 3d or audience x or age is y or c:a/b)")
	if err != nil {
		t.Fatal(err)
	}
	if got := query.Traits(e); !slices.Equal(got, []taxonomy.Trait{"c:a/a", "c:a/b"}) {
		t.Errorf("got %v", got)
	}
}
