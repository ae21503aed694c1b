package delivery

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/RoaringBitmap/roaring/v2"
	"github.com/ebb-dmp/ebb/segments/audience"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// The results of a delivery.
const (
	ResultFull      = "full"      // everything was said anew
	ResultDelta     = "delta"     // what changed was said
	ResultSame      = "same"      // a new generation that changes nothing for this destination
	ResultDelivered = "delivered" // this generation had been delivered before; nothing was done
	// ResultWaiting: the receiver could not be reached or wants to be asked
	// later; what it has not acknowledged is sent again (Delivery.Next).
	ResultWaiting = "waiting"
)

// Delivery is one run of sending.
type Delivery struct {
	Destination taxonomy.DestinationID `json:"destination"`
	Epoch       uint64                 `json:"epoch"`
	Generation  uint64                 `json:"generation"`
	At          taxonomy.Millis        `json:"at"`
	Result      string                 `json:"result"`
	// Why a full was made, or a delta that no schedule asked for; empty for others.
	Why     string `json:"why,omitempty"`
	File    string `json:"file,omitempty"`
	Rows    uint64 `json:"rows"`
	Adds    uint64 `json:"adds"`
	Removes uint64 `json:"removes"`
	Bytes   int64  `json:"bytes"`
	SHA256  string `json:"sha256,omitempty"`
	// Held is how many (visitor, audience) the partner holds after it; Allowed
	// how many consent would let go: the rest is not matched, too few for the
	// floor, or has no day left.
	Held    uint64 `json:"held"`
	Allowed uint64 `json:"allowed"`
	// Owed is how many removals wait for the eraser (Effects.Owed).
	Owed    uint64                `json:"owed,omitempty"`
	Floored []taxonomy.AudienceID `json:"floored,omitempty"`
	// Withheld are the audiences that may not be sent to this destination.
	Withheld []Withheld `json:"withheld,omitempty"`
	// Suppressed is how many (visitor, audience) Destination.Suppress kept out.
	// Unsuppressed says why its audiences could not be asked: then nobody was sent
	// who was not held before.
	Suppressed   uint64 `json:"suppressed,omitempty"`
	Unsuppressed string `json:"unsuppressed,omitempty"`
	// Hold: the change was too large and waits; only what visitors' consent and
	// erasures demand was said.
	Hold *Hold `json:"hold,omitempty"`
	// Of receivers that take a chunk first and work on it later: how many such
	// jobs there were, how many have ended, and how many of them failed.
	Jobs       int `json:"jobs,omitempty"`
	JobsEnded  int `json:"jobs_ended,omitempty"`
	JobsFailed int `json:"jobs_failed,omitempty"`
	// Of what is pushed: chunks in all, acknowledged, and refused for good; the
	// rows that the receiver did not take although it took their chunk, by its
	// own words; its last answer that was not yes, and when it is asked again.
	Chunks       int             `json:"chunks,omitempty"`
	Acknowledged int             `json:"acknowledged,omitempty"`
	Refused      int             `json:"refused,omitempty"`
	Rejected     map[string]int  `json:"rejected,omitempty"`
	Fault        string          `json:"fault,omitempty"`
	Next         taxonomy.Millis `json:"next,omitempty"`
}

// Run delivers a generation to a destination: it compares what the partner must
// hold with what it holds, writes a file of the difference, or a full where one
// is due, and publishes it with one swap of the head. Running it again for a
// generation that has been delivered, or for an older one, does nothing; after
// a crash at any point it comes to the same end.
//
// A full is made at first; when the one that stands would be older than
// FullEvery before the next run; when a file was withdrawn; after 300 files; when the epoch of
// the installation or of the pseudonyms has changed, and when the kind of IDs,
// the format or the number of shards has.
func (d *Deliverer) Run(ctx context.Context, dest Destination, src Source) (done Delivery, err error) {
	dest = dest.WithDefaults()
	if err := d.valid(&dest); err != nil {
		return Delivery{}, fmt.Errorf("deliver to %s: %w", dest.ID, err)
	}
	if err := d.begin(ctx, dest.ID, &src); err != nil {
		return Delivery{}, fmt.Errorf("deliver to %s: %w", dest.ID, err)
	}
	if d.o.Transports[dest.Transport].Facts().Served {
		defer d.lock(dest.ID)()
		err = again(func() error {
			done, err = d.publish(ctx, &dest, &src)
			return err
		})
	} else {
		done, err = d.push(ctx, &dest, &src)
	}
	if err != nil {
		return Delivery{}, fmt.Errorf("deliver generation %d to %s: %w", src.Generation.Number, dest.ID, err)
	}
	return done, nil
}

