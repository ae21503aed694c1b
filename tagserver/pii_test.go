package tagserver

import (
	"encoding/base64"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/ebb-dmp/ebb/taxonomy"
)

func TestPIIIsFound(t *testing.T) {
	for s, want := range map[string]piiClass{
		"jane@example.com":                          piiEmail,
		"mail me: jane.doe+x@sub.example.co.uk now": piiEmail,
		"JANE@EXAMPLE.COM":                          piiEmail,
		"jane%40example.com":                        piiEmail,
		"jane%2540example.com":                      piiEmail,
		"jane%252540example.com":                    piiEmail,
		"jane＠example.com":                          piiEmail,
		"jane%EF%BC%A0example.com":                  piiEmail,
		"jane(at)example.com":                       piiEmail,
		"jane [AT] example.com":                     piiEmail,
		"jane(at)example(dot)com":                   piiEmail,
		"jane&#64;example.com":                      piiEmail,
		"amFuZS5kb2VAZXhhbXBsZS5jb20=":              piiEmail, // base64
		"amFuZS5kb2VAZXhhbXBsZS5jb20%3D":            piiEmail,
		"müller@bücher.example":                     piiEmail,
		"/u/jane@example.com/orders":                piiEmail,
		"+49 170 1234567":                           piiPhone,
		"+491701234567":                             piiPhone,
		"%2B491701234567":                           piiPhone,
		"+1 (212) 555-0100":                         piiPhone,
		"(212) 555-0100":                            piiPhone,
		"212-555-0100":                              piiPhone,
		"1-212-555-0100":                            piiPhone,
		"00491701234567":                            piiPhone,
		"0049 170 1234567":                          piiPhone,
		"0170 1234567":                              piiPhone,
		"0170/1234567":                              piiPhone,
		"030-901820000":                             piiPhone,
		"01701234567":                               piiPhone,
		"06 12 34 56 78":                            piiPhone,
		"call 07911 123456 today":                   piiPhone,
		"4111 1111 1111 1111":                       piiCard,
		"4111-1111-1111-1111":                       piiCard,
		"5500 0055 5555 5559":                       piiCard,
		"3782 822463 10005":                         piiCard,
		"30569309025904":                            piiCard,
		"id 12 4111 1111 1111 1111":                 piiCard,
		"4111111111111111":                          piiDigits,
		"order-123456789012345":                     piiDigits,
		"card4111111111111111":                      piiDigits,
		"DE89370400440532013000":                    piiIBAN,
		"DE89 3704 0044 0532 0130 00":               piiIBAN,
		"pay to gb82 west 1234 5698 7654 32 please": piiIBAN,
		"NO9386011117947":                           piiIBAN,
		"FR1420041010050500013M02606":               piiIBAN,
		"iban%3DDE89370400440532013000":             piiIBAN,
	} {
		if got := findPII(s); got != want {
			t.Errorf("%q: %q, want %q", s, got, want)
		}
	}
}

func TestWhatIsNoPIIPasses(t *testing.T) {
	for _, s := range []string{
		"", "page", "add_to_cart", "Order Completed", "1234.56", "1.2.3.4", "2026-11-25", "2026-11-25T10:30:00.000Z",
		"25.11.2026 10:30", "01/02/2026 10:30", "1764063000000", "20261125103000", "4006381333931", "9783161484100", "0306406152",
		"12345678", "550e8400-e29b-41d4-a716-446655440000", "e0417-like", "d41d8cd98f00b204e9800998ecf8427e",
		"0412-1234", "size 38/40/42", "1920x1080", "@mention", "user @ home", "a@b", "3 @ 4.50", "a@b.1", "x@1.2.3.4", "twitter.com/@brand", "50% off",
		"100%", "%", "%zz", "price (at) 5", "c:iab/483-1", "utm_source", "日本語のページ", "AB12", "SE35 is a bus line of our city",
		"DE12345678901234", "be68539007547035x", "https://shop.example/p/1234567", "1-2-3-4-5-6-7-8-9", "12 34 56", "v2.14.0-rc.1+build.5", "00:00:00",
		"e00112233445566778899aabbccddeeff", "aGVsbG8gd29ybGQ", "50.000.000", "0.123456789", "-0.5",
	} {
		if got := findPII(s); got != "" {
			t.Errorf("%q: taken for a %s", s, got)
		}
	}
}

// The identifiers that tags and sites make of chance are not PII.
func TestRandomIdentifiersPass(t *testing.T) {
	r := seeded(7)
	bad := 0
	const n = 20_000
	for range n {
		var b [16]byte
		r.Read(b[:])
		hex := fmt.Sprintf("%x", b)
		for _, s := range []string{"e" + hex, hex, hex[:8] + "-" + hex[8:12] + "-" + hex[12:16] + "-" + hex[16:20] + "-" + hex[20:]} {
			if findPII(s) != "" {
				bad++
			}
		}
	}
	if bad > 0 {
		t.Errorf("%d of %d random identifiers are taken for PII", bad, 3*n)
	}
}

