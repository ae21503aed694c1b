package cassandra

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/gocql/gocql"
)

// session is the slice of gocql in use: nothing else of the package speaks to
// the driver. Statements are constants.
type session struct {
	cql   *gocql.Session
	after func(time.Duration) <-chan time.Time
	hedge gocql.SpeculativeExecutionPolicy // nil with one node
}

const (
	// attempts bounds our own repeats of an idempotent statement.
	attempts = 5
	// pageRows is how many rows are read at a time.
	pageRows = 500

	// The driver's timeout is above Cassandra's own of 2 s for a write and 5 s
	// for a read, so that it is the server who tells.
	requestTimeout = 6 * time.Second
	connectTimeout = 3 * time.Second
	// hedgeAfter is when an idempotent statement is sent to a second node: the
	// driver never leaves a node that is frozen, and each request to it would
	// wait out its timeout.
	hedgeAfter = 300 * time.Millisecond
)

// statement is one statement with its values.
type statement struct {
	cql  string
	args []any
}

// dial opens a session. With keyspace empty it serves only to make one. Unless
// anywhere is set it speaks to nodes of our data centre alone: the driver's
// policy goes to others while ours are not connected yet, and there LOCAL_QUORUM
// means another quorum.
func dial(o Options, keyspace string, anywhere bool) (*session, error) {
	s, err := config(o, keyspace, anywhere).CreateSession()
	if err != nil {
		return nil, err
	}
	return &session{cql: s, after: o.After}, nil
}

// config is how the driver is set up.
func config(o Options, keyspace string, anywhere bool) *gocql.ClusterConfig {
	c := gocql.NewCluster(o.Hosts...)
	c.Keyspace = keyspace // the driver is token-aware for this keyspace only
	c.ProtoVersion = 4
	c.Consistency = gocql.LocalQuorum
	c.SerialConsistency = gocql.LocalSerial
	c.PoolConfig.HostSelectionPolicy = gocql.TokenAwareHostPolicy(gocql.DCAwareRoundRobinPolicy(o.DataCenter), gocql.ShuffleReplicas())
	if !anywhere {
		c.HostFilter = gocql.DataCentreHostFilter(o.DataCenter)
	}
	c.NumConns = 2
	c.Timeout = requestTimeout
	c.ConnectTimeout = connectTimeout
	c.ReconnectInterval = 5 * time.Second // the default is a minute of "no hosts available in the pool"
	c.ReconnectionPolicy = &gocql.ExponentialReconnectionPolicy{MaxRetries: 5, InitialInterval: 200 * time.Millisecond, MaxInterval: 5 * time.Second}
	c.SocketKeepalive = 15 * time.Second
	c.MaxPreparedStmts = 2000
	c.PageSize = pageRows
	c.RetryPolicy = nil // the driver repeats what is not idempotent too
	c.DefaultIdempotence = false
	c.Logger = quiet{}
	if o.User != "" {
		c.Authenticator = gocql.PasswordAuthenticator{Username: o.User, Password: o.Password}
	}
	if o.dial != nil {
		c.Dialer = o.dial
	}
	if o.TLS != nil {
		c.SslOpts = &gocql.SslOptions{Config: o.TLS, EnableHostVerification: !o.TLS.InsecureSkipVerify}
	}
	return c
}

// dialer opens a connection of the driver.
type dialer func(ctx context.Context, network, address string) (net.Conn, error)

func (d dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return d(ctx, network, address)
}

// quiet is the driver's log: what matters of it comes as errors.
type quiet struct{}

func (quiet) Print(...any)          {}
func (quiet) Printf(string, ...any) {}
func (quiet) Println(...any)        {}

func (s *session) close() { s.cql.Close() }

// write runs an idempotent statement at LOCAL_QUORUM and repeats it while its
// outcome is unknown or the cluster cannot. Its errors are classed.
func (s *session) write(ctx context.Context, cql string, args ...any) error {
	return s.repeat(ctx, func() error {
		return s.idempotent(s.cql.Query(cql, args...).WithContext(ctx)).Exec()
	})
}

