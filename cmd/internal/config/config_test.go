package config

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
)

func env(uid int, vars map[string]string) Env {
	return Env{UID: uid, Home: "/home/u", Lookup: func(k string) (string, bool) { v, ok := vars[k]; return v, ok }}
}

// Client and daemon come to the same root and address from the same flags and environment.
func TestAddress(t *testing.T) {
	long := "/" + strings.Repeat("x", 120)
	type vars = map[string]string
	for _, c := range []struct {
		name       string
		uid        int
		vars       vars
		args       []string
		root, addr string
		start      bool
	}{
		{"root's default", 0, nil, nil, "/var/lib/boxbuild", "unix:///run/boxbuild/boxbuild.sock", true},
		{
			"user's default", 7,
			vars{"XDG_RUNTIME_DIR": "/run/user/7", "XDG_DATA_HOME": "/data"},
			nil,
			"/data/boxbuild", "unix:///run/user/7/boxbuild/boxbuild.sock", true,
		},
		{"user without XDG", 987654, nil, nil, "/home/u/.local/share/boxbuild", "unix:///home/u/.local/share/boxbuild/boxbuild.sock", true},
		{"root flag", 0, nil, []string{"--root", "/r"}, "/r", "unix:///r/boxbuild.sock", true},
		{"default as flag", 0, nil, []string{"--root", "/var/lib/boxbuild"}, "/var/lib/boxbuild", "unix:///run/boxbuild/boxbuild.sock", true},
		{"root variable", 0, vars{"BOXBUILD_ROOT": "/v"}, nil, "/v", "unix:///v/boxbuild.sock", true},
		{"addr flag", 0, vars{"BOXBUILD_ADDR": "unix:///e"}, []string{"--addr", "unix:///f"}, "/var/lib/boxbuild", "unix:///f", false},
		{"addr variable", 0, vars{"BOXBUILD_ADDR": "unix:///e"}, nil, "/var/lib/boxbuild", "unix:///e", false},
		{"addr variable with root flag", 0, vars{"BOXBUILD_ADDR": "unix:///e"}, []string{"--root", "/r"}, "/r", "unix:///r/boxbuild.sock", true},
		{"both flags", 0, vars{"BOXBUILD_ADDR": "unix:///e"}, []string{"--root", "/r", "--addr", "unix:///f"}, "/r", "unix:///f", false},
		{"long root", 0, nil, []string{"--root", long}, long, "unix:///run/boxbuild/", true},
	} {
		fs := pflag.NewFlagSet("", pflag.ContinueOnError)
		client := NewClient(fs, env(c.uid, c.vars))
		if err := fs.Parse(c.args); err != nil {
			t.Fatal(err)
		}
		if err := client.Load(); err != nil {
			t.Errorf("%s: client: %v", c.name, err)
		}
		if client.Root != c.root || !strings.HasPrefix(client.Addr, c.addr) || client.Start != c.start {
			t.Errorf("%s: client has %s, %s, %v", c.name, client.Root, client.Addr, client.Start)
		}
		fs = pflag.NewFlagSet("", pflag.ContinueOnError)
		daemon := NewDaemon(fs, env(c.uid, c.vars))
		if err := fs.Parse(append(c.args, "--config", "/dev/null")); err != nil {
			t.Fatal(err)
		}
		if err := daemon.Load(fs); err != nil {
			t.Errorf("%s: daemon: %v", c.name, err)
		}
		if daemon.Root != client.Root || !slices.Equal(daemon.Addrs, []string{client.Addr}) {
			t.Errorf("%s: daemon has %s, %s, client %s, %s", c.name, daemon.Root, daemon.Addrs, client.Root, client.Addr)
		}
	}
}

func load(t *testing.T, text string, args ...string) (*Daemon, error) {
	t.Helper()
	return loadIn(t, text, nil, args...)
}

// loadIn is load with variables in the environment.
func loadIn(t *testing.T, text string, vars map[string]string, args ...string) (*Daemon, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "boxbuildd.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	fs := pflag.NewFlagSet("", pflag.ContinueOnError)
	d := NewDaemon(fs, env(0, vars))
	if err := fs.Parse(append(args, "--config", path)); err != nil {
		t.Fatal(err)
	}
	return d, d.Load(fs)
}

