// Package clustertest gives tests of whole nodes a keyspace of their own on a real
// Cassandra.
package clustertest

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/ebb-dmp/ebb/retention/cassandra"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// Keyspace makes a keyspace on the cluster that EBB_TEST_CASSANDRA names and
// returns the settings with which a node uses it. It is dropped at the end of the
// test. Without the variable the test is skipped, or fails in CI.
func Keyspace(t testing.TB) map[string]string {
	t.Helper()
	o, settings := prepare(t)
	if _, err := cassandra.Up(context.Background(), o); err != nil {
		t.Fatal(err)
	}
	return settings
}

// Empty is Keyspace without making it: the test does.
func Empty(t testing.TB) map[string]string {
	t.Helper()
	_, settings := prepare(t)
	return settings
}

func prepare(t testing.TB) (cassandra.Options, map[string]string) {
	t.Helper()
	host := os.Getenv("EBB_TEST_CASSANDRA")
	if host == "" {
		const how = "no Cassandra: export EBB_TEST_CASSANDRA=$(deploy/cassandra/cass up 1)"
		if os.Getenv("CI") == "true" {
			t.Fatal(how)
		}
		t.Skip(how)
	}
	var name [6]byte
	if _, err := rand.Read(name[:]); err != nil {
		t.Fatal(err)
	}
	o := cassandra.Options{Hosts: []string{host}, Keyspace: "ebb_node_" + hex.EncodeToString(name[:]), Buckets: 4,
		Now: func() taxonomy.Millis { return taxonomy.MillisOf(time.Now()) }, After: time.After, Rand: rand.Reader}
	ctx := context.Background()
	dc, nodes, err := cassandra.DataCenterOf(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	copies := min(3, nodes)
	o.DataCenter, o.Replication = dc, map[string]int{dc: copies}
	t.Cleanup(func() {
		if err := cassandra.Drop(ctx, o); err != nil {
			t.Logf("the keyspace stays: %v", err)
		}
	})
	return o, map[string]string{"store": "cassandra", "cassandra.hosts": host, "cassandra.keyspace": o.Keyspace, "cassandra.data_center": dc,
		"cassandra.replication": fmt.Sprintf("%s:%d", dc, copies), "cassandra.buckets": "4"}
}
