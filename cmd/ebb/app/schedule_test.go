package app

import (
	"testing"
	"time"
)

func TestSchedulesAreUTC(t *testing.T) {
	s, err := ParseSchedule("15 1 * * *")
	if err != nil {
		t.Fatal(err)
	}
	zone := time.FixedZone("", 5*3600+1800)
	at := time.Date(2026, 11, 25, 6, 44, 59, 0, zone) // 01:14:59 UTC
	if got, want := s.Next(at), time.Date(2026, 11, 25, 1, 15, 0, 0, time.UTC); !got.Equal(want) {
		t.Errorf("next after %v is %v, want %v", at.UTC(), got.UTC(), want)
	}
}

func TestBadSchedulesAreRefused(t *testing.T) {
	for _, line := range []string{"", "nonsense", "61 * * * *", "* * * *", "* * * * * *", "TZ=Asia/Tokyo * * * * *", "CRON_TZ=Asia/Tokyo * * * * *", "@sometimes", "@every -1m"} {
		if err := CheckSchedule(line); err == nil {
			t.Errorf("schedule %q was taken", line)
		}
	}
	for _, line := range []string{"* * * * *", "*/15 * * * *", "15 1 * * *", "@hourly", "@every 5m"} {
		if err := CheckSchedule(line); err != nil {
			t.Error(err)
		}
	}
}
