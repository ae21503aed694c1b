package sftp_test

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	pkgsftp "github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"

	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/segments/delivery/format/tsv"
)

// members writes a segment file of so many pseudonyms.
func members(tb testing.TB, n int) string {
	tb.Helper()
	e := tsv.Format{}.New(delivery.FileInfo{IDs: delivery.ByPseudonym})
	var out []byte
	var err error
	ids := make([]string, 4096)
	for done := 0; done < n; done += len(ids) {
		for i := range ids {
			var k [16]byte
			binary.BigEndian.PutUint64(k[:], uint64(done+i)*0x9e3779b97f4a7c15)
			binary.BigEndian.PutUint64(k[8:], uint64(done+i)*0xc2b2ae3d27d4eb4f)
			ids[i] = hex.EncodeToString(k[:])
		}
		if out, err = e.Append(out, delivery.Run{Audience: "cars", Minutes: 43200}, ids[:min(len(ids), n-done)]); err != nil {
			tb.Fatal(err)
		}
	}
	if out, err = e.Close(out); err != nil {
		tb.Fatal(err)
	}
	return string(out)
}

// BenchmarkSend sends a segment file of a million members to OpenSSH's server, and
// prints members and megabytes a second, and how they are to those of the bare client
// that copies the same bytes to the same server, connecting and all.
func BenchmarkSend(b *testing.B) {
	s := start(b)
	tr, d := s.transport(b), s.destination(b)
	const n = 1_000_000
	body := members(b, n)
	var ours, bare time.Duration
	for i := 0; b.Loop(); i++ {
		c := chunk(body)
		c.Name = fmt.Sprintf("ours-%d.tsv.gz", i)
		begin := time.Now()
		if err := tr.Send(context.Background(), d, c); err != nil {
			b.Fatal(err)
		}
		ours += time.Since(begin)
		begin = time.Now()
		if err := s.copies(b, d, fmt.Sprintf("in/bare-%d.tsv.gz", i), body); err != nil {
			b.Fatal(err)
		}
		bare += time.Since(begin)
	}
	for name, got := range s.files(b) {
		if got != body {
			b.Fatalf("%s has %d bytes, want %d", name, len(got), len(body))
		}
	}
	b.ReportMetric(float64(b.N*n)/ours.Seconds()/1e6, "Mmembers/s")
	b.ReportMetric(float64(b.N*len(body))/ours.Seconds()/1e6, "MB/s")
	b.ReportMetric(float64(bare)/float64(ours), "times-bare-client")
}

// copies is what the bare client does.
func (s *server) copies(tb testing.TB, d *delivery.Destination, name, body string) error {
	key, err := os.ReadFile(s.clientKey)
	if err != nil {
		return err
	}
	signer, err := ssh.ParsePrivateKey(key)
	if err != nil {
		return err
	}
	raw, err := s.dial(tb)(context.Background(), "tcp", "sftp.dsp.example:22")
	if err != nil {
		return err
	}
	user, _, _ := strings.Cut(strings.TrimPrefix(d.URL, "sftp://"), "@")
	conn, channels, requests, err := ssh.NewClientConn(raw, "sftp.dsp.example:22", &ssh.ClientConfig{User: user, Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)}, HostKeyCallback: ssh.InsecureIgnoreHostKey()})
	if err != nil {
		return err
	}
	over := ssh.NewClient(conn, channels, requests)
	defer over.Close()
	client, err := pkgsftp.NewClient(over)
	if err != nil {
		return err
	}
	defer client.Close()
	f, err := client.Create(name)
	if err != nil {
		return err
	}
	if _, err := f.ReadFrom(io.NewSectionReader(strings.NewReader(body), 0, int64(len(body)))); err != nil {
		return err
	}
	return f.Close()
}
