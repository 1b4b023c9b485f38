// Package binfmt finds out whether programs for other processors run here, and how.
//
// The kernel executes foreign programs through handlers that are registered in binfmt_misc. Whether there is one for an
// architecture is not looked up but tried, as BuildKit does: a program of that architecture, which only exits, is executed
// alone in a root directory. That works where the processor itself can (386 on amd64), and with a handler whose
// interpreter the kernel holds open (flag F), whoever has registered it and whether binfmt_misc is mounted here or not.
//
// A handler without that flag opens its interpreter in the sandbox, which lacks it. Such handlers are found in
// /proc/sys/fs/binfmt_misc; their interpreter has to be put into the sandbox. The last resort is BuildKit's own emulator,
// buildkit-qemu-<arch> on PATH, which needs no handler and is put before the command.
//
// Answers are remembered for a short while, since handlers come and go; they are few.
package binfmt

import (
	"context"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/boxbuild/boxbuild/executor"
)

// How long an answer counts. That there is nothing is not believed for long: the user may have read the error and is about
// to build again.
const (
	maxAge     = 20 * time.Second
	maxNoneAge = time.Second
)

// prefixTarget is where BuildKit puts an emulator that has no handler; programs are known to look for it.
const prefixTarget = "/dev/.buildkit_qemu_emulator"

// Options are those of New. Zero values are those of the machine.
type Options struct {
	// Dir is where programs are written to be tried; they can be executed there. Empty means the system's.
	Dir string
	// Registry is where binfmt_misc may be mounted.
	Registry string
	// Host is the machine's platform.
	Host ocispec.Platform
	// Try executes a program alone in a root; nil for the real thing.
	Try func(ctx context.Context, program []byte) error
	// LookPath finds a program on PATH; nil for exec.LookPath.
	LookPath func(name string) (string, error)
	// CPUFlags are what the processor can do, as /proc/cpuinfo has it; nil to read that.
	CPUFlags []string
}

// A Detector is an executor.Emulators for this machine.
type Detector struct {
	opt  Options
	now  func() time.Time
	mu   sync.Mutex // guards seen; not held while anything is tried
	seen map[string]*answer
}

// An answer is what is known of an architecture.
type answer struct {
	until time.Time     // guarded by Detector.mu
	done  chan struct{} // closed when what follows is set

	native   bool
	emulator *executor.Emulator // nil with native false: there is none
	givenUp  bool               // there is no answer, since the context of who asked has ended
}

var _ executor.Emulators = (*Detector)(nil)

// New returns a Detector.
func New(opt Options) *Detector {
	if opt.Registry == "" {
		opt.Registry = "/proc/sys/fs/binfmt_misc"
	}
	if opt.Host.OS == "" {
		opt.Host = platforms.Normalize(platforms.DefaultSpec())
	}
	if opt.Try == nil {
		opt.Try = func(ctx context.Context, program []byte) error { return try(ctx, opt.Dir, program) }
	}
	if opt.LookPath == nil {
		opt.LookPath = exec.LookPath
	}
	if opt.CPUFlags == nil {
		opt.CPUFlags = cpuFlags()
	}
	return &Detector{opt: opt, now: time.Now, seen: make(map[string]*answer)}
}

// Emulator implements executor.Emulators.
func (d *Detector) Emulator(ctx context.Context, platform executor.Platform) (*executor.Emulator, error) {
	p := platforms.Normalize(ocispec.Platform(platform))
	host := d.opt.Host
	if p.OS == "" || p.OS == host.OS && p.Architecture == host.Architecture {
		return nil, d.variant(p)
	}
	a := d.ask(ctx, p.Architecture)
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case a.native:
		return nil, nil
	case a.emulator == nil || p.OS != host.OS:
		return nil, &executor.PlatformError{Platform: platforms.Format(p), Arch: p.Architecture}
	}
	return a.emulator, nil
}

