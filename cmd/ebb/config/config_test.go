package config

import (
	"errors"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// schedule stands in for the scheduler's parser.
func schedule(s string) error {
	if n := len(strings.Fields(s)); n != 5 {
		return errors.New("want five fields")
	}
	return nil
}

func mustLoad(t *testing.T, in Input) *Resolved {
	t.Helper()
	in.CheckSchedule = schedule
	r, err := Load(in)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// problems returns what is wrong, one "where: what" a line.
func problems(t *testing.T, in Input) string {
	t.Helper()
	in.CheckSchedule = schedule
	_, err := Load(in)
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("got error %v, want a list of problems", err)
	}
	var lines []string
	for _, p := range e.Problems {
		lines = append(lines, p.Where+": "+p.What)
	}
	return strings.Join(lines, "\n")
}

func TestDefaultsHold(t *testing.T) {
	r := mustLoad(t, Input{})
	for _, c := range []struct{ what, got, want any }{
		{"data", r.Data, "ebb-data"},
		{"keys file", r.KeysFile(), "ebb-data.keys.json"},
		{"public", r.Listen.Public, "127.0.0.1:8080"},
		{"checkpoint interval", r.Checkpoint.Interval, 30 * time.Second},
		{"checkpoint bytes", r.Checkpoint.Bytes, Bytes(32 << 20)},
		{"build", r.Build.Schedule, "* * * * *"},
		{"floor", r.ExportFloor, 1000},
		{"compress", r.Compress, true},
		{"origin", r.Origin(netip.MustParseAddrPort("127.0.0.1:8080")), "http://localhost:8080"},
	} {
		if c.got != c.want {
			t.Errorf("%s is %v, want %v", c.what, c.got, c.want)
		}
	}
	if w := r.Warnings(); len(w) > 0 {
		t.Errorf("the defaults warn: %q", w)
	}
}

// Each place wins over those before it, for every setting that has room for
// four different values.
func TestFlagsWinOverEnvironmentOverFileOverDefaults(t *testing.T) {
	in := Input{File: "f.yaml", Content: []byte("export_floor: 200\nlisten:\n  public: 127.0.0.1:1\n  partner: 127.0.0.1:2\n")}
	in.Environ = []string{"EBB_LISTEN_PUBLIC=127.0.0.1:11", "EBB_LISTEN_PARTNER=127.0.0.1:12", "HOME=/root"}
	in.Flags = map[string]string{"listen.public": "127.0.0.1:21"}
	r := mustLoad(t, in)
	want := map[string][2]string{
		"listen.public":  {"127.0.0.1:21", "--listen.public"},
		"listen.partner": {"127.0.0.1:12", "EBB_LISTEN_PARTNER"},
		"export_floor":   {"200", "f.yaml:1"},
		"listen.private": {"127.0.0.1:8082", "default"},
	}
	for _, s := range r.Settings() {
		if w, ok := want[s.Key]; ok && (s.Value != w[0] || s.From != w[1]) {
			t.Errorf("%s is %s from %s, want %s from %s", s.Key, s.Value, s.From, w[0], w[1])
		}
	}
	in.Content = append(in.Content, "  private: 127.0.0.1:3\n"...)
	for _, s := range mustLoad(t, in).Settings() {
		if s.Key == "listen.private" && s.From != "f.yaml:5" {
			t.Errorf("listen.private is from %s, want f.yaml:5", s.From)
		}
	}
}

func TestEverySettingHasHelpAndNamesOfItsOwn(t *testing.T) {
	envs := make(map[string]string)
	for _, f := range Fields() {
		if len(f.Help) < 20 || !strings.HasSuffix(f.Help, ".") || f.Value == "" {
			t.Errorf("%s: help %q, value %q", f.Key, f.Help, f.Value)
		}
		if other, ok := envs[f.Env]; ok {
			t.Errorf("%s and %s are both %s", f.Key, other, f.Env)
		}
		envs[f.Env] = f.Key
	}
	if len(envs) < 20 {
		t.Fatalf("only %d settings", len(envs))
	}
}

func TestUnknownKeysAreRefusedWithPlaceAndNearestKey(t *testing.T) {
	for _, c := range []struct {
		name string
		in   Input
		want string
	}{
		{"file", Input{File: "ebb.yaml", Content: []byte("# a comment\nexprot_floor: 7\n")},
			"ebb.yaml:2: there is no setting exprot_floor; did you mean export_floor?"},
		{"section", Input{File: "ebb.yaml", Content: []byte("listen:\n  public: 127.0.0.1:1\n  privat: 127.0.0.1:2\n")},
			"ebb.yaml:3: there is no setting listen.privat; did you mean listen.private?"},
		{"name of a section", Input{File: "ebb.yaml", Content: []byte("lisen:\n  public: 127.0.0.1:1\n")},
			"ebb.yaml:1: there is no setting lisen; did you mean listen?"},
		{"environment", Input{Environ: []string{"EBB_LISTEN_PUBLC=x"}},
			"EBB_LISTEN_PUBLC: there is no setting EBB_LISTEN_PUBLC; did you mean EBB_LISTEN_PUBLIC?"},
		{"flag", Input{Flags: map[string]string{"dtaa": "x"}},
			"--dtaa: there is no setting dtaa; did you mean --data?"},
		{"nothing near", Input{Environ: []string{"EBB_COMPLETELY_ELSEWHERE=1"}},
			"EBB_COMPLETELY_ELSEWHERE: there is no setting EBB_COMPLETELY_ELSEWHERE; `ebb config print` lists all"},
	} {
		if got := problems(t, c.in); got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.name, got, c.want)
		}
	}
}

