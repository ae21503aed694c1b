package delimited

import (
	"bytes"
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/klauspost/compress/gzip"

	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/segments/delivery/format"
	"github.com/ebb-dmp/ebb/taxonomy"
)

//go:embed beeswax.yaml
var beeswaxYAML []byte

//go:embed adform.yaml
var adformYAML []byte

//go:embed audiencemanager.yaml
var audienceManagerYAML []byte

//go:embed template.yaml
var templateYAML []byte

// Entries of Destination.Account that the operator's own template reads.
const (
	Line = "line" // the template of a line, without its end
	Name = "name" // the template of a file's name
	Gzip = "gzip" // "true": compressed
)

// Format is one of the family. Get one from Beeswax, Adform, AudienceManager or
// Own.
type Format struct {
	facts      format.Facts
	line, name string // templates; empty: the destination's
	apart      bool
	gzip       bool
	control    bool
	needs      []string // entries of Account
	segments   bool     // every audience needs the receiver's name
	forbidden  string   // characters that an ID or name cannot have
}

var (
	_ delivery.Format     = Format{}
	_ delivery.Checker    = Format{}
	_ delivery.Namer      = named{}
	_ delivery.Controller = controlled{}
)

// Beeswax is a line "ID|segment|segment" and separate files for removals.
// Segments are the receiver's keys, "buzzkey-id".
func Beeswax() delivery.Format {
	return Format{
		facts: format.MustParse(beeswaxYAML), line: `<DP_UUID>|<SEGMENT_LIST;separator="|"><REMOVED_SEGMENT_LIST;separator="|">`,
		apart: true, segments: true, forbidden: "|\"",
	}
}

// Adform is a line "ID<tab>segment,segment". It cannot say that someone leaves.
func Adform() delivery.Format {
	return Format{facts: format.MustParse(adformYAML), line: `<DP_UUID><TAB><SEGMENT_LIST;separator=",">`, segments: true, forbidden: "\t,\""}
}

// AudienceManager is a line "ID in,in out,out" in files with Audience Manager's
// names, and an .info file after them.
func AudienceManager() delivery.Format {
	return controlled{named{Format{
		facts: format.MustParse(audienceManagerYAML),
		line:  `<DP_UUID> <SEGMENT_LIST;separator=","><if(REMOVED_SEGMENT_LIST)> <REMOVED_SEGMENT_LIST;separator=","><endif>`,
		name:  `<SYNC_TYPE>_<PID>_<DPID>_<PIDALIAS>_<SYNC_MODE>_<TIMESTAMP><SPLITNUM>.sync.gz`,
		gzip:  true, control: true, needs: []string{"PID", "DPID", "PIDALIAS", "SYNC_TYPE"}, forbidden: " ,",
	}}}
}

// Own is the operator's template: Destination.Account has Line, and may have
// Name, Gzip and what the macros stand for.
func Own() delivery.Format { return named{Format{facts: format.MustParse(templateYAML)}} }

// Facts are those of the YAML file.
func (f Format) Facts() delivery.FormatFacts {
	facts := f.facts.Format()
	facts.ByID, facts.Apart = true, f.apart
	return facts
}

// templates returns those of a destination.
func (f Format) templates(account map[string]string) (line, name *Template, err error) {
	l, n := f.line, f.name
	if l == "" {
		if l = account[Line]; l == "" {
			return nil, nil, taxonomy.Invalid("account", "has no %q: want the template of a line, such as <DP_UUID><TAB><SEGMENT_LIST;separator=\",\"><TAB><REMOVED_SEGMENT_LIST;separator=\",\">", Line)
		}
		n = account[Name]
	}
	if line, err = Parse(l); err != nil {
		return nil, nil, taxonomy.Invalid("account", "%s: %w", Line, err)
	}
	if n == "" {
		return line, nil, nil
	}
	if name, err = Parse(n); err != nil {
		return nil, nil, taxonomy.Invalid("account", "%s: %w", Name, err)
	}
	return line, name, nil
}

