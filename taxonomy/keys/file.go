package keys

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/ebb-dmp/ebb/taxonomy"
)

const (
	fileFormat  = "ebb keys"
	fileVersion = 1
)

// file is the form of keys.json.
type file struct {
	Format  string              `json:"format"`
	Version int                 `json:"version"`
	Cookie  fileCookie          `json:"cookie"`
	Store   map[string]fileText `json:"store"`  // by quarter, for the space cookie
	Spaces  map[string]fileText `json:"spaces"` // by space, for all others
	Erasure fileText            `json:"erasure"`
	Partner fileText            `json:"partner"`
	// Check is SHA-256, in hex, of this file's compact form with an empty Check.
	// It is against damage, not against an attacker, who would have the keys.
	Check string `json:"check"`
}

type fileCookie struct {
	Current string              `json:"current"`
	Keys    map[string]fileText `json:"keys"` // by key ID
	// Retired has the day on which a key stopped signing.
	Retired map[string]taxonomy.Day `json:"retired,omitempty"`
}

// fileText is a key in standard base64.
type fileText [secretSize]byte

func (t fileText) MarshalText() ([]byte, error) {
	return base64.StdEncoding.AppendEncode(nil, t[:]), nil
}

func (t *fileText) UnmarshalText(b []byte) error {
	raw, err := base64.StdEncoding.Strict().DecodeString(string(b))
	if err != nil || len(raw) != secretSize {
		return fmt.Errorf("a key is not %d bytes in base64", secretSize)
	}
	copy(t[:], raw)
	return nil
}

func (f *file) sum() (string, error) {
	c := *f
	c.Check = ""
	b, err := json.Marshal(&c)
	if err != nil {
		return "", err
	}
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:]), nil
}

// Marshal returns the bytes of keys.json, which hold secrets.
func (r *Ring) Marshal() ([]byte, error) {
	f := file{
		Format: fileFormat, Version: fileVersion,
		Cookie:  fileCookie{Current: r.cookies[r.current].id, Keys: map[string]fileText{}, Retired: map[string]taxonomy.Day{}},
		Store:   map[string]fileText{},
		Spaces:  map[string]fileText{},
		Erasure: fileText(r.erasure.raw),
		Partner: fileText(r.partner.raw),
	}
	for i := range r.cookies {
		k := &r.cookies[i]
		f.Cookie.Keys[k.id] = fileText(k.secret.raw)
		if k.retired != 0 {
			f.Cookie.Retired[k.id] = k.retired
		}
	}
	for i := range r.quarters {
		f.Store[r.quarters[i].quarter.String()] = fileText(r.quarters[i].secret.raw)
	}
	for i := range r.spaces {
		f.Spaces[string(r.spaces[i].space)] = fileText(r.spaces[i].secret.raw)
	}
	var err error
	if f.Check, err = f.sum(); err != nil {
		return nil, fmt.Errorf("write keys: %w", err)
	}
	b, err := json.MarshalIndent(&f, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("write keys: %w", err)
	}
	return append(b, '\n'), nil
}

// Parse reads the bytes of keys.json. Its errors say what is wrong and where,
// and show no key.
func Parse(b []byte) (*Ring, error) {
	r, err := parse(b)
	if err != nil {
		return nil, fmt.Errorf("read keys: %w", err)
	}
	return r, nil
}

func parse(b []byte) (*Ring, error) {
	// The version first: a newer file may have fields that this program does
	// not know, and "newer" is the better news.
	var head struct {
		Format  string `json:"format"`
		Version int    `json:"version"`
	}
	if err := json.Unmarshal(b, &head); err != nil {
		return nil, fmt.Errorf("not JSON of the expected form: %w", describe(err))
	}
	if head.Format != fileFormat {
		return nil, fmt.Errorf("format: want %q; is this another file?", fileFormat)
	}
	if head.Version != fileVersion {
		return nil, fmt.Errorf("version %d: this program reads version %d; use the program that wrote the file", head.Version, fileVersion)
	}
	var f file
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&f); err != nil {
		return nil, describe(err)
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("something follows the end of the keys")
	}
	if sum, err := f.sum(); err != nil {
		return nil, err
	} else if f.Check != sum {
		return nil, errors.New("check: does not fit the content; the file is damaged or was edited, put back your copy of it")
	}
	return f.ring()
}

// describe keeps what a JSON error says of places and drops what it quotes.
func describe(err error) error {
	var syntax *json.SyntaxError
	var typ *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax):
		return fmt.Errorf("bad JSON at byte %d", syntax.Offset)
	case errors.As(err, &typ):
		return fmt.Errorf("%s: wrong type at byte %d", typ.Field, typ.Offset)
	}
	return err
}

func (f *file) ring() (*Ring, error) {
	r := &Ring{erasure: newSecret(f.Erasure), partner: newSecret(f.Partner), current: -1}
	seen := make(map[fileText]string)
	add := func(place string, t fileText) error {
		if t == (fileText{}) {
			return fmt.Errorf("%s: is missing or all zero", place)
		}
		if other, ok := seen[t]; ok {
			return fmt.Errorf("%s: is the same key as %s", place, other)
		}
		seen[t] = place
		return nil
	}
	if err := add("erasure", f.Erasure); err != nil {
		return nil, err
	}
	if err := add("partner", f.Partner); err != nil {
		return nil, err
	}
	for id, t := range f.Cookie.Keys {
		place := fmt.Sprintf("cookie.keys.%.16q", id)
		if err := add(place, t); err != nil {
			return nil, err
		}
		k := cookieKey{id: id, secret: newSecret(t), retired: f.Cookie.Retired[id]}
		if want := k.secret.id(); id != want {
			return nil, fmt.Errorf("%s: the key's ID is %s", place, want)
		}
		r.cookies = append(r.cookies, k)
	}
	slices.SortFunc(r.cookies, func(a, b cookieKey) int { return cmp.Compare(a.id, b.id) })
	for i := range r.cookies {
		if r.cookies[i].id == f.Cookie.Current {
			r.current = i
		}
	}
	if r.current < 0 {
		return nil, fmt.Errorf("cookie.current: there is no key %.16q", f.Cookie.Current)
	}
	for id, d := range f.Cookie.Retired {
		if _, ok := f.Cookie.Keys[id]; !ok {
			return nil, fmt.Errorf("cookie.retired: there is no key %.16q", id)
		}
		if id == f.Cookie.Current || d <= 0 {
			return nil, fmt.Errorf("cookie.retired.%.16q: %v cannot be", id, d)
		}
	}
	for name, t := range f.Store {
		q, err := parseQuarter(name)
		if err != nil {
			return nil, fmt.Errorf("store: %w", err)
		}
		if err := add("store."+name, t); err != nil {
			return nil, err
		}
		r.quarters = append(r.quarters, quarterKey{q, newSecret(t)})
	}
	slices.SortFunc(r.quarters, func(a, b quarterKey) int { return cmp.Compare(a.quarter, b.quarter) })
	for name, t := range f.Spaces {
		s := taxonomy.Space(name)
		if err := taxonomy.CheckSpace(s); err != nil {
			return nil, fmt.Errorf("spaces: %w", err)
		}
		if s == taxonomy.SpaceCookie {
			return nil, errors.New("spaces.cookie: its keys stand under store, by quarter")
		}
		if err := add("spaces."+name, t); err != nil {
			return nil, err
		}
		r.spaces = append(r.spaces, spaceKey{s, newSecret(t)})
	}
	slices.SortFunc(r.spaces, func(a, b spaceKey) int { return cmp.Compare(a.space, b.space) })
	return r, nil
}
