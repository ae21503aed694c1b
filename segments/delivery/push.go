package delivery

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/RoaringBitmap/roaring/v2"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
)

const (
	// pendingLife is how long what a plan says may be sent. What is left then
	// is planned anew: in the meantime people leave and withdraw consent, and
	// lives that count from the receiver's clock would end later than ours.
	pendingLife = 15 * taxonomy.Minute
	// The wait after the first failure; it doubles up to the last.
	firstWait = taxonomy.Minute
	lastWait  = taxonomy.Hour
	// longestWait is the most that a receiver may ask for.
	longestWait = taxonomy.OneDay
	keptLetters = 20
)

// pending is a delivery that is under way: its chunks are written, and the
// ledger knows that all of them may arrive.
type pending struct {
	File    string          `json:"file"`    // blob: the chunks, one behind the other
	Index   string          `json:"index"`   // blob: what each chunk says
	Members string          `json:"members"` // blob: whom they speak of
	Kind    Kind            `json:"kind"`
	Created taxonomy.Millis `json:"created"`
	Media   string          `json:"media"`
	Oldest  taxonomy.Day    `json:"oldest"`
	// Done, Refused and Doubtful have a bit for each chunk, the first lowest.
	// Doubtful is one that may have been sent before, by whoever began with it:
	// refused after that, it may have arrived all the same.
	Done     []byte `json:"done"`
	Refused  []byte `json:"refused"`
	Doubtful []byte `json:"doubtful"`
	// Tried has one for each chunk that was sent, whatever came of it.
	Tried []byte `json:"tried,omitempty"`
	// Expires is until when what was sent may be kept.
	Expires taxonomy.Millis `json:"expires,omitempty"`
	// Sent is when the last wave of chunks was sent, Wave how many it had: by
	// them a rate is kept also over a restart.
	Sent taxonomy.Millis `json:"sent"`
	Wave int             `json:"wave"`
	// Listed: the last chunk lists the others, and is not sent if one of them was
	// refused.
	Listed bool     `json:"listed,omitempty"`
	Run    Delivery `json:"run"`
	// Prompt: it is the outbox alone (planPrompt). Rest: of the generation before it
	// something was owed, and is planned anew after it.
	Prompt bool `json:"prompt,omitempty"`
	Rest   bool `json:"rest,omitempty"`

	fresh bool // planned just now: no chunk has been sent yet
}

func bit(b []byte, i int) bool { return i/8 < len(b) && b[i/8]&(1<<(i%8)) != 0 }
func set(b []byte, i int)      { b[i/8] |= 1 << (i % 8) }

// retry is the state of a destination that does not take what it is sent.
type retry struct {
	Attempts  int             `json:"attempts"`
	NotBefore taxonomy.Millis `json:"not_before"`
}

func (r *retry) failed(now taxonomy.Millis, wish time.Duration) {
	wait := firstWait << min(r.Attempts, 10)
	wait = max(min(wait, lastWait), min(taxonomy.Millis(wish.Milliseconds()), longestWait))
	r.Attempts++
	r.NotBefore = now + wait
}

// Letter is a chunk that a receiver refused for good: a dead letter. Its rows
// count as not taken, and are planned again, more and more rarely, until the
// receiver takes them or Replay is called.
type Letter struct {
	At    taxonomy.Millis `json:"at"`
	Name  string          `json:"name"`
	Key   string          `json:"key"`
	Rows  uint64          `json:"rows"`
	Fault string          `json:"fault"`
}

// push delivers to a partner that is pushed to: it goes on with what is under
// way, or plans anew.
func (d *Deliverer) push(ctx context.Context, dest *Destination, src *Source) (done Delivery, err error) {
	defer d.lockIn(d.run, dest.ID)()
	if err := d.follow(ctx, dest); err != nil {
		return done, err
	}
	return d.pushOn(ctx, dest, src, d.next)
}

// pushOn sends what next says until it says no more.
func (d *Deliverer) pushOn(ctx context.Context, dest *Destination, src *Source, next func(context.Context, *Destination, *Source) (Delivery, *pending, error)) (done Delivery, err error) {
	// What was under way, what is prompt, then one plan: more only if something
	// prompt comes between, or another node meddles.
	var last *Delivery
	for range 4 * attempts {
		var under *pending
		err = d.locked(dest.ID, func() error {
			done, under, err = next(ctx, dest, src)
			return err
		})
		if errors.Is(err, retention.ErrConflict) {
			continue
		}
		if last != nil && under == nil && done.Result == ResultDelivered {
			done = *last
		}
		if err != nil || under == nil {
			return done, err
		}
		over, err := d.sendPending(ctx, dest, under, src.Term)
		if err != nil {
			return done, err
		}
		if !over {
			continue // it was withdrawn: plan anew
		}
		done, err = d.finish(ctx, dest, under.File, src.Term)
		if errors.Is(err, errNoPending) {
			continue
		}
		g := src.Generation
		older := done.Epoch != g.Epoch || done.Generation < g.Number
		if err != nil || done.Next > 0 || done.Result == ResultWaiting && !older {
			return done, err
		}
		was := done
		last = &was
	}
	return done, err
}