func (d *Deliverer) valid(dest *Destination) error {
	return errors.Join(dest.Validate(), d.Check(dest))
}

// publish delivers to a partner who pulls.
func (d *Deliverer) publish(ctx context.Context, dest *Destination, src *Source) (Delivery, error) {
	h, err := d.headUnder(ctx, dest.ID, src.Term)
	if err != nil {
		return Delivery{}, err
	}
	g := src.Generation
	run := Delivery{Destination: dest.ID, Epoch: g.Epoch, Generation: g.Number}
	if h.Seq > 0 && g.Epoch < h.Epoch {
		return run, fmt.Errorf("generation is of epoch %d, and epoch %d was delivered already", g.Epoch, h.Epoch)
	}
	if h.Seq > 0 && g.Epoch == h.Epoch && g.Number <= h.Generation {
		run.Result = ResultDelivered
		return run, d.clean(ctx, dest.ID, h) // what a crash after the swap left
	}
	clock := max(d.o.Now(), h.Clock)
	c, err := d.compare(ctx, dest, src, h, clock, &run)
	if err != nil {
		return run, err
	}
	defer c.close()
	next, e := c.next, &c.e

	nh := *h
	nh.Seq, nh.Epoch, nh.Generation, nh.AsOf, nh.Clock = h.Seq+1, g.Epoch, g.Number, g.Clock, clock
	nh.IDs, nh.PseudonymEpoch, nh.Format, nh.Shards = dest.IDs, dest.PseudonymEpoch, dest.Format, src.View.Shards()
	nh.Audiences = infos(dest, src)
	nh.Transport, nh.Pending, nh.Owes, nh.Prompt, nh.Retry, nh.Letters, nh.Jobs, nh.Sent = "", nil, false, false, retry{}, nil, nil, nil
	if e.Full {
		nh.Files = nil
	}
	nh.heldBack(run.Hold, e.Full, next)
	run.Result = ResultSame
	if !e.Empty() {
		f, err := d.writeFile(ctx, dest, &nh, d.o.Formats[dest.Format], clock-clock%taxonomy.Minute, e, next, c.name, &run)
		if err = errors.Join(err, c.ids.err()); err != nil {
			return run, err
		}
		nh.Files = append(slices.Clone(nh.Files), f)
		run.Result = ResultDelta
		if e.Full {
			run.Result = ResultFull
		}
	}
	for _, held := range next.Held {
		run.Held += held.Count()
	}
	if err := d.putLedger(ctx, dest.ID, &nh, next); err != nil {
		return run, err
	}
	nh.Runs = slices.Clone(nh.Runs)
	if n := len(nh.Runs); n > 0 && run.Result == ResultSame && nh.Runs[n-1].Result == ResultSame {
		nh.Runs = nh.Runs[:n-1] // of many that say nothing the last suffices
	}
	nh.Runs = append(nh.Runs, run)
	nh.Runs = nh.Runs[max(0, len(nh.Runs)-keptRuns):]
	if err := d.swapHead(ctx, dest.ID, &nh); err != nil {
		return run, err
	}
	return run, d.clean(ctx, dest.ID, &nh)
}

