// Package s3 is the transport that puts chunks into a bucket: Amazon's, or of
// anyone who speaks S3.
package s3

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"path"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/segments/delivery/transport"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// Entries of Destination.Account.
const (
	Endpoint  = "endpoint"   // https://s3.eu-central-1.amazonaws.com
	Region    = "region"     // default us-east-1
	PathStyle = "path_style" // "true": the bucket stands in the path, not in the host
)

// What stands in a URL for the day on which a chunk was made.
const (
	Day       = "${YYYYMMDD}"
	DayDashed = "${YYYY-MM-DD}"
)

const (
	defaultRegion = "us-east-1"
	// partBytes is how large a part of an upload in parts is. Parts are read from
	// the store as they are sent, so this is no memory.
	partBytes = 16 << 20
	// mostAnswer is how much of an answer is read.
	mostAnswer = 1 << 20

	wholeTimeout = 14 * time.Minute
)

// Options are what the transport works with. Guard and Secret are needed.
type Options struct {
	// Guard connects.
	Guard *transport.Guard
	// Secret returns the content of a credentials file: access key and secret
	// key, a line each.
	Secret func(file string) (string, error)
	// Roots are the authorities that are trusted; nil: the system's.
	Roots *x509.CertPool
}

// Transport is the S3 transport.
type Transport struct {
	o      Options
	client http.RoundTripper
}

var _ delivery.Transport = (*Transport)(nil)

// New returns the transport. It connects to nothing.
func New(o Options) *Transport {
	return &Transport{o: o, client: bounded{transport.RoundTripper(o.Guard, o.Roots)}}
}

// bounded reads at most so much of an answer, whoever reads it.
type bounded struct{ http.RoundTripper }

func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := b.RoundTripper.RoundTrip(r)
	if err == nil {
		res.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(res.Body, mostAnswer), res.Body}
	}
	return res, err
}

// Facts: files are pushed, and a manifest comes last, since whoever reads a
// bucket cannot tell whether more is to come.
func (t *Transport) Facts() delivery.TransportFacts { return delivery.TransportFacts{Manifest: true} }

// where is a destination's bucket.
type where struct {
	endpoint *url.URL
	bucket   string
	folder   string
}

func target(d *delivery.Destination, created taxonomy.Millis) (w where, err error) {
	day := created.Time().UTC()
	s := strings.NewReplacer(Day, day.Format("20060102"), DayDashed, day.Format("2006-01-02")).Replace(d.URL)
	u, err := url.Parse(s)
	switch {
	case err != nil || d.URL == "":
		return w, taxonomy.Invalid("url", "is not a URL: want s3://bucket/folder")
	case u.Scheme != "s3":
		return w, taxonomy.Invalid("url", "scheme %q: want s3://bucket/folder", u.Scheme)
	case u.Host == "" || u.User != nil || u.Port() != "":
		return w, taxonomy.Invalid("url", "want a bucket, and no user nor password: they belong into credentials_file")
	case u.RawQuery != "" || u.Fragment != "" || strings.ContainsAny(u.Path, "{}") || strings.Contains(u.Path, ".."):
		return w, taxonomy.Invalid("url", "want a folder behind the bucket, and in it %s or %s for the day", Day, DayDashed)
	}
	w.bucket, w.folder = u.Host, strings.Trim(u.Path, "/")
	e, err := url.Parse(d.Account[Endpoint])
	if err != nil || e.Hostname() == "" || e.User != nil || strings.Trim(e.Path, "/") != "" || e.RawQuery != "" || e.Scheme != "https" && e.Scheme != "http" {
		return w, taxonomy.Invalid("account", "%s: want the service's address, such as https://s3.eu-central-1.amazonaws.com", Endpoint)
	}
	w.endpoint = e
	return w, nil
}

