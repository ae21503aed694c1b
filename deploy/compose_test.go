package deploy

import (
	"regexp"
	"slices"
	"testing"
)

// Every setting that compose.yaml gives to Ebb is one, and with them the settings
// hold. deploy/compat reads the file as Docker does.
func TestComposeGivesSettingsThatHold(t *testing.T) {
	var environ []string
	for _, m := range regexp.MustCompile(`(?m)^\s+(EBB_[A-Z_]+): (\S+)$`).FindAllSubmatch(read(t, "compose.yaml"), -1) {
		environ = append(environ, string(m[1])+"="+string(m[2]))
	}
	nodes := regexp.MustCompile(`EBB_NODE: (\S+?)[,}](?: EBB_ROLES: (\S+?)[}])?`).FindAllSubmatch(read(t, "compose.yaml"), -1)
	if len(environ) < 4 || len(nodes) != 3 {
		t.Fatalf("the file gives %q and names %d nodes; is the test blind?", environ, len(nodes))
	}
	if !slices.Contains(environ, "EBB_STORE=cassandra") {
		t.Errorf("the store is not Cassandra: %q", environ)
	}
	builders := 0
	for _, n := range nodes {
		own := append(slices.Clone(environ), "EBB_DATA=/var/lib/ebb/data", "EBB_NODE="+string(n[1]))
		if len(n[2]) > 0 {
			own = append(own, "EBB_ROLES="+string(n[2]))
		}
		r := load(t, nil, own)
		if !r.Cluster() || len(r.Cassandra.Hosts) != 3 || r.Cassandra.DataCenter != "dc1" {
			t.Errorf("%s: %+v", n[1], r.Cassandra)
		}
		if copies, err := r.Cassandra.Copies(); err != nil || copies["dc1"] != 3 {
			t.Errorf("%s: %v copies, %v", n[1], copies, err)
		}
		if r.Has("builder") {
			builders++
		}
	}
	if builders < 2 {
		t.Errorf("%d nodes may build; with one nobody takes its place", builders)
	}
}
