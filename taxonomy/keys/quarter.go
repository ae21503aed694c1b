package keys

import (
	"fmt"
	"time"

	"github.com/ebb-dmp/ebb/taxonomy"
)

// quarter is a calendar quarter in UTC: 4·year + 0..3.
type quarter int32

func quarterOf(d taxonomy.Day) quarter {
	t := d.Start().Time()
	return quarter(4*t.Year() + (int(t.Month())-1)/3)
}

// first returns the quarter's first day.
func (q quarter) first() taxonomy.Day {
	return taxonomy.DayOf(time.Date(int(q/4), time.Month(q%4*3+1), 1, 0, 0, 0, 0, time.UTC))
}

// last returns the quarter's last day.
func (q quarter) last() taxonomy.Day { return (q + 1).first() - 1 }

func (q quarter) String() string { return fmt.Sprintf("%04d-Q%d", q/4, q%4+1) }

func parseQuarter(s string) (quarter, error) {
	var year, n int
	if _, err := fmt.Sscanf(s, "%04d-Q%d", &year, &n); err == nil && n >= 1 && n <= 4 && year >= 1970 {
		if q := quarter(4*year + n - 1); q.String() == s {
			return q, nil
		}
	}
	return 0, fmt.Errorf("quarter %.20q: want the form 2026-Q4", s)
}
