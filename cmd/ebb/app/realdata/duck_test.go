package realdata

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// job is what the other engine is asked; see testdata/duck.py.
type job struct {
	Dir   string `json:"dir"` // has the CSV files
	Setup string `json:"setup"`
	Asks  []ask  `json:"asks"`
}

// ask is some questions under some variables, whose values are SQL.
type ask struct {
	Vars     map[string]string `json:"vars"`
	Visitors map[string]string `json:"visitors"`
	Tables   map[string]string `json:"tables"`
}

type answer struct {
	Visitors map[string]visitors `json:"visitors"`
	Tables   map[string][][]any  `json:"tables"`
}

// visitors is the numbers of some visitors, rising.
type visitors []int

// UnmarshalJSON reads "1 2 3".
func (v *visitors) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	for f := range strings.FieldsSeq(s) {
		n, err := strconv.Atoi(f)
		if err != nil {
			return err
		}
		*v = append(*v, n)
	}
	return nil
}

// duck asks DuckDB. It knows the CSV files and the SQL and nothing of Ebb.
func duck(t *testing.T, j job) []answer {
	t.Helper()
	in, err := json.Marshal(j)
	if err != nil {
		t.Fatal(err)
	}
	script, err := filepath.Abs(filepath.Join("testdata", "duck.py"))
	if err != nil {
		t.Fatal(err)
	}
	var out, stderr bytes.Buffer
	cmd := exec.Command(python(t), script)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(in), &out, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("ask DuckDB: %v\n%s", err, stderr.Bytes())
	}
	var answers []answer
	if err := json.Unmarshal(out.Bytes(), &answers); err != nil {
		t.Fatalf("read DuckDB's answer: %v", err)
	}
	if len(answers) != len(j.Asks) {
		t.Fatalf("%d answers to %d questions", len(answers), len(j.Asks))
	}
	return answers
}

// python finds one that has DuckDB: that of the PATH, or the one that
// deploy/test installs.
func python(t *testing.T) string {
	t.Helper()
	for _, p := range []string{"python3", filepath.Join(top(t), ".cache", "venv", "bin", "python3")} {
		if exec.CommandContext(context.Background(), p, "-c", "import duckdb").Run() == nil {
			return p
		}
	}
	missing(t, "no python3 with DuckDB; run `deploy/test tools`, which installs it into .cache/venv")
	return ""
}

// missing skips what this machine cannot test; in CI that is a failure.
func missing(t *testing.T, what string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(what)
	}
	t.Skip(what)
}

// top is the top of the project.
func top(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs(filepath.Join("..", "..", "..", ".."))
	if err == nil {
		_, err = os.Stat(filepath.Join(dir, "go.mod"))
	}
	if err != nil {
		t.Fatalf("the top of the project is not where this test looks: %v", err)
	}
	return dir
}
