package buildkit

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// buildxVersion is what the scripts of buildx were written with.
const buildxVersion = "v0.38.2"

// buildx returns the directory of buildx, which is kept with the user's caches. It takes minutes to build and much to
// download, so that is done only for who asks for it by BOXBUILD_BUILDX=build; BOXBUILD_BUILDX may name a program, too.
func buildx(t *testing.T) string {
	t.Helper()
	wanted := os.Getenv("BOXBUILD_BUILDX")
	if wanted != "" && wanted != "build" {
		return filepath.Dir(wanted)
	}
	if path, err := exec.LookPath("buildx"); err == nil {
		return filepath.Dir(path)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Skip(err)
	}
	dir := filepath.Join(cache, "boxbuild", "buildx", buildxVersion)
	if _, err := os.Stat(filepath.Join(dir, "buildx")); err == nil {
		return dir
	}
	if wanted == "" {
		t.Skip("needs buildx: in PATH, or built once by a test run with BOXBUILD_BUILDX=build")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	// Outside of this module, whose requirements are others; and its own has exclusions, so `go install` does not work.
	script := `set -e
	src=$(go mod download -json github.com/docker/buildx@` + buildxVersion + ` | sed -n 's/.*"Dir": "\(.*\)",/\1/p')
	exec go build -C "$src" -mod=readonly -trimpath -ldflags='-s -w' -o "$1" ./cmd/buildx`
	cmd := exec.Command("sh", "-c", script, "sh", filepath.Join(dir, "buildx"))
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), "GOFLAGS=", "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Skipf("buildx cannot be built: %v\n%s", err, out)
	}
	return dir
}

// TestBuildx runs the scripts of buildx, whose builder is the daemon by the driver "remote".
func TestBuildx(t *testing.T) {
	needed(t)
	dir := buildx(t)
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
