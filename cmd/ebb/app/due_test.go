package app

import (
	"strings"
	"testing"
	"time"

	"github.com/ebb-dmp/ebb/segments/delivery"
)

// R26: no schedule leaves more than a day between two deliveries, and Every is no
// less than what it leaves.
func TestAScheduleLeavesNoMoreThanADay(t *testing.T) {
	now := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC) // a Wednesday
	for _, c := range []struct{ schedule, every, fault string }{
		{"", "1h", ""}, {"0 * * * *", "1h", ""}, {"*/15 * * * *", "1h", ""}, {"0 6 * * *", "24h", ""}, {"0 6,20 * * *", "14h", ""},
		{"0 6,20 * * *", "10h", "set it to 14h0m0s"}, {"0 6 * * *", "1h", "set it to 24h0m0s"}, {"0 6 * * 1-5", "24h", "more than a day"}, {"0 0 1 * *", "24h", "more than a day"},
		{"0 0 30 2 *", "24h", "more than a day"}, {"every day", "24h", "is no schedule"}, {"CRON_TZ=Europe/Berlin 0 6 * * *", "24h", "is no schedule"},
	} {
		d := delivery.Destination{ID: "dsp", Schedule: c.schedule}
		if err := d.Every.UnmarshalText([]byte(c.every)); err != nil {
			t.Fatal(err)
		}
		if err := checkTimes(&d, now); (err == nil) != (c.fault == "") || err != nil && !strings.Contains(err.Error(), c.fault) {
			t.Errorf("%q every %s: %v, want %q", c.schedule, c.every, err, c.fault)
		}
	}
}

// A destination is due at its own times, once each; what was missed is made up for
// once; a changed schedule holds at once.
func TestADestinationIsDueAtItsOwnTimes(t *testing.T) {
	at := func(hour, minute int) time.Time { return time.Date(2026, 11, 25, hour, minute, 0, 0, time.UTC) }
	var x dues
	d := delivery.Destination{ID: "dsp", Schedule: "0 6,20 * * *"}
	for _, c := range []struct {
		now  time.Time
		want bool
	}{{at(5, 59), false}, {at(6, 0), true}, {at(6, 1), false}, {at(19, 59), false}, {at(20, 0), true}, {at(20, 15), false}} {
		if got := x.is(&d, at(0, 30), c.now); got != c.want {
			t.Errorf("at %s: %v", c.now.Format("15:04"), got)
		}
	}
	var started dues // a process that was down at six
	if !started.is(&d, at(0, 30), at(9, 0)) || started.is(&d, at(9, 0), at(9, 1)) {
		t.Error("what was missed is not made up for, or twice")
	}
	d.Schedule = "*/5 * * * *"
	if !x.is(&d, at(20, 0), at(20, 16)) {
		t.Error("a changed schedule waits for the old one")
	}
	d.Schedule = ""
	if !x.is(&d, at(20, 0), at(20, 17)) {
		t.Error("without a schedule it is due whenever the server delivers")
	}
}
