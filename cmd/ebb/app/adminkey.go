package app

import (
	"encoding/base64"
	"fmt"
	"io"

	"github.com/ebb-dmp/ebb/segments/delivery"
)

// AdminPrefix begins every admin key, so that one found where it should not be
// can be told for what it is.
const AdminPrefix = "ebba_"

// newAdminKey draws an admin key: 32 random bytes. It is shown once; its hash is
// kept.
func newAdminKey(rand io.Reader) (key, hash string, err error) {
	var b [32]byte
	if _, err := io.ReadFull(rand, b[:]); err != nil {
		return "", "", fmt.Errorf("draw the admin key: %w", err)
	}
	key = AdminPrefix + base64.RawURLEncoding.EncodeToString(b[:])
	return key, delivery.HashKey(key), nil
}

// IsAdmin reports whether a key is the admin key.
func (a *App) IsAdmin(key string) bool { return delivery.CheckKey(a.install.AdminKey, key) }
