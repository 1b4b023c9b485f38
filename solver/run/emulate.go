package run

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
)

// emulate gives a sandbox what it needs to execute programs for the platform of e, and returns what gives it back.
//
// That there is no emulator is no error yet: the root of a foreign image may hold programs for this machine, and those
// run.
func (r *Runner) emulate(ctx context.Context, e *op.Exec, s *executor.Spec) (func(), error) {
	none := func() {}
	if r.deps.Emulators == nil {
		return none, nil
	}
	em, err := r.deps.Emulators.Emulator(ctx, executor.Platform(e.Platform))
	var platform *executor.PlatformError
	switch {
	case errors.As(err, &platform) && platform.Supported == nil:
		return none, nil
	case err != nil:
		return none, err
	case em == nil:
		return none, nil
	}
	f, err := os.Open(em.Path)
	if err != nil {
		return none, fmt.Errorf("opening the emulator for %s: %w", op.PlatformString(e.Platform), err)
	}
	s.Mounts = append(slices.Clip(s.Mounts), executor.Mount{
		Type: executor.Bind, Target: em.Target, Source: f, ReadOnly: true, NoSuid: true, NoDev: true,
	})
	if em.Prefix {
		s.Process.Args = append([]string{em.Target}, s.Process.Args...)
	}
	return func() { f.Close() }, nil
}

// startFailure is the error of a command that could not be executed.
func (r *Runner) startFailure(ctx context.Context, step *solver.Step, e *op.Exec, start *executor.StartError) error {
	if err := r.foreign(ctx, e, start.Error()); err != nil {
		return err
	}
	step.Log(solver.Stderr, []byte(start.Error()+"\n"))
	return executor.Exit{Code: start.Code}.Err(e.Meta.Args, 0)
}

// onlyWindows says why a step for Windows did not start, and which machine could start it; nil for other steps. There is no
// emulator to install. A step whose root holds programs for Linux starts.
func onlyWindows(ctx context.Context, e *op.Exec, err error) error {
	if e.Platform.OS != "windows" || ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("%w (%w)", windowsError(e), err)
}

func windowsError(e *op.Exec) error {
	return &executor.PlatformError{Platform: op.PlatformString(e.Platform), Arch: e.Platform.Architecture}
}

// execFailed is the exit status of a sandbox whose command the kernel did not execute, after everything else was done.
const execFailed = 255

// foreign returns the error that tells how to get an emulator, if that is what a command which was not executed lacks;
// said is what was said instead. The kernel finds no handler for the format, or a handler without an interpreter.
func (r *Runner) foreign(ctx context.Context, e *op.Exec, said string) error {
	said = strings.TrimSpace(said)
	if r.deps.Emulators == nil || strings.Contains(said, "\n") ||
		!strings.HasSuffix(said, ": exec format error") && !strings.HasSuffix(said, ": no such file or directory") {
		return nil
	}
	if e.Platform.OS == "windows" {
		return windowsError(e)
	}
	var platform *executor.PlatformError
	if _, err := r.deps.Emulators.Emulator(ctx, executor.Platform(e.Platform)); errors.As(err, &platform) {
		return platform
	}
	return nil
}

// firstWords passes on what is written and remembers the beginning.
type firstWords struct {
	w    io.Writer
	text string
}

// maxWords is how much is remembered, in bytes: a path and an error fit.
const maxWords = 5000

// Write implements io.Writer. It is called by one goroutine.
func (f *firstWords) Write(p []byte) (int, error) {
	f.text += string(p[:min(len(p), maxWords-len(f.text))])
	return f.w.Write(p)
}
