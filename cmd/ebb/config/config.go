// Package config is what an operator may choose: one struct, resolved once,
// each value with the place that it came from.
//
// Four places may give a value, each winning over those before it: the default,
// the YAML file, an environment variable EBB_…, a flag. They all give text, and
// one function per type reads it, so a value means the same wherever it stands.
// Nothing unknown is passed over: a mistyped key is refused with its place and
// the nearest key that exists.
package config

import (
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// Config is every setting. Keys are those of the tags, joined by dots:
// listen.public is the flag --listen.public and the variable EBB_LISTEN_PUBLIC.
type Config struct {
	Data         string         `key:"data" value:"DIR" default:"ebb-data" help:"The data directory. It is locked while a program uses it."`
	Keys         string         `key:"keys" value:"FILE" help:"The file of secret keys, mode 0600, outside the data directory and its backups. Default: the data directory's name with .keys.json behind it. Lost keys orphan the data."`
	Store        string         `key:"store" value:"embedded" default:"embedded" help:"Where data is kept. This version has one store, embedded in the data directory."`
	Ack          string         `key:"ack" value:"local" default:"local" help:"How far an event must have come before its request is answered: local (fsynced in this node's log)."`
	PublicOrigin string         `key:"public_origin" value:"URL" help:"Scheme, host and port under which browsers reach the public listener, such as https://data.shop.example. Default: localhost and the port of listen.public."`
	Proxies      []netip.Prefix `key:"trusted_proxies" value:"CIDR,…" help:"Networks whose X-Forwarded-For is believed. Default: none, and the peer's address counts."`
	AdminKey     string         `key:"admin_key" value:"KEY" secret:"true" help:"The admin key with which commands speak to a running server. Better given as EBB_ADMIN_KEY than in a file."`

	Listen     Listen     `key:"listen"`
	TLS        TLS        `key:"tls"`
	Log        Log        `key:"log"`
	Checkpoint Checkpoint `key:"checkpoint"`
	Build      Schedule   `key:"build" schedule:"* * * * *" about:"When audiences are built and a generation is published. One is built at 00:00 UTC besides (R21)."`
	Deliver    Schedule   `key:"deliver" schedule:"*/15 * * * *" about:"When destinations get what changed."`
	Retention  Schedule   `key:"retention" schedule:"15 1 * * *" about:"When the nightly pass removes what is over and rewrites what holds erased visitors."`
	Messages   Messages   `key:"messages"`
	Consent    Consent    `key:"consent"`
	Geo        Geo        `key:"geo"`

	Compress        bool   `key:"compress" value:"BOOL" default:"true" help:"Compress what is written to disk. Off only to look for bytes."`
	ExportFloor     int    `key:"export_floor" value:"N" default:"1000" help:"The smallest audience that is delivered; a smaller one is delivered empty."`
	NewIDsPerMinute int    `key:"new_ids_per_minute" value:"N" default:"1200" help:"How many new visitors one class of addresses (a /24, or a /48 of IPv6) may make in a minute."`
	ErasuresJournal string `key:"erasures_journal" value:"FILE" help:"A second place for the journal of erasures, best on another disk. A restore needs the journal."`
}

// Geo is where the countries of addresses are known from.
type Geo struct {
	File string `key:"file" value:"FILE" help:"A database of countries in MaxMind's format (MMDB), for sites whose consent goes by country. Without it the country is unknown, and unknown is strict. It is read when the server starts."`
}

// Consent is for whom the strings of consent platforms are read.
type Consent struct {
	Role       string `key:"role" value:"ROLE" help:"For whom TCF strings are read: vendor (consent.gvl_id) or publisher. Without it a request with a TCF string is refused."`
	GVLID      int    `key:"gvl_id" value:"N" default:"0" help:"The operator's ID in the IAB's Global Vendor List, for the role vendor."`
	GVL        string `key:"gvl" value:"FILE" help:"A copy of https://vendor-list.consensu.org/v3/vendor-list.json, which says what vendors declare. Without it no TCF string reaches a destination. It is read when the server starts."`
	CMPs       string `key:"cmps" value:"FILE" help:"A copy of https://cmplist.consensu.org/v2/cmp-list.json: strings of consent platforms that are deleted there do not count."`
	PurposeOne string `key:"purpose_one" value:"COUNTRY,…" help:"Countries, two capital letters, where publishers need not ask for TCF purpose 1. Default: none."`
}

// Countries returns the list of consent.purpose_one.
func (c *Consent) Countries() []string {
	if c.PurposeOne == "" {
		return nil
	}
	return strings.Split(c.PurposeOne, ",")
}

// Listen has the addresses of the three listeners, host:port; port 0 takes a
// free one.
type Listen struct {
	Public  string `key:"public" value:"HOST:PORT" default:"127.0.0.1:8080" help:"For browsers and the servers of sites: tag, events, consent."`
	Partner string `key:"partner" value:"HOST:PORT" default:"127.0.0.1:8081" help:"For DSPs: manifests and segment files."`
	Private string `key:"private" value:"HOST:PORT" default:"127.0.0.1:8082" help:"For ad ops and operators: API, console, metrics, health. Keep it on a private network."`
}

// TLS has the files of the certificate, both or neither. See Config.Secure for
// the listeners that it is for.
type TLS struct {
	Cert string `key:"cert" value:"FILE" help:"The certificate chain in PEM, for the public and the partner listener, and for the private one unless it is on loopback."`
	Key  string `key:"key" value:"FILE" help:"The certificate's private key in PEM."`
}

// Log bounds the log of records, which is where everything that happens is
// written first.
type Log struct {
	MaxBytes     Bytes `key:"max_bytes" value:"SIZE" default:"4GiB" help:"How large the log may grow when folding stands still; then events are refused with 503."`
	SegmentBytes Bytes `key:"segment_bytes" value:"SIZE" default:"16MiB" help:"The size of one file of the log."`
}

// Checkpoint says when the fold saves its state: at the latest after the
// interval or after so much log, whichever comes first (R6).
type Checkpoint struct {
	Interval time.Duration `key:"interval" value:"DURATION" default:"30s" help:"The longest time between two checkpoints."`
	Bytes    Bytes         `key:"bytes" value:"SIZE" default:"32MiB" help:"The most log between two checkpoints."`
}

// Schedule is when something runs.
type Schedule struct {
	Schedule string `key:"schedule" value:"CRON"`
}

// Messages are what the program says of itself on standard error. They never
// name a visitor, an address or a cookie.
type Messages struct {
	Level  string `key:"level" value:"LEVEL" default:"info" help:"The least level that is printed: debug, info, warn or error."`
	Format string `key:"format" value:"FORMAT" default:"text" help:"text for a terminal, json for a collector."`
}

// KeysFile returns where the keys are: the setting, or beside the data
// directory (R30).
func (c *Config) KeysFile() string {
	if c.Keys != "" {
		return c.Keys
	}
	return c.Data + ".keys.json"
}

// Origin returns the origin under which browsers reach the public listener,
// which is at addr: public_origin, or localhost with addr's port, which is the
// one host from which browsers take __Host- cookies without https.
func (c *Config) Origin(addr netip.AddrPort) string {
	if c.PublicOrigin != "" {
		return c.PublicOrigin
	}
	scheme := "http"
	if c.Secure("public") {
		scheme = "https"
	}
	return fmt.Sprintf("%s://localhost:%d", scheme, addr.Port())
}

// Secure reports whether the listener named public, partner or private speaks
// TLS: all do when a certificate is set, but for a private one on loopback,
// which scrapers and `ebb health` reach under no name that a certificate has.
func (c *Config) Secure(listener string) bool {
	if c.TLS.Cert == "" {
		return false
	}
	return listener != "private" || !loopback(c.Listen.Private)
}
