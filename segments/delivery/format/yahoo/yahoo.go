// Package yahoo is Yahoo's DataX Online: JSON bodies with a row for each ID.
package yahoo

import (
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/segments/delivery/format"
	"github.com/ebb-dmp/ebb/taxonomy"
)

//go:embed facts.yaml
var factsYAML []byte

var known = format.MustParse(factsYAML)

// Entries of Destination.Account.
const (
	URN     = "urn"     // the kind of ID: IXID, DXID, …
	GDPR    = "gdpr"    // "true" or "false": whether the GDPR applies
	Consent = "consent" // a TC string of ours as a vendor, if it does
)

// Format is the format. The zero value is ready.
type Format struct{}

var (
	_ delivery.Format  = Format{}
	_ delivery.Judge   = Format{}
	_ delivery.Checker = Format{}
)

// Facts are those of facts.yaml.
func (Format) Facts() delivery.FormatFacts {
	f := known.Format()
	f.ByID = true
	return f
}

// Check wants the kind of ID, the GDPR's word, and the numbers of segments.
func (Format) Check(d *delivery.Destination) error {
	var errs []error
	if u := d.Account[URN]; u == "" || strings.Trim(u, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_") != "" {
		errs = append(errs, taxonomy.Invalid("account", "%s: want the kind of ID, as your account manager says: IXID, DXID", URN))
	}
	if g := d.Account[GDPR]; g != "true" && g != "false" {
		errs = append(errs, taxonomy.Invalid("account", "%s: want true or false", GDPR))
	} else if (g == "true") != (d.Account[Consent] != "") {
		errs = append(errs, taxonomy.Invalid("account", "%s: want the TC string if %s is true, and nothing else", Consent, GDPR))
	}
	if d.CredentialsFile == "" {
		errs = append(errs, taxonomy.Invalid("credentials_file", "is empty: want the file with the bearer token"))
	}
	for _, a := range d.Audiences {
		if s := d.Segments[a]; !fits(s) {
			errs = append(errs, taxonomy.Invalid("segments", "audience %q has no name there that can stand in a row: want Yahoo's segment ID", a))
		}
	}
	return errors.Join(errs...)
}

// fits reports whether a segment's ID can stand in a row as it is.
func fits(s string) bool {
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c > '~' || strings.IndexByte("&;=\"\\%+", c) >= 0 {
			return false
		}
	}
	return s != ""
}

// New begins a body.
func (Format) New(f delivery.FileInfo) delivery.Encoder {
	return &encoder{info: f, stamp: strconv.FormatInt(int64(f.Created/taxonomy.Second), 10)}
}

type encoder struct {
	info  delivery.FileInfo
	stamp string
	begun bool
	some  bool
	id    string
	row   []byte
}

func quote(dst []byte, s string) []byte {
	b, _ := json.Marshal(s) // a string always has a form
	return append(dst, b...)
}

// Append gathers the segments of an ID, and writes its row when the next comes.
func (e *encoder) Append(dst []byte, run delivery.Run, ids []string) ([]byte, error) {
	dst = e.begin(dst)
	name := e.info.Segment(run.Audience)
	if !fits(name) {
		return dst, fmt.Errorf("yahoo: the name of audience %s cannot stand in a row", run.Audience)
	}
	end := int64(0)
	if !run.Remove {
		end = int64(e.info.Created/taxonomy.Second) + int64(run.Minutes)*60
	}
	for _, id := range ids {
		if id == "" {
			return dst, fmt.Errorf("yahoo: an ID of audience %s is empty", run.Audience)
		}
		if id != e.id {
			dst = e.end(dst)
			e.id = id
		} else {
			e.row = append(e.row, ';')
		}
		e.row = strconv.AppendInt(append(e.row, "exp="...), end, 10)
		e.row = append(append(append(append(e.row, "&seg_id="...), name...), "&ts="...), e.stamp...)
	}
	return dst, nil
}

func (e *encoder) begin(dst []byte) []byte {
	if e.begun {
		return dst
	}
	e.begun = true
	dst = append(quote(append(dst, `{"schema":[`...), e.info.Account[URN]), `,"SEGMENTS"],"data":[`...)
	return dst
}

func (e *encoder) end(dst []byte) []byte {
	if len(e.row) == 0 {
		return dst
	}
	if e.some {
		dst = append(dst, ',')
	}
	e.some = true
	dst = append(quote(append(dst, '['), e.id), ',')
	// Nothing in a row needs to be escaped: names were looked at.
	dst = append(append(append(dst, '"'), e.row...), `"]`...)
	e.row = e.row[:0]
	return dst
}

// Close ends the body.
func (e *encoder) Close(dst []byte) ([]byte, error) {
	dst = e.end(e.begin(dst))
	dst = append(append(dst, `],"gdpr":`...), strconv.FormatBool(e.info.Account[GDPR] == "true")...)
	if c := e.info.Account[Consent]; c != "" {
		dst = quote(append(dst, `,"gdpr_euconsent":`...), c)
	}
	return append(dst, '}'), nil
}

// Judge reads Yahoo's counters.
func (Format) Judge(_ int, answer []byte) (delivery.Verdict, error) {
	var a struct {
		TotalRows, ProcessedRows, InvalidRows *int
	}
	if err := json.Unmarshal(answer, &a); err != nil || a.TotalRows == nil || a.InvalidRows == nil || *a.InvalidRows < 0 {
		return delivery.Verdict{}, fmt.Errorf("the answer is not what Yahoo documents: %w", retention.ErrUnknown)
	}
	if *a.InvalidRows == 0 {
		return delivery.Verdict{}, nil
	}
	return delivery.Verdict{Rejected: map[string]int{"invalidRows": *a.InvalidRows}}, nil
}
