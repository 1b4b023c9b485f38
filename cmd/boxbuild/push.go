package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/distribution/reference"
	"github.com/spf13/cobra"

	"github.com/boxbuild/boxbuild/proto/boxbuild/v1"
)

func (a *app) pushCommand() *cobra.Command {
	var opt transferOptions
	cmd := &cobra.Command{
		Use:                   "push [OPTIONS] NAME[:TAG]",
		Short:                 "Upload an image to a registry",
		Args:                  exactArgs(1),
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			opt.ref = args[0]
			return a.push(cmd.Context(), &opt)
		},
	}
	opt.register(cmd)
	cmd.Flags().BoolVarP(&opt.all, "all-tags", "a", false, "Push all tags of an image to the repository")
	cmd.Flags().StringVar(&opt.platform, "platform", "", `Push a platform-specific manifest as a single-platform image to the registry.
Image index won't be pushed, meaning that other manifests, including attestations won't be preserved.
'os[/arch[/variant]]': Explicit platform (eg. linux/amd64)`)
	return cmd
}

func (a *app) push(ctx context.Context, opt *transferOptions) error {
	start, named, err := opt.wire(a)
	if err != nil {
		return err
	}
	images, err := a.images(ctx)
	if err != nil {
		return err
	}
	stream, err := images.Push(ctx)
	if err != nil {
		return err
	}
	if err := stream.Send(&boxbuildv1.PushInput{Input: &boxbuildv1.PushInput_Start{Start: start}}); err != nil {
		return streamError(err, stream)
	}
	lines := a.transferLines(opt.quiet, "Pushing", "Pushed")
	lines.exists = "Layer already exists"
	if !opt.quiet {
		fmt.Fprintf(a.stdout, "The push refers to repository [%s]\n", named.Name())
	}
	for {
		out, err := stream.Recv()
		if errors.Is(err, io.EOF) && opt.all {
			if opt.quiet {
				fmt.Fprintln(a.stdout, named)
			}
			return nil
		}
		if err != nil {
			return err
		}
		switch o := out.GetOutput().(type) {
		case *boxbuildv1.PushOutput_Status:
			if !strings.HasPrefix(o.Status.GetId(), "manifest ") { // the last line tells of it
				lines.status(o.Status)
			}
		case *boxbuildv1.PushOutput_Ask:
			ans := answerCredentials(o.Ask)
			if err := stream.Send(&boxbuildv1.PushInput{Input: &boxbuildv1.PushInput_Answer{Answer: ans}}); err != nil {
				return streamError(err, stream)
			}
		case *boxbuildv1.PushOutput_Result:
			if !opt.quiet {
				name := named
				if pushed, err := reference.ParseNormalizedNamed(o.Result.GetName()); err == nil {
					name = pushed
				}
				fmt.Fprintf(a.stdout, "%s: digest: %s size: %d\n", suffix(name), o.Result.GetDigest(), o.Result.GetSize())
			}
			if opt.all {
				continue
			}
			if opt.quiet {
				fmt.Fprintln(a.stdout, named)
			}
			return nil
		}
	}
}
