// Package hook runs programs of the host's for a sandbox, as hooks of the OCI runtime specification.
//
// The daemon runs them, while the sandbox's process waits in namespaces where there is nothing of the host's: neither that
// process nor the shim ever has a descriptor, a mount or a working directory of the host's that could be left over
// (CVE-2024-21626). What a hook finds, and what it can do:
//
//   - A bundle: a directory with config.json, whose root.path is the directory "rootfs" beside it.
//   - Of createContainer: the sandbox's namespaces, without that of pids if others are in it. For as long as they run, a copy of the host's tree lies over the root of the
//     sandbox's mount namespace, as with runc, and the sandbox's root is moved into it, to rootfs: what a hook writes there
//     is in the sandbox's root, and what it mounts stays. The copy is read-only, so that an image whose links lead out of it
//     has a hook write nowhere else (CVE-2024-0132, CVE-2025-23359).
//   - Of prestart and createRuntime: the host's namespaces, but for a mount namespace that begins as a copy of the host's and
//     follows it. rootfs is the root without its mounts, and no link in it is followed, since there the host can be
//     written to. Who joins the namespaces of the state's pid finds what createContainer finds.
//   - Of poststart and poststop: the same, with an empty rootfs.
//   - The environment that its description gives it, and the working directory "/": nothing of the image's (CVE-2025-23266).
//
// Stages in namespaces of their own take a thread each, which ends with them.
package hook

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"syscall"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/boxbuild/boxbuild/executor"
)

// defaultPath is the PATH of a hook that is given none.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// maxSaid bounds what is kept of a hook's output, in bytes.
const maxSaid = 4 << 10

// Env returns the environment of h.
func Env(h *executor.Hook) []string {
	for _, kv := range h.Env {
		if strings.HasPrefix(kv, "PATH=") {
			return h.Env
		}
	}
	return append(append([]string{}, h.Env...), "PATH="+defaultPath)
}

// Args returns the arguments of h, with the program's name in front.
func Args(h *executor.Hook) []string {
	if len(h.Args) == 0 {
		return []string{h.Path}
	}
	return h.Args
}

// State returns what a hook reads: the state of the sandbox with that ID.
func State(id string, stage executor.HookStage, pid int, bundle string) ([]byte, error) {
	st := specs.State{Version: specs.Version, ID: id, Status: specs.StateCreating, Pid: pid, Bundle: bundle}
	switch stage {
	case executor.Prestart, executor.CreateRuntime, executor.CreateContainer:
	case executor.StartContainer:
		st.Status = specs.StateCreated
	case executor.Poststart:
		st.Status = specs.StateRunning
	case executor.Poststop:
		st.Status, st.Pid = specs.StateStopped, 0
	}
	return json.Marshal(&st)
}

// Failed is the error of a hook that has ended with err, or ran for longer than it may, and what it has said.
func Failed(h *executor.Hook, err error, said string) error {
	var exit *exec.ExitError
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		err = fmt.Errorf("still running after %v", h.Timeout)
	case errors.As(err, &exit) && exit.Exited():
		err = fmt.Errorf("exit code: %d", exit.ExitCode())
	}
	if said = strings.TrimSpace(said); said != "" {
		err = fmt.Errorf("%w: %s", err, said)
	}
	return fmt.Errorf("running %s hook %s: %w", h.Stage, h.Path, err)
}

// run runs hooks of one stage one after the other, in the namespaces of the calling thread, which has to stay locked. death,
// if set, is the signal that they get should this process die. The kernel can't do that for one in another pid
// namespace, where Go takes its parent for dead; they die with that namespace.
func run(ctx context.Context, list []executor.Hook, state []byte, death syscall.Signal) error {
	for i := range list {
		if err := runOne(ctx, &list[i], state, death); err != nil {
			return err
		}
	}
	return nil
}

func runOne(ctx context.Context, h *executor.Hook, state []byte, death syscall.Signal) error {
	if h.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, h.Timeout, context.DeadlineExceeded)
		defer cancel()
	}
	cmd := exec.CommandContext(ctx, h.Path)
	cmd.Err = nil // the path is absolute, in a root that this process does not see
	var said limited
	cmd.Path, cmd.Args, cmd.Env, cmd.Dir = h.Path, Args(h), Env(h), "/"
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(state), io.Discard, &said
	// In a group of its own, of which nothing is left.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: death}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second // for those who have left the group and keep the pipes
	err := cmd.Start()
	if err == nil {
		err = cmd.Wait()
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		if errors.Is(err, exec.ErrWaitDelay) {
			err = nil
		}
	}
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return Failed(h, err, said.String())
}

// A limited keeps the beginning of what is written to it.
type limited struct{ b []byte }

func (l *limited) Write(p []byte) (int, error) {
	l.b = append(l.b, p[:min(len(p), maxSaid-len(l.b))]...)
	return len(p), nil
}

func (l *limited) String() string { return string(l.b) }
