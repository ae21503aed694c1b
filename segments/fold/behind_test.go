package fold

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/segments/index"
)

// heldDays is Blobs that opens files of days only once it may, and then as err
// says.
type heldDays struct {
	retention.Blobs
	may chan struct{}
	err error
}

func (h *heldDays) Open(ctx context.Context, name string) (retention.BlobReader, error) {
	if strings.HasSuffix(name, ".day") {
		select {
		case <-h.may:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if h.err != nil {
			return nil, h.err
		}
	}
	return h.Blobs.Open(ctx, name)
}

// A restart accepts, folds and knows its visitors before it has read a day; who
// asks for one waits, and gets what was there.
func TestARestartGoesOnBeforeItsDaysAreRead(t *testing.T) { // R35
	s := story(t)
	s.say(start, event(1, start, 1, true), event(2, start, 2, true))
	s.save()
	held := &heldDays{may: make(chan struct{})}
	s.hook = func(o *Options) { held.Blobs = o.Blobs; o.Blobs = held }
	s.f = s.open(t)
	v := s.f.View()
	if _, _, ok := v.Ordinal(visitorKey(1)); !ok {
		t.Error("a visitor is not known")
	}
	s.say(start+1, event(2, start+1, 3, true), event(3, start+1, 4, true))
	if _, facts, ok := s.f.Touched(visitorKey(3)); !ok || facts == nil {
		t.Error("a visitor that came after the checkpoint is not known")
	}
	if n := s.f.Tallies()["shop"].Stored; n != 4 {
		t.Errorf("%d events are stored, want 4", n)
	}
	counted := make(chan int)
	go func() { counted <- s.count(v, "any") }()
	saved := make(chan error)
	go func() {
		_, err := s.f.Checkpoint(context.Background())
		saved <- err
	}()
	select {
	case n := <-counted:
		t.Errorf("a count of %d before the days are read", n)
	case err := <-saved:
		t.Errorf("a checkpoint before the days are read: %v", err)
	default:
	}
	close(held.may)
	if n := <-counted; n != 2 {
		t.Errorf("%d visitors as of the checkpoint, want 2", n)
	}
	if err := <-saved; err != nil {
		t.Fatal(err)
	}
	if n := s.count(s.f.View(), "any"); n != 3 {
		t.Errorf("%d visitors, want 3", n)
	}
}

// A day that cannot be read stops the fold, and every question about days says why.
// Nothing of it is written: the next start finds all as it was.
func TestADayThatCannotBeReadStopsTheFold(t *testing.T) { // R35
	s := story(t)
	s.say(start, event(1, start, 1, true))
	s.save()
	held := &heldDays{may: make(chan struct{}), err: retention.ErrCorrupt}
	s.hook = func(o *Options) { held.Blobs = o.Blobs; o.Blobs = held }
	s.f = s.open(t)
	close(held.may)
	var dst index.Words
	_, err := s.f.View().Leaf(0, 0, &index.Operand{Kind: index.OpCount, Min: 1, From: start.Day(), To: start.Day()}, &dst)
	_, poll := s.f.Poll(t.Context())
	_, save := s.f.Checkpoint(t.Context())
	for what, err := range map[string]error{"a question": err, "folding": poll, "a checkpoint": save} {
		if !errors.Is(err, retention.ErrCorrupt) || !errors.Is(err, ErrStopped) {
			t.Errorf("%s: %v", what, err)
		}
	}
	s.hook = nil
	s.f = s.open(t)
	if n := s.count(s.f.View(), "any"); n != 1 {
		t.Errorf("%d visitors after a start that can read, want 1", n)
	}
}

// Who closes a fold does not wait for its days.
func TestAFoldIsClosedWhileItsDaysAreRead(t *testing.T) {
	s := story(t)
	s.say(start, event(1, start, 1, true))
	s.save()
	held := &heldDays{may: make(chan struct{})}
	s.hook = func(o *Options) { held.Blobs = o.Blobs; o.Blobs = held }
	if err := s.open(t).Close(); err != nil {
		t.Fatal(err)
	}
}
