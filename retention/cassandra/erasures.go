package cassandra

import (
	"context"
	"fmt"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
)

const (
	insertErasure  = `INSERT INTO erasure (day, at, key, space, asked) VALUES (?, ?, ?, ?, ?)`
	selectErasures = `SELECT key, space, asked FROM erasure WHERE day = ? AND at >= ?`
)

// Erasure is an erasure as all nodes are told of it (R24).
type Erasure struct {
	Hash  [16]byte // HMAC(erasure key, visitor key)
	Space taxonomy.Space
	Asked taxonomy.Millis // when the visitor asked for it
}

// PutErasures tells all nodes of erasures. It returns when they are durable;
// what is unknown is repeated.
func (st *Store) PutErasures(ctx context.Context, list []Erasure) error {
	now := st.o.Now()
	err := st.each(ctx, len(list), func(ctx context.Context, i int) error {
		e := &list[i]
		return st.s.write(ctx, insertErasure, int(now.Day()), int64(now), e.Hash[:], string(e.Space), int64(e.Asked))
	})
	if err != nil {
		return fmt.Errorf("tell all nodes of %d erasures: %w", len(list), err)
	}
	return nil
}

// Erasures calls fn with the erasures that were written at from or later, by the
// clock of whoever wrote them, some of them perhaps more than once.
func (st *Store) Erasures(ctx context.Context, from taxonomy.Millis, fn func(Erasure)) error {
	for day := from.Day(); day <= (st.o.Now() + maxSkew).Day(); day++ {
		var list []Erasure
		err := st.s.rows(ctx, func() { list = list[:0] }, func(scan func(...any) error) error {
			var e Erasure
			var key []byte
			var space string
			if err := scan(&key, &space, (*int64)(&e.Asked)); err != nil {
				return err
			}
			if len(key) != len(e.Hash) {
				return fmt.Errorf("%w: an erasure of %d bytes", retention.ErrCorrupt, len(key))
			}
			e.Hash, e.Space = [16]byte(key), taxonomy.Space(space)
			list = append(list, e)
			return nil
		}, selectErasures, int(day), int64(from))
		if err != nil {
			return fmt.Errorf("follow erasures: %w", err)
		}
		for _, e := range list {
			fn(e)
		}
	}
	return nil
}
