package delivery

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// sendPending sends what has not been acknowledged, in waves of as many chunks
// as may be under way at once, and notes after each wave what came of it. It
// returns false if the delivery was withdrawn meanwhile. Before each wave it looks
// whether it may still send: no swap of a head can take back what was sent.
func (d *Deliverer) sendPending(ctx context.Context, dest *Destination, p *pending, term uint64) (bool, error) {
	index, pieces, err := d.openIndex(ctx, dest.ID, p.Index)
	if err != nil {
		return false, d.unlessWithdrawn(ctx, dest.ID, p, term, err)
	}
	index.Close()
	body, err := d.o.Blobs.Open(ctx, folder(dest.ID)+"/"+p.File)
	if err != nil {
		return false, d.unlessWithdrawn(ctx, dest.ID, p, term, fmt.Errorf("open what is to be sent: %w", err))
	}
	defer body.Close()
	var at int64
	var wave []*Chunk
	width := max(1, dest.Push.Concurrency)
	if n := dest.Push.PerMinute; n > 0 {
		width = min(width, n)
	}
	for i, piece := range pieces {
		c := d.chunk(dest, p, i, len(pieces), &piece, io.NewSectionReader(body, at, piece.bytes))
		at += piece.bytes
		if c.Control && (p.Run.Refused > 0 || p.Run.Acknowledged < i) {
			break // what it would list is not all there
		}
		if !bit(p.Done, i) && !bit(p.Refused, i) {
			wave = append(wave, c)
		}
		// What lists the others goes alone, after them.
		if last := i == len(pieces)-1 || pieces[i+1].control; len(wave) == 0 || len(wave) < width && !last {
			continue
		}
		if ok, err := d.pace(ctx, dest, p); !ok || err != nil {
			return true, err
		}
		if ok, err := d.stands(ctx, dest.ID, p, term); !ok || err != nil {
			return false, err
		}
		here, more, err := d.sendWave(ctx, dest, p, wave, term)
		if err != nil || !here {
			return here, err
		}
		if !more {
			return true, nil
		}
		wave = nil
	}
	return true, nil
}

// unlessWithdrawn is nil in the place of an error that a file is not there, if it went
// because what is under way was withdrawn.
func (d *Deliverer) unlessWithdrawn(ctx context.Context, dest taxonomy.DestinationID, p *pending, term uint64, err error) error {
	if !errors.Is(err, retention.ErrNotFound) {
		return err
	}
	stands, serr := d.stands(ctx, dest, p, term)
	if serr != nil {
		return serr
	}
	if !stands {
		return nil
	}
	return err
}

// controlMedia is the media type of files that list others.
const controlMedia = "application/json"

func (d *Deliverer) chunk(dest *Destination, p *pending, i, of int, piece *piece, body *io.SectionReader) *Chunk {
	name := chunkName(p.File, piece, i, of)
	key := sha256.Sum256(fmt.Appendf(nil, "%s\n%s\n%d\n%x", dest.ID, p.File, i, piece.sha256))
	c := &Chunk{
		Name: name, Key: hex.EncodeToString(key[:16]), Kind: p.Kind, MediaType: p.Media, Rows: piece.rows,
		Index: i, Of: of, Created: p.Created, Body: body, SHA256: piece.sha256, Control: piece.control,
		Removes: d.o.Formats[dest.Format].Facts().Apart && piece.removes,
	}
	if c.Control {
		c.MediaType = controlMedia
		return c
	}
	if j, ok := d.o.Formats[dest.Format].(Judge); ok {
		c.Judge = j.Judge
	}
	if f, ok := d.o.Formats[dest.Format].(Headers); ok {
		c.Headers = func(body []byte, secret string, now taxonomy.Millis) (map[string]string, error) {
			return f.Headers(c, body, secret, now)
		}
	}
	return c
}

// chunkName is the name of a chunk of a file.
func chunkName(file string, p *piece, i, of int) string {
	if p.name != "" {
		return p.name
	}
	stem, ext, has := strings.Cut(file, ".")
	if has {
		ext = "." + ext
	}
	return partName(stem, ext, i, of)
}

