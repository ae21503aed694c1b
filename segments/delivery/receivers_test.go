package delivery_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/segments/delivery/format/google"
	"github.com/ebb-dmp/ebb/segments/delivery/format/tradedesk"
	"github.com/ebb-dmp/ebb/segments/delivery/format/webhook"
	"github.com/ebb-dmp/ebb/segments/delivery/format/xandr"
	"github.com/ebb-dmp/ebb/segments/delivery/format/yahoo"
	"github.com/ebb-dmp/ebb/segments/delivery/transport"
	"github.com/ebb-dmp/ebb/segments/delivery/transport/bss"
	"github.com/ebb-dmp/ebb/segments/delivery/transport/https"
	"github.com/ebb-dmp/ebb/taxonomy"
	"google.golang.org/protobuf/encoding/protowire"
)

// fakePartner answers as a partner's documentation says, or as networks do, and
// keeps what it accepted.
type fakePartner struct {
	now    func() taxonomy.Millis
	read   func(r *http.Request, body []byte, says func(id, segment string, end taxonomy.Millis)) error
	answer func(accept func(), w http.ResponseWriter)

	mu   sync.Mutex
	ends map[string]taxonomy.Millis
	bad  string
	rows uint64 // accepted
}

func (f *fakePartner) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b, err := io.ReadAll(r.Body)
	type row struct {
		key string
		end taxonomy.Millis
	}
	var rows []row
	if err == nil {
		err = f.read(r, b, func(id, segment string, end taxonomy.Millis) { rows = append(rows, row{id + "\t" + segment, end}) })
	}
	f.mu.Lock()
	if err != nil {
		f.bad = err.Error()
	}
	f.mu.Unlock()
	f.answer(func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		for _, r := range rows {
			f.ends[r.key] = r.end
			f.rows++
		}
	}, w)
}

func (f *fakePartner) partner() *partner { return &partner{ends: f.ends} }

// numbers are the receiver's names of destination's audiences.
var numbers = map[taxonomy.AudienceID]string{"cars": "101", "either": "102", "nobody-bought": "103", "vip": "104"}

func named(number string) string {
	for a, n := range numbers {
		if n == number {
			return string(a)
		}
	}
	return "nobody's " + number
}

// speaker is what a partner takes: its format, and a reader and answers that are
// written here by its documentation.
type speaker struct {
	format   delivery.Format
	dest     func(*delivery.Destination)
	secret   string
	read     func(now taxonomy.Millis, r *http.Request, body []byte, says func(string, string, taxonomy.Millis)) error
	ok       string
	partial  string
	rejected string
}

