package main

import (
	"context"
	"errors"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"github.com/boxbuild/boxbuild/cmd/internal/terminal"
)

func (a *app) attachCommand() *cobra.Command {
	var noStdin, sigProxy bool
	var keys string
	cmd := &cobra.Command{
		Use:   "attach [OPTIONS] CONTAINER",
		Short: "Attach local standard input, output, and error streams to a running container",
		Args:  exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			pressed, err := findKeys(keys)
			if err != nil {
				return err
			}
			t := &task{id: args[0], stdin: !noStdin, stdout: true, stderr: true, keys: pressed}
			return a.attachTo(cmd.Context(), t, sigProxy)
		},
	}
	f := cmd.Flags()
	f.BoolVar(&noStdin, "no-stdin", false, "Do not attach STDIN")
	f.BoolVar(&sigProxy, "sig-proxy", true, "Proxy all received signals to the process")
	f.StringVar(&keys, "detach-keys", "", "Override the key sequence for detaching a container")
	return cmd
}

// errDetached is how attach and exec end when the user has detached.
var errDetached = errors.New("read escape sequence")

// attachTo connects to a container that runs.
func (a *app) attachTo(ctx context.Context, t *task, sigProxy bool) error {
	api, err := a.engine(ctx)
	if err != nil {
		return err
	}
	// It is waited for before anything else, so that its end is not missed.
	waiting, stopWaiting := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWaiting()
	ended := api.ContainerWait(waiting, t.id, client.ContainerWaitOptions{})
	c, err := a.running(ctx, t.id)
	if err != nil {
		return err
	}
	t.tty = c.Config.Tty
	if err := a.checkTTY(t.stdin, t.tty); err != nil {
		return err
	}
	t.stdin = t.stdin && c.Config.OpenStdin
	if sigProxy && !t.tty {
		forced, stop := a.forwardSignals(ctx, t.id)
		defer stop()
		ctx = forced
	}
	conn, err := api.ContainerAttach(ctx, t.id, client.ContainerAttachOptions{Stream: true, Stdin: t.stdin, Stdout: true, Stderr: true, DetachKeys: t.keys.name})
	if err != nil {
		return err
	}
	// If it has ended meanwhile nothing would end the stream.
	if _, err := a.running(ctx, t.id); err != nil {
		conn.Close()
		return err
	}
	if t.tty {
		resize := a.resizer(t.id)
		if rows, cols := terminal.Size(a.stdout); rows > 0 && cols > 0 {
			_ = resize(ctx, rows+1, cols+1) // another size makes a program draw its screen anew
		}
		stop := terminal.Follow(ctx, a.stdout, resize)
		defer stop()
	}
	switch err := a.stream(t).Run(ctx, conn.HijackedResponse); {
	case errors.Is(err, terminal.ErrDetached):
		return errDetached
	case err != nil:
		return err
	}
	code, err := exitCode(ctx, ended)
	if err != nil {
		return err
	}
	if code != 0 {
		return silentError{code}
	}
	return nil
}

// running returns a container that can be attached to.
func (a *app) running(ctx context.Context, id string) (*container.InspectResponse, error) {
	r, err := a.api.ContainerInspect(ctx, id, client.ContainerInspectOptions{})
	switch {
	case err != nil:
		return nil, err
	case !r.Container.State.Running:
		return nil, errors.New("cannot attach to a stopped container, start it first")
	case r.Container.State.Paused:
		return nil, errors.New("cannot attach to a paused container, unpause it first")
	case r.Container.State.Restarting:
		return nil, errors.New("cannot attach to a restarting container, wait until it is running")
	}
	return &r.Container, nil
}
