package log

import (
	"bytes"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/retention/log/crashfs"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/google/go-cmp/cmp"
)

// written is a log of one writer in several files, closed or killed.
func written(t *testing.T, closed bool) (fs *crashfs.FS, want map[taxonomy.Ref]taxonomy.Record, frames []retention.Frame) {
	fs = crashfs.New()
	o := options(fs, 0)
	o.SegmentBytes = 1200
	l := mustOpen(t, o)
	want = map[taxonomy.Ref]taxonomy.Record{}
	for i := range 16 {
		rs := events(i*10, 1+i%3)
		add(want, mustAppend(t, l, rs), rs)
	}
	frames = follow(t, l, nil, 1<<20)
	if closed {
		mustClose(t, l)
	}
	return fs.Crash(fs.Len(), crashfs.All), want, frames
}

// served opens a damaged log and checks what must hold whatever was damaged:
// no record is another one, numbers have no holes, what is lost is named.
func served(t *testing.T, fs *crashfs.FS, want map[taxonomy.Ref]taxonomy.Record, what string) (l *Log, got map[taxonomy.Ref]taxonomy.Record, lost []retention.Frame) {
	t.Helper()
	l, err := Open(options(fs, 5))
	if err != nil {
		t.Fatalf("%s: open: %v", what, err)
	}
	frames, err := tryFollow(l, nil, 700)
	if err != nil {
		t.Fatalf("%s: follow: %v", what, err)
	}
	got = records(frames)
	for ref, r := range got {
		if !reflect.DeepEqual(r, want[ref]) {
			t.Fatalf("%s: record %d is served wrong", what, ref.Seq)
		}
	}
	for _, f := range frames {
		if !f.Lost {
			continue
		}
		lost = append(lost, f)
		named := slices.ContainsFunc(l.Problems(), func(p Problem) bool {
			return p.First == f.First && p.Last == f.Last() && p.Writer == f.Writer && !p.Torn
		})
		if !named {
			t.Fatalf("%s: records %d to %d are lost and not named in %+v", what, f.First, f.Last(), l.Problems())
		}
	}
	// Whoever asks again gets the same.
	again, err := tryFollow(l, nil, 1<<20)
	if err != nil || !reflect.DeepEqual(frames, again) {
		t.Fatalf("%s: following again differs: %v %s", what, err, cmp.Diff(frames, again))
	}
	return l, got, lost
}

// F7, R2: a flipped bit anywhere is found. Of a sealed file at most the frame
// it lies in is lost; its bytes are kept, its records named and its events
// counted; all others are served, and no record is served wrong.
func TestAFlippedBitIsFound(t *testing.T) {
	fs, want, all := written(t, true)
	total := tally{}
	for _, f := range all {
		total.add(f.Counts)
	}
	bit := 0
	for _, path := range files(t, fs, "log") {
		sound, err := readFile(fs, path)
		if err != nil {
			t.Fatal(err)
		}
		for ; bit < len(sound)*8; bit += stride(97) {
			what := fmt.Sprintf("bit %d of %s", bit, path)
			fs := fs.Crash(0, crashfs.All)
			bad := bytes.Clone(sound)
			bad[bit/8] ^= 1 << (bit % 8)
			write(t, fs, path, bad)
			l, got, lost := served(t, fs, want, what)
			if len(l.Problems()) == 0 {
				t.Fatalf("%s: not found", what)
			}
			missing := 0
			sum := tally{}
			for _, f := range lost {
				missing += f.N
				sum.add(f.Counts)
			}
			for _, r := range got {
				sum[r.Site]++
			}
			if len(got)+missing != len(want) || missing > 3 {
				t.Fatalf("%s: %d records served, %d lost, of %d", what, len(got), missing, len(want))
			}
			if !maps.Equal(total, sum) {
				t.Fatalf("%s: events by site: %v, want %v", what, sum, total)
			}
			if ends, err := l.End(ctx, 0, retention.Position{writerID(0): 3}); err != nil || ends[0].Last != uint64(len(want)) {
				t.Fatalf("%s: end: %+v, %v", what, ends, err)
			}
			if missing > 0 {
				p := l.Problems()[len(l.Problems())-1]
				kept, err := readFile(fs, p.Kept)
				if err != nil {
					t.Fatalf("%s: not kept: %v", what, err)
				}
				_, _, bytesKept, ok := parseBad(kept)
				if !ok || !bytes.Equal(bytesKept, bad[p.Offset:p.Offset+p.Bytes]) || p.Offset > int64(bit/8) || p.Offset+p.Bytes <= int64(bit/8) {
					t.Fatalf("%s: what is kept is not what was damaged", what)
				}
			}
			_ = l.Close(ctx)
		}
		bit -= len(sound) * 8
	}
}