// Check wants a template that can say what must be said, and the account's words
// for it.
func (f Format) Check(d *delivery.Destination) error {
	var errs []error
	for _, n := range f.needs {
		if v := d.Account[n]; v == "" || strings.ContainsAny(v, "/\\ \t\r\n_") {
			errs = append(errs, taxonomy.Invalid("account", "%q: want the receiver's word, without blanks, slashes and underlines: it stands in names of files", n))
		}
	}
	line, name, err := f.templates(d.Account)
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	if !line.Has("DP_UUID") && !line.Has("UUID") && !line.Has("MCID") && !line.Has("DP_UUID_LIST") {
		errs = append(errs, taxonomy.Invalid("account", "%s: has no <DP_UUID>, so nobody could tell of whom it speaks", Line))
	}
	if !line.Has("SEGMENT_LIST") && !line.Has("TRAIT_LIST") || f.facts.Removal != "" && !line.Has("REMOVED_SEGMENT_LIST") {
		errs = append(errs, taxonomy.Invalid("account", "%s: want both <SEGMENT_LIST> and <REMOVED_SEGMENT_LIST>: who leaves must be taken out", Line))
	}
	if f.line == "" {
		if name != nil && !name.Has("TIMESTAMP") {
			errs = append(errs, taxonomy.Invalid("account", "%s: has no <TIMESTAMP>, so each delivery would overwrite the one before it", Name))
		}
		if g := d.Account[Gzip]; g != "" && g != "true" && g != "false" {
			errs = append(errs, taxonomy.Invalid("account", "%s: %q is not true or false", Gzip, g))
		}
	}
	for _, a := range d.Audiences {
		s, ok := d.Segments[a]
		if f.segments && !ok {
			errs = append(errs, taxonomy.Invalid("segments", "audience %q has no name there: want the receiver's key of its segment", a))
		} else if strings.ContainsAny(s, f.forbidden+"\r\n\x00") {
			errs = append(errs, taxonomy.Invalid("segments", "the name of audience %q holds a character that ends a field", a))
		}
	}
	return errors.Join(errs...)
}

// New begins a file.
func (f Format) New(info delivery.FileInfo) delivery.Encoder {
	e := &encoder{f: f, info: info}
	e.values = Values{Account: info.Account, Mode: mode(info.Kind), Created: info.Created}
	e.line, _, e.err = f.templates(info.Account)
	if f.gzip || f.line == "" && info.Account[Gzip] == "true" {
		e.gz, _ = gzip.NewWriterLevel(&e.zipped, 1) // 1 is a level
	}
	return e
}

// mode is Audience Manager's word.
func mode(k delivery.Kind) string {
	if k == delivery.Full {
		return "full"
	}
	return "iter"
}

type encoder struct {
	f      Format
	info   delivery.FileInfo
	line   *Template
	err    error
	values Values
	out    []byte
	lines  uint64
	zipped bytes.Buffer
	gz     *gzip.Writer
}

// Append gathers the audiences of an ID, and writes its line when the next one
// comes.
func (e *encoder) Append(dst []byte, run delivery.Run, ids []string) ([]byte, error) {
	if e.err != nil {
		return dst, e.err
	}
	m := Member{SID: e.info.Segment(run.Audience), Alias: string(run.Audience), Minutes: run.Minutes}
	if strings.ContainsAny(m.SID, e.f.forbidden+"\r\n") {
		return dst, fmt.Errorf("delimited: the name of audience %s holds a character that ends a field", run.Audience)
	}
	for _, id := range ids {
		if id == "" || strings.ContainsAny(id, e.f.forbidden+"\t\r\n\x00") {
			return dst, fmt.Errorf("delimited: an ID of audience %s is empty or holds a character that ends a field", run.Audience)
		}
		if id != e.values.ID {
			if err := e.flush(); err != nil {
				return dst, err
			}
			e.values.ID = id
		}
		if run.Remove {
			e.values.Out = append(e.values.Out, m)
		} else {
			e.values.In = append(e.values.In, m)
		}
	}
	return e.drain(dst), nil
}

