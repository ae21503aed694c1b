package audience_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"hash/crc32"
	"os"
	"testing"

	"github.com/RoaringBitmap/roaring/v2"
	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/segments/index"
	"pgregory.net/rapid"
)

func TestMemberFilesRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		set := make(index.Set, rapid.IntRange(0, 3).Draw(t, "shards"))
		for s := range set {
			if rapid.Bool().Draw(t, "nil") {
				continue
			}
			set[s] = roaring.BitmapOf(rapid.SliceOfN(rapid.Uint32(), 0, 50).Draw(t, "ordinals")...)
			if rapid.Bool().Draw(t, "run") {
				from := uint64(rapid.Uint32Range(0, 1<<20).Draw(t, "from"))
				set[s].AddRange(from, from+uint64(rapid.IntRange(0, 200_000).Draw(t, "length")))
			}
			if rapid.Bool().Draw(t, "optimised") {
				set[s].RunOptimize()
			}
		}
		b, err := audience.EncodeMembers(3, 14, set)
		if err != nil {
			t.Fatal(err)
		}
		got, err := audience.DecodeMembers(b)
		if err != nil || len(got) != len(set) {
			t.Fatalf("%d shards, %v", len(got), err)
		}
		for s := range set {
			if want := set[s]; want == nil && !got[s].IsEmpty() || want != nil && !got[s].Equals(want) {
				t.Fatalf("shard %d differs", s)
			}
		}
		if _, err := audience.DecodeMembers(b[:rapid.IntRange(0, len(b)-1).Draw(t, "cut")]); !errors.Is(err, retention.ErrCorrupt) {
			t.Fatalf("cut short: %v", err)
		}
	})
}

func golden() index.Set {
	s := index.NewSet(3)
	s[0].AddMany([]uint32{0, 7, 65535, 65536, 1 << 31})
	s[2].AddRange(100_000, 110_000)
	return s
}

var update = flag.Bool("update", false, "write testdata anew")

func TestFilesOfEachReleasedVersionOpen(t *testing.T) {
	const name = "testdata/members.v1"
	b, err := audience.EncodeMembers(1, 2, golden())
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(name, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	old, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	got, err := audience.DecodeMembers(old)
	if err != nil {
		t.Fatal(err)
	}
	for s, want := range golden() {
		if !got[s].Equals(want) {
			t.Errorf("shard %d differs", s)
		}
	}
	if !bytes.Equal(b, old) {
		t.Error("this program writes version 1 with other bytes")
	}
}

func TestAMemberFileThatContradictsItselfIsRefused(t *testing.T) {
	good, err := audience.EncodeMembers(1, 2, golden())
	if err != nil {
		t.Fatal(err)
	}
	for what, at := range map[string]int{"version": 8, "shards": 12, "members": 32, "offset": 40, "length": 48, "the second offset": 56, "a bitmap": 88} {
		b := bytes.Clone(good[:len(good)-4])
		b[at]++
		b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
		if _, err := audience.DecodeMembers(b); !errors.Is(err, retention.ErrCorrupt) {
			t.Errorf("%s off by one: %v", what, err)
		}
	}
}

// FuzzMembers makes the checksum right, so that what lies behind it is reached.
func FuzzMembers(f *testing.F) {
	b, err := audience.EncodeMembers(1, 2, golden())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(b[:44])
	f.Add([]byte("EBBMEMBR\x01\x00\x00\x00\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := audience.DecodeMembers(b); err != nil && !errors.Is(err, retention.ErrCorrupt) {
			t.Fatal(err)
		}
		if len(b) < 4 {
			return
		}
		body := bytes.Clone(b[:len(b)-4])
		set, err := audience.DecodeMembers(binary.LittleEndian.AppendUint32(body, crc32.Checksum(body, crc32.MakeTable(crc32.Castagnoli))))
		if err != nil {
			if !errors.Is(err, retention.ErrCorrupt) {
				t.Fatal(err)
			}
			return
		}
		n := uint64(0) // what is read is a set that can be walked
		for _, bm := range set {
			last := int64(-1)
			for it := bm.Iterator(); it.HasNext(); n++ {
				v := int64(it.Next())
				if v <= last {
					t.Fatalf("%d after %d", v, last)
				}
				last = v
			}
		}
		if n != set.Count() {
			t.Fatalf("%d members, counted %d", n, set.Count())
		}
	})
}
