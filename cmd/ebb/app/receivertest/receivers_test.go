// Package receivertest tests the whole of Ebb against receivers that others wrote.
// See README.md.
package receivertest

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ebb-dmp/ebb/cmd/ebb/app"
	"github.com/ebb-dmp/ebb/cmd/ebb/app/apptest"
	"github.com/ebb-dmp/ebb/retention/defs"
	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/onboard"
	"github.com/ebb-dmp/ebb/taxonomy/rules"
	"github.com/ebb-dmp/ebb/taxonomy/tree"
)

var ctx = context.Background()

const space = taxonomy.Space("own:crm")

type world struct {
	*app.App
	*apptest.Place
	t    *testing.T
	now  time.Time
	data string
	at   map[string]*receiver // by the address that its name leads to
}

func newWorld(t *testing.T, receivers map[string]*receiver) *world {
	t.Helper()
	w := &world{t: t, now: time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC), at: map[string]*receiver{}}
	w.Place = apptest.New(t, func() time.Time { return w.now }, nil)
	names := map[string]netip.Addr{}
	for i, name := range slices.Sorted(maps.Keys(receivers)) {
		addr := netip.AddrFrom4([4]byte{93, 184, 215, byte(14 + i)})
		names[name], w.at[addr.String()] = addr, receivers[name]
	}
	w.Change = func(o *app.Options) {
		w.data = o.Config.Data
		o.Env.Resolve = func(_ context.Context, host string) ([]netip.Addr, error) {
			if a, ok := names[host]; ok {
				return []netip.Addr{a}, nil
			}
			return nil, fmt.Errorf("there is no %s", host)
		}
		o.Env.Dial = func(ctx context.Context, _, address string) (net.Conn, error) {
			host, _, err := net.SplitHostPort(address)
			if err != nil || w.at[host] == nil {
				return nil, fmt.Errorf("nobody is at %s", address)
			}
			return w.at[host].dial(ctx)
		}
	}
	w.App = w.Place.App(t)
	w.define(defs.Source, "crm", taxonomy.Source{ID: "crm", Title: "CRM", Party: 1, Agreement: &taxonomy.Agreement{Uses: []string{"store", "profile", "insight", "training", "export"}}})
	w.define(defs.Taxonomy, "products", tree.Taxonomy{ID: "products", Title: "Products", Categories: []tree.Category{{ID: "wine", Title: "Wine"}, {ID: "meat", Title: "Meat"}}})
	w.define(defs.Rule, "kind", rules.Rule{ID: "kind", When: []rules.Condition{{Field: "kind", Op: "eq", Value: "fact"}}, Then: []string{"c:products/{what}"}})
	w.define(defs.Audience, "wine", audience.Definition{ID: "wine", Title: "Wine, no meat", Kind: audience.KindRule,
		Rule: []byte(`{"and":[{"trait":"c:products/wine","window":"30d"},{"not":{"trait":"c:products/meat"}}]}`)})
	return w
}

func (w *world) define(kind defs.Kind, id string, body any) {
	w.t.Helper()
	if err := w.Define(ctx, kind, id, body); err != nil {
		w.t.Fatal(err)
	}
}

// did imports a purchase of each visitor.
func (w *world) did(what string, visitors ...int) {
	w.t.Helper()
	var b strings.Builder
	b.WriteString("id,at,what\n")
	for _, v := range visitors {
		fmt.Fprintf(&b, "v%d,%s,%s\n", v, w.now.Add(-time.Hour).Format("2006-01-02 15:04:05"), what)
	}
	m := onboard.Mapping{Visitor: "id", Space: space, Time: "at", Layout: "2006-01-02 15:04:05", Event: &onboard.EventMapping{Name: "purchase", Props: []onboard.Column{{Column: "what"}}}}
	rec, err := w.Import(ctx, app.ImportRequest{Source: "crm", Mapping: m, File: strings.NewReader(b.String())})
	if err != nil || rec.Stored != uint64(len(visitors)) {
		w.t.Fatalf("%v, %+v", err, rec)
	}
}

func (w *world) id(dest taxonomy.DestinationID, v int) string {
	w.t.Helper()
	k, err := w.Keys.Load().VisitorKey(space, []byte("v"+strconv.Itoa(v)), 0)
	if err != nil {
		w.t.Fatal(err)
	}
	return w.Keys.Load().Pseudonym(dest, 0, k)
}

