// Package geo tells the country of a network address from a file that the
// operator supplies.
package geo

import (
	"errors"
	"fmt"
	"io"
	"net/netip"

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
	a = a.Unmap().WithZone("")
	if !a.IsValid() {
		return ""
	}
	var code string
	if err := d.reader.Lookup(a).DecodePath(&code, "country", "iso_code"); err != nil || len(code) != 2 {
		return ""
	}
	return code
}
