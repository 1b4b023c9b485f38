package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/docker/cli/opts"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"github.com/boxbuild/boxbuild/cmd/internal/runspec"
	"github.com/boxbuild/boxbuild/cmd/internal/terminal"
)

func (a *app) commitCommand() *cobra.Command {
	var opt client.ContainerCommitOptions
	changes := opts.NewListOpts(nil)
	pause := true
	cmd := &cobra.Command{
		Use:   "commit [OPTIONS] CONTAINER [REPOSITORY[:TAG]]",
		Short: "Create a new image from a container's changes",
		Args:  rangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if cmd.Flags().Changed("pause") && cmd.Flags().Changed("no-pause") {
				return errors.New("conflicting options: --no-pause and --pause cannot be used together")
			}
			opt.NoPause = opt.NoPause || !pause
			if len(args) > 1 {
				opt.Reference = args[1]
			}
			opt.Changes = changes.GetSlice()
			api, err := a.engine(cmd.Context())
			if err != nil {
				return err
			}
			r, err := api.ContainerCommit(cmd.Context(), args[0], opt)
			if err != nil {
				return err
			}
			fmt.Fprintln(a.stdout, r.ID)
			return nil
		},
	}
	f := cmd.Flags()
	f.SetInterspersed(false)
	f.StringVarP(&opt.Comment, "message", "m", "", "Commit message")
	f.StringVarP(&opt.Author, "author", "a", "", `Author (e.g., "John Hannibal Smith <hannibal@a-team.com>")`)
	f.VarP(&changes, "change", "c", "Apply Dockerfile instruction to the created image")
	f.BoolVar(&opt.NoPause, "no-pause", false, "Disable pausing container during commit")
	f.BoolVarP(&pause, "pause", "p", true, "Pause container during commit (deprecated: use --no-pause instead)")
	_ = f.MarkHidden("pause") // it exists
	return cmd
}

func (a *app) exportCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "export [OPTIONS] CONTAINER",
		Short: "Export a container's filesystem as a tar archive",
		Args:  exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.export(cmd.Context(), args[0], output)
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "Write to a file, instead of STDOUT")
	return cmd
}

// export writes the files of a container to a file or to standard output.
func (a *app) export(ctx context.Context, name, output string) error {
	switch {
	case output == "" && terminal.Is(a.stdout):
		return errors.New("cowardly refusing to save to a terminal. Use the -o flag or redirect")
	case output != "":
		if st, err := os.Stat(filepath.Dir(output)); err != nil || !st.IsDir() {
			return fmt.Errorf("failed to export container: invalid output path: directory %q does not exist", filepath.Dir(output))
		}
	}
	api, err := a.engine(ctx)
	if err != nil {
		return err
	}
	r, err := api.ContainerExport(ctx, name, client.ContainerExportOptions{})
	if err != nil {
		return err
	}
	defer r.Close()
	if output == "" {
		_, err := io.Copy(a.stdout, r)
		return err
	}
	return writeFile(output, 0o600, r)
}

func (a *app) updateCommand() *cobra.Command {
	var spec runspec.Update
	cmd := &cobra.Command{
		Use:   "update [OPTIONS] CONTAINER [CONTAINER...]",
		Short: "Update configuration of one or more containers",
		Args:  minArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			req, err := spec.Request(cmd.Flags())
			if err != nil {
				return err
			}
			api, err := a.engine(cmd.Context())
			if err != nil {
				return err
			}
			opt := client.ContainerUpdateOptions{Resources: &req.Resources, RestartPolicy: &req.RestartPolicy}
			var errs []error
			var warnings []string
			for _, name := range args {
				r, err := api.ContainerUpdate(cmd.Context(), name, opt)
				if err != nil {
					errs = append(errs, err)
					continue
				}
				fmt.Fprintln(a.stdout, name)
				warnings = append(warnings, r.Warnings...)
			}
			for _, w := range warnings {
				fmt.Fprintln(a.stderr, w)
			}
			return errors.Join(errs...)
		},
	}
	spec.Register(cmd.Flags())
	return cmd
}
