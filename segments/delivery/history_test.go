package delivery_test

import (
	"context"
	"fmt"

	"pgregory.net/rapid"

	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// history is what happens to visitors and to us, drawn, whatever a destination is
// and however it is reached.
type history struct {
	*world
	t       *rapid.T
	r       *rig
	restart func()
	crash   func() // arranges one, now and then
	names   int
}

// newPopulation draws visitors. Drawn numbers lean to small ones, and histories must
// not: everyone begins as somebody.
func newPopulation(t *rapid.T, most int) *world {
	w := newWorld(rapid.IntRange(4, most).Draw(t, "visitors"))
	for i, v := range w.visitors {
		w.sees(v, []taxonomy.Column{colCar, colBoat, colList, colAny}[i%4])
		for j, a := range w.audiences {
			v.member[a] = (i+j)%3 != 0
		}
		if i%5 != 4 {
			v.match, v.synced = fmt.Sprintf("partner-id-0%d", i), w.today()
		}
	}
	return w
}

func (h *history) someone() *visitor {
	return h.visitors[rapid.IntRange(0, len(h.visitors)-1).Draw(h.t, "who")]
}

func (h *history) audience() taxonomy.AudienceID {
	return rapid.SampledFrom(h.audiences).Draw(h.t, "audience")
}

// finish does something that may crash, until it is done.
func (h *history) finish(what string, do func() error) {
	h.t.Helper()
	h.crash()
	for range 3 {
		err := do()
		if err == nil {
			h.r.fault.after = -1
			return
		}
		if !h.r.fault.down {
			h.t.Fatalf("%s: %v", what, err)
		}
		h.restart()
	}
	h.t.Fatalf("%s does not end", what)
}

// forget is a demand to be forgotten.
func (h *history) forget(v *visitor) {
	h.t.Helper()
	v.gone = true
	if !v.dropped {
		h.finish("forget", func() error { return h.r.d.Forget(context.Background(), []taxonomy.VisitorKey{v.key}) })
	}
}

// night is the eraser's and the sweeper's.
func (h *history) night() {
	h.t.Helper()
	var keys []taxonomy.VisitorKey
	for _, v := range h.visitors {
		if v.gone && !v.dropped {
			keys = append(keys, v.key)
		}
	}
	h.finish("erase", func() error { return h.r.d.Erase(context.Background(), keys) })
	for _, v := range h.visitors {
		v.dropped = v.dropped || v.gone
	}
	h.finish("expire", func() error { return h.r.d.ExpireBefore(context.Background(), h.today().Oldest()) })
	least, ok, err := h.r.d.Oldest(context.Background())
	if err != nil || ok && least < h.today()-delivery.HolderBound {
		h.t.Fatalf("oldest is %v, %v; today is %v", least, err, h.today())
	}
}

// step does what a step's name says, if it is one of every history.
func (h *history) step(name string) {
	h.t.Helper()
	switch name {
	case "see":
		if v := h.someone(); !v.gone {
			h.sees(v, rapid.SampledFrom([]taxonomy.Column{colCar, colBoat, colList, colAny}).Draw(h.t, "column"))
			v.member[h.audience()] = true
		}
	case "join":
		h.someone().member[h.audience()] = true
	case "leave":
		delete(h.someone().member, h.audience())
	case "match":
		if v := h.someone(); !v.gone {
			h.names++
			v.match, v.synced = fmt.Sprintf("partner-id-%d", h.names), h.today()
		}
	case "return": // an authenticated caller lets an erased key in again (R24)
		for i, v := range h.visitors {
			if v.gone && v.dropped {
				n := h.add(len(h.visitors))
				n.key, n.match = v.key, v.match
				h.visitors = append(h.visitors[:i], h.visitors[i+1:]...)
				h.sees(n, colCar)
				n.member["cars"], n.member["either"] = true, true
				break
			}
		}
	case "night":
		h.night()
	default:
		h.t.Fatalf("no history has a step %q", name)
	}
}
