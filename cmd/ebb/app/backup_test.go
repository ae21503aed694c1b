package app_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"pgregory.net/rapid"

	"github.com/ebb-dmp/ebb/cmd/ebb/app"
	"github.com/ebb-dmp/ebb/cmd/ebb/app/apptest"
	"github.com/ebb-dmp/ebb/cmd/ebb/app/backup"
	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/retention/defs"
	"github.com/ebb-dmp/ebb/retention/embedded"
	"github.com/ebb-dmp/ebb/retention/log"
	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/keys"
	"github.com/ebb-dmp/ebb/taxonomy/onboard"
	"github.com/ebb-dmp/ebb/taxonomy/rules"
	"github.com/ebb-dmp/ebb/taxonomy/tree"
)

// machine is a computer with an installation: a disk, a clock and a file of keys.
type machine struct {
	*apptest.Place
	t        testing.TB
	fs       *vfs.MemFS // the same as FS
	now      time.Time
	compress bool
}

func newMachine(t testing.TB) *machine {
	m := &machine{t: t, fs: vfs.NewMem(), now: time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)}
	m.Place = apptest.New(t, func() time.Time { return m.now }, map[string]string{"export_floor": "1"})
	m.FS = m.fs
	return m
}

func (m *machine) set(data string) {
	m.Settings["data"], m.Settings["compress"] = data, fmt.Sprint(m.compress)
}

func (m *machine) options(data string) app.Options {
	m.t.Helper()
	m.set(data)
	return m.Options(m.t)
}

func (m *machine) open(data string) *app.App {
	m.t.Helper()
	m.set(data)
	a, _ := m.Open(m.t)
	return a
}

func (m *machine) close(a *app.App) {
	m.t.Helper()
	apptest.Close(m.t, a)
}

// shop defines a source, an audience of all its buyers and a destination.
func (m *machine) shop(a *app.App) {
	m.t.Helper()
	for _, d := range []struct {
		kind defs.Kind
		id   string
		body any
	}{
		{defs.Source, "crm", taxonomy.Source{ID: "crm", Party: 1, Agreement: &taxonomy.Agreement{Uses: []string{"store", "profile", "insight", "training", "export"}}}},
		{defs.Taxonomy, "shop", tree.Taxonomy{ID: "shop", Title: "Shop", Categories: []tree.Category{{ID: "tea", Title: "Tea"}}}},
		{defs.Rule, "bought", rules.Rule{ID: "bought", When: []rules.Condition{{Field: "kind", Op: "eq", Value: "fact"}}, Then: []string{"c:shop/{what}"}}},
		{defs.Audience, "tea", audience.Definition{ID: "tea", Title: "Tea", Kind: audience.KindRule, Rule: []byte(`{"trait":"c:shop/tea"}`)}},
		{defs.Destination, "dsp", delivery.Destination{ID: "dsp", Title: "A DSP", Audiences: []taxonomy.AudienceID{"tea"}, Floor: 1, KeyHash: delivery.HashKey("ebbp_x")}},
	} {
		if err := a.Define(ctx, d.kind, d.id, d.body); err != nil {
			m.t.Fatal(err)
		}
	}
}

// buy imports one purchase of tea for each visitor from first on.
func (m *machine) buy(a *app.App, first, n int) error {
	var b strings.Builder
	b.WriteString("who,when,what\n")
	for i := range n {
		fmt.Fprintf(&b, "visitor-%d,%s,tea\n", first+i, m.now.Add(-time.Duration(i%48)*time.Hour).Format("2006-01-02"))
	}
	_, err := a.Import(ctx, app.ImportRequest{Source: "crm", File: strings.NewReader(b.String()), Mapping: onboard.Mapping{
		Visitor: "who", Space: "own:crm", Time: "when", Layout: "2006-01-02", Event: &onboard.EventMapping{Name: "purchase", Props: []onboard.Column{{Column: "what"}}}}})
	return err
}

func (m *machine) key(visitor int) taxonomy.VisitorKey {
	m.t.Helper()
	k, err := m.Keys.Load().VisitorKey("own:crm", fmt.Appendf(nil, "visitor-%d", visitor), 0)
	if err != nil {
		m.t.Fatal(err)
	}
	return k
}

