package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/boxbuild/boxbuild/cmd/internal/progress"
	"github.com/boxbuild/boxbuild/proto/boxbuild/v1"
)

// buildOptions are the flags of build as written.
type buildOptions struct {
	context       string
	file          string
	tags          []string
	target        string
	buildArgs     []string
	labels        []string
	platforms     []string
	annotations   []string
	outputs       []string
	addHosts      []string
	ulimits       []string
	contexts      []string
	noCacheFilter []string
	allow         []string
	secrets       []string
	ssh           []string
	noCache       bool
	pull          bool
	push          bool
	load          bool
	detach        bool
	quiet         bool
	network       string
	progress      string
	iidFile       string
	metadataFile  string
	shmSize       string
	cgroupParent  string
	limits        limitOptions
	call          callOption
	foreign       foreignOptions

	fetched []byte // the Dockerfile, if file is a URL
}

func (a *app) buildCommand() *cobra.Command {
	var opt buildOptions
	cmd := &cobra.Command{
		Use:                   "build [OPTIONS] PATH | URL | -",
		Short:                 "Build an image from a Dockerfile",
		Aliases:               []string{"b"},
		Args:                  exactArgs(1),
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			opt.context = args[0]
			if !cmd.Flags().Changed("progress") {
				opt.progress = a.cfg.Progress
			}
			if !cmd.Flags().Changed("platform") && a.cfg.Platform != "" {
				opt.platforms = []string{a.cfg.Platform}
			}
			return a.build(cmd.Context(), &opt)
		},
	}
	f := cmd.Flags()
	f.StringArrayVarP(&opt.tags, "tag", "t", nil, `Image identifier (format: "[registry/]repository[:tag]")`)
	f.StringVarP(&opt.file, "file", "f", "", `Name of the Dockerfile (default: "PATH/Dockerfile")`)
	f.StringVar(&opt.target, "target", "", "Set the target build stage to build")
	f.StringArrayVar(&opt.buildArgs, "build-arg", nil, "Set build-time variables")
	f.StringArrayVar(&opt.labels, "label", nil, "Set metadata for an image")
	f.StringArrayVar(&opt.annotations, "annotation", nil, "Add annotation to the image")
	f.StringSliceVar(&opt.platforms, "platform", nil, "Set target platform for build")
	f.StringArrayVarP(&opt.outputs, "output", "o", nil, `Output destination (format: "type=local,dest=path")`)
	f.BoolVar(&opt.noCache, "no-cache", false, "Do not use cache when building the image")
	f.StringSliceVar(&opt.noCacheFilter, "no-cache-filter", nil, "Do not cache specified stages")
	f.BoolVar(&opt.pull, "pull", false, "Always attempt to pull all referenced images")
	f.BoolVar(&opt.push, "push", false, `Push the image to its registry`)
	for _, name := range []string{"rm", "force-rm", "compress"} {
		// Of docker's classic builder: there are no intermediate containers, and nothing is sent.
		f.Bool(name, name == "rm", "")
		_ = f.MarkHidden(name) // it exists
	}
	f.BoolVar(&opt.load, "load", false, `Keep the image in the store, also with another "--output"`)
	f.BoolVar(&opt.detach, "detach", false, "Print the build ID, and leave the build to the daemon (see \"boxbuild builds attach\")")
	f.BoolVarP(&opt.quiet, "quiet", "q", false, "Suppress the build output and print image ID on success")
	f.StringVar(&opt.network, "network", "default", `Set the networking mode for the "RUN" instructions during build`)
	f.StringVar(&opt.progress, "progress", "auto", "Set type of progress output ("+progress.Modes+")")
	f.StringVar(&opt.iidFile, "iidfile", "", "Write the image ID to a file")
	f.StringVar(&opt.metadataFile, "metadata-file", "", "Write build result metadata to a file")
	f.StringSliceVar(&opt.addHosts, "add-host", nil, `Add a custom host-to-IP mapping (format: "host:ip")`)
	f.StringArrayVar(&opt.contexts, "build-context", nil, "Additional build contexts (e.g., name=path)")
	f.StringVar(&opt.shmSize, "shm-size", "", `Shared memory size for build containers`)
	f.StringArrayVar(&opt.ulimits, "ulimit", nil, "Ulimit options")
	f.StringVar(&opt.cgroupParent, "cgroup-parent", "", `Set the parent cgroup for the "RUN" instructions during build`)
	f.StringArrayVar(&opt.allow, "allow", nil, `Allow extra privileged entitlement (e.g., "network.host", "security.insecure", "device", "buildx.local.delete")`)
	f.StringArrayVar(&opt.secrets, "secret", nil, `Secret to expose to the build (format: "id=mysecret[,src=/local/secret]")`)
	f.StringArrayVar(&opt.ssh, "ssh", nil, `SSH agent socket or keys to expose to the build (format: "default|<id>[=<socket>|<key>[,<key>]]")`)
	opt.limits.register(f)
	opt.call.register(f)
	opt.foreign.register(f)
	return cmd
}

