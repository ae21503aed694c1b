package cluster

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ebb-dmp/ebb/cmd/ebb/app"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/keys"
)

// R24: an erasure at any node is known to all, whoever builds: nobody is told of
// the visitor any more, and its ID is replaced.
func TestAnErasureIsSeenByEveryNode(t *testing.T) {
	t.Parallel()
	w := newWorld(t, map[string]string{"shards": "8"})
	w.init()
	nodes := []*node{w.start("a", nil), w.start("b", nil), w.start("edge", map[string]string{"roles": "edge,api"})}
	nodes[0].site()
	w.ready(nodes...)
	var took []time.Duration
	for i := range 9 {
		b := nodes[i%3].newBrowser()
		nodes[i%3].visit(b, "/wine")
		for _, n := range nodes {
			w.until("the visitor is known at "+n.name, func() bool { got, _ := n.seg(b); return slices.Contains(got, "wine") })
		}
		at := nodes[(i+1)%3]
		mine := browser{}
		for k, v := range b {
			mine[k] = v
		}
		begin := time.Now()
		rec := at.send(b, http.MethodPost, "/v1/optout", "")
		if rec.Code >= 300 {
			t.Fatalf("optout was answered %d %s", rec.Code, rec.Body)
		}
		for _, n := range nodes {
			w.until("nobody is told of the visitor at "+n.name, func() bool {
				got, stale := n.seg(mine)
				return len(got) == 0 && !stale
			})
		}
		took = append(took, time.Since(begin))
	}
	slices.Sort(took)
	t.Logf("from an opt-out at one node to silence at all: p50 %v, longest %v", took[len(took)/2], took[len(took)-1])

	// The stored events go with the eraser's pass of whoever builds, and the
	// journal of every node has the erasures.
	same(t, w, nodes, `{"trait":"k:about=wine"}`, 1)
	for _, n := range nodes {
		w.until("the journal of "+n.name+" has them", func() bool {
			info, err := w.fs[n.name].Stat("data/erasures.journal")
			return err == nil && info.Size() > 200
		})
	}
}

// What is wrong is said at the start, with what to do.
func TestANodeOfAClusterSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	refused := func(o app.Options, want ...string) {
		t.Helper()
		a, _, err := app.Open(ctx, o)
		if err == nil {
			_ = a.Close(ctx)
			t.Fatalf("it was opened; want %q", want)
		}
		for _, s := range want {
			if !strings.Contains(err.Error(), s) {
				t.Errorf("got %q, want %q in it", err, s)
			}
		}
	}
	o, _ := w.options("x", nil)
	refused(o, "has no installation yet", "ebb init")
	w.init()
	o, _ = w.options("x", nil)
	o.Init = true
	refused(o, "has an installation already")
	o, _ = w.options("x", nil)
	other, err := keys.Generate(o.Env.Rand, taxonomy.DayOf(time.Now()))
	if err != nil {
		t.Fatal(err)
	}
	o.Keys = other
	refused(o, "is not the file of keys", "copy the file")
	o, _ = w.options("x", map[string]string{"shards": "3"})
	refused(o, "shards is 3", "64")
	o, _ = w.options("x", map[string]string{"cassandra.data_center": "elsewhere", "cassandra.replication": "elsewhere:1"})
	refused(o, "elsewhere", "nodetool status")
	o, _ = w.options("x", map[string]string{"cassandra.keyspace": "ebb_nobody_made_this"})
	refused(o, "there is no keyspace", "ebb migrate up")

	a := w.start("a", nil)
	o, _ = w.options("a", nil)
	refused(o, "another process uses this data directory")
	_ = a
	faults, warnings := a.Ready(ctx)
	if len(faults) > 0 {
		t.Errorf("not ready: %q", faults)
	}
	if len(warnings) == 0 || !strings.Contains(strings.Join(warnings, "\n"), "replicas") {
		t.Errorf("one replica is no warning: %q", warnings)
	}
}