func (m *machine) backup(a *app.App) ([]byte, *backup.Manifest) {
	m.t.Helper()
	var b bytes.Buffer
	man, err := a.Backup(ctx, &b)
	if err != nil {
		m.t.Fatal(err)
	}
	return b.Bytes(), man
}

func (m *machine) restore(archive []byte, data string, change func(*app.RestoreOptions)) (app.Restored, error) {
	o := app.RestoreOptions{Options: m.options(data), Archive: bytes.NewReader(archive)}
	if change != nil {
		change(&o)
	}
	return app.Restore(ctx, o)
}

// places returns the files below dir that hold the bytes, as they are on disk and
// as dumps see them through compression.
func (m *machine) places(dir string, what []byte) (in []string) {
	m.t.Helper()
	var walk func(string)
	walk = func(at string) {
		if info, err := m.fs.Stat(at); err != nil {
			m.t.Fatal(err)
		} else if info.IsDir() {
			names, err := m.fs.List(at)
			if err != nil {
				m.t.Fatal(err)
			}
			for _, n := range names {
				walk(m.fs.PathJoin(at, n))
			}
			return
		}
		f, err := m.fs.Open(at)
		if err != nil {
			m.t.Fatal(err)
		}
		defer f.Close()
		b, err := io.ReadAll(f)
		if err != nil {
			m.t.Fatal(err)
		}
		if bytes.Contains(b, what) {
			in = append(in, at)
		}
	}
	walk(dir)
	var dump bytes.Buffer
	if err := embedded.Dump(ctx, m.fs, dir, &dump); err != nil {
		m.t.Fatal(err)
	}
	if bytes.Contains(dump.Bytes(), what) {
		in = append(in, "dump of the store")
	}
	err := log.Dump(m.fs, m.fs.PathJoin(dir, "log"), func(file string, _ uint64, raw []byte) error {
		if bytes.Contains(raw, what) {
			in = append(in, "dump of "+file)
		}
		return nil
	})
	if err != nil {
		m.t.Fatal(err)
	}
	return in
}

func count(t testing.TB, a *app.App) uint64 {
	t.Helper()
	built, err := a.Build(ctx)
	if err != nil {
		t.Fatal(err)
	}
	e, ok := built.Generation.Entry("tea")
	if !ok || e.Fault != "" {
		t.Fatalf("audience tea: %+v", e)
	}
	return e.Count
}

const journal = "data/erasures.journal"

