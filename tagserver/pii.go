package tagserver

import (
	"encoding/base64"
	"strings"
	"unicode/utf8"
)

// piiClass names what a detector recognised. It is shown to callers and is a
// label of metrics, so the list is closed.
type piiClass string

const (
	piiEmail  piiClass = "e-mail address"
	piiPhone  piiClass = "phone number"
	piiCard   piiClass = "card number"
	piiIBAN   piiClass = "IBAN"
	piiDigits piiClass = "long run of digits"
	piiField  piiClass = "name of a personal field"
)

// piiRounds is how many layers of percent-encoding are undone: forms that are
// posted through two redirects encode three times.
const piiRounds = 3

// longDigits is the length from which a run of digits is refused whatever it
// is: 13 digits are a time in milliseconds or an EAN, 14 a date and time, but
// 15 an IMEI, a customer number, a card.
const longDigits = 15

// findPII returns the class of the first thing in s that identifies a person,
// or "". It looks at s as it is, percent-decoded up to three times, and
// base64-decoded. Clean strings cost one pass over their bytes and nothing more.
//
// It is the second line: query keys go by allow-list before, so what it sees is
// what a page put into a field that is kept. It prefers a false alarm, which
// costs one event and shows in the console, to a miss, which would be kept.
func findPII(s string) piiClass {
	for round := 0; ; round++ {
		hint := prefilter(s)
		if hint == 0 {
			return ""
		}
		if c := findPlain(s, hint); c != "" {
			return c
		}
		if t := spaced(s); t != s {
			if c := findPlain(t, prefilter(t)|hint); c != "" {
				return c
			}
		}
		if hint&hintBase64 != 0 {
			if c := hidden(s); c != "" {
				return c
			}
		}
		if hint&hintPercent == 0 || round == piiRounds {
			return ""
		}
		// "+" stays "+": decoding it to a space for good would hide "+49…" and
		// break addresses with a plus tag.
		d := percentDecode(s)
		if d == s {
			return ""
		}
		s = d
	}
}

// spaced returns s with each plus that follows a letter, a digit or a bracket as
// the space that it is in a form: "+49+170" was "+49 170".
func spaced(s string) string {
	i := strings.IndexByte(s, '+')
	if i < 0 {
		return s
	}
	b := []byte(s)
	for ; i < len(b); i++ {
		if b[i] == '+' && i > 0 && (isAlnum(b[i-1]) || b[i-1] == ')') {
			b[i] = ' '
		}
	}
	return string(b)
}

type piiHint uint8

const (
	hintAt      piiHint = 1 << iota // an at-sign or one of its disguises
	hintDigits                      // seven digits or more
	hintIBAN                        // four digits or more and a capital or small letter pair before one
	hintPercent                     // a percent sign
	hintBase64                      // long enough to hide an address
	hintToken                       // as long as a token, or with the dots or colons of an address
)

// byteClass tells what a byte is worth to the prefilter.
var byteClass = func() (t [256]uint8) {
	for c := '0'; c <= '9'; c++ {
		t[c] = 1
	}
	t['@'], t['('], t['['], t['{'] = 2, 2, 2, 2
	t['%'] = 4
	t['.'], t[':'], t['-'] = 8, 8, 8
	// The first byte of U+FF20 and U+FE6B, the full-width and small at-signs,
	// and of every other rune of that plane: rare enough.
	t[0xef] = 2
	t['&'] = 2 // &#64; and &commat;
	return t
}()

func prefilter(s string) (h piiHint) {
	digits, signs := 0, 0
	for i := 0; i < len(s); i++ {
		switch byteClass[s[i]] {
		case 1:
			digits++
		case 2:
			// An "&" divides the parts of a query; only before an entity is it
			// worth a look.
			if s[i] != '&' || i+1 < len(s) && (s[i+1] == '#' || s[i+1]|0x20 == 'c') {
				h |= hintAt
			}
		case 4:
			h |= hintPercent
		case 8:
			signs++
		}
	}
	if digits >= 7 {
		h |= hintDigits
	}
	if digits >= 4 && len(s) >= 15 {
		h |= hintIBAN
	}
	if len(s) >= 15 && (signs > 0 || len(s) >= 20) || signs >= 3 {
		h |= hintToken
	}
	if len(s) >= 12 && len(s) <= 512 && isBase64(s) {
		h |= hintBase64
	}
	return h
}

func findPlain(s string, h piiHint) piiClass {
	if h&hintAt != 0 && hasEmail(s) {
		return piiEmail
	}
	if h&hintIBAN != 0 && hasIBAN(s) {
		return piiIBAN
	}
	if h&hintDigits != 0 {
		if c := findNumber(s); c != "" {
			return c
		}
	}
	if h&hintToken != 0 {
		return findToken(s)
	}
	return ""
}

// atSigns are the ways in which an at-sign is written, in lower case.
var atSigns = []string{"@", "＠", "﹫", "(at)", "[at]", "{at}", "(@)", "[@]", "&#64;", "&#x40;", "&commat;"}

