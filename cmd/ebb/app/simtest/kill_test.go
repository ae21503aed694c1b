package simtest

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/ebb-dmp/ebb/cmd/ebb/app"
	"github.com/ebb-dmp/ebb/cmd/ebb/config"
	"github.com/ebb-dmp/ebb/cmd/ebb/keyfile"
	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/retention/defs"
	"github.com/ebb-dmp/ebb/retention/embedded"
	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/keys"
)

// installation is a data directory on the real disk, and the program over it.
type installation struct {
	t         testing.TB
	binary    string
	dir, data string
	ring      *keys.Ring
	key       string    // the first API key
	addr      [3]string // public, partner, private
	messages  bytes.Buffer
	cmd       *exec.Cmd
}

// install builds the program and makes an installation with one site.
func install(t testing.TB) *installation {
	t.Helper()
	in := &installation{t: t, dir: t.TempDir()}
	in.binary, in.data = filepath.Join(in.dir, "ebb"), filepath.Join(in.dir, "data")
	if out, err := exec.Command("go", "build", "-o", in.binary, "github.com/ebb-dmp/ebb/cmd/ebb").CombinedOutput(); err != nil {
		t.Fatalf("build the program: %v\n%s", err, out)
	}
	env := app.System()
	var err error
	if in.ring, err = keys.Generate(env.Rand, taxonomy.DayOf(env.Now())); err != nil {
		t.Fatal(err)
	}
	if err := keyfile.Create(in.data+".keys.json", in.ring); err != nil {
		t.Fatal(err)
	}
	a := in.open()
	for _, d := range []struct {
		kind defs.Kind
		id   string
		body any
	}{
		{defs.Source, "own", taxonomy.Source{ID: "own", Title: "Own", Party: 1}},
		{defs.Site, "shop", taxonomy.Site{ID: "shop", Title: "Shop", Origins: []string{shop}, Source: "own", Consent: taxonomy.ModeOptIn}},
	} {
		if err := a.Define(ctx, d.kind, d.id, d.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.Close(ctx); err != nil {
		t.Fatal(err)
	}
	// Free ports, below those that the system gives to whoever asks for any: nobody
	// gets them by chance while the server is down.
	for i, tries := 0, 0; i < len(in.addr); tries++ {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 10_000+rand.IntN(20_000)))
		if err == nil {
			in.addr[i] = l.Addr().String()
			defer l.Close() // when all are known
			i++
		} else if tries == 100 {
			t.Fatal(err)
		}
	}
	return in
}

// open opens the data directory in this process.
func (in *installation) open() *app.App {
	in.t.Helper()
	r, err := config.Load(config.Input{CheckSchedule: app.CheckSchedule, Flags: map[string]string{"data": in.data}})
	if err != nil {
		in.t.Fatal(err)
	}
	a, key, err := app.Open(ctx, app.Options{Config: r.Config, Env: app.System(), Keys: in.ring, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		in.t.Fatal(err)
	}
	if key != "" {
		in.key = key
	}
	return a
}

// serve starts the program and returns when it says that it is ready.
func (in *installation) serve() {
	in.t.Helper()
	in.cmd = exec.Command(in.binary, "serve", "--data", in.data, "--listen.public", in.addr[0], "--listen.partner", in.addr[1], "--listen.private", in.addr[2],
		"--checkpoint.interval", "1s", "--log.segment_bytes", "1MiB")
	in.messages.Reset()
	in.cmd.Stderr = &in.messages
	if err := in.cmd.Start(); err != nil {
		in.t.Fatal(err)
	}
	died := make(chan error, 1)
	cmd := in.cmd
	waiting, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		if body, err := in.ask(waiting, "/readyz"); err == nil && strings.HasPrefix(body, "ready") {
			return
		}
		if cmd.Process.Signal(syscall.Signal(0)) != nil || waiting.Err() != nil {
			cmd.Process.Kill()
			in.t.Fatalf("the program is not ready after a restart: %v\n%s", <-died, in.messages.String())
		}
		select {
		case <-time.After(5 * time.Millisecond): // between two questions; nothing depends on it
		case <-waiting.Done():
			died <- waiting.Err()
		}
	}
}

