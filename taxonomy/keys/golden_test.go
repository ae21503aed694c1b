package keys

import (
	"bytes"
	"encoding/hex"
	"os"
	"testing"

	"github.com/ebb-dmp/ebb/taxonomy"
)

// The values below come from testdata/golden.py, which uses Python's hmac and
// base64 and nothing of ours. A change here orphans every installation's data.

var (
	goldenID  = [16]byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}
	goldenDay = taxonomy.Day(20782) // 2026-11-25
)

const goldenCookie = "1.f2073898.AAECAwQFBgcICQoLDA0OD1EuqtGQ4nGwKBctpZhZn87OzQ"

func goldenRing(t testing.TB) *Ring {
	t.Helper()
	b, err := os.ReadFile("testdata/keys-v1.json")
	if err != nil {
		t.Fatal(err)
	}
	r, err := Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestDerivationsEqualThoseOfAnotherLanguage(t *testing.T) {
	r := goldenRing(t)
	key, err := r.VisitorKey(taxonomy.SpaceCookie, goldenID[:], goldenDay)
	if err != nil {
		t.Fatal(err)
	}
	household, err := r.VisitorKey("own:demo", []byte("household-7"), 0)
	if err != nil {
		t.Fatal(err)
	}
	event, err := r.EventID(taxonomy.SpaceCookie, goldenDay, "shop", "order-1")
	if err != nil {
		t.Fatal(err)
	}
	erasure := r.Erasure(key)
	for _, c := range []struct{ what, got, want string }{
		{"visitor key", hex.EncodeToString(key[:]), "d3809a6e1f614a00198bdbf2c986d58c"},
		{"visitor key in own:demo", hex.EncodeToString(household[:]), "f62f33c0764cdfdb50bc1fc670b4760f"},
		{"event ID", hex.EncodeToString(event[:]), "c8319d1371292376b7710b62156fd960"},
		{"erasure", hex.EncodeToString(erasure[:]), "5c6b8b287e294e3bacc07dd1471a4455"},
		{"pseudonym", r.Pseudonym("dsp-a", 7, key), "581ab1c387e0d57cfdc13f353c3051e2"},
		{"cookie", r.SignCookie("__Host-ebb", goldenID, goldenDay), goldenCookie},
	} {
		if c.got != c.want {
			t.Errorf("%s: got %s, want %s", c.what, c.got, c.want)
		}
	}
	id, issued, ok := r.VerifyCookie("__Host-ebb", goldenCookie, goldenDay)
	if !ok || id != goldenID || issued != goldenDay {
		t.Errorf("verify: got %x, %v, %v", id, issued, ok)
	}
}

func TestTheFileOfVersion1StaysTheSame(t *testing.T) {
	want, err := os.ReadFile("testdata/keys-v1.json")
	if err != nil {
		t.Fatal(err)
	}
	got, err := goldenRing(t).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
