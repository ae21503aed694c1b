package cassandra

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/gocql/gocql"
)

// answer is an error that a node sends.
type answer int

func (a answer) Code() int       { return int(a) }
func (a answer) Message() string { return "no" }
func (a answer) Error() string   { return "no" }

// Once an attempt of a write may have gone through, no later refusal makes a failure
// of it; nor does one of two attempts that are under way at two nodes.
func TestWhatMayBeDoneIsNeverSaidToHaveFailed(t *testing.T) {
	const slow, full, away, typo = answer(gocql.ErrCodeWriteTimeout), answer(gocql.ErrCodeInvalid), answer(gocql.ErrCodeUnavailable), answer(gocql.ErrCodeSyntax)
	at := make(chan time.Time)
	close(at)
	for _, c := range []struct {
		name    string
		hedged  bool
		answers []answer // the last for ever
		unknown bool
	}{
		{"a guardrail refuses", false, []answer{full}, false},
		{"a guardrail refuses what timed out before", false, []answer{slow, full}, true},
		{"a guardrail refuses what was refused before", false, []answer{away, full}, false},
		{"a guardrail refuses at one of two nodes", true, []answer{full}, true},
		{"it is no CQL, at whatever node", true, []answer{typo}, false},
		{"too few replicas", false, []answer{away}, false},
		{"too few replicas, after a timeout", false, []answer{slow, away}, true},
		{"it times out", false, []answer{slow}, true},
	} {
		s := &session{after: func(time.Duration) <-chan time.Time { return at }}
		if c.hedged {
			s.hedge = &gocql.SimpleSpeculativeExecution{}
		}
		i := -1
		try := func() error { i = min(i+1, len(c.answers)-1); return c.answers[i] }
		err := s.repeat(context.Background(), try)
		if err == nil || errors.Is(err, retention.ErrUnknown) != c.unknown {
			t.Errorf("%s: got %v, want unknown %t", c.name, err, c.unknown)
		}
		i = -1
		if err := s.repeatRead(context.Background(), try); err == nil || errors.Is(err, retention.ErrUnknown) {
			t.Errorf("%s, of a read: got %v, want a failure", c.name, err)
		}
	}
}
