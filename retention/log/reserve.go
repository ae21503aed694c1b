package log

import (
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/ebb-dmp/ebb/retention"
)

// The reserve is a file of zeros. When the disk is full it is removed, so that
// what makes room (checkpoints, trimming, the seal of a file) can be written;
// records are taken again when it could be made again.

func (l *Log) reservePath() string { return l.o.FS.PathJoin(l.o.Dir, reserveName) }

// fillReserve makes the reserve unless it is there.
func (l *Log) fillReserve() error {
	l.reserve.Lock()
	defer l.reserve.Unlock()
	fs, path := l.o.FS, l.reservePath()
	if st, err := fs.Stat(path); err == nil && st.Size() >= l.o.ReserveBytes {
		return nil
	}
	f, err := fs.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return fmt.Errorf("make the reserve: %w", err)
	}
	_, err = f.Write(make([]byte, l.o.ReserveBytes))
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("make the reserve: %w", errors.Join(err, remove(fs, path)))
	}
	return nil
}

// diskFull gives up the reserve if err says that the disk is full, and reports
// whether that made room.
func (l *Log) diskFull(err error) bool {
	if !isFull(err) {
		return false
	}
	l.mu.Lock()
	was := l.full
	l.full = true
	l.mu.Unlock()
	if was {
		return false
	}
	l.reserve.Lock()
	defer l.reserve.Unlock()
	l.logger.Error("the disk is full; events are refused until there is space", "dir", l.o.Dir, "err", err)
	if err := remove(l.o.FS, l.reservePath()); err != nil {
		l.logger.Warn("the reserve could not be given up", "err", err)
		return false
	}
	return true
}

// writable returns why a commit cannot be written, or nil.
func (l *Log) writable() error {
	l.mu.Lock()
	failed, full := l.failed, l.full
	l.mu.Unlock()
	if failed != nil {
		return l.usable()
	}
	if !full {
		return nil
	}
	if err := l.fillReserve(); err != nil {
		return fmt.Errorf("%w: %w", retention.ErrFull, err)
	}
	l.mu.Lock()
	l.full = false
	l.mu.Unlock()
	l.logger.Info("there is space on the disk again", "dir", l.o.Dir)
	return nil
}
