package geo

import (
	"fmt"
	"io"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// Source opens the operator's file and says which version of it there is: two
// versions are told apart by size and time of change.
type Source interface {
	Stat() (size int64, changed time.Time, err error)
	Open() (io.ReadCloser, error)
}

// Live is the newest good version of a file. A newer one takes its place at once,
// for the next lookup; one that cannot be read or is damaged does not. It is safe
// for concurrent use.
type Live struct {
	source Source
	db     atomic.Pointer[DB]

	mu      sync.Mutex // one refresh at a time
	seen    version    // that was last looked at
	refused bool       // it was not taken
}

type version struct {
	size    int64
	changed time.Time
}

// Follow reads a file, which must be good, and returns what follows it.
func Follow(s Source) (*Live, error) {
	l := &Live{source: s}
	if _, err := l.Refresh(); err != nil {
		return nil, err
	}
	return l, nil
}

// Refresh reads the file if it has changed since it was last looked at, and
// reports whether a newer one is in force. An error is returned once for a
// version; until there is a good one, the one before stays in force.
func (l *Live) Refresh() (bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	size, changed, err := l.source.Stat()
	if err != nil {
		// It may be in the midst of being replaced; what cannot be read twice is
		// said once.
		if again := l.refused && l.seen == (version{}); again && l.db.Load() != nil {
			return false, nil
		}
		l.seen, l.refused = version{}, true
		return false, fmt.Errorf("look at the database of countries: %w", err)
	}
	v := version{size, changed}
	if v == l.seen {
		return false, nil
	}
	l.seen, l.refused = v, true
	r, err := l.source.Open()
	if err != nil {
		return false, fmt.Errorf("open the database of countries: %w", err)
	}
	defer r.Close()
	db, err := Read(r)
	if err != nil {
		return false, err
	}
	l.refused = false
	l.db.Store(db)
	return true, nil
}

// Refused reports whether the file on disk is not the one in force.
func (l *Live) Refused() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.refused
}

// DB is the version in force, never nil.
func (l *Live) DB() *DB { return l.db.Load() }

// Country is that of the version in force.
func (l *Live) Country(a netip.Addr) string { return l.db.Load().Country(a) }
