// Package keys is the derivations: how an ID becomes a visitor key, a visitor
// key a partner's pseudonym, and how a cookie proves that we made it.
//
// It does no I/O. The bytes of keys.json come from and go to the caller, who
// keeps the file with mode 0600, outside the data directory, the same on all
// nodes, and never in a backup of the data.
package keys

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"

	"github.com/ebb-dmp/ebb/taxonomy"
)

const (
	// AheadQuarters is how many quarters after the present one have a store key
	// when a ring is made or extended (R30).
	AheadQuarters = 4

	// StoreKeyDays is how long a store key outlives its quarter: the last ID of
	// the quarter is valid for 90 days, and the last event of that ID for 90
	// more.
	StoreKeyDays = 2 * taxonomy.RetentionDays

	// CookieDays is the life of a cookie, counted from its issue day.
	CookieDays = 90
)

// ErrNoKey: the ring has no store key for that space or that issue day. The
// message says which, and what to run.
var ErrNoKey = errors.New("no store key")

// Ring holds all keys of an installation. It is immutable: what changes it
// returns a new one, which the caller writes to keys.json. It is safe for
// concurrent use, and it never shows a key when it is printed.
type Ring struct {
	cookies  []cookieKey  // by ID
	current  int          // index into cookies: the one that signs
	quarters []quarterKey // by quarter: store keys of the space cookie
	spaces   []spaceKey   // by space: store keys of all others
	erasure  secret
	partner  secret
}

type cookieKey struct {
	id      string
	secret  secret
	retired taxonomy.Day // the day it stopped signing; 0: it signs, or is staged
}

type quarterKey struct {
	quarter quarter
	secret  secret
}

type spaceKey struct {
	space  taxonomy.Space
	secret secret
}

// Generate makes the keys of a new installation: one cookie key, store keys of
// the space cookie for the quarter of today and the next four, the erasure key
// and the partner master key. rand must be a cryptographic source.
func Generate(rand io.Reader, today taxonomy.Day) (*Ring, error) {
	r := new(Ring)
	var err error
	if r.erasure, err = drawSecret(rand); err != nil {
		return nil, err
	}
	if r.partner, err = drawSecret(rand); err != nil {
		return nil, err
	}
	s, err := drawSecret(rand)
	if err != nil {
		return nil, err
	}
	r.cookies = []cookieKey{{id: s.id(), secret: s}}
	r, _, err = r.Extend(rand, today)
	return r, err
}

func (r *Ring) clone() *Ring {
	c := *r
	c.cookies = slices.Clone(r.cookies)
	c.quarters = slices.Clone(r.quarters)
	c.spaces = slices.Clone(r.spaces)
	return &c
}

// Extend returns a ring that also has the store keys that are missing of the
// quarter of today and the next four, and how many were added. With none
// missing it returns r.
//
// In a cluster one node's operator extends and copies the file: two files made
// apart hold different keys.
func (r *Ring) Extend(rand io.Reader, today taxonomy.Day) (*Ring, int, error) {
	c, added := r, 0
	for q := quarterOf(today); q <= quarterOf(today)+AheadQuarters; q++ {
		i, ok := c.findQuarter(q)
		if ok {
			continue
		}
		s, err := drawSecret(rand)
		if err != nil {
			return nil, 0, fmt.Errorf("extend store keys to %v: %w", q, err)
		}
		if c == r {
			c = r.clone()
		}
		c.quarters = slices.Insert(c.quarters, i, quarterKey{q, s})
		added++
	}
	return c, added, nil
}

// ExtendDue returns for how many more days, today included, new IDs find a
// store key: 0 when today already lacks one. An operator should be warned from
// 30 on.
func (r *Ring) ExtendDue(today taxonomy.Day) int {
	q := quarterOf(today)
	for {
		if _, ok := r.findQuarter(q); !ok {
			return max(0, int(q.first()-today))
		}
		q++
	}
}

// WithSpace returns a ring that has a store key for the given space, such as
// own:demo. A space that has one keeps it: then r itself is returned.
func (r *Ring) WithSpace(rand io.Reader, space taxonomy.Space) (*Ring, error) {
	if err := taxonomy.CheckSpace(space); err != nil {
		return nil, err
	}
	if space == taxonomy.SpaceCookie {
		return nil, fmt.Errorf("space %q: its store keys go by quarter; use Extend", space)
	}
	i, ok := r.findSpace(space)
	if ok {
		return r, nil
	}
	s, err := drawSecret(rand)
	if err != nil {
		return nil, fmt.Errorf("add a store key for space %q: %w", space, err)
	}
	c := r.clone()
	c.spaces = slices.Insert(c.spaces, i, spaceKey{space, s})
	return c, nil
}

// WithoutSpace returns a ring without the store key of a space: its IDs can
// never again be told to belong to what is kept. There is no way back.
func (r *Ring) WithoutSpace(space taxonomy.Space) (*Ring, error) {
	i, ok := r.findSpace(space)
	if !ok {
		return nil, fmt.Errorf("retire space %q: %w", space, ErrNoKey)
	}
	c := r.clone()
	c.spaces = slices.Delete(c.spaces, i, i+1)
	return c, nil
}

