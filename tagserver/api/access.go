package api

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/ebb-dmp/ebb/retention/defs"
	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// KeyPrefix begins every API key, so that one found where it should not be can
// be told for what it is.
const KeyPrefix = "ebba_"

// NewKey draws an API key: KeyPrefix and 32 random bytes in base64url. Show it
// once and keep its hash.
func NewKey(rand io.Reader) (key, hash string, err error) {
	var b [32]byte
	if _, err := io.ReadFull(rand, b[:]); err != nil {
		return "", "", fmt.Errorf("draw an API key: %w", err)
	}
	key = KeyPrefix + base64.RawURLEncoding.EncodeToString(b[:])
	return key, delivery.HashKey(key), nil
}

// AccessKey is a key by which somebody calls the API, and what it may do.
type AccessKey struct {
	ID    string         `json:"id"`
	Title string         `json:"title,omitempty"`
	Role  tagserver.Role `json:"role"`
	// Scopes, if given, are what it has of its role's.
	Scopes []tagserver.Scope `json:"scopes,omitempty"`
	// Sources and Destinations, if given, are all that it meets: sites, imports
	// and rules of these sources, these destinations and what they get. If only
	// one of the two is given, it meets nothing of the other.
	Sources      []taxonomy.SourceID      `json:"sources,omitempty"`
	Destinations []taxonomy.DestinationID `json:"destinations,omitempty"`
	// Ends, if set, is the first day on which it is refused.
	Ends *taxonomy.Day `json:"ends,omitempty"`
	// KeyHash is delivery.HashKey of the key, which is kept nowhere.
	KeyHash string `json:"key_hash,omitempty"`
}

// accessKeyView is a key as it is shown: without its hash, and with the key itself
// when it is new.
type accessKeyView struct {
	AccessKey
	KeyHash string        `json:"-"`
	Key     string        `json:"key,omitempty" doc:"The key, shown once: when it is made."`
	Used    *taxonomy.Day `json:"used,omitempty" doc:"The day on which it was last used; absent if it never was."`
}

// principal is what a key makes of who shows it.
func (k *AccessKey) principal() *tagserver.Principal {
	p := &tagserver.Principal{ID: k.ID, Scopes: k.Role.Scopes(), Sources: k.Sources, Destinations: k.Destinations}
	if k.Scopes != nil {
		p.Scopes = slices.DeleteFunc(p.Scopes, func(s tagserver.Scope) bool { return !slices.Contains(k.Scopes, s) })
	}
	return p
}

// Callers tells whose key has a hash. It is asked on every request and answers
// from memory.
type Callers struct {
	Defs interface{ Snapshot() *defs.Snapshot }
	Used defs.Used
	Now  func() taxonomy.Millis
	Log  *slog.Logger

	mu     sync.Mutex
	snap   *defs.Snapshot
	byHash map[string]*caller
	marked map[string]taxonomy.Day // by key
}

type caller struct {
	p    *tagserver.Principal
	ends *taxonomy.Day
}

// Who returns whose key has a hash (delivery.HashKey), nil if it is nobody's, was
// revoked, or has ended. That a key was used is noted once a day. A map's look-up
// takes longer the more of a hash is right, and that tells nothing: to have a
// hash begin like another, one has to find such a key.
func (c *Callers) Who(keyHash string) *tagserver.Principal {
	today := c.Now().Day()
	c.mu.Lock()
	if snap := c.Defs.Snapshot(); snap != c.snap {
		c.read(snap)
	}
	k := c.byHash[keyHash]
	mark := k != nil && (k.ends == nil || today < *k.ends) && c.marked[k.p.ID] != today
	if mark {
		c.marked[k.p.ID] = today
	}
	c.mu.Unlock()
	if k == nil || k.ends != nil && today >= *k.ends {
		return nil
	}
	if mark {
		if err := c.Used.Mark(context.Background(), k.p.ID, today); err != nil {
			c.Log.Warn("the use of a key is not noted", "key", k.p.ID, "error", err)
		}
	}
	return k.p
}

// read learns the keys of a snapshot. One that cannot be read opens nothing.
func (c *Callers) read(snap *defs.Snapshot) {
	c.snap, c.byHash = snap, map[string]*caller{}
	if c.marked == nil {
		c.marked = map[string]taxonomy.Day{}
	}
	for _, d := range snap.List(defs.APIKey) {
		k, err := defs.Decode[AccessKey](d)
		if err != nil {
			c.Log.Error("an API key cannot be read and opens nothing", "key", d.ID, "error", err)
			continue
		}
		if k.KeyHash != "" {
			c.byHash[k.KeyHash] = &caller{k.principal(), k.Ends}
		}
	}
}

// keys is the resource of API keys. Deleting one revokes it.
func (a *API) keys() resource[AccessKey, accessKeyView] {
	show := func(k *AccessKey, key string) accessKeyView {
		v := accessKeyView{AccessKey: *k, Key: key}
		v.AccessKey.KeyHash = ""
		if day, ok, err := a.o.Used.Last(context.Background(), k.ID); err != nil {
			a.log.Warn("the last use of a key", "error", err)
		} else if ok {
			v.Used = &day
		}
		return v
	}
	return resource[AccessKey, accessKeyView]{
		path: "keys", one: "key", kind: defs.APIKey, area: "keys", show: show,
		id: func(k *AccessKey) *string { return &k.ID },
		readOnly: map[string]string{
			"key_hash": "is not set here; a new key is made by making another entry",
			"key":      "is not set here; it is drawn by the server",
			"used":     "is not set here",
		},
		check: checkKey,
		users: func(w *world, k *AccessKey) ([]tagserver.ProblemError, error) {
			if err := lastAdmin(w, k); err != nil {
				return nil, err
			}
			return nil, nil
		},
		created: func(k *AccessKey) (key string, err error) {
			key, k.KeyHash, err = NewKey(a.o.Rand)
			return key, err
		},
	}
}

