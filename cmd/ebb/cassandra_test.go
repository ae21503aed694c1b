package main

import (
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/ebb-dmp/ebb/cmd/ebb/app/clustertest"
)

// The commands that run a cluster, against a real one.
func TestCassandraFromNothing(t *testing.T) {
	scripts, err := filepath.Glob("testdata/cassandra/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	// Scripts run side by side, each in a keyspace of its own.
	keyspaces := make(chan map[string]string, len(scripts))
	for range scripts {
		keyspaces <- clustertest.Empty(t)
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata/cassandra",
		Setup: func(env *testscript.Env) error {
			settings := <-keyspaces
			env.Setenv("EBB_STORE", "cassandra")
			env.Setenv("EBB_SHARDS", "8")
			env.Setenv("EBB_CASSANDRA_HOSTS", settings["cassandra.hosts"])
			env.Setenv("EBB_CASSANDRA_KEYSPACE", settings["cassandra.keyspace"])
			env.Setenv("EBB_CASSANDRA_DATA_CENTER", settings["cassandra.data_center"])
			env.Setenv("EBB_CASSANDRA_REPLICATION", settings["cassandra.replication"])
			env.Setenv("EBB_CASSANDRA_BUCKETS", "4")
			return nil
		},
	})
}
