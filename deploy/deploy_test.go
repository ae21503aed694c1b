// Package deploy holds what an operator copies. Its tests see to it that a copy
// works.
package deploy

import (
	"bytes"
	"debug/elf"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/ebb-dmp/ebb/cmd/ebb/app"
	"github.com/ebb-dmp/ebb/cmd/ebb/config"
)

func read(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func load(t *testing.T, content []byte, environ []string) *config.Resolved {
	t.Helper()
	r, err := config.Load(config.Input{File: "ebb.yaml", Content: content, Environ: environ, CheckSchedule: app.CheckSchedule})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// The example is the defaults written out, but for where the data lies.
func TestExampleConfigurationIsTheDefaults(t *testing.T) {
	got := load(t, read(t, "examples/ebb.yaml"), nil)
	want := load(t, nil, []string{"EBB_DATA=/var/lib/ebb/data"})
	if !reflect.DeepEqual(got.Config, want.Config) {
		t.Errorf("the example and the defaults differ:\n%+v\n%+v", got.Config, want.Config)
	}
	if w := got.Warnings(); len(w) > 0 {
		t.Errorf("the example warns: %q", w)
	}
}

// With every commented setting switched on it still holds, and then it has all
// settings there are.
func TestExampleConfigurationHasEverySetting(t *testing.T) {
	on := regexp.MustCompile(`(?m)^(\s*)#(\S)`).ReplaceAll(read(t, "examples/ebb.yaml"), []byte("$1$2"))
	on = bytes.Replace(on, []byte("store: embedded"), []byte("store: cassandra"), 1) // whose settings go with no other
	for _, s := range load(t, on, nil).Settings() {
		if !strings.HasPrefix(s.From, "ebb.yaml:") {
			t.Errorf("%s is not in the example", s.Key)
		}
	}
}

// unit reads a systemd unit: by section, the values of each key in order.
func unit(t *testing.T, b []byte) map[string]map[string][]string {
	t.Helper()
	out := make(map[string]map[string][]string)
	section := ""
	for i, line := range strings.Split(string(b), "\n") {
		line = strings.TrimSpace(line)
		switch {
		case line == "" || line[0] == '#':
		case line[0] == '[' && strings.HasSuffix(line, "]"):
			section = line[1 : len(line)-1]
			out[section] = make(map[string][]string)
		default:
			key, value, ok := strings.Cut(line, "=")
			if !ok || section == "" {
				t.Fatalf("line %d is neither a section nor key=value: %q", i+1, line)
			}
			out[section][key] = append(out[section][key], value)
		}
	}
	return out
}

func TestServiceRunsThisProgramWithNothingToSpare(t *testing.T) {
	u := unit(t, read(t, "ebb.service"))
	s := u["Service"]
	if got := strings.Join(s["ExecStart"], ""); got != "/usr/local/bin/ebb serve --config /etc/ebb/ebb.yaml" {
		t.Errorf("ExecStart is %q", got)
	}
	for key, want := range map[string]string{
		"DynamicUser": "yes", "NoNewPrivileges": "yes", "ProtectSystem": "strict", "ProtectHome": "yes", "PrivateDevices": "yes",
		"CapabilityBoundingSet": "", "MemoryDenyWriteExecute": "yes", "RestrictNamespaces": "yes", "UMask": "0077", "KillSignal": "SIGTERM",
	} {
		if got, ok := s[key]; !ok || got[0] != want {
			t.Errorf("%s is %q, want %q", key, got, want)
		}
	}
	// The example that README.md installs beside it lies where it may write.
	data := load(t, read(t, "examples/ebb.yaml"), nil).Data
	if state := "/var/lib/" + s["StateDirectory"][0]; !strings.HasPrefix(data, state+"/") {
		t.Errorf("the example keeps data in %s, the unit may write %s only", data, state)
	}
	if u["Install"]["WantedBy"] == nil {
		t.Error("nothing wants the unit, so that enabling it does nothing")
	}
}

// systemd's own judgement, where there is systemd.
func TestSystemdFindsTheServiceHardened(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("no systemd here; TestServiceRunsThisProgramWithNothingToSpare reads the unit")
	}
	// 15 of 100: what is left is that a server reaches the network.
	out, err := exec.Command(analyze, "security", "--offline=true", "--threshold=15", "--no-pager", "ebb.service").CombinedOutput()
	if err != nil {
		t.Errorf("systemd-analyze security: %v\n%s", err, out)
	}
	// The binary is not installed on this machine; any that exists will do.
	file := filepath.Join(t.TempDir(), "ebb.service")
	b := bytes.ReplaceAll(read(t, "ebb.service"), []byte("/usr/local/bin/ebb serve"), []byte("/bin/true serve"))
	if err := os.WriteFile(file, b, 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(analyze, "verify", "--man=no", file).CombinedOutput(); err != nil || len(bytes.TrimSpace(out)) > 0 {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
}

// instruction is one of a Dockerfile.
type instruction struct{ name, args string }

// stages reads a Dockerfile into its stages.
func stages(t *testing.T, b []byte) (out [][]instruction) {
	t.Helper()
	joined := strings.ReplaceAll(string(b), "\\\n", " ")
	for _, line := range strings.Split(joined, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		name, args, _ := strings.Cut(line, " ")
		if name == "FROM" {
			out = append(out, nil)
		}
		if len(out) == 0 {
			t.Fatalf("%q stands before the first FROM", line)
		}
		out[len(out)-1] = append(out[len(out)-1], instruction{name, strings.TrimSpace(args)})
	}
	return out
}

func TestImageIsOneStaticBinaryOfAnUnprivilegedUser(t *testing.T) {
	all := stages(t, read(t, "Dockerfile"))
	if len(all) != 2 {
		t.Fatalf("%d stages, want 2", len(all))
	}
	build, image := all[0], all[1]
	get := func(stage []instruction, name string) (args []string) {
		for _, i := range stage {
			if i.name == name {
				args = append(args, i.args)
			}
		}
		return args
	}

	mod := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindSubmatch(read(t, "../go.mod"))
	if from := get(build, "FROM")[0]; !strings.HasPrefix(from, "golang:"+string(mod[1])+"-") {
		t.Errorf("built by %q, go.mod wants Go %s", from, mod[1])
	}
	if !slices.ContainsFunc(get(build, "RUN"), func(s string) bool {
		return strings.HasPrefix(s, "CGO_ENABLED=0 go build -trimpath") && strings.HasSuffix(s, "./cmd/ebb")
	}) {
		t.Error("no step builds the program without cgo")
	}
	if from := get(image, "FROM")[0]; from != "scratch" {
		t.Errorf("the image begins with %q, want scratch", from)
	}
	if len(get(image, "RUN")) > 0 {
		t.Error("the image has no shell to RUN anything")
	}
	if user := get(image, "USER"); len(user) != 1 || !regexp.MustCompile(`^[1-9]\d*:[1-9]\d*$`).MatchString(user[0]) {
		t.Errorf("USER is %q, want a number other than 0", user)
	}
	for _, name := range []string{"ENTRYPOINT", "CMD"} {
		if args := get(image, name); len(args) != 1 || args[0][0] != '[' {
			t.Errorf("%s is %q, want the form of a list: signals must reach the program", name, args)
		}
	}

	// Its settings hold, and what it exposes is where it listens.
	r := load(t, nil, get(image, "ENV"))
	ports := strings.Fields(get(image, "EXPOSE")[0])
	for i, addr := range []string{r.Listen.Public, r.Listen.Partner, r.Listen.Private} {
		if addr != "0.0.0.0:"+ports[i] {
			t.Errorf("listens on %s, exposes %s", addr, ports[i])
		}
	}
	if volume := get(image, "VOLUME")[0]; !strings.HasPrefix(r.Data, volume+"/") || !strings.HasPrefix(r.KeysFile(), volume+"/") {
		t.Errorf("data in %s and keys in %s are not in the volume %s", r.Data, r.KeysFile(), volume)
	}
}

// A mistyped part must not pass for a run without faults.
func TestTestCommandsRefuseWhatTheyDoNotKnow(t *testing.T) {
	for _, script := range []string{"./test", "../.ci/run"} {
		out, err := exec.Command("bash", script, "nonsense").CombinedOutput()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 2 || !bytes.Contains(out, []byte("nonsense")) {
			t.Errorf("%s nonsense: %v, want status 2 and its name\n%s", script, err, out)
		}
		if bytes.Contains(out, []byte("all parts passed")) {
			t.Errorf("%s nonsense claims success:\n%s", script, out)
		}
	}
}

// scratch has no loader, so the binary may not ask for one. Built without -trimpath,
// which has no part in that: with it every package, Pebble's and Go's own too, would
// be compiled once more.
func TestBinaryNeedsNoOtherFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ebb")
	cmd := exec.Command("go", "build", "-o", file, "../cmd/ebb")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	f, err := elf.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			t.Error("the binary is linked dynamically")
		}
	}
}
