package index_test

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// What a layer says of a visitor it says of the same visitor after the visitors
// were numbered anew, over whatever number of shards.
func TestRenumberedLayersSayTheSame(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		from, to := rapid.IntRange(1, 4).Draw(t, "shards before"), rapid.IntRange(1, 5).Draw(t, "shards after")
		n := index.NewNumbering(from, to)
		type who struct {
			shard   int
			ordinal uint32
		}
		moved := map[who]who{}
		for s := range from {
			for o := range uint32(rapid.IntRange(0, 40).Draw(t, "visitors")) {
				if rapid.IntRange(0, 5).Draw(t, "over") == 0 {
					continue // stands nowhere any more
				}
				at := rapid.IntRange(0, to-1).Draw(t, "new shard")
				moved[who{s, o}] = who{at, n.Next(at)}
				n.Add(s, o, at)
			}
		}
		columns := []taxonomy.Column{{Source: "a", Trait: "c:x.1"}, {Source: "a", Trait: "k:y=1"}, {Source: "b", Trait: "c:x.1"}}
		for s := range from {
			b := index.NewBuilder(s, 20_000)
			counts := map[who]map[taxonomy.Column]int{}
			for _, c := range columns {
				var events []uint32
				for o := range uint32(40) {
					k := rapid.SampledFrom([]int{0, 0, 1, 2, 300}).Draw(t, "events")
					for range k {
						events = append(events, o)
					}
					if counts[who{s, o}] == nil {
						counts[who{s, o}] = map[taxonomy.Column]int{}
					}
					counts[who{s, o}][c] = min(k, 255)
				}
				b.Add(c, events)
			}
			l, err := b.Build()
			if err != nil {
				t.Fatal(err)
			}
			if l == nil {
				continue
			}
			layers, err := n.Layers(l)
			if err != nil {
				t.Fatal(err)
			}
			total := 0
			for of, by := range counts {
				now, ok := moved[of]
				for c, want := range by {
					if !ok {
						continue
					}
					total += want
					got := 0
					if layers[now.shard] != nil {
						got = index.Days{l.Day: {layers[now.shard]}}.Events(now.ordinal, c, l.Day)
					}
					if got != want {
						t.Fatalf("%v has %d events in %v, as %v %d", of, want, c, now, got)
					}
				}
			}
			sum := map[taxonomy.Column]uint64{}
			for shard, x := range layers {
				if x != nil {
					if x.Shard != shard || x.Day != l.Day {
						t.Fatalf("the layer of shard %d says that it is of %d, day %s", shard, x.Shard, x.Day)
					}
					index.Days{l.Day: {x}}.AddColumns(l.Day, l.Day, sum)
				}
			}
			visitors := uint64(0)
			for _, k := range sum {
				visitors += k
			}
			want := uint64(0)
			for of, by := range counts {
				if _, ok := moved[of]; ok {
					for _, k := range by {
						want += uint64(min(k, 1))
					}
				}
			}
			if visitors != want {
				t.Fatalf("the layers have %d memberships, want %d: somebody is in them who stands nowhere", visitors, want)
			}
		}
	})
}
