package tagserver

import "strings"

// findNumber looks for cards, phone numbers and long runs of digits.
func findNumber(s string) piiClass {
	for i := 0; i < len(s); {
		if !isDigit(s[i]) {
			i++
			continue
		}
		if end, ok := randomToken(s, i); ok {
			i = end
			continue
		}
		run := number{start: i}
		i = run.read(s)
		if c := run.class(s); c != "" {
			return c
		}
	}
	return ""
}

// randomToken reports whether the digit at i stands in a UUID or a long hex
// string: random identifiers, in which any run of digits is chance. It returns
// where the token ends.
func randomToken(s string, i int) (end int, ok bool) {
	if end, ok = uuidAround(s, i); ok {
		return end, true
	}
	start := i
	for start > 0 && isAlnum(s[start-1]) {
		start--
	}
	end = i
	letters := 0
	for end < len(s) && isAlnum(s[end]) {
		end++
	}
	for j := start; j < end; j++ {
		if isDigit(s[j]) {
			continue
		}
		if l := s[j] | 0x20; l < 'a' || l > 'f' {
			return 0, false
		}
		letters++
	}
	return end, letters > 0 && end-start >= 20
}

// uuidAround reports whether the byte at i stands in a UUID, and where that ends.
func uuidAround(s string, i int) (end int, ok bool) {
	start := i
	for start > 0 && (isAlnum(s[start-1]) || s[start-1] == '-') {
		start--
	}
	end = i
	for end < len(s) && (isAlnum(s[end]) || s[end] == '-') {
		end++
	}
	return end, isUUID(s[start:end])
}

func isUUID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		if i == 8 || i == 13 || i == 18 || i == 23 {
			if c != '-' {
				return false
			}
		} else if l := c | 0x20; !isDigit(c) && (l < 'a' || l > 'f') {
			return false
		}
	}
	return true
}

// number is a run of groups of digits, each divided from the next by one or two
// of the signs that people put into phone and card numbers.
type number struct {
	start  int
	plus   bool // a plus sign stands before it
	paren  bool // an opening bracket stands before it
	alone  bool // no letter touches it
	groups [12]struct{ at, n int }
	n      int // groups
	digits int
}

func (r *number) read(s string) (end int) {
	i := r.start
	before := byte(' ')
	if i > 0 {
		before = s[i-1]
	}
	r.paren = before == '('
	r.plus = before == '+' || r.paren && i > 1 && s[i-2] == '+'
	for i < len(s) && r.n < len(r.groups) {
		at := i
		for i < len(s) && isDigit(s[i]) {
			i++
		}
		r.groups[r.n] = struct{ at, n int }{at, i - at}
		r.n++
		r.digits += i - at
		j := i
		for j < len(s) && j-i < 2 && strings.IndexByte(" -./()", s[j]) >= 0 {
			j++
		}
		if j == i || j == len(s) || !isDigit(s[j]) {
			break
		}
		i = j
	}
	after := byte(' ')
	if i < len(s) {
		after = s[i]
	}
	r.alone = !isLetter(before) && !isLetter(after) && before != '_'
	return i
}

func (r *number) class(s string) piiClass {
	first := r.groups[0]
	for _, g := range r.groups[:r.n] {
		if g.n >= longDigits {
			return piiDigits
		}
	}
	if r.hasCard(s) {
		return piiCard
	}
	if !r.alone {
		return ""
	}
	switch {
	case r.plus:
		if r.digits >= 8 && r.digits <= 15 {
			return piiPhone
		}
	case first.n >= 3 && strings.HasPrefix(s[first.at:], "00") && s[first.at+2] != '0' && r.digits >= 10 && r.digits <= 17:
		return piiPhone // 0049 170 …
	case r.n == 1:
		// A national number without any sign: 0170…, but not a price, a
		// barcode or an ISBN-10, whose check digit tells them apart.
		if s[first.at] == '0' && s[first.at+min(1, first.n-1)] != '0' &&
			(first.n == 11 || first.n == 10 && !isISBN10(s[first.at:first.at+10])) {
			return piiPhone
		}
	case s[first.at] == '0' && first.n >= 3 && first.n <= 5 && s[first.at+1] != '0' && r.digits >= 9 && r.digits <= 12:
		return piiPhone // 0170 123 45 67, 030-901820
	case r.n == 5 && s[first.at] == '0' && r.digits == 10 && r.pairs():
		return piiPhone // 06 12 34 56 78
	case r.n == 3 && first.n == 3 && r.groups[1].n == 3 && r.groups[2].n == 4:
		return piiPhone // (212) 555-0100
	case r.n == 4 && first.n == 1 && s[first.at] == '1' && r.groups[1].n == 3 && r.groups[2].n == 3 && r.groups[3].n == 4:
		return piiPhone // 1-212-555-0100
	}
	return ""
}

func (r *number) pairs() bool {
	for _, g := range r.groups[:r.n] {
		if g.n != 2 {
			return false
		}
	}
	return true
}

// hasCard reports whether whole groups of the run, side by side, are 14 to 19
// digits of a card issuer with a right check digit. 13 digits are left out: no
// card has them any more, but every barcode does.
func (r *number) hasCard(s string) bool {
	for from := range r.n {
		var d [19]byte
		n := 0
		for _, g := range r.groups[from:r.n] {
			if n+g.n > len(d) {
				break
			}
			n += copy(d[n:], s[g.at:g.at+g.n])
			if n >= 14 && isIssuer(d[:n]) && luhn(d[:n]) {
				return true
			}
		}
	}
	return false
}

// isIssuer holds the first digits that card schemes use, by length.
func isIssuer(d []byte) bool {
	two := int(d[0]-'0')*10 + int(d[1]-'0')
	switch len(d) {
	case 14: // Diners
		return two == 30 || two == 36 || two == 38 || two == 39
	case 15: // American Express
		return two == 34 || two == 37
	}
	return d[0] == '4' || d[0] == '5' || d[0] == '6' || two >= 22 && two <= 27 || two == 35
}

func luhn(d []byte) bool {
	sum := 0
	for i := range d {
		v := int(d[len(d)-1-i] - '0')
		if i%2 == 1 {
			if v *= 2; v > 9 {
				v -= 9
			}
		}
		sum += v
	}
	return sum%10 == 0
}

func isISBN10(d string) bool {
	sum := 0
	for i := range 10 {
		sum += (10 - i) * int(d[i]-'0')
	}
	return sum%11 == 0
}