// A file is laid over the defaults, and flags over the file.
func TestFile(t *testing.T) {
	d, err := load(t, `
root = "/from/file"
idle-timeout = "90s"
max-parallelism = 3
memory-limit = "1GiB"
[log]
level = "warn"
[registry."docker.io"]
mirrors = ["mirror.example"]
[registry."localhost:5000"]
http = true
insecure = true
ca = ["/ca.pem"]
keypair = [{key = "/k", cert = "/c"}]
`, "--max-parallelism", "5", "--debug")
	if err != nil {
		t.Fatal(err)
	}
	if d.Root != "/from/file" || d.Addrs[0] != "unix:///from/file/boxbuild.sock" || d.Idle() != 90*time.Second ||
		d.MaxParallelism != 5 || d.MemoryLimit != 1<<30 || d.Log.Level != "debug" || d.Snapshotter != "auto" {
		t.Errorf("got %+v", d)
	}
	local := d.Registries["localhost:5000"]
	if !local.HTTP || !local.Insecure || len(local.CA) != 1 || local.KeyPair[0] != (KeyPair{Key: "/k", Cert: "/c"}) ||
		d.Registries["docker.io"].Mirrors[0] != "mirror.example" {
		t.Errorf("got registries %+v", d.Registries)
	}
}

// An address is that of --addr, else that of --root, else the variable's, else the file's; without any it is derived from the
// root of variable or file.
func TestAddressOfFile(t *testing.T) {
	const file = "root = \"/f\"\n[grpc]\naddress = [\"unix:///x/g2.sock\", \"unix:///x/g3.sock\"]\n"
	both := []string{"unix:///x/g2.sock", "unix:///x/g3.sock"}
	for _, c := range []struct {
		file string
		addr string // of the environment
		args []string
		root string
		want []string
	}{
		{file, "", nil, "/f", both},
		{file, "", []string{"--root", "/r"}, "/r", []string{"unix:///r/boxbuild.sock"}},
		{"addr = \"unix:///a\"\n", "", nil, "/var/lib/boxbuild", []string{"unix:///a"}},
		{"", "", []string{"--root", "/r"}, "/r", []string{"unix:///r/boxbuild.sock"}},
		{file, "unix:///e", nil, "/f", []string{"unix:///e"}},
		{file, "unix:///e", []string{"--root", "/r"}, "/r", []string{"unix:///r/boxbuild.sock"}},
		{file, "unix:///e", []string{"--root", "/r", "--addr", "unix:///b"}, "/r", []string{"unix:///b"}},
	} {
		vars := map[string]string{}
		if c.addr != "" {
			vars["BOXBUILD_ADDR"] = c.addr
		}
		d, err := loadIn(t, c.file, vars, c.args...)
		if err != nil || d.Root != c.root || !slices.Equal(d.Addrs, c.want) {
			t.Errorf("%+v: got root %s, addresses %s, %v", c, d.Root, d.Addrs, err)
		}
	}
}

// What builds may be granted is what the flag says, else what the file says, else the network of the host; and devices, where
// there are any.
func TestEntitlements(t *testing.T) {
	const file = "insecure-entitlements = [\"security.insecure\"]\n"
	for _, c := range []struct {
		file string
		args []string
		want []string
	}{
		{"", nil, []string{"network.host", "device"}},
		{"[cdi]\ndisabled = true\n", nil, []string{"network.host"}},
		{"", []string{"--cdi-disabled", "--allow-insecure-entitlement", "device"}, []string{"device"}},
		{file, nil, []string{"security.insecure", "device"}},
		{"insecure-entitlements = []\n", nil, []string{"device"}},
		{"", []string{"--allow-insecure-entitlement", "security.insecure"}, []string{"security.insecure", "device"}},
		{
			file,
			[]string{"--allow-insecure-entitlement", "device", "--allow-insecure-entitlement", "network.host"},
			[]string{"device", "network.host"},
		},
	} {
		d, err := load(t, c.file, c.args...)
		if err != nil || !slices.Equal(d.Entitlements, c.want) {
			t.Errorf("%q %q: got %q, %v, want %q", c.file, c.args, d.Entitlements, err, c.want)
		}
	}
}

// buildkitd's variables stand for flags that are not given: they go before the file, and flags before them.
func TestVariables(t *testing.T) {
	const file = "[log]\nlevel = \"error\"\n[grpc]\ndebugAddress = \"127.0.0.1:1\"\n"
	for _, c := range []struct {
		level, addr         string
		args                []string
		wantLevel, wantAddr string
	}{
		{"", "", nil, "error", "127.0.0.1:1"},
		{"trace", "0.0.0.0:2", nil, "debug", "0.0.0.0:2"},
		{"debug", "0.0.0.0:2", []string{"--log-level", "warn", "--debugaddr", "127.0.0.1:3"}, "warn", "127.0.0.1:3"},
	} {
		vars := map[string]string{"BUILDKITD_LOG_LEVEL": c.level, "BUILDKITD_DEBUGADDR": c.addr}
		d, err := loadIn(t, file, vars, c.args...)
		if err != nil || d.Log.Level != c.wantLevel || d.GRPC.DebugAddress != c.wantAddr {
			t.Errorf("%+v: got %s, %s, %v", c, d.Log.Level, d.GRPC.DebugAddress, err)
		}
	}
	if _, err := loadIn(t, "", map[string]string{"BUILDKITD_LOG_LEVEL": "loud"}); err == nil || !strings.Contains(err.Error(), `"loud" is none of`) {
		t.Errorf("a level that there is not: %v", err)
	}
}

