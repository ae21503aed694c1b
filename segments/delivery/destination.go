package delivery

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/ebb-dmp/ebb/taxonomy"
)

// IDs says by which ID a destination knows visitors.
type IDs string

// The kinds of partner IDs. They are never mixed in a file.
const (
	// ByPseudonym: a keyed hash made for this destination, so that two of them
	// cannot join their files. Everyone has one.
	ByPseudonym IDs = "pseudonym"
	// ByMatch: the partner's own ID, learnt by sync. Who was not synced is not
	// sent.
	ByMatch IDs = "matched"
)

// EbbID is what a sync URL holds where the visitor's pseudonym goes.
const EbbID = "${EBB_ID}"

// Defaults and bounds of a destination.
const (
	DefaultFloor     = 1000
	DefaultFormat    = "tsv"
	DefaultTransport = "pull"
	DefaultEvery     = Period(time.Hour)
	DefaultFullEvery = Period(24 * time.Hour)

	minEvery     = Period(5 * time.Minute)
	maxFullEvery = Period(24 * time.Hour)
)

// Period is a length of time that reads and prints as Go writes it: "1h30m0s".
type Period time.Duration

func (p Period) String() string { return time.Duration(p).String() }

// Millis returns the period in milliseconds.
func (p Period) Millis() taxonomy.Millis { return taxonomy.Millis(time.Duration(p).Milliseconds()) }

// MarshalText gives Go's form.
func (p Period) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText reads Go's form.
func (p *Period) UnmarshalText(b []byte) error {
	d, err := time.ParseDuration(string(b))
	if err != nil {
		return fmt.Errorf("period %.40q: want a form such as 24h or 1h30m", b)
	}
	*p = Period(d)
	return nil
}

// Destination is a DSP or other receiver: whom it may have, under which ID, in
// which form and how often.
type Destination struct {
	ID    taxonomy.DestinationID `json:"id"`
	Title string                 `json:"title"`
	// IDs: "pseudonym" (the default) or "matched".
	IDs IDs `json:"ids"`
	// RequireSync: a destination by pseudonym gets only whom it synced (R32).
	RequireSync bool `json:"require_sync,omitempty"`
	// PseudonymEpoch changes every pseudonym of the destination, and so means a
	// full for everyone. It changes by command only.
	PseudonymEpoch uint32 `json:"pseudonym_epoch,omitempty"`
	// Audiences that it gets; none if empty.
	Audiences []taxonomy.AudienceID `json:"audiences"`
	// Suppress names audiences, converters for one, whose members are in none of
	// Audiences here. Who comes into one is taken away at a receiver that is pushed
	// to within 60 s, whatever the schedule; at one that pulls with the next file.
	Suppress []taxonomy.AudienceID `json:"suppress,omitempty"`
	// Floor is the smallest number of members with which an audience is
	// delivered; a smaller one is delivered empty. 0 means DefaultFloor.
	Floor uint64 `json:"floor"`
	// SyncURL is where /v1/sync sends the browser, with ${EBB_ID} in the place
	// of the pseudonym. Empty: no sync.
	SyncURL string `json:"sync_url,omitempty"`
	// Bidder is the receiver's name in Prebid, if bid requests may tell it of the
	// destination's audiences that pages may read. Empty: they may not.
	Bidder string `json:"bidder,omitempty"`
	// Sync bounds what syncs with the partner may do.
	Sync Sync `json:"sync,omitzero"`
	// GVLID is the receiver's vendor ID in the IAB's Global Vendor List. A
	// visitor's TCF string reaches it only if the visitor agreed to that vendor;
	// 0: it has none, and no TCF string reaches it.
	GVLID     int    `json:"gvl_id,omitempty"`
	Format    string `json:"format"`
	Transport string `json:"transport"`
	// Every is the time between deliveries, FullEvery that between fulls. A
	// full is made early rather than late, so that files that hold someone who
	// has since said no are gone within 24 h (R26): FullEvery is at most 24 h.
	Every     Period `json:"every"`
	FullEvery Period `json:"full_every"`
	// Schedule is when it is delivered to, in cron's five fields (UTC), instead of
	// whenever the server delivers. Every must be at least the longest time between
	// two of these runs.
	Schedule string `json:"schedule,omitempty"`
	// HoldAbove is the share of the last full, in percent, above which a change
	// waits for approval; 0 means DefaultHoldAbove, -1 never.
	HoldAbove int `json:"hold_above,omitempty"`
	// KeyHash is HashKey of the key by which the partner pulls. The key itself
	// is shown once and kept nowhere.
	KeyHash string `json:"key_hash,omitempty"`
	// URL is where a transport that pushes brings its files.
	URL string `json:"url,omitempty"`
	// CredentialsFile names the file with the receiver's secret, in the folder
	// of secrets: a name and no path, or whoever may define destinations could
	// have any file sent to one.
	CredentialsFile string `json:"credentials_file,omitempty"`
	// Account says what the format has to know of us at the receiver, by the
	// receiver's own words: {"DataProviderId": "ebb"}. No secrets.
	Account map[string]string `json:"account,omitempty"`
	// Segments are the receiver's names of audiences, by their ID: a number of
	// theirs, mostly. An audience without one is called by its own ID.
	Segments map[taxonomy.AudienceID]string `json:"segments,omitempty"`
	// Push bounds what a receiver is sent at a time.
	Push Push `json:"push,omitzero"`
}