// writeAll runs idempotent statements of one partition as one mutation.
func (s *session) writeAll(ctx context.Context, list []statement) error {
	if len(list) == 1 {
		return s.write(ctx, list[0].cql, list[0].args...)
	}
	return s.repeat(ctx, func() error {
		b := s.cql.NewBatch(gocql.UnloggedBatch).WithContext(ctx)
		for _, st := range list {
			// Batch.Query would leave Idempotent false.
			b.Entries = append(b.Entries, gocql.BatchEntry{Stmt: st.cql, Args: st.args, Idempotent: true})
		}
		if s.hedge != nil {
			b.SpeculativeExecutionPolicy(s.hedge)
		}
		return s.cql.ExecuteBatch(b)
	})
}

// rewrite is write without a second node: for rows whose value changes, where
// the slower of two copies could come after a later write.
func (s *session) rewrite(ctx context.Context, cql string, args ...any) error {
	return s.repeat(ctx, func() error {
		return s.cql.Query(cql, args...).WithContext(ctx).Exec()
	})
}

func (s *session) idempotent(q *gocql.Query) *gocql.Query {
	if s.hedge == nil {
		return q.Idempotent(true)
	}
	return q.Idempotent(true).SetSpeculativeExecutionPolicy(s.hedge)
}

// rows reads all rows of a statement at LOCAL_QUORUM. row is called with a
// function that scans one; if the read fails on the way it begins again, after
// a call of reset.
func (s *session) rows(ctx context.Context, reset func(), row func(scan func(...any) error) error, cql string, args ...any) error {
	return s.repeatRead(ctx, func() error {
		reset()
		sc := s.idempotent(s.cql.Query(cql, args...).WithContext(ctx)).Iter().Scanner()
		for sc.Next() {
			if err := row(sc.Scan); err != nil {
				_ = sc.Err() // closes it
				return &ours{err}
			}
		}
		return sc.Err()
	})
}

// page reads one page of rows: state is nil for the first, and next for the
// following, nil after the last.
func (s *session) page(ctx context.Context, state []byte, size int, row func(scan func(...any) error) error, reset func(), cql string, args ...any) (next []byte, err error) {
	err = s.repeatRead(ctx, func() error {
		reset()
		it := s.idempotent(s.cql.Query(cql, args...).WithContext(ctx)).PageSize(size).PageState(state).Iter()
		next = append([]byte(nil), it.PageState()...)
		sc := it.Scanner()
		for sc.Next() {
			if err := row(sc.Scan); err != nil {
				_ = sc.Err()
				return &ours{err}
			}
		}
		return sc.Err()
	})
	if len(next) == 0 {
		next = nil
	}
	return next, err
}

// one reads one row, or retention.ErrNotFound.
func (s *session) one(ctx context.Context, cql string, args []any, dest ...any) error {
	return s.first(ctx, gocql.LocalQuorum, cql, args, dest...)
}

// serial reads one row after every transaction that may be under way.
func (s *session) serial(ctx context.Context, cql string, args []any, dest ...any) error {
	return s.first(ctx, gocql.Consistency(gocql.LocalSerial), cql, args, dest...)
}

func (s *session) first(ctx context.Context, level gocql.Consistency, cql string, args []any, dest ...any) error {
	return s.repeatRead(ctx, func() error {
		q := s.cql.Query(cql, args...).WithContext(ctx).Consistency(level)
		if level == gocql.LocalQuorum {
			q = s.idempotent(q)
		}
		err := q.Scan(dest...)
		if errors.Is(err, gocql.ErrNotFound) {
			return &ours{retention.ErrNotFound}
		}
		return err
	})
}

// swap runs a light-weight transaction once. It is never repeated here: an
// error that is ErrUnknown is settled by whoever reads the row back.
func (s *session) swap(ctx context.Context, cql string, args ...any) (applied bool, err error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	m := map[string]any{}
	applied, err = s.cql.Query(cql, args...).WithContext(ctx).MapScanCAS(m)
	if err != nil && ctx.Err() != nil {
		return false, fmt.Errorf("%w: %w", retention.ErrUnknown, ctx.Err())
	}
	return applied, classed(err)
}

