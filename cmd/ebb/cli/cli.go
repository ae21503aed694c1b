// Package cli is what every subcommand is given: the settings, the streams, a
// clock and randomness, and the one way to answer.
package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
	"unicode/utf8"

	"github.com/ebb-dmp/ebb/cmd/ebb/config"
)

// Format is how a subcommand answers.
type Format string

// The formats of -o.
const (
	Table Format = "table"
	JSON  Format = "json"
)

// Context is handed to the Run method of a subcommand. Its context ends on
// SIGINT and SIGTERM. It is used by one goroutine.
type Context struct {
	context.Context
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Output         Format
	Now            func() time.Time
	Rand           io.Reader // cryptographic
	Environ        []string
	// Load resolves the settings; Config calls it once. `ebb config` calls it
	// itself, since faults are its subject.
	Load func() (*config.Resolved, error)

	resolved *config.Resolved
}

// Config returns the settings, resolved once. A configuration that does not
// hold is the caller's mistake: the error ends the program with status 2.
func (c *Context) Config() (*config.Resolved, error) {
	if c.resolved == nil {
		r, err := c.Load()
		if err != nil {
			return nil, Usage(err)
		}
		c.resolved = r
	}
	return c.resolved, nil
}

// Rows is an answer as a person reads it. The head may be empty.
type Rows struct {
	Head []string
	Body [][]string
}

// Add appends a row of cells, each as fmt.Sprint prints it.
func (r *Rows) Add(cells ...any) {
	row := make([]string, len(cells))
	for i, c := range cells {
		row[i] = fmt.Sprint(c)
	}
	r.Body = append(r.Body, row)
}

// Print answers: with -o json by doc, one JSON document on one line and nothing
// else; otherwise by rows, in aligned columns. It is called once a command.
func (c *Context) Print(doc any, rows Rows) error {
	if c.Output == JSON {
		enc := json.NewEncoder(c.Stdout)
		enc.SetEscapeHTML(false)
		if err := enc.Encode(doc); err != nil {
			return fmt.Errorf("print the answer: %w", err)
		}
		return nil
	}
	w := tabwriter.NewWriter(c.Stdout, 0, 0, 2, ' ', 0)
	line := func(cells []string) {
		for i, cell := range cells {
			if i > 0 {
				fmt.Fprint(w, "\t")
			}
			fmt.Fprint(w, printable(cell))
		}
		fmt.Fprintln(w)
	}
	if len(rows.Head) > 0 {
		line(rows.Head)
	}
	for _, row := range rows.Body {
		line(row)
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("print the answer: %w", err)
	}
	return nil
}

// printable keeps a value from moving columns, lines or the cursor.
func printable(s string) string {
	bad := func(r rune) bool { return r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 }
	if utf8.ValidString(s) && !strings.ContainsFunc(s, bad) {
		return s
	}
	return strings.Map(func(r rune) rune {
		if bad(r) {
			return '\ufffd'
		}
		return r
	}, strings.ToValidUTF8(s, "\ufffd"))
}

// Note tells a person something beside the answer, on standard error.
func (c *Context) Note(format string, args ...any) {
	fmt.Fprintf(c.Stderr, format+"\n", args...)
}

// The status of the program.
const (
	OK         = 0
	Failure    = 1
	UsageFault = 2
	Drift      = 3
)

type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// Usage marks err as a mistake in how the program was called.
func Usage(err error) error {
	if err == nil {
		return nil
	}
	return usageError{err}
}

// ErrSilent is returned by a command that has said all in its answer and yet must
// not end with 0.
var ErrSilent = errors.New("failed, as the answer says")

// ErrDrift is returned by a plan that would change something, which its answer
// says.
var ErrDrift = fmt.Errorf("%w: something would change", ErrSilent)

// Status returns the status with which the program ends after err.
func Status(err error) int {
	var usage usageError
	switch {
	case err == nil:
		return OK
	case errors.As(err, &usage):
		return UsageFault
	case errors.Is(err, ErrDrift):
		return Drift
	}
	return Failure
}