func speakers() map[string]speaker {
	return map[string]speaker{
		"The Trade Desk": {
			format: tradedesk.Format{}, secret: "token", ok: "{}",
			dest:    func(d *delivery.Destination) { d.Account = map[string]string{"DataProviderId": "ebb"} },
			partial: `{"FailedLines":[{"ErrorCode":"UserNotMapped","ItemNumber":"1"}]}`, rejected: "UserNotMapped",
			read: func(now taxonomy.Millis, r *http.Request, b []byte, says func(string, string, taxonomy.Millis)) error {
				var body struct {
					Items []struct {
						DataProviderUserId string
						Data               []struct {
							Name         string
							TtlInMinutes int
						}
					}
				}
				if err := json.Unmarshal(b, &body); err != nil || r.Header.Get("TTD-Auth") != "token" {
					return fmt.Errorf("no request: %v", err)
				}
				for _, i := range body.Items {
					for _, d := range i.Data {
						says(i.DataProviderUserId, named(d.Name), now+taxonomy.Millis(d.TtlInMinutes)*taxonomy.Minute)
					}
				}
				return nil
			},
		},
		"Yahoo": {
			format: yahoo.Format{}, secret: "token",
			dest: func(d *delivery.Destination) { d.Account = map[string]string{"urn": "IXID", "gdpr": "false"} },
			ok:   `{"totalRows":1,"processedRows":1,"invalidRows":0}`, partial: `{"totalRows":8,"processedRows":6,"invalidRows":1,"exampleInvalidRows":[]}`, rejected: "invalidRows",
			read: func(_ taxonomy.Millis, r *http.Request, b []byte, says func(string, string, taxonomy.Millis)) error {
				var body struct{ Data [][2]string }
				if err := json.Unmarshal(b, &body); err != nil || r.Header.Get("Authorization") != "Bearer token" {
					return fmt.Errorf("no request: %v", err)
				}
				for _, d := range body.Data {
					for _, s := range strings.Split(d[1], ";") {
						q, err := url.ParseQuery(s)
						if err != nil {
							return err
						}
						end, err := strconv.ParseInt(q.Get("exp"), 10, 64)
						if err != nil {
							return err
						}
						says(d[0], named(q.Get("seg_id")), taxonomy.Millis(end)*taxonomy.Second)
					}
				}
				return nil
			},
		},
		"Google": {
			format: google.Format{}, ok: "\x08\x00", partial: "\x08\x01\x12\x02\x20\x15", rejected: "UNKNOWN_ID",
			dest: func(d *delivery.Destination) { d.Account = map[string]string{"life_days": "120"} },
			read: func(now taxonomy.Millis, _ *http.Request, b []byte, says func(string, string, taxonomy.Millis)) error {
				consent := false
				each := func(b []byte, fn func(n protowire.Number, v uint64, s []byte)) {
					for len(b) > 0 {
						n, kind, size := protowire.ConsumeTag(b)
						b = b[max(0, size):]
						var v uint64
						var s []byte
						if kind == protowire.VarintType {
							v, size = protowire.ConsumeVarint(b)
						} else {
							s, size = protowire.ConsumeBytes(b)
						}
						if size < 0 {
							return
						}
						fn(n, v, s)
						b = b[size:]
					}
				}
				each(b, func(n protowire.Number, v uint64, op []byte) {
					if n == 3 {
						consent = v == 1
					}
					if n != 1 {
						return
					}
					var id, list string
					end := now
					each(op, func(n protowire.Number, v uint64, s []byte) {
						switch n {
						case 1:
							id = string(s)
						case 4:
							list = strconv.FormatUint(v, 10)
						case 5:
							end = taxonomy.Millis(v)*taxonomy.Second + 120*taxonomy.OneDay
						}
					})
					says(id, named(list), end)
				})
				if !consent {
					return fmt.Errorf("consent is not to be processed")
				}
				return nil
			},
		},
		"a webhook": {
			format: webhook.Format{}, secret: "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
			dest: func(d *delivery.Destination) { d.Segments = nil },
			read: func(now taxonomy.Millis, r *http.Request, b []byte, says func(string, string, taxonomy.Millis)) error {
				var body struct {
					Batch []struct {
						Event, AnonymousID string
						Properties         struct {
							Key     string `json:"audience_key"`
							Expires string `json:"expires_at"`
						}
					}
				}
				if err := json.Unmarshal(b, &body); err != nil || r.Header.Get("webhook-signature") == "" {
					return fmt.Errorf("no request: %v", err)
				}
				for _, e := range body.Batch {
					end := now
					if e.Event == webhook.Entered {
						at, err := time.Parse(time.RFC3339, e.Properties.Expires)
						if err != nil {
							return err
						}
						end = taxonomy.MillisOf(at)
					}
					says(e.AnonymousID, e.Properties.Key, end)
				}
				return nil
			},
		},
	}
}

// outside is a Guard by which every name leads to one server.
func outside(s *httptest.Server) *transport.Guard {
	return &transport.Guard{
		Resolve: func(context.Context, string) ([]netip.Addr, error) {
			return []netip.Addr{netip.MustParseAddr("93.184.215.14")}, nil
		},
		Connect: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, s.Listener.Addr().String())
		},
	}
}

