package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"github.com/boxbuild/boxbuild/cmd/internal/terminal"
)

// runOptions are the flags of run.
type runOptions struct {
	createOptions
	detach, sigProxy bool
	detachKeys       string
}

func (a *app) runCommand() *cobra.Command {
	var opt runOptions
	cmd := &cobra.Command{
		Use:   "run [OPTIONS] IMAGE [COMMAND] [ARG...]",
		Short: "Create and run a new container from an image",
		Args:  minArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			req, err := a.request(cmd, &opt.createOptions, args)
			if err != nil {
				return err
			}
			return a.runContainer(cmd.Context(), &opt, req)
		},
	}
	f := cmd.Flags()
	opt.register(a, f, "running")
	f.BoolVarP(&opt.detach, "detach", "d", false, "Run container in background and print container ID")
	f.BoolVar(&opt.sigProxy, "sig-proxy", true, "Proxy received signals to the process")
	f.StringVar(&opt.detachKeys, "detach-keys", "", "Override the key sequence for detaching a container")
	return cmd
}

// runContainer makes the container, connects to it and lets it run. The exit code is the container's.
func (a *app) runContainer(ctx context.Context, opt *runOptions, req *container.CreateRequest) error {
	keys, err := findKeys(opt.detachKeys)
	if err != nil {
		return err
	}
	switch {
	case opt.detach && opt.spec.Attached():
		return errors.New("conflicting options: cannot specify both --attach and --detach")
	case opt.detach:
		req.AttachStdin, req.AttachStdout, req.AttachStderr, req.StdinOnce = false, false, false, false
	default:
		if err := a.checkTTY(req.AttachStdin, req.Tty); err != nil {
			return err
		}
	}
	id, err := a.create(ctx, &opt.createOptions, req)
	if err != nil {
		return startError(err)
	}
	t := &task{
		id: id, tty: req.Tty, stdin: req.AttachStdin, stdout: req.AttachStdout, stderr: req.AttachStderr, keys: keys,
		removed: req.HostConfig.AutoRemove,
	}
	if !t.attached() {
		if _, err := a.api.ContainerStart(ctx, id, client.ContainerStartOptions{}); err != nil {
			fmt.Fprintln(a.stdout, id) // it is there
			return startError(err)
		}
		fmt.Fprintln(a.stdout, id)
		return nil
	}
	err = a.startAttached(ctx, t, opt.sigProxy)
	var status statusError
	if err != nil && !errors.As(err, &status) {
		return startError(err)
	}
	return err
}

// startError gives an error of run docker's exit code: 127 for a command that is not there, 126 for one that cannot be run,
// 125 for the rest.
func startError(err error) error {
	var status statusError
	var use usageError
	var silent silentError
	if errors.As(err, &status) || errors.As(err, &use) || errors.As(err, &silent) {
		return err
	}
	code := exitFlags
	contains := func(texts ...string) bool {
		for _, t := range texts {
			if strings.Contains(err.Error(), t) {
				return true
			}
		}
		return false
	}
	switch {
	case contains("executable file not found", "no such file or directory"):
		code = exitNoCommand
	case contains(syscall.EACCES.Error(), syscall.EISDIR.Error()):
		code = exitCannotRun
	}
	return runError("run", errors.New(describe(err)), code)
}

// A task is a container that this program is connected to.
type task struct {
	id                    string
	tty                   bool
	stdin, stdout, stderr bool
	keys                  detachKeys
	removed               bool // it is removed when it ends
}

func (t *task) attached() bool { return t.stdin || t.stdout || t.stderr }

// stream is what joins the user's streams to the container's.
func (a *app) stream(t *task) *terminal.Stream {
	s := &terminal.Stream{TTY: t.tty, Keys: t.keys.pressed}
	if t.stdin {
		s.In = a.stdin
	}
	if t.stdout {
		s.Out = a.stdout
	}
	if t.stderr {
		s.Err = a.stderr
	}
	return s
}