func (w *world) deliver(dests ...taxonomy.DestinationID) {
	w.t.Helper()
	if _, err := w.Build(ctx); err != nil {
		w.t.Fatal(err)
	}
	for _, d := range dests {
		done, err := w.Deliver(ctx, d)
		if err != nil || done.Fault != "" || done.Acknowledged != done.Chunks {
			w.t.Fatalf("%s: %v, %+v", d, err, done)
		}
	}
}

// held is what a receiver holds after it took the files in the order in which they
// were made, and every ID that stands in one.
func held(t *testing.T, files map[string][]byte) (holds, named map[string]bool) {
	t.Helper()
	holds, named = map[string]bool{}, map[string]bool{}
	order := slices.SortedFunc(maps.Keys(files), func(a, b string) int { return serial(t, a) - serial(t, b) })
	for _, name := range order {
		b := files[name]
		if z, err := gzip.NewReader(bytes.NewReader(b)); err == nil {
			if b, err = io.ReadAll(z); err != nil {
				t.Fatal(err)
			}
		}
		if strings.Contains(name, "-full") {
			clear(holds)
		}
		for _, line := range strings.Split(strings.TrimSpace(string(b)), "\n") {
			if line == "" {
				continue
			}
			col := strings.Split(line, "\t")
			if len(col) != 4 || col[1] != "wine" {
				t.Fatalf("%s: a row %q", name, line)
			}
			named[col[0]] = true
			if col[2] == "+" {
				holds[col[0]] = true
			} else {
				delete(holds, col[0])
			}
		}
	}
	return holds, named
}

// serial is the number of the head in a file's name: e1-g2-h3-….
func serial(t *testing.T, name string) int {
	t.Helper()
	parts := strings.Split(name, "-")
	if len(parts) < 5 {
		t.Fatalf("a file is called %s", name)
	}
	n, err := strconv.Atoi(parts[2][1:])
	if err != nil {
		t.Fatalf("a file is called %s", name)
	}
	return n
}

// got are the files in a receiver's folder, without lists of files.
func (r *receiver) got(t *testing.T) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	names, err := filepath.Glob(r.folder + "/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		if strings.HasSuffix(n, ".json") {
			continue
		}
		b, err := os.ReadFile(n)
		if err != nil {
			t.Fatal(err)
		}
		files[filepath.Base(n)] = b
	}
	return files
}

// pulled are the files that the manifest names.
func (w *world) pulled(d taxonomy.DestinationID) map[string][]byte {
	w.t.Helper()
	files := map[string][]byte{}
	m, err := w.Files().Manifest(ctx, d)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, f := range m.Files {
		r, _, state, err := w.Files().Open(ctx, d, f.Name)
		if err != nil || state != delivery.FileServed {
			w.t.Fatalf("%s: %v, %v", f.Name, err, state)
		}
		b, err := io.ReadAll(io.NewSectionReader(r, 0, r.Blob().Bytes))
		r.Close()
		if err != nil {
			w.t.Fatal(err)
		}
		files[f.Name] = b
	}
	return files
}

func (w *world) secretFile(name, text string) {
	w.t.Helper()
	folder := w.data + ".secrets"
	if err := w.FS.MkdirAll(folder, 0o700); err != nil {
		w.t.Fatal(err)
	}
	f, err := w.FS.Create(folder+"/"+name, "")
	if err == nil {
		_, err = f.Write([]byte(text))
	}
	if err != nil {
		w.t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		w.t.Fatal(err)
	}
}

func people(from, to int) (list []int) {
	for i := from; i < to; i++ {
		list = append(list, i)
	}
	return list
}

func (w *world) wants(d taxonomy.DestinationID, holds map[string]bool, in []int) {
	w.t.Helper()
	want := map[string]bool{}
	for _, v := range in {
		want[w.id(d, v)] = true
	}
	if !maps.Equal(holds, want) {
		w.t.Fatalf("%s holds %d, must hold %d", d, len(holds), len(want))
	}
}

