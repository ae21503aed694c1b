package cassandra

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
)

//go:embed schema/*.cql
var schemaFiles embed.FS

// Step is one numbered file of the schema.
type Step struct {
	N    int
	Name string // of the file
	// Applied is when it was applied, 0 if it was not.
	Applied taxonomy.Millis
	// Changed: what was applied under the number is not what this program has.
	Changed bool
	// Newer: this program does not know the number.
	Newer bool
}

// step is a Step with its text.
type step struct {
	Step
	statements []string
	sum        string
}

// lockLife is how long one program that migrates keeps others waiting.
const lockLife = 2 * time.Minute

// lockRefusals is how often, at half a second each, a cluster that refuses is
// asked once more.
const lockRefusals = 30

// steps returns the files of this program, by number.
func steps() ([]step, error) {
	entries, err := schemaFiles.ReadDir("schema")
	if err != nil {
		return nil, err
	}
	var list []step
	for i, e := range entries {
		number, _, ok := strings.Cut(e.Name(), "_")
		n, err := strconv.Atoi(number)
		if !ok || err != nil || len(number) != 3 || n != i+1 {
			return nil, fmt.Errorf("schema file %s: want number %03d", e.Name(), i+1)
		}
		b, err := schemaFiles.ReadFile("schema/" + e.Name())
		if err != nil {
			return nil, err
		}
		sum := sha256.Sum256(b)
		list = append(list, step{Step: Step{N: n, Name: e.Name()}, statements: split(string(b)), sum: hex.EncodeToString(sum[:8])})
	}
	return list, nil
}

var comment = regexp.MustCompile(`(?m)--.*$`)

// split returns the statements of a file.
func split(text string) (list []string) {
	for s := range strings.SplitSeq(comment.ReplaceAllString(text, ""), ";") {
		if s = strings.TrimSpace(s); s != "" {
			list = append(list, s)
		}
	}
	return list
}

// Status returns every step of the schema and whether it was applied, by
// number. Without a keyspace nothing was.
func Status(ctx context.Context, o Options) ([]Step, error) {
	if err := o.complete(); err != nil {
		return nil, fmt.Errorf("schema status: %w", err)
	}
	s, err := connect(o, "")
	if err != nil {
		return nil, fmt.Errorf("schema status: %w", err)
	}
	defer s.close()
	list, err := status(ctx, s, o.Keyspace)
	if err != nil {
		return nil, fmt.Errorf("schema status: %w", err)
	}
	return list, nil
}

// status reads what was applied; the session may be of any keyspace.
func status(ctx context.Context, s *session, keyspace string) ([]Step, error) {
	own, err := steps()
	if err != nil {
		return nil, err
	}
	list := make([]Step, len(own))
	for i := range own {
		list[i] = own[i].Step
	}
	var table string
	err = s.one(ctx, `SELECT table_name FROM system_schema.tables WHERE keyspace_name = ? AND table_name = 'schema_version'`, []any{keyspace}, &table)
	if errors.Is(err, retention.ErrNotFound) {
		return list, nil
	}
	if err != nil {
		return nil, err
	}
	type row struct {
		n        int
		name, by string
		at       int64
	}
	var rows []row
	// keyspace is checked to be a plain name; CQL takes no value there.
	err = s.rows(ctx, func() { rows = nil }, func(scan func(...any) error) error {
		var r row
		err := scan(&r.n, &r.name, &r.by, &r.at)
		rows = append(rows, r)
		return err
	}, `SELECT n, name, sum, at FROM `+keyspace+`.schema_version`)
	if err != nil {
		return nil, err
	}
	for _, r := range rows {
		switch {
		case r.n <= 0: // the lock
		case r.n > len(own):
			list = append(list, Step{N: r.n, Name: r.name, Applied: taxonomy.Millis(r.at), Newer: true})
		default:
			list[r.n-1].Applied = taxonomy.Millis(r.at)
			list[r.n-1].Changed = r.by != own[r.n-1].sum
		}
	}
	slices.SortFunc(list, func(a, b Step) int { return a.N - b.N })
	return list, nil
}

// Up makes the keyspace, if o.Replication is given and there is none, applies
// the steps that were not, and returns them. Running it again, or on two nodes
// at once, is fine.
func Up(ctx context.Context, o Options) ([]Step, error) {
	if err := o.complete(); err != nil {
		return nil, fmt.Errorf("migrate up: %w", err)
	}
	done, err := up(ctx, o)
	if err != nil {
		return done, fmt.Errorf("migrate up: %w", err)
	}
	return done, nil
}

