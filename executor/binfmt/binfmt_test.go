package binfmt

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/boxbuild/boxbuild/executor"
)

// A world is a machine that executes some architectures.
type world struct {
	mu    sync.Mutex
	runs  []string
	tries int
}

func (w *world) try(_ context.Context, program []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tries++
	for _, arch := range w.runs {
		if bytes.Equal(program, Program(arch)) {
			return nil
		}
	}
	return errors.New("exec format error")
}

func (w *world) detector(registry, path string, flags ...string) *Detector {
	if flags == nil {
		flags = []string{}
	}
	return New(Options{
		Registry: registry, Host: ocispec.Platform{OS: "linux", Architecture: "amd64"}, Try: w.try, CPUFlags: flags,
		LookPath: func(name string) (string, error) {
			if path != "" && strings.HasSuffix(path, name) {
				return path, nil
			}
			return "", os.ErrNotExist
		},
	})
}

const (
	levelTwo   = "cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3"
	levelThree = levelTwo + " avx avx2 bmi1 bmi2 f16c fma abm movbe xsave"
)

// What a platform needs follows from what the machine executes, what is registered, and what is on PATH, in that order.
func TestEmulator(t *testing.T) {
	static, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if !isStatic(static) { // with the race detector the test is no static program
		static = filepath.Join(t.TempDir(), "static")
		if err := os.WriteFile(static, Program(runtime.GOARCH), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	registry := t.TempDir()
	register := func(name, text string) {
		if err := os.WriteFile(filepath.Join(registry, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const arm64 = "offset 0\nmagic 7f454c460201010000000000000000000200b700\nmask ffffffffffffff00fffffffffffffffffeffffff\n"
	register("register", "no handler")
	register("status", "enabled\n")
	register("a-off", "disabled\ninterpreter /off\nflags: \n"+arm64)
	register("b-gone", "enabled\ninterpreter /gone\nflags: \n"+arm64)
	register("c-odd", "enabled\ninterpreter "+static+"\nflags: \noffset x\n")
	register("d-ext", "enabled\ninterpreter "+static+"\nflags: \nextension .exe\n")
	register("e-arm", "enabled\ninterpreter "+static+"\nflags: OC\n"+strings.Replace(arm64, "b700", "2800", 1))
	register("qemu-aarch64", "enabled\ninterpreter "+static+"\nflags: OC\n"+arm64)

	for _, tt := range []struct {
		name     string
		platform string
		runs     []string
		registry string
		path     string
		flags    string
		want     *executor.Emulator
		err      string
	}{
		{name: "the machine's own", platform: "linux/amd64"},
		{name: "the processor does it", platform: "linux/386", runs: []string{"386"}},
		{name: "a handler", platform: "linux/arm64", runs: []string{"arm64"}, registry: registry},
		{name: "arm of any version", platform: "linux/arm/v5", runs: []string{"arm"}},
		{
			name: "a handler that wants its interpreter", platform: "linux/arm64", registry: registry,
			want: &executor.Emulator{Path: static, Target: static},
		},
		{
			name: "BuildKit's emulator", platform: "linux/s390x", registry: registry, path: "/usr/bin/buildkit-qemu-s390x",
			want: &executor.Emulator{Path: "/usr/bin/buildkit-qemu-s390x", Target: "/dev/.buildkit_qemu_emulator", Prefix: true},
		},
		{
			name: "one that nobody knows", platform: "linux/sparc", path: "/usr/bin/buildkit-qemu-sparc",
			want: &executor.Emulator{Path: "/usr/bin/buildkit-qemu-sparc", Target: "/dev/.buildkit_qemu_emulator", Prefix: true},
		},
		{name: "nothing", platform: "linux/riscv64", registry: registry, err: "no emulator for linux/riscv64; get one with `apt-get install qemu-user-static`"},
		{name: "no binfmt_misc", platform: "linux/arm64", registry: "/nowhere", err: "tonistiigi/binfmt --install arm64`"},
		{name: "another system", platform: "windows/amd64", err: "programs for windows/amd64 run on a machine with Windows only"},
		{name: "v2 always", platform: "linux/amd64/v2"},
		{name: "v3", platform: "linux/amd64/v3", flags: levelThree},
		{name: "too new", platform: "linux/amd64/v4", flags: levelThree, err: "no support for running processes with linux/amd64/v4 platform, supported: [linux/amd64 linux/amd64/v2 linux/amd64/v3]"},
		{name: "v3 without v2", platform: "linux/amd64/v3", flags: "avx avx2 bmi1 bmi2 f16c fma abm movbe xsave", err: "supported: [linux/amd64]"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := &world{runs: tt.runs}
			got, err := w.detector(tt.registry, tt.path, strings.Fields(tt.flags)...).Emulator(t.Context(), executor.Platform(platforms.MustParse(tt.platform)))
			if tt.err != "" {
				var p *executor.PlatformError
				if !errors.As(err, &p) || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("got %v, want %q", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if (got == nil) != (tt.want == nil) || got != nil && *got != *tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
}

// An answer is remembered, that there is nothing only for a moment, and one that was called off not at all.
func TestRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{runs: []string{"arm64"}}
		d := w.detector("", "")
		arm, riscv := platforms.MustParse("linux/arm64"), platforms.MustParse("linux/riscv64")
		ask := func(p ocispec.Platform, want int) {
			t.Helper()
			_, _ = d.Emulator(t.Context(), executor.Platform(p))
			if w.tries != want {
				t.Errorf("%d tries, want %d", w.tries, want)
			}
		}
		ask(arm, 1)
		ask(arm, 1)
		time.Sleep(maxAge + 1)
		ask(arm, 2)
		ask(riscv, 3)
		ask(riscv, 3)
		time.Sleep(maxNoneAge + 1)
		ask(riscv, 4)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		s390x := platforms.MustParse("linux/s390x")
		if _, err := d.Emulator(ctx, executor.Platform(s390x)); !errors.Is(err, context.Canceled) {
			t.Errorf("called off: %v", err)
		}
		ask(s390x, 6)
	})
}

// The platforms are the machine's, its levels, and what else runs.
func TestPlatforms(t *testing.T) {
	w := &world{runs: []string{"386", "arm"}}
	var got []string
	for _, p := range w.detector("", "/bin/buildkit-qemu-aarch64", strings.Fields(levelThree)...).Platforms(t.Context()) {
		got = append(got, platforms.Format(p))
	}
	want := []string{"linux/amd64", "linux/amd64/v2", "linux/amd64/v3", "linux/386", "linux/arm/v7", "linux/arm/v6", "linux/arm64"}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// Every program is what it says, and that of this machine runs here: with its whole root being itself.
func TestProgram(t *testing.T) {
	for _, arch := range Architectures() {
		f, err := elf.NewFile(bytes.NewReader(Program(arch)))
		if err != nil {
			t.Errorf("%s: %v", arch, err)
			continue
		}
		if f.Machine != machines[arch].number || f.Type != elf.ET_EXEC || len(f.Progs) != 1 {
			t.Errorf("%s: %+v", arch, f.FileHeader)
		}
		code := f.Progs[0]
		if f.Entry < code.Vaddr || f.Entry >= code.Vaddr+code.Filesz {
			t.Errorf("%s begins at %#x, outside of %#x+%#x", arch, f.Entry, code.Vaddr, code.Filesz)
		}
	}
	if Program("pdp11") != nil {
		t.Error("a program for what nobody knows")
	}
	if Program(runtime.GOARCH) != nil {
		if err := try(t.Context(), t.TempDir(), Program(runtime.GOARCH)); err != nil {
			t.Errorf("this machine's: %v", err)
		}
	}
	if err := try(t.Context(), t.TempDir(), []byte("\x7fELF")); err == nil {
		t.Error("half a program was executed")
	}
}

// Whatever stands in a file of binfmt_misc, reading it does not panic.
func FuzzHandler(f *testing.F) {
	f.Add("enabled\ninterpreter /q\nflags: F\noffset 0\nmagic 7f45\nmask ff00\n", []byte("\x7fELF"))
	f.Add("enabled\noffset -9223372036854775808\nmagic 00", []byte("x"))
	f.Add("enabled\noffset 9223372036854775807\nmagic 00", []byte("x"))
	f.Fuzz(func(_ *testing.T, text string, program []byte) {
		if h, err := parseHandler(text); err == nil {
			h.matches(program)
		}
	})
}

// That somebody gives up who was the first to ask does not mean for others that there is no emulator.
func TestAskGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tries := 0
		d := New(Options{
			Host: ocispec.Platform{OS: "linux", Architecture: "amd64"}, CPUFlags: []string{}, Registry: t.TempDir(),
			LookPath: func(string) (string, error) { return "", os.ErrNotExist },
			Try: func(ctx context.Context, _ []byte) error {
				tries++
				select {
				case <-time.After(time.Second):
					return nil
				case <-ctx.Done():
					return context.Cause(ctx)
				}
			},
		})
		arm := ocispec.Platform{OS: "linux", Architecture: "arm64"}
		first, giveUp := context.WithCancel(t.Context())
		var asking sync.WaitGroup
		asking.Go(func() {
			if _, err := d.Emulator(first, executor.Platform(arm)); !errors.Is(err, context.Canceled) {
				t.Errorf("who gave up got %v", err)
			}
		})
		synctest.Wait()
		asking.Go(func() {
			if em, err := d.Emulator(t.Context(), executor.Platform(arm)); em != nil || err != nil {
				t.Errorf("who waited got %v, %v", em, err)
			}
		})
		synctest.Wait()
		giveUp()
		asking.Wait()
		if tries != 2 {
			t.Errorf("it was tried %d times, want 2", tries)
		}
	})
}
