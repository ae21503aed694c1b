package tagserver

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ebb-dmp/ebb/taxonomy"
)

// serveEdge serves an edge's public listener on loopback. What it returns counts
// the requests that an ordinary client had answered.
func serveEdge(t *testing.T, e *edge, also ...func(*http.Server)) (addr string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := e.HTTP(Public)
	for _, change := range also {
		change(srv)
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(ln) }()
	t.Cleanup(func() { _ = srv.Close(); <-done })
	return ln.Addr().String()
}

// ordinary posts n page views over connections of their own and returns how many
// were stored.
func ordinary(t *testing.T, e *edge, addr string, n int) (stored int) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 30 * time.Second}
	for range n {
		r, err := http.NewRequest("POST", "http://"+addr+"/v1/e", strings.NewReader(yesBody))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "text/plain")
		r.Header.Set("Origin", shop)
		r.Header.Set("User-Agent", canaryAgent)
		res, err := client.Do(r)
		if err != nil {
			t.Errorf("an ordinary request among them: %v", err)
			continue
		}
		_, _ = io.Copy(io.Discard, res.Body)
		_ = res.Body.Close()
		if res.StatusCode == 200 {
			e.sent["shop"]++
			stored++
		}
	}
	return stored
}

// cutOff waits until the server has closed a connection; the deadline is only
// there so that a server that never does fails the test instead of hanging it.
func cutOff(c net.Conn) (answer string, err error) {
	_ = c.SetReadDeadline(time.Now().Add(30 * time.Second))
	b, err := io.ReadAll(c)
	return string(b), err
}

// Who sends its request byte by byte, or half of it, or none, is cut off when the
// time of a request is over; meanwhile others are answered, and nothing of it is
// received.
func TestSlowClientsAreCutOffAndDelayNobody(t *testing.T) {
	e := newEdge(t, func(o *Options) {
		o.Limits.Read, o.Limits.Idle, o.Limits.NewIDs = 300*time.Millisecond, 300*time.Millisecond, -1
	})
	addr := serveEdge(t, e)
	head := "POST /v1/e HTTP/1.1\r\nHost: edge.example\r\nContent-Type: text/plain\r\nOrigin: " + shop + "\r\n"
	kinds := map[string]struct {
		first string // sent at once
		drip  string // then one byte after the other, for as long as it is let
	}{
		"a head byte by byte":          {"POST /v1/e HTTP/1.1\r\nX-Slow: ", strings.Repeat("a", 4000)},
		"a body byte by byte":          {head + "Content-Length: 60000\r\n\r\n", strings.Repeat(" ", 4000)},
		"a chunked body byte by byte":  {head + "Transfer-Encoding: chunked\r\n\r\nea60\r\n", strings.Repeat(" ", 4000)},
		"half a request":               {head[:40], ""},
		"a head, and no body":          {head + "Content-Length: 100\r\n\r\n", ""},
		"nothing":                      {"", ""},
		"a request, and then nothing":  {"GET /.well-known/gpc.json HTTP/1.1\r\nHost: edge.example\r\n\r\n", ""},
		"TLS where there is none":      {"\x16\x03\x01\x02\x00\x01\x00", ""},
		"the preface of HTTP/2, alone": {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", ""},
	}
	const each = 10
	var wg sync.WaitGroup
	for name, k := range kinds {
		if strings.Contains(name, "body") {
			e.sent[""] += each // R12: a body that never came whole is one received, of no site
		}
		for range each {
			c, err := net.Dial("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			wg.Go(func() {
				defer c.Close()
				_, _ = io.WriteString(c, k.first)
				stop := make(chan struct{})
				var drip sync.WaitGroup
				drip.Go(func() {
					for i := range len(k.drip) {
						select {
						case <-stop:
							return
						case <-time.After(5 * time.Millisecond): // what a slow client is
						}
						if _, err := c.Write([]byte{k.drip[i]}); err != nil {
							return
						}
					}
				})
				_, err := cutOff(c)
				close(stop)
				drip.Wait()
				if ne, ok := err.(net.Error); ok && ne.Timeout() {
					t.Errorf("%s: the connection is still open", name)
				}
			})
		}
	}
	if got := ordinary(t, e, addr, 50); got != 50 {
		t.Errorf("%d of 50 ordinary requests were stored", got)
	}
	wg.Wait()
}

