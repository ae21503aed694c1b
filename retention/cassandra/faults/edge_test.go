package faults

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/retention/cassandra"
	"github.com/ebb-dmp/ebb/retention/storetest"
	"github.com/ebb-dmp/ebb/taxonomy"
)

const (
	visitors = 400
	// erasedVisitor asks to be forgotten in the midst of the faults.
	erasedVisitor = 7
)

var says sync.Mutex

// say tells the test something, in a line that is whole and survives a kill.
func say(format string, args ...any) {
	says.Lock()
	defer says.Unlock()
	_, _ = os.Stdout.WriteString(fmt.Sprintf(format, args...) + "\n")
}

// eventID is of the n-th event of an edge.
func eventID(edge string, n int) (id taxonomy.EventID) {
	copy(id[:8], edge)
	binary.BigEndian.PutUint64(id[8:], uint64(n))
	return id
}

var mayAll = taxonomy.Consent{Regime: taxonomy.RegimeOptIn, Signal: taxonomy.SignalExplicit, Purposes: taxonomy.MayAll}

func newEvent(edge string, n int) taxonomy.Record {
	at := now()
	c := mayAll
	c.Day = at.Day()
	return taxonomy.Record{Kind: taxonomy.RecordEvent, Received: at, Site: "shop", Source: "web", Space: taxonomy.SpaceCookie,
		Visitor: storetest.Visitor(n % visitors), Returning: true, Consent: c,
		Event: &taxonomy.Event{ID: eventID(edge, n), Time: at, Kind: taxonomy.EventPage, URL: "https://shop.example/p/" + strconv.Itoa(n%97)}}
}

// edge appends events until its input ends, and says of each what it was told:
//
//	T n      it is tried
//	O n q|l  it is acknowledged, at quorum or locally
//	F n, U n it failed for certain; its outcome is unknown
//	D        all that it has is at quorum
func edge(ctx context.Context) error {
	name := os.Getenv(envName)
	st, err := cassandra.Open(ctx, options(os.Getenv(envKeyspace)))
	if err != nil {
		return err
	}
	l, err := openLog(st, os.Getenv(envDir), name)
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(os.Getenv(envFrom))
	if err != nil {
		return err
	}
	say("W %s", l.Writer())
	stop := make(chan struct{})
	go func() {
		b := make([]byte, 1)
		for {
			k, err := os.Stdin.Read(b)
			if k == 1 && b[0] == 'e' {
				r := taxonomy.Record{Kind: taxonomy.RecordErasure, Received: now(), Space: taxonomy.SpaceCookie, Visitor: storetest.Visitor(erasedVisitor)}
				_, _, err := l.Append(ctx, 0, []taxonomy.Record{r}, retention.AckQuorum)
				say("E %v", err)
			}
			if err != nil {
				close(stop)
				return
			}
		}
	}()
	var mu sync.Mutex
	var last uint64
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(40 * time.Millisecond):
				}
				mu.Lock()
				i := n
				n++
				mu.Unlock()
				ack := retention.AckLocal
				if i%2 == 0 {
					ack = retention.AckQuorum
				}
				say("T %d", i)
				ref, reached, err := l.Append(ctx, 0, []taxonomy.Record{newEvent(name, i)}, ack)
				switch {
				case err == nil && reached >= retention.AckQuorum:
					say("O %d q", i)
				case err == nil && reached == retention.AckLocal:
					say("O %d l", i)
				case err == nil || errors.Is(err, retention.ErrUnknown):
					say("U %d", i)
				default:
					say("F %d", i)
				}
				if err == nil {
					mu.Lock()
					last = max(last, ref.Seq)
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	for l.Mark(0).Seq < last {
		<-time.After(50 * time.Millisecond)
	}
	say("D")
	return errors.Join(l.Close(ctx), st.Close())
}
