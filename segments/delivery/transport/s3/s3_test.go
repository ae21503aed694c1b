package s3_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/segments/delivery/transport"
	"github.com/ebb-dmp/ebb/segments/delivery/transport/s3"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// server is versitygw, a real S3 server, over a folder.
type server struct {
	root, address string
	roots         *x509.CertPool
	broken        atomic.Int64 // bytes after which a connection breaks; 0: never
	dials         atomic.Int64
}

func start(t testing.TB) *server {
	t.Helper()
	found, _ := filepath.Glob("../../../../.cache/versitygw/*/versitygw")
	if len(found) == 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("no versitygw: run deploy/test tools")
		}
		t.Skip("no versitygw: run deploy/test tools")
	}
	dir := t.TempDir()
	s := &server{root: filepath.Join(dir, "root"), roots: x509.NewCertPool()}
	if err := os.MkdirAll(filepath.Join(s.root, "drop"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "side"), 0o700); err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "s3"}, NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"s3.dsp.example"}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	s.roots.AppendCertsFromPEM(certPEM)
	for name, b := range map[string][]byte{"cert.pem": certPEM, "key.pem": pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER})} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.address = l.Addr().String()
	l.Close()
	tool, err := filepath.Abs(found[0])
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(tool, "--port", s.address, "--access", "ebb", "--secret", "hidden-secret", "--cert", filepath.Join(dir, "cert.pem"), "--key", filepath.Join(dir, "key.pem"), "--quiet", "posix", "--sidecar", filepath.Join(dir, "side"), s.root)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.Dir = dir
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() { cmd.Process.Kill(); <-ended })
	for {
		c, err := net.Dial("tcp", s.address)
		if err == nil {
			c.Close()
			return s
		}
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("versitygw ended: %v\n%s", err, out.String())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// breaking is a connection that ends after so many bytes are written.
type breaking struct {
	net.Conn
	left int64
}

func (b *breaking) Write(p []byte) (int, error) {
	if b.left -= int64(len(p)); b.left < 0 {
		b.Conn.Close()
		return 0, io.ErrClosedPipe
	}
	return b.Conn.Write(p)
}

func (s *server) transport(secret string) *s3.Transport {
	return s3.New(s3.Options{Roots: s.roots, Secret: func(string) (string, error) { return secret, nil }, Guard: guard(s.address, func(c net.Conn) net.Conn {
		s.dials.Add(1)
		if n := s.broken.Load(); n > 0 {
			return &breaking{c, n}
		}
		return c
	})})
}

func guard(address string, wrap func(net.Conn) net.Conn) *transport.Guard {
	return &transport.Guard{
		Resolve: func(context.Context, string) ([]netip.Addr, error) {
			return []netip.Addr{netip.MustParseAddr("93.184.215.14")}, nil
		},
		Connect: func(ctx context.Context, network, _ string) (net.Conn, error) {
			c, err := new(net.Dialer).DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return wrap(c), nil
		},
	}
}

func destination() *delivery.Destination {
	return &delivery.Destination{ID: "dsp", URL: "s3://drop/in/dt=${YYYYMMDD}", CredentialsFile: "s3", Account: map[string]string{"endpoint": "https://s3.dsp.example", "path_style": "true"}}
}

var created = taxonomy.MillisOf(time.Date(2026, 11, 25, 23, 59, 0, 0, time.UTC))

func chunk(body []byte) *delivery.Chunk {
	return &delivery.Chunk{Name: "e0-g1-full.tsv.gz", Key: strings.Repeat("a", 32), MediaType: "application/gzip", Created: created, Body: io.NewSectionReader(bytes.NewReader(body), 0, int64(len(body))), SHA256: sha256.Sum256(body)}
}

// On a real server an object is there whole or not at all, in a folder of the
// day on which it was made, in one part or in many; sent twice it is one.
func TestAnObjectIsThereWholeOrNotAtAll(t *testing.T) {
	s := start(t)
	tr := s.transport("ebb\nhidden-secret")
	file := filepath.Join(s.root, "drop", "in", "dt=20261125", "e0-g1-full.tsv.gz")
	for _, size := range []int{40, 35 << 20} {
		body := make([]byte, size)
		rand.Read(body)
		s.broken.Store(1000) // in the request
		if size > 1<<20 {
			s.broken.Store(5 << 20) // in its first part
		}
		if err := s.transport("ebb\nhidden-secret").Send(context.Background(), destination(), chunk(body)); err == nil {
			t.Fatal("a broken connection was no error")
		}
		if b, err := os.ReadFile(file); err == nil && len(b) == size {
			t.Fatal("an object of which a part was sent is there")
		}
		s.broken.Store(0)
		for range 2 {
			if err := tr.Send(context.Background(), destination(), chunk(body)); err != nil {
				t.Fatal(err)
			}
			if b, err := os.ReadFile(file); err != nil || !bytes.Equal(b, body) {
				t.Fatalf("the server holds %d bytes of %d, %v", len(b), size, err)
			}
		}
	}
}

func TestACredentialThatDoesNotHoldIsNamedAndNotShown(t *testing.T) {
	s := start(t)
	for _, secret := range []string{"ebb\nother-secret", "nobody\nhidden-secret", "ebb"} {
		err := s.transport(secret).Send(context.Background(), destination(), chunk([]byte("rows")))
		if err == nil || !strings.Contains(err.Error(), "credentials") || strings.Contains(err.Error(), "secret\n") || strings.Contains(err.Error(), "hidden") || errors.Is(err, delivery.ErrRefused) {
			t.Errorf("%v", err)
		}
	}
	d := destination()
	d.URL = "s3://nowhere/"
	if err := s.transport("ebb\nhidden-secret").Send(context.Background(), d, chunk([]byte("rows"))); err == nil || !strings.Contains(err.Error(), "bucket") {
		t.Error(err)
	}
}

// A fake server answers what servers should not.
func TestStrangeAnswersAreBounded(t *testing.T) {
	var answer http.HandlerFunc
	var asked atomic.Int64
	fake := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { asked.Add(1); io.Copy(io.Discard, r.Body); answer(w, r) }))
	defer fake.Close()
	roots := x509.NewCertPool()
	roots.AddCert(fake.Certificate())
	tr := s3.New(s3.Options{Roots: roots, Guard: guard(fake.Listener.Addr().String(), func(c net.Conn) net.Conn { return c }), Secret: func(string) (string, error) { return "a\nb", nil }})
	d := destination()
	d.Account["endpoint"] = "https://example.com"
	for name, x := range map[string]struct {
		answer http.HandlerFunc
		check  func(error) bool
	}{
		"a redirect to the inside": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "https://10.0.0.1/")
			w.WriteHeader(307)
		}, func(err error) bool { return strings.Contains(err.Error(), "redirect") }},
		"503":       {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) }, func(err error) bool { var l *delivery.Later; return errors.As(err, &l) }},
		"500":       {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }, func(err error) bool { return errors.Is(err, retention.ErrUnknown) }},
		"garbage":   {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(400); io.WriteString(w, "<html>") }, func(err error) bool { return true }},
		"no answer": {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, func(err error) bool { return errors.Is(err, retention.ErrUnknown) }},
		"10 GB": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/xml")
			w.WriteHeader(400)
			block := make([]byte, 1<<20)
			for range 10 << 10 {
				if _, err := w.Write(block); err != nil {
					return
				}
			}
		}, func(err error) bool { return true }},
	} {
		answer = x.answer
		asked.Store(0)
		err := tr.Send(context.Background(), d, chunk([]byte("rows")))
		if err == nil || !x.check(err) || errors.Is(err, delivery.ErrRefused) {
			t.Errorf("%s: %v", name, err)
		}
		if n := asked.Load(); n > 2 {
			t.Errorf("%s: was asked %d times", name, n)
		}
	}
}

