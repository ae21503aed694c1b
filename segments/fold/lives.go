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

// lived is a Classifier whose categories may live for less than 90 days: Lives are
// those, in days. Nobody changes what it returns.
type lived interface {
	Lives() map[taxonomy.Trait]int
}

func livesOf(c Classifier) map[taxonomy.Trait]int {
	if x, ok := c.(compiled); ok {
		c = x.Classifier
	}
	if l, ok := c.(lived); ok {
		return l.Lives()
	}
	return nil
}

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
