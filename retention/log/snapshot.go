package log

import (
	"context"
	"errors"
	"fmt"
)

// Snapshot makes the folder dir, on the same file system, with hard links to all
// that is in the log as of one moment. The file that is being written is sealed
// first, so that no file of the snapshot changes any more. Quarantined bytes are
// not in it. The caller removes it; until then what is trimmed keeps its bytes
// there.
func (l *Log) Snapshot(ctx context.Context, dir string) error {
	if err := l.o.FS.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("snapshot the log: %w", err)
	}
	for _, g := range l.groups {
		if err := g.snapshot(ctx, dir); err != nil {
			return fmt.Errorf("snapshot the log: %w", err)
		}
	}
	return nil
}

func (g *group) snapshot(ctx context.Context, dir string) error {
	g.files.RLock() // Trim waits
	defer g.files.RUnlock()
	g.io.Lock() // and so does the next frame
	defer g.io.Unlock()
	if err := errors.Join(ctx.Err(), g.l.usable()); err != nil {
		return err
	}
	if err := g.seal(false); err != nil {
		return err
	}
	g.mu.Lock()
	links := map[string][]string{} // of each writer's folder, its files
	for _, w := range g.writers {
		for _, s := range w.segs {
			links[folder(w.id, g.id)] = append(links[folder(w.id, g.id)], s.path)
		}
	}
	g.mu.Unlock()
	fs := g.l.o.FS
	for name, paths := range links {
		to := fs.PathJoin(dir, name)
		if err := fs.MkdirAll(to, 0o700); err != nil {
			return err
		}
		for _, p := range paths {
			if err := fs.Link(p, fs.PathJoin(to, fs.PathBase(p))); err != nil {
				return err
			}
		}
	}
	return nil
}