// A cgroup is below the root, however it is written, as it is for BuildKit.
func TestCgroupParent(t *testing.T) {
	for text, want := range map[string]string{
		"": "",
		"[worker.oci]\ndefaultCgroupParent = \"buildkit\"\n":                          "/buildkit",
		"[worker.oci]\ndefaultCgroupParent = \"/a//b/./c/\"\n":                        "/a/b/c",
		"[worker.oci]\ndefaultCgroupParent = \"/\"\n":                                 "/",
		"[worker.oci]\ndefaultCgroupParent = \"\"\n":                                  "",
		"[worker.oci]\ndefaultCgroupParent = \"my.slice\"\n":                          "/my.slice",
		"cgroup-parent = \"own\"\n[worker.oci]\ndefaultCgroupParent = \"buildkit\"\n": "/own",
	} {
		if d, err := load(t, text); err != nil || d.CgroupParent != want {
			t.Errorf("%q: got %q, %v", text, d.CgroupParent, err)
		}
	}
}

// What a file says wrongly is an error that names the place.
func TestFileErrors(t *testing.T) {
	for text, want := range map[string]string{
		"\nroots = \"/x\"\n":                                 "boxbuildd.toml:2: unknown key roots",
		"[registry.\"a\"]\nmirror = []\n":                    "boxbuildd.toml:2: unknown key registry.a.mirror",
		"root = \n":                                          "boxbuildd.toml:1:",
		"max-parallelism = \"x\"\n":                          "boxbuildd.toml:1:",
		"idle-timeout = \"soon\"\n":                          "boxbuildd.toml",
		"max-parallelism = -1\n":                             "max-parallelism is negative",
		"snapshotter = \"zfs\"\n":                            `snapshotter: "zfs" is none of`,
		"[log]\nlevel = \"loud\"\n":                          `log.level: "loud"`,
		"[dns]\nnameservers = [\"x\"]\n":                     `"x" is not an address`,
		"[network]\nsubnet = \"10.0.0.0\"\n":                 `"10.0.0.0" is not an IPv4 network`,
		"insecure-entitlements = [\"all\"]\n":                `"all" is none of`,
		"[registry.\"a/b\"]\nhttp = true\n":                  "is not host[:port]",
		"[registry.\"a\"]\nkeypair = [{key = \"/k\"}]\n":     "a keypair has a key and a cert",
		"addr = \"tcp://1.2.3.4:5\"\n":                       "anyone who does becomes root",
		"\n[worker.oci]\ndefaultCgroupParent = \"../x\"\n":   "boxbuildd.toml:3: worker.oci.defaultCgroupParent: cgroup \"../x\": it cannot lead upwards",
		"cgroup-parent = \"/a/../b\"\n":                      "boxbuildd.toml:1: cgroup-parent: cgroup \"/a/../b\"",
		"worker.oci.defaultCgroupParent = \"a.slice:b:c\"\n": "boxbuildd.toml:1: worker.oci.defaultCgroupParent: cgroup \"a.slice:b:c\": systemd is not asked for cgroups; give a path, such as \"a.slice/b/c\"",
		"addr = \"vsock://1\"\n":                             "only unix://, tcp:// and fd:// are supported",
		"addr = \"unix://" + strings.Repeat("/x", 60) + "\"": "at most 107 bytes",
	} {
		if _, err := load(t, text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", text, err, want)
		}
	}
}

// Where a client keeps what it can do without: a relative directory is none, as the XDG specification says.
func TestCacheDir(t *testing.T) {
	for _, c := range []struct {
		env  map[string]string
		home string
		want string
	}{
		{nil, "/home/u", "/home/u/.cache/boxbuild"},
		{map[string]string{"XDG_CACHE_HOME": "/c"}, "/home/u", "/c/boxbuild"},
		{map[string]string{"XDG_CACHE_HOME": "c"}, "/home/u", "/home/u/.cache/boxbuild"},
		{nil, "", ""},
	} {
		e := env(7, c.env)
		e.Home = c.home
		if got := NewClient(pflag.NewFlagSet("", pflag.ContinueOnError), e).Cache; got != c.want {
			t.Errorf("%v, home %q: got %q, want %q", c.env, c.home, got, c.want)
		}
	}
}

// The help of the daemon says what it does when nothing is said, also where that is derived from other settings.
func TestHelpHasDefaults(t *testing.T) {
	fs := pflag.NewFlagSet("", pflag.ContinueOnError)
	NewDaemon(fs, env(0, nil))
	text := strings.Join(strings.Fields(FlagUsages(fs)), " ")
	for _, want := range []string{
		`(default "/var/lib/boxbuild")`, `(default "unix:///run/boxbuild/boxbuild.sock"`, "0 for never (default 0; boxbuild starts it with 5m)",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in the help", want)
		}
	}
}
