package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/ebb-dmp/ebb/cmd/ebb/config"
	"github.com/ebb-dmp/ebb/cmd/ebb/keyfile"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/keys"
)

// TestMain lets scripts run this test binary as the program ebb.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"ebb": main})
}

// TestScripts runs testdata/script: what a person types, and what must come.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			// A program under the race detector sleeps for a second before it ends,
			// and there are hundreds of commands. Nothing is missed without: a report
			// that is under way is waited for.
			env.Setenv("GORACE", "atexit_sleep_ms=0")
			return certificate(env.WorkDir, "ebb.test")
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"newkeys":   newKeys,
			"server":    server,
			"shop":      shop,
			"purchases": purchases,
			"ready":     ready,
			"flip":      flip,
			"field":     field,
		},
	})
}

// newKeys writes a file of keys that were made so many days ago: newkeys FILE
// DAYS [SPACE].
func newKeys(ts *testscript.TestScript, neg bool, args []string) {
	var days int
	if _, err := fmt.Sscan(args[1], &days); err != nil || neg {
		ts.Fatalf("usage: newkeys FILE DAYS [SPACE]")
	}
	ring, err := keys.Generate(rand.Reader, taxonomy.DayOf(time.Now())-taxonomy.Day(days))
	ts.Check(err)
	if len(args) > 2 {
		ring, err = ring.WithSpace(rand.Reader, taxonomy.Space(args[2]))
		ts.Check(err)
	}
	ts.Check(keyfile.Create(ts.MkAbs(args[0]), ring))
}

// server answers /healthz and /readyz with the given statuses, and sets ADDR:
// server HEALTHZ READYZ.
func server(ts *testscript.TestScript, neg bool, args []string) {
	var alive, ready int
	if _, err := fmt.Sscan(args[0]+" "+args[1], &alive, &ready); err != nil || neg {
		ts.Fatalf("usage: server HEALTHZ READYZ")
	}
	mux := http.NewServeMux()
	answer := func(status int, text string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			fmt.Fprintln(w, text)
		}
	}
	mux.Handle("GET /healthz", answer(alive, "alive"))
	mux.Handle("GET /readyz", answer(ready, "log: writable"))
	s := httptest.NewServer(mux)
	ts.Defer(s.Close)
	ts.Setenv("ADDR", s.Listener.Addr().String())
}

// certificate writes cert.pem and key.pem for a name, signed by itself.
func certificate(dir, name string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return err
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	for file, block := range map[string]*pem.Block{"cert.pem": {Type: "CERTIFICATE", Bytes: cert}, "key.pem": {Type: "EC PRIVATE KEY", Bytes: der}} {
		if err := os.WriteFile(filepath.Join(dir, file), pem.EncodeToMemory(block), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// Every command has a script that runs it, and help with an example in it that
// begins with its own name.
func TestEveryCommandHasExamplesAndAScript(t *testing.T) {
	settings := newFlags()
	parser, err := kong.New(new(commands), kong.Name("ebb"), kong.Embed(settings.target()))
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join("testdata", "script", "*.txtar"))
	if err != nil {
		t.Fatal(err)
	}
	var scripts string
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		scripts += string(b)
	}
	n := 0
	for _, leaf := range parser.Model.Leaves(true) {
		n++
		name := leaf.FullPath()
		if !strings.Contains(leaf.Detail, "\n    "+name) {
			t.Errorf("%s: its help shows no example of it", name)
		}
		if !strings.Contains(scripts, "exec "+name) {
			t.Errorf("%s: no script runs it", name)
		}
	}
	if n < 4 {
		t.Fatalf("found only %d commands", n)
	}
}

// The program must answer a signal while it waits for a server that does not.
func TestHealthEndsWithItsContext(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // takes connections, says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithCancel(t.Context())
	client := &http.Client{}
	done := make(chan probe)
	go func() { done <- ask(ctx, client, "http://"+l.Addr().String()+"/healthz") }()
	conn, err := l.Accept() // the request is under way
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	cancel()
	if p := <-done; p.OK {
		t.Errorf("got %+v, want a failure", p)
	}
}

// A private listener off loopback speaks TLS; its address is seldom a name of
// the certificate, and another certificate is another server.
func TestHealthTrustsTheConfiguredCertificateOnly(t *testing.T) {
	ours, theirs := t.TempDir(), t.TempDir()
	for _, dir := range []string{ours, theirs} {
		if err := certificate(dir, "ebb.test"); err != nil {
			t.Fatal(err)
		}
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(ours, "cert.pem"), filepath.Join(ours, "key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "alive") }))
	s.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	defer s.Close()
	for dir, want := range map[string]bool{ours: true, theirs: false} {
		conf, err := trust(config.TLS{Cert: filepath.Join(dir, "cert.pem")})
		if err != nil {
			t.Fatal(err)
		}
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: conf, DisableKeepAlives: true}}
		if p := ask(t.Context(), client, s.URL); p.OK != want {
			t.Errorf("with the certificate of ours=%v: got %+v", want, p)
		}
	}
}
