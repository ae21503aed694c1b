package delivery

import (
	"testing"

	"github.com/RoaringBitmap/roaring/v2"
	"pgregory.net/rapid"

	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// lived is one visitor's days in columns, some of which live for less than 90 days.
type lived struct {
	audience.View
	today taxonomy.Day
	days  map[taxonomy.Trait][]taxonomy.Day
	lives map[taxonomy.Trait]int
}

func (l *lived) Life(t taxonomy.Trait) int { return l.lives[t] }

func (l *lived) Consent(int, uint32) (taxonomy.Consent, bool) {
	return taxonomy.Consent{Day: l.today}, true
}

func (l *lived) Newest(_, _ int, columns []taxonomy.Column, from, to taxonomy.Day, dst *[index.BlockSize]uint8) error {
	dst[7] = 0
	for _, c := range columns {
		for _, d := range l.days[c.Trait] {
			if age := uint8(to-d) + 1; d >= max(from, l.today-taxonomy.Day(l.lives[c.Trait]-1)) && d <= to && (dst[7] == 0 || age < dst[7]) {
				dst[7] = age
			}
		}
	}
	return nil
}

// R31: a row is held until the start of day d+life, of the column that holds it
// longest; with none that counts, by the newest event of all; and never beyond the
// 30 days of the consent summary.
func TestARowIsHeldForTheLifeOfItsCategories(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const today = taxonomy.Day(20_000)
		l := &lived{today: today, days: map[taxonomy.Trait][]taxonomy.Day{}, lives: map[taxonomy.Trait]int{taxonomy.TraitAny: taxonomy.RetentionDays}}
		var positive []taxonomy.Column
		want := taxonomy.Day(0)
		for _, name := range []string{"a", "b", "c", "d"} {
			trait := taxonomy.CategoryTrait("t", name)
			l.lives[trait] = rapid.SampledFrom([]int{90, 90, 1, 5, 30, 61}).Draw(t, "life")
			positive = append(positive, taxonomy.Column{Source: "web", Trait: trait})
			for _, ago := range rapid.SliceOfN(rapid.IntRange(0, 89), 0, 3).Draw(t, "days ago") {
				d := today - taxonomy.Day(ago)
				l.days[trait] = append(l.days[trait], d)
				l.days[taxonomy.TraitAny] = append(l.days[taxonomy.TraitAny], d)
				if until := d + taxonomy.Day(l.lives[trait]); until > today {
					want = max(want, until)
				}
			}
		}
		if want == 0 {
			for _, d := range l.days[taxonomy.TraitAny] {
				want = max(want, d+taxonomy.RetentionDays)
			}
		}
		want = min(want, today+consentLife)
		g := life{view: l, any: []taxonomy.Column{{Source: "web", Trait: taxonomy.TraitAny}}, today: today}
		got := taxonomy.Day(0)
		if err := g.each(roaring.BitmapOf(7), positive, func(_ uint32, until taxonomy.Day) { got = until }); err != nil {
			t.Fatal(err)
		}
		if got != want {
			t.Fatalf("held until %v, want %v: %v, lives %v", got-today, want-today, l.days, l.lives)
		}
	})
}
