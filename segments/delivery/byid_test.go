package delivery_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/segments/delivery/transport/pull"
	"github.com/ebb-dmp/ebb/taxonomy"
	"pgregory.net/rapid"
)

// plain is a format with a line for each row.
type plain struct{ facts delivery.FormatFacts }

func (p plain) Facts() delivery.FormatFacts              { return p.facts }
func (p plain) New(f delivery.FileInfo) delivery.Encoder { return lines{f} }

type lines struct{ f delivery.FileInfo }

func (l lines) Append(dst []byte, run delivery.Run, ids []string) ([]byte, error) {
	for _, id := range ids {
		dst = fmt.Appendf(dst, "%s %s %v %d\n", id, l.f.Segment(run.Audience), run.Remove, run.Minutes)
	}
	return dst, nil
}
func (l lines) Close(dst []byte) ([]byte, error) { return dst, nil }

// folderOf keeps what it is sent, and can refuse.
type folderOf struct {
	mu     sync.Mutex
	facts  delivery.TransportFacts
	names  []string
	bodies map[string]string
	chunks map[string]delivery.Chunk
	refuse func(*delivery.Chunk) error
}

func (f *folderOf) Facts() delivery.TransportFacts    { return f.facts }
func (f *folderOf) Check(*delivery.Destination) error { return nil }
func (f *folderOf) Send(_ context.Context, _ *delivery.Destination, c *delivery.Chunk) error {
	f.mu.Lock() // chunks of one wave are sent at once
	defer f.mu.Unlock()
	if f.refuse != nil {
		if err := f.refuse(c); err != nil {
			return err
		}
	}
	b, err := io.ReadAll(io.NewSectionReader(c.Body, 0, c.Body.Size()))
	if err != nil {
		return err
	}
	f.names, f.bodies[c.Name] = append(f.names, c.Name), string(b)
	if f.chunks != nil {
		f.chunks[c.Name] = *c
	}
	return nil
}

func (r *rig) with(t tb, f delivery.Format, tr delivery.Transport) {
	t.Helper()
	var err error
	r.d, err = delivery.New(delivery.Options{
		Keyed: r.store.Keyed(), Blobs: r.store.Blobs(), Pseudonym: pseudonym,
		View:    func(context.Context) (audience.View, error) { return r.w.view(), nil },
		Formats: map[string]delivery.Format{"plain": f}, Transports: map[string]delivery.Transport{"folder": tr, "pull": pull.Transport{}},
		Now: func() taxonomy.Millis { return r.w.now }, Rand: r.rand, After: func(time.Duration) <-chan time.Time { return nil },
	})
	if err != nil {
		t.Fatalf("%v", err)
	}
}

func sent(f *folderOf) (ids []string, rows map[string]bool) {
	rows = map[string]bool{}
	for _, n := range f.names {
		for line := range strings.Lines(f.bodies[n]) {
			w := strings.Fields(line)
			rows[strings.Join(w, " ")] = true
			ids = append(ids, n+" "+w[0])
		}
	}
	return ids, rows
}

// The rows of one ID stand together and in one chunk, and they are the rows that
// stand by audience otherwise.
func TestRowsByIDAreTheRowsByAudience(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		n, most := rapid.IntRange(1, 12).Draw(rt, "visitors"), rapid.IntRange(4, 30).Draw(rt, "rows of a chunk")
		apart := rapid.Bool().Draw(rt, "apart")
		var by [2]map[string]bool
		for i, byID := range []bool{false, true} {
			r := filled(t, n)
			f := &folderOf{bodies: map[string]string{}}
			r.with(t, plain{delivery.FormatFacts{Extension: ".txt", Removes: true, MaxRows: most, ByID: byID, Apart: apart}}, f)
			dest := destination()
			dest.Format, dest.Transport = "plain", "folder"
			r.run(t, dest)
			first := len(f.names)
			delete(r.w.visitors[0].member, "cars")
			r.w.now += taxonomy.Hour
			if done := r.run(t, dest); done.Removes != 1 {
				t.Fatalf("%+v", done)
			}
			ids, rows := sent(f)
			by[i] = rows
			if !byID {
				continue
			}
			seen := map[string]bool{}
			for j, id := range ids {
				key := strings.Fields(id)[1]
				if strings.HasPrefix(id, f.names[first]+" ") {
					break // the second delivery
				}
				if seen[key] && ids[j-1] != id {
					t.Fatalf("the rows of an ID stand apart:\n%s", strings.Join(ids, "\n"))
				}
				seen[key] = true
			}
		}
		if fmt.Sprint(by[0]) != fmt.Sprint(by[1]) {
			t.Fatalf("by audience %v\nby ID %v", by[0], by[1])
		}
	})
}

