package run

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/platforms"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/solver/op"
)

// emulators answer by the architecture.
type emulators map[string]any

func (e emulators) Emulator(_ context.Context, p executor.Platform) (*executor.Emulator, error) {
	switch a := e[p.Architecture].(type) {
	case *executor.Emulator:
		return a, nil
	case error:
		return nil, a
	}
	return nil, nil
}

// An emulator that has to be in the sandbox is mounted there, and put before the command if the kernel does not call it.
func TestEmulate(t *testing.T) {
	file := filepath.Join(t.TempDir(), "qemu")
	if err := os.WriteFile(file, nil, 0o700); err != nil {
		t.Fatal(err)
	}
	all := emulators{
		"arm64":   &executor.Emulator{Path: file, Target: "/usr/bin/qemu"},
		"s390x":   &executor.Emulator{Path: file, Target: "/dev/q", Prefix: true},
		"ppc64le": &executor.Emulator{Path: file + "gone", Target: "/dev/q"},
		"riscv64": &executor.PlatformError{Platform: "linux/riscv64"},
		"amd64":   &executor.PlatformError{Platform: "linux/amd64/v4", Supported: []string{"linux/amd64"}},
		"loong64": context.Canceled,
	}
	for _, tt := range []struct{ arch, mount, args, err string }{
		{arch: "386", args: "ls -l"},
		{arch: "arm64", mount: "/usr/bin/qemu", args: "ls -l"},
		{arch: "s390x", mount: "/dev/q", args: "/dev/q ls -l"},
		{arch: "riscv64", args: "ls -l"}, // there may be programs for this machine in the root
		{arch: "ppc64le", err: "opening the emulator for linux/ppc64le"},
		{arch: "amd64", err: "no support for running processes"},
		{arch: "loong64", err: "context canceled"},
	} {
		t.Run(tt.arch, func(t *testing.T) {
			r := &Runner{deps: Deps{Emulators: all}}
			e := &op.Exec{Platform: op.Platform{OS: "linux", Architecture: tt.arch}}
			given := []string{"ls", "-l"}
			s := &executor.Spec{Process: executor.Process{Args: given}}
			release, err := r.emulate(t.Context(), e, s)
			defer release()
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("got %v, want %q", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var mount string
			for _, m := range s.Mounts {
				if !m.ReadOnly || m.Source == nil {
					t.Errorf("mount %+v", m)
				}
				mount += m.Target
			}
			if got := strings.Join(s.Process.Args, " "); mount != tt.mount || got != tt.args {
				t.Errorf("got %q at %q, want %q at %q", got, mount, tt.args, tt.mount)
			}
			if !slices.Equal(given, []string{"ls", "-l"}) {
				t.Error("the arguments of the operation were changed")
			}
		})
	}
}

// Only a command that the kernel did not execute, for a platform without an emulator, is told about emulators.
func TestForeign(t *testing.T) {
	r := &Runner{deps: Deps{Emulators: emulators{"arm64": &executor.PlatformError{Platform: "linux/arm64", Arch: "arm64"}}}}
	for _, tt := range []struct {
		platform, said string
		want           bool
	}{
		{"linux/arm64", "exec /bin/sh: exec format error\n", true},
		{"linux/arm64", "exec /bin/sh: no such file or directory", true},
		{"linux/arm64", "sh: can't open 'x': No such file or directory", false},
		{"linux/arm64", "some\nmore: exec format error", false},
		{"linux/arm64", "", false},
		{"linux/amd64", "exec /bin/sh: exec format error", false},
	} {
		err := r.foreign(t.Context(), &op.Exec{Platform: platforms.MustParse(tt.platform)}, tt.said)
		var p *executor.PlatformError
		if got := errors.As(err, &p); got != tt.want {
			t.Errorf("%s %q: %v", tt.platform, tt.said, err)
		}
	}
	if err := (&Runner{}).foreign(t.Context(), &op.Exec{}, "x: exec format error"); err != nil {
		t.Errorf("without emulators: %v", err)
	}
}

// A step for Windows that did not start says which machine could start it, whatever the reason, and that reason; other steps
// and cancelled ones do not.
func TestOnlyWindows(t *testing.T) {
	reason := errors.New("unable to find user ContainerUser")
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for _, tt := range []struct {
		platform  string
		cancelled bool
		want      string
	}{
		{"linux/amd64", false, ""},
		{"windows/amd64", false, "programs for windows/amd64 run on a machine with Windows only"},
		{"windows/amd64", true, ""},
	} {
		ctx := t.Context()
		if tt.cancelled {
			ctx = gone
		}
		e := &op.Exec{Platform: platforms.MustParse(tt.platform)}
		err := onlyWindows(ctx, e, reason)
		if (err != nil) != (tt.want != "") {
			t.Errorf("%s: %v", tt.platform, err)
			continue
		}
		var p *executor.PlatformError
		if err != nil && (!strings.Contains(err.Error(), tt.want) || !errors.Is(err, reason) || !errors.As(err, &p)) {
			t.Errorf("%s: %v", tt.platform, err)
		}
	}
	r := &Runner{deps: Deps{Emulators: emulators{}}}
	if err := r.foreign(t.Context(), &op.Exec{Platform: platforms.MustParse("windows/amd64")}, "exec /app.exe: exec format error"); err == nil {
		t.Error("of a program for Windows nothing is said")
	}
}

// Of what is written only the beginning is remembered, and all is passed on.
func TestFirstWords(t *testing.T) {
	var out strings.Builder
	f := &firstWords{w: &out}
	text := strings.Repeat("0123456789", 1000)
	for part := range slices.Chunk([]byte(text), 999) {
		if n, err := f.Write(part); n != len(part) || err != nil {
			t.Fatal(n, err)
		}
	}
	if out.String() != text || f.text != text[:maxWords] {
		t.Errorf("%d bytes passed on, %d remembered", out.Len(), len(f.text))
	}
}
