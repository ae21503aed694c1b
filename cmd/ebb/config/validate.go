package config

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// validate checks what one value or several together must be. Values that could
// not be read have their fault already and are the defaults here.
func (l *loader) validate(checkSchedule func(string) error) {
	c := &l.r.Config
	if c.Data == "" {
		l.wrong("data", "must name a directory")
	}
	if within(c.KeysFile(), c.Data) {
		l.wrong("keys", "%s lies in the data directory, so that a backup of the data would hold its keys; put it beside it", c.KeysFile())
	}
	if c.ErasuresJournal != "" && within(c.ErasuresJournal, c.Data) {
		l.wrong("erasures_journal", "%s lies in the data directory, which has a journal already; name a second place, best on another disk", c.ErasuresJournal)
	}
	l.store(c)
	l.addresses(c)
	if (c.TLS.Cert == "") != (c.TLS.Key == "") {
		set, missing := "tls.cert", "tls.key"
		if c.TLS.Cert == "" {
			set, missing = missing, set
		}
		l.wrong(set, "is set without %s; set both or neither", missing)
	}
	if c.PublicOrigin != "" {
		if err := checkOrigin(c.PublicOrigin); err != nil {
			l.wrong("public_origin", "%v", err)
		}
	}
	l.size("log.segment_bytes", c.Log.SegmentBytes, 1<<20, 1<<30)
	l.size("log.max_bytes", c.Log.MaxBytes, 4*c.Log.SegmentBytes, 1<<50)
	l.size("checkpoint.bytes", c.Checkpoint.Bytes, 1<<20, 32<<20)
	if d := c.Checkpoint.Interval; d < time.Second || d > 30*time.Second {
		l.wrong("checkpoint.interval", "%s is out of range; want 1s to 30s", d)
	}
	if c.ExportFloor < 1 {
		l.wrong("export_floor", "%d is out of range; want at least 1", c.ExportFloor)
	}
	if c.NewIDsPerMinute < 1 {
		l.wrong("new_ids_per_minute", "%d is out of range; want at least 1", c.NewIDsPerMinute)
	}
	l.consent(&c.Consent)
	l.limits(&c.Limits)
	l.oneOf("messages.level", c.Messages.Level, "debug", "info", "warn", "error")
	l.oneOf("messages.format", c.Messages.Format, "text", "json")
	if checkSchedule == nil {
		return
	}
	for _, s := range [][2]string{{"build.schedule", c.Build.Schedule}, {"deliver.schedule", c.Deliver.Schedule}, {"retention.schedule", c.Retention.Schedule}} {
		if err := checkSchedule(s[1]); err != nil {
			l.wrong(s[0], "%v", err)
		}
	}
}

// consent checks what can be checked without the files.
func (l *loader) consent(c *Consent) {
	switch c.Role {
	case "", "publisher":
	case "vendor":
		if c.GVLID == 0 {
			l.wrong("consent.role", "vendor needs the operator's ID in the Global Vendor List; set consent.gvl_id")
		}
		if c.GVL == "" {
			l.wrong("consent.role", "vendor needs the vendor list; set consent.gvl to a copy of https://vendor-list.consensu.org/v3/vendor-list.json")
		}
	default:
		l.wrong("consent.role", "%q is no role; set vendor or publisher", c.Role)
	}
	if c.GVLID < 0 || c.GVLID > 65535 {
		l.wrong("consent.gvl_id", "%d is out of range; want 1 to 65535", c.GVLID)
	}
	for _, x := range c.Countries() {
		if len(x) != 2 || x[0] < 'A' || x[0] > 'Z' || x[1] < 'A' || x[1] > 'Z' {
			l.wrong("consent.purpose_one", "%q is no country; want two capital letters each, such as DE,AT", x)
		}
	}
}

