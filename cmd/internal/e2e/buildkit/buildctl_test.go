package buildkit

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// buildctlVersion is the version of BuildKit whose buildctl the scripts run, where there is none on PATH.
const buildctlVersion = "v0.32.2"

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
	dir := filepath.Join(cache, "boxbuild", "buildctl-"+buildctlVersion)
	if _, err := os.Stat(filepath.Join(dir, "buildctl")); err == nil {
		return dir
	}
	cmd := exec.Command("go", "install", "github.com/moby/buildkit/cmd/buildctl@"+buildctlVersion)
	cmd.Dir = t.TempDir() // outside of the module, whose dependencies are others
	cmd.Env = append(os.Environ(), "GOBIN="+dir, "GOFLAGS=")
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