// P6, R29: who was erased after a backup was made is not in what is restored of
// it, in no byte. What was not erased is, and is found by the same search.
func TestAnErasedVisitorDoesNotComeBackWithABackup(t *testing.T) {
	for _, compress := range []bool{false, true} {
		t.Run(fmt.Sprintf("compress=%t", compress), func(t *testing.T) {
			m := newMachine(t)
			m.compress = compress
			a := m.open("data")
			m.shop(a)
			if err := m.buy(a, 0, 300); err != nil {
				t.Fatal(err)
			}
			if n := count(t, a); n != 300 {
				t.Fatalf("%d bought tea, want 300", n)
			}
			if _, err := a.Deliver(ctx, "dsp"); err != nil {
				t.Fatal(err)
			}
			if err := m.buy(a, 300, 5); err != nil { // beyond the last generation
				t.Fatal(err)
			}
			before, err := a.Accounts(ctx)
			if err != nil {
				t.Fatal(err)
			}
			archive, man := m.backup(a)
			m.now = m.now.Add(time.Hour)
			receipts := map[int]string{}
			for _, v := range []int{7, 302, 5_000} { // one whom the backup does not have
				if receipts[v], err = a.Erase(ctx, "own:crm", fmt.Sprintf("visitor-%d", v)); err != nil {
					t.Fatal(err)
				}
			}
			m.close(a)

			gone, stays := m.key(7), m.key(8)
			pseudonym := m.Keys.Load().Pseudonym("dsp", 0, gone)

			// Without the journal it does not run, and if told to, they come back:
			// so the archive has them, and the search below means something.
			if _, err := m.restore(archive, "refused", nil); err == nil || !strings.Contains(err.Error(), "--journal") {
				t.Fatalf("a restore without a journal: %v", err)
			}
			if _, err := m.restore(archive, "unsafe", func(o *app.RestoreOptions) { o.WithoutJournal = true }); err != nil {
				t.Fatal(err)
			}
			if in := m.places("unsafe", gone[:]); len(in) == 0 {
				t.Error("without the journal the erased visitor is not found either")
			}

			res, err := m.restore(archive, "restored", func(o *app.RestoreOptions) { o.Journal = journal })
			if err != nil {
				t.Fatal(err)
			}
			if res.Erased != 2 || res.Journal != 3 || res.Epoch != 1 || res.Checkpoint != man.Checkpoint {
				t.Errorf("restored %+v", res)
			}
			for what, b := range map[string][]byte{"key": gone[:], "key of the log's end": key(m.key(302)), "pseudonym": []byte(pseudonym)} {
				if in := m.places("restored", b); len(in) > 0 {
					t.Errorf("the %s of an erased visitor is in %v", what, in)
				}
			}
			if in := m.places("restored", stays[:]); len(in) == 0 {
				t.Error("a visitor who was not erased is not found: the search means nothing")
			}

			r := m.open("restored")
			defer m.close(r)
			after, err := r.Accounts(ctx)
			if err != nil {
				t.Fatal(err)
			}
			want, got := before[taxonomy.ImportSite("crm")], after[taxonomy.ImportSite("crm")]
			if !got.Balanced() || got.Received != want.Received || got.Stored != want.Stored {
				t.Errorf("account %+v, at the backup %+v", got, want)
			}
			if n := count(t, r); n != 303 {
				t.Errorf("%d bought tea, want 305 less 2", n)
			}
			if g := r.Generation(); g.Epoch != 1 {
				t.Errorf("epoch %d, want 1", g.Epoch)
			}
			if rec, err := r.Receipt(ctx, receipts[7]); err != nil || !rec.Done {
				t.Errorf("receipt %+v, %v", rec, err)
			}
			if rep := r.Audit(ctx); !rep.OK {
				t.Errorf("audit %+v", rep)
			}
			// It does not come back with what is sent again, also one whom the
			// backup never had.
			if err := m.buy(r, 7, 1); err != nil {
				t.Fatal(err)
			}
			if err := m.buy(r, 5_000, 1); err != nil {
				t.Fatal(err)
			}
			if n := count(t, r); n != 303 {
				t.Errorf("%d bought tea after erased visitors were imported again, want 303", n)
			}
		})
	}
}

// deliveriesOf asks the API, as commands do.
func deliveriesOf(a *app.App, id string) ([]delivery.Delivery, error) {
	h, err := a.Local(ctx)
	if err != nil {
		return nil, err
	}
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, httptest.NewRequest("GET", "/api/v1/destinations/"+id+"/deliveries", nil))
	var doc struct {
		Items []struct {
			Result      string
			Epoch, Rows uint64
		}
	}
	err = json.Unmarshal(rec.Body.Bytes(), &doc)
	var out []delivery.Delivery
	for _, d := range doc.Items {
		out = append(out, delivery.Delivery{Result: d.Result, Epoch: d.Epoch, Rows: d.Rows})
	}
	return out, err
}

func key(k taxonomy.VisitorKey) []byte { return k[:] }

// R29: every destination gets a full, of another epoch.
func TestARestoreGivesEveryDestinationAFull(t *testing.T) {
	m := newMachine(t)
	a := m.open("data")
	m.shop(a)
	if err := m.buy(a, 0, 60); err != nil {
		t.Fatal(err)
	}
	count(t, a)
	first, err := a.Deliver(ctx, "dsp")
	if err != nil {
		t.Fatal(err)
	}
	archive, _ := m.backup(a)
	m.close(a)
	m.now = m.now.Add(24 * time.Hour)
	if _, err := m.restore(archive, "restored", func(o *app.RestoreOptions) { o.Journal = journal }); err != nil {
		t.Fatal(err)
	}
	r := m.open("restored")
	defer m.close(r)
	list, err := deliveriesOf(r, "dsp")
	if err != nil {
		t.Fatal(err)
	}
	if len(list) == 0 || list[0].Result != delivery.ResultFull || list[0].Epoch != first.Epoch+1 || list[0].Rows != first.Rows {
		t.Errorf("deliveries %+v; before the backup %+v", list, first)
	}
}

