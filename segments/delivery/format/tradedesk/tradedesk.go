// Package tradedesk is The Trade Desk's third-party data and its advertisers'
// own: JSON bodies of POST /data/thirdparty and /data/advertiser.
package tradedesk

import (
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"unicode/utf8"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/segments/delivery/format"
	"github.com/ebb-dmp/ebb/taxonomy"
)

//go:embed facts.yaml
var factsYAML []byte

//go:embed advertiser.yaml
var advertiserYAML []byte

var (
	known           = format.MustParse(factsYAML)
	knownAdvertiser = format.MustParse(advertiserYAML)
)

// Advertiser is the entry of Destination.Account with the advertiser's ID.
const Advertiser = "AdvertiserId"

// DataProvider is the entry of Destination.Account with our ID at The Trade Desk.
const DataProvider = "DataProviderId"

// Format is the format. The zero value is third-party data.
type Format struct {
	// Advertiser: the data is an advertiser's own.
	Advertiser bool
}

func (f Format) known() *format.Facts {
	if f.Advertiser {
		return &knownAdvertiser
	}
	return &known
}

var (
	_ delivery.Format  = Format{}
	_ delivery.Judge   = Format{}
	_ delivery.Headers = Format{}
	_ delivery.Checker = Format{}
)

// Facts are those of facts.yaml.
func (f Format) Facts() delivery.FormatFacts { return f.known().Format() }

// Check wants our ID, and no more calls at once than they allow.
func (f Format) Check(d *delivery.Destination) error {
	var errs []error
	if f.Advertiser {
		if d.Account[Advertiser] == "" {
			errs = append(errs, taxonomy.Invalid("account", "has no %q: the advertiser's ID, from the platform", Advertiser))
		}
		if d.IDs != delivery.ByMatch {
			errs = append(errs, taxonomy.Invalid("ids", "want %q: an advertiser's data has no place for an ID of ours, so it goes to whom a sync knows", delivery.ByMatch))
		}
	} else if d.Account[DataProvider] == "" {
		errs = append(errs, taxonomy.Invalid("account", "has no %q: your ID as a data provider, from your account manager", DataProvider))
	}
	if n, most := d.Push.Concurrency, known.Limits["concurrency"]; n > most {
		errs = append(errs, taxonomy.Invalid("push.concurrency", "%d is more than the %d calls at once that they allow", n, most))
	}
	if d.CredentialsFile == "" {
		errs = append(errs, taxonomy.Invalid("credentials_file", "is empty: want the file with the token for TTD-Auth"))
	}
	return errors.Join(errs...)
}

// New begins a body.
func (format Format) New(f delivery.FileInfo) delivery.Encoder {
	e := &encoder{field: "DataProviderUserId", info: f}
	if format.Advertiser || f.IDs == delivery.ByMatch {
		e.field = "TDID"
	}
	provider := f.Account[DataProvider]
	switch {
	case !format.Advertiser:
		e.head = appendString([]byte(`{"DataProviderId":`), provider)
	default:
		e.head = appendString([]byte(`{"AdvertiserId":`), f.Account[Advertiser])
		if provider != "" {
			e.head = appendString(append(e.head, `,"DataProviderId":`...), provider)
		}
	}
	e.head = append(e.head, `,"Items":[`...)
	e.stamp = f.Created.Time().UTC().Format("2006-01-02T15:04:05Z")
	return e
}

type encoder struct {
	field, stamp string
	head         []byte // until it is written
	info         delivery.FileInfo
	some         bool
}

// Append writes an item for each ID.
func (e *encoder) Append(dst []byte, run delivery.Run, ids []string) ([]byte, error) {
	name := e.info.Segment(run.Audience)
	if n := len(name); n > known.Limits["name"] {
		return dst, fmt.Errorf("trade desk: audience %.40s… has a name of %d bytes, at most %d are allowed", run.Audience, n, known.Limits["name"])
	}
	dst = e.begin(dst)
	life := 0
	if !run.Remove {
		// Whether their clock begins at TimestampUtc or when they have it is not
		// said: so that a copy never outlives ours, both begin.
		life = min(max(1, run.Minutes-e.info.Delay), known.LifeMax)
	}
	for _, id := range ids {
		if id == "" {
			return dst, fmt.Errorf("trade desk: an ID of audience %s is empty", run.Audience)
		}
		if e.some {
			dst = append(dst, ',')
		}
		e.some = true
		dst = append(append(append(dst, `{"`...), e.field...), `":`...)
		dst = append(appendString(dst, id), `,"Data":[{"Name":`...)
		dst = append(appendString(dst, name), `,"TimestampUtc":"`...)
		dst = append(append(dst, e.stamp...), `","TtlInMinutes":`...)
		dst = append(strconv.AppendInt(dst, int64(life), 10), `}]}`...)
	}
	return dst, nil
}

func (e *encoder) begin(dst []byte) []byte {
	dst = append(dst, e.head...)
	e.head = nil
	return dst
}

// Close ends the body.
func (e *encoder) Close(dst []byte) ([]byte, error) { return append(e.begin(dst), `]}`...), nil }

// appendString appends s as JSON.
func appendString(dst []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c == '"' || c == '\\' || c >= utf8.RuneSelf {
			b, _ := json.Marshal(s) // a string always has a form
			return append(dst, b...)
		}
	}
	return append(append(append(dst, '"'), s...), '"')
}

// Judge reads an answer: {} for everything taken, FailedLines for what was not.
func (Format) Judge(_ int, answer []byte) (delivery.Verdict, error) {
	var a struct {
		FailedLines []struct {
			ErrorCode string
		}
	}
	if err := json.Unmarshal(answer, &a); err != nil {
		return delivery.Verdict{}, fmt.Errorf("the answer is not what the Trade Desk documents: %w", retention.ErrUnknown)
	}
	var v delivery.Verdict
	for _, l := range a.FailedLines {
		if v.Rejected == nil {
			v.Rejected = map[string]int{}
		}
		if l.ErrorCode == "" {
			l.ErrorCode = "Unknown"
		}
		v.Rejected[l.ErrorCode]++
	}
	return v, nil
}

// Headers are TTD-Auth with the token.
func (Format) Headers(_ *delivery.Chunk, _ []byte, secret string, _ taxonomy.Millis) (map[string]string, error) {
	return map[string]string{"TTD-Auth": secret}, nil
}
