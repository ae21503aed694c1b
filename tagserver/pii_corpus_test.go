package tagserver

import (
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"net/url"
	"strings"
	"testing"
)

// personalCorpus is what must be caught: people's data of every kind in every
// dress that pages give it.
func personalCorpus() (out []string) {
	percent := func(s string) string {
		var b strings.Builder
		for i := range len(s) {
			fmt.Fprintf(&b, "%%%02X", s[i])
		}
		return b.String()
	}
	lower := func(s string) string { return strings.ToLower(percent(s)) }
	plain := func(s string) string { return s }
	query := url.QueryEscape
	twice := func(s string) string { return query(query(s)) }
	thrice := func(s string) string { return query(query(query(s))) }
	within := func(s string) string { return "note: " + s + " thanks" }
	pair := func(s string) string { return "x=" + s + "&y=2" }
	swap := func(old, new string) func(string) string {
		return func(s string) string { return strings.ReplaceAll(s, old, new) }
	}
	common := []func(string) string{plain, percent, lower, twice, thrice, within, pair, query, func(s string) string { return "<" + s + ">" }, func(s string) string { return "https://a.example/?p=" + url.PathEscape(s) }}
	add := func(values []string, dress ...func(string) string) {
		for _, v := range values {
			for _, d := range dress {
				out = append(out, d(v))
			}
		}
	}
	mails := []string{"jane.doe@example.com", "j@example.co.uk", "jane+news@mail.example.org", "JANE@EXAMPLE.COM", "jörg@example.de", "jane@münchen.example", "o'neil@example.ie", "a_b-c@sub.sub.example.museum", "12345@example.net", "jane@example.photography"}
	add(mails, append(common, strings.ToUpper, swap("@", "＠"), swap("@", "(at)"), swap("@", " [at] "), swap("@", "&#64;"), swap("@", "&#x40;"), swap("@", "%EF%BC%A0"),
		func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) },
		func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) })...)
	add([]string{"+491701234567", "+49 170 1234567", "+49-170-1234567", "0049170 1234567", "+1 212 555 0100", "(212) 555-0100", "1-212-555-0100", "06 12 34 56 78", "+44 20 7946 0958", "0170 123 45 67"}, common...)
	add([]string{"4111111111111111", "4111 1111 1111 1111", "5500-0000-0000-0004", "378282246310005", "6011111111111117", "3530111333300000"}, common...)
	add([]string{"DE89370400440532013000", "GB82 WEST 1234 5698 7654 32", "FR1420041010050500013M02606", "nl91abna0417164300", "CH9300762011623852957"}, common...)
	// With something glued to them, on one side or both: a letter that could be hex,
	// one that could not, a digit, a word.
	var glue []func(string) string
	for _, g := range [][2]string{{"x", ""}, {"", "x"}, {"a", ""}, {"", "F"}, {"q", "Z"}, {"iban", ""}, {"7", "b"}, {"IBAN", "BIC"}} {
		glue = append(glue, func(s string) string { return g[0] + s + g[1] })
	}
	add([]string{"DE89370400440532013000", "DE89 3704 0044 0532 0130 00", "GB82WEST12345698765432", "GB82 WEST 1234 5698 7654 32", "FR1420041010050500013M02606", "nl91abna0417164300", "CH9300762011623852957", "MT84MALT011000012345MTLCAST001S", "be68539007547034", "EE382200221020145685"}, append(glue, func(s string) string { return twice("x" + s) })...)
	add([]string{"81.2.69.142", "203.0.113.77", "192.168.10.24", "2001:db8::8a2e:370:7334", "2a02:d300:0:1::25", "81.2.69.142:8443", "3c:22:fb:aa:bb:cc", "3C-22-FB-AA-BB-CC"}, common...)
	var hashes []string
	for _, m := range mails[:4] {
		a, b, c := md5.Sum([]byte(m)), sha1.Sum([]byte(m)), sha256.Sum256([]byte(m))
		hashes = append(hashes, hex.EncodeToString(a[:]), hex.EncodeToString(b[:]), hex.EncodeToString(c[:]))
	}
	add(hashes, append(common[:1:1], strings.ToUpper, within, pair, twice, func(s string) string { return "sha256:" + s })...)
	add(hashes, append(glue, func(s string) string { return "sha256" + s }, func(s string) string { return twice(s + "x") })...)
	add([]string{"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJqYW5lIn0.c2lnbmF0dXJlc2lnbmF0dXJl", "Bearer abcdef0123456789", "ghp_abcdefghijklmnopqrstuvwxyz0123456789", "sk_live_4eC39HqLyjWDarjtT1zdp7dc", "AKIAIOSFODNN7EXAMPLE", "AIzaSyD-abcdefghijklmnopqrstuvwxyz012"}, common...)
	return out
}

