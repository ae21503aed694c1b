package tagserver

import (
	"container/list"
	"crypto/tls"
	"net"
	"net/http"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// connections bounds how many connections a listener holds. Whoever opens many
// and says nothing must not keep others out, so it is not the new one that is
// refused: the one that has waited longest without a request goes. Only if every
// other is at work does the new one go. It looks at no address: behind a proxy,
// or a carrier, all are one.
type connections struct {
	max  int
	shed prometheus.Counter

	mu      sync.Mutex
	open    map[net.Conn]*list.Element // nil while it works on a request
	waiting list.List                  // of net.Conn, the longest first
}

func newConnections(max int, shed prometheus.Counter) *connections {
	return &connections{max: max, shed: shed, open: make(map[net.Conn]*list.Element)}
}

// state is the http.Server's ConnState. It never blocks.
func (c *connections) state(conn net.Conn, state http.ConnState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	at, known := c.open[conn]
	switch state {
	case http.StateNew, http.StateIdle:
		if at == nil {
			c.open[conn] = c.waiting.PushBack(conn)
		}
		if !known && len(c.open) > c.max {
			c.close(c.waiting.Front())
		}
	case http.StateActive:
		if at != nil {
			c.waiting.Remove(at)
		}
		c.open[conn] = nil
	case http.StateClosed, http.StateHijacked:
		if at != nil {
			c.waiting.Remove(at)
		}
		delete(c.open, conn)
	}
}

// close closes a waiting connection. The server notices by itself, and says so.
func (c *connections) close(at *list.Element) {
	conn := c.waiting.Remove(at).(net.Conn)
	delete(c.open, conn)
	c.shed.Inc()
	if t, ok := conn.(*tls.Conn); ok {
		// The farewell of TLS would wait for a peer that may not read.
		conn = t.NetConn()
	}
	_ = conn.Close() // it is out either way
}
