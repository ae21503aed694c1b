package tsv_test

import (
	"bytes"
	"compress/gzip"
	"encoding/hex"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/segments/delivery/format/tsv"
	"github.com/ebb-dmp/ebb/taxonomy"
	kgzip "github.com/klauspost/compress/gzip"
	"pgregory.net/rapid"
)

type run struct {
	delivery.Run
	ids []string
}

// write returns a file of runs, each handed over in pieces.
func write(t interface{ Fatalf(string, ...any) }, kind delivery.IDs, piece int, runs []run) []byte {
	e := tsv.Format{}.New(delivery.FileInfo{IDs: kind})
	var out []byte
	var err error
	for _, r := range runs {
		for ids := r.ids; len(ids) > 0; {
			n := min(piece, len(ids))
			if out, err = e.Append(out, r.Run, ids[:n]); err != nil {
				t.Fatalf("append: %v", err)
			}
			ids = ids[n:]
		}
	}
	if out, err = e.Close(out); err != nil {
		t.Fatalf("close: %v", err)
	}
	return out
}

// text is what the file must hold, written the plain way.
func text(runs []run) string {
	var b strings.Builder
	for _, r := range runs {
		for _, id := range r.ids {
			sign := "+"
			if r.Remove {
				sign = "-"
			}
			b.WriteString(id + "\t" + string(r.Audience) + "\t" + sign + "\t" + strconv.Itoa(r.Minutes) + "\n")
		}
	}
	return b.String()
}

func gunzip(t interface{ Fatalf(string, ...any) }, file []byte) string {
	z, err := gzip.NewReader(bytes.NewReader(file))
	if err != nil {
		t.Fatalf("gunzip: %v", err)
	}
	z.Multistream(false) // it must be one member: not every reader knows more
	b, err := io.ReadAll(z)
	if err != nil {
		t.Fatalf("gunzip: %v", err)
	}
	return string(b)
}

func pseudonyms(r *rand.Rand, n int) []string {
	ids := make([]string, n)
	for i := range ids {
		var b [16]byte
		for j := range b {
			b[j] = byte(r.Uint32())
		}
		ids[i] = hex.EncodeToString(b[:])
	}
	return ids
}

// Whatever the runs and however they are handed over, the standard library
// reads the lines back.
func TestEveryFileIsReadBackLineByLine(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		random := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		var runs []run
		for range rapid.IntRange(0, 9).Draw(t, "runs") {
			r := run{Run: delivery.Run{
				Audience: taxonomy.AudienceID(rapid.StringMatching(`[a-z0-9][a-z0-9_.-]{0,63}`).Draw(t, "audience")),
				Minutes:  rapid.IntRange(1, 129_600).Draw(t, "minutes"),
			}}
			if rapid.Bool().Draw(t, "remove") {
				r.Remove, r.Minutes = true, 0
			}
			r.ids = pseudonyms(random, rapid.SampledFrom([]int{1, 2, 0, 255, 256, 700}).Draw(t, "lines"))
			for range rapid.IntRange(0, 3).Draw(t, "odd ones") {
				if len(r.ids) > 0 {
					odd := rapid.OneOf(rapid.StringMatching(`[0-9a-fA-F]{32}`), rapid.StringMatching(`[ -~]{1,70}`), rapid.Just("é"+strings.Repeat("f", 30))).Draw(t, "odd")
					r.ids[random.IntN(len(r.ids))] = odd
				}
			}
			runs = append(runs, r)
		}
		piece := rapid.SampledFrom([]int{4096, 1, 300}).Draw(t, "piece")
		want := text(runs)
		for _, kind := range []delivery.IDs{delivery.ByPseudonym, delivery.ByMatch} {
			if got := gunzip(t, write(t, kind, piece, runs)); got != want {
				t.Fatalf("by %s: %d bytes came back, want %d", kind, len(got), len(want))
			}
		}
	})
}