// reach makes the rig's deliverer send to a server.
func (r *rig) reach(t *testing.T, s *httptest.Server, f delivery.Format, secret string) {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	o := https.Options{
		Guard: outside(s), Secret: func(string) (string, error) { return secret, nil },
		Now: func() taxonomy.Millis { return r.w.now }, Roots: roots,
	}
	var err error
	r.d, err = delivery.New(delivery.Options{
		Keyed: r.store.Keyed(), Blobs: r.store.Blobs(), Pseudonym: pseudonym,
		View:       func(context.Context) (audience.View, error) { return r.w.view(), nil },
		Formats:    map[string]delivery.Format{"theirs": f},
		Transports: map[string]delivery.Transport{"https": https.New(o), "bss": bss.New(o)},
		Now:        func() taxonomy.Millis { return r.w.now }, Rand: r.rand, After: func(time.Duration) <-chan time.Time { return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
}

// tenGigabytes is more than anybody should read.
func tenGigabytes(w io.Writer) {
	block := make([]byte, 1<<20)
	for range 10 << 10 {
		if _, err := w.Write(block); err != nil {
			return
		}
	}
}

// After each kind of answer of each partner, and the next that is well, the
// partner's set equals ours, and what the ledger says is what it holds.
func TestAfterEachAnswerThePartnersSetEqualsOurs(t *testing.T) {
	for who, speaks := range speakers() {
		well := func(accept func(), w http.ResponseWriter) { accept(); io.WriteString(w, speaks.ok) }
		answers := map[string]func(func(), http.ResponseWriter){
			"success": well,
			"partial rejection": func(accept func(), w http.ResponseWriter) {
				accept()
				io.WriteString(w, speaks.partial)
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
			"10 GB after accepting": func(accept func(), w http.ResponseWriter) { accept(); tenGigabytes(w) },
		}
		if speaks.partial == "" { // it goes by the status alone
			delete(answers, "partial rejection")
			delete(answers, "garbage after accepting")
			delete(answers, "10 GB after accepting")
		}
		for name, answer := range answers {
			t.Run(who+"/"+name, func(t *testing.T) {
				r := &rig{}
				*r = *filled(t, 6)
				now := func() taxonomy.Millis { return r.w.now }
				fake := &fakePartner{now: now, ends: map[string]taxonomy.Millis{}, answer: answer, read: func(req *http.Request, b []byte, says func(string, string, taxonomy.Millis)) error {
					return speaks.read(now(), req, b, says)
				}}
				s := httptest.NewTLSServer(fake)
				defer s.Close()
				r.reach(t, s, speaks.format, speaks.secret)
				dest := destination()
				dest.Format, dest.Transport, dest.URL, dest.Segments = "theirs", "https", "https://example.com/data", numbers
				if speaks.secret != "" {
					dest.CredentialsFile = "secret"
				}
				speaks.dest(&dest)
				if err := r.d.Check(&dest); err != nil {
					t.Fatal(err)
				}
				first := r.run(t, dest)
				switch name {
				case "success", "partial rejection":
					if first.Result != delivery.ResultFull || first.Held != 24 || (first.Rejected[speaks.rejected] == 1) != (name == "partial rejection") {
						t.Fatalf("%+v", first)
					}
					if fake.rows != first.Rows {
						t.Fatalf("it was sent %d rows, the ledger says %d", fake.rows, first.Rows)
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
				fake.answer = well
				var done delivery.Delivery
				for range 3 {
					r.w.now += 2 * taxonomy.Hour
					done = r.run(t, dest)
				}
				holds := fake.partner().holds(r.w.now)
				same(t, name, holds, r.w.want(&dest))
				if done.Held != uint64(len(holds)) || fake.bad != "" {
					t.Fatalf("the ledger says %d, the partner holds %d; %s", done.Held, len(holds), fake.bad)
				}
			})
		}
	}
}

// fakeXandr is the Batch Segment Service as Microsoft documents it: a login, a
// job with an upload's URL, an upload, and a job that ends later.
type fakeXandr struct {
	now    func() taxonomy.Millis
	mu     sync.Mutex
	logins int
	token  string
	jobs   map[string][]byte // by upload
	phase  string
	ends   map[string]taxonomy.Millis
	bad    string
	list   bool   // answers a list of one
	refuse string // an error_code of uploads
}

func (f *fakeXandr) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		f.bad = err.Error()
	}
	if r.URL.Path == "/auth" {
		f.logins++
		f.token = fmt.Sprintf("hbapi:%d", f.logins)
		if string(b) != `{"auth":{"password":"pass","username":"user"}}` {
			f.bad = "a login that is none"
		}
		fmt.Fprintf(w, `{"response":{"status":"OK","token":%q}}`, f.token)
		return
	}
	if f.token == "" || r.Header.Get("Authorization") != f.token {
		w.WriteHeader(401)
		io.WriteString(w, `{"response":{"error_id":"NOAUTH","error":"Authentication failed","status":""}}`)
		return
	}
	show := func(format string, a ...any) {
		job := fmt.Sprintf(format, a...)
		if f.list {
			job = "[" + job + "]"
		}
		fmt.Fprintf(w, `{"response":{"status":"OK","batch_segment_upload_job":%s}}`, job)
	}
	switch {
	case r.URL.Path == "/batch-segment" && r.Method == "POST":
		if r.URL.Query().Get("member_id") != "958" || len(b) > 0 {
			f.bad = "a job that is none"
		}
		id := fmt.Sprintf("job%d", len(f.jobs)+1)
		f.jobs[id] = nil
		show(`{"phase":"starting","id":7,"job_id":%q,"member_id":958,"upload_url":"https://upload.example.com/segment-upload/%s"}`, id, id)
	case strings.HasPrefix(r.URL.Path, "/segment-upload/"):
		id := strings.TrimPrefix(r.URL.Path, "/segment-upload/")
		if f.refuse != "" {
			w.WriteHeader(400)
			fmt.Fprintf(w, `{"response":{"status":"ERROR","error_code":%q,"errors":["Member exceeds maximum allowed bytes per day"]}}`, f.refuse)
			return
		}
		if _, ok := f.jobs[id]; !ok || f.jobs[id] != nil || r.Header.Get("Content-Type") != "application/octet-stream" {
			f.bad = "an upload that is none"
		}
		f.jobs[id] = b
		fmt.Fprintf(w, `{"response":{"segment_upload":{"job_id":%q},"status":"OK"}}`, id)
	case r.URL.Path == "/batch-segment":
		id := r.URL.Query().Get("job_id")
		body, ok := f.jobs[id]
		if !ok || body == nil {
			f.bad = "a question for a job that is none"
		}
		if f.phase == "completed" {
			f.work(body)
		}
		show(`{"phase":%q,"job_id":%q,"num_valid":23,"num_valid_user":5,"num_invalid_user":"1","num_invalid_format":0}`, f.phase, id)
	default:
		f.bad = r.URL.Path
	}
}

func gunzipped(b []byte) (string, error) {
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return "", err
	}
	b, err = io.ReadAll(z)
	return string(b), err
}

// work reads the lines of a file.
func (f *fakeXandr) work(body []byte) {
	text, err := gunzipped(body)
	if err != nil {
		f.bad = err.Error()
	}
	for line := range strings.Lines(text) {
		id, rest, _ := strings.Cut(strings.TrimSpace(line), ";")
		for _, s := range strings.Split(rest, ",") {
			var segment, stamp, minutes int64
			if _, err := fmt.Sscanf(s, "%d:%d:%d", &segment, &stamp, &minutes); err != nil {
				f.bad = err.Error()
			}
			f.ends[id+"\t"+named(fmt.Sprint(segment))] = taxonomy.Millis(stamp)*taxonomy.Second + taxonomy.Millis(minutes)*taxonomy.Minute
			if minutes == -1 {
				delete(f.ends, id+"\t"+named(fmt.Sprint(segment)))
			}
		}
	}
}

// A job is followed to its outcome, also by a process that did not begin it; the
// rows that it rejects are shown; one that fails is said again by a full.
func TestJobsAreFollowedToTheirOutcomeAcrossACrash(t *testing.T) {
	for name, failsFirst := range map[string]bool{"completes": false, "fails, and is said again": true} {
		t.Run(name, func(t *testing.T) {
			r := &rig{}
			*r = *filled(t, 6)
			fake := &fakeXandr{now: func() taxonomy.Millis { return r.w.now }, jobs: map[string][]byte{}, ends: map[string]taxonomy.Millis{}, phase: "processing", list: failsFirst}
			s := httptest.NewTLSServer(fake)
			defer s.Close()
			r.reach(t, s, xandr.Text{}, "user\npass")
			dest := destination()
			dest.Format, dest.Transport, dest.URL, dest.CredentialsFile, dest.Segments = "theirs", "bss", "https://api.example.com", "xandr", numbers
			dest.Account, dest.Push.PerMinute = map[string]string{"member_id": "958"}, 1
			if err := r.d.Check(&dest); err != nil {
				t.Fatal(err)
			}
			first := r.run(t, dest)
			if first.Result != delivery.ResultFull || first.Jobs != 1 || first.JobsEnded != 0 || len(fake.ends) != 0 {
				t.Fatalf("%+v; %s", first, fake.bad)
			}
			r.w.now += 10 * taxonomy.Minute
			r.run(t, dest) // it still works on it
			// Another process goes on, and its login is another.
			r.reach(t, s, xandr.Text{}, "user\npass")
			fake.phase = "completed"
			if failsFirst {
				fake.phase = "error"
			}
			r.w.now += 10 * taxonomy.Minute
			r.run(t, dest)
			runs, err := r.d.Deliveries(context.Background(), dsp)
			if err != nil {
				t.Fatal(err)
			}
			found := false
			for _, run := range runs {
				if run.File == first.File {
					found = true
					if run.JobsEnded != 1 || run.Rejected["invalid_user"] != 1 || (run.JobsFailed == 1) != failsFirst {
						t.Fatalf("%+v", run)
					}
				}
			}
			letters, err := r.d.Letters(context.Background(), dsp)
			if err != nil || !found || (len(letters) == 1) != failsFirst {
				t.Fatalf("%v, %v, %v", found, letters, err)
			}
			fake.phase = "completed"
			delete(r.w.visitors[0].member, "cars")
			fake.mu.Lock()
			fake.token = "" // a login ends
			fake.mu.Unlock()
			for range 3 {
				r.w.now += taxonomy.Hour
				r.run(t, dest)
			}
			p := partner{ends: fake.ends}
			same(t, name, p.holds(r.w.now), r.w.want(&dest))
			if fake.bad != "" || fake.logins != 3 {
				t.Fatalf("%s; %d logins", fake.bad, fake.logins)
			}
		})
	}
}

func TestALimitOfXandrsIsRespectedForAnHour(t *testing.T) {
	r := &rig{}
	*r = *filled(t, 6)
	fake := &fakeXandr{now: func() taxonomy.Millis { return r.w.now }, jobs: map[string][]byte{}, ends: map[string]taxonomy.Millis{}, phase: "completed", refuse: "RATE_LIMIT_EXCEEDED"}
	s := httptest.NewTLSServer(fake)
	defer s.Close()
	r.reach(t, s, xandr.Text{}, "user\npass")
	dest := destination()
	dest.Format, dest.Transport, dest.URL, dest.CredentialsFile, dest.Segments = "theirs", "bss", "https://api.example.com", "xandr", numbers
	dest.Account, dest.Push.PerMinute = map[string]string{"member_id": "958"}, 1
	if done := r.run(t, dest); done.Result != delivery.ResultWaiting || done.Next < r.w.now+taxonomy.Hour {
		t.Fatalf("%+v", done)
	}
	asked := len(fake.jobs)
	fake.refuse = ""
	r.w.now += 30 * taxonomy.Minute
	if r.run(t, dest); len(fake.jobs) != asked {
		t.Fatal("it was asked again within the hour")
	}
	for range 2 {
		r.w.now += 31 * taxonomy.Minute
		r.run(t, dest)
	}
	p := partner{ends: fake.ends}
	same(t, "after the hour", p.holds(r.w.now), r.w.want(&dest))
}