// A file that is pulled holds the same rows by ID.
func TestAPulledFileByIDHoldsTheSameRows(t *testing.T) {
	var got [2]string
	for i, byID := range []bool{false, true} {
		r := filled(t, 7)
		r.with(t, plain{delivery.FormatFacts{Extension: ".txt", Removes: true, ByID: byID}}, &folderOf{})
		dest := destination()
		dest.Format = "plain"
		r.run(t, dest)
		file := r.manifest(t).Files[0]
		b, _, state, err := r.d.Open(context.Background(), dsp, file.Name)
		if err != nil || state != delivery.FileServed {
			t.Fatal(state, err)
		}
		body, err := io.ReadAll(io.NewSectionReader(b, 0, file.Bytes))
		b.Close()
		if err != nil {
			t.Fatal(err)
		}
		rows := map[string]bool{}
		for line := range strings.Lines(string(body)) {
			rows[line] = true
		}
		got[i] = fmt.Sprint(rows)
	}
	if got[0] != got[1] || len(got[0]) < 100 {
		t.Fatalf("by audience\n%s\nby ID\n%s", got[0], got[1])
	}
}

// The manifest comes last, when everything that it lists has been taken, and
// says what was sent; a part that was refused keeps it away.
func TestTheManifestComesLastOrNotAtAll(t *testing.T) {
	r := filled(t, 9)
	f := &folderOf{facts: delivery.TransportFacts{Manifest: true}, bodies: map[string]string{}}
	r.with(t, plain{delivery.FormatFacts{Extension: ".txt", Removes: true, MaxRows: 10, Apart: true}}, f)
	dest := destination()
	dest.Format, dest.Transport, dest.Push.Concurrency = "plain", "folder", 8
	fail := true
	f.refuse = func(c *delivery.Chunk) error {
		if fail && c.Index == 1 {
			return fmt.Errorf("no: %w", delivery.ErrRefused)
		}
		return nil
	}
	done := r.run(t, dest)
	if done.Refused != 1 || done.Result != delivery.ResultWaiting || len(f.names) == 0 || strings.HasSuffix(f.names[len(f.names)-1], "manifest.json") {
		t.Fatalf("%+v, %v", done, f.names)
	}
	fail, f.names = false, nil
	r.w.now += 2 * taxonomy.Hour
	if done = r.run(t, dest); done.Acknowledged != done.Chunks {
		t.Fatalf("%+v", done)
	}
	last := f.names[len(f.names)-1]
	if !strings.HasSuffix(last, "-manifest.json") {
		t.Fatal(f.names)
	}
	var m struct {
		Files []struct {
			Name, SHA256 string
			Rows         uint64
			Bytes        int
		}
	}
	if err := json.NewDecoder(bytes.NewReader([]byte(f.bodies[last]))).Decode(&m); err != nil {
		t.Fatal(err)
	}
	if len(m.Files) != len(f.names)-1 {
		t.Fatalf("%d are listed, %d were sent", len(m.Files), len(f.names)-1)
	}
	for _, x := range m.Files {
		if b := f.bodies[x.Name]; len(b) != x.Bytes || strings.Count(b, "\n") != int(x.Rows) || x.Rows == 0 {
			t.Errorf("%+v", x)
		}
	}
}
