package buildkit

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// buildctl returns the directory of buildctl. It is built once a machine, and kept with the user's caches.
func buildctl(t *testing.T) string {
	t.Helper()
	if path, err := exec.LookPath("buildctl"); err == nil {
		return filepath.Dir(path)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Skip(err)
	}
	src, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/moby/buildkit").Output()
	if err != nil {
		t.Fatal(err)
	}
	from := strings.TrimSpace(string(src))
	dir := filepath.Join(cache, "boxbuild", "buildctl", filepath.Base(from)) // which ends with the version
	if _, err := os.Stat(filepath.Join(dir, "buildctl")); err == nil {
		return dir
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	// Its module has exclusions, with which `go install` of a version does not work.
	cmd := exec.Command("go", "build", "-C", from, "-mod=readonly", "-trimpath", "-ldflags=-s -w",
		"-o", filepath.Join(dir, "buildctl"), "./cmd/buildctl")
	cmd.Env = append(os.Environ(), "GOFLAGS=", "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Skipf("buildctl cannot be built: %v\n%s", err, out)
	}
	return dir
}

// TestBuildctl runs the scripts, each with a daemon of its own at BUILDKIT_HOST whose store has busybox.
func TestBuildctl(t *testing.T) {
	if os.Getuid() != 0 || os.Getenv("BOXBUILD_BIN") == "" || os.Getenv("BOXBUILD_BASES") == "" {
		t.Skip("needs root, BOXBUILD_BIN and BOXBUILD_BASES; `make test` sets them")
	}
	dir := buildctl(t)
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			// Scripts run at once, so their daemons end with the test that has them all.
			d := start(t)
			d.load()
			env.Setenv("BUILDKIT_HOST", d.addr())
			env.Setenv("HOME", env.WorkDir)
			env.Setenv("PATH", dir+":"+env.Getenv("PATH"))
			return nil
		},
	})
}
