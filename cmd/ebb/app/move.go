package app

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/retention/defs"
	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/segments/fold"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// A move carries an installation into another one, which has its own store, shards
// and groups: an embedded one to Cassandra, or back. README.md has the table of
// what lies where and who carries it.
//
// Each part replaces what stands in the target, so a move that ended in the middle
// is made again from the beginning. Until it is at its end the target's
// installation says so, and nothing but a move opens it. The source is folded to
// its end, as at any start, and otherwise only read.

// MoveOptions are two installations. Their keys are the same.
type MoveOptions struct {
	From, To Options
	// Tell is told of each step; may be nil.
	Tell func(step string)
}

// Moved is what a move did: how much there is on each side, by the same questions.
type Moved struct {
	From         MovedPlace         `json:"from"`
	To           MovedPlace         `json:"to"`
	Counts       []MovedCount       `json:"counts"`
	Audiences    []MovedAudience    `json:"audiences"`
	Destinations []MovedDestination `json:"destinations"`
	// Same: everything is as it was, visitor by visitor.
	Same bool `json:"same"`
}

// MovedPlace is one of the two installations.
type MovedPlace struct {
	Store  string `json:"store"`
	Where  string `json:"where"` // the data directory, or the keyspace
	Shards int    `json:"shards"`
	Groups int    `json:"groups"`
}

// MovedCount is a number on both sides.
type MovedCount struct {
	What string `json:"what"`
	From uint64 `json:"from"`
	To   uint64 `json:"to"`
}

// MovedAudience is an audience on both sides. Same says that its members are the
// same visitors.
type MovedAudience struct {
	ID   taxonomy.AudienceID `json:"id"`
	From uint64              `json:"from"`
	To   uint64              `json:"to"`
	Same bool                `json:"same"`
}

// MovedDestination is what the receivers of a destination hold, on both sides.
type MovedDestination struct {
	delivery.Kept
	To   uint64 `json:"to"` // held there
	Same bool   `json:"same"`
}

// moving stands in an installation into which another is being carried, or was.
type moving struct {
	From  string          `json:"from"` // store
	Since taxonomy.Millis `json:"since"`
	Ended taxonomy.Millis `json:"ended,omitempty"`
}

// errMoving: nothing but a move opens the installation.
var errMoving = errors.New("a move into it has not ended, and a part of the data may be missing; run the same `ebb move` again, which begins anew")

// ErrMoved: there is nothing left to be moved, as far as the target knows.
var ErrMoved = errors.New("a move into it has ended, and it is whole: start it with `ebb serve`; what was moved is to be removed")

// movingOnly lets a move, and nobody else, into an installation that is not whole.
func (a *App) movingOnly(moves bool) error {
	if m := a.install.Moving; m != nil && m.Ended == 0 && !moves {
		return fmt.Errorf("%s is not whole: %w; or give it up: drop the keyspace or empty the folder, and make another with `ebb init`", a.place().Where, errMoving)
	}
	return nil
}

func (a *App) place() MovedPlace {
	p := MovedPlace{Store: a.cfg.Store, Where: a.cfg.Data, Shards: a.install.Shards, Groups: a.install.Groups}
	if a.cluster != nil {
		p.Where = "keyspace " + a.cfg.Cassandra.Keyspace
	}
	return p
}

