package storetest

import (
	"sync/atomic"

	"github.com/ebb-dmp/ebb/taxonomy"
)

// Clock is a clock that stands still until it is moved. Its Now is what engines
// take. It is safe for concurrent use.
type Clock struct{ now atomic.Int64 }

// Start is where the suite's clocks begin: 09:30 UTC on 2027-12-02. What happens
// on that day is over at the start of 2028-03-01, the leap day being its last.
var Start = mustDay("2027-12-02").Start() + 9*taxonomy.Hour + 30*taxonomy.Minute

// NewClock returns a clock that stands at the given instant.
func NewClock(at taxonomy.Millis) *Clock {
	c := new(Clock)
	c.Set(at)
	return c
}

// Now returns where the clock stands.
func (c *Clock) Now() taxonomy.Millis { return taxonomy.Millis(c.now.Load()) }

// Set moves the clock to the given instant, back if need be.
func (c *Clock) Set(at taxonomy.Millis) { c.now.Store(int64(at)) }

// Advance moves the clock by d and returns where it then stands.
func (c *Clock) Advance(d taxonomy.Millis) taxonomy.Millis {
	return taxonomy.Millis(c.now.Add(int64(d)))
}

func mustDay(s string) taxonomy.Day {
	d, err := taxonomy.ParseDay(s)
	if err != nil {
		panic(err)
	}
	return d
}
