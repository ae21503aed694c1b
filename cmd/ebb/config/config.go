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
	"slices"
	"strconv"
	"strings"
	"time"
)

// Config is every setting. Keys are those of the tags, joined by dots:
// listen.public is the flag --listen.public and the variable EBB_LISTEN_PUBLIC.
type Config struct {
	Data         string         `key:"data" value:"DIR" default:"ebb-data" help:"The data directory. It is locked while a program uses it."`
	Keys         string         `key:"keys" value:"FILE" help:"The file of secret keys, mode 0600, outside the data directory and its backups. Default: the data directory's name with .keys.json behind it. Lost keys orphan the data."`
	Store        string         `key:"store" value:"STORE" default:"embedded" help:"Where data is kept: embedded (in the data directory) or cassandra (see cassandra.hosts; the data directory then holds this node's log)."`
	Ack          string         `key:"ack" value:"LEVEL" default:"local" help:"How far an event must have come before its request is answered: local (fsynced in this node's log) or quorum (also in Cassandra at LOCAL_QUORUM; after 500 ms the answer says local)."`
	Node         string         `key:"node" value:"NAME" default:"ebb" help:"What this node is called in messages and leases, for people to read."`
	Roles        Words          `key:"roles" value:"ROLE,…" default:"edge,builder,api,deliver" help:"What this node does in a cluster: edge (public listener), builder (folds and builds), api (API and console), deliver (partner listener and deliveries). Alone, a node does all."`
	Shards       int            `key:"shards" value:"N" default:"0" help:"Into how many parts visitors are divided. Fixed by ebb init: 1 for the embedded store, 64 in a cluster, which 0 stands for."`
	Groups       int            `key:"groups" value:"N" default:"1" help:"How many groups of shards there are, each folded by one node at a time. Fixed by ebb init; more than one needs a cluster."`
	PublicOrigin string         `key:"public_origin" value:"URL" help:"Scheme, host and port under which browsers reach the public listener, such as https://data.shop.example. Default: localhost and the port of listen.public."`
	Proxies      []netip.Prefix `key:"trusted_proxies" value:"CIDR,…" help:"Networks whose X-Forwarded-For is believed. Default: none, and the peer's address counts."`
	AdminKey     string         `key:"admin_key" value:"KEY" secret:"true" help:"The admin key with which commands speak to a running server. Better given as EBB_ADMIN_KEY than in a file."`

	Listen     Listen     `key:"listen"`
	TLS        TLS        `key:"tls"`
	Cassandra  Cassandra  `key:"cassandra"`
	Log        Log        `key:"log"`
	Checkpoint Checkpoint `key:"checkpoint"`
	Build      Schedule   `key:"build" schedule:"* * * * *" about:"When audiences are built and a generation is published. One is built at 00:00 UTC besides (R21)."`
	Deliver    Schedule   `key:"deliver" schedule:"*/15 * * * *" about:"When destinations get what changed."`
	Retention  Schedule   `key:"retention" schedule:"15 1 * * *" about:"When the nightly pass removes what is over and rewrites what holds erased visitors."`
	Messages   Messages   `key:"messages"`
	Consent    Consent    `key:"consent"`
	Geo        Geo        `key:"geo"`
	Limits     Limits     `key:"limits"`

	PrivateReceivers []netip.Prefix `key:"private_receivers" value:"CIDR,…" help:"Networks of this house in which receivers may be reached. Default: none, and only public addresses are."`

	Compress        bool   `key:"compress" value:"BOOL" default:"true" help:"Compress what is written to disk. Off only to look for bytes."`
	ExportFloor     int    `key:"export_floor" value:"N" default:"1000" help:"The smallest audience that is delivered; a smaller one is delivered empty."`
	NewIDsPerMinute int    `key:"new_ids_per_minute" value:"N" default:"1200" help:"How many new visitors one class of addresses (a /24, or a /48 of IPv6) may make in a minute."`
	Partitioned     bool   `key:"partitioned_cookies" value:"BOOL" default:"false" help:"Third-party mode: pages whose site is not that of this host get an ID of their own in a partitioned cookie, one for each site. Off, browsers keep none for them."`
	ErasuresJournal string `key:"erasures_journal" value:"FILE" help:"A second place for the journal of erasures, best on another disk. A restore needs the journal."`
}