// startAttached connects to a container that does not run, lets it run and waits until it has ended or the user detaches.
func (a *app) startAttached(ctx context.Context, t *task, sigProxy bool) error {
	if sigProxy {
		// From here on signals are the container's, and do not end this program.
		forced, stop := a.forwardSignals(ctx, t.id)
		defer stop()
		ctx = forced
	}
	conn, err := a.api.ContainerAttach(ctx, t.id, client.ContainerAttachOptions{
		Stream: true, Stdin: t.stdin, Stdout: t.stdout, Stderr: t.stderr, DetachKeys: t.keys.name,
	})
	if err != nil {
		return unlessForced(ctx, err)
	}
	waiting, stopWaiting := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWaiting()
	condition := container.WaitConditionNextExit
	if t.removed {
		condition = container.WaitConditionRemoved
	}
	ended := a.api.ContainerWait(waiting, t.id, client.ContainerWaitOptions{Condition: condition})
	streaming, stopStreaming := context.WithCancel(ctx)
	defer stopStreaming()
	streamed := make(chan error, 1)
	go func() { streamed <- a.stream(t).Run(streaming, conn.HijackedResponse) }()
	if _, err := a.api.ContainerStart(ctx, t.id, client.ContainerStartOptions{}); err != nil {
		stopStreaming()
		<-streamed
		if err = unlessForced(ctx, err); t.removed && !errors.Is(err, errForced) {
			// The daemon does so too; this way it is gone when its name is used again.
			_, _ = a.api.ContainerRemove(context.WithoutCancel(ctx), t.id, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
		}
		return err
	}
	if t.tty {
		stop := terminal.Follow(ctx, a.stdout, a.resizer(t.id))
		defer stop()
	}
	return a.await(ctx, t, streamed, stopStreaming, ended)
}

// await waits for the end of a container whose streams are being copied.
func (a *app) await(ctx context.Context, t *task, streamed <-chan error, stopStreaming func(), ended client.ContainerWaitResult) error {
	codes := make(chan error, 1)
	go func() {
		code, err := exitCode(ctx, ended)
		switch {
		case ctx.Err() != nil:
			err = context.Cause(ctx)
		case err != nil:
			err = statusError{exitFlags, "error waiting for container: " + err.Error()}
		case code != 0:
			err = silentError{code}
		}
		codes <- err
	}()
	select {
	case err := <-streamed:
		switch {
		case errors.Is(err, terminal.ErrDetached):
			return nil
		case err != nil:
			return statusError{exitFailed, err.Error()}
		}
		return <-codes // which ends with ctx too
	case err := <-codes:
		if !t.stdout && !t.stderr {
			stopStreaming() // nothing but the user's typing would end it
		}
		<-streamed // all that was said is shown
		return err
	}
}

// exitCode is how a container has ended.
func exitCode(ctx context.Context, w client.ContainerWaitResult) (int, error) {
	select {
	case r := <-w.Result:
		if r.Error != nil {
			return 0, errors.New(r.Error.Message)
		}
		return int(r.StatusCode), nil
	case err := <-w.Error:
		return 0, err
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
}

// errForced is how a command ends whose user is out of patience.
var errForced = statusError{exitFailed, fmt.Sprintf("\ngot %d SIGTERM/SIGINTs, forcefully exiting", enough)}

// unlessForced is err, unless that is only because the user is out of patience.
func unlessForced(ctx context.Context, err error) error {
	if errors.Is(context.Cause(ctx), errForced) {
		return errForced
	}
	return err
}

// enough is how many signals that a container may take as it likes its user sends, before he wants to be rid of it.
const enough = 3

// forwardSignals passes the signals that this program receives on to a container. One that takes no notice, or a daemon that
// does not answer, is left alone when the user has asked for the end often enough: then the context that it returns ends.
func (a *app) forwardSignals(ctx context.Context, id string) (forced context.Context, stop func()) {
	kills, stopKills := context.WithCancel(context.WithoutCancel(ctx))
	forced, force := context.WithCancelCause(ctx)
	signals, done := make(chan os.Signal, enough), make(chan struct{})
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		defer close(done)
		for range enough {
			if _, ok := <-signals; !ok {
				return
			}
		}
		force(errForced)
		stopKills()
	}()
	stopForwarding := terminal.Forward(func(name string) {
		// It may have ended; then so does this program.
		_, _ = a.api.ContainerKill(kills, id, client.ContainerKillOptions{Signal: name})
	})
	if a.keepSignals != nil {
		a.keepSignals()
	}
	return forced, func() {
		signal.Stop(signals)
		close(signals)
		<-done
		stopForwarding()
		stopKills()
		force(nil)
	}
}

// resizer sets the size of a container's terminal.
func (a *app) resizer(id string) func(ctx context.Context, rows, cols uint) error {
	return func(ctx context.Context, rows, cols uint) error {
		_, err := a.api.ContainerResize(ctx, id, client.ContainerResizeOptions{Height: rows, Width: cols})
		return err
	}
}

// detachKeys are the keys that leave a container running.
type detachKeys struct {
	name    string // as docker writes them, "" for docker's own; the daemon looks for them too
	pressed []byte
}

// findKeys are those of a flag, else those of the user's docker configuration, else docker's own.
func findKeys(flag string) (detachKeys, error) {
	if flag == "" {
		file, err := loadDockerConfig()
		if err != nil {
			return detachKeys{}, err
		}
		flag = file.DetachKeys
	}
	if flag == "" {
		return detachKeys{pressed: terminal.DefaultKeys}, nil
	}
	pressed, err := terminal.ParseKeys(flag)
	if err != nil {
		return detachKeys{}, fmt.Errorf("invalid detach keys (%s): %w", flag, err)
	}
	return detachKeys{flag, pressed}, nil
}

// checkTTY refuses to join what is no terminal to one: the process would take what it reads for typing.
func (a *app) checkTTY(stdin, tty bool) error {
	if stdin && tty && !terminal.Is(io.Reader(a.stdin)) {
		return errors.New("cannot attach stdin to a TTY-enabled container because stdin is not a terminal")
	}
	return nil
}
