package config

// Limits bound what browsers and whoever pretends to be one may cost. They hold for
// one node, from its start on.
type Limits struct {
	EventsPerMinute   int `key:"events_per_minute" value:"N" default:"300" help:"How many events a visitor may do in a minute; what is beyond is flagged as a bot's and counts in no audience. 0: no limit."`
	RequestsPerMinute int `key:"requests_per_minute" value:"N" default:"0" help:"How many batches and pixels a site takes in a minute from one class of addresses (a /24, or a /48 of IPv6); what is beyond is answered 429. Ten seconds of them may come at once. 0: 12000, or ten times new_ids_per_minute if that is more."`
	RequestsAtOnce    int `key:"requests_at_once" value:"N" default:"4096" help:"How many requests a listener works on at once; one more is answered 503. It bounds memory: each may have a body of 64 KiB."`
	Connections       int `key:"connections" value:"N" default:"16384" help:"How many connections a listener holds; beyond it the one that has waited longest without a request is closed. About 17 KiB each; the system's limit of open files must be higher."`
}

// limits checks them.
func (l *loader) limits(c *Limits) {
	within := func(key string, n, least, most int, zero string) {
		if zero != "" && n == 0 {
			return
		}
		if n < least || n > most {
			l.wrong(key, "%d is out of range; want %d to %d%s", n, least, most, zero)
		}
	}
	within("limits.events_per_minute", c.EventsPerMinute, 10, 1_000_000, ", or 0 for no limit")
	within("limits.requests_per_minute", c.RequestsPerMinute, 60, 1_000_000_000, ", or 0 for what is worked out")
	within("limits.requests_at_once", c.RequestsAtOnce, 16, 1<<20, "")
	within("limits.connections", c.Connections, 16, 1<<20, "")
	if c.RequestsAtOnce > c.Connections && c.Connections >= 16 {
		l.wrong("limits.requests_at_once", "%d is more than limits.connections, %d: so many requests cannot be there", c.RequestsAtOnce, c.Connections)
	}
}