func checkKey(w *world, k, old *AccessKey) error {
	var errs []error
	if err := taxonomy.CheckSlug("id", k.ID); err != nil {
		errs = append(errs, &taxonomy.FieldError{Field: "id", Err: err})
	}
	if len(k.Title) > 200 {
		errs = append(errs, taxonomy.Invalid("title", "want at most 200 bytes, got %d", len(k.Title)))
	}
	has := k.Role.Scopes()
	if has == nil {
		errs = append(errs, taxonomy.Invalid("role", "%q is not one of %s", cut(string(k.Role)), join(tagserver.Roles)))
	}
	if k.Scopes != nil && len(k.Scopes) == 0 {
		errs = append(errs, taxonomy.Invalid("scopes", "names none; leave it out for all that the role has"))
	}
	for i, s := range k.Scopes {
		if has != nil && !slices.Contains(has, s) {
			errs = append(errs, taxonomy.Invalid(fmt.Sprintf("scopes[%d]", i), "%q is not one that %s has: %s", cut(string(s)), k.Role, join(has)))
		}
	}
	if k.Sources != nil && len(k.Sources) == 0 {
		errs = append(errs, taxonomy.Invalid("sources", "names none; leave it out for no restriction"))
	}
	for i, s := range k.Sources {
		if _, ok := w.snap.Get(defs.Source, string(s)); !ok {
			errs = append(errs, taxonomy.Invalid(fmt.Sprintf("sources[%d]", i), "there is no source %q", cut(string(s))))
		}
	}
	if k.Destinations != nil && len(k.Destinations) == 0 {
		errs = append(errs, taxonomy.Invalid("destinations", "names none; leave it out for no restriction"))
	}
	for i, d := range k.Destinations {
		if _, ok := w.snap.Get(defs.Destination, string(d)); !ok {
			errs = append(errs, taxonomy.Invalid(fmt.Sprintf("destinations[%d]", i), "there is no destination %q", cut(string(d))))
		}
	}
	if old != nil {
		k.KeyHash = old.KeyHash
		if !k.full() {
			if err := lastAdmin(w, old); err != nil {
				errs = append(errs, taxonomy.Invalid("role", "this is the last key that may give keys; make another first"))
			}
		}
	}
	return errors.Join(errs...)
}

// full reports whether a key may give keys, for ever.
func (k *AccessKey) full() bool {
	p := k.principal()
	return k.Ends == nil && p.May(tagserver.May("keys:write", tagserver.OfAll))
}

// lastAdmin refuses that the last key goes which may give keys.
func lastAdmin(w *world, k *AccessKey) error {
	if !k.full() {
		return nil
	}
	all, err := load[AccessKey](w, defs.APIKey)
	if err != nil {
		return err
	}
	for i := range all {
		if all[i].ID != k.ID && all[i].full() {
			return nil
		}
	}
	return newProblem(http.StatusConflict, codeConflict, "key %q is the last one that may give keys; make another first", k.ID)
}

func join[T ~string](words []T) string {
	s := make([]string, len(words))
	for i, w := range words {
		s[i] = string(w)
	}
	return strings.Join(s, ", ")
}

// What a restricted caller meets.

// nobody meets nothing: what a request has for a caller that no guard let in.
var nobody = &tagserver.Principal{Sources: []taxonomy.SourceID{}}

func callerOf(ctx context.Context) *tagserver.Principal {
	return cmp.Or(tagserver.PrincipalOf(ctx), nobody)
}

func ownSite(w *world, s *taxonomy.Site) bool { return w.p.Source(s.Source) }

func ownSource(w *world, s *taxonomy.Source) bool { return w.p.Source(s.ID) }

// ownAccount is of a site's name in accounts, which imports have too.
func (w *world) ownAccount(id taxonomy.SiteID) bool {
	if w.p.Whole() {
		return true
	}
	if source, ok := strings.CutPrefix(string(id), taxonomy.ImportSitePrefix); ok {
		return w.p.Source(taxonomy.SourceID(source))
	}
	s, _, err := defs.Load[taxonomy.Site](w.snap, defs.Site, string(id))
	return err == nil && ownSite(w, &s)
}

// ownAudience: a restricted caller meets what its destinations get.
func (w *world) ownAudience(id taxonomy.AudienceID) bool {
	if w.p.Whole() {
		return true
	}
	for _, d := range w.p.Destinations {
		dest, _, err := defs.Load[delivery.Destination](w.snap, defs.Destination, string(d))
		if err == nil && dest.Names(id) {
			return true
		}
	}
	return false
}

func ownDestination(w *world, d *delivery.Destination) bool { return w.p.Destination(d.ID) }

// ownUsers keeps another's names out of what is told of users.
func (w *world) ownUsers(users []tagserver.ProblemError) []tagserver.ProblemError {
	if w.p.Whole() {
		return users
	}
	for i := range users {
		users[i] = tagserver.ProblemError{Location: "another's definition", Message: "names it"}
	}
	return users
}
