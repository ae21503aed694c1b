package delivery_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/segments/delivery/transport/pull"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// pushedTo is a rig that pushes lines in chunks of a few rows.
func pushedTo(t *testing.T, visitors int, f *folderOf) (*rig, delivery.Destination) {
	r := filled(t, visitors)
	r.with(t, plain{delivery.FormatFacts{Extension: ".txt", Removes: true, MaxRows: 5}}, f)
	dest := destination()
	dest.Format, dest.Transport = "plain", "folder"
	return r, dest
}

// Each body that left the house can be had again, byte for byte, with what came of
// it; and what did not leave is said not to have.
func TestWhatWasSentIsThereToTheByte(t *testing.T) {
	f := &folderOf{facts: delivery.TransportFacts{Manifest: true}, bodies: map[string]string{}}
	r, dest := pushedTo(t, 9, f)
	got := map[string]string{} // whatever reached the receiver, taken or not
	answers := map[int]error{1: fmt.Errorf("no: %w", delivery.ErrRefused), 3: fmt.Errorf("lost: %w", retention.ErrUnknown)}
	f.refuse = func(c *delivery.Chunk) error {
		b, err := io.ReadAll(io.NewSectionReader(c.Body, 0, c.Body.Size()))
		if err != nil {
			return err
		}
		got[c.Name] = string(b)
		return answers[c.Index]
	}
	done := r.run(t, dest)
	s, err := r.d.OpenSent(context.Background(), dsp, done.File)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	all, outcomes := sha256.New(), map[string]int{}
	for i, c := range s.Chunks {
		b, err := io.ReadAll(s.Body(i))
		if err != nil {
			t.Fatal(err)
		}
		all.Write(b)
		sum := sha256.Sum256(b)
		if c.Bytes != int64(len(b)) || c.SHA256 != hex.EncodeToString(sum[:]) {
			t.Errorf("%+v: %d bytes of %x", c, len(b), sum)
		}
		if body, was := got[c.Name]; was != c.WasSent() || was && body != string(b) {
			t.Errorf("%+v: the receiver got %q, kept is %q", c, body, b)
		}
		outcomes[c.Outcome]++
		want := delivery.ChunkAcknowledged
		switch {
		case i > 3:
			want = delivery.ChunkNotSent
		case errors.Is(answers[i], delivery.ErrRefused):
			want = delivery.ChunkRefused
		case answers[i] != nil:
			want = delivery.ChunkUnanswered
		}
		if c.Outcome != want {
			t.Errorf("chunk %d: %s, want %s", i, c.Outcome, want)
		}
	}
	if len(outcomes) != 4 || hex.EncodeToString(all.Sum(nil)) != done.SHA256 || !s.Chunks[len(s.Chunks)-1].Control {
		t.Errorf("%v; %+v", outcomes, done)
	}
	// And when it has been settled, and everything was taken.
	answers = nil
	r.w.now += taxonomy.Hour
	r.run(t, dest) // settles it, and waits since a chunk was refused
	r.w.now += taxonomy.Hour
	next := r.run(t, dest)
	if next.File == "" || next.File == done.File || next.Acknowledged != next.Chunks {
		t.Fatalf("%+v", next)
	}
	for _, file := range []string{done.File, next.File} {
		s, err := r.d.OpenSent(context.Background(), dsp, file)
		if err != nil {
			t.Fatal(err)
		}
		for i, c := range s.Chunks {
			b, _ := io.ReadAll(s.Body(i))
			if c.WasSent() && string(b) != got[c.Name] || file == next.File && c.Outcome != delivery.ChunkAcknowledged {
				t.Errorf("%s: %+v", file, c)
			}
		}
		s.Close()
	}
}

