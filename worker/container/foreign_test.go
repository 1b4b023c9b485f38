package container

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/frontend"
)

// emulators are what a test says there is.
type emulators struct {
	em  *executor.Emulator
	err error
}

func (e *emulators) Emulator(context.Context, executor.Platform) (*executor.Emulator, error) {
	return e.em, e.err
}

// Who makes a container of programs which the kernel cannot execute is told what to do, depending on what there is, and again
// when it has ended for that; who has a program of this machine, or has mounted the emulator, is not. A script whose
// interpreter is missing is to the kernel what a program is whose emulator is missing.
func TestRealForeign(t *testing.T) {
	f := newReal(t)
	prepare := f.prepare
	f.prepare = func(dir string) {
		prepare(dir)
		f.must(os.WriteFile(filepath.Join(dir, "lacks"), []byte("#!/none\n"), 0o755))
	}
	f.addImage("foreign:1", &frontend.ImageConfig{Image: ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: "arm64"}}}, nil)
	f.addImage("own:1", &frontend.ImageConfig{}, nil)
	held := filepath.Join(t.TempDir(), "qemu")
	f.must(os.WriteFile(held, nil, 0o755))
	handler := &executor.Emulator{Path: held, Target: "/usr/bin/qemu"}
	get := "with `apt-get install qemu-user-static`, or with `docker run --privileged --rm tonistiigi/binfmt --install arm64`"
	for _, c := range []struct {
		image string
		has   *emulators
		bind  string
		want  string
	}{
		{"foreign:1", &emulators{em: handler}, "", "the kernel's handler for linux/arm64 looks for its emulator, " + held +
			", in the container: have it held open (flag F of binfmt_misc) " + get + ", or run with `-v " + held + ":/usr/bin/qemu:ro`"},
		{"foreign:1", &emulators{em: handler}, held + ":/usr/bin/qemu:ro", ""},
		{"own:1", &emulators{em: handler}, "", ""},
		{"foreign:1", &emulators{}, "", ""},
		{"foreign:1", &emulators{err: &executor.PlatformError{Platform: "linux/arm64", Arch: "arm64"}}, "", "this machine has no emulator for " +
			"linux/arm64; get one " + get + ", and start the container again"},
		{"foreign:1", &emulators{em: &executor.Emulator{Path: "/q", Prefix: true}}, "", "the emulator for linux/arm64, /q, serves builds only; " +
			"get one for containers " + get},
		{"foreign:1", &emulators{err: errors.New("not known")}, "", ""},
	} {
		f.deps.Emulators = c.has
		req := request("/lacks")
		req.Image, req.Platform = c.image, &ocispec.Platform{OS: "linux", Architecture: map[bool]string{true: "arm64", false: "amd64"}[c.image == "foreign:1"]}
		if c.bind != "" {
			req.HostConfig.Binds = []string{c.bind}
		}
		made, err := f.Create(t.Context(), req)
		f.must(err)
		if got := strings.Join(made.Warnings, "\n"); got != c.want {
			t.Errorf("warnings are %q, want %q", got, c.want)
		}
		f.must(f.Start(t.Context(), made.ID))
		if code := f.await(made.ID); code != execFailed {
			t.Errorf("it ended with %d", code)
		}
		in, err := f.Inspect(t.Context(), made.ID, false)
		f.must(err)
		if in.State.Error != c.want {
			t.Errorf("the error is %q, want %q", in.State.Error, c.want)
		}
	}
}
