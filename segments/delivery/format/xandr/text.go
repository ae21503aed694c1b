package xandr

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/klauspost/compress/gzip"

	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// Text is the legacy text format. The zero value is ready.
type Text struct{}

var (
	_ delivery.Format  = Text{}
	_ delivery.Checker = Text{}
	_ delivery.IDTaker = Text{}
)

// Facts are those of text.yaml.
func (Text) Facts() delivery.FormatFacts {
	f := knownText.Format()
	f.ByID = true
	return f
}

// TakesID reports whether an ID can stand in a line.
func (Text) TakesID(kind delivery.IDs, id string) bool { return TakesID(kind, id) }

// layout is how an account's lines are made.
type layout struct {
	fields []string
	sep    [5]byte
}

func layoutOf(account map[string]string) (l layout, err error) {
	fields, sep := account[Fields], account[Separators]
	if fields == "" {
		fields = defaultFields
		if account[Codes] == "true" {
			fields = strings.Replace(fields, "SEG_ID", "SEG_CODE", 1)
		}
	}
	if sep == "" {
		sep = defaultSeparators
	}
	l.fields = strings.Split(fields, ",")
	seen := map[string]bool{}
	for _, f := range l.fields {
		switch f {
		case "SEG_ID", "SEG_CODE", "MEMBER_ID", "EXPIRATION", "TIMESTAMP", "VALUE":
		default:
			return l, fmt.Errorf("%s: there is no field %.40q", Fields, f)
		}
		if seen[f] {
			return l, fmt.Errorf("%s: %s stands there twice", Fields, f)
		}
		seen[f] = true
	}
	if seen["SEG_ID"] == seen["SEG_CODE"] || seen["SEG_CODE"] != (account[Codes] == "true") {
		return l, fmt.Errorf("%s: want SEG_ID, or SEG_CODE and %s true", Fields, Codes)
	}
	if !seen["EXPIRATION"] {
		return l, fmt.Errorf("%s: EXPIRATION is missing, without which nobody can be taken out, and copies would outlive ours", Fields)
	}
	if len(sep) != 5 {
		return l, fmt.Errorf("%s: want five characters", Separators)
	}
	copy(l.sep[:], sep)
	for i, a := range l.sep {
		if strings.IndexByte(forbidden, a) >= 0 || a < ' ' && a != '\t' || a > '~' || a >= '0' && a <= '9' || a|0x20 >= 'a' && a|0x20 <= 'z' {
			return l, fmt.Errorf("%s: the %dth is not allowed", Separators, i+1)
		}
		for j := range i {
			if l.sep[j] == a && !(j == 0 && i == 2) {
				return l, fmt.Errorf("%s: the %dth and %dth are the same", Separators, j+1, i+1)
			}
		}
	}
	return l, nil
}

// Check looks at the account and the names of segments.
func (Text) Check(d *delivery.Destination) error {
	errs := check(d, &knownText)
	if _, err := layoutOf(d.Account); err != nil {
		errs = append(errs, &taxonomy.FieldError{Field: "account", Err: err})
	}
	return errors.Join(errs...)
}

// New begins a file.
func (Text) New(f delivery.FileInfo) delivery.Encoder {
	e := &text{info: f}
	e.layout, e.err = layoutOf(f.Account)
	for _, field := range e.layout.fields {
		e.stamped = e.stamped || field == "TIMESTAMP"
	}
	e.gz, _ = gzip.NewWriterLevel(&e.zipped, 1) // 1 is a level
	return e
}

type text struct {
	info    delivery.FileInfo
	layout  layout
	stamped bool
	err     error
	id      string
	n       int // segments of the line
	line    []byte
	zipped  bytes.Buffer
	gz      *gzip.Writer
}

// Append writes segments behind their ID.
func (e *text) Append(dst []byte, run delivery.Run, ids []string) ([]byte, error) {
	if e.err != nil {
		return dst, fmt.Errorf("xandr: account: %w", e.err)
	}
	s, err := say(&e.info, run, &knownText, e.stamped)
	if err != nil {
		return dst, err
	}
	sep := &e.layout.sep
	if strings.IndexByte(s.name, sep[0]) >= 0 || strings.ContainsAny(s.name, string(sep[1:])+"\r\n") {
		return dst, fmt.Errorf("xandr: the code of audience %s holds a separator", run.Audience)
	}
	for _, id := range ids {
		if !TakesID(e.info.IDs, id) || strings.ContainsAny(id, string(sep[:])) {
			return dst, fmt.Errorf("xandr: an ID of audience %s is none of theirs, or holds a separator", run.Audience)
		}
		switch {
		case id != e.id || e.n == knownText.Limits["segments"]:
			e.end()
			e.id = id
			e.line = append(append(e.line, id...), sep[0])
		default:
			e.line = append(e.line, sep[1])
		}
		e.n++
		for i, f := range e.layout.fields {
			if i > 0 {
				e.line = append(e.line, sep[2])
			}
			switch f {
			case "SEG_ID":
				e.line = strconv.AppendInt(e.line, s.id, 10)
			case "SEG_CODE":
				e.line = append(e.line, s.name...)
			case "MEMBER_ID":
				e.line = append(e.line, e.info.Account[MemberID]...)
			case "EXPIRATION":
				e.line = strconv.AppendInt(e.line, s.expiration, 10)
			case "TIMESTAMP":
				e.line = strconv.AppendInt(e.line, s.timestamp, 10)
			case "VALUE":
				e.line = append(e.line, '0')
			}
		}
	}
	return e.drain(dst), nil
}

func (e *text) end() {
	if e.n > 0 {
		e.line = append(e.line, '\n')
	}
	e.n = 0
	if len(e.line) > 32<<10 {
		e.gz.Write(e.line) // a bytes.Buffer takes everything
		e.line = e.line[:0]
	}
}

func (e *text) drain(dst []byte) []byte {
	dst = append(dst, e.zipped.Bytes()...)
	e.zipped.Reset()
	return dst
}

// Close ends the last line and the file.
func (e *text) Close(dst []byte) ([]byte, error) {
	e.end()
	e.gz.Write(e.line)
	if err := e.gz.Close(); err != nil {
		return dst, fmt.Errorf("xandr: end gzip: %w", err)
	}
	return e.drain(dst), nil
}
