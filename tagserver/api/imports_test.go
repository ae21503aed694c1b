package api

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/onboard"
)

type formPart struct{ name, content string }

// give posts a form with its parts in order.
func (s *stage) give(parts ...formPart) *answer { return s.giveAs("", parts...) }

// giveAs is give with another header.
func (s *stage) giveAs(header string, parts ...formPart) *answer {
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	for _, p := range parts {
		var pw io.Writer
		if p.name == "file" || strings.HasPrefix(p.name, "lookup.") {
			pw, _ = w.CreateFormFile(p.name, "x.csv")
		} else {
			pw, _ = w.CreateFormField(p.name)
		}
		_, _ = pw.Write([]byte(p.content))
	}
	_ = w.Close()
	headers := []string{"Content-Type: " + w.FormDataContentType()}
	if header != "" {
		headers = append(headers, header)
	}
	return s.call(http.MethodPost, "/imports", b.String(), headers...)
}

func gzipped(s string) string {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, _ = z.Write([]byte(s))
	_ = z.Close()
	return b.String()
}

const (
	mapping = `{"visitor":"id","space":"own:crm","event":{"props":[{"column":"what"}]}}`
	joined  = `{"visitor":"id","space":"own:crm","joins":[{"name":"products","on":"sku","key":"sku","columns":["what"]}],"event":{"props":[{"column":"what"}]}}`
	file    = "id,sku,what\ncustomer-1,7,tea\ncustomer-2,8,coffee\n"
	bare    = "id,sku\ncustomer-1,7\n"
)

func TestAFileIsTakenInAndItsReceiptKept(t *testing.T) {
	s := newStage(t)
	s.furnish()
	s.imported = func(q ImportRequest) (ImportReceipt, error) {
		for i := range 150 {
			q.Bad(onboard.Fault{Row: uint32(i + 1), Line: i + 2, Column: "what", Reason: taxonomy.ReasonTooOld, Why: "is too old"})
		}
		r := ImportReceipt{Import: strings.Repeat("0a", 16), Source: q.Source, Stored: 2, Visitors: 2}
		r.Rows, r.Accepted, r.First, r.Last = 152, 2, now.Day()-1, now.Day()
		r.Rejected = map[taxonomy.Reason]uint64{taxonomy.ReasonTooOld: 150}
		return r, nil
	}
	a := s.give(formPart{"source", "own"}, formPart{"mapping", mapping}, formPart{"file", file})
	if a.code != 201 || a.head.Get("Location") != base+"/imports/"+strings.Repeat("0a", 16) {
		t.Fatalf("%d %s", a.code, a.body)
	}
	var run runView
	a.into(t, &run)
	if run.Stored != 2 || run.Rows != 152 || run.Rejected[taxonomy.ReasonTooOld] != 150 || len(run.Faults) != maxBad || run.Faults[99].Row != 100 || !run.At.Equal(now.Time()) {
		t.Errorf("receipt %+v", run)
	}
	if s.files[0] != file || s.received[0].Again || s.received[0].Mapping.Visitor != "id" {
		t.Errorf("handed on %q %+v", s.files, s.received)
	}
	// The same again is another run of the same import, R13.
	if a := s.give(formPart{"mapping", mapping}, formPart{"source", "own"}, formPart{"again", "true"}, formPart{"file", gzipped(file)}); a.code != 201 {
		t.Fatalf("%d %s", a.code, a.body)
	}
	if s.files[1] != file || !s.received[1].Again {
		t.Errorf("gzip: handed on %q", s.files[1])
	}
	var got importView
	s.must(200, "GET", "/imports/"+strings.Repeat("0a", 16), "").into(t, &got)
	if len(got.Runs) != 2 || got.Source != "own" || len(got.Runs[1].Faults) != maxBad {
		t.Errorf("kept %+v", got)
	}
	var list page[item[importView]]
	s.must(200, "GET", "/imports", "").into(t, &list)
	if len(list.Items) != 1 || list.Items[0].Version != 2 || len(list.Items[0].Definition.Runs[0].Faults) != 0 {
		t.Errorf("listed %+v", list)
	}
	for _, sp := range s.spools {
		if !sp.closed {
			t.Error("a spool outlives its request")
		}
	}
}