func TestWhatSaysNothingIsNoFault(t *testing.T) {
	mustLoad(t, Input{Content: []byte("# all is\ntls:\n  # commented out\n")})
	mustLoad(t, Input{Environ: []string{"EBB_CONFIG=x", "EBB_LONG=1", "EBB_TEST_SEED=7", "EBBY=1"}})
}

func TestFaultsNameTheirPlace(t *testing.T) {
	for _, c := range []struct{ yaml, want string }{
		{"data: a\n\ndata: b\n", "f:3: data stands here for the second time; the first is in line 1"},
		{"listen: 127.0.0.1:1\n", "f:1: listen is a section; its settings stand below it, indented: listen.public, listen.partner, listen.private"},
		{"data:\n  dir: x\n", "f:1: data takes one value (DIR)"},
		{"data:\n", "f:1: data has no value; remove the line to have the default"},
		{"- data\n", "f:1: a configuration is a list of `key: value` lines"},
		{"data: a\n---\ndata: b\n", "f: a second document follows; a configuration is one"},
		{"data: [\n", "f: no YAML: line 1: did not find expected node content"},
		{"compress: maybe\n", `f:1: compress: "maybe" is neither true nor false`},
		{"checkpoint:\n  interval: 10\n", `f:2: checkpoint.interval: "10" is no duration; want a number with a unit, such as 30s or 5m`},
		{"checkpoint:\n  interval: 10m\n", "f:2: checkpoint.interval: 10m0s is out of range; want 1s to 30s"},
		{"checkpoint:\n  bytes: 64MiB\n", "f:2: checkpoint.bytes: 64MiB is out of range; want 1MiB to 32MiB"},
		{"log:\n  segment_bytes: 3 pounds\n", `f:2: log.segment_bytes: "3 pounds" is no size; want a whole number of bytes such as 1048576, or with KiB, MiB, GiB, TiB`},
		{"log:\n  max_bytes: 32MiB\n", "f:2: log.max_bytes: 32MiB is out of range; want 64MiB to 1024TiB"},
		{"trusted_proxies: 10.0.0.0/33\n", `f:1: trusted_proxies: "10.0.0.0/33" is no network; want an address and a length, such as 10.0.0.0/8 or fd00::/8`},
		{"trusted_proxies: [10.1.2.3]\n", `f:1: trusted_proxies: "10.1.2.3" is an address; as a network it is 10.1.2.3/32`},
		{"trusted_proxies:\n  - 10.1.2.3/8\n", `f:1: trusted_proxies: "10.1.2.3/8" has bits beyond its length; the network is 10.0.0.0/8`},
		{"trusted_proxies:\n  - {a: b}\n", "f:2: trusted_proxies: an entry is one network"},
		{"build:\n  schedule: often\n", "f:2: build.schedule: want five fields"},
		{"ack: quorum\n", "f:1: ack: quorum needs store: cassandra, and the embedded store is one node; set ack: local"},
		{"listen:\n  public: localhost\n", `f:2: listen.public: "localhost" is no address; want host:port, such as 127.0.0.1:8080`},
		{"listen:\n  public: localhost:http\n", `f:2: listen.public: "localhost:http": the port must be a number from 0 to 65535`},
		{"listen:\n  public: ebb.example:80\n", `f:2: listen.public: "ebb.example:80": the host must be an address of this machine, or localhost, or empty for all`},
		{"listen:\n  partner: 127.0.0.1:8080\n", "f:2: listen.partner: 127.0.0.1:8080 is taken by listen.public; the listeners are for different callers and each needs its own port"},
		{"tls:\n  cert: a.pem\n", "f:2: tls.cert: is set without tls.key; set both or neither"},
		{"tls:\n  key: a.pem\n", "f:2: tls.key: is set without tls.cert; set both or neither"},
		{"public_origin: data.example\n", `f:1: public_origin: "data.example" is no origin; want scheme and host, such as https://data.shop.example`},
		{"public_origin: https://data.example/ebb\n", `f:1: public_origin: "https://data.example/ebb" is more than an origin; want https://data.example`},
		{"public_origin: http://data.example\n", `f:1: public_origin: "http://data.example": browsers take Ebb's cookies (__Host-…) over https only, or from http://localhost`},
		{"data: /srv/ebb\nkeys: /srv/ebb/keys.json\n", "f:2: keys: /srv/ebb/keys.json lies in the data directory, so that a backup of the data would hold its keys; put it beside it"},
		{"data: /srv/ebb\nerasures_journal: /srv/ebb/sub/../j\n", "f:2: erasures_journal: /srv/ebb/sub/../j lies in the data directory, which has a journal already; name a second place, best on another disk"},
		{"export_floor: 0\n", "f:1: export_floor: 0 is out of range; want at least 1"},
		{"messages:\n  level: loud\n", `f:2: messages.level: "loud" is not one of debug, info, warn, error`},
	} {
		if got := problems(t, Input{File: "f", Content: []byte(c.yaml)}); got != c.want {
			t.Errorf("%q:\n got %s\nwant %s", c.yaml, got, c.want)
		}
	}
}

