// Package sftp is the transport that puts chunks on a receiver's SFTP server.
package sftp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"path"
	"strings"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// HostKey is the entry of Destination.Account with the server's key, as a line
// of known_hosts has it behind the name: "ssh-ed25519 AAAA…".
const HostKey = "host_key"

// handshakeTimeout bounds connecting and logging in.
const handshakeTimeout = 20 * time.Second

// Transport is the SFTP transport.
type Transport struct {
	// Dial connects to a receiver: "sftp.dsp.example:22". It refuses what may
	// not be reached.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Secret returns the content of a credentials file: a private key as
	// ssh-keygen writes it, or a password.
	Secret func(file string) (string, error)
}

var _ delivery.Transport = Transport{}

// Facts: files are pushed.
func (Transport) Facts() delivery.TransportFacts { return delivery.TransportFacts{} }

// Check looks at URL, host key and credentials.
func (Transport) Check(d *delivery.Destination) error {
	var errs []error
	if _, _, err := target(d); err != nil {
		errs = append(errs, &taxonomy.FieldError{Field: "url", Err: err})
	}
	if _, err := hostKey(d); err != nil {
		errs = append(errs, &taxonomy.FieldError{Field: "account", Err: err})
	}
	if d.CredentialsFile == "" {
		errs = append(errs, taxonomy.Invalid("credentials_file", "is empty: want the file with the private key or the password"))
	}
	return errors.Join(errs...)
}

func target(d *delivery.Destination) (u *url.URL, address string, err error) {
	u, err = url.Parse(d.URL)
	switch {
	case err != nil || d.URL == "":
		return nil, "", errors.New("is not a URL: want sftp://user@host/folder")
	case u.Scheme != "sftp":
		return nil, "", fmt.Errorf("scheme %q: want sftp", u.Scheme)
	case u.Hostname() == "" || u.User.Username() == "":
		return nil, "", errors.New("want a user and a host: sftp://user@host/folder")
	case u.RawQuery != "" || u.Fragment != "":
		return nil, "", errors.New("want no query and no fragment")
	}
	if _, has := u.User.Password(); has {
		return nil, "", errors.New("holds a password: it belongs into credentials_file")
	}
	port := u.Port()
	if port == "" {
		port = "22"
	}
	return u, net.JoinHostPort(u.Hostname(), port), nil
}

func hostKey(d *delivery.Destination) (ssh.PublicKey, error) {
	if d.Account[HostKey] == "" {
		return nil, fmt.Errorf("has no %q: want the server's key, as `ssh-keyscan -t ed25519 HOST` prints it behind the name; compare it with what the receiver tells you", HostKey)
	}
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(d.Account[HostKey]))
	if err != nil {
		return nil, fmt.Errorf("%s is no public key: want a form such as \"ssh-ed25519 AAAA…\"", HostKey)
	}
	return key, nil
}

// Send writes a chunk under a temporary name and renames it when it is whole.
// Sent again, it is the same file.
func (t Transport) Send(ctx context.Context, d *delivery.Destination, c *delivery.Chunk) (err error) {
	if err := t.Check(d); err != nil {
		return err
	}
	if c.Name == "" || strings.ContainsAny(c.Name, "/\\\x00") || strings.HasPrefix(c.Name, ".") {
		return fmt.Errorf("write chunk: %q is no file's name", c.Name)
	}
	u, _, _ := target(d)
	client, hangUp, err := t.connect(ctx, d)
	if err != nil {
		return err
	}
	defer hangUp()
	// A folder in a URL begins at the user's own, unless it begins with two
	// slashes, as in curl.
	folder := strings.TrimPrefix(u.Path, "/")
	if folder == "" {
		folder = "."
	}
	name := path.Join(folder, c.Name)
	if at, err := client.Stat(name); err == nil && at.Size() == c.Body.Size() {
		// It is renamed only when it is whole, and a name stands for one content.
		return nil
	}
	temporary := path.Join(folder, "."+c.Name+".tmp")
	f, err := client.Create(temporary)
	if err != nil {
		return fmt.Errorf("write chunk: %w", err)
	}
	n, err := f.ReadFrom(io.NewSectionReader(c.Body, 0, c.Body.Size()))
	if err = errors.Join(err, f.Close()); err == nil && n != c.Body.Size() {
		err = io.ErrShortWrite
	}
	if err != nil {
		return fmt.Errorf("write chunk: %w", err)
	}
	// Not Rename, which fails where an earlier try has come as far as this.
	if err := client.PosixRename(temporary, name); err != nil {
		if err = client.Rename(temporary, name); err != nil {
			return fmt.Errorf("rename chunk: %v: %w", err, retention.ErrUnknown)
		}
	}
	return nil
}

func (t Transport) connect(ctx context.Context, d *delivery.Destination) (*sftp.Client, func(), error) {
	u, address, err := target(d)
	if err != nil {
		return nil, nil, err
	}
	pinned, err := hostKey(d)
	if err != nil {
		return nil, nil, err
	}
	secret, err := t.Secret(d.CredentialsFile)
	if err != nil {
		return nil, nil, fmt.Errorf("read credentials: %w", err)
	}
	auth := ssh.Password(secret)
	if strings.HasPrefix(secret, "-----BEGIN ") {
		signer, err := ssh.ParsePrivateKey([]byte(secret + "\n"))
		if err != nil {
			return nil, nil, errors.New("read credentials: the file holds no private key without a passphrase")
		}
		auth = ssh.PublicKeys(signer)
	}
	dialCtx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	raw, err := t.Dial(dialCtx, "tcp", address)
	if err != nil {
		return nil, nil, fmt.Errorf("connect: %w", err)
	}
	// Whatever hangs, in the handshake or later, ends with the context.
	stop := context.AfterFunc(ctx, func() { raw.Close() })
	stopEarly := context.AfterFunc(dialCtx, func() {
		if errors.Is(dialCtx.Err(), context.DeadlineExceeded) {
			raw.Close()
		}
	})
	conn, channels, requests, err := ssh.NewClientConn(raw, address, &ssh.ClientConfig{
		User: u.User.Username(), Auth: []ssh.AuthMethod{auth},
		HostKeyCallback:   ssh.FixedHostKey(pinned),
		HostKeyAlgorithms: algorithms(pinned.Type()),
		ClientVersion:     "SSH-2.0-ebb",
	})
	stopEarly()
	if err != nil {
		stop()
		raw.Close()
		return nil, nil, fmt.Errorf("log in: %w", err)
	}
	over := ssh.NewClient(conn, channels, requests)
	client, err := sftp.NewClient(over)
	if err != nil {
		stop()
		over.Close()
		return nil, nil, fmt.Errorf("open SFTP: %w", err)
	}
	return client, func() {
		stop()
		client.Close()
		over.Close()
	}, nil
}

// algorithms are those by which a server can show a key of a type; else it may
// show another of its keys, which is not the one that is pinned.
func algorithms(keyType string) []string {
	if keyType == ssh.KeyAlgoRSA {
		return []string{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256}
	}
	return []string{keyType}
}
