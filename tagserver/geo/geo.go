// Package geo tells the country, and the region in it, of a network address from
// a file that the operator supplies.
package geo

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"

	"github.com/oschwald/maxminddb-golang/v2"
)

// maxFile bounds what is read: ten times the largest file of cities.
const maxFile = 1 << 30

// DB is a database of countries. It holds its file in memory and is safe for
// concurrent use.
type DB struct{ reader *maxminddb.Reader }

// Read reads a database in MaxMind's format (MMDB) and verifies all of it, so
// that a file that is cut or damaged is refused here and not met by a visitor.
func Read(r io.Reader) (*DB, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("read the database of countries: %w", err)
	}
	if len(b) > maxFile {
		return nil, errors.New("the database of countries has more than 1 GiB")
	}
	db, err := maxminddb.OpenBytes(b)
	if err != nil {
		return nil, fmt.Errorf("the database of countries is no MMDB file, or a damaged one: %w", err)
	}
	if err := db.Verify(); err != nil {
		return nil, fmt.Errorf("the database of countries is damaged: %w", err)
	}
	return &DB{db}, nil
}

// Country returns the ISO 3166-1 code of the country in which an address is
// used, or "" if that is not known: then the strict rules hold. It is the country
// of the user and not that in which the network is registered. An address must be
// whole; cut to its network it may be in another country or none.
func (d *DB) Country(a netip.Addr) string {
	country, _ := d.Place(a)
	return country
}

// Place returns the country and the region: an ISO 3166-2 code such as "US-CA",
// or "" if the file knows none (a file of countries never does). Region is the
// coarsest part of a country, and nothing finer is ever read.
func (d *DB) Place(a netip.Addr) (country, region string) {
	a = a.Unmap().WithZone("")
	if !a.IsValid() {
		return "", ""
	}
	found := d.reader.Lookup(a)
	if err := found.DecodePath(&country, "country", "iso_code"); err != nil || !isCode(country, 2, 2) {
		return "", ""
	}
	var part string
	if err := found.DecodePath(&part, "subdivisions", 0, "iso_code"); err != nil || !isCode(part, 1, 3) {
		return country, ""
	}
	return country, country + "-" + part
}

// isCode reports whether s is so many capital letters or digits.
func isCode(s string, least, most int) bool {
	for i := range len(s) {
		if c := s[i]; (c < 'A' || c > 'Z') && (c < '0' || c > '9') {
			return false
		}
	}
	return len(s) >= least && len(s) <= most
}

// Built is when the publisher made the file.
func (d *DB) Built() time.Time { return time.Unix(int64(d.reader.Metadata.BuildEpoch), 0).UTC() }
