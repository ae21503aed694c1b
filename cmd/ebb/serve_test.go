package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// served is a server in a process of its own.
type served struct {
	t               *testing.T
	cmd             *exec.Cmd
	stderr          bytes.Buffer
	public, private string
	admin, dataDir  string
}

func serveShop(t *testing.T, data, admin string, env []string) *served {
	t.Helper()
	s := &served{t: t, admin: admin, dataDir: data}
	for _, e := range env {
		switch k, v, _ := strings.Cut(e, "="); k {
		case "EBB_LISTEN_PUBLIC":
			s.public = v
		case "EBB_LISTEN_PRIVATE":
			s.private = v
		}
	}
	s.cmd = exec.Command("ebb", "serve", "--data", data)
	s.cmd.Env = append(os.Environ(), env...)
	s.cmd.Stderr = &s.stderr
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.cmd.Process.Kill() }) // ended long ago if all went well
	if err := waitReady(s.private); err != nil {
		t.Fatalf("%v\n%s", err, &s.stderr)
	}
	return s
}

// term asks the server to end and waits until it has.
func (s *served) term() {
	s.t.Helper()
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		s.t.Fatal(err)
	}
	if err := s.cmd.Wait(); err != nil {
		s.t.Errorf("it ended with %v\n%s", err, &s.stderr)
	}
}

type account struct {
	Received, Stored, Duplicate, Queued uint64
	Rejected, Dropped                   map[string]uint64
}

func (a *account) balanced() bool {
	sum := a.Stored + a.Duplicate + a.Queued
	for _, m := range []map[string]uint64{a.Rejected, a.Dropped} {
		for _, n := range m {
			sum += n
		}
	}
	return sum == a.Received
}

// account asks for the account of the shop's site.
func (s *served) account() (acc account) {
	s.t.Helper()
	req, err := http.NewRequest("GET", "http://"+s.private+"/api/v1/accounts", nil)
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+s.admin)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer res.Body.Close()
	var doc struct {
		Items []struct {
			Site string
			account
		}
	}
	if err := json.NewDecoder(res.Body).Decode(&doc); err != nil {
		s.t.Fatal(err)
	}
	for _, it := range doc.Items {
		if it.Site == "shop" {
			return it.account
		}
	}
	return acc
}

// browser sends page views until the server is gone, and counts what was
// acknowledged.
type browser struct {
	cookie string
	acked  int
}

func (b *browser) post(public string, ids ...string) error {
	now := time.Now().UnixMilli()
	events := []map[string]any{}
	for _, id := range ids {
		events = append(events, map[string]any{"id": id, "t": now, "kind": "page", "url": shopOrigin + "/tea"})
	}
	body, err := json.Marshal(map[string]any{"site": "shop", "sent": now, "consent": map[string]any{"granted": true}, "events": events})
	if err != nil {
		return err
	}
	req, err := http.NewRequest("POST", "http://"+public+"/v1/e", bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Origin", shopOrigin)
	req.Header.Set("User-Agent", "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0 Safari/537.36")
	if b.cookie != "" {
		req.Header.Set("Cookie", b.cookie)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", res.Status, answer)
	}
	for _, c := range res.Cookies() {
		b.cookie = c.Name + "=" + c.Value
	}
	var said struct{ Stored int }
	if err := json.Unmarshal(answer, &said); err != nil {
		return err
	}
	b.acked += said.Stored
	return nil
}

// P1, P2: a server that gets SIGTERM under load ends with 0; every event that it
// acknowledged is there after a restart, counted once, also when it is sent
// again.
func TestAServerLosesNothingOnSIGTERM(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	admin, err := makeShop(data)
	if err != nil {
		t.Fatal(err)
	}
	env, _, err := freePorts()
	if err != nil {
		t.Fatal(err)
	}
	s := serveShop(t, data, admin, env)

	const browsers, enough = 4, 300
	list := make([]browser, browsers)
	var total atomic.Int64
	loaded := make(chan struct{})
	var once sync.Once
	var all sync.WaitGroup
	for i := range list {
		b := &list[i]
		if err := b.post(s.public); err != nil { // brings the cookie
			t.Fatal(err)
		}
		if b.cookie == "" {
			t.Fatal("no cookie came")
		}
		all.Go(func() {
			for n := 0; ; n++ {
				// What is answered by nothing or by 503 was not acknowledged.
				if err := b.post(s.public, fmt.Sprintf("b%d-event-%d", i, n)); err != nil {
					return
				}
				if total.Add(1) >= enough {
					once.Do(func() { close(loaded) })
				}
			}
		})
	}
	select {
	case <-loaded:
	case <-time.After(time.Minute):
		t.Fatal("the load never came")
	}
	s.term() // while the browsers go on
	all.Wait()
	var acked uint64
	for i := range list {
		acked += uint64(list[i].acked)
	}
	if acked < enough {
		t.Fatalf("only %d events were acknowledged", acked)
	}

	s = serveShop(t, data, admin, env)
	before := s.account()
	// A request that was cut off may have been kept without an answer: at most one
	// of each browser.
	if have := before.Stored + before.Queued; !before.balanced() || have < acked || have > acked+browsers {
		t.Errorf("%d events were acknowledged; after the restart %+v", acked, before)
	}
	for i := range list {
		if err := list[i].post(s.public, fmt.Sprintf("b%d-event-0", i)); err != nil {
			t.Fatal(err)
		}
	}
	s.term()

	s = serveShop(t, data, admin, env)
	after := s.account()
	if !after.balanced() || after.Received != before.Received+browsers || after.Stored != before.Stored+before.Queued || after.Duplicate != before.Duplicate+browsers {
		t.Errorf("sent again: %+v, before %+v", after, before)
	}
	s.term()
}
