package defs_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/retention/defs"
	"github.com/ebb-dmp/ebb/retention/storetest"
	"github.com/ebb-dmp/ebb/taxonomy"
)

func clock() taxonomy.Millis { return 20_000 * taxonomy.OneDay }

var auditSpace = retention.KeyedSpace{Name: "audit"}

func trailOf(t interface{ Fatal(...any) }, n int) (*defs.Trail, retention.Keyed) {
	keyed := storetest.NewModel(clock).Keyed()
	tr := defs.NewTrail(keyed, rand.Reader, clock)
	for i := range n {
		if _, err := tr.Append(context.Background(), defs.Entry{Who: "admin", What: "change", Kind: "site", Object: fmt.Sprint("s", i), Before: 1, After: 2}); err != nil {
			t.Fatal(err)
		}
	}
	return tr, keyed
}

func entryKey(seq uint64) retention.Key {
	return retention.Key{Partition: string(make([]byte, 8)), Item: string(binary.BigEndian.AppendUint64(nil, seq))}
}

// Whatever is done to one place of the log, verify finds it and says where.
func TestAnAlteredDroppedOrReorderedEntryIsFoundAndNamed(t *testing.T) {
	ctx := context.Background()
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(2, 20).Draw(t, "entries")
		tr, keyed := trailOf(t, n)
		if r, err := tr.Verify(ctx, nil); err != nil || len(r.Faults) != 0 || r.Entries != uint64(n) || r.Last != uint64(n) {
			t.Fatalf("an untouched log: %+v %v", r, err)
		}
		seq := uint64(rapid.IntRange(1, n).Draw(t, "which"))
		it, err := keyed.Get(ctx, auditSpace, entryKey(seq))
		if err != nil {
			t.Fatal(err)
		}
		put := func(seq uint64, value []byte) {
			if err := keyed.Put(ctx, auditSpace, []retention.Item{{Key: entryKey(seq), Value: value}}); err != nil {
				t.Fatal(err)
			}
		}
		switch how := rapid.SampledFrom([]string{"alter", "drop", "swap"}).Draw(t, "how"); how {
		case "alter":
			at := rapid.IntRange(0, len(it.Value)-1).Draw(t, "byte")
			it.Value[at] ^= byte(rapid.IntRange(1, 255).Draw(t, "bits"))
			put(seq, it.Value)
		case "drop":
			if seq == uint64(n) {
				return // the head brings its own entry back
			}
			if err := keyed.Delete(ctx, auditSpace, []retention.Key{entryKey(seq)}); err != nil {
				t.Fatal(err)
			}
		case "swap":
			other := seq%uint64(n) + 1
			b, err := keyed.Get(ctx, auditSpace, entryKey(other))
			if err != nil {
				t.Fatal(err)
			}
			put(seq, b.Value)
			put(other, it.Value)
			seq = min(seq, other)
		}
		r, err := tr.Verify(ctx, nil)
		if err != nil || len(r.Faults) == 0 {
			t.Fatalf("not found: %+v %v", r, err)
		}
		if got := r.Faults[0].Seq; got != seq && got != seq+1 {
			t.Fatalf("entry %d is meant, found %+v", seq, r.Faults)
		}
	})
}

func TestAChainThatWasMadeAnewDoesNotHaveTheNotedEnd(t *testing.T) {
	ctx := context.Background()
	tr, _ := trailOf(t, 5)
	head, err := tr.Head(ctx)
	if err != nil || head.Seq != 5 {
		t.Fatal(head, err)
	}
	if r, err := tr.Verify(ctx, map[uint64]string{5: head.Hash}); err != nil || len(r.Faults) != 0 {
		t.Fatalf("%+v %v", r, err)
	}
	again, _ := trailOf(t, 7) // other nonces
	if r, err := again.Verify(ctx, map[uint64]string{5: head.Hash}); err != nil || len(r.Faults) != 1 || r.Faults[0].Seq != 5 {
		t.Fatalf("%+v %v", r, err)
	}
	short, _ := trailOf(t, 3)
	if r, err := short.Verify(ctx, map[uint64]string{5: head.Hash}); err != nil || len(r.Faults) != 1 || !strings.Contains(r.Faults[0].Fault, "noted") {
		t.Fatalf("%+v %v", r, err)
	}
}

// Several nodes write one chain.
func TestManyWritersMakeOneChain(t *testing.T) {
	ctx := context.Background()
	keyed := storetest.NewModel(clock).Keyed()
	var wg sync.WaitGroup
	for node := range 4 {
		tr := defs.NewTrail(keyed, rand.Reader, clock)
		wg.Go(func() {
			for range 25 {
				if _, err := tr.Append(ctx, defs.Entry{Who: fmt.Sprint("node", node), What: "deliver"}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	tr := defs.NewTrail(keyed, rand.Reader, clock)
	if r, err := tr.Verify(ctx, nil); err != nil || len(r.Faults) != 0 || r.Entries != 100 {
		t.Fatalf("%+v %v", r, err)
	}
	var got []uint64
	for seq := uint64(0); ; {
		page, err := tr.Before(ctx, seq, 7)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			break
		}
		for _, l := range page {
			got = append(got, l.Seq)
		}
		seq = page[len(page)-1].Seq
	}
	for i, seq := range got {
		if seq != uint64(100-i) {
			t.Fatalf("place %d has entry %d", i, seq)
		}
	}
	if len(got) != 100 {
		t.Fatalf("%d entries are listed", len(got))
	}
}

// crashing loses the writes after the first n.
type crashing struct {
	retention.Keyed
	left int
}

func (c *crashing) Put(ctx context.Context, s retention.KeyedSpace, items []retention.Item) error {
	if c.left--; c.left < 0 {
		return retention.ErrUnknown
	}
	return c.Keyed.Put(ctx, s, items)
}

func (c *crashing) Swap(ctx context.Context, s retention.KeyedSpace, it retention.Item) (uint64, error) {
	if c.left--; c.left < 0 {
		return 0, retention.ErrUnknown
	}
	return c.Keyed.Swap(ctx, s, it)
}

// P10
func TestACrashBetweenAnyTwoWritesLeavesAChain(t *testing.T) {
	ctx := context.Background()
	for left := range 12 {
		keyed := storetest.NewModel(clock).Keyed()
		tr := defs.NewTrail(&crashing{keyed, left}, rand.Reader, clock)
		done := 0
		for range 4 {
			if _, err := tr.Append(ctx, defs.Entry{Who: "a", What: "b"}); err != nil {
				break
			}
			done++
		}
		after := defs.NewTrail(keyed, rand.Reader, clock)
		if _, err := after.Append(ctx, defs.Entry{Who: "a", What: "c"}); err != nil {
			t.Fatal(err)
		}
		r, err := after.Verify(ctx, nil)
		if err != nil || len(r.Faults) != 0 || r.Entries < uint64(done+1) {
			t.Fatalf("after %d writes: %+v %v", left, r, err)
		}
	}
}

func TestTheBytesOfAnEntryAreOfThisForm(t *testing.T) {
	_, keyed := trailOf(t, 1)
	it, err := keyed.Get(context.Background(), auditSpace, entryKey(1))
	if err != nil || it.Value[0] != 1 || !bytes.HasPrefix(it.Value[65:], []byte(`{"seq":1,"at":1728000000000,"who":"admin","what":"change","kind":"site","object":"s0","before":1,"after":2,"nonce":"`)) {
		t.Fatalf("%q %v", it.Value, err)
	}
}