// build performs one build.
func (a *app) build(ctx context.Context, opt *buildOptions) error {
	if opt.quiet {
		opt.progress = "quiet"
	}
	if err := opt.foreign.check(); err != nil {
		return err
	}
	if err := opt.checkDetach(); err != nil {
		return err
	}
	err := a.fetchDockerfile(ctx, opt)
	var plan *buildPlan
	if err == nil {
		plan, err = a.plan(opt)
	}
	if err == nil {
		err = opt.checkFiles()
	}
	if err != nil { // such as a file that is not there
		return usageError{message: err.Error()}
	}
	plan.request.Detach = opt.detach
	if err := checkText(plan.request); err != nil {
		return err
	}
	conn, err := a.connect(ctx)
	if err != nil {
		return err
	}
	if opt.detach {
		return a.detach(ctx, plan)
	}
	// A build that fails must not leave what an earlier one has written.
	for _, f := range []string{opt.iidFile, opt.metadataFile} {
		if err := removeStale(f); err != nil {
			return err
		}
	}
	display, err := progress.New(a.stderr, opt.progress, "boxbuild")
	if err != nil {
		return usageError{message: err.Error()}
	}
	s := &buildStream{app: a, plan: plan, display: display, client: boxbuildv1.NewBuildsClient(conn)}
	for _, ev := range opt.foreign.notDone() {
		if display.Event(ev); opt.progress == "quiet" || opt.progress == "none" {
			a.complain("WARNING: " + ev.GetWarning().GetShort())
		}
		s.warnings.add(ev.GetWarning())
	}
	result, err := s.run(ctx)
	// What the display still has to say comes before the error that ends the build.
	if closeErr := display.Close(); err == nil && closeErr != nil {
		err = fmt.Errorf("showing progress: %w", closeErr)
	}
	if err != nil {
		return a.buildFailed(err)
	}
	s.warnings.print(a.stderr, opt.progress, a.cfg.Debug)
	if opt.call.call != boxbuildv1.Call_CALL_BUILD {
		return a.printReport(opt, plan, result.GetReport())
	}
	return a.buildDone(opt, result)
}

// buildFailed prints err as buildx does: the lines in question, then what is wrong.
func (a *app) buildFailed(err error) error {
	var failure *buildError
	if !errors.As(err, &failure) {
		return err
	}
	if src := failure.wire.GetSource(); src != nil {
		fmt.Fprint(a.stderr, src.GetQuote())
	}
	fmt.Fprintf(a.stderr, "ERROR: failed to build: failed to solve: %s\n", ownWords(failure.wire.GetMessage()))
	if failure.wire.GetKind() == boxbuildv1.ErrorKind_ERROR_KIND_USAGE {
		return silentError{exitUsage} // whatever the files say
	}
	return silentError{exitFailed}
}

// A buildError is a build that ended with an error, as opposed to one that could not be asked for.
type buildError struct{ wire *boxbuildv1.Error }

func (e *buildError) Error() string { return e.wire.GetMessage() }
