package keys

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/ebb-dmp/ebb/taxonomy"
)

// maxID bounds an ID of any space, in bytes.
const maxID = 256

// scratch is room on the stack for an HMAC's padded key and a message.
type scratch [blockSize + 448]byte

// storeKey returns the store key of a space and issue day.
func (r *Ring) storeKey(space taxonomy.Space, issued taxonomy.Day) (*secret, error) {
	if space == taxonomy.SpaceCookie {
		q := quarterOf(issued)
		if i, ok := r.findQuarter(q); ok {
			return &r.quarters[i].secret, nil
		}
		return nil, fmt.Errorf("%w for cookies issued in %v: run `ebb keys extend`", ErrNoKey, q)
	}
	if i, ok := r.findSpace(space); ok {
		return &r.spaces[i].secret, nil
	}
	return nil, fmt.Errorf("%w for space %.80q: the first `ebb import` of that space makes it, or put back the keys file that has it", ErrNoKey, string(space))
}

// VisitorKey returns HMAC-SHA-256(store key, space ‖ 0 ‖ ID), cut to 16 bytes.
// The store key is that of the quarter of issued for the space cookie, so a
// visitor key never changes in its life; other spaces have one, and issued is
// ignored. An ID has 1 to 256 bytes, in the space cookie exactly 16. It errs
// with ErrNoKey if there is no store key. No error shows the ID.
func (r *Ring) VisitorKey(space taxonomy.Space, id []byte, issued taxonomy.Day) (k taxonomy.VisitorKey, err error) {
	if len(id) == 0 || len(id) > maxID {
		return k, fmt.Errorf("visitor ID of %d bytes: want 1 to %d", len(id), maxID)
	}
	if space == taxonomy.SpaceCookie && len(id) != 16 {
		return k, errors.New("visitor ID of a cookie: want 16 bytes")
	}
	s, err := r.storeKey(space, issued)
	if err != nil {
		return k, err
	}
	var a scratch
	b := s.begin(a[:0])
	b = append(b, space...)
	b = append(b, 0)
	b = append(b, id...)
	sum := s.end(b)
	copy(k[:], sum[:])
	return k, nil
}

// EventID returns HMAC-SHA-256(store key, "event" ‖ 0 ‖ space ‖ 0 ‖ site ‖ 0 ‖
// id), cut to 16 bytes, under the store key of the event's visitor: a caller
// may put anything in an event's id, an e-mail address too. id has 1 to 256
// bytes.
func (r *Ring) EventID(space taxonomy.Space, issued taxonomy.Day, site taxonomy.SiteID, id string) (e taxonomy.EventID, err error) {
	if len(id) == 0 || len(id) > maxID {
		return e, fmt.Errorf("event id of %d bytes: want 1 to %d", len(id), maxID)
	}
	s, err := r.storeKey(space, issued)
	if err != nil {
		return e, err
	}
	var a scratch
	b := s.begin(a[:0])
	b = append(b, domainEvent...)
	b = append(b, 0)
	b = append(b, space...)
	b = append(b, 0)
	b = append(b, site...)
	b = append(b, 0)
	b = append(b, id...)
	sum := s.end(b)
	copy(e[:], sum[:])
	return e, nil
}

// Erasure returns HMAC-SHA-256(erasure key, visitor key), cut to 16 bytes: what
// is kept of an erased visitor, so that it does not come back (R24).
func (r *Ring) Erasure(k taxonomy.VisitorKey) (e [16]byte) {
	var a scratch
	sum := r.erasure.end(append(r.erasure.begin(a[:0]), k[:]...))
	copy(e[:], sum[:])
	return e
}

// Pseudonym returns the name by which a destination knows a visitor: 32 lower
// hex digits of HMAC-SHA-256(HMAC-SHA-256(partner master, destination), epoch ‖
// visitor key), the epoch being 4 bytes, big endian. Two destinations cannot
// join their files, and a new epoch is a new name for everyone.
//
// Whoever names many visitors uses Pseudonyms.
func (r *Ring) Pseudonym(d taxonomy.DestinationID, epoch uint32, k taxonomy.VisitorKey) string {
	p := r.Pseudonyms(d, epoch)
	var a [32]byte
	return string(p.Append(a[:0], k))
}

// Pseudonyms names visitors for one destination and epoch. It is safe for
// concurrent use.
type Pseudonyms struct {
	secret secret
	epoch  [4]byte
}

// Pseudonyms returns the namer of a destination and epoch.
func (r *Ring) Pseudonyms(d taxonomy.DestinationID, epoch uint32) Pseudonyms {
	var a scratch
	p := Pseudonyms{secret: newSecret(r.partner.end(append(r.partner.begin(a[:0]), d...)))}
	binary.BigEndian.PutUint32(p.epoch[:], epoch)
	return p
}

// Append appends the 32 lower hex digits that name k. It does not allocate if
// dst has room.
func (p *Pseudonyms) Append(dst []byte, k taxonomy.VisitorKey) []byte {
	var a scratch
	b := p.secret.begin(a[:0])
	b = append(b, p.epoch[:]...)
	b = append(b, k[:]...)
	sum := p.secret.end(b)
	return hex.AppendEncode(dst, sum[:16])
}

// Format hides the key from whatever prints it.
func (p Pseudonyms) Format(f fmt.State, _ rune) { fmt.Fprint(f, "pseudonyms") }