// Stage returns a ring with one more cookie key, which verifies but does not
// sign yet. In a cluster this file goes to every node before Rotate, so that no
// node meets a cookie signed with a key that it does not know.
func (r *Ring) Stage(rand io.Reader) (*Ring, error) {
	s, err := drawSecret(rand)
	if err != nil {
		return nil, fmt.Errorf("stage a cookie key: %w", err)
	}
	c := r.clone()
	k := cookieKey{id: s.id(), secret: s}
	i, taken := slices.BinarySearchFunc(c.cookies, k.id, func(k cookieKey, id string) int { return cmp.Compare(k.id, id) })
	if taken {
		return nil, fmt.Errorf("stage a cookie key: its ID %s is taken; try again", k.id)
	}
	c.cookies = slices.Insert(c.cookies, i, k)
	if i <= c.current {
		c.current++
	}
	return c, nil
}

// Rotate returns a ring that signs cookies with the staged key, or with a new
// one if none is staged. The key that signed until now still verifies, until
// the last cookie that it signed has ended and Prune removes it.
func (r *Ring) Rotate(rand io.Reader, today taxonomy.Day) (*Ring, error) {
	staged := func(c *Ring) int {
		for i := range c.cookies {
			if i != c.current && c.cookies[i].retired == 0 {
				return i
			}
		}
		return -1
	}
	c := r.clone()
	if staged(c) < 0 {
		var err error
		if c, err = r.Stage(rand); err != nil {
			return nil, err
		}
	}
	i := staged(c)
	c.cookies[c.current].retired = max(today, 1)
	c.current = i
	return c, nil
}

// Prune returns a ring without the keys whose use is over, and their IDs: store
// keys 180 days after their quarter, and cookie keys that signed no cookie that
// is still valid. Destroying a store key makes every copy of what was kept
// under it, in whatever backup, unlinkable to any ID. With nothing to destroy
// it returns r.
func (r *Ring) Prune(today taxonomy.Day) (*Ring, []string) {
	c := r.clone()
	var gone []string
	c.quarters = slices.DeleteFunc(c.quarters, func(k quarterKey) bool {
		over := k.quarter.last()+StoreKeyDays < today
		if over {
			gone = append(gone, k.id())
		}
		return over
	})
	current := c.cookies[c.current].id
	c.cookies = slices.DeleteFunc(c.cookies, func(k cookieKey) bool {
		// One day more than a cookie lives: issue days may lie a day ahead.
		over := k.retired != 0 && k.retired+CookieDays+1 < today
		if over {
			gone = append(gone, "cookie/"+k.id)
		}
		return over
	})
	if len(gone) == 0 {
		return r, nil
	}
	c.current = slices.IndexFunc(c.cookies, func(k cookieKey) bool { return k.id == current })
	return c, gone
}

// The IDs of keys: what they are for, and a keyed hash of a constant.

func (k *quarterKey) id() string {
	return "store/" + string(taxonomy.SpaceCookie) + "/" + k.quarter.String() + "/" + k.secret.id()
}

func (k *spaceKey) id() string { return "store/" + string(k.space) + "/" + k.secret.id() }

// KeyIDs returns the IDs of the keys on which kept data depends: store keys,
// erasure key, partner master key, sorted. They tell nothing of the keys, and
// equal IDs mean equal keys. A backup carries them. Cookie keys are not among
// them: what is kept does not depend on which of them signed.
func (r *Ring) KeyIDs() []string {
	ids := []string{"erasure/" + r.erasure.id(), "partner/" + r.partner.id()}
	for i := range r.quarters {
		ids = append(ids, r.quarters[i].id())
	}
	for i := range r.spaces {
		ids = append(ids, r.spaces[i].id())
	}
	slices.Sort(ids)
	return ids
}

// Missing returns those of a backup's key IDs that r lacks, without the store
// keys of quarters whose data is over today: those were destroyed on purpose. A
// restore refuses a backup unless this is empty (R29).
func (r *Ring) Missing(ids []string, today taxonomy.Day) []string {
	have := r.KeyIDs()
	var missing []string
	for _, id := range ids {
		if _, ok := slices.BinarySearch(have, id); ok {
			continue
		}
		if rest, ok := strings.CutPrefix(id, "store/cookie/"); ok {
			name, _, _ := strings.Cut(rest, "/")
			if q, err := parseQuarter(name); err == nil && q.last()+StoreKeyDays < today {
				continue
			}
		}
		missing = append(missing, id)
	}
	return missing
}

// Spaces returns the spaces besides cookie that have a store key, sorted.
func (r *Ring) Spaces() []taxonomy.Space {
	s := make([]taxonomy.Space, len(r.spaces))
	for i := range r.spaces {
		s[i] = r.spaces[i].space
	}
	return s
}

func (r *Ring) findQuarter(q quarter) (int, bool) {
	return slices.BinarySearchFunc(r.quarters, q, func(k quarterKey, q quarter) int { return cmp.Compare(k.quarter, q) })
}

func (r *Ring) findSpace(s taxonomy.Space) (int, bool) {
	return slices.BinarySearchFunc(r.spaces, s, func(k spaceKey, s taxonomy.Space) int { return cmp.Compare(k.space, s) })
}

// Format prints how many keys there are, whatever the verb: a Ring that strays
// into a log line or an error shows nothing.
func (r *Ring) Format(f fmt.State, _ rune) {
	if r == nil {
		io.WriteString(f, "keys(none)")
		return
	}
	fmt.Fprintf(f, "keys(%d cookie, %d store)", len(r.cookies), len(r.quarters)+len(r.spaces))
}

// LogValue keeps keys out of structured logs.
func (r *Ring) LogValue() slog.Value { return slog.StringValue(fmt.Sprint(r)) }