// harmlessCorpus is what pages send all day, and what looks like people's data
// and is none.
func harmlessCorpus() (out []string) {
	r := rand.New(rand.NewPCG(7, 7))
	digits := func(n int) string {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte('0' + r.IntN(10))
		}
		b[0] = byte('1' + r.IntN(9))
		return string(b)
	}
	ean := func() string { // a barcode with its check digit
		d := "40" + digits(10)
		sum := 0
		for i := range 12 {
			sum += int(d[i]-'0') * (1 + 2*(i%2))
		}
		return d + string(byte('0'+(10-sum%10)%10))
	}
	uuid := func() string {
		return fmt.Sprintf("%08x-%04x-4%03x-a%03x-%012x", r.Uint32(), r.IntN(1<<16), r.IntN(1<<12), r.IntN(1<<12), r.Int64N(1<<48))
	}
	words := []string{"running shoes", "Wein & Käse", "50% off", "size:XL", "a@b", "user@localhost", "@brand", "price (at cost)", "meet at 5", "C++", "black/white", "summer-sale-2026", "utm_campaign", "newsletter", "eyJust a word", "https://shop.example/a/b", "1.2.3.4", "142.0.0.0", "v10.15.7", "16:9", "12:34:56", "::", "2026-11-25T12:34:56Z", "2026-11-25 12:34", "1,234.56", "EUR 1234.56", "+10%", "-20", "3/4", "+1", "1e10"}
	out = append(out, words...)
	token := func(n int, of string) string {
		b := make([]byte, n)
		for i := range b {
			b[i] = of[r.IntN(len(of))]
		}
		return string(b)
	}
	const hex, base36, base62 = "0123456789abcdef", "0123456789abcdefghijklmnopqrstuvwxyz", "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	for range 100 { // random tokens, in which an IBAN or a hash could stand by chance
		out = append(out, "a"+token(23, hex), "x"+token(30, hex), token(26, "0123456789ABCDEFGHJKMNPQRSTVWXYZ"), token(36, base36), token(43, base62))
	}
	for len(out) < 1100 {
		out = append(out,
			"1763"+digits(9), // a time in milliseconds
			"1763"+digits(6), ean(), uuid(), fmt.Sprintf("%d.%02d", r.IntN(5000), r.IntN(100)),
			fmt.Sprintf("sku-%s", digits(5)), fmt.Sprintf("SKU%d-%c%c", r.IntN(1e6), 'A'+rune(r.IntN(26)), 'A'+rune(r.IntN(26))),
			fmt.Sprintf("%d.%d.%d", r.IntN(20), r.IntN(20), r.IntN(4000)), fmt.Sprintf("120.0.%d.%d", 1000+r.IntN(9000), r.IntN(300)),
			fmt.Sprintf("2026%02d%02d", 1+r.IntN(12), 1+r.IntN(28)), fmt.Sprintf("%dx%d", 300+r.IntN(900), 50+r.IntN(600)),
			fmt.Sprintf("cat/%d/sub-%d", r.IntN(1000), r.IntN(1000)), fmt.Sprintf("#%06x", r.IntN(1<<24)),
			fmt.Sprintf("%07x", r.IntN(1<<28)), fmt.Sprintf("%012x", r.Int64N(1<<48)), // short hashes of releases
			fmt.Sprintf("page %d of %d, %d results", r.IntN(90), 90, r.IntN(90000)),
			netip.AddrFrom4([4]byte{byte(r.IntN(9)), byte(r.IntN(9)), byte(r.IntN(9)), byte(r.IntN(200))}).String()) // versions
	}
	return out
}

// The two rates of the firewall: of 500 and more personal values none passes,
// and of 500 and more that only look alike, none is refused.
func TestTheFirewallsRates(t *testing.T) {
	rate := func(corpus []string, want bool) (right, all int) {
		seen := map[string]bool{}
		for _, v := range corpus {
			if seen[v] {
				continue
			}
			seen[v] = true
			all++
			if RefusesValue("note", v) == want {
				right++
			} else {
				t.Errorf("%q: refused is %v (%s)", v, !want, findPII(v))
			}
		}
		return right, all
	}
	caught, personal := rate(personalCorpus(), true)
	kept, harmless := rate(harmlessCorpus(), false)
	t.Logf("caught %d of %d personal values (%.1f %%); kept %d of %d look-alikes (%.1f %%)", caught, personal, 100*float64(caught)/float64(personal), kept, harmless, 100*float64(kept)/float64(harmless))
	if personal < 500 || harmless < 500 {
		t.Errorf("the corpora have %d and %d values, want 500 each", personal, harmless)
	}
}
