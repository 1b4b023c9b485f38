package main

import (
	"context"
	"io"

	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

func (a *app) logsCommand() *cobra.Command {
	opt := client.ContainerLogsOptions{ShowStdout: true, ShowStderr: true}
	cmd := &cobra.Command{
		Use:   "logs [OPTIONS] CONTAINER",
		Short: "Fetch the logs of a container",
		Args:  exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.logs(cmd.Context(), args[0], opt)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&opt.Follow, "follow", "f", false, "Follow log output")
	f.StringVar(&opt.Since, "since", "", `Show logs since timestamp (e.g. "2013-01-02T13:23:37Z") or relative (e.g. "42m" for 42 minutes)`)
	f.StringVar(&opt.Until, "until", "", `Show logs before a timestamp (e.g. "2013-01-02T13:23:37Z") or relative (e.g. "42m" for 42 minutes)`)
	f.BoolVarP(&opt.Timestamps, "timestamps", "t", false, "Show timestamps")
	f.BoolVar(&opt.Details, "details", false, "Show extra details provided to logs")
	f.StringVarP(&opt.Tail, "tail", "n", "all", "Number of lines to show from the end of the logs")
	return cmd
}

func (a *app) logs(ctx context.Context, name string, opt client.ContainerLogsOptions) error {
	api, err := a.engine(ctx)
	if err != nil {
		return err
	}
	c, err := api.ContainerInspect(ctx, name, client.ContainerInspectOptions{})
	if err != nil {
		return err
	}
	r, err := api.ContainerLogs(ctx, c.Container.ID, opt)
	if err != nil {
		return err
	}
	defer r.Close()
	if c.Container.Config.Tty {
		_, err = io.Copy(a.stdout, r)
	} else {
		_, err = stdcopy.StdCopy(a.stdout, a.stderr, r)
	}
	return err
}
