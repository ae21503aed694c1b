// Package google is Google's Cookie Bulk Upload: protobuf messages of type
// UpdateUsersDataRequest.
package google

import (
	_ "embed"
	"errors"
	"fmt"
	"strconv"

	"google.golang.org/protobuf/encoding/protowire"

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
	// LifeDays is the membership life span of the user lists, in days.
	LifeDays = "life_days"
	// DataSource is the number of the data source, 1 to 1000; may be left out.
	DataSource = "data_source_id"
)

// Fields of UpdateUsersDataRequest and UserDataOperation.
const (
	fieldOps            = 1
	fieldProcessConsent = 3

	fieldUserID     = 1
	fieldListID     = 4
	fieldTimeAdded  = 5
	fieldDelete     = 6
	fieldDataSource = 7
	fieldUserIDType = 14
)

// Kinds of user IDs.
const (
	googleUserID      = 0
	partnerProvidedID = 4
)

// Format is the format. The zero value is ready.
type Format struct{}

var (
	_ delivery.Format  = Format{}
	_ delivery.Judge   = Format{}
	_ delivery.Checker = Format{}
)

// Facts are those of facts.yaml.
func (Format) Facts() delivery.FormatFacts { return known.Format() }

// Check wants the numbers of user lists, and their life.
func (Format) Check(d *delivery.Destination) error {
	var errs []error
	if n, err := strconv.Atoi(d.Account[LifeDays]); err != nil || n < 1 || n > known.LifeMax {
		errs = append(errs, taxonomy.Invalid("account", "%s: want the membership life span of the user lists, 1 to %d days: by it members end when ours do", LifeDays, known.LifeMax))
	}
	if s := d.Account[DataSource]; s != "" {
		if n, err := strconv.Atoi(s); err != nil || n < 1 || n > 1000 {
			errs = append(errs, taxonomy.Invalid("account", "%s: want 1 to 1000", DataSource))
		}
	}
	for _, a := range d.Audiences {
		if n, err := strconv.ParseInt(d.Segments[a], 10, 64); err != nil || n <= 0 {
			errs = append(errs, taxonomy.Invalid("segments", "audience %q has no number there: want Google's user list ID", a))
		}
	}
	return errors.Join(errs...)
}

// New begins a message.
func (Format) New(f delivery.FileInfo) delivery.Encoder {
	e := &encoder{info: f, kind: partnerProvidedID}
	if f.IDs == delivery.ByMatch {
		e.kind = googleUserID
	}
	e.life, _ = strconv.ParseInt(f.Account[LifeDays], 10, 32)
	e.source, _ = strconv.ParseInt(f.Account[DataSource], 10, 32)
	return e
}

type encoder struct {
	info         delivery.FileInfo
	kind         uint64
	life, source int64
	op           []byte
}

// Append writes an operation for each ID.
func (e *encoder) Append(dst []byte, run delivery.Run, ids []string) ([]byte, error) {
	list, err := strconv.ParseInt(e.info.Segment(run.Audience), 10, 64)
	if err != nil || list <= 0 {
		return dst, fmt.Errorf("google: audience %s has no user list's number", run.Audience)
	}
	if e.life <= 0 {
		return dst, fmt.Errorf("google: the account says no %s", LifeDays)
	}
	now := int64(e.info.Created / taxonomy.Second)
	// Added so long ago that the list's own life ends when ours does; a list
	// whose life is shorter ends earlier.
	added := min(now, now+int64(run.Minutes)*60-e.life*86_400)
	for _, id := range ids {
		if id == "" {
			return dst, fmt.Errorf("google: an ID of audience %s is empty", run.Audience)
		}
		b := protowire.AppendTag(e.op[:0], fieldUserID, protowire.BytesType)
		b = protowire.AppendString(b, id)
		b = protowire.AppendTag(b, fieldListID, protowire.VarintType)
		b = protowire.AppendVarint(b, uint64(list))
		if run.Remove {
			b = protowire.AppendTag(b, fieldDelete, protowire.VarintType)
			b = protowire.AppendVarint(b, 1)
		} else {
			b = protowire.AppendTag(b, fieldTimeAdded, protowire.VarintType)
			b = protowire.AppendVarint(b, uint64(max(1, added)))
		}
		if e.source > 0 {
			b = protowire.AppendTag(b, fieldDataSource, protowire.VarintType)
			b = protowire.AppendVarint(b, uint64(e.source))
		}
		b = protowire.AppendTag(b, fieldUserIDType, protowire.VarintType)
		e.op = protowire.AppendVarint(b, e.kind)
		dst = protowire.AppendTag(dst, fieldOps, protowire.BytesType)
		dst = protowire.AppendBytes(dst, e.op)
	}
	return dst, nil
}

