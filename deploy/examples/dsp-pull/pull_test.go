package dsppull

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/retention/storetest"
	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/segments/delivery/format/tsv"
	"github.com/ebb-dmp/ebb/segments/delivery/transport/pull"
	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/taxonomy"
)

const dsp taxonomy.DestinationID = "my-dsp"

// people is a small index: who came when, who is in what, who is gone. All are
// in shard 0, block 0.
type people struct {
	clock  *storetest.Clock // handlers of requests that were cut off may still read it
	keys   []taxonomy.VisitorKey
	newest []taxonomy.Day
	gone   []bool
	in     map[taxonomy.AudienceID][]bool
	gen    uint64
}

func (p *people) Shards() int                  { return 1 }
func (p *people) Blocks(int) int               { return 1 }
func (p *people) Position() retention.Position { return nil }
func (p *people) Clock() taxonomy.Millis       { return p.clock.Now() }
func (p *people) RuleVersion() uint32          { return 1 }

func (p *people) Leaf(_, _ int, op *index.Operand, dst *index.Words) (n int, err error) {
	*dst = index.Words{}
	for i := range p.keys {
		if op.Set == index.SetAllow+string(dsp) || op.Set == index.SetGone && p.gone[i] {
			dst[i/64] |= 1 << (i % 64)
			n++
		}
	}
	return n, nil
}

func (p *people) Newest(_, _ int, _ []taxonomy.Column, from, to taxonomy.Day, dst *[index.BlockSize]uint8) error {
	*dst = [index.BlockSize]uint8{}
	for i, d := range p.newest {
		if d >= from && d <= to {
			dst[i] = uint8(1 + to - d)
		}
	}
	return nil
}

func (p *people) Columns(_, _ taxonomy.Day, fn func(taxonomy.Column, uint64)) error {
	fn(taxonomy.Column{Source: "own", Trait: taxonomy.TraitAny}, 1)
	return nil
}
func (p *people) Key(_ int, o uint32) (taxonomy.VisitorKey, bool) { return p.keys[o], !p.gone[o] }
func (p *people) Ordinal(k taxonomy.VisitorKey) (int, uint32, bool) {
	i := slices.Index(p.keys, k)
	return 0, uint32(max(i, 0)), i >= 0
}
func (p *people) Consent(_ int, o uint32) (taxonomy.Consent, bool) {
	return taxonomy.Consent{Day: p.newest[o], Purposes: taxonomy.MayAll}, true
}
func (p *people) MatchID(taxonomy.DestinationID, int, uint32) (string, taxonomy.Day, bool) {
	return "", 0, false
}

func (p *people) source() delivery.Source {
	p.gen++
	g := &audience.Generation{Number: p.gen, Clock: p.clock.Now(), Shards: 1, Sources: []taxonomy.SourceID{"own"}}
	for _, a := range []taxonomy.AudienceID{"boats", "cars"} {
		g.Audiences = append(g.Audiences, audience.Entry{ID: a})
	}
	return delivery.Source{Generation: g, View: p, Members: func(_ context.Context, e audience.Entry) (index.Set, error) {
		s := index.NewSet(1)
		for i, in := range p.in[e.ID] {
			if in {
				s[0].Add(uint32(i))
			}
		}
		return s, nil
	}}
}

// want is what the script must print.
func (p *people) want() string {
	var lines []string
	for a, in := range p.in {
		for i, is := range in {
			if is && !p.gone[i] && p.newest[i]+30 > p.clock.Now().Day() {
				lines = append(lines, pseudonym(dsp, 0, p.keys[i])+"\t"+string(a)+"\n")
			}
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "")
}

func pseudonym(d taxonomy.DestinationID, e uint32, k taxonomy.VisitorKey) string {
	h := sha256.Sum256(fmt.Appendf(nil, "%s%d%x", d, e, k))
	if h[0]%4 == 0 {
		// Some partners' IDs are decimal, and too long for a float.
		return fmt.Sprintf("9007199254740993%08d", uint32(h[1])<<16|uint32(h[2])<<8|uint32(h[3]))
	}
	return hex.EncodeToString(h[:16])
}

// partnerListener serves a deliverer as Ebb's partner listener does.
type partnerListener struct {
	d       *delivery.Deliverer
	keyHash string
	cutAt   atomic.Int64 // > 0: break the connection after so many bytes of a file
	ranges  atomic.Int64 // how many requests were for a part
	gone    atomic.Int64 // how many were answered 410
	before  atomic.Pointer[func(file string)]
}

func (p *partnerListener) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	key, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !delivery.CheckKey(p.keyHash, key) {
		http.Error(w, "no such key", http.StatusUnauthorized)
		return
	}
	name, isFile := strings.CutPrefix(r.URL.Path, delivery.FilesPath(dsp)+"/")
	switch {
	case isFile:
		p.file(w, r, name)
	case r.URL.Path == delivery.FilesPath(dsp) && r.Header.Get("Accept") == delivery.ManifestTSV:
		m, err := p.d.Manifest(r.Context(), dsp)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Write(m.TSV())
	default:
		http.NotFound(w, r)
	}
}

