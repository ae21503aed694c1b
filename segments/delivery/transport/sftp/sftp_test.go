package sftp_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/segments/delivery/transport/sftp"
)

// server is OpenSSH's own, on a loopback connection: sshd -i speaks to one
// client on its standard input and output, so it needs no port and no root.
type server struct {
	home, hostKey, clientKey string
	config                   string
	broken                   int // bytes after which the connection breaks; 0: never
}

func start(t testing.TB) *server {
	t.Helper()
	sshd, err := exec.LookPath("sshd")
	if err != nil {
		sshd = "/usr/sbin/sshd"
	}
	if _, err := os.Stat(sshd); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("no sshd: install openssh-server")
		}
		t.Skip("no sshd: install openssh-server")
	}
	if os.Geteuid() == 0 {
		os.MkdirAll("/run/sshd", 0o755) // where sshd of root leaves its privileges
	}
	dir := t.TempDir()
	s := &server{home: filepath.Join(dir, "home"), config: filepath.Join(dir, "sshd_config")}
	if err := os.MkdirAll(filepath.Join(s.home, "in"), 0o700); err != nil {
		t.Fatal(err)
	}
	keygen := func(name string) string {
		if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, name)).CombinedOutput(); err != nil {
			t.Fatalf("ssh-keygen: %v\n%s", err, out)
		}
		return filepath.Join(dir, name)
	}
	s.hostKey, s.clientKey = keygen("host"), keygen("client")
	config := fmt.Sprintf(`HostKey %s
AuthorizedKeysFile %s.pub
StrictModes no
UsePAM no
PasswordAuthentication no
PidFile none
Subsystem sftp internal-sftp -d %s
ForceCommand internal-sftp -d %s
`, s.hostKey, s.clientKey, s.home, s.home)
	if err := os.WriteFile(s.config, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	return s
}

// dial starts an sshd for one connection.
func (s *server) dial(t testing.TB) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, _, address string) (net.Conn, error) {
		if address != "sftp.dsp.example:22" {
			t.Errorf("dialled %s", address)
		}
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
		f, err := theirs.(*net.TCPConn).File()
		if err != nil {
			return nil, err
		}
		theirs.Close()
		sshd, err := exec.LookPath("sshd")
		if err != nil {
			sshd = "/usr/sbin/sshd"
		}
		cmd := exec.Command(sshd, "-i", "-e", "-f", s.config)
		cmd.Stdin, cmd.Stdout = f, f
		if err := cmd.Start(); err != nil {
			return nil, err
		}
		f.Close()
		t.Cleanup(func() { mine.Close(); cmd.Wait() })
		if s.broken > 0 {
			return &breaking{mine, s.broken}, nil
		}
		return mine, nil
	}
}

// breaking is a connection that ends after so many bytes are written.
type breaking struct {
	net.Conn
	left int
}

func (b *breaking) Write(p []byte) (int, error) {
	if b.left -= len(p); b.left < 0 {
		b.Conn.Close()
		return 0, io.ErrClosedPipe
	}
	return b.Conn.Write(p)
}

func (s *server) destination(t testing.TB) *delivery.Destination {
	t.Helper()
	u, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	pub, err := os.ReadFile(s.hostKey + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	return &delivery.Destination{ID: "dsp", URL: "sftp://" + u.Username + "@sftp.dsp.example/in", CredentialsFile: "key", Account: map[string]string{"host_key": string(pub)}}
}

func (s *server) transport(t testing.TB) sftp.Transport {
	return sftp.Transport{Dial: s.dial(t), Secret: func(string) (string, error) {
		b, err := os.ReadFile(s.clientKey)
		return strings.TrimSpace(string(b)), err
	}}
}

func (s *server) files(t testing.TB) map[string]string {
	t.Helper()
	list, err := os.ReadDir(filepath.Join(s.home, "in"))
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for _, e := range list {
		b, err := os.ReadFile(filepath.Join(s.home, "in", e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		files[e.Name()] = string(b)
	}
	return files
}

func chunk(body string) *delivery.Chunk {
	return &delivery.Chunk{Name: "e0-g1-full.tsv.gz", Body: io.NewSectionReader(strings.NewReader(body), 0, int64(len(body)))}
}

// On OpenSSH's server a file is there whole or not at all, and sent twice it is
// one; a connection that breaks on the way leaves no file of that name.
func TestAFileIsThereWholeOrNotAtAll(t *testing.T) {
	s := start(t)
	tr, d := s.transport(t), s.destination(t)
	body := strings.Repeat("0123456789abcdef\tcars\t+\t1440\n", 20_000)
	s.broken = 300_000
	if err := tr.Send(context.Background(), d, chunk(body)); err == nil {
		t.Fatal("a broken connection was no error")
	}
	if _, ok := s.files(t)["e0-g1-full.tsv.gz"]; ok {
		t.Fatal("part of a file stands under its name")
	}
	s.broken = 0
	for range 2 {
		if err := tr.Send(context.Background(), d, chunk(body)); err != nil {
			t.Fatal(err)
		}
		if got := s.files(t); len(got) != 1 || got["e0-g1-full.tsv.gz"] != body {
			t.Fatalf("the server holds %d files", len(got))
		}
	}
}

// A server that shows another key is not spoken to.
func TestTheHostKeyIsPinned(t *testing.T) {
	s, other := start(t), start(t)
	d := s.destination(t)
	d.Account = other.destination(t).Account
	err := s.transport(t).Send(context.Background(), d, chunk("rows"))
	if err == nil || !strings.Contains(err.Error(), "host key") || len(s.files(t)) != 0 {
		t.Fatalf("%v", err)
	}
}

func TestFaultsOfADestinationAreNamed(t *testing.T) {
	d := &delivery.Destination{}
	for _, bad := range []string{"", "https://u@h/", "sftp://h/", "sftp://u:p@h/", "sftp://u@/x", "sftp://u@h/?x"} {
		d.URL = bad
		if err := (sftp.Transport{}).Check(d); err == nil || !strings.Contains(err.Error(), "url") {
			t.Errorf("%q: %v", bad, err)
		}
	}
	d.URL, d.Account = "sftp://u@h/x", map[string]string{"host_key": "ssh-ed25519 nonsense"}
	if err := (sftp.Transport{}).Check(d); err == nil || !strings.Contains(err.Error(), "no public key") || !strings.Contains(err.Error(), "credentials_file") {
		t.Error(err)
	}
}