func hasEmail(s string) bool {
	for i := 0; i < len(s); i++ {
		if byteClass[s[i]] != 2 {
			continue
		}
		for _, at := range atSigns {
			if at[0] == s[i] && len(s)-i >= len(at) && strings.EqualFold(s[i:i+len(at)], at) && isEmailAround(s[:i], s[i+len(at):]) {
				return true
			}
		}
	}
	return false
}

// isEmailAround reports whether what stands before and after an at-sign is a
// local part and a domain: a letter, digit or any rune beyond ASCII before, and
// a host with a dot and a top level of two letters or more after.
func isEmailAround(before, after string) bool {
	before = strings.TrimRight(before, " ")
	r, _ := utf8.DecodeLastRuneInString(before)
	if before == "" || r < utf8.RuneSelf && !isAlnum(byte(r)) && !strings.ContainsRune("._+-'\"", r) {
		return false
	}
	after = dots.Replace(strings.ToLower(strings.TrimLeft(after, " ")))
	labels, n, words := 0, 0, false // words: the label has something that is no digit
	tld := false
	for i := 0; i < len(after); i++ {
		switch c := after[i]; {
		case c == '.':
			if n == 0 {
				return tld
			}
			labels++
			n, words = 0, false
		case isAlnum(c) || c == '-' || c == '_' || c >= utf8.RuneSelf:
			n++
			words = words || !isDigit(c)
		default:
			return tld
		}
		tld = labels > 0 && (n == 0 && tld || n >= 2 && words)
	}
	return tld
}

// dots are the ways in which the dot of a domain is written.
var dots = strings.NewReplacer("(dot)", ".", "[dot]", ".", " dot ", ".", "．", ".", "。", ".")

func isBase64(s string) bool {
	for i := 0; i < len(s); i++ {
		c := s[i]
		if !isAlnum(c) && c != '+' && c != '/' && c != '-' && c != '_' && c != '=' {
			return false
		}
	}
	return true
}

// hidden returns what base64 or base64url hides in s: text that is personal
// itself. What decodes to no text is nobody's, however it looks.
func hidden(s string) piiClass {
	s = strings.TrimRight(s, "=")
	enc := base64.RawStdEncoding
	if strings.ContainsAny(s, "-_") {
		enc = base64.RawURLEncoding
	}
	var a [384]byte
	n, err := enc.Decode(a[:], []byte(s))
	if err != nil || !utf8.Valid(a[:n]) {
		return ""
	}
	for _, c := range a[:n] {
		if c < ' ' || c == 0x7f {
			return ""
		}
	}
	text := string(a[:n])
	if hasEmail(text) {
		return piiEmail
	}
	if hint := prefilter(text); hint != 0 {
		if c := findPlain(text, hint); c != "" {
			return c
		}
	}
	return findHash(text)
}

// ibanLength is how long each country's IBANs are (the registry of ISO 13616).
// Without it every hundredth random token of two letters and two digits would
// be one.
var ibanLength = func() map[string]int {
	m := make(map[string]int)
	for _, c := range strings.Fields(`AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BI27 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DJ27
		DK18 DO28 EE20 EG29 ES24 FI18 FK18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HN28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30
		KW30 KZ20 LB28 LC32 LI21 LT20 LU20 LV21 LY25 MC27 MD24 ME22 MK19 MN20 MR27 MT31 MU30 NI28 NL18 NO15 OM23 PK24 PL28 PS29
		PT25 QA29 RO24 RS22 RU33 SA24 SC31 SD18 SE24 SI19 SK24 SM27 SO23 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20 YE30`) {
		m[c[:2]] = int(c[2]-'0')*10 + int(c[3]-'0')
	}
	return m
}()

// hasIBAN looks for a country, two digits and as many letters or digits as that
// country's IBANs have, with or without a space or dash after every four, whose
// remainder modulo 97 is 1 (ISO 13616). Where something is glued to it, a chance
// hit in a longer token must be told from it: see gluedIBAN.
func hasIBAN(s string) bool {
	for i := 0; i+15 <= len(s); i++ {
		if !isLetter(s[i]) || !isLetter(s[i+1]) || !isDigit(s[i+2]) || !isDigit(s[i+3]) {
			continue
		}
		want := ibanLength[string([]byte{s[i] &^ 0x20, s[i+1] &^ 0x20})]
		if want == 0 {
			continue
		}
		if _, ok := uuidAround(s, i); ok {
			continue
		}
		var iban [34]byte
		n, j := 0, i
		for ; j < len(s) && n < want; j++ {
			c := s[j]
			if isAlnum(c) {
				iban[n] = c
				n++
			} else if (c != ' ' && c != '-') || n%4 != 0 {
				break
			}
		}
		if n != want || mod97(iban[:n]) != 1 {
			continue
		}
		if glued := i > 0 && isAlnum(s[i-1]) || j < len(s) && isAlnum(s[j]); !glued || gluedIBAN(s, i, iban[:n]) {
			return true
		}
	}
	return false
}

