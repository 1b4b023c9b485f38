package buildkit

import (
	"encoding/base64"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/boxbuild/boxbuild/proto/registry/registrytest"
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

// TestBuildctl runs the scripts of buildctl.
func TestBuildctl(t *testing.T) {
	needed(t)
	scripts(t, "testdata/script", buildctl(t), nil)
}

// needed skips a test that has not got what its daemons need.
func needed(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 || os.Getenv("BOXBUILD_BIN") == "" || os.Getenv("BOXBUILD_BASES") == "" {
		t.Skip("needs root, BOXBUILD_BIN and BOXBUILD_BASES; `make test` sets them")
	}
}

// scripts runs the scripts in dir, each with a daemon of its own at BUILDKIT_HOST whose store has busybox, and with
// registries of its own: at REGISTRY, and at PRIVATE for those who log in with the file in LOGIN. The client is in the
// directory bin; more, if it is not nil, prepares it.
func scripts(t *testing.T, dir, bin string, more func(*testscript.Env) error) {
	t.Helper()
	testscript.Run(t, testscript.Params{
		Dir:                 dir,
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			// Scripts run at once, so their daemons end with the test that has them all.
			d := start(t)
			d.load()
			env.Setenv("BUILDKIT_HOST", d.addr())
			env.Setenv("BOXBUILD_ADDR", d.addr())
			env.Setenv("BASES", d.bases)
			env.Setenv("HOME", env.WorkDir)
			env.Setenv("PATH", strings.Join([]string{bin, os.Getenv("BOXBUILD_BIN"), env.Getenv("PATH")}, ":"))
			private := registrytest.New(registrytest.Behaviour{})
			private.Auth = &registrytest.Auth{Basic: map[string]string{"ann": "secret"}}
			host := registrytest.Start(t, private)
			env.Setenv("REGISTRY", registrytest.Start(t, registrytest.New(registrytest.Behaviour{})))
			env.Setenv("PRIVATE", host)
			env.Setenv("LOGIN", filepath.Join(env.WorkDir, ".login"))
			config, err := json.Marshal(map[string]any{"auths": map[string]any{
				host: map[string]any{"auth": base64.StdEncoding.EncodeToString([]byte("ann:secret"))},
			}})
			if err == nil {
				err = os.Mkdir(env.Getenv("LOGIN"), 0o700)
			}
			if err == nil {
				err = os.WriteFile(filepath.Join(env.Getenv("LOGIN"), "config.json"), config, 0o600)
			}
			if err == nil && more != nil {
				err = more(env)
			}
			return err
		},
	})
}
