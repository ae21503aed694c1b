package delivery

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/ebb-dmp/ebb/taxonomy"
)

// Follower may be implemented by a transport to receivers that take a chunk
// first, and work on it later.
type Follower interface {
	// Follow asks for the outcome of a job. An error means that it could not be
	// asked for.
	Follow(ctx context.Context, d *Destination, job string) (JobOutcome, error)
}

// JobOutcome is what a receiver says of a job.
type JobOutcome struct {
	// Ended is false while it works.
	Ended bool
	// Failed says in the receiver's words why nothing, or not all, of the chunk
	// was worked on; empty: all of it was.
	Failed string
	// Rejected is how many rows it did not take, by its own words.
	Rejected map[string]int
}

const (
	// jobLife is how long a receiver is asked for a job's outcome. Then it counts
	// as failed.
	jobLife = 2 * taxonomy.OneDay
	// mostJobs is how many are followed: the head names them.
	mostJobs = 500
	// jobsAtOnce is how many are asked for in one run.
	jobsAtOnce = 50
)

// job is one that a receiver works on. It is in the head, so whoever runs next
// follows it, also after a crash.
type job struct {
	ID   string          `json:"id"`
	File string          `json:"file"` // of the delivery
	Name string          `json:"name"` // of the chunk
	Key  string          `json:"key"`
	Rows uint64          `json:"rows"`
	At   taxonomy.Millis `json:"at"`
	// Asked is when it was asked for last.
	Asked taxonomy.Millis `json:"asked"`
}

// took notes a job. What is beyond the most that are followed counts as failed:
// a full says it all again.
func (h *head) took(p *pending, c *Chunk, id string, now taxonomy.Millis) {
	p.Run.Jobs++
	if len(h.Jobs) >= mostJobs || len(id) > 256 {
		p.Run.JobsEnded++
		p.Run.JobsFailed++
		h.FullAt = 0
		return
	}
	h.Jobs = append(h.Jobs, job{ID: id, File: p.File, Name: c.Name, Key: c.Key, Rows: c.Rows, At: now})
}

// follow asks for the outcome of jobs, at most once a minute each, and notes it
// with the delivery. A job that failed means that the receiver may lack anything
// of its chunk: the next delivery is a full, which says it all again.
func (d *Deliverer) follow(ctx context.Context, dest *Destination) error {
	f, ok := d.o.Transports[dest.Transport].(Follower)
	if !ok {
		return nil
	}
	h, err := d.readHead(ctx, dest.ID)
	if err != nil {
		return fmt.Errorf("follow jobs: %w", err)
	}
	now := d.o.Now()
	due := slices.DeleteFunc(slices.Clone(h.Jobs), func(j job) bool { return now < j.Asked+taxonomy.Minute })
	slices.SortStableFunc(due, func(a, b job) int { return int(a.Asked - b.Asked) })
	outcomes := map[string]JobOutcome{}
	asked := map[string]bool{}
	for _, j := range due[:min(len(due), jobsAtOnce)] {
		o, err := f.Follow(ctx, dest, j.ID)
		if ctx.Err() != nil {
			break // what is known is noted
		}
		asked[j.Key] = true
		switch {
		case err == nil && o.Ended:
			outcomes[j.Key] = o
		case now >= j.At+jobLife:
			outcomes[j.Key] = JobOutcome{Ended: true, Failed: "its outcome was not to be had for two days"}
		case err != nil:
			// The others are not likely to fare better now.
			o.Ended = false
		}
		if err != nil {
			break
		}
	}
	if len(asked) == 0 {
		return ctx.Err()
	}
	err = d.locked(dest.ID, func() error {
		return again(func() error {
			h, err := d.readHead(ctx, dest.ID)
			if err != nil {
				return err
			}
			var left []job
			for _, j := range h.Jobs {
				o, ended := outcomes[j.Key]
				if !ended {
					if asked[j.Key] {
						j.Asked = now
					}
					left = append(left, j)
					continue
				}
				h.ended(j, o, now)
			}
			h.Jobs = left
			h.Seq++
			return d.swapHead(ctx, dest.ID, h)
		})
	})
	if err != nil {
		return fmt.Errorf("follow jobs: %w", err)
	}
	return ctx.Err()
}

// ended notes a job's outcome.
func (h *head) ended(j job, o JobOutcome, now taxonomy.Millis) {
	if o.Failed != "" {
		h.FullAt, h.Owes = 0, true
		h.Letters = append(h.Letters, Letter{now, j.Name, j.Key, j.Rows, short(errors.New(o.Failed))})
		h.Letters = h.Letters[max(0, len(h.Letters)-keptLetters):]
	}
	note := func(r *Delivery) {
		r.JobsEnded++
		if o.Failed != "" {
			r.JobsFailed++
			r.Fault = short(errors.New(o.Failed))
		}
		r.Rejected = add(r.Rejected, o.Rejected)
	}
	if h.Pending != nil && h.Pending.File == j.File {
		note(&h.Pending.Run)
		return
	}
	h.Runs = slices.Clone(h.Runs)
	for i := range h.Runs {
		if h.Runs[i].File == j.File {
			note(&h.Runs[i])
		}
	}
}