// Close says that consent is to be processed; without it nothing is.
func (e *encoder) Close(dst []byte) ([]byte, error) {
	dst = protowire.AppendTag(dst, fieldProcessConsent, protowire.VarintType)
	return protowire.AppendVarint(dst, 1), nil
}

// codes are Google's ErrorCode.
var codes = map[uint64]string{
	0: "NO_ERROR", 1: "PARTIAL_SUCCESS", 2: "PERMISSION_DENIED", 3: "BAD_DATA", 4: "BAD_COOKIE", 5: "BAD_ATTRIBUTE_ID", 7: "BAD_NETWORK_ID", 8: "REQUEST_TOO_BIG",
	9: "EMPTY_REQUEST", 10: "INTERNAL_ERROR", 11: "BAD_DATA_SOURCE_ID", 12: "BAD_TIMESTAMP", 21: "UNKNOWN_ID", 22: "MISSING_CONSENT_WILL_BE_DROPPED", 23: "MISSING_CONSENT",
}

func code(n uint64) string {
	if s := codes[n]; s != "" {
		return s
	}
	return "code " + strconv.FormatUint(n, 10)
}

const (
	partialSuccess = 1
	internalError  = 10
)

// Judge reads an UpdateUsersDataResponse.
func (Format) Judge(_ int, answer []byte) (delivery.Verdict, error) {
	var v delivery.Verdict
	strange := fmt.Errorf("the answer is not what Google documents: %w", retention.ErrUnknown)
	if len(answer) == 0 {
		return v, strange
	}
	status, has := uint64(0), false
	err := fields(answer, func(n protowire.Number, varint uint64, b []byte) error {
		switch {
		case n == 1 && b == nil:
			status, has = varint, true
		case n == 2 && b != nil:
			why := uint64(0)
			if err := fields(b, func(n protowire.Number, varint uint64, b []byte) error {
				if n == 4 && b == nil {
					why = varint
				}
				return nil
			}); err != nil {
				return err
			}
			if v.Rejected == nil {
				v.Rejected = map[string]int{}
			}
			v.Rejected[code(why)]++
		}
		return nil
	})
	switch {
	case err != nil || !has:
		return delivery.Verdict{}, strange
	case status == internalError:
		return delivery.Verdict{}, fmt.Errorf("google answers %s: %w", code(status), retention.ErrUnknown)
	case status > partialSuccess:
		return delivery.Verdict{}, fmt.Errorf("google answers %s, and has imported nothing: %w", code(status), delivery.ErrRefused)
	}
	return v, nil
}

// fields calls fn with the fields of a message: a number, or bytes that are not
// nil.
func fields(b []byte, fn func(n protowire.Number, varint uint64, bytes []byte) error) error {
	for len(b) > 0 {
		n, kind, size := protowire.ConsumeTag(b)
		if size < 0 {
			return protowire.ParseError(size)
		}
		b = b[size:]
		var err error
		switch kind {
		case protowire.VarintType:
			var v uint64
			if v, size = protowire.ConsumeVarint(b); size >= 0 {
				err = fn(n, v, nil)
			}
		case protowire.BytesType:
			var v []byte
			if v, size = protowire.ConsumeBytes(b); size >= 0 {
				err = fn(n, 0, append([]byte{}, v...))
			}
		default:
			size = protowire.ConsumeFieldValue(n, kind, b)
		}
		if size < 0 {
			return protowire.ParseError(size)
		}
		if err != nil {
			return err
		}
		b = b[size:]
	}
	return nil
}