func (d *Deliverer) locked(dest taxonomy.DestinationID, fn func() error) error {
	defer d.lock(dest)()
	return fn()
}

// next returns what is to be sent now: what is under way if it may still be
// sent, else a new plan. Nil means that there is nothing to send.
func (d *Deliverer) next(ctx context.Context, dest *Destination, src *Source) (Delivery, *pending, error) {
	h, err := d.headUnder(ctx, dest.ID, src.Term)
	if err != nil {
		return Delivery{}, nil, err
	}
	g := src.Generation
	run := Delivery{Destination: dest.ID, Epoch: g.Epoch, Generation: g.Number}
	if h.Seq > 0 && g.Epoch < h.Epoch {
		return run, nil, fmt.Errorf("generation is of epoch %d, and epoch %d was delivered already", g.Epoch, h.Epoch)
	}
	clock := max(d.o.Now(), h.Clock)
	if run, p, err := d.begun(ctx, dest, h, clock); err != nil || p != nil || run.Result != "" {
		return run, p, err
	}
	if h.Seq > 0 && g.Epoch == h.Epoch && g.Number <= h.Generation && !h.Owes {
		run.Result = ResultDelivered
		return run, nil, d.clean(ctx, dest.ID, h)
	}
	if h.Seq > 0 && g.Epoch == h.Epoch && g.Number < h.Generation {
		// Older than what the partner holds, of which something is owed: only
		// the newest is of use.
		run.Result = ResultDelivered
		return run, nil, nil
	}
	if clock < h.Retry.NotBefore {
		run.Result, run.Next = ResultWaiting, h.Retry.NotBefore
		if n := len(h.Runs); n > 0 {
			run.Fault = h.Runs[n-1].Fault
		}
		return run, nil, nil
	}
	return d.plan(ctx, dest, src, h, clock, run)
}

// begun returns what comes before any plan: what is under way if it may still be
// sent, and what is prompt. Neither, and no result: a plan may be made.
func (d *Deliverer) begun(ctx context.Context, dest *Destination, h *head, clock taxonomy.Millis) (run Delivery, p *pending, err error) {
	if p := h.Pending; p != nil {
		if clock < p.Created+pendingLife && sameReceiver(h, dest) {
			if clock < h.Retry.NotBefore {
				run = p.Run
				run.Result, run.Next = ResultWaiting, h.Retry.NotBefore
				return run, nil, nil
			}
			return p.Run, p, nil
		}
		if err := d.settle(ctx, dest.ID, h); err != nil {
			return run, nil, err
		}
	}
	if h.Prompt && h.Seq > 0 && clock >= h.Retry.NotBefore && sameReceiver(h, dest) {
		return d.planPrompt(ctx, dest, h, clock)
	}
	return run, nil, nil
}

func sameReceiver(h *head, dest *Destination) bool {
	return h.Transport == dest.Transport && h.Format == dest.Format && h.IDs == dest.IDs && h.PseudonymEpoch == dest.PseudonymEpoch
}

// pushFullDue says why everything must be said anew, or nothing.
func pushFullDue(h *head, dest *Destination, src *Source, clock taxonomy.Millis) string {
	switch {
	case h.Transport != dest.Transport && h.Seq > 0:
		return "the transport changed"
	case h.FullAt != 0 && clock+dest.Every.Millis() <= h.FullAt+dest.FullEvery.Millis():
		// What fullDue says of files that stand is not asked: none do.
		c := *h
		c.Transport, c.Files = "", []File{{Kind: Full, Created: h.FullAt}}
		return fullDue(&c, dest, src, clock)
	case h.Seq == 0:
		return "the first delivery"
	}
	return "the daily full"
}

