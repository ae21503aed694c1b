package taxonomy

import (
	"fmt"
	"time"
)

// RetentionDays is the life of behaviour in UTC days: what happened on day d is
// readable from day d to day d+89 and is over at the start of day d+90 (P5).
const RetentionDays = 90

// Millis is an instant in milliseconds since 1970-01-01T00:00:00Z. All times in
// records, frames and files have this form: it has no zone and no hidden clock.
type Millis int64

// Lengths of time in milliseconds, the unit of Millis.
const (
	Second Millis = 1000
	Minute        = 60 * Second
	Hour          = 60 * Minute
	OneDay        = 24 * Hour
)

// MillisOf returns t in milliseconds, cut towards the past.
func MillisOf(t time.Time) Millis { return Millis(t.UnixMilli()) }

// Time returns m in UTC.
func (m Millis) Time() time.Time { return time.UnixMilli(int64(m)).UTC() }

// Day returns the UTC day that m lies in. It is exact for times before 1970 too.
func (m Millis) Day() Day {
	d := int64(m) / int64(OneDay)
	if int64(m)%int64(OneDay) < 0 {
		d--
	}
	return Day(d)
}

// Hour returns the number of whole hours since 1970.
func (m Millis) Hour() int64 {
	h := int64(m) / int64(Hour)
	if int64(m)%int64(Hour) < 0 {
		h--
	}
	return h
}

func (m Millis) String() string { return m.Time().Format("2006-01-02T15:04:05.000Z") }

// Day is a UTC day, numbered from 1970-01-01 = 0. Days have no leap seconds and
// no daylight saving: every one is 24 hours long.
type Day int32

// DayOf returns the UTC day of t.
func DayOf(t time.Time) Day { return MillisOf(t).Day() }

// Start returns the first instant of the day.
func (d Day) Start() Millis { return Millis(d) * OneDay }

// Over returns the first instant at which what happened on d is no longer
// readable: the start of day d+90.
func (d Day) Over() Millis { return (d + RetentionDays).Start() }

// Expired reports whether what happened on d is over at now.
func (d Day) Expired(now Millis) bool { return now >= d.Over() }

// Oldest returns the oldest day that is readable on day d: the first of the 90
// days that end with d.
func (d Day) Oldest() Day { return d - (RetentionDays - 1) }

func (d Day) String() string { return d.Start().Time().Format(time.DateOnly) }

// ParseDay reads YYYY-MM-DD.
func ParseDay(s string) (Day, error) {
	t, err := time.Parse(time.DateOnly, s)
	if err != nil {
		return 0, fmt.Errorf("day %q: want YYYY-MM-DD", s)
	}
	return DayOf(t), nil
}

// MarshalText gives YYYY-MM-DD, so that JSON and YAML show a day as a date.
func (d Day) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads YYYY-MM-DD.
func (d *Day) UnmarshalText(b []byte) error {
	v, err := ParseDay(string(b))
	if err == nil {
		*d = v
	}
	return err
}

// Moment is an instant in definitions: JSON and YAML show it as RFC 3339 in UTC. A
// day alone is its start.
type Moment Millis

func (m Moment) String() string { return Millis(m).Time().Format("2006-01-02T15:04:05.999Z") }

// MarshalText gives RFC 3339 in UTC, with milliseconds where they are not 0.
func (m Moment) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText reads RFC 3339, or YYYY-MM-DD. The start of 1970 is refused, for
// it stands for none.
func (m *Moment) UnmarshalText(b []byte) error {
	t, err := time.Parse(time.RFC3339, string(b))
	if err != nil {
		t, err = time.Parse(time.DateOnly, string(b))
	}
	at := MillisOf(t)
	if err != nil || at <= 0 || t.Year() > 9999 {
		return fmt.Errorf("%.40q is no time; want 2026-11-26T12:00:00Z or 2026-11-26", b)
	}
	*m = Moment(at)
	return nil
}