// Move carries an installation into another, which is empty: made by `ebb init`,
// and nothing since. It returns an error if anything stands in its way, with what
// to do; if what was carried is not what was there, Moved.Same is false and the
// target stays closed.
func Move(ctx context.Context, o MoveOptions) (m Moved, err error) {
	if o.Tell == nil {
		o.Tell = func(string) {}
	}
	if err := o.check(); err != nil {
		return m, fmt.Errorf("move: %w", err)
	}
	from, err := openSource(ctx, o.From)
	if err != nil {
		return m, fmt.Errorf("move: what is to be moved: %w", err)
	}
	defer func() { err = errors.Join(err, from.Close(context.WithoutCancel(ctx))) }()
	o.Tell("fold what the log holds")
	if err := from.rest(ctx); err != nil {
		return m, fmt.Errorf("move: what is to be moved: %w", err)
	}
	again, err := mark(ctx, o.To, from)
	if err != nil {
		return m, fmt.Errorf("move: where it goes: %w", err)
	}
	o.To.moving = true
	to, _, err := Open(ctx, o.To)
	if err != nil {
		return m, fmt.Errorf("move: where it goes: %w", err)
	}
	defer func() { err = errors.Join(err, to.Close(context.WithoutCancel(ctx))) }()
	x := carrying{from: from, to: to, again: again, tell: o.Tell}
	if m, err = x.run(ctx); err != nil {
		return m, fmt.Errorf("move: %w; what is to be moved is as it was: mend it and run `ebb move` again", err)
	}
	return m, nil
}

// check refuses what can be seen without opening anything.
func (o *MoveOptions) check() error {
	from, to := &o.From.Config, &o.To.Config
	if from.Data == to.Data {
		return fmt.Errorf("both settings have the data directory %s; give the new one another", from.Data)
	}
	if from.Cluster() && to.Cluster() && from.Cassandra.Keyspace == to.Cassandra.Keyspace {
		return fmt.Errorf("both settings have the keyspace %s", from.Cassandra.Keyspace)
	}
	mine, err := o.From.Keys.Marshal()
	if err != nil {
		return err
	}
	its, err := o.To.Keys.Marshal()
	if err != nil {
		return err
	}
	if !bytes.Equal(mine, its) {
		return fmt.Errorf("%s and %s are not the same keys, and without its own nobody knows a visitor again; copy the first to the place of the second, and make the new installation with `ebb init` after that", from.KeysFile(), to.KeysFile())
	}
	return nil
}

// openSource opens what is to be moved, for this process alone.
func openSource(ctx context.Context, o Options) (*App, error) {
	o.Init = false
	if !o.Config.Cluster() {
		if used, err := Used(o.Env, o.Config.Data); err != nil {
			return nil, err
		} else if !used {
			return nil, fmt.Errorf("there is no installation in %s; name its folder with --data", o.Config.Data)
		}
	}
	a, _, err := Open(ctx, o)
	if InUse(err) {
		err = fmt.Errorf("%w; a move needs it to stand still: stop `ebb serve` first", err)
	}
	return a, err
}

// alone returns an error unless this process builds all groups and no other node
// appends to the log. Who was there a moment ago may be so for a lease's life.
func (a *App) alone(ctx context.Context) error {
	if a.cluster == nil {
		return nil
	}
	for tries := 3 * a.leaseLife() / (2 * clusterPoll); ; tries-- {
		who, err := a.others(ctx)
		if err != nil || who == "" {
			return err
		}
		if tries <= 0 {
			return fmt.Errorf("another node of the cluster %s; stop `ebb serve` on all of them, wait for cassandra.lease (%s), and run `ebb move` again, with the role builder", who, a.leaseLife())
		}
		if !a.wait(ctx, clusterPoll) {
			return ctx.Err()
		}
	}
}

// others says what another node does, or nothing. It takes leases that are free.
func (a *App) others(ctx context.Context) (string, error) {
	for _, g := range a.fold.list {
		if g.builds() {
			continue
		}
		if _, err := a.take(ctx, g); err != nil && !errors.Is(err, retention.ErrHeld) {
			return "", err
		}
		if !g.builds() {
			return fmt.Sprintf("builds group %d", g.n), nil
		}
	}
	other, err := a.otherWriter(ctx)
	if err != nil || other.IsZero() {
		return "", err
	}
	return fmt.Sprintf("is open for events (writer %s)", other), nil
}

// otherWriter returns a writer of another node that is open, zero if there is none.
func (a *App) otherWriter(ctx context.Context) (other taxonomy.WriterID, err error) {
	own := a.cluster.log.Writer()
	for _, g := range a.fold.list {
		if err := a.closeDead(ctx, g); err != nil {
			return other, err
		}
		ends, err := a.wal.End(ctx, g.n, g.fold.Load().Position())
		if err != nil {
			return other, fmt.Errorf("look for other nodes: %w", err)
		}
		for _, e := range ends {
			if e.Open && e.Writer != own {
				return e.Writer, nil
			}
		}
	}
	return other, nil
}

