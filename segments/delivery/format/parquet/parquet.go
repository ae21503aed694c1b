// Package parquet is segment files for analysts: a Parquet table with a row for
// each (ID, audience).
package parquet

import (
	"bytes"
	_ "embed"
	"fmt"

	"github.com/parquet-go/parquet-go"

	"github.com/ebb-dmp/ebb/segments/delivery"
	"github.com/ebb-dmp/ebb/segments/delivery/format"
	"github.com/ebb-dmp/ebb/taxonomy"
)

//go:embed facts.yaml
var factsYAML []byte

var known = format.MustParse(factsYAML)

// Row is a row of the table.
type Row struct {
	ID       string `parquet:"id,zstd"`
	Audience string `parquet:"audience,dict,zstd"`
	Segment  string `parquet:"segment,dict,zstd"`
	Remove   bool   `parquet:"remove"`
	Minutes  int32  `parquet:"minutes,dict,zstd"`
	// EndsAt is when the member's life ends; null if it leaves now.
	EndsAt int64 `parquet:"ends_at,optional,timestamp(millisecond),zstd"`
}

// Format is the format. The zero value is ready.
type Format struct{}

var _ delivery.Format = Format{}

// Facts are those of facts.yaml.
func (Format) Facts() delivery.FormatFacts { return known.Format() }

// New begins a file.
func (Format) New(f delivery.FileInfo) delivery.Encoder {
	e := &encoder{info: f}
	e.w = parquet.NewGenericWriter[Row](&e.out, parquet.CreatedBy("ebb", "1", ""), parquet.MaxRowsPerRowGroup(int64(known.Limits["row_group"])),
		parquet.KeyValueMetadata("destination", string(f.Destination)), parquet.KeyValueMetadata("kind", string(f.Kind)),
		parquet.KeyValueMetadata("generation", fmt.Sprint(f.Generation)))
	return e
}

type encoder struct {
	info delivery.FileInfo
	out  bytes.Buffer
	w    *parquet.GenericWriter[Row]
	rows []Row
}

// Append writes a row for each ID.
func (e *encoder) Append(dst []byte, run delivery.Run, ids []string) ([]byte, error) {
	r := Row{Audience: string(run.Audience), Segment: e.info.Segment(run.Audience), Remove: run.Remove, Minutes: int32(run.Minutes)}
	if !run.Remove {
		r.EndsAt = int64(e.info.Created) + int64(run.Minutes)*int64(taxonomy.Minute)
	}
	e.rows = e.rows[:0]
	for _, id := range ids {
		if id == "" {
			return dst, fmt.Errorf("parquet: an ID of audience %s is empty", run.Audience)
		}
		r.ID = id
		e.rows = append(e.rows, r)
	}
	if _, err := e.w.Write(e.rows); err != nil {
		return dst, fmt.Errorf("parquet: write rows: %w", err)
	}
	return e.drain(dst), nil
}

// Close writes the last rows, and the footer.
func (e *encoder) Close(dst []byte) ([]byte, error) {
	if err := e.w.Close(); err != nil {
		return dst, fmt.Errorf("parquet: end the file: %w", err)
	}
	return e.drain(dst), nil
}

func (e *encoder) drain(dst []byte) []byte {
	dst = append(dst, e.out.Bytes()...)
	e.out.Reset()
	return dst
}
