package fold

import (
	"encoding/binary"
	"testing"

	"pgregory.net/rapid"

	"github.com/ebb-dmp/ebb/taxonomy"
)

// The table of ordinals answers as a map of keys does, also where keys begin
// alike.
func TestIDMapAnswersAsAMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var m idMap
		var list visitors
		model := map[taxonomy.VisitorKey]uint32{}
		key := rapid.Custom(func(t *rapid.T) (k taxonomy.VisitorKey) {
			binary.LittleEndian.PutUint64(k[:], rapid.SampledFrom([]uint64{0, 1, 2, 62, 63, 64, 1 << 40}).Draw(t, "home"))
			k[15] = byte(rapid.IntRange(1, 40).Draw(t, "rest"))
			return k
		})
		for range rapid.IntRange(0, 400).Draw(t, "steps") {
			k := key.Draw(t, "key")
			o, ok := m.get(k, &list)
			if want, in := model[k]; ok != in || ok && o != want {
				t.Fatalf("%x is at %d, %t; want %d, %t", k, o, ok, want, in)
			}
			switch {
			case !ok:
				o = list.n
				list.grow(o + 1)
				list.edit(o).key = k
				m.add(o, &list)
				model[k] = o
			case rapid.Bool().Draw(t, "remove"):
				m.remove(o, &list)
				m.remove(o, &list) // a second time changes nothing
				list.edit(o).key = taxonomy.VisitorKey{}
				delete(model, k)
			}
			if rapid.IntRange(0, 20).Draw(t, "freeze") == 0 {
				list.freeze()
			}
		}
		if m.n != len(model) {
			t.Fatalf("%d are in, want %d", m.n, len(model))
		}
		for k, want := range model {
			if o, ok := m.get(k, &list); !ok || o != want {
				t.Fatalf("%x is at %d, %t; want %d", k, o, ok, want)
			}
		}
	})
}
