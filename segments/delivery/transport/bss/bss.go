// Package bss is the transport to Xandr's Batch Segment Service: an upload URL
// is asked for, a file goes there, and the job that works on it is followed to
// its outcome.
package bss

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/segments/delivery/transport"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// MemberID is the entry of Destination.Account with our number at Xandr.
const MemberID = "member_id"

const (
	mostAnswer = 1 << 20
	// afterLimit is how long a member has to be quiet whose limit is reached.
	afterLimit = time.Hour
	// mostTokens is how many logins are remembered.
	mostTokens = 64
)

// Transport is the transport. It is made by New.
type Transport struct {
	o      transport.HTTP
	client *http.Client

	mu     sync.Mutex
	tokens map[[32]byte]string // by address and credentials
}

var (
	_ delivery.Transport = (*Transport)(nil)
	_ delivery.Follower  = (*Transport)(nil)
)

// New returns the transport. It connects to nothing.
func New(o transport.HTTP) *Transport {
	return &Transport{o: o, client: o.Client(), tokens: map[[32]byte]string{}}
}

// Facts: files are pushed.
func (t *Transport) Facts() delivery.TransportFacts { return delivery.TransportFacts{} }

// Check looks at URL, member and credentials.
func (t *Transport) Check(d *delivery.Destination) error {
	var errs []error
	if _, err := t.address(d.URL); err != nil {
		errs = append(errs, &taxonomy.FieldError{Field: "url", Err: err})
	} else if u, _ := url.Parse(d.URL); u.RawQuery != "" || strings.Trim(u.Path, "/") != "" {
		errs = append(errs, taxonomy.Invalid("url", "want the API's address alone: https://api.appnexus.com"))
	}
	if n, err := strconv.ParseInt(d.Account[MemberID], 10, 32); err != nil || n <= 0 {
		errs = append(errs, taxonomy.Invalid("account", "%q: want your member's number at Xandr", MemberID))
	}
	if d.CredentialsFile == "" {
		errs = append(errs, taxonomy.Invalid("credentials_file", "is empty: want the file with user and password of the API, a line each"))
	}
	return errors.Join(errs...)
}

// address is a URL that may be spoken to: also that of an upload, which comes
// from outside.
func (t *Transport) address(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil || u.Hostname() == "" || u.User != nil {
		return nil, errors.New("is not a URL: want https://api.appnexus.com")
	}
	host, ipErr := netip.ParseAddr(u.Hostname())
	if ipErr == nil && !t.o.Guard.Allows(host) {
		return nil, errors.New("is no public address, which the configuration does not allow")
	}
	if u.Scheme != "https" && (u.Scheme != "http" || ipErr != nil || transport.Public(host)) {
		return nil, fmt.Errorf("scheme %q: want https", u.Scheme)
	}
	return u, nil
}

// answer is what the API answers, as far as it is read.
type answer struct {
	Response struct {
		Status    string   `json:"status"`
		ErrorCode string   `json:"error_code"`
		ErrorID   string   `json:"error_id"`
		Token     string   `json:"token"`
		Errors    []string `json:"errors"`
		Upload    struct {
			JobID string `json:"job_id"`
		} `json:"segment_upload"`
		Job oneOrMany `json:"batch_segment_upload_job"`
	} `json:"response"`
}

// oneOrMany is a job, or a list with one: which of them depends on who asks.
type oneOrMany struct{ job }

type job struct {
	ID        string `json:"job_id"`
	UploadURL string `json:"upload_url"`
	Phase     string `json:"phase"`
	Errors    map[string]int
}

// counters are those of rows that were not taken.
var counters = []string{
	"num_invalid_user", "num_invalid_format", "num_invalid_segment", "num_invalid_timestamp", "num_unauth_segment",
	"num_past_expiration", "num_inactive_segment", "num_other_error",
}

func (o *oneOrMany) UnmarshalJSON(b []byte) error {
	if b = bytes.TrimSpace(b); len(b) > 0 && b[0] == '[' {
		var list []json.RawMessage
		if err := json.Unmarshal(b, &list); err != nil {
			return err
		}
		if len(list) != 1 {
			return fmt.Errorf("%d jobs, want one", len(list))
		}
		b = list[0]
	}
	if err := json.Unmarshal(b, &o.job); err != nil {
		return err
	}
	var all map[string]json.RawMessage
	if err := json.Unmarshal(b, &all); err != nil {
		return err
	}
	for _, c := range counters {
		// Numbers come as numbers or as texts.
		n, err := strconv.Atoi(strings.Trim(string(all[c]), `"`))
		if err == nil && n > 0 {
			if o.Errors == nil {
				o.Errors = map[string]int{}
			}
			o.Errors[strings.TrimPrefix(c, "num_")] = n
		}
	}
	return nil
}