func (p *partnerListener) file(w http.ResponseWriter, r *http.Request, name string) {
	if before := p.before.Load(); before != nil {
		(*before)(name)
	}
	b, f, state, err := p.d.Open(r.Context(), dsp, name)
	switch {
	case err != nil:
		http.Error(w, err.Error(), http.StatusInternalServerError)
	case state == delivery.FileWithdrawn:
		p.gone.Add(1)
		http.Error(w, "withdrawn: take the new full", http.StatusGone)
	case state != delivery.FileServed:
		http.NotFound(w, r)
	default:
		defer b.Close()
		if r.Header.Get("Range") != "" && r.Header.Get("Range") != "bytes=0-" {
			p.ranges.Add(1)
		}
		w.Header().Set("ETag", `"`+f.SHA256+`"`)
		w.Header().Set("Content-Type", f.MediaType)
		var out http.ResponseWriter = w
		if n := p.cutAt.Swap(0); n > 0 {
			out = &cut{w, n}
		}
		http.ServeContent(out, r, "", f.Created.Time(), io.NewSectionReader(b, 0, f.Bytes))
	}
}

// cut breaks a reply off in the middle.
type cut struct {
	http.ResponseWriter
	left int64
}

func (c *cut) Write(b []byte) (int, error) {
	if int64(len(b)) < c.left {
		c.left -= int64(len(b))
		return c.ResponseWriter.Write(b)
	}
	c.ResponseWriter.Write(b[:c.left])
	c.ResponseWriter.(http.Flusher).Flush()
	panic(http.ErrAbortHandler)
}

type rig struct {
	t        *testing.T
	p        *people
	listener *partnerListener
	d        *delivery.Deliverer
	dest     delivery.Destination
	state    string
	keyFile  string
	server   *httptest.Server
}

func newRig(t *testing.T, visitors int) *rig {
	for _, tool := range []string{"sh", "curl", "gzip", "awk", "sort", "sed"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatalf("the example needs %s: %v", tool, err)
		}
	}
	p := &people{clock: storetest.NewClock(storetest.Start), in: map[taxonomy.AudienceID][]bool{}}
	for i := range visitors {
		h := sha256.Sum256([]byte{byte(i), byte(i >> 8)})
		p.keys = append(p.keys, taxonomy.VisitorKey(h[:16]))
		p.newest = append(p.newest, p.clock.Now().Day())
		p.gone = append(p.gone, false)
		p.in["cars"] = append(p.in["cars"], i%2 == 0)
		p.in["boats"] = append(p.in["boats"], i%3 == 0)
	}
	m := storetest.NewModel(p.clock.Now)
	random := rand.NewChaCha8([32]byte{3})
	d, err := delivery.New(delivery.Options{
		Keyed: m.Keyed(), Blobs: m.Blobs(), Pseudonym: pseudonym,
		View:    func(context.Context) (audience.View, error) { return p, nil },
		Formats: map[string]delivery.Format{"tsv": tsv.Format{}}, Transports: map[string]delivery.Transport{"pull": pull.Transport{}},
		Now: p.clock.Now, Rand: random,
	})
	if err != nil {
		t.Fatal(err)
	}
	key, hash, err := delivery.NewKey(random)
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, p: p, d: d, listener: &partnerListener{d: d, keyHash: hash}, state: filepath.Join(t.TempDir(), "state")}
	r.keyFile = filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(r.keyFile, []byte(key+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r.server = httptest.NewServer(r.listener)
	t.Cleanup(r.server.Close)
	r.dest = delivery.Destination{ID: dsp, Floor: 1, Audiences: []taxonomy.AudienceID{"cars", "boats"}}
	return r
}

func (r *rig) deliver() delivery.Delivery {
	r.t.Helper()
	done, err := r.d.Run(context.Background(), r.dest, r.p.source())
	if err != nil {
		r.t.Fatal(err)
	}
	return done
}

func (r *rig) command(ctx context.Context) *exec.Cmd {
	c := exec.CommandContext(ctx, "sh", "pull.sh")
	c.Env = append(os.Environ(), "EBB_URL="+r.server.URL, "EBB_DESTINATION="+string(dsp), "EBB_KEY_FILE="+r.keyFile,
		"EBB_STATE="+r.state, "EBB_NOW="+r.p.clock.Now().Time().Format("2006-01-02T15:04:05Z"))
	return c
}

// pull runs the script and returns what it printed and its exit status.
func (r *rig) pull() (out string, status int, messages string) {
	r.t.Helper()
	c := r.command(context.Background())
	var o, e bytes.Buffer
	c.Stdout, c.Stderr = &o, &e
	err := c.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		r.t.Fatal(err)
	}
	return o.String(), c.ProcessState.ExitCode(), e.String()
}

