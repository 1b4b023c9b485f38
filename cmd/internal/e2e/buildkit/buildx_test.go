package buildkit

import (
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestBuildx runs the scripts of buildx, whose builder is the daemon by the driver "remote".
func TestBuildx(t *testing.T) {
	needed(t)
	dir := clientDir(t, "buildx")
	scripts(t, "testdata/buildx", dir, func(env *testscript.Env) error {
		env.Setenv("BUILDX_CONFIG", filepath.Join(env.WorkDir, ".buildx"))
		env.Setenv("DOCKER_CONFIG", filepath.Join(env.WorkDir, ".docker"))
		env.Setenv("BUILDX_BAKE_ENTITLEMENTS_FS", "0")
		env.Setenv("BUILDX_BUILDER", "box")
		cmd := exec.Command(filepath.Join(dir, "buildx"), "create", "--name", "box", "--driver", "remote", env.Getenv("BUILDKIT_HOST"))
		cmd.Env = env.Vars
		return cmd.Run()
	})
}
