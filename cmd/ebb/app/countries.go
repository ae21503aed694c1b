package app

import (
	"fmt"

	"github.com/ebb-dmp/ebb/retention/log"
	"github.com/ebb-dmp/ebb/tagserver/geo"
)

// readCountries reads the operator's database of countries, nil if there is none.
func readCountries(fs log.FS, file string) (*geo.DB, error) {
	if file == "" {
		return nil, nil
	}
	f, err := fs.Open(file)
	if err != nil {
		return nil, fmt.Errorf("read the database of countries: %w; correct geo.file", err)
	}
	defer f.Close()
	db, err := geo.Read(f)
	if err != nil {
		return nil, fmt.Errorf("geo.file: %w; fetch it again, or leave geo.file empty", err)
	}
	return db, nil
}