// R25, R26, R32, P4. A night after an erasure no file that partners may pull names
// the visitor, those that were pushed to no longer hold it, and at no time do two
// destinations' files have an ID in common.
func TestDestinationsShareNoIDAndForgetTheErased(t *testing.T) {
	w := newWorld(t, nil)
	dests := []taxonomy.DestinationID{"a", "b"}
	for _, d := range dests {
		w.define(defs.Destination, string(d), delivery.Destination{ID: d, Title: "DSP", Audiences: []taxonomy.AudienceID{"wine"}, Floor: 1, KeyHash: delivery.HashKey("ebbp_x")})
	}
	all := people(0, 300)
	w.did("wine", all...)
	w.deliver(dests...)
	apart := func() {
		t.Helper()
		_, a := held(t, w.pulled("a"))
		_, b := held(t, w.pulled("b"))
		if len(a) == 0 || len(b) == 0 {
			t.Fatal("a destination has no rows")
		}
		for id := range a {
			if b[id] {
				t.Errorf("both name %s", id)
			}
		}
	}
	for _, d := range dests {
		holds, _ := held(t, w.pulled(d))
		w.wants(d, holds, all)
	}
	apart()
	w.now = w.now.Add(time.Hour)
	w.did("meat", people(10, 20)...)
	w.did("wine", people(300, 310)...)
	w.deliver(dests...)
	in := append(people(0, 10), people(20, 310)...)
	for _, d := range dests {
		holds, _ := held(t, w.pulled(d))
		w.wants(d, holds, in)
	}
	apart()
	// Who is in a full, who came by a delta, who left by one: all are erased.
	gone := []int{5, 15, 305}
	for _, v := range gone {
		if _, err := w.Erase(ctx, space, "v"+strconv.Itoa(v)); err != nil {
			t.Fatal(err)
		}
	}
	w.now = time.Date(2026, 11, 26, 1, 15, 0, 0, time.UTC) // 12 hours later: the bound is 24
	if err := w.Nightly(ctx); err != nil {
		t.Fatal(err)
	}
	w.deliver(dests...)
	in = slices.DeleteFunc(in, func(v int) bool { return slices.Contains(gone, v) })
	for _, d := range dests {
		holds, named := held(t, w.pulled(d))
		w.wants(d, holds, in)
		for _, v := range gone {
			if named[w.id(d, v)] {
				t.Errorf("%s: a file names visitor %d, who was erased", d, v)
			}
		}
	}
	apart()
}

// R32: after a full and a delta with comers, leavers and an erasure, what versitygw,
// OpenSSH and nginx were sent adds up to what they must hold, and to what the ledger
// says that they hold.
func TestLongRealReceiversHoldWhatTheyMust(t *testing.T) {
	servers := map[string]*receiver{"drop.dsp.example": nginx(t), "s3.dsp.example": versitygw(t), "sftp.dsp.example": sshd(t)}
	w := newWorld(t, servers)
	var dests []taxonomy.DestinationID
	for _, x := range []struct{ name, transport string }{{"drop.dsp.example", "https"}, {"s3.dsp.example", "s3"}, {"sftp.dsp.example", "sftp"}} {
		r, d := servers[x.name], taxonomy.DestinationID(x.transport+"-dsp")
		w.secretFile(string(d), r.secret)
		w.define(defs.Destination, string(d), delivery.Destination{ID: d, Title: "DSP", Audiences: []taxonomy.AudienceID{"wine"}, Floor: 1, Transport: x.transport,
			URL: r.url, Account: r.account, CredentialsFile: string(d)})
		dests = append(dests, d)
	}
	of := func(d taxonomy.DestinationID) *receiver {
		return servers[map[taxonomy.DestinationID]string{"https-dsp": "drop.dsp.example", "s3-dsp": "s3.dsp.example", "sftp-dsp": "sftp.dsp.example"}[d]]
	}
	check := func(in []int) {
		t.Helper()
		seen := map[string]taxonomy.DestinationID{}
		for _, d := range dests {
			holds, named := held(t, of(d).got(t))
			w.wants(d, holds, in)
			runs, err := w.Files().Deliveries(ctx, d)
			if err != nil || len(runs) == 0 {
				t.Fatalf("%s: %v, %d runs", d, err, len(runs))
			}
			if last := slices.MaxFunc(runs, func(a, b delivery.Delivery) int { return int(a.Generation) - int(b.Generation) }); last.Held != uint64(len(holds)) {
				t.Errorf("%s: the ledger says that it holds %d, it holds %d", d, last.Held, len(holds))
			}
			for id := range named {
				if other := seen[id]; other != "" {
					t.Errorf("%s and %s both know %s", d, other, id)
				}
				seen[id] = d
			}
		}
	}
	w.did("wine", people(0, 2000)...)
	w.deliver(dests...)
	check(people(0, 2000))
	w.now = w.now.Add(time.Hour)
	w.did("meat", people(100, 200)...)
	w.did("wine", people(2000, 2100)...)
	for _, v := range []int{5, 2050} {
		if _, err := w.Erase(ctx, space, "v"+strconv.Itoa(v)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Nightly(ctx); err != nil { // the eraser, which writes the removals
		t.Fatal(err)
	}
	w.deliver(dests...)
	in := slices.DeleteFunc(append(people(0, 100), people(200, 2100)...), func(v int) bool { return v == 5 || v == 2050 })
	check(in)
}
