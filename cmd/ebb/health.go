package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/ebb-dmp/ebb/cmd/ebb/cli"
	"github.com/ebb-dmp/ebb/cmd/ebb/config"
)

type healthCommand struct {
	URL     string        `placeholder:"URL" help:"Where the private listener is. Default: the setting listen.private."`
	Timeout time.Duration `default:"5s" help:"How long to wait for an answer."`
}

func (healthCommand) Help() string {
	return `Ends with 0 if the server is alive and ready for traffic, otherwise with 1. It asks /healthz and /readyz of the private listener, so it suits a container's health check.

Examples:

    ebb health
    ebb health --url http://127.0.0.1:8082 -o json`
}

// probe is the answer of one address.
type probe struct {
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`
}

// Run asks a running server whether it is alive and ready.
func (h healthCommand) Run(c *cli.Context) error {
	base, client, err := h.client(c)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c, h.Timeout)
	defer cancel()
	doc := struct {
		URL   string `json:"url"`
		Alive probe  `json:"alive"`
		Ready probe  `json:"ready"`
	}{base, ask(ctx, client, base+"/healthz"), ask(ctx, client, base+"/readyz")}

	word := func(p probe) string {
		if p.OK {
			return "yes"
		}
		return "no"
	}
	var rows cli.Rows
	rows.Add("alive", word(doc.Alive), doc.Alive.Detail)
	rows.Add("ready", word(doc.Ready), doc.Ready.Detail)
	if err := c.Print(doc, rows); err != nil {
		return err
	}
	if !doc.Alive.OK || !doc.Ready.OK {
		return cli.ErrSilent
	}
	return nil
}

// client returns the address of the private listener and what speaks to it.
func (h healthCommand) client(c *cli.Context) (string, *http.Client, error) {
	transport := &http.Transport{DisableKeepAlives: true}
	client := &http.Client{Transport: transport}
	if h.URL != "" {
		return strings.TrimSuffix(h.URL, "/"), client, nil
	}
	settings, err := c.Config()
	if err != nil {
		return "", nil, err
	}
	host, port, err := net.SplitHostPort(settings.Listen.Private)
	if err != nil {
		return "", nil, fmt.Errorf("listen.private: %w", err)
	}
	if port == "0" {
		return "", nil, cli.Usage(errors.New("listen.private takes a free port, so its address is not known here; name it with --url"))
	}
	if host == "" || host == "0.0.0.0" || host == "::" {
		host = "localhost" // it listens everywhere; here is nearest
	}
	if !settings.Secure("private") {
		return "http://" + net.JoinHostPort(host, port), client, nil
	}
	if transport.TLSClientConfig, err = trust(settings.TLS); err != nil {
		return "", nil, err
	}
	return "https://" + net.JoinHostPort(host, port), client, nil
}

// trust accepts exactly the certificate that the server is configured with,
// under the first of its names: the listener's own address is seldom one.
func trust(t config.TLS) (*tls.Config, error) {
	chain, err := os.ReadFile(t.Cert)
	if err != nil {
		return nil, fmt.Errorf("read the server's certificate: %w", err)
	}
	block, _ := pem.Decode(chain)
	if block == nil {
		return nil, fmt.Errorf("read the server's certificate: %s holds no PEM", t.Cert)
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("read the server's certificate: %s: %w", t.Cert, err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	name := ""
	if len(leaf.DNSNames) > 0 {
		name = leaf.DNSNames[0]
	}
	return &tls.Config{RootCAs: roots, ServerName: name, MinVersion: tls.VersionTLS12}, nil
}

// ask gets one address. Whatever goes wrong is the answer.
func ask(ctx context.Context, client *http.Client, url string) probe {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return probe{Detail: err.Error()}
	}
	res, err := client.Do(req)
	if err != nil {
		return probe{Detail: fmt.Sprintf("%v; is the server running? start it with `ebb serve`", err)}
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 4096))
	if err != nil {
		return probe{Detail: err.Error()}
	}
	detail := strings.Join(strings.Fields(string(body)), " ")
	if res.StatusCode != http.StatusOK {
		return probe{Detail: strings.TrimSpace(res.Status + " " + detail)}
	}
	return probe{OK: true, Detail: detail}
}
