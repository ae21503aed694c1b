package geo

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"
)

// mmdb writes a database by the words of the format's specification (MaxMind DB
// 2.0): a tree of 24-bit records over IPv4, a data section, metadata. It has one
// answer for each prefix.
func mmdb(places map[string][2]string) []byte {
	type node [2]int // 0: nothing; n > 0: node n; < 0: -1-data
	nodes := []node{{}}
	var data bytes.Buffer
	text := func(s string) {
		data.WriteByte(2<<5 | byte(len(s)))
		data.WriteString(s)
	}
	for prefix, place := range places {
		p := netip.MustParsePrefix(prefix)
		at := data.Len()
		fields := byte(1)
		if place[1] != "" {
			fields = 2
		}
		data.WriteByte(7<<5 | fields)
		text("country")
		data.WriteByte(7<<5 | 1)
		text("iso_code")
		text(place[0])
		if place[1] != "" {
			text("subdivisions")
			data.Write([]byte{1, 4}) // an array of one: extended type 11
			data.WriteByte(7<<5 | 1)
			text("iso_code")
			text(place[1])
		}
		a := binary.BigEndian.Uint32(p.Addr().AsSlice())
		n := 0
		for i := range p.Bits() {
			bit := a >> (31 - i) & 1
			if i == p.Bits()-1 {
				nodes[n][bit] = -1 - at
				break
			}
			if nodes[n][bit] == 0 {
				nodes = append(nodes, node{})
				nodes[n][bit] = len(nodes) - 1
			}
			n = nodes[n][bit]
		}
	}
	var out bytes.Buffer
	for _, n := range nodes {
		for _, r := range n {
			v := len(nodes)
			switch {
			case r > 0:
				v = r
			case r < 0:
				v = len(nodes) + 16 + (-1 - r)
			}
			out.Write([]byte{byte(v >> 16), byte(v >> 8), byte(v)})
		}
	}
	out.Write(make([]byte, 16))
	out.Write(data.Bytes())
	out.WriteString("\xab\xcd\xefMaxMind.com")
	data.Reset()
	number := func(kind byte, v uint32) {
		data.WriteByte(kind<<5 | 4)
		_ = binary.Write(&data, binary.BigEndian, v)
	}
	data.WriteByte(7<<5 | 9)
	text("node_count")
	number(6, uint32(len(nodes)))
	text("record_size")
	data.Write([]byte{5<<5 | 1, 24})
	text("ip_version")
	data.Write([]byte{5<<5 | 1, 4})
	text("database_type")
	text("Test-City")
	text("languages")
	data.Write([]byte{0, 4})
	text("binary_format_major_version")
	data.Write([]byte{5<<5 | 1, 2})
	text("binary_format_minor_version")
	data.Write([]byte{5 << 5})
	text("build_epoch")
	data.Write([]byte{4, 2}) // uint64, extended type 9, four bytes
	_ = binary.Write(&data, binary.BigEndian, uint32(1_795_000_000))
	text("description")
	data.WriteByte(7<<5 | 1)
	text("en")
	text("a test")
	out.Write(data.Bytes())
	return out.Bytes()
}

func TestARegionIsReadAndNothingFiner(t *testing.T) {
	db, err := Read(bytes.NewReader(mmdb(map[string][2]string{
		"192.0.2.0/24": {"US", "CA"}, "198.51.100.0/25": {"DE", "BE"}, "198.51.100.128/25": {"FR", ""}, "203.0.113.0/24": {"xx", "CA"}, "100.64.0.0/10": {"US", "a-long-name"}})))
	if err != nil {
		t.Fatal(err)
	}
	for addr, want := range map[string]string{
		"192.0.2.7": "US US-CA", "::ffff:192.0.2.7": "US US-CA", "198.51.100.1": "DE DE-BE", "198.51.100.200": "FR ", "203.0.113.1": " ", "192.0.3.1": " ",
		"100.64.3.1": "US ",
	} {
		if country, region := db.Place(netip.MustParseAddr(addr)); country+" "+region != want {
			t.Errorf("%s is in %q, %q", addr, country, region)
		}
	}
	if got := db.Built(); !got.Equal(time.Unix(1_795_000_000, 0)) {
		t.Errorf("built %s", got)
	}
	countries, err := Read(bytes.NewReader(read(t, "GeoLite2-Country-Test.mmdb")))
	if err != nil {
		t.Fatal(err)
	}
	if c, r := countries.Place(netip.MustParseAddr("81.2.69.142")); c != "GB" || r != "" {
		t.Errorf("of a file of countries: %q, %q", c, r)
	}
}

// disk is a file that changes.
type disk struct {
	mu      sync.Mutex
	b       []byte
	changed time.Time
	err     error
}

func (d *disk) put(b []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.b, d.changed = b, d.changed.Add(time.Minute)
}
func (d *disk) Stat() (int64, time.Time, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return int64(len(d.b)), d.changed, d.err
}
func (d *disk) Open() (io.ReadCloser, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return io.NopCloser(bytes.NewReader(d.b)), d.err
}

// A newer file holds for the next lookup, while others look up; a broken one is
// refused, said once, and the old one stays.
func TestABrokenFileLeavesTheOldOneInForce(t *testing.T) {
	us, de := mmdb(map[string][2]string{"192.0.2.0/24": {"US", "CA"}}), mmdb(map[string][2]string{"192.0.2.0/24": {"DE", ""}})
	d := &disk{b: us[:len(us)/2]}
	if _, err := Follow(d); err == nil {
		t.Fatal("a broken file at the start is taken")
	}
	d.put(us)
	l, err := Follow(d)
	if err != nil {
		t.Fatal(err)
	}
	a := netip.MustParseAddr("192.0.2.1")
	stop := make(chan struct{})
	var lookups sync.WaitGroup
	for range 2 {
		lookups.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if c := l.Country(a); c != "US" && c != "DE" {
					t.Errorf("in between the country is %q", c)
					return
				}
			}
		})
	}
	step := func(what string, b []byte, fails bool, want string) {
		t.Helper()
		if b != nil {
			d.put(b)
		}
		if _, err := l.Refresh(); (err != nil) != fails || l.Country(a) != want || fails && !l.Refused() {
			t.Errorf("%s: %v, country %q", what, err, l.Country(a))
		}
		if took, err := l.Refresh(); err != nil || took {
			t.Errorf("%s, looked at again: %v %v", what, took, err)
		}
	}
	step("nothing new", nil, false, "US")
	step("half a file", de[:len(de)/2], true, "US")
	step("nothing at all", []byte{}, true, "US")
	step("text", []byte(strings.Repeat("no database ", 100)), true, "US")
	step("MaxMind's own broken file", read(t, "GeoIP2-City-Test-Broken-Double-Format.mmdb"), true, "US")
	step("a good one", de, false, "DE")
	d.err = errors.New("not there")
	step("gone", nil, true, "DE")
	d.err = nil
	step("back", us, false, "US")
	if l.Refused() {
		t.Error("a good file is in force, and yet refused")
	}
	close(stop)
	lookups.Wait()
}