// However an address is dressed, it is found.
func TestAnEmailIsFoundInEveryDress(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		local := rapid.StringMatching(`[a-z][a-z0-9]{0,8}(\.[a-z]{1,5})?(\+[a-z]{1,3})?`).Draw(t, "local")
		host := rapid.StringMatching(`[a-z]{1,8}(-[a-z]{1,3})?\.(com|example|co\.uk)`).Draw(t, "host")
		s := local + "@" + host
		for range rapid.IntRange(0, 3).Draw(t, "rounds") {
			s = url.QueryEscape(s)
			if d, _ := url.QueryUnescape(s); d == "" {
				t.Fatal("not encoded")
			}
		}
		s = rapid.SampledFrom([]string{"", "/u/", "x=", "<", "mailto:", "to "}).Draw(t, "before") + s +
			rapid.SampledFrom([]string{"", "/", "&y=1", ">", " now"}).Draw(t, "after")
		if findPII(s) != piiEmail {
			t.Fatalf("%q passes", s)
		}
	})
}

// Luhn and mod 97 against their definitions by way of construction: what is
// built to check is found, one digit off is not a card.
func TestCheckDigits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := []byte("4" + rapid.StringMatching(`[0-9]{14}`).Draw(t, "digits") + "0")
		for !luhn(d) {
			d[15]++
		}
		s := fmt.Sprintf("%s %s %s %s", d[:4], d[4:8], d[8:12], d[12:])
		if findPII(s) != piiCard {
			t.Fatalf("%q passes", s)
		}
		d[15] = '0' + (d[15]-'0'+1)%10
		if luhn(d) {
			t.Fatalf("%q: two check digits", d)
		}
	})
}

// P4: no field of an event lets PII through, and no answer, sample or log shows
// it. The canary in an allowed field shows that the search finds.
func TestNoPIIIsKeptFromAnyField(t *testing.T) {
	values := map[string]string{
		"e-mail": "jane.canary@example.com", "encoded": "jane.canary%40example.com", "phone": "+49 170 7654321", "card": "4111 1111 1111 1111", "iban": "DE89370400440532013000", "digits": "998877665544332211",
	}
	fields := map[string]string{
		"id": `{"id":"%s"}`, "name": `{"name":"x %s"}`, "url": `{"url":"https://shop.example/u/%s/"}`, "query": `{"url":"https://shop.example/?cat=%s"}`,
		"props.k": `{"props":{"k":"is %s"}}`, "props key 0": `{"props":{"%s":1}}`, "number": `{"props":{"k":[%s]}}`,
	}
	for class, v := range values {
		for field, form := range fields {
			e := newEdge(t)
			e.canaries = []string{v, "canary", "7654321", "998877665544332211"}
			escaped := v
			if field == "url" || field == "query" {
				escaped = strings.ReplaceAll(v, " ", "%20")
			}
			if field == "number" {
				escaped = `"` + v + `"`
			}
			w := e.browser().post("shop", 1, `{"site":"shop","consent":{"granted":true},"events":[`+fmt.Sprintf(form, escaped)+`]}`)
			r := reply(t, w)
			if r.Stored != 0 || len(r.Refused) != 1 {
				t.Errorf("%s in %s: %s", class, field, w.Body)
				continue
			}
			if field != "number" && r.Refused[0].Code != "pii" {
				t.Errorf("%s in %s: refused as %q", class, field, r.Refused[0].Code)
			}
			for _, c := range e.canaries {
				if strings.Contains(w.Body.String(), c) || strings.Contains(fmt.Sprint(w.Header()), c) {
					t.Errorf("%s in %s: the answer shows it", class, field)
				}
			}
			if field == "number" {
				continue
			}
			name := field
			if name == "query" {
				name = "url"
			}
			s := e.Refusals("shop")
			if len(s) != 1 || s[0].Where != "events[0]."+name || s[0].Sample == "" || s[0].Code != "pii" {
				t.Errorf("%s in %s: sample %+v", class, field, s)
			}
			if e.metric("events_total", "reason", "pii") != 1 {
				t.Errorf("%s in %s: not counted", class, field)
			}
		}
	}
	// What the page cannot help: gone without a word, and nothing of it kept.
	e := newEdge(t)
	e.canaries = []string{"jane", "secret"}
	b := e.browser()
	b.post("shop", 1, `{"site":"shop","consent":{"granted":true},"events":[{"name":"kept-canary","url":"https://jane:secret@shop.example/a;s=jane@example.com?email=jane@example.com#jane@example.com","ref":"https://mail.example/?to=jane@example.com"}]}`)
	if k := e.kinds(); len(k) != 1 || k[0] != taxonomy.RecordConsent {
		// The matrix parameter is part of the path as it was sent.
		t.Errorf("an address in a matrix parameter passes: %v", k)
	}
	b.post("shop", 1, `{"site":"shop","consent":{"granted":true},"events":[{"name":"kept-canary","url":"https://jane:secret@shop.example/a?email=jane@example.com#jane@example.com","ref":"https://mail.example/?to=jane@example.com"}]}`)
	r := e.last(taxonomy.RecordEvent)
	if r.Event.URL != "https://shop.example/a" || r.Event.Ref != "https://mail.example" || r.Event.Name != "kept-canary" {
		t.Errorf("kept: %+v", r.Event)
	}
}

