package faults

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ebb-dmp/ebb/taxonomy"
)

// outcome of a write, as whoever made it was told.
type outcome uint8

const (
	tried outcome = iota // the process died before it was told: unknown
	acked                // it is there for ever
	ackedQuorum
	failed // it never was
	unknown
)

// history is what all processes said.
type history struct {
	mu    sync.Mutex
	began time.Time
	t     testing.TB

	events map[taxonomy.EventID]outcome
	next   map[string]int // by edge: the number after its last event
	erased bool

	writers     map[string]string      // of a process, at present
	closed      map[string]uint64      // ends of writers, as first closed
	claims      map[uint64]publication // by term: who claimed it, and the newest generation then
	published   []publication
	stale       []publication   // newer than another's claim of a later term
	frozen      map[string]bool // who stopped itself
	gaveUp      map[uint64]string
	received    uint64
	stored      uint64
	dropped     uint64
	duplicate   uint64
	drained     map[string]bool
	acks, local int
	// puts are the events that the store acknowledged, by when; doubtful is the time
	// in which such events may be gone (README, an open finding).
	puts     []put
	putOf    map[taxonomy.EventID][]int // by event: which of puts had it
	doubtful [2]time.Time
	troubles map[string]int
}

type put struct {
	by  string
	at  time.Time
	ids []taxonomy.EventID
}

type publication struct {
	by           string
	number, term uint64
	count        int
	at           time.Time
}

func newHistory(t testing.TB) *history {
	return &history{t: t, began: time.Now(), events: map[taxonomy.EventID]outcome{}, putOf: map[taxonomy.EventID][]int{}, next: map[string]int{}, writers: map[string]string{},
		closed: map[string]uint64{}, claims: map[uint64]publication{}, gaveUp: map[uint64]string{}, drained: map[string]bool{}, frozen: map[string]bool{}, troubles: map[string]int{}}
}

// hear takes a line of a process.
func (h *history) hear(from, line string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var n int
	var p publication
	var id, what string
	var end uint64
	if _, err := fmt.Sscanf(line, "T %d", &n); err == nil {
		h.events[eventID(from, n)] = tried
		h.next[from] = max(h.next[from], n+1)
	} else if _, err := fmt.Sscanf(line, "O %d %s", &n, &what); err == nil {
		if h.events[eventID(from, n)] = acked; what == "q" {
			h.events[eventID(from, n)] = ackedQuorum
			h.acks++
		} else {
			h.local++
		}
	} else if _, err := fmt.Sscanf(line, "U %d", &n); err == nil {
		h.events[eventID(from, n)] = unknown
	} else if _, err := fmt.Sscanf(line, "F %d", &n); err == nil {
		h.events[eventID(from, n)] = failed
	} else if _, err := fmt.Sscanf(line, "P %d %d %d", &p.number, &p.term, &p.count); err == nil {
		p.by, p.at = from, time.Now()
		h.published = append(h.published, p)
		for term, c := range h.claims {
			if p.term < term && p.number > c.number {
				h.stale = append(h.stale, p)
			}
		}
	} else if _, err := fmt.Sscanf(line, "A %d %d %d %d", &h.received, &h.stored, &h.duplicate, &h.dropped); err == nil {
	} else if list, ok := strings.CutPrefix(line, "M "); ok {
		p := put{by: from, at: time.Now()}
		for _, event := range strings.Fields(list) {
			if _, err := fmt.Sscanf(event, "%1s%d", &what, &n); err == nil {
				id := eventID(what, n)
				p.ids = append(p.ids, id)
				h.putOf[id] = append(h.putOf[id], len(h.puts))
			}
		}
		h.puts = append(h.puts, p)
	} else if _, err := fmt.Sscanf(line, "K %d %d", &p.term, &p.number); err == nil {
		p.by = from
		h.claims[p.term] = p
		for _, q := range h.published {
			if q.term < p.term && q.number > p.number {
				h.stale = append(h.stale, q)
			}
		}
		h.note("%s builds under term %d", from, p.term)
	} else if _, err := fmt.Sscanf(line, "C %s %d", &id, &end); err == nil {
		if _, again := h.closed[id]; !again {
			h.closed[id] = end
			h.note("writer %s is closed at %d", id, end)
		}
	} else if _, err := fmt.Sscanf(line, "W %s", &id); err == nil {
		h.writers[from] = id
	} else if _, err := fmt.Sscanf(line, "Z %s", &what); err == nil {
		h.frozen[from] = true
		h.note("%s is frozen just before a swap of %s", from, what)
	} else if _, err := fmt.Sscanf(line, "X %d", &p.term); err == nil {
		h.gaveUp[p.term] = line
		h.note("%s gives up: %s", from, line)
	} else if strings.HasPrefix(line, "! ") {
		if h.troubles[line]++; h.troubles[line] == 1 {
			h.note("%s: %.300s", from, line[2:])
		}
	} else if line == "D" {
		h.drained[from] = true
	} else if strings.HasPrefix(line, "E ") {
		h.erased = line == "E <nil>"
		h.note("%s erases a visitor: %s", from, line)
	}
}

