package main

import (
	"context"
	"errors"
	"strings"

	"github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

// stopFlags are those of stop and restart.
type stopFlags struct {
	signal  string
	timeout int // seconds
	cmd     *cobra.Command
}

func (o *stopFlags) register(cmd *cobra.Command) {
	o.cmd = cmd
	f := cmd.Flags()
	f.StringVarP(&o.signal, "signal", "s", "", "Signal to send to the container")
	f.IntVarP(&o.timeout, "timeout", "t", 0, "Seconds to wait before killing the container")
	f.IntVar(&o.timeout, "time", 0, "Seconds to wait before killing the container (deprecated: use --timeout)")
	_ = f.MarkDeprecated("time", "use --timeout instead") // it exists
}

// seconds is the timeout, nil for the container's own.
func (o *stopFlags) seconds() (*int, error) {
	old, now := o.cmd.Flags().Changed("time"), o.cmd.Flags().Changed("timeout")
	switch {
	case old && now:
		return nil, errors.New("conflicting options: cannot specify both --timeout and --time")
	case old || now:
		return &o.timeout, nil
	}
	return nil, nil
}

func (a *app) stopCommand() *cobra.Command {
	var opt stopFlags
	cmd := a.eachCommand("stop [OPTIONS] CONTAINER [CONTAINER...]", "Stop one or more running containers",
		func(ctx context.Context, api *client.Client, name string) error {
			seconds, err := opt.seconds()
			if err != nil {
				return err
			}
			_, err = api.ContainerStop(ctx, name, client.ContainerStopOptions{Signal: opt.signal, Timeout: seconds})
			return err
		})
	opt.register(cmd)
	return cmd
}

func (a *app) restartCommand() *cobra.Command {
	var opt stopFlags
	cmd := a.eachCommand("restart [OPTIONS] CONTAINER [CONTAINER...]", "Restart one or more containers",
		func(ctx context.Context, api *client.Client, name string) error {
			seconds, err := opt.seconds()
			if err != nil {
				return err
			}
			_, err = api.ContainerRestart(ctx, name, client.ContainerRestartOptions{Signal: opt.signal, Timeout: seconds})
			return err
		})
	opt.register(cmd)
	return cmd
}

func (a *app) killCommand() *cobra.Command {
	var signal string
	cmd := a.eachCommand("kill [OPTIONS] CONTAINER [CONTAINER...]", "Kill one or more running containers",
		func(ctx context.Context, api *client.Client, name string) error {
			_, err := api.ContainerKill(ctx, name, client.ContainerKillOptions{Signal: signal})
			return err
		})
	cmd.Flags().StringVarP(&signal, "signal", "s", "", "Signal to send to the container")
	return cmd
}

func (a *app) pauseCommand() *cobra.Command {
	return a.eachCommand("pause CONTAINER [CONTAINER...]", "Pause all processes within one or more containers",
		func(ctx context.Context, api *client.Client, name string) error {
			_, err := api.ContainerPause(ctx, name, client.ContainerPauseOptions{})
			return err
		})
}

func (a *app) unpauseCommand() *cobra.Command {
	return a.eachCommand("unpause CONTAINER [CONTAINER...]", "Unpause all processes within one or more containers",
		func(ctx context.Context, api *client.Client, name string) error {
			_, err := api.ContainerUnpause(ctx, name, client.ContainerUnpauseOptions{})
			return err
		})
}

func (a *app) rmCommand() *cobra.Command {
	var opt client.ContainerRemoveOptions
	cmd := a.eachCommand("rm [OPTIONS] CONTAINER [CONTAINER...]", "Remove one or more containers",
		func(ctx context.Context, api *client.Client, name string) error {
			if name = strings.Trim(name, "/"); name == "" {
				return errors.New("container name cannot be empty")
			}
			_, err := api.ContainerRemove(ctx, name, opt)
			if opt.Force && notFound(err) {
				return excusedError{err} // it is what is wanted, unless the name is wrong
			}
			return err
		})
	f := cmd.Flags()
	f.BoolVarP(&opt.RemoveVolumes, "volumes", "v", false, "Remove anonymous volumes associated with the container")
	f.BoolVarP(&opt.RemoveLinks, "link", "l", false, "Remove the specified link")
	f.BoolVarP(&opt.Force, "force", "f", false, "Force the removal of a running container (uses SIGKILL)")
	return cmd
}

// eachCommand is a command that does one thing to each container that it is given.
func (a *app) eachCommand(use, short string, do func(ctx context.Context, api *client.Client, name string) error) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Args: minArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := a.engine(cmd.Context())
			if err != nil {
				return err
			}
			return a.each(cmd.Context(), args, func(ctx context.Context, name string) error { return do(ctx, api, name) })
		},
	}
}
