// Package xandr is the files of Xandr's Batch Segment Service: a line, or an
// Avro record, for each ID with its segments.
package xandr

import (
	_ "embed"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/segments/delivery/format"
	"github.com/ebb-dmp/ebb/taxonomy"
)

//go:embed text.yaml
var textYAML []byte

//go:embed avro.yaml
var avroYAML []byte

var (
	knownText = format.MustParse(textYAML)
	knownAvro = format.MustParse(avroYAML)
)

// Entries of Destination.Account.
const (
	// MemberID is our number at Xandr.
	MemberID = "member_id"
	// Codes: "true" if the names in Destination.Segments are codes and no IDs.
	Codes = "codes"
	// Fields is the order of a segment's fields, as the account is set up.
	Fields = "fields"
	// Separators are the five, as the account is set up.
	Separators = "separators"
)

const (
	defaultFields     = "SEG_ID,TIMESTAMP,EXPIRATION"
	defaultSeparators = ";,:\t^"
	forbidden         = `[](){}$\/|?*+-`
	removed           = -1
)

// check are the faults that both forms share.
func check(d *delivery.Destination, known *format.Facts) []error {
	var errs []error
	if n, err := strconv.ParseInt(d.Account[MemberID], 10, 32); err != nil || n <= 0 {
		errs = append(errs, taxonomy.Invalid("account", "%q: want your member's number at Xandr", MemberID))
	}
	if c := d.Account[Codes]; c != "" && c != "true" && c != "false" {
		errs = append(errs, taxonomy.Invalid("account", "%s: %q is not true or false", Codes, c))
	}
	if n := d.Push.PerMinute; n != known.Limits["per_minute"] {
		errs = append(errs, taxonomy.Invalid("push.per_minute", "want %d: a member may upload so often", known.Limits["per_minute"]))
	}
	if d.CredentialsFile == "" {
		errs = append(errs, taxonomy.Invalid("credentials_file", "is empty: want the file with user and password of the API, a line each"))
	}
	for _, a := range d.Audiences {
		s := d.Segments[a]
		if d.Account[Codes] == "true" {
			if s == "" {
				s = string(a)
			}
			if strings.ContainsAny(s, ";,:\t^\r\n ") {
				errs = append(errs, taxonomy.Invalid("segments", "the code of audience %q holds a separator", a))
			}
		} else if n, err := strconv.ParseInt(s, 10, 32); err != nil || n <= 0 {
			errs = append(errs, taxonomy.Invalid("segments", "audience %q has no number there: want Xandr's segment ID, or set account.%s to true", a, Codes))
		}
	}
	return errs
}

// segment is one of an ID.
type segment struct {
	id, timestamp, expiration, member int64
	name                              string
}

// say returns what a run says of an ID.
func say(f *delivery.FileInfo, run delivery.Run, known *format.Facts, stamped bool) (s segment, err error) {
	name := f.Segment(run.Audience)
	if f.Account[Codes] == "true" {
		s.name = name
		if s.member, err = strconv.ParseInt(f.Account[MemberID], 10, 32); err != nil {
			return s, errors.New("xandr: the account has no member's number")
		}
	} else if s.id, err = strconv.ParseInt(name, 10, 32); err != nil || s.id <= 0 {
		return s, fmt.Errorf("xandr: audience %s has no segment's number", run.Audience)
	}
	switch {
	case run.Remove:
		s.expiration = removed
	case stamped:
		s.expiration = int64(min(max(1, run.Minutes), known.LifeMax))
	default:
		s.expiration = int64(min(max(1, run.Minutes-f.Delay), known.LifeMax))
	}
	if !run.Remove {
		s.timestamp = int64(f.Created / taxonomy.Second)
	}
	return s, nil
}

// TakesID reports whether an ID can stand in a file: Xandr's own is a number.
func TakesID(kind delivery.IDs, id string) bool {
	if kind != delivery.ByMatch {
		return id != "" && !strings.ContainsAny(id, ";,:\t^\r\n ")
	}
	n, err := strconv.ParseUint(id, 10, 63)
	return err == nil && n > 0 && n <= math.MaxInt64
}
