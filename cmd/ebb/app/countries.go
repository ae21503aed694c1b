package app

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ebb-dmp/ebb/retention/log"
	"github.com/ebb-dmp/ebb/tagserver/geo"
)

// countriesFile is the operator's database of countries on disk.
type countriesFile struct {
	fs   log.FS
	name string
}

func (f countriesFile) Stat() (int64, time.Time, error) {
	st, err := f.fs.Stat(f.name)
	if err != nil {
		return 0, time.Time{}, err
	}
	return st.Size(), st.ModTime(), nil
}

func (f countriesFile) Open() (io.ReadCloser, error) { return f.fs.Open(f.name) }

// readCountries reads the operator's database of countries, nil if there is none.
func readCountries(fs log.FS, file string) (*geo.Live, error) {
	if file == "" {
		return nil, nil
	}
	db, err := geo.Follow(countriesFile{fs, file})
	if err != nil {
		return nil, fmt.Errorf("geo.file: %w; correct geo.file, fetch the file again, or leave geo.file empty", err)
	}
	return db, nil
}

// refreshCountries takes a newer file, if there is one. One that is broken is
// refused and said once; the one before stays in force.
func (a *App) refreshCountries(context.Context) error {
	took, err := a.countries.Refresh()
	if err != nil {
		return fmt.Errorf("geo.file: the one before stays in force: %w; fetch the file again", err)
	}
	if took {
		a.log.Info("a newer database of countries is in force", "built", a.countries.DB().Built())
	}
	return nil
}

// followCountries looks for a newer file each minute.
func (a *App) followCountries() {
	if a.countries == nil {
		return
	}
	a.registry.MustRegister(
		gauge("ebb_geo_built_seconds", "When the publisher made the database of countries in force, in seconds since 1970.", func() float64 { return float64(a.countries.DB().Built().Unix()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "ebb_geo_refused", Help: "1 if the database of countries on disk is broken, and an older one in force."}, func() float64 {
			if a.countries.Refused() {
				return 1
			}
			return 0
		}))
	a.life.run("countries", func(ctx context.Context) error {
		return a.every(ctx, time.Minute, "read the database of countries", a.refreshCountries)
	})
}
