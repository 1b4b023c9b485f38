package main

import (
	"context"
	"errors"
	"fmt"

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
}

func (o *transferOptions) register(cmd *cobra.Command) {
	f := cmd.Flags()
	f.BoolVarP(&o.all, "all-tags", "a", false, "All tags of the repository (not supported)")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "Suppress verbose output")
	f.StringVar(&o.platform, "platform", "", "Only that platform of a multi-platform image")
}

// wire returns the request, and the name as docker would complete it.
func (o *transferOptions) wire(a *app) (*boxbuildv1.Transfer, reference.Named, error) {
	if o.all {
		return nil, nil, usagef("--all-tags is not supported: name the tags one by one")
	}
	named, err := reference.ParseNormalizedNamed(o.ref)
	if err != nil {
		return nil, nil, usagef("invalid reference %q: %v", o.ref, err)
	}
	if reference.IsNameOnly(named) {
		named = reference.TagNameOnly(named)
		if !o.quiet {
			fmt.Fprintln(a.stdout, "Using default tag: latest")
		}
	}
	t := &boxbuildv1.Transfer{Ref: named.String(), Quiet: o.quiet}
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
	lines := a.transferLines(opt.quiet, "Downloading", "Pull complete")
	if !opt.quiet {
		fmt.Fprintf(a.stdout, "%s: Pulling from %s\n", suffix(named), reference.Path(named))
	}
	for {
		out, err := stream.Recv()
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
		case *boxbuildv1.PullOutput_Result:
			if !opt.quiet {
				state := "Image is up to date for"
				if o.Result.GetUpdated() {
					state = "Downloaded newer image for"
				}
				fmt.Fprintf(a.stdout, "Digest: %s\nStatus: %s %s\n", o.Result.GetDigest(), state, reference.FamiliarString(named))
			}
			fmt.Fprintln(a.stdout, named)
			return nil
		}
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
