package forget

import (
	"context"
	"fmt"

	"github.com/ebb-dmp/ebb/retention"
)

// Carry copies the eraser's queue and the receipts of one installation to another,
// which goes on with the nights that are left. Copying again is fine.
func Carry(ctx context.Context, from, to retention.Keyed) error {
	for _, s := range []retention.KeyedSpace{queueSpace, receiptSpace} {
		if _, err := retention.CopySpace(ctx, from, to, s); err != nil {
			return fmt.Errorf("carry erasures: %w", err)
		}
	}
	return nil
}