// plan compares, writes the chunks, and makes them what is under way.
func (d *Deliverer) plan(ctx context.Context, dest *Destination, src *Source, h *head, clock taxonomy.Millis, run Delivery) (Delivery, *pending, error) {
	c, err := d.compare(ctx, dest, src, h, clock, &run)
	if err != nil {
		return run, nil, err
	}
	defer c.close()
	next, e := c.next, &c.e

	nh := *h
	nh.Seq, nh.Epoch, nh.Generation, nh.AsOf, nh.Clock = h.Seq+1, src.Generation.Epoch, src.Generation.Number, src.Generation.Clock, clock
	nh.IDs, nh.PseudonymEpoch, nh.Format, nh.Shards = dest.IDs, dest.PseudonymEpoch, dest.Format, src.View.Shards()
	if h.Transport != dest.Transport {
		nh.Jobs = nil // nobody is left who could be asked
	}
	if h.Shards != nh.Shards {
		nh.Sent = nil // whose rows they are nobody could tell the eraser
	}
	nh.expireSent(clock)
	nh.Audiences, nh.Files, nh.Transport = infos(dest, src), nil, dest.Transport
	if e.Full {
		nh.FullAt = clock
	}
	nh.heldBack(run.Hold, e.Full, next)
	run.Result = ResultSame
	var p *pending
	if len(e.Removes) > 0 || e.added() > 0 {
		p, err = d.writeChunks(ctx, dest, &nh, clock-clock%taxonomy.Minute, c, &run)
		if err != nil {
			return run, nil, err
		}
		next = c.was.underWay(next, e, nh.Shards)
		p.Run.Result = ResultDelta
		if e.Full {
			p.Run.Result = ResultFull
		}
		run = p.Run
	}
	nh.Pending, nh.Owes, nh.Prompt = p, p != nil, false
	if p == nil {
		for _, held := range next.Held {
			run.Held += held.Count()
		}
		nh.record(run)
	}
	if err := d.putLedger(ctx, dest.ID, &nh, next); err != nil {
		return run, nil, err
	}
	if err := d.swapHead(ctx, dest.ID, &nh); err != nil {
		return run, nil, err
	}
	if p != nil {
		p.fresh = true
	}
	return run, p, d.clean(ctx, dest.ID, &nh)
}

// record notes a delivery; of many that say nothing the last suffices.
func (h *head) record(run Delivery) {
	h.Runs = slices.Clone(h.Runs)
	if n := len(h.Runs); n > 0 && run.Result == ResultSame && h.Runs[n-1].Result == ResultSame {
		h.Runs = h.Runs[:n-1]
	}
	h.Runs = append(h.Runs, run)
	h.Runs = h.Runs[max(0, len(h.Runs)-keptRuns):]
}

func (d *Deliverer) writeChunks(ctx context.Context, dest *Destination, h *head, created taxonomy.Millis, what *comparison, run *Delivery) (*pending, error) {
	facts := d.o.Formats[dest.Format].Facts()
	c := d.chunkerOf(dest, h, created, what)
	p := &pending{Kind: c.info.Kind, Created: created, Media: facts.MediaType}
	var err error
	for _, n := range []struct {
		to   *string
		kind string
	}{{&p.File, string(p.Kind) + facts.Extension}, {&p.Index, "chunks"}, {&p.Members, "members"}} {
		if *n.to, err = d.name(h, h.Epoch, h.Generation, n.kind); err != nil {
			return nil, err
		}
	}
	p.Expires = dest.keep(created, what.e.Removes)
	over := max(created+taxonomy.OneDay, p.Expires)
	blob, err := d.putChunks(ctx, dest.ID, p, c, over)
	if err = errors.Join(err, what.ids.err()); err != nil {
		return nil, fmt.Errorf("write chunks: %w", err)
	}
	members, err := marshalMembers(c.members)
	if err != nil {
		return nil, err
	}
	if _, err := d.o.Blobs.Put(ctx, folder(dest.ID)+"/"+p.Members, over, bytes.NewReader(members)); err != nil {
		return nil, fmt.Errorf("write chunks: %w", err)
	}
	n := (len(c.pieces) + 7) / 8
	p.Listed = n > 0 && c.pieces[len(c.pieces)-1].control
	p.Done, p.Refused, p.Doubtful, p.Tried, p.Oldest = make([]byte, n), make([]byte, n), make([]byte, n), make([]byte, n), c.oldest
	run.File, run.Rows, run.Adds, run.Removes, run.Bytes = p.File, c.adds+c.removes, c.adds, c.removes, blob.Bytes
	run.SHA256, run.Chunks = hex.EncodeToString(blob.SHA256[:]), len(c.pieces)
	p.Run = *run
	return p, nil
}

// finish settles what is under way if every chunk has its answer or its time is
// over; else it stays, to be gone on with.
func (d *Deliverer) finish(ctx context.Context, dest *Destination, file string, term uint64) (done Delivery, err error) {
	err = d.locked(dest.ID, func() error {
		return again(func() error {
			h, err := d.headUnder(ctx, dest.ID, term)
			if err != nil {
				return err
			}
			if h.Pending == nil || h.Pending.File != file {
				return errNoPending
			}
			now := max(d.o.Now(), h.Clock)
			done = h.Pending.Run
			left := done.Chunks - done.Acknowledged - done.Refused
			if h.Pending.Listed && done.Refused > 0 && left == 1 {
				left = 0
			}
			if left > 0 && now < h.Pending.Created+pendingLife {
				done.Result, done.Next = ResultWaiting, h.Retry.NotBefore
				return nil
			}
			if err := d.settle(ctx, dest.ID, h); err != nil {
				return err
			}
			done = h.Runs[len(h.Runs)-1]
			return d.clean(ctx, dest.ID, h)
		})
	})
	return done, err
}