// R25, R26: what was sent of a visitor goes with the visitor: erased, or no longer
// allowing it; and what took the forgotten away, which holds their IDs, within a day.
func TestWhatWasSentGoesWithItsVisitors(t *testing.T) {
	ctx := context.Background()
	kept := func(r *rig, file string) bool {
		t.Helper()
		s, err := r.d.OpenSent(ctx, dsp, file)
		if err == nil {
			s.Close()
		} else if !errors.Is(err, delivery.ErrNotKept) {
			t.Fatal(err)
		}
		blobs, err := r.store.Blobs().List(ctx, "delivery/dsp")
		if err != nil {
			t.Fatal(err)
		}
		there := false
		for _, b := range blobs {
			there = there || strings.HasSuffix(b.Name, "/"+file)
		}
		if there != (s != nil) {
			t.Errorf("%s: its bytes are there: %v, it can be had: %v", file, there, s != nil)
		}
		return there
	}
	erase := func(r *rig, v *visitor) {
		t.Helper()
		v.gone = true
		if err := r.d.Erase(ctx, []taxonomy.VisitorKey{v.key}); err != nil {
			t.Fatal(err)
		}
	}
	names := func(r *rig, v *visitor) bool {
		t.Helper()
		blobs, _ := r.store.Blobs().List(ctx, "delivery/dsp")
		for _, b := range blobs {
			body, err := r.store.Blobs().Open(ctx, b.Name)
			if err != nil {
				t.Fatal(err)
			}
			all, _ := io.ReadAll(io.NewSectionReader(body, 0, b.Bytes))
			body.Close()
			// The ledger owes the removal; that is what it is for.
			if !strings.HasSuffix(b.Name, "-ledger") && bytes.Contains(all, []byte(pseudonym(dsp, 0, v.key))) {
				return true
			}
		}
		return false
	}
	r, dest := pushedTo(t, 9, &folderOf{bodies: map[string]string{}})
	first := r.run(t, dest)
	gone := r.w.visitors[2]
	if !kept(r, first.File) || !names(r, gone) {
		t.Fatal("it was not kept at all")
	}
	erase(r, gone)
	if kept(r, first.File) || names(r, gone) {
		t.Error("what was sent of an erased visitor is still there")
	}
	gone.dropped = true
	r.w.now += taxonomy.Hour
	second := r.run(t, dest)
	if second.Removes == 0 || !kept(r, second.File) || !names(r, gone) {
		t.Fatalf("%+v", second) // the removal names the ID
	}
	r.w.now += 23 * taxonomy.Hour
	if err := r.d.ExpireBefore(ctx, r.w.today()-90); err != nil {
		t.Fatal(err)
	}
	if kept(r, second.File) || names(r, gone) {
		t.Error("a day after its removal was sent, the ID of an erased visitor is still there")
	}

	r, dest = pushedTo(t, 9, &folderOf{bodies: map[string]string{}})
	first = r.run(t, dest)
	if err := r.d.ExpireBefore(ctx, r.w.today()-90); err != nil || !kept(r, first.File) {
		t.Fatalf("%v: it is not kept although everybody allows it", err)
	}
	r.w.visitors[2].consent = taxonomy.Consent{}
	if err := r.d.ExpireBefore(ctx, r.w.today()-90); err != nil || kept(r, first.File) {
		t.Errorf("%v: what was sent of who no longer allows it is still there", err)
	}

	r, dest = pushedTo(t, 9, &folderOf{bodies: map[string]string{}})
	dest.Push.KeepSent = delivery.Period(48 * time.Hour)
	first = r.run(t, dest)
	r.w.now += 48 * taxonomy.Hour
	if _, err := r.d.OpenSent(ctx, dsp, first.File); !errors.Is(err, delivery.ErrNotKept) {
		t.Errorf("after its life: %v", err)
	}
	if _, err := r.d.OpenSent(ctx, dsp, "e0-g1-h1-00000000-full.txt"); !errors.Is(err, retention.ErrNotFound) {
		t.Errorf("what was never sent: %v", err)
	}
	if err := r.d.ExpireBefore(ctx, r.w.today()-90); err != nil || kept(r, first.File) {
		t.Error(err)
	}
}

// tampered has other bytes in its chunks than were written.
type tampered struct {
	retention.Blobs
	on *bool
}

func (b tampered) Open(ctx context.Context, name string) (retention.BlobReader, error) {
	r, err := b.Blobs.Open(ctx, name)
	if err == nil && *b.on && strings.HasSuffix(name, "-full.txt") {
		return other{r}, nil
	}
	return r, err
}

type other struct{ retention.BlobReader }

func (o other) ReadAt(p []byte, at int64) (int, error) {
	n, err := o.BlobReader.ReadAt(p, at)
	if n > 0 {
		p[0] ^= 1
	}
	return n, err
}

// What is not what was sent is not shown as that.
func TestWhatWasNotSentIsNotShown(t *testing.T) {
	for _, transport := range []string{"folder", "pull"} {
		r := filled(t, 9)
		on := false
		d, err := delivery.New(delivery.Options{
			Keyed: r.store.Keyed(), Blobs: tampered{r.store.Blobs(), &on}, Pseudonym: pseudonym,
			View:       func(context.Context) (audience.View, error) { return r.w.view(), nil },
			Formats:    map[string]delivery.Format{"plain": plain{delivery.FormatFacts{Extension: ".txt", Removes: true}}},
			Transports: map[string]delivery.Transport{"folder": &folderOf{bodies: map[string]string{}}, "pull": pull.Transport{}},
			Now:        func() taxonomy.Millis { return r.w.now }, Rand: rand.NewChaCha8([32]byte{}),
		})
		if err != nil {
			t.Fatal(err)
		}
		dest := destination()
		dest.Format, dest.Transport = "plain", transport
		done, err := d.Run(context.Background(), dest, r.w.generation())
		if err != nil {
			t.Fatal(err)
		}
		s, err := d.OpenSent(context.Background(), dsp, done.File)
		if err != nil || s.SHA256 != done.SHA256 || len(s.Chunks) != 1 {
			t.Fatalf("%s: %v, %+v", transport, err, s)
		}
		s.Close()
		on = true
		if s, err = d.OpenSent(context.Background(), dsp, done.File); !errors.Is(err, retention.ErrCorrupt) || s != nil || !strings.Contains(err.Error(), done.SHA256) {
			t.Errorf("%s: %v, want that it is not %s", transport, err, done.SHA256)
		}
	}
}