func TestAllFaultsAreToldAtOnce(t *testing.T) {
	got := problems(t, Input{File: "f", Content: []byte("ack: x\nstore: y\n"), Environ: []string{"EBB_COMPRESS=x"}, Flags: map[string]string{"export_floor": "z"}})
	if n := strings.Count(got, "\n") + 1; n != 4 {
		t.Errorf("got %d problems, want 4:\n%s", n, got)
	}
}

func TestSecretsAreNeverShown(t *testing.T) {
	r := mustLoad(t, Input{Environ: []string{"EBB_ADMIN_KEY=hunter2"}})
	if r.AdminKey != "hunter2" {
		t.Fatal("the key did not arrive")
	}
	for _, s := range r.Settings() {
		if strings.Contains(s.Value, "hunter2") {
			t.Errorf("%s shows the secret", s.Key)
		}
		if s.Key == "admin_key" && s.Value != "(set)" {
			t.Errorf("admin_key is shown as %q", s.Value)
		}
	}
}

func TestWarnings(t *testing.T) {
	for _, c := range []struct {
		name, yaml, key string
	}{
		{"open without TLS", "listen: {public: '0.0.0.0:80'}", "listen.public"},
		{"open on all without TLS", "listen: {partner: ':81'}", "listen.partner"},
		{"open on a v6 address", "listen: {public: '[2001:db8::1]:80'}", "listen.public"},
		{"private open even with TLS", "listen: {private: '10.0.0.1:82'}\ntls: {cert: c, key: k}", "listen.private"},
		{"everyone is a proxy", "trusted_proxies: 0.0.0.0/0\npublic_origin: https://x.example", "trusted_proxies"},
		{"a proxy without origin", "trusted_proxies: 10.0.0.0/8", "public_origin"},
		{"low floor", "export_floor: 49", "export_floor"},
		{"key in a file", "admin_key: x", "admin_key"},
	} {
		w := mustLoad(t, Input{File: "f", Content: []byte(c.yaml)}).Warnings()
		if len(w) == 0 || !strings.HasPrefix(w[0], c.key+": ") {
			t.Errorf("%s: got %q, want a warning of %s", c.name, w, c.key)
		}
	}
	quiet := "listen: {public: '0.0.0.0:443', partner: '0.0.0.0:444', private: '[::1]:82'}\ntls: {cert: c, key: k}"
	r := mustLoad(t, Input{File: "f", Content: []byte(quiet)})
	if w := r.Warnings(); len(w) > 0 {
		t.Errorf("got %q, want no warning", w)
	}
	if !r.Secure("public") || !r.Secure("partner") || r.Secure("private") {
		t.Error("want TLS for public and partner, none for a private listener on loopback")
	}
}

func TestSizesRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := Bytes(rapid.Int64Min(0).Draw(t, "bytes"))
		if got, err := ParseBytes(b.String()); err != nil || got != b {
			t.Fatalf("%d printed as %s reads as %d, %v", b, b, got, err)
		}
	})
	for _, s := range []string{"", "-1", "1.5MiB", "MiB", "9223372036854775808", "8388608TiB", "1MB", "1 MiB x"} {
		if b, err := ParseBytes(s); err == nil {
			t.Errorf("%q reads as %d", s, b)
		}
	}
}

// Whatever a value is, what is printed of it reads to the same.
func TestWhatIsPrintedLoadsToTheSame(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var in Config
		in.Data = "d" + rapid.StringMatching(`[a-z:#'" ]{0,8}`).Draw(t, "data")
		in.ExportFloor = rapid.IntRange(1, 1e6).Draw(t, "floor")
		in.Compress = rapid.Bool().Draw(t, "compress")
		in.Checkpoint.Interval = time.Duration(rapid.Int64Range(1e9, 30e9).Draw(t, "interval"))
		in.Log.SegmentBytes = Bytes(rapid.Int64Range(1<<20, 1<<30).Draw(t, "segment"))
		for range rapid.IntRange(0, 3).Draw(t, "n") {
			a := netip.AddrFrom4([4]byte{10, rapid.Byte().Draw(t, "b"), 0, 0})
			in.Proxies = append(in.Proxies, netip.PrefixFrom(a, 16))
		}
		flags := make(map[string]string)
		for _, f := range fields {
			v := reflect.ValueOf(&in).Elem().FieldByIndex(f.index)
			if !v.IsZero() {
				flags[f.Key] = text(v)
			}
		}
		flags["compress"] = text(reflect.ValueOf(in.Compress))
		r, err := Load(Input{Flags: flags})
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range fields {
			got := reflect.ValueOf(&r.Config).Elem().FieldByIndex(f.index)
			want := reflect.ValueOf(&in).Elem().FieldByIndex(f.index)
			if _, given := flags[f.Key]; given && !reflect.DeepEqual(got.Interface(), want.Interface()) {
				t.Fatalf("%s: got %v, want %v", f.Key, got, want)
			}
		}
	})
}

func FuzzLoad(f *testing.F) {
	f.Add([]byte("listen:\n  public: 127.0.0.1:0\ntrusted_proxies: [10.0.0.0/8]\n"))
	f.Add([]byte("a: &a [*a]\n"))
	f.Add([]byte("<<: {data: x}\n"))
	f.Add([]byte("data: !!binary aGk=\n? [x]\n: y\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := Load(Input{File: "f", Content: b, CheckSchedule: schedule})
		var e *Error
		switch {
		case err == nil:
			if len(r.Settings()) != len(fields) || r.Data == "" {
				t.Error("loaded without all settings")
			}
		case !errors.As(err, &e) || len(e.Problems) == 0:
			t.Errorf("refused without a problem: %v", err)
		}
	})
}
