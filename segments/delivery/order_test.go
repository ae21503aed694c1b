package delivery_test

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/RoaringBitmap/roaring/v2"
	"pgregory.net/rapid"

	"github.com/ebb-dmp/ebb/segments/delivery"
)

// Whatever the IDs are, and however small the buckets: everybody who has a name
// comes once, in the order of the IDs, and everybody else is told of.
func TestMembersComeInTheOrderOfTheirIDs(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		shards := rapid.IntRange(1, 3).Draw(t, "shards")
		alphabet := rapid.SampledFrom([]string{"0123456789abcdef", "01", "\x00a\xff"}).Draw(t, "alphabet")
		names := make([]map[uint32]string, shards)
		sets := make([]*roaring.Bitmap, shards)
		var want []string
		nameless := 0
		for s := range shards {
			names[s] = map[uint32]string{}
			if rapid.Bool().Draw(t, "nobody") {
				continue
			}
			sets[s] = roaring.New()
			for _, o := range rapid.SliceOfN(rapid.Uint32Range(0, 300_000), 0, 200).Draw(t, "ordinals") {
				if !sets[s].CheckedAdd(o) {
					continue
				}
				if rapid.IntRange(0, 9).Draw(t, "named") == 0 {
					nameless++
					continue
				}
				// Random digits, and what makes it unlike all others.
				names[s][o] = rapid.StringOfN(rapid.RuneFrom([]rune(alphabet)), 0, 4, -1).Draw(t, "id") + fmt.Sprintf("-%d-%d", s, o)
				want = append(want, names[s][o])
			}
		}
		slices.Sort(want)
		var got []string
		lost := 0
		err := delivery.InOrder(context.Background(), rapid.IntRange(1, 300).Draw(t, "bucket"), sets,
			func(s int, o uint32) (string, bool) { id, ok := names[s][o]; return id, ok },
			func(s int, o uint32) {
				if lost++; names[s][o] != "" {
					t.Fatalf("%s is said to have no name", names[s][o])
				}
			},
			func(ids []string) { got = append(got, ids...) })
		if err != nil || !slices.Equal(got, want) || lost != nameless {
			t.Fatalf("%v; got %q, want %q; %d have no name, want %d", err, got, want, lost, nameless)
		}
	})
}

// An index that was cut off, or in which a byte is another, is not read as one.
func TestADamagedIndexOfChunksIsNone(t *testing.T) {
	whole := delivery.IndexOf(5)
	if n, err := delivery.ReadIndex(whole); err != nil || n != 5 {
		t.Fatal(n, err)
	}
	for i := range whole {
		damaged := slices.Clone(whole)
		damaged[i] ^= 0x40
		if n, err := delivery.ReadIndex(damaged); err == nil {
			t.Fatalf("byte %d of %d: read %d chunks", i, len(whole), n)
		}
		if n, err := delivery.ReadIndex(whole[:i]); err == nil {
			t.Fatalf("the first %d bytes of %d: read %d chunks", i, len(whole), n)
		}
	}
}

func FuzzReadIndexOfChunks(f *testing.F) {
	f.Add(delivery.IndexOf(0))
	f.Add(delivery.IndexOf(3))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _ = delivery.ReadIndex(b) // it ends, and does not panic
	})
}
