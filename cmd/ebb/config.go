package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"strings"

	"github.com/ebb-dmp/ebb/cmd/ebb/cli"
	"github.com/ebb-dmp/ebb/cmd/ebb/config"
)

type configCommand struct {
	Check configCheck `cmd:"" help:"Tell whether the settings hold, and what is unwise in them."`
	Print configPrint `cmd:"" help:"Print every setting, its value, and where it came from."`
}

// Help lists all settings from the table that Load reads them by.
func (configCommand) Help() string {
	var b strings.Builder
	b.WriteString("A setting has three names: listen.public is a line in the file (public, below listen), the variable EBB_LISTEN_PUBLIC, and the flag --listen.public of every command. Defaults give way to the file, the file to the environment, the environment to flags. What is unknown is refused.\n\nThe settings:\n\n")
	for _, f := range config.Fields() {
		fmt.Fprintf(&b, "    %s %s", f.Key, f.Value)
		if f.Default != "" {
			fmt.Fprintf(&b, " (default %s)", f.Default)
		}
		b.WriteString("\n")
		for _, line := range wrap(f.Help, 84) {
			fmt.Fprintf(&b, "        %s\n", line)
		}
	}
	b.WriteString("\nExamples:\n\n    ebb config check --config ebb.yaml\n    EBB_LISTEN_PUBLIC=127.0.0.1:9000 ebb config print\n    ebb config print --export_floor=100 -o json")
	return b.String()
}

// wrap breaks text into lines of at most width bytes where a word allows it.
func wrap(text string, width int) (lines []string) {
	line := ""
	for _, word := range strings.Fields(text) {
		switch {
		case line == "":
			line = word
		case len(line)+1+len(word) > width:
			lines, line = append(lines, line), word
		default:
			line += " " + word
		}
	}
	return append(lines, line)
}

type configCheck struct{}

func (configCheck) Help() string {
	return `Ends with 0 if the settings hold, with 1 if not; warnings do not change that. Certificates are read too.

Examples:

    ebb config check --config /etc/ebb/ebb.yaml
    ebb config check --config ebb.yaml -o json`
}

// Run prints what is wrong and what is unwise.
func (configCheck) Run(c *cli.Context) error {
	type problem struct {
		Level string `json:"level"`
		config.Problem
	}
	doc := struct {
		OK       bool      `json:"ok"`
		Problems []problem `json:"problems"`
	}{OK: true, Problems: []problem{}}
	fault := func(where, what string) {
		doc.OK = false
		doc.Problems = append(doc.Problems, problem{"error", config.Problem{Where: where, What: what}})
	}

	settings, err := c.Load()
	var faults *config.Error
	switch {
	case errors.As(err, &faults):
		for _, p := range faults.Problems {
			fault(p.Where, p.What)
		}
	case err != nil:
		return cli.Usage(err)
	default:
		if t := settings.TLS; t.Cert != "" {
			if _, err := tls.LoadX509KeyPair(t.Cert, t.Key); err != nil {
				fault("tls.cert", err.Error())
			}
		}
		for _, w := range settings.Warnings() {
			key, what, _ := strings.Cut(w, ": ")
			doc.Problems = append(doc.Problems, problem{"warning", config.Problem{Where: key, What: what}})
		}
	}

	var rows cli.Rows
	for _, p := range doc.Problems {
		rows.Add(p.Level, p.Where, p.What)
	}
	if doc.OK {
		rows.Add("ok: the settings hold")
	}
	if err := c.Print(doc, rows); err != nil {
		return err
	}
	if !doc.OK {
		return cli.ErrSilent
	}
	return nil
}

type configPrint struct{}

func (configPrint) Help() string {
	return `A secret that is set is shown as "(set)".

Examples:

    ebb config print
    ebb config print --config ebb.yaml --data /var/lib/ebb/data
    ebb config print -o json`
}

// Run prints every setting.
func (configPrint) Run(c *cli.Context) error {
	settings, err := c.Config()
	if err != nil {
		return err
	}
	rows := cli.Rows{Head: []string{"SETTING", "VALUE", "FROM"}}
	for _, s := range settings.Settings() {
		value := s.Value
		if value == "" {
			value = "-"
		}
		rows.Add(s.Key, value, s.From)
	}
	return c.Print(map[string]any{"settings": settings.Settings()}, rows)
}