// Cassandra is the cluster that holds the data when store is cassandra.
type Cassandra struct {
	Hosts       Words         `key:"hosts" value:"HOST,…" help:"Nodes of the cluster, host or host:port; the others are learnt from them."`
	Keyspace    string        `key:"keyspace" value:"NAME" default:"ebb" help:"The keyspace, which ebb migrate up makes."`
	DataCenter  string        `key:"data_center" value:"NAME" help:"The data centre that this node of Ebb belongs to, as nodetool status calls it."`
	Replication Words         `key:"replication" value:"DC:N,…" help:"Copies in each data centre, for ebb migrate up when it makes the keyspace. Default: 3 in cassandra.data_center."`
	Buckets     int           `key:"buckets" value:"N" default:"1024" help:"Into how many partitions each week of events is divided. Fixed by ebb migrate up."`
	User        string        `key:"user" value:"NAME" help:"Who signs in to Cassandra; empty for no authentication."`
	Password    string        `key:"password" value:"PASSWORD" secret:"true" help:"The password of cassandra.user. Better given as EBB_CASSANDRA_PASSWORD than in a file."`
	CA          string        `key:"ca" value:"FILE" help:"A file of certificates in PEM that sign those of the cluster's nodes. With it connections use TLS."`
	Lease       time.Duration `key:"lease" value:"DURATION" default:"10s" help:"How long a builder may be silent before another node takes its place, and a node before its log is closed by others."`
}

// Copies returns cassandra.replication by data centre.
func (c *Cassandra) Copies() (map[string]int, error) {
	if len(c.Replication) == 0 {
		return map[string]int{c.DataCenter: 3}, nil
	}
	out := map[string]int{}
	for _, w := range c.Replication {
		dc, n, ok := strings.Cut(w, ":")
		copies, err := strconv.Atoi(n)
		if !ok || dc == "" || err != nil || copies < 1 {
			return nil, fmt.Errorf("%q is no replication; want the data centre's name and a number, such as dc1:3", w)
		}
		out[dc] = copies
	}
	return out, nil
}

// The roles of a node.
const (
	RoleEdge    = "edge"
	RoleBuilder = "builder"
	RoleAPI     = "api"
	RoleDeliver = "deliver"
)

// Has reports whether this node has a role.
func (c *Config) Has(role string) bool { return slices.Contains(c.Roles, role) }

// Cluster reports whether data is kept in a cluster.
func (c *Config) Cluster() bool { return c.Store == "cassandra" }

// Parts returns the number of shards that a new installation gets.
func (c *Config) Parts() int {
	switch {
	case c.Shards > 0:
		return c.Shards
	case c.Cluster():
		return 64
	}
	return 1
}

// Geo is where the countries of addresses are known from.
type Geo struct {
	File string `key:"file" value:"FILE" help:"A database of countries in MaxMind's format (MMDB), for sites whose consent goes by country. Without it the country is unknown, and unknown is strict. A newer file is taken within a minute; a broken one is refused, and the old one stays."`
}

// Consent is for whom the strings of consent platforms are read.
type Consent struct {
	Role       string `key:"role" value:"ROLE" help:"For whom TCF strings are read: vendor (consent.gvl_id) or publisher. Without it a request with a TCF string is refused."`
	GVLID      int    `key:"gvl_id" value:"N" default:"0" help:"The operator's ID in the IAB's Global Vendor List, for the role vendor."`
	GVL        string `key:"gvl" value:"FILE" help:"A copy of https://vendor-list.consensu.org/v3/vendor-list.json, which says what vendors declare. Without it no TCF string reaches a destination. It is read when the server starts."`
	CMPs       string `key:"cmps" value:"FILE" help:"A copy of https://cmplist.consensu.org/v2/cmp-list.json: strings of consent platforms that are deleted there do not count."`
	DNT        bool   `key:"dnt" value:"BOOL" default:"true" help:"Obey DNT: 1 as Sec-GPC: 1 is obeyed."`
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
