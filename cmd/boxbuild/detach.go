package main

import (
	"context"
	"fmt"

	"github.com/boxbuild/boxbuild/proto/boxbuild/v1"
)

// checkDetach refuses what somebody would have to be there for at the end.
func (o *buildOptions) checkDetach() error {
	switch {
	case !o.detach:
		return nil
	case o.iidFile != "" || o.metadataFile != "":
		return usagef("--detach does not wait for the result: give --iidfile and --metadata-file to `boxbuild builds attach`")
	case o.call.call != boxbuildv1.Call_CALL_BUILD:
		return usagef("--detach is for builds: --call and --check print an answer")
	}
	return nil
}

// detach begins a build and prints its ID. The daemon has all that it can have then without this program.
func (a *app) detach(ctx context.Context, plan *buildPlan) error {
	ctx, hangUp := context.WithCancel(ctx)
	defer hangUp()
	stream, err := boxbuildv1.NewBuildsClient(a.conn).Build(ctx)
	if err != nil {
		return err
	}
	if err := stream.Send(&boxbuildv1.BuildInput{Input: &boxbuildv1.BuildInput_Start{Start: plan.request}}); err != nil {
		if _, recvErr := stream.Recv(); recvErr != nil {
			return recvErr // why
		}
		return err
	}
	for {
		out, err := stream.Recv()
		if err != nil {
			return err
		}
		if b := out.GetAccepted(); b != nil {
			fmt.Fprintln(a.stdout, b.GetId())
			return nil
		}
		if e := out.GetFinished().GetError(); e != nil {
			return a.buildFailed(&buildError{e}) // it was not begun
		}
	}
}
