package fold

import (
	"testing"

	"github.com/ebb-dmp/ebb/taxonomy"
)

// inFile is a match that stood in a row of a file, with a consent that nobody gave.
func inFile(v int, at taxonomy.Millis, id string, file byte, row uint32) taxonomy.Record {
	return taxonomy.Record{Kind: taxonomy.RecordMatch, Received: at, Visitor: visitorKey(v), Import: taxonomy.ImportRow{File: [16]byte{file}, Row: row},
		Match: &taxonomy.Match{Destination: "dsp", ID: id}, Consent: taxonomy.Consent{Day: at.Day(), Purposes: taxonomy.MayAll}}
}

func (s *one) match(v *View, who int) (string, taxonomy.Day) {
	shard, o, ok := v.Ordinal(visitorKey(who))
	if !ok {
		return "", 0
	}
	id, at, _ := v.MatchID("dsp", shard, o)
	return id, at
}

// R13, R32: a file that is given again changes nothing, also when a sync came
// after it; a newer file counts.
func TestAFileOfMatchesThatIsGivenAgainChangesNothing(t *testing.T) {
	s := story(t)
	s.say(start, event(1, start, 1, true), inFile(1, start, "p1", 1, 7))
	if !s.f.Imported(taxonomy.ImportRow{File: [16]byte{1}, Row: 7}) || s.f.Imported(taxonomy.ImportRow{File: [16]byte{1}, Row: 8}) {
		t.Error("rows that were taken are not told from others")
	}
	sync := inFile(1, start+taxonomy.Hour, "p2", 0, 0)
	sync.Import, sync.Returning = taxonomy.ImportRow{}, true
	s.say(start+taxonomy.Hour, sync)
	later := start + 2*taxonomy.OneDay
	s.say(later, inFile(1, later, "p1", 1, 7))
	if id, at := s.match(s.save(), 1); id != "p2" || at != start.Day() {
		t.Errorf("the same file again: %q of %v", id, at)
	}
	s.say(later, inFile(1, later, "p1", 2, 7))
	if id, at := s.match(s.save(), 1); id != "p1" || at != later.Day() {
		t.Errorf("another file: %q of %v", id, at)
	}
}

// R9, R16, R24: a file's match makes nobody known, keeps nobody, and brings nobody
// back.
func TestAFilesMatchNeitherMakesNorKeepsAVisitor(t *testing.T) {
	s := story(t)
	s.say(start, event(1, start, 1, true), event(2, start, 2, true), inFile(3, start, "p3", 1, 3))
	s.say(start, taxonomy.Record{Kind: taxonomy.RecordErasure, Received: start + 1, Space: taxonomy.SpaceCookie, Visitor: visitorKey(2)})
	s.f.Forget([]taxonomy.VisitorKey{visitorKey(2)})
	at := start + 80*taxonomy.OneDay
	s.say(at, inFile(1, at, "p1", 1, 1), inFile(2, at, "p2", 1, 2))
	v := s.save()
	if id, _ := s.match(v, 1); id != "p1" {
		t.Errorf("the visitor who is known: %q", id)
	}
	for _, who := range []int{2, 3} {
		if _, _, ok := v.Ordinal(visitorKey(who)); ok {
			t.Errorf("visitor %d is known by a file", who)
		}
	}
	s.tick(start + 91*taxonomy.OneDay)
	if _, _, ok := s.save().Ordinal(visitorKey(1)); ok || s.f.state.matches.live != 0 {
		t.Errorf("the match outlives its visitor, or keeps it: %v, %d claims", ok, s.f.state.matches.live)
	}
}