// gluedIBAN reports whether an IBAN at i with letters or digits before or behind it
// is one: its country is written in one case, and of the rest fewer than half are
// letters; in a word of hex, which is half digits anyway, none. So of a million
// random tokens one to fifteen are refused, with it or without, and "xDE89…" is.
func gluedIBAN(s string, i int, iban []byte) bool {
	letters := 0
	for _, c := range iban[4:] {
		if !isDigit(c) {
			letters++
		}
	}
	start, end, hex := i, i, true
	for start > 0 && isAlnum(s[start-1]) {
		start--
	}
	for ; end < len(s) && isAlnum(s[end]); end++ {
		hex = hex && unhex(s[end]) >= 0
	}
	for _, c := range []byte(s[start:i]) {
		hex = hex && unhex(c) >= 0
	}
	return s[i]&0x20 == s[i+1]&0x20 && (letters == 0 || !hex && 2*letters < len(iban)-4)
}

func mod97(iban []byte) int {
	r := 0
	add := func(c byte) {
		switch {
		case isDigit(c):
			r = (r*10 + int(c-'0')) % 97
		default:
			r = (r*100 + int(c|0x20-'a') + 10) % 97
		}
	}
	for _, c := range iban[4:] {
		add(c)
	}
	for _, c := range iban[:4] {
		add(c)
	}
	return r
}

func isDigit(c byte) bool  { return c >= '0' && c <= '9' }
func isLetter(c byte) bool { c |= 0x20; return c >= 'a' && c <= 'z' }
func isAlnum(c byte) bool  { return isDigit(c) || isLetter(c) }

// percentDecode undoes one layer of percent-encoding, leaves what is not
// encoded well as it is, and "+" too.
func percentDecode(s string) string {
	i := strings.IndexByte(s, '%')
	if i < 0 {
		return s
	}
	b := make([]byte, 0, len(s))
	b = append(b, s[:i]...)
	for ; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			if hi, lo := unhex(s[i+1]), unhex(s[i+2]); hi >= 0 && lo >= 0 {
				b = append(b, byte(hi<<4|lo))
				i += 2
				continue
			}
		}
		b = append(b, s[i])
	}
	return string(b)
}

func unhex(c byte) int {
	switch l := c | 0x20; {
	case isDigit(c):
		return int(c - '0')
	case l >= 'a' && l <= 'f':
		return int(l-'a') + 10
	}
	return -1
}

// personalFields are names of fields whose value identifies a person whatever
// it looks like. Words that taxonomies need (gender, city, age) are not here.
var personalFields = map[string]bool{
	"email": true, "mail": true, "emailaddress": true, "phone": true, "phonenumber": true, "telephone": true,
	"tel": true, "mobile": true, "msisdn": true, "password": true, "passwd": true, "pwd": true, "ssn": true,
	"iban": true, "cardnumber": true, "creditcard": true, "firstname": true, "lastname": true, "surname": true,
	"fullname": true, "street": true, "ip": true, "ipaddress": true, "useragent": true, "birthdate": true,
	"dateofbirth": true, "dob": true,
	// Hashes and identifiers of other parties, and what opens an account.
	"em": true, "hem": true, "emailhash": true, "emailmd5": true, "emailsha1": true, "emailsha256": true, "hashedemail": true,
	"md5email": true, "sha256email": true, "uid2": true, "id5": true, "rampid": true, "gaid": true, "idfa": true, "advertisingid": true,
	"token": true, "accesstoken": true, "idtoken": true, "refreshtoken": true, "apikey": true, "secret": true, "authorization": true,
	"sessionid": true, "jsessionid": true, "phpsessid": true,
}

// isPersonalField reports whether a key names a personal field, however it is
// spelt: e-mail, E_Mail, emailAddress.
func isPersonalField(key string) bool {
	var a [16]byte
	n := 0
	for i := 0; i < len(key); i++ {
		c := key[i]
		if c == '-' || c == '_' || c == '.' || c == ' ' {
			continue
		}
		if n == len(a) {
			return false
		}
		if c >= 'A' && c <= 'Z' {
			c |= 0x20
		}
		a[n] = c
		n++
	}
	return personalFields[string(a[:n])]
}

// redact shows the shape of a refused value and none of it: letters become a,
// digits 0, everything beyond ASCII *. At most 64 bytes.
func redact(s string) string {
	var a [64]byte
	n := 0
	for _, r := range s {
		if n == len(a) {
			break
		}
		switch {
		case r >= utf8.RuneSelf || r < ' ' || r == 0x7f:
			a[n] = '*'
		case isDigit(byte(r)):
			a[n] = '0'
		case isLetter(byte(r)):
			a[n] = 'a'
		default:
			a[n] = byte(r)
		}
		n++
	}
	return string(a[:n])
}