func (in *installation) ask(c context.Context, path string) (string, error) {
	q, err := http.NewRequestWithContext(c, http.MethodGet, "http://"+in.addr[2]+path, nil)
	if err != nil {
		return "", err
	}
	res, err := http.DefaultClient.Do(q)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", res.Status, b)
	}
	return string(b), err
}

// kill is kill -9.
func (in *installation) kill() {
	in.cmd.Process.Kill()
	in.cmd.Wait()
}

// balance reads P2 from /metrics and returns what site shop received.
func (in *installation) balance() uint64 {
	in.t.Helper()
	text, err := in.ask(ctx, "/metrics")
	if err != nil {
		in.t.Fatal(err)
	}
	received, sum := map[string]float64{}, map[string]float64{}
	for s := bufio.NewScanner(strings.NewReader(text)); s.Scan(); {
		name, rest, ok := strings.Cut(s.Text(), "{")
		if !ok || !strings.HasPrefix(name, "ebb_events_") {
			continue
		}
		_, site, _ := strings.Cut(rest, `site="`)
		site, _, _ = strings.Cut(site, `"`)
		n, err := strconv.ParseFloat(rest[strings.LastIndexByte(rest, ' ')+1:], 64)
		if err != nil {
			in.t.Fatalf("metric %q: %v", s.Text(), err)
		}
		if name == "ebb_events_received_total" {
			received[site] += n
		} else {
			sum[site] += n
		}
	}
	for site, n := range received {
		if sum[site] != n {
			in.t.Fatalf("P2: site %q received %v, all else sums to %v\n%s", site, n, sum[site], text)
		}
	}
	return uint64(received["shop"])
}

// client is a browser that sends batches, and each again until it hears that it
// was taken.
type client struct {
	n      int
	cookie string
	next   int
	asks   *http.Client
	tried  map[string]bool
	acked  map[string]bool
	retry  []string // IDs of the batch that nobody answered for
	again  int      // batches that were sent again
}

func (c *client) load(done <-chan struct{}, addr string) {
	for {
		select {
		case <-done:
			return
		default:
		}
		ids := c.retry
		if c.cookie == "" {
			ids = nil
		} else if ids == nil {
			for range 1 + c.next%5 {
				ids = append(ids, fmt.Sprintf("c%d-%d", c.n, c.next))
				c.next++
			}
		} else {
			c.again++
		}
		var events []string
		for _, id := range ids {
			c.tried[id] = true
			events = append(events, fmt.Sprintf(`{"id":%q,"name":"load"}`, id))
		}
		q, _ := http.NewRequest(http.MethodPost, "http://"+addr+"/v1/e", strings.NewReader(`{"site":"shop","consent":{"granted":true},"events":[`+strings.Join(events, ",")+`]}`))
		q.Header.Set("Content-Type", "text/plain")
		q.Header.Set("Origin", shop)
		if c.cookie != "" {
			q.Header.Set("Cookie", tagserver.CookieID+"="+c.cookie)
			c.retry = ids
		}
		res, err := c.asks.Do(q)
		if err != nil {
			continue
		}
		_, err = io.Copy(io.Discard, res.Body)
		res.Body.Close()
		if err != nil || res.StatusCode != http.StatusOK {
			continue
		}
		for _, k := range res.Cookies() {
			if k.Name == tagserver.CookieID {
				c.cookie = k.Value
			}
		}
		for _, id := range ids {
			c.acked[id] = true
		}
		c.retry = nil
	}
}

