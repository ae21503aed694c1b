package fold

import (
	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// A category may live for less than 90 days. Then nobody reads its older days: not
// who counts, asks for one visitor, or works out for how long a partner may hold a
// row. The columns stay as they are until their day is over, as do the events that
// they were made of, so a longer life is one that had always been. Lives change
// with the rules in force, at the checkpoint that switches.

// Words is a Classifier that knows its categories.
type Words interface {
	// Lives are the categories that live for less than 90 days, in days. Nobody
	// changes what it returns.
	Lives() map[taxonomy.Trait]int
	// Now is what a trait is called by these rules: a category may have become
	// another.
	Now(taxonomy.Trait) taxonomy.Trait
}

func wordsOf(c Classifier) Words {
	if x, ok := c.(compiled); ok {
		c = x.Classifier
	}
	w, _ := c.(Words)
	return w
}

func livesOf(c Classifier) map[taxonomy.Trait]int {
	if w := wordsOf(c); w != nil {
		return w.Lives()
	}
	return nil
}

// Now is that of index.Renamed.
func (v *View) Now(t taxonomy.Trait) taxonomy.Trait {
	if v.words == nil {
		return t
	}
	return v.words.Now(t)
}

// speaks makes c the rules by whose words a view is read.
func (v *View) speaks(c Classifier) { v.words, v.lives = wordsOf(c), livesOf(c) }

// Life is that of index.Lives.
func (v *View) Life(t taxonomy.Trait) int { return lifeIn(v.lives, t) }

func lifeIn(lives map[taxonomy.Trait]int, t taxonomy.Trait) int {
	if n, ok := lives[t]; ok {
		return n
	}
	return taxonomy.RetentionDays
}

// since is the oldest day of a trait that is read, or from if that is later.
func (v *View) since(t taxonomy.Trait, from taxonomy.Day) taxonomy.Day {
	if n, ok := v.lives[t]; ok {
		return max(from, v.clock.Day()-taxonomy.Day(n-1))
	}
	return from
}

// within is a question that counts, without the days that are over for its trait:
// its columns are of one. It is op itself if there are none.
func (v *View) within(op *index.Operand) *index.Operand {
	if len(v.lives) == 0 || op.Kind != index.OpCount || len(op.Columns) == 0 {
		return op
	}
	from := v.since(op.Columns[0].Trait, op.From)
	if from == op.From {
		return op
	}
	less := *op
	less.From = from
	return &less
}

// withoutOver counts the columns anew of which not all days are read.
func (v *View) withoutOver(from, to taxonomy.Day, sums map[taxonomy.Column]uint64) {
	for c := range sums {
		since := v.since(c.Trait, from)
		if since == from {
			continue
		}
		n := uint64(0)
		for i := range v.shards {
			n += v.shards[i].days.VisitorDays(c, since, to)
		}
		if sums[c] = n; n == 0 {
			delete(sums, c)
		}
	}
}
