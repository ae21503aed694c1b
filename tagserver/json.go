package tagserver

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// jsonReader reads JSON (RFC 8259) off s. After the first fault every call
// returns at once.
type jsonReader struct {
	s   string
	i   int
	err *wireError
	// event is the number of the event that is being read, or -1.
	event int
}

func (p *jsonReader) fail(path, why string) {
	if p.err != nil {
		return
	}
	if p.event >= 0 {
		path = strings.TrimSuffix(fmt.Sprintf("events[%d].%s", p.event, path), ".")
	}
	at := min(p.i, len(p.s))
	line := 1 + strings.Count(p.s[:at], "\n")
	p.err = &wireError{Line: line, Column: at - (strings.LastIndexByte(p.s[:at], '\n')), Path: path, Why: why}
	p.i = len(p.s)
}

func (p *jsonReader) peek() byte {
	if p.i < len(p.s) {
		return p.s[p.i]
	}
	return 0
}

func (p *jsonReader) space() {
	for p.i < len(p.s) {
		switch p.s[p.i] {
		case ' ', '\t', '\n', '\r':
			p.i++
		default:
			return
		}
	}
}

func (p *jsonReader) expect(c byte, path, why string) bool {
	p.space()
	if p.err != nil || p.peek() != c || p.i >= len(p.s) {
		p.fail(path, why)
		return false
	}
	p.i++
	return true
}

// once marks a key as seen, and fails if it was.
func (p *jsonReader) once(seen *uint, bit uint, path string) {
	if *seen&(1<<bit) != 0 {
		p.fail(path, "is given twice")
	}
	*seen |= 1 << bit
}

// whole reads an object that is all there is.
func (p *jsonReader) whole(field func(key string)) {
	p.object("", field)
	p.space()
	if p.err == nil && p.i < len(p.s) {
		p.fail("", "something follows the end of the object")
	}
}

// object calls fn after each key; fn reads the value.
func (p *jsonReader) object(path string, fn func(key string)) {
	if !p.expect('{', path, "want an object") {
		return
	}
	p.space()
	if p.peek() == '}' {
		p.i++
		return
	}
	for p.err == nil {
		p.space()
		if p.peek() != '"' {
			p.fail(path, "want a key in double quotes")
			return
		}
		key := p.str(path)
		if !p.expect(':', path, "want a colon after the key") {
			return
		}
		p.space()
		fn(key)
		p.space()
		switch p.peek() {
		case ',':
			p.i++
		case '}':
			p.i++
			return
		default:
			p.fail(path, "want a comma or the end of the object")
		}
	}
}

func (p *jsonReader) literal(word string) bool {
	if p.err == nil && strings.HasPrefix(p.s[p.i:], word) {
		p.i += len(word)
		return true
	}
	return false
}

func (p *jsonReader) null() bool {
	p.space()
	return p.peek() == 'n' && p.literal("null")
}

func (p *jsonReader) boolean(path string) bool {
	p.space()
	switch {
	case p.literal("true"):
		return true
	case p.literal("false"):
		return false
	}
	p.fail(path, "want true or false")
	return false
}

// scalar returns the text of a number, true or false; strings and what is no
// scalar are skipped and give "".
func (p *jsonReader) scalar() string {
	p.space()
	from := p.i
	switch c := p.peek(); {
	case c == '-' || isDigit(c):
		p.number()
	case c == 't' || c == 'f':
		p.skip(0)
	default:
		p.skip(0)
		return ""
	}
	if p.err != nil {
		return ""
	}
	return p.s[from:p.i]
}

func (p *jsonReader) millis(path string) int64 {
	if p.null() {
		return 0
	}
	at := p.i
	v, ok := parseMillis(p.scalar())
	if !ok {
		p.i = at
		p.fail(path, "want whole milliseconds since 1970")
	}
	return v
}

// parseMillis reads a whole number of at most 15 digits, which is beyond every
// date that a browser can have and far from overflow.
func parseMillis(s string) (int64, bool) {
	if s == "" || len(s) > 15 {
		return 0, false
	}
	v, err := strconv.ParseInt(s, 10, 64)
	return v, err == nil && v >= 0
}

