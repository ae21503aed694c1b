package delivery

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
)

// KeyPrefix begins every partner key, so that one found in a log or a
// repository can be told for what it is.
const KeyPrefix = "ebbp_"

// NewKey draws the key by which a partner pulls: KeyPrefix and 32 random bytes
// in base64url. Show it once and keep its hash.
func NewKey(rand io.Reader) (key, hash string, err error) {
	var b [32]byte
	if _, err := io.ReadFull(rand, b[:]); err != nil {
		return "", "", fmt.Errorf("draw partner key: %w", err)
	}
	key = KeyPrefix + base64.RawURLEncoding.EncodeToString(b[:])
	return key, HashKey(key), nil
}

// HashKey is what is kept of a key. One round of SHA-256 without salt suffices,
// since the key is 256 random bits: there is nothing to guess.
func HashKey(key string) string {
	h := sha256.Sum256([]byte(key))
	return hex.EncodeToString(h[:])
}

// CheckKey reports whether key is the one whose hash is kept, in a time that
// does not depend on where they differ. An empty hash accepts no key.
func CheckKey(hash, key string) bool {
	return hash != "" && subtle.ConstantTimeCompare([]byte(hash), []byte(HashKey(key))) == 1
}

func isKeyHash(s string) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == sha256.Size
}