// R29, R30: what a restore refuses, with the sentence that helps.
func TestWhatARestoreRefuses(t *testing.T) {
	m := newMachine(t)
	a := m.open("data")
	m.shop(a)
	if err := m.buy(a, 0, 10); err != nil {
		t.Fatal(err)
	}
	archive, _ := m.backup(a)
	m.close(a)
	made := m.now
	other, err := keys.Generate(app.System().Rand, taxonomy.DayOf(m.now))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		data   string
		change func(*app.RestoreOptions)
		age    time.Duration
		says   string
	}{
		"a folder that is not empty":  {data: "data", says: "not empty"},
		"a backup of 91 days ago":     {data: "x", age: 91 * 24 * time.Hour, says: "91 days ago"},
		"keys that are others":        {data: "x", change: func(o *app.RestoreOptions) { o.Keys = other }, says: "store/own:crm"},
		"a journal that is not there": {data: "x", change: func(o *app.RestoreOptions) { o.Journal = "nowhere" }, says: "nowhere"},
		"a journal that is none":      {data: "x", change: func(o *app.RestoreOptions) { o.Journal = "data/FORMAT" }, says: "journal of erasures"},
		"half an archive":             {data: "x", change: func(o *app.RestoreOptions) { o.Archive = bytes.NewReader(archive[:len(archive)/2]) }, says: "ends"},
		"no archive":                  {data: "x", change: func(o *app.RestoreOptions) { o.Archive = strings.NewReader("hello") }, says: "is it one?"},
	} {
		t.Run(name, func(t *testing.T) {
			m.now = made.Add(c.age)
			_, err := m.restore(archive, c.data, func(o *app.RestoreOptions) {
				o.Journal = journal
				if c.change != nil {
					c.change(o)
				}
			})
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want something with %q", err, c.says)
			}
			if names, _ := m.fs.List(c.data); c.data == "x" && len(names) > 0 {
				t.Errorf("it left %v", names)
			}
		})
	}
}

// P6: between the first byte and the last step a data directory does not open,
// whatever a crash leaves; a second attempt may follow.
func TestAHalfRestoredDirectoryDoesNotOpen(t *testing.T) {
	m := newMachine(t)
	a := m.open("data")
	m.shop(a)
	archive, _ := m.backup(a)
	m.close(a)
	if err := m.fs.MkdirAll("x/restoring/db", 0o700); err != nil {
		t.Fatal(err)
	}
	if _, _, err := app.Open(ctx, m.options("x")); err == nil || !strings.Contains(err.Error(), "restore") {
		t.Fatalf("it opened: %v", err)
	}
	if _, err := m.restore(archive, "x", func(o *app.RestoreOptions) { o.Journal = journal }); err != nil {
		t.Fatal(err)
	}
	m.close(m.open("x"))
}

// A backup that is made while rows come in is of one moment: what it counts as
// stored is what can be found, and nothing is counted that is not there.
func TestABackupUnderLoadIsOfOneMoment(t *testing.T) {
	m := newMachine(t)
	a := m.open("data")
	m.shop(a)
	if err := m.buy(a, 0, 20); err != nil { // makes the space's key
		t.Fatal(err)
	}
	stop, done := make(chan struct{}), make(chan error, 1)
	go func() {
		for i := 1; ; i++ {
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
			if err := m.buy(a, 20*i, 20); err != nil {
				done <- err
				return
			}
		}
	}()
	var archives [][]byte
	for range 5 {
		b, _ := m.backup(a)
		archives = append(archives, b)
	}
	close(stop)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	m.close(a)
	var last uint64
	for i, b := range archives {
		data := fmt.Sprintf("restored-%d", i)
		if _, err := m.restore(b, data, func(o *app.RestoreOptions) { o.Journal = journal }); err != nil {
			t.Fatal(err)
		}
		r := m.open(data)
		acc, err := r.Accounts(ctx)
		if err != nil {
			t.Fatal(err)
		}
		got := acc[taxonomy.ImportSite("crm")]
		if n := count(t, r); !got.Balanced() || got.Stored != n || got.Queued != 0 || n < last {
			t.Errorf("backup %d: account %+v, %d visitors with one purchase each, %d before", i, got, n, last)
		} else {
			last = n
		}
		m.close(r)
	}
}