// settle ends what is under way: what was acknowledged is held and no longer
// owed, what was refused is not there, and all else may be.
func (d *Deliverer) settle(ctx context.Context, dest taxonomy.DestinationID, h *head) error {
	l, err := d.readLedger(ctx, dest, h)
	if err != nil {
		return err
	}
	defer l.Close()
	if err := d.settleLedger(ctx, dest, h, l); err != nil {
		return err
	}
	h.Seq++
	if err := d.putLedger(ctx, dest, h, l); err != nil {
		return err
	}
	return d.swapHead(ctx, dest, h)
}

// settleLedger does so in h and l, which the caller writes.
func (d *Deliverer) settleLedger(ctx context.Context, dest taxonomy.DestinationID, h *head, l *Ledger) error {
	p := h.Pending
	index, pieces, err := d.openIndex(ctx, dest, p.Index)
	if err == nil {
		defer index.Close()
		today := max(d.o.Now(), h.Clock).Day()
		// All that was taken at once: no two chunks speak of the same row, and to
		// settle one costs as much as the whole of what is held.
		taken := NewLedger()
		for i := range pieces {
			done := bit(p.Done, i)
			if !done && (!bit(p.Refused, i) || bit(p.Doubtful, i)) {
				continue
			}
			says, err := readSays(index, &pieces[i])
			if err != nil {
				return fmt.Errorf("read %s: %w", p.Index, err)
			}
			if done {
				taken.gather(says, h.Shards)
			} else {
				l.refuse(says)
			}
		}
		l.settle(taken, today)
	} else if !errors.Is(err, retention.ErrNotFound) {
		return err
	} // its day is over: all of it stays in Maybe
	run := p.Run
	if run.Acknowledged < run.Chunks {
		run.Result, run.Next = ResultWaiting, h.Retry.NotBefore
		if run.Refused > 0 && h.Retry.NotBefore <= max(d.o.Now(), h.Clock) {
			h.Retry.failed(max(d.o.Now(), h.Clock), 0)
			run.Next = h.Retry.NotBefore
		}
	}
	for _, held := range l.Held {
		run.Held += held.Count()
	}
	h.Owes = run.Acknowledged < run.Chunks || p.Rest
	h.Prompt = h.Prompt || p.Prompt && run.Acknowledged < run.Chunks
	h.keepSent(p, max(d.o.Now(), h.Clock))
	h.Pending = nil
	h.record(run)
	return nil
}

// withdrawPending settles what is under way if it speaks of a visitor of whom
// holds is true: what has not been sent of it is not sent any more.
func (d *Deliverer) withdrawPending(ctx context.Context, dest taxonomy.DestinationID, h *head, l *Ledger, holds func(shard int, members *roaring.Bitmap) bool) (bool, error) {
	if h.Pending == nil {
		return false, nil
	}
	members, err := d.readMembers(ctx, dest, &File{Members: h.Pending.Members})
	if err != nil && !errors.Is(err, retention.ErrNotFound) {
		return false, err
	}
	found := err != nil // its day is over
	for s, m := range members {
		found = found || holds(s, m)
	}
	if !found {
		return false, nil
	}
	return true, d.settleLedger(ctx, dest, h, l)
}

// Replay lets a destination be asked again at once, and forgets its dead
// letters. What they would have said is planned anew with the next Run: the
// letter itself may by now be wrong.
func (d *Deliverer) Replay(ctx context.Context, dest taxonomy.DestinationID) error {
	err := d.locked(dest, func() error {
		return again(func() error {
			h, err := d.readHead(ctx, dest)
			if err != nil || h.Seq == 0 {
				return err
			}
			h.Seq++
			h.Letters, h.Retry, h.Owes = nil, retry{}, true
			return d.swapHead(ctx, dest, h)
		})
	})
	if err != nil {
		return fmt.Errorf("replay deliveries to %s: %w", dest, err)
	}
	return nil
}

// Letters returns the dead letters of a destination, the newest first.
func (d *Deliverer) Letters(ctx context.Context, dest taxonomy.DestinationID) ([]Letter, error) {
	h, err := d.readHead(ctx, dest)
	if err != nil {
		return nil, fmt.Errorf("dead letters of %s: %w", dest, err)
	}
	letters := slices.Clone(h.Letters)
	slices.Reverse(letters)
	return letters, nil
}