func (r *rig) check(what string) {
	r.t.Helper()
	out, status, messages := r.pull()
	if want := r.p.want(); status != 0 || out != want {
		r.t.Fatalf("%s: exit %d; got %d lines, want %d\n%s", what, status, strings.Count(out, "\n"), strings.Count(want, "\n"), messages)
	}
}

// Must-show 6 of the first issue: ten generations with joins, leaves, renewals, lives that end,
// an erasure and a broken download; after each the script holds exactly our set.
func TestTheScriptEndsWithExactlyOurSetAcrossTenGenerations(t *testing.T) {
	r := newRig(t, 400)
	for g := 1; g <= 10; g++ {
		for i := range r.p.keys {
			switch {
			case (i+g)%7 == 0:
				r.p.in["cars"][i] = !r.p.in["cars"][i]
			case (i+g)%5 == 0:
				r.p.newest[i] = r.p.clock.Now().Day() // comes again: longer life
			}
		}
		if g == 5 {
			who := []taxonomy.VisitorKey{r.p.keys[0], r.p.keys[6]}
			r.p.gone[0], r.p.gone[6] = true, true
			if err := r.d.Erase(context.Background(), who); err != nil {
				t.Fatal(err)
			}
		}
		done := r.deliver()
		if g == 5 && done.Result != delivery.ResultFull {
			t.Fatalf("after the erasure: %+v", done)
		}
		switch g {
		case 3, 7: // not pulled: the next pull has two files to apply
		case 1, 4, 9:
			r.listener.cutAt.Store(done.Bytes / 2)
			if _, status, _ := r.pull(); status != 75 {
				t.Fatalf("generation %d: a broken download exits %d", g, status)
			}
			r.check(fmt.Sprintf("generation %d, resumed", g))
		default:
			r.check(fmt.Sprintf("generation %d", g))
			r.check(fmt.Sprintf("generation %d, again", g))
		}
		// Four hours mostly, so that there are deltas; some days in between, so
		// that lives end and daily fulls come.
		r.p.clock.Advance(4 * taxonomy.Hour)
		if g == 6 || g == 8 {
			r.p.clock.Advance(13 * taxonomy.OneDay)
		}
	}
	if got := r.listener.ranges.Load(); got != 3 {
		t.Errorf("%d downloads were resumed, want 3", got)
	}
	// R31: what ends, ends by the partner's own clock.
	r.p.clock.Advance(20 * taxonomy.OneDay)
	if out, _, _ := r.pull(); out != r.p.want() || out == "" {
		t.Errorf("after 20 days without a delivery: %d lines, want %d", strings.Count(out, "\n"), strings.Count(r.p.want(), "\n"))
	}
	// Nothing is kept but the set.
	if left, _ := filepath.Glob(filepath.Join(r.state, "files", "*")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// R26: a file that is withdrawn between the manifest and its download answers
// 410, and the script takes the full that replaced it.
func TestAWithdrawnFileIsReplacedByTheNewFull(t *testing.T) {
	r := newRig(t, 50)
	r.deliver()
	once, done := true, make(chan struct{})
	before := func(string) {
		if once {
			once = false
			defer close(done)
			r.p.gone[0] = true
			if err := r.d.Erase(context.Background(), r.p.keys[:1]); err != nil {
				t.Error(err)
			}
			r.deliver()
		}
	}
	r.listener.before.Store(&before)
	out, status, messages := r.pull()
	<-done
	if status != 0 || out != r.p.want() {
		t.Errorf("after a file was withdrawn under way: exit %d: %s", status, messages)
	}
	if r.listener.gone.Load() != 1 {
		t.Errorf("%d answers were 410", r.listener.gone.Load())
	}
}

// Until the new full is there, the script prints what it has and says that it is
// old.
func TestWithoutANewFullTheOldSetIsPrintedAndCalledOld(t *testing.T) {
	r := newRig(t, 50)
	r.deliver()
	r.check("at first")
	before := r.p.want()
	r.p.in["cars"][1] = true
	r.deliver() // a delta, not pulled
	// Visitor 9 is in the full and not in the delta: the full goes, and the delta
	// that stays is of no use to us, who do not know that we have its base.
	r.p.gone[9] = true
	if err := r.d.Erase(context.Background(), r.p.keys[9:10]); err != nil {
		t.Fatal(err)
	}
	if m, err := r.d.Manifest(context.Background(), dsp); err != nil || len(m.Files) != 1 || m.Files[0].Kind != delivery.Delta {
		t.Fatalf("%v, %v", m.Files, err)
	}
	if out, status, messages := r.pull(); status != 75 || out != before || !strings.Contains(messages, "no full now") {
		t.Fatalf("exit %d: %s", status, messages)
	}
	r.deliver()
	r.check("after the new full")
}

// Killed at any moment, the script ends with the exact set when it is run again.
func TestTheScriptMayBeKilledAtAnyMoment(t *testing.T) {
	r := newRig(t, 300)
	for g := range 6 {
		for i := range r.p.keys {
			if (i+g)%4 == 0 {
				r.p.in["cars"][i] = !r.p.in["cars"][i]
			}
		}
		r.deliver()
		// Moments that are not left to the scheduler: while the manifest has been
		// read and a file is being asked for.
		ctx, kill := context.WithCancel(context.Background())
		before := func(string) { kill() }
		r.listener.before.Store(&before)
		if err := r.command(ctx).Run(); err == nil {
			t.Fatal("it was not killed")
		}
		r.listener.before.Store(nil)
		kill()
		r.check(fmt.Sprintf("killed in generation %d", g+1))
	}
}

func TestABrokenFileIsFetchedAnew(t *testing.T) {
	r := newRig(t, 50)
	done := r.deliver()
	if err := os.MkdirAll(filepath.Join(r.state, "files"), 0o700); err != nil {
		t.Fatal(err)
	}
	var junk bytes.Buffer
	z := gzip.NewWriter(&junk)
	z.Write([]byte("not\tours\t+\t1\n"))
	z.Close()
	for _, bad := range [][]byte{junk.Bytes()[:20], bytes.Repeat([]byte("x"), int(done.Bytes)), bytes.Repeat([]byte("x"), int(done.Bytes)+9)} {
		if err := os.WriteFile(filepath.Join(r.state, "files", done.File+".part"), bad, 0o600); err != nil {
			t.Fatal(err)
		}
		os.Remove(filepath.Join(r.state, "set"))
		if _, status, _ := r.pull(); status != 0 && status != 75 {
			t.Fatalf("exit %d", status)
		}
		r.check("after a broken part")
	}
}

func TestTheKeyIsInNoArgumentAndAWrongOneIsRefused(t *testing.T) {
	r := newRig(t, 10)
	r.deliver()
	key, err := os.ReadFile(r.keyFile)
	if err != nil {
		t.Fatal(err)
	}
	// A curl of our own writes down its arguments.
	bin := t.TempDir()
	real, err := exec.LookPath("curl")
	if err != nil {
		t.Fatal(err)
	}
	log := filepath.Join(bin, "log")
	script := fmt.Sprintf("#!/bin/sh\nprintf '%%s\\n' \"$@\" >>%s\nenv >>%s\nexec %s \"$@\"\n", log, log, real)
	if err := os.WriteFile(filepath.Join(bin, "curl"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	c := r.command(context.Background())
	c.Env = append(c.Env, "PATH="+bin+":"+os.Getenv("PATH"))
	if out, err := c.Output(); err != nil || string(out) != r.p.want() {
		t.Fatalf("%v", err)
	}
	args, err := os.ReadFile(log)
	if err != nil || len(args) == 0 || bytes.Contains(args, bytes.TrimSpace(key)) {
		t.Fatalf("curl was given %d bytes of arguments and environment with the key among them, or none: %v", len(args), err)
	}
	if err := os.WriteFile(r.keyFile, []byte("ebbp_wrong"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, status, messages := r.pull(); status != 75 || !strings.Contains(messages, "401") {
		t.Fatalf("a wrong key exits %d: %s", status, messages)
	}
}