// R2, where the process was killed: what is bad in the last frame may be a torn
// tail and is cut; anywhere else it is damage.
func TestAFlippedBitAfterAKill(t *testing.T) {
	fs, want, frames := written(t, false)
	paths := files(t, fs, "log")
	path := paths[len(paths)-1]
	sound, err := readFile(fs, path)
	if err != nil {
		t.Fatal(err)
	}
	final := frames[len(frames)-1]
	lastAt := len(sound) - final.Bytes
	for bit := 0; bit < len(sound)*8; bit += stride(53) {
		what := fmt.Sprintf("bit %d of %d", bit, len(sound)*8)
		fs := fs.Crash(0, crashfs.All)
		bad := bytes.Clone(sound)
		bad[bit/8] ^= 1 << (bit % 8)
		write(t, fs, path, bad)
		l, got, lost := served(t, fs, want, what)
		if len(l.Problems()) == 0 {
			t.Fatalf("%s: not found", what)
		}
		if bit/8 >= lastAt {
			if len(lost) != 0 || len(got) != len(want)-final.N || !l.Problems()[0].Torn {
				t.Fatalf("%s: %d served, lost %v, %+v", what, len(got), lost, l.Problems())
			}
		} else if missing := len(want) - len(got); bit/8 >= fileHeader && (len(lost) != 1 || lost[0].N != missing) {
			t.Fatalf("%s: %d served, lost %v", what, len(got), lost)
		}
		_ = l.Close(ctx)
	}
}

// F6: the file ends at any byte of its last frame, or before. Reading stops at
// the last whole frame, the rest is cut, and that is said once.
func TestATruncatedTailIsCut(t *testing.T) {
	fs, want, frames := written(t, false)
	paths := files(t, fs, "log")
	path := paths[len(paths)-1]
	sound, err := readFile(fs, path)
	if err != nil {
		t.Fatal(err)
	}
	final := frames[len(frames)-1]
	lastAt := len(sound) - final.Bytes
	for n := lastAt; n < len(sound); n++ {
		what := fmt.Sprintf("cut at %d of %d", n, len(sound))
		fs := fs.Crash(0, crashfs.All)
		write(t, fs, path, sound[:n])
		l, got, lost := served(t, fs, want, what)
		torn := len(l.Problems())
		if len(got) != len(want)-final.N || len(lost) > 0 || n > lastAt && torn != 1 || n == lastAt && torn != 0 {
			t.Fatalf("%s: %d served, %d lost, problems %+v", what, len(got), len(lost), l.Problems())
		}
		mustClose(t, l)
		l = mustOpen(t, options(fs, 6))
		if p := l.Problems(); len(p) > 0 {
			t.Fatalf("%s: said again: %+v", what, p)
		}
		_ = l.Close(ctx)
	}
}

// A sealed file that lost its end did not lose it to a crash: what is missing
// is named if a later file tells.
func TestATruncatedFileInTheMiddleIsDamage(t *testing.T) {
	fs, want, _ := written(t, true)
	path := files(t, fs, "log")[1]
	sound, err := readFile(fs, path)
	if err != nil {
		t.Fatal(err)
	}
	for n := 0; n < len(sound); n += stride(31) {
		fs := fs.Crash(0, crashfs.All)
		write(t, fs, path, sound[:n])
		what := fmt.Sprintf("cut at %d", n)
		l, got, lost := served(t, fs, want, what)
		missing := 0
		for _, f := range lost {
			missing += f.N
		}
		if len(got)+missing != len(want) || len(l.Problems()) == 0 {
			t.Fatalf("%s: %d served, %d lost, of %d; %+v", what, len(got), missing, len(want), l.Problems())
		}
		_ = l.Close(ctx)
	}
}

func TestAMissingFileIsDamage(t *testing.T) {
	fs, want, _ := written(t, true)
	paths := files(t, fs, "log")
	if err := fs.Remove(paths[1]); err != nil {
		t.Fatal(err)
	}
	l, got, lost := served(t, fs, want, "a file in the middle is missing")
	if len(lost) != 1 || len(got)+lost[0].N != len(want) {
		t.Errorf("%d served, lost %+v", len(got), lost)
	}
	_ = l.Close(ctx)

	// The first file: whoever had followed into it is told. (Who begins at 0
	// cannot be: it may have been trimmed.)
	fs, want, _ = written(t, true)
	if err := fs.Remove(paths[0]); err != nil {
		t.Fatal(err)
	}
	l = mustOpen(t, options(fs, 5))
	f := follow(t, l, retention.Position{writerID(0): 1}, 1<<20)
	if !f[0].Lost || f[0].First != 2 || f[0].N+len(records(f)) != len(want)-1 {
		t.Errorf("first frame: %+v", f[0])
	}
}