// pace waits until the rate allows another wave, and returns false when what is
// under way is too old to be sent.
func (d *Deliverer) pace(ctx context.Context, dest *Destination, p *pending) (bool, error) {
	if n := dest.Push.PerMinute; n > 0 && p.Wave > 0 {
		due := p.Sent + taxonomy.Minute*taxonomy.Millis(p.Wave)/taxonomy.Millis(n)
		for now := d.o.Now(); now < due; now = d.o.Now() {
			if due >= p.Created+pendingLife {
				return false, nil
			}
			select {
			case <-d.o.After(time.Duration(due-now) * time.Millisecond):
			case <-ctx.Done():
				return false, ctx.Err()
			}
		}
	}
	return d.o.Now() < p.Created+pendingLife, nil
}

// sendWave sends chunks at once and notes what came of them. here is false if
// the delivery was withdrawn, more is false if the receiver wants to be left
// alone for now.
func (d *Deliverer) sendWave(ctx context.Context, dest *Destination, p *pending, wave []*Chunk, term uint64) (here, more bool, err error) {
	outcomes := make([]error, len(wave))
	verdicts := make([]Verdict, len(wave))
	jobs := make([]string, len(wave))
	var wg sync.WaitGroup
	for i, c := range wave {
		c.Took = func(job string) { jobs[i] = job }
		judge := c.Judge
		if judge != nil {
			c.Judge = func(status int, answer []byte) (v Verdict, err error) {
				v, err = judge(status, answer)
				verdicts[i] = v
				return v, err
			}
		}
		wg.Go(func() { outcomes[i] = d.o.Transports[dest.Transport].Send(ctx, dest, c) })
	}
	wg.Wait()
	stopped := ctx.Err()
	if stopped != nil {
		// We were told to stop, which is not the receiver's fault. But what
		// came of the wave must be noted.
		ctx = context.WithoutCancel(ctx)
	}
	err = d.locked(dest.ID, func() error {
		return again(func() error {
			h, err := d.headUnder(ctx, dest.ID, term)
			if err != nil {
				return err
			}
			here = h.Pending != nil && h.Pending.File == p.File
			if !here {
				return nil
			}
			q := h.Pending
			more = true
			now := max(d.o.Now(), h.Clock)
			q.Sent, q.Wave = now, len(wave)
			var wish time.Duration
			failed := false
			if len(q.Tried) == 0 {
				q.Tried = make([]byte, len(q.Done))
			}
			for i, c := range wave {
				set(q.Tried, c.Index)
				switch err := outcomes[i]; {
				case err == nil:
					if !bit(q.Done, c.Index) {
						set(q.Done, c.Index)
						q.Run.Acknowledged++
						q.Run.Rejected = add(q.Run.Rejected, verdicts[i].Rejected)
						if jobs[i] != "" {
							h.took(q, c, jobs[i], now)
						}
					}
				case errors.Is(err, ErrRefused):
					set(q.Refused, c.Index)
					if !p.fresh {
						set(q.Doubtful, c.Index)
					}
					q.Run.Refused++
					q.Run.Fault = short(err)
					h.Letters = append(h.Letters, Letter{now, c.Name, c.Key, c.Rows, short(err)})
					h.Letters = h.Letters[max(0, len(h.Letters)-keptLetters):]
				default:
					failed = true
					q.Run.Fault = short(err)
					var later *Later
					if errors.As(err, &later) {
						wish = max(wish, later.After)
					}
				}
			}
			if failed && stopped == nil {
				h.Retry.failed(now, wish)
				more = false
			} else if failed {
				more = false
			} else if q.Run.Refused == 0 {
				h.Retry = retry{}
			}
			h.Seq++
			if err := d.swapHead(ctx, dest.ID, h); err != nil {
				return err
			}
			q.fresh = p.fresh
			*p = *q
			return nil
		})
	})
	return here, more, errors.Join(err, stopped)
}

func add(to, from map[string]int) map[string]int {
	for k, n := range from {
		if to == nil {
			to = map[string]int{}
		}
		if len(k) > 64 {
			k = k[:64]
		}
		if _, ok := to[k]; !ok && len(to) >= 32 {
			k = "other"
		}
		to[k] += n
	}
	return to
}

// short keeps an answer short enough for the head.
func short(err error) string {
	s := strings.ToValidUTF8(err.Error(), "?")
	if len(s) > 300 {
		s = strings.ToValidUTF8(s[:300], "") + "…"
	}
	return s
}

var errNoPending = errors.New("what was under way has been withdrawn")