// fullDue says why everything must be said anew, or nothing.
func fullDue(h *head, dest *Destination, src *Source, clock taxonomy.Millis) string {
	switch {
	case h.Seq == 0:
		return "the first delivery"
	case h.Epoch != src.Generation.Epoch:
		return "the installation was restored"
	case h.PseudonymEpoch != dest.PseudonymEpoch || h.IDs != dest.IDs:
		return "the partner's IDs changed"
	case h.Format != dest.Format:
		return "the format changed"
	case h.Shards != src.View.Shards():
		return "the number of shards changed"
	case h.Transport != "":
		return "the transport changed"
	case len(h.Files) == 0 || h.Files[0].Kind != Full:
		return "a file was withdrawn"
	case len(h.Files) >= maxChain:
		return "there are too many deltas"
	case clock+dest.Every.Millis() > h.Files[0].Created+dest.FullEvery.Millis():
		return "the daily full"
	}
	return ""
}

// namer returns the function that tells the ID of a visitor.
func (d *Deliverer) namer(dest *Destination, v audience.View, ids *Matched) func(int, uint32) (string, bool) {
	if ids != nil {
		return ids.ID
	}
	return func(s int, o uint32) (string, bool) {
		k, ok := v.Key(s, o)
		if !ok {
			return "", false
		}
		return d.o.Pseudonym(dest.ID, dest.PseudonymEpoch, k), true
	}
}

func infos(dest *Destination, src *Source) []AudienceInfo {
	list := make([]AudienceInfo, 0, len(dest.Audiences))
	for _, a := range dest.Audiences {
		i := AudienceInfo{ID: a}
		if src.Info != nil {
			i = src.Info(a)
			i.ID = a
		}
		if i.Slug == "" {
			i.Slug = string(a)
		}
		if i.Title == "" {
			i.Title = string(a)
		}
		list = append(list, i)
	}
	return list
}

// writeFile writes the rows of e and, beside them, whose rows they are. Targets
// whose key the view does not know after all are not written and not held.
func (d *Deliverer) writeFile(ctx context.Context, dest *Destination, h *head, format Format, created taxonomy.Millis, e *Effects, next *Ledger, name func(int, uint32) (string, bool), run *Delivery) (File, error) {
	facts := format.Facts()
	f := File{Kind: Delta, Generation: h.Generation, Created: created, Expires: created + fileLife, MediaType: facts.MediaType}
	if e.Full {
		f.Kind = Full
	} else {
		// Not the last generation delivered, but the last that left a file: a
		// generation that changed nothing has none, and the chain has no hole.
		f.Base = h.Files[len(h.Files)-1].Generation
	}
	var err error
	if f.Name, err = d.name(h, h.Epoch, h.Generation, string(f.Kind)+facts.Extension); err != nil {
		return f, err
	}
	if f.Members, err = d.name(h, h.Epoch, h.Generation, "members"); err != nil {
		return f, err
	}
	w := rows{
		encoder: format.New(FileInfo{Destination: dest.ID, IDs: dest.IDs, Kind: f.Kind, Generation: f.Generation, Created: created, Account: dest.Account, Segments: dest.Segments, Serial: h.Seq}),
		e:       e, next: next, name: name, created: created, byID: facts.ByID,
		members: make([]*roaring.Bitmap, h.Shards),
		oldest:  created.Day(),
	}
	for s := range w.members {
		w.members[s] = roaring.New()
	}
	// The rows are made in a goroutine that ends with this function: whichever
	// side fails first closes the pipe on the other.
	pr, pw := io.Pipe()
	written := make(chan error, 1)
	go func() {
		err := w.write(ctx, pw)
		pw.CloseWithError(err)
		written <- err
	}()
	blob, err := d.o.Blobs.Put(ctx, folder(dest.ID)+"/"+f.Name, f.Expires, pr)
	pr.CloseWithError(errors.New("the store took no more"))
	if wErr := <-written; err == nil && wErr != nil {
		err = wErr
	}
	if err != nil {
		return f, fmt.Errorf("write file: %w", err)
	}
	f.Rows, f.Bytes, f.SHA256, f.Oldest = w.adds+w.removes, blob.Bytes, hex.EncodeToString(blob.SHA256[:]), w.oldest
	run.File, run.Rows, run.Adds, run.Removes, run.Bytes, run.SHA256 = f.Name, f.Rows, w.adds, w.removes, f.Bytes, f.SHA256
	members, err := marshalMembers(w.members)
	if err != nil {
		return f, err
	}
	if _, err := d.o.Blobs.Put(ctx, folder(dest.ID)+"/"+f.Members, f.Expires, bytes.NewReader(members)); err != nil {
		return f, fmt.Errorf("write members of a file: %w", err)
	}
	return f, nil
}