// An import's document stays below the bound of a value however often the same
// file is given.
func TestAnImportsReceiptsStayBounded(t *testing.T) {
	s := newStage(t)
	s.furnish()
	s.imported = func(q ImportRequest) (ImportReceipt, error) {
		for i := range maxBad {
			q.Bad(onboard.Fault{Row: uint32(1e9 + i), Line: 1e9 + i, Column: strings.Repeat("c", 64<<10), Reason: taxonomy.ReasonImport, Why: strings.Repeat("why ", 500)})
		}
		return ImportReceipt{Import: strings.Repeat("0a", 16), Source: q.Source}, nil
	}
	for range maxRuns + 3 {
		if a := s.give(formPart{"source", "own"}, formPart{"mapping", mapping}, formPart{"file", file}); a.code != 201 {
			t.Fatalf("%d %s", a.code, a.body)
		}
	}
	var got importView
	s.must(200, "GET", "/imports/"+strings.Repeat("0a", 16), "").into(t, &got)
	if len(got.Runs) != maxRuns {
		t.Errorf("%d runs are kept, want %d", len(got.Runs), maxRuns)
	}
	for i, r := range got.Runs {
		if want := map[bool]int{true: maxBad}[i == maxRuns-1]; len(r.Faults) != want {
			t.Errorf("run %d tells %d faults, want %d", i, len(r.Faults), want)
		}
	}
}

func TestAFileIsRefusedWithThePlaceOfTheFault(t *testing.T) {
	s := newStage(t, func(o *Options) { o.Limits = Limits{File: 1000, Lookup: 100} })
	s.furnish()
	src, m, f := formPart{"source", "own"}, formPart{"mapping", mapping}, formPart{"file", file}
	for _, c := range []struct {
		name   string
		parts  []formPart
		status int
		want   []string
		says   string
	}{
		{"no file", []formPart{src, m}, 422, []string{"form.file"}, "is missing"},
		{"the file first", []formPart{f, src, m}, 422, []string{"form.source", "form.mapping"}, "before the file"},
		{"no source", []formPart{m, f}, 422, []string{"form.source"}, "missing"},
		{"an unknown source", []formPart{{"source", "nobody"}, m, f}, 422, []string{"form.source"}, "make it first"},
		{"a source without agreement", []formPart{{"source", "bare"}, m, f}, 422, []string{"form.source"}, "no agreement"},
		{"an unknown part", []formPart{src, {"maping", mapping}, f}, 422, []string{"form.maping"}, "known here"},
		{"again and perhaps", []formPart{src, {"again", "perhaps"}, m, f}, 422, []string{"form.again"}, "true or false"},
		{"a misspelt mapping", []formPart{src, {"mapping", `{"visitr":"id"}`}, f}, 422, []string{"form.mapping.visitr"}, "did you mean"},
		{"a bad mapping", []formPart{src, {"mapping", `{"visitor":"id","space":"cookie","life":91,"event":{}}`}, f}, 422, []string{"form.mapping.space", "form.mapping.life"}, "cookie"},
		{"columns that are not there", []formPart{src, {"mapping", `{"visitor":"who","space":"own:crm","event":{}}`}, f}, 422, []string{"form.file"}, `there is no column "who"`},
		{"an empty file", []formPart{src, m, {"file", ""}}, 422, []string{"form.file"}, ""},
		{"a table before the mapping", []formPart{src, {"lookup.products", "sku,what\n7,tea\n"}, m, f}, 422, []string{"form.lookup.products"}, "send mapping first"},
		{"a table that no join names", []formPart{src, m, {"lookup.products", "sku,what\n7,tea\n"}, f}, 422, []string{"form.lookup.products"}, "no join"},
		{"a join without its table", []formPart{src, {"mapping", joined}, f}, 422, []string{"form.mapping.joins[0]"}, "lookup.products"},
		{"a table of other columns", []formPart{src, {"mapping", joined}, {"lookup.products", "sku,name\n7,tea\n"}, f}, 422, []string{"form.lookup.products"}, `no column "what"`},
		{"a table that is too large", []formPart{src, {"mapping", joined}, {"lookup.products", "sku,what\n" + strings.Repeat("7,tea\n", 50)}, f}, 413, nil, "form.lookup.products"},
		{"a file that is too large", []formPart{src, m, {"file", file + strings.Repeat("customer-3,9,milk\n", 60)}}, 413, nil, "form.file"},
		{"a file that gzip makes too large", []formPart{src, m, {"file", gzipped(file + strings.Repeat("customer-3,9,milk\n", 60))}}, 413, nil, "form.file"},
		{"damaged gzip", []formPart{src, m, {"file", gzipped(file)[:20] + "xxxx"}}, 422, []string{"form.file"}, "gzip"},
		{"gzip in name only", []formPart{src, m, {"file", "\x1f\x8bhello"}}, 422, []string{"form.file"}, "gzip"},
	} {
		a := s.give(c.parts...)
		p := a.problem(t)
		if a.code != c.status || !slices.Equal(places(p), c.want) || !strings.Contains(string(unescaped(a.body)), c.says) {
			t.Errorf("%s: %d %s, want %d at %q and %q", c.name, a.code, a.body, c.status, c.want, c.says)
		}
		if strings.Contains(string(a.body), "customer-") {
			t.Errorf("%s: an ID comes back: %s", c.name, a.body)
		}
	}
	if a := s.call("POST", "/imports", `{}`); a.code != 415 {
		t.Errorf("JSON: %d %s", a.code, a.body)
	}
	if a := s.call("POST", "/imports", "--b\r\nContent-Disposition: form-data; name=\"source\"\r\n\r\now", "Content-Type: multipart/form-data; boundary=b"); a.code != 400 {
		t.Errorf("a form that ends too early: %d %s", a.code, a.body)
	}
	if len(s.received) > 0 {
		t.Errorf("%d files were handed on", len(s.received))
	}
	for _, sp := range s.spools {
		if !sp.closed {
			t.Error("a spool outlives its request")
		}
	}
}