// rest brings a to a point at which all that is known lies in a checkpoint, and
// refuses what cannot be carried.
func (a *App) rest(ctx context.Context) error {
	if err := a.alone(ctx); err != nil {
		return err
	}
	if err := a.catchUp(ctx); err != nil {
		return err
	}
	if err := a.Settle(ctx); err != nil {
		return fmt.Errorf("bring changed rules into force: %w", err)
	}
	for _, g := range a.fold.list {
		f := g.fold.Load()
		ends, err := a.wal.End(ctx, g.n, f.Position())
		if err != nil {
			return fmt.Errorf("read the log's ends: %w", err)
		}
		at := f.Position()
		for _, e := range ends {
			if !e.Open && at[e.Writer] < e.Last || len(e.Unfolded) > 0 {
				return fmt.Errorf("the log of writer %s is not folded to its end; `ebb log holes` says whether it waits for records that will not come", e.Writer)
			}
		}
		if _, on := f.Refolding(); on {
			return fmt.Errorf("group %d: changed rules are not in force yet; start `ebb serve`, wait with `ebb operations list`, stop it, and run `ebb move` again", g.n)
		}
	}
	if err := a.deliverer.Rest(ctx); err != nil {
		if errors.Is(err, delivery.ErrPushing) {
			err = fmt.Errorf("%w; start `ebb serve` and wait until `ebb deliver list` shows that it has ended (after 15 minutes it is given up), stop it, and run `ebb move` again", err)
		}
		return err
	}
	_, err := a.fold.Checkpoint(ctx)
	return err
}

// mark makes the target's installation one that only a move opens, after checking
// that it is empty. again: an earlier move did, and did not end.
func mark(ctx context.Context, o Options, from *App) (again bool, err error) {
	o.Init = false
	a, _, err := Open(ctx, o)
	if errors.Is(err, errMoving) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, a.Close(context.WithoutCancel(ctx))) }()
	if err := a.alone(ctx); err != nil {
		return false, err
	}
	if a.install.Moving != nil {
		return false, fmt.Errorf("%s: %w", a.place().Where, ErrMoved)
	}
	if err := a.pristine(ctx); err != nil {
		return false, fmt.Errorf("%s is not empty: %w; a move needs an installation in which nothing happened since `ebb init`", a.place().Where, err)
	}
	a.install.Moving = &moving{From: from.cfg.Store, Since: a.env.millis()}
	// Files and generations go on under the epoch that destinations know.
	a.install.Epoch, a.install.Created = from.install.Epoch, from.install.Created
	doc, _ := a.defs.Snapshot().Get(defs.Setting, installationID)
	return false, a.putInstallation(ctx, doc.Version)
}

// pristine returns an error that says what is there, unless nothing is.
func (a *App) pristine(ctx context.Context) error {
	for _, kind := range defs.Kinds {
		if kind == defs.Setting {
			continue
		}
		for _, d := range a.defs.Snapshot().List(kind) {
			if kind != defs.APIKey || d.ID != firstKeyID {
				return fmt.Errorf("it has %s %q", kind, d.ID)
			}
		}
	}
	if err := a.catchUp(ctx); err != nil {
		return err
	}
	c, err := fold.TakeCensus(a.fold.folds())
	if err == nil && c.Visitors+c.Gone+c.Erasures+c.Waiting > 0 {
		err = errors.New("it knows visitors")
	}
	if err != nil {
		return err
	}
	if refs, err := a.generations.List(ctx); err != nil || len(refs) > 0 {
		return errors.Join(err, fmt.Errorf("%d generations were built in it", len(refs)))
	}
	return nil
}

// folds are those of all groups, in their order.
func (gs *groups) folds() (list []*fold.Fold) {
	for _, g := range gs.list {
		list = append(list, g.fold.Load())
	}
	return list
}
