package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/retention/defs"
	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/tagserver/api"
)

// firstKeyID is the ID of the key that an installation begins with.
const firstKeyID = "admin"

// openAccess opens what knows callers and writes down what they do.
func (a *App) openAccess(ctx context.Context) error {
	if err := a.keptFirstKey(ctx); err != nil {
		return err
	}
	a.callers = &api.Callers{Defs: a.defs, Used: a.used(), Now: a.env.millis, Log: a.log}
	a.trail = defs.NewTrail(a.store.Keyed(), a.env.Rand, a.env.millis)
	return nil
}

// keptFirstKey makes an API key of the installation's first one. An installation
// that was made before there were others has its hash with its other settings; it
// moves here, where it can be revoked.
func (a *App) keptFirstKey(ctx context.Context) error {
	if a.install.AdminKey == "" {
		return nil
	}
	body, err := json.Marshal(api.AccessKey{ID: firstKeyID, Title: "The installation's first key", Role: tagserver.RoleAdmin, KeyHash: a.install.AdminKey})
	if err == nil {
		_, err = a.defs.Put(ctx, defs.APIKey, firstKeyID, body, 0)
	}
	if err != nil && !errors.Is(err, retention.ErrConflict) {
		return fmt.Errorf("keep the first API key: %w", err)
	}
	// A crash before this comes here again, where the key is there already.
	doc, _ := a.defs.Snapshot().Get(defs.Setting, installationID)
	a.install.AdminKey = ""
	return a.putInstallation(ctx, doc.Version)
}

func (a *App) used() defs.Used { return defs.Used{Keyed: a.store.Keyed()} }

// night runs the nightly pass for whoever asks for it.
func (a *App) night(ctx context.Context) (erased int, err error) {
	if err := a.Nightly(ctx); err != nil {
		return 0, err
	}
	if nights := a.lastNights(ctx); len(nights) > 0 {
		erased = nights[0].Erased
	}
	return erased, nil
}
