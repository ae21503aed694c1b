package delivery

import "github.com/RoaringBitmap/roaring/v2"

// MarshalLedger, UnmarshalLedger and Seal let tests reach the bytes of a ledger.
func MarshalLedger(l *Ledger, shards int) ([]byte, error) { return l.marshal(shards) }

// UnmarshalLedger reads what MarshalLedger wrote.
func UnmarshalLedger(b []byte) (*Ledger, error) { return unmarshalLedger(b) }

// Seal makes a ledger file of a body.
func Seal(body []byte) []byte { return seal(ledgerMagic, body) }

// UnmarshalMembers reads the members of a file of a body.
func UnmarshalMembers(body []byte) ([]*roaring.Bitmap, error) {
	return unmarshalMembers(seal(membersMagic, body))
}
