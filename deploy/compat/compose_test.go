package compat

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
)

// load reads compose.yaml as `docker compose` does.
func load(t *testing.T) *types.Project {
	t.Helper()
	o, err := cli.NewProjectOptions([]string{"../compose.yaml"}, cli.WithOsEnv, cli.WithResolvedPaths(true))
	if err != nil {
		t.Fatal(err)
	}
	p, err := o.LoadProject(context.Background())
	if err != nil {
		t.Fatalf("docker compose would not take it: %v", err)
	}
	return p
}

func TestComposeIsThreeNodesOfCassandraAndThreeOfEbb(t *testing.T) {
	p := load(t)
	cassandra, ebb := 0, 0
	taken := map[string]string{}
	for name, s := range p.Services {
		switch {
		case strings.HasPrefix(name, "cassandra-"):
			cassandra++
			if s.HealthCheck == nil || s.Environment["CASSANDRA_DC"] == nil || *s.Environment["CASSANDRA_DC"] != "dc1" || len(s.Volumes) != 1 {
				t.Errorf("%s: %+v", name, s)
			}
			if len(s.Ports) > 0 {
				t.Errorf("%s is open to the outside", name)
			}
		case strings.HasPrefix(name, "ebb-"):
			ebb++
			if v := s.Environment["EBB_NODE"]; v == nil || *v != name {
				t.Errorf("%s is called otherwise", name)
			}
			if len(s.Volumes) != 2 {
				t.Errorf("%s: its log needs a volume of its own, beside the keys", name)
			}
			if d, ok := s.DependsOn["init"]; !ok || d.Condition != types.ServiceConditionCompletedSuccessfully {
				t.Errorf("%s does not wait for the installation", name)
			}
		}
		if s.Build != nil {
			if _, err := os.Stat(filepath.Join(s.Build.Context, s.Build.Dockerfile)); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		for _, port := range s.Ports {
			if by := taken[port.Published]; by != "" {
				t.Errorf("%s and %s publish port %s", by, name, port.Published)
			}
			taken[port.Published] = name
			// The partner's and the private listener are for this machine.
			if port.Target != 8080 && port.HostIP != "127.0.0.1" {
				t.Errorf("%s publishes port %d to everybody", name, port.Target)
			}
		}
	}
	if cassandra != 3 || ebb != 3 {
		t.Errorf("%d nodes of Cassandra and %d of Ebb, want 3 and 3", cassandra, ebb)
	}
}

// Nobody waits for somebody who waits for him, and nodes join one by one.
func TestComposeStartsInOrder(t *testing.T) {
	p := load(t)
	var depth func(name string, seen map[string]bool) int
	depth = func(name string, seen map[string]bool) int {
		if seen[name] {
			t.Fatalf("%s waits for itself", name)
		}
		seen[name] = true
		defer delete(seen, name)
		most := 0
		for on := range p.Services[name].DependsOn {
			most = max(most, 1+depth(on, seen))
		}
		return most
	}
	for name, want := range map[string]int{"cassandra-1": 0, "cassandra-2": 1, "cassandra-3": 2, "schema": 3, "init": 4, "ebb-1": 5, "ebb-3": 5, "keys": 0} {
		if got := depth(name, map[string]bool{}); got != want {
			t.Errorf("%s starts after %d others, want %d", name, got, want)
		}
	}
}

// The entry point changes Cassandra's own file as it must.
func TestComposeSetsTheCommitLog(t *testing.T) {
	p := load(t)
	script := p.Services["cassandra-1"].Entrypoint[2]
	file := filepath.Join(t.TempDir(), "cassandra.yaml")
	// As Cassandra 5.0 ships them.
	const shipped = "# commitlog_sync: group\n# commitlog_sync_group_window: 1000ms\ncommitlog_sync: periodic\ncommitlog_sync_period: 10000ms\nconcurrent_reads: 32\nconcurrent_writes: 32\n"
	if err := os.WriteFile(file, []byte(shipped), 0o600); err != nil {
		t.Fatal(err)
	}
	script = strings.ReplaceAll(script, "/etc/cassandra/cassandra.yaml", file)
	script = strings.ReplaceAll(script, "exec docker-entrypoint.sh cassandra -f", "true")
	if out, err := exec.Command("bash", "-ec", script).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	count := map[string]int{}
	for line := range strings.Lines(string(b)) {
		count[strings.TrimSpace(line)]++
	}
	for _, want := range []string{"commitlog_sync: group", "commitlog_sync_group_window: 10ms", "concurrent_writes: 128"} {
		if count[want] != 1 {
			t.Errorf("%q stands there %d times:\n%s", want, count[want], b)
		}
	}
	if strings.Contains(string(b), "periodic") || strings.Contains(string(b), "commitlog_sync_period") {
		t.Errorf("the default is still there:\n%s", b)
	}
}
