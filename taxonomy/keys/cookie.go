package keys

import (
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"

	"github.com/ebb-dmp/ebb/taxonomy"
)

// A cookie's value is
//
//	1.<key id>.<base64url, no padding, of:
//	    0..15   random ID
//	    16..17  issue day, uint16, big endian
//	    18..33  HMAC-SHA-256(cookie key, "1." key id "." ID day name), cut to 16>
//
// The name is in the HMAC, so that the partitioned cookie's value is worth
// nothing under the first-party cookie's name. A key ID has no dot and the ID
// and day have fixed lengths, so no two different inputs give one message.
const (
	cookieVersion = "1."
	payloadSize   = 16 + 2 + 16
	payloadChars  = (payloadSize*8 + 5) / 6
	keyIDChars    = 2 * idBytes
	cookieSize    = len(cookieVersion) + keyIDChars + 1 + payloadChars
)

// strict refuses trailing bits that are not zero: else sixteen different values
// would be one cookie.
var strict = base64.RawURLEncoding.Strict()

func (k *cookieKey) mac(name string, id *[16]byte, day uint16) [sumSize]byte {
	var a scratch
	b := k.secret.begin(a[:0])
	b = append(b, cookieVersion...)
	b = append(b, k.id...)
	b = append(b, '.')
	b = append(b, id[:]...)
	b = binary.BigEndian.AppendUint16(b, day)
	b = append(b, name...)
	return k.secret.end(b)
}

// SignCookie returns the value of the cookie of that name which carries id,
// signed with the current key. issued must lie between 1970 and 2149-06-06;
// the value made of another day does not verify.
func (r *Ring) SignCookie(name string, id [16]byte, issued taxonomy.Day) string {
	day := uint16(0) // long over, on any day on which it could be asked
	if issued >= 0 && issued <= 1<<16-1 {
		day = uint16(issued)
	}
	k := &r.cookies[r.current]
	sum := k.mac(name, &id, day)
	var p [payloadSize]byte
	copy(p[:], id[:])
	binary.BigEndian.PutUint16(p[16:], day)
	copy(p[18:], sum[:16])

	var a [cookieSize]byte
	b := append(a[:0], cookieVersion...)
	b = append(b, k.id...)
	b = append(b, '.')
	b = strict.AppendEncode(b, p[:])
	return string(b)
}

// VerifyCookie returns the ID and issue day that a cookie's value carries, and
// whether it is one that SignCookie made for that name under a key of the ring,
// bit for bit. An issue day more than one day ahead of today or more than 90
// days back is refused. It takes the same time wherever a signature differs,
// and does not allocate.
func (r *Ring) VerifyCookie(name, value string, today taxonomy.Day) (id [16]byte, issued taxonomy.Day, ok bool) {
	const dot = len(cookieVersion) + keyIDChars
	if len(value) != cookieSize || value[:len(cookieVersion)] != cookieVersion || value[dot] != '.' {
		return id, 0, false
	}
	k := r.cookieKey(value[len(cookieVersion):dot])
	if k == nil {
		return id, 0, false
	}
	// The decoder skips line ends, so what decodes to fewer bytes had some.
	var text [payloadChars]byte
	var p [payloadSize]byte
	copy(text[:], value[dot+1:])
	if n, err := strict.Decode(p[:], text[:]); err != nil || n != payloadSize {
		return id, 0, false
	}
	day := binary.BigEndian.Uint16(p[16:])
	claimed := [16]byte(p[:16])
	sum := k.mac(name, &claimed, day)
	if subtle.ConstantTimeCompare(sum[:16], p[18:]) != 1 {
		return id, 0, false
	}
	issued = taxonomy.Day(day)
	if issued > today+1 || today-issued > CookieDays {
		return id, 0, false
	}
	return claimed, issued, true
}

// SignedByCurrent reports whether a cookie's value names the key that signs now.
// It verifies nothing: ask VerifyCookie first.
func (r *Ring) SignedByCurrent(value string) bool {
	const dot = len(cookieVersion) + keyIDChars
	return len(value) == cookieSize && value[len(cookieVersion):dot] == r.cookies[r.current].id
}

// cookieKey returns the key of that ID, or nil. There are a handful; IDs are
// public.
func (r *Ring) cookieKey(id string) *cookieKey {
	for i := range r.cookies {
		if r.cookies[i].id == id {
			return &r.cookies[i]
		}
	}
	return nil
}

// RotationDay is the first day on which a cookie gets a new ID: 76 to 90 days
// after its issue, by the last byte of the ID, so that those who first came on
// the day of a launch do not all vanish on one day (R27).
func RotationDay(id [16]byte, issued taxonomy.Day) taxonomy.Day {
	return issued + 76 + taxonomy.Day(id[15]%15)
}