// variant refuses programs for a newer processor of the machine's own architecture. Only amd64 says what it has; v2 is
// let through everywhere, as BuildKit does.
func (d *Detector) variant(p ocispec.Platform) error {
	if p.Architecture != "amd64" || p.Variant == "" || p.Variant == "v2" {
		return nil
	}
	have := levels(d.opt.CPUFlags)
	if slices.Contains(have, p.Variant) {
		return nil
	}
	supported := []string{"linux/amd64"}
	for _, v := range have {
		supported = append(supported, "linux/amd64/"+v)
	}
	return &executor.PlatformError{Platform: platforms.Format(p), Supported: supported}
}

// ask finds out about an architecture, unless that was done just now. What somebody has begun to find out who then gave up
// is found out again. When ctx has ended the answer means nothing.
func (d *Detector) ask(ctx context.Context, arch string) *answer {
	for {
		d.mu.Lock()
		a := d.seen[arch]
		first := a == nil || d.now().After(a.until)
		if first {
			a = &answer{until: d.now().Add(maxAge), done: make(chan struct{})}
			d.seen[arch] = a
		}
		d.mu.Unlock()
		if first {
			d.find(ctx, arch, a)
			return a
		}
		select {
		case <-a.done:
			if !a.givenUp {
				return a
			}
		case <-ctx.Done():
			return new(answer)
		}
	}
}

// find finds the answer a.
func (d *Detector) find(ctx context.Context, arch string, a *answer) {
	defer close(a.done)
	d.detect(ctx, arch, a)
	a.givenUp = ctx.Err() != nil
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case a.givenUp && d.seen[arch] == a:
		delete(d.seen, arch)
	case !a.native && a.emulator == nil:
		a.until = d.now().Add(maxNoneAge)
	}
}

func (d *Detector) detect(ctx context.Context, arch string, a *answer) {
	if program := Program(arch); program != nil {
		if d.opt.Try(ctx, program) == nil {
			a.native = true
			return
		}
		if interpreter := d.registered(program); interpreter != "" {
			a.emulator = &executor.Emulator{Path: interpreter, Target: interpreter}
			return
		}
	}
	if path, err := d.opt.LookPath("buildkit-qemu-" + qemuName(arch)); err == nil {
		a.emulator = &executor.Emulator{Path: path, Target: prefixTarget, Prefix: true}
	}
}

// qemuName is what QEMU calls an architecture.
func qemuName(arch string) string {
	if n, ok := map[string]string{
		"arm64": "aarch64", "amd64": "x86_64", "386": "i386", "mips64le": "mips64el", "loong64": "loongarch64",
	}[arch]; ok {
		return n
	}
	return arch
}

// Platforms returns what runs here, the machine's own first.
func (d *Detector) Platforms(ctx context.Context) []ocispec.Platform {
	host := d.opt.Host
	out := []ocispec.Platform{host}
	if host.Architecture == "amd64" {
		for _, v := range levels(d.opt.CPUFlags) {
			out = append(out, ocispec.Platform{OS: host.OS, Architecture: "amd64", Variant: v})
		}
	}
	all := Architectures()
	answers := make([]*answer, len(all))
	var wg sync.WaitGroup
	for i, arch := range all {
		wg.Go(func() { answers[i] = d.ask(ctx, arch) })
	}
	wg.Wait()
	for i, arch := range all {
		if arch == host.Architecture {
			continue
		}
		if a := answers[i]; a.native || a.emulator != nil {
			p := ocispec.Platform{OS: host.OS, Architecture: arch}
			if arch == "arm" {
				p.Variant = "v7"
			}
			out = append(out, p)
			if arch == "arm" {
				p.Variant = "v6"
				out = append(out, p)
			}
		}
	}
	return out
}

// levels returns the microarchitecture levels beyond the first that a processor with these flags has.
func levels(flags []string) []string {
	var out []string
	for _, l := range []struct{ name, needs string }{
		{"v2", "cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3"},
		{"v3", "avx avx2 bmi1 bmi2 f16c fma abm movbe xsave"},
		{"v4", "avx512f avx512bw avx512cd avx512dq avx512vl"},
	} {
		for _, f := range strings.Fields(l.needs) {
			if !slices.Contains(flags, f) {
				return out
			}
		}
		out = append(out, l.name)
	}
	return out
}
