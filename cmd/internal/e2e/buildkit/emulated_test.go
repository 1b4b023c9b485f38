package buildkit

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/client"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/tonistiigi/fsutil"
)

// TestEmulated checks that every client builds for a processor which this machine has a handler for, beside its own.
func TestEmulated(t *testing.T) {
	d := start(t)
	workers, err := d.c.ListWorkers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	arm64 := platforms.OnlyStrict(ocispec.Platform{OS: "linux", Architecture: "arm64"})
	if !slices.ContainsFunc(workers[0].Platforms, arm64.Match) {
		t.Skip("no programs for arm64 are executed here")
	}
	dir := t.TempDir()
	for _, arch := range []string{"amd64", "arm64"} {
		cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", filepath.Join(dir, arch), "../testdata/foreign")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	const text = "FROM scratch\nARG TARGETARCH\nCOPY --chmod=755 $TARGETARCH /prog\nRUN [\"/prog\", \"/said\"]\n"
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	check := func(name, out string) {
		t.Helper()
		for platform, want := range map[string]string{
			"linux_amd64": "amd64 x86_64 0\namd64 x86_64 0\n", "linux_arm64": "arm64 aarch64 0\narm64 aarch64 0\n",
		} {
			if got, err := os.ReadFile(filepath.Join(out, platform, "said")); err != nil || string(got) != want {
				t.Errorf("%s, %s: got %q, %v", name, platform, got, err)
			}
		}
	}
	const both = "linux/amd64,linux/arm64"
	fs, err := fsutil.NewFS(dir)
	if err != nil {
		t.Fatal(err)
	}
	out := t.TempDir()
	d.must(client.SolveOpt{
		Frontend: "dockerfile.v0", FrontendAttrs: map[string]string{"platform": both, "no-cache": ""},
		LocalMounts: map[string]fsutil.FS{"context": fs, "dockerfile": fs},
		Exports:     []client.ExportEntry{{Type: client.ExporterLocal, OutputDir: out}},
	})
	check("the package client", out)
	command := func(t *testing.T, name string, args ...string) {
		t.Helper()
		cmd := exec.Command(filepath.Join(clientDir(t, name), name), args...)
		cmd.Env = append(os.Environ(), "BUILDX_CONFIG="+out)
		if text, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s %q: %v\n%s", name, args, err, text)
		}
	}
	t.Run("buildctl", func(t *testing.T) {
		out := t.TempDir()
		command(t, "buildctl", "--addr", d.addr(), "build", "--no-cache", "--frontend", "dockerfile.v0", "--opt", "platform="+both,
			"--local", "context="+dir, "--local", "dockerfile="+dir, "--output", "type=local,dest="+out)
		check("buildctl", out)
	})
	t.Run("buildx", func(t *testing.T) {
		out := t.TempDir()
		command(t, "buildx", "create", "--name", "box", "--driver", "remote", d.addr())
		command(t, "buildx", "build", "--builder", "box", "--no-cache", "--platform", both, "-o", out, dir)
		check("buildx", out)
	})
}
