package faults

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/retention/cassandra"
	"github.com/ebb-dmp/ebb/retention/storetest"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/gocql/gocql"
)

// explain says all that can be found out of events that visitor_events
// acknowledged and that are not read: of which writes they were, whether a read
// of the visitor finds them, whether any one replica does, whether a file of any
// replica has them, and whether a node left out a part of its commit log.
func (h *history) explain(t *testing.T, keyspace string, missing []taxonomy.EventID) {
	t.Helper()
	of := map[taxonomy.EventID]bool{}
	byVisitor := map[taxonomy.VisitorKey]int{}
	writes := map[int]int{}
	for _, id := range missing {
		of[id] = true
		_, n := idOf(id)
		byVisitor[storetest.Visitor(n%visitors)]++
		for _, p := range h.putOf[id] {
			writes[p]++
		}
	}
	for _, i := range slices.Sorted(maps.Keys(writes)) {
		p := h.puts[i]
		h.note("  of a write of %d events that %s was told of at %.1f s: %d", len(p.ids), p.by, p.at.Sub(h.began).Seconds(), writes[i])
	}
	tally := func(f found) (n int) {
		for id := range of {
			if f.times[id] > 0 {
				n++
			}
		}
		return n
	}
	byBucket := map[int]int{}
	for v, n := range byVisitor {
		byBucket[int(binary.BigEndian.Uint32(v[:4])>>30)] += n
	}
	h.note("  by bucket of visitors: %v", byBucket)
	if st, err := cassandra.Open(t.Context(), options(keyspace)); err != nil {
		h.note("  %v", err)
	} else {
		f := newFound()
		for v := range byVisitor {
			if err := st.Events().Visitor(t.Context(), v, now().Day()-1, now().Day(), func(e *retention.StoredEvent) error { f.add(&e.Record); return nil }); err != nil {
				h.note("  read a visitor: %v", err)
			}
		}
		h.note("  a read of their %d visitors finds %d of them", len(byVisitor), tally(f))
		_ = st.Close()
	}
	host := os.Getenv(envHost)
	net := host[:strings.LastIndex(host[:strings.LastIndex(host, ":")], ".")]
	for _, node := range []string{"1", "2", "3"} {
		f, err := onlyFrom(net+"."+node, keyspace)
		h.note("  node %s alone has %d of them, %v", node, tally(f), err)
		f, err = inFiles(t, node, keyspace)
		h.note("  files of node %s have %d of them, %v", node, tally(f), err)
	}
	for _, said := range leftOut(t) {
		h.note("  %s", said)
	}
}

// leftOut is what nodes said, at their last two starts, of parts of their commit log
// that they did not read.
func leftOut(t *testing.T) (said []string) {
	t.Helper()
	for node := range strings.Lines(cass(t, "status")) {
		f := strings.Fields(node)
		for _, name := range []string{"system.log.before", "system.log"} {
			b, err := os.ReadFile(filepath.Join(f[len(f)-1], "logs", name))
			if err != nil {
				said = append(said, err.Error())
			}
			for line := range strings.Lines(string(b)) {
				if strings.Contains(line, "commit log replay error") {
					said = append(said, strings.Join(f[:2], " ")+" "+strings.TrimSpace(line))
				}
			}
		}
	}
	return said
}

// onlyFrom reads what one replica has.
func onlyFrom(ip, keyspace string) (found, error) {
	c := gocql.NewCluster(ip)
	c.Keyspace, c.ProtoVersion, c.Timeout, c.ConnectTimeout, c.Consistency = keyspace, 4, 20*time.Second, 10*time.Second, gocql.One
	c.HostFilter = gocql.WhiteListHostFilter(ip)
	s, err := c.CreateSession()
	if err != nil {
		return newFound(), err
	}
	defer s.Close()
	f, _, err := readEvents(s)
	return f, err
}

// inFiles reads what the files of a replica have.
func inFiles(t *testing.T, node, keyspace string) (found, error) {
	t.Helper()
	f := newFound()
	if out, err := tryCass("nodetool", node, "flush", keyspace, "visitor_events"); err != nil {
		return f, fmt.Errorf("%w: %s", err, out)
	}
	for _, file := range strings.Fields(cass(t, "files", node, keyspace, "visitor_events")) {
		var partitions []struct {
			Rows []struct {
				Type       string
				Clustering []any
				Cells      []struct {
					Name  string
					Value any
				}
			}
		}
		if err := json.Unmarshal([]byte(cass(t, "sstabledump", node, file)), &partitions); err != nil {
			return f, err
		}
		for _, p := range partitions {
			for _, r := range p.Rows {
				for _, c := range r.Cells {
					if c.Name != "payload" {
						continue
					}
					visitor, err1 := unhex(r.Clustering[1])
					pack, err2 := unhex(c.Value)
					if err := errors.Join(err1, err2); err != nil {
						return f, err
					}
					if _, err := f.addPack(visitor, pack); err != nil {
						return f, err
					}
				}
			}
		}
	}
	return f, nil
}

func unhex(v any) ([]byte, error) {
	s, _ := v.(string)
	return hex.DecodeString(strings.TrimPrefix(s, "0x"))
}