// call is a request and its answer. A status that is none of success is an
// error, and so is what the API calls one.
func (t *Transport) call(ctx context.Context, method string, u *url.URL, token, media string, body *io.SectionReader) (a answer, err error) {
	var r io.Reader
	if body != nil {
		r = body
	}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), r)
	if err != nil {
		return a, errors.New("make request: the URL is not one")
	}
	if body != nil {
		req.ContentLength = body.Size()
	}
	req.Header.Set("User-Agent", "ebb")
	if media != "" {
		req.Header.Set("Content-Type", media)
	}
	if token != "" {
		req.Header.Set("Authorization", token)
	}
	res, err := t.client.Do(req)
	if err != nil {
		return a, transport.NoAnswer(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, mostAnswer+1))
	readable := err == nil && len(b) <= mostAnswer && json.Unmarshal(b, &a) == nil
	switch {
	case readable && a.Response.ErrorID == "NOAUTH":
		return a, errNoAuth
	case readable && a.Response.ErrorCode == "RATE_LIMIT_EXCEEDED":
		return a, &delivery.Later{After: afterLimit, Err: errors.New("the receiver answers RATE_LIMIT_EXCEEDED")}
	case readable && a.Response.ErrorCode == "FILESIZE_LIMIT_EXCEEDED":
		return a, fmt.Errorf("the receiver answers FILESIZE_LIMIT_EXCEEDED: %w", delivery.ErrRefused)
	}
	if err := transport.Status(res, t.o.Now()); err != nil {
		return a, err
	}
	if !readable {
		return a, fmt.Errorf("the answer is not what Xandr documents: %w", retention.ErrUnknown)
	}
	if a.Response.Status != "OK" && a.Response.Status != "" {
		return a, errors.New("the receiver answers that it was an error")
	}
	return a, nil
}

var errNoAuth = errors.New("the receiver answers NOAUTH: look at credentials_file")

// with calls fn with a token: the last one, or if that is no longer one, with a
// new one. Few logins are allowed.
func (t *Transport) with(ctx context.Context, d *delivery.Destination, fn func(base *url.URL, token string) error) error {
	if err := t.Check(d); err != nil {
		return err
	}
	base, err := t.address(d.URL)
	if err != nil {
		return err
	}
	secret, err := t.o.Secret(d.CredentialsFile)
	if err != nil {
		return fmt.Errorf("read credentials: %w", err)
	}
	user, password, ok := strings.Cut(secret, "\n")
	user, password = strings.TrimSpace(user), strings.TrimSpace(password)
	if !ok || user == "" || password == "" {
		return errors.New("read credentials: want two lines, user and password")
	}
	key := sha256.Sum256([]byte(base.String() + "\n" + secret))
	t.mu.Lock()
	token := t.tokens[key]
	t.mu.Unlock()
	if token != "" {
		if err := fn(base, token); !errors.Is(err, errNoAuth) {
			return err
		}
	}
	body, err := json.Marshal(map[string]any{"auth": map[string]string{"username": user, "password": password}})
	if err != nil {
		return fmt.Errorf("log in: %w", err)
	}
	a, err := t.call(ctx, http.MethodPost, base.JoinPath("auth"), "", "application/json", io.NewSectionReader(bytes.NewReader(body), 0, int64(len(body))))
	if err != nil {
		// Nothing of a chunk has been sent yet.
		var later *delivery.Later
		if errors.As(err, &later) {
			return &delivery.Later{After: later.After, Err: errors.New("log in: " + later.Err.Error())}
		}
		return errors.New("log in: " + err.Error())
	}
	if token = a.Response.Token; token == "" || strings.ContainsAny(token, "\r\n") {
		return errors.New("log in: the receiver gives no token: look at credentials_file")
	}
	t.mu.Lock()
	if len(t.tokens) >= mostTokens {
		clear(t.tokens)
	}
	t.tokens[key] = token
	t.mu.Unlock()
	return fn(base, token)
}

// Send asks for an upload's URL and sends the file there.
func (t *Transport) Send(ctx context.Context, d *delivery.Destination, c *delivery.Chunk) error {
	return t.with(ctx, d, func(base *url.URL, token string) error {
		u := base.JoinPath("batch-segment")
		u.RawQuery = url.Values{"member_id": {d.Account[MemberID]}}.Encode()
		a, err := t.call(ctx, http.MethodPost, u, token, "", nil)
		if err != nil {
			if errors.Is(err, retention.ErrUnknown) {
				return errors.New("ask for an upload: " + err.Error()) // of the chunk nothing has been sent
			}
			return fmt.Errorf("ask for an upload: %w", err)
		}
		to, err := t.address(a.Response.Job.UploadURL)
		if err != nil {
			return fmt.Errorf("ask for an upload: the URL %w", err)
		}
		a, err = t.call(ctx, http.MethodPost, to, token, "application/octet-stream", io.NewSectionReader(c.Body, 0, c.Body.Size()))
		if err != nil {
			return fmt.Errorf("upload: %w", err)
		}
		if a.Response.Upload.JobID == "" {
			return fmt.Errorf("upload: the answer names no job: %w", retention.ErrUnknown)
		}
		if c.Took != nil {
			c.Took(a.Response.Upload.JobID)
		}
		return nil
	})
}

// Follow asks what has become of a job.
func (t *Transport) Follow(ctx context.Context, d *delivery.Destination, id string) (o delivery.JobOutcome, err error) {
	err = t.with(ctx, d, func(base *url.URL, token string) error {
		u := base.JoinPath("batch-segment")
		u.RawQuery = url.Values{"member_id": {d.Account[MemberID]}, "job_id": {id}}.Encode()
		a, err := t.call(ctx, http.MethodGet, u, token, "", nil)
		if err != nil {
			return fmt.Errorf("ask for a job: %w", err)
		}
		switch a.Response.Job.Phase {
		case "completed":
			o = delivery.JobOutcome{Ended: true, Rejected: a.Response.Job.Errors}
		case "error":
			o = delivery.JobOutcome{Ended: true, Failed: "the receiver's job ended in an error", Rejected: a.Response.Job.Errors}
		case "starting", "uploading", "validating", "processing":
		default:
			return fmt.Errorf("ask for a job: the answer is not what Xandr documents: %w", retention.ErrUnknown)
		}
		return nil
	})
	return o, err
}
