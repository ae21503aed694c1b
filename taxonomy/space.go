package taxonomy

import (
	"fmt"
	"strings"
)

// SpaceDevice is the space of apps' install IDs.
const SpaceDevice Space = "device"

// CheckSpace returns an error that names what is wrong with s as a space.
func CheckSpace(s Space) error {
	if s == SpaceCookie || s == SpaceDevice {
		return nil
	}
	kind, name, ok := strings.Cut(string(s), ":")
	if !ok || kind != "partner" && kind != "own" {
		return fmt.Errorf("space %.80q: want cookie, device, partner:<name> or own:<name>", string(s))
	}
	if err := CheckSlug("name", name); err != nil {
		return fmt.Errorf("space %.80q: %w", string(s), err)
	}
	return nil
}
