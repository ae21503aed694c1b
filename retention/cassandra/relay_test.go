package cassandra

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// A way is what becomes of what goes through a relay.
type way int

const (
	open way = iota
	slow     // each answer comes late
	hole     // nothing goes through either way, and nothing is closed
	deaf     // requests arrive and are done; their answers are lost, and nothing is closed
	cut      // requests arrive and are done; instead of the answer the connection ends
	shut     // nobody answers at the door, and whoever was in is out
)

// relays stand between a store and each node of the cluster, as a network that
// fails between two hosts does: Cassandra and the driver know nothing of them.
type relays struct {
	mu   sync.Mutex
	ways map[string]way // by address of a node; the others are open
	all  map[*relayed]bool
	late time.Duration // of slow
	lost atomic.Int64  // answers that came and were not given on
}

// relayed is one connection of the driver.
type relayed struct {
	r      *relays
	to     string
	client net.Conn // our end of the driver's
	server net.Conn
}

func newRelays() *relays {
	return &relays{ways: map[string]way{}, all: map[*relayed]bool{}, late: 300 * time.Millisecond}
}

func (r *relays) way(to string) way {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ways[to]
}

// nodes are the nodes that the driver has connected to.
func (r *relays) nodes() (list []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	seen := map[string]bool{}
	for c := range r.all {
		if !seen[c.to] {
			seen[c.to], list = true, append(list, c.to)
		}
	}
	return list
}

// set gives a node a way.
func (r *relays) set(w way, nodes ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, n := range nodes {
		was := r.ways[n]
		r.ways[n] = w
		for c := range r.all {
			// What was lost on a connection never comes: an answer behind it would
			// not be understood.
			if c.to == n && (w == shut || was == deaf && w != deaf) {
				c.close()
			}
		}
	}
}

// dial is a store's way to the nodes. The driver holds one end of a real
// connection on loopback, so that what is written into it is buffered as a
// network's is.
func (r *relays) dial(ctx context.Context, network, to string) (net.Conn, error) {
	if r.way(to) == shut {
		return nil, &net.OpError{Op: "dial", Net: network, Err: net.ErrClosed}
	}
	server, err := (&net.Dialer{Timeout: 3 * time.Second}).DialContext(ctx, network, to)
	if err != nil {
		return nil, err
	}
	door, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		server.Close()
		return nil, err
	}
	defer door.Close()
	driver, err := (&net.Dialer{Timeout: 3 * time.Second}).DialContext(ctx, "tcp", door.Addr().String())
	if err != nil {
		server.Close()
		return nil, err
	}
	client, err := door.Accept()
	if err != nil {
		server.Close()
		driver.Close()
		return nil, err
	}
	c := &relayed{r, to, client, server}
	r.mu.Lock()
	r.all[c] = true
	r.mu.Unlock()
	go c.carry(client, server, false)
	go c.carry(server, client, true)
	return atNode{driver, server.RemoteAddr()}, nil
}

// atNode is the driver's end of a connection. The driver takes the port of a node
// from where its first connection leads.
type atNode struct {
	net.Conn
	addr net.Addr
}

func (n atNode) RemoteAddr() net.Addr { return n.addr }

func (c *relayed) close() {
	c.client.Close()
	c.server.Close()
}

// carry brings what comes from one end to the other, as the node's way is when it
// comes.
func (c *relayed) carry(from, to net.Conn, answers bool) {
	defer func() {
		c.close()
		c.r.mu.Lock()
		delete(c.r.all, c)
		c.r.mu.Unlock()
	}()
	b := make([]byte, 64<<10)
	for {
		n, err := from.Read(b)
		if err != nil {
			return
		}
		w := c.r.way(c.to)
		for w == hole {
			<-time.After(20 * time.Millisecond)
			w = c.r.way(c.to)
		}
		if answers && (w == deaf || w == cut) {
			c.r.lost.Add(1)
		}
		switch {
		case w == shut, w == cut && answers:
			return
		case w == deaf && answers:
			continue
		case w == slow && answers:
			<-time.After(c.r.late)
		}
		if _, err := to.Write(b[:n]); err != nil {
			return
		}
	}
}

// through opens a store whose connections go through relays.
func through(t *testing.T) (*Store, *relays) {
	t.Helper()
	r := newRelays()
	o := testOptions(realNow)
	o.dial = r.dial
	st, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r.set(open, r.nodes()...)
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	for end := time.Now().Add(patience); len(r.nodes()) < cluster.nodes; <-time.After(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the driver is connected to %d of %d nodes", len(r.nodes()), cluster.nodes)
		}
	}
	return st, r
}