func sample(lines int) []run {
	r := rand.New(rand.NewPCG(1, 2))
	return []run{
		{delivery.Run{Audience: "sports-fans", Minutes: 43_200}, pseudonyms(r, lines/2)},
		{delivery.Run{Audience: "sports-fans", Minutes: 4_320}, pseudonyms(r, lines/4)},
		{delivery.Run{Audience: "sports-fans", Remove: true}, pseudonyms(r, lines/4)},
	}
}

func TestTheGzipToolAcceptsIt(t *testing.T) {
	tool, err := exec.LookPath("gzip")
	if err != nil {
		t.Skip("gzip is not here: apt-get install gzip")
	}
	for _, lines := range []int{0, 4, 30_000} {
		file := filepath.Join(t.TempDir(), "sample.tsv.gz")
		if err := os.WriteFile(file, write(t, delivery.ByPseudonym, 4096, sample(lines)), 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command(tool, "-t", file).CombinedOutput(); err != nil {
			t.Fatalf("%d lines: gzip -t: %v: %s", lines, err, out)
		}
		if out, err := exec.Command(tool, "-dc", file).Output(); err != nil || string(out) != text(sample(lines)) {
			t.Fatalf("%d lines: gzip -dc gives %d bytes, %v", lines, len(out), err)
		}
	}
}

func TestTheTemplateIsNoLargerThanAGeneralDeflate(t *testing.T) {
	runs := sample(40_000)
	ours, theirs := len(write(t, delivery.ByPseudonym, 4096, runs)), len(write(t, delivery.ByMatch, 4096, runs))
	if ours > theirs {
		t.Errorf("%d bytes by template, %d by klauspost gzip -1", ours, theirs)
	}
}

func TestAnIDThatWouldBreakALineIsRefusedAndNotShown(t *testing.T) {
	for _, kind := range []delivery.IDs{delivery.ByPseudonym, delivery.ByMatch} {
		for _, bad := range []string{"", "secret\tx", "secret\n", "secret\r"} {
			_, err := tsv.Format{}.New(delivery.FileInfo{IDs: kind}).Append(nil, delivery.Run{Audience: "cars", Minutes: 1}, []string{bad})
			if err == nil || strings.Contains(err.Error(), "secret") {
				t.Errorf("%q: %v", bad, err)
			}
		}
	}
}

// BenchmarkTemplateGzip prints lines a second against klauspost gzip -1 over
// the same text, which is rendered beforehand and so costs it nothing.
func BenchmarkTemplateGzip(b *testing.B) {
	runs := sample(200_000)
	lines := 200_000
	plain := []byte(text(runs))
	e := make([]byte, 0, len(plain))
	var ours, theirs time.Duration
	var size, theirSize int
	out := bytes.NewBuffer(make([]byte, 0, len(plain)))
	for b.Loop() {
		start := time.Now()
		t := tsv.Format{}.New(delivery.FileInfo{IDs: delivery.ByPseudonym})
		e = e[:0]
		for _, r := range runs {
			for ids := r.ids; len(ids) > 0; {
				n := min(4096, len(ids))
				e, _ = t.Append(e, r.Run, ids[:n])
				ids = ids[n:]
			}
		}
		e, _ = t.Close(e)
		ours += time.Since(start)
		size = len(e)

		start = time.Now()
		out.Reset()
		z, _ := kgzip.NewWriterLevel(out, 1)
		z.Write(plain)
		z.Close()
		theirs += time.Since(start)
		theirSize = out.Len()
	}
	b.ReportMetric(float64(theirs)/float64(ours), "times-klauspost-1")
	b.ReportMetric(float64(size)/float64(theirSize), "size-ratio")
	b.ReportMetric(float64(b.N*lines)/ours.Seconds()/1e6, "Mlines/s")
	b.ReportMetric(float64(b.N*lines)/theirs.Seconds()/1e6, "klauspost-Mlines/s")
}
