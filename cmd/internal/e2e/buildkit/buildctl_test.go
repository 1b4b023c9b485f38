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

// clientDir returns the directory of a client that the tests have not made themselves: one that `make clients` has built,
// or that is on PATH.
func clientDir(t *testing.T, name string) string {
	t.Helper()
	dir := os.Getenv("BOXBUILD_CLIENTS")
	if cache, err := os.UserCacheDir(); dir == "" && err == nil {
		dir = filepath.Join(cache, "boxbuild", "clients")
	}
	if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
		return dir
	}
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("needs %s: on PATH, or built by `make clients`", name)
	}
	return filepath.Dir(path)
}

// TestBuildctl runs the scripts of buildctl.
func TestBuildctl(t *testing.T) {
	needed(t)
	scripts(t, "testdata/script", clientDir(t, "buildctl"), nil)
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
