package main

import (
	"runtime"
	"runtime/debug"

	"github.com/ebb-dmp/ebb/cmd/ebb/cli"
)

// version is set by a release build: -ldflags "-X main.version=1.2.3".
var version = "development"

type versionCommand struct{}

func (versionCommand) Help() string {
	return `Examples:

    ebb version
    ebb version -o json`
}

// Run prints what this program was built from.
func (versionCommand) Run(c *cli.Context) error {
	doc := struct {
		Version  string `json:"version"`
		Revision string `json:"revision,omitempty"`
		Modified bool   `json:"modified,omitempty"`
		Go       string `json:"go"`
		Platform string `json:"platform"`
	}{Version: version, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			switch s.Key {
			case "vcs.revision":
				doc.Revision = s.Value
			case "vcs.modified":
				doc.Modified = s.Value == "true"
			}
		}
	}
	var rows cli.Rows
	rows.Add("ebb", doc.Version)
	if doc.Revision != "" {
		rows.Add("revision", doc.Revision)
	}
	rows.Add("go", doc.Go)
	rows.Add("platform", doc.Platform)
	return c.Print(doc, rows)
}
