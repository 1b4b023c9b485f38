package config

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

var rewrite = flag.Bool("rewrite", false, "write what tests compare with anew")

// buildkitd returns the keys and the flags of buildkitd.
func buildkitd(t *testing.T) (keys, flags []string) {
	t.Helper()
	text, err := os.ReadFile("testdata/buildkitd.txt")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if name, ok := strings.CutPrefix(line, "--"); ok {
			flags = append(flags, name)
		} else if !strings.HasPrefix(line, "#") {
			keys = append(keys, line)
		}
	}
	return keys, flags
}

// The table has every key of buildkitd's once, with a reason for each that changes nothing.
func TestKeysOfBuildkitd(t *testing.T) {
	want, wantFlags := buildkitd(t)
	seen := map[string]bool{}
	for _, k := range Keys {
		if seen[k.Name] {
			t.Errorf("%s is there twice", k.Name)
		}
		seen[k.Name] = true
		if (k.Use == Honoured) != (k.Note == "") {
			t.Errorf("%s is %s, and the reason is %q", k.Name, k.Use, k.Note)
		}
	}
	for _, k := range want {
		if !seen[k] {
			t.Errorf("buildkitd.toml has %s, and the table has not", k)
		}
		delete(seen, k)
	}
	for _, k := range ownKeys {
		delete(seen, k.Name)
	}
	for k := range seen {
		t.Errorf("%s is neither buildkitd's nor our own", k)
	}
	fs := pflag.NewFlagSet("", pflag.ContinueOnError)
	NewDaemon(fs, env(0, nil))
	for _, f := range wantFlags {
		if fs.Lookup(f) == nil {
			t.Errorf("buildkitd has --%s, and boxbuildd has not", f)
		}
	}
	for _, f := range Flags {
		if f.Note == "" {
			t.Errorf("--%s has no text", f.Name)
		}
	}
}

// fields are the keys that a type is read from.
func fields(typ reflect.Type, prefix string) []string {
	switch typ.Kind() {
	case reflect.Pointer:
		return fields(typ.Elem(), prefix)
	case reflect.Slice:
		if typ.Elem().Kind() == reflect.Struct {
			return fields(typ.Elem(), prefix)
		}
	case reflect.Map:
		return fields(typ.Elem(), prefix+".*")
	case reflect.Struct:
		if typ == reflect.TypeFor[Space]() {
			break
		}
		var out []string
		for i := range typ.NumField() {
			f := typ.Field(i)
			tag := f.Tag.Get("toml")
			if f.Anonymous {
				out = append(out, fields(f.Type, prefix)...)
			} else if tag != "" && tag != "-" {
				out = append(out, fields(f.Type, strings.TrimPrefix(prefix+"."+tag, "."))...)
			}
		}
		return out
	default: // a value
	}
	return []string{prefix}
}

// What is honoured is what is read: no key is called so that nothing reads, and none is read that is called otherwise.
func TestHonouredKeysAreRead(t *testing.T) {
	var want []string
	for _, k := range Keys {
		if k.Use == Honoured {
			want = append(want, k.Name)
		}
	}
	got := fields(reflect.TypeFor[Daemon](), "")
	// One type stands for both frontends.
	got = slices.DeleteFunc(got, func(k string) bool { return k == "frontend.dockerfile.v0.allowedRepositories" })
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		for _, k := range got {
			if !slices.Contains(want, k) {
				t.Errorf("%s is read, and is not honoured by the table", k)
			}
		}
		for _, k := range want {
			if !slices.Contains(got, k) {
				t.Errorf("%s is honoured by the table, and not read", k)
			}
		}
	}
}