// A backup is a tar file that any tar reads; it has neither the keys nor the
// journal, and leaves nothing in the data directory.
func TestABackupIsATarOfDataOnly(t *testing.T) {
	m := newMachine(t)
	a := m.open("data")
	m.shop(a)
	if err := m.buy(a, 0, 10); err != nil {
		t.Fatal(err)
	}
	archive, man := m.backup(a)
	defer m.close(a)
	if _, err := m.fs.Stat("data/snapshot"); err == nil {
		t.Error("the snapshot is still there")
	}
	have := map[string]bool{}
	for r := tar.NewReader(bytes.NewReader(archive)); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		top, _, _ := strings.Cut(h.Name, "/")
		have[top] = true
	}
	delete(have, "log") // all of it may be in the checkpoint
	if want := map[string]bool{"MANIFEST": true, "FORMAT": true, "db": true, "blobs": true}; !maps.Equal(have, want) {
		t.Errorf("it holds %v", have)
	}
	secret, err := m.Keys.Load().Marshal()
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range bytes.Fields(secret) {
		if len(line) > 40 && bytes.Contains(archive, bytes.Trim(line, `",`)) {
			t.Error("it holds a key")
		}
	}
	if got, err := backup.Verify(bytes.NewReader(archive)); err != nil || len(got.Files) != len(man.Files) || len(got.Files) < 5 {
		t.Errorf("verify: %v", err)
	}
}

// Every byte of a backup is checked, and the file that a changed one belongs to
// is named.
func TestAFlippedByteIsFoundAndNamed(t *testing.T) {
	m := newMachine(t)
	a := m.open("data")
	m.shop(a)
	if err := m.buy(a, 0, 10); err != nil {
		t.Fatal(err)
	}
	archive, man := m.backup(a)
	m.close(a)
	// Where each entry begins, as tar itself says.
	type entry struct {
		name string
		end  int64
	}
	var entries []entry
	at := &counter{r: bytes.NewReader(archive)}
	for r := tar.NewReader(at); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		entries = append(entries, entry{h.Name, at.n + (h.Size+511)/512*512})
	}
	if len(entries) != len(man.Files)+1 {
		t.Fatalf("%d entries for %d files", len(entries), len(man.Files))
	}
	rapid.Check(t, func(t *rapid.T) {
		i := rapid.IntRange(0, len(archive)-1).Draw(t, "at")
		bit := byte(1) << rapid.IntRange(0, 7).Draw(t, "bit")
		bad := bytes.Clone(archive)
		bad[i] ^= bit
		_, err := backup.Verify(bytes.NewReader(bad))
		var d *backup.Damage
		if !errors.As(err, &d) || !errors.Is(err, retention.ErrCorrupt) {
			t.Fatalf("a flipped bit at %d: %v", i, err)
		}
		want := "end of the archive"
		for _, e := range entries {
			if int64(i) < e.end {
				want = e.name
				break
			}
		}
		if len(d.Faults) != 1 || d.Faults[0].File != want {
			t.Fatalf("a flipped bit at %d, in %s: %+v", i, want, d.Faults)
		}
	})
	for _, cut := range []int{0, 1, 511, 512, len(archive) / 3, len(archive) - 1} {
		if _, err := backup.Verify(bytes.NewReader(archive[:cut])); !errors.Is(err, retention.ErrCorrupt) {
			t.Errorf("cut at %d: %v", cut, err)
		}
	}
	if _, err := backup.Verify(bytes.NewReader(append(bytes.Clone(archive), 0))); err == nil {
		t.Error("a byte behind the end was not found")
	}
}

type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// A caller who hangs up ends the backup and leaves nothing behind.
func TestABackupEndsWithItsCaller(t *testing.T) {
	m := newMachine(t)
	a := m.open("data")
	defer m.close(a)
	m.shop(a)
	gone, hangUp := context.WithCancel(ctx)
	w := writerFunc(func(p []byte) (int, error) { hangUp(); return 0, io.ErrClosedPipe })
	if _, err := a.Backup(gone, w); err == nil {
		t.Error("it went on")
	}
	if _, err := m.fs.Stat("data/snapshot"); err == nil {
		t.Error("the snapshot is still there")
	}
	m.backup(a) // the next one is fine
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