// Push bounds what is pushed.
type Push struct {
	// PerMinute is how many chunks a minute at most; 0 is no bound.
	PerMinute int `json:"per_minute,omitempty"`
	// Concurrency is how many chunks are under way at once; 0 means 1.
	Concurrency int `json:"concurrency,omitempty"`
	// KeepSent is how long the bytes that were sent are kept to be looked at, at most
	// 14 days; 0 means DefaultKeepSent. Erasure ends it sooner.
	KeepSent Period `json:"keep_sent,omitempty"`
}

// Sync says how browsers and files bring the partner's IDs (R32).
type Sync struct {
	// Hosts are the partner's own, as host or host:port: redirect= of a sync may
	// lead there, and their pages may sync.
	Hosts []string `json:"hosts,omitempty"`
	// Pixel: GET /v1/match is taken. Nothing proves that the partner says it, so
	// without it only what is signed, or comes under the partner's key, is taken.
	Pixel bool `json:"pixel,omitempty"`
	// The most that is learnt on one UTC day; 0 means the edge's default.
	IDsPerVisitor int `json:"ids_per_visitor,omitempty"`
	VisitorsPerID int `json:"visitors_per_id,omitempty"`
	ChangesPerDay int `json:"changes_per_day,omitempty"`
}

func (s *Sync) validate() (errs []error) {
	if len(s.Hosts) > 20 {
		errs = append(errs, taxonomy.Invalid("sync.hosts", "names %d hosts, at most 20 are allowed", len(s.Hosts)))
	}
	for i, h := range s.Hosts {
		if u, err := url.Parse("https://" + h); err != nil || u.Host != h || u.Hostname() == "" || h != strings.ToLower(h) || strings.ContainsAny(h, "*${}%") {
			errs = append(errs, taxonomy.Invalid(fmt.Sprintf("sync.hosts[%d]", i), "%.80q: want a host in lower case, with a port if it is not 443, and nothing else", h))
		}
	}
	for _, c := range []struct {
		name string
		n    int
		most int
	}{{"ids_per_visitor", s.IDsPerVisitor, 100}, {"visitors_per_id", s.VisitorsPerID, 1000}, {"changes_per_day", s.ChangesPerDay, 5_000_000}} {
		if c.n < 0 || c.n > c.most {
			errs = append(errs, taxonomy.Invalid("sync."+c.name, "%d is not between 1 and %d; leave it out for the default", c.n, c.most))
		}
	}
	return errs
}

// WithDefaults returns d with defaults in the place of what is zero.
func (d Destination) WithDefaults() Destination {
	if d.IDs == "" {
		d.IDs = ByPseudonym
	}
	if d.Floor == 0 {
		d.Floor = DefaultFloor
	}
	if d.Format == "" {
		d.Format = DefaultFormat
	}
	if d.Transport == "" {
		d.Transport = DefaultTransport
	}
	if d.Every == 0 {
		d.Every = DefaultEvery
	}
	if d.FullEvery == 0 {
		d.FullEvery = DefaultFullEvery
	}
	return d
}

