package config

import (
	"regexp"
	"slices"
	"time"
)

var (
	keyspaceName = regexp.MustCompile(`^[a-z][a-z0-9_]{0,47}$`)
	nodeName     = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)
)

// What a cluster may have at most: shards are bitmaps side by side, groups are
// leases.
const maxShards, maxGroups = 1024, 64

// store checks the store and what goes with it.
func (l *loader) store(c *Config) {
	switch c.Store {
	case "embedded":
		l.embedded(c)
	case "cassandra":
		l.cluster(c)
	default:
		l.wrong("store", "%q is no store; set store: embedded or store: cassandra", c.Store)
	}
	l.oneOf("ack", c.Ack, "local", "quorum")
	if !nodeName.MatchString(c.Node) {
		l.wrong("node", "%q is no name; want 1 to 64 letters, digits, '.', '_' and '-'", c.Node)
	}
	if len(c.Roles) == 0 {
		l.wrong("roles", "name at least one of edge, builder, api, deliver")
	}
	for _, r := range c.Roles {
		if !slices.Contains([]string{RoleEdge, RoleBuilder, RoleAPI, RoleDeliver}, r) {
			l.wrong("roles", "%q is no role; want edge, builder, api or deliver", r)
		}
	}
	if c.Shards < 0 || c.Shards > maxShards {
		l.wrong("shards", "%d is out of range; want 1 to %d, or 0 for the default", c.Shards, maxShards)
	}
	if c.Groups < 1 || c.Groups > maxGroups || c.Cluster() && c.Groups > c.Parts() {
		l.wrong("groups", "%d is out of range; want 1 to %d, and no more than there are shards (%d)", c.Groups, maxGroups, c.Parts())
	}
}

// embedded checks what one node cannot be.
func (l *loader) embedded(c *Config) {
	if c.Ack == "quorum" {
		l.wrong("ack", "quorum needs store: cassandra, and the embedded store is one node; set ack: local")
	}
	for _, r := range []string{RoleEdge, RoleBuilder, RoleAPI, RoleDeliver} {
		if !c.Has(r) && len(c.Roles) > 0 {
			l.wrong("roles", "with the embedded store one node does everything, and %s is not among them; remove the line, or set store: cassandra", r)
			break
		}
	}
	if c.Groups > 1 {
		l.wrong("groups", "%d groups need several nodes; set store: cassandra, or remove the line", c.Groups)
	}
	if len(c.Cassandra.Hosts) > 0 {
		l.wrong("cassandra.hosts", "is set, and store is embedded; set store: cassandra to use the cluster, or remove the line")
	}
}

// cluster checks what can be checked without the cluster.
func (l *loader) cluster(c *Config) {
	k := &c.Cassandra
	if len(k.Hosts) == 0 {
		l.wrong("store", "cassandra needs the addresses of its nodes; set cassandra.hosts")
	}
	if k.DataCenter == "" {
		l.wrong("store", "cassandra needs the name of this node's data centre; set cassandra.data_center to what `nodetool status` shows (\"datacenter1\" unless somebody chose another)")
	}
	if !keyspaceName.MatchString(k.Keyspace) {
		l.wrong("cassandra.keyspace", "%q is no keyspace; want 1 to 48 of a-z, 0-9 and '_', beginning with a letter", k.Keyspace)
	}
	if copies, err := k.Copies(); err != nil {
		l.wrong("cassandra.replication", "%v", err)
	} else if _, ok := copies[k.DataCenter]; !ok {
		l.wrong("cassandra.replication", "%s names no copies in %q, which is cassandra.data_center; add %s:3", k.Replication, k.DataCenter, k.DataCenter)
	}
	if k.Buckets < 1 || k.Buckets > 1<<16 {
		l.wrong("cassandra.buckets", "%d is out of range; want 1 to 65536", k.Buckets)
	}
	if k.Lease < 2*time.Second || k.Lease > time.Minute {
		l.wrong("cassandra.lease", "%s is out of range; want 2s to 1m", k.Lease)
	}
	if (k.User == "") != (k.Password == "") {
		l.wrong("cassandra.user", "user and password go together; set both or neither")
	}
}
