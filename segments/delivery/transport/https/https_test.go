package https_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/segments/delivery/transport"
	"github.com/ebb-dmp/ebb/segments/delivery/transport/https"
	"github.com/ebb-dmp/ebb/taxonomy"
)

const now = taxonomy.Millis(1_795_600_000_000)

// fake is a receiver over TLS, and a transport whose name service says that it
// is at the given address.
func fake(t *testing.T, h http.HandlerFunc, at string, private ...netip.Prefix) (*https.Transport, *delivery.Destination) {
	t.Helper()
	s := httptest.NewTLSServer(h)
	t.Cleanup(s.Close)
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	tr := https.New(https.Options{Guard: &transport.Guard{
		Resolve: func(_ context.Context, host string) ([]netip.Addr, error) {
			if host != "example.com" {
				return nil, errors.New("no such host")
			}
			return []netip.Addr{netip.MustParseAddr(at)}, nil
		},
		Connect: func(ctx context.Context, network, address string) (net.Conn, error) {
			if host, _, _ := net.SplitHostPort(address); host != at {
				t.Errorf("dialled %s", address)
			}
			return new(net.Dialer).DialContext(ctx, network, s.Listener.Addr().String())
		},
		Private: private,
	},
		Secret: func(string) (string, error) { return "s3cret", nil },
		Now:    func() taxonomy.Millis { return now },
		Roots:  roots,
	})
	return tr, &delivery.Destination{ID: "dsp", URL: "https://example.com/in?token=hush", CredentialsFile: "dsp-token"}
}

func chunk(body string) *delivery.Chunk {
	return &delivery.Chunk{
		Name: "e0-g1-full.tsv.gz", Key: "00112233445566778899aabbccddeeff", MediaType: "application/gzip",
		Body: io.NewSectionReader(strings.NewReader(body), 0, int64(len(body))),
	}
}

const outside = "93.184.215.14"

func TestAChunkArrivesWithItsKeyAndSecret(t *testing.T) {
	calls := 0
	tr, d := fake(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		calls++
		want := "POST /in?token=hush"
		if calls == 2 {
			want = "PUT /drop/e0-g1-full.tsv.gz"
		}
		if got := r.Method + " " + r.URL.RequestURI(); got != want || string(b) != "rows" || r.Header.Get("Idempotency-Key") != "00112233445566778899aabbccddeeff" ||
			r.Header.Get("Authorization") != "Bearer s3cret" || r.ContentLength != 4 || r.Header.Get("Content-Type") != "application/gzip" {
			t.Errorf("%s, %q, %v", got, b, r.Header)
		}
	}, outside)
	if err := tr.Send(context.Background(), d, chunk("rows")); err != nil {
		t.Fatal(err)
	}
	d.URL = "https://example.com/drop/${NAME}"
	if err := tr.Send(context.Background(), d, chunk("rows")); err != nil || calls != 2 {
		t.Fatal(err, calls)
	}
}

// Every kind of answer has its outcome, and none repeats the URL or the secret.
func TestEachAnswerHasItsOutcome(t *testing.T) {
	const taken, refused, unknown, not = "taken", "refused", "unknown", "not taken"
	for _, c := range []struct {
		name    string
		answer  http.HandlerFunc
		outcome string
		after   time.Duration
	}{
		{"200", func(w http.ResponseWriter, _ *http.Request) {}, taken, 0},
		{"202", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(202) }, taken, 0},
		{"400", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(400) }, refused, 0},
		{"413", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(413) }, refused, 0},
		{"401", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(401) }, not, 0},
		{"429 with seconds", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "7")
			w.WriteHeader(429)
		}, not, 7 * time.Second},
		{"503 with a date", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", (now + 2*taxonomy.Minute).Time().UTC().Format(http.TimeFormat))
			w.WriteHeader(503)
		}, not, 2 * time.Minute},
		{"500", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }, unknown, 0},
		{"a redirect inside", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://169.254.169.254/latest/meta-data", http.StatusTemporaryRedirect)
		}, not, 0},
		{"no answer after accepting", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, unknown, 0},
		{"a body without end", func(w http.ResponseWriter, r *http.Request) {
			for b := bytes.Repeat([]byte("x"), 1<<16); r.Context().Err() == nil; {
				if _, err := w.Write(b); err != nil {
					return
				}
			}
		}, taken, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			tr, d := fake(t, c.answer, outside)
			err := tr.Send(context.Background(), d, chunk("rows"))
			got := not
			switch {
			case err == nil:
				got = taken
			case errors.Is(err, delivery.ErrRefused):
				got = refused
			case errors.Is(err, retention.ErrUnknown):
				got = unknown
			}
			var later *delivery.Later
			if errors.As(err, &later); c.after > 0 && (later == nil || later.After != c.after) {
				t.Errorf("asked again after %v, want %v", later, c.after)
			}
			if got != c.outcome {
				t.Errorf("%s, want %s: %v", got, c.outcome, err)
			}
			if err != nil && (strings.Contains(err.Error(), "hush") || strings.Contains(err.Error(), "s3cret")) {
				t.Errorf("the error tells a secret: %v", err)
			}
		})
	}
}