func TestNothingInsideIsReached(t *testing.T) {
	tr := s3.New(s3.Options{Guard: &transport.Guard{
		Resolve: func(context.Context, string) ([]netip.Addr, error) {
			return []netip.Addr{netip.MustParseAddr("10.0.0.1")}, nil
		},
		Connect: func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("reached") },
	}, Secret: func(string) (string, error) { return "a\nb", nil }})
	if err := tr.Send(context.Background(), destination(), chunk([]byte("rows"))); err == nil || !strings.Contains(err.Error(), "not public") {
		t.Fatal(err)
	}
	d := destination()
	for _, bad := range []string{"http://s3.example.com", "https://127.0.0.1", "ftp://x", "", "https://x/y", "https://u:p@x"} {
		d.Account["endpoint"] = bad
		if err := tr.Check(d); err == nil || !strings.Contains(err.Error(), "endpoint") {
			t.Errorf("%q: %v", bad, err)
		}
	}
	d.Account["endpoint"] = "https://s3.example.com"
	for _, bad := range []string{"", "https://b/", "s3:///x", "s3://u:p@b/", "s3://b/?x", "s3://b/${DATE}", "s3://b/../c"} {
		d.URL = bad
		if err := tr.Check(d); err == nil || !strings.Contains(err.Error(), "url") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// BenchmarkSend puts a file of as many bytes as a segment file of 3,790,000
// pseudonyms has, and prints members and megabytes a second, how they are to those of
// the bare client that puts the same bytes into the same bucket, and how much memory
// the sender holds at most beyond what it had.
func BenchmarkSend(b *testing.B) {
	s := start(b)
	tr := s.transport("ebb\nhidden-secret")
	// 17.7 bytes a member, as the SFTP transport's benchmark has it.
	const members, size = 3_790_000, 64 << 20
	var ours, bare time.Duration
	var most uint64
	client, err := minio.New("s3.dsp.example", &minio.Options{
		Creds: credentials.NewStaticV4("ebb", "hidden-secret", ""), Secure: true, Region: "us-east-1", BucketLookup: minio.BucketLookupPath,
		Transport: transport.RoundTripper(guard(s.address, func(c net.Conn) net.Conn { return c }), s.roots),
	})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		was := m.HeapAlloc
		c := chunk(nil)
		c.Body = io.NewSectionReader(zeros{}, 0, size)
		begin := time.Now()
		if err := tr.Send(context.Background(), destination(), c); err != nil {
			b.Fatal(err)
		}
		ours += time.Since(begin)
		runtime.ReadMemStats(&m)
		most = max(most, m.HeapAlloc-min(was, m.HeapAlloc))
		begin = time.Now()
		if _, err := client.PutObject(context.Background(), "drop", "bare", io.NewSectionReader(zeros{}, 0, size), size, minio.PutObjectOptions{ContentType: "application/gzip", PartSize: 16 << 20, NumThreads: 2}); err != nil {
			b.Fatal(err)
		}
		bare += time.Since(begin)
	}
	b.ReportMetric(float64(b.N*members)/ours.Seconds()/1e6, "Mmembers/s")
	b.ReportMetric(float64(b.N*size)/ours.Seconds()/1e6, "MB/s")
	b.ReportMetric(float64(bare)/float64(ours), "times-bare-client")
	b.ReportMetric(float64(most)/1e6, "MB-heap")
}

type zeros struct{}

func (zeros) ReadAt(p []byte, _ int64) (int, error) { clear(p); return len(p), nil }
