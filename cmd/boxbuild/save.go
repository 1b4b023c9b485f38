package main

import (
	"context"
	"errors"
	"io"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/boxbuild/boxbuild/proto/boxbuild/v1"
)

func (a *app) saveCommand() *cobra.Command {
	var output string
	var platforms []string
	cmd := &cobra.Command{
		Use:                   "save [OPTIONS] IMAGE [IMAGE...]",
		Short:                 "Save one or more images to a tar archive (streamed to STDOUT by default)",
		Args:                  oneOrMore,
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			wanted, err := parsePlatforms(platforms)
			if err != nil {
				return err
			}
			return a.save(cmd.Context(), &boxbuildv1.SaveRequest{Refs: args, Platforms: wanted}, output)
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "Write to a file, instead of STDOUT")
	cmd.Flags().StringSliceVar(&platforms, "platform", nil,
		`Save only the given platform(s). Formatted as a comma-separated list of "os[/arch[/variant]]" (e.g., "linux/amd64,linux/arm64/v8")`)
	return cmd
}

func (a *app) save(ctx context.Context, req *boxbuildv1.SaveRequest, output string) error {
	if f, ok := a.stdout.(interface{ Fd() uintptr }); output == "" && ok && term.IsTerminal(int(f.Fd())) {
		return errors.New("cowardly refusing to save to a terminal. Use the -o flag or redirect")
	}
	if output != "" {
		if err := writable(output); err != nil {
			return err
		}
	}
	images, err := a.images(ctx)
	if err != nil {
		return err
	}
	stream, err := images.Save(ctx, req)
	if err != nil {
		return err
	}
	body := &chunkReader{recv: stream.Recv}
	if output != "" {
		return writeFile(output, 0o600, body)
	}
	_, err = io.Copy(a.stdout, body)
	return err
}
