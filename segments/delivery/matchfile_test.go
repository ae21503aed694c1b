package delivery_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// Names are Audience Manager's, from its documentation: the second is one of its
// samples of a file whose first column is its own ID.
func TestNamesOfMatchFilesAreAudienceManagers(t *testing.T) {
	d := delivery.Destination{ID: "dsp"}
	with := delivery.Destination{ID: "dsp", Account: map[string]string{"DPID": "12345"}}
	for _, c := range []struct {
		name, want string
		d          *delivery.Destination
	}{
		{"matches.tsv", "", &d},
		{"adobe_id_0_12345_1476312152.sync", "", &d},
		{"adobe_id_0_12345_1476312152.sync", "", &with},
		{"c2c_id_0_12345_1476312152.sync.3.gz", "", &with},
		{"0_12345_1476312152.sync.gz", "", &with},
		{"adobe_id_111_222_333_444_1454442149.sync", "5 numbers", &d}, // four columns
		{"adobe_id_111_222_1454442149.sync", "data source 111", &d},
		{"0_54321_1476312152.sync", "DPID is 12345", &with},
		{"0_dsp_1476312152.sync", "each of digits", &d},
		{"0__1476312152.sync", "each of digits", &d},
	} {
		err := delivery.CheckMatchName(c.d, c.name)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
	at := taxonomy.Millis(1476312152_000)
	if got := delivery.MatchName(&with, at); got != "0_12345_1476312152.sync" || delivery.CheckMatchName(&with, got) != nil {
		t.Errorf("our own name: %s", got)
	}
}

var errNoID = errors.New("is none")

func noSpaces(id string) error {
	if id == "" || strings.ContainsAny(id, " \x00") {
		return errNoID
	}
	return nil
}

func FuzzReadMatches(f *testing.F) {
	id := strings.Repeat("0a", 16)
	for _, s := range []string{"", "\n", id + "\tP1\n" + id + "\tP2", id + "\tP1\r\n", id + "\t\n", id + " P1\n", id + "\tP\tQ\n", strings.ToUpper(id) + "\tP\n", id + "\t" + strings.Repeat("x", 2000) + "\n" + id + "\tP\n", "\x00\n\t\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var got []string
		err := delivery.ReadMatches(bytes.NewReader(b), noSpaces, func(r delivery.MatchRow) error {
			got = append(got, fmt.Sprintf("%d %s %s", r.Line, r.EbbID, r.ID))
			return nil
		}, func(m delivery.MatchFault) {
			got = append(got, fmt.Sprintf("%d bad", m.Line))
			if m.Why == "" || m.Column < 0 || m.Column > 2 {
				t.Errorf("%+v", m)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		// The obvious reader has all of the file in memory.
		var want []string
		lines := strings.Split(string(b), "\n")
		if lines[len(lines)-1] == "" {
			lines = lines[:len(lines)-1]
		}
		for i, l := range lines {
			short := len(l) <= 1025
			l = strings.TrimSuffix(l, "\r")
			c := strings.Split(l, "\t")
			if short && len(c) == 2 && len(c[0]) == 32 && strings.Trim(c[0], "0123456789abcdef") == "" && noSpaces(c[1]) == nil {
				want = append(want, fmt.Sprintf("%d %s %s", i+1, c[0], c[1]))
			} else {
				want = append(want, fmt.Sprintf("%d bad", i+1))
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%q\ngot  %q\nwant %q", b, got, want)
		}
	})
}

// A file holds whom the destination knows and may have, each once, in the order of
// our IDs, whatever the order of visitors; two destinations' files share no ID.
func TestAMatchFileHoldsWhomItMay(t *testing.T) {
	w := newWorld(40)
	for i, v := range w.visitors {
		w.sees(v, colCar)
		if i%2 == 0 {
			v.match, v.synced = fmt.Sprintf("P%d", i), w.today()
		}
	}
	w.visitors[2].gone = true
	w.visitors[4].consent.Purposes = taxonomy.MayStore
	w.visitors[6].consent.Day -= 40
	r := newRig(t, w)
	dest := destination()
	var b bytes.Buffer
	n, err := r.d.WriteMatches(context.Background(), dest, w.view(), &b)
	var want []string
	for i, v := range w.visitors {
		if i%2 == 0 && i != 2 && i != 4 && i != 6 {
			want = append(want, pseudonym(dsp, 0, v.key)+"\t"+v.match+"\n")
		}
	}
	slices.Sort(want)
	if err != nil || n != uint64(len(want)) || b.String() != strings.Join(want, "") {
		t.Errorf("%d, %v\n%s\nwant\n%s", n, err, b.String(), strings.Join(want, ""))
	}
}