func (p *jsonReader) number() {
	from := p.i
	digits := func() bool {
		n := p.i
		for p.i < len(p.s) && isDigit(p.s[p.i]) {
			p.i++
		}
		return p.i > n
	}
	if p.peek() == '-' {
		p.i++
	}
	if p.peek() == '0' {
		p.i++
	} else if !digits() {
		p.i = from
		p.fail("", "want a number")
		return
	}
	if p.peek() == '.' {
		p.i++
		if !digits() {
			p.fail("", "want digits after the decimal point")
			return
		}
	}
	if c := p.peek(); c == 'e' || c == 'E' {
		p.i++
		if c := p.peek(); c == '+' || c == '-' {
			p.i++
		}
		if !digits() {
			p.fail("", "want digits in the exponent")
		}
	}
}

// skip reads past any value.
func (p *jsonReader) skip(depth int) {
	p.space()
	if p.err != nil {
		return
	}
	if depth > maxDepth {
		p.fail("", "nested too deeply")
		return
	}
	switch c := p.peek(); {
	case c == '"':
		p.str("")
	case c == '{':
		p.object("", func(string) { p.skip(depth + 1) })
	case c == '[':
		p.i++
		p.space()
		if p.peek() == ']' {
			p.i++
			return
		}
		for p.err == nil {
			p.skip(depth + 1)
			p.space()
			switch p.peek() {
			case ',':
				p.i++
			case ']':
				p.i++
				return
			default:
				p.fail("", "want a comma or the end of the list")
			}
		}
	case c == '-' || isDigit(c):
		p.number()
	case p.literal("true") || p.literal("false") || p.literal("null"):
	default:
		p.fail("", "want a value")
	}
}

// str reads a string. Without escapes it shares memory with the body.
func (p *jsonReader) str(path string) string {
	p.space()
	if p.err != nil || p.peek() != '"' {
		p.fail(path, "want a string")
		return ""
	}
	p.i++
	from := p.i
	for p.i < len(p.s) {
		switch c := p.s[p.i]; {
		case c == '"':
			s := p.s[from:p.i]
			p.i++
			if !utf8.ValidString(s) {
				p.i = from
				p.fail(path, "not UTF-8")
				return ""
			}
			return s
		case c == '\\':
			return p.escaped(path, from)
		case c < ' ':
			p.fail(path, "a control character in a string")
			return ""
		}
		p.i++
	}
	p.fail(path, "a string without end")
	return ""
}

func (p *jsonReader) escaped(path string, from int) string {
	b := []byte(p.s[from:p.i])
	for p.i < len(p.s) {
		c := p.s[p.i]
		switch {
		case c == '"':
			p.i++
			if !utf8.Valid(b) {
				p.i = from
				p.fail(path, "not UTF-8")
				return ""
			}
			return string(b)
		case c < ' ':
			p.fail(path, "a control character in a string")
			return ""
		case c != '\\':
			b = append(b, c)
			p.i++
			continue
		}
		if p.i+1 >= len(p.s) {
			break
		}
		p.i += 2
		switch e := p.s[p.i-1]; e {
		case '"', '\\', '/':
			b = append(b, e)
		case 'b':
			b = append(b, '\b')
		case 'f':
			b = append(b, '\f')
		case 'n':
			b = append(b, '\n')
		case 'r':
			b = append(b, '\r')
		case 't':
			b = append(b, '\t')
		case 'u':
			r := p.hex4()
			if utf16.IsSurrogate(r) {
				r2 := rune(-1)
				if strings.HasPrefix(p.s[p.i:], `\u`) {
					p.i += 2
					r2 = p.hex4()
				}
				r = utf16.DecodeRune(r, r2)
				if r == utf8.RuneError {
					p.fail(path, "half of a surrogate pair")
				}
			}
			if p.err != nil {
				return ""
			}
			b = utf8.AppendRune(b, r)
		default:
			p.i--
			p.fail(path, "an unknown escape")
			return ""
		}
	}
	p.fail(path, "a string without end")
	return ""
}

func (p *jsonReader) hex4() (r rune) {
	if p.i+4 > len(p.s) {
		p.fail("", "want four hex digits")
		return 0
	}
	for range 4 {
		d := unhex(p.s[p.i])
		if d < 0 {
			p.fail("", "want four hex digits")
			return 0
		}
		r = r<<4 | rune(d)
		p.i++
	}
	return r
}