// Kill −9 of the real program at random moments under load: what was
// acknowledged is there, nothing counts twice, and the accounts balance as soon
// as it answers again (P1, P2, P10, R10, R12).
func TestLongKillMinus9UnderLoad(t *testing.T) {
	if os.Getenv("EBB_LONG") == "" {
		t.Skip("set EBB_LONG=1")
	}
	kills := 25
	if s := os.Getenv("EBB_TEST_KILLS"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		kills = n
	}
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("EBB_SEED"); s != "" {
		seed, _ = strconv.ParseUint(s, 10, 64)
	}
	t.Logf("EBB_SEED=%d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	in := install(t)
	var clients []*client
	for n := range 6 {
		clients = append(clients, &client{n: n, tried: map[string]bool{}, acked: map[string]bool{},
			asks: &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 1}}})
	}
	ackedSoFar := func() (n uint64) {
		for _, c := range clients {
			n += uint64(len(c.acked))
		}
		return n
	}
	begin := time.Now()
	for k := range kills + 1 {
		in.serve()
		if got := in.balance(); got < ackedSoFar() {
			t.Fatalf("P1: after kill %d the log received %d, %d were acknowledged", k, got, ackedSoFar())
		}
		if k == kills {
			break
		}
		done := make(chan struct{})
		var wg sync.WaitGroup
		for _, c := range clients {
			wg.Go(func() { c.load(done, in.addr[0]) })
		}
		<-time.After(time.Duration(20+rng.IntN(400)) * time.Millisecond) // the random moment
		if k%3 == 0 {
			in.balance() // also under load
		}
		in.kill()
		close(done)
		wg.Wait()
	}
	took := time.Since(begin)
	if err := in.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := in.cmd.Wait(); err != nil {
		t.Fatalf("SIGTERM: %v\n%s", err, in.messages.String())
	}
	a := in.open()
	if err := a.Fold(ctx); err != nil {
		t.Fatal(err)
	}
	accounts, err := a.Accounts(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Close(ctx); err != nil {
		t.Fatal(err)
	}
	acc := accounts["shop"]
	if !acc.Balanced() || acc.Queued != 0 {
		t.Errorf("P2: %+v", acc)
	}
	in.compare(clients, acc.Stored)
	again := 0
	for _, c := range clients {
		again += c.again
	}
	t.Logf("%d kills in %s: %d events acknowledged, %d batches sent again, %d duplicates counted, 0 lost", kills, took.Round(time.Second), ackedSoFar(), again, acc.Duplicate)
}

// compare reads the stored events and holds them against the clients' books.
func (in *installation) compare(clients []*client, stored uint64) {
	in.t.Helper()
	s, err := embedded.Open(embedded.Options{FS: vfs.Default, Dir: in.data, Compress: true, Now: func() taxonomy.Millis { return taxonomy.MillisOf(time.Now()) }})
	if err != nil {
		in.t.Fatal(err)
	}
	defer s.Close()
	type place struct {
		v  taxonomy.VisitorKey
		id taxonomy.EventID
	}
	got := map[place]int{}
	if err := s.Events().Scan(ctx, 0, 1, 0, taxonomy.DayOf(time.Now())+1, func(e *retention.StoredEvent) error {
		got[place{e.Record.Visitor, e.Record.Event.ID}]++
		return nil
	}); err != nil {
		in.t.Fatal(err)
	}
	if uint64(len(got)) != stored {
		in.t.Errorf("R10: %d events are counted as stored, %d different ones are there", stored, len(got))
	}
	for _, c := range clients {
		if c.cookie == "" {
			continue
		}
		raw, issued, ok := in.ring.VerifyCookie(tagserver.CookieID, c.cookie, taxonomy.DayOf(time.Now()))
		if !ok {
			in.t.Fatal("a cookie does not verify")
		}
		v, err := in.ring.VisitorKey(taxonomy.SpaceCookie, raw[:], issued)
		if err != nil {
			in.t.Fatal(err)
		}
		for id := range c.tried {
			e, err := in.ring.EventID(taxonomy.SpaceCookie, issued, "shop", id)
			if err != nil {
				in.t.Fatal(err)
			}
			n := got[place{v, e}]
			delete(got, place{v, e})
			if n > 1 || n == 0 && c.acked[id] {
				in.t.Errorf("P1: event %s (acknowledged: %t) is there %d times", id, c.acked[id], n)
			}
		}
	}
	if len(got) > 0 {
		in.t.Errorf("%d events are there that nobody sent", len(got))
	}
}