// Every unknown key is named with its line, and nothing else is.
func TestUnknownKeys(t *testing.T) {
	d := NewDaemon(pflag.NewFlagSet("", pflag.ContinueOnError), env(0, nil))
	err := d.readFile("testdata/unknown.toml", true)
	if err == nil {
		t.Fatal("there is no error")
	}
	got := strings.ReplaceAll(err.Error(), "testdata/", "") + "\n"
	const golden = "testdata/unknown.golden"
	if *rewrite {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

// A key or flag that changes nothing here is taken, and the user is told; one that says what is so anyway is taken; and one
// that asks for what would not be done is an error.
func TestUse(t *testing.T) {
	for _, c := range []struct {
		text    string
		args    []string
		warning string // of which there is just one
		err     string
	}{
		{text: "[worker.oci]\nbinary = \"crun\"\n", warning: "boxbuildd.toml:2: worker.oci.binary has no effect: boxshim starts the steps"},
		{text: "[worker.oci.stargzSnapshotter.blob]\nvalid = true\n", warning: "worker.oci.stargzSnapshotter.blob.valid has no effect"},
		{text: "[ghacache.verify.policy]\ntimestampThreshold = 1\n", warning: "boxbuildd.toml:2: ghacache.verify.policy.timestampThreshold has no effect"},
		{text: "[cache.gha.verify.policy]\n[cache.gha.verify.policy.more]\ntlogThreshold = 1\n", warning: "boxbuildd.toml:3: cache.gha.verify.policy.more.tlogThreshold has no effect"},
		{text: "[worker.oci.stargzSnapshotter.blob.a]\nvalid = true\n", warning: "stargzSnapshotter.blob.a.valid has no effect"},
		{text: "[ghacache.verify.polic.y]\nx = 1\n[ghacach.verify.policy]\n", err: "boxbuildd.toml:3: unknown key ghacach.verify.policy", warning: "ghacache.verify.polic.y.x"},
		{text: "[worker.containerd]\nenabled = false\n"},
		{text: "[worker.containerd]\nenabled = true\n", err: "boxbuildd.toml:2: worker.containerd.enabled true is not supported: boxbuild needs no containerd"},
		{text: "worker.containerd.enabled = true\n", err: "boxbuildd.toml:1: worker.containerd.enabled true is not supported"},
		{text: "worker = {containerd = {enabled = true}}\n", err: "boxbuildd.toml:1: worker.containerd.enabled true is not supported"},
		{text: "[worker.oci]\nenabled = false\n", err: "worker.oci.enabled false is not supported: there is one worker"},
		{text: "[worker.oci]\nselinux = true\n", err: "no AppArmor or SELinux profile is applied"},
		{text: "proxyNetwork = true\n", err: "cannot be forced through a proxy"},
		{text: "[worker.oci]\nselinux = false\napparmor-profile = \"\"\n"},
		{args: []string{"--containerd-worker=true"}, err: "--containerd-worker true is not supported: boxbuild needs no containerd"},
		{args: []string{"--containerd-worker=false", "--oci-worker=true", "--oci-worker-selinux=false"}},
		{args: []string{"--oci-worker=false"}, err: "--oci-worker false is not supported"},
		{args: []string{"--oci-worker-net", "host"}, warning: "--oci-worker-net has no effect: boxbuild makes the networks"},
		{args: []string{"--rootless"}, warning: "--rootless has no effect"},
		{args: []string{"--oci-worker-labels", "nonsense"}, err: `--oci-worker-labels: "nonsense" is not name=value`},
		{args: []string{"--oci-worker-gc-keepstorage", "1,2,3,4"}, err: "is not Reserved[,Free[,Maximum]]"},
	} {
		d, err := load(t, c.text, c.args...)
		what := fmt.Sprintf("%q %q", c.text, c.args)
		if c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
			t.Errorf("%s: got error %v, want %q", what, err, c.err)
		}
		if c.warning == "" && len(d.Warnings) > 0 || c.warning != "" && (len(d.Warnings) != 1 || !strings.Contains(d.Warnings[0], c.warning)) {
			t.Errorf("%s: got warnings %q, want %q", what, d.Warnings, c.warning)
		}
	}
}

// A file and a command line for buildkitd come to the same configuration as our own words.
func TestBuildkitdConfiguration(t *testing.T) {
	dir := t.TempDir()
	for _, f := range []string{"ca.crt", "a.cert", "a.key"} {
		if err := os.WriteFile(filepath.Join(dir, f), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	d, err := load(t, `
trace = true
insecure-entitlements = ["security.insecure"]
[log]
format = "json"
[grpc]
address = ["tcp://127.0.0.1:1234", "unix:///run/x.sock"]
debugAddress = "127.0.0.1:6060"
uid = 1
gid = 2
[history]
maxAge = 172800
maxEntries = 9
[worker.oci]
snapshotter = "overlayfs"
max-parallelism = 4
defaultCgroupParent = "p"
cniPoolSize = 7
bridgeSubnet = "10.20.0.0/16"
platforms = ["linux/arm64"]
[worker.oci.labels]
"a.b" = "c"
[registry."x"]
tlsconfigdir = ["`+dir+`"]
[frontend."gateway.v0"]
enabled = false
`, "--oci-max-parallelism", "5", "--oci-worker-labels", "d=e", "--debug-addr", "127.0.0.1:6061")
	if err != nil {
		t.Fatal(err)
	}
	if d.Log.Level != "debug" || d.Log.Format != "json" || d.MaxParallelism != 5 || d.Snapshotter != "overlay" ||
		d.CgroupParent != "/p" || d.Network != (Network{Subnet: "10.20.0.0/16", Pool: 7}) ||
		!slices.Equal(d.Addrs, []string{"tcp://127.0.0.1:1234", "unix:///run/x.sock"}) ||
		d.GRPC.DebugAddress != "127.0.0.1:6061" || *d.GRPC.UID != 1 || *d.GRPC.GID != 2 ||
		d.History != (History{MaxAge: Duration(48 * 3600 * 1e9), MaxEntries: 9}) ||
		d.Frontends.Gateway.On() || !d.Frontends.Dockerfile.On() {
		t.Errorf("got %+v", d)
	}
	if w := d.Worker.OCI; w.Labels["a.b"] != "c" || w.Labels["d"] != "e" || w.Platforms[0] != "linux/arm64" {
		t.Errorf("got labels %v, platforms %v", w.Labels, w.Platforms)
	}
	if r := d.Registries["x"]; len(r.CA) != 1 || len(r.KeyPair) != 1 ||
		r.KeyPair[0] != (KeyPair{Cert: filepath.Join(dir, "a.cert"), Key: filepath.Join(dir, "a.key")}) {
		t.Errorf("got registry %+v", r)
	}
}

// FuzzFile checks that no file makes the reader do anything but succeed or say what is wrong.
func FuzzFile(f *testing.F) {
	text, err := os.ReadFile("testdata/unknown.toml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(text))
	f.Add("a.b.\"c\" = [{d = 1}, [2]]\n[[registry.x.keypair]]\nkey = 'k'")
	f.Fuzz(func(t *testing.T, text string) {
		path := filepath.Join(t.TempDir(), "f.toml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		d := NewDaemon(pflag.NewFlagSet("", pflag.ContinueOnError), env(0, nil))
		if err := d.readFile(path, true); err == nil {
			d.merge()
			_ = d.Validate() // whatever it says
		}
	})
}
