package demo

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"

	"github.com/ebb-dmp/ebb/cmd/ebb/app"
)

// keyspace makes a keyspace for the demo, adds the settings with which it is used,
// and returns what removes it.
func keyspace(ctx context.Context, o Options, flags map[string]string) (drop func(context.Context) error, err error) {
	var b [6]byte
	if _, err := io.ReadFull(o.Env.Rand, b[:]); err != nil {
		return nil, fmt.Errorf("name a keyspace: %w", err)
	}
	c := *o.Cluster
	c.Cassandra.Keyspace = "ebb_demo_" + hex.EncodeToString(b[:])
	copies, drop, err := app.TemporaryKeyspace(ctx, &c, o.Env, o.Logger)
	if err != nil {
		return nil, err
	}
	k := &c.Cassandra
	for key, value := range map[string]string{
		"store": "cassandra", "shards": "8", "cassandra.hosts": k.Hosts.String(), "cassandra.keyspace": k.Keyspace, "cassandra.data_center": k.DataCenter,
		"cassandra.replication": fmt.Sprintf("%s:%d", k.DataCenter, copies), "cassandra.user": k.User, "cassandra.password": k.Password, "cassandra.ca": k.CA,
	} {
		if value != "" {
			flags[key] = value
		}
	}
	return drop, nil
}
