package log

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// BenchmarkAppend: 256 goroutines append three events each and wait for the
// fsync, against a bare loop of write and fdatasync of one frame's worth, in
// turns of the same run. x is appends in the time of one bare fsync; share is
// the commits made in that time, 1 being no more than the disk asks for.
func BenchmarkAppend(b *testing.B) {
	for _, callers := range []int{1, 256} {
		b.Run(fmt.Sprint(callers), func(b *testing.B) {
			dir := b.TempDir()
			o := diskOptions(filepath.Join(dir, "log"))
			o.SegmentBytes = 0
			l := mustOpen(b, o)
			f, err := vfs.Default.Create(filepath.Join(dir, "bare"), vfs.WriteCategoryUnspecified)
			if err != nil {
				b.Fatal(err)
			}
			defer f.Close()
			rs := events(0, 3)
			var left atomic.Int64
			left.Store(int64(b.N))
			var bare time.Duration
			syncs := max(20, min(200, b.N/50))
			sync1 := func() {
				buf := bytes.Repeat([]byte("x"), 4096)
				start := time.Now()
				for range syncs / 2 {
					if _, err := f.Write(buf); err != nil {
						b.Fatal(err)
					}
					if err := f.SyncData(); err != nil {
						b.Fatal(err)
					}
				}
				bare += time.Since(start)
			}
			sync1()
			b.ResetTimer()
			start := time.Now()
			var wg sync.WaitGroup
			for range callers {
				wg.Go(func() {
					for left.Add(-1) >= 0 {
						if _, _, err := l.Append(ctx, 0, rs, retention.AckLocal); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			took := time.Since(start)
			b.StopTimer()
			sync1()
			perSync := bare.Seconds() / float64(syncs/2*2)
			frames := 0
			pos := retention.Position{}
			for {
				got, err := l.Follow(ctx, 0, pos, 1<<20)
				if err != nil {
					b.Fatal(err)
				}
				if len(got) == 0 {
					break
				}
				frames += len(got)
				pos[o.Writer] = got[len(got)-1].Last()
			}
			b.ReportMetric(float64(b.N)/took.Seconds(), "appends/s")
			b.ReportMetric(float64(b.N)/took.Seconds()*perSync, "x")
			b.ReportMetric(float64(frames)/took.Seconds()*perSync, "share")
			b.ReportMetric(float64(b.N)/float64(frames), "appends/frame")
		})
	}
}

// BenchmarkFollow reads and decodes a log of frames of 100 events, against
// reading its bytes.
func BenchmarkFollow(b *testing.B) {
	dir := b.TempDir()
	l := mustOpen(b, func() Options { o := diskOptions(dir); o.SegmentBytes = 0; return o }())
	const n = 100_000
	for i := 0; i < n; i += 100 {
		if _, _, err := l.Append(ctx, 0, events(i, 100), retention.AckNone); err != nil {
			b.Fatal(err)
		}
	}
	mustAppend(b, l, []taxonomy.Record{{Kind: taxonomy.RecordTick}})
	var bytes int64
	b.ReportAllocs()
	start := time.Now()
	b.ResetTimer()
	for range b.N {
		pos, got := retention.Position{}, 0
		for got < n {
			frames, err := l.Follow(ctx, 0, pos, 1<<20)
			if err != nil {
				b.Fatal(err)
			}
			for _, f := range frames {
				got += f.N
				pos[f.Writer] = f.Last()
				bytes += int64(f.Bytes)
			}
		}
	}
	b.StopTimer()
	took := time.Since(start)
	var raw time.Duration
	for range b.N {
		start := time.Now()
		err := filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				_, err = os.ReadFile(p)
			}
			return err
		})
		if err != nil {
			b.Fatal(err)
		}
		raw += time.Since(start)
	}
	b.ReportMetric(float64(n)*float64(b.N)/took.Seconds(), "events/s")
	b.ReportMetric(took.Seconds()/raw.Seconds(), "x-reading")
	b.SetBytes(bytes / int64(b.N))
}

// BenchmarkPoll is Follow with nothing new, as a follower calls it all day.
func BenchmarkPoll(b *testing.B) {
	l := mustOpen(b, diskOptions(b.TempDir()))
	ref := mustAppend(b, l, events(0, 1))
	pos := retention.Position{ref.Writer: ref.Seq}
	b.ReportAllocs()
	for b.Loop() {
		if f, err := l.Follow(ctx, 0, pos, 1<<20); err != nil || len(f) != 0 {
			b.Fatal(f, err)
		}
	}
}
