package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

// startOptions are the flags of start.
type startOptions struct {
	attach, interactive       bool
	keys                      string
	checkpoint, checkpointDir string
}

func (a *app) startCommand() *cobra.Command {
	var opt startOptions
	cmd := &cobra.Command{
		Use:   "start [OPTIONS] CONTAINER [CONTAINER...]",
		Short: "Start one or more stopped containers",
		Args:  minArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case opt.checkpoint != "":
				return statusError{exitFlags, "--checkpoint is not supported: no checkpoints of containers are made"}
			case opt.checkpointDir != "":
				return statusError{exitFlags, "--checkpoint-dir is not supported: no checkpoints of containers are made"}
			case (opt.attach || opt.interactive) && len(args) > 1:
				return errors.New("you cannot start and attach multiple containers at once")
			case opt.attach || opt.interactive:
				return a.startOne(cmd.Context(), &opt, args[0])
			}
			return a.startAll(cmd.Context(), args)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&opt.attach, "attach", "a", false, "Attach STDOUT/STDERR and forward signals")
	f.BoolVarP(&opt.interactive, "interactive", "i", false, "Attach container's STDIN")
	f.StringVar(&opt.keys, "detach-keys", "", "Override the key sequence for detaching a container")
	f.StringVar(&opt.checkpoint, "checkpoint", "", "Restore from this checkpoint")
	f.StringVar(&opt.checkpointDir, "checkpoint-dir", "", "Use a custom checkpoint storage directory")
	_ = f.MarkHidden("checkpoint")     // it exists
	_ = f.MarkHidden("checkpoint-dir") // it exists
	return cmd
}

// startAll starts containers one after the other. Each that cannot be started is told at once.
func (a *app) startAll(ctx context.Context, names []string) error {
	api, err := a.engine(ctx)
	if err != nil {
		return err
	}
	var failed []string
	for _, name := range names {
		if _, err := api.ContainerStart(ctx, name, client.ContainerStartOptions{}); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			a.complain(err.Error())
			failed = append(failed, name)
			continue
		}
		fmt.Fprintln(a.stdout, name)
	}
	if failed != nil {
		return fmt.Errorf("failed to start containers: %s", strings.Join(failed, ", "))
	}
	return nil
}

// startOne starts a container and is connected to it from the first byte on. The exit code is the container's.
func (a *app) startOne(ctx context.Context, opt *startOptions, name string) error {
	keys, err := findKeys(opt.keys)
	if err != nil {
		return err
	}
	api, err := a.engine(ctx)
	if err != nil {
		return err
	}
	r, err := api.ContainerInspect(ctx, name, client.ContainerInspectOptions{})
	if err != nil {
		return err
	}
	c := r.Container
	t := &task{
		id: c.ID, tty: c.Config.Tty, stdin: opt.interactive && c.Config.OpenStdin, stdout: true, stderr: true, keys: keys,
		removed: c.HostConfig.AutoRemove,
	}
	return a.startAttached(ctx, t, !t.tty)
}
