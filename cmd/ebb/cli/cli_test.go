package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/ebb-dmp/ebb/cmd/ebb/config"
)

func TestPrintAnswersOneJSONDocumentOnOneLine(t *testing.T) {
	var out bytes.Buffer
	c := &Context{Stdout: &out, Output: JSON}
	if err := c.Print(map[string]string{"a": "<b>\nc"}, Rows{}); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(out.String(), "\n"); n != 1 || !json.Valid(out.Bytes()) {
		t.Fatalf("got %q, want one line of JSON", out.String())
	}
	if !strings.Contains(out.String(), "<b>") {
		t.Errorf("got %q, want < and > as they are", out.String())
	}
}

func TestTableCellsCannotMoveTheCursor(t *testing.T) {
	var out bytes.Buffer
	c := &Context{Stdout: &out, Output: Table}
	rows := Rows{Head: []string{"NAME", "N"}}
	rows.Add("plain", 1)
	rows.Add("a\tb\nc\x1b[2J\xff", 22)
	if err := c.Print(nil, rows); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	if len(lines) != 3 {
		t.Fatalf("got %d lines, want 3:\n%q", len(lines), out.String())
	}
	if strings.ContainsAny(out.String(), "\t\x1b") {
		t.Errorf("control characters came through: %q", out.String())
	}
	column := strings.Index(lines[0], "N") // of NAME
	if column != 0 || !strings.HasSuffix(lines[2], "  22") {
		t.Errorf("columns are not aligned:\n%s", out.String())
	}
}

func TestStatusTellsMistakesOfTheCallerFromFailures(t *testing.T) {
	fault := errors.New("x")
	for _, c := range []struct {
		err  error
		want int
	}{{nil, 0}, {fault, 1}, {Usage(fault), 2}, {fmt.Errorf("while: %w", Usage(fault)), 2}, {Usage(nil), 0}, {ErrSilent, 1}} {
		if got := Status(c.err); got != c.want {
			t.Errorf("Status(%v) = %d, want %d", c.err, got, c.want)
		}
	}
}

func TestConfigIsResolvedOnceAndItsFaultsAreUsage(t *testing.T) {
	calls := 0
	c := &Context{Load: func() (*config.Resolved, error) {
		calls++
		return config.Load(config.Input{})
	}}
	first, err := c.Config()
	if err != nil {
		t.Fatal(err)
	}
	second, _ := c.Config()
	if first != second || calls != 1 {
		t.Errorf("resolved %d times", calls)
	}
	c = &Context{Load: func() (*config.Resolved, error) {
		return config.Load(config.Input{Flags: map[string]string{"dta": "x"}})
	}}
	if _, err := c.Config(); Status(err) != UsageFault {
		t.Errorf("got status %d for %v, want %d", Status(err), err, UsageFault)
	}
}
