package cassandra

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// maxSkew is how far our clock may be off the cluster's: receipt times decide
// ages, and leases are told to be long over by the clock.
const maxSkew = 2 * taxonomy.Second

// Problem is something that Ebb depends on and that is not so.
type Problem struct {
	What string
	Do   string // to mend it
	// Fatal: nothing works, or something would be lost. Others weaken a promise.
	Fatal bool
}

func (p Problem) String() string { return p.What + "; " + p.Do }

// Problems checks what Ebb depends on: the name of the data centre, the
// version of the schema, the clock, replication, and that the commit log is
// synced before an answer.
func (st *Store) Problems(ctx context.Context) ([]Problem, error) {
	var list []Problem
	add := func(fatal bool, what, do string) { list = append(list, Problem{what, do, fatal}) }

	if err := checkDataCenter(ctx, st.s, st.o.DataCenter); err != nil {
		if !errors.Is(err, errDataCenter) {
			return nil, err
		}
		// Whatever follows would be of another data centre.
		what, do, _ := strings.Cut(err.Error(), "; ")
		return []Problem{{what, do, true}}, nil
	}
	steps, err := status(ctx, st.s, st.o.Keyspace)
	if err != nil {
		return nil, err
	}
	for _, s := range steps {
		switch {
		case s.Newer:
			add(true, fmt.Sprintf("the keyspace has schema step %d (%s) of a newer Ebb", s.N, s.Name), "run that version")
		case s.Changed:
			add(true, fmt.Sprintf("schema step %d (%s) was applied with another text", s.N, s.Name), "run the version that applied it")
		case s.Applied == 0:
			add(true, fmt.Sprintf("schema step %d (%s) is not applied", s.N, s.Name), "run `ebb migrate up`")
		}
	}
	if !st.o.AnyClock {
		skew, err := st.skew(ctx)
		if err != nil {
			return nil, err
		}
		if skew > maxSkew || skew < -maxSkew {
			add(true, fmt.Sprintf("this node's clock is %s off the cluster's, at most %s are allowed", time.Duration(skew)*time.Millisecond, time.Duration(maxSkew)*time.Millisecond), "set up NTP on all nodes")
		}
	}
	if err := st.checkReplication(ctx, add); err != nil {
		return nil, err
	}
	if err := st.checkCommitLog(ctx, add); err != nil {
		return nil, err
	}
	return list, nil
}

var errDataCenter = errors.New("wrong data centre")

type dataCenterError struct{ want, got string }

func (e *dataCenterError) Error() string {
	return fmt.Sprintf("the node we reached is in data centre %q, not %q; set the data centre to one that `nodetool status` shows, and give hosts of it", e.got, e.want)
}

func (e *dataCenterError) Is(err error) bool { return err == errDataCenter }

// checkDataCenter compares names, since the driver does not: given a name that
// does not exist it treats every node as remote and LOCAL_QUORUM as any.
func checkDataCenter(ctx context.Context, s *session, want string) error {
	var got string
	if err := s.one(ctx, `SELECT data_center FROM system.local`, nil, &got); err != nil {
		return fmt.Errorf("read the data centre: %w", err)
	}
	if got != want {
		return &dataCenterError{want, got}
	}
	return nil
}

// Skew returns how far our clock is ahead of the cluster's. Whoever appends to
// the log looks each minute, and is not ready while it is more than 2 s.
func (st *Store) Skew(ctx context.Context) (taxonomy.Millis, error) {
	skew, err := st.skew(ctx)
	if err != nil {
		return 0, fmt.Errorf("compare clocks: %w", err)
	}
	return skew, nil
}

func (st *Store) skew(ctx context.Context) (taxonomy.Millis, error) {
	var theirs time.Time
	before := st.o.Now()
	if err := st.s.one(ctx, `SELECT toTimestamp(now()) FROM system.local`, nil, &theirs); err != nil {
		return 0, err
	}
	after := st.o.Now()
	t := taxonomy.MillisOf(theirs)
	switch { // what the round trip took proves nothing
	case t < before:
		return before - t, nil
	case t > after:
		return after - t, nil
	}
	return 0, nil
}

func (st *Store) checkReplication(ctx context.Context, add func(fatal bool, what, do string)) error {
	var durable bool
	var replication map[string]string
	err := st.s.one(ctx, `SELECT durable_writes, replication FROM system_schema.keyspaces WHERE keyspace_name = ?`, []any{st.o.Keyspace}, &durable, &replication)
	if errors.Is(err, retention.ErrNotFound) {
		add(true, fmt.Sprintf("there is no keyspace %s", st.o.Keyspace), "run `ebb migrate up`")
		return nil
	}
	if err != nil {
		return err
	}
	if !durable {
		add(true, fmt.Sprintf("keyspace %s has durable_writes = false: a node that stops loses what was acknowledged", st.o.Keyspace),
			fmt.Sprintf("run ALTER KEYSPACE %s WITH durable_writes = true", st.o.Keyspace))
	}
	if class := replication["class"]; !strings.HasSuffix(class, ".NetworkTopologyStrategy") {
		add(true, fmt.Sprintf("keyspace %s is replicated by %s, which knows no data centres", st.o.Keyspace, class),
			fmt.Sprintf("run ALTER KEYSPACE %s WITH replication = {'class': 'NetworkTopologyStrategy', '%s': 3}", st.o.Keyspace, st.o.DataCenter))
		return nil
	}
	factor, err := strconv.Atoi(replication[st.o.DataCenter])
	if err != nil {
		add(true, fmt.Sprintf("keyspace %s has no replicas in data centre %s", st.o.Keyspace, st.o.DataCenter),
			fmt.Sprintf("run ALTER KEYSPACE %s with '%s': 3 in its replication, then `nodetool rebuild` there", st.o.Keyspace, st.o.DataCenter))
		return nil
	}
	nodes, err := st.s.hosts(ctx)
	if err != nil {
		return err
	}
	switch {
	case factor/2+1 > nodes:
		add(true, fmt.Sprintf("keyspace %s wants %d replicas and data centre %s has %d nodes: no quorum is possible", st.o.Keyspace, factor, st.o.DataCenter, nodes),
			"start more nodes, or lower the replication")
	case factor < 3:
		add(false, fmt.Sprintf("keyspace %s has %d replicas in data centre %s: no node may stop without stopping Ebb", st.o.Keyspace, factor, st.o.DataCenter),
			"use 3 replicas in production")
	}
	return nil
}

// checkCommitLog looks whether a node answers before its commit log is on
// disk. The setting is of each node, and a query is answered by one that we do
// not choose, so it is asked several times.
func (st *Store) checkCommitLog(ctx context.Context, add func(fatal bool, what, do string)) error {
	nodes, err := st.s.hosts(ctx)
	if err != nil {
		return err
	}
	for range 3 * nodes {
		var mode string
		err := st.s.one(ctx, `SELECT value FROM system_views.settings WHERE name = 'commitlog_sync'`, nil, &mode)
		if errors.Is(err, retention.ErrNotFound) || err != nil && hopeless(err) {
			return nil // before Cassandra 4.0 there is no such table
		}
		if err != nil {
			return err
		}
		if mode == "periodic" {
			add(false, "a node has commitlog_sync: periodic: killed, it forgets the last 100 ms that it acknowledged (up to 10 s if the commit log is compressed), with 3 replicas too, so \"quorum\" promises less than it says",
				"set commitlog_sync: group, commitlog_sync_group_window: 10ms and concurrent_writes: 128 in every cassandra.yaml; until then run `nodetool repair` after any node was killed")
			return nil
		}
	}
	return nil
}
