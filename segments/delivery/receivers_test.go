package delivery_test

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"
	"time"

	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/segments/delivery/format/tradedesk"
	"github.com/ebb-dmp/ebb/segments/delivery/transport"
	"github.com/ebb-dmp/ebb/segments/delivery/transport/https"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// fakeTradeDesk answers as The Trade Desk's documentation says, or as networks
// do, and keeps what it accepted.
type fakeTradeDesk struct {
	now    func() taxonomy.Millis
	answer func(accept func(), w http.ResponseWriter)
	ends   map[string]taxonomy.Millis
	bad    string
}

func (f *fakeTradeDesk) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b, err := io.ReadAll(r.Body)
	var body struct {
		Items []struct {
			DataProviderUserId string
			Data               []struct {
				Name         string
				TtlInMinutes int
			}
		}
	}
	if err != nil || json.Unmarshal(b, &body) != nil || r.Header.Get("TTD-Auth") != "token" {
		f.bad = "a request that is none"
	}
	f.answer(func() {
		for _, i := range body.Items {
			for _, d := range i.Data {
				row := i.DataProviderUserId + "\t" + d.Name
				f.ends[row] = f.now() + taxonomy.Millis(d.TtlInMinutes)*taxonomy.Minute
			}
		}
	}, w)
}

// After each kind of answer, and the next that is well, the partner's set equals
// ours, and what the ledger says is what it holds.
func TestAfterEachAnswerThePartnersSetEqualsOurs(t *testing.T) {
	for name, answer := range map[string]func(func(), http.ResponseWriter){
		"success": func(accept func(), w http.ResponseWriter) { accept(); io.WriteString(w, "{}") },
		"partial rejection": func(accept func(), w http.ResponseWriter) {
			accept()
			io.WriteString(w, `{"FailedLines":[{"ErrorCode":"UserNotMapped","ItemNumber":"1"}]}`)
		},
		"401": func(_ func(), w http.ResponseWriter) { w.WriteHeader(401) },
		"429 with Retry-After": func(_ func(), w http.ResponseWriter) {
			w.Header().Set("Retry-After", "120")
			w.WriteHeader(429)
		},
		"500":                       func(_ func(), w http.ResponseWriter) { w.WriteHeader(500) },
		"400":                       func(_ func(), w http.ResponseWriter) { w.WriteHeader(400) },
		"no answer after accepting": func(accept func(), _ http.ResponseWriter) { accept(); panic(http.ErrAbortHandler) },
		"garbage after accepting":   func(accept func(), w http.ResponseWriter) { accept(); io.WriteString(w, "<html>") },
		"a redirect to the inside": func(_ func(), w http.ResponseWriter) {
			w.Header().Set("Location", "https://10.0.0.1/")
			w.WriteHeader(307)
		},
		"too much after accepting": func(accept func(), w http.ResponseWriter) { accept(); w.Write(make([]byte, 3<<20)) },
	} {
		t.Run(name, func(t *testing.T) {
			r := &rig{}
			*r = *filled(t, 6)
			fake := &fakeTradeDesk{now: func() taxonomy.Millis { return r.w.now }, ends: map[string]taxonomy.Millis{}, answer: answer}
			s := httptest.NewTLSServer(fake)
			defer s.Close()
			roots := x509.NewCertPool()
			roots.AddCert(s.Certificate())
			var err error
			r.d, err = delivery.New(delivery.Options{
				Keyed: r.store.Keyed(), Blobs: r.store.Blobs(), Pseudonym: pseudonym,
				View:    func() (audience.View, error) { return r.w.view(), nil },
				Formats: map[string]delivery.Format{"tradedesk": tradedesk.Format{}},
				Transports: map[string]delivery.Transport{"https": https.New(https.Options{
					Guard: &transport.Guard{
						Resolve: func(context.Context, string) ([]netip.Addr, error) {
							return []netip.Addr{netip.MustParseAddr("93.184.215.14")}, nil
						},
						Connect: func(ctx context.Context, network, _ string) (net.Conn, error) {
							return new(net.Dialer).DialContext(ctx, network, s.Listener.Addr().String())
						},
					},
					Secret: func(string) (string, error) { return "token", nil },
					Now:    func() taxonomy.Millis { return r.w.now }, Roots: roots,
				})},
				Now: func() taxonomy.Millis { return r.w.now }, Rand: r.rand, After: func(time.Duration) <-chan time.Time { return nil },
			})
			if err != nil {
				t.Fatal(err)
			}
			dest := destination()
			dest.Format, dest.Transport, dest.URL, dest.CredentialsFile = "tradedesk", "https", "https://example.com/data/thirdparty", "ttd"
			dest.Account = map[string]string{"DataProviderId": "ebb"}
			first := r.run(t, dest)
			switch name {
			case "success", "partial rejection":
				if first.Result != delivery.ResultFull || first.Held != 24 || (first.Rejected["UserNotMapped"] == 1) != (name == "partial rejection") {
					t.Fatalf("%+v", first)
				}
			default:
				if first.Result != delivery.ResultWaiting || first.Held != 0 || first.Fault == "" {
					t.Fatalf("%+v", first)
				}
			}
			// Meanwhile one leaves, and one is erased.
			delete(r.w.visitors[0].member, "cars")
			v := r.w.visitors[1]
			v.gone = true
			if err := r.d.Forget(context.Background(), []taxonomy.VisitorKey{v.key}); err != nil {
				t.Fatal(err)
			}
			v.dropped = true
			fake.answer = func(accept func(), w http.ResponseWriter) { accept(); io.WriteString(w, "{}") }
			var done delivery.Delivery
			for range 3 {
				r.w.now += 2 * taxonomy.Hour
				done = r.run(t, dest)
			}
			p := partner{ends: fake.ends}
			same(t, name, p.holds(r.w.now), r.w.want(&dest))
			if done.Held != uint64(len(p.holds(r.w.now))) || fake.bad != "" {
				t.Fatalf("the ledger says %d, the partner holds %d; %s", done.Held, len(p.holds(r.w.now)), fake.bad)
			}
		})
	}
}
