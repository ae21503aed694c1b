package keys

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
)

const (
	secretSize = 32
	blockSize  = sha256.BlockSize
	sumSize    = sha256.Size
)

// secret is one HMAC-SHA-256 key, with its two padded blocks (RFC 2104) ready.
//
// The obvious way is hmac.New, which allocates five times for every cookie.
// With the padded blocks at hand, an HMAC of a short message is two calls of
// sha256.Sum256 over a buffer on the stack; a test holds that the sums equal
// those of crypto/hmac.
type secret struct {
	raw          [secretSize]byte
	inner, outer [blockSize]byte
}

func newSecret(raw [secretSize]byte) secret {
	s := secret{raw: raw}
	copy(s.inner[:], raw[:])
	copy(s.outer[:], raw[:])
	for i := range blockSize {
		s.inner[i] ^= 0x36
		s.outer[i] ^= 0x5c
	}
	return s
}

// drawSecret makes a secret of 32 random bytes.
func drawSecret(rand io.Reader) (secret, error) {
	var raw [secretSize]byte
	if _, err := io.ReadFull(rand, raw[:]); err != nil {
		return secret{}, fmt.Errorf("draw a key: %w", err)
	}
	return newSecret(raw), nil
}

// begin starts a message in b, which should have room for it on the stack.
func (s *secret) begin(b []byte) []byte { return append(b, s.inner[:]...) }

// end returns the HMAC of what was appended to b since begin.
func (s *secret) end(b []byte) [sumSize]byte {
	var o [blockSize + sumSize]byte
	copy(o[:], s.outer[:])
	in := sha256.Sum256(b)
	copy(o[blockSize:], in[:])
	return sha256.Sum256(o[:])
}

// id names the secret without telling it: a keyed hash of a constant. Since the
// name follows from the bytes, two files that name the same key hold the same
// key, which a random name would not say.
func (s *secret) id() string {
	var a [2 * blockSize]byte
	sum := s.end(append(s.begin(a[:0]), "ebb key id"...))
	return hex.EncodeToString(sum[:idBytes])
}

const idBytes = 4

// Domains of messages under a store key. A space is never one of these words,
// so a visitor key can never equal an event ID by construction.
const domainEvent = "event"
