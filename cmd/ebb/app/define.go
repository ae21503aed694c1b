package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/retention/defs"
)

// Define stores a definition under any version and puts it in force. It is for
// the program's own definitions (the demo's); the API checks versions.
func (a *App) Define(ctx context.Context, kind defs.Kind, id string, body any) error {
	b, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("define %s %q: %w", kind, id, err)
	}
	doc, _ := a.defs.Snapshot().Get(kind, id)
	if _, err := a.defs.Put(ctx, kind, id, b, doc.Version); err != nil {
		if errors.Is(err, retention.ErrConflict) {
			return fmt.Errorf("define %s %q: somebody else changed it: %w", kind, id, err)
		}
		return err
	}
	if err := a.refresh(ctx); err != nil {
		return err
	}
	if kind == defs.Rule || kind == defs.Taxonomy {
		return a.Settle(ctx)
	}
	return nil
}