func (h *history) note(format string, args ...any) {
	h.t.Logf("%5.1f s  %s", time.Since(h.began).Seconds(), fmt.Sprintf(format, args...))
}

// say is note for those who do not hold the lock.
func (h *history) say(format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.note(format, args...)
}

// slower is how much slower than a quiet machine's two cores one may be.
const slower = 4

// until waits until something is so of the history.
func (h *history) until(t testing.TB, limit time.Duration, what string, so func() bool) {
	t.Helper()
	limit *= slower
	for end := time.Now().Add(limit); ; {
		h.mu.Lock()
		ok := so()
		h.mu.Unlock()
		if ok {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("after %s still not: %s", limit, what)
		}
		<-time.After(50 * time.Millisecond)
	}
}

// more waits until n more events are acknowledged at quorum.
func (h *history) more(t testing.TB, n int) {
	t.Helper()
	h.mu.Lock()
	want := h.acks + n
	h.mu.Unlock()
	h.until(t, 3*time.Minute, fmt.Sprintf("%d more events are acknowledged at quorum", n), func() bool { return h.acks >= want })
}

// process is an edge or a builder.
type process struct {
	t    testing.TB
	name string
	cmd  *exec.Cmd
	in   io.WriteCloser
	done chan struct{}
}

// start starts a process of this program in a role.
func (h *history) start(t testing.TB, role, name, keyspace, dir, freeze string) *process {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	h.mu.Lock()
	from := h.next[name]
	h.mu.Unlock()
	cmd.Env = append(os.Environ(), envRole+"="+role, envName+"="+name, envKeyspace+"="+keyspace, envDir+"="+dir, envFreeze+"="+freeze, fmt.Sprintf("%s=%d", envFrom, from))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &process{t: t, name: name, cmd: cmd, in: in, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		lines := bufio.NewScanner(out)
		lines.Buffer(nil, 16<<20) // an M names all events of a write
		for lines.Scan() {
			h.hear(name, lines.Text())
		}
	}()
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			_ = cmd.Process.Kill()
			<-p.done
			_ = cmd.Wait()
		}
	})
	return p
}

func (p *process) signal(s syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatalf("signal %s: %v", p.name, err)
	}
}

// kill ends it at once; every line that it wrote is heard.
func (p *process) kill() {
	p.signal(syscall.SIGKILL)
	<-p.done
	_ = p.cmd.Wait()
}

// stop closes its input and waits for its own end.
func (p *process) stop() {
	p.t.Helper()
	p.in.Close()
	select {
	case <-p.done:
	case <-time.After(slower * 2 * time.Minute):
		p.t.Errorf("%s does not end", p.name)
		p.kill()
		return
	}
	if err := p.cmd.Wait(); err != nil {
		p.t.Errorf("%s: %v", p.name, err)
	}
}
