package receivertest

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
	"math/big"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"testing"
	"time"
)

// The certificate of both servers with TLS: it is made before anything looks for
// the system's, among which SSL_CERT_FILE puts it.
var certFile, keyFile string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "receivertest")
		if err != nil {
			panic(err)
		}
		defer os.RemoveAll(dir)
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			panic(err)
		}
		cert := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotAfter: time.Now().Add(time.Hour),
			DNSNames: []string{"drop.dsp.example", "s3.dsp.example"}, IsCA: true, BasicConstraintsValid: true}
		der, err := x509.CreateCertificate(rand.Reader, cert, cert, &key.PublicKey, key)
		if err != nil {
			panic(err)
		}
		keyDER, err := x509.MarshalECPrivateKey(key)
		if err != nil {
			panic(err)
		}
		certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
		for name, b := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "EC PRIVATE KEY", Bytes: keyDER}} {
			if err := os.WriteFile(name, pem.EncodeToMemory(b), 0o600); err != nil {
				panic(err)
			}
		}
		os.Setenv("SSL_CERT_FILE", certFile)
		return m.Run()
	}())
}

// receiver is a server of somebody else's: what it holds lies in a folder.
type receiver struct {
	folder string
	dial   func(ctx context.Context) (net.Conn, error)
	secret string
	// account is what the destination must say of it.
	account map[string]string
	url     string
}

func tool(t *testing.T, name, how string, places ...string) string {
	t.Helper()
	for _, p := range places {
		if found, _ := filepath.Glob(p); len(found) > 0 {
			abs, err := filepath.Abs(found[0])
			if err != nil {
				t.Fatal(err)
			}
			return abs
		}
	}
	if os.Getenv("CI") != "" {
		t.Fatalf("no %s here: %s", name, how)
	}
	t.Skipf("no %s here: %s", name, how)
	return ""
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func dialer(address string) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", address)
	}
}

// serve runs a server until the test ends, and returns when it takes connections.
func serve(t *testing.T, address string, cmd *exec.Cmd) {
	t.Helper()
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
			return
		}
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("%s ended: %v\n%s", cmd.Path, err, out.String())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func nginx(t *testing.T) *receiver {
	bin := tool(t, "nginx", "apt-get install nginx-light", "/usr/sbin/nginx", "/usr/bin/nginx")
	dir, address := t.TempDir(), freeAddress(t)
	root := filepath.Join(dir, "drop")
	as := ""
	if os.Geteuid() == 0 {
		as = "user root;"
	}
	mkdir(t, root, filepath.Join(dir, "body"))
	write(t, filepath.Join(dir, "nginx.conf"), fmt.Sprintf(`daemon off; %s pid %s/pid; error_log stderr; worker_processes 1;
events { worker_connections 64; }
http {
  access_log off; client_body_temp_path %s/body; client_max_body_size 100m;
  server {
    listen %s ssl; ssl_certificate %s; ssl_certificate_key %s; root %s;
    if ($http_authorization != "Bearer s3cret") { return 401; }
    location / { dav_methods PUT; create_full_put_path on; }
  }
}
`, as, dir, dir, address, certFile, keyFile, root))
	serve(t, address, exec.Command(bin, "-p", dir, "-c", filepath.Join(dir, "nginx.conf")))
	return &receiver{folder: filepath.Join(root, "in"), dial: dialer(address), secret: "s3cret", url: "https://drop.dsp.example/in/${NAME}"}
}

func versitygw(t *testing.T) *receiver {
	bin := tool(t, "versitygw", "deploy/test tools", "../../../../.cache/versitygw/*/versitygw")
	dir, address := t.TempDir(), freeAddress(t)
	root := filepath.Join(dir, "root")
	mkdir(t, filepath.Join(root, "drop"), filepath.Join(dir, "side"))
	serve(t, address, exec.Command(bin, "--port", address, "--access", "ebb", "--secret", "hidden-secret", "--cert", certFile, "--key", keyFile, "--quiet", "posix", "--sidecar", filepath.Join(dir, "side"), root))
	return &receiver{folder: filepath.Join(root, "drop", "in"), dial: dialer(address), secret: "ebb\nhidden-secret", url: "s3://drop/in",
		account: map[string]string{"endpoint": "https://s3.dsp.example", "path_style": "true"}}
}

// sshd is OpenSSH's own: sshd -i speaks to one client on its standard input.
func sshd(t *testing.T) *receiver {
	bin := tool(t, "sshd", "apt-get install openssh-server", "/usr/sbin/sshd")
	if os.Geteuid() == 0 {
		os.MkdirAll("/run/sshd", 0o755) // where sshd of root leaves its privileges
	}
	dir := t.TempDir()
	home := filepath.Join(dir, "home")
	mkdir(t, filepath.Join(home, "in"))
	keygen := func(name string) string {
		if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, name)).CombinedOutput(); err != nil {
			t.Fatalf("ssh-keygen: %v\n%s", err, out)
		}
		return filepath.Join(dir, name)
	}
	host, client := keygen("host"), keygen("client")
	write(t, filepath.Join(dir, "config"), fmt.Sprintf("HostKey %s\nAuthorizedKeysFile %s.pub\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nPidFile none\nSubsystem sftp internal-sftp -d %s\nForceCommand internal-sftp -d %s\n", host, client, home, home))
	u, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	r := &receiver{folder: filepath.Join(home, "in"), secret: read(t, client), url: "sftp://" + u.Username + "@sftp.dsp.example/in", account: map[string]string{"host_key": read(t, host+".pub")}}
	r.dial = func(ctx context.Context) (net.Conn, error) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close()
		mine, err := new(net.Dialer).DialContext(ctx, "tcp", l.Addr().String())
		if err != nil {
			return nil, err
		}
		theirs, err := l.Accept()
		if err != nil {
			return nil, err
		}
		defer theirs.Close()
		f, err := theirs.(*net.TCPConn).File()
		if err != nil {
			return nil, err
		}
		defer f.Close()
		cmd := exec.Command(bin, "-i", "-e", "-f", filepath.Join(dir, "config"))
		cmd.Stdin, cmd.Stdout = f, f
		if err := cmd.Start(); err != nil {
			return nil, err
		}
		t.Cleanup(func() { mine.Close(); cmd.Wait() })
		return mine, nil
	}
	return r
}

func mkdir(t *testing.T, names ...string) {
	t.Helper()
	for _, n := range names {
		if err := os.MkdirAll(n, 0o700); err != nil {
			t.Fatal(err)
		}
	}
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
