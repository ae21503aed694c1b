package config

import (
	"strings"
	"testing"
	"time"
)

func TestAClustersSettingsHold(t *testing.T) {
	r := mustLoad(t, Input{File: "f", Content: []byte(`store: cassandra
ack: quorum
node: berlin-1
roles: [edge, api]
groups: 4
cassandra:
  hosts:
    - 10.0.0.1
    - 10.0.0.2:9042
  data_center: dc1
  replication: dc1:3, dc2:2
  lease: 5s
`), Environ: []string{"EBB_CASSANDRA_USER=ebb", "EBB_CASSANDRA_PASSWORD=secret"}})
	copies, err := r.Cassandra.Copies()
	if err != nil || copies["dc1"] != 3 || copies["dc2"] != 2 {
		t.Errorf("copies %v, %v", copies, err)
	}
	if !r.Cluster() || r.Parts() != 64 || r.Has(RoleBuilder) || !r.Has(RoleAPI) || r.Cassandra.Lease != 5*time.Second || len(r.Cassandra.Hosts) != 2 {
		t.Errorf("got %+v", r.Config)
	}
	for _, s := range r.Settings() {
		if s.Key == "cassandra.password" && s.Value != "(set)" {
			t.Error("the password is printed")
		}
		if s.Key == "cassandra.hosts" && s.Value != "10.0.0.1,10.0.0.2:9042" {
			t.Errorf("hosts are printed as %s", s.Value)
		}
	}
	if r := mustLoad(t, Input{}); r.Cluster() || r.Parts() != 1 || !r.Has(RoleEdge) || !r.Has(RoleDeliver) {
		t.Errorf("the default is %+v", r.Config)
	}
}

func TestWrongCombinationsSayWhatToDo(t *testing.T) {
	const cluster = "store: cassandra\ncassandra:\n  hosts: h\n  data_center: dc1\n"
	for _, c := range []struct{ yaml, want string }{
		{"store: cassandra\n", "f:1: store: cassandra needs the addresses of its nodes; set cassandra.hosts\nf:1: store: cassandra needs the name of this node's data centre"},
		{"ack: some\n", `f:1: ack: "some" is not one of local, quorum`},
		{"roles: edge\n", "f:1: roles: with the embedded store one node does everything, and builder is not among them"},
		{"roles: [edge, builder, api, deliver, cook]\n", `f:1: roles: "cook" is no role`},
		{"roles: ''\n", "f:1: roles: name at least one"},
		{"groups: 4\n", "f:1: groups: 4 groups need several nodes; set store: cassandra"},
		{"shards: 2000\n", "f:1: shards: 2000 is out of range"},
		{"cassandra:\n  hosts: h\n", "f:2: cassandra.hosts: is set, and store is embedded"},
		{cluster + "groups: 65\n", "f:5: groups: 65 is out of range"},
		{cluster + "  replication: dc1\n", `f:5: cassandra.replication: "dc1" is no replication`},
		{cluster + "  replication: dc2:3\n", `f:5: cassandra.replication: dc2:3 names no copies in "dc1"`},
		{cluster + "  keyspace: My\n", `f:5: cassandra.keyspace: "My" is no keyspace`},
		{cluster + "  buckets: 0\n", "f:5: cassandra.buckets: 0 is out of range"},
		{cluster + "  lease: 100ms\n", "f:5: cassandra.lease: 100ms is out of range"},
		{cluster + "  user: x\n", "f:5: cassandra.user: user and password go together"},
		{"node: 'a b'\n", `f:1: node: "a b" is no name`},
	} {
		if got := problems(t, Input{File: "f", Content: []byte(c.yaml)}); !strings.HasPrefix(got, c.want) {
			t.Errorf("%q:\n got %s\nwant %s", c.yaml, got, c.want)
		}
	}
}