// Two files that changed places: no record of theirs is taken for another.
func TestSwappedFilesAreDamage(t *testing.T) {
	fs, want, _ := written(t, true)
	p := files(t, fs, "log")
	a, _ := readFile(fs, p[0])
	b, _ := readFile(fs, p[1])
	write(t, fs, p[0], b)
	write(t, fs, p[1], a)
	l, got, lost := served(t, fs, want, "swapped")
	if len(lost) == 0 || len(got) == 0 {
		t.Errorf("%d served, %d frames lost", len(got), len(lost))
	}
	_ = l.Close(ctx)
}

// Bytes that someone sent are never taken for a frame, whatever they are: here
// a whole file of another writer stands in a payload whose header is damaged.
func TestAFrameWithinAPayloadIsNotAFrame(t *testing.T) {
	other := crashfs.New()
	l := mustOpen(t, options(other, 3))
	mustAppend(t, l, []taxonomy.Record{{Kind: taxonomy.RecordErasure, Visitor: taxonomy.VisitorKey{1}}})
	mustClose(t, l)
	trap, err := readFile(other, files(t, other, "log")[0])
	if err != nil {
		t.Fatal(err)
	}
	fs := crashfs.New()
	o := options(fs, 0)
	o.NoCompression = true
	l = mustOpen(t, o)
	mustAppend(t, l, events(0, 1))
	r := event(1)
	r.Event.Ref = string(trap)
	ref := mustAppend(t, l, []taxonomy.Record{r})
	mustAppend(t, l, events(2, 1))
	mustClose(t, l)
	path := files(t, fs, "log")[0]
	b, _ := readFile(fs, path)
	second := bytes.Index(b[fileHeader+1:], frameMagic) + fileHeader + 1
	b[second+10] ^= 1
	write(t, fs, path, b)
	l = mustOpen(t, options(fs, 5))
	f := follow(t, l, nil, 1<<20)
	if len(f) != 3 || !f[1].Lost || f[1].First != ref.Seq || f[1].N != 1 {
		t.Errorf("%+v", f)
	}
}

// What is quarantined may hold an erased visitor's key: it goes, and until then
// the audit sees it (R25, R28).
func TestQuarantineExpires(t *testing.T) {
	fs, _, _ := written(t, true)
	path := files(t, fs, "log")[0]
	b, _ := readFile(fs, path)
	b[fileHeader+frameHeader+30] ^= 1
	write(t, fs, path, b)
	l := mustOpen(t, options(fs, 1))
	frames := follow(t, l, nil, 1<<20)
	if err := l.Trim(ctx, 0, retention.Position{writerID(0): frames[len(frames)-1].Last()}); err != nil {
		t.Fatal(err)
	}
	mustClose(t, l)
	o := options(fs, 2)
	l = mustOpen(t, o)
	if len(l.Problems()) != 1 {
		t.Fatalf("after a restart: %+v", l.Problems())
	}
	if day, ok := l.Oldest(); !ok || day != o.Now().Day() {
		t.Errorf("oldest is %v, %v", day, ok)
	}
	if err := l.ExpireQuarantine(o.Now()); err != nil {
		t.Fatal(err)
	}
	if left := files(t, fs, "log"); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	if _, ok := l.Oldest(); ok {
		t.Error("something is old in an empty log")
	}
}

// P4: no key and no name of a visitor stands in what is said of damage.
func TestProblemsNameNobody(t *testing.T) {
	var said bytes.Buffer
	fs, want, _ := written(t, true)
	path := files(t, fs, "log")[0]
	b, _ := readFile(fs, path)
	b[fileHeader+frameHeader+30] ^= 1
	write(t, fs, path, b)
	o := options(fs, 5)
	o.Logger = textLogger(&said)
	l := mustOpen(t, o)
	follow(t, l, nil, 1<<20)
	if !strings.Contains(said.String(), "damaged") {
		t.Fatalf("nothing was said: %s", said.String())
	}
	for _, r := range want {
		if strings.Contains(said.String(), fmt.Sprintf("%x", r.Visitor[:])) || strings.Contains(said.String(), string(r.Visitor[:])) {
			t.Errorf("a visitor key was said: %s", said.String())
		}
	}
}
