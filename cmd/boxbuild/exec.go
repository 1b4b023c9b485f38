package main

import (
	"context"
	"errors"

	"github.com/docker/cli/opts"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"github.com/boxbuild/boxbuild/cmd/internal/terminal"
)

// execOptions are the flags of exec.
type execOptions struct {
	detach, interactive, tty, privileged bool
	keys, user, workdir                  string
	env, envFile                         opts.ListOpts
}

func (a *app) execCommand() *cobra.Command {
	opt := execOptions{env: opts.NewListOpts(opts.ValidateEnv), envFile: opts.NewListOpts(nil)}
	cmd := &cobra.Command{
		Use:   "exec [OPTIONS] CONTAINER COMMAND [ARG...]",
		Short: "Execute a command in a running container",
		Args:  minArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.exec(cmd.Context(), &opt, args[0], args[1:])
		},
	}
	f := cmd.Flags()
	f.SetInterspersed(false) // what follows the container is the command's
	f.BoolVarP(&opt.detach, "detach", "d", false, "Detached mode: run command in the background")
	f.StringVar(&opt.keys, "detach-keys", "", "Override the key sequence for detaching a container")
	f.VarP(&opt.env, "env", "e", "Set environment variables")
	f.Var(&opt.envFile, "env-file", "Read in a file of environment variables")
	f.BoolVarP(&opt.interactive, "interactive", "i", false, "Keep STDIN open even if not attached")
	f.BoolVarP(&opt.tty, "tty", "t", false, "Allocate a pseudo-TTY")
	f.BoolVar(&opt.privileged, "privileged", false, "Give extended privileges to the command")
	f.StringVarP(&opt.user, "user", "u", "", `Username or UID (format: "<name|uid>[:<group|gid>]")`)
	f.StringVarP(&opt.workdir, "workdir", "w", "", "Working directory inside the container")
	return cmd
}

// exec runs a command in a container. The exit code is the command's.
func (a *app) exec(ctx context.Context, opt *execOptions, id string, command []string) error {
	keys, err := findKeys(opt.keys)
	if err != nil {
		return err
	}
	env, err := opts.ReadKVEnvStrings(opt.envFile.GetSlice(), opt.env.GetSlice())
	if err != nil {
		return err
	}
	api, err := a.engine(ctx)
	if err != nil {
		return err
	}
	t := &task{tty: opt.tty, stdin: opt.interactive && !opt.detach, stdout: !opt.detach, stderr: !opt.detach, keys: keys}
	if err := a.checkTTY(t.stdin, t.tty); err != nil {
		if _, ierr := api.ContainerInspect(ctx, id, client.ContainerInspectOptions{}); ierr != nil {
			return ierr // that there is no such container says more
		}
		return err
	}
	req := client.ExecCreateOptions{
		User: opt.user, Privileged: opt.privileged, TTY: opt.tty, Env: env, WorkingDir: opt.workdir, Cmd: command,
		AttachStdin: t.stdin, AttachStdout: t.stdout, AttachStderr: t.stderr, DetachKeys: keys.name,
	}
	if opt.tty {
		req.ConsoleSize.Height, req.ConsoleSize.Width = terminal.Size(a.stdout)
	}
	made, err := api.ExecCreate(ctx, id, req)
	if err != nil {
		return err
	}
	if opt.detach {
		_, err := api.ExecStart(ctx, made.ID, client.ExecStartOptions{Detach: true, TTY: opt.tty, ConsoleSize: req.ConsoleSize})
		return err
	}
	conn, err := api.ExecAttach(ctx, made.ID, client.ExecAttachOptions{TTY: opt.tty, ConsoleSize: req.ConsoleSize})
	if err != nil {
		return err
	}
	if opt.tty {
		stop := terminal.Follow(ctx, a.stdout, func(ctx context.Context, rows, cols uint) error {
			_, err := api.ExecResize(ctx, made.ID, client.ExecResizeOptions{Height: rows, Width: cols})
			return err
		})
		defer stop()
	}
	switch err := a.stream(t).Run(ctx, conn.HijackedResponse); {
	case errors.Is(err, terminal.ErrDetached):
		return errDetached
	case err != nil:
		return err
	}
	r, err := api.ExecInspect(ctx, made.ID, client.ExecInspectOptions{})
	switch {
	case client.IsErrConnectionFailed(err):
		return silentError{exitConnection}
	case err != nil:
		return err
	case r.ExitCode != 0:
		return silentError{r.ExitCode}
	}
	return nil
}
