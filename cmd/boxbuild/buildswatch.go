package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/boxbuild/boxbuild/cmd/internal/progress"
	"github.com/boxbuild/boxbuild/proto/boxbuild/v1"
)

func (a *app) buildsAttachCommand() *cobra.Command {
	var opt buildOptions
	cmd := &cobra.Command{
		Use: "attach [OPTIONS] BUILD", Short: "Follow a build from its beginning to its end", Args: exactArgs(1),
		Long:                  "Follow a build from its beginning to its end, and end as it does. Interrupting this leaves the build running.",
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			if !cmd.Flags().Changed("progress") {
				opt.progress = a.cfg.Progress
			}
			return a.attach(cmd.Context(), args[0], &opt)
		},
	}
	f := cmd.Flags()
	f.StringVar(&opt.progress, "progress", "auto", "Set type of progress output ("+progress.Modes+")")
	f.BoolVarP(&opt.quiet, "quiet", "q", false, "Suppress the build output and print image ID on success")
	f.StringVar(&opt.iidFile, "iidfile", "", "Write the image ID to a file")
	f.StringVar(&opt.metadataFile, "metadata-file", "", "Write build result metadata to a file")
	return cmd
}

// attach shows a build as `build` does, and ends as that would have.
func (a *app) attach(ctx context.Context, ref string, opt *buildOptions) error {
	if opt.quiet {
		opt.progress = "quiet"
	}
	builds, err := a.builds(ctx)
	if err != nil {
		return err
	}
	stream, err := builds.Watch(ctx, &boxbuildv1.WatchRequest{Build: ref, Follow: true})
	if err != nil {
		return err
	}
	// What there is no build of ends before anything is shown.
	if _, err := stream.Recv(); err != nil {
		return err
	}
	for _, f := range []string{opt.iidFile, opt.metadataFile} {
		if err := removeStale(f); err != nil {
			return err
		}
	}
	display, err := progress.New(a.stderr, opt.progress, "boxbuild")
	if err != nil {
		return usageError{message: err.Error()}
	}
	var found warnings
	finished, err := show(stream, display, &found)
	if closeErr := display.Close(); err == nil && closeErr != nil {
		err = fmt.Errorf("showing progress: %w", closeErr)
	}
	switch {
	case err != nil:
		return err
	case finished == nil:
		return errors.New("the daemon ended the build without a result")
	case finished.GetError() != nil:
		return a.buildFailed(&buildError{finished.GetError()})
	}
	found.print(a.stderr, opt.progress, a.cfg.Debug)
	return a.buildDone(opt, finished.GetResult())
}

// show shows events until the end of the stream, and returns how the build has ended; nil if it has not.
func show(stream boxbuildv1.Builds_WatchClient, display *progress.Display, found *warnings) (*boxbuildv1.BuildFinished, error) {
	var finished *boxbuildv1.BuildFinished
	for {
		out, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return finished, nil
		case err != nil:
			return nil, err
		}
		if ev := out.GetEvent(); ev != nil {
			found.add(ev.GetWarning())
			display.Event(ev)
		}
		if f := out.GetFinished(); f != nil {
			finished = f
		}
	}
}

type buildsLogsOptions struct {
	progress string
	step     string
	follow   bool
}

func (a *app) buildsLogsCommand() *cobra.Command {
	var opt buildsLogsOptions
	cmd := &cobra.Command{
		Use: "logs [OPTIONS] BUILD", Short: "Print what happened in a build, or all that one of its steps has written",
		Args: exactArgs(1), DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			if cmd.Flags().Changed("step") && opt.step == "" {
				return usagef("--step needs the number or the name of a step: see `boxbuild builds inspect`")
			}
			return a.buildLogs(cmd.Context(), args[0], &opt)
		},
	}
	f := cmd.Flags()
	f.StringVar(&opt.progress, "progress", "plain", "Set type of progress output ("+progress.Modes+")")
	f.StringVar(&opt.step, "step", "", "Print the output of one step, by its number in \"builds inspect\" or a part of its name")
	f.BoolVarP(&opt.follow, "follow", "f", false, "Follow a build that runs until its end")
	return cmd
}

// buildLogs prints a build, or one of its steps. How the build has ended does not matter.
func (a *app) buildLogs(ctx context.Context, ref string, opt *buildsLogsOptions) error {
	builds, err := a.builds(ctx)
	if err != nil {
		return err
	}
	req := &boxbuildv1.WatchRequest{Build: ref, Follow: opt.follow}
	var step uint32
	if opt.step != "" {
		if step, err = findStep(ctx, builds, ref, opt.step); err != nil {
			return err
		}
		req.Vertices = []uint32{step}
	}
	stream, err := builds.Watch(ctx, req)
	if err != nil {
		return err
	}
	if _, err := stream.Recv(); err != nil {
		return err
	}
	if step > 0 {
		return a.stepLog(stream, step)
	}
	display, err := progress.New(a.stdout, opt.progress, "boxbuild")
	if err != nil {
		return usageError{message: err.Error()}
	}
	var found warnings
	_, err = show(stream, display, &found)
	if closeErr := display.Close(); err == nil && closeErr != nil {
		err = fmt.Errorf("showing progress: %w", closeErr)
	}
	return err
}

// findStep returns the number of the step that is meant by its number, its name, or a part of its name that only it has.
func findStep(ctx context.Context, builds boxbuildv1.BuildsClient, ref, step string) (uint32, error) {
	steps, err := buildSteps(ctx, builds, ref)
	if err != nil {
		return 0, err
	}
	if n, err := strconv.ParseUint(step, 10, 32); err == nil {
		if n < 1 || n > uint64(len(steps)) {
			return 0, fmt.Errorf("the build has no step %d", n)
		}
		return uint32(n), nil
	}
	var found []stepView
	for _, s := range steps {
		if s.Name == step {
			return s.Number, nil
		}
		if strings.Contains(s.Name, step) {
			found = append(found, s)
		}
	}
	switch len(found) {
	case 0:
		return 0, fmt.Errorf("the build has no step %q", step)
	case 1:
		return found[0].Number, nil
	}
	return 0, fmt.Errorf("%q is in the names of %d steps: %s, %s", step, len(found), found[0].Name, found[1].Name)
}

// stepLog prints what a step has written, byte for byte, where the step has written it.
func (a *app) stepLog(stream boxbuildv1.Builds_WatchClient, step uint32) error {
	for {
		out, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		ev := out.GetEvent()
		log := ev.GetLog()
		if log == nil || ev.GetVertex() != step {
			continue
		}
		to := a.stdout
		if log.GetStream() == 2 {
			to = a.stderr
		}
		if _, err := to.Write(log.GetData()); err != nil {
			return err
		}
	}
}