// A peer that vanished half way (closed its side, or reset) takes nobody along.
func TestHalfOpenConnectionsEndByThemselves(t *testing.T) {
	e := newEdge(t, func(o *Options) {
		o.Limits.Read, o.Limits.Idle, o.Limits.NewIDs = 300*time.Millisecond, 300*time.Millisecond, -1
	})
	addr := serveEdge(t, e)
	for i := range 60 {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		tcp := c.(*net.TCPConn)
		_, _ = io.WriteString(c, "GET /v1/n/shop HTTP/1.1\r\nHost: edge")
		switch i % 3 {
		case 0:
			_ = tcp.CloseWrite() // and reads on
			defer func() {
				defer c.Close()
				if _, err := cutOff(c); err != nil {
					if ne, ok := err.(net.Error); ok && ne.Timeout() {
						t.Error("a half-closed connection is still open")
					}
				}
			}()
		case 1:
			_ = tcp.SetLinger(0)
			_ = c.Close() // a reset
		case 2:
			_ = c.Close()
		}
	}
	if got := ordinary(t, e, addr, 20); got != 20 {
		t.Errorf("%d of 20 ordinary requests were stored", got)
	}
}

// A listener that holds as many connections as it may closes the one that has
// waited longest, and not the one that comes: whoever opens many and says nothing
// keeps nobody out.
func TestTheLongestWaitingConnectionMakesRoom(t *testing.T) {
	e := newEdge(t, func(o *Options) { o.Limits.Connections, o.Limits.NewIDs = 10, -1 })
	waits := make(chan struct{}, 25)
	addr := serveEdge(t, e, func(srv *http.Server) {
		state := srv.ConnState
		srv.ConnState = func(c net.Conn, s http.ConnState) {
			state(c, s)
			if s == http.StateIdle {
				waits <- struct{}{}
			}
		}
	})
	var idle []net.Conn
	for range 25 {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		// Answered once, and then the server waits for it: they wait in this order.
		_, _ = io.WriteString(c, "GET /.well-known/gpc.json HTTP/1.1\r\nHost: edge.example\r\n\r\n")
		_ = c.SetReadDeadline(time.Now().Add(30 * time.Second))
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil || res.StatusCode != 200 {
			t.Fatalf("connection %d: %v", len(idle), err)
		}
		_, _ = io.Copy(io.Discard, res.Body)
		<-waits
		idle = append(idle, c)
	}
	for i, c := range idle[:15] {
		if _, err := cutOff(c); err != nil {
			if ne, ok := err.(net.Error); ok && ne.Timeout() {
				t.Errorf("connection %d is still open", i)
			}
		}
	}
	if got := ordinary(t, e, addr, 20); got != 20 {
		t.Errorf("%d of 20 ordinary requests were answered", got)
	}
	if n := e.metric("connections_shed_total"); n < 15 {
		t.Errorf("%v connections are counted as closed", n)
	}
}

// One address that floods a site is refused there, and counted; the site's other
// visitors and the address's other sites are not.
func TestAFloodIsLimitedBySiteAndAddressClass(t *testing.T) {
	e := newEdge(t, func(o *Options) { o.Limits.NewIDs, o.Limits.Requests, o.Limits.RequestBurst = -1, 1, 5 })
	loud := e.browser()
	for i := range 12 {
		if w := loud.yes(); (w.Code == 200) != (i < 5) || w.Code != 200 && (w.Code != 429 || w.Header().Get("Retry-After") == "") {
			t.Errorf("request %d: %d", i, w.Code)
		}
	}
	if w := loud.get("shop", "/v1/n/shop?consent=1"); w.Header().Get("X-Ebb-Reason") != "rate_limit" {
		t.Errorf("pixel: %q", w.Header().Get("X-Ebb-Reason"))
	}
	if w := loud.do("GET", "/v1/seg?site=shop&consent=1", ""); w.Code != 429 {
		t.Errorf("seg: %d", w.Code)
	}
	other := e.browser()
	other.peer = "203.0.113.9:1"
	if w := other.yes(); w.Code != 200 {
		t.Errorf("another network: %d", w.Code)
	}
	elsewhere := e.browser()
	elsewhere.origin = "https://news.example"
	if w := elsewhere.post("news", 1, `{"site":"news","consent":{"granted":true},"events":[{}]}`); w.Code != 200 {
		t.Errorf("another site: %d", w.Code)
	}
	e.clock.Advance(2 * taxonomy.Second)
	if w := loud.yes(); w.Code != 200 {
		t.Errorf("two seconds later: %d", w.Code)
	}
}

