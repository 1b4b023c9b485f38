package deploy

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/boxbuild/boxbuild/cmd/internal/config"
)

// load reads a configuration as the daemon does.
func load(t *testing.T, args ...string) *config.Daemon {
	t.Helper()
	fs := pflag.NewFlagSet("boxbuildd", pflag.ContinueOnError)
	d := config.NewDaemon(fs, config.Env{Lookup: func(string) (string, bool) { return "", false }, Home: "/root"})
	if err := fs.Parse(args); err != nil {
		t.Fatalf("%v: %v", args, err)
	}
	if err := d.Load(fs); err != nil {
		t.Fatalf("%v: %v", args, err)
	}
	if len(d.Warnings) > 0 {
		t.Errorf("%v: %v", args, d.Warnings)
	}
	return d
}

// lines returns the lines of a file that begin with a prefix, without it.
func lines(t *testing.T, path, prefix string) []string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for l := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(strings.TrimSpace(l), prefix); ok {
			out = append(out, rest)
		}
	}
	return out
}

// The example of a configuration is one, with nothing in it that has no effect.
func TestExample(t *testing.T) {
	if d := load(t, "--config", "boxbuildd.toml"); d.Addrs[0] != "unix:///run/boxbuild/boxbuild.sock" {
		t.Errorf("got %v", d.Addrs)
	}
	// So are the lines that are there to be uncommented.
	text, err := os.ReadFile("boxbuildd.toml")
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for l := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(l, "# "); ok && (strings.Contains(rest, " = ") || strings.HasPrefix(rest, "[")) {
			l = rest
		}
		b.WriteString(l)
	}
	path := filepath.Join(t.TempDir(), "boxbuildd.toml")
	if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	if d := load(t, "--config", path); d.GRPC.TLS.CA == "" || d.GRPC.DebugAddress == "" || len(d.Registries) != 1 {
		t.Errorf("got %+v", d)
	}
}

// The daemon takes the flags of the units and of the manifest, and whoever stops it waits longer than it drains.
func TestFlags(t *testing.T) {
	start := lines(t, "systemd/boxbuildd.service", "ExecStart=")
	if len(start) != 1 {
		t.Fatalf("%d lines start the daemon", len(start))
	}
	d := load(t, append(strings.Fields(start[0])[1:], "--config", "/dev/null")...)
	if d.Addrs[0] != "fd://" || d.Drain().Minutes() != 10 || lines(t, "systemd/boxbuildd.service", "TimeoutStopSec=")[0] != "11min" {
		t.Errorf("the unit: %v, drains for %v", d.Addrs, d.Drain())
	}
	const manifest = "kubernetes/boxbuildd.yaml"
	var args []string
	for _, a := range lines(t, manifest, "- --") {
		if name, _, _ := strings.Cut(a, "="); name != "config" {
			args = append(args, "--"+a)
		}
	}
	d = load(t, append(args, "--config", "/dev/null")...)
	if len(d.Addrs) != 2 || d.GRPC.TLS.CA == "" || lines(t, manifest, "terminationGracePeriodSeconds: ")[0] != "630" || d.Drain().Seconds() != 600 {
		t.Errorf("the manifest: %v, %+v, drains for %v", d.Addrs, d.GRPC, d.Drain())
	}
	// And the file in it.
	text, err := os.ReadFile(manifest)
	if err != nil {
		t.Fatal(err)
	}
	_, toml, _ := strings.Cut(string(text), "boxbuildd.toml: |\n")
	toml, _, _ = strings.Cut(toml, "---\n")
	path := filepath.Join(t.TempDir(), "boxbuildd.toml")
	if err := os.WriteFile(path, []byte(toml), 0o600); err != nil {
		t.Fatal(err)
	}
	if d := load(t, "--config", path); d.Log.Format != "json" || d.Worker.OCI.MaxUsedSpace.Percent != 80 {
		t.Errorf("the file in the manifest: %+v", d)
	}
}

// systemd finds nothing wrong with the units.
func TestUnits(t *testing.T) {
	program, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("there is no systemd-analyze")
	}
	dir := t.TempDir()
	for _, name := range []string{"boxbuildd.service", "boxbuildd.socket"} {
		text, err := os.ReadFile(filepath.Join("systemd", name))
		if err != nil {
			t.Fatal(err)
		}
		// The program need not be installed here.
		unit := strings.ReplaceAll(string(text), "/usr/bin/boxbuildd", "/bin/true")
		if err := os.WriteFile(filepath.Join(dir, name), []byte(unit), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	out, err := exec.Command(program, "verify", filepath.Join(dir, "boxbuildd.service"), filepath.Join(dir, "boxbuildd.socket")).CombinedOutput()
	for l := range strings.Lines(string(out)) {
		if strings.Contains(l, "boxbuildd") {
			t.Errorf("systemd-analyze: %s", l)
		}
	}
	if err != nil && strings.Contains(string(out), "boxbuildd") {
		t.Errorf("systemd-analyze: %v", err)
	}
}
