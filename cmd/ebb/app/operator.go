package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/retention/forget"
	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/tagserver/api"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// Paths of what an operator asks of a running server.
const (
	PathBackups = "/api/v1/backups"
	PathNights  = "/api/v1/nightly-passes"
)

// writeBackup writes a backup for the API.
func (a *App) writeBackup(ctx context.Context, w io.Writer) error {
	m, err := a.Backup(ctx, w)
	if errors.Is(err, errBackingUp) {
		return fmt.Errorf("%w: %w", api.ErrBusy, err)
	}
	if err == nil {
		a.log.Info("backup made", "checkpoint", m.Checkpoint, "files", len(m.Files), "bytes", m.Bytes())
	}
	return err
}

// Night says what a nightly pass did, and what the audit finds after it, as the
// API answers it.
type Night struct {
	Erased int `json:"erased"`
	Audit  struct {
		Places []forget.Place `json:"places"`
	} `json:"audit"`
}

// Local returns what answers on the private listener, for a command that has the
// data directory to itself. Whoever may open that is the operator, so no key is
// asked for. It folds what the log has first, so that answers are of now. It is
// called once, and not together with Serve.
func (a *App) Local(ctx context.Context) (http.Handler, error) {
	if err := a.catchUp(ctx); err != nil {
		return nil, err
	}
	if err := a.covered(ctx); err != nil {
		return nil, err
	}
	a.life.run("re-folds", a.refoldLoop)
	s := &Server{App: a, alone: true}
	o := a.edgeOptions()
	if err := s.routes(&o); err != nil {
		return nil, err
	}
	o.Guards[tagserver.AuthAdmin] = tagserver.LetIn(tagserver.Everything("local"))
	var err error
	if s.edge, err = tagserver.New(o); err != nil {
		return nil, err
	}
	return s.edge.Handler(tagserver.Private), nil
}

// catchUp folds all that is in the log and brings the fold's clock to now. An own
// record does the latter: until a writer that is open has written, the clock
// waits for it (R7), which in an installation that was never served means 1970.
func (a *App) catchUp(ctx context.Context) error {
	for g := range taxonomy.Group(a.install.Groups) {
		tick := []taxonomy.Record{{Kind: taxonomy.RecordTick, Received: a.env.millis()}}
		if _, _, err := a.wal.Append(ctx, g, tick, retention.AckLocal); err != nil {
			return fmt.Errorf("bring the log's clock to now: %w", err)
		}
	}
	return a.Fold(ctx)
}
