package delivery

import (
	"github.com/RoaringBitmap/roaring/v2"

	"github.com/ebb-dmp/ebb/segments/audience"
)

// Reachable returns who of a shard a destination may be sent and knows: allowed,
// not gone, and matched if it wants that. The caller owns the set.
func Reachable(v audience.View, dest *Destination, shard int) (*roaring.Bitmap, error) {
	may, matched, err := eligible(v, dest, shard)
	if err != nil {
		return nil, err
	}
	if matched != nil {
		may.And(matched)
	}
	return may, nil
}