func TestURLsAreCleaned(t *testing.T) {
	keep := []string{"cat", "utm_source"}
	for raw, want := range map[string]string{
		"":                               "",
		"https://Shop.Example":           "https://shop.example",
		"HTTPS://shop.example:8443/A/b/": "https://shop.example:8443/A/b/",
		"https://shop.example/?cat=a&x=1&utm_source=b&cat=c":                      "https://shop.example/?cat=a&utm_source=b&cat=c",
		"https://shop.example/a?CAT=1":                                            "https://shop.example/a",
		"https://shop.example/a?cat":                                              "https://shop.example/a?cat=",
		"https://shop.example/a?x=1;cat=2":                                        "https://shop.example/a",
		"https://shop.example/order/12345678/x":                                   "https://shop.example/order/:id/x",
		"https://shop.example/p/123456":                                           "https://shop.example/p/123456",
		"https://shop.example/550e8400-e29b-41d4-a716-446655440000":               "https://shop.example/:id",
		"https://shop.example/a;jsessionid=1/b;c":                                 "https://shop.example/a/b",
		"https://shop.example/ä b":                                                "https://shop.example/%C3%A4%20b",
		"https://shop.example//x":                                                 "https://shop.example//x",
		"http://u:p@shop.example/#f":                                              "http://shop.example/",
		"https://shop.example/2026/11/25/how-to-grow-tomatoes-in-your-own-garden": "https://shop.example/2026/11/25/how-to-grow-tomatoes-in-your-own-garden",
	} {
		got, f := cleanURL(raw, keep)
		if f != nil || got != want {
			t.Errorf("%q: %q, %v; want %q", raw, got, f, want)
		}
		// Cleaning again changes nothing.
		if again, f := cleanURL(got, keep); f != nil || again != got {
			t.Errorf("%q: cleaned twice: %q, %v", raw, again, f)
		}
	}
	for _, raw := range []string{"x", "//shop.example/", "ftp://shop.example/", "javascript:x", "https://", "https:///a", "https://[::1", "data:text/html,x"} {
		if got, f := cleanURL(raw, keep); f == nil {
			t.Errorf("%q: %q, want a fault", raw, got)
		}
	}
	for raw, want := range map[string]string{
		"": "", "https://A.example/x?y#z": "https://a.example", "android-app://com.x": "", "garbage": "", "https://u:p@a.example/": "https://a.example",
	} {
		if got, f := cleanRef(raw); f != nil || got != want {
			t.Errorf("referrer %q: %q, want %q", raw, got, want)
		}
	}
}

func TestASampleShowsNothing(t *testing.T) {
	if got, want := redact("Jane.Doé+1@example.com\x00"), "aaaa.aa*+0@aaaaaaa.aaa*"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if n := len(redact(strings.Repeat("x", 1000))); n != 64 {
		t.Errorf("%d bytes", n)
	}
}

// What the leak test of the whole App has found: a hash as a key, what base64
// hides besides addresses, a token behind a word and a colon.
func TestWhatTheLeakTestFoundIsRefused(t *testing.T) {
	const hash = "5f4dcc3b5aa765d61d8327deb882cf99aabbccdd"
	if _, f := cleanProps(nil, []wireProp{{Key: hash, Value: "v"}}); f == nil || f.reason != taxonomy.ReasonPII || strings.Contains(f.why+f.field, hash) {
		t.Errorf("a hash as a key: %+v", f)
	}
	for _, plain := range []string{"+49 151 23456789", "4111 1111 1111 1111", "DE89 3704 0044 0532 0130 00", hash, "jane@mail.example"} {
		for _, enc := range []*base64.Encoding{base64.StdEncoding, base64.RawURLEncoding} {
			if s := enc.EncodeToString([]byte(plain)); findPII(s) == "" {
				t.Errorf("%q hides in %q", plain, s)
			}
		}
	}
	for _, s := range []string{"token:eyJwIjoxfQ.eyJwIjoxfQ.c2ln", "mailto:eyJwIjoxfQ.eyJwIjoxfQ.c2ln", "key:AKIAIOSFODNN7EXAMPLEX"} {
		if findPII(s) == "" {
			t.Errorf("%q passes", s)
		}
	}
	for _, s := range []string{base64.StdEncoding.EncodeToString([]byte("summer sale, 20 % off")), base64.StdEncoding.EncodeToString([]byte("sku 12345")), "eyJhIjoxfQ"} {
		if c := findPII(s); c != "" {
			t.Errorf("%q is taken for %s", s, c)
		}
	}
}
