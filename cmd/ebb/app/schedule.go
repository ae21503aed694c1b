// Package app is the wiring: it puts the parts together, starts and stops them
// in order, and has all schedules. Only it names concrete engines, formats and
// transports.
package app

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
)

// schedules reads five fields (minute, hour, day of month, month, day of week),
// @daily and the like, and @every. Seconds are not read: nothing that is
// scheduled is done by the second.
var schedules = cron.NewParser(cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow | cron.Descriptor)

// ParseSchedule reads when something runs. Fields are UTC, whatever the zone of
// the times that the schedule is asked about; a zone in the line is refused,
// since days are UTC everywhere in Ebb.
func ParseSchedule(line string) (Schedule, error) {
	s, err := schedules.Parse("CRON_TZ=UTC " + line)
	if every, ok := strings.CutPrefix(line, "@every "); ok && err == nil {
		// The library takes what is less than a second, or less than nothing,
		// for a second.
		if d, derr := time.ParseDuration(every); derr != nil || d < time.Second {
			err = errors.New("less than a second")
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%q is no schedule (%w); want five fields: minute, hour, day of month, month, day of week, such as \"15 1 * * *\"", line, err)
	}
	return s, nil
}

// CheckSchedule is ParseSchedule for who only wants to know.
func CheckSchedule(line string) error {
	_, err := ParseSchedule(line)
	return err
}

// Schedule tells when something is next due.
type Schedule = cron.Schedule
