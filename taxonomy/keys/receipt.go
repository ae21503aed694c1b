package keys

import (
	"crypto/ed25519"
)

// receiptLabel is what the signing key of receipts is derived from. It is longer
// than a visitor key, so no visitor's erasure hash is its seed.
const receiptLabel = "ebb receipts, signing key 1"

// receiptKey is an Ed25519 key whose seed is HMAC-SHA-256(erasure key, label):
// all nodes have the same, and it lives as long as the erasure key, which an
// installation never changes. So who keeps a receipt can have it checked for as
// long as the installation stands.
func (r *Ring) receiptKey() ed25519.PrivateKey {
	var a scratch
	sum := r.erasure.end(append(r.erasure.begin(a[:0]), receiptLabel...))
	return ed25519.NewKeyFromSeed(sum[:])
}

// ReceiptKey returns the public key by which receipts are checked: it may be
// shown to everybody.
func (r *Ring) ReceiptKey() ed25519.PublicKey {
	return r.receiptKey().Public().(ed25519.PublicKey)
}

// SignReceipt returns the Ed25519 signature of a receipt's bytes.
func (r *Ring) SignReceipt(b []byte) []byte { return ed25519.Sign(r.receiptKey(), b) }