// envIdle makes this test's binary a client that opens connections and keeps
// them: two processes, for one may not have so many files.
const envIdle = "EBB_TEST_IDLE_CONNECTIONS"

func TestMain(m *testing.M) {
	if spec := os.Getenv(envIdle); spec != "" {
		keepIdle(spec)
		return
	}
	os.Exit(m.Run())
}

func keepIdle(spec string) {
	addr, count, _ := strings.Cut(spec, " ")
	n, _ := strconv.Atoi(count)
	open := make([]net.Conn, 0, n)
	for i := range n {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			fmt.Println("failed", err)
			return
		}
		if i%2 == 0 { // every other has begun a request
			_, _ = io.WriteString(c, "GET /v1/n/shop HTTP/1.1\r\nHost: edge.example\r\nX-")
		}
		open = append(open, c)
	}
	fmt.Println("open", len(open))
	_, _ = io.Copy(io.Discard, os.Stdin) // until the test says so
	for _, c := range open {
		_ = c.Close()
	}
}

// 10,000 connections that say nothing, or half of something: others are answered,
// and when they are gone the memory is what it was.
func TestLongTenThousandIdleConnections(t *testing.T) {
	if os.Getenv("EBB_LONG") == "" {
		t.Skip("set EBB_LONG=1: opens 10,000 connections")
	}
	const n = 10_000
	e := newEdge(t, func(o *Options) {
		o.Limits.Read, o.Limits.Idle, o.Limits.NewIDs = 10*time.Minute, 10*time.Minute, -1
	})
	addr := serveEdge(t, e)
	ordinary(t, e, addr, 200) // what is made once is made
	before, routines := inUse(), runtime.NumGoroutine()
	flood := func() (during, after uint64) {
		client := exec.Command(os.Args[0])
		client.Env = append(os.Environ(), envIdle+"="+addr+" "+strconv.Itoa(n))
		stdin, err := client.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		stdout, err := client.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := client.Start(); err != nil {
			t.Fatal(err)
		}
		line, _ := bufio.NewReader(stdout).ReadString('\n')
		if line != fmt.Sprintf("open %d\n", n) {
			t.Errorf("the client says %q", line)
		}
		if got := ordinary(t, e, addr, 200); got != 200 {
			t.Errorf("%d of 200 ordinary requests were answered beside them", got)
		}
		during = inUse()
		_ = stdin.Close()
		if err := client.Wait(); err != nil {
			t.Error(err)
		}
		// The server notices each by its own goroutine.
		for range 3000 {
			if runtime.NumGoroutine() <= routines+10 {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		if g := runtime.NumGoroutine(); g > routines+10 {
			t.Errorf("%d goroutines before, %d after", routines, g)
		}
		return during, inUse()
	}
	during, once := flood()
	_, twice := flood()
	t.Logf("in use: %d KiB before, %d KiB with %d connections (%d bytes each), %d KiB after, %d KiB after a second time",
		before>>10, during>>10, n, (during-before)/n, once>>10, twice>>10)
	if each := (int64(during) - int64(before)) / n; each > 32<<10 {
		t.Errorf("a connection costs %d bytes", each)
	}
	// Tables that grew keep their room, once: what each flood would leave is a leak.
	// The records of 200 requests stay in the model of the log.
	if once > before+during/10 || twice > once+1<<20 {
		t.Errorf("%d KiB were in use before, %d KiB after, %d KiB after a second time", before>>10, once>>10, twice>>10)
	}
}

// inUse is the memory of live objects and stacks.
func inUse() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc + m.StackInuse
}