func up(ctx context.Context, o Options) (done []Step, err error) {
	bare, err := connect(o, "")
	if err != nil {
		return nil, err
	}
	defer bare.close()
	if err := checkDataCenter(ctx, bare, o.DataCenter); err != nil {
		return nil, err
	}
	if len(o.Replication) > 0 {
		if err := bare.apply(ctx, createKeyspace(o)); err != nil {
			return nil, fmt.Errorf("create keyspace %s: %w", o.Keyspace, err)
		}
	}
	s, err := connect(o, o.Keyspace)
	if err != nil {
		return nil, err
	}
	defer s.close()
	if err := s.apply(ctx, `CREATE TABLE IF NOT EXISTS schema_version (n int PRIMARY KEY, name text, sum text, at bigint)`); err != nil {
		return nil, err
	}
	if err := lock(ctx, s); err != nil {
		return nil, err
	}
	defer func() {
		if _, e := s.swap(ctx, `DELETE FROM schema_version WHERE n = 0 IF EXISTS`); e != nil && err == nil {
			err = fmt.Errorf("give up the lock, which ends by itself in %s: %w", lockLife, e)
		}
	}()
	own, err := steps()
	if err != nil {
		return nil, err
	}
	list, err := status(ctx, s, o.Keyspace)
	if err != nil {
		return nil, err
	}
	for i := range list {
		st := list[i]
		switch {
		case st.Newer:
			return done, fmt.Errorf("the keyspace has step %d (%s) of a newer Ebb; run that version", st.N, st.Name)
		case st.Changed:
			return done, fmt.Errorf("step %d (%s) was applied with another text; restore the schema of the version that wrote it", st.N, st.Name)
		case st.Applied != 0:
			continue
		}
		for _, cql := range own[i].statements {
			if err := s.apply(ctx, cql); err != nil {
				return done, fmt.Errorf("%s: %w; run it again when the cluster is well", st.Name, err)
			}
		}
		st.Applied = o.Now()
		if err := s.write(ctx, `INSERT INTO schema_version (n, name, sum, at) VALUES (?, ?, ?, ?)`, st.N, st.Name, own[i].sum, int64(st.Applied)); err != nil {
			return done, fmt.Errorf("%s: %w", st.Name, err)
		}
		done = append(done, st)
	}
	// Not applied means that it was fixed before.
	_, err = s.swap(ctx, `INSERT INTO setting (name, value) VALUES ('buckets', ?) IF NOT EXISTS`, int64(o.Buckets))
	return done, err
}

// lock keeps two programs from changing the schema at once, which Cassandra
// takes badly. The lock ends by itself. A cluster that has just started takes
// clients before its nodes know each other, and refuses every quorum until then.
func lock(ctx context.Context, s *session) error {
	for refusals := 0; ; {
		ok, err := s.swap(ctx, `INSERT INTO schema_version (n, name) VALUES (0, 'lock') IF NOT EXISTS USING TTL ?`, int(lockLife/time.Second))
		switch {
		case err == nil, errors.Is(err, retention.ErrUnknown):
			refusals = 0
		case hopeless(err):
			return err
		default:
			if refusals++; refusals == lockRefusals {
				return fmt.Errorf("%w; run it again when the cluster is well", err)
			}
		}
		if ok {
			return nil
		}
		select {
		case <-s.after(500 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("another program migrates: %w", ctx.Err())
		}
	}
}

// Drop removes the keyspace with all that is in it: what a demo or a test made.
func Drop(ctx context.Context, o Options) error {
	if err := o.complete(); err != nil {
		return fmt.Errorf("drop: %w", err)
	}
	s, err := connect(o, "")
	if err != nil {
		return fmt.Errorf("drop keyspace %s: %w", o.Keyspace, err)
	}
	defer s.close()
	// A busy server may take longer than the driver waits; dropping again is fine.
	for range attempts {
		err = s.apply(ctx, "DROP KEYSPACE IF EXISTS "+o.Keyspace)
		if !errors.Is(err, retention.ErrUnknown) || ctx.Err() != nil {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("drop keyspace %s: %w", o.Keyspace, err)
	}
	return nil
}

// DataCenterOf asks a node for the name of its data centre, and how many nodes
// of it there are: for whoever was given nothing but an address.
func DataCenterOf(ctx context.Context, o Options) (name string, nodes int, err error) {
	o.DataCenter = "unknown"
	if err := o.complete(); err != nil {
		return "", 0, err
	}
	s, err := dial(o, "", true)
	if err != nil {
		return "", 0, fmt.Errorf("ask %q for the data centre: %w", o.Hosts, err)
	}
	defer s.close()
	if err := s.one(ctx, `SELECT data_center FROM system.local`, nil, &name); err != nil {
		return "", 0, fmt.Errorf("ask %q for the data centre: %w", o.Hosts, err)
	}
	nodes, err = s.hosts(ctx)
	return name, nodes, err
}

func createKeyspace(o Options) string {
	var dcs []string
	for _, dc := range slices.Sorted(maps.Keys(o.Replication)) {
		dcs = append(dcs, fmt.Sprintf("'%s': %d", strings.ReplaceAll(dc, "'", "''"), o.Replication[dc]))
	}
	return fmt.Sprintf("CREATE KEYSPACE IF NOT EXISTS %s WITH replication = {'class': 'NetworkTopologyStrategy', %s} AND durable_writes = true",
		o.Keyspace, strings.Join(dcs, ", "))
}
