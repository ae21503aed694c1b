package geo

import (
	"bytes"
	"net/netip"
	"os"
	"testing"
)

func read(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// What the publisher of the file says of these addresses.
func TestCountriesAreThoseThatThePublisherNames(t *testing.T) {
	db, err := Read(bytes.NewReader(read(t, "GeoLite2-Country-Test.mmdb")))
	if err != nil {
		t.Fatal(err)
	}
	for addr, want := range map[string]string{
		"81.2.69.142": "GB", "::ffff:81.2.69.142": "GB", "216.160.83.56": "US", "89.160.20.128": "SE", "2a02:d300::1": "UA",
		"2.125.160.216": "GB", // registered in France
		"10.0.0.1":      "", "127.0.0.1": "", "fe80::1%eth0": "", "81.2.69.0": "",
	} {
		if got := db.Country(netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s is in %q, want %q", addr, got, want)
		}
	}
	if got := db.Country(netip.Addr{}); got != "" {
		t.Errorf("no address is in %q", got)
	}
}

func TestBrokenFilesAreRefused(t *testing.T) {
	for _, name := range []string{"GeoIP2-City-Test-Broken-Double-Format.mmdb", "GeoIP2-City-Test-Invalid-Node-Count.mmdb"} {
		if _, err := Read(bytes.NewReader(read(t, name))); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
	good := read(t, "GeoLite2-Country-Test.mmdb")
	for _, n := range []int{0, 1, 100, len(good) / 2, len(good) - 1} {
		if _, err := Read(bytes.NewReader(good[:n])); err == nil {
			t.Errorf("a file cut at %d bytes is taken", n)
		}
	}
}

func FuzzRead(f *testing.F) {
	good := read(f, "GeoLite2-Country-Test.mmdb")
	f.Add(good)
	f.Add(read(f, "GeoIP2-City-Test-Broken-Double-Format.mmdb"))
	f.Add(good[:len(good)/2])
	f.Fuzz(func(t *testing.T, b []byte) {
		db, err := Read(bytes.NewReader(b))
		if err != nil {
			return
		}
		for _, a := range []string{"81.2.69.142", "::1", "2a02:d300::1"} {
			if c := db.Country(netip.MustParseAddr(a)); c != "" && len(c) != 2 {
				t.Errorf("country %q", c)
			}
		}
	})
}

func BenchmarkCountry(b *testing.B) {
	db, err := Read(bytes.NewReader(read(b, "GeoLite2-Country-Test.mmdb")))
	if err != nil {
		b.Fatal(err)
	}
	a := netip.MustParseAddr("81.2.69.142")
	b.ReportAllocs()
	for b.Loop() {
		if db.Country(a) != "GB" {
			b.Fatal("elsewhere")
		}
	}
}