// addresses checks the three listeners, which must not meet: who may reach one
// may not reach another.
func (l *loader) addresses(c *Config) {
	type listener struct{ key, addr string }
	taken := make(map[string]string, 3)
	for _, at := range []listener{{"listen.public", c.Listen.Public}, {"listen.partner", c.Listen.Partner}, {"listen.private", c.Listen.Private}} {
		host, port, err := net.SplitHostPort(at.addr)
		if err != nil {
			l.wrong(at.key, "%q is no address; want host:port, such as 127.0.0.1:8080", at.addr)
			continue
		}
		if n, err := strconv.ParseUint(port, 10, 16); err != nil {
			l.wrong(at.key, "%q: the port must be a number from 0 to 65535", at.addr)
			continue
		} else if n == 0 {
			continue
		}
		if _, err := netip.ParseAddr(host); err != nil && host != "localhost" && host != "" {
			l.wrong(at.key, "%q: the host must be an address of this machine, or localhost, or empty for all", at.addr)
			continue
		}
		if other, ok := taken[at.addr]; ok {
			l.wrong(at.key, "%s is taken by %s; the listeners are for different callers and each needs its own port", at.addr, other)
		}
		taken[at.addr] = at.key
	}
}

func (l *loader) size(key string, n, least, most Bytes) {
	if n < least || n > most {
		l.wrong(key, "%s is out of range; want %s to %s", n, least, most)
	}
}

func (l *loader) oneOf(key, value string, words ...string) {
	if !slices.Contains(words, value) {
		l.wrong(key, "%q is not one of %s", value, strings.Join(words, ", "))
	}
}

// checkOrigin returns an error unless s is an origin as browsers print it and
// takes __Host- cookies: https, or http on localhost.
func checkOrigin(s string) error {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return fmt.Errorf("%q is no origin; want scheme and host, such as https://data.shop.example", s)
	}
	if bare := u.Scheme + "://" + u.Host; s != bare {
		return fmt.Errorf("%q is more than an origin; want %s", s, bare)
	}
	if u.Scheme == "http" && u.Hostname() != "localhost" {
		return fmt.Errorf("%q: browsers take Ebb's cookies (__Host-…) over https only, or from http://localhost", s)
	}
	return nil
}

// loopback reports whether only this machine reaches addr.
func loopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	if host == "localhost" {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.Unmap().IsLoopback()
}

// within reports whether path lies in dir, by name: nothing is looked up on
// disk.
func within(path, dir string) bool {
	if filepath.IsAbs(path) != filepath.IsAbs(dir) {
		return false
	}
	rel, err := filepath.Rel(dir, path)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, ".."+string(filepath.Separator))
}

// Warnings are what is allowed and seldom wise. Each names the setting.
func (r *Resolved) Warnings() (out []string) {
	warn := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	if r.TLS.Cert == "" {
		for _, at := range []struct{ key, addr string }{{"listen.public", r.Listen.Public}, {"listen.partner", r.Listen.Partner}, {"listen.private", r.Listen.Private}} {
			if !loopback(at.addr) {
				warn("%s: %s is reachable from other machines without TLS; set tls.cert and tls.key, or listen on loopback behind a proxy that has them", at.key, at.addr)
			}
		}
	}
	if !loopback(r.Listen.Private) {
		warn("listen.private: %s carries the console and the API; keep it on a network that only operators reach", r.Listen.Private)
	}
	for _, p := range r.Proxies {
		if p.Bits() == 0 {
			warn("trusted_proxies: %s believes the X-Forwarded-For of everyone", p)
		}
	}
	for _, p := range r.PrivateReceivers {
		if p.Bits() == 0 {
			warn("private_receivers: %s lets whoever defines destinations reach every address of this house", p)
		}
	}
	if len(r.Proxies) > 0 && r.PublicOrigin == "" {
		warn("public_origin: behind a proxy the snippet for pages needs the address that browsers see; it is not set")
	}
	if r.ExportFloor < 50 {
		warn("export_floor: %d is less than 50, below which no count is even shown", r.ExportFloor)
	}
	if !r.Compress {
		warn("compress: false is for looking at bytes; files are several times as large")
	}
	if r.origins["admin_key"].Place == "file" {
		warn("admin_key: stands in a file that others may read; EBB_ADMIN_KEY keeps it out of there")
	}
	if r.origins["admin_key"].Place == "flag" {
		warn("admin_key: a flag is seen by all who list processes; use EBB_ADMIN_KEY")
	}
	return out
}
