package embedded

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/redact"
	"github.com/ebb-dmp/ebb/retention"
)

// pebbleOptions is how Pebble is opened, by the store and by the dump.
func pebbleOptions(f vfs.FS, compress bool) *pebble.Options {
	o := &pebble.Options{
		FS: f,
		// Pinned: a newer Pebble must not raise the format of data directories by
		// itself. It is the first with which a torn end of a log file can be told
		// from bytes that were synced and have changed (FormatWALSyncChunks), and
		// tables have a checksum in their footer.
		FormatMajorVersion: pebble.FormatTableFormatV6,
		// What is deleted in the night is deleted at once, not paced.
		TargetByteDeletionRate: 0,
	}
	// An excised table is a view of its file, in which what was cut out stays.
	o.Experimental.EnableDeleteOnlyCompactionExcises = func() bool { return false }
	for i := range o.Levels {
		o.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
	}
	if compress {
		o.ApplyCompressionSettings(func() pebble.DBCompressionSettings { return pebble.DBCompressionBalanced })
		o.Experimental.EnableColumnarBlocks = func() bool { return true }
		return o
	}
	o.ApplyCompressionSettings(func() pebble.DBCompressionSettings { return pebble.DBCompressionNone })
	// Columnar blocks and restart intervals write the common beginning of
	// neighbouring keys once, which is a compression too.
	o.Experimental.EnableColumnarBlocks = func() bool { return false }
	for i := range o.Levels {
		o.Levels[i].BlockRestartInterval = 1
	}
	return o
}

// checkMarker refuses a database that has lost the marker that names its manifest:
// Pebble would take it for a new one, and remove all that is in it.
func (s *Store) checkMarker() error {
	names, err := s.fs.List(s.dbDir())
	if err != nil {
		return err
	}
	held := ""
	for _, name := range names {
		switch {
		case strings.HasPrefix(name, "marker.manifest."):
			return nil
		case strings.HasSuffix(name, ".sst"), strings.HasSuffix(name, ".log"):
			held = name
		}
	}
	if held == "" {
		return nil // it is new, or was made and never written to
	}
	return fmt.Errorf("%w: %s: %s is there, and no marker.manifest file says what to open; restore a backup, or bring the file back", retention.ErrCorrupt, s.dbDir(), held)
}

func (s *Store) openPebble() (_ *pebble.DB, err error) {
	if err := s.checkMarker(); err != nil {
		return nil, err
	}
	o := pebbleOptions(pebbleFS{s.fs, s.dbDir(), s.fail}, s.o.Compress)
	o.CacheSize = s.o.CacheBytes
	o.MemTableSize = s.o.MemTableBytes
	o.Logger = logger{s}
	o.EventListener = &pebble.EventListener{
		// Pebble repeats it until it succeeds; disk full, for one, ends.
		BackgroundError: func(err error) {
			s.log.Error("background work failed", "error", redacted("%s", err))
			select {
			case s.background <- err:
			default:
			}
		},
		// The default is to end the process. A reader gets the error anyway.
		DataCorruption: func(i pebble.DataCorruptionInfo) {
			s.log.Error("a file is corrupt", "file", path.Base(i.Path))
		},
		DiskSlow: func(i pebble.DiskSlowInfo) {
			s.log.Warn("the disk is slow", "for", i.Duration.Round(time.Millisecond))
		},
		WriteStallBegin: func(i pebble.WriteStallBeginInfo) { s.log.Warn("writes wait for compaction", "reason", i.Reason) },
	}
	// Opening waits for background work, as closing does: see guard.
	opened := make(chan *pebble.DB, 1)
	err = s.guard(func() error {
		db, err := pebble.Open(s.dbDir(), o)
		opened <- db
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", s.dbDir(), err)
	}
	return <-opened, nil
}

// wrap makes an error of Pebble one of ours: without keys, and ErrCorrupt where
// it is, with the file's name.
func (s *Store) wrap(err error) error {
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	if !pebble.IsCorruptionError(err) {
		return opaque{redacted("%s", err), err}
	}
	where := s.dbDir()
	if i := pebble.ExtractDataCorruptionInfo(err); i != nil && i.Path != "" {
		where = i.Path
	}
	return fmt.Errorf("%w: %s: %s; restore a backup, or move the file away and lose what it holds", retention.ErrCorrupt, where, redacted("%s", err))
}

// opaque is an error whose text was cleaned of keys; errors.Is still sees the
// cause.
type opaque struct {
	text  string
	cause error
}

func (e opaque) Error() string { return e.text }
func (e opaque) Unwrap() error { return e.cause }

// redacted formats with everything left out that Pebble has not marked as safe:
// keys and values are not.
func redacted(format string, args ...any) string {
	return string(redact.Sprintf(format, args...).Redact())
}

// logger gives Pebble's messages to slog. None of its arguments is printed
// unless Pebble marked it as safe.
type logger struct{ s *Store }

func (l logger) Infof(format string, args ...any) {
	if l.s.log.Enabled(context.Background(), slog.LevelDebug) {
		l.s.log.Debug("pebble", "message", redacted(format, args...))
	}
}

func (l logger) Errorf(format string, args ...any) {
	l.s.log.Error("pebble", "message", redacted(format, args...))
}

// Fatalf is called where Pebble cannot go on, above all when a log write or
// fsync failed. Pebble means it to end the process. That is for the program to
// do: here the store stops saying yes.
func (l logger) Fatalf(format string, args ...any) { l.s.fail(redacted(format, args...)) }