// flush writes the line of the ID whose audiences were gathered.
func (e *encoder) flush() error {
	if e.values.ID == "" {
		return nil
	}
	was := len(e.out)
	e.out = append(e.line.Append(e.out, &e.values), '\n')
	if most := e.f.facts.Limits["line"]; most > 0 && len(e.out)-was > most {
		return fmt.Errorf("delimited: a line has %d bytes, at most %d are allowed: give the destination fewer audiences", len(e.out)-was, most)
	}
	e.lines += uint64(bytes.Count(e.out[was:], []byte{'\n'}))
	e.values.ID, e.values.In, e.values.Out = "", e.values.In[:0], e.values.Out[:0]
	return nil
}

func (e *encoder) drain(dst []byte) []byte {
	if e.gz == nil {
		dst = append(dst, e.out...)
		e.out = e.out[:0]
		return dst
	}
	if len(e.out) > 32<<10 {
		e.gz.Write(e.out) // a bytes.Buffer takes everything
		e.out = e.out[:0]
	}
	dst = append(dst, e.zipped.Bytes()...)
	e.zipped.Reset()
	return dst
}

// Close writes the last line, and ends the file.
func (e *encoder) Close(dst []byte) ([]byte, error) {
	if e.err != nil {
		return dst, e.err
	}
	if err := e.flush(); err != nil {
		return dst, err
	}
	if e.gz != nil {
		e.gz.Write(e.out)
		e.out = e.out[:0]
		if err := e.gz.Close(); err != nil {
			return dst, fmt.Errorf("delimited: end gzip: %w", err)
		}
	}
	return e.drain(dst), nil
}

// Lines is how many were written.
func (e *encoder) Lines() uint64 { return e.lines }

// named is a Format whose files have names of the receiver's.
type named struct{ Format }

// Name is the template's. Its timestamp has milliseconds, in which two
// deliveries of one minute differ.
func (n named) Name(f delivery.FileInfo, part, of int) string {
	_, name, err := n.templates(f.Account)
	at := int64(f.Created) + int64(f.Serial%60_000)
	if err != nil || name == nil {
		return fmt.Sprintf("aud_%s_%s_%d_p%04d%s", f.Destination, mode(f.Kind), at, part+1, n.extension(f.Account))
	}
	v := Values{Account: f.Account, Mode: mode(f.Kind), Created: f.Created, NameStamp: strconv.FormatInt(at, 10)}
	if of > 1 {
		v.Part = part + 1
	}
	s := string(name.Append(nil, &v))
	if of > 1 && !name.Has("SPLITNUM") {
		stem, ext, has := strings.Cut(s, ".")
		if s = fmt.Sprintf("%s-p%04d", stem, part+1); has {
			s += "." + ext
		}
	}
	return s
}

func (n named) extension(account map[string]string) string {
	if account[Gzip] == "true" {
		return n.facts.Extension + ".gz"
	}
	return n.facts.Extension
}

// controlled is a named Format with an .info file.
type controlled struct{ named }

// Control writes the .info file: the names and sums that Audience Manager's has,
// as JSON.
func (c controlled) Control(f delivery.FileInfo, parts []delivery.Part) (string, []byte, error) {
	type file struct {
		FileByteSize, FileLineCount uint64
		FileName                    string
		FileSequenceNumber          int
		MD5                         string `json:"md5"`
		SHA256                      string `json:"sha256"`
	}
	var info struct {
		Files  []file
		Totals struct {
			FileName                                          string
			TotalByteSize, TotalNumberFiles, TotalNumberLines uint64
		}
	}
	info.Totals.FileName = c.Name(f, 0, 1)
	for i, p := range parts {
		info.Files = append(info.Files, file{uint64(p.Bytes), p.Lines, p.Name, i + 1, hex.EncodeToString(p.MD5[:]), hex.EncodeToString(p.SHA256[:])})
		info.Totals.TotalByteSize += uint64(p.Bytes)
		info.Totals.TotalNumberLines += p.Lines
	}
	info.Totals.TotalNumberFiles = uint64(len(parts))
	b, err := json.MarshalIndent(&info, "", "  ")
	if err != nil {
		return "", nil, fmt.Errorf("write .info: %w", err)
	}
	stem, _, _ := strings.Cut(info.Totals.FileName, ".sync")
	return stem + ".info", append(b, '\n'), nil
}
