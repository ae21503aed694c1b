package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/retention/embedded"
	"github.com/ebb-dmp/ebb/retention/forget"
	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// Paths of the operator's routes that are about this engine, and so stand here
// and not in the API.
const (
	PathBackups = "/api/v1/backups"
	PathNights  = "/api/v1/nightly-passes"
)

// InUse reports whether an App could not be opened because another process holds
// the data directory.
func InUse(err error) bool { return errors.Is(err, embedded.ErrInUse) }

// operatorRoutes are what an operator asks of a running server.
func (a *App) operatorRoutes() []tagserver.Route {
	post := func(path string, fn func(http.ResponseWriter, *http.Request) error) tagserver.Route {
		return tagserver.Route{Method: http.MethodPost, Path: path, Listener: tagserver.Private, Auth: tagserver.AuthAdmin, Handler: tagserver.Handle(fn)}
	}
	return []tagserver.Route{post(PathBackups, a.handleBackup), post(PathNights, a.handleNight)}
}

// handleBackup answers with a backup. It is cut off if the backup fails, and so
// never ends as one that is whole; Verify knows the difference too.
func (a *App) handleBackup(w http.ResponseWriter, r *http.Request) error {
	m, err := a.Backup(r.Context(), lazy{w})
	if errors.Is(err, errBackingUp) {
		return tagserver.NewProblem(http.StatusConflict, "busy", err.Error())
	}
	if err != nil {
		a.log.Error("backup", "error", err)
		return tagserver.NewProblem(http.StatusInternalServerError, "internal", "the backup failed; see the server's log")
	}
	a.log.Info("backup made", "checkpoint", m.Checkpoint, "files", len(m.Files), "bytes", m.Bytes())
	return nil
}

// lazy says of what type an answer is when its first byte comes.
type lazy struct{ w http.ResponseWriter }

func (l lazy) Write(p []byte) (int, error) {
	l.w.Header().Set("Content-Type", "application/x-tar")
	return l.w.Write(p)
}

// Night says what a nightly pass did, and what the audit finds after it.
type Night struct {
	Erased int           `json:"erased"`
	Audit  forget.Report `json:"audit"`
}

func (a *App) handleNight(w http.ResponseWriter, r *http.Request) error {
	if err := a.Nightly(r.Context()); err != nil {
		a.log.Error("nightly pass", "error", err)
		return tagserver.NewProblem(http.StatusInternalServerError, "internal", "the nightly pass did not come to its end; see the server's log, and run it again")
	}
	n := Night{Audit: a.Audit(r.Context())}
	if nights := a.lastNights(r.Context()); len(nights) > 0 {
		n.Erased = nights[0].Erased
	}
	b, err := json.Marshal(n)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(b)))
	_, err = w.Write(b)
	return err
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
	s := &Server{App: a}
	if err := a.env.FS.RemoveAll(a.spoolDir()); err != nil {
		return nil, fmt.Errorf("empty the folder of uploads: %w", err)
	}
	o := a.edgeOptions()
	if err := s.routes(&o); err != nil {
		return nil, err
	}
	o.Guards[tagserver.AuthAdmin] = same
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

func same[T any](t T) T { return t }
