package bench

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ebb-dmp/ebb/cmd/ebb/app"
	"github.com/ebb-dmp/ebb/cmd/ebb/config"
	"github.com/ebb-dmp/ebb/retention/defs"
	"github.com/ebb-dmp/ebb/tagserver"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/keys"
)

// serverDir, if set, makes this test binary the server under test.
const serverDir = "EBB_BENCH_SERVER"

func TestMain(m *testing.M) {
	if dir := os.Getenv(serverDir); dir != "" {
		if err := serve(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// serve runs Ebb with one site until standard input ends.
func serve(dir string) error {
	ctx := context.Background()
	r, err := config.Load(config.Input{CheckSchedule: app.CheckSchedule, Flags: map[string]string{"data": filepath.Join(dir, "data"),
		"listen.public": "127.0.0.1:0", "listen.partner": "127.0.0.1:0", "listen.private": "127.0.0.1:0", "new_ids_per_minute": "1000000000"}})
	if err != nil {
		return err
	}
	env := app.System()
	ring, err := keys.Generate(env.Rand, taxonomy.DayOf(env.Now()))
	if err != nil {
		return err
	}
	a, _, err := app.Open(ctx, app.Options{Config: r.Config, Env: env, Keys: ring, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	if err := a.Define(ctx, defs.Source, "web", taxonomy.Source{ID: "web", Title: "web", Party: 1}); err != nil {
		return err
	}
	if err := a.Define(ctx, defs.Site, "bench", taxonomy.Site{ID: "bench", Title: "bench", Origins: []string{"https://bench.example"}, Source: "web", Consent: taxonomy.ModeOptIn}); err != nil {
		return err
	}
	s, err := a.Serve(ctx)
	if err != nil {
		return err
	}
	fmt.Println(s.Address(tagserver.Public))
	_, _ = io.Copy(io.Discard, os.Stdin)
	return a.Close(ctx)
}

// process is a server under test.
type process struct {
	name string
	addr string
	pid  int
}

// pinned runs a command on one core, where that can be asked for.
func pinned(name string, args ...string) *exec.Cmd {
	if _, err := exec.LookPath("taskset"); err == nil {
		args = append([]string{"-c", "0", name}, args...)
		name = "taskset"
	}
	return exec.Command(name, args...)
}

func startEbb(b *testing.B) *process {
	b.Helper()
	cmd := pinned(os.Args[0])
	cmd.Env = append(os.Environ(), serverDir+"="+b.TempDir())
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { in.Close(); _ = cmd.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		b.Fatalf("the server did not start: %v", err)
	}
	return &process{name: "ebb", addr: strings.TrimSpace(line), pid: cmd.Process.Pid}
}

func startNginx(b *testing.B) *process {
	b.Helper()
	path, err := exec.LookPath("nginx")
	if err != nil {
		if os.Getenv("CI") != "" {
			b.Fatal("no nginx here; deploy/test installs it")
		}
		b.Skip("no nginx here; get it with: apt-get install nginx-light")
	}
	dir := b.TempDir()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	conf := fmt.Sprintf(`daemon off; master_process off; worker_processes 1; pid %[1]s/pid; error_log %[1]s/error.log crit;
events { worker_connections 2048; }
http {
  log_format b '$msec $uid_got $uid_set $request_uri $http_referer $http_user_agent';
  access_log %[1]s/access.log b buffer=64k;
  client_body_temp_path %[1]s/body; proxy_temp_path %[1]s/proxy; fastcgi_temp_path %[1]s/fcgi; uwsgi_temp_path %[1]s/uwsgi; scgi_temp_path %[1]s/scgi;
  keepalive_requests 100000000;
  server { listen %[2]s; userid on; userid_name uid; userid_expires 90d; location / { empty_gif; } }
}`, dir, addr)
	if err := os.WriteFile(filepath.Join(dir, "nginx.conf"), []byte(conf), 0o600); err != nil {
		b.Fatal(err)
	}
	cmd := pinned(path, "-p", dir, "-c", filepath.Join(dir, "nginx.conf"))
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	for range 100 {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
			return &process{name: "nginx", addr: addr, pid: cmd.Process.Pid}
		}
		time.Sleep(50 * time.Millisecond)
	}
	b.Fatal("nginx does not answer")
	return nil
}

// cpu is what the kernel charged a process so far, user and system.
func cpu(b *testing.B, pid int) time.Duration {
	b.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		b.Skipf("no /proc here: %v", err)
	}
	f := strings.Fields(string(raw[bytes.LastIndexByte(raw, ')')+1:]))
	var ticks int
	for _, s := range f[11:13] {
		n, err := strconv.Atoi(s)
		if err != nil {
			b.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// browserHead is what a browser sends along.
const browserHead = "Host: data.bench.example\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0 Safari/537.36\r\n" +
	"Accept: image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8\r\nAccept-Encoding: gzip, deflate, br, zstd\r\nAccept-Language: en-GB,en;q=0.9,de;q=0.8\r\n" +
	"Referer: https://bench.example/\r\nSec-Fetch-Dest: image\r\nSec-Fetch-Mode: no-cors\r\nSec-Fetch-Site: same-site\r\nsec-ch-ua: \"Chromium\";v=\"130\"\r\nsec-ch-ua-mobile: ?0\r\n"

// load sends n requests over some connections and returns when all are answered.
// first asks for the cookie, which next carries.
func load(b *testing.B, p *process, connections, n int, first func() []byte, next func(conn, i int, cookie string) []byte) {
	b.Helper()
	var wg sync.WaitGroup
	errs := make([]error, connections)
	for c := range connections {
		wg.Go(func() {
			conn, err := net.Dial("tcp", p.addr)
			if err != nil {
				errs[c] = err
				return
			}
			defer conn.Close()
			r := bufio.NewReaderSize(conn, 8<<10)
			ask := func(req []byte) *http.Response {
				if _, err := conn.Write(req); err != nil {
					errs[c] = err
					return nil
				}
				resp, err := http.ReadResponse(r, nil)
				if err == nil {
					_, err = io.Copy(io.Discard, resp.Body)
				}
				if err == nil && resp.StatusCode != http.StatusOK {
					err = fmt.Errorf("%s answers %s (%s)", p.name, resp.Status, resp.Header.Get("X-Ebb-Reason"))
				}
				errs[c] = err
				return resp
			}
			resp := ask(first())
			if errs[c] != nil {
				return
			}
			var cookie string
			for _, k := range resp.Cookies() {
				cookie = k.Name + "=" + k.Value
			}
			for i := range n / connections {
				if ask(next(c, i, cookie)); errs[c] != nil {
					return
				}
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			b.Fatal(err)
		}
	}
}

func get(path, cookie string) []byte {
	s := "GET " + path + " HTTP/1.1\r\n" + browserHead
	if cookie != "" {
		s += "Cookie: " + cookie + "\r\n"
	}
	return []byte(s + "\r\n")
}

func post(body, cookie string) []byte {
	s := "POST /v1/e HTTP/1.1\r\n" + browserHead + "Origin: https://bench.example\r\nContent-Type: text/plain\r\nContent-Length: " + strconv.Itoa(len(body)) + "\r\n"
	if cookie != "" {
		s += "Cookie: " + cookie + "\r\n"
	}
	return []byte(s + "\r\n" + body)
}

func batch(id string) string {
	now := time.Now().UnixMilli()
	if id == "" {
		return fmt.Sprintf(`{"site":"bench","sent":%d,"consent":{"granted":true},"events":[]}`, now)
	}
	return fmt.Sprintf(`{"site":"bench","sent":%d,"consent":{"granted":true},"events":[{"id":%q,"t":%d,"kind":"page","url":"https://bench.example/shoes/red"}]}`, now, id, now)
}

// compare runs both servers in turn and reports requests a server-CPU-second.
func compare(b *testing.B, connections, n int, first func() []byte, next func(conn, i int, cookie string) []byte) {
	ebb, nginx := startEbb(b), startNginx(b)
	pixel := func() []byte { return get("/n.gif", "") }
	rounds := 3
	var ours, theirs []float64
	for range rounds {
		before := cpu(b, nginx.pid)
		load(b, nginx, connections, n, pixel, func(_, _ int, cookie string) []byte { return get("/n.gif?site=bench", cookie) })
		theirs = append(theirs, float64(n)/(cpu(b, nginx.pid)-before).Seconds())
		before = cpu(b, ebb.pid)
		load(b, ebb, connections, n, first, next)
		ours = append(ours, float64(n)/(cpu(b, ebb.pid)-before).Seconds())
	}
	slices.Sort(ours)
	slices.Sort(theirs)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(ours[rounds/2], "req/cpu-s")
	b.ReportMetric(theirs[rounds/2], "nginx-req/cpu-s")
	b.ReportMetric(ours[rounds/2]/theirs[rounds/2], "of-nginx")
}

func full() bool { return os.Getenv("EBB_BENCH") == "full" }

func size(small, large int) int {
	if full() {
		return large
	}
	return small
}

func BenchmarkPixelAgainstNginx(b *testing.B) {
	compare(b, 64, size(10_000, 400_000), func() []byte { return post(batch(""), "") }, func(_, _ int, cookie string) []byte {
		return get("/v1/n/bench?consent=1&u=https%3A%2F%2Fbench.example%2Fshoes", cookie)
	})
}

func BenchmarkCollectAgainstNginx(b *testing.B) {
	compare(b, 256, size(10_000, 400_000), func() []byte { return post(batch(""), "") }, func(conn, i int, cookie string) []byte {
		return post(batch(fmt.Sprintf("e%dx%d-%d", conn, i, time.Now().UnixNano()%1000)), cookie)
	})
}
