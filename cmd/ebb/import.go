package main

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime/multipart"
	"os"
	"path/filepath"
	"slices"

	"bufio"

	"go.yaml.in/yaml/v3"

	"github.com/ebb-dmp/ebb/cmd/ebb/cli"
	"github.com/ebb-dmp/ebb/cmd/ebb/client"
	"github.com/ebb-dmp/ebb/taxonomy"
	"github.com/ebb-dmp/ebb/taxonomy/onboard"
)

type importCommand struct {
	File         string            `arg:"" help:"The file: CSV with a header, or the same in gzip."`
	Source       string            `required:"" placeholder:"ID" help:"Whose data it is. The source needs an agreement that asserts its visitors' consent."`
	Mapping      string            `required:"" placeholder:"FILE" help:"What the columns mean, in YAML or JSON."`
	Lookup       map[string]string `placeholder:"NAME=FILE" help:"A table that a join of the mapping looks up; may be given again."`
	Again        bool              `help:"Take the file in as another import, although it was taken in before."`
	ShiftToToday bool              `help:"Move all times by whole days so that the last is today: to try Ebb with a file of last year."`
}

func (importCommand) Help() string {
	return `Takes a file of what visitors did, of what is known of them, or of who is in a list. Each row counts once, however often the file is given; what is refused is named by row and column. Nothing older than 90 days is taken.

A mapping for purchases of customers with hashed IDs:

    visitor: customer_hash
    space: own:crm
    time: bought_at
    layout: "2006-01-02 15:04:05"
    event:
      name: purchase
      props: [{column: department}, {column: price}]

Examples:

    ebb import purchases.csv.gz --source crm --mapping purchases.yaml
    ebb import sales.csv --source crm --mapping sales.yaml --lookup products=products.csv -o json`
}

// shownFaults is how many refused rows a person is shown; -o json has 100.
const shownFaults = 10

// Run takes the file in.
func (i importCommand) Run(c *cli.Context) error {
	mapping, err := i.mapping(c)
	if err != nil {
		return err
	}
	file, err := os.Open(i.File)
	if err != nil {
		return cli.Usage(err)
	}
	defer file.Close()
	return reach(c, func(cl *client.Client) error {
		pr, pw := io.Pipe()
		form := multipart.NewWriter(pw)
		done := make(chan struct{})
		go func() {
			defer close(done)
			pw.CloseWithError(i.form(form, mapping, file))
		}()
		res, err := cl.Do(c, "POST", "/api/v1/imports", form.FormDataContentType(), pr)
		pr.Close()
		<-done
		if err != nil {
			return fmt.Errorf("import %s: %w", i.File, err)
		}
		defer res.Body.Close()
		doc, err := io.ReadAll(res.Body)
		if err != nil {
			return fmt.Errorf("read the receipt: %w", err)
		}
		return printReceipt(c, doc)
	})
}

// mapping reads the mapping as JSON. What it means is checked by the API, so that
// its faults are the same whoever sends it.
func (i importCommand) mapping(c *cli.Context) ([]byte, error) {
	text, err := os.ReadFile(i.Mapping)
	if err != nil {
		return nil, cli.Usage(fmt.Errorf("read the mapping: %w", err))
	}
	var doc map[string]any
	if err := yaml.Unmarshal(text, &doc); err != nil { // JSON is YAML
		return nil, cli.Usage(fmt.Errorf("read the mapping %s: %w", i.Mapping, err))
	}
	if i.ShiftToToday {
		days, err := i.shift(c, doc)
		if err != nil {
			return nil, err
		}
		doc["shift_days"] = days
	}
	b, err := json.Marshal(doc)
	if err != nil {
		return nil, cli.Usage(fmt.Errorf("read the mapping %s: %w", i.Mapping, err))
	}
	return b, nil
}

