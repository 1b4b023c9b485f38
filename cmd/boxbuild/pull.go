package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/distribution/reference"
	"github.com/spf13/cobra"

	"github.com/boxbuild/boxbuild/proto/boxbuild/v1"
)

// transferOptions are the flags of pull and push.
type transferOptions struct {
	ref      string
	platform string
	quiet    bool
	all      bool
	during   bool // another command, whose result is not the image
}

func (o *transferOptions) register(cmd *cobra.Command) {
	f := cmd.Flags()
	f.BoolVarP(&o.quiet, "quiet", "q", false, "Suppress verbose output")
	contentTrust(cmd)
}

// contentTrust takes a flag of docker's that means nothing: there is no content trust to disable.
func contentTrust(cmd *cobra.Command) {
	cmd.Flags().Bool("disable-content-trust", true, "Skip image verification (deprecated)")
	_ = cmd.Flags().MarkHidden("disable-content-trust") // it exists
}

// wire returns the request, and the name as docker would complete it.
func (o *transferOptions) wire(a *app) (*boxbuildv1.Transfer, reference.Named, error) {
	named, err := reference.ParseNormalizedNamed(o.ref)
	if err != nil {
		return nil, nil, usagef("invalid reference %q: %v", o.ref, err)
	}
	switch {
	case o.all && !reference.IsNameOnly(named):
		return nil, nil, usagef("tag can't be used with --all-tags/-a")
	case !o.all && reference.IsNameOnly(named):
		named = reference.TagNameOnly(named)
		if !o.quiet && !o.during {
			fmt.Fprintln(a.stdout, "Using default tag: latest")
		}
	}
	t := &boxbuildv1.Transfer{Ref: named.String(), Quiet: o.quiet, AllTags: o.all}
	if o.platform != "" {
		if t.Platform, err = parsePlatform(o.platform); err != nil {
			return nil, nil, err
		}
	}
	return t, named, nil
}

func (a *app) pullCommand() *cobra.Command {
	var opt transferOptions
	cmd := &cobra.Command{
		Use:                   "pull [OPTIONS] NAME[:TAG|@DIGEST]",
		Short:                 "Download an image from a registry",
		Args:                  exactArgs(1),
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			opt.ref = args[0]
			if !cmd.Flags().Changed("platform") {
				opt.platform = a.cfg.Platform
			}
			return a.pull(cmd.Context(), &opt)
		},
	}
	opt.register(cmd)
	cmd.Flags().BoolVarP(&opt.all, "all-tags", "a", false, "Download all tagged images in the repository")
	cmd.Flags().StringVar(&opt.platform, "platform", "", "Set platform if server is multi-platform capable")
	return cmd
}

func (a *app) pull(ctx context.Context, opt *transferOptions) error {
	start, named, err := opt.wire(a)
	if err != nil {
		return err
	}
	images, err := a.images(ctx)
	if err != nil {
		return err
	}
	stream, err := images.Pull(ctx)
	if err != nil {
		return err
	}
	if err := stream.Send(&boxbuildv1.PullInput{Input: &boxbuildv1.PullInput_Start{Start: start}}); err != nil {
		return streamError(err, stream)
	}
	lines := a.pullLines(opt.quiet)
	begin := func(name reference.Named) {
		if !opt.quiet {
			fmt.Fprintf(a.stdout, "%s: Pulling from %s\n", suffix(name), reference.Path(name))
		}
	}
	if !opt.all {
		begin(named)
	}
	updated := false
	for {
		out, err := stream.Recv()
		if errors.Is(err, io.EOF) && opt.all {
			opt.pulled(a, named, updated)
			return nil
		}
		if err != nil {
			return err
		}
		switch o := out.GetOutput().(type) {
		case *boxbuildv1.PullOutput_Status:
			lines.status(o.Status)
		case *boxbuildv1.PullOutput_Ask:
			ans := answerCredentials(o.Ask)
			if err := stream.Send(&boxbuildv1.PullInput{Input: &boxbuildv1.PullInput_Answer{Answer: ans}}); err != nil {
				return streamError(err, stream)
			}
		case *boxbuildv1.PullOutput_Begins:
			if next, err := reference.ParseNormalizedNamed(o.Begins); err == nil {
				lines = a.pullLines(opt.quiet)
				begin(next)
			}
		case *boxbuildv1.PullOutput_Result:
			updated = updated || o.Result.GetUpdated()
			if !opt.quiet {
				fmt.Fprintln(a.stdout, "Digest:", o.Result.GetDigest())
			}
			if !opt.all {
				opt.pulled(a, named, updated)
				return nil
			}
		}
	}
}

// pullLines are those of a pull: a part is downloaded, then extracted.
func (a *app) pullLines(quiet bool) *transferLines {
	lines := a.transferLines(quiet, "Downloading", "Pull complete")
	lines.between, lines.exists = "Download complete", "Already exists"
	return lines
}

// pulled says how a pull ended.
func (o *transferOptions) pulled(a *app, named reference.Named, updated bool) {
	if !o.quiet {
		state := "Image is up to date for"
		if updated {
			state = "Downloaded newer image for"
		}
		fmt.Fprintln(a.stdout, "Status:", state, reference.FamiliarString(named))
	}
	if !o.during {
		fmt.Fprintln(a.stdout, named)
	}
}

// suffix is the tag or digest of a reference.
func suffix(named reference.Named) string {
	switch n := named.(type) {
	case reference.Digested:
		return n.Digest().String()
	case reference.Tagged:
		return n.Tag()
	}
	return "latest"
}

// streamError returns why a stream broke: an error of Send only says that it did.
func streamError(err error, stream interface{ RecvMsg(m any) error }) error {
	if recvErr := stream.RecvMsg(&boxbuildv1.Chunk{}); recvErr != nil {
		return recvErr
	}
	return err
}

// answerCredentials answers the one kind of question that comes with a transfer.
func answerCredentials(ask *boxbuildv1.Ask) *boxbuildv1.Answer {
	ans := &boxbuildv1.Answer{Id: ask.GetId()}
	err := errors.New("the daemon asks what this client does not know; update it")
	if q := ask.GetCredentials(); q != nil {
		var cred *boxbuildv1.Credentials
		if cred, err = credentialsFor(q.GetRegistry()); err == nil {
			ans.Answer = &boxbuildv1.Answer_Credentials{Credentials: cred}
			return ans
		}
	}
	ans.Answer = &boxbuildv1.Answer_Error{Error: &boxbuildv1.Error{Message: err.Error()}}
	return ans
}
