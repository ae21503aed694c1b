package taxonomy

import "strconv"

// Number reads a decimal number: digits with an optional sign and one optional
// point. No exponent, so a value of bounded length is always in range, and
// nothing that is not a number costs an error.
func Number(s string) (float64, bool) {
	if s == "" || len(s) > 40 {
		return 0, false
	}
	digits, point := 0, false
	for i := range len(s) {
		switch c := s[i]; {
		case c >= '0' && c <= '9':
			digits++
		case c == '.' && !point:
			point = true
		case (c == '-' || c == '+') && i == 0:
		default:
			return 0, false
		}
	}
	if digits == 0 {
		return 0, false
	}
	f, err := strconv.ParseFloat(s, 64)
	return f, err == nil
}