// shift returns by how many days the file is older than today.
func (i importCommand) shift(c *cli.Context, doc map[string]any) (int, error) {
	b, err := json.Marshal(doc)
	var m onboard.Mapping
	if err == nil {
		err = json.Unmarshal(b, &m)
	}
	if err == nil {
		err = m.Validate()
	}
	if err != nil {
		return 0, cli.Usage(fmt.Errorf("read the mapping %s: %w", i.Mapping, err))
	}
	if m.Time == "" {
		return 0, cli.Usage(errors.New("--shift-to-today: the mapping has no time to move"))
	}
	r, closeIt, err := openPlain(i.File)
	if err != nil {
		return 0, err
	}
	defer closeIt()
	span, err := onboard.Scan(r, &m)
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", i.File, err)
	}
	if span.Rows == 0 {
		return 0, fmt.Errorf("--shift-to-today: no time of %s can be read by the mapping's layout", i.File)
	}
	return int(taxonomy.DayOf(c.Now()) - span.Last), nil
}

// openPlain opens a file without its gzip.
func openPlain(path string) (io.Reader, func(), error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, cli.Usage(err)
	}
	b := bufio.NewReader(f)
	if magic, err := b.Peek(2); err != nil || !bytes.Equal(magic, []byte{0x1f, 0x8b}) {
		return b, func() { f.Close() }, nil
	}
	z, err := gzip.NewReader(b)
	if err != nil {
		f.Close()
		return nil, nil, fmt.Errorf("read %s: %w", path, err)
	}
	return z, func() { f.Close() }, nil
}

// form writes the parts in the order in which the API reads them.
func (i importCommand) form(form *multipart.Writer, mapping []byte, file io.Reader) error {
	if err := form.WriteField("source", i.Source); err != nil {
		return err
	}
	if err := form.WriteField("mapping", string(mapping)); err != nil {
		return err
	}
	if err := form.WriteField("again", fmt.Sprint(i.Again)); err != nil {
		return err
	}
	send := func(part, name string, r io.Reader) error {
		w, err := form.CreateFormFile(part, filepath.Base(name))
		if err == nil {
			_, err = io.Copy(w, r)
		}
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(i.Lookup)) {
		f, err := os.Open(i.Lookup[name])
		if err == nil {
			err = errors.Join(send("lookup."+name, i.Lookup[name], f), f.Close())
		}
		if err != nil {
			return err
		}
	}
	if err := send("file", i.File, file); err != nil {
		return err
	}
	return form.Close()
}

func printReceipt(c *cli.Context, doc json.RawMessage) error {
	var r struct {
		Import    string                     `json:"import"`
		Rows      uint64                     `json:"rows"`
		Accepted  uint64                     `json:"accepted"`
		Rejected  map[taxonomy.Reason]uint64 `json:"rejected"`
		Stored    uint64                     `json:"stored"`
		Duplicate uint64                     `json:"duplicate"`
		Dropped   uint64                     `json:"dropped"`
		Visitors  int                        `json:"visitors"`
		Refused   uint64                     `json:"refused"`
		Unjoined  uint64                     `json:"unjoined"`
		First     taxonomy.Day               `json:"first"`
		Last      taxonomy.Day               `json:"last"`
		Faults    []onboard.Fault            `json:"faults"`
	}
	if err := json.Unmarshal(doc, &r); err != nil {
		return fmt.Errorf("read the receipt: %w", err)
	}
	var rows cli.Rows
	rows.Add("import", r.Import)
	rows.Add("rows", r.Rows)
	rows.Add("accepted", r.Accepted)
	for _, why := range slices.Sorted(maps.Keys(r.Rejected)) {
		rows.Add("rejected: "+string(why), r.Rejected[why])
	}
	rows.Add("stored", r.Stored)
	rows.Add("duplicate", r.Duplicate)
	rows.Add("dropped", r.Dropped)
	rows.Add("visitors", r.Visitors)
	if r.Accepted > 0 {
		rows.Add("days", fmt.Sprintf("%s to %s", r.First, r.Last))
	}
	if r.Refused > 0 {
		rows.Add("values left out as personal data", r.Refused)
	}
	if r.Unjoined > 0 {
		rows.Add("rows that found nothing in a lookup", r.Unjoined)
	}
	for n, f := range r.Faults {
		if n == shownFaults {
			rows.Add("…", "-o json names more")
			break
		}
		rows.Add(fmt.Sprintf("row %d, line %d", f.Row, f.Line), f.Column, string(f.Reason), f.Why)
	}
	return c.Print(doc, rows)
}
