package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/ebb-dmp/ebb/cmd/ebb/config"
	"github.com/ebb-dmp/ebb/retention/cassandra"
	"github.com/ebb-dmp/ebb/retention/defs"
	"github.com/ebb-dmp/ebb/segments/fold"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// onCluster opens the cluster's store alone, beside whatever nodes run.
func onCluster(ctx context.Context, c *config.Config, env Env, log *slog.Logger, fn func(*cassandra.Store, *installation) error) (err error) {
	if !c.Cluster() {
		return errors.New("the setting store is embedded, whose log has no holes; set store: cassandra")
	}
	o, err := CassandraOptions(c, env, log)
	if err != nil {
		return err
	}
	st, err := cassandra.Open(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	d, err := defs.Open(ctx, st.Keyed(), env.millis)
	if err != nil {
		return err
	}
	in, _, err := defs.Load[installation](d, defs.Setting, installationID)
	if err != nil {
		return fmt.Errorf("read the installation: %w; run `ebb init` once, on one node", err)
	}
	return fn(st, &in)
}

func holesOf(ctx context.Context, st *cassandra.Store, in *installation) (all []cassandra.Hole, err error) {
	for g := range taxonomy.Group(in.Groups) {
		at, err := fold.Committed(ctx, st.Keyed(), st.Blobs(), g)
		if err != nil {
			return nil, err
		}
		holes, err := st.Holes(ctx, g, at)
		if err != nil {
			return nil, err
		}
		all = append(all, holes...)
	}
	return all, nil
}

// LogHoles returns where followers of the cluster's log wait, behind the last
// checkpoint of each group.
func LogHoles(ctx context.Context, c *config.Config, env Env, log *slog.Logger) (holes []cassandra.Hole, err error) {
	err = onCluster(ctx, c, env, log, func(st *cassandra.Store, in *installation) (err error) {
		holes, err = holesOf(ctx, st, in)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("holes of the log: %w", err)
	}
	return holes, nil
}

// SkipHole gives up the records of the first hole of a writer (R5).
func SkipHole(ctx context.Context, c *config.Config, env Env, log *slog.Logger, writer string, group int, force bool) (skipped cassandra.Hole, err error) {
	err = onCluster(ctx, c, env, log, func(st *cassandra.Store, in *installation) error {
		holes, err := holesOf(ctx, st, in)
		if err != nil {
			return err
		}
		for _, h := range holes {
			if h.Writer.String() == writer && int(h.Group) == group {
				skipped = h
				return st.Skip(ctx, h, force)
			}
		}
		return fmt.Errorf("writer %q has no hole in group %d; `ebb log holes` shows all", writer, group)
	})
	if err != nil {
		return skipped, fmt.Errorf("skip a hole of the log: %w", err)
	}
	return skipped, nil
}

// TemporaryKeyspace makes the keyspace of the settings with as many copies as
// there are nodes, three at most, and returns what removes it with all that is in
// it: for demos.
func TemporaryKeyspace(ctx context.Context, c *config.Config, env Env, log *slog.Logger) (copies int, drop func(context.Context) error, err error) {
	o, err := CassandraOptions(c, env, log)
	if err != nil {
		return 0, nil, err
	}
	_, nodes, err := cassandra.DataCenterOf(ctx, o)
	if err != nil {
		return 0, nil, err
	}
	copies = min(3, nodes)
	o.Replication, o.Buckets = map[string]int{o.DataCenter: copies}, 8
	if _, err := cassandra.Up(ctx, o); err != nil {
		return 0, nil, err
	}
	return copies, func(ctx context.Context) error { return cassandra.Drop(ctx, o) }, nil
}