func TestAJoinsTableIsRead(t *testing.T) {
	s := newStage(t)
	s.furnish()
	a := s.give(formPart{"source", "own"}, formPart{"mapping", joined}, formPart{"lookup.products", gzipped("sku,what\n7,tea\n8,coffee\n")}, formPart{"file", bare})
	if a.code != 201 || s.received[0].Lookups["products"].Len() != 2 {
		t.Errorf("%d %s", a.code, a.body)
	}
}

func TestErrorsOfAnImportAreToldByWhoseTheyAre(t *testing.T) {
	s := newStage(t)
	s.furnish()
	for _, c := range []struct {
		err    error
		status int
		says   string
	}{
		{errBoom, 500, "internal error"},
		{fmt.Errorf("append rows: %w", retention.ErrFull), 503, "full"},
		{fmt.Errorf("append rows: %w", retention.ErrUnknown), 503, "repeating it is safe"},
		{context.Canceled, 503, "repeating it is safe"},
		{fmt.Errorf("import: %w: the source is closed on Sundays", ErrRefused), 422, "closed on Sundays"},
		{fmt.Errorf("mapping: %w", taxonomy.Invalid("space", "has no key")), 422, "form.mapping.space"},
	} {
		s.imported = func(ImportRequest) (ImportReceipt, error) { return ImportReceipt{}, c.err }
		a := s.give(formPart{"source", "own"}, formPart{"mapping", mapping}, formPart{"file", file})
		if a.problem(t); a.code != c.status || !strings.Contains(string(a.body), c.says) || strings.Contains(string(a.body), "boom") {
			t.Errorf("%v: %d %s, want %d and %q", c.err, a.code, a.body, c.status, c.says)
		}
	}
	if n := len(s.defs.List("import")); n != 0 {
		t.Errorf("%d receipts of what was not taken in", n)
	}
}