// Check looks at bucket, endpoint and credentials.
func (t *Transport) Check(d *delivery.Destination) error {
	var errs []error
	w, err := target(d, 0)
	if err != nil {
		errs = append(errs, err)
	} else {
		switch host, ipErr := netip.ParseAddr(w.endpoint.Hostname()); {
		case ipErr == nil && !t.o.Guard.Allows(host):
			errs = append(errs, taxonomy.Invalid("account", "%s: %s is no public address; which the configuration does not allow", Endpoint, host))
		case w.endpoint.Scheme == "http" && (ipErr != nil || transport.Public(host)):
			errs = append(errs, taxonomy.Invalid("account", "%s: want https", Endpoint))
		}
	}
	if p := d.Account[PathStyle]; p != "" && p != "true" && p != "false" {
		errs = append(errs, taxonomy.Invalid("account", "%s: %q is not true or false", PathStyle, p))
	}
	if d.CredentialsFile == "" {
		errs = append(errs, taxonomy.Invalid("credentials_file", "is empty: want the file with access key and secret key, a line each"))
	}
	return errors.Join(errs...)
}

// Send puts a chunk, in parts if it is large. An object is there whole or not at
// all; sent again, it is the same object.
func (t *Transport) Send(ctx context.Context, d *delivery.Destination, c *delivery.Chunk) error {
	if err := t.Check(d); err != nil {
		return err
	}
	if c.Name == "" || strings.ContainsAny(c.Name, "/\\\x00") {
		return fmt.Errorf("put chunk: %q is no file's name", c.Name)
	}
	w, err := target(d, c.Created)
	if err != nil {
		return err
	}
	secret, err := t.o.Secret(d.CredentialsFile)
	if err != nil {
		return fmt.Errorf("read credentials: %w", err)
	}
	access, key, ok := strings.Cut(secret, "\n")
	access, key = strings.TrimSpace(access), strings.TrimSpace(key)
	if !ok || access == "" || key == "" || strings.ContainsAny(key, "\r\n") {
		return errors.New("read credentials: want two lines, access key and secret key")
	}
	region := d.Account[Region]
	if region == "" {
		region = defaultRegion
	}
	lookup := minio.BucketLookupAuto
	if d.Account[PathStyle] == "true" {
		lookup = minio.BucketLookupPath
	}
	client, err := minio.New(w.endpoint.Host, &minio.Options{
		Creds: credentials.NewStaticV4(access, key, ""), Secure: w.endpoint.Scheme == "https",
		Transport: t.client, Region: region, BucketLookup: lookup,
		MaxRetries: 1, // the deliverer asks again, by its own clock
	})
	if err != nil {
		return fmt.Errorf("put chunk: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, wholeTimeout)
	defer cancel()
	body := io.NewSectionReader(c.Body, 0, c.Body.Size())
	_, err = client.PutObject(ctx, w.bucket, path.Join(w.folder, c.Name), body, body.Size(), minio.PutObjectOptions{
		ContentType: c.MediaType, PartSize: partBytes, NumThreads: 2,
		UserMetadata: map[string]string{"ebb-key": c.Key, "ebb-sha256": fmt.Sprintf("%x", c.SHA256)},
	})
	return outcome(err)
}

// outcome says what came of a put.
func outcome(err error) error {
	if err == nil {
		return nil
	}
	var ce *transport.ConnectError
	if errors.As(err, &ce) {
		return ce
	}
	a := minio.ToErrorResponse(err)
	code := a.Code
	if len(code) > 64 || strings.Trim(code, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789") != "" {
		code = "unknown"
	}
	said := fmt.Errorf("the bucket answers %d %s", a.StatusCode, code)
	switch {
	case a.StatusCode == 0 || a.StatusCode < 300:
		return fmt.Errorf("no answer, or none that is S3's: %w", retention.ErrUnknown)
	case a.StatusCode < 400:
		return fmt.Errorf("%w, a redirect, which is not followed: look at account.%s and account.%s", said, Endpoint, Region)
	case a.StatusCode == http.StatusUnauthorized || a.StatusCode == http.StatusForbidden:
		return fmt.Errorf("%w: look at credentials_file, and at what it may write", said)
	case a.StatusCode == http.StatusNotFound && code == "NoSuchBucket":
		return fmt.Errorf("%w: look at the bucket in url", said)
	case a.StatusCode == http.StatusNotFound:
		return fmt.Errorf("%w: look at url, and at credentials_file", said)
	case a.StatusCode == http.StatusTooManyRequests || a.StatusCode == http.StatusServiceUnavailable:
		return &delivery.Later{Err: said}
	case a.StatusCode >= 500:
		return fmt.Errorf("%w: %w", said, retention.ErrUnknown)
	}
	// What it says of a request (its clock, its size) may be mended on either
	// side; the file is the same.
	return said
}
