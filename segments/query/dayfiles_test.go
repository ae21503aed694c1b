package query_test

import (
	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/segments/query/querytest"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// filed is a view whose columns lie in real day files; the rest is the view's.
type filed struct {
	*querytest.View
	shards []index.Days
}

func (f *filed) Leaf(shard, block int, op *index.Operand, dst *index.Words) (int, error) {
	if op.Kind == index.OpSet {
		return f.View.Leaf(shard, block, op, dst)
	}
	return f.shards[shard].Leaf(block, op, dst), nil
}

// dayFiles writes a world into day files, by the index's own writer.
func dayFiles(t interface{ Fatal(...any) }, w *querytest.World, v *querytest.View) index.Leaves {
	type file struct {
		shard int
		day   taxonomy.Day
	}
	type said struct {
		visitor int
		day     taxonomy.Day
		source  taxonomy.SourceID
		key     string
	}
	content := map[file]map[taxonomy.Column][]uint32{}
	add := func(visitor int, day taxonomy.Day, c taxonomy.Column, n int) {
		shard, ordinal, _ := v.Place(visitor)
		at := file{shard, day}
		if content[at] == nil {
			content[at] = map[taxonomy.Column][]uint32{}
		}
		for range max(n, 1) {
			content[at][c] = append(content[at][c], ordinal)
		}
	}
	for _, f := range w.Facts {
		add(f.Visitor, f.Day, f.Column, f.N)
	}
	last := map[said]taxonomy.Column{} // a day's column keeps the day's last value
	for _, s := range w.Stated {
		key, _ := s.Column.Trait.Statement()
		last[said{s.Visitor, s.Day, s.Column.Source, key}] = s.Column
	}
	for s, c := range last {
		add(s.visitor, s.day, c, 1)
	}
	f := &filed{v, make([]index.Days, v.Shards())}
	for s := range f.shards {
		f.shards[s] = index.Days{}
	}
	for at, columns := range content {
		b := index.NewBuilder(at.shard, at.day)
		for c, ordinals := range columns {
			b.Add(c, ordinals)
		}
		l, err := b.Build()
		if err != nil {
			t.Fatal(err)
		}
		f.shards[at.shard][at.day] = append(f.shards[at.shard][at.day], l)
	}
	return f
}