// Validate returns every fault of d, each a taxonomy.FieldError, joined. What
// is zero counts as its default.
func (d *Destination) Validate() error {
	d2 := d.WithDefaults()
	var errs []error
	if err := taxonomy.CheckSlug("id", string(d.ID)); err != nil {
		errs = append(errs, &taxonomy.FieldError{Field: "id", Err: err})
	}
	if d2.IDs != ByPseudonym && d2.IDs != ByMatch {
		errs = append(errs, taxonomy.Invalid("ids", "%q is not one of %q, %q", d.IDs, ByPseudonym, ByMatch))
	}
	seen := map[taxonomy.AudienceID]bool{}
	for i, a := range d.Audiences {
		field := fmt.Sprintf("audiences[%d]", i)
		if err := taxonomy.CheckSlug("audience", string(a)); err != nil {
			errs = append(errs, &taxonomy.FieldError{Field: field, Err: err})
		} else if seen[a] {
			errs = append(errs, taxonomy.Invalid(field, "%q stands there twice", a))
		}
		seen[a] = true
	}
	errs = append(errs, d.checkSuppress(seen)...)
	if d.SyncURL != "" {
		if err := checkSyncURL(d.SyncURL); err != nil {
			errs = append(errs, &taxonomy.FieldError{Field: "sync_url", Err: err})
		}
	}
	errs = append(errs, d.Sync.validate()...)
	if len(d.Bidder) > 64 || strings.ContainsFunc(d.Bidder, func(r rune) bool {
		return r != '_' && r != '-' && r != '.' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
	}) {
		errs = append(errs, taxonomy.Invalid("bidder", "%.80q: want a bidder code of Prebid: letters, digits, _ - and ., at most 64", d.Bidder))
	}
	if d.GVLID < 0 || d.GVLID > 65535 {
		errs = append(errs, taxonomy.Invalid("gvl_id", "%d is no vendor ID; want 1 to 65535, or leave it out", d.GVLID))
	}
	if err := taxonomy.CheckSlug("format", d2.Format); err != nil {
		errs = append(errs, &taxonomy.FieldError{Field: "format", Err: err})
	}
	if err := taxonomy.CheckSlug("transport", d2.Transport); err != nil {
		errs = append(errs, &taxonomy.FieldError{Field: "transport", Err: err})
	}
	if d2.FullEvery > maxFullEvery || d2.FullEvery < minEvery {
		errs = append(errs, taxonomy.Invalid("full_every", "%s is not between %s and %s: files that hold someone who withdrew must go within a day", d2.FullEvery, minEvery, maxFullEvery))
	}
	if d2.Every < minEvery || d2.Every > d2.FullEvery {
		errs = append(errs, taxonomy.Invalid("every", "%s is not between %s and full_every (%s)", d2.Every, minEvery, d2.FullEvery))
	}
	if d.HoldAbove < -1 || d.HoldAbove > 1000 {
		errs = append(errs, taxonomy.Invalid("hold_above", "%d is not a percentage of 1 to 1000, nor -1 for never", d.HoldAbove))
	}
	if len(d.Schedule) > 100 {
		errs = append(errs, taxonomy.Invalid("schedule", "has %d bytes, at most 100 are allowed", len(d.Schedule)))
	}
	if n := d.Push.PerMinute; n < 0 || n > 6000 {
		errs = append(errs, taxonomy.Invalid("push.per_minute", "%d is not between 0 and 6000", n))
	}
	if n := d.Push.Concurrency; n < 0 || n > 16 {
		errs = append(errs, taxonomy.Invalid("push.concurrency", "%d is not between 0 and 16", n))
	}
	if k := d.Push.KeepSent; k != 0 && (k < Period(time.Minute) || k > maxKeepSent) {
		errs = append(errs, taxonomy.Invalid("push.keep_sent", "%s is not between 1m and %s", k, maxKeepSent))
	}
	if d.CredentialsFile != "" {
		if err := taxonomy.CheckSlug("file", d.CredentialsFile); err != nil {
			errs = append(errs, &taxonomy.FieldError{Field: "credentials_file", Err: err})
		}
	}
	if len(d.URL) > 2048 {
		errs = append(errs, taxonomy.Invalid("url", "has %d bytes, at most 2048 are allowed", len(d.URL)))
	}
	if len(d.Account) > 32 {
		errs = append(errs, taxonomy.Invalid("account", "has %d entries, at most 32 are allowed", len(d.Account)))
	}
	for k, v := range d.Account {
		if k == "" || len(k) > 64 || len(v) > 4096 {
			errs = append(errs, taxonomy.Invalid("account", "%.64q: want a name of 1 to 64 bytes and a value of at most 4096", k))
		}
	}
	taken := map[string]taxonomy.AudienceID{}
	for _, a := range slices.Sorted(maps.Keys(d.Segments)) {
		name := d.Segments[a]
		if name == "" || len(name) > 256 || !seen[a] {
			errs = append(errs, taxonomy.Invalid("segments", "%.64q: want an audience of this destination, and a name of 1 to 256 bytes", a))
		} else if taken[name] != "" {
			errs = append(errs, taxonomy.Invalid("segments", "%q and %q have the same name: who leaves one of them would be taken out of both", taken[name], a))
		}
		taken[name] = a
	}
	if d.KeyHash != "" && !isKeyHash(d.KeyHash) {
		errs = append(errs, taxonomy.Invalid("key_hash", "want the 64 hex digits that HashKey gives"))
	}
	return errors.Join(errs...)
}

func checkSyncURL(s string) error {
	if !strings.Contains(s, EbbID) {
		return fmt.Errorf("has no %s, so the partner would not learn the ID", EbbID)
	}
	// The ID may stand in path and query only: a host made of it would send
	// browsers anywhere.
	u, err := url.Parse(strings.ReplaceAll(s, EbbID, "EBBID"))
	switch {
	case err != nil:
		return errors.New("is not a URL")
	case u.Scheme != "https":
		return fmt.Errorf("scheme %q: want https", u.Scheme)
	case u.Host == "" || u.User != nil:
		return errors.New("want a host, and no user or password")
	case strings.Contains(u.Host, "EBBID"):
		return fmt.Errorf("%s must not stand in the host", EbbID)
	case strings.Contains(u.Fragment, "EBBID"):
		return fmt.Errorf("%s in the fragment never reaches the partner", EbbID)
	}
	return nil
}

// SyncTo returns the URL to which a browser goes whose pseudonym is id; empty
// if the destination has no sync.
func (d *Destination) SyncTo(id string) string {
	return strings.ReplaceAll(d.SyncURL, EbbID, url.QueryEscape(id))
}