// apply runs a statement that is no data, such as a change of the schema.
func (s *session) apply(ctx context.Context, cql string, args ...any) error {
	return classed(s.cql.Query(cql, args...).WithContext(ctx).Exec())
}

// ours is an error that is not the driver's, so that repeating changes nothing.
type ours struct{ err error }

func (o *ours) Error() string { return o.err.Error() }

func (s *session) repeat(ctx context.Context, do func() error) error {
	return s.loop(ctx, true, do)
}

func (s *session) repeatRead(ctx context.Context, do func() error) error {
	return s.loop(ctx, false, do)
}

// loop repeats an idempotent statement with growing pauses. If any attempt of a
// write was unknown, so is the whole.
func (s *session) loop(ctx context.Context, write bool, do func() error) error {
	pause := 20 * time.Millisecond
	unknown := false
	for i := 1; ; i++ {
		if err := ctx.Err(); err != nil {
			if write && unknown {
				return fmt.Errorf("%w: %w", retention.ErrUnknown, err)
			}
			return err
		}
		err := do()
		var own *ours
		switch {
		case err == nil:
			return nil
		case errors.As(err, &own):
			return own.err
		case hopeless(err):
			// An earlier attempt may have done it, or the other of two: a guardrail
			// refuses at one node (disk nearly full) what another has begun.
			if write && (unknown || s.hedge != nil && guarded(err)) {
				return fmt.Errorf("%w: %w", retention.ErrUnknown, err)
			}
			return err
		}
		unknown = unknown || s.hedge != nil || !refused(err)
		if i == attempts || ctx.Err() != nil {
			if ctx.Err() != nil {
				err = ctx.Err()
			}
			if write && unknown {
				return fmt.Errorf("%w: %w", retention.ErrUnknown, err)
			}
			return err
		}
		select {
		case <-s.after(pause):
		case <-ctx.Done():
		}
		pause *= 3
	}
}

// classed wraps an error whose outcome is unknown.
func classed(err error) error {
	if err == nil || refused(err) {
		return err
	}
	return fmt.Errorf("%w: %w", retention.ErrUnknown, err)
}

// hopeless reports an error that repeating cannot mend: the statement is wrong,
// or we may not run it.
func hopeless(err error) bool {
	var re gocql.RequestError
	if errors.As(err, &re) {
		switch re.Code() {
		case gocql.ErrCodeSyntax, gocql.ErrCodeInvalid, gocql.ErrCodeUnauthorized, gocql.ErrCodeConfig, gocql.ErrCodeCredentials, gocql.ErrCodeAlreadyExists:
			return true
		}
		return false
	}
	var me gocql.MarshalError
	return errors.As(err, &me)
}

// guarded reports an error that a guardrail may have given: each node has its own.
func guarded(err error) bool {
	var re gocql.RequestError
	return errors.As(err, &re) && re.Code() == gocql.ErrCodeInvalid
}

// refused reports a definite failure of a statement that went to one node: it
// was turned down before any replica was asked. Everything else leaves the
// outcome of a write unknown: timeouts, a cut connection, write failures,
// Overloaded (which a stopping node says of what it has in hand).
func refused(err error) bool {
	if hopeless(err) || errors.Is(err, gocql.ErrNoConnections) || errors.Is(err, gocql.ErrKeyspaceDoesNotExist) {
		return true
	}
	var re gocql.RequestError
	if errors.As(err, &re) {
		return re.Code() == gocql.ErrCodeUnavailable || re.Code() == gocql.ErrCodeBootstrapping
	}
	return false
}

// rewriteAll is rewrite for several statements of one partition.
func (s *session) rewriteAll(ctx context.Context, list []statement) error {
	return s.repeat(ctx, func() error {
		b := s.cql.NewBatch(gocql.UnloggedBatch).WithContext(ctx)
		for _, st := range list {
			b.Query(st.cql, st.args...)
		}
		return s.cql.ExecuteBatch(b)
	})
}
