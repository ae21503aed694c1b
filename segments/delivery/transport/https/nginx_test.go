package https_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/segments/delivery/transport"
	"github.com/ebb-dmp/ebb/segments/delivery/transport/https"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// nginx starts Debian's server as a drop for files: PUT over TLS, with a token.
func nginx(t *testing.T) (root, address string, roots *x509.CertPool) {
	t.Helper()
	tool, err := exec.LookPath("nginx")
	if err != nil {
		tool = "/usr/sbin/nginx"
	}
	if _, err := os.Stat(tool); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("no nginx: apt-get install nginx-light")
		}
		t.Skip("no nginx: apt-get install nginx-light")
	}
	dir := t.TempDir()
	root = filepath.Join(dir, "drop")
	for _, d := range []string{root, filepath.Join(dir, "body")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "drop"}, NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"drop.dsp.example"}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	roots = x509.NewCertPool()
	roots.AppendCertsFromPEM(certPEM)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address = l.Addr().String()
	l.Close()
	user := ""
	if os.Geteuid() == 0 {
		user = "user root;"
	}
	for name, b := range map[string]string{
		"cert.pem": string(certPEM), "key.pem": string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER})),
		"nginx.conf": fmt.Sprintf(`daemon off; %s pid %s/pid; error_log stderr; worker_processes 1;
events { worker_connections 64; }
http {
  access_log off; client_body_temp_path %s/body; client_max_body_size 100m;
  server {
    listen %s ssl; ssl_certificate %s/cert.pem; ssl_certificate_key %s/key.pem; root %s;
    if ($http_authorization != "Bearer s3cret") { return 401; }
    location / { dav_methods PUT; create_full_put_path on; }
    location /elsewhere/ { return 307 https://10.0.0.1/; }
  }
}
`, user, dir, dir, address, dir, dir, root),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(b), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(tool, "-p", dir, "-c", filepath.Join(dir, "nginx.conf"))
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() { cmd.Process.Signal(os.Interrupt); <-ended })
	for {
		if c, err := net.Dial("tcp", address); err == nil {
			c.Close()
			return root, address, roots
		}
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("nginx ended: %v\n%s", err, out.String())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// A real server holds the bytes that it was sent, under the chunk's name; sent
// twice it is one; a token that does not hold, and a redirect, bring nothing.
func TestNginxHoldsWhatItWasSent(t *testing.T) {
	root, address, roots := nginx(t)
	secret := "s3cret"
	tr := https.New(https.Options{
		Guard: &transport.Guard{
			Resolve: func(context.Context, string) ([]netip.Addr, error) {
				return []netip.Addr{netip.MustParseAddr("93.184.215.14")}, nil
			},
			Connect: func(ctx context.Context, network, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, network, address)
			},
		},
		Secret: func(string) (string, error) { return secret, nil }, Now: func() taxonomy.Millis { return now }, Roots: roots,
	})
	d := &delivery.Destination{ID: "dsp", URL: "https://drop.dsp.example/in/${NAME}", CredentialsFile: "drop"}
	body := make([]byte, 5<<20)
	rand.Read(body)
	c := chunk("")
	c.Body = io.NewSectionReader(bytes.NewReader(body), 0, int64(len(body)))
	secret = "other"
	if err := tr.Send(context.Background(), d, c); err == nil || !strings.Contains(err.Error(), "credentials_file") {
		t.Fatal(err)
	}
	secret = "s3cret"
	for range 2 {
		if err := tr.Send(context.Background(), d, c); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join(root, "in", c.Name))
		if err != nil || !bytes.Equal(got, body) {
			t.Fatalf("nginx holds %d bytes of %d, %v", len(got), len(body), err)
		}
	}
	d.URL = "https://drop.dsp.example/elsewhere/${NAME}"
	if err := tr.Send(context.Background(), d, c); err == nil || !strings.Contains(err.Error(), "redirect") {
		t.Fatal(err)
	}
}
