package onboard

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"strings"
)

// Bounds of a row. A quoted field may run over several lines.
const (
	maxLine  = 1 << 20 // bytes
	maxLines = 100     // of one row
)

// errRow is a row that cannot be cut into fields.
type errRow string

func (e errRow) Error() string { return string(e) }

const (
	errLong   errRow = "longer than 1 MiB"
	errOpen   errRow = "a quote is opened and not closed"
	errBare   errRow = `a quote within a field that has none around it; write it twice and put quotes around the field`
	errBehind errRow = `something between a closing quote and the next separator; write a quote within a field twice`
)

// rows cuts CSV (RFC 4180, any separator, LF or CRLF) into rows.
//
// encoding/csv was the obvious choice, but a quote that is never closed makes
// it take the rest of the file for one field: one bad row would eat a million
// good ones. Here a row with a bad quote is one line, and reading goes on with
// the next.
type rows struct {
	r     *bufio.Reader
	comma byte
	back  [][]byte // lines to be read again, the next one first
	line  int      // number of the line that was read last, from 1

	buf    []byte // of the row
	text   []byte // of its fields, unquoted
	ends   []int  // of each field in text
	fields []string
}

func newRows(r io.Reader, comma byte) *rows {
	return &rows{r: bufio.NewReaderSize(r, 64<<10), comma: comma}
}

// next returns the fields of the next row that is not empty, and the line on
// which it begins. The slice is valid until the next call, the strings for good.
// An errRow spoils one row; any other error ends the file.
func (x *rows) next() (fields []string, line int, err error) {
	for {
		b, err := x.readLine()
		if err != nil {
			return nil, x.line, err
		}
		line = x.line
		if len(b) == 0 {
			continue
		}
		x.buf = append(x.buf[:0], b...)
		err = x.cut(x.buf)
		var more [][]byte
		for err == errOpen && len(more) < maxLines && len(x.buf) < maxLine {
			b, e := x.readLine()
			if e == io.EOF {
				break
			}
			if e != nil && !isRow(e) {
				return nil, line, e
			}
			if e != nil {
				err = e
				break
			}
			more = append(more, bytes.Clone(b))
			x.buf = append(append(x.buf, '\n'), b...)
			err = x.cut(x.buf)
		}
		if err != nil {
			x.back = append(more, x.back...)
			x.line -= len(more)
			return nil, line, err
		}
		return x.strings(), line, nil
	}
}

func isRow(err error) bool {
	var e errRow
	return errors.As(err, &e)
}

// readLine returns the next line without its end. It is valid until the next
// call.
func (x *rows) readLine() ([]byte, error) {
	if len(x.back) > 0 {
		b := x.back[0]
		x.back = x.back[1:]
		x.line++
		return b, nil
	}
	b, err := x.r.ReadSlice('\n')
	if err == bufio.ErrBufferFull {
		long := bytes.Clone(b)
		for err == bufio.ErrBufferFull {
			if b, err = x.r.ReadSlice('\n'); len(long) <= maxLine {
				long = append(long, b...)
			}
		}
		b = long
	}
	if err != nil && err != io.EOF {
		return nil, err
	}
	if len(b) == 0 {
		return nil, io.EOF
	}
	x.line++
	if len(b) > maxLine {
		return nil, errLong
	}
	b = bytes.TrimSuffix(b, []byte("\n"))
	return bytes.TrimSuffix(b, []byte("\r")), nil
}

// cut finds the fields of a row.
func (x *rows) cut(b []byte) error {
	x.text, x.ends = x.text[:0], x.ends[:0]
	for {
		if len(b) == 0 || b[0] != '"' {
			end := bytes.IndexByte(b, x.comma)
			field := b
			if end >= 0 {
				field = b[:end]
			}
			if bytes.IndexByte(field, '"') >= 0 {
				return errBare
			}
			x.text = append(x.text, field...)
			x.ends = append(x.ends, len(x.text))
			if end < 0 {
				return nil
			}
			b = b[end+1:]
			continue
		}
		b = b[1:]
		for {
			i := bytes.IndexByte(b, '"')
			if i < 0 {
				return errOpen
			}
			x.text = append(x.text, b[:i]...)
			b = b[i+1:]
			if len(b) == 0 || b[0] != '"' {
				break
			}
			x.text = append(x.text, '"')
			b = b[1:]
		}
		x.ends = append(x.ends, len(x.text))
		if len(b) == 0 {
			return nil
		}
		if b[0] != x.comma {
			return errBehind
		}
		b = b[1:]
	}
}

// strings makes one string of all fields and cuts it.
func (x *rows) strings() []string {
	all := string(x.text)
	x.fields = x.fields[:0]
	start := 0
	for _, end := range x.ends {
		x.fields = append(x.fields, all[start:end])
		start = end
	}
	return x.fields
}

// header reads the first row: names of columns, without a byte order mark.
func (x *rows) header() ([]string, error) {
	fields, _, err := x.next()
	switch {
	case err == io.EOF:
		return nil, errors.New("the file is empty; the first row must name the columns")
	case err != nil:
		return nil, err
	}
	names := make([]string, len(fields))
	copy(names, fields)
	names[0] = strings.TrimPrefix(names[0], "\ufeff")
	return names, nil
}
