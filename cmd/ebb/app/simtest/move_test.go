package simtest

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"strings"
	"testing"

	"github.com/ebb-dmp/ebb/cmd/ebb/app"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// stepMove moves the installation into another data directory, with another number
// of shards. The power may fail at any moment of it; then it is moved again, or
// the old one goes on and a later step moves it to where it was going.
func (s *sim) stepMove() {
	if s.target == nil {
		s.places++
		s.target = maps.Clone(s.flags)
		s.target["data"] = fmt.Sprintf("%s-%d", dataDir, s.places)
		s.target["shards"] = pick(s.rng, []string{"1", "3", "8"})
	}
	for resumed := false; ; resumed = true {
		s.note("move from %s to %s, %s shards", s.flags["data"], s.target["data"], s.target["shards"])
		if err := s.stop(); err != nil {
			s.fatalf("stop before a move: %v", err)
		}
		before := s.power.Len()
		m, err := s.move(s.target)
		if errors.Is(err, app.ErrMoved) && !resumed {
			// The power went after its end, and the old one has gone on: what was
			// moved then is of no use any more.
			s.note("it had ended")
			if err := s.fs.RemoveAll(s.target["data"]); err != nil {
				s.fatalf("%v", err)
			}
			// Elsewhere: a power failure may bring back a part of what was removed
			// just now.
			s.places++
			s.target["data"] = fmt.Sprintf("%s-%d", dataDir, s.places)
			continue
		}
		if errors.Is(err, app.ErrMoved) {
			s.note("it had ended, and nobody was told")
			break
		}
		if err != nil {
			s.fatalf("move: %v", err)
		}
		if !m.Same {
			s.fatalf("what was moved is not what was there: %+v", m)
		}
		after := s.power.Len()
		if s.rng.IntN(2) == 0 {
			break
		}
		// As if the power had gone then: the old one opens, whatever is there.
		s.fails(before+s.rng.IntN(after-before+1), "move")
		s.check()
		s.peek()
		if s.rng.IntN(2) == 0 {
			s.note("the old one goes on")
			return
		}
	}
	old := s.flags["data"]
	s.flags, s.target = s.target, nil
	s.mustOpen()
	s.check()
	if s.server.Generation() != nil {
		s.compareAudiencesIfNew()
	}
	if err := s.fs.RemoveAll(old); err != nil {
		s.fatalf("remove what was moved: %v", err)
	}
}

// peek opens where a move was going that did not end: nobody but a move may, unless
// nothing has been written there yet, or all.
func (s *sim) peek() {
	o, err := s.options(s.target, newTimers())
	if err != nil {
		s.fatalf("%v", err)
	}
	if used, err := app.Used(o.Env, o.Config.Data); err != nil || !used {
		return // opening would make it
	}
	a, _, err := app.Open(ctx, o)
	if err != nil {
		if !strings.Contains(err.Error(), "is not whole") {
			s.fatalf("open where a move was going: %v", err)
		}
		s.refused++
		return
	}
	// Whoever knows a visitor knows all of them, and is at its end.
	knows := false
	err = a.View().Columns(0, s.newest.Day()+1, func(taxonomy.Column, uint64) { knows = true })
	if knows && a.Generation() == nil {
		s.fatalf("an installation opens into which a part of another was moved")
	}
	if err := errors.Join(err, a.Close(ctx)); err != nil {
		s.fatalf("%v", err)
	}
}

func (s *sim) move(to map[string]string) (m app.Moved, err error) {
	from, err := s.options(s.flags, newTimers())
	if err != nil {
		return m, err
	}
	dest, err := s.options(to, newTimers())
	if err != nil {
		return m, err
	}
	return app.Move(ctx, app.MoveOptions{From: from, To: dest})
}

// compareAudiencesIfNew compares the generation that was carried with the model,
// unless the clock was set back since it was built.
func (s *sim) compareAudiencesIfNew() {
	if c := s.server.View().Clock(); c >= s.now() && c <= s.newest {
		s.compareAudiences()
	}
}

// Lives in which the installation moves now and then: everything that holds in one
// that never does holds over its moves.
func TestSimulatorMoves(t *testing.T) { simulateMoves(t, seeds(t, 2), 50) }

func TestLongSimulatorMoves100Seeds(t *testing.T) {
	if os.Getenv("EBB_LONG") == "" {
		t.Skip("set EBB_LONG=1")
	}
	simulateMoves(t, seeds(t, 100), 80)
}

func simulateMoves(t *testing.T, seeds []uint64, steps int) {
	moves, crashes, refused := 0, 0, 0
	for _, seed := range seeds {
		s := newSim(t, seed)
		s.moves = 8
		s.run(steps)
		refused += s.refused
		moves, crashes = moves+s.places, crashes+strings.Count(strings.Join(s.trace, "\n"), `during "move"`)
	}
	t.Logf("%d seeds: %d places, the power failed %d times during a move, %d places were not whole", len(seeds), moves, crashes, refused)
	if moves == 0 || crashes == 0 || refused == 0 {
		t.Error("nothing was moved, the power never failed, or never left a place that is not whole")
	}
}
