package defs

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// marks is when keys were last used, to the day: partition the key's ID. It is
// apart from the keys' documents, whose versions are changes by people.
var marks = retention.KeyedSpace{Name: "apikey-used"}

// Used keeps on which day each API key was last used.
type Used struct{ Keyed retention.Keyed }

// Mark notes that a key was used on a day.
func (u Used) Mark(ctx context.Context, id string, day taxonomy.Day) error {
	err := u.Keyed.Put(ctx, marks, []retention.Item{{Key: retention.Key{Partition: id}, Value: binary.BigEndian.AppendUint32(nil, uint32(day))}})
	if err != nil {
		return fmt.Errorf("note the use of key %q: %w", id, err)
	}
	return nil
}

// Last returns the day on which a key was last used, false if it never was.
func (u Used) Last(ctx context.Context, id string) (taxonomy.Day, bool, error) {
	it, err := u.Keyed.Get(ctx, marks, retention.Key{Partition: id})
	switch {
	case errors.Is(err, retention.ErrNotFound):
		return 0, false, nil
	case err != nil:
		return 0, false, fmt.Errorf("read the last use of key %q: %w", id, err)
	case len(it.Value) != 4:
		return 0, false, fmt.Errorf("the last use of key %q: %w", id, retention.ErrCorrupt)
	}
	return taxonomy.Day(binary.BigEndian.Uint32(it.Value)), true, nil
}