// rows writes effects as runs, in order of audience, adds before removals, life
// and ID. By ID, not by ordinal: the order of ordinals is the same at every
// destination, and two partners could join their files by it.
type rows struct {
	encoder Encoder
	e       *Effects
	next    *Ledger
	name    func(int, uint32) (string, bool)
	created taxonomy.Millis
	byID    bool

	members       []*roaring.Bitmap
	adds, removes uint64
	oldest        taxonomy.Day
	out           []byte
	ids           []string
	order         order
}

// flushAt is how many bytes are gathered before they are written.
const flushAt = 256 << 10

func (r *rows) write(ctx context.Context, w io.Writer) (err error) {
	if r.byID {
		return r.writeByID(ctx, w)
	}
	removes := r.e.Removes
	audiences := slices.Collect(maps.Keys(r.e.Adds))
	for _, m := range removes {
		audiences = append(audiences, m.Audience)
	}
	slices.Sort(audiences)
	for _, a := range slices.Compact(audiences) {
		for _, d := range r.e.Adds[a].days() {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := r.day(ctx, w, a, d); err != nil {
				return err
			}
			r.oldest = min(r.oldest, d-taxonomy.RetentionDays)
		}
		r.ids = r.ids[:0]
		for ; len(removes) > 0 && removes[0].Audience == a; removes = removes[1:] {
			m := removes[0]
			r.ids = append(r.ids, m.ID)
			r.members[m.Shard].Add(m.Ordinal)
			r.oldest = min(r.oldest, m.Until-taxonomy.RetentionDays)
		}
		if err := r.run(w, Run{Audience: a, Remove: true}, r.ids); err != nil {
			return err
		}
		r.removes += uint64(len(r.ids))
	}
	if r.out, err = r.encoder.Close(r.out); err != nil {
		return err
	}
	return r.flush(w)
}

// day writes those to be added until a day.
func (r *rows) day(ctx context.Context, w io.Writer, a taxonomy.AudienceID, d taxonomy.Day) error {
	sets := r.e.Adds[a].on(d)
	for s, b := range sets {
		if b != nil {
			r.members[s].Or(b)
		}
	}
	run := Run{Audience: a, Minutes: int((d.Start() - r.created) / taxonomy.Minute)}
	r.order.name = r.name
	lost := map[int]*roaring.Bitmap{}
	err := r.order.each(ctx, sets, func(o at) {
		if lost[o.shard] == nil {
			lost[o.shard] = roaring.New()
		}
		lost[o.shard].Add(o.ordinal)
	}, func(list []member) error {
		r.ids = r.ids[:0]
		for i := range list {
			r.ids = append(r.ids, list[i].id)
		}
		r.adds += uint64(len(list))
		return r.run(w, run, r.ids)
	})
	for s, who := range lost {
		r.next.Held[a].remove(s, who)
	}
	return err
}

func (r *rows) run(w io.Writer, run Run, ids []string) (err error) {
	for chunk := range slices.Chunk(ids, 4096) {
		if r.out, err = r.encoder.Append(r.out, run, chunk); err != nil {
			return err
		}
		if len(r.out) >= flushAt {
			if err := r.flush(w); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *rows) flush(w io.Writer) error {
	_, err := w.Write(r.out)
	r.out = r.out[:0]
	if err != nil {
		return fmt.Errorf("write rows: %w", err)
	}
	return nil
}
