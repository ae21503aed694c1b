package delivery

import (
	"bytes"
	"context"

	"github.com/RoaringBitmap/roaring/v2"
)

// MarshalLedger, UnmarshalLedger and Seal let tests reach the bytes of a ledger.
func MarshalLedger(l *Ledger, shards int) ([]byte, error) { return l.marshal(shards) }

// UnmarshalLedger reads what MarshalLedger wrote.
func UnmarshalLedger(b []byte) (*Ledger, error) { return unmarshalLedger(b) }

// MatchedOf is the partner's IDs of visitors, by shard and ordinal.
func MatchedOf(ids ...map[uint32]string) *Matched { return matchedOf(ids) }

// Seal makes a ledger file of a body.
func Seal(body []byte) []byte { return seal(ledgerMagic, body) }

// UnmarshalMembers reads the members of a file of a body.
func UnmarshalMembers(body []byte) ([]*roaring.Bitmap, error) {
	return unmarshalMembers(seal(membersMagic, body))
}

// InOrder hands over the IDs of sets in their order, a bucket of about so many at a
// time.
func InOrder(ctx context.Context, bucket int, sets []*roaring.Bitmap, name func(int, uint32) (string, bool), lost func(int, uint32), fn func([]string)) error {
	o := order{name: name, most: bucket}
	return o.each(ctx, sets, func(x at) { lost(x.shard, x.ordinal) }, func(list []member) error {
		var ids []string
		for _, m := range list {
			ids = append(ids, m.id)
		}
		fn(ids)
		return nil
	})
}

// IndexOf returns an index of so many chunks, of which each says something.
func IndexOf(chunks int) []byte {
	var b bytes.Buffer
	x := indexWriter{w: &b, shards: 1}
	var ps []piece
	for i := range chunks {
		says := NewLedger()
		says.Held["cars"] = NewHeld(1)
		says.Held["cars"].Add(0, uint32(i), 20000)
		p := piece{bytes: int64(i), rows: 1, removes: i%2 == 0, name: "part"}
		_ = x.add(&p, says) // a bytes.Buffer takes everything
		ps = append(ps, p)
	}
	_ = x.end(ps)
	return b.Bytes()
}

// ReadIndex reads an index, and what each of its chunks says.
func ReadIndex(b []byte) (chunks int, err error) {
	ps, err := readIndex(bytes.NewReader(b), int64(len(b)))
	for i := range ps {
		if _, err := readSays(bytes.NewReader(b), &ps[i]); err != nil {
			return 0, err
		}
	}
	return len(ps), err
}
