package defs

import (
	"context"
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/ebb-dmp/ebb/retention"
)

// Carry makes the definitions of one installation those of another, each under its
// version and with its former ones, so that an ETag, an entry of the audit log and
// a generation go on naming what they named. Beside them go the audit log, on which
// days API keys were used, and the answers that are kept for requests that are
// repeated. Documents that except is true of are left as they are; all others that
// only the second has go.
//
// Nobody else may write meanwhile, and no set of changes may be under way
// (Open ends it). Carrying again, after a crash too, is fine. A Store over the
// second sees it after Refresh.
func Carry(ctx context.Context, from, to retention.Keyed, except func(Kind, string) bool) (err error) {
	fail := func(err error) error { return fmt.Errorf("carry definitions: %w", err) }
	for _, s := range []retention.KeyedSpace{history, marks, trailSpace, trailHead, answersSpace} {
		if _, err := retention.CopySpace(ctx, from, to, s); err != nil {
			return fail(err)
		}
	}
	there := map[key]bool{}
	for _, kind := range Kinds {
		err := scanKind(ctx, from, kind, func(it retention.Item) error {
			if except(kind, it.Key.Item) {
				return nil
			}
			there[key{kind, it.Key.Item}] = true
			return retention.Raise(ctx, to, space, it, it.Version)
		})
		if err != nil {
			return fail(err)
		}
	}
	// A document that was deleted, and is made again, goes on with its versions.
	gone := map[key]retention.Item{}
	err = from.Scan(ctx, history, nil, func(it retention.Item) error {
		kind, id, ok := strings.Cut(it.Key.Partition, "/")
		k := key{Kind(kind), id}
		if !ok || len(it.Key.Item) != 8 || there[k] || except(k.kind, id) {
			return nil
		}
		it.Version = binary.BigEndian.Uint64([]byte(it.Key.Item))
		if it.Version > gone[k].Version {
			gone[k] = it
		}
		return nil
	})
	for k, it := range gone {
		if err == nil {
			it.Key = k.keyed()
			err = retention.Raise(ctx, to, space, it, it.Version)
		}
	}
	for _, kind := range Kinds {
		if err != nil {
			break
		}
		var over []string
		err = scanKind(ctx, to, kind, func(it retention.Item) error {
			if id := it.Key.Item; !there[key{kind, id}] && !except(kind, id) {
				over = append(over, id)
			}
			return nil
		})
		for _, id := range over {
			if err == nil {
				err = retention.Lower(ctx, to, space, key{kind, id}.keyed())
			}
		}
	}
	if err != nil {
		return fail(err)
	}
	return nil
}

func scanKind(ctx context.Context, k retention.Keyed, kind Kind, fn func(retention.Item) error) error {
	partition := string(kind)
	return k.Scan(ctx, space, &partition, fn)
}