// An answer that the format reads is read whole or not at all.
func TestGarbageAndTooMuchAreUnknownToWhoReadsAnswers(t *testing.T) {
	size := 10
	tr, d := fake(t, func(w http.ResponseWriter, _ *http.Request) { w.Write(bytes.Repeat([]byte("x"), size)) }, outside)
	c := chunk("rows")
	c.Judge = func(_ int, answer []byte) (delivery.Verdict, error) {
		if len(answer) != size {
			t.Errorf("got %d bytes", len(answer))
		}
		return delivery.Verdict{}, retention.ErrUnknown
	}
	if err := tr.Send(context.Background(), d, c); !errors.Is(err, retention.ErrUnknown) {
		t.Fatal(err)
	}
	size = 2 << 20
	c.Judge = func(int, []byte) (delivery.Verdict, error) { t.Error("judged in part"); return delivery.Verdict{}, nil }
	if err := tr.Send(context.Background(), d, c); !errors.Is(err, retention.ErrUnknown) {
		t.Fatal(err)
	}
}

// The address is looked at when it is connected to, whatever the name was when
// the destination was defined.
func TestNoPrivateAddressIsReached(t *testing.T) {
	for _, a := range []string{
		"127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255",
		"::1", "::", "fe80::1", "fd00::1", "::ffff:10.0.0.1", "64:ff9b::a00:1", "2002:a00:1::", "ff02::1", "::7f00:1",
	} {
		tr, d := fake(t, func(http.ResponseWriter, *http.Request) { t.Errorf("%s was reached", a) }, a)
		err := tr.Send(context.Background(), d, chunk("rows"))
		if err == nil || errors.Is(err, retention.ErrUnknown) || !strings.Contains(err.Error(), "not public") {
			t.Errorf("%s: %v", a, err)
		}
		d.URL = "https://" + netip.MustParseAddr(a).String() + "/"
		if strings.Contains(a, ":") {
			d.URL = "https://[" + a + "]/"
		}
		if tr.Check(d) == nil {
			t.Errorf("%s was taken for a URL's host", a)
		}
	}
	reached := false
	tr, d := fake(t, func(http.ResponseWriter, *http.Request) { reached = true }, "10.1.2.3", netip.MustParsePrefix("10.1.0.0/16"))
	if err := tr.Send(context.Background(), d, chunk("rows")); err != nil || !reached {
		t.Errorf("an address that is allowed: %v", err)
	}
}

func TestFaultsOfAURLAreNamed(t *testing.T) {
	tr, d := fake(t, func(http.ResponseWriter, *http.Request) {}, outside)
	for _, bad := range []string{"", "http://example.com/", "ftp://example.com/", "https:///x", "https://u:p@example.com/", "https://${NAME}.example.com/", "https://%zz/"} {
		d.URL = bad
		var fe *taxonomy.FieldError
		if err := tr.Check(d); !errors.As(err, &fe) || fe.Field != "url" {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