func TestImportsAtTheSameTimeAreBounded(t *testing.T) {
	s := newStage(t, func(o *Options) { o.Limits.Imports = 1 })
	s.furnish()
	s.imported = func(ImportRequest) (ImportReceipt, error) {
		a := s.give(formPart{"source", "own"}, formPart{"mapping", mapping}, formPart{"file", file})
		if p := a.problem(t); a.code != 503 || p.Code != codeBusy || a.head.Get("Retry-After") == "" {
			t.Errorf("a second import at the same time: %d %s", a.code, a.body)
		}
		return ImportReceipt{Import: "00"}, nil
	}
	if a := s.give(formPart{"source", "own"}, formPart{"mapping", mapping}, formPart{"file", file}); a.code != 201 {
		t.Errorf("%d %s", a.code, a.body)
	}
}

// P4: a file of customers has their IDs in it.
func TestWhatLiesInASpoolIsUnreadable(t *testing.T) {
	s := newStage(t)
	s.furnish()
	long := "id,sku,what\n" + strings.Repeat("customer-1234,1,a\n", 20_000)
	if a := s.give(formPart{"source", "own"}, formPart{"mapping", mapping}, formPart{"file", long}); a.code != 201 || s.files[0] != long {
		t.Fatalf("%d %s", a.code, a.body)
	}
	spool := s.spools[0].Bytes()
	if len(spool) != len(long) {
		t.Fatalf("the spool has %d bytes of %d", len(spool), len(long))
	}
	if bytes.Contains(spool, []byte("customer")) {
		t.Error("an ID lies in the spool")
	}
	// The text repeats every 18 bytes and so lcm(18, 16) = 144; a key stream
	// that repeated would show.
	if bytes.Equal(spool[1000:1144], spool[1144:1288]) {
		t.Error("the key stream repeats")
	}
}

func TestASpoolReadsAsTheFileThatWasWritten(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		content := rapid.SliceOfN(rapid.Byte(), 0, 200).Draw(rt, "content")
		for len(content) >= 2 && content[0] == 0x1f && content[1] == 0x8b {
			content = content[1:]
		}
		a := &API{o: Options{Rand: bytes.NewReader(bytes.Repeat([]byte{7}, 32)), Spool: func() (Spool, error) { return &memSpool{}, nil }}}
		a.o.Limits.setDefaults()
		f, err := a.spool(bytes.NewReader(content))
		if err != nil {
			rt.Fatal(err)
		}
		want := bytes.NewReader(content)
		for range rapid.IntRange(1, 8).Draw(rt, "steps") {
			if rapid.Bool().Draw(rt, "seek") {
				whence := rapid.SampledFrom([]int{io.SeekStart, io.SeekCurrent, io.SeekEnd}).Draw(rt, "whence")
				offset := rapid.Int64Range(-50, 250).Draw(rt, "offset")
				g, gerr := f.Seek(offset, whence)
				w, werr := want.Seek(offset, whence)
				if (gerr == nil) != (werr == nil) || gerr == nil && g != w {
					rt.Fatalf("seek: %d %v, want %d %v", g, gerr, w, werr)
				}
				continue
			}
			n := rapid.IntRange(1, 60).Draw(rt, "n")
			g, gerr := io.ReadFull(f, make([]byte, n))
			gb, wb := make([]byte, n), make([]byte, n)
			_, _ = f.Seek(-int64(g), io.SeekCurrent)
			_, _ = io.ReadFull(f, gb)
			w, werr := io.ReadFull(want, wb)
			if g != w || gerr != werr || !bytes.Equal(gb, wb) {
				rt.Fatalf("read %d %v %x, want %d %v %x", g, gerr, gb, w, werr, wb)
			}
		}
	})
}

func TestARunIsShownAsItIsKept(t *testing.T) {
	r := importRun{At: now, Faults: []onboard.Fault{{Row: 1}}}
	r.Import, r.Rows = "00", 7
	b, err := encode(r)
	if err != nil {
		t.Fatal(err)
	}
	var back importRun
	if err := json.Unmarshal(b, &back); err != nil || back.Rows != 7 || back.Import != "00" || back.At != now {
		t.Errorf("%s is read as %+v: %v", b, back, err)
	}
}
